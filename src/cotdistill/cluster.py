"""The same run on many machines: questions go into shards, and Ray takes the shards to where there is room.

    with open_cluster(this) as cluster:
        cluster.ask()                                # the teachers; a completion is in cluster.store before it counts
        cluster.write_generations(path, partial)     # a file of a single machine, byte for byte

Nothing else imports Ray. What it starts anew buys nothing twice. See docs/cluster.md.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import os
import pickle
import re
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cotdistill import __version__, crew, curate, progress, ranks
from cotdistill.backends.loops import first_interrupt
from cotdistill.budget import Amount
from cotdistill.choice import Part
from cotdistill.cluster_config import ClusterConfig
from cotdistill.config import Config, StudentConfig
from cotdistill.crew import Answerer, Asker, Lesson, Office, Orders, found_in
from cotdistill.errors import BackendError, BudgetReached, ConfigError, CotdistillError, missing_extra
from cotdistill.jobs import Job
from cotdistill.objects import Files
from cotdistill.parts import Parts
from cotdistill.records import Pair, Question, atomic, write_atomic
from cotdistill.results.timing import Timed
from cotdistill.shards import DONE, Jobs, Lines, Outcome, Shard, Stopped, in_order, into_shards, job_of, mark_of
from cotdistill.store import Row
from cotdistill.students.train import fingerprint, trained_facts

if TYPE_CHECKING:
    from cotdistill.runs import Run
    from cotdistill.students.dev_answers import Answer

TRAININGS = 3  # that may be begun anew, where a worker was lost; each goes on from a checkpoint
CONNECT_SECONDS = 10
LATE_SECONDS = 30  # beyond a request's time, without a word of a worker
FREE_SECONDS = 30  # in which the desk of a driver that was killed is gone
ANSWERS_AT_ONCE = 4  # batches of questions in one piece of an evaluation


class Line:
    """A worker's way to the office, an actor: a call of it, by name."""

    def __init__(self, office: Any) -> None:
        self.office = office

    def __call__(self, name: str, *values: object) -> Any:
        import ray

        return ray.get(getattr(self.office, name).remote(*values))

    @property
    def worker(self) -> str:
        """The caller's name, which stays when Ray starts it anew."""
        import ray

        return str(ray.get_runtime_context().get_actor_id())


class Cluster:
    """A run's hold on a Ray cluster."""

    def __init__(self, this: Run, config: ClusterConfig, ray: Any) -> None:
        self.this, self.config, self.ray = this, config, ray
        self.url = this.config.parts_url
        self.wanted: Amount | None = None
        self.failed: dict[int, list[Row]] = {}  # by shard: the samples that asking did not get
        self.served: dict[str, Counter[str]] = {}

    @cached_property
    def parts(self) -> Parts:
        return Parts(self.url, self.config.shards)

    @cached_property
    def jobs(self) -> Jobs:
        this = self.this
        right = functools.partial(
            curate.rationale_of, teacher=this.teacher_method, answer_type=this.answer_type, config=this.config.curate
        )
        return {t.name: t.job(lambda question, generation: right(generation, question)) for t in this.teachers}

    @cached_property
    def shards(self) -> list[Shard]:
        return into_shards(self.this.task.train, next(iter(self.jobs.values())), self.parts)

    def ask(self) -> None:
        """Ask the teachers for what is missing. Raises as `ask_teachers` does, with all that was answered stored."""
        there = self.parts.files.names(DONE)
        shards = [shard for shard in self.shards if mark_of(shard, self.jobs) not in there]
        if not shards:
            return
        local = any(teacher.backend == "transformers" for teacher in self.this.config.all_teachers)
        workers = self._workers(local, len(shards))
        interrupted = threading.Event()
        ended: list[CotdistillError | None] = []
        total = sum(len(shard.asked) * job.n * job.steps for shard in shards for job in self.jobs.values())
        with (
            self._orders(workers),
            progress.stage("generate", "completions") as advance,
            self._watched(lambda done: advance(done, total), interrupted),
            first_interrupt(interrupted.set),
        ):
            for row in self._map(Asker, shards, workers, local):
                outcome: Outcome = crew.unpacked(row["found"])
                self.failed[outcome.shard] = outcome.failed
                ended.append(outcome.ended)
        if interrupted.is_set():
            raise KeyboardInterrupt
        for error in ended:
            if error is not None and not isinstance(error, BudgetReached | Stopped):
                raise error
        if self.wanted is not None:
            raise self.this.budget.reached(self.wanted)

    def write_generations(self, path: Path, partial: bool) -> None:
        """The teachers' generations, by question; `partial`: as far as they go."""
        with atomic(path) as out:
            out.writelines(lines.lines for lines in self._read(partial, None))

    def curated(self, job: curate.Job) -> Generator[Part]:
        """What curation makes of the generations, by question."""
        for lines in self._read(True, job):
            if isinstance(lines.part, Part):
                lines.part.lines = [lines.lines]
                yield lines.part

    def answer(
        self, job: Job, questions: Sequence[Question], timed: Timed, advance: Callable[[int, int], None]
    ) -> None:
        """Have a local model answer what is missing of a job; it is in the run's own store when this returns."""
        pieces = crew.unanswered(job, questions, self.this.store, ANSWERS_AT_ONCE * timed.backend.batch_size)
        if not pieces:
            return
        workers = self._workers(True, len(pieces))
        done, total = 0, sum(map(len, pieces)) * job.n * job.steps
        with self._watched():
            for row in self._map(Answerer, pieces, workers, True, timed.backend, job, Path.cwd()):
                rows, seconds, made, failed = found_in(row)
                self.this.store.write(rows)
                timed.seconds += seconds
                timed.made += made
                timed.failed += failed
                done += len(rows)
                advance(done, total)

    def _read(self, partial: bool, job: curate.Job | None) -> Iterator[Lines]:
        """All lines, in the order of the questions."""
        self.served = {name: Counter() for name in self.jobs}
        shards = self.shards
        if job is not None:  # what all of the store was served is counted
            asked = {shard.number for shard in shards}
            others = (int(name) for name in self.parts.files.names() if name.isdigit())
            shards = shards + [Shard(number, ()) for number in others if number not in asked]
        works = [(shard, self.failed.get(shard.number, ()), job and job_of(job, shard)) for shard in shards]
        for lines in in_order(self._lines(works, partial), self.this.folder):
            if lines.position >= 0:
                yield lines
            elif isinstance(lines.part, dict):
                for name, counts in lines.part.items():
                    self.served[name].update(counts)

    def _lines(self, works: Sequence[object], partial: bool) -> Iterator[Lines]:
        """All lines, as workers find them."""
        read = functools.partial(crew.read_lines, url=self.url, jobs=self.jobs, partial=partial)
        with errors_named(self.ray):
            for row in self._data(works).map_batches(read, batch_size=1).iter_rows():
                yield from found_in(row)

    def _map(self, worker: type, items: Sequence[object], workers: int, local: bool, *args: object) -> Iterator[Any]:
        """What workers, each an actor of its own, find for the items, as they end."""
        from ray.data import ActorPoolStrategy

        pool = ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
        with errors_named(self.ray):
            data = self._data(items).map_batches(
                worker,
                fn_constructor_args=(Line(self.office), *args),
                batch_size=1,
                compute=pool,
                **self._resources(local, workers),
            )
            yield from data.iter_rows()

    def _data(self, items: Sequence[object]) -> Any:
        """A row and a block for each."""
        from ray.data import from_items

        return from_items([{"work": pickle.dumps(item)} for item in items], override_num_blocks=len(items))

    @property
    def _gpus(self) -> int:
        return int(sum(node.get("GPU", 0) for node in machines(self.ray)))

    def _workers(self, local: bool, most: int) -> int:
        """How many work at once: no more than there are items, or than requests may be in flight."""
        found = self.config.workers or (self._gpus if local else 0) or len(machines(self.ray))
        if not local:
            found = min(found, self.this.config.limits.concurrency or found)
        return max(1, min(found, most))

    def _resources(self, local: bool, workers: int) -> dict[str, float]:
        """What each worker has of its machine."""
        if local and self._gpus:
            return {"num_gpus": 1}
        nodes = machines(self.ray)
        each = min(node["CPU"] for node in nodes) // math.ceil(workers / len(nodes))
        return {"num_cpus": max(1, each) if local else 1}

    @cached_property
    def office(self) -> Any:
        """The actor that gives out the budget, on this machine; one for a store."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)
        name = f"office-{hashlib.sha256(self.url.encode()).hexdigest()[:16]}"
        actor = self.ray.remote(num_cpus=0)(Office).options(name=name, scheduling_strategy=here)
        path = (self.this.folder / "spent.json").absolute()
        lease = self.this.config.limits.timeout + LATE_SECONDS
        return _when_free(lambda: actor.remote(self.this.budget.most, path, lease), self.url)

    def close(self) -> None:
        if "office" in self.__dict__:
            self.ray.kill(self.office)

    @contextmanager
    def _orders(self, workers: int) -> Iterator[None]:
        """Have the office give each worker its share of the limits; at the end the run's budget knows what is spent."""
        this = self.this
        config = this.config.model_copy(update={"limits": crew.share_of(this.config.limits, workers)})
        orders = Orders(__version__, Path.cwd(), config, this.teacher_method, self.jobs, self.url)
        with errors_named(self.ray):
            self.ray.get(self.office.open.remote(orders))
            try:
                yield
            finally:
                this.budget.spent, this.budget.lost, self.wanted = self.ray.get(self.office.balance.remote())

    def _watched(
        self, advance: Callable[[int], object] = lambda done: None, interrupted: threading.Event | None = None
    ) -> AbstractContextManager[None]:
        return crew.watched(Line(self.office), advance, interrupted, self.ray.exceptions.RayError)

    @cached_property
    def trains(self) -> bool:
        """Whether students are trained in the cluster: together, or on a GPU that is not here."""
        import torch

        return self.config.train_workers > 1 or (self._gpus > 0 and not torch.cuda.is_available())

    def train(
        self, pairs: Sequence[Pair], config: StudentConfig, folder: Path, seed: int, cache: Path, answer: Answer
    ) -> Path:
        """As `train`, by processes of the cluster, in a folder that all of them see."""
        if trained_facts(folder).get("fingerprint") == fingerprint(pairs, config, seed):
            return folder
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = self._gpus > 0
        kept = (self.this.folder / ".ray").absolute()  # Ray Train keeps files of its own in a folder that all see
        seen = kept / "seen", uuid4().hex
        write_atomic(*seen)
        packed = self.ray.put(Lesson(pairs, config, folder, seed, cache, answer))
        trainer = TorchTrainer(
            _learn,
            train_loop_config={"line": Line(self.office), "lesson": [packed], "driver": Path.cwd(), "seen": seen},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=self.config.train_workers, use_gpu=gpus),
            run_config=RunConfig(
                name=seen[1], storage_path=str(kept), failure_config=FailureConfig(max_failures=TRAININGS)
            ),
        )
        try:
            with errors_named(self.ray), self._watched():
                error = trainer.fit().return_value
        finally:
            shutil.rmtree(kept, ignore_errors=True)
        if error is not None:
            raise error
        return folder


def _learn(config: dict[str, Any]) -> CotdistillError | None:
    import ray

    (packed,) = config["lesson"]
    return crew.learn(config["line"], lambda: ray.get(packed), config["driver"], config["seen"])


def _when_free(start: Callable[[], Any], store: str) -> Any:
    """An actor whose name is free: where a driver was killed, Ray ends its actors a little later."""
    until, waited = time.monotonic() + FREE_SECONDS, False
    while True:
        try:
            return start()
        except ValueError as error:
            if "already taken" not in str(error) and "already exists" not in str(error):
                raise
            if not waited:
                waited = True
                progress.say(f"{store}: another run is, or was just, at this store; waiting for it")
            if time.monotonic() > until:
                raise ConfigError(
                    f"{store}: another run of this cluster is buying into this store.\n"
                    "Wait for it, or give this one a store of its own: cluster.store=URL."
                ) from None
            time.sleep(crew.LOOK_SECONDS)


@contextmanager
def errors_named(ray: Any) -> Iterator[None]:
    """What Ray says, as an error of ours."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, ray.exceptions.RayError) and not type(error).__module__.startswith("ray."):
            raise
        # A worker's own error stands in the middle of what Ray tells of it.
        own = re.search(r"^(?!ray\.)[\w.]+(?:Error|Exception)(?:: .+)?$", str(error), re.MULTILINE)
        raise BackendError(
            f"the cluster could not do its part ({own.group()[:300] if own else _last_line(error)}).\n"
            "What is stored stays: the same command goes on from there."
        ) from error


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no word of it")[:300]


@contextmanager
def open_cluster(this: Run, config: ClusterConfig) -> Iterator[Cluster]:
    """The cluster of a run's config, for as long as the block runs. Raises `ConfigError` where there is none."""
    if ranks.processes() > 1:
        raise ConfigError(
            "cluster: Ray starts the processes, not torchrun.\nSet cluster.train_workers, or cluster=null."
        )
    with connected(config.address) as ray, closing(Cluster(this, config, ray)) as cluster:
        yield cluster


def look(config: Config, cluster: ClusterConfig) -> str:
    """What there is of a config's cluster and its store. Raises `ConfigError` or `DataError` where there is none."""
    with connected(cluster.address) as ray:
        nodes = machines(ray)
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    files = Files(config.parts_url)
    known = "a store of parts" if files.read("parts.json") else "no store of parts yet"
    return f"{len(nodes)} machines, {cpus:g} processors, {gpus:g} GPUs; {known} in {files.shown}"


def machines(ray: Any) -> list[Mapping[str, float]]:
    """What each machine has that can work."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if not found:
        raise ConfigError(
            "the Ray cluster has no processor to work with.\nAdd machines, or take cluster.address=local."
        )
    return found


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, or as it is where it is connected already."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of what Ray mends by itself
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "ray", "ray") from None
    if mine := not ray.is_initialized():
        _connect(ray, address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    from ray._private.services import canonicalize_bootstrap_address  # no public way tells an address before it waits

    try:
        if found := canonicalize_bootstrap_address(address):
            host, _, port = found.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()  # Ray waits for minutes
        ray.init(address, namespace="cotdistill", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"cluster.address={address}: no Ray cluster can be reached ({_last_line(error)}).\n"
            "Start one with `ray start --head`, or take this machine alone: cluster.address=local."
        ) from None
