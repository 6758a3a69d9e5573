"""The embedded default as it ships: its recorded teacher, and, slowly, the whole of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cotdistill.config import load_quickstart
from cotdistill.pipeline import run


def test_the_recorded_teacher_answers_every_training_question_and_is_sometimes_wrong(tmp_path: Path) -> None:
    config = load_quickstart({"runs": str(tmp_path)})
    this = run(config, until="curate")
    assert this.curated is not None
    ledger = this.curated.ledger
    assert ledger["asked"] == ledger["answered"] == len(this.task.train) * config.teacher.samples
    assert len(this.task.train) >= 300
    assert len(this.task.test) >= 150
    assert len({p.question_id for p in this.curated.pairs}) >= 0.75 * len(this.task.train)
    assert len(this.curated.pairs) < len(this.generations), "a real teacher is sometimes wrong"


@pytest.mark.slow
def test_the_student_reasons_and_one_taught_answers_alone_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cotdistill", "run", "--json", f"runs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = {result["method"]: result for result in json.loads(done.stdout)}
    assert results["fine_tune_cot"]["accuracy"] >= 0.6
    assert results["fine_tune_cot"]["low"] > results["fine_tune"]["high"]
    assert results["fine_tune_cot"]["low"] > results["zero_shot_cot"]["high"]
    assert (tmp_path / "quickstart/report.html").is_file()

    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(again.stdout) == json.loads(done.stdout)
    assert weights == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}, "it trained again"
