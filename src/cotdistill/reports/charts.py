"""The figures of a page, as inline SVG in the page's own colours; the numbers stand in a table beside each.

Figures with axes need matplotlib, and are None without it; the flow of the ledger is drawn by the template.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from cotdistill.records import Result
from cotdistill.reports.showing import percent, visible

# Colours that stand for the page's own, so that a plot follows the light or dark theme.
INK, BAR, GRID, CUT = "#010203", "#010204", "#010205", "#010206"
THEME = {INK: "currentColor", BAR: "var(--bar)", GRID: "var(--line)", CUT: "var(--truncated)"}
LINES = (("#3b82f6", "o"), ("#d97706", "s"), ("#059669", "D"), ("#db2777", "^"))  # colour, marker
BINS = 40
WIDE = 1000  # of the flow
Lengths = Sequence[tuple[int, int, int]]  # tokens, how many texts have them, and how many of these were cut or left out


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


def to_svg(axes: Any, name: str, says: str) -> Markup:
    """The figure as inline SVG in the page's colours, with ids that start with `name` and `says` for who cannot see."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "text.parse_math": False}):
        axes.figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    for placeholder, colour in THEME.items():
        svg = svg.replace(placeholder, colour)
    image = Markup('<svg role="img" aria-label="{}" ').format(says)
    return Markup(svg.replace("<svg ", image, 1))  # noqa: S704 - matplotlib escapes its text


def accuracy_plot(results: Sequence[Result]) -> Markup | None:
    """Horizontal bars with 95% intervals; None without matplotlib or without any."""
    drawn = [r for r in results if r.n]
    if not drawn or (axes := new_axes(0.7 + 0.36 * len(drawn))) is None:
        return None
    names = [visible(r.label) for r in drawn]
    spread = [[max(0, r.accuracy - r.low) * 100 for r in drawn], [max(0, r.high - r.accuracy) * 100 for r in drawn]]
    widths = [100 * r.accuracy for r in drawn]
    axes.barh(range(len(drawn)), widths, xerr=spread, height=0.5, color=BAR, ecolor=INK, capsize=3)
    for row, r in enumerate(drawn):
        axes.text(100 * r.high + 1.5, row, f"{percent(r.accuracy)}%", va="center", color=INK)
    axes.set_yticks(range(len(drawn)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel="accuracy, % (line: 95% interval)")
    axes.grid(axis="x", color=GRID)
    found = (f"{n} {percent(r.accuracy)}%" for n, r in zip(names, drawn, strict=True))
    return to_svg(axes, "accuracy", f"Bars of accuracy: {', '.join(found)}.")


def loss_plot(losses: Mapping[str, Sequence[tuple[float, float]]]) -> Markup | None:
    """Held-out loss by epoch; None without matplotlib or without losses."""
    if not any(losses.values()) or (axes := new_axes(2.4)) is None:
        return None
    draw_by_epoch(axes, losses)
    axes.set(ylabel="held-out loss")
    return to_svg(axes, "loss", "Lines of the held-out loss by epoch; the numbers are in the table below.")


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
    return to_svg(axes, "dev", "Lines of how many held-out questions are right by epoch, as in the table below.")


def draw_by_epoch(axes: Any, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for number, (name, points) in enumerate(lines.items()):
        colour, marker = LINES[number % len(LINES)]
        axes.plot([p[0] for p in points], [p[1] for p in points], color=colour, marker=marker, label=visible(name))
    axes.grid(axis="y", color=GRID)
    axes.set(xlabel="epoch", xlim=(0, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, labelcolor=INK)


def length_plot(name: str, lengths: Lengths, limit: int, limit_name: str) -> Markup | None:
    """A histogram of tokens, those that were cut in another colour, with a line at `limit` (0: none)."""
    if not lengths or (axes := new_axes(2.0)) is None:
        return None
    longest = max(max(tokens for tokens, _, _ in lengths), limit)
    step = max(1, -(-longest // BINS))
    axes.hist(
        [[tokens for tokens, _, _ in lengths]] * 2,
        [step * i for i in range(longest // step + 2)],
        weights=[[n - cut for _, n, cut in lengths], [cut for _, _, cut in lengths]],
        stacked=True,
        color=[BAR, CUT],
    )
    if limit:
        axes.axvline(limit, color=INK, linestyle=(0, (3, 2)), linewidth=1)
        place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom"}
        axes.annotate(f"{limit_name}: {limit:,}", (limit, 1), color=INK, **place)
    axes.set(xlabel="tokens", ylabel="how many", xlim=(0, None))
    axes.grid(axis="y", color=GRID)
    return to_svg(axes, name, f"Histogram of tokens, up to {longest:,}; what it shows is said below.")


class Part(NamedTuple):
    """A part of a bar of the flow: of WIDE, from `start`, as wide as its share of what was asked."""

    name: str
    n: int
    start: float
    width: float


class Stage(NamedTuple):
    """A bar of the flow: what goes on is its first part, what ends there the others."""

    name: str
    parts: list[Part]


def flow(ledger: Mapping[str, Any], trained: Mapping[str, Any]) -> list[Stage]:
    """The ledger from asked to trained; `trained` are facts of a student of these pairs, or empty."""
    if not ledger or not ledger["asked"]:
        return []
    stages = [
        ("Asked", [("asked", ledger["asked"])]),
        ("Answered", [("answered", ledger["answered"]), ("failed", ledger["failed"])]),
        ("Kept", [("kept", ledger["kept"]), *ledger["dropped"].items()]),
    ]
    if trained and trained["pairs"] == ledger["kept"]:
        held_out = trained["pairs"] - trained["examples"] - trained["over_long_dropped"]
        stages.append(
            (
                "Trained on",
                [
                    ("trained", trained["examples"]),
                    ("held_out", held_out),
                    ("over_long", trained["over_long_dropped"]),
                ],
            )
        )
    return [Stage(name, list(_parts(parts, WIDE / ledger["asked"]))) for name, parts in stages]


def _parts(parts: Sequence[tuple[str, int]], scale: float) -> Iterator[Part]:
    start = 0.0
    for number, (name, count) in enumerate(parts):
        if count or not number:
            yield Part(name, count, round(start, 2), round(count * scale, 2))
        start += count * scale
