"""How long answers take: measured as they are made, and kept, for a second run reads them from the store.

    timed = Timed(backend)
    ask(job, questions, timed, store)
    seconds = seconds_an_answer(folder / "seconds.json", job, questions, timed)

Loading the model does not count. Where only some answers were made, as in a run that goes on, nothing is said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request, canonical, hash_of
from cotdistill.jobs import Job, Work
from cotdistill.records import Question, write_atomic


class Timed:
    """A local backend with a watch: its `seconds`, and how many texts it has `made`, and `failed` to make."""

    def __init__(self, backend: TransformersBackend) -> None:
        self.backend = backend
        self.seconds, self.made, self.failed = 0.0, 0, 0

    @property
    def identity(self) -> Mapping[str, str]:
        return self.backend.identity

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        if (first := next(requests, None)) is None:
            return
        _ = self.backend.loaded  # before the watch starts
        started = time.perf_counter()
        with closing(self.backend.generate(chain([first], requests))) as stream:
            for request, sample, completion in stream:
                if len(request.prompt) == 1:  # a second prompt belongs to its first
                    failed = completion.finish_reason == "error"
                    self.failed, self.made = self.failed + failed, self.made + (not failed)
                yield request, sample, completion
        self.seconds += time.perf_counter() - started


def seconds_an_answer(path: Path, job: Job, questions: Sequence[Question], timed: Timed) -> float | None:
    """Of one question that did not fail, with all its samples; None where they were not all made in one go.

    What was measured is kept in `path`, by the hash of what was asked.
    """
    keys = list(dict.fromkeys(Work(job, question).key.hex() for question in questions))
    of = hash_of(canonical([job.id.hex(), job.n, keys]).encode()).hex()
    known = _read(path)
    if of not in known and timed.made and timed.made + timed.failed == len(keys) * job.n:
        known[of] = {"seconds": round(timed.seconds, 4), "answers": timed.made / job.n}
        write_atomic(path, json.dumps(known, indent=1) + "\n")
    return known[of]["seconds"] / known[of]["answers"] if of in known else None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}  # damaged, it is as good as not measured
    whole = isinstance(known, dict) and all(
        isinstance(entry, dict) and {"seconds", "answers"} <= entry.keys() for entry in known.values()
    )
    return known if whole else {}
