"""What a text computes: its equations, in one spelling.

>>> equations("First 3 + 4 = 7.0, then 7 x $1,000 = $7000.")
('3+4=7', '7*1000=7000')
"""

from __future__ import annotations

import re

VALUE = r"[-(]{0,3}\$?[0-9][0-9,]{0,50}(?:\.[0-9]{1,50})?%?\){0,3}"
SIGN = r"(?:[-+*/x\u00d7\u00f7\u00b7\u2212\u2013^]|\\times|\\cdot|\\div)"
TERM = rf"{VALUE}(?:\s?[A-Za-z]{{1,20}})?"  # with what is counted, such as 3 apples
EQUATION = re.compile(rf"(?<![\w.]){TERM}(?:\s?{SIGN}\s?{TERM}){{1,20}}\s?=\s?{VALUE}")
TOKEN = re.compile(rf"[0-9][0-9,]*(?:\.[0-9]+)?|[()=]|{SIGN}(?![A-Za-z])")
SIGNS = dict.fromkeys(("x", "\u00d7", "\u00b7", "\\times", "\\cdot"), "*")
SIGNS |= dict.fromkeys(("\u00f7", "\\div"), "/") | dict.fromkeys(("\u2212", "\u2013"), "-")


def equations(text: str) -> tuple[str, ...]:
    """The equations that a text computes, in their order: signs and numbers in one spelling, no units."""
    return tuple(map(plain, EQUATION.findall(text)))


def plain(text: str) -> str:
    """The numbers and signs of a text, in one spelling."""
    return "".join(map(_token, TOKEN.findall(text)))


def _token(token: str) -> str:
    if not token[0].isdigit():
        return SIGNS.get(token, token)
    token = token.replace(",", "")
    return token.rstrip("0").rstrip(".") if "." in token else token
