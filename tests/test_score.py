"""`cotdistill score`: outputs of any tool, one object for programs, and a line for every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotdistill import cli
from cotdistill.evaluate import score_file

SHARED = Path(__file__).parents[2] / "shared"


def call(*words: str) -> int:
    """The command in this process; its exit code."""
    codes: list[int] = []
    cli.main(["score", *words], leave=codes.append)
    return codes[0]


def jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# answer type, output, known answer, further columns: category, predicted
ROWS: list[tuple[str, Any, Any, dict[str, Any], str, str | None]] = [
    ("number", " 39.", 39, {}, "correct", "39"),
    ("number", 39, "39", {}, "correct", "39"),
    ("number", 39.0, 39, {}, "correct", "39.0"),
    ("number", 1e22, "10000000000000000000000", {}, "correct", "1" + "0" * 22),
    ("number", " 56. \n\nI hope this helps!", 56, {}, "correct", "56"),
    ("number", "They eat 35 pieces, so they have 74 - 35 = 39 pieces left.", 39, {}, "correct", "39"),
    ("number", "They have 32 + 42 = 74 pieces.\nThey eat 35, so 74 - 35 = 39 are left.", 39, {}, "correct", "39"),
    ("number", "They have 74 pieces. They eat some.", 74, {}, "no_answer", None),
    ("number", " 74 - 35 = 39 --> 39 END", 39, {}, "correct", "39"),
    ("number", " 74 --> 35 --> 39 END", 39, {}, "correct", "39"),
    ("number", " 74 - 35 = 39 --> END", 39, {}, "no_answer", None),
    ("number", '{"rationale": "74 - 35", "answer": "39 pieces"}', 39, {}, "correct", "39"),
    ("number", '```json\n{"answer": 39}\n```', 39, {}, "correct", "39"),
    ("number", {"answer": 39, "why": "74 - 35 --> 40"}, 39, {}, "correct", "39"),
    ("number", {"answer": None}, 39, {}, "no_answer", None),
    ("number", {"why": "39"}, 39, {}, "no_answer", None),
    ("number", '{"why": "39"}', 39, {}, "no_answer", None),
    ("number", '{"answer": 39', 39, {"truncated": True}, "truncated", None),
    ("number", [39, 40], 39, {}, "no_answer", None),
    ("number", True, 1, {}, "no_answer", None),
    ("number", "", 39, {}, "no_answer", None),
    ("number", None, 39, {}, "error", None),
    ("number", "39", 39, {"finish_reason": "error"}, "error", None),
    ("number", "So we have 3", 39, {"finish_reason": "length"}, "truncated", None),
    ("number", "So we have 3", 39, {"truncated": True}, "truncated", None),
    ("number", "The answer is 39. Next", 39, {"truncated": True}, "correct", "39"),
    ("number", "<think>5? 6?</think>The answer is 39.", 39, {}, "correct", "39"),
    ("number", "#### 39", "They eat 35.\n74 - 35 = 39\n#### 39", {}, "correct", "39"),
    ("number", "39", "39 pieces", {}, "correct", "39"),
    ("integer", "1,234", "1234", {}, "correct", "1234"),
    ("choice", "So the answer is (B).", "B", {}, "correct", "B"),
    ("choice", "the blue ball", "(B)", {"choices": ["red ball", "blue ball"]}, "correct", "B"),
    ("choice", "the blue ball", "B", {"choices": {"text": ["red ball", "blue ball"]}}, "correct", "B"),
    ("choice", "C", "B", {"choices": {"A": "red ball", "B": "blue ball"}}, "no_answer", None),
    ("yes_no", True, "yes", {}, "correct", "yes"),
    ("yes_no", " Yes, it is.", True, {}, "correct", "yes"),
    ("text", ' "n s t y".', "nsty", {}, "correct", "n s t y"),
    ("date", "May 5, 2021", "05/05/2021", {}, "correct", "2021-05-05"),
]


@pytest.mark.parametrize(("answer_type", "output", "answer", "more", "category", "predicted"), ROWS)
def test_a_row(
    answer_type: str,
    output: Any,
    answer: Any,
    more: dict[str, Any],
    category: str,
    predicted: str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = jsonl(tmp_path / "a.jsonl", {"output": output, "answer": answer, **more})
    out = tmp_path / "deep" / "rows.jsonl"
    assert call(str(file), "--answer-type", answer_type, "--json", "--out", str(out)) == 0
    judged = {"correct": category == "correct", "category": category, "predicted": predicted}
    assert json.loads(out.read_text()) == judged
    result = json.loads(capsys.readouterr().out)
    assert result["categories"][category] == 1
    assert result["n"] == (category != "error")


def test_the_object_the_table_and_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [" 4", " 5", None, " unclear", " 4."]
    file = jsonl(tmp_path / "a.jsonl", *({"written": text, "known": 4} for text in texts))
    words = [str(file), "--answer-type", "number", "--output", "written", "--answer", "known"]
    assert call(*words, "--json", "--out", str(tmp_path / "rows.jsonl")) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n"], result["correct"], result["accuracy"]) == (4, 2, 0.5)
    assert 0 < result["low"] < 0.5 < result["high"] < 1
    assert result["categories"] == {"correct": 2, "wrong": 1, "no_answer": 1, "truncated": 0, "error": 1}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["category"] for row in rows] == ["correct", "wrong", "error", "no_answer", "correct"]
    assert call(*words) == 0
    shown = capsys.readouterr()
    for part in ("a.jsonl", "50.0%", "2 correct, 1 wrong, 1 no_answer, 0 truncated, 1 error"):
        assert part in shown.out
    assert "1 of 5 generations are errors" in shown.err


def test_a_runs_predictions_are_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_prompts = {"text": " It is 5.", "answer_text": " 4.", "gold": "4", "finish_reason": "length"}
    one = {"text": " 2 + 2 = 4 --> 4", "answer_text": None, "gold": "4", "finish_reason": "stop"}
    plain = {"text": " 4", "answer_text": None, "gold": "4", "finish_reason": "stop"}
    failed = {"text": "", "answer_text": None, "gold": "4", "finish_reason": "error"}
    assert (
        call(str(jsonl(tmp_path / "p.jsonl", two_prompts, one, plain, failed)), "--answer-type", "number", "--json")
        == 0
    )
    assert json.loads(capsys.readouterr().out)["categories"]["correct"] == 3
    # By a method's form, what is not in it is read as a whole text.
    lines = [{"text": f" 4 --> {n}", "gold": 4} for n in (4, 5)]
    file = jsonl(tmp_path / "q.jsonl", *lines)
    assert call(str(file), "--answer-type", "number", "--method", "fine_tune", "--json") == 0
    assert json.loads(capsys.readouterr().out)["categories"]["no_answer"] == 2
    assert call(str(file), "--answer-type", "number", "--rule", "paper", "--method", "fine_tune", "--json") == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 2


def test_a_task_gives_its_answer_type_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path / "a.jsonl", {"output": "Yes.", "answer": "yes"}, {"output": "No.", "answer": "yes"})
    assert call(str(file), "--task", "coin_flip", "--json") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.5
    file = jsonl(tmp_path / "b.jsonl", {"output": "Claire F", "answer": "F"})
    assert call(str(file), "--task", "tracking_shuffled_objects", "--rule", "paper", "--json") == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 0  # of A, B and C it holds one


MISTAKES: list[tuple[str, list[dict[str, Any]], list[str], int, list[str]]] = [
    ("no type", [{"output": "4", "answer": "4"}], [], 2, ["--task", "--answer-type"]),
    ("type and task", [{"output": "4", "answer": "4"}], ["--answer-type", "number", "--task", "x"], 2, ["--task"]),
    ("unknown type", [{"output": "4", "answer": "4"}], ["--answer-type", "numer"], 2, ["'numer'", "'number'"]),
    ("unknown rule", [{"output": "4", "answer": "4"}], ["--answer-type", "text", "--rule", "papr"], 2, ["'paper'"]),
    ("unknown method", [{"output": "4", "answer": "4"}], ["--answer-type", "text", "--method", "fine"], 2, ["fine"]),
    ("unknown task", [{"output": "4", "answer": "4"}], ["--task", "coinflip"], 2, ["coinflip", "coin_flip"]),
    ("no output", [{"outputs": "4", "answer": "4"}], ["--answer-type", "number"], 3, ["'outputs'", "--output"]),
    ("no answer", [{"output": "4", "answr": "4"}], ["--answer-type", "number"], 3, ["'answr'", "--answer"]),
    (
        "no such column",
        [{"output": "4", "answer": "4"}],
        ["--answer-type", "number", "--output", "ouput"],
        3,
        ["'ouput'", "'output'"],
    ),
    (
        "no such choices",
        [{"output": "4", "answer": "4", "options": ["a"]}],
        ["--answer-type", "choice", "--choices", "option"],
        3,
        ["'options'"],
    ),
    ("nothing", [], ["--answer-type", "number"], 3, ["a.jsonl", "no lines"]),
    (
        "no known answer",
        [{"output": "4", "answer": "4"}, {"output": "4", "answer": None}],
        ["--answer-type", "number"],
        3,
        ["a.jsonl, line 2", "'answer'"],
    ),
    (
        "a known answer of another type",
        [{"output": "4", "answer": "red"}],
        ["--answer-type", "number"],
        3,
        ["a.jsonl, line 1", "'red'", "number"],
    ),
    (
        "choices that are no list",
        [{"output": "A", "answer": "A", "choices": "A) 1 B) 2"}],
        ["--answer-type", "choice"],
        3,
        ["line 1", "'choices'"],
    ),
]


@pytest.mark.parametrize(("rows", "words", "code", "named"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_mistakes(
    rows: list[dict[str, Any]],
    words: list[str],
    code: int,
    named: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(str(jsonl(tmp_path / "a.jsonl", *rows)), *words, "--out", str(tmp_path / "rows.jsonl")) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) <= 3
    for name in named:
        assert name in shown.err
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("task", "paper", "typed", "of"),
    [
        ("multiarith", 332, 337, 420),
        ("svamp", 432, 435, 700),
        ("date_understanding", 176, 176, 258),
        ("tracking_shuffled_objects", 282, 282, 525),
        ("last_letter_concatenation", 205, 209, 350),
        ("coin_flip", 320, 320, 350),
        ("strategy_qa", 875, 874, 1603),
    ],
)
def test_the_175b_teachers_log_as_it_is(
    task: str, paper: int, typed: int, of: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer steps alone, no form named: the authors' rule counts what they count, though rationales were cut."""
    log = SHARED / "data" / "teacher" / f"{task}.jsonl"
    if not log.is_file():
        pytest.skip(f"the teacher's logs are not here ({log})")
    rows = [row for row in map(json.loads, log.read_text(encoding="utf-8").splitlines()) if row["split"] == "train"]
    file = jsonl(tmp_path / "log.jsonl", *rows)
    for rule, right in (("paper", paper), ("typed", typed)):
        words = ["--task", task, "--output", "answer_extraction_output", "--rule", rule]
        assert call(str(file), *words, "--json") == 0
        result = json.loads(capsys.readouterr().out)
        assert (result["correct"], result["n"]) == (right, of)


def test_several_answers_to_a_question_make_it_no_surer(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question_id": q, "output": str(q % 2), "answer": "1"} for q in range(10) for _ in range(8)
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result, _ = score_file(file, "number")
    file.write_text("".join(json.dumps(row | {"question_id": None}) + "\n" for row in rows))
    apart, _ = score_file(file, "number")
    assert result.n == apart.n == 80
    assert result.high - result.low > 2 * (apart.high - apart.low)
