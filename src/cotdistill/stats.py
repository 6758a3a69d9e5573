"""Intervals of accuracies, from scipy."""

from __future__ import annotations


def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95% Wilson interval of `right` out of `n`, as fractions; (0, 1) where n is 0.

    Source: Wilson 1927, https://doi.org/10.2307/2276774.
    """
    if n == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # 0.8 s to import

    interval = binomtest(right, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
