"""Reading an answer out of text, and comparing two answers. Pure functions, one table a rule.

    >>> number = TYPED["number"]
    >>> number.candidates(" 5 + 3 = 8 apples.", ())
    ['8']
    >>> number.equal("8.0", "8")
    True

`TYPED` reads each type as a careful person would; `PAPER` is the authors' evaluator to the letter
(https://github.com/itsnamgyu/reasoning-teacher, src/evaluation/evaluator.py, 116-149).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

# A minus after a digit, a letter or a bracket is a subtraction, as in "10-5"; "-$5" and ".5" are numbers.
NUMBER = re.compile(r"(?<![\w)])[-\u2212]?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\.)\.\d+)")
BRACKETED_LETTER = re.compile(r"\(([A-Z])\)")
LONE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
BEGINS_A_SENTENCE = re.compile(r"\s+(?!(?:is|and|or)\b)[a-z]")  # "A man", "I think"; not "A is right"
YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
TOLERANCE = Decimal("1e-6")


@dataclass(frozen=True)
class AnswerType:
    """How one type of answer is read and compared.

    `candidates(text, choices)` lists the answers that `text` holds, in order; `equal(a, b)` compares
    a candidate with a gold answer.
    """

    candidates: Callable[[str, Sequence[str]], list[str]]
    equal: Callable[[str, str], bool]


def number_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    """The numbers of the first line that has any; of an equation, those after its last "="."""
    for line in text.split("\n"):
        if numbers := NUMBER.findall(line):
            after_equals = NUMBER.findall(line.rpartition("=")[2])
            return [re.sub(r"[,$]", "", n).replace("\u2212", "-") for n in after_equals or numbers]
    return []


def number_equal(a: str, b: str) -> bool:
    """Equal within 1e-6, whatever the spelling: 8, 8.0, 1,000 and 1000."""
    try:
        return abs(Decimal(a.replace(",", "")) - Decimal(b.replace(",", ""))) <= TOLERANCE
    except ArithmeticError:  # not a number, or one of an exponent that nothing holds
        return False


def choice_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    """Letters within the options: in brackets where there are any, else standing alone, else by their text."""
    allowed = {chr(ord("A") + i) for i in range(len(choices) or 26)}
    bracketed = [letter for letter in BRACKETED_LETTER.findall(text) if letter in allowed]
    if bracketed:
        return bracketed
    # "A" and "I" begin sentences too: they count only where nothing but the letter is said before a stop.
    lone = [
        m[1]
        for m in LONE_LETTER.finditer(text)
        if m[1] in allowed and not (m[1] in "AI" and BEGINS_A_SENTENCE.match(text, m.end()))
    ]
    if lone:
        return lone
    found = []
    for i, choice in enumerate(choices):
        words = re.escape(choice.strip().casefold())
        if words and (match := re.search(rf"(?<!\w){words}(?!\w)", text.casefold())):
            found.append((match.start(), -match.end(), chr(ord("A") + i)))  # of two in one place, the longer
    return [letter for *_, letter in sorted(found)]


def yes_no_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    """Every yes and no, lower-case."""
    return [word.lower() for word in YES_NO.findall(text)]


def text_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    """The first line that says something, without quotes, a leading ":" or "is", and final stops."""
    for line in text.split("\n"):
        line = re.sub(r"^\s*(?:is\b)?\s*:?\s*", "", line)
        if line := line.strip(" \t\"'`*.,!").strip():
            return [line]
    return []


def folded_equal(a: str, b: str) -> bool:
    """Equal but for case, outer white space and runs of spaces."""
    return " ".join(a.split()).casefold() == " ".join(b.split()).casefold()


TYPED: dict[str, AnswerType] = {
    "number": AnswerType(number_candidates, number_equal),
    "choice": AnswerType(choice_candidates, folded_equal),
    "yes_no": AnswerType(yes_no_candidates, folded_equal),
    "text": AnswerType(text_candidates, folded_equal),
}


def paper_number_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    return re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))


def paper_choice_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    last = chr(ord("A") + (len(choices) or 5) - 1)
    return re.findall(f"[A-{last}]", text)


def paper_yes_no_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    words = re.sub(r"[\"'\n.\s:,]", " ", text.lower()).split(" ")
    return [word for word in words if word in ("yes", "no")]


def paper_text_candidates(text: str, choices: Sequence[str] = ()) -> list[str]:
    return [re.sub(r"[\"'\n.\s]", "", text)]


def exact_equal(a: str, b: str) -> bool:
    return a == b


PAPER: dict[str, AnswerType] = {
    "number": AnswerType(paper_number_candidates, number_equal),
    "choice": AnswerType(paper_choice_candidates, exact_equal),
    "yes_no": AnswerType(paper_yes_no_candidates, lambda a, b: a == b.lower()),
    "text": AnswerType(paper_text_candidates, exact_equal),
}

RULES = {"typed": TYPED, "paper": PAPER}
