"""Methods beside each other on the same questions, and each over its seeds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A method over its seeds: the mean accuracy, its spread (standard deviation between seeds, none for one),
    and the 95% interval of both questions and seeds; fractions. `n` is how many questions, `label` what to call it."""

    label: str
    method: str
    seeds: int
    mean: float
    spread: float | None
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Method `a` beside `b` on the `n` questions that both answered.

    `difference` is a's mean accuracy less b's, with its 95% interval, as fractions; `a_only` and `b_only` count the
    questions that one alone has right (means over seeds, where there are several). `p` is for no difference, and
    `p_holm` is corrected for all comparisons of the table.
    """

    a: str
    b: str
    n: int
    difference: float
    low: float
    high: float
    a_only: float
    b_only: float
    p: float
    p_holm: float
