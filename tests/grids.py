"""Runs of a sweep as its JSON has them, made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotdistill.records import CATEGORIES
from cotdistill.stats import wilson


def result(method: str, right: int, n: int = 100, seed: int | None = 0, **more: Any) -> dict[str, Any]:
    low, high = wilson(right, n)
    counts = dict.fromkeys(CATEGORIES, 0) | {"correct": right, "wrong": n - right}
    accuracy = {"accuracy": right / n if n else 0.0, "low": low, "high": high, "n": n}
    made: dict[str, Any] = {
        "method": method,
        "seed": seed,
        **accuracy,
        "categories": counts,
        "seconds": 1.5,
        "warnings": [],
    }
    return made | {"rights": "1" * right + "0" * (n - right)} | more


def made_run(name: str, settings: dict[str, Any], results: Sequence[dict[str, Any]], **place: Any) -> dict[str, Any]:
    """`place` may leave out what is the same everywhere."""
    usual = {"task": "multiarith", "D": 1, "train": 420, "student": "openai-community/gpt2", "parameters": 124_439_808}
    usual |= {"teacher": "t", "teacher_accuracy": 0.7, "teacher_tokens": 1000, "teacher_usd": None}
    ledger = {"right": 300, "answered": 420}
    at = usual | place
    return {
        "run": name,
        "settings": settings,
        "task": at["task"],
        "place": at,
        "results": list(results),
        "ledger": ledger,
    }


def over_d(rights: Mapping[int, Sequence[int]], n: int = 100, **place: Any) -> list[dict[str, Any]]:
    """A run for each D, with a seed for each count of right answers; and the plain baseline, the same in all."""
    return [
        made_run(
            f"d-samples{d}",
            {"teacher.samples": d},
            [
                result("fine_tune", 12, n),
                *(result("fine_tune_cot", right, n, seed) for seed, right in enumerate(some)),
            ],
            **{"D": d, "teacher_tokens": 1000 * d, **place},
        )
        for d, some in rights.items()
    ]
