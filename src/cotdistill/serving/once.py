"""`cotdistill ask`: one question to a run's student, its rationale, and its answer as evaluation reads it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cotdistill import answers
from cotdistill.answers import AnswerType
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request
from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.evaluate import judge, split_answer
from cotdistill.progress import say
from cotdistill.records import FinishReason, Generation, Question
from cotdistill.reports.showing import visible
from cotdistill.serving.student import Student, find_student
from cotdistill.tasks import GYM, answer_type_of, load_task
from cotdistill.tasks.files import options_in

MOST_QUESTION = 100_000  # characters that are read from stdin: more than any student reads


@dataclass(frozen=True)
class Answer:
    """What a student wrote for a question, and what is read as its answer; None where nothing can be."""

    student: str
    question: str
    text: str
    rationale: str
    answer: str | None
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int


def ask_once(run: Path, question: str, label: str = "", as_json: bool = False) -> None:
    """Print a student's answer to a question, "-" for the one on stdin; what is to be minded goes to stderr."""
    if question == "-":
        question = sys.stdin.read(MOST_QUESTION)
    if not question.strip():
        raise ConfigError("ask: the question is empty.")
    student, question = find_student(run, label), question.strip()
    answer_type = answer_type_of_task(student.config.task)
    answer = read_answer(student, question, write(student, question), answer_type)
    if as_json:
        print(json.dumps(asdict(answer), indent=1))
    else:
        show(answer)
    for line in minded(answer, student.params.max_tokens):
        say(line)


def write(student: Student, question: str) -> Completion:
    """What a student writes, asked as in evaluation. Raises `DataError` where it cannot be, as where it is too long."""
    method, trust = student.method, student.config.student.trust_remote_code
    backend = TransformersBackend(str(student.folder), method.chat, trust_remote_code=trust)
    request = Request((method.prompt(Question("", question, "")),), student.params)
    ((_, _, written),) = backend.generate(iter([request]))
    if written.finish_reason == "error":
        raise DataError(f"the question cannot be asked: {written.error}.\nShorten it.")
    return written


def read_answer(student: Student, question: str, written: Completion, answer_type: AnswerType) -> Answer:
    """The rationale and the answer in what a student has written, read as in evaluation."""
    generation = Generation("", 0, written.text, None, written.finish_reason)
    rationale, step = split_answer(generation, student.method, answer_type)
    asked = Question("", question, "", options_in(question))
    read = judge(generation, step, asked, answer_type, {})[0]
    counts = written.prompt_tokens, written.completion_tokens
    return Answer(student.name, question, written.text, rationale, read, written.finish_reason, *counts)


def show(answer: Answer) -> None:
    """Print the rationale, and the answer if there is one, with nothing hidden in them."""
    print(visible(answer.rationale.strip() or answer.text.strip()))
    if answer.answer is not None:
        print(visible(f"\nanswer: {answer.answer}"))


def answer_type_of_task(task: TaskConfig) -> AnswerType:
    """How a run reads answers; its questions are not loaded where its config says enough."""
    if task.data is not None or task.answer_type is not None:
        return answers.answer_type(task.rule, str(task.answer_type))
    if task.name.startswith(GYM):  # it is guessed from them
        return answers.answer_type(task.rule, load_task(task).answer_type)
    return answers.answer_type(task.rule, *answer_type_of(task.name))


def minded(answer: Answer, max_tokens: int) -> list[str]:
    """What a reader of the answer must know."""
    notes = []
    if answer.finish_reason == "length":
        cut = answer.completion_tokens >= max_tokens
        why = f"it was cut at {max_tokens} tokens" if cut else "it went on repeating itself, and was ended"
        notes.append(f"ask: the text is not whole: {why}.")
    if answer.answer is None:
        notes.append("ask: no answer can be read in it, as evaluation reads them.")
    return notes
