"""The command line: one command a verb, parsing only. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotdistill import __version__
from cotdistill.errors import ConfigError, CotdistillError

if TYPE_CHECKING:
    from cotdistill.config import Config
    from cotdistill.pipeline import Run, Stage

INTERRUPTED = 130

app = typer.Typer(
    name="cotdistill",
    help="Distil a large teacher's step-by-step reasoning into a small student, and measure what it learned.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigArgs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [SECTION.FIELD=VALUE]...", help="None: the embedded default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def version_and_leave(asked: bool) -> None:
    if asked:
        typer.echo(f"cotdistill {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=version_and_leave, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass  # --debug is read in main, where errors end


@app.command("run")
def run_command(arguments: ConfigArgs = None, as_json: AsJson = False) -> None:
    """Do the whole run: generate, curate, train, evaluate, report."""
    show_results(do(arguments, "report"), as_json)


@app.command("generate")
def generate_command(arguments: ConfigArgs = None) -> None:
    """Ask the teacher; every completion is stored before it counts."""
    this = do(arguments, "generate")
    typer.echo(this.folder / "generations.jsonl")


@app.command("curate")
def curate_command(arguments: ConfigArgs = None) -> None:
    """Generate, and keep the rationales that are right."""
    this = do(arguments, "curate")
    typer.echo(this.folder / "pairs.jsonl")


@app.command("train")
def train_command(arguments: ConfigArgs = None) -> None:
    """Generate, curate, and train the students."""
    for folder in do(arguments, "train").students.values():
        typer.echo(folder)


@app.command("evaluate")
def evaluate_command(arguments: ConfigArgs = None, as_json: AsJson = False) -> None:
    """All but the page's path: the students' results on the test questions."""
    show_results(do(arguments, "evaluate"), as_json)


@app.command("report")
def report_command(arguments: ConfigArgs = None) -> None:
    """Write report.html from what the run has; what is missing is done first."""
    typer.echo(do(arguments, "report").folder / "report.html")


@app.command("sweep")
def sweep_command(file: Annotated[Path, typer.Argument(help="A sweep file: base, name, grid.")]) -> None:
    """Do one run for each point of a grid; they share one store."""
    from cotdistill.sweep import sweep

    typer.echo(json.dumps(sweep(file), indent=1))


@app.command("tasks")
def tasks_command() -> None:
    """List the tasks that come with the package."""
    from cotdistill.config import TaskConfig
    from cotdistill.tasks import TASKS, load_task

    for name in TASKS:
        task = load_task(TaskConfig(name=name))
        typer.echo(f"{name}\t{task.answer_type}\t{task.test[0].text}")
    typer.echo("reasoning_gym/NAME\t\tany generator of reasoning-gym (pip install 'cotdistill[tasks]')")


@app.command("init")
def init_command(
    data: Annotated[Path, typer.Argument(help="Your questions and answers: .jsonl or .csv.")],
    out: Annotated[Path, typer.Option(help="The config to write.")] = Path("cotdistill.yaml"),
) -> None:
    """Write a commented config for your own file."""
    from cotdistill.starter import write_starter

    write_starter(data, out)
    typer.echo(out)


@app.command("doctor")
def doctor_command(arguments: ConfigArgs = None) -> None:
    """Check Python, packages, teacher (one live call), student and disk, and say what to do."""
    from cotdistill.doctor import checks

    bad = 0
    for check in checks(read_config(arguments)):
        bad += not check.ok
        typer.echo(f"{'ok ' if check.ok else 'BAD'} {check.name}: {check.found}")
        if not check.ok:
            typer.echo(f"    {check.fix}")
    if bad:
        raise typer.Exit(ConfigError.exit_code)


@app.command("score")
def score_command(
    file: Annotated[Path, typer.Argument(help="JSON lines with `text` (what a model wrote) and `gold`.")],
    answer_type: Annotated[str, typer.Option(help="number, choice, yes_no or text")],
    rule: Annotated[str, typer.Option(help="typed or paper")] = "typed",
    method: Annotated[str, typer.Option(help="the method whose form the text has")] = "fine_tune_cot",
    as_json: AsJson = False,
) -> None:
    """Score predictions that you have, such as a run's predictions/*.jsonl."""
    from cotdistill.evaluate import score_file

    show([score_file(file, answer_type, rule, method)], as_json)


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(help="JSON lines of a teacher's zero-shot-CoT outputs.")],
    store: Annotated[Path, typer.Option(help="The store to bring them into.")],
    model: Annotated[str, typer.Option(help="Who wrote them.")],
    temperature: Annotated[float, typer.Option(help="They were sampled at.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Limit of the rationale, in tokens.")] = 128,
    question: Annotated[str, typer.Option(help="Column of the question.")] = "question",
    rationale: Annotated[str, typer.Option(help="Column of the rationale.")] = "rationale",
    answer_text: Annotated[
        str, typer.Option(help="Column of what followed the answer prompt.")
    ] = "answer_extraction_output",
) -> None:
    """Bring a teacher's outputs into a store, for a recorded teacher to answer from."""
    from cotdistill.importing import import_completions

    count = import_completions(file, store, model, temperature, max_tokens, question, rationale, answer_text)
    typer.echo(f"{count} questions imported into {store}")


def read_config(arguments: list[str] | None) -> Config:
    """The config of `[FILE.yaml] [section.field=value]...`; without a file, the embedded default."""
    from cotdistill.config import load_config, load_quickstart, parse_overrides

    words = arguments or []
    if words and "=" not in words[0]:
        return load_config(Path(words[0]), parse_overrides(words[1:]))
    return load_quickstart(parse_overrides(words))


def do(arguments: list[str] | None, until: Stage) -> Run:
    config = read_config(arguments)
    from cotdistill.pipeline import run

    return run(config, until)


def show_results(this: Run, as_json: bool) -> None:
    from cotdistill import progress
    from cotdistill.evaluate import verdict

    show(this.results, as_json)
    for result in this.results:
        for warning in result.warnings:
            progress.say(f"warning: {result.method}: {warning}")
    progress.say(verdict(this.results))
    if not as_json:
        typer.echo((this.folder / "report.html").absolute())


def show(results: list[Any], as_json: bool) -> None:
    if as_json:
        from cotdistill.records import to_json

        typer.echo(json.dumps([to_json(result) for result in results], indent=1))
        return
    from rich.console import Console

    from cotdistill.report import terminal_table

    Console().print(terminal_table(results))


def main(arguments: list[str] | None = None, leave: Callable[[int], None] = sys.exit) -> None:
    """Entry point: every error of ours ends as its message and exit code, traceback only under --debug."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(words, prog_name="cotdistill", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer turns a Ctrl-C into this
            raise KeyboardInterrupt
        leave(code)
    except CotdistillError as error:
        if "--debug" in words:
            raise
        typer.echo(f"cotdistill: {error}", err=True)
        leave(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("cotdistill: interrupted. All that was answered is stored; the same command resumes.", err=True)
        leave(INTERRUPTED)
    except typer.Exit as end:
        leave(end.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(0)
    except Exception as error:
        show_usage = getattr(error, "show", None)  # click's own errors: the usage and the nearest option
        if show_usage is None or "--debug" in words:
            raise
        show_usage()
        leave(ConfigError.exit_code)
