"""What commands print to stdout: tables and lines for people, JSON for programs. Imports lazily, as cli.py does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from cotdistill.config import Config
    from cotdistill.plan import Plan
    from cotdistill.runs import Run

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def show_plans(plans: list[Plan], as_json: bool) -> None:
    from dataclasses import asdict

    from cotdistill.plan import describe

    if as_json:
        typer.echo(json.dumps([asdict(plan) for plan in plans], indent=1))
    else:
        typer.echo("\n".join(line for plan in plans for line in describe(plan)))


def show_judged(config: Config, n: int, method: str, as_json: bool) -> None:
    from cotdistill import judge

    judged = judge.judge_run(config, n, method)
    typer.echo(judge.as_json(judged) if as_json else "\n".join(judge.describe(judged)))


def show_power(config: Config, as_json: bool) -> None:
    from dataclasses import asdict

    from cotdistill.results.power import describe, power_of
    from cotdistill.tasks import load_task

    power = power_of(load_task(config.task), len(config.student.seeds))
    typer.echo(json.dumps(asdict(power), indent=1) if as_json else "\n".join(describe(power)))


def show_results(this: Run, as_json: bool) -> None:
    from cotdistill import progress
    from cotdistill.results.compare import verdict

    show(this.results, as_json)
    if not as_json:
        from rich.console import Console

        from cotdistill.reports.tables import more_tables

        for table in more_tables(this.results, this.summaries):
            Console().print(table)
    for warning in this.warnings:
        progress.say(f"warning: {warning}")
    progress.say(verdict(this.summaries, this.comparisons, this.methods))
    if not as_json:
        typer.echo((this.folder / "report.html").absolute())


def show(results: list[Any], as_json: bool) -> None:
    if as_json:
        from cotdistill.records import to_json

        typer.echo(json.dumps([to_json(result) for result in results], indent=1))
        return
    from rich.console import Console

    from cotdistill.reports.report import terminal_table

    Console().print(terminal_table(results))
