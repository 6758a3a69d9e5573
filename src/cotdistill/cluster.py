"""The same run on many machines: questions go into shards, and Ray takes the shards to where there is room.

    with open_cluster(this) as cluster:
        cluster.ask()                                # the teachers; a completion is in cluster.store before it counts
        cluster.write_generations(path, partial)     # a file of a single machine, byte for byte

Nothing else imports Ray. What it starts anew buys nothing twice. See docs/cluster.md.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from cotdistill import __version__, curate, progress
from cotdistill.answers import AnswerType
from cotdistill.backends import Backend
from cotdistill.backends.openai import first_interrupt
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.budget import ENDLESS, Amount, Budget
from cotdistill.config import Config, CurateConfig, LimitsConfig
from cotdistill.errors import BackendError, BudgetReached, ConfigError, CotdistillError, DataError, missing_extra
from cotdistill.generate import ask
from cotdistill.jobs import Job, Work, look
from cotdistill.methods import Method
from cotdistill.parts import Parts
from cotdistill.records import Generation, Question, atomic
from cotdistill.results.timing import Timed
from cotdistill.shards import Jobs, Lines, Noted, Outcome, Shard, Stopped, ask_shard, into_shards, mark_of, read_shard
from cotdistill.shares import Desk, Share
from cotdistill.store import Row, Store
from cotdistill.teachers import limit_of, open_teachers

if TYPE_CHECKING:
    from cotdistill.runs import Run

NAMESPACE = "cotdistill"
LOOK_SECONDS = 1.0  # between two looks whether to stop, and how far the workers are
FREE_SECONDS = 30  # in which the desk of a driver that was killed is gone
ROWS_BYTES = 2**20  # of lines that a worker sends at once
ANSWERS_AT_ONCE = 4  # batches of questions in one piece of an evaluation


class Orders(NamedTuple):
    """All that a worker must know to ask the teachers. Kept by the office, in memory alone: the config has the keys."""

    version: str
    folder: Path  # where the driver was started
    config: Config
    method: Method
    jobs: Jobs
    url: str


class Office(Desk):
    """The desk of a run's budget beside its folder, with the orders, and how far the workers are."""

    def __init__(self, most: Amount, path: Path, lease: float) -> None:
        super().__init__(Budget(most, path), lease)
        self.stopping = False
        self.wanted: Amount | None = None
        self.done: dict[int, int] = {}

    def open(self, orders: Orders) -> None:
        self.orders = orders

    def join(self, worker: str) -> Orders:
        """The orders, for a worker that may have been here before it was killed."""
        self.forget(f"{worker}/")
        return self.orders

    def look(self, shard: int, done: int, begins: bool = False) -> bool:
        """A worker's completions of a shard; whether it is to stop, or not to begin."""
        self.done[shard] = done
        return self.stopping or (begins and self.wanted is not None)

    def how_far(self) -> int:
        return sum(self.done.values())

    def stop(self) -> None:
        self.stopping = True

    def refuse(self, wanted: Amount) -> None:
        """There was no room for so much."""
        self.wanted = wanted

    def balance(self) -> tuple[Amount, Amount, Amount | None]:
        """At the end: what is spent, how much of it is lost, and what there was no room for."""
        return *self.close(), self.wanted


class Asker:
    """A worker that asks the teachers for one shard after the other, within its share of the limits."""

    def __init__(self, office: Any) -> None:
        import ray

        self.call = lambda name, *values: ray.get(getattr(office, name).remote(*values))
        self.worker = ray.get_runtime_context().get_actor_id()
        self.looked, self.stopping, self.done, self.shard = 0.0, False, 0, 0

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        shard: Shard = pickle.loads(batch["work"][0])
        try:
            outcome = self.ask(shard)
        except CotdistillError as error:
            outcome = Outcome(ended=error)
        if isinstance(outcome.ended, BudgetReached) and self.share.wanted:
            self.call("refuse", self.share.wanted)
        elif outcome.ended is not None:
            self.call("stop")
        return {"shard": [shard.number], "outcome": [pickle.dumps(outcome)]}

    def ask(self, shard: Shard) -> Outcome:
        if self.call("look", shard.number, 0, True):
            return Outcome(ended=Stopped())
        self.shard, self.done = shard.number, 0
        try:
            return ask_shard(shard, self.orders.jobs, self.backends, self.parts, self.stopped, self.advance)
        finally:
            self.share.leave()
            self.call("look", self.shard, self.done)

    def advance(self, done: int) -> None:
        self.done = done

    def stopped(self) -> bool:
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.stopping = self.call("look", self.shard, self.done)
        return self.stopping

    @cached_property
    def orders(self) -> Orders:
        orders: Orders = self.call("join", self.worker)
        if orders.version != __version__:
            raise ConfigError(
                f"{_node()} has cotdistill {__version__}, and the driver {orders.version}.\nInstall the same on all."
            )
        return orders

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.orders.url, 0)

    @cached_property
    def share(self) -> Share:
        limited = limit_of(self.orders.config.limits) != ENDLESS
        return Share(f"{self.worker}/{uuid4().hex}", partial(self.call, "draw"), limited)

    @cached_property
    def backends(self) -> dict[str, Backend]:
        """The teachers, each of them the one that the driver means."""
        orders = self.orders
        if any(teacher.backend != "openai" for teacher in orders.config.all_teachers):
            enter(orders.folder)
        found = {t.name: t.backend for t in open_teachers(orders.config, orders.method, self.share)}
        for name, backend in found.items():
            refuse_another(backend, orders.jobs[name])
        return found


class Answerer:
    """A worker that holds a local model, and answers some questions after others."""

    def __init__(self, backend: TransformersBackend, job: Job, folder: Path) -> None:
        self.backend, self.job, self.folder = backend, job, folder

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        questions: list[Question] = pickle.loads(batch["work"][0])
        timed = Timed(self.backend)
        noted = Noted(timed, self.job, all_rows=True)
        try:
            enter(self.folder)
            refuse_another(self.backend, self.job)
            with tempfile.TemporaryDirectory(prefix="cotdistill-") as folder, Store(Path(folder) / "store.sqlite") as store:
                ask(self.job, questions, noted, store)
            found: Any = noted.rows, timed.seconds, timed.made, timed.failed
        except CotdistillError as error:
            found = error
        return {"found": [pickle.dumps(found)]}


def read_lines(
    batch: Mapping[str, Any], url: str, jobs: Jobs, partial: bool
) -> Iterator[dict[str, list[Any]]]:
    """The lines of one shard, some at a time; an error of ours in their place, before all others."""
    shard, failed, job = pickle.loads(batch["work"][0])
    some: list[Lines] = []
    size = 0
    try:
        for lines in read_shard(shard, jobs, Parts(url, 0), failed, partial, job):
            some.append(lines)
            size += len(lines.lines)
            if size > ROWS_BYTES:
                yield _columns(some)
                some, size = [], 0
    except CotdistillError as error:
        some = [Lines(-2, 0, part=error)]
    if some:
        yield _columns(some)


def _columns(some: Sequence[Lines]) -> dict[str, list[Any]]:
    position, sequence, lines, parts = zip(*some, strict=True)
    return {
        "position": list(position),
        "sequence": list(sequence),
        "lines": list(lines),
        "part": [pickle.dumps(part) for part in parts],
    }


class Cluster:
    """A run's hold on a Ray cluster."""

    def __init__(self, this: Run, ray: Any) -> None:
        self.this, self.ray = this, ray
        self.config = this.config.cluster
        self.failed: dict[int, list[Row]] = {}  # by shard: the samples that asking did not get
        self.served: dict[str, Counter[str]] = {}

    @cached_property
    def parts(self) -> Parts:
        return Parts(store_url(self.this.config), self.config.shards)

    @cached_property
    def jobs(self) -> Jobs:
        right = partial(_right, self.this.teacher_method, self.this.answer_type, self.this.config.curate)
        return {teacher.name: teacher.job(right) for teacher in self.this.teachers}

    @cached_property
    def shards(self) -> list[Shard]:
        return into_shards(self.this.task.train, next(iter(self.jobs.values())), self.parts)

    def ask(self) -> None:
        """Ask the teachers for what is missing. Raises as `ask_teachers` does, with all that was answered stored."""
        if any(teacher.mode == "batch" for teacher in self.this.config.all_teachers):
            raise ConfigError(
                "teacher.mode: a batch is the server's work, and needs no cluster.\n"
                "Ask with cluster=null, and bring the store's completions into cluster.store."
            )
        known = self.parts.files.names("done")
        shards = [shard for shard in self.shards if mark_of(shard, self.jobs).removeprefix("done/") not in known]
        if not shards:
            return
        local = any(teacher.backend == "transformers" for teacher in self.this.config.all_teachers)
        workers = self._workers(local, len(shards))
        outcomes: list[Outcome] = []
        interrupted = threading.Event()
        with self._office(workers) as office, self._watched(office, shards, interrupted):
            rows = [{"work": pickle.dumps(shard)} for shard in shards]
            with first_interrupt(interrupted.set):
                for row in self._map(Asker, rows, workers, local, office):
                    outcome: Outcome = pickle.loads(row["outcome"])
                    self.failed[row["shard"]] = outcome.failed
                    outcomes.append(outcome)
        if interrupted.is_set():
            raise KeyboardInterrupt
        ended = [outcome.ended for outcome in outcomes]
        if first := next((e for e in ended if e and not isinstance(e, BudgetReached | Stopped)), None):
            raise first
        if self.wanted:
            raise self.this.budget.reached(self.wanted)

    def write_generations(self, path: Path, partial: bool) -> None:
        """The teachers' generations, by question; `partial`: as far as they go."""
        with atomic(path) as out:
            for lines in self._read(partial, None):
                out.write(lines.lines)

    def curated(self, job: curate.Job) -> Iterator[curate.Part]:
        """What curation makes of the generations, by question."""
        for lines in self._read(True, job):
            lines.part.lines = [lines.lines]
            yield lines.part

    def answer(
        self, job: Job, questions: Sequence[Question], timed: Timed, advance: Callable[[int, int], None]
    ) -> None:
        """Have a local model answer what is missing of a job; it is in the run's own store when this returns."""
        works = list({work.key: work for work in (Work(job, question) for question in questions)}.values())
        look(works, self.this.store)
        missing = [work.question for work in works if work.next_samples() or work.unanswered()]
        size = ANSWERS_AT_ONCE * timed.backend.batch_size
        pieces = [missing[start : start + size] for start in range(0, len(missing), size)]
        if not pieces:
            return
        rows = [{"work": pickle.dumps(piece)} for piece in pieces]
        workers = self._workers(True, len(pieces))
        for done, row in enumerate(self._map(Answerer, rows, workers, True, timed.backend, job, Path.cwd()), 1):
            found = pickle.loads(row["found"])
            if isinstance(found, CotdistillError):
                raise found
            rows_found, seconds, made, failed = found
            self.this.store.write(rows_found)
            timed.seconds, timed.made, timed.failed = timed.seconds + seconds, timed.made + made, timed.failed + failed
            advance(done, len(pieces))

    def _read(self, partial: bool, job: curate.Job | None) -> Iterator[Lines]:
        """All lines in the order of the questions: Ray sorts them, on disk where memory does not hold them."""
        self.served = {name: Counter() for name in self.jobs}
        rows = []
        for shard in self._all_shards():
            of_shard = job and job.of(shard.questions)
            rows.append({"work": pickle.dumps((shard, self.failed.get(shard.number, []), of_shard))})
        read = partial_of(read_lines, url=self.parts.files.url, jobs=self.jobs, partial=partial)
        with errors_named():
            data = self._data(rows).map_batches(read, batch_size=1).sort(["position", "sequence"])
            for row in data.iter_rows():
                part = pickle.loads(row["part"])
                if isinstance(part, CotdistillError):
                    raise part
                if row["position"] >= 0:
                    yield Lines(row["position"], row["sequence"], row["lines"], part)
                else:
                    for name, counts in part.items():
                        self.served[name].update(counts)
