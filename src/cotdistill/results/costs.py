"""What a run cost, and what each answer costs that its student gives instead of the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cotdistill.budget import Price
from cotdistill.records import Result

if TYPE_CHECKING:
    from cotdistill.teachers import Teacher

AN_HOUR = 3600


@dataclass(frozen=True)
class AnswerCost:
    """Of one method, an answer: `tokens` written, `seconds` of the machine (batched), US dollars; None: not known."""

    tokens: float
    seconds: float | None
    usd: float | None
    usd_per_right: float | None


@dataclass(frozen=True)
class Costs:
    """Of a run: the teacher's tokens and dollars, training seconds by student, answers by method and seed.

    The teacher's are of all rationales that the run uses, whoever bought them: its price for their tokens. What this
    run's own requests were billed, retries too, is `spent_usd`. `break_even` is after how many right answers a student
    has paid for its rationales and its training, against buying as many from the teacher. None: not known, or never.
    """

    teacher_prompt_tokens: int
    teacher_completion_tokens: int
    teacher_usd: float | None
    teacher_usd_per_answer: float | None
    teacher_usd_per_right: float | None
    training_seconds: Mapping[str, float]
    answers: Mapping[str, AnswerCost]
    break_even: float | None
    spent_usd: float | None = None


def costs(
    ledger: Mapping[str, Any],
    prices: Mapping[str, Price | None],
    training_seconds: Mapping[str, float],
    results: Mapping[str, Result],
    answer_seconds: Mapping[str, float | None],
    usd_per_hour: float = 0.0,
    spent_usd: float | None = None,
) -> Costs:
    """The costs of a run: `prices` by teacher, the rest by method and seed, as `fine_tune_cot-0`.

    `ledger` is that of the run's folder, empty where no teacher was asked; `usd_per_hour` 0: not known.
    """
    usd = _teacher_usd(ledger, prices)
    a_second = usd_per_hour / AN_HOUR or None
    answers = {name: _answer(result, answer_seconds.get(name), a_second) for name, result in results.items()}
    right = _each(usd, ledger.get("right"))
    return Costs(
        ledger.get("prompt_tokens", 0),
        ledger.get("completion_tokens", 0),
        usd,
        _each(usd, ledger.get("answered")),
        right,
        dict(training_seconds),
        answers,
        _break_even(usd, right, training_seconds, answers, a_second),
        None if spent_usd is None else round(spent_usd, 9),  # as it is kept between runs
    )


def _teacher_usd(ledger: Mapping[str, Any], prices: Mapping[str, Price | None]) -> float | None:
    """Of the tokens of all teachers; None where the price of one is not known."""
    teachers = ledger.get("teachers", {})
    if not teachers:
        return None
    total = 0.0
    for name, counts in teachers.items():
        if (price := prices.get(name)) is None:
            return None
        total += price.of(counts["prompt_tokens"], counts["completion_tokens"])
    return total


def _each(usd: float | None, n: float | None) -> float | None:
    return usd / n if usd is not None and n else None


def _answer(result: Result, seconds: float | None, a_second: float | None) -> AnswerCost:
    usd = seconds * a_second if seconds is not None and a_second else None
    return AnswerCost(result.completion_tokens, seconds, usd, _each(usd, result.accuracy))


def _break_even(
    usd: float | None,
    of_teacher: float | None,
    training_seconds: Mapping[str, float],
    answers: Mapping[str, AnswerCost],
    a_second: float | None,
) -> float | None:
    """Of the students that learned from rationales: one of them, their seeds' mean."""
    students = [name for name in training_seconds if name.startswith("fine_tune_cot-")]
    each = [answers[name].usd_per_right for name in students if name in answers]
    known = [one for one in each if one is not None]
    if usd is None or of_teacher is None or not a_second or not known or len(known) < len(each):
        return None
    training = sum(training_seconds[name] for name in students) / len(students) * a_second
    saved = of_teacher - sum(known) / len(known)
    return (usd + training) / saved if saved > 0 else None


def teacher_prices(teachers: Sequence[Teacher]) -> dict[str, Price | None]:
    """By name. What is on record or in process has no price of its own: not nothing, but not known."""
    return {t.name: t.price if t.config.price is not None or t.config.backend == "openai" else None for t in teachers}
