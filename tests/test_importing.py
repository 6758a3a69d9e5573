"""Imported outputs are what a recorded teacher finds, to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotdistill import cli
from cotdistill.answers import RULES
from cotdistill.backends.recorded import RecordedBackend
from cotdistill.config import CurateConfig, TaskConfig, TeacherConfig
from cotdistill.curate import curate
from cotdistill.errors import ConfigError, CotdistillError, DataError
from cotdistill.generate import generate
from cotdistill.importing import FORMS, import_completions
from cotdistill.methods import METHODS, teacher_method
from cotdistill.records import Generation, Question, iter_json_lines
from cotdistill.store import Store
from cotdistill.tasks.files import load

TEACHER_LOGS = Path(__file__).parents[2] / "shared" / "data" / "teacher"
Q = "What is 1 plus 1?"
LINE = {"question": f" {Q} ", "rationale": " 1 + 1 = 2.\n", "answer_extraction_output": " 2."}
SOLUTION = "\u2028 1 + 1 = 2.\r\n\nThe answer is 2.\n"


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def completion_dataset(*samples: dict[str, Any], **metadata: str) -> dict[str, Any]:
    numbered = [{"sample_index": 7, "completion_index": i, **sample} for i, sample in enumerate(samples)]
    return {"metadata": {"base_model": "m", **metadata}, "data": {"7": numbered}}


ZS_COT = completion_dataset(
    *(
        {
            "question": Q,
            "answer": "2",
            "reasoning_prompt": f"Q: {Q}\nA: Let's think step by step.",
            "reasoning_completion": text,
            "reasoning_finish_reason": reason,
            "prompt": f"Q: {Q}\nA: Let's think step by step.{text}\nTherefore, the answer is",
            "completion": " 2.",
            "finish_reason": "stop",
        }
        for text, reason in ((" It is 2.\n", "stop"), (" 1 + 1", "length"))
    ),
    prediction_template="zs_cot",
)
FS_COT = completion_dataset({"question": Q, "answer": "2", "completion": SOLUTION, "finish_reason": None})
HARNESS = {
    "doc_id": 7,
    "doc": {"question": Q, "answer": "1 + 1 = 2\n#### 2", "rationale": "A person's."},
    "target": "1 + 1 = 2\n#### 2",
    "arguments": {"gen_args_0": {"arg_0": f"Question: {Q}\nAnswer:", "arg_1": {"until": ["Question:"]}}},
    "resps": [[SOLUTION, " Two."]],
    "filtered_resps": ["2"],
    "filter": "strict-match",
    "exact_match": 1.0,
}
NEMO = {"problem": Q, "expected_answer": 2, "predicted_answer": "2", "generation": SOLUTION, "num_generated_tokens": 9}
ONE = {"answer_type": "number"}

# form, files, options, what each sample's generation is, the row of the task file
ROWS: dict[str, tuple[str, dict[str, str], dict[str, Any], list[tuple[Any, ...]], dict[str, Any]]] = {
    "rationale and answer text": (
        "plain",
        {"a.jsonl": jsonl({"question": Q, "rationale": " Two.", "answer_text": " 2", "output": "", "gold": 2})},
        {},
        [(" Two.", " 2", "stop")],
        {"id": "1", "question": Q, "answer": 2},
    ),
    "columns of other names": (
        "plain",
        {"a.jsonl": jsonl({"q": Q, "r": " Two.", "a": " 2", "g": "2", "id": "x", "sample": 0, "truncated": True})},
        {"columns": {"question": "q", "rationale": "r", "answer_text": "a", "gold": "g"}},
        [(" Two.", " 2", "length")],
        {"id": "x", "question": Q, "answer": "2"},
    ),
    "one text": (
        "plain",
        {"a.jsonl": jsonl({"question": Q, "output": SOLUTION, "gold": "2", "split": "train"})},
        ONE,
        [(SOLUTION, None, "stop")],
        {"id": "1", "question": Q, "answer": "2", "split": "train"},
    ),
    "one text of two": (
        "kojima",
        {"a.jsonl": jsonl({**LINE, "gold": "2", "index": 0})},
        {**ONE, "columns": {"output": "rationale"}},
        [(" 1 + 1 = 2.\n", None, "stop")],
        {"id": "0", "question": Q, "answer": "2"},
    ),
    "the authors'": (
        "authors",
        {"D_multiarith.json": json.dumps(ZS_COT, indent=4)},
        {},
        [(" It is 2.\n", " 2.", "stop"), (" 1 + 1", " 2.", "length")],
        {"id": "7", "question": Q, "answer": "2"},
    ),
    "the authors', few-shot": (
        "authors",
        {"a.txt": json.dumps(FS_COT)},
        ONE,
        [(SOLUTION, None, "stop")],
        {"id": "7", "question": Q, "answer": "2"},
    ),
    "kojima": (
        "kojima",
        {
            "a.jsonl": jsonl(
                {**LINE, "gold": "2", "split": "test", "truncated": True, "rationale_tokens": 5, "index": 3}
            )
        },
        {},
        [(" 1 + 1 = 2.\n", " 2.", "length", 0, 5)],
        {"id": "3", "question": Q, "answer": "2", "split": "test"},
    ),
    "lm-evaluation-harness": (
        "lm_eval",
        {"samples_gsm8k.jsonl": jsonl(HARNESS, {**HARNESS, "filter": "flexible-extract"})},
        ONE,
        [(SOLUTION, None, "stop"), (" Two.", None, "stop")],
        {"id": "7", "question": Q, "answer": "2"},
    ),
    "NeMo-Skills": (
        "nemo",
        {
            "output-rs0.jsonl": jsonl({**NEMO, "problem": "Before?"}, NEMO),
            "output-rs1.jsonl": jsonl(
                {**NEMO, "problem": "Before?"}, {**NEMO, "generation": "", "finish_reason": "length"}
            ),
        },
        ONE,
        [(SOLUTION, None, "stop", 0, 9), ("", None, "length", 0, 9)],
        {"id": "2", "question": Q, "answer": 2},
    ),
}


def test_the_table_has_every_form() -> None:
    assert {form for form, *_ in ROWS.values()} == set(FORMS)


@pytest.mark.parametrize(("form", "files", "options", "samples", "task_row"), ROWS.values(), ids=ROWS)
def test_each_form_comes_back_to_the_letter(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    form: str,
    files: dict[str, str],
    options: dict[str, Any],
    samples: list[tuple[Any, ...]],
    task_row: dict[str, Any],
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths, store, task = [tmp_path / name for name in files], tmp_path / "store.sqlite", tmp_path / "task.jsonl"
    sections = import_completions(paths, store, "m", 1, 64, questions=task, **options)
    assert "repeat" not in capsys.readouterr().err
    assert sections["teacher"]["samples"] == len(samples)
    assert replay(tmp_path, sections, options.get("answer_type", "text")) == [
        Generation("q", index, *sample) for index, sample in enumerate(samples)
    ]
    *_, (_, last) = iter_json_lines(task)
    assert last == task_row
    assert ("split" in sections["task"]) == ("split" in task_row)
    with Store(store) as kept:
        before = len(kept)
    assert import_completions(paths, store, "m", 1.0, 64, form=form, questions=task, **options) == sections
    with Store(store) as kept:
        assert len(kept) == before


def replay(tmp_path: Path, sections: dict[str, dict[str, object]], answer_type: str) -> list[Generation]:
    """What a run gets that has these sections in its config."""
    teacher = TeacherConfig.model_validate(sections["teacher"])
    method = teacher_method(teacher.style, teacher.answer_cue, answer_type)
    assert teacher.store is not None
    with Store(tmp_path / "run.sqlite") as bought:
        return list(
            generate(
                [Question("q", Q, "2")],
                RecordedBackend(teacher.store, teacher.model),
                method,
                bought,
                teacher.samples,
                teacher.temperature,
                teacher.top_p,
                teacher.max_tokens,
                teacher.stop,
                teacher.seed,
            )
        )


def test_of_a_question_asked_twice_the_first_text_stands_and_a_line_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**LINE, "rationale": " Two.", "answer_extraction_output": " three"}
    (tmp_path / "a.jsonl").write_text(jsonl(LINE, LINE, other, {**LINE, "answer_extraction_output": " 3."}))
    sections = import_completions([tmp_path / "a.jsonl"], tmp_path / "store.sqlite", "m")
    said = capsys.readouterr().err
    assert "3 of 4 outputs repeat a question; 2 with another text than the first, which stands" in said
    assert f"{tmp_path / 'a.jsonl'}, line 1 and {tmp_path / 'a.jsonl'}, line 3, ..." in said
    assert replay(tmp_path, sections, "text") == [Generation("q", 0, " 1 + 1 = 2.\n", " 2.", "stop")]


def test_questions_of_one_text_and_two_ids_stay_two(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(*({**LINE, "gold": "2", "index": i, "sample": i} for i in range(2))))
    import_completions([tmp_path / "a.jsonl"], tmp_path / "store.sqlite", "m", questions=tmp_path / "task.jsonl")
    assert [row["id"] for _, row in iter_json_lines(tmp_path / "task.jsonl")] == ["0", "1"]


def test_a_run_can_ask_for_as_many_samples_as_every_question_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(LINE, {**LINE, "question": "Again?"}))
    (tmp_path / "b.jsonl").write_text(jsonl(LINE))
    sections = import_completions([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "store.sqlite", "m")
    assert sections["teacher"]["samples"] == 1
    assert "of 1 to 2 samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"question": "q", "rational": "r"}, r"a\.jsonl, line 2: no column 'rationale'. Did you mean 'rational'"),
        ({"question": "q", "output": "r"}, r"a\.jsonl, line 2: no column 'rationale'"),
        ({**LINE, "rationale": None}, "line 2: column 'rationale' must be text"),
        ({**LINE, "rationale": "\ud800"}, "line 2: column 'rationale' must be text"),
        ({**LINE, "sample": -1}, "line 2: column 'sample' must be a whole number"),
        ({**LINE, "sample": True}, "line 2: column 'sample' must be a whole number"),
        ({**LINE, "finish_reason": "content_filter"}, "line 2: 'truncated' must be"),
    ],
)
def test_what_does_not_fit_names_its_line_and_stores_nothing(
    tmp_path: Path, second: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl(LINE, second))
    with pytest.raises(DataError, match=message):
        import_completions([tmp_path / "a.jsonl"], tmp_path / "store.sqlite", "m")
    assert not (tmp_path / "store.sqlite").exists()


PLAIN = {"question": Q, "output": SOLUTION}


@pytest.mark.parametrize(
    ("name", "text", "options", "error", "message"),
    [
        ("a.jsonl", "", ONE, DataError, r"a\.jsonl: there is no output here"),
        ("a.jsonl", jsonl({**PLAIN, "gold": 2}), {}, ConfigError, "line 1: one text that holds.*\n.*--answer-type"),
        ("a.jsonl", jsonl(PLAIN), {"answer_type": "numbr"}, ConfigError, "Did you mean 'number'"),
        ("a.jsonl", jsonl(PLAIN), {"form": "nem"}, ConfigError, "Did you mean 'nemo'"),
        ("a.jsonl", jsonl(PLAIN), {**ONE, "form": "nemo"}, DataError, "line 1: no column 'problem'"),
        ("a.jsonl", jsonl({**PLAIN, "golden": 2}), ONE, DataError, "no column 'gold'. Did you mean 'golden'"),
        (
            "a.jsonl",
            jsonl({**PLAIN, "gold": 1}, {**PLAIN, "rationale": "r", "answer_text": "a", "gold": 1}),
            ONE,
            DataError,
            "line 1 and .*line 2: one has an answer text",
        ),
        (
            "a.jsonl",
            jsonl({**PLAIN, "gold": 1}, {**PLAIN, "gold": 2}),
            ONE,
            DataError,
            "line 2: by its id the question",
        ),
        ("a.jsonl", "{\n", ONE, DataError, "line 1: not valid JSON"),
        ("a.json", "{\n", ONE, DataError, r"a\.json: not one JSON object"),
        ("b.json", "[\n]", ONE, DataError, r"b\.json, data '': a list of completions"),
        ("a.json", '{"data": {"3":\n[1]}}', ONE, DataError, "data '3': a list of completions"),
        ("a.json", json.dumps({"metadata": {}, "data": {"3": [{}]}}), ONE, DataError, "data '3', item 0: no column"),
        ("none.json", None, ONE, DataError, r"none\.json: not one JSON object .*No such file"),
        ("none.jsonl", None, ONE, DataError, "no such file"),
        (
            "a.jsonl",
            jsonl({**HARNESS, "resps": [["-0.5", "True"], "x"], "doc": 1}),
            ONE,
            DataError,
            "line 1: 'doc' must",
        ),
        ("a.jsonl", jsonl({**HARNESS, "resps": [[["-0.5", "True"]]]}), ONE, DataError, "'resps' must be text"),
    ],
)
def test_a_file_or_an_option_that_does_not_fit(
    tmp_path: Path, name: str, text: str | None, options: dict[str, Any], error: type[CotdistillError], message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=message):
        import_completions([tmp_path / name], tmp_path / "s.sqlite", "m", questions=tmp_path / "task.jsonl", **options)
    assert not (tmp_path / "s.sqlite").exists()
    assert not (tmp_path / "task.jsonl").exists()


def test_another_file_cannot_silently_lose_to_an_earlier_import(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    (tmp_path / "a.jsonl").write_text(jsonl(LINE))
    (tmp_path / "b.jsonl").write_text(jsonl({**LINE, "rationale": " Two."}))
    import_completions([tmp_path / "a.jsonl"], store, "m")
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: .* has another text"):
        import_completions([tmp_path / "b.jsonl"], store, "m")


def test_the_command_prints_the_sections_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl({"q": Q, "output": SOLUTION, "gold": 2}))
    store, task = str(tmp_path / "s.sqlite"), str(tmp_path / "task.jsonl")
    words = ["import", str(tmp_path / "a.jsonl"), "--store", store, "--model", "m", "--question", "q"]
    cli.main([*words, "--questions", task, "--answer-type", "number"], leave=lambda code: None)
    assert yaml.safe_load(capsys.readouterr().out) == {
        "task": {"data": task, "id": "id", "answer_type": "number"},
        "teacher": {
            **{"backend": "recorded", "store": store, "model": "m", "style": "one_step"},
            **{"samples": 1, "temperature": 0.0, "max_tokens": 128},
        },
    }


@pytest.mark.parametrize(
    ("dataset", "kind", "kept", "asked", "repeats"),
    [
        ("multiarith", "number", 332, 420, "20 of 600 outputs repeat a question; 1 with another text"),
        ("svamp", "number", 432, 700, ""),
        ("date_understanding", "choice", 176, 258, ""),
        ("tracking_shuffled_objects", "choice", 282, 525, ""),
        ("last_letter_concatenation", "text", 205, 350, ""),
        ("coin_flip", "yes_no", 320, 350, ""),
        ("strategy_qa", "yes_no", 875, 1603, "1 of 2290 outputs repeat a question; 1 with another text"),
    ],
)
def test_the_papers_count_comes_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, kind: str, kept: int, asked: int, repeats: str
) -> None:
    logs = TEACHER_LOGS / f"{dataset}.jsonl"
    if not logs.exists():
        pytest.skip(f"the published teacher outputs are not here ({logs})")
    store, task = tmp_path / "store.sqlite", tmp_path / "task.jsonl"
    sections = import_completions([logs], store, "text-davinci-002", answer_type=kind, questions=task)
    assert repeats in capsys.readouterr().err
    questions, _, _ = load(TaskConfig.model_validate(sections["task"]))
    with Store(tmp_path / "run.sqlite") as bought:
        stream = generate(questions, RecordedBackend(store), METHODS["zero_shot_cot"], bought, max_tokens=128)
        generations = list(stream)
    methods = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"]
    config = CurateConfig(truncated="keep", loops="keep", dedup="off")
    pairs = tmp_path / "pairs.jsonl"
    ledger = curate(generations, questions, *methods, RULES["paper"][kind], config, pairs).ledger
    assert (ledger["kept"], ledger["answered"]) == (kept, asked)
    if not repeats:
        rows = [row for _, row in iter_json_lines(logs) if row["split"] == "train"]
        assert [g.text for g in generations] == [row["rationale"] for row in rows]
