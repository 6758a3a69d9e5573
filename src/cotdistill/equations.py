"""What a text computes: its equations, in one spelling; and what an expression comes to, exactly.

>>> equations("First 3 + 4 = 7.0, then 7 x $1,000 = $7000.")
('3+4=7', '7*1000=7000')
>>> value("$1,000 / 3 cats")
Fraction(1000, 3)
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

VALUE = r"[-(]{0,3}\$?[0-9][0-9,]{0,50}(?:\.[0-9]{1,50})?%?\){0,3}"
SIGN = r"(?:[-+*/x\u00d7\u00f7\u00b7\u2212\u2013^]|\\times|\\cdot|\\div)"
TERM = rf"{VALUE}(?:\s?[A-Za-z]{{1,20}})?"  # with what is counted, such as 3 apples
EQUATION = re.compile(rf"(?<![\w.]){TERM}(?:\s?{SIGN}\s?{TERM}){{1,20}}\s?=\s?{VALUE}")
# As EQUATION, but with all that is equal in a row, as in 3*8+5*8 = 24+40 = 64, and no part of anything longer:
# not of x * 3 + 4 = 7, 3 + 4 = 7x or 1/2 + 1 = 1 1/2.
CALCULATION = re.compile(
    rf"(?<![\w.])(?<!\S[-+*/^])(?<!\S [-+*/^\u00d7\u00f7\u00b7\u2212\u2013] )"
    rf"(?:{TERM}\s?(?:{SIGN}|=\s{{0,3}})\s?){{2,20}}{VALUE}"
    rf"(?![\w/^]|[.,:]\d| \d|\s?[-+*/=^\u00d7\u00f7\u00b7\u2212\u2013]\s?[\w($])"
)
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


def calculations(text: str) -> Iterator[str]:
    """The rows of equal expressions, as written; a bracket that belongs to the sentence is left out."""
    for match in CALCULATION.finditer(text):
        found = match[0].rstrip(",")
        opened = found.count("(") - found.count(")")
        if "=" in found:
            yield found.removeprefix("(") if opened > 0 else found.removesuffix(")") if opened < 0 else found


# What an expression comes to -----------------------------------------------------------------------

NUMBER = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,16}|[0-9]{1,51})(?:\.[0-9]{1,50})?")
PART = re.compile(rf"(?<![A-Za-z])x(?![A-Za-z])|(?!x){SIGN}|[0-9][0-9,]*(?:\.[0-9]+)?%?|[()]")
Number = int | Fraction
RANKS: dict[str, tuple[int, Callable[[Number, Number], Number]]] = {
    "+": (1, operator.add),
    "-": (1, operator.sub),
    "*": (2, operator.mul),
    "/": (2, lambda a, b: Fraction(a) / b),
    "^": (3, lambda a, b: _power(a, b)),
}
MOST_BITS = 4096  # of a power


def value(expression: str, percent: Number = Fraction(1, 100)) -> Number | None:
    """What an expression comes to, its units and $ left out; None where it cannot be told.

    `percent` is what a % stands for: 1 where it is a unit like others.
    """
    parts = [SIGNS.get(part, part) for part in PART.findall(expression)][::-1]
    try:
        result = _sum(parts, percent)
    except (ValueError, ZeroDivisionError, IndexError):
        return None
    return None if parts else result


def _sum(parts: list[str], percent: Number, rank: int = 1) -> Number:
    """Takes from `parts`, last first, what signs of `rank` or higher hold together."""
    left = _atom(parts, percent)
    while parts and parts[-1] in RANKS and RANKS[parts[-1]][0] >= rank:
        tighter, compute = RANKS[parts.pop()]
        left = compute(left, _sum(parts, percent, min(tighter + 1, 3)))  # 2^3^2 is 2^9
    return left


def _atom(parts: list[str], percent: Number) -> Number:
    part = parts.pop()
    if part == "-":
        return -_sum(parts, percent, 3)  # -2^2 is -4
    if part == "(":
        inner = _sum(parts, percent)
        if parts.pop() != ")":
            raise ValueError("a bracket is not closed")
        return inner
    if not NUMBER.fullmatch(part.removesuffix("%")):
        raise ValueError(f"no number: {part}")
    return number(part[:-1]) * percent if part.endswith("%") else number(part)


def number(figures: str) -> Number:
    """What NUMBER matches, exactly."""
    figures = figures.replace(",", "")
    return Fraction(figures) if "." in figures else int(figures)


def _power(base: Number, exponent: Number) -> Number:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent.numerator) * bits > MOST_BITS:
        raise ValueError("no power that we compute")
    return Fraction(base) ** exponent.numerator
