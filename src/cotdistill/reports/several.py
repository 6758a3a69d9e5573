"""Several runs beside each other: a table for a paper, a README or a spreadsheet, and one page.

print(table(read_pages([Path("runs/a"), Path("runs/b")]), "md"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup, escape

from cotdistill.checksums import renew
from cotdistill.config import load_config
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question
from cotdistill.reports.csv_files import Cell, as_csv
from cotdistill.reports.folders import read_page, rights_of, settings
from cotdistill.reports.report import Page, write_report
from cotdistill.reports.showing import percent, visible
from cotdistill.results.compare import comparisons, summaries

FORMATS = ("md", "csv", "html")
Pages = Mapping[str, Page]  # by what each run is called


def read_pages(folders: Sequence[Path]) -> dict[str, Page]:
    """The pages of runs, by the name of the folder, or by its path where two have one name."""
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ConfigError(
            f"{missing[0]}: no such folder.\n"
            "Name folders of runs, such as runs/quickstart, or a config that ends in .yaml and what it changes."
        )
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("report: one run is named twice. Name each once.")
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else list(map(str, folders))
    return {name: read_page(folder) for name, folder in zip(names, folders, strict=True)}


def write_pages(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Write report.html of one run into its folder, or compare.html of several beside the first; returns its path."""
    pages = read_pages(folders)
    if len(pages) == 1:
        path = out or folders[0] / "report.html"
        write_report(next(iter(pages.values())), path)
        if out is None:
            renew(folders[0], path.name)
    else:
        path = out or folders[0].resolve().parent / "compare.html"
        configs = [settings(load_config(folder / "config.yaml")) for folder in folders]
        write_report(compare_page(pages, configs), path)
    return path


def table(pages: Pages, form: str) -> str:
    """The results of runs in one of FORMATS; rounded but for csv, which has a line a seed and fractions."""
    if not any(page.results for page in pages.values()):
        raise DataError("report: there are no results in these runs. `cotdistill evaluate` makes them.")
    if form == "csv":
        return spreadsheet(pages)
    head, rows = summary_rows(pages)
    note = f"{same_in_all(pages)} Accuracy with its 95% interval on n test questions."
    return as_markdown(head, rows, note) if form == "md" else as_html(head, rows, note)


# What is said once where it is the same in all runs, and is a column where it is not.
COLUMNS: dict[str, Callable[[Page], str]] = {
    "Task": lambda page: page.task,
    "Teacher": lambda page: ", ".join(page.teachers) or "none",
    "Student": lambda page: page.student,
}


def same_in_all(pages: Pages) -> str:
    alike = {name: {of(page) for page in pages.values()} for name, of in COLUMNS.items()}
    said = ", ".join(f"{name.lower()} {visible(found.pop())}" for name, found in alike.items() if len(found) == 1)
    warning = "" if same_questions(pages) else " NOT measured on the same test questions."
    return f"{said[:1].upper()}{said[1:]}.{warning}" if said else warning.strip()


def summary_rows(pages: Pages) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a method over its seeds where that is known, else each seed."""
    columns = {name: of for name, of in COLUMNS.items() if len({of(page) for page in pages.values()}) > 1}
    seeds = "Seeds" if any(page.summaries for page in pages.values()) else "Seed"
    head = ["Run", *columns, "Method", seeds, "Accuracy, %", "95% interval", "n"]
    rows = []
    for name, page in pages.items():
        start = [name, *(of(page) for of in columns.values())]
        for s in page.summaries:
            mean = percent(s.mean) if s.spread is None else f"{percent(s.mean)} ± {percent(s.spread)}"
            rows.append([*start, s.label, str(s.seeds), mean, f"{percent(s.low)}–{percent(s.high)}", f"{s.n:,}"])  # noqa: RUF001
        for r in [] if page.summaries else page.results:
            seed = "–" if r.seed is None else str(r.seed)  # noqa: RUF001
            found = [percent(r.accuracy), f"{percent(r.low)}–{percent(r.high)}"] if r.n else ["–", "–"]  # noqa: RUF001
            rows.append([*start, r.method, seed, *found, f"{r.n:,}"])
    return head, [[visible(cell) for cell in row] for row in rows]


def as_markdown(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    cells = [
        [" ".join(cell.split()).replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in [head, *rows]
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = range(len(head) - 4, len(head))  # columns aligned to the right
    lines = [
        "| "
        + " | ".join(
            f"{c:>{w}}" if i in numbers else f"{c:<{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if i in numbers else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:], "", note, ""])


def as_html(head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    titles = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in head)
    lines = [
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(c) for c in row)) for row in rows
    ]
    body = "\n".join(lines)
    head_of = f"<caption>{escape(note)}</caption>\n<thead><tr>{titles}</tr></thead>"
    return f"<table>\n{head_of}\n<tbody>\n{body}\n</tbody>\n</table>\n"


def spreadsheet(pages: Pages) -> str:
    head = ["run", "task", "teacher", "student", "method", "seed", "accuracy", "low", "high", "n", "errors"]
    rows: list[list[Cell]] = []
    for name, page in pages.items():
        for r in page.results:
            numbers: list[Cell] = [r.accuracy, r.low, r.high] if r.n else [None] * 3
            start = [name, *(of(page) for of in COLUMNS.values()), r.method, r.seed]
            rows.append([*start, *numbers, r.n, r.categories.get("error", 0)])
    return as_csv(head, rows)


def same_questions(pages: Pages) -> bool:
    """Whether all runs were measured on the same test questions."""
    return len({frozenset((q.text, q.answer) for q in page.questions) for page in pages.values()}) == 1


def compare_page(pages: Pages, configs: Sequence[Mapping[str, str]]) -> Page:
    """One page of several: each method of each run is a method of its own, `RUN: METHOD`."""
    first = next(iter(pages.values()))
    if ids_clash(pages):
        pages = {name: with_own_ids(name, page) for name, page in pages.items()}
    asked = {question.id: question for page in pages.values() for question in page.questions}
    same = same_questions(pages)
    kinds = {page.answer_type for page in pages.values()}
    n = f"the same {len(asked)} test questions" if same else "test questions that are not the same"
    found = {
        (f"{name}: {method}", seed): right
        for name, page in pages.items()
        for (method, seed), right in rights_of(page.results, page.predictions).items()
    }
    main = {key: right for key, right in found.items() if key[0].endswith(": fine_tune_cot")}
    keys = [key for key in configs[0] if len({config.get(key) for config in configs}) > 1]
    return replace(
        first,
        name=" · ".join(pages),
        task=", ".join(dict.fromkeys(page.task for page in pages.values())),
        answer_type=", ".join(sorted(kinds)),
        n_test=len(asked),
        source="",
        verdict=f"{len(pages)} runs, measured on {n}."
        + ("" if same else " Their accuracies say little about which is better."),
        results=[replace(r, method=f"{name}: {r.method}") for name, page in pages.items() for r in page.results],
        ledger={},
        questions=list(asked.values()),
        predictions={f"{name}: {k}": found for name, page in pages.items() for k, found in page.predictions.items()},
        mistakes={
            f"{n}: {k}": found for n, page in pages.items() for k, found in page.mistakes.items() if k != "teacher"
        },
        methods={f"{name}: {k}": method for name, page in pages.items() for k, method in page.methods.items()},
        reader=first.reader if len(kinds) == 1 else None,
        manifest={name: page.manifest for name, page in pages.items()},
        warnings=[f"{name}: {warning}" for name, page in pages.items() for warning in page.warnings],
        dev_losses={f"{name}: {k}": found for name, page in pages.items() for k, found in page.dev_losses.items()},
        dev_accuracies={
            f"{name}: {k}": found for name, page in pages.items() for k, found in page.dev_accuracies.items()
        },
        differences={"setting": list(pages)} | {key: [config.get(key, "") for config in configs] for key in keys},
        pairs=(),
        summaries=summaries(found),
        comparisons=comparisons(main) if same else (),  # others can be seen, and would weaken what these show
        costs=None,
        rationales=(),
        trained={},
        teacher_lengths=(),
    )


def ids_clash(pages: Pages) -> bool:
    """Whether two runs call different questions by one id."""
    asked: dict[str, Question] = {}
    return any(
        (first := asked.setdefault(q.id, q)).text != q.text or first.answer != q.answer
        for page in pages.values()
        for q in page.questions
    )


def with_own_ids(name: str, page: Page) -> Page:
    """The page with ids that no other run has: two tasks may both have a question 1."""
    return replace(
        page,
        questions=[replace(q, id=f"{name}: {q.id}") for q in page.questions],
        predictions={
            key: (
                [replace(g, question_id=f"{name}: {g.question_id}") for g in generations],
                [replace(s, question_id=f"{name}: {s.question_id}") for s in scores],
            )
            for key, (generations, scores) in page.predictions.items()
        },
        mistakes={
            key: {(f"{name}: {question_id}", index): m for (question_id, index), m in found.items()}
            for key, found in page.mistakes.items()
        },
    )
