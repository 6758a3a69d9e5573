"""The whole flow on a tiny random student: run, run again, killed, shared, and on a user's own file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotdistill import cli
from cotdistill.config import Config, load_quickstart
from cotdistill.errors import ConfigError, DataError
from cotdistill.pipeline import run
from cotdistill.reports.folders import read_page
from cotdistill.reports.report import write_report
from cotdistill.runs import open_run
from cotdistill.students.train import trained_facts
from servers import start_server
from tiny import tiny_model


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", positions=2048)


def quick(student: Path, runs: Path, **overrides: object) -> Config:
    """The embedded default, with a tiny student and few questions."""
    return load_quickstart(
        {
            "runs": str(runs),
            "name": "tiny",
            "task.train": 12,
            "task.test": 6,
            "teacher.samples": 2,
            "student.model": str(student),
            "student.steps": 2,
            "student.max_length": 0,
            "evaluate.max_tokens": 8,
            **overrides,
        }
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a run but weights, training times and the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "student" not in path.parts and path.name != ".lock"
    }


def test_a_run_leaves_all_its_files_and_adds_up(student: Path, tmp_path: Path) -> None:
    this = run(quick(student, tmp_path))
    names = set(files(this.folder))
    assert {"config.yaml", "manifest.json", "ledger.json", "generations.jsonl", "pairs.jsonl"} <= names
    assert {"result.json", "report.html", "predictions/zero_shot.jsonl", "predictions/fine_tune_cot-0.jsonl"} <= names
    ledger = json.loads((this.folder / "ledger.json").read_text())
    assert ledger["asked"] == 24 == ledger["answered"] + ledger["failed"]
    assert ledger["answered"] == ledger["kept"] + sum(ledger["dropped"].values())
    assert 0 < ledger["kept"] < 24, "a real teacher is sometimes wrong"
    result = json.loads((this.folder / "result.json").read_text())
    assert [r["method"] for r in result["results"]] == ["zero_shot", "zero_shot_cot", "fine_tune", "fine_tune_cot"]
    assert all(sum(r["categories"].values()) == 6 for r in result["results"])
    write_report(read_page(this.folder), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (this.folder / "report.html").read_bytes()


@pytest.mark.slow
def test_nothing_kept_is_said_before_another_student_is_trained(student: Path, tmp_path: Path) -> None:
    with start_server("--reply", " I cannot say.") as server:
        teacher = {"teacher.backend": "openai", "teacher.model": "m", "teacher.base_url": server.base_url}
        config = quick(student, tmp_path, **teacher)
        with pytest.raises(DataError, match=r"ledger.json: none of 24 rationales was kept: 24 no_answer\."):
            run(config)
        assert not (config.folder / "student").exists()
        assert run(config, until="curate").curated is not None  # which is no error: it is what was asked for


@pytest.mark.slow
def test_a_student_that_is_replaced_is_said(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rate, said in ((1e-3, False), (1e-3, False), (2e-3, True)):
        run(quick(student, tmp_path, **{"evaluate.methods": ["fine_tune"], "student.learning_rate": rate}), "train")
        assert ("another student takes its place" in " ".join(capsys.readouterr().err.split())) is said


def test_the_held_out_questions_are_answered(student: Path, tmp_path: Path) -> None:
    this = run(quick(student, tmp_path, **{"student.dev_fraction": 0.3, "evaluate.methods": ["fine_tune"]}))
    facts = trained_facts(this.students["fine_tune-0"])
    ((epoch, _, n),) = facts["dev_accuracies"]
    assert ([epoch], n) == ([at for at, _ in facts["dev_losses"]], 3)
    assert sum(n for _, n in facts["lengths"]) == facts["pairs"] == 12
    assert "lengths" not in (this.folder / "manifest.json").read_text()
    assert "dev_accuracies" not in (this.folder / "manifest.json").read_text()
    assert f" of {n}</td>" in (this.folder / "report.html").read_text()


def test_only_right_rationales_become_pairs(student: Path, tmp_path: Path) -> None:
    this = run(quick(student, tmp_path), until="curate")
    assert this.curated is not None
    gold = {question.id: question.answer for question in this.task.train}
    for pair in this.curated.pairs:
        assert pair.completion.endswith(f" --> {gold[pair.question_id]} END")
    line = json.loads((this.folder / "pairs.jsonl").read_text().splitlines()[0])
    assert [m["role"] for m in line["messages"]] == ["user", "assistant"]
    assert line["messages"][1]["content"] == line["completion"]


@pytest.mark.slow
def test_a_second_run_changes_nothing_and_trains_nothing(student: Path, tmp_path: Path) -> None:
    folder = run(quick(student, tmp_path)).folder
    before = files(folder)
    weights = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    run(quick(student, tmp_path))
    assert files(folder) == before
    assert weights == {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_a_larger_d_extends_a_smaller_one(student: Path, tmp_path: Path) -> None:
    one = run(quick(student, tmp_path, **{"teacher.samples": 1}), until="generate").generations
    two = run(quick(student, tmp_path), until="generate").generations
    assert [g for g in two if g.index == 0] == one


def test_a_run_folder_is_held_by_one_process(student: Path, tmp_path: Path) -> None:
    config = quick(student, tmp_path)
    with open_run(config), pytest.raises(ConfigError, match="another process"):
        run(config)


def write_questions(path: Path, n: int = 20) -> Path:
    """A user's own file: sums in words, with number answers."""
    lines = [{"question": f"What is {a} plus {a + 7}?", "answer": 2 * a + 7} for a in range(3, 3 + n)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def own_file_arguments(data: Path, base_url: str, student: Path, runs: Path) -> list[str]:
    return [
        *(f"runs={runs}", "name=mine", f"task.data={data}", "task.answer_type=number"),
        *("teacher.backend=openai", "teacher.model=test", f"teacher.base_url={base_url}", "teacher.samples=3"),
        *("teacher.stop=[]", "teacher.max_tokens=64", "limits.concurrency=4"),
        *(f"student.model={student}", "student.steps=2", "evaluate.max_tokens=8"),
    ]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "cotdistill", *arguments]


def test_a_users_own_file_through_a_server(student: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path / "mine.jsonl")
    with start_server("--wrong-rate", "0.3") as server:
        arguments = own_file_arguments(data, server.base_url, student, tmp_path / "runs")
        arguments.append("evaluate.methods=[fine_tune_cot]")
        done = subprocess.run(command("run", *arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        asked = server.stats()["requests"]
        codes: list[int] = []
        cli.main(["run", *arguments], leave=codes.append)
        assert codes == [0]
        assert server.stats()["requests"] == asked, "the second run bought something"
    assert "fine_tune_cot" in done.stdout
    assert done.stdout.strip().endswith("report.html")
    ledger = json.loads((tmp_path / "runs/mine/ledger.json").read_text())
    assert ledger["asked"] == 14 * 3
    assert ledger["dropped"]["wrong"] > 0


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_the_same_and_asks_nothing_twice(student: Path, tmp_path: Path) -> None:
    """SIGKILL on the command while it buys; asked again is what was in flight, or came just before the last commit."""
    data = write_questions(tmp_path / "mine.jsonl", 60)
    rng = random.Random(0)
    with start_server("--latency", "0.3") as server:
        arguments = own_file_arguments(data, server.base_url, student, tmp_path / "killed")
        kills = 0
        for _ in range(6):
            process = subprocess.Popen(
                command("curate", *arguments), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            time.sleep(rng.uniform(0.4, 1.6))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        subprocess.run(command("curate", *arguments), check=True, capture_output=True)
        asked = server.stats()["requests"]
        whole = own_file_arguments(data, server.base_url, student, tmp_path / "whole")
        subprocess.run(command("curate", *whole), check=True, capture_output=True)
        needed = server.stats()["requests"] - asked
    assert kills > 2
    assert asked <= needed + kills * (4 + 4)
    killed, undisturbed = files(tmp_path / "killed/mine"), files(tmp_path / "whole/mine")
    for name in ("generations.jsonl", "pairs.jsonl", "ledger.json"):
        assert killed[name] == undisturbed[name]


def test_interrupted_it_says_how_to_resume(student: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path / "mine.jsonl", 60)
    with start_server("--latency", "0.5") as server:
        arguments = own_file_arguments(data, server.base_url, student, tmp_path / "runs")
        process = subprocess.Popen(command("generate", *arguments), stderr=subprocess.PIPE, text=True)
        while server.stats()["requests"] == 0 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command resumes" in said
    assert "Traceback" not in said
