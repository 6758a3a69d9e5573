"""A run: its config, its folder, held by one process, and what its stages have made so far."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from cotdistill import answers, records
from cotdistill.answers import AnswerType
from cotdistill.budget import Budget
from cotdistill.config import Config, load_config
from cotdistill.curate import Curated, rationale_of
from cotdistill.errors import ConfigError, DataError
from cotdistill.methods import HUMAN, METHODS, Method, methods, student_teacher, teacher_method
from cotdistill.models import COMPLETE, EMBEDDED, is_seq2seq
from cotdistill.records import Generation, Question, Result, Score, read_jsonl, write_atomic
from cotdistill.results.compare import Comparison, Summary
from cotdistill.results.costs import Costs
from cotdistill.results.mistakes import Mistake
from cotdistill.store import Store
from cotdistill.students.train import refuse_other_kinds, trained_facts
from cotdistill.tasks import Task, exemplars_of, load_task
from cotdistill.teachers import Teacher, limit_of, open_teachers

if TYPE_CHECKING:
    from cotdistill.cluster import Cluster


@dataclass
class Setup:
    """A config and its task: all that says how a run asks and reads answers, whether or not it is done."""

    config: Config
    task: Task

    @cached_property
    def answer_type(self) -> AnswerType:
        return answers.answer_type(self.config.task.rule, self.task.answer_type, self.task.options)

    @cached_property
    def exemplars(self) -> tuple[Question, ...]:
        return exemplars_of(self.config.task, self.task)

    @cached_property
    def teacher_method(self) -> Method:
        teacher = self.config.all_teachers[0]
        if teacher.style == "student":
            served = all(t.api == "chat" and t.backend != "transformers" for t in self.config.all_teachers)
            return student_teacher(self.known_methods["fine_tune_cot"], served)
        exemplars = self.exemplars if teacher.style == "few_shot_cot" else ()
        return teacher_method(teacher.style, teacher.answer_cue, self.task.answer_type, self.task.options, exemplars)

    @cached_property
    def known_methods(self) -> dict[str, Method]:
        """All there are, in the student's form."""
        student = self.config.student
        exemplars = self.exemplars if "few_shot_cot" in self.config.evaluate.methods else ()
        return methods(student.format, is_seq2seq(student.model), exemplars, student.rationale)

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Those that are compared."""
        return {name: self.known_methods[name] for name in self.config.evaluate.methods}

    @property
    def needs_teacher(self) -> bool:
        return any(METHODS[name].learns_rationale for name in self.config.evaluate.methods)


@dataclass
class Run(Setup):
    """A config, its folder, and what its stages have made so far."""

    store: Store
    curated: Curated | None = None
    students: dict[str, Path] = field(default_factory=dict)
    predictions: dict[str, tuple[list[Generation], list[Score]]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    mistakes: dict[str, list[tuple[Mistake, ...]]] = field(default_factory=dict)  # of predictions, in their order
    rights: dict[tuple[str, int | None], dict[str, bool]] = field(default_factory=dict)  # by method and seed
    answer_seconds: dict[str, float | None] = field(default_factory=dict)
    summaries: tuple[Summary, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    costs: Costs | None = None
    warnings: tuple[str, ...] = ()
    cluster: Cluster | None = None  # where the work is done, if not here
    siblings: Sequence[Path] = ()  # folders of runs whose students may be this one's too

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def generations(self) -> list[Generation]:
        """All rationales that the teachers wrote, read from the file."""
        return read_jsonl(self.folder / "generations.jsonl", Generation)

    @cached_property
    def budget(self) -> Budget:
        return Budget(limit_of(self.config.limits), self.folder / "spent.json")

    @cached_property
    def teachers(self) -> list[Teacher]:
        return open_teachers(self.config, self.teacher_method, self.budget)

    def refuse_what_cannot_be_asked(self) -> None:
        """Make every prompt once: a method or a teacher that cannot be asked is an error before anything is bought."""
        for method in (*self.methods.values(), *([self.teacher_method] if self.needs_teacher else [])):
            method.prompt(self.task.train[0])
        if self.needs_teacher:
            refuse_other_kinds(self.config.student)
        if self.needs_teacher and self.teacher_method is HUMAN and not any(q.rationale for q in self.task.train):
            column = self.config.task.rationale
            raise ConfigError(
                f"teacher.style: human, and {self.task.name} has no rationales of people"
                + (f": column {column!r} is empty for every training question.\n" if column else ".\n")
                + "Name their column with task.rationale=COLUMN, or choose another style."
            )

    @property
    def teacher_identities(self) -> list[dict[str, str]]:
        if not self.needs_teacher:
            return []
        if self.teacher_method is HUMAN:
            return [{"model": "human"}]
        return [{"name": teacher.name, **teacher.backend.identity} for teacher in self.teachers]

    def right(self, question: Question, generation: Generation) -> str | None:
        """The rationale of a generation that can be kept, by which it is told from others; None of any other."""
        return rationale_of(generation, question, self.teacher_method, self.answer_type, self.config.curate)


@contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """The run of `config`, its folder locked by the kernel for this process, its config saved."""
    task = load_task(config.task)
    lock = FileLock(config.folder / ".lock")
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{config.folder}: another process is working on this run.\n"
            "Wait for it, or give this one another name: name=NAME."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise DataError(
            f"{config.folder}: the run cannot have its folder ({error}).\n"
            "Check the path, the rights and the disk, or set runs=FOLDER; its file system must have locks."
        ) from None
    try:
        with Store(config.store_path) as store:
            this = Run(config, task, store)
            this.refuse_what_cannot_be_asked()
            write_atomic(config.folder / "config.yaml", config.to_yaml())
            yield this
    finally:
        lock.release()


def saved_config(folder: Path) -> Config:
    """The config of the run in a folder. Raises `DataError` where there is no run."""
    path = folder / "config.yaml"
    if not path.is_file():
        others = sorted(p.parent.name for p in folder.glob("*/config.yaml"))
        has = (
            f"It has runs: {', '.join(others[:5])}." if others else "Name the folder of a run, such as runs/quickstart."
        )
        raise DataError(f"{folder}: no run is here: it has no config.yaml.\n{has}")
    return load_config(path)


@contextmanager
def saved_run(folder: Path, store: Path | None = None) -> Iterator[Run]:
    """A run as its folder has it, to be read; the folder may have been moved, and the base model be elsewhere.

    Where a student was trained, it stands in for the base model: it is of the same kind. `store` is only read;
    none: an empty one. Raises `DataError` where there is no such run, and what `load_task` raises.
    """
    config = saved_config(folder)
    here: dict[str, object] = {"runs": folder.absolute().parent, "name": folder.absolute().name}
    trained = next((mark.parent for mark in sorted(folder.absolute().glob(f"student/*/{COMPLETE}"))), None)
    if trained is not None and config.student.model != EMBEDDED:
        here["student"] = config.student.model_copy(update={"model": str(trained)})
    task = load_task(config.task)
    with Store(store, read_only=True) if store else Store(Path(":memory:")) as opened:
        yield Run(config.model_copy(update=here), task, opened)


def students(this: Run) -> list[tuple[Method, int]]:
    """Each student to train: a method that trains, and a seed."""
    taught = dict.fromkeys(method.taught_as for method in this.methods.values() if method.trained)
    return [(this.known_methods[name], seed) for name in taught for seed in this.config.student.seeds]


def label(method: Method, seed: int | None) -> str:
    """As `records.label`."""
    return records.label(method.name, seed)


def measured_folder(student: Path, epochs: Sequence[float]) -> Path:
    """The folder of a student whose predictions are written: itself, or where `epochs` were measured the best one's."""
    names = trained_facts(student).get("epoch_folders") if epochs else None
    return student / str(names[max(range(len(epochs)), key=epochs.__getitem__)]) if names else student


def result_folder(run: Path, config: Config, method: str, seed: int) -> Path:
    """The folder of a run's student that result.json is about: with select: paper, that of its best epoch."""
    student = run / "student" / records.label(method, seed)
    if config.student.select != "paper":
        return student
    results = read_json(run / "result.json", ["results"])["results"]
    own = (r["epochs"] for r in results if (METHODS[r["method"]].taught_as, r["seed"]) == (method, seed))
    return measured_folder(student, next(own, ()))


def read_json(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The object in a JSON file of a run, which has these keys. Raises `DataError` where it is not so."""
    try:
        value = json.loads(path.read_bytes())
        why = "" if isinstance(value, dict) else "no object: a JSON object was expected"
        why = why or next((f"no {key!r}" for key in keys if key not in value), "")
    except (OSError, ValueError, RecursionError) as error:
        why = f"it cannot be read as JSON: {error}"
    if why:
        raise DataError(
            f"{path}: not as a run leaves it ({why}).\nDo the run again: what was bought and trained is kept."
        )
    return value  # type: ignore[no-any-return] # JSON


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")
