"""Which student of a run is asked, and in which form; its folder is read, nothing is loaded.

student = find_student(Path("runs/quickstart"), "fine_tune_cot-0")
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cotdistill.completions import SamplingParams
from cotdistill.config import Config, nearest
from cotdistill.config_file import shown
from cotdistill.errors import ConfigError, DataError
from cotdistill.generate import first_params
from cotdistill.methods import METHODS, Method, methods
from cotdistill.models import COMPLETE, is_seq2seq, model_identity
from cotdistill.runs import result_folder, saved_config

LABEL = re.compile(r"(\w+)-(-?\d+)")  # as records.label writes it


@dataclass(frozen=True)
class Student:
    """A trained student: `label` as in student/, `folder` of its weights, asked by `method` with `params`."""

    run: Path
    label: str
    folder: Path
    method: Method
    params: SamplingParams
    config: Config

    @property
    def form(self) -> str:
        return self.config.student.format

    @property
    def name(self) -> str:
        """What it is called as a model."""
        return f"{self.run.absolute().name}/{self.label}"

    @cached_property
    def pinned(self) -> str:
        """The same, with these very weights: another student of the name is not taken for it."""
        return f"{self.name}@{model_identity(str(self.folder))['revision']}"


def find_student(run: Path, label: str = "") -> Student:
    """The student of a run with that label; none: the first fine_tune_cot, or what there is.

    Raises `DataError` where the run has none, `ConfigError` for a label that it has not.
    """
    config = saved_config(run)
    labels = _labels(run)
    if not labels:
        raise DataError(f"{run}: this run has no trained student (student/NAME/{COMPLETE}).\nDo the run to its end.")
    label = label or labels[0]
    if label not in labels:
        raise ConfigError(f"--student: no student {shown(label)!r} in {run}{nearest(label, labels)}")
    name, seed = _parts(label)
    folder = result_folder(run, config, name, seed)
    form = methods(config.student.format, is_seq2seq(str(folder)), rationale=config.student.rationale)
    params = first_params(form[name], config.evaluate.max_tokens or None)
    return Student(run, label, folder, form[name], params, config)


def _labels(run: Path) -> list[str]:
    """The students that are whole, fine_tune_cot first."""
    found = [mark.parent.name for mark in run.glob(f"student/*/{COMPLETE}") if LABEL.fullmatch(mark.parent.name)]
    known = [label for label in found if (method := METHODS.get(_parts(label)[0])) and method.trained]
    return sorted(known, key=lambda label: (_parts(label)[0] != "fine_tune_cot", *_parts(label)))


def _parts(label: str) -> tuple[str, int]:
    name, seed = label.rsplit("-", 1) if "--" not in label else label.split("-", 1)
    return name, int(seed)
