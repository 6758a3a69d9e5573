"""Tables for the terminal, besides that of the results: methods over their seeds, and samples of one student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Column, Table

from cotdistill.records import Result
from cotdistill.results.compare import Summary


def more_tables(results: Sequence[Result], summaries: Sequence[Summary]) -> Iterator[Table]:
    """Those that there is something for."""
    if any(summary.seeds > 1 for summary in summaries):
        yield summary_table(summaries)
    if sampled := [result for result in results if result.at_k]:
        yield sampled_table(sampled)


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Accuracies over seeds, in percent."""
    table = Table("method", *(Column(h, justify="right") for h in ("seeds", "mean", "spread", "95% interval", "n")))
    table.caption = "interval: of other questions and other seeds"
    for s in summaries:
        spread = "-" if s.spread is None else f"{100 * s.spread:.1f}"
        numbers = (f"{s.mean:.1%}", spread, f"{100 * s.low:.1f} to {100 * s.high:.1f}") if s.n else ("-", "-", "-")
        table.add_row(s.label, str(s.seeds), *numbers, f"{s.n:,}")
    return table


def sampled_table(results: Sequence[Result]) -> Table:
    """mean@k, maj@k and pass@k of students that were sampled, in percent."""
    headers = ("seed", "of samples", "right", "95% interval", "n")
    table = Table("method", *(Column(header, justify="right") for header in headers))
    for result in results:
        for f in result.at_k:
            interval = f"{100 * f.low:.1f} to {100 * f.high:.1f}"
            seed = str(result.seed)
            table.add_row(result.method, seed, f"{f.measure}@{f.k}", f"{f.value:.1%}", interval, f"{result.n:,}")
    return table
