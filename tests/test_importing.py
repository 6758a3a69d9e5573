"""Imported outputs are what a recorded teacher finds, to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotdistill.answers import RULES
from cotdistill.backends.recorded import RecordedBackend
from cotdistill.config import CurateConfig
from cotdistill.curate import curate
from cotdistill.errors import DataError
from cotdistill.generate import generate
from cotdistill.importing import import_completions
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question, iter_json_lines
from cotdistill.store import Store

SHARED = Path(__file__).parents[2] / "shared"
COIN_FLIP = SHARED / "data" / "teacher" / "coin_flip.jsonl"
LINE = {"question": " What is 1 plus 1? ", "rationale": " 1 + 1 = 2.\n", "answer_extraction_output": " 2."}


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replay(tmp_path: Path, store: Path, questions: list[Question], **options: Any) -> list[Generation]:
    with Store(tmp_path / "run.sqlite") as bought:
        return generate(questions, RecordedBackend(store), METHODS["zero_shot_cot"], bought, **options)


def test_the_text_comes_back_as_it_was(tmp_path: Path) -> None:
    second = {**LINE, "rationale": " Two.", "sample": 1, "truncated": True, "rationale_tokens": 5}
    store = tmp_path / "store.sqlite"
    source = jsonl(tmp_path / "a.jsonl", LINE, second)
    assert import_completions(source, store, "m", 1, 64) == 1
    asked = replay(tmp_path, store, [Question("7", "What is 1 plus 1?", "2")], n=2, temperature=1.0, max_tokens=64)
    assert asked == [
        Generation("7", 0, " 1 + 1 = 2.\n", " 2.", "stop"),
        Generation("7", 1, " Two.", " 2.", "length", completion_tokens=5),
    ]
    with Store(store) as kept:
        before = len(kept)
    assert import_completions(source, store, "m", 1, 64) == 1
    with Store(store) as kept:
        assert len(kept) == before == 4


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({**LINE, "rationale": " Two."}, r"a\.jsonl, lines 1 and 2: two texts"),
        ({**LINE, "answer_extraction_output": " 3."}, r"a\.jsonl, lines 1 and 2: two texts"),
        ({"question": "q", "rational": "r"}, r"a\.jsonl, line 2: no column 'rationale'. Did you mean 'rational'"),
        ({**LINE, "rationale": None}, "line 2: column 'rationale' must be text"),
        ({**LINE, "rationale": "\ud800"}, "line 2: column 'rationale' must be text"),
        ({**LINE, "sample": -1}, "line 2: column 'sample' must be a whole number"),
        ({**LINE, "finish_reason": "content_filter"}, "line 2: 'truncated' must be"),
    ],
)
def test_what_does_not_fit_names_its_line_and_stores_nothing(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        import_completions(jsonl(tmp_path / "a.jsonl", LINE, second), tmp_path / "store.sqlite", "m")
    assert not (tmp_path / "store.sqlite").exists()


def test_another_file_cannot_silently_lose_to_an_earlier_one(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    import_completions(jsonl(tmp_path / "a.jsonl", LINE), store, "m")
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: .* has another text"):
        import_completions(jsonl(tmp_path / "b.jsonl", {**LINE, "rationale": " Two."}), store, "m")


@pytest.mark.skipif(not COIN_FLIP.exists(), reason="the published teacher outputs are not beside this checkout")
def test_the_papers_count_comes_out(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    assert import_completions(COIN_FLIP, store, "text-davinci-002") == 500
    rows = [row for _, row in iter_json_lines(COIN_FLIP) if row["split"] == "train"]
    questions = [Question(str(row["index"]), row["question"], row["gold"]) for row in rows]
    generations = replay(tmp_path, store, questions, max_tokens=128)
    methods = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"]
    config = CurateConfig(truncated="keep", dedup=False)
    ledger = curate(generations, questions, *methods, RULES["paper"]["yes_no"], config).ledger
    assert (ledger["kept"], ledger["answered"]) == (320, 350)
    assert [g.text for g in generations] == [row["rationale"] for row in rows]
