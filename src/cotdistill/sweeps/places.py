"""Where in the grid a run is: the numbers that a figure has along its bottom."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotdistill.models import folder_of
from cotdistill.runs import Run


def place_of(this: Run) -> dict[str, Any]:
    """Task, D, training questions, student and its parameters, teacher and its accuracy, tokens and dollars.

    None for what is not known. Tokens are those of the run's own rationales, as if no other run shared them.
    """
    config = this.config
    ledger: Mapping[str, Any] = this.curated.ledger if this.curated else {}
    teachers = config.all_teachers if this.needs_teacher else ()
    return {
        "task": this.task.name,
        "D": sum(teacher.samples for teacher in teachers) or None,
        "train": len(this.task.train),
        "student": config.student.model,
        "parameters": parameters(this) if this.results else None,
        "teacher": ", ".join(teacher.name or teacher.model or teacher.backend for teacher in teachers) or None,
        "teacher_accuracy": ledger.get("teacher_accuracy"),
        "teacher_tokens": ledger.get("prompt_tokens", 0) + ledger.get("completion_tokens", 0) or None,
        "teacher_usd": _usd(this, ledger),
    }


def _usd(this: Run, ledger: Mapping[str, Any]) -> float | None:
    """What the rationales cost at the teachers' prices; None where one is not known, or they were free."""
    usd = 0.0
    for teacher in this.teachers if ledger.get("teachers") else ():
        if teacher.price is None:
            return None
        counts = ledger["teachers"].get(teacher.name, {})
        usd += teacher.price.of(counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0))
    return usd or None


def parameters(this: Run) -> int | None:
    """Of the student, counted from the heads of its files of weights; nothing is loaded. None where there are none."""
    # A trained one first: GPT-2's published file holds buffers that are no parameters.
    for folder in (*this.students.values(), folder_of(this.config.student.model)):
        if files := sorted(folder.glob("*.safetensors")):
            return sum(map(count_parameters, files))
    return None


def count_parameters(weights: Path) -> int:
    """The numbers in a file of safetensors, by its head: 8 bytes of its length, then JSON.

    Source: https://github.com/huggingface/safetensors#format.
    """
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in head.items() if name != "__metadata__")
