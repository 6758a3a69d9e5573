"""A sweep's results for its readers: RUNS/NAME.sweep.html, RUNS/NAME.sweep.csv, and a table for the terminal.

write_pages(summary, runs / "d_scaling.sweep")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cotdistill.records import CATEGORIES, write_atomic
from cotdistill.reports.csv_files import Cell, write_csv
from cotdistill.reports.showing import make_environment, percent, visible
from cotdistill.sweeps.curves import ASSUMPTIONS, Curve
from cotdistill.sweeps.figures import figures
from cotdistill.sweeps.points import points

PLACE = ("D", "train", "student", "parameters", "teacher", "teacher_accuracy", "teacher_tokens", "teacher_usd")
MEASURED = ("accuracy", "low", "high", "n")


def write_pages(summary: Mapping[str, Any], stem: Path) -> None:
    """`stem`.html and `stem`.csv."""
    header, rows = table_of(summary)
    write_csv(Path(f"{stem}.csv"), header, rows)
    environment = make_environment(jinja2.PackageLoader("cotdistill.sweeps", ""))
    environment.filters |= {"amount": amount}
    runs = summary["runs"]
    curves = [Curve(**curve) for curve in summary["curves"]]
    html = environment.get_template("sweep.html.j2").render(
        name=summary["sweep"],
        settings=settings_of(runs),
        good=[run for run in runs if "error" not in run],
        failed=[run for run in runs if "error" in run],
        figures=figures(points(runs), curves),
        curves=curves,
        assumptions=ASSUMPTIONS,
        warnings=warnings_of(runs),
    )
    write_atomic(Path(f"{stem}.html"), html)


def warnings_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Each warning with the results that have it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for result in run.get("results", ()):
            for warning in result["warnings"]:
                found.setdefault(warning, []).append(f"{run['run']} {result['method']}")
    return found


def settings_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings of the grid."""
    return list(dict.fromkeys(setting for run in runs for setting in run["settings"]))


def table_of(summary: Mapping[str, Any]) -> tuple[list[str], list[list[Cell]]]:
    """Header and rows of the CSV: a row a result, and one for a run without any."""
    settings = settings_of(summary["runs"])
    header = ["run", *settings, "task", "method", "seed", *MEASURED, *CATEGORIES, "seconds", *PLACE, "failed"]
    return header, [row for run in summary["runs"] for row in _rows(run, settings)]


def _rows(run: Mapping[str, Any], settings: Sequence[str]) -> Iterator[list[Cell]]:
    place = run.get("place", {})
    for result in run.get("results") or [{}]:
        measured = [result.get(name) for name in MEASURED]
        if not result.get("n"):
            measured[:3] = [None] * 3  # no answer is no accuracy
        yield [
            run["run"],
            *(_cell(run["settings"].get(setting)) for setting in settings),
            *(run.get("task"), result.get("method"), result.get("seed")),
            *measured,
            *(result.get("categories", {}).get(category) for category in CATEGORIES),
            result.get("seconds"),
            *(place.get(name) for name in PLACE),
            run.get("error"),
        ]


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def show_sweep(summary: Mapping[str, Any]) -> None:
    """The table, what twice as much would bring, and where the page is, on stdout."""
    console = Console()
    console.print(terminal_table(summary))
    for line in (*(curve["sentence"] for curve in summary["curves"]), summary.get("page", "")):
        console.print(Text(visible(line)), soft_wrap=True) if line else None


def terminal_table(summary: Mapping[str, Any]) -> Table:
    """The results by setting, for the terminal; of a sweep that ends before training, the rationales."""
    runs, settings = summary["runs"], settings_of(summary["runs"])
    measured = any(run.get("results") for run in runs)
    table = Table(*(Column(setting.rpartition(".")[2], overflow="fold") for setting in settings))
    numbers = ("seed", "accuracy", "95% interval", "n") if measured else ("kept",)
    table.add_column("method" if measured else "right rationales")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        # As Text, for a string would be read as markup.
        before = [Text(visible(str(run["settings"].get(setting)))) for setting in settings]
        if "error" in run:
            table.add_row(*before, Text("failed", "red"))
        elif not measured and (ledger := run["ledger"]):
            table.add_row(*before, f"{ledger['right']:,} of {ledger['answered']:,}", f"{ledger['kept']:,}")
        for r in run.get("results", ()):
            seed = "-" if r["seed"] is None else str(r["seed"])
            share = (
                (f"{percent(r['accuracy'])}%", f"{percent(r['low'])} to {percent(r['high'])}") if r["n"] else ("-", "-")
            )
            table.add_row(*before, r["method"], seed, *share, f"{r['n']:,}")
    return table


def amount(value: float) -> str:
    """A number on an axis, short."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
