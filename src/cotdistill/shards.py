"""What a machine of a cluster does with one shard: some questions, all of whose completions lie together.

    Shard(17, [(4, question), (9, question)])      # with their positions in the run

ask_shard        buy what is missing, each completion in the parts before it counts
read_shard       generations from the parts, and what curation makes of them
"""

from __future__ import annotations

import os
import pickle
import tempfile
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial as bound
from itertools import chain, groupby, takewhile
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy

from cotdistill import curate
from cotdistill.backends import Backend
from cotdistill.choice import Part
from cotdistill.chunks import ROWS, groups, pieces
from cotdistill.completions import Completion, Request, canonical, hash_of
from cotdistill.errors import CotdistillError, DataError
from cotdistill.generate import ask
from cotdistill.jobs import Job, Work, finished
from cotdistill.parts import Parts, ShardStore
from cotdistill.records import Generation, Question, to_line
from cotdistill.store import Row, Store
from cotdistill.teachers import read_jobs

Jobs = Mapping[str, Job]  # what each teacher is asked, by its name
DONE = "done"  # a folder of the store
HELD_SECONDS = 60  # that a shard may be held by a worker that is being ended
LINES_BYTES = 2**20  # of generations in one row


class Shard(NamedTuple):
    """Some questions of a run, each with its position there."""

    number: int
    asked: Sequence[tuple[int, Question]]

    @property
    def questions(self) -> list[Question]:
        return [question for _, question in self.asked]


@dataclass
class Outcome:
    """How asking for a shard ended: whole, or with samples that `failed`, or before its end, by what `ended` it."""

    shard: int = 0
    failed: list[Row] = field(default_factory=list)
    ended: CotdistillError | None = None
    done: bool = False


class Stopped(CotdistillError):
    """A worker was told to end: not an error of its own."""


@dataclass
class Noted:
    """A backend whose completions are noted as rows, all or those that failed, and that ends when it is told to."""

    backend: Backend
    job: Job
    rows: list[Row] = field(default_factory=list)
    all_rows: bool = False
    stopped: Callable[[], bool] = lambda: False

    @property
    def identity(self) -> Mapping[str, str]:
        return self.backend.identity

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        going_on = takewhile(lambda _: not self.stopped(), requests)
        for request, sample, completion in self.backend.generate(going_on):
            if self.all_rows or completion.finish_reason == "error":
                pool = self.job.second if len(request.prompt) > 1 else self.job.first
                self.rows.append(Row(pool, pool.key(request.prompt), request.prompt, sample, completion))
            yield request, sample, completion
        if self.stopped():
            raise Stopped("stopped")


def into_shards(questions: Sequence[Question], job: Job, parts: Parts) -> list[Shard]:
    """The questions by where their completions lie."""
    found: dict[int, list[tuple[int, Question]]] = {}
    for position, question in enumerate(questions):
        found.setdefault(parts.shard_of((job.method.prompt(question),)), []).append((position, question))
    return [Shard(number, asked) for number, asked in sorted(found.items())]


def job_of(job: curate.Job, shard: Shard) -> curate.Job:
    """What judges the generations of a shard alone."""
    ids = {question.id for question in shard.questions}
    listed = None if job.listed is None else job.listed & ids
    return replace(job, questions={q.id: q for q in shard.questions}, listed=listed, held_out=job.held_out & ids)


def mark_of(shard: Shard, jobs: Jobs) -> str:
    """The file in DONE that says that all of a shard is there; none where a judgement decides what all is."""
    if any(job.until for job in jobs.values()):
        return ""
    asked = [
        [job.id.hex(), job.n, [job.first.key((job.method.prompt(q),)).hex() for q in shard.questions]]
        for job in jobs.values()
    ]
    return f"{shard.number:05}-{hash_of(canonical(asked).encode()).hex()}"


def ask_shard(
    shard: Shard,
    jobs: Jobs,
    backends: Mapping[str, Backend],
    parts: Parts,
    stopped: Callable[[], bool],
    progress: Callable[[int], None],
) -> Outcome:
    """Ask each teacher for what is missing of a shard, and put its parts into one."""
    outcome = Outcome(shard.number)
    with held_shard(parts, shard.number) as store:
        before = 0
        try:
            for name, job in jobs.items():
                noted = Noted(backends[name], job, outcome.failed, stopped=stopped)
                ask(job, shard.questions, noted, store, bound(_advance, progress, before))
                before += len(shard.asked) * job.n * job.steps
        except CotdistillError as error:
            outcome.ended = error
            return outcome
        outcome.done = not outcome.failed and all(_all_there(shard, job, store) for job in jobs.values())
    parts.compact(shard.number)
    if outcome.done and (mark := mark_of(shard, jobs)):
        parts.files.put(f"{DONE}/{mark}", b"")
    return outcome


def _advance(progress: Callable[[int], None], before: int, done: int, total: int) -> None:
    progress(before + done)


def _all_there(shard: Shard, job: Job, store: Store) -> bool:
    return {Work(job, question).key for question in shard.questions} <= finished(job, store)


@contextmanager
def held_shard(parts: Parts, number: int) -> Iterator[ShardStore]:
    """The shard for this worker alone; waits for one on this machine that is being ended."""
    folder = Path(tempfile.gettempdir()) / f"cotdistill-shards-{os.getuid()}"  # another user could not write into ours
    until = time.monotonic() + HELD_SECONDS
    while True:
        try:
            store = ShardStore(parts, number, folder)
            break
        except DataError as error:
            if "another process" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.5)
    with store:
        yield store


class Lines(NamedTuple):
    """Some generations of one question as lines, or pairs, with the `Part` that curation made beside them.

    At position -1, of a shard: how many completions of each teacher its server gave under which name.
    """

    position: int
    sequence: int
    lines: bytes = b""
    part: Part | dict[str, dict[str, int]] | None = None


def read_shard(
    shard: Shard, jobs: Jobs, parts: Parts, failed: Sequence[Row], partial: bool, job: curate.Job | None
) -> Iterator[Lines]:
    """The generations of a shard, or what `job` makes of them, by position.

    `failed` are the samples that asking did not get. Raises `DataError` where completions are gone.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cotdistill-") as scratch,
        ShardStore(parts, shard.number, Path(scratch)) as store,
    ):
        store.write(failed)
        yield Lines(-1, shard.number, part={name: store.served(one.first.identity) for name, one in jobs.items()})
        try:
            generations = read_jobs(jobs, shard.questions, store, partial)
            for position, group in _by_position(shard, generations):
                yield from _lines(position, group) if job is None else _curated(position, group, job)
        except DataError:
            if mark := mark_of(shard, jobs):
                parts.files.remove(DONE, [mark])
            raise


def read_parts(parts: Parts, jobs: Jobs, questions: Sequence[Question]) -> Iterator[Generation]:
    """What is there of jobs, shard by shard."""
    for shard in into_shards(questions, next(iter(jobs.values())), parts):
        with (
            tempfile.TemporaryDirectory(prefix="cotdistill-") as scratch,
            ShardStore(parts, shard.number, Path(scratch)) as store,
        ):
            yield from read_jobs(jobs, shard.questions, store, partial=True)


def _by_position(shard: Shard, generations: Iterator[Generation]) -> Iterator[tuple[int, Iterator[Generation]]]:
    positions = {question.id: position for position, question in shard.asked}
    for question_id, group in groupby(generations, key=attrgetter("question_id")):
        yield positions[question_id], group


def _curated(position: int, group: Iterator[Generation], job: curate.Job) -> Iterator[Lines]:
    """A question that is larger than a chunk goes on from one to the next."""
    chunks = pieces(group, ROWS)
    some = next(chunks)
    for sequence, following in enumerate(chain(chunks, [[]])):
        part = job(some, cut=bool(sequence or following))
        lines, part.lines = b"".join(part.lines), []
        yield Lines(position, sequence, lines, part)
        some = following


def _lines(position: int, group: Iterator[Generation]) -> Iterator[Lines]:
    for sequence, lines in enumerate(groups(map(to_line, group), len, LINES_BYTES)):
        yield Lines(position, sequence, b"".join(lines))


def in_order(found: Iterable[Lines], folder: Path) -> Iterator[Lines]:
    """The same by position, however they come: in `folder` until all are there, with three numbers each in memory."""
    index = array("q")
    with tempfile.TemporaryFile(dir=folder) as file:
        for lines in found:
            index.extend((lines.position, lines.sequence, file.tell()))
            pickle.dump(lines, file, pickle.HIGHEST_PROTOCOL)
        places = numpy.frombuffer(index, numpy.int64).reshape(-1, 3)
        for place in places[numpy.lexsort((places[:, 1], places[:, 0])), 2]:
            file.seek(place)
            yield pickle.load(file)  # noqa: S301 - written above
