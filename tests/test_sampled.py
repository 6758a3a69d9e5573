"""Several samples of a question: who wins the vote, and the numbers at k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cotdistill.answers import TYPED
from cotdistill.records import Category, Score
from cotdistill.results.sampled import at_k, by_question, vote
from cotdistill.stats import pass_at_k, wilson

EQUAL = TYPED["number"].equal


def samples(answers: str, question: str = "q", gold: str = "5") -> list[Score]:
    """Of one question, by its answers: `-` has none, `~` was cut, `!` is an error."""
    kinds: dict[str, Category] = {"-": "no_answer", "~": "truncated", "!": "error"}
    return [
        Score(question, i, None, kinds[a], False)
        if a in kinds
        else Score(question, i, a, "correct" if EQUAL(a, gold) else "wrong", EQUAL(a, gold))
        for i, a in enumerate(answers.split())
    ]


VOTES: list[tuple[str, int, Category]] = [
    ("5 4 4", 1, "wrong"),
    ("4 5 5 4 5", 1, "correct"),
    ("4 5.0 5 4 5", 1, "correct"),  # 5.0 is 5
    ("4 5 5 4", 0, "wrong"),  # of equals the first sampled
    ("5 4 4 5", 0, "correct"),
    ("- ~ 5", 2, "correct"),  # what has no answer has no vote
    ("- - - 5 5 4", 3, "correct"),
    ("- ~", 0, "no_answer"),
    ("~ -", 0, "truncated"),
    ("5 5 !", 2, "error"),
    ("4", 0, "wrong"),
]


@pytest.mark.parametrize(("answers", "index", "category"), VOTES)
def test_vote(answers: str, index: int, category: Category) -> None:
    chosen = vote(samples(answers), EQUAL)
    assert (chosen.index, chosen.category) == (index, category)


def test_a_tie_gives_in_expectation_its_share() -> None:
    orders = list(itertools.permutations(["5", "5", "4", "4", "3", "3"]))
    right = sum(vote(samples(" ".join(order)), EQUAL).correct for order in orders)
    assert right / len(orders) == pytest.approx(1 / 3)


def test_the_numbers_at_k() -> None:
    scores = samples("5 4 5 5", "a") + samples("4 4 5 4", "b") + samples("5 5 - 4", "c") + samples("! 5 5 5", "d")
    questions = by_question(scores)
    assert [len(group) for group in questions] == [4] * 4
    found = {(f.measure, f.k): f for f in at_k(questions, EQUAL)}
    assert list(found) == [("mean", 4), *(("maj", k) for k in (1, 2, 4)), *(("pass", k) for k in (1, 2, 4))]
    mean = (3 + 1 + 2) / 12  # the fourth question has an error
    assert found["mean", 4].value == found["maj", 1].value == pytest.approx(mean)
    assert found["pass", 1].value == pytest.approx(mean)
    assert found["maj", 2].value == pytest.approx((2 + 1 + 1) / 6)  # 5 4 | 5 5, 4 4 | 5 4, 5 5 | - 4
    assert found["maj", 4].value == pytest.approx(2 / 3)
    assert (found["maj", 4].low, found["maj", 4].high) == wilson(2, 3), "as the method's own accuracy"
    assert found["pass", 2].value == pytest.approx(sum(pass_at_k(4, c, 2) for c in (3, 1, 2)) / 3)
    assert found["pass", 4].value == 1
    assert all(0 <= f.low <= f.value <= f.high <= 1 for f in found.values())


@pytest.mark.parametrize(("n", "sizes"), [(2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])])
def test_the_sizes(n: int, sizes: list[int]) -> None:
    found = at_k([samples(" ".join(["5"] * n), q) for q in "ab"], EQUAL)
    assert [f.k for f in found if f.measure == "pass"] == [f.k for f in found if f.measure == "maj"] == sizes


def test_nothing_answered_has_no_numbers() -> None:
    assert at_k([samples("! !")], EQUAL) == at_k([], EQUAL) == ()


@pytest.mark.slow
def test_maj_at_k_is_unbiased() -> None:
    """Blocks of 8 samples against the probability that 2 or 4 fresh ones make a right majority."""
    rng = np.random.default_rng(0)
    draws = [rng.choice(["5", "4", "3"], size=8, p=[0.4, 0.35, 0.25]) for _ in range(4000)]
    found = {
        f.k: f.value
        for f in at_k([samples(" ".join(d), str(i)) for i, d in enumerate(draws)], EQUAL)
        if f.measure == "maj"
    }
    fresh = {
        k: np.mean(
            [
                vote(samples(" ".join(rng.choice(["5", "4", "3"], size=k, p=[0.4, 0.35, 0.25]))), EQUAL).correct
                for _ in range(8000)
            ]
        )
        for k in (2, 4)
    }
    assert found[2] == pytest.approx(fresh[2], abs=0.02)
    assert found[4] == pytest.approx(fresh[4], abs=0.02)
