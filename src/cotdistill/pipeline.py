"""One run, from questions to a page. Stages that are done are read, not done again.

outcome = run(load_config(path))

generate   questions -> generations.jsonl      (the store holds what was bought)
curate     generations -> pairs.jsonl, ledger.json
train      pairs -> student/<method>-<seed>/
evaluate   test questions -> predictions/<method>-<seed>.jsonl, result.json
report     all of these -> report.html
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from cotdistill import progress
from cotdistill.answers import RULES, AnswerType
from cotdistill.backends import Backend, open_backend
from cotdistill.config import Config
from cotdistill.curate import Curated, answer_pairs, curate
from cotdistill.errors import ConfigError
from cotdistill.evaluate import evaluate, score, verdict
from cotdistill.generate import generate
from cotdistill.methods import METHODS, Method
from cotdistill.models import model_identity
from cotdistill.records import Generation, Pair, Result, Score, to_json, write_atomic, write_jsonl
from cotdistill.store import Store, canonical
from cotdistill.tasks import Task, load_task
from cotdistill.train import train, trained_facts

Stage = Literal["generate", "curate", "train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = ("generate", "curate", "train", "evaluate", "report")
TEACHER = METHODS["zero_shot_cot"]
PACKAGES = ("cotdistill", "torch", "transformers", "peft", "accelerate", "numpy", "aiohttp")


@dataclass
class Run:
    """A config, its folder, and what its stages have made so far."""

    config: Config
    task: Task
    store: Store
    generations: list[Generation] = field(default_factory=list)
    curated: Curated | None = None
    students: dict[str, Path] = field(default_factory=dict)
    predictions: dict[str, tuple[list[Generation], list[Score]]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def answer_type(self) -> AnswerType:
        return RULES[self.config.task.rule][self.task.answer_type]

    @cached_property
    def teacher(self) -> Backend:
        return open_backend(self.config.teacher, self.config.limits)

    @property
    def methods(self) -> list[Method]:
        return [METHODS[name] for name in self.config.evaluate.methods]

    @property
    def needs_teacher(self) -> bool:
        return any(method.learns_rationale for method in self.methods)


def run(config: Config, until: Stage = "report") -> Run:
    """Do the stages up to and with `until`; raises what they raise, with all that was bought stored."""
    with open_run(config) as this:
        if this.needs_teacher or until in ("generate", "curate"):
            this.generations = ask_teacher(this)
            if until != "generate":
                this.curated = keep_right(this)
        if STAGES.index(until) >= STAGES.index("train"):
            for method, seed in students(this):
                this.students[label(method, seed)] = teach(this, method, seed)
        if STAGES.index(until) >= STAGES.index("evaluate"):
            this.results = measure(this)
            write_page(this)
    return this


@contextmanager
def open_run(config: Config) -> Iterator[Run]:
    """The run of `config`, its folder locked by the kernel for this process, its config saved."""
    task = load_task(config.task)
    config.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(config.folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{config.folder}: another process is working on this run.\n"
            "Wait for it, or give this one another name: name=NAME."
        ) from None
    try:
        with Store(config.store_path) as store:
            this = Run(config, task, store)
            write_atomic(config.folder / "config.yaml", config.to_yaml())
            yield this
    finally:
        lock.release()


def ask_teacher(this: Run) -> list[Generation]:
    """The teacher's D generations for each training question."""
    teacher = this.config.teacher
    with progress.stage("generate", "completions") as advance:
        generations = generate(
            this.task.train,
            this.teacher,
            TEACHER,
            this.store,
            n=teacher.samples,
            temperature=teacher.temperature,
            top_p=teacher.top_p,
            max_tokens=teacher.max_tokens,
            stop=teacher.stop,
            seed=teacher.seed,
            progress=advance,
        )
    write_jsonl(this.folder / "generations.jsonl", generations)
    return generations


def keep_right(this: Run) -> Curated:
    """The generations that are right, as pairs, and the ledger of all."""
    student = METHODS["fine_tune_cot"]
    curated = curate(this.generations, this.task.train, TEACHER, student, this.answer_type, this.config.curate)
    write_jsonl(this.folder / "pairs.jsonl", curated.pairs)
    write_json(this.folder / "ledger.json", curated.ledger)
    kept, asked = curated.ledger["kept"], curated.ledger["asked"]
    progress.say(f"curate: kept {kept} of {asked} rationales")
    return curated


def students(this: Run) -> list[tuple[Method, int]]:
    """Each student to train: a method that trains, and a seed."""
    return [(method, seed) for method in this.methods if method.trained for seed in this.config.student.seeds]


def teach(this: Run, method: Method, seed: int) -> Path:
    """The student of `method` and `seed`, trained unless it is there."""
    pairs: Sequence[Pair] = answer_pairs(this.task.train, method)
    if method.learns_rationale:
        pairs = this.curated.pairs if this.curated else []
    folder = this.folder / "student" / label(method, seed)
    with progress.stage(f"train {label(method, seed)}", "steps") as advance:
        return train(pairs, this.config.student, folder, seed, advance)


def measure(this: Run) -> list[Result]:
    """Each method's predictions on the test questions, scored; written to predictions/ and result.json."""
    base = local_backend(this, this.config.student.model)
    jobs: list[tuple[Method, int | None, Backend]] = [(m, None, base) for m in this.methods if not m.trained]
    jobs += [(m, seed, local_backend(this, str(this.students[label(m, seed)]))) for m, seed in students(this)]
    results = []
    for method, seed, backend in jobs:
        name = label(method, seed)
        with progress.stage(f"evaluate {name}", "completions") as advance:
            limit = this.config.evaluate.max_tokens or None
            generations = generate(this.task.test, backend, method, this.store, max_tokens=limit, progress=advance)
        scores = [
            score(generation, question, method, this.answer_type)
            for generation, question in zip(generations, this.task.test, strict=True)
        ]
        this.predictions[name] = generations, scores
        write_predictions(this, name)
        seconds = trained_facts(this.students[name]).get("seconds") if name in this.students else None
        results.append(evaluate(generations, scores, method, seed, seconds))
    write_json(this.folder / "result.json", {"task": this.task.name, "results": [to_json(r) for r in results]})
    return results


def local_backend(this: Run, model: str) -> Backend:
    """A local model, as it is, for evaluation; nothing is loaded before something is asked."""
    from cotdistill.backends.transformers import TransformersBackend

    return TransformersBackend(model, batch_size=this.config.evaluate.batch_size)


def write_predictions(this: Run, name: str) -> None:
    """One line a test question: what was asked, what was written, how it was judged."""
    generations, scores = this.predictions[name]
    lines = [
        {"question": q.text, "gold": q.answer, **to_json(g), **to_json(s)}
        for q, g, s in zip(this.task.test, generations, scores, strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(this.folder / "predictions" / f"{name}.jsonl", text)


def write_page(this: Run) -> None:
    """manifest.json and report.html."""
    from cotdistill.report import Page, write_report

    manifest = make_manifest(this)
    write_json(this.folder / "manifest.json", manifest)
    curated = this.curated
    by_id = {question.id: question for question in this.task.train}
    kept = {(p.question_id, p.index) for p in curated.pairs} if curated else set()
    dropped = [
        (by_id[g.question_id], g, s)
        for g, s in zip(this.generations, curated.scores if curated else [], strict=True)
        if (g.question_id, g.index) not in kept
    ]
    page = Page(
        name=this.config.name,
        task=this.task.name,
        answer_type=this.task.answer_type,
        n_train=len(this.task.train),
        n_test=len(this.task.test),
        source=this.task.source,
        verdict=verdict(this.results),
        results=this.results,
        ledger=curated.ledger if curated else {},
        questions=this.task.test,
        predictions=this.predictions,
        manifest=manifest,
        pairs=curated.pairs[:5] if curated else [],
        dropped=dropped[:5],
        warnings=[f"{r.method}: {w}" for r in this.results for w in r.warnings],
        dev_losses={name: trained_facts(folder)["dev_losses"] for name, folder in this.students.items()},
    )
    write_report(page, this.folder / "report.html")


def make_manifest(this: Run) -> dict[str, Any]:
    """What made the results: identities, hashes, seeds, versions, hardware. No times: running again changes nothing."""
    questions = canonical([[asdict(q) for q in this.task.train], [asdict(q) for q in this.task.test]])
    return {
        "task": {"name": this.task.name, "sha256": hashlib.sha256(questions.encode()).hexdigest()},
        "teacher": dict(this.teacher.identity) if this.needs_teacher else None,
        "student": model_identity(this.config.student.model),
        "trained": {
            name: {k: v for k, v in trained_facts(folder).items() if k != "dev_losses"}
            for name, folder in this.students.items()
        },
        "seeds": list(this.config.student.seeds),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def label(method: Method, seed: int | None) -> str:
    """What names a method's files: fine_tune_cot-0, or zero_shot where nothing was trained."""
    return method.name if seed is None else f"{method.name}-{seed}"


def write_json(path: Path, value: object) -> None:
    """Indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")
