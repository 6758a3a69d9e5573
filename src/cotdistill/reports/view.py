"""A run's questions in the terminal: a table of them, or one with all that was written for it.

cotdistill view runs/quickstart --disagree
cotdistill view runs/quickstart word_problems-0-17
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cotdistill.errors import DataError
from cotdistill.records import Question
from cotdistill.reports.folders import read_page
from cotdistill.reports.inspector import Answer, Row, span_of, test_rows, training_rows
from cotdistill.reports.report import FATES, KIND_NAMES, Page
from cotdistill.reports.showing import shortened, visible

SYMBOLS = {"correct": "✓", "wrong": "✗", "no_answer": "∅", "truncated": "…", "error": "!", "kept": "✓", "failed": "!"}
STYLES = {"correct": "green", "kept": "green", "wrong": "red", "no_answer": "yellow", "truncated": "magenta"}


def show_questions(folder: Path, wrong: bool, disagree: bool, method: str, training: bool) -> None:
    """Print a line a question: on a terminal as a table, else with tabs between."""
    page = read_page(folder)
    refuse_other_methods(page, method)
    rows = training_rows(page) if training else test_rows(page)
    keys = ["teacher"] if training else [method] if method else list(page.predictions)
    if wrong:
        rows = [row for row in rows if any(not_right(a, training) for key in keys for a in counted(row, key, training))]
    if disagree:
        rows = [row for row in rows if row.divided]
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(as_table(rows, keys, training))
    else:
        print("\t".join(["id", *map(visible, keys), "answer", "question"]))
        for row in rows:
            verdicts = (",".join(a.fate or a.category for a in counted(row, key, training)) for key in keys)
            print(
                "\t".join(
                    [one_line(row.question.id), *verdicts, one_line(row.question.answer), one_line(row.question.text)]
                )
            )
    if rows:
        note = f"{len(rows):,} questions. One of them: cotdistill view RUN QUESTION_ID"
    elif wrong or disagree:
        note = "0 questions are so."
    else:  # of training; there always are test questions
        note = "0 questions: this run has no curated rationales yet."
    Console(stderr=True, highlight=False).print(note, markup=False)


def counted(row: Row, key: str, training: bool) -> list[Answer]:
    """The answer of a method, of several samples the one that counts; all of the teacher's."""
    return row.of(key) if training else row.of(key)[:1]


def not_right(answer: Answer, training: bool) -> bool:
    """Whether it counts against a method; what failed or was not asked does not."""
    return answer.fate not in ("kept", "failed") if training else answer.category in ("wrong", "no_answer", "truncated")


def as_table(rows: Sequence[Row], keys: Sequence[str], training: bool) -> Table:
    table = Table(
        "id",
        *(Column(visible(key), justify="center") for key in keys),
        Column("answer", justify="right", max_width=16, no_wrap=True),
        Column("question", no_wrap=True, overflow="ellipsis", ratio=1),
        expand=True,
    )
    for row in rows:
        verdicts = [Text(" ").join(verdict(a, not training) for a in counted(row, key, training)) for key in keys]
        q = row.question
        table.add_row(Text(one_line(q.id)), *verdicts, Text(one_line(q.answer)), Text(one_line(q.text)))
    return table


def verdict(answer: Answer, short: bool = False) -> Text:
    category = answer.fate or answer.category
    symbol = SYMBOLS.get(category, "-")
    return Text(symbol if short else f"{symbol} {category.replace('_', ' ')}", STYLES.get(category, "dim"))


def show_question(folder: Path, question_id: str, method: str = "") -> None:
    """Print one question, test or training: its rationales, what each method wrote, and how it was judged."""
    page = read_page(folder, only=question_id)
    refuse_other_methods(page, method)
    tests = [row for row in test_rows(page) if row.question.id == question_id]
    rows = [*tests, *(row for row in training_rows(page) if row.question.id == question_id)]
    if not rows:
        known = [q.id for q in page.questions]
        close = difflib.get_close_matches(question_id, known, n=1) or known[:1]
        near = f" Did you mean {visible(close[0])}?" if close else ""
        raise DataError(
            f"{folder}: no question {visible(question_id)!r}.{near}\n"
            f"`cotdistill view {folder}` lists them, with --training the others."
        )
    console = Console(highlight=False)
    for row in rows:
        kind = "test question" if row in tests else "training question"
        say(console, f"{row.question.id}, {kind}", "bold")
        say(console, row.question.text)
        for number, choice in enumerate(row.question.choices):
            say(console, f"  ({chr(ord('A') + number)}) {choice}")
        say(console, f"answer: {row.question.answer}", "bold")
        for answer in row.answers:
            if not method or answer.key == method or answer.fate:
                show_answer(console, page, row.question, answer)


def show_answer(console: Console, page: Page, question: Question, answer: Answer) -> None:
    g, s = answer.generation, answer.score
    name = f"teacher, sample {g.index}" if answer.fate and g else answer.key
    read_as = f", read as {s.predicted}" if s and s.predicted is not None else ""
    console.print()
    console.print(
        Text.assemble((visible(name), "bold"), "  ", verdict(answer), visible(one_line(read_as))), soft_wrap=True
    )
    if answer.fate:
        say(console, FATES[answer.fate], "dim")
    if g is None:
        return
    if g.error:
        say(console, g.error)
        return
    found = span_of(page, question, answer)
    console.print(lit(g.text, found[1] if found and not found[0] else None), soft_wrap=True)
    if g.answer_text is not None:
        say(console, "then asked for the answer:", "dim")
        console.print(lit(g.answer_text, found[1] if found and found[0] else None), soft_wrap=True)
    for mistake in answer.mistakes:
        say(console, f"found: {KIND_NAMES[mistake.kind]} {mistake.evidence}", "dim")


def lit(text: str, span: tuple[int, int] | None) -> Text:
    """A text, shortened where it is very long, with the place of its answer lit."""
    first, note, last = shortened(text)
    if span and span[1] <= len(first):
        start, end = span
        return Text.assemble(
            visible(first[:start]), (visible(first[start:end]), "reverse"), visible(first[end:]), *rest(note, last)
        )
    return Text.assemble(visible(first), *rest(note, last))


def rest(note: str, last: str) -> list[str]:
    return [f"\n[{note}]\n", visible(last)] if note else []


def say(console: Console, text: str, style: str = "") -> None:
    first, note, last = shortened(text)
    console.print(Text.assemble(visible(first), *rest(note, last), style=style), soft_wrap=True)


def one_line(text: str) -> str:
    shown: str = visible(" ".join(text[:400].split()))
    return shown


def refuse_other_methods(page: Page, method: str) -> None:
    if method and method not in page.predictions:
        raise DataError(
            f"--method: no {visible(method)!r} in this run; it has {', '.join(page.predictions) or 'none yet'}."
        )
