"""The figures of a sweep: accuracy against what its grid varies, ours and the paper's, as SVG.

for figure in figures(points(summary["runs"]), fitted(...)): figure.svg, figure.lines

Which are drawn follows from the grid: one for each axis that it moves along, and each task.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from markupsafe import Markup

from cotdistill.curves import Curve, traced
from cotdistill.points import AXES, Axis, Line, Point, lines
from cotdistill.report import GRID, INK, LINES, new_axes, to_svg, visible

PAPER_LINES = ("--", ":", "-.")
DIVERSE = "fine_tune_cot_diverse"
MANY_TICKS = 8


class Published(NamedTuple):
    """An accuracy of the paper, in percent; `d` is 0 where no rationales were learned."""

    student: str
    parameters: float
    method: str
    d: int
    task: str
    accuracy: float


@dataclass(frozen=True)
class Figure:
    """Accuracy along an axis, of one task. `svg` is None without matplotlib; `baselines` do not move along it."""

    axis: Axis
    task: str
    lines: Sequence[Line]
    baselines: Sequence[Line]
    published: Sequence[Published]
    svg: Markup | None


def figures(found: Sequence[Point], curves: Sequence[Curve]) -> list[Figure]:
    """One for each axis that the grid moves along, and each task. The cost is in dollars where all prices are known."""
    tasks = list(dict.fromkeys(point.task for point in found))
    drawn: list[Figure] = []
    for axis in AXES.values():
        some = lines(found, axis) if axis.place != unused_cost(found) else []
        for number, task in enumerate(tasks):
            figure = _figure([line for line in some if line.task == task], axis, task, curves, f"{axis.place}-{number}")
            drawn += [figure] if figure else []
    return drawn


def unused_cost(found: Sequence[Point]) -> str:
    """Of the two axes of cost, the one that is not drawn."""
    paid = [point.place.get("teacher_usd") for point in found if point.place.get("teacher_tokens")]
    return "teacher_tokens" if paid and all(paid) else "teacher_usd"


def _figure(some: Sequence[Line], axis: Axis, task: str, curves: Sequence[Curve], name: str) -> Figure | None:
    moving = [line for line in some if line.moves]
    if len({spot.x for line in moving for spot in line.spots}) < 2:
        return None
    # The same at each place, as it should be; where another setting moved it too, it says nothing here.
    flat = [line for line in some if not line.moves and len({spot.mean for spot in line.spots}) == 1]
    published = _published(moving, axis)
    svg = None
    if (axes := new_axes(3.4)) is not None:
        ours = [curve for curve in curves if (curve.axis, curve.task) == (axis.place, task)]
        _draw(axes, moving, flat, published, ours)
        _label(axes, axis, sorted({spot.x for line in moving for spot in line.spots}))
        svg = to_svg(axes, name)
    return Figure(axis, task, moving, flat, published, svg)


def _draw(
    axes: Any, moving: Sequence[Line], flat: Sequence[Line], published: Sequence[Published], curves: Sequence[Curve]
) -> None:
    scale = _scale(moving[0].axis)
    for number, line in enumerate(moving):
        colour, marker = LINES[number % len(LINES)]
        x = [spot.x * scale for spot in line.spots]
        y = [100 * spot.mean for spot in line.spots]
        spread = [[100 * (s.mean - s.low) for s in line.spots], [100 * (s.high - s.mean) for s in line.spots]]
        style = ("-", (0, (4, 1)))[number // len(LINES) % 2] if line.axis.joined else ""
        axes.errorbar(x, y, spread, color=colour, marker=marker, linestyle=style, capsize=3, label=visible(line.name))
        seeds = [(spot.x * scale, 100 * p.accuracy) for spot in line.spots if len(spot.points) > 1 for p in spot.points]
        axes.plot([x for x, _ in seeds], [y for _, y in seeds], ".", color=colour, alpha=0.6, markersize=4)
        if not line.axis.joined:
            _name_spots(axes, line, scale)
        for curve in curves:
            if curve.line == line.name and curve.slope is not None:
                path = list(traced(curve, [spot.x for spot in line.spots]))
                axes.plot([x for x, _ in path], [100 * y for _, y in path], color=colour, alpha=0.35, linewidth=3)
    for number, line in enumerate(flat, len(moving)):
        colour, _ = LINES[number % len(LINES)]
        axes.axhline(100 * line.spots[0].mean, color=colour, linestyle=(0, (1, 2)), label=visible(line.name))
    for (name, places), style in zip(_by_student(published, moving[0].axis).items(), PAPER_LINES * 4, strict=False):
        x, y = zip(*places, strict=True)
        axes.plot(x, y, color=INK, alpha=0.55, linestyle=style, linewidth=1, marker="x", label=name)


def _name_spots(axes: Any, line: Line, scale: float) -> None:
    """What a point is, beside it: these are different models, not amounts of one thing."""
    for spot in line.spots:
        key = "student" if line.axis.place == "parameters" else "teacher"
        name = visible(str(spot.points[0].place.get(key, ""))).rpartition("/")[2]
        axes.annotate(name, (spot.x * scale, 100 * spot.mean), (4, 4), textcoords="offset points", color=INK, size=7)


def _label(axes: Any, axis: Axis, places: Sequence[float]) -> None:
    if axis.log:
        axes.set_xscale("log", base=2 if axis.joined and not axis.place.startswith("teacher") else 10)
        if len(places) <= MANY_TICKS and axis.place in ("D", "train"):
            axes.set_xticks(places, [f"{place:,.0f}" for place in places], minor=False)
            axes.set_xticks([], minor=True)
    low, high = axes.get_ylim()
    axes.set(xlabel=axis.label, ylabel="accuracy, %", ylim=(max(-4, low), min(104, high)))
    axes.grid(axis="y", color=GRID)
    # Below, not on the points; and one a row where the names are long.
    axes.figure.legend(
        loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize="small", handlelength=2.5
    )
    axes.tick_params(which="both", length=0, colors=INK)


def _scale(axis: Axis) -> float:
    return 100 if axis.place == "teacher_accuracy" else 1


def _published(moving: Sequence[Line], axis: Axis) -> list[Published]:
    """The paper's accuracies that belong beside these lines: by D, or by the student's size."""
    tasks = {point.place["task"] for line in moving for point in line.points}
    methods = {line.method for line in moving}
    here = [
        row
        for row in paper()
        if row.task in tasks and (row.method in methods or (row.method == DIVERSE and "fine_tune_cot" in methods))
    ]
    if axis.place == "D":
        return [row for row in here if row.d]
    return here if axis.place == "parameters" else []


def _by_student(published: Sequence[Published], axis: Axis) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in published:
        x = row.d if axis.place == "D" else row.parameters
        of = (
            row.student if axis.place == "D" else f"{row.method.removesuffix('_diverse')}{f', D={row.d}' * bool(row.d)}"
        )
        found.setdefault(f"paper, {of}", []).append((x, row.accuracy))
    return {name: sorted(places) for name, places in found.items()}


@cache
def paper() -> tuple[Published, ...]:
    """ "Large Language Models Are Reasoning Teachers" (Ho, Schmid, Yun, ACL 2023), tables of the main results, as the
    authors' notebooks/results.ipynb prints them; diverse is D = 64 on MultiArith and SVAMP, else 8."""
    text = resources.files("cotdistill").joinpath("paper.csv").read_text(encoding="utf-8")
    sizes = {"M": 1e6, "B": 1e9}
    return tuple(
        Published(
            row["student"],
            float(row["student"].split()[-1][:-1]) * sizes[row["student"][-1]],
            row["method"],
            int(row["D"] or 0),
            row["task"],
            float(row["accuracy"]),
        )
        for row in csv.DictReader(text.splitlines())
    )
