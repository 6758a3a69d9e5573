"""What a person sees while a run works: stage, count, rate, time left; on stderr.

A live bar on a terminal, else a plain line every few seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from cotdistill import ranks

PLAIN_SECONDS = 10
BAR_SECONDS = 0.1  # thousands of completions a second need no more
Advance = Callable[[int, int], None]

console = Console(stderr=True)
_elsewhere: list[Callable[[str], object]] = []  # where the terminal is, if not here


def say(text: str) -> None:
    """A line for the person at the terminal, of the process that does the run."""
    if not ranks.first():
        return
    if _elsewhere:
        _elsewhere[-1](text)
    else:
        console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say_elsewhere(say_it: Callable[[str], object]) -> None:
    """This process has no person at its terminal: what it says is said by `say_it`."""
    _elsewhere[:] = [say_it]


@contextmanager
def stage(name: str, unit: str) -> Iterator[Advance]:
    """Show one stage; the block calls `advance(done, total)`, counted in `unit`s."""
    started = time.monotonic()
    with _bar(name, unit) if console.is_terminal else _lines(name, unit) as advance:
        yield advance
    if (seconds := time.monotonic() - started) > 1:
        say(f"{name}: done in {clock(seconds)}")


@contextmanager
def _bar(name: str, unit: str) -> Iterator[Advance]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}}, left"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    first: list[tuple[float, int]] = []
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(escape(name), total=None, rate="...")
        shown = 0.0

        def advance(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < BAR_SECONDS and done < total:
                return
            shown = now
            first.append((now, done)) if not first else None
            bar.update(task, completed=done, total=total, rate=_rate(first[0], done))

        yield advance


@contextmanager
def _lines(name: str, unit: str) -> Iterator[Advance]:
    said = time.monotonic()
    finished = False
    first: list[tuple[float, int]] = []

    def advance(done: int, total: int) -> None:
        nonlocal said, finished
        now = time.monotonic()
        if not first:
            first.append((now, done))
        if finished or (now - said < PLAIN_SECONDS and done < total):
            return
        said, finished = now, done == total
        began, before = first[0]
        left = (now - began) / (done - before) * (total - done) if done > before else 0.0
        say(f"{name}: {done} of {total} {unit}, {_rate(first[0], done)}, {clock(left)} left")

    yield advance


def _rate(first: tuple[float, int], done: int) -> str:
    began, before = first
    seconds = time.monotonic() - began
    return f"{(done - before) / seconds:.2g} a second" if seconds > 0.5 and done > before else "..."


def clock(seconds: float) -> str:
    """Minutes and seconds, as 2:05."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
