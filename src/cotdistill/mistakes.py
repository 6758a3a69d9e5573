"""The study of errors: what is wrong with a rationale, by rules that score and never filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["calculation", "false_step", "repetition", "truncated", "form", "misread", "other"]
KINDS: tuple[Kind, ...] = ("calculation", "false_step", "repetition", "truncated", "form", "misread", "other")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One finding: its kind, and the words of the text that show it (empty where all of the text does)."""

    kind: Kind
    evidence: str = ""
