"""What an export is asked for, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotdistill.methods import Method
from cotdistill.runs import Run


@dataclass(frozen=True)
class Student:
    """A trained student, named as in student/; `folder` is where the weights are that result.json is about."""

    name: str
    method: Method
    seed: int
    folder: Path


@dataclass(frozen=True)
class Job:
    """An export to do: into `folder`, which is moved to `out` when it is whole and checked.

    `converter` is llama.cpp's convert_hf_to_gguf.py, where the user named one.
    """

    this: Run
    students: tuple[Student, ...]
    folder: Path
    out: Path
    converter: Path | None = None


@dataclass(frozen=True)
class Made:
    """The commands that use an export, and what its checks found, by the name of what was checked."""

    commands: list[str]
    checks: Mapping[str, Any] = field(default_factory=dict)
