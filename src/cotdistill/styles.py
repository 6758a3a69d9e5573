"""A rationale in fewer words, none of them ours: what the student style `short` writes.

>>> short(Question("1", "Jo has 3 figs and buys 4. How many?", "7"), "Jo has 3 figs. So she has 3 + 4 = 7 figs.")
'3 + 4 = 7.'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from cotdistill.equations import SIGN, TERM, VALUE, plain
from cotdistill.reading import SENTENCE_END
from cotdistill.records import Question

# As EQUATION, but with all that is equal in a row, as in 3*8+5*8 = 24+40 = 64, and no part of anything longer:
# not of x * 3 + 4 = 7, 3 + 4 = 7x or 1/2 + 1 = 1 1/2.
_CALCULATION = re.compile(
    rf"(?<![\w.])(?<!\S[-+*/^])(?<!\S [-+*/^\u00d7\u00f7\u00b7\u2212\u2013] )"
    rf"(?:{TERM}\s?(?:{SIGN}|=\s{{0,3}})\s?){{2,20}}{VALUE}"
    rf"(?![\w/^]|[.,:]\d| \d|\s?[-+*/=^\u00d7\u00f7\u00b7\u2212\u2013]\s?[\w($])"
)


def short(question: Question, rationale: str) -> str:
    """The calculations alone where one comes to the answer, else all but what stands in the question already."""
    if re.fullmatch(VALUE, answer := question.answer.strip()):
        found = {plain(text): text for text in _calculations(rationale)}
        if any(result.strip("()") == plain(answer) for one in found for result in one.split("=")[1:]):
            return " ".join(f"{text}." for text in found.values())
    asked = f" {_words(question.text)} "
    *before, last = _sentences(rationale.strip())
    return "".join([s for s in before if f" {_words(s)} " not in asked] + [last])


def _calculations(text: str) -> Iterator[str]:
    for match in _CALCULATION.finditer(text):
        found = " ".join(match[0].split()).rstrip(",")
        opened = found.count("(") - found.count(")")
        if "=" in found:
            yield found.removeprefix("(") if opened > 0 else found.removesuffix(")") if opened < 0 else found


def _sentences(text: str) -> list[str]:
    """With the white space that follows each."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]


def _words(text: str) -> str:
    return " ".join(re.findall(r"-?\w+", text.lower()))
