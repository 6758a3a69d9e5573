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
    assert [run["settings"] for run in summary["runs"]] == [{"teacher.samples": n} for n in (2, 99, 1)]
    assert two["ledger"]["asked"] == 16
    assert "not in word_problems.sqlite" in too_many["error"]
    assert one["results"][0]["n"] == two["results"][0]["n"] == 4
    written = json.loads((base / "runs/d.sweep.json").read_text())
    assert written == json.loads(json.dumps(summary))
    with Store(base / "runs/store.sqlite") as store:
        bought = len(store)
    sweep(file)
    with Store(base / "runs/store.sqlite") as store:
        assert len(store) == bought


def test_values_with_names_a_base_inside_and_settings_for_every_run(base: Path) -> None:
    sections = "  task: {train: 8, test: 4}\n  student: {steps: 1}\n"
    axis = "grid:\n  task: {words: {train: 4, test: 2}, coins: {name: generated_coin_flip}}\n"
    runs = grid(write(base, f"base:\n{sections}{axis}"), {"student.steps": 7, "task.seed": 3})
    assert [(shown, config.name) for shown, config in runs] == [
        ({"task": "words"}, "d-task-words"),
        ({"task": "coins"}, "d-task-coins"),
    ]
    assert [(c.task.name, c.task.train, c.student.steps, c.task.seed) for _, c in runs] == [
        ("word_problems", 4, 7, 3),
        ("generated_coin_flip", None, 7, 3),
    ]


def test_a_sweep_may_end_before_training(base: Path) -> None:
    file = write(base, "base: base.yaml\nuntil: curate\ngrid: {teacher.samples: [1]}\n")
    (only,) = sweep(file)["runs"]
    assert only["results"] == []
    assert only["ledger"]["asked"] == 8
    assert not (base / "runs/d-samples1/student").exists()


EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_experiment_of_ours_is_a_sweep(file: Path) -> None:
    assert len(grid(file, {})) >= 4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("base: base.yaml\n", "grid"),
        ("base: base.yaml\ngrid: {teacher.samples: 2}\n", "lists"),
        ("base: base.yaml\ngrid: {teacher.sample: [2]}\n", "samples"),
        ("grid: {teacher.sampls: [2]}\n", "d.yaml: teacher.sampls"),
        ("base: no.yaml\ngrid: {teacher.samples: [2]}\n", "no.yaml"),
        ("bases: base.yaml\ngrid: {teacher.samples: [2]}\n", "bases"),
        ("base: base.yaml\ngrid: {teacher.samples: [2, 2]}\n", "same settings"),
        ("base: base.yaml\nuntil: never\ngrid: {teacher.samples: [2]}\n", "never"),
        ("base: base.yaml\ngrid: {teacher: {a: {samplez: 2}}}\n", "samples"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_runs(base: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        grid(write(base, text), {})
