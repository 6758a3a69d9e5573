"""Tables as CSV that a spreadsheet shows and does not run.

write_csv(path, ("task", "accuracy"), [("dates", 0.5), ("=HYPERLINK(...)", None)])
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from cotdistill.records import write_atomic

Cell = str | int | float | None
# What begins a formula: https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write `rows` under `header`, atomically, as UTF-8; None is an empty cell, text never a formula."""
    # Half a surrogate pair is no UTF-8.
    write_atomic(path, as_csv(header, rows).encode("utf-8", "backslashreplace"))


def as_csv(header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """The same as text."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(map(safe, header))
    writer.writerows(map(safe, row) for row in rows)
    return out.getvalue()


def safe(cell: Cell) -> Cell:
    """A cell as it is, but for text that a spreadsheet would take for a formula: that begins with a quote."""
    return f"'{cell}" if isinstance(cell, str) and cell.lstrip(" ").startswith(FORMULA) else cell
