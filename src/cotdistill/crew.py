"""Those who work in a cluster, and the office that tells them what to do: without a word of Ray.

    Asker(call)({"work": [pickle.dumps(shard)]})     # `call` reaches the office: call("look", 17, 200)

Items and findings are pickled: they travel through an engine that knows rows of bytes. An error of ours is a finding.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from uuid import uuid4

from cotdistill import __version__, ranks
from cotdistill.backends import Backend
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.budget import ENDLESS, Amount, Budget
from cotdistill.chunks import groups
from cotdistill.config import Config, LimitsConfig, StudentConfig
from cotdistill.errors import BudgetReached, ConfigError, CotdistillError, DataError
from cotdistill.generate import ask
from cotdistill.jobs import Job, Work, look
from cotdistill.methods import Method
from cotdistill.parts import Parts
from cotdistill.progress import say, say_elsewhere, stage
from cotdistill.records import Pair, Question
from cotdistill.results.timing import Timed
from cotdistill.shards import Jobs, Noted, Outcome, Shard, Stopped, ask_shard, read_shard
from cotdistill.shares import Desk, Share
from cotdistill.store import Store
from cotdistill.students.train import help_to_train, train
from cotdistill.teachers import limit_of, open_teachers

if TYPE_CHECKING:
    from cotdistill.students.dev_answers import Answer

Found = dict[str, list[bytes]]
Batch = Mapping[str, Any]  # a column of bytes, "work", with one item
QUIET_SECONDS = 60
LOOK_SECONDS = 1.0  # between two looks whether to stop
ROWS_BYTES = 2**20  # of lines that a worker sends at once


class Call(Protocol):
    """A worker's way to the office."""

    @property
    def worker(self) -> str:
        """The worker's name, which stays when it is started anew."""
        ...

    def __call__(self, name: str, *values: object) -> Any: ...


class Orders(NamedTuple):
    """All that a worker must know to ask the teachers. Kept by the office, in memory alone: the config has the keys."""

    version: str
    folder: Path  # where the driver was started
    config: Config
    method: Method
    jobs: Jobs
    url: str


def packed(found: object) -> Found:
    return {"found": [pickle.dumps(found, pickle.HIGHEST_PROTOCOL)]}


def unpacked(found: bytes) -> Any:
    """What a worker of ours pickled."""
    return pickle.loads(found)  # noqa: S301


def found_in(row: Mapping[str, bytes]) -> Any:
    """What a worker found. Raises the error that it met."""
    found = unpacked(row["found"])
    if isinstance(found, CotdistillError):
        raise found
    return found


class Office(Desk):
    """The desk of a run's budget beside its folder, with the orders, and how far the workers are."""

    def __init__(self, most: Amount, path: Path, lease: float) -> None:
        super().__init__(Budget(most, path), lease)
        self.heard = False
        self.done: dict[int, int] = {}
        self.said: dict[str, bool] = {}  # what workers said, and whether it was passed on

    def open(self, orders: Orders) -> None:
        """The workers' next orders."""
        self.orders = orders
        self.stopping = False
        self.wanted: Amount | None = None
        self.done = {}

    def join(self, worker: str) -> Orders:
        """The orders, for a worker that may have been here before it was killed."""
        self.heard = True
        self.forget(f"{worker}/")
        return self.orders

    def look(self, shard: int, done: int, begins: bool = False) -> bool:
        """A worker's completions of a shard; whether it is to stop, or not to begin."""
        self.done[shard] = done
        self.heard = True
        return self.stopping or (begins and self.wanted is not None)

    def say(self, text: str) -> None:
        self.heard = True
        self.said.setdefault(text, False)

    def news(self) -> tuple[int, list[str], bool]:
        """How many completions there are, what workers said that is new, and whether any was ever heard of."""
        new = [text for text, passed_on in self.said.items() if not passed_on]
        self.said.update(dict.fromkeys(new, True))
        return sum(self.done.values()), new, self.heard

    def stop(self) -> None:
        self.stopping = True

    def refuse(self, wanted: Amount) -> None:
        """There was no room for so much."""
        self.wanted = wanted

    def balance(self) -> tuple[Amount, Amount, Amount | None]:
        """At the end: what is spent, how much of it is lost, and what there was no room for."""
        return *self.close(), self.wanted


def share_of(limits: LimitsConfig, workers: int) -> LimitsConfig:
    """What each of so many workers may do in a minute, and at once; what all may spend is the office's matter."""
    each = {
        "requests_per_minute": limits.requests_per_minute / workers,
        "tokens_per_minute": limits.tokens_per_minute / workers,
        "concurrency": limits.concurrency and limits.concurrency // workers,
    }
    return limits.model_copy(update=each)


@contextmanager
def watched(
    call: Call, advance: Callable[[int], object], interrupted: Event | None, gone: type[Exception]
) -> Iterator[None]:
    """Show how far the workers are, and what they say; tell them to stop when `interrupted` is set.

    `gone` is how a call fails where there is no office any more.
    """
    ended = Event()

    def look() -> bool:
        done, said, heard = call("news")
        advance(done)
        for text in said:
            say(text)
        return bool(heard)

    def watch() -> None:
        told, patient_until = False, time.monotonic() + QUIET_SECONDS
        while not ended.wait(LOOK_SECONDS):
            with suppress(gone):
                if not look() and time.monotonic() > patient_until:
                    patient_until = math.inf
                    say(f"no worker has begun within {QUIET_SECONDS} s: is the cluster busy? See `ray status`.")
                if interrupted is not None and interrupted.is_set() and not told:
                    call("stop")
                    told = True  # where that was not heard, it is told again
                    say("stopping: waiting for what is in flight. Ctrl-C again leaves it.")
        with suppress(gone):
            look()

    thread = Thread(target=watch, name="watch")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class Asker:
    """A worker that asks the teachers for one shard after the other, within its share of the limits."""

    def __init__(self, call: Call) -> None:
        self.call, self.worker = call, call.worker
        say_elsewhere(functools.partial(call, "say"))
        self.looked, self.stopping, self.done, self.shard = 0.0, False, 0, 0

    def __call__(self, batch: Batch) -> Found:
        shard: Shard = unpacked(batch["work"][0])
        try:
            outcome = self.ask(shard)
        except CotdistillError as error:
            outcome = Outcome(ended=error)
        if isinstance(outcome.ended, BudgetReached) and self.share.wanted:
            self.call("refuse", self.share.wanted)
        elif outcome.ended is not None and not isinstance(outcome.ended, Stopped):
            self.call("stop")
        outcome.shard = shard.number
        return packed(outcome)

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
                f"{socket.gethostname()} has cotdistill {__version__}, and the driver {orders.version}.\n"
                "Install the same on all machines."
            )
        return orders

    @cached_property
    def parts(self) -> Parts:
        return open_parts(self.orders.url)

    @cached_property
    def share(self) -> Share:
        limited = limit_of(self.orders.config.limits) != ENDLESS
        return Share(f"{self.worker}/{uuid4().hex}", functools.partial(self.call, "draw"), limited)

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


def unanswered(job: Job, questions: Sequence[Question], store: Store, size: int) -> list[list[Question]]:
    """The questions of which completions are missing, each once, so many together."""
    works = list({work.key: work for work in (Work(job, question) for question in questions)}.values())
    look(works, store)
    missing = [work.question for work in works if work.next_samples() or work.unanswered()]
    return [missing[start : start + size] for start in range(0, len(missing), size)]


class Answerer:
    """A worker that holds a local model, and answers some questions after others."""

    def __init__(self, call: Call, backend: TransformersBackend, job: Job, folder: Path) -> None:
        self.backend, self.job, self.folder = backend, job, folder
        say_elsewhere(functools.partial(call, "say"))

    def __call__(self, batch: Batch) -> Found:
        questions: list[Question] = unpacked(batch["work"][0])
        timed = Timed(self.backend)
        noted = Noted(timed, self.job, all_rows=True)
        try:
            enter(self.folder)
            refuse_another(self.backend, self.job)
            with (
                tempfile.TemporaryDirectory(prefix="cotdistill-") as folder,
                Store(Path(folder) / "store.sqlite") as store,
            ):
                ask(self.job, questions, noted, store)
            found: Any = noted.rows, timed.seconds, timed.made, timed.failed
        except CotdistillError as error:
            found = error
        return packed(found)


def read_lines(batch: Batch, url: str, jobs: Jobs, partial: bool) -> Iterator[Found]:
    """The lines of one shard, some at a time; an error of ours instead of more."""
    shard, failed, job = unpacked(batch["work"][0])
    try:
        found = read_shard(shard, jobs, open_parts(url), failed, partial, job)
        yield from map(packed, groups(found, lambda lines: len(lines.lines), ROWS_BYTES))
    except CotdistillError as error:
        yield packed(error)


def open_parts(url: str) -> Parts:
    """The store, as this machine sees it."""
    try:
        return Parts(url, 0)
    except DataError as error:
        if "://" in url:
            raise
        raise ConfigError(
            f"{socket.gethostname()} does not see cluster.store ({str(error).splitlines()[0]})\n"
            "Name a folder that all machines of the cluster see, or a URL such as s3://bucket/path."
        ) from None


def enter(folder: Path) -> None:
    """Work where the driver was started, so that relative paths are the same."""
    try:
        os.chdir(folder)
    except OSError:
        raise ConfigError(
            f"{socket.gethostname()} does not see {folder}, where the run was started.\n"
            "Local models and training need one folder that all machines of the cluster see."
        ) from None


def refuse_another(backend: Backend, job: Job) -> None:
    """Raise `ConfigError` where a model is not here, or is not the one that the driver means."""
    try:
        identity: object = dict(backend.identity)
    except CotdistillError as error:
        identity = str(error).splitlines()[0]
    if identity != dict(job.first.identity):
        raise ConfigError(
            f"{socket.gethostname()} has another model than the driver: {identity}, not {dict(job.first.identity)}.\n"
            "Local models must be in a folder that all machines of the cluster see."
        )


class Lesson(NamedTuple):
    """A student to be trained by several processes, of which the first has the pairs."""

    pairs: Sequence[Pair]
    config: StudentConfig
    folder: Path
    seed: int
    cache: Path
    answer: Answer


def learn(call: Call, take: Callable[[], Lesson], driver: Path, seen: tuple[Path, str]) -> CotdistillError | None:
    """One of the processes that train a student together; returns the error that ended it, if it is one of ours.

    The driver works in the folder `driver`, and has written a word of its own into a file: `seen`.
    """
    say_elsewhere(functools.partial(call, "say"))
    try:
        enter(driver)
        refuse_another_folder(*seen)
        if ranks.processes() > 1:
            ranks.join()
        try:
            if not ranks.first():
                help_to_train()
                return None
            lesson = take()
            with stage(f"train {lesson.folder.name}", "steps") as advance:
                train(*lesson[:4], advance, *lesson[4:])
        finally:
            ranks.part()
    except CotdistillError as error:
        return error
    return None


def refuse_another_folder(path: Path, word: str) -> None:
    """Raise `ConfigError` where what the driver wrote is not here."""
    with suppress(OSError):
        if path.read_text() == word:
            return
    raise ConfigError(
        f"{socket.gethostname()} does not see the run's folder, {path.parent}.\n"
        "Training needs one folder that all machines of the cluster see: set runs=FOLDER."
    )
