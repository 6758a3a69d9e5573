"""Methods beside each other on the same questions, and each over its seeds.

    rights = {("fine_tune", 0): {"q1": True, ...}, ("fine_tune", 1): ..., ("zero_shot", None): ...}
    summaries(rights), comparisons(rights)

A question that a seed did not answer, for an error, is left out of what its method takes part in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from cotdistill.methods import METHODS, Method
from cotdistill.records import Score
from cotdistill.stats import ALPHA, bootstrap_difference, holm, mcnemar, seeds_difference, seeds_interval

if TYPE_CHECKING:
    from cotdistill.stats import Scores

Rights = Mapping[str, bool]  # by question
BySeed = Mapping[tuple[str, int | None], Rights]  # by method and seed, None where nothing was trained


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

    @property
    def shown(self) -> bool:
        """Whether there is a difference, after all comparisons are counted."""
        return self.p_holm < ALPHA


def rights(scores: Sequence[Score]) -> dict[str, bool]:
    """Which questions are right, of scores of one answer each; errors are left out."""
    return {score.question_id: score.correct for score in scores if score.category != "error"}


def summaries(found: BySeed) -> tuple[Summary, ...]:
    """Each method over its seeds, on the questions that every seed answered."""
    return tuple(_summary(method, [*seeds.values()]) for method, seeds in _by_method(found).items())


def _by_method(found: BySeed) -> dict[str, dict[int | None, Rights]]:
    methods: dict[str, dict[int | None, Rights]] = {}
    for (method, seed), answered in found.items():
        methods.setdefault(method, {})[seed] = answered
    return methods


def _common(seeds: Sequence[Rights]) -> list[str]:
    """The questions that all have answered, in their order."""
    return [question for question in seeds[0] if all(question in answered for answered in seeds)]


def _table(seeds: Sequence[Rights], questions: Sequence[str]) -> Scores:
    return np.array([[float(answered[question]) for question in questions] for answered in seeds])


def _summary(method: str, seeds: Sequence[Rights]) -> Summary:
    questions = _common(seeds)
    if not questions:
        return Summary(method, method, len(seeds), 0.0, None, 0.0, 1.0, 0)
    return Summary(method, method, len(seeds), *seeds_interval(_table(seeds, questions)), len(questions))


def comparisons(found: BySeed) -> tuple[Comparison, ...]:
    """Each method beside each one before it, corrected by Holm for all of them.

    One seed each: McNemar's exact test, and the bootstrap over questions. Several: a t-test that counts both
    questions and seeds. Two methods that answered no question in common are not compared.
    """
    rows = []
    for (b, of_b), (a, of_a) in combinations(_by_method(found).items(), 2):
        if questions := _common([*of_a.values(), *of_b.values()]):
            scores_a, scores_b = (_table([*seeds.values()], questions) for seeds in (of_a, of_b))
            same_students = _taught_as(a) == _taught_as(b) and [*of_a] == [*of_b]
            rows.append((a, b, len(questions), *_compared(scores_a, scores_b, same_students)))
    corrected = holm([row[-1] for row in rows])
    return tuple(Comparison(*row, p_holm) for row, p_holm in zip(rows, corrected, strict=True))


def _taught_as(method: str) -> str:
    return METHODS[method].taught_as if method in METHODS else method


def _compared(a: Scores, b: Scores, same_students: bool) -> tuple[float, float, float, float, float, float]:
    """Difference, its interval, how many questions each alone has right, and p."""
    if not same_students:
        a_only, b_only = (float((x.mean(0) * (1 - y.mean(0))).sum()) for x, y in ((a, b), (b, a)))
    else:  # seeds are paired too: what a student differs by from others is in both
        a_only, b_only = (float((x * (1 - y)).sum(1).mean()) for x, y in ((a, b), (b, a)))
    if len(a) == len(b) == 1:
        paired = (a - b)[0]
        low, high = bootstrap_difference(paired)
        return float(paired.mean()), low, high, a_only, b_only, mcnemar(round(a_only), round(b_only))
    if same_students:
        a, b = a - b, np.zeros_like(b[:1])
    difference, low, high, p = seeds_difference(a, b)
    return difference, low, high, a_only, b_only, p


def verdict(found: Sequence[Summary], compared: Sequence[Comparison], methods: Mapping[str, Method] = METHODS) -> str:
    """One plain sentence on whether learning from rationales beat learning from answers alone."""
    by_name = {summary.label: summary for summary in found}
    cot, plain = by_name.get("fine_tune_cot"), by_name.get("fine_tune")
    both = next((c for c in compared if {c.a, c.b} == {"fine_tune_cot", "fine_tune"}), None)
    if cot is None or plain is None or both is None:
        return "This run did not compare fine_tune_cot with fine_tune."
    better = both.difference if both.a == "fine_tune_cot" else -both.difference
    numbers = f"{_shown(cot)} against {_shown(plain)} when taught the answers alone"
    p = f"corrected p {'< 0.001' if both.p_holm < 0.001 else f'= {both.p_holm:.3f}'}"
    if not both.shown:
        return f"This run does not show that rationales help: {numbers} ({p})."
    if better > 0:
        does = "answers better" if methods["fine_tune_cot"].mark else "reasons"
        return f"Taught with rationales, the student {does}: {numbers} ({p})."
    return f"Rationales did not help here: {numbers}, which is better ({p})."


def _shown(summary: Summary) -> str:
    seeds = f", {summary.seeds} seeds" if summary.seeds > 1 else ", one seed"
    return f"{summary.mean:.0%} right ({summary.low:.0%} to {summary.high:.0%}, n={summary.n}{seeds})"
