"""The config that `cotdistill init` writes: it loads, and it fits the file it was written for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotdistill.config import load_config
from cotdistill.errors import ConfigError, DataError
from cotdistill.starter import GUESS, answer_type_of, starter_config, write_starter
from cotdistill.tasks import load_task


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


Row = Callable[[int, str], dict[str, Any]]
FILES: list[tuple[str, Row, tuple[str, str, str], bool]] = [
    # file, row from its number and question, (question, answer, answer_type), whether a column is a guess
    ("a.jsonl", lambda i, q: {"id": i, "question": q, "answer": i + 7}, ("question", "answer", "number"), False),
    ("my data #1.jsonl", lambda i, q: {"Problem": q, "Gold": "Yes"}, ("Problem", "Gold", "yes_no"), False),
    ("é {x}.jsonl", lambda i, q: {"input": q, "target": i > 3}, ("input", "target", "yes_no"), False),
    ("b.jsonl", lambda i, q: {"stem": q, "answerKey": "ABCDE"[i % 5]}, ("stem", "answerKey", "choice"), True),
    ("c.jsonl", lambda i, q: {"text": q, "options": ["x", "y"], "label": "y"}, ("text", "label", "choice"), False),
    ("d.jsonl", lambda i, q: {"a\n# b: c": q, "no": f"word {i}"}, ("a\n# b: c", "no", "text"), True),
    ("e.jsonl", lambda i, q: {"q": "x" * 99, "My question": q, "gold": i}, ("My question", "gold", "number"), False),
]


@pytest.mark.parametrize(("name", "row", "expected", "guessed"), FILES, ids=[file[0] for file in FILES])
def test_fits_the_file(tmp_path: Path, name: str, row: Row, expected: tuple[str, str, str], guessed: bool) -> None:
    rows = [row(i, f"What is {i} plus 7, when all is said?") for i in range(10)]
    out = tmp_path / "config.yaml"
    write_starter(jsonl(tmp_path / name, *rows), out)
    text = out.read_text(encoding="utf-8")
    task = load_config(out).task
    assert (task.question, task.answer, task.answer_type) == expected
    assert (GUESS in text) == guessed
    assert len(load_task(task).train) == 7
    assert len(text.splitlines()) <= 45
    assert all("#" in line for line in text.splitlines() if line and not line.endswith(":"))


@pytest.mark.parametrize(
    ("answer", "shown"),
    [("$1,000.00", "'$1,000.00' is no plain number"), ("2 + 2 = 4\n#### 4", "is no plain number"), ("blue", "")],
)
def test_answers_with_more_than_their_number_are_a_guess(tmp_path: Path, answer: str, shown: str) -> None:
    data = jsonl(tmp_path / "q.jsonl", *({"question": f"What is {i}?", "answer": answer} for i in range(3)))
    (line,) = (line for line in starter_config(data).splitlines() if "answer_type:" in line)
    assert line.startswith("  answer_type: text")
    assert (GUESS in line) == bool(shown)
    assert shown in line


def test_options_in_another_form_are_named_and_the_run_says_how_to_write_them(tmp_path: Path) -> None:
    choices = {"text": ["red", "blue"], "label": ["A", "B"]}
    data = jsonl(tmp_path / "q.jsonl", *({"question": f"{i}?", "choices": choices, "answer": "A"} for i in range(3)))
    out = tmp_path / "config.yaml"
    write_starter(data, out)
    with pytest.raises(DataError, match="Write them as a JSON list"):
        load_task(load_config(out).task)


def test_reads_csv(tmp_path: Path) -> None:
    data = tmp_path / "q.csv"
    data.write_text('prompt,output\n"one, and 1",2\n"two, and 2",4\n')
    assert "question: prompt" in starter_config(data)
    assert "answer_type: number" in starter_config(data)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1,000", "-2.5", 3], "number"),
        (["12 apples", "3"], "text"),
        (["yes", "No"], "yes_no"),
        (["(A)", "b"], "choice"),
        (["A", "F"], "text"),
        ([None, "", "4"], "number"),
        ([True, "maybe"], "text"),
    ],
)
def test_answer_type(answers: list[Any], expected: str) -> None:
    assert answer_type_of(answers) == expected


def test_never_overwrites(tmp_path: Path) -> None:
    data, out = jsonl(tmp_path / "a.jsonl", {"question": "q", "answer": "1"}), tmp_path / "mine.yaml"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        write_starter(data, out)
    assert out.read_text() == "mine"


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.jsonl: no such file"):
        starter_config(tmp_path / "no.jsonl")
    with pytest.raises(DataError, match="a file type that is not read"):
        starter_config(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="columns of text: question"):
        starter_config(jsonl(tmp_path / "one.jsonl", {"question": "q", "parts": [1]}))
