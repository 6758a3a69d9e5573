"""Tables for the terminal, besides that of the results: methods over their seeds, and samples of one student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Column, Table

from cotdistill.compare import Summary
from cotdistill.records import Result


def more_tables(results: Sequence[Result], summaries: Sequence[Summary]) -> Iterator[Table]:
    """Those that there is something for."""
    if any(summary.seeds > 1 for summary in summaries):
        yield summary_table(summaries)
    yield from (sampled_table(result) for result in results if result.at_k)


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Accuracies over seeds, in percent."""
    table = Table("method", *(Column(h, justify="right") for h in ("seeds", "mean", "spread", "95% interval", "n")))
    table.caption = "interval: of other questions and other seeds"
    for s in summaries:
        spread = "-" if s.spread is None else f"{100 * s.spread:.1f}"
        numbers = (f"{s.mean:.1%}", spread, f"{100 * s.low:.1f} to {100 * s.high:.1f}") if s.n else ("-", "-", "-")
        table.add_row(s.label, str(s.seeds), *numbers, f"{s.n:,}")
    return table


def sampled_table(result: Result) -> Table:
    """mean@k, maj@k and pass@k of one student, in percent with 95% intervals."""
    sizes = sorted({found.k for found in result.at_k})
    table = Table(result.method if result.seed is None else f"{result.method}-{result.seed}")
    for k in sizes:
        table.add_column(f"@{k}", justify="right")
    cells = {(f.measure, f.k): f"{100 * f.value:.1f} ({100 * f.low:.1f} to {100 * f.high:.1f})" for f in result.at_k}
    for measure in ("mean", "maj", "pass"):
        table.add_row(measure, *(cells.get((measure, k), "") for k in sizes))
    return table
