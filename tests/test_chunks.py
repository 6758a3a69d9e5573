"""Generations in chunks, of a list or of a file in whatever shape it is."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from cotdistill.chunks import generations_of, pieces, spans
from cotdistill.errors import DataError
from cotdistill.records import Generation, to_line, write_jsonl


def generations(questions: int = 40) -> list[Generation]:
    draw = random.Random(0)
    return [
        Generation(f"q{q}", i, "x\n\u2028\u00e9" * draw.randrange(30), draw.choice([" 5", None, "\ud800"]), "stop")
        for q in range(questions)
        for i in range(draw.randrange(1, 9))
    ]


@pytest.mark.parametrize("size", [1, 100, 1000, 5000, 10**6])
def test_chunks_hold_all_in_order_and_none_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("cotdistill.chunks.BYTES", size)
    records = [replace(record, question_id="q") for record in generations()]  # one question is in many
    write_jsonl(tmp_path / "g.jsonl", records)
    line = max(len(to_line(record)) for record in records)
    assert all(span.end - span.start < size + line for span in spans(tmp_path / "g.jsonl"))
    rows = max(1, size // 100)
    assert all(len(piece) <= rows for piece in pieces(records, rows))
    for chunks in (list(spans(tmp_path / "g.jsonl")), list(pieces(iter(records), rows))):
        found = [generations_of(chunk) for chunk in chunks]
        assert list(chain.from_iterable(found)) == records
        assert all(found)
        assert (len(chunks) == 1) == (size == 10**6)


SHAPES = {
    "as written": lambda lines: b"".join(lines),
    "no last newline": lambda lines: b"".join(lines)[:-1],
    "blank lines": lambda lines: b"\n \n".join(lines) + b"\n\n",
    "CRLF": lambda lines: b"".join(lines).replace(b"\n", b"\r\n"),
    "a mark at its head": lambda lines: b"\xef\xbb\xbf" + b"".join(lines),
    "other keys": lambda lines: b"".join(line.replace(b"{", b'{"more": [1], ', 1) for line in lines),
    "spaces, and ASCII only": lambda lines: b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in lines),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [200, 10**6])
def test_files_of_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, size: int) -> None:
    monkeypatch.setattr("cotdistill.chunks.BYTES", size)
    records = generations()
    path = tmp_path / "g.jsonl"
    path.write_bytes(SHAPES[shape]([to_line(record) for record in records]))
    assert [g for span in spans(path) for g in generations_of(span)] == records


@pytest.mark.parametrize(
    "line", [b"{", b"5", b"[]", b'{"question_id": "q"}', b"\xff", b'{"a": 1} {"b": 2}', b"[" * 10_000]
)
@pytest.mark.parametrize("size", [200, 10**6])
def test_a_line_that_does_not_fit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, size: int
) -> None:
    monkeypatch.setattr("cotdistill.chunks.BYTES", size)
    lines = [to_line(record) for record in generations()]
    path = tmp_path / "g.jsonl"
    path.write_bytes(b"".join([*lines[:30], b"\n", line, b"\n", *lines[30:]]))
    with pytest.raises(DataError, match=r"g\.jsonl, line 32: not a Generation"):
        [generations_of(span) for span in spans(path)]


def test_nothing(tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").touch()
    assert [*spans(tmp_path / "g.jsonl"), *pieces([], 1)] == []
    with pytest.raises(DataError, match="cannot be read"):
        list(spans(tmp_path / "none.jsonl"))
