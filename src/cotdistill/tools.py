"""Commands beside a run's own: tasks, init, score, import; serve and ask of a finished one. Parsing only, as cli.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cotdistill.errors import ConfigError, DataError
from cotdistill.output import AsJson, show

app = typer.Typer(rich_markup_mode=None)
tasks_app = typer.Typer(rich_markup_mode=None)
app.add_typer(tasks_app, name="tasks")


@tasks_app.callback(invoke_without_command=True)
def tasks_command(context: typer.Context, as_json: AsJson = False) -> None:
    """List the tasks that have a name; nothing is downloaded.

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
    """Bring a teacher's outputs into a store.

    Prints the config that answers from it.
    """
    import yaml

    from cotdistill.importing import import_completions

    named = {"question": question, "rationale": rationale, "answer_text": answer_text, "output": output, "gold": gold}
    columns = {field: column for field, column in named.items() if column is not None}
    sections = import_completions(files, store, model, temperature, max_tokens, form, answer_type, questions, columns)
    typer.echo(yaml.safe_dump(sections, sort_keys=False), nl=False)


@app.command("serve")
def serve_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run; it is only read.")],
    student: Annotated[str, typer.Option(help="A name in student/. None: the first fine_tune_cot.")] = "",
    host: Annotated[str, typer.Option(help="The address to listen at; this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    key_env: Annotated[
        str,
        typer.Option(help="The environment variable of the key that clients need. None: COTDISTILL_API_KEY, if set."),
    ] = "",
    no_key: Annotated[bool, typer.Option("--no-key", help="Serve other machines without a key.")] = False,
    slots: Annotated[int, typer.Option(min=1, help="Completions that are written at once.")] = 16,
    queue: Annotated[int, typer.Option(min=0, help="More that may wait; then requests get a 429.")] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a request may take, its wait included.")
    ] = 300.0,
) -> None:
    """Serve a run's student by OpenAI's API.

    For trying out and small use. Prints its address. Ctrl-C ends it.
    """
    from cotdistill.serving.asking import Limits
    from cotdistill.serving.start import serve

    serve(run, student, host, port, key_env, no_key, Limits(slots, queue, timeout))


@app.command("ask")
def ask_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run; it is only read.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask; -: what stdin has.")],
    student: Annotated[str, typer.Option(help="A name in student/. None: the first fine_tune_cot.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask a run's student one question.

    Prints its rationale and the answer that is read in it.
    """
    from cotdistill.serving.once import ask_once

    ask_once(run, question, student, as_json)
