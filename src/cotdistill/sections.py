"""What all sections of the config have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


def _usable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("a path cannot hold NUL")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("a path cannot hold half a character") from None
    return path


FilePath = Annotated[Path, AfterValidator(_usable)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
