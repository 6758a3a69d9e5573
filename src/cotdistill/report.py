"""Results as one HTML file and as a terminal table: reads what a run left, computes nothing new.

    write_report(Page(name="date", task="date_understanding", ...), run.folder / "report.html")

The page stands alone: no network, one inline script allowed by its hash, readable without it. What a
model wrote is hostile until shown otherwise: every `{{ }}` of the template goes through `visible`,
which shows control and bidirectional characters by name, and is then escaped.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.table import Column, Table
from rich.text import Text

from cotdistill.compare import Comparison, Summary
from cotdistill.costs import Costs
from cotdistill.mistakes import Mistake
from cotdistill.records import CATEGORIES, Generation, Pair, Question, Result, Score, write_atomic

# C0 but \t and \n, C1, direction marks and overrides, line separators, BOM, tag characters, and lone
# surrogates, which UTF-8 cannot hold. U+200D stays: emoji and several scripts need it.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

# Colours that stand for the page's own, so that a plot follows the light or dark theme.
INK, BAR, GRID = "#010203", "#010204", "#010205"
THEME = {INK: "currentColor", BAR: "var(--bar)", GRID: "var(--line)"}
LINES = (("#3b82f6", "o"), ("#d97706", "s"), ("#059669", "D"), ("#db2777", "^"))  # colour, marker


@dataclass(frozen=True)
class Page:
    """All that a report shows.

    `predictions` are by method and seed, as `fine_tune_cot-0`, or by method alone where nothing was
    trained. `ledger` is that of the run's folder, empty where no teacher was asked. `dropped` are
    rationales that were not kept. `dev_losses` are (epoch, loss), and
    `dev_accuracies` (epoch, right, n), by method and seed; `mistakes` by those, then question id and sample.
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
    dropped: Sequence[tuple[Question, Generation, Score]] = ()
    warnings: Sequence[str] = ()
    dev_losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    dev_accuracies: Mapping[str, Sequence[tuple[float, int, int]]] = field(default_factory=dict)
    mistakes: Mapping[str, Mapping[tuple[str, int], tuple[Mistake, ...]]] = field(default_factory=dict)
    summaries: Sequence[Summary] = ()
    comparisons: Sequence[Comparison] = ()
    costs: Costs | None = None


@dataclass(frozen=True)
class Answer:
    """What one method wrote for one question; `category` is `not_asked` where it wrote nothing."""

    key: str
    category: str
    generation: Generation | None = None
    score: Score | None = None


def write_report(page: Page, path: Path) -> None:
    """Write the page, atomically; the same page gives the same bytes."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"visible": visible, "percent": percent, "csp_hash": csp_hash}
    template = resources.files("cotdistill").joinpath("report.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(template).render(
        page=page,
        browser=list(answers_by_question(page)),
        categories=CATEGORIES,
        accuracy_plot=accuracy_plot(page.results),
        loss_plot=loss_plot(page.dev_losses),
        dev_plot=dev_plot(page.dev_accuracies),
        label=label,
    )
    write_atomic(path, html)


def terminal_table(results: Sequence[Result]) -> Table:
    """The results as a table for the terminal."""
    table = Table("method", *(Column(h, justify="right") for h in ("seed", "accuracy", "95% interval", "n")))
    for r in results:
        seed = "-" if r.seed is None else str(r.seed)
        numbers = (f"{percent(r.accuracy)}%", f"{percent(r.low)} to {percent(r.high)}") if r.n else ("-", "-")
        # As Text, for a string would be read as markup.
        table.add_row(Text(visible(r.method)), seed, *numbers, f"{r.n:,}")
    return table


def visible(value: Any) -> Any:
    """`value` with characters that hide or reorder text spelled out, as [U+202E]; markup is left alone."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", value)


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def csp_hash(script: str) -> str:
    """The source that lets a content security policy run exactly this inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def label(result: Result) -> str:
    return result.method if result.seed is None else f"{result.method}-{result.seed}"


def answers_by_question(page: Page) -> Iterator[tuple[Question, list[Answer]]]:
    """Yield each question with what each method wrote for it, in the order of `predictions`."""
    found: dict[tuple[str, str], list[Answer]] = {}
    for key, (generations, scores) in page.predictions.items():
        by_id = {(s.question_id, s.index): s for s in scores}
        for g in generations:
            score = by_id.get((g.question_id, g.index))
            category = score.category if score else "not_scored"
            found.setdefault((key, g.question_id), []).append(Answer(key, category, g, score))
    for question in page.questions:
        yield question, [a for k in page.predictions for a in found.get((k, question.id), [Answer(k, "not_asked")])]


def new_axes(height: float) -> Any:
    """Axes of a 5.6-inch wide figure, or None without matplotlib. Not pyplot: that keeps global state."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    axes = Figure(figsize=(5.6, height), layout="constrained").subplots()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_axisbelow(True)
    return axes


def to_svg(axes: Any, name: str) -> Markup:
    """The figure as inline SVG in the page's colours, with ids that start with `name`."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        axes.figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    for placeholder, colour in THEME.items():
        svg = svg.replace(placeholder, colour)
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))  # noqa: S704 - matplotlib escapes its text


def accuracy_plot(results: Sequence[Result]) -> Markup | None:
    """Horizontal bars with 95% intervals; None without matplotlib."""
    drawn = [r for r in results if r.n]
    if (axes := new_axes(0.7 + 0.4 * len(drawn))) is None:
        return None
    names = [visible(label(r)) for r in drawn]
    spread = [[max(0, r.accuracy - r.low) * 100 for r in drawn], [max(0, r.high - r.accuracy) * 100 for r in drawn]]
    widths = [100 * r.accuracy for r in drawn]
    axes.barh(range(len(drawn)), widths, xerr=spread, height=0.55, color=BAR, ecolor=INK, capsize=3)
    for row, r in enumerate(drawn):
        axes.text(100 * r.high + 1.5, row, f"{percent(r.accuracy)}%", va="center", color=INK)
    axes.set_yticks(range(len(drawn)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel="accuracy, % (line: 95% interval)")
    axes.grid(axis="x", color=GRID)
    return to_svg(axes, "accuracy")


def loss_plot(losses: Mapping[str, Sequence[tuple[float, float]]]) -> Markup | None:
    """Held-out loss by epoch; None without matplotlib or without losses."""
    if not any(losses.values()) or (axes := new_axes(2.6)) is None:
        return None
    draw_by_epoch(axes, losses)
    axes.set(ylabel="held-out loss")
    return to_svg(axes, "loss")


def dev_plot(accuracies: Mapping[str, Sequence[tuple[float, int, int]]]) -> Markup | None:
    """Held-out questions right by epoch, with how many they are; None without matplotlib or without any."""
    if not any(accuracies.values()) or (axes := new_axes(2.0)) is None:
        return None
    draw_by_epoch(
        axes,
        {
            f"{name} (n={points[-1][2]})" if points else name: [(epoch, 100 * right / n) for epoch, right, n in points]
            for name, points in accuracies.items()
        },
    )
    axes.set(ylabel="right, %", ylim=(-4, 104), yticks=range(0, 101, 25))
    return to_svg(axes, "dev")


def draw_by_epoch(axes: Any, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for number, (name, points) in enumerate(lines.items()):
        colour, marker = LINES[number % len(LINES)]
        axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, marker=marker, label=visible(name))
    axes.grid(axis="y", color=GRID)
    axes.set(xlabel="epoch")
    axes.legend(frameon=False, labelcolor=INK)
