"""Students for other tools: lm-eval itself scores one, and agrees question by question."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from cotdistill import cli
from cotdistill.errors import ConfigError, DataError
from cotdistill.export import export
from cotdistill.exports.lm_eval import judge_with
from cotdistill.models import folder_when_whole
from exporting import number, trained
from tiny import tiny_model, tiny_t5


def choice(a: int) -> dict[str, str]:
    options = f"(A) {a} (B) {a + 1}" if a % 2 else f"(A) {a - 1} (B) {a}"
    letter = "A" if a % 2 else "B"
    return {"question": f"Which is {a}? {options}", "answer": f"({letter})", "rationale": f"{a} is {letter}."}


def yes_no(a: int) -> dict[str, str]:
    return {"question": f"Is {a} odd?", "answer": ("no", "yes")[a % 2], "rationale": f"{a}%2={a % 2}."}


LM_EVAL = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed: pip install 'lm-eval[hf]'")


@LM_EVAL
@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "kind", "steps", "form"),
    [
        (number, "llama", 50, "paper"),
        (choice, "llama", 30, "paper"),
        (yes_no, "llama", 20, "paper"),
        (number, "llama", 120, "natural"),  # its prompt ends with two newlines
        (number, "llama", 120, "chat"),
        (number, "t5", 100, "paper"),
    ],
)
def test_lm_eval_agrees_question_by_question(
    question: Callable[[int], dict[str, str]],
    kind: str,
    steps: int,
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cotdistill.models.has_bf16", lambda: False)  # in bf16 the two round otherwise
    base = tmp_path / "base"
    model = tiny_t5(base) if kind == "t5" else tiny_model(base, chat=form == "chat")
    folder = trained(tmp_path, question, model, steps, form)
    (command,) = export(folder, "lm-eval", tmp_path / "out")
    moved = (tmp_path / "out").rename(tmp_path / "moved")  # the task goes where it is needed
    words = [word.replace(str(tmp_path / "out"), str(moved)) for word in shlex.split(command)]
    logged = [sys.executable, "-m", *words, "--log_samples", "--output_path", str(tmp_path / "log")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(logged, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    (samples,) = (tmp_path / "log").rglob("samples_*.jsonl")
    theirs = {row["doc"]["id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    ours = [json.loads(line) for line in (folder / "predictions/fine_tune_cot-0.jsonl").read_text().splitlines()]
    assert len(ours) == len(theirs) == 12
    for line in ours:
        row = theirs[line["question_id"]]
        assert row["filtered_resps"][0].startswith(line["text"])
        assert row["exact_match"] == (line["category"] == "correct"), (line, row["filtered_resps"])
    (result,) = json.loads((folder / "result.json").read_text())["results"]
    assert result["accuracy"] > 0, "a student that knows nothing proves nothing"


JUDGED: list[tuple[str, str, str, str, str, tuple[str, ...], bool]] = [
    # form, method, answer type, text, answer, choices, right
    ("paper", "fine_tune_cot", "number", " 1+1=2. --> 2 END", "2", (), True),
    ("paper", "fine_tune_cot", "number", " 1+1=2. --> 2 END 3 --> 3", "2", (), True),
    ("paper", "fine_tune_cot", "number", " 1+1=2. --> 3 END", "2", (), False),
    ("paper", "fine_tune_cot", "number", " 1+1=12. --> 1", "1", (), False),  # cut: it may have gone on
    ("paper", "fine_tune", "number", " 1,200.0 END", "1200", (), True),
    ("paper", "fine_tune_cot", "choice", " So it is sky. --> (B) END", "B", ("red", "sky"), True),
    ("paper", "fine_tune_cot", "choice", " So it is sky. --> sky END", "B", ("red", "sky"), True),
    ("paper", "fine_tune_cot", "yes_no", " It is. --> Yes END", "yes", (), True),
    ("natural", "fine_tune_cot", "number", " 2.\n\nTherefore, the answer is\n\n2 END", "2", (), True),
    ("chat", "fine_tune_cot", "number", "2.\n\nTherefore, the answer is 2", "2", (), True),  # its end cannot be told
]


@pytest.mark.parametrize(("form", "method", "kind", "text", "answer", "choices", "right"), JUDGED)
def test_the_exported_reader(
    form: str, method: str, kind: str, text: str, answer: str, choices: tuple[str, ...], right: bool
) -> None:
    judge = judge_with("typed", kind, len(choices), form, False, "full")
    assert judge({"id": "1", "method": method, "answer": answer, "choices": list(choices)}, text) is right


@pytest.mark.slow
def test_what_is_written(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path, choice, base, 1)
    codes: list[int] = []
    cli.main(["export", str(folder), "--to", "lm-eval", "--out", str(tmp_path / "out")], leave=codes.append)
    assert codes == [0]
    (command,) = capsys.readouterr().out.splitlines()
    assert str(folder / "student/fine_tune_cot-0") in command
    rows = [json.loads(line) for line in (tmp_path / "out/cotdistill_t_fine_tune_cot.jsonl").read_text().splitlines()]
    assert rows[0]["prompt"] == "Which is 2? (A) 1 (B) 2 ###"
    assert (rows[0]["answer"], rows[0]["choices"]) == ("B", ["1", "2"])
    text = (tmp_path / "out/cotdistill_t_fine_tune_cot.yaml").read_text()
    task = yaml.safe_load(text.replace("!function ", ""))
    assert task["generation_kwargs"] == {"until": [], "do_sample": False, "max_gen_toks": 60}
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    export(folder, "lm-eval", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    with pytest.raises(ConfigError, match="comma"):
        export(folder.rename(tmp_path / "a,b"), "lm-eval", tmp_path / "out")


def test_a_folder_is_whole_or_not_there_and_another_of_a_longer_name_is_left(tmp_path: Path) -> None:
    with folder_when_whole(tmp_path / "out.gguf") as other, folder_when_whole(tmp_path / "out") as beside:
        assert other.is_dir()
        for folder in (other, beside):
            (folder / "file").write_text("1")
        killed = Path(shutil.copytree(beside, beside.with_name(beside.name[:-8] + "_killed_")))
    with suppress(RuntimeError), folder_when_whole(tmp_path / "out"):
        assert not killed.exists()
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.gguf"]
    assert [(tmp_path / name / "file").read_text() for name in ("out", "out.gguf")] == ["1", "1"]


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'lm-eval'"):
        export(tmp_path, "lm_eval", tmp_path / "out")
    with pytest.raises(DataError, match=r"config\.yaml"):
        export(tmp_path, "lm-eval", tmp_path / "out")
    (tmp_path / "config.yaml").write_text("evaluate: {methods: [zero_shot]}")
    with pytest.raises(ConfigError, match="trains no student"):
        export(tmp_path, "lm-eval", tmp_path / "out")
    assert not (tmp_path / "out").exists()
