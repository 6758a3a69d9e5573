"""The figures of a sweep: accuracy against what its grid varies, ours and the paper's, as SVG.

for figure in figures(points(summary["runs"]), fitted(...)): figure.svg, figure.lines

Which are drawn follows from the grid: one for each axis that it moves along, and each task.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, NamedTuple

from markupsafe import Markup

from cotdistill.reports.charts import GRID, INK, LINES, new_axes, to_svg
from cotdistill.reports.showing import visible
from cotdistill.sweeps.curves import Curve, traced
from cotdistill.sweeps.points import AXES, Axis, Line, Point, lines

PAPER_LINES = ("--", ":", "-.")
PAPER_MARKERS = ("x", "+", "1", "2", "3", "4")
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
    """Accuracy along an axis, of one task; `baselines` do not move along it. `name` is its own in the page."""

    name: str
    axis: Axis
    task: str
    lines: Sequence[Line]
    baselines: Sequence[Line]
    published: Sequence[Published]
    curves: Sequence[Curve]

    @cached_property
    def svg(self) -> Markup | None:
        """None without matplotlib."""
        if (axes := new_axes(3.4)) is None:
            return None
        _draw(axes, self)
        _label(axes, self.axis, sorted({spot.x for line in self.lines for spot in line.spots}))
        return to_svg(
            axes, self.name, f"Accuracy on {self.task} against {self.axis.label}; the table below has its numbers."
        )


def figures(found: Sequence[Point], curves: Sequence[Curve]) -> list[Figure]:
    """One for each axis that the grid moves along, and each task. The cost is in dollars where all prices are known."""
    tasks = list(dict.fromkeys(point.task for point in found))
    wanted: list[Figure] = []
    for axis in AXES.values():
        some = lines(found, axis) if axis.place != unused_cost(found) else []
        for number, task in enumerate(tasks):
            figure = _figure(f"{axis.place}-{number}", axis, task, [line for line in some if line.task == task], curves)
            wanted += [figure] if figure else []
    return wanted


def unused_cost(found: Sequence[Point]) -> str:
    """Of the two axes of cost, the one that is not drawn."""
    paid = [point.place.get("teacher_usd") for point in found if point.place.get("teacher_tokens")]
    return "teacher_tokens" if paid and all(paid) else "teacher_usd"


def _figure(name: str, axis: Axis, task: str, some: Sequence[Line], curves: Sequence[Curve]) -> Figure | None:
    moving = [line for line in some if line.moves]
    if len({spot.x for line in moving for spot in line.spots}) < 2:
        return None
    # The same at each place, as it should be; where another setting moved it too, it says nothing here.
    flat = [line for line in some if not line.moves and len({spot.mean for spot in line.spots}) == 1]
    ours = [curve for curve in curves if (curve.axis, curve.task) == (axis.place, task)]
    return Figure(name, axis, task, moving, flat, _published(moving, axis), ours)


def _draw(axes: Any, figure: Figure) -> None:
    axis, moving = figure.axis, figure.lines
    for number, line in enumerate(moving):
        colour, marker = LINES[number % len(LINES)]
        style = ("-", (0, (4, 1)))[number // len(LINES) % 2] if axis.joined else ""
        _draw_line(axes, line, {"color": colour, "marker": marker, "linestyle": style})
        for curve in figure.curves:
            if curve.line == line.name and curve.slope is not None:
                path = traced(curve, [spot.x for spot in line.spots])
                axes.plot(*zip(*((x, 100 * y) for x, y in path), strict=True), color=colour, alpha=0.35, linewidth=3)
    for number, line in enumerate(figure.baselines, len(moving)):
        colour, _ = LINES[number % len(LINES)]
        axes.axhline(100 * line.spots[0].mean, color=colour, linestyle=(0, (1, 2)), label=visible(line.name))
    for number, (name, places) in enumerate(_by_student(figure.published, axis).items()):
        style = PAPER_LINES[number % len(PAPER_LINES)] if axis.joined else ""
        marker = PAPER_MARKERS[number % len(PAPER_MARKERS)]
        axes.plot(*zip(*places, strict=True), color=INK, alpha=0.6, linestyle=style, marker=marker, label=name)
    if not axis.joined:
        _name_spots(axes, moving)


def _draw_line(axes: Any, line: Line, style: dict[str, Any]) -> None:
    """Means with their intervals, and the seeds as small points."""
    x, y = [spot.x * line.axis.scale for spot in line.spots], [100 * spot.mean for spot in line.spots]
    spread = [[100 * (s.mean - s.low) for s in line.spots], [100 * (s.high - s.mean) for s in line.spots]]
    axes.errorbar(x, y, spread, capsize=3, label=visible(line.name), **style)
    for place, spot in zip(x, line.spots, strict=True):
        if len(spot.points) > 1:
            seeds = [100 * point.accuracy for point in spot.points]
            axes.plot([place] * len(seeds), seeds, ".", color=style["color"], alpha=0.6, markersize=4)


def _name_spots(axes: Any, moving: Sequence[Line]) -> None:
    """What is at a place, over the highest point there: these are different models or settings, not amounts."""
    highest: dict[tuple[float, str], float] = {}
    for line in moving:
        for spot in line.spots:
            place = (spot.x * line.axis.scale, visible(spot.name))
            highest[place] = max(100 * spot.high, highest.get(place, 0.0))
    for (x, name), y in highest.items():
        axes.annotate(name, (x, y), (0, 3), textcoords="offset points", ha="center", color=INK, size=7)


def _label(axes: Any, axis: Axis, places: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.log:
        axes.set_xscale("log", base=2 if axis.joined else 10)
        if axis.joined and len(places) <= MANY_TICKS:
            axes.set_xticks(places)
        elif not axis.joined:
            axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set(xlabel=axis.label, ylabel="accuracy, %", ylim=(max(-4, low), min(108, high + 2)))
    axes.margins(x=0.08)
    axes.grid(axis="y", color=GRID)
    axes.tick_params(which="both", length=0, colors=INK)
    # Below, not on the points.
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize="small")


def short(value: float) -> str:
    """A number for an axis: 64, 0.02, 135M."""
    size, letter = next(((s, x) for s, x in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= max(s, 1e4)), (1, ""))
    return f"{value / size:.4g}{letter}"


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
        method = row.method.removesuffix("_diverse") + (f", D={row.d}" if row.d else "")
        name, x = (row.student, row.d) if axis.place == "D" else (method, row.parameters)
        found.setdefault(f"paper, {name}", []).append((x, row.accuracy))
    return {name: sorted(places) for name, places in found.items()}


@cache
def paper() -> tuple[Published, ...]:
    """ "Large Language Models Are Reasoning Teachers" (Ho, Schmid, Yun, ACL 2023), tables of the main results, as the
    authors' notebooks/results.ipynb prints them; diverse is D = 64 on MultiArith and SVAMP, else 8."""
    text = resources.files("cotdistill.sweeps").joinpath("paper.csv").read_text(encoding="utf-8")
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
