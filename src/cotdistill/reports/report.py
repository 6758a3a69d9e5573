"""Results as one HTML file and as a terminal table: reads what a run left, computes nothing new.

    write_report(read_page(folder), folder / "report.html")

The page stands alone: no network, one inline script allowed by its hash, readable without it. What a
model wrote is hostile until shown otherwise: every `{{ }}` of the templates goes through `visible`,
which shows control and bidirectional characters by name, and is then escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.table import Column, Table
from rich.text import Text

from cotdistill.answers import AnswerType
from cotdistill.curate import REASONS
from cotdistill.methods import Method
from cotdistill.records import CATEGORIES, Generation, Pair, Question, Result, Score, write_atomic
from cotdistill.reports import charts, inspector
from cotdistill.reports.charts import Lengths
from cotdistill.reports.inspector import Row, fit, test_rows, training_rows, within
from cotdistill.reports.showing import make_environment, percent, visible
from cotdistill.results.compare import Comparison, Summary
from cotdistill.results.costs import Costs
from cotdistill.results.mistakes import KINDS, Mistake

MOST_BYTES = 4_900_000  # of a page
TESTED = 0.85  # share of the room that test questions have, where not all fits
MOST_WARNINGS = 4  # that stand there at once
Rationale = tuple[Generation, Score, str]  # and what became of it: kept, or why it was dropped

KIND_NAMES = {
    "calculation": "calculation error",
    "false_step": "right answer, false step",
    "repetition": "repetition",
    "truncated": "truncated",
    "form": "no answer in the right form",
    "misread": "question misread",
    "other": "other",
}
FATES = {
    "kept": "kept as a training example",
    **{reason: f"dropped: {why}" for reason, why in REASONS.items()},
    "left_out": "not among the training pairs",
    "failed": "the request failed",
}


@dataclass(frozen=True)
class Page:
    """All that a report shows; what is empty is not drawn.

    `predictions` are by method and seed, as `fine_tune_cot-0`, or by method alone where nothing was trained; so are
    `methods`, and `mistakes` by (question id, sample), those of rationales under "teacher". `ledger` is that of the
    run's folder, empty where no teacher was asked. `rationales` are those of training questions, all or a sample of
    the `n_asked` that there are. `dev_losses` are (epoch, loss), `dev_accuracies` (epoch, right, n), by student.
    `trained` are facts of a student of these rationales. `rules_measured` says how far the rules of `mistakes` can
    be trusted. `differences` are what several runs that are compared have not alike: a value each by setting.
    """

    name: str
    task: str
    answer_type: str
    n_train: int
    n_test: int
    source: str
    verdict: str
    results: Sequence[Result]
    ledger: Mapping[str, Any]
    questions: Sequence[Question]
    predictions: Mapping[str, tuple[Sequence[Generation], Sequence[Score]]]
    manifest: Mapping[str, Any]
    pairs: Sequence[Pair] = ()
    warnings: Sequence[str] = ()
    dev_losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    dev_accuracies: Mapping[str, Sequence[tuple[float, int, int]]] = field(default_factory=dict)
    summaries: Sequence[Summary] = ()
    comparisons: Sequence[Comparison] = ()
    costs: Costs | None = None
    mistakes: Mapping[str, Mapping[tuple[str, int], tuple[Mistake, ...]]] = field(default_factory=dict)
    rules_measured: str = ""
    teachers: Sequence[str] = ()
    student: str = ""
    rationales: Sequence[tuple[Question, Sequence[Rationale]]] = ()
    n_asked: int = 0
    trained: Mapping[str, Any] = field(default_factory=dict)
    teacher_lengths: Lengths = ()
    max_tokens: int = 0
    reader: AnswerType | None = None
    methods: Mapping[str, Method] = field(default_factory=dict)
    teacher_method: Method | None = None
    differences: Mapping[str, Sequence[str]] = field(default_factory=dict)


def write_report(page: Page, path: Path) -> None:
    """Write the page, atomically; the same page gives the same bytes."""
    environment = report_environment()
    draw = environment.get_template("report_questions.html.j2").module
    tests, training = test_rows(page), training_rows(page)
    shell = environment.get_template("report.html.j2")
    around = around_questions(page, tests)
    room = MOST_BYTES - len(shell.render(around, tests=[], training=[]).encode())
    spanned = partial(inspector.span_of, page)
    test_html = fit(tests, lambda row: draw.test_question(row, page, spanned), room)  # type: ignore[attr-defined]
    training_html = fit(training, lambda row: draw.training_question(row, page, FATES, spanned), room)  # type: ignore[attr-defined]
    share = max(TESTED * room, room - sum(len(html.encode()) for _, html in training_html))
    shown = sorted(within(test_html, int(share)))
    left = room - sum(len(html.encode()) for _, html in shown)
    taught = sorted(within(training_html, left))
    anchors = {f"q-{tests[i].question.id}" for i, _ in shown} | {f"t-{training[i].question.id}" for i, _ in taught}
    around["mistake_counts"] = count_mistakes(page, anchors)
    write_atomic(path, shell.render(around, tests=shown, training=taught))


@cache
def report_environment() -> jinja2.Environment:
    def read(name: str) -> str:
        return resources.files("cotdistill.reports").joinpath(name).read_text(encoding="utf-8")

    environment = make_environment(jinja2.FunctionLoader(read))
    environment.filters |= {"csp_hash": csp_hash, "marked": inspector.marked}
    environment.globals |= {"categories": CATEGORIES, "kinds": KIND_NAMES, "fates": FATES}
    # Ours, and no template: not escaped.
    environment.globals |= {name: Markup(read(f"report.{name}")) for name in ("css", "js")}  # noqa: S704
    return environment


def around_questions(page: Page, tests: Sequence[Row]) -> dict[str, Any]:
    """What the template needs for all but the questions."""
    facts = page.trained
    limit = facts.get("max_length") or 0
    lengths = [(tokens, n, n * (0 < limit < tokens)) for tokens, n in facts.get("lengths", ())]
    return {
        "page": page,
        "warnings": all_warnings(page),
        "most_warnings": MOST_WARNINGS,
        "summary": next((s for s in page.summaries if s.method == "fine_tune_cot"), None),
        "headline": headline(page.results),
        "accuracy_plot": charts.accuracy_plot(page.results),
        "loss_plot": charts.loss_plot(page.dev_losses),
        "dev_plot": charts.dev_plot(page.dev_accuracies),
        "flow": charts.flow(page.ledger, facts),
        "wide": charts.WIDE,
        "lengths": lengths,
        "length_limit": limit,
        "length_plot": charts.length_plot("lengths", lengths, limit, "limit"),
        "teacher_plot": charts.length_plot("teacher", page.teacher_lengths, page.max_tokens, "teacher.max_tokens"),
        "mistake_counts": count_mistakes(page, set()),
        "divided": sum(row.divided for row in tests),
    }


def all_warnings(page: Page) -> list[str]:
    """Of the page, and of the results, each once."""
    said = list(dict.fromkeys(page.warnings))
    of_results = [(r.label, warning) for r in page.results for warning in r.warnings]
    return said + [f"{name}: {w}" for name, w in of_results if w not in said and f"{name}: {w}" not in said]


def headline(results: Sequence[Result]) -> Result | None:
    """The result that a run is for: not the best one, which a careful reader would distrust."""
    for method in ("fine_tune_cot", "fine_tune"):
        if found := next((r for r in results if r.method == method), None):
            return found
    return results[0] if results else None


def count_mistakes(page: Page, anchors: Set[str]) -> dict[str, dict[str, tuple[int, str]]]:
    """By kind and method: how many texts have it, and the first of the page's `anchors` where one stands."""
    counts: dict[str, dict[str, tuple[int, str]]] = {kind: {} for kind in KINDS}
    for key, found in page.mistakes.items():
        start = "t-" if key == inspector.TEACHER else "q-"
        for (question_id, _), mistakes in found.items():
            for kind in {mistake.kind for mistake in mistakes}:
                n, first = counts[kind].get(key, (0, ""))
                anchor = f"{start}{question_id}"
                counts[kind][key] = n + 1, first or (anchor if anchor in anchors else "")
    return {kind: by_key for kind, by_key in counts.items() if by_key}


def terminal_table(results: Sequence[Result]) -> Table:
    """The results as a table for the terminal."""
    table = Table("method", *(Column(h, justify="right") for h in ("seed", "accuracy", "95% interval", "n")))
    for r in results:
        seed = "-" if r.seed is None else str(r.seed)
        numbers = (f"{percent(r.accuracy)}%", f"{percent(r.low)} to {percent(r.high)}") if r.n else ("-", "-")
        # As Text, for a string would be read as markup.
        table.add_row(Text(visible(r.method)), seed, *numbers, f"{r.n:,}")
    return table


def csp_hash(script: str) -> str:
    """The source that lets a content security policy run exactly this inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
