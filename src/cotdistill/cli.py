"""The command line: one command a verb, parsing only. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotdistill import __version__, ranks
from cotdistill.errors import ConfigError, CotdistillError, DataError

if TYPE_CHECKING:
    from cotdistill.config import Config
    from cotdistill.pipeline import Stage
    from cotdistill.plan import Plan
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
def generate_command(
    arguments: ConfigArgs = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it will ask and cost; ask nothing.")] = False,
    pilot: Annotated[
        int, typer.Option(min=0, help="Ask so many questions first, to say it from them; they are kept.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Ask the teacher; every completion is stored before it counts."""
    if dry_run or pilot:
        from cotdistill.pipeline import plan_teachers

        show_plans(plan_teachers(read_config(arguments), pilot), as_json)
        return
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
    """Do what is missing, and measure every method on the test questions."""
    if plan:
        show_power(read_config(arguments), as_json)
        return
    if judge or judge_method:
        show_judged(arguments, judge, judge_method, as_json)
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
    """Write report.html of a run; of several, compare.html with all beside each other."""
    from cotdistill.reports.several import FORMATS, read_pages, table, write_pages

    if form and form not in FORMATS:
        raise ConfigError(f"--format: {form!r} is not one of {', '.join(FORMATS)}.")
    words = arguments or []
    if not words or "=" in words[0] or words[0].endswith((".yaml", ".yml")) or Path(words[0]).is_file():
        folders = [do(arguments, "report").folder]
    else:
        folders = [Path(word) for word in words]
    if form:
        sys.stdout.write(table(read_pages(folders), form))
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
    """Show a run's questions in the terminal: what the teacher and each method wrote, and the verdicts."""
    from cotdistill.reports.view import show_question, show_questions

    if question_id:
        show_question(run, question_id, method)
    else:
        show_questions(run, wrong, disagree, method, training)


@app.command("verify")
def verify_command(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")], as_json: AsJson = False
) -> None:
    """Hash every file of a run and make its numbers again from the raw text; exit 3 if something differs."""
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
    to: Annotated[str, typer.Option(help="lm-eval: a task of EleutherAI's harness, with its questions.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
) -> None:
    """Write a run's students for another tool, and print the command that uses each."""
    from cotdistill.export import export

    for command in export(run, to, out):
        typer.echo(command)


@app.command("sweep")
def sweep_command(
    file: Annotated[Path, typer.Argument(help="A sweep file: base, name, grid.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[SECTION.FIELD=VALUE]...")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each a process with a log of its own.")] = 1,
    only: Annotated[str | None, typer.Option(metavar="RUN", help="Do this one run of the grid.")] = None,
    as_json: AsJson = False,
) -> None:
    """Do one run for each point of a grid; they share what they can. Exit code 1 if any failed."""
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


tasks_app = typer.Typer(rich_markup_mode=None)
app.add_typer(tasks_app, name="tasks")


@tasks_app.callback(invoke_without_command=True)
def tasks_command(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tasks that have a name; nothing is downloaded for that.

    Tab-separated where stdout is no terminal. `random` and `majority` are accuracies in percent, of guessing and
    of the best constant answer.
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from cotdistill.tasks.listing import rows, table

    console = Console()
    if as_json:
        typer.echo(json.dumps(rows(), indent=1))
    elif console.is_terminal:
        console.print(table(rows()))
    else:
        listed = rows()
        typer.echo("\t".join(listed[0]))
        for row in listed:
            typer.echo("\t".join(map(str, row.values())))


@tasks_app.command("check")
def tasks_check_command(name: Annotated[str, typer.Argument(help="A name of the list.")]) -> None:
    """Load a task, and prove that each known answer scores as correct by both rules; exit 3 if not."""
    from cotdistill.answers import RULES
    from cotdistill.config import TaskConfig
    from cotdistill.tasks import load_task
    from cotdistill.tasks.listing import baselines, unscorable

    task = load_task(TaskConfig(name=name))
    random, majority = baselines(task)
    typer.echo(f"{name}: {len(task.train)} train, {len(task.test)} test, {task.answer_type}")
    typer.echo(f"random {random:.2f}%, majority {majority:.2f}%")
    for note in task.notes:
        typer.echo(f"note: {note}")
    wrong = {rule: ids for rule in RULES if (ids := unscorable(task, rule))}
    for rule, ids in wrong.items():
        typer.echo(f"{rule}: {' '.join(ids)}")
    if wrong:
        raise DataError(f"{name}: known answers that do not score as correct by the rule {' and '.join(wrong)}.")
    typer.echo(f"every known answer scores as correct by {' and '.join(RULES)}")


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
    """Check Python, packages, teacher (seven tiny requests), student and disk, and say what to do."""
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
    file: Annotated[Path, typer.Argument(help="JSON lines of any tool, or a run's predictions/*.jsonl.")],
    task: Annotated[str, typer.Option(help="A name from `cotdistill tasks`, for its answer type.")] = "",
    answer_type: Annotated[str, typer.Option(help="number, integer, choice, yes_no, text, date or math.")] = "",
    rule: Annotated[str, typer.Option(help="typed: with care; paper: the authors' evaluator.")] = "typed",
    output: Annotated[str, typer.Option(help="Column of what was written. None: output, or text.")] = "",
    answer: Annotated[str, typer.Option(help="Column of the known answer. None: answer, or gold.")] = "",
    choices: Annotated[str, typer.Option(help="Column of the list of options. None: choices.")] = "",
    method: Annotated[str, typer.Option(help="The method whose form the output has. None: any form.")] = "",
    out: Annotated[Path | None, typer.Option(help="Write how each row was judged to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score what models wrote: accuracy with its 95% interval."""
    from cotdistill import progress
    from cotdistill.evaluate import score_file
    from cotdistill.records import to_json, write_atomic

    if bool(task) == bool(answer_type):
        raise ConfigError("score needs one of --task NAME and --answer-type TYPE, such as --answer-type number.")
    options = 0
    if task:
        from cotdistill.tasks import answer_type_of

        answer_type, options = answer_type_of(task)
    columns = {"output": output, "answer": answer, "choices": choices}
    result, scores = score_file(file, answer_type, rule, method, columns, options)
    if out is not None:
        rows = ({"correct": s.correct, "category": s.category, "predicted": s.predicted} for s in scores)
        write_atomic(out, "".join(json.dumps(row) + "\n" for row in rows))
    if as_json:
        typer.echo(json.dumps({"correct": result.categories["correct"], **to_json(result)}, indent=1))
    else:
        show([result], as_json)
        typer.echo(", ".join(f"{count} {category}" for category, count in result.categories.items()))
    for warning in result.warnings:
        progress.say(f"warning: {warning}")


@app.command("import")
def import_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="A teacher's outputs. Several: each a further sample.")
    ],
    store: Annotated[Path, typer.Option(help="The store to bring them into.")],
    model: Annotated[str, typer.Option(help="Who wrote them.")],
    temperature: Annotated[float, typer.Option(help="They were sampled at.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Limit of the rationale, in tokens.")] = 128,
    form: Annotated[str, typer.Option(help="authors, lm_eval, nemo, kojima or plain; none: told from the file.")] = "",
    answer_type: Annotated[str, typer.Option(help="The task's, for outputs that hold their answer.")] = "",
    questions: Annotated[Path | None, typer.Option(help="Write a task file (.jsonl) of the questions.")] = None,
    question: Annotated[str | None, typer.Option(help="Column of the question.")] = None,
    rationale: Annotated[str | None, typer.Option(help="Column of the rationale.")] = None,
    answer_text: Annotated[str | None, typer.Option(help="Column of what followed the answer prompt.")] = None,
    output: Annotated[str | None, typer.Option(help="Column of one text that holds rationale and answer.")] = None,
    gold: Annotated[str | None, typer.Option(help="Column of the known answer.")] = None,
) -> None:
    """Bring a teacher's outputs into a store, and print the config that answers from it."""
    import yaml

    from cotdistill.importing import import_completions

    named = {"question": question, "rationale": rationale, "answer_text": answer_text, "output": output, "gold": gold}
    columns = {field: column for field, column in named.items() if column is not None}
    sections = import_completions(files, store, model, temperature, max_tokens, form, answer_type, questions, columns)
    typer.echo(yaml.safe_dump(sections, sort_keys=False), nl=False)


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


def show_plans(plans: list[Plan], as_json: bool) -> None:
    from dataclasses import asdict

    from cotdistill.plan import describe

    if as_json:
        typer.echo(json.dumps([asdict(plan) for plan in plans], indent=1))
    else:
        typer.echo("\n".join(line for plan in plans for line in describe(plan)))


def show_judged(arguments: list[str] | None, n: int, method: str, as_json: bool) -> None:
    if not n:
        raise ConfigError("--judge-method needs --judge N: how many predictions are labelled.")
    config = read_config(arguments)
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
    except Exception as error:
        show_usage = getattr(error, "show", None)  # click's own errors: the usage and the nearest option
        if show_usage is None or "--debug" in words:
            raise
        show_usage()
        leave(ConfigError.exit_code)
