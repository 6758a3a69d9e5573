"""A task, and the checks that it passes before anything is paid for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cotdistill.answers import TYPED
from cotdistill.errors import DataError
from cotdistill.records import Question
from cotdistill.tasks.splits import Split

# What a known answer must look like to be compared with what a model wrote.
FORMS = {
    "number": "one plain number, such as 12 or -3.5",
    "integer": "one whole number, such as 12 or -3",
    "choice": "the letter of an option, such as B",
    "yes_no": "yes or no",
    "text": "one line without quotes around it or a stop at its end",
    "date": "a date, such as 04/30/2021",
    "math": "a number or an expression, such as 1/2",
}


@dataclass(frozen=True)
class Task:
    """Questions with known answers, in two splits; `answer_type` as in answers.py.

    `notes` are what a reader of results must know of the questions, such as how many stand in both
    splits of a published dataset.
    """

    name: str
    answer_type: str
    train: Split
    test: Split
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def options(self) -> int:
        """The most options that a question has, 0 where there are none."""
        return max(len(question.choices) for question in self.train + self.test)


def check(task: Task, places: Mapping[str, str] | None = None, overlap: str = "refuse") -> tuple[str, ...]:
    """Raise `DataError` unless both splits have questions and every answer can be scored; return the notes.

    Test questions that are training questions too are refused, or with `overlap` "keep" a note. `places`
    says where a question id comes from, such as "my.csv, line 3".
    """

    def place(question: Question) -> str:
        return (places or {}).get(question.id, f"question {question.id}")

    for split, questions in (("train", task.train), ("test", task.test)):
        if not questions:
            raise DataError(f"{task.name}: there are no {split} questions.")
    ids: set[str] = set()
    for question in task.train + task.test:
        if question.id in ids:
            raise DataError(f"{place(question)}: the id {question.id!r} is used twice. Ids must be unique.")
        ids.add(question.id)
    trained = {fold(question.text): question for question in task.train}
    repeated = [question for question in task.test if fold(question.text) in trained]
    if repeated and overlap == "refuse":
        raise DataError(
            f"{place(repeated[0])}: this test question is also a training question "
            f"({place(trained[fold(repeated[0].text)])}).\nRemove one of the two, or set task.overlap=keep: "
            "a student is then tested on what it was taught."
        )
    for question in task.train + task.test:
        if not readable(task.answer_type, question):
            raise DataError(
                f"{place(question)}: the answer {shown(question.answer)} cannot be scored as {task.answer_type}: "
                f"it must be {FORMS[task.answer_type]}.\nChange the answer, or task.answer_type."
            )
    notes = [f"{len(repeated)} of {len(task.test)} test questions are also training questions"] if repeated else []
    if places:  # a file of yours; a published dataset is what it is
        notes += twice("train", task.train) + twice("test", task.test)
    return tuple(notes)


def twice(split: str, questions: Sequence[Question]) -> list[str]:
    """A note where questions of a split are there more than once, and whether their answers are different."""
    answers: dict[str, list[str]] = {}
    for question in questions:
        answers.setdefault(fold(question.text), []).append(question.answer)
    again = [given for given in answers.values() if len(given) > 1]
    different = sum(len(set(given)) > 1 for given in again)
    known = f", {different} of them with different known answers" if different else ""
    return [f"{len(again)} {split} questions are there more than once{known}"] if again else []


def fold(text: str) -> str:
    """`text` with every run of white space as one space, and none at its ends."""
    lines = text.replace("\n\n", " ").replace("\n", " ")
    if "  " not in lines and lines.isprintable():  # so there is no other space in it
        return lines.strip()
    return " ".join(text.split())


def readable(answer_type: str, question: Question) -> bool:
    """Whether the known answer, written as it is, is read back as itself."""
    kind = TYPED[answer_type]
    candidates = kind.candidates(question.answer, question.choices)
    return any(kind.equal(candidate, question.answer) for candidate in candidates)


def guess_answer_type(answers: Sequence[str]) -> str:
    """number or yes_no where every known answer reads as one, else text."""
    for answer_type in ("number", "yes_no"):
        if all(readable(answer_type, Question("", "", answer)) for answer in answers):
            return answer_type
    return "text"


def shown(text: str) -> str:
    """`text` quoted, on one line and not too long for a message."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
