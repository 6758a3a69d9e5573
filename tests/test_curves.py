"""What twice as much would buy, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from cotdistill.sweeps.curves import curve, fit, fitted, gain_of_doubling
from cotdistill.sweeps.points import points
from grids import made_run, over_d, result


def test_a_curve_is_found_again_and_its_doubling_is_on_it() -> None:
    # log-odds = -2 + 0.5 log2(D): 11.9% at 1, 26.9% at 4; and at 16 it will be half.
    (found,) = fitted(points(over_d({1: [1192], 2: [1824], 4: [2689], 8: [3775]}, n=10_000)))
    assert found.slope == pytest.approx(0.5, abs=0.001)
    assert found.intercept == pytest.approx(-2, abs=0.001)
    assert (found.at, found.places) == (8, 4)
    assert found.gain == pytest.approx(0.5 - 0.3775, abs=0.001)
    assert found.gain is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.gain < found.high
    assert found.sentence.startswith("multiarith, fine_tune_cot: twice D (8 to 16) would bring +12.2 points (95% ")
    assert "nothing" not in found.sentence


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ({1: [10], 2: [20]}, "needs 3 values, not 1 and 2 alone"),
        ({1: [10, 12, 11], 2: [20, 21, 20]}, "needs 3 values"),  # seeds are no further values
        ({1: [0], 2: [0], 4: [0]}, "all is at 0%"),
        ({1: [100], 2: [100], 4: [100]}, "all is at 100%"),
        ({1: [20], 2: [25], 4: [20]}, "that may be nothing"),
    ],
)
def test_it_says_where_there_is_nothing_to_say(rights: dict[int, list[int]], said: str) -> None:
    (found,) = fitted(points(over_d(rights)))
    assert said in found.sentence
    assert (found.gain is None) == ("nothing" not in said)


def test_one_value_is_no_curve_and_other_settings_have_their_own() -> None:
    assert fitted(points(over_d({4: [30]}))) == []
    runs = [
        made_run(f"{n}-{rate}", {"task.train": n, "student.learning_rate": rate}, [result("fine_tune", 5 + n)], train=n)
        for n in (8, 16, 32)
        for rate in (1e-4, 2e-4)
    ]
    found = fitted(points(runs))
    assert [c.line for c in found] == ["fine_tune, learning_rate 0.0001", "fine_tune, learning_rate 0.0002"]
    assert all("twice the training questions (32 to 64)" in c.sentence for c in found)


@pytest.mark.parametrize("rights", [[0, 0, 300], [300, 0, 300], [0, 1, 0], [300, 300, 299], [150, 150, 150]])
def test_extremes_are_fitted_too(rights: list[int]) -> None:
    found, covariance, scatter = fit(np.array([-2.0, -1, 0]), np.array(rights, float), np.full(3, 300.0))
    gain, low, high = gain_of_doubling(found, covariance, scatter, free=1)
    assert -1 <= low <= gain <= high <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "seeds", "spread"),
    [(3, 1, 0.0), (7, 1, 0.0), (3, 1, 0.2), (4, 3, 0.2)],
    ids=["3 values", "7 values", "3 values, training varies", "3 seeds, training varies"],
)
def test_the_interval_holds_the_true_gain_as_often_as_it_says(places: int, seeds: int, spread: float) -> None:
    random = np.random.default_rng(0)
    x = np.repeat(np.arange(places) - places + 1.0, seeds)
    true = np.diff(curve(np.array([0.0, 1.0]), 0.0, 0.4))[0]
    held = 0
    for _ in range(400):
        log_odds = 0.4 * x + spread * random.standard_normal(len(x))
        right = random.binomial(150, curve(log_odds, 0.0, 1.0)).astype(float)
        _, low, high = gain_of_doubling(*fit(x, right, np.full(len(x), 150.0)), len(x) - 2)
        held += low <= true <= high
    assert held / 400 >= 0.93
