"""A grid of runs over one store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotdistill.errors import ConfigError
from cotdistill.store import Store
from cotdistill.sweep import grid, sweep
from tiny import tiny_model

BASE = """
runs: {runs}
task: {{name: word_problems, train: 8, test: 4}}
teacher:
  backend: recorded
  max_tokens: 160
  stop: ["\\n\\n", "Q:", "A:", "```", "Let's confirm", "Let's verify", "Let's write", "We can verify"]
student: {{model: {student}, steps: 1}}
evaluate: {{methods: [fine_tune_cot], max_tokens: 4}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    student = tiny_model(tmp_path / "tiny", positions=2048)
    (tmp_path / "base.yaml").write_text(BASE.format(runs=tmp_path / "runs", student=student))
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "d.yaml"
    path.write_text(text)
    return path


def test_runs_of_a_grid_share_the_store_and_a_failed_one_does_not_stop_the_rest(base: Path) -> None:
    file = write(base, "base: base.yaml\ngrid: {teacher.samples: [2, 99, 1]}\n")
    summary = sweep(file)
    two, too_many, one = summary["runs"]
    assert [run["run"] for run in summary["runs"]] == ["d-samples2", "d-samples99", "d-samples1"]
    assert "not in word_problems.sqlite" in too_many["error"]
    assert one["results"][0]["n"] == two["results"][0]["n"] == 4
    written = json.loads((base / "runs/d.sweep.json").read_text())
    assert written == json.loads(json.dumps(summary))
    with Store(base / "runs/store.sqlite") as store:
        bought = len(store)
    sweep(file)
    with Store(base / "runs/store.sqlite") as store:
        assert len(store) == bought


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: base.yaml\n", "grid"),
        ("base: base.yaml\ngrid: {teacher.samples: 2}\n", "lists"),
        ("base: base.yaml\ngrid: {teacher.sample: [2]}\n", "samples"),
        ("base: no.yaml\ngrid: {teacher.samples: [2]}\n", "no.yaml"),
        ("bases: base.yaml\ngrid: {teacher.samples: [2]}\n", "bases"),
        ("base: base.yaml\ngrid: {teacher.samples: [2, 2]}\n", "same settings"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(base: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        grid(write(base, text))
