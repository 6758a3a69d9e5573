"""What a sweep's runs say, as points: an accuracy, and where in the grid it is.

for line in lines(points(summary["runs"]), AXES["D"]): ...

An axis is what a figure has along its bottom. A line is one task, one method and one choice of every setting
that does not move along that axis; the seeds of one place on it are merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from cotdistill.methods import METHODS
from cotdistill.stats import seeds_interval

TEACHER = ("teacher", "teachers", "teacher.model", "teacher.name", "teacher.store", "teacher.backend", "teacher.style")
STUDENT = ("student", "student.model")
COST = ("teacher.samples", "task.train", *TEACHER)
TASK = ("task", "task.name", "task.data")


@dataclass(frozen=True)
class Axis:
    """What a figure has along its bottom: `place` names it in a run's "place", `moved_by` the settings that move it.

    `joined`: its places are amounts of one thing, so that a line between them means something. `of_rationales`:
    only what learns from rationales moves along it.
    """

    place: str
    label: str
    moved_by: tuple[str, ...]
    log: bool = True
    joined: bool = True
    of_rationales: bool = True

    @property
    def scale(self) -> float:
        """From a place to what is shown of it."""
        return 100 if self.place == "teacher_accuracy" else 1

    def moves(self, point: Point) -> bool:
        """Whether another place on the axis could change this point."""
        method = METHODS[point.method]
        if self.of_rationales:
            return method.learns_rationale
        return method.trained or self.place == "parameters"


AXES = {
    "D": Axis("D", "D, rationales asked for a question", ("teacher.samples",)),
    "train": Axis("train", "training questions", ("task.train",), of_rationales=False),
    "teacher_accuracy": Axis("teacher_accuracy", "teacher accuracy, %", TEACHER, log=False, joined=False),
    "parameters": Axis("parameters", "parameters of the student", STUDENT, joined=False, of_rationales=False),
    "teacher_usd": Axis("teacher_usd", "cost of the rationales, US dollars", COST, joined=False),
    "teacher_tokens": Axis("teacher_tokens", "cost of the rationales, teacher tokens", COST, joined=False),
}


@dataclass(frozen=True)
class Point:
    """The accuracy of one method and seed in one run: `right` of `n`, with the 95% interval of `n`; fractions.

    `rights` has a character a test question: 1 right, 0 not, - not answered.
    """

    run: str
    task: str
    method: str
    seed: int | None
    accuracy: float
    low: float
    high: float
    right: int
    n: int
    rights: str
    settings: Mapping[str, Any]
    place: Mapping[str, Any]


@dataclass(frozen=True)
class Spot:
    """All seeds at one place of a line: their mean accuracy with a 95% interval, as fractions.

    `name` is the value of what moves along the axis.
    """

    name: str
    x: float
    mean: float
    low: float
    high: float
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Line:
    """One task, method and choice of the other settings along an axis; `moves` as `Axis.moves`."""

    axis: Axis
    task: str
    method: str
    name: str
    spots: tuple[Spot, ...]
    moves: bool

    @property
    def points(self) -> list[Point]:
        return [point for spot in self.spots for point in spot.points]


def points(runs: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Every result of the runs that ended well and has answers."""
    return [
        Point(
            run["run"],
            str(run["settings"].get("task", run["task"])),
            result["method"],
            result["seed"],
            result["accuracy"],
            result["low"],
            result["high"],
            result["categories"]["correct"],
            result["n"],
            result["rights"],
            run["settings"],
            run["place"],
        )
        for run in runs
        for result in run.get("results", ())
        if result["n"]
    ]


def lines(found: Sequence[Point], axis: Axis) -> list[Line]:
    """The lines along an axis; none where the grid does not move along it."""
    if not any(setting in axis.moved_by for point in found for setting in point.settings):
        return []
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in found:
        if point.place.get(axis.place) is not None:
            groups.setdefault((point.task, point.method, _name(point, axis)), []).append(point)
    return [
        Line(axis, task, method, name, _spots(some, axis), axis.moves(some[0]))
        for (task, method, name), some in groups.items()
    ]


def _name(point: Point, axis: Axis) -> str:
    left_out = {*axis.moved_by, *TASK, "student.seeds"}
    others = {key: value for key, value in point.settings.items() if key not in left_out}
    return ", ".join([point.method, *(f"{key.rpartition('.')[2]} {value}" for key, value in others.items())])


def _spots(some: Sequence[Point], axis: Axis) -> tuple[Spot, ...]:
    by_place: dict[tuple[float, str], list[Point]] = {}
    for point in some:
        moved = {key: str(value) for key, value in point.settings.items() if key in axis.moved_by}
        names = [value.rpartition("/")[2] for value in moved.values()]
        if len(moved) > 1:
            names = [f"{key.rpartition('.')[2]} {name}" for key, name in zip(moved, names, strict=True)]
        by_place.setdefault((float(point.place[axis.place]), ", ".join(names)), []).append(point)
    return tuple(
        Spot(name, x, *over_seeds(by_place[x, name]), tuple(by_place[x, name])) for x, name in sorted(by_place)
    )


def over_seeds(some: Sequence[Point]) -> tuple[float, float, float]:
    """Mean accuracy and its 95% interval, on the questions that every seed answered; as `stats.seeds_interval`."""
    if len(some) == 1:
        return some[0].accuracy, some[0].low, some[0].high
    answered = [marks for marks in zip(*(point.rights for point in some), strict=True) if "-" not in marks]
    if not answered:
        return fmean(point.accuracy for point in some), 0.0, 1.0
    mean, _, low, high = seeds_interval(np.array(answered, dtype=float).T)
    return mean, low, high
