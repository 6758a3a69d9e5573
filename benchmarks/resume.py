"""How long a run takes to find what is missing among a million stored completions, and in how much memory.

    python benchmarks/resume.py [--questions 62500] [--store million.sqlite] [--rounds 3]

Generates zero-shot-CoT with 8 samples a question, two completions each, into a store (`--store` keeps it
for the next time), then runs the same questions and one more in a fresh process, round by round with
another one more. Seconds count from before the store is opened, without imports and the making of
questions; the file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from statistics import median

from clients import prompt
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Completion, Request
from cotdistill.config import LimitsConfig
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question
from cotdistill.store import Store
from loopback import loopback
from machine import describe, resident

PORT = 18_765  # a part of every key, so the same each time
SAMPLES = 8
GOALS = {"plan": 0.5, "first_request": 2.0}  # seconds, at most


class Noting(OpenAIBackend):
    """Our backend, with a note of when it had its first request."""

    noted = 0.0

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        return super().generate(self.noting(requests))

    def noting(self, requests: Iterator[Request | None]) -> Iterator[Request | None]:
        for request in requests:
            if request is not None:
                self.noted = self.noted or time.monotonic()
            yield request


def questions(count: int) -> list[Question]:
    return [Question(str(i), prompt(i), "5") for i in range(count)]


def run(path: Path, asked: list[Question]) -> tuple[float, int]:
    """Generate; returns when the first missing one was known, and how many generations came."""
    backend = Noting("fake", f"http://127.0.0.1:{PORT}/v1", limits=LimitsConfig(concurrency=64))
    with Store(path) as store:
        done = sum(1 for _ in generate(asked, backend, METHODS["zero_shot_cot"], store, n=SAMPLES, temperature=0.7))
    return backend.noted, done


def resume(path: Path, count: int) -> None:
    """In a process of its own: prints one JSON object."""
    asked = questions(count)
    before, start = resident(), time.monotonic()
    noted, done = run(path, asked)
    whole = time.monotonic() - start
    assert done == count * SAMPLES, f"{done} generations of {count * SAMPLES}"
    peak = resident(peak=True)
    print(json.dumps({"start": start, "plan": noted - start, "whole": whole, "before": before, "peak": peak}))


def measure(path: Path, count: int) -> dict[str, float]:
    with loopback(port=PORT) as server:
        child = subprocess.run(
            [sys.executable, __file__, f"--store={path}", f"--resume={count}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        stats = server.stats()
    found: dict[str, float] = json.loads(child.stdout)
    assert stats["completions"] == 2 * SAMPLES, f"{stats['completions']} completions were bought"
    return {**found, "first_request": stats["first"] - found["start"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=62_500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="made where there is none, and kept")
    parser.add_argument("--resume", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.resume:
        resume(arguments.store, arguments.resume)
        return

    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.store or Path(folder) / "store.sqlite"
        # Each round buys one question more; so does each use of a store that was kept.
        kept = path.with_suffix(".questions")
        count = int(kept.read_text()) if kept.exists() else arguments.questions
        if not kept.exists():
            start = time.monotonic()
            with loopback(port=PORT):
                run(path, questions(count))
            print(f"built in {time.monotonic() - start:,.0f} s")
        with Store(path, read_only=True) as store:
            print(f"{len(store):,} completions, {path.stat().st_size / 1e6:,.0f} MB")
        results = []
        for _ in range(arguments.rounds):
            count += 1
            results.append(measure(path, count))
            kept.write_text(str(count))
    for name in ("plan", "first_request", "whole", "before", "peak"):
        values = [result[name] for result in results]
        goal = f"; goal: at most {g} s: {'met' if median(values) <= g else 'missed'}" if (g := GOALS.get(name)) else ""
        unit = "MB" if name in ("before", "peak") else "s"
        print(f"{name}: {median(values):,.2f} {unit} ({min(values):,.2f} to {max(values):,.2f}){goal}")


if __name__ == "__main__":
    main()
