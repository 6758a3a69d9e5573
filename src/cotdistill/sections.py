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
    return Path(_from_home(str(path)))


def _from_home(path: str) -> str:
    """With the home folder for a `~`: no shell saw it in a file or after `=`, and a folder `~` is a trap."""
    return os.path.expanduser(path) if path.startswith("~") else path  # noqa: PTH111 - Path's raises for no such user


FilePath = Annotated[Path, AfterValidator(_usable)]
ModelName = Annotated[str, AfterValidator(_from_home)]  # or its folder


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
