"""Every warning: when it is raised, when it is not, and the numbers in it."""

from __future__ import annotations

from typing import Any

import pytest

from cotdistill.records import CATEGORIES, Category, Question
from cotdistill.results.compare import Summary
from cotdistill.review import (
    best_on_test,
    lucky_share,
    not_above_baseline,
    result_warnings,
    seen_in_training,
    teacher_warnings,
    template,
)


def counts(**given: int) -> dict[Category, int]:
    return {category: given.get(category, 0) for category in CATEGORIES}


@pytest.mark.parametrize(
    ("found", "starts"),
    [
        (counts(correct=1, wrong=1), []),
        (counts(correct=3), ["3 of 3 are right"]),
        (counts(wrong=3), ["0 of 3 are right"]),
        (counts(correct=10, wrong=9, error=1), []),  # 5%
        (counts(correct=9, wrong=9, error=1), ["1 of 19 generations are errors"]),
        (counts(correct=10, wrong=9, truncated=1), []),
        (counts(correct=9, wrong=8, truncated=1, error=0), ["1 of 18 were cut before they had an answer: raise"]),
        (counts(error=2), ["2 of 2 generations are errors", "nothing was answered"]),
        (counts(), []),
    ],
)
def test_of_one_result(found: dict[Category, int], starts: list[str]) -> None:
    warnings = result_warnings(found)
    assert len(warnings) == len(starts)
    assert all(warning.startswith(start) for warning, start in zip(warnings, starts, strict=True))


def method(label: str, low: float, high: float, n: int = 100) -> Summary:
    return Summary(label, label, 1, (low + high) / 2, None, low, high, n)


@pytest.mark.parametrize(
    ("random", "majority", "warned"),
    [
        (
            50.0,
            55.0,
            ["not shown to be better than the best constant answer, which has 55.0% right: b (50.0% to 70.0%), c"],
        ),
        (50.0, 45.0, ["not shown to be better than guessing, which has 50.0% right: b (50.0% to 70.0%), c (10.0% to"]),
        (
            0.0,
            12.0,
            ["not shown to be better than the best constant answer, which has 12.0% right: c (10.0% to 20.0%)."],
        ),
        (0.0, 5.0, []),
    ],
)
def test_a_baseline_inside_or_above_the_interval(random: float, majority: float, warned: list[str]) -> None:
    found = [method("a", 0.6, 0.8), method("b", 0.5, 0.7), method("c", 0.1, 0.2), method("none", 0, 1, n=0)]
    warnings = not_above_baseline(found, random, majority)
    assert len(warnings) == len(warned)
    assert all(warning.startswith(start) for warning, start in zip(warnings, warned, strict=True))


TEMPLATES = [
    ("Ann has 3 pears.", "Bob has 12 pears.", True),
    ("Ann Lee pays $3.50 on 04/12/2021.", "Zoë pays $1,200 on 1/2/2020.", True),
    ("Ann has  3 pears.\n", "Bob has 4 pears.", True),
    ("Ann has 3 pears.", "Ann has 3 apples.", False),
    ("Ann has three pears.", "Ann has four pears.", False),  # a number in words is a word
    ("How many?", "Why many?", True),  # a capitalised word, wherever it stands
    ("何個ありますか。", "いくらですか。", False),  # no capitals there
]


@pytest.mark.parametrize(("one", "other", "same"), TEMPLATES)
def test_templates(one: str, other: str, same: bool) -> None:
    assert (template(one) == template(other)) is same


def test_test_questions_that_were_taught() -> None:
    taught = [Question("1", "Ann has 3 pears.", "3"), Question("2", "What is 2 and 2?", "4")]
    test = [
        Question("a", "ann  has 3 pears.", "3"),
        Question("b", "Bob has 5 pears.", "5"),
        Question("c", "Bob ate 5 pears.", "5"),
    ]
    exact, like = seen_in_training(taught, test)
    assert exact.startswith("1 of 3 test questions were training questions")
    assert like.startswith("1 of 3 test questions are training questions but for their numbers and names")
    assert seen_in_training(taught, test[2:]) == seen_in_training([], test) == []


@pytest.mark.parametrize(
    ("right", "wrong", "options", "share"),
    [
        (75, 25, 2, 1 / 3),  # 50 know; of 50 that guess half are right
        (60, 40, 3, 1 / 3),  # 40 know; of 60 that guess a third
        (50, 50, 2, 1.0),  # no better than guessing
        (40, 60, 2, 1.0),
        (100, 0, 2, 0.0),
        (60, 40, 5, 0.0),  # luck is rare
        (60, 40, 0, 0.0),
        (0, 10, 2, 0.0),
    ],
)
def test_lucky_guesses(right: int, wrong: int, options: float, share: float) -> None:
    assert lucky_share(right, wrong, options) == pytest.approx(share)


def ledger(**changes: Any) -> dict[str, Any]:
    dropped = {"wrong": 100, "truncated": 0} | changes.pop("dropped", {})
    return {"asked": 500, "answered": 500, "failed": 0, "kept": 300, "right": 400, "dropped": dropped} | changes


@pytest.mark.parametrize(
    ("found", "options", "keep", "starts"),
    [
        (
            ledger(),
            2,
            "correct",
            ["teacher: about 75 of 300 kept rationales may be right by luck: a question has 2 options"],
        ),
        (ledger(), 3, "correct", ["teacher: about 38 of 300 kept"]),
        (ledger(), 4, "correct", []),
        (ledger(), 2, "all", []),  # nothing is filtered
        (ledger(dropped={"wrong": 15}), 2, "correct", []),
        (ledger(failed=26), 0, "correct", ["teacher: 26 of 500 generations are errors"]),
        (ledger(dropped={"truncated": 30}), 0, "correct", ["teacher: 30 of 500 rationales were cut and dropped"]),
        ({}, 2, "correct", []),
    ],
)
def test_of_the_teacher(found: dict[str, Any], options: float, keep: str, starts: list[str]) -> None:
    warnings = teacher_warnings(found, options, keep)
    assert len(warnings) == len(starts)
    assert all(warning.startswith(start) for warning, start in zip(warnings, starts, strict=True))


def test_the_best_on_the_test_set() -> None:
    assert best_on_test([0.1, 0.4, 0.3], 1, 3) == (
        "epoch 2 of 3, the best on the test set, as in the paper: 40.0%; "
        "the epoch of the lowest dev loss (3) has 30.0%."
    )
