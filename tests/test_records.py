"""Records come back as they were written, a cut write leaves the old file, and errors name file and line."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from cotdistill.errors import DataError
from cotdistill.records import Generation, Pair, Question, iter_json_lines, read_jsonl, write_atomic, write_jsonl

TEXTS = {
    "empty": "",
    "next line": "a\u0085b",
    "line separator": "a\u2028b\u2029c",
    "CRLF": "a\r\nb\rc\n",
    "NUL and controls": "a\0b\x0b\x0c\x1b[31m",
    "BOM": "\ufeffa",
    "half a character": "a\ud800b\udfffc",
    "emoji": "\N{GRINNING FACE}",
    "1 MB": "x" * 2**20,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_comes_back_exactly(tmp_path: Path, text: str) -> None:
    records = [Generation(f"q{i}", i, text, text if i else None, "stop", 1, 2, text) for i in range(2)]
    write_jsonl(tmp_path / "generations.jsonl", records)
    assert read_jsonl(tmp_path / "generations.jsonl", Generation) == records
    assert len((tmp_path / "generations.jsonl").read_bytes().splitlines()) == 2


def test_questions_and_pairs_come_back(tmp_path: Path) -> None:
    questions = [Question("1", "Which?", "A", ("x", "y")), Question("2", "How many?", "3")]
    pairs = [Pair("1", 0, "Which? ###", " A END")]
    write_jsonl(tmp_path / "new" / "questions.jsonl", questions)
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    assert read_jsonl(tmp_path / "new" / "questions.jsonl", Question) == questions
    assert read_jsonl(tmp_path / "pairs.jsonl", Pair) == pairs
    ((_, pair),) = iter_json_lines(tmp_path / "pairs.jsonl")
    assert pair["messages"] == [
        {"role": "user", "content": "Which? ###"},
        {"role": "assistant", "content": " A END"},
    ]


def test_files_of_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "1", "text": "a\xe2\x80\xa8b", "answer": "2", "more": 1}\r\n\r\n  \n')
    assert read_jsonl(path, Question) == [Question("1", "a\u2028b", "2")]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_cut_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(DataError, match=r"result\.json: cannot be written \(No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_cut_iteration_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "result.jsonl"
    write_jsonl(path, [Question("1", "", "")])
    old = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_jsonl(path, (Question(str(1 // i), "", "") for i in (1, 0)))
    assert path.read_bytes() == old


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "1", "te', "line 2: not valid JSON"),
        (b"[1, 2]", "line 2: a JSON object was expected"),
        (b"NaN", "line 2: a JSON object was expected"),
        (b"[" * 10_000, "line 2: not valid JSON"),
        (b'{"a":' * 10_000, "line 2: not valid JSON"),
        (b'{"id": ' + b"9" * 5_000 + b"}", "line 2: not valid JSON"),
        (b'{"id": "1"}', "line 2: not a Question"),
        (b'{"id": "1", "text": "", "answer": "", "choices": 3}', "line 2: not a Question"),
        (b'{"id": "\xff"}', "cannot be read as UTF-8"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_error_names_file_and_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"id": "0", "text": "", "answer": ""}\n' + line)
    with pytest.raises(DataError) as caught:
        read_jsonl(path, Question)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_jsonl(tmp_path / "none.jsonl", Question)
    with pytest.raises(DataError, match="cannot be read"):
        read_jsonl(tmp_path, Question)


@pytest.mark.parametrize("text", ["plain", "\u2028", "half a pair: \ud800"])
def test_what_is_written_is_read_again(tmp_path: Path, text: str) -> None:
    """Records, and rows that are none."""
    pair = Pair("q", 0, text, text)
    rows: list[object] = [{"a": text}, {"b": [pair]}, pair]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    found = [value for _, value in iter_json_lines(tmp_path / "rows.jsonl")]
    assert found == [{"a": text}, {"b": [asdict(pair)]}, pair.to_json()]
