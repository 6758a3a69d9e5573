"""What things cost, with numbers that a person can check; what is not known is not nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cotdistill.budget import Price
from cotdistill.records import Result
from cotdistill.results.costs import costs

LEDGER: dict[str, Any] = {
    "answered": 1000,
    "right": 500,
    "prompt_tokens": 2_000_000,
    "completion_tokens": 1_000_000,
    "teachers": {"big": {"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}},
}
PRICES: dict[str, Price | None] = {"big": Price(1.0, 8.0)}  # 10 dollars in all, one cent an answer
STUDENT = Result("fine_tune_cot", 0, 0.25, 0.2, 0.3, 100, {}, 0.25, 40.0)


def of(**changes: Any) -> Any:
    given: dict[str, Any] = {
        "ledger": LEDGER,
        "prices": PRICES,
        "training_seconds": {"fine_tune-0": 100.0, "fine_tune_cot-0": 1800.0},
        "results": {"fine_tune_cot-0": STUDENT},
        "answer_seconds": {"fine_tune_cot-0": 0.9},
        "usd_per_hour": 4.0,
    }
    return costs(**given | changes)


def test_all_that_is_known() -> None:
    found = of(spent_usd=3.00000000004)
    assert (found.teacher_prompt_tokens, found.teacher_completion_tokens) == (2_000_000, 1_000_000)
    assert (found.teacher_usd, found.teacher_usd_per_answer, found.teacher_usd_per_right) == (10.0, 0.01, 0.02)
    answer = found.answers["fine_tune_cot-0"]
    assert (answer.tokens, answer.seconds) == (40.0, 0.9)
    assert (answer.usd, answer.usd_per_right) == pytest.approx((0.001, 0.004))
    assert found.spent_usd == 3
    # 10 of rationales and 2 of training, at 2 cents less 0.4 saved a right answer.
    assert found.break_even == pytest.approx(12 / 0.016)


@pytest.mark.parametrize(
    ("changes", "unknown"),
    [
        ({"usd_per_hour": 0.0}, ["usd", "break_even"]),
        ({"answer_seconds": {"fine_tune_cot-0": None}}, ["seconds", "usd", "break_even"]),
        ({"answer_seconds": {}}, ["seconds", "usd", "break_even"]),
        ({"prices": {"big": None}}, ["teacher_usd", "break_even"]),
        ({"prices": {}}, ["teacher_usd", "break_even"]),
        ({"ledger": {}}, ["teacher_usd", "break_even"]),
        ({"usd_per_hour": 400.0}, ["break_even"]),  # never: an answer costs more than the teacher's
        ({"training_seconds": {"fine_tune-0": 1.0}}, ["break_even"]),  # no student of rationales
    ],
)
def test_what_is_not_known_is_none(changes: dict[str, Any], unknown: list[str]) -> None:
    found = of(**changes)
    answer = found.answers["fine_tune_cot-0"]
    values = {
        "teacher_usd": found.teacher_usd,
        "seconds": answer.seconds,
        "usd": answer.usd,
        "break_even": found.break_even,
    }
    assert [name for name, value in values.items() if value is None] == unknown


def test_several_teachers_and_seeds() -> None:
    ledger = LEDGER | {
        "teachers": {"big": LEDGER["teachers"]["big"], "small": {"prompt_tokens": 0, "completion_tokens": 1_000_000}}
    }
    found = of(
        ledger=ledger,
        prices=PRICES | {"small": Price(0, 2.0)},
        training_seconds={"fine_tune_cot-0": 900.0, "fine_tune_cot-1": 2700.0},
        results={"fine_tune_cot-0": STUDENT, "fine_tune_cot-1": STUDENT},
        answer_seconds={"fine_tune_cot-0": 0.8, "fine_tune_cot-1": 1.0},
    )
    assert found.teacher_usd == 12
    assert found.break_even == pytest.approx(14 / (0.024 - 0.004))  # one student: their mean
    assert of(ledger=ledger).teacher_usd is None, "one has no price"


def test_a_student_that_is_never_right_has_no_price_of_a_right_answer() -> None:
    never = Result("fine_tune_cot", 0, 0.0, 0, 0.1, 100, {}, 0.0, 40.0)
    found = of(results={"fine_tune_cot-0": never})
    assert found.answers["fine_tune_cot-0"].usd_per_right is None
    assert found.break_even is None
