"""Reading an answer out of text, and comparing two answers: one table a rule, one row a type.

    >>> number = TYPED["number"]
    >>> number.candidates(" 5 + 3 = 8 apples.", ())
    ['8']
    >>> number.equal("8.0", "8")
    True

`TYPED` reads each type as a careful person would (reading.py, readers.py); `PAPER` is the authors' evaluator to the
letter (https://github.com/itsnamgyu/reasoning-teacher, src/evaluation/evaluator.py, 83-149).
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from cotdistill import bare_answers, math_answers, readers, reading
from cotdistill.readers import folded_equal, number_equal

MOST_TEXT = 20_000  # characters: more is no answer to a question
MOST_DIGITS = 100
SHORT = 80


@dataclass(frozen=True)
class AnswerType:
    """How one type of answer is read and compared.

    `candidates(text, choices)` lists the answers that an answer step holds: the first is the answer.
    `find(text, choices)` is the answer of a text that does not mark it. `equal(a, b)` compares an
    answer with the known one. The answer follows the first of a method's cues, or the last.
    `unfinished` is put at the end of a text that was cut, for `candidates` and `find` to mind; "" where nobody does.
    """

    candidates: Callable[[str, Sequence[str]], list[str]]
    equal: Callable[[str, str], bool]
    find: Callable[[str, Sequence[str]], str | None]
    first_cue: bool = False
    unfinished: str = ""


def _typed(read: reading.Read, equal: Callable[[str, str], bool], bare: reading.Read = bare_answers.none) -> AnswerType:
    return AnswerType(
        partial(_candidates, bare, read, equal), equal, partial(reading.find, read), unfinished=reading.UNFINISHED
    )


def _candidates(
    bare: reading.Read,
    read: reading.Read,
    equal: Callable[[str, str], bool],
    text: str,
    choices: Sequence[str] = (),
) -> list[str]:
    if (answer := bare(text, choices)) is not None:
        return [answer]
    if len(text) <= SHORT:
        return [*_short(read, equal, text, tuple(choices))]
    return reading.candidates(read, equal, text, choices)


@lru_cache(4096)  # many questions are answered by the same few words, such as " most likely no."
def _short(read: reading.Read, equal: Callable[[str, str], bool], text: str, choices: tuple[str, ...]) -> Sequence[str]:
    return reading.candidates(read, equal, text, choices)


_NUMBER = _typed(readers.read_number, number_equal, bare_answers.number)

TYPED: dict[str, AnswerType] = {
    "number": _NUMBER,
    "integer": _NUMBER,  # 39.0 is 39
    "choice": _typed(readers.read_choice, folded_equal, bare_answers.choice),
    "yes_no": _typed(readers.read_yes_no, folded_equal, bare_answers.yes_no),
    "text": _typed(readers.read_text, readers.text_equal, bare_answers.text),
    "date": _typed(readers.read_date, readers.date_equal, bare_answers.date),
    "math": _typed(math_answers.read_math, math_answers.math_equal),
}


def paper_number(text: str, choices: Sequence[str] = ()) -> list[str]:
    return [n for n in re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", "")) if len(n) <= MOST_DIGITS]


def paper_choice(text: str, choices: Sequence[str] = (), options: int = 0) -> list[str]:
    last = chr(ord("A") + (options or len(choices) or 5) - 1)
    return re.findall(f"[A-{last}]", text)


def paper_yes_no(text: str, choices: Sequence[str] = ()) -> list[str]:
    words = re.sub(r"[\"'\n.\s:,]", " ", text.lower()).split(" ")
    return [word for word in words if word in ("yes", "no")]


def paper_text(text: str, choices: Sequence[str] = ()) -> list[str]:
    whole = re.sub(r"[\"'\n.\s]", "", text) if len(text) <= MOST_TEXT else ""
    return [whole] if whole else []


def _paper(candidates: Callable[[str, Sequence[str]], list[str]], equal: Callable[[str, str], bool]) -> AnswerType:
    return AnswerType(candidates, equal, partial(_last, candidates), first_cue=True)


def _last(candidates: Callable[[str, Sequence[str]], list[str]], text: str, choices: Sequence[str] = ()) -> str | None:
    return next(reversed(candidates(text, choices)), None)


def float_equal(a: str, b: str) -> bool:
    try:
        return abs(float(a) - float(b.replace(",", ""))) <= 1e-6
    except ValueError:
        return False


def without_commas_equal(a: str, b: str) -> bool:
    return a == b.replace(",", "")


def lower_equal(a: str, b: str) -> bool:
    return a == b.lower()


_PAPER_TEXT = _paper(paper_text, operator.eq)

PAPER: dict[str, AnswerType] = {
    "number": _paper(paper_number, float_equal),
    "integer": _paper(paper_number, without_commas_equal),
    "choice": _paper(paper_choice, operator.eq),
    "yes_no": _paper(paper_yes_no, lower_equal),
    "text": _PAPER_TEXT,
    "date": _PAPER_TEXT,  # the authors have neither dates nor formulas
    "math": _PAPER_TEXT,
}

RULES = {"typed": TYPED, "paper": PAPER}


def answer_type(rule: str, kind: str, options: int = 0) -> AnswerType:
    """The row of RULES, for a task whose questions have up to `options` options.

    The authors look for the letters of a task's longest list in each of its questions: F in a Date of five options.
    """
    if (rule, kind) == ("paper", "choice") and options:
        return _paper(partial(paper_choice, options=options), PAPER["choice"].equal)
    return RULES[rule][kind]
