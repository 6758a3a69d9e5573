"""What `cotdistill tasks` prints, and the proof that a task's known answers can be scored."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields

from rich.table import Table

from cotdistill.answers import TYPED, answer_type
from cotdistill.tasks.table import TASKS, Entry
from cotdistill.tasks.task import Task

Row = dict[str, str | int | float]
LISTED = [field.name for field in fields(Entry) if field.name != "load"]


def rows() -> list[Row]:
    """One row a named task; nothing is loaded or downloaded."""
    return [{"name": name} | {column: getattr(entry, column) for column in LISTED} for name, entry in TASKS.items()]


def table(rows: Sequence[Row]) -> Table:
    """For a terminal; accuracies in percent."""
    shown = Table("task", "answers", caption="and reasoning_gym/NAME: any generator of reasoning-gym")
    for column in ("train", "test", "random", "majority"):
        shown.add_column(column, justify="right")
    shown.add_column("licence")
    for row in rows:
        percents = (f"{row[column]:.2f}" for column in ("random", "majority"))
        name, answer_type, licence = str(row["name"]), str(row["answer_type"]), str(row["licence"])
        shown.add_row(name, answer_type, str(row["train"]), str(row["test"]), *percents, licence)
    return shown


def baselines(task: Task) -> tuple[float, float]:
    """Accuracies in percent, as in `Entry`: of guessing, over all questions, and of the best constant answer."""
    questions = task.train + task.test
    options = 2.0 if task.answer_type == "yes_no" else sum(len(q.choices) for q in questions) / len(questions)
    kind = TYPED[task.answer_type]
    golds = Counter(question.answer for question in task.test)
    # Formulas as they are spelled: to prove each equal to each would take hours.
    equal = operator.eq if task.answer_type == "math" else kind.equal
    most = max(sum(n for gold, n in golds.items() if equal(answer, gold)) for answer in golds)
    return round(100 / options, 2) if options else 0.0, round(100 * most / len(task.test), 2)


def unscorable(task: Task, rule: str) -> list[str]:
    """The ids of the questions whose known answer, read as a model's would be, does not score as correct."""
    kind = answer_type(rule, task.answer_type, task.options)
    return [
        question.id
        for question in task.train + task.test
        if not any(
            kind.equal(first, question.answer) for first in kind.candidates(question.answer, question.choices)[:1]
        )
    ]
