"""Tasks: questions whose answers are known, split into train and test.

    task = load_task(TaskConfig(name="coin_flip", train=350, test=150))

A task is your own file (files.py), a generator of reasoning-gym (`reasoning_gym/NAME`) or a row of
`TASKS`. Whichever it is, it is checked before anything is paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from cotdistill.answers import TYPED
from cotdistill.config import TaskConfig, nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question
from cotdistill.tasks import files, reasoning_gym, symbolic, word_problems


@dataclass(frozen=True)
class Task:
    """Questions with known answers, in two splits that share none; `answer_type` as in answers.py."""

    name: str
    answer_type: str
    train: tuple[Question, ...]
    test: tuple[Question, ...]
    source: str = ""


def endless(make: Callable[[str, int], Question], answer_type: str) -> Callable[[TaskConfig], Task]:
    """A task from `make(seed, i)`; train and test have streams of their own, so neither's size moves the other."""

    def load(config: TaskConfig) -> Task:
        drawn: dict[str, Question] = {}

        def draw(stream: str, n: int) -> tuple[Question, ...]:
            before = len(drawn)
            for i in count():
                if len(drawn) == before + n:
                    break
                question = make(stream, i)
                drawn.setdefault(question.text, question)
            return tuple(drawn.values())[before:]

        test = draw(f"{config.seed}-test", config.test)
        return Task(config.name, answer_type, draw(f"{config.seed}", config.train), test, f"seed {config.seed}")

    return load


TASKS: dict[str, Callable[[TaskConfig], Task]] = {
    "word_problems": endless(word_problems.make_question, "number"),
    "coin_flip": endless(symbolic.make_coin_flip, "yes_no"),
    "last_letter": endless(symbolic.make_last_letter, "text"),
}

GYM = "reasoning_gym/"

# What a known answer must look like to be compared with what a model wrote.
FORMS = {
    "number": "one plain number, such as 12 or -3.5",
    "choice": "the letter of an option, such as B",
    "yes_no": "yes or no",
    "text": "one line without quotes around it or a stop at its end",
}


def load_task(config: TaskConfig) -> Task:
    """The task that `config` names, checked: see `check`."""
    places: Mapping[str, str] = {}
    if config.data is not None:
        train, test, places = files.load(config)
        # The config refuses a file without an answer type.
        task = Task(config.data.stem, str(config.answer_type), train, test, str(config.data))
    elif config.test_data is not None:
        raise ConfigError("task.test_data is set and task.data is not: set task.data to your training file.")
    elif config.name.startswith(GYM):
        answer_type, train, test, source = reasoning_gym.load(config.name.removeprefix(GYM), config)
        task = Task(config.name, answer_type, train, test, source)
    elif config.name in TASKS:
        task = TASKS[config.name](config)
    else:
        raise ConfigError(f"task.name: no task {config.name!r}{nearest(config.name, [*TASKS, GYM + 'NAME'])}")
    if config.answer_type not in (None, task.answer_type):
        raise ConfigError(f"task.answer_type: {task.name} has the answer type {task.answer_type}; leave it out.")
    check(task, places)
    return task


def check(task: Task, places: Mapping[str, str] | None = None) -> None:
    """Raise `DataError` unless both splits have questions, share none, and every answer can be scored.

    `places` says where a question id comes from, such as "my.csv, line 3".
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
    for question in task.test:
        if fold(question.text) in trained:
            raise DataError(
                f"{place(question)}: this test question is also a training question "
                f"({place(trained[fold(question.text)])}).\nRemove one of the two: a student would be tested "
                "on what it was taught."
            )
    for question in task.train + task.test:
        if not readable(task.answer_type, question):
            raise DataError(
                f"{place(question)}: the answer {shown(question.answer)} cannot be scored as {task.answer_type}: "
                f"it must be {FORMS[task.answer_type]}.\nChange the answer, or task.answer_type."
            )


def fold(text: str) -> str:
    """`text` with every run of white space as one space."""
    return " ".join(text.split())


def readable(answer_type: str, question: Question) -> bool:
    """Whether the known answer, written as it is, is read back as itself."""
    kind = TYPED[answer_type]
    candidates = kind.candidates(question.answer, question.choices)
    return any(kind.equal(candidate, question.answer) for candidate in candidates)


def shown(text: str) -> str:
    """`text` quoted, on one line and not too long for a message."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
