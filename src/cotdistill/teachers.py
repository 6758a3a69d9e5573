"""A run's teachers, one or several: each asked its own job, their generations told apart by name.

teachers = open_teachers(config, method, budget)
ask_teachers(teachers, questions, store, right)
for generation in read_teachers(teachers, questions, store, right): ...
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cotdistill import progress
from cotdistill.backends import Backend, open_backend
from cotdistill.budget import ENDLESS, Amount, Budget, Price
from cotdistill.config import Config, LimitsConfig, TeacherConfig
from cotdistill.errors import ConfigError
from cotdistill.generate import ask, first_params, make_job, read
from cotdistill.jobs import Job, Until
from cotdistill.methods import Method
from cotdistill.prices import price_of
from cotdistill.records import Generation, Question
from cotdistill.store import Store

Right = Callable[[Question, Generation], str | None]  # what makes a right rationale distinct


@dataclass(frozen=True)
class Teacher:
    """One teacher: who it is, how it is reached, and how it is asked."""

    config: TeacherConfig
    backend: Backend
    method: Method
    price: Price | None
    sparing: bool = False

    @property
    def name(self) -> str:
        return self.config.name or self.config.model or self.backend.identity["model"]

    def job(self, right: Right) -> Job:
        """How it is asked; `right` judges a rationale, where it is asked until there are enough."""
        c = self.config
        until = Until(c.until, right, self.sparing) if c.until else None
        first = first_params(self.method, c.max_tokens, c.temperature, c.top_p, c.stop, c.seed)
        return make_job(self.backend, self.method, first, c.samples, until)


def open_teachers(config: Config, method: Method, budget: Budget) -> list[Teacher]:
    """The teachers of a config. Raises `ConfigError` for a limit in money without a price."""
    teachers = []
    for teacher in config.all_teachers:
        price = price_of(teacher)
        if config.limits.max_usd is not None and price is None:
            raise ConfigError(
                f"limits.max_usd: the price of {teacher.model} is not known.\n"
                "Set teacher.price={input: USD, output: USD}, for a million tokens."
            )
        backend = open_backend(teacher, config.limits, budget, price, config.folder / "batches.jsonl")
        teachers.append(Teacher(teacher, backend, method, price, sparing=limit_of(config.limits) != ENDLESS))
    return teachers


def limit_of(limits: LimitsConfig) -> Amount:
    """The most that a run may spend."""
    return Amount(
        limits.max_requests or ENDLESS.requests, limits.max_tokens or ENDLESS.tokens, limits.max_usd or ENDLESS.usd
    )


def ask_teachers(teachers: Sequence[Teacher], questions: Sequence[Question], store: Store, right: Right) -> None:
    """Ask each teacher for what is missing. Raises `BudgetReached` where it is, with all that was answered stored."""
    for teacher in teachers:
        name = f"generate {teacher.name}" if len(teachers) > 1 else "generate"
        with progress.stage(name, "completions") as advance:
            ask(teacher.job(right), questions, teacher.backend, store, advance)


def read_teachers(
    teachers: Sequence[Teacher], questions: Sequence[Question], store: Store, right: Right, partial: bool = False
) -> Iterator[Generation]:
    """Their generations, question by question; `partial`: as far as they go."""
    return read_jobs({teacher.name: teacher.job(right) for teacher in teachers}, questions, store, partial)


def read_jobs(
    jobs: Mapping[str, Job], questions: Sequence[Question], store: Store, partial: bool = False
) -> Iterator[Generation]:
    """The same, of what each teacher is asked, by its name."""
    position = {question.id: i for i, question in enumerate(questions)}
    streams = [_named(name, job, questions, store, partial) for name, job in jobs.items()]
    return heapq.merge(*streams, key=lambda generation: position[generation.question_id])


def _named(name: str, job: Job, questions: Sequence[Question], store: Store, partial: bool) -> Iterator[Generation]:
    for generation in read(job, questions, store, partial):
        yield replace(generation, teacher=name)
