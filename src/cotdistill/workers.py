"""A function over many items in several processes, the results in order, each item given to whoever is free.

    for part in mapped(job, chunks, processes=2): ...

The processes are ours, not multiprocessing's: they import no __main__ and know no Ctrl-C, and one whose parent
is gone, however it ended, reads the end of its pipe and ends too.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import repeat
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, TypeVar

from cotdistill.errors import CotdistillError, DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = subprocess.Popen[bytes]
AHEAD = 2  # results a process that may wait for one before them, where cores are not equally fast
WORKER = [sys.executable, "-P", "-c", "from cotdistill.workers import serve; serve()"]


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mapped(job: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Generator[Result]:
    """Yield `job(item)` of each item, in order; `job`, items and results are pickled.

    Raises what `job` raises, if it is an error of ours, and `DataError` where a process ended.
    """
    workers = list[Worker]()
    busy, done = dict[Worker, int](), dict[int, Any]()
    turn = 0  # of the result that is to be yielded next
    try:
        for _ in range(processes):  # one at a time: Python keeps a process, and its pipes, that a Ctrl-C takes from us
            workers.append(_start())
        idle = [*workers]
        sent = pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        with ThreadPoolExecutor(processes) as pool:  # each reads at its own pace
            list(pool.map(_send, workers, repeat(sent)))
        for number, item in enumerate(items):
            if not idle:
                idle.append(_collect(busy, done, turn if len(done) >= AHEAD * processes else None))
            busy[idle[-1]] = number
            _send(idle.pop(), pickle.dumps(item, pickle.HIGHEST_PROTOCOL))
            while turn in done:
                yield _result(done.pop(turn))
                turn += 1
        while busy:
            _collect(busy, done)
        for number in sorted(done):
            yield _result(done[number])
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.communicate()  # reaps it and closes the pipes


def _start() -> Worker:
    # A process group of its own: Ctrl-C is for the parent alone.
    return subprocess.Popen(WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)


def _send(worker: Worker, pickled: bytes) -> None:
    with suppress(BrokenPipeError):  # what ended it is told when its result is asked for
        _open(worker.stdin).write(pickled)
        _open(worker.stdin).flush()


def _collect(busy: dict[Worker, int], done: dict[int, Any], number: int | None = None) -> Worker:
    """The next worker to be done, or the one with the item `number`; its result is put into `done`."""
    with DefaultSelector() as selector:
        for one, its in busy.items():
            if number in (None, its):
                selector.register(_open(one.stdout), EVENT_READ, one)
        worker: Worker = selector.select()[0][0].data
    done[busy.pop(worker)] = _receive(worker)
    return worker


def _receive(worker: Worker) -> Any:
    try:
        return pickle.load(_open(worker.stdout))  # noqa: S301 - of our own process
    except (EOFError, pickle.UnpicklingError):
        raise DataError(
            f"a worker process ended before its work was done ({_end_of(worker)}).\n"
            "If memory ran out, free some; what it said stands above. Then run again."
        ) from None


def _result(result: Any) -> Any:
    if isinstance(result, CotdistillError):
        raise result
    return result


def _end_of(worker: Worker) -> str:
    code = worker.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _open(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise ValueError("a worker without pipes")  # never: it is started with both
    return pipe


def serve() -> None:
    """A worker: reads the job, then items, and answers each with its result or an error of ours."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a print is no reply
    with suppress(EOFError, BrokenPipeError, pickle.UnpicklingError):  # the parent is done, or gone in mid-sentence
        gc.disable()  # nothing of the job is garbage: not while it is read, which takes half the time then, nor after
        job = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our parent
        gc.freeze()
        gc.enable()
        while True:
            item = pickle.load(sys.stdin.buffer)  # noqa: S301
            try:
                result = job(item)
            except CotdistillError as error:
                result = error
            pickle.dump(result, replies, pickle.HIGHEST_PROTOCOL)
            replies.flush()
