"""How much twice the data, or twice D, would buy: a curve through a sweep's accuracies, and how sure it is.

    for curve in fitted(points(summary["runs"])):
        print(curve.sentence)

The log-odds of a right answer are taken to be a straight line in log2 of D or of the number of training questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cotdistill.stats import Z, student_t
from cotdistill.sweeps.points import AXES, Line, Point, lines

Floats = NDArray[np.float64]
FEWEST = 3  # places on the axis: two fix a line, and nothing is left to say whether it is one
PASSES = 8  # the weights depend on the curve
ASSUMPTIONS = (
    "The log-odds of a right answer are fitted as a straight line in log2 of the axis: binomial regression "
    "(iteratively reweighted least squares) on each seed's count of right answers, half a right and half a wrong "
    "answer added. The interval of what one doubling past the largest value brings is the wider of two, by the delta "
    "method: normal, with the variance that so many questions have; and Student's t, with the scatter of the points "
    "about the curve, to which training adds. Few points without seeds make it wide. Points are taken for "
    "independent, though all were asked the same questions and smaller sets are parts of larger ones. That the line "
    "goes on is assumed, not tested."
)
TWICE = {"D": "twice D", "train": "twice the training questions"}


@dataclass(frozen=True)
class Curve:
    """What one doubling past the largest value `at` would add to an accuracy: `gain`, its 95% interval; fractions.

    log-odds = intercept + slope * log2(x). `scatter` is chi squared by its degrees of freedom. None where the points
    are too few to fit; `sentence` says it in words, either way.
    """

    axis: str
    task: str
    line: str
    places: int
    sentence: str
    at: float | None = None
    intercept: float | None = None
    slope: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    scatter: float | None = None


def fitted(found: Sequence[Point]) -> list[Curve]:
    """A curve for each line over D and over the number of training questions, or why there is none."""
    return [
        _fitted(axis, line)
        for axis in TWICE
        for line in lines(found, AXES[axis])
        if line.moves and len(line.spots) > 1  # the plain baselines do not change with D
    ]


def _fitted(axis: str, line: Line) -> Curve:
    what, places = f"{line.task}, {line.name}", len(line.spots)
    if places < FEWEST:
        values = " and ".join(f"{spot.x:,.0f}" for spot in line.spots)
        sentence = f"{what}: no curve over {AXES[axis].label}: it needs {FEWEST} values, not {values} alone."
        return Curve(axis, line.task, line.name, places, sentence)
    if {point.right for point in line.points} == {0} or all(point.right == point.n for point in line.points):
        sentence = f"{what}: no curve over {AXES[axis].label}: all is at {100 * line.spots[0].mean:.0f}%."
        return Curve(axis, line.task, line.name, places, sentence)
    at = line.spots[-1].x
    x = np.log2([spot.x / at for spot in line.spots for _ in spot.points])  # 0 is the largest value
    right, n = (np.array([getattr(point, name) for point in line.points], float) for name in ("right", "n"))
    found_line, covariance, scatter = fit(x, right, n)
    top, slope = found_line
    gain, low, high = gain_of_doubling(found_line, covariance, scatter, len(x) - 2)
    sentence = (
        f"{what}: {TWICE[axis]} ({at:,.0f} to {2 * at:,.0f}) would bring {100 * gain:+.1f} points "
        f"(95% interval {100 * low:+.1f} to {100 * high:+.1f}), if the curve through {places} values goes on"
        f"{'; that may be nothing' if low <= 0 <= high else ''}."
    )
    intercept = float(top - slope * math.log2(at))
    return Curve(axis, line.task, line.name, places, sentence, at, intercept, float(slope), gain, low, high, scatter)


def fit(x: Floats, right: Floats, n: Floats) -> tuple[Floats, Floats, float]:
    """Log-odds at x = 0 and slope, their covariance by the questions alone, and the scatter about the curve."""
    share, weight = (right + 0.5) / (n + 1), n + 1  # log-odds of 0 and 1 are endless
    columns = np.column_stack([np.ones_like(x), x])
    found: Floats = np.polyfit(x, logit(share), 1)[::-1].astype(np.float64)
    for _ in range(PASSES):  # iteratively reweighted least squares: the maximum likelihood
        expected = curve(x, *found)
        variance = expected * (1 - expected)
        covariance: Floats = np.asarray(np.linalg.inv(columns.T @ (columns * (weight * variance)[:, None])), float)
        found = found + covariance @ columns.T @ (weight * (share - expected))
    scatter = float(np.sum(weight * (share - expected) ** 2 / variance) / (len(x) - 2))
    return found, covariance, scatter


def logit(share: Floats) -> Floats:
    return np.asarray(np.log(share / (1 - share)))


def curve(x: Floats, top: float, slope: float) -> Floats:
    """The accuracy at `x` doublings."""
    return np.asarray(1 / (1 + np.exp(-(top + slope * x))))


def gain_of_doubling(found: Floats, covariance: Floats, scatter: float, free: int) -> tuple[float, float, float]:
    """What accuracy gains from x = 0 to x = 1, with its 95% interval; fractions. `free`: points that no parameter took.

    The wider of two: by the questions alone, and by the scatter of the points, which training adds to.
    """
    now, then = curve(np.array([0.0, 1.0]), *found)
    gradient = np.array([then * (1 - then) - now * (1 - now), then * (1 - then)])
    times = max(Z, student_t(free) * math.sqrt(scatter))
    spread = times * math.sqrt(gradient @ covariance @ gradient)
    gain = float(then - now)
    return gain, max(gain - spread, float(-now)), min(gain + spread, float(1 - now))


def traced(curve_of: Curve, spots: Sequence[float]) -> Iterator[tuple[float, float]]:
    """The curve as (x, accuracy), over the places it was fitted to and the doubling after."""
    if curve_of.slope is None or curve_of.intercept is None:
        return
    for x in np.geomspace(spots[0], 2 * spots[-1], 40):
        yield float(x), float(curve(np.log2(x), curve_of.intercept, curve_of.slope))
