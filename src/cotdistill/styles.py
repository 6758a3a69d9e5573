"""A rationale in fewer words, none of them ours: what the student style `short` writes.

>>> short(Question("1", "Jo has 3 figs and buys 4. How many?", "7"), "Jo has 3 figs. So she has 3 + 4 = 7 figs.")
'3 + 4 = 7.'
"""

from __future__ import annotations

import re
from itertools import pairwise

from cotdistill.equations import VALUE, calculations, plain
from cotdistill.reading import SENTENCE_END
from cotdistill.records import Question


def short(question: Question, rationale: str) -> str:
    """The calculations alone where one comes to the answer, else all but what stands in the question already."""
    if re.fullmatch(VALUE, answer := question.answer.strip()):
        found = {plain(text): " ".join(text.split()) for text in calculations(rationale)}
        if any(result.strip("()") == plain(answer) for one in found for result in one.split("=")[1:]):
            return " ".join(f"{text}." for text in found.values())
    asked = f" {_words(question.text)} "
    *before, last = _sentences(rationale.strip())
    return "".join([s for s in before if f" {_words(s)} " not in asked] + [last])


def _sentences(text: str) -> list[str]:
    """With the white space that follows each."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]


def _words(text: str) -> str:
    return " ".join(re.findall(r"-?\w+", text.lower()))
