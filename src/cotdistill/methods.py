"""The rows of the paper's table: how each method asks, and what a student learns to write.

    >>> METHODS["zero_shot_cot"].prompt(question)
    "Q: How many ...?\\nA: Let's think step by step."
    >>> METHODS["fine_tune_cot"].completion(" 2 + 3 = 5.", "5")
    ' 2 + 3 = 5. --> 5 END'

Prompts are those of the paper (sections 3 and 4; delimiters as in its figure 2 and in
https://github.com/itsnamgyu/reasoning-teacher, src/data/format.py). A white space more or less
changes results, so they are spelled out here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cotdistill.records import Question

CUE = "-->"
END = "END"


@dataclass(frozen=True)
class Method:
    """One way to ask for an answer.

    `prompt` makes the first prompt; `answer_cue`, where there is one, asks for the answer after the
    raw text that followed. `completion(rationale, answer)` is what a student is trained to write, `None` where
    the model is used as it is. Where there is a `cue` the answer stands after it. `max_tokens` and
    `answer_tokens` limit the two completions, in tokens.
    """

    name: str
    prompt: Callable[[Question], str]
    max_tokens: int
    answer_cue: str | None = None
    answer_tokens: int = 0
    completion: Callable[[str, str], str] | None = None
    learns_rationale: bool = False
    cue: str | None = None
    stop: tuple[str, ...] = ()

    @property
    def trained(self) -> bool:
        return self.completion is not None


def question_answer(question: Question) -> str:
    return f"Q: {question.text.strip()}\n\nA:"


def step_by_step(question: Question) -> str:
    return f"Q: {question.text.strip()}\nA: Let's think step by step."


def question_hashes(question: Question) -> str:
    return f"{question.text.strip()} ###"


def answer_only(_rationale: str, answer: str) -> str:
    return f" {answer.strip()} {END}"


def rationale_and_answer(rationale: str, answer: str) -> str:
    return f" {rationale.strip()} {CUE} {answer.strip()} {END}"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("zero_shot", question_answer, max_tokens=32),
        Method(
            "zero_shot_cot",
            step_by_step,
            max_tokens=128,
            answer_cue="\nTherefore, the answer is",
            answer_tokens=32,
        ),
        Method("fine_tune", question_hashes, max_tokens=32, completion=answer_only, stop=(f" {END}",)),
        Method(
            "fine_tune_cot",
            question_hashes,
            max_tokens=256,
            completion=rationale_and_answer,
            learns_rationale=True,
            cue=CUE,
            stop=(f" {END}",),
        ),
    )
}
