"""One run, from questions to a page. Stages that are done are read, not done again.

outcome = run(load_config(path))

generate   questions -> generations.jsonl      (the store holds what was bought)
curate     generations -> pairs.jsonl, ledger.json
train      pairs -> student/<method>-<seed>/
evaluate   test questions -> predictions/<method>-<seed>.jsonl, result.json
report     all of these -> report.html
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cotdistill import progress
from cotdistill.config import Config, StudentConfig
from cotdistill.curate import Curated, answer_pairs, curate, without_leaked
from cotdistill.errors import BudgetReached, ConfigError, DataError
from cotdistill.evaluate import count_right
from cotdistill.measure import measure
from cotdistill.methods import HUMAN, Method
from cotdistill.pages import write_page
from cotdistill.plan import Plan, make_plan
from cotdistill.records import Generation, Pair, Question, write_jsonl
from cotdistill.runs import Run, label, open_run, students, write_json
from cotdistill.students.train import fingerprint, train, trained_facts
from cotdistill.teachers import ask_teachers, read_teachers
from cotdistill.twins import made_once

Stage = Literal["generate", "curate", "train", "evaluate", "report"]
STAGES: tuple[Stage, ...] = ("generate", "curate", "train", "evaluate", "report")


def run(config: Config, until: Stage = "report", siblings: Sequence[Path] = ()) -> Run:
    """Do the stages up to and with `until`; raises what they raise, with all that was bought stored.

    `siblings` are the folders of runs from which a student is taken that is the same.
    """
    with open_run(config) as this, on_machines(this):
        this.siblings = siblings
        if this.needs_teacher or until in ("generate", "curate"):
            generate_rationales(this)
            if until != "generate":
                this.curated = keep_right(this)
        if STAGES.index(until) >= STAGES.index("train"):
            refuse_nothing_kept(this)
            for method, seed in students(this):
                this.students[label(method, seed)] = teach(this, method, seed)
        if STAGES.index(until) >= STAGES.index("evaluate"):
            this.results = measure(this)
            write_page(this)
    return this


@contextmanager
def on_machines(this: Run) -> Iterator[None]:
    """Have a run's work done in the cluster of its config, if it has one."""
    if this.config.cluster is None:
        yield
        return
    from cotdistill.cluster import open_cluster  # it imports Ray

    with open_cluster(this, this.config.cluster) as this.cluster:
        yield


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
        if this.cluster:
            this.cluster.ask()
        else:
            ask_teachers(this.teachers, questions, this.store, this.right)
    except BudgetReached as error:
        reached = error
    if this.budget.spent != before:
        progress.say(f"generate: this run has spent {this.budget}")
    if this.cluster:
        this.cluster.write_generations(path, partial=reached is not None)
    else:
        write_jsonl(path, read_teachers(this.teachers, questions, this.store, this.right, partial=reached is not None))
    if reached is None:
        return
    if this.config.limits.reached == "stop":
        raise reached
    progress.say(f"warning: {str(reached).splitlines()[0]} The run goes on with what is there.")


def plan_teachers(config: Config, pilot: int = 0) -> list[Plan]:
    """What generating will ask and cost, for each teacher; `pilot` questions are asked first, to measure it."""
    if config.cluster is not None:
        raise ConfigError(
            "cluster: a plan, and a pilot, look into the store of one machine.\nAdd cluster=null to this command."
        )
    with open_run(config) as this:
        if this.teacher_method is HUMAN:
            raise ConfigError("teacher.style: human asks nobody, so there is nothing to plan.")
        questions = this.task.train
        some = random.Random(0).sample(questions, min(pilot, len(questions)))
        if some:
            ask_teachers(this.teachers, some, this.store, this.right)
        return [
            make_plan(teacher.name, teacher.job(this.right), questions, this.store, teacher.price, this.right)
            for teacher in this.teachers
        ]


def human_rationale(question: Question) -> Generation:
    """What a person wrote for a question, as if a teacher had."""
    if question.rationale:
        return Generation(question.id, 0, question.rationale, question.answer, "stop")
    return Generation(question.id, 0, "", None, "error", error="the dataset has no rationale for this question")


def curate_generations(this: Run, pairs: Path) -> Curated:
    """The generations of generations.jsonl that are right, as `pairs`."""
    return curate(
        this.folder / "generations.jsonl",
        this.task.train,
        this.teacher_method,
        this.known_methods["fine_tune_cot"],
        this.answer_type,
        this.config.curate,
        pairs=pairs,
        test=this.task.test,
        elsewhere=this.cluster.curated if this.cluster and this.teacher_method is not HUMAN else None,
    )


def keep_right(this: Run) -> Curated:
    """The generations that are right, as pairs, and the ledger of all."""
    curated = curate_generations(this, this.folder / "pairs.jsonl")
    if this.teacher_method is not HUMAN:
        served = this.cluster.served if this.cluster else None
        curated.ledger["served"] = served or {t.name: this.store.served(t.backend.identity) for t in this.teachers}
    write_json(this.folder / "ledger.json", curated.ledger)
    kept, asked = curated.ledger["kept"], curated.ledger["asked"]
    progress.say(f"curate: kept {kept} of {asked} rationales")
    return curated


def refuse_nothing_kept(this: Run) -> None:
    """Raise `DataError` where a student has no rationale to learn from, before another is trained for hours."""
    ledger: Any = this.curated.ledger if this.curated else {"kept": 1}
    if ledger["kept"] or not any(method.learns_rationale for method in this.methods.values()):
        return
    counts = Counter({"failed": ledger["failed"], **ledger["dropped"]})
    raise DataError(
        f"{this.folder / 'ledger.json'}: none of {ledger['asked']} rationales was kept: "
        f"{', '.join(f'{count} {reason}' for reason, count in counts.most_common() if count)}.\n"
        f"{this.folder / 'generations.jsonl'} has what they are; what was bought stays stored."
    )


def lesson(this: Run, method: Method) -> tuple[list[Pair], StudentConfig]:
    """What a student of `method` is trained on, and how."""
    config = this.config.student
    if method.learns_rationale:
        return (this.curated.pairs if this.curated else []), config
    config = config.model_copy(update={"kd": None})  # the paper's plain baseline
    return answer_pairs(without_leaked(this.task.train, this.task.test, this.config.curate), method), config


def teach(this: Run, method: Method, seed: int) -> Path:
    """The student of `method` and `seed`, trained unless this run or a sibling has it."""
    pairs, config = lesson(this, method)
    folder = this.folder / "student" / label(method, seed)
    answer = partial(count_right, method, this.task.train, this.answer_type, this.config.evaluate)
    cache = this.config.runs / ".kd"  # no name of a run
    print_of = fingerprint(pairs, config, seed)
    if trained_facts(folder).get("fingerprint", print_of) != print_of:
        progress.say(f"{folder}: trained on other pairs, or with other settings: another student takes its place")
    with made_once(this.store, folder, print_of, this.config, this.siblings):
        if this.cluster and this.cluster.trains:
            return this.cluster.train(pairs, config, folder, seed, cache, answer)
        with progress.stage(f"train {label(method, seed)}", "steps") as advance:
            return train(pairs, config, folder, seed, advance, cache, answer)
