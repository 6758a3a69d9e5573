"""Intervals of accuracies, from scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95% Wilson interval of `right` out of `n`, as fractions; (0, 1) where n is 0.

    Source: Wilson 1927, https://doi.org/10.2307/2276774.
    """
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # 0.8 s to import

    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mean_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """The mean over all values, and its 95% interval where values of one group are alike.

    Cluster-robust variance of a ratio, Student's t with groups - 1 degrees of freedom (Cochran 1977,
    Sampling Techniques, chapter 9); endless bounds where there is one group.
    """
    n, count = sum(map(len, groups)), len(groups)
    mean = sum(map(sum, groups)) / n
    if count < 2:
        return mean, -math.inf, math.inf
    from scipy.stats import t

    residuals = (sum(group) - mean * len(group) for group in groups)
    spread = math.sqrt(count / (count - 1) * sum(r * r for r in residuals)) / n * float(t.ppf(0.975, count - 1))
    return mean, mean - spread, mean + spread
