"""How much more memory the client takes with a million questions queued than with a thousand.

    python benchmarks/queue_memory.py [--seconds 20]

Each count runs in a process of its own, against a server on loopback that answers at once, until `--seconds`
after its first request or to the end. Counted is the peak beyond what was in use with the questions made.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from clients import prompt
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.config import LimitsConfig
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question
from cotdistill.store import Store
from loopback import Server, loopback
from machine import describe, reset_peak, resident

GOAL = 50.0  # MB


def client(count: int, server: Server, seconds: float, path: Path) -> None:
    """Ask `count` questions, report after `seconds`, and end there and then."""
    questions = [Question(str(i), prompt(i), "5") for i in range(count)]
    gc.collect()
    before = resident()
    reset_peak()

    def report() -> None:
        stats = server.stats()
        found = {"before": before, "peak": resident(peak=True), "completions": stats["completions"]}
        print(json.dumps(found), flush=True)
        os._exit(0)

    def watch() -> None:
        while not server.stats()["requests"]:
            time.sleep(0.1)
        time.sleep(seconds)
        report()

    threading.Thread(target=watch, daemon=True).start()
    backend = OpenAIBackend("fake", server.base_url, limits=LimitsConfig(concurrency=64))
    with Store(path) as store:
        for _ in generate(questions, backend, METHODS["zero_shot"], store, n=1, temperature=0.7):
            pass
    report()


def measure(count: int, seconds: float) -> dict[str, float]:
    with loopback() as server, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"--count={count}", f"--port={server.port}", f"--seconds={seconds}"]
        child = subprocess.run([*command, f"--store={folder}/store.sqlite"], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(child.stdout)
    return {**found, "growth": found["peak"] - found["before"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0, help="of asking, before the peak is read")
    for hidden, kind in {"--count": int, "--port": int, "--store": Path}.items():
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.count:
        client(arguments.count, Server(arguments.port), arguments.seconds, arguments.store)
        return

    print(describe())
    few, many = (measure(count, arguments.seconds) for count in (arguments.few, arguments.many))
    for count, found in ((arguments.few, few), (arguments.many, many)):
        print(
            f"{count:,} questions: {found['before']:,.0f} MB with the questions made, {found['growth']:,.0f} MB more "
            f"at the peak, after {found['completions']:,} completions"
        )
    more = many["growth"] - few["growth"]
    print(f"growth: {more:,.0f} MB; goal: under {GOAL:.0f} MB: {'met' if more < GOAL else 'missed'}")


if __name__ == "__main__":
    main()
