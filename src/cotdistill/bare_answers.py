"""An answer step that is an answer and nothing else, read at once: 19 of 20 of a large teacher's are.

    >>> number(" 1,234.")
    '1234'
    >>> number(" 39 pieces.") is None
    True

`None` says that reading.py has to look. What is read here is what it reads, 20 to 60 times faster:
tests/test_bare_answers.py compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date as Date

HEAD = r"[\s:]{0,9}"
TAIL = r"\.?\s{0,9}(?:\n\s{0,9}I hope (?:this|that) help(?:s|ed)[.!]\s{0,9})?"
NUMBER = re.compile(rf"{HEAD}(-?)\$?((?:[0-9]{{1,3}}(?:,[0-9]{{3}}){{1,9}}|[0-9]{{1,50}})(?:\.[0-9]{{1,50}})?){TAIL}")
LETTER = re.compile(rf"{HEAD}(\(?)([A-Z])\)?{TAIL}")
YES_NO = re.compile(rf"{HEAD}(\"?)(yes|no)\1{TAIL}", re.IGNORECASE)
WORD = re.compile(rf"{HEAD}(\"?)(?!(?:is|END)\b)(\w{{1,50}})\1{TAIL}")
DATE = re.compile(rf"{HEAD}([0-9]{{1,2}})/([0-9]{{1,2}})/([0-9]{{4}}){TAIL}")


def none(text: str, choices: Sequence[str] = ()) -> str | None:
    """Nothing is read at once."""
    return None


def number(text: str, choices: Sequence[str] = ()) -> str | None:
    """The number, commas deleted."""
    match = NUMBER.fullmatch(text)
    return match and match[1] + match[2].replace(",", "")


def choice(text: str, choices: Sequence[str] = ()) -> str | None:
    """The letter of an option that there is."""
    match = LETTER.fullmatch(text)
    if match is None or ord(match[2]) - ord("A") >= (len(choices) or 26):
        return None
    if "(" in text or ")" in text:  # an option may read "(b)"
        return match[2] if not any("(" in option or ")" in option for option in choices) else None
    return match[2]


def yes_no(text: str, choices: Sequence[str] = ()) -> str | None:
    """The yes or no, in lower case."""
    match = YES_NO.fullmatch(text)
    return match and match[2].lower()


def text(text: str, choices: Sequence[str] = ()) -> str | None:
    """The one word, without quotes around it."""
    match = WORD.fullmatch(text)
    return match and match[2]


def date(text: str, choices: Sequence[str] = ()) -> str | None:
    """The day as YYYY-MM-DD, month first."""
    match = DATE.fullmatch(text)
    if match is None:
        return None
    month, day, year = int(match[1]), int(match[2]), int(match[3])
    month, day = (day, month) if month > 12 else (month, day)
    try:
        return Date(year, month, day).isoformat()
    except ValueError:
        return None
