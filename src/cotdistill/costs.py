"""What a run cost, and what each answer costs that its student gives instead of the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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

    `break_even` is after how many answers a student has paid for itself, against asking the teacher. None: not known.
    """

    teacher_prompt_tokens: int
    teacher_completion_tokens: int
    teacher_usd: float | None
    teacher_usd_per_answer: float | None
    teacher_usd_per_right: float | None
    training_seconds: Mapping[str, float]
    answers: Mapping[str, AnswerCost]
    break_even: float | None
