"""What the servers of the tests answer, and which of their draws fails: always the same for the same request."""

from __future__ import annotations

import hashlib
import re


def share(*of: object) -> float:
    """A number in [0, 1) that is always the same for the same things."""
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:4]) / 2**32


def answer(prompt: str, seed: int, wrong_rate: float) -> str:
    if prompt.startswith("A student was asked"):
        return opinion(prompt.partition("<text>")[2].partition("</text>")[0])
    # The last question counts: those before it are exemplars.
    questions = list(re.finditer(r"What is (-?\d+) plus (-?\d+)\?", prompt))
    if not questions:
        return " ok."
    a, b = map(int, questions[-1].groups())
    reasoned = re.search(r"= (-?\d+)\.", prompt[questions[-1].end() :])
    if reasoned and prompt.rstrip().endswith("Therefore, the answer is"):
        return f" {reasoned[1]}."
    total = a + b + (share("wrong", prompt, seed) < wrong_rate)
    return f" {a} plus {b} is {a} + {b} = {total}."


def opinion(text: str) -> str:
    """What a judge says of a text: the kind that it begins with, in some form."""
    kind = text.split()[0] if text.split() else "none"
    return {"garbage": " I cannot say.", "aloud": " It is none.\nKind: **Other**."}.get(kind, f" Kind: {kind}")
