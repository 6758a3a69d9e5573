"""Intervals and tests: worked cases of others, scipy's own results, and how often the intervals hold the truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from cotdistill import stats
from cotdistill.stats import (
    bootstrap_difference,
    holm,
    mcnemar,
    mcnemar_power,
    mean_interval,
    pass_at_k,
    seeds_difference,
    seeds_interval,
    share_interval,
    smallest_difference,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (1, 10), (320, 350), (0, 1), (75, 150), (1, 1)])
def test_wilson_is_scipys(right: int, n: int) -> None:
    expected = binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_known_values() -> None:
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 0) == (0.0, 1.0)


def test_clusters_count_as_one_each_where_their_values_are_alike() -> None:
    alone = [[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]
    eight = [group * 8 for group in alone]
    assert share_interval(alone)[1:] == wilson(4, 6)
    # Six values that vary as their clusters: 5 degrees of freedom, so wider than six answers.
    low, high = share_interval(eight)[1:]
    assert low < wilson(4, 6)[0] < wilson(4, 6)[1] < high
    mean, least, most = mean_interval(eight)
    assert mean == pytest.approx(2 / 3)
    half = 2.570582 * math.sqrt(sum((g[0] - 2 / 3) ** 2 for g in alone) / 5 / 6)  # t of 5, by hand
    assert (least, most) == pytest.approx((2 / 3 - half, 2 / 3 + half), abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_is_never_of_no_width(value: float) -> None:
    same = np.full((3, 6), value)
    for low, high in (
        share_interval([[value] * 8] * 6)[1:],
        seeds_interval(same)[2:],
        bootstrap_difference(np.zeros(6)),
        seeds_difference(same, same[:1])[1:3],
    ):
        assert high - low > 0.2
    assert seeds_difference(same, same[:1])[3] == pytest.approx(1)
    assert share_interval([[value] * 8])[1:] == (0, 1), "one question says nothing of others"
    assert seeds_interval(same[:, :1])[2:] == (0, 1)


@pytest.mark.parametrize(
    ("a", "b", "p"),
    [
        (9, 1, 22 / 1024),
        (1, 9, 22 / 1024),
        (6, 0, 2 / 64),
        (10, 4, 2 * (1 + 14 + 91 + 364 + 1001) / 2**14),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (150, 86, 3.716e-05),  # approval of a prime minister, Agresti; by R's exact2x2
    ],
)
def test_mcnemar(a: int, b: int, p: float) -> None:
    assert mcnemar(a, b) == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # R's p.adjust(p, "holm")
        ([0.05, 0.01, 0.04, 0.02, 0.03], [0.09, 0.05, 0.09, 0.08, 0.09]),
        ([0.01, 0.01], [0.02, 0.02]),
        ([0.9, 0.4, 0.001], [0.9, 0.8, 0.003]),
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm(ps: list[float], corrected: list[float]) -> None:
    assert holm(ps) == pytest.approx(corrected)


def test_the_bootstrap_is_scipys_with_a_question_for_each_side() -> None:
    differences = np.array([1.0] * 24 + [-1.0] * 9 + [0.0] * 67)
    with_two = np.append(differences, [1.0, -1.0])
    expected = bootstrap((with_two,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    low, high = bootstrap_difference(differences)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.012)
    assert (low, high) == bootstrap_difference(differences), "the same each time"
    assert bootstrap_difference(np.ones(5))[1] == 1
    assert bootstrap_difference(np.ones(5))[0] < 0.5, "five questions are few"


def test_seeds_by_hand() -> None:
    scores = np.array([[1.0, 1, 0, 1], [1, 0, 0, 1]])
    mean, spread, _, _ = seeds_interval(scores)
    assert (mean, spread) == pytest.approx((0.625, math.sqrt(0.03125)))
    # Mean squares: questions 0.6875 * 2 / 3, seeds 0.125, both 0.125: the seeds differ by no more than by chance.
    assert stats._of_questions(scores.mean(0))[0] == pytest.approx(0.6875 / 3 / 4)
    assert stats._of_seeds(scores) == (0.0, [])
    apart = np.array([[1.0, 1, 1, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 0, 0]])
    added, ((between, seeds), (chance, rest)) = stats._of_seeds(apart)
    assert (between, seeds, rest) == (0.75**2 / 2 / 2, 1, 7)
    # What question and seed do not explain: 0.125 in six questions and 0.375 in two, of each seed.
    assert chance == pytest.approx((12 * 0.125**2 + 4 * 0.375**2) / 7 / 16)
    assert added == between - chance
    wide, narrow = seeds_interval(apart), seeds_interval(np.vstack([apart[0]] * 2))
    assert wide[3] - wide[2] > 1.5 * (narrow[3] - narrow[2])


def test_seeds_that_differ_make_it_less_sure() -> None:
    rng = np.random.default_rng(0)
    alike = (rng.random((4, 200)) < 0.6).astype(float)
    apart = np.array([(rng.random(200) < share).astype(float) for share in (0.4, 0.5, 0.7, 0.8)])
    widths = [high - low for _, _, low, high in map(seeds_interval, (alike, apart))]
    assert widths[0] < 0.1 < 0.4 < widths[1]
    one = seeds_interval(alike[:1])
    assert one == (one[0], None, *wilson(float(alike[0].sum()), 200))
    better = np.minimum(alike + (rng.random((4, 200)) < 0.3), 1)
    assert seeds_difference(better, alike)[3] < 1e-6
    difference, low, high, p = seeds_difference(alike, apart)
    assert low < 0 < high
    assert p > 0.3
    assert seeds_difference(apart, alike) == pytest.approx((-difference, -high, -low, p))


def exact_power(n: int, a: float, b: float, alpha: float) -> float:
    """Over all that can come of n questions, where a is right alone on a share and b on another."""
    outcomes = ((i, j) for i in range(n + 1) for j in range(n + 1 - i) if i > j and mcnemar(i, j) <= alpha)
    return sum(math.comb(n, i) * math.comb(n - i, j) * a**i * b**j * (1 - a - b) ** (n - i - j) for i, j in outcomes)


def test_power_is_the_sum_over_all_outcomes() -> None:
    assert mcnemar_power(12, 0.6, 0.5) == pytest.approx(exact_power(12, 0.55, 0.05, 0.05), abs=1e-9)
    assert mcnemar_power(15, 0.4, 0.24, alpha=0.1) == pytest.approx(exact_power(15, 0.32, 0.08, 0.1), abs=1e-9)
    assert mcnemar_power(5, 0.5, 0.5) == 0, "no five questions are significant"


@pytest.mark.slow
@pytest.mark.parametrize(("n", "differing"), [(100, 0.3), (150, 0.1), (1319, 0.5)])
def test_the_smallest_difference_is_shown_8_times_in_10(n: int, differing: float) -> None:
    smallest = smallest_difference(n, differing)
    assert smallest is not None
    rng = np.random.default_rng(0)
    shares = [(differing + smallest) / 2, (differing - smallest) / 2, 1 - differing]
    found = [mcnemar(a, b) <= 0.05 and a > b for a, b, _ in rng.multinomial(n, shares, size=1000).tolist()]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_the_smallest_difference_of_few_questions() -> None:
    assert [smallest_difference(n, 0.3) for n in (0, 1, 6, 20)] == [None] * 4
    found = [smallest_difference(n, 0.3) or 1 for n in (50, 100, 1000, 10_000)]
    assert found == sorted(found, reverse=True)


def test_pass_at_k_is_the_share_of_choices_with_a_right_one() -> None:
    for n, right in itertools.product(range(1, 8), range(8)):
        samples = [i < right for i in range(n)]
        for k in range(1, n + 1):
            choices = [any(chosen) for chosen in itertools.combinations(samples, k)]
            assert pass_at_k(n, min(right, n), k) == pytest.approx(sum(choices) / len(choices))
    assert pass_at_k(200, 3, 10) == pytest.approx(1 - np.prod(1 - 10 / np.arange(198, 201)))  # Chen et al., figure 3
    with pytest.raises(ValueError, match="pass@5 needs at least 5 samples, and there are 4"):
        pass_at_k(4, 1, 5)


def covers(draw: Callable[[np.random.Generator], tuple[float, float]], truth: float, times: int) -> float:
    """How often an interval holds the truth."""
    rng = np.random.default_rng(0)
    found = [draw(rng) for _ in range(times)]
    return float(np.mean([low <= truth <= high for low, high in found]))


def logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def answers(rng: np.random.Generator, seeds: int, easy: np.ndarray, apart: float) -> np.ndarray:
    """Right or wrong (seeds, questions): questions are easy or hard, students differ."""
    students = apart * rng.normal(size=(seeds, 1))
    return (rng.random((seeds, len(easy))) < logistic(easy + students)).astype(float)


def truth_of(mean: float, spread: float) -> float:
    return float(logistic(mean + spread * np.random.default_rng(1).normal(size=2_000_000)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("n", "share"), [(20, 0.3), (50, 0.1), (150, 0.5), (500, 0.9)])
def test_wilson_covers(n: int, share: float) -> None:
    assert 0.93 <= covers(lambda rng: wilson(rng.binomial(n, share), n), share, 4000) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("questions", "samples", "a", "b"), [(50, 8, 1, 1), (50, 8, 0.3, 0.7), (150, 8, 0.2, 1.8)])
def test_clustered_covers(questions: int, samples: int, a: float, b: float) -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        easy = np.repeat(rng.beta(a, b, questions)[:, None], samples, 1)
        return share_interval(rng.binomial(1, easy).tolist())[1:]

    assert 0.93 <= covers(draw, a / (a + b), 1000) <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "questions", "apart"), [(3, 100, 0.0), (3, 100, 0.3), (3, 1000, 0.2), (5, 150, 0.3), (2, 100, 0.3)]
)
def test_the_interval_of_seeds_and_questions_covers(seeds: int, questions: int, apart: float) -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        return seeds_interval(answers(rng, seeds, 1.5 * rng.normal(size=questions), apart))[2:]

    # Two or three seeds say little of how much seeds differ: 92 times in 100 where that is most of it.
    assert 0.91 <= covers(draw, truth_of(0, math.hypot(1.5, apart)), 2000) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("n", "a", "b"), [(20, 0.1, 0.1), (50, 0.2, 0.1), (50, 0.05, 0.02), (300, 0.1, 0.3)])
def test_the_paired_bootstrap_covers(n: int, a: float, b: float) -> None:
    def draw(rng: np.random.Generator) -> tuple[float, float]:
        return bootstrap_difference(rng.choice([1.0, -1.0, 0.0], size=n, p=[a, b, 1 - a - b]))

    # More than 95 where few questions differ, for the two that are added.
    assert 0.93 <= covers(draw, a - b, 800) <= 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("seeds_a", "seeds_b", "apart"), [(3, 3, 0.3), (3, 1, 0.3), (3, 3, 0.0), (2, 2, 0.3)])
@pytest.mark.parametrize("better", [0.0, 0.7])
def test_the_difference_over_seeds_covers_and_finds_nothing_where_nothing_is(
    seeds_a: int, seeds_b: int, apart: float, better: float
) -> None:
    found: list[float] = []

    def draw(rng: np.random.Generator) -> tuple[float, float]:
        easy = 1.5 * rng.normal(size=100)
        a = answers(rng, seeds_a, easy + better, apart)
        b = answers(rng, seeds_b, easy, apart if seeds_b > 1 else 0.0)
        _, low, high, p = seeds_difference(a, b)
        found.append(p)
        return low, high

    spreads = math.hypot(1.5, apart), math.hypot(1.5, apart if seeds_b > 1 else 0.0)
    assert 0.93 <= covers(draw, truth_of(better, spreads[0]) - truth_of(0, spreads[1]), 1500) <= 0.99
    if not better:
        assert np.mean(np.array(found) < 0.05) <= 0.065
