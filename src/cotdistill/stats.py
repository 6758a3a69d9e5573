"""Intervals and tests, from scipy where it has them; each names its source, and tests hold them to worked cases.

Accuracies are fractions, intervals 95%, p-values two-sided. docs/statistics.md says when each is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]  # (seeds, questions), each 0 to 1

ALPHA = 0.05
POWER = 0.8
Z = 1.959963984540054  # the normal's 0.975 quantile
RESAMPLES = 10_000
ROUNDING = 1e-12


def wilson(right: float, n: float, z: float = Z) -> tuple[float, float]:
    """The 95% Wilson interval of `right` out of `n`, as fractions; (0, 1) where n is 0.

    Source: Wilson 1927, https://doi.org/10.2307/2276774. The closed formula, as scipy's takes whole numbers alone:
    an effective sample size is none.
    """
    if n == 0:
        return 0.0, 1.0
    share = right / n
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + side) / (1 + z * z / n) for side in (-half, half))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def mean_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean over all values, and its 95% interval where values of one group are alike.

    Cluster-robust variance of a ratio, Student's t with groups - 1 degrees of freedom (Cochran 1977,
    Sampling Techniques, chapter 9); endless bounds where there is one group.
    """
    mean, variance = _clustered(groups)
    spread = math.sqrt(variance) * student_t(len(groups) - 1) if len(groups) > 1 else math.inf
    return mean, mean - spread, mean + spread


def share_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """As `mean_interval`, of values from 0 to 1: an interval that stays in there, and is never of no width.

    Wilson's, with the number of independent values that would vary as much (Korn & Graubard 1998, Survey
    Methodology 24, 193-201; Dean & Pagano 2015, https://doi.org/10.1093/jssam/smv024); as `wilson` where each group
    is one yes or no. (0, 1) for one group of several.
    """
    mean, variance = _clustered(groups)
    if all(len(group) == 1 and group[0] in (0, 1) for group in groups):
        return mean, *wilson(sum(map(sum, groups)), len(groups))
    return mean, *_share(mean, variance, len(groups) - 1, len(groups), sum(map(len, groups)))


def _clustered(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The mean over all values, and the variance of that mean where those of one group are alike."""
    n, count = sum(map(len, groups)), len(groups)
    mean = sum(map(sum, groups)) / n
    residuals = (sum(group) - mean * len(group) for group in groups)
    return mean, count / (count - 1) * sum(r * r for r in residuals) / n**2 if count > 1 else math.inf


def _share(mean: float, variance: float, freedom: float, groups: int, values: int) -> tuple[float, float]:
    """The interval of a share whose variance is known with so many degrees of freedom."""
    if groups < 2:
        return 0.0, 1.0
    most = mean * (1 - mean)
    # All alike: as many as groups, for the values of one group may say the same.
    effective = min(most / variance, values) if variance > ROUNDING and most > ROUNDING else groups
    return wilson(mean * effective, effective, student_t(freedom))


def student_t(freedom: float) -> float:
    """The 0.975 quantile of Student's t."""
    from scipy.special import stdtrit  # scipy.stats takes 0.8 s to import

    return float(stdtrit(freedom, 1 - ALPHA / 2))


def seeds_interval(scores: Scores) -> tuple[float, float | None, float, float]:
    """The mean of `scores` (seeds, questions), its spread between seeds, and its interval: (mean, spread, low, high).

    Questions and seeds are both drawn: the interval is for other questions and another student of the same recipe.
    A crossed random-effects analysis of variance: the variance of the mean is what the questions' means vary by, and
    what the seeds' means vary by beyond what the questions explain, with Satterthwaite's degrees of freedom (Searle,
    Casella & McCulloch 1992, Variance Components, chapter 4; Satterthwaite 1946, https://doi.org/10.2307/3002019);
    then as `share_interval`. One seed: the interval is of the questions alone, by Wilson, and there is no spread.
    """
    seeds, questions = scores.shape
    mean = float(scores.mean())
    if seeds == 1:
        return mean, None, *wilson(float(scores.sum()), questions)
    spread = float(scores.mean(1).std(ddof=1))
    if questions == 1:
        return mean, spread, 0.0, 1.0
    variance, freedom = _satterthwaite([_of_questions(scores.mean(0)), _of_seeds(scores)])
    return mean, spread, *_share(mean, variance, freedom, questions, seeds * questions)


Component = tuple[float, list[tuple[float, float]]]  # a variance; the mean squares in it, with their degrees of freedom


def _of_questions(means: NDArray[np.float64]) -> Component:
    variance = float(means.var(ddof=1)) / len(means)
    return variance, [(variance, len(means) - 1)]


def _of_seeds(scores: Scores) -> Component:
    """What the seeds add: how their means vary beyond what chance on so many questions would make them."""
    seeds, questions = scores.shape
    if seeds == 1 or questions == 1:
        return 0.0, []
    between = float(scores.mean(1).var(ddof=1)) / seeds
    rest = scores - scores.mean(0) - scores.mean(1, keepdims=True) + scores.mean()
    chance = float((rest**2).sum()) / ((seeds - 1) * (questions - 1)) / (seeds * questions)
    if between <= chance:
        return 0.0, []
    return between - chance, [(between, seeds - 1), (chance, (seeds - 1) * (questions - 1))]


def _satterthwaite(components: Sequence[Component]) -> tuple[float, float]:
    """The sum of variances, and its degrees of freedom."""
    variance = sum(value for value, _ in components)
    doubt = sum(square**2 / freedom for _, squares in components for square, freedom in squares)
    return variance, variance**2 / doubt if doubt else math.inf


def mcnemar(a_only: int, b_only: int) -> float:
    """The p-value of no difference, where one alone is right on so many questions: exact, both tails.

    Source: McNemar 1947, https://doi.org/10.1007/BF02295996; the binomial test of the questions on which they differ.
    """
    from scipy.stats import binomtest

    return float(binomtest(a_only, a_only + b_only).pvalue) if a_only + b_only else 1.0


def bootstrap_difference(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 95% percentile bootstrap of a mean of paired differences, each from -1 to 1, over questions.

    Two questions more are drawn from, of which each side wins one: else few differences, or none, would make
    a narrow interval, or one of no width (Bonett & Price 2012, https://doi.org/10.3102/1076998611411915).
    Values are few (-1, 0, 1), so whole resamples are drawn at once as counts of each: the same distribution.
    """
    values, counts = np.unique(np.append(differences, [1.0, -1.0]), return_counts=True)
    n = int(counts.sum())
    drawn = np.random.default_rng(0).multinomial(n, counts / n, RESAMPLES)
    low, high = np.quantile(drawn @ values / n, [ALPHA / 2, 1 - ALPHA / 2])
    mean = float(differences.mean())
    return min(float(low), mean), max(float(high), mean)


def seeds_difference(a: Scores, b: Scores) -> tuple[float, float, float, float]:
    """The difference of means on the same questions, its interval and p-value: (difference, low, high, p).

    `a` and `b` are (seeds, questions); one of them may have one seed, as a model that is not trained has. Questions
    are paired, seeds are not: the variance is that of the questions' differences, and what each one's seeds add, as in
    `seeds_interval`; Student's t with Satterthwaite's degrees of freedom. The two questions of `bootstrap_difference`
    are counted in the variance.
    """
    paired = a.mean(0) - b.mean(0)
    difference = float(paired.mean())
    questions = _of_questions(np.append(paired, [1.0, -1.0]))
    variance, freedom = _satterthwaite([questions, _of_seeds(a), _of_seeds(b)])
    half = student_t(freedom) * math.sqrt(variance)
    from scipy.special import stdtr

    p = 2 * float(stdtr(freedom, -abs(difference) / math.sqrt(variance)))
    return difference, max(-1.0, difference - half), min(1.0, difference + half), p


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for all of them: the chance of even one false finding stays under alpha.

    Source: Holm 1979, https://www.jstor.org/stable/4615733. Ours, for scipy has none, and statsmodels brings pandas.
    """
    corrected, least = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))  # never below that of a smaller p
        corrected[i] = least
    return corrected


def smallest_difference(n: int, differing: float) -> float | None:
    """The smallest difference of two accuracies that `mcnemar` shows on `n` questions, 8 times in 10.

    `differing` is the share of questions that one of the two alone has right. None: not even where all of these
    are one's. Exact power, over how many questions differ and who has them, as SAS's PROC POWER
    has it: https://support.sas.com/documentation/cdl/en/statug/68162/HTML/default/statug_power_details57.htm.
    """
    from scipy.optimize import brentq

    if n == 0 or mcnemar_power(n, differing, differing) < POWER:
        return None
    return float(brentq(lambda difference: mcnemar_power(n, differing, difference) - POWER, 0, differing, xtol=1e-5))


def mcnemar_power(n: int, differing: float, difference: float, alpha: float = ALPHA) -> float:
    """How often `mcnemar` finds on `n` questions a true difference, with its sign."""
    from scipy.stats import binom

    likely = [float(binom.ppf(q, n, differing)) for q in (ROUNDING, 1 - ROUNDING)]
    m = np.arange(likely[0], likely[1] + 1)  # how many questions differ
    # The most that the loser may have for p <= alpha; -1 where no split is enough.
    most = binom.ppf(alpha / 2, m, 0.5)
    most = np.where(binom.cdf(most, m, 0.5) > alpha / 2, most - 1, most)
    found = binom.cdf(most, m, (1 - difference / differing) / 2)
    return float((binom.pmf(m, n, differing) * found).sum())


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of k samples is right, unbiased from `n` of which so many are.

    Source: Chen et al. 2021, https://arxiv.org/abs/2107.03374, equation 1. Raises `ValueError` where k > n.
    """
    if not 0 < k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples, and there are {n}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)
