"""What a set of test questions can show, said before a run: `cotdistill evaluate --plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cotdistill.stats import smallest_difference, wilson
from cotdistill.tasks import Task

DIFFERING = (0.1, 0.3, 0.5)  # shares of questions that one of two methods alone has right: alike, usual, unlike
USUAL = "0.3"
SEEDS = (3, 5)


@dataclass(frozen=True)
class Shown:
    """What so many questions show: the 95% interval of a method that has half of them right, and by the share
    of questions on which two methods differ the smallest difference that is found 8 times in 10; None: not any."""

    low: float
    high: float
    smallest: Mapping[str, float | None]


@dataclass(frozen=True)
class Power:
    """Of a task's `n` test questions: what they show of methods with one seed, and at best with several.

    At best: where each seed errs on questions of its own, as if there were as many times more of them. Where all
    seeds err on the same ones, more seeds show no smaller difference. What the students differ by comes on top.
    """

    task: str
    n: int
    seeds: int  # of the config
    one_seed: Shown
    at_best: Mapping[int, Shown]


def power_of(task: Task, seeds: int) -> Power:
    """What the test questions of a task can show; nothing is asked or trained."""
    n = len(task.test)
    several = sorted({*SEEDS, seeds} - {1})
    return Power(task.name, n, seeds, _shown(n), {count: _shown(n * count) for count in several})


def _shown(n: int) -> Shown:
    return Shown(*wilson(n / 2, n), {f"{share:g}": smallest_difference(n, share) for share in DIFFERING})


def describe(power: Power) -> list[str]:
    """In lines for a person."""
    one = power.one_seed
    lines = [
        f"{power.task}: {power.n:,} test questions",
        f"  a method with half of them right: {_interval(one)}",
        "  two methods, one seed each: the smallest difference shown 8 times in 10 (p < 0.05), where they differ",
    ]
    lines += [f"    on {float(share):.0%} of the questions: {_points(found)}" for share, found in one.smallest.items()]
    lines.append(f"  at best, where each seed errs on questions of its own, and methods differ on {float(USUAL):.0%}")
    for seeds, shown in power.at_best.items():
        mine = " (this config)" if seeds == power.seeds else ""
        lines.append(f"    {seeds} seeds{mine}: {_interval(shown)}; {_points(shown.smallest[USUAL])}")
    return [
        *lines,
        "  at worst, where all seeds err on the same questions, as with one; what seeds differ by comes on top",
    ]


def _interval(shown: Shown) -> str:
    return f"{shown.low:.1%} to {shown.high:.1%}"


def _points(difference: float | None) -> str:
    return "none: too few questions" if difference is None else f"{100 * difference:.1f} points"
