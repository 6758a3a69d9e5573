"""Questions in a file: those that were put there, in any process, and no file afterwards."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from cotdistill.errors import DataError
from cotdistill.records import Question
from cotdistill.shelf import shelved
from disks import small_disk

QUESTIONS = [
    Question("q1", "2 + 3?", "5"),
    Question("", "no id \u2028\x00", "7", ("a", "b"), "Seven."),
    Question("\ud800", "half \ud800 a pair", "9"),
    Question("\u00e9'; DROP TABLE questions --", "?", "1"),
]


def test_what_is_put_there_is_found(tmp_path: Path) -> None:
    with shelved([Question("q1", "an older one", "1"), *QUESTIONS], tmp_path) as shelf:
        for one in (shelf, pickle.loads(pickle.dumps(shelf))):  # noqa: S301
            assert {**one} == {question.id: question for question in QUESTIONS}
            assert len(one) == 4
            assert one.get("q2") is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "50% of? #1"
    folder.mkdir()
    with shelved(QUESTIONS, folder) as shelf:
        assert shelf["q1"] == QUESTIONS[0]


def test_no_room(tmp_path: Path) -> None:
    many = (Question(str(i), "more " * 1000, "1") for i in range(1000))
    with small_disk(tmp_path / "disk", "1m"):
        with pytest.raises(DataError, match="the questions cannot be written there"), shelved(many, tmp_path / "disk"):
            pass
        assert list((tmp_path / "disk").iterdir()) == []
