"""CSV that a spreadsheet shows and does not run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cotdistill.reports.csv_files import Cell, write_csv


@pytest.mark.parametrize(
    ("cell", "read"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, ""),
        (-3.5, "-3.5"),
        (-2, "-2"),
        (0.1, "0.1"),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-2+cmd|' /C calc'!A0", "'-2+cmd|' /C calc'!A0"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("\n=1", "'\n=1"),
        ("  =1", "'  =1"),
        ('a,"b"\nc', 'a,"b"\nc'),
        ("3 + 4 = 7", "3 + 4 = 7"),
        ("caf\u00e9 \ud800", "caf\u00e9 \\ud800"),
    ],
)
def test_text_is_never_a_formula_and_a_number_stays_one(cell: Cell, read: str, tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", ["a", "=b"], [["first", cell]])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["a", "'=b"], ["first", read]]
