"""Pairs for other trainers: each row is there as it was, and what a reader would refuse is refused here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cotdistill import cli
from cotdistill.checksums import write_sums
from cotdistill.errors import DataError
from cotdistill.export import export
from cotdistill.exports import pairs as exported
from cotdistill.records import Pair, iter_json_lines, write_jsonl

ODD = ['a "quoted"\nline', "  U+2028 \u2028 and \u0085", "emoji \U0001f600, é", "tab\t\\n", "x" * 70_000, "0", "null"]


def run_of(folder: Path, pairs: list[Pair]) -> Path:
    """A run's folder, as far as this reads it."""
    folder.mkdir()
    data = folder.parent / "questions.jsonl"
    data.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(10)))
    (folder / "config.yaml").write_text(f"task: {{data: {data}, answer_type: number}}\n")
    write_jsonl(folder / "pairs.jsonl", pairs)
    return folder


def some(n: int = 12) -> list[Pair]:
    texts = [ODD[i % len(ODD)] for i in range(n)]
    return [Pair(f"q{i}", i % 3, f"{text} ###", f" {text} END", "t" * (i % 2)) for i, text in enumerate(texts)]


@pytest.mark.parametrize("rows_at_once", [5, 10_000])
def test_parquet_holds_every_row(rows_at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(exported, "ROWS", rows_at_once)
    folder = run_of(tmp_path / "run", some())
    (command,) = export(folder, "parquet", tmp_path / "out")
    assert str(tmp_path / "out/pairs.parquet") in command
    table = parquet.read_table(tmp_path / "out/pairs.parquet")
    assert table.to_pylist() == [pair.to_json() for pair in some()]
    assert {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)} == {
        "question_id": "string",
        "index": "int32",
        "prompt": "string",
        "completion": "string",
        "teacher": "string",
        "messages": "list<element: struct<role: string, content: string>>",
    }


def test_openai_has_messages_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path / "run", some())
    (command,) = export(folder, "openai-jsonl", tmp_path / "out")
    assert command.endswith(f"-F file=@{tmp_path / 'out/openai.jsonl'}")
    lines = (tmp_path / "out/openai.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [{"messages": pair.to_json()["messages"]} for pair in some()]
    assert "2 examples have over 65,536 bytes" in " ".join(capsys.readouterr().err.split())


HALF = Pair("q", 0, "half \ud800", "x END")
EMPTY = Pair("q", 0, "a ###", " \n")


@pytest.mark.parametrize(
    ("form", "pairs", "message"),
    [
        ("openai-jsonl", some(9), "9 examples, .* OpenAI takes 10 examples or more"),
        ("openai-jsonl", [*some(), EMPTY], "line 13: the assistant's message is empty"),
        ("openai-jsonl", [*some(), HALF], "line 13: half a surrogate pair"),
        ("parquet", [*some(), HALF], "line 13: half a surrogate pair"),
    ],
)
def test_what_would_be_refused(form: str, pairs: list[Pair], message: str, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", pairs)
    with pytest.raises(DataError, match=message):
        export(folder, form, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{\n", "line 13: not valid JSON"),
        (b"[]\n", "line 13: a JSON object was expected"),
        (
            b'{"question_id": "q", "index": "1", "prompt": "a", "completion": "b", "teacher": ""}\n',
            "line 13: not a Pair",
        ),
        (b'{"question_id": "q", "index": 1, "prompt": 5, "completion": "b", "teacher": ""}\n', "line 13: not a Pair"),
    ],
)
@pytest.mark.parametrize("form", ["openai-jsonl", "parquet"])
def test_a_damaged_line(form: str, line: bytes, message: str, tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", some())
    with (folder / "pairs.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        export(folder, form, tmp_path / "out")


def test_pairs_that_the_run_did_not_write(tmp_path: Path) -> None:
    folder = run_of(tmp_path / "run", some())
    write_sums(folder)
    export(folder, "openai-jsonl", tmp_path / "out")
    write_jsonl(folder / "pairs.jsonl", some(11))
    with pytest.raises(DataError, match="not as the run wrote it"):
        export(folder, "openai-jsonl", tmp_path / "out")
    (folder / "pairs.jsonl").unlink()
    with pytest.raises(DataError, match="the run has no pairs"):
        export(folder, "openai-jsonl", tmp_path / "out")
    assert len((tmp_path / "out/openai.jsonl").read_text(encoding="utf-8").split("\n")) == 13, "the good one stays"


def test_a_row_that_is_read_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a disk that loses what was written."""

    def lossy(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, value in iter_json_lines(file):
            yield number, value if number != 4 or file.name == "pairs.jsonl" else {"messages": []}

    monkeypatch.setattr(exported, "iter_json_lines", lossy)
    with pytest.raises(DataError, match=r"openai\.jsonl, row 4: read again, it is"):
        export(run_of(tmp_path / "run", some()), "openai-jsonl", tmp_path / "out")


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path / "run", some())
    monkeypatch.chdir(tmp_path)
    codes: list[int] = []
    for _ in range(2):
        cli.main(["export", "run", "--to", "openai-jsonl"], leave=codes.append)
    assert codes == [0, 0]
    assert Path("exports/run-openai-jsonl/openai.jsonl").is_file()
    (tmp_path / "file").write_text("")
    cli.main(["export", "run", "--to", "openai-jsonl", "--out", "file/out"], leave=codes.append)
    assert codes[-1] == 3
    assert "cannot be written" in capsys.readouterr().err
