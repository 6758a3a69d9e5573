"""What a person sees of a sweep: a live table on a terminal, else a line where a run begins or ends; on stderr."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from cotdistill import progress
from cotdistill.reports.showing import visible
from cotdistill.sweeps.side_by_side import last_line

ROWS_LEFT = 8  # of the screen, for the lines around the table
STYLES = {"failed": "red", "done": "green", "running": "bold"}


@dataclass
class Row:
    """A run: waiting, running, done or failed; since or for how long; and what it does or did."""

    state: str = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""
    log: Path | None = None


class Board:
    """The runs of a sweep by name, shown while the block lasts."""

    def __init__(self, names: list[str]) -> None:
        self.rows = {name: Row() for name in names}
        self.live = Live(get_renderable=self.table, console=progress.console, transient=True)

    def __enter__(self) -> Board:
        if progress.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def begin(self, name: str, log: Path | None = None) -> None:
        self.rows[name] = Row("running", time.monotonic(), log=log)
        number = sum(row.state != "waiting" for row in self.rows.values())
        progress.say(f"sweep: run {number} of {len(self.rows)}, {name}{f' (log: {log})' if log else ''}")

    def end(self, name: str, entry: Mapping[str, Any]) -> None:
        row = self.rows[name]
        row.seconds = time.monotonic() - row.began if row.began else 0.0
        row.state, row.note = ("failed", entry["error"]) if "error" in entry else ("done", accuracies(entry))
        took = f" in {progress.clock(row.seconds)}" * (row.state == "done")
        progress.say(f"sweep: {name} {row.state}{took}: {row.note}")

    def table(self) -> Table:
        """Runs that are not waiting, as many as fit: those that run or failed before those that are done."""
        counts = Counter(row.state for row in self.rows.values())
        title = ", ".join(f"{counts[state]} {state}" for state in ("done", "running", "waiting", "failed"))
        table = Table("run", "state", "time", Column("now", ratio=1), title=title, title_justify="left", expand=True)
        order = ("running", "failed", "done")
        shown = sorted((i for i in self.rows.items() if i[1].state in order), key=lambda i: order.index(i[1].state))
        for name, row in shown[: max(1, progress.console.height - ROWS_LEFT)]:
            seconds = time.monotonic() - row.began if row.state == "running" else row.seconds
            note = last_line(row.log) if row.state == "running" and row.log else row.note
            table.add_row(
                Text(name, overflow="fold"),
                Text(row.state, STYLES[row.state]),
                progress.clock(seconds),
                Text(visible(note.split("\n")[0]), no_wrap=True, overflow="ellipsis"),
            )
        return table


def accuracies(entry: Mapping[str, Any]) -> str:
    """The results of a run in a few words."""
    found = [f"{r['method']} {100 * r['accuracy']:.1f}%" if r["n"] else f"{r['method']} -" for r in entry["results"]]
    ledger = entry["ledger"]
    return ", ".join(found) or (
        f"{ledger['right']:,} of {ledger['answered']:,} rationales right" if ledger else "asked"
    )
