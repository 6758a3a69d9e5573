"""A grid of runs over one store."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cotdistill.cli import main
from cotdistill.config import TaskConfig
from cotdistill.config_file import parse_overrides
from cotdistill.errors import ConfigError
from cotdistill.store import Store
from cotdistill.sweeps.side_by_side import WORKER, side_by_side
from cotdistill.sweeps.sweep import _command, grid, sweep
from cotdistill.tasks import load_task
from servers import Server
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


@pytest.mark.slow
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
    assert summary["page"] == str(base / "runs/d.sweep.html")
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


@pytest.mark.parametrize(
    ("axis", "key"),
    [
        ("teacher.samples: [1, 2]", "teacher.samples"),
        ("teacher.samples: [1, 2]", "teacher"),
        ("task: {a: {train: 4}, b: {train: 8}}", "task.train"),
    ],
)
def test_what_the_grid_varies_cannot_be_set_for_every_run(base: Path, axis: str, key: str) -> None:
    file = write(base, f"base: base.yaml\ngrid: {{{axis}}}\n")
    with pytest.raises(ConfigError, match="Change it there"):
        grid(file, {key: 4})
    assert len(grid(file, {"student.steps": 4, "task.test": 2})) == 2


@pytest.mark.parametrize("name", ["word_problems", "generated_coin_flip", "own"])
def test_fewer_training_questions_are_part_of_more_and_the_test_stays(name: str, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"question": f"What is {a} plus 2?", "answer": a + 2}) + "\n" for a in range(40)))
    what = {"data": own, "answer_type": "number"} if name == "own" else {"name": name}
    tasks = [load_task(TaskConfig.model_validate({**what, "train": n, "test": 5})) for n in (4, 8, 16)]
    few, more, most = ({question.id for question in task.train} for task in tasks)
    assert few < more < most
    assert [len(few), len(more), len(most)] == [4, 8, 16]
    assert len({task.test for task in tasks}) == 1


def own_questions(folder: Path, server: Server) -> Path:
    """A base of eight questions to a live teacher, which the server answers right."""
    questions = [{"question": f"What is {a} plus {a}?", "answer": 2 * a} for a in range(1, 13)]
    (folder / "own.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    student = tiny_model(folder / "tiny", positions=2048)
    (folder / "live.yaml").write_text(f"""
runs: {folder / "live"}
task: {{data: {folder / "own.jsonl"}, answer_type: number, train: 8, test: 4}}
teacher: {{model: fake, base_url: "{server.base_url}", api: completions, max_tokens: 40}}
curate: {{dedup: false}}
student: {{model: {student}, steps: 1, dev_fraction: 0}}
evaluate: {{methods: [zero_shot, fine_tune, fine_tune_cot], max_tokens: 4}}
""")
    return folder


def asked(server: Server, before: int) -> list[dict[str, Any]]:
    """The requests for rationales since then."""
    return [body for body in server.stats()["bodies"][before:] if "Therefore, the answer" not in body["prompt"]]


def test_one_pool_is_bought_whatever_the_order_of_d(tmp_path: Path, server: Server) -> None:
    folder = own_questions(tmp_path, server)
    before = len(server.stats()["bodies"])
    file = write(folder, "base: live.yaml\nuntil: curate\ngrid: {teacher.samples: [1, 4, 2], task.train: [8, 4]}\n")
    runs = sweep(file)["runs"]
    assert [run["ledger"]["asked"] for run in runs] == [8, 4, 32, 16, 16, 8]  # in the grid's order
    bought = asked(server, before)
    assert [body["n"] for body in bought] == [4] * 8  # the largest first, of each question once
    sweep(file)
    assert len(asked(server, before)) == 8


@pytest.mark.slow
def test_what_runs_share_is_made_once_and_a_second_sweep_does_nothing(tmp_path: Path, server: Server) -> None:
    folder = own_questions(tmp_path, server)
    file = write(folder, "base: live.yaml\ngrid: {teacher.samples: [1, 2], task.train: [4, 8]}\n")
    summary = sweep(file)
    runs = folder / "live"
    inodes = {
        (n, d): (runs / f"d-samples{d}-train{n}/student/fine_tune-0/model.safetensors").stat().st_ino
        for n in (4, 8)
        for d in (1, 2)
    }
    assert inodes[4, 1] == inodes[4, 2] != inodes[8, 1] == inodes[8, 2]
    with sqlite3.connect(runs / "store.sqlite") as db:
        written = dict(
            db.execute(
                "SELECT model, count(*) FROM completions JOIN prompts ON prompt = prompts.id "
                "JOIN pools ON pool = pools.id GROUP BY model"
            )
        )
    # The teacher, the base model, two students of answers and four of rationales; each asked 4 questions once.
    local = [count for model, count in written.items() if "fake" not in model]
    assert local == [4] * 7
    assert summary["runs"][0]["place"]["parameters"] == summary["runs"][3]["place"]["parameters"] > 1000

    def state() -> dict[Path, tuple[int, bytes]]:
        kept = [p for p in sorted(runs.rglob("*")) if p.is_file() and p.suffix in (".safetensors", ".jsonl", ".csv")]
        kept += [runs / "d.sweep.html"]
        return {p: (p.stat().st_mtime_ns if p.suffix == ".safetensors" else 0, p.read_bytes()) for p in kept}

    before, requests = state(), server.stats()["requests"]
    assert sweep(file) == summary
    assert state() == before
    assert server.stats()["requests"] == requests


@contextmanager
def command(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "cotdistill", "sweep", *map(str, words)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def workers(folder: Path) -> list[int]:
    """Processes at one run of a sweep of that folder."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--only" in words and any(word.startswith(str(folder).encode()) for word in words):
            found.append(int(cmdline.parent.name))
    return found


def wait_for(what: Callable[[], object], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_side_by_side_is_as_in_turn_and_one_that_is_killed_is_told(tmp_path: Path, server: Server) -> None:
    folder = own_questions(tmp_path, server)
    before = len(server.stats()["bodies"])
    file = write(folder, "base: live.yaml\ngrid: {teacher.samples: [1, 2], student.steps: [1, 100000]}\n")
    victims = [folder / f"live/d.sweep/d-samples{d}-steps100000.log" for d in (1, 2)]
    with command(file, "--jobs", "2", "--json", "student.checkpoint_minutes=0") as process:
        for log in reversed(victims):  # the larger D comes first
            wait_for(lambda log=log: log.is_file() and "examples, the longest" in log.read_text())  # type: ignore[misc]
            for pid in workers(folder):
                if b"steps100000" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 1
    assert "2 of 4 runs failed" in err
    runs = json.loads(out)["runs"]
    assert [run["run"] for run in runs if "error" in run] == ["d-samples1-steps100000", "d-samples2-steps100000"]
    assert "was killed by SIGKILL (out of memory?)" in runs[1]["error"]
    assert str(victims[0]) in runs[1]["error"]
    assert [body["n"] for body in asked(server, before)] == [2] * 8

    in_turn = sweep(
        write(folder, "base: live.yaml\ngrid: {teacher.samples: [1, 2], student.steps: [1]}\n"),
        {"runs": str(folder / "in_turn"), "student.checkpoint_minutes": 0},
    )["runs"]
    for one, other in zip(in_turn, [run for run in runs if "error" not in run], strict=True):
        same = ("accuracy", "n", "categories", "method", "seed")
        assert [[r[k] for k in same] for r in one["results"]] == [[r[k] for k in same] for r in other["results"]]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_ends_takes_its_processes_with_it(how: signal.Signals, tmp_path: Path, server: Server) -> None:
    folder = own_questions(tmp_path, server)
    file = write(folder, "base: live.yaml\ngrid: {teacher.samples: [1, 2]}\n")
    logs = folder / "live/d.sweep"
    with command(file, "--jobs", "2", "student.steps=100000") as process:
        wait_for(lambda: [log for log in logs.glob("*.log") if "examples, the longest" in log.read_text()])
        assert len(workers(folder)) == 2
        process.send_signal(how)
        process.wait()
        wait_for(lambda: not workers(folder), 60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    with command(file, "--jobs", "2", "--json") as again:  # no folder is held by what was left
        out, _ = again.communicate()
    assert again.returncode == 0
    assert all(run["results"] for run in json.loads(out)["runs"])


def test_what_a_library_prints_beside_its_entry_fails_no_run(tmp_path: Path) -> None:
    shown = json.dumps({"runs": [{"results": [{"n": 1}]}], "failed": {}}, indent=1)
    code = f"print('{{loading}}'); print({shown!r}); print('done')"
    ends = [*side_by_side(["a"], 1, lambda name: [sys.executable, "-c", code], tmp_path, lambda name, log: None)]
    assert ends == [("a", {"results": [{"n": 1}]})]


LOSING = """
import os, time
from cotdistill.sweeps import side_by_side
class Finalizer:
    def __del__(self):
        print("in it", flush=True)
        time.sleep(60)
side_by_side.AGAIN = 0.3
side_by_side.end_with_the_sweep()
Finalizer()
while True:
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_a_process_whose_ctrl_c_python_loses_ends_with_the_sweep_too() -> None:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", LOSING]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, WORKER: "1"}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"in it\n"
            _, said = process.communicate(timeout=30)  # which closes its pipe
        finally:
            process.kill()
    assert b"Exception ignored" in said
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(("jobs", "only", "said"), [("2", "", "torchrun"), ("1", "d-samples3", "d-samples2")])
def test_what_cannot_be_is_said(jobs: str, only: str, said: str, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2" if jobs == "2" else "1")
    file = write(base, "base: base.yaml\ngrid: {teacher.samples: [1, 2]}\n")
    with pytest.raises(ConfigError, match=said):
        sweep(file, jobs=int(jobs), only=only or None)


def test_the_command_prints_a_table_and_ends_with_1_where_a_run_failed(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(base, "base: base.yaml\nuntil: curate\ngrid: {teacher.samples: [2, 99]}\n")
    codes: list[int] = []
    main(["sweep", str(file)], leave=codes.append)
    printed = capsys.readouterr()
    assert codes == [1]
    assert "of 16" in printed.out
    assert "failed" in printed.out
    assert "d.sweep.html" in printed.out
    assert "d-samples99 failed: completions are not in word_problems.sqlite" in printed.err
    assert "1 of 2 runs failed" in printed.err
    main(["sweep", str(file), "--json", "--only", "d-samples2"], leave=codes.append)
    (only,) = json.loads(capsys.readouterr().out)["runs"]
    assert (only["run"], only["ledger"]["asked"], codes) == ("d-samples2", 16, [1, 0])


@pytest.mark.parametrize("value", [1e-05, "1", "a: b", [0, 1], {"a": 2e-6}, None, True, Path("a b")])
def test_a_setting_reaches_a_process_as_it_is(value: object) -> None:
    *_, word = _command(Path("d.yaml"), {"x.y": value}, "d-1")
    assert parse_overrides([word]) == {"x.y": str(value) if isinstance(value, Path) else value}
