"""Several runs of a sweep at once, each a process of the same command with a log of its own.

for name, entry in side_by_side(names, jobs, command, logs, board): ...

A process ends when its sweep does, however that ends: it holds a pipe whose other end closes then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from cotdistill.workers import cores

WORKER = "COTDISTILL_SWEEP_WORKER"  # set in such a process
POLL_SECONDS = 0.2
PATIENCE = 30.0  # seconds for a process to end by itself
AGAIN = 600.0  # seconds until one whose sweep is gone is told again: what it has in flight is paid


class Worker(NamedTuple):
    """A process at one run, its log, and which of the slots it has."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    slot: int


def side_by_side(
    names: Sequence[str],
    jobs: int,
    command: Callable[[str], list[str]],
    logs: Path,
    started: Callable[[str, Path], object],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each run's name and entry as it ends; at most `jobs` at once. `started` hears of a run and its log.

    When the generator is closed, or an error passes through it, the processes are ended.
    """
    waiting = list(names)
    running: list[Worker] = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                slot = min(set(range(jobs)) - {worker.slot for worker in running})
                running.append(_start(waiting.pop(0), command, logs, slot, jobs))
                started(running[-1].name, running[-1].log)
            for worker in [w for w in running if w.process.poll() is not None]:
                running.remove(worker)
                yield worker.name, _entry(worker)
            time.sleep(POLL_SECONDS)
    finally:
        _end(running)


def _start(name: str, command: Callable[[str], list[str]], logs: Path, slot: int, jobs: int) -> Worker:
    log = logs / f"{name}.log"
    with log.open("wb") as err, log.with_suffix(".json").open("wb") as out:
        process = subprocess.Popen(
            command(name),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            env={**os.environ, WORKER: "1", **_share(slot, jobs)},
            process_group=0,  # a Ctrl-C is the sweep's, which ends them
        )
    return Worker(name, process, log, slot)


def _share(slot: int, jobs: int) -> dict[str, str]:
    """A process's part of the cores, and one of the GPUs where several are named."""
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))}
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return share | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if len(gpus) > 1 else {})


def _entry(worker: Worker) -> dict[str, Any]:
    """What a process that has ended printed, or how it failed."""
    with suppress(OSError):
        worker.process.stdin.close()  # type: ignore[union-attr]
    with suppress(ValueError, LookupError, OSError):
        text = worker.log.with_suffix(".json").read_text(errors="replace")
        start = text.rfind("\n{\n") + 1  # before it, and after it, may be what a library printed
        entry: dict[str, Any] = json.JSONDecoder().raw_decode(text, start)[0]["runs"][0]
        return entry
    code = worker.process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    last = last_line(worker.log)
    return {"error": f"its process {how}{hint}{f': {last}' if last else '.'}\nSee {worker.log}"}


def _end(running: Sequence[Worker]) -> None:
    for worker in running:
        with suppress(OSError):
            worker.process.stdin.close()  # type: ignore[union-attr] # it hears that, and stops as at a Ctrl-C
    until = time.monotonic() + PATIENCE
    try:
        for worker in running:
            worker.process.wait(max(0.0, until - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C: do not wait
        pass
    finally:
        for worker in running:
            worker.process.kill()
            worker.process.wait()


def end_with_the_sweep() -> None:
    """In a process of a sweep: stop as at a Ctrl-C when the sweep is gone, however it went."""
    if WORKER not in os.environ:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background command is born deaf to it

    def listen() -> None:
        os.read(0, 1)
        while True:  # Python loses a Ctrl-C that comes in a finalizer, and nobody may be left to press it again
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(AGAIN)

    threading.Thread(target=listen, name="sweep", daemon=True).start()


def last_line(log: Path) -> str:
    """What a process said last."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
