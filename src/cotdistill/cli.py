"""The command line: one command a verb, parsing only. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cotdistill import __version__, ranks, tools, tools_store
from cotdistill.errors import ConfigError, CotdistillError, DataError
from cotdistill.output import AsJson, show_judged, show_plans, show_power, show_results

if TYPE_CHECKING:
    from cotdistill.config import Config
    from cotdistill.pipeline import Stage
    from cotdistill.runs import Run

INTERRUPTED = 130
MOST_SHOWN = 600  # characters of a line

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
def generate_command(
    arguments: ConfigArgs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will ask and cost; ask nothing.")] = False,
    pilot: Annotated[
        int, typer.Option(min=0, help="Ask so many questions first, to say it from them; they are kept.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask the teacher; every completion is stored before it counts."""
    if dry_run and pilot:
        raise ConfigError(f"--dry-run asks nothing, and --pilot asks {pilot} questions. Leave one of the two out.")
    if dry_run or pilot:
        from cotdistill.pipeline import plan_teachers

        show_plans(plan_teachers(read_config(arguments), pilot), as_json)
        return
    path = do(arguments, "generate").folder / "generations.jsonl"
    typer.echo(json.dumps({"generations": str(path)}) if as_json else path)


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
def evaluate_command(
    arguments: ConfigArgs = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the test questions can show, before a run; ask nothing.")
    ] = False,
    judge: Annotated[
        int, typer.Option(min=0, help="Have so many predictions labelled by the config's judge, beside the rules.")
    ] = 0,
    judge_method: Annotated[
        str, typer.Option(help="Whose: a name of predictions/, as fine_tune-0. None: fine_tune_cot's first.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Measure every method on the test questions."""
    if plan:
        show_power(read_config(arguments), as_json)
        return
    if judge or judge_method:
        if not judge:
            raise ConfigError("--judge-method needs --judge N: how many predictions are labelled.")
        show_judged(read_config(arguments), judge, judge_method, as_json)
        return
    show_results(do(arguments, "evaluate"), as_json)


@app.command("report")
def report_command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]... | [CONFIG.yaml] [SECTION.FIELD=VALUE]...",
            help="Folders of runs, which are only read; or a config, whose run is done as far as it is missing.",
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="md, csv or html: print a table for a paper or a README instead.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Of several runs: the page to write. None: beside them.")] = None,
) -> None:
    """Write the page of a run, or of several beside each other.

    report.html lies in the run's folder, compare.html beside the first run.
    """
    from cotdistill.reports.several import FORMATS, read_pages, table, write_pages

    if form and form not in FORMATS:
        raise ConfigError(f"--format: {form!r} is not one of {', '.join(FORMATS)}.")
    if form and out:
        raise ConfigError("--out: a table goes to stdout. Leave --format out for a page, or write: > FILE.")
    words = arguments or []
    if not words or "=" in words[0] or words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file():
        folders = [do(arguments, "report").folder]
        if not (form or out):  # the run has written it
            typer.echo(folders[0] / "report.html")
            return
    else:
        folders = [Path(word) for word in words]
    if form:
        typer.echo(table(read_pages(folders), form), nl=False)
    else:
        typer.echo(write_pages(folders, out))


@app.command("view")
def view_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run; it is only read.")],
    question_id: Annotated[str, typer.Argument(metavar="[QUESTION_ID]", help="None: a table of all.")] = "",
    wrong: Annotated[bool, typer.Option("--wrong", help="Only questions that a method has not right.")] = False,
    disagree: Annotated[bool, typer.Option("--disagree", help="Only those that some have right and some not.")] = False,
    method: Annotated[str, typer.Option(help="Only this one, such as fine_tune_cot-0.")] = "",
    training: Annotated[bool, typer.Option("--training", help="Training questions, and their rationales.")] = False,
) -> None:
    """Show a run's questions, texts and verdicts in the terminal."""
    from cotdistill.reports.view import show_question, show_questions

    if question_id:
        show_question(run, question_id, method)
    else:
        show_questions(run, wrong, disagree, method, training)


@app.command("verify")
def verify_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")], as_json: AsJson = False
) -> None:
    """Check a run: every hash, and every number made again.

    The numbers are made from the raw text; exit 3 if something differs.
    """
    from dataclasses import asdict

    from cotdistill.config_file import shown
    from cotdistill.verify import verify

    checks = verify(run)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        for check in checks:
            typer.echo(shown(f"{check.state:11} {check.name}: {check.found}", MOST_SHOWN))
    if any(check.state == "BAD" for check in checks):
        raise typer.Exit(DataError.exit_code)


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    to: Annotated[str, typer.Option(help="hf, gguf or hub, of students; openai-jsonl or parquet, of pairs; lm-eval.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write to. None: exports/RUN-FORMAT.")] = None,
    student: Annotated[str, typer.Option(help="Only this one, such as fine_tune_cot-0. None: all.")] = "",
    converter: Annotated[Path | None, typer.Option(help="gguf: llama.cpp's convert_hf_to_gguf.py.")] = None,
    push: Annotated[str, typer.Option(metavar="OWNER/NAME", help="hub: send to it, by HF_TOKEN. None: list.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="hub: list what would be sent.")] = False,
    public: Annotated[bool, typer.Option("--public", help="hub: for all to see.")] = False,
) -> None:
    """Write a run's students or pairs for other tools.

    Checked against the trained student, exit 3 if it is another. Prints the command that uses each.
    """
    from cotdistill.export import export
    from cotdistill.exports.hub import Target

    target = Target(push, dry_run, public) if push or dry_run or public else None
    for line in export(run, to, out, student, converter, target):
        typer.echo(line)


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A sweep file: base, name, grid.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.FIELD=VALUE]...")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each a process with a log of its own.")] = 1,
    only: Annotated[str | None, typer.Option(metavar="RUN", help="Do this one run of the grid.")] = None,
    as_json: AsJson = False,
) -> None:
    """Do one run for each point of a grid, sharing what they can.

    Exit code 1 if any failed.
    """
    from cotdistill.config_file import parse_overrides
    from cotdistill.sweeps.side_by_side import end_with_the_sweep
    from cotdistill.sweeps.sweep import say_failures, sweep

    end_with_the_sweep()
    summary = sweep(file, parse_overrides(overrides or []), jobs, only)
    if as_json:
        typer.echo(json.dumps(summary, indent=1))
    else:
        from cotdistill.sweeps.page import show_sweep

        show_sweep(summary)
    say_failures(summary)
    if any("error" in run for run in summary["runs"]):
        raise typer.Exit(1)


@app.command("doctor")
def doctor_command(arguments: ConfigArgs = None) -> None:
    """Check Python, packages, teacher, student and disk.

    The teacher is sent seven tiny requests. Says what to do where something is wrong.
    """
    from cotdistill.doctor import checks

    bad = 0
    for check in checks(read_config(arguments)):
        bad += not check.ok
        typer.echo(f"{'ok ' if check.ok else 'BAD'} {check.name}: {check.found}")
        if not check.ok:
            typer.echo(f"    {check.fix}")
    if bad:
        raise typer.Exit(ConfigError.exit_code)


app.add_typer(tools.app)  # without a name: its commands are the program's own
app.add_typer(tools_store.app, name="store")


def read_config(arguments: list[str] | None) -> Config:
    """The config of `[FILE.yaml] [section.field=value]...`; without a file, the embedded default."""
    from cotdistill.config import load_config, load_quickstart
    from cotdistill.config_file import parse_overrides

    words = arguments or []
    if words and "=" not in words[0]:
        return load_config(Path(words[0]), parse_overrides(words[1:]))
    return load_quickstart(parse_overrides(words))


def do(arguments: list[str] | None, until: Stage) -> Run:
    config = read_config(arguments)
    from cotdistill.pipeline import run

    return run(config, until)


def fitted(line: str) -> str:
    """A line of a message, without the middle where a path or a name in it is very long."""
    return line if len(line) <= MOST_SHOWN else f"{line[: MOST_SHOWN // 2]} ... {line[-MOST_SHOWN // 3 :]}"


def beside_others(leave: Callable[[int], None]) -> Callable[[int], None]:
    """Meet the other processes of this command; returns how to leave them, as `leave`."""
    ranks.join()

    def leave_them(code: int) -> None:
        ranks.part()
        leave(code)

    return leave_them


def main(arguments: list[str] | None = None, leave: Callable[[int], None] = sys.exit) -> None:
    """Entry point: every error of ours ends as its message and exit code, traceback only under --debug."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, TextIOWrapper):  # a question may have letters that the locale has not
        sys.stdout.reconfigure(errors="backslashreplace")
    if ranks.processes() > 1:
        leave = beside_others(leave)
    try:
        if not ranks.first():
            from cotdistill.students.train import help_to_train

            return leave(help_to_train())
        code = app(words, prog_name="cotdistill", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer turns a Ctrl-C into this
            raise KeyboardInterrupt
        leave(code)
    except CotdistillError as error:
        if "--debug" in words:
            raise
        typer.echo("\n".join(map(fitted, f"cotdistill: {error}".split("\n"))), err=True)
        leave(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("cotdistill: interrupted. All that was answered is stored; the same command resumes.", err=True)
        leave(INTERRUPTED)
    except typer.Exit as end:
        leave(end.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        leave(0)
    except OSError as error:  # no room for stdout, a folder where a file is to be
        if "--debug" in words:
            raise
        typer.echo(fitted(f"cotdistill: {error}. --debug shows where."), err=True)
        leave(DataError.exit_code)
    except Exception as error:
        show_usage = getattr(error, "show", None)  # click's own errors: the usage and the nearest option
        if show_usage is None or "--debug" in words:
            raise
        show_usage()
        leave(ConfigError.exit_code)
