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
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from cotdistill import answers, progress
from cotdistill.answers import AnswerType
from cotdistill.backends import Backend
from cotdistill.budget import Budget
from cotdistill.completions import canonical
from cotdistill.config import Config
from cotdistill.curate import Curated, answer_pairs, curate, rationale_of, without_leaked
from cotdistill.errors import BudgetReached, ConfigError, DataError
from cotdistill.evaluate import count_right, evaluate, score, verdict
from cotdistill.generate import generate
from cotdistill.methods import HUMAN, METHODS, Method, methods, teacher_method
from cotdistill.models import drop_weights, free_memory, is_seq2seq, model_identity
from cotdistill.plan import Plan, make_plan
from cotdistill.records import Generation, Question, Result, Score, read_jsonl, to_json, write_atomic, write_jsonl
from cotdistill.store import Store
from cotdistill.tasks import Task, exemplars_of, load_task, without_exemplars
from cotdistill.teachers import Teacher, ask_teachers, limit_of, open_teachers, read_teachers
from cotdistill.train import refuse_other_kinds, train, trained_facts

Stage = Literal["generate", "curate", "train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = ("generate", "curate", "train", "evaluate", "report")
PACKAGES = ("cotdistill", "torch", "transformers", "peft", "accelerate", "numpy", "aiohttp")


@dataclass
class Run:
    """A config, its folder, and what its stages have made so far."""

    config: Config
    task: Task
    store: Store
    curated: Curated | None = None
    students: dict[str, Path] = field(default_factory=dict)
    predictions: dict[str, tuple[list[Generation], list[Score]]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def generations(self) -> list[Generation]:
        """All rationales that the teachers wrote, read from the file."""
        return read_jsonl(self.folder / "generations.jsonl", Generation)

    @cached_property
    def answer_type(self) -> AnswerType:
        return answers.answer_type(self.config.task.rule, self.task.answer_type, self.task.options)

    @cached_property
    def budget(self) -> Budget:
        return Budget(limit_of(self.config.limits), self.folder / "spent.json")

    @cached_property
    def teachers(self) -> list[Teacher]:
        return open_teachers(self.config, self.teacher_method, self.budget)

    @cached_property
    def exemplars(self) -> tuple[Question, ...]:
        return exemplars_of(self.config.task, self.task)

    @cached_property
    def teacher_method(self) -> Method:
        teacher = self.config.all_teachers[0]
        exemplars = self.exemplars if teacher.style == "few_shot_cot" else ()
        return teacher_method(teacher.style, teacher.answer_cue, self.task.answer_type, self.task.options, exemplars)

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Those that are compared, in the student's form."""
        wanted, student = self.config.evaluate.methods, self.config.student
        exemplars = self.exemplars if "few_shot_cot" in wanted else ()
        known = methods(student.format, is_seq2seq(student.model), exemplars, student.rationale)
        return {name: known[name] for name in wanted}

    def refuse_what_cannot_be_asked(self) -> None:
        """Make every prompt once: a method or a teacher that cannot be asked is an error before anything is bought."""
        for method in (*self.methods.values(), *([self.teacher_method] if self.needs_teacher else [])):
            method.prompt(self.task.train[0])
        if self.needs_teacher:
            refuse_other_kinds(self.config.student)
        if self.needs_teacher and self.teacher_method is HUMAN and not any(q.rationale for q in self.task.train):
            raise ConfigError(
                f"teacher.style: human, and {self.task.name} has no rationales of people.\n"
                "Name their column with task.rationale=COLUMN, or choose another style."
            )

    @property
    def needs_teacher(self) -> bool:
        return any(METHODS[name].learns_rationale for name in self.config.evaluate.methods)

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


def run(config: Config, until: Stage = "report") -> Run:
    """Do the stages up to and with `until`; raises what they raise, with all that was bought stored."""
    with open_run(config) as this:
        if this.needs_teacher or until in ("generate", "curate"):
            generate_rationales(this)
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


def generate_rationales(this: Run) -> None:
    """The teachers' generations for the training questions, in generations.jsonl.

    Raises `BudgetReached` where a limit says so, with that file of what was answered.
    """
    questions, path = this.task.train, this.folder / "generations.jsonl"
    if this.teacher_method is HUMAN:
        write_jsonl(path, map(human_rationale, questions))
        return
    reached = None
    before = this.budget.spent
    try:
        ask_teachers(this.teachers, questions, this.store, this.right)
    except BudgetReached as error:
        reached = error
    if this.budget.spent != before:
        progress.say(f"generate: this run has spent {this.budget}")
    write_jsonl(path, read_teachers(this.teachers, questions, this.store, this.right, partial=reached is not None))
    if reached is None:
        return
    if this.config.limits.reached == "stop":
        raise reached
    progress.say(f"warning: {str(reached).splitlines()[0]} The run goes on with what is there.")


def plan_teachers(config: Config, pilot: int = 0) -> list[Plan]:
    """What generating will ask and cost, for each teacher; `pilot` questions are asked first, to measure it."""
    with open_run(config) as this:
        if this.teacher_method is HUMAN:
            raise ConfigError("teacher.style: human asks nobody, so there is nothing to plan.")
        questions = this.task.train
        some = random.Random(0).sample(questions, min(pilot, len(questions)))
        if some:
            ask_teachers(this.teachers, some, this.store, this.right)
        return [
            make_plan(
                teacher.name,
                teacher.job(this.right),
                questions,
                this.store,
                teacher.price,
                lambda question, generation: this.right(question, generation) is not None,
            )
            for teacher in this.teachers
        ]


def human_rationale(question: Question) -> Generation:
    """What a person wrote for a question, as if a teacher had."""
    if question.rationale:
        return Generation(question.id, 0, question.rationale, question.answer, "stop")
    return Generation(question.id, 0, "", None, "error", error="the dataset has no rationale for this question")


def keep_right(this: Run) -> Curated:
    """The generations that are right, as pairs, and the ledger of all."""
    student = this.config.student
    form = methods(student.format, is_seq2seq(student.model), rationale=student.rationale)
    curated = curate(
        this.folder / "generations.jsonl",
        this.task.train,
        this.teacher_method,
        form["fine_tune_cot"],
        this.answer_type,
        this.config.curate,
        pairs=this.folder / "pairs.jsonl",
        test=this.task.test,
    )
    if this.teacher_method is not HUMAN:
        curated.ledger["served"] = {t.name: this.store.served(t.backend.identity) for t in this.teachers}
    write_json(this.folder / "ledger.json", curated.ledger)
    kept, asked = curated.ledger["kept"], curated.ledger["asked"]
    progress.say(f"curate: kept {kept} of {asked} rationales")
    return curated


def students(this: Run) -> list[tuple[Method, int]]:
    """Each student to train: a method that trains, and a seed."""
    trained = [method for method in this.methods.values() if method.trained]
    return [(method, seed) for method in trained for seed in this.config.student.seeds]


def teach(this: Run, method: Method, seed: int) -> Path:
    """The student of `method` and `seed`, trained unless it is there."""
    config = this.config.student
    if method.learns_rationale:
        pairs = this.curated.pairs if this.curated else []
    else:
        config = config.model_copy(update={"kd": None})  # the paper's plain baseline
        pairs = answer_pairs(without_leaked(this.task.train, this.task.test, this.config.curate), method)
    folder = this.folder / "student" / label(method, seed)
    answer = partial(count_right, method, this.task.train, this.answer_type, this.config.evaluate)
    cache = this.config.runs / ".kd"  # no name of a run
    with progress.stage(f"train {label(method, seed)}", "steps") as advance:
        return train(pairs, config, folder, seed, advance, cache, answer)


def measure(this: Run) -> list[Result]:
    """Each method's predictions on the test questions, scored; written to predictions/ and result.json."""
    base = local_backend(this, this.config.student.model)
    results = [predict(this, method, None, base) for method in this.methods.values() if not method.trained]
    results += [predict_trained(this, method, seed) for method, seed in students(this)]
    write_json(this.folder / "result.json", {"task": this.task.name, "results": [to_json(r) for r in results]})
    return results


def predict_trained(this: Run, method: Method, seed: int) -> Result:
    """The student of `method` and `seed`, measured; with select: paper, its best epoch on the test set."""
    folder = this.students[label(method, seed)]
    facts = trained_facts(folder)
    epochs = [folder / name for name in facts["epoch_folders"]]
    if not epochs:
        return replace(predict(this, method, seed, local_backend(this, str(folder))), seconds=facts["seconds"])
    measured = [predict(this, method, seed, local_backend(this, str(epoch))) for epoch in epochs]
    found = [epoch.accuracy for epoch in measured]
    best = max(range(len(epochs)), key=found.__getitem__)
    # From the store: its predictions are those that are written.
    result = predict(this, method, seed, local_backend(this, str(epochs[best])))
    if not any(epoch.categories["error"] for epoch in measured):  # those are asked again by the next run
        for other in {*epochs} - {epochs[best]}:
            drop_weights(other)
    gap = (
        f"epoch {best + 1} of {len(epochs)}, the best on the test set, as in the paper: {found[best]:.1%}; "
        f"the epoch of the lowest dev loss ({facts['selected_epoch']}) has {found[facts['selected_epoch'] - 1]:.1%}."
    )
    return replace(result, seconds=facts["seconds"], epochs=tuple(found), warnings=(*result.warnings, gap))


def local_backend(this: Run, model: str) -> Backend:
    """A local model for evaluation, in the student's form; nothing is loaded before something is asked."""
    from cotdistill.backends.transformers import TransformersBackend

    student = this.config.student
    return TransformersBackend(
        model,
        chat=student.format == "chat",
        batch_size=this.config.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
    )


def predict(this: Run, method: Method, seed: int | None, backend: Backend) -> Result:
    """What a model writes for the test questions, scored, and written to predictions/."""
    name = label(method, seed)
    questions = list(this.task.test)
    if method.name == "few_shot_cot":
        questions = without_exemplars(questions, this.exemplars)
    with progress.stage(f"evaluate {name}", "completions") as advance:
        limit = this.config.evaluate.max_tokens or None
        generations = list(generate(questions, backend, method, this.store, max_tokens=limit, progress=advance))
    free_memory()  # of the student before
    scores = [score(g, q, method, this.answer_type) for g, q in zip(generations, questions, strict=True)]
    this.predictions[name] = generations, scores
    write_predictions(this, name)
    result = evaluate(generations, scores, method, seed)
    if left_out := len(this.task.test) - len(questions):
        note = f"{left_out} of {len(this.task.test)} test questions are exemplars in its prompt, and were left out."
        result = replace(result, warnings=(*result.warnings, note))
    return result


def write_predictions(this: Run, name: str) -> None:
    """One line a test question: what was asked, what was written, how it was judged."""
    generations, scores = this.predictions[name]
    by_id = {question.id: question for question in this.task.test}
    lines = [
        {"question": by_id[g.question_id].text, "gold": by_id[g.question_id].answer, **to_json(g), **to_json(s)}
        for g, s in zip(generations, scores, strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(this.folder / "predictions" / f"{name}.jsonl", text)


def write_page(this: Run) -> None:
    """manifest.json and report.html."""
    from cotdistill.report import Page, write_report

    manifest = make_manifest(this)
    write_json(this.folder / "manifest.json", manifest)
    curated = this.curated
    trained = {name: trained_facts(folder) for name, folder in this.students.items()}
    page = Page(
        name=this.config.name,
        task=this.task.name,
        answer_type=this.task.answer_type,
        n_train=len(this.task.train),
        n_test=len(this.task.test),
        source=this.task.source,
        verdict=verdict(this.results, this.methods),
        results=this.results,
        ledger=curated.ledger if curated else {},
        questions=this.task.test,
        predictions=this.predictions,
        manifest=manifest,
        pairs=curated.pairs[:5] if curated else [],
        dropped=curated.dropped if curated else [],
        warnings=[*this.task.notes, *(f"{r.method}: {w}" for r in this.results for w in r.warnings)],
        dev_losses={name: facts["dev_losses"] for name, facts in trained.items()},
        dev_accuracies={name: facts.get("dev_accuracies", []) for name, facts in trained.items()},
    )
    write_report(page, this.folder / "report.html")


def make_manifest(this: Run) -> dict[str, Any]:
    """What made the results: identities, hashes, seeds, versions, hardware. No times: running again changes nothing."""
    questions = canonical([[asdict(q) for q in this.task.train], [asdict(q) for q in this.task.test]])
    return {
        "task": {"name": this.task.name, "sha256": hashlib.sha256(questions.encode()).hexdigest()},
        "teachers": this.teacher_identities,
        "student": model_identity(this.config.student.model),
        "trained": {
            name: {k: v for k, v in trained_facts(folder).items() if not k.startswith("dev_")}
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
