"""Methods beside each other: what is paired, what is left out, and the sentence that is drawn from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cotdistill.methods import methods
from cotdistill.records import Score
from cotdistill.results.compare import BySeed, Comparison, comparisons, rights, summaries, verdict
from cotdistill.stats import bootstrap_difference, holm, mcnemar, wilson


def answered(word: str) -> dict[str, bool]:
    """One letter a question: 1 right, 0 wrong, - no answer for an error."""
    return {f"q{i}": letter == "1" for i, letter in enumerate(word) if letter != "-"}


def test_errors_are_neither_right_nor_wrong() -> None:
    scores = [
        Score("a", 0, "5", "correct", True),
        Score("b", 0, None, "error", False),
        Score("c", 0, None, "truncated", True),
    ]
    assert rights(scores) == {"a": True, "c": False}


def test_one_seed_is_compared_on_the_questions_that_both_answered() -> None:
    found: BySeed = {
        ("fine_tune", 0): answered("1100000000--"),
        ("fine_tune_cot", 0): answered("1011111111-1"),
    }
    plain, cot = summaries(found)
    assert (plain.label, plain.method, plain.seeds, plain.n) == ("fine_tune", "fine_tune", 1, 10)
    assert (cot.mean, cot.spread, cot.n) == (10 / 11, None, 11)
    assert (cot.low, cot.high) == wilson(10, 11)
    (both,) = comparisons(found)
    assert (both.a, both.b, both.n) == ("fine_tune_cot", "fine_tune", 10)
    assert (both.a_only, both.b_only) == (8, 1)
    assert both.difference == pytest.approx(0.7)
    assert both.p == both.p_holm == mcnemar(8, 1)
    assert (both.low, both.high) == bootstrap_difference(np.array([0.0, -1] + [1.0] * 8))


def test_several_seeds_are_one_row_each() -> None:
    found: BySeed = {
        ("zero_shot", None): answered("00010000"),
        ("fine_tune", 0): answered("1100-110"),
        ("fine_tune", 1): answered("11010100"),
        ("fine_tune_cot", 0): answered("11111111"),
        ("fine_tune_cot", 1): answered("11111110"),
    }
    zero, plain, cot = summaries(found)
    assert (zero.seeds, zero.n, zero.spread) == (1, 8, None)
    assert (plain.seeds, plain.n) == (2, 7), "one question has no answer of one seed"
    assert plain.mean == pytest.approx(4 / 7)
    assert plain.spread == 0
    assert cot.spread == pytest.approx(0.125 / 2**0.5)
    table = comparisons(found)
    assert [(c.a, c.b, c.n) for c in table] == [
        ("fine_tune", "zero_shot", 7),
        ("fine_tune_cot", "zero_shot", 8),
        ("fine_tune_cot", "fine_tune", 7),
    ]
    assert table[1].a_only == pytest.approx(6.5)
    assert all(c.low <= c.difference <= c.high for c in table)
    assert [c.p_holm for c in table] == holm([c.p for c in table])


def test_the_same_students_are_paired_seed_by_seed() -> None:
    """Three students, of which each is far from the others, and each a little better by a vote."""
    rng = np.random.default_rng(0)
    once = [rng.random(300) < share for share in (0.3, 0.5, 0.7)]
    voted = [right | (rng.random(300) < 0.05) for right in once]

    def found(name: str) -> BySeed:
        both = {"fine_tune_cot": once, name: voted}
        return {
            (method, seed): {f"q{i}": bool(right) for i, right in enumerate(rights)}
            for method, seeds in both.items()
            for seed, rights in enumerate(seeds)
        }

    (paired,), (apart,) = comparisons(found("self_consistency")), comparisons(found("fine_tune"))
    assert paired.difference == pytest.approx(apart.difference)
    assert (paired.b_only, paired.a_only) == pytest.approx((0, 300 * paired.difference))
    assert paired.p < 0.05
    assert apart.p > 0.5


def test_what_has_no_question_in_common_is_not_compared() -> None:
    found: BySeed = {("zero_shot", None): {}, ("fine_tune", 0): {"a": True}, ("fine_tune_cot", 0): {"b": True}}
    assert comparisons(found) == ()
    zero, *_ = summaries(found)
    assert (zero.n, zero.mean, zero.low, zero.high) == (0, 0, 0, 1)
    assert comparisons({}) == ()
    assert summaries({}) == ()


def of(cot_only: int, plain_only: int, both: int, seeds: int = 1) -> BySeed:
    """100 questions."""
    rest = 100 - cot_only - plain_only - both
    cot = "1" * (cot_only + both) + "0" * (plain_only + rest)
    plain = "0" * cot_only + "1" * (both + plain_only) + "0" * rest
    return {(name, s): answered(w) for name, w in (("fine_tune", plain), ("fine_tune_cot", cot)) for s in range(seeds)}


VERDICTS = [
    (
        of(60, 0, 20),
        "Taught with rationales, the student reasons: 80% right (71% to 87%, n=100, one seed) against "
        "20% right (13% to 29%, n=100, one seed) when taught the answers alone (corrected p < 0.001).",
    ),
    (
        of(2, 62, 18),
        "Rationales did not help here: 20% right (13% to 29%, n=100, one seed) against "
        "80% right (71% to 87%, n=100, one seed) when taught the answers alone, which is better (corrected p < 0.001).",
    ),
    (
        of(4, 2, 48),
        "This run does not show that rationales help: 52% right (42% to 62%, n=100, one seed) against "
        "50% right (40% to 60%, n=100, one seed) when taught the answers alone (corrected p = 0.688).",
    ),
    # The intervals overlap, and yet: the same questions.
    (
        of(9, 0, 46),
        "Taught with rationales, the student reasons: 55% right (45% to 64%, n=100, one seed) against "
        "46% right (37% to 56%, n=100, one seed) when taught the answers alone (corrected p = 0.004).",
    ),
    # They do not overlap at the first seed alone.
    (
        {
            **of(20, 0, 40),
            ("fine_tune_cot", 1): answered("0" * 60 + "1" * 40),
            ("fine_tune", 1): answered("1" * 90 + "0" * 10),
        },
        "This run does not show that rationales help: 50% right",
    ),
]


@pytest.mark.parametrize(("found", "sentence"), VERDICTS)
def test_verdict(found: BySeed, sentence: str) -> None:
    assert verdict(summaries(found), comparisons(found)).startswith(sentence)


def test_the_verdict_counts_all_comparisons_and_either_order() -> None:
    found = of(9, 1, 46)
    compared = comparisons(found)
    assert compared[0].p < 0.05
    assert verdict(summaries(found), compared).startswith("Taught with")
    others = tuple(Comparison("a", "b", 10, 0, -1, 1, 0, 0, 0.9, 1.0) for _ in range(9))
    corrected = tuple(
        replace(c, p_holm=p) for c, p in zip((*others, *compared), holm([0.9] * 9 + [compared[0].p]), strict=True)
    )
    assert "does not show" in verdict(summaries(found), corrected)
    swapped = dict(reversed([*found.items()]))
    assert verdict(summaries(swapped), comparisons(swapped)) == verdict(summaries(found), compared)


def test_a_student_that_answers_first_does_not_reason() -> None:
    found = of(60, 0, 20)
    said = verdict(summaries(found), comparisons(found), methods(rationale="answer_first"))
    assert said.startswith("Taught with rationales, the student answers better:")


@pytest.mark.parametrize("names", [[], ["zero_shot"], ["fine_tune"], ["fine_tune_cot", "zero_shot"]])
def test_verdict_without_a_comparison(names: list[str]) -> None:
    found: BySeed = {(name, 0): {"q": True} for name in names}
    assert verdict(summaries(found), comparisons(found)) == "This run did not compare fine_tune_cot with fine_tune."
