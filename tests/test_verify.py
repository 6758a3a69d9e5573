"""A finished run is verified; whatever is changed in it afterwards is named, and nothing else is."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotdistill import cli
from cotdistill.checksums import SUMS, not_covered, read_sums, write_sums
from cotdistill.errors import DataError
from cotdistill.models import sha256
from cotdistill.pipeline import run
from cotdistill.verify import Check, verify
from test_pipeline import quick, write_questions
from tiny import tiny_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; tests change a copy, or what they change back."""
    runs = tmp_path_factory.mktemp("runs")
    base = tiny_model(runs / "base", positions=2048)
    methods = ["zero_shot_cot", "few_shot_cot", "fine_tune", "fine_tune_cot"]
    folder = run(quick(base, runs, **{"evaluate.methods": methods, "student.report_to": []})).folder
    (folder / "student/logs/fine_tune-0").mkdir(parents=True)
    (folder / "student/logs/fine_tune-0/events").write_text("of a tracker")
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, with its store and base model beside it."""
    return shutil.copytree(finished.parent, tmp_path / "runs") / finished.name


def by_state(checks: list[Check], state: str) -> dict[str, str]:
    return {check.name: check.found for check in checks if check.state == state}


def call(*words: str) -> int:
    codes: list[int] = []
    cli.main(list(words), leave=codes.append)
    return codes[0]


@pytest.mark.slow
def test_a_finished_run_is_what_it_says(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.parent.rglob("*")}
    assert call("verify", str(finished)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "ok"
    assert call("verify", str(finished), "--json") == 0
    checks = [Check(**check) for check in json.loads(capsys.readouterr().out)]
    assert len(checks) == len(lines)
    made = {"generations.jsonl", "pairs.jsonl", "ledger.json", "result.json", "manifest.json"}
    assert made | {"predictions/few_shot_cot.jsonl", "student/fine_tune-0/complete.json"} <= set(by_state(checks, "ok"))
    assert by_state(checks, "not checked") == {"files": "not covered: .lock, student/logs/fine_tune-0/events"}
    assert {path: path.stat().st_mtime_ns for path in finished.parent.rglob("*")} == before, "nothing is written"
    sha256sum = shutil.which("sha256sum")
    if sha256sum is not None:
        subprocess.run([sha256sum, "-c", SUMS], cwd=finished, capture_output=True, check=True)


@pytest.mark.slow
def test_torch_is_not_needed(finished: Path) -> None:
    code = "import sys\nfrom cotdistill.cli import main\nmain(leave=print)\nprint([*sys.modules])"
    words = [sys.executable, "-c", code, "verify", str(finished)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    code, modules = done.stdout.splitlines()[-2:]
    assert code == "0", done.stdout + done.stderr
    assert not {"'torch'", "'transformers'"} & {*modules.strip("[]").split(", ")}


@pytest.mark.slow
def test_a_flipped_byte_anywhere_names_its_file_and_no_other(copy: Path) -> None:
    """At random places of every file that is not listed as not covered."""
    rng = random.Random(0)
    passed = set(not_covered(copy))
    names = [path.relative_to(copy).as_posix() for path in sorted(copy.rglob("*")) if path.is_file()]
    covered = [name for name in names if name not in passed]
    assert len(covered) > 20
    for name in covered:
        whole = (copy / name).read_bytes()
        for place in (0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(3))):
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.randrange(8)
            (copy / name).write_bytes(changed)
            bad = by_state(verify(copy), "BAD")
            # In the list a byte is of the digest of another file too: which of the two, only the list's own says.
            assert name in bad, (name, place)
            assert set(bad) == {name} or name == SUMS, (name, place, bad)
        (copy / name).write_bytes(whole)
    assert not by_state(verify(copy), "BAD")


def edit_line(name: str, number: int, **values: Any) -> Callable[[Path], None]:
    """Change fields of a line of JSON."""

    def edit(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **values}) + "\n"
        (folder / name).write_text("".join(lines))

    return edit


def edit_json(name: str, change: Callable[[Any], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        (folder / name).write_text(json.dumps(value))

    return edit


def edit_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return edit


def no_object(folder: Path) -> None:
    (folder / "ledger.json").write_text("[1]")


def other_weights(folder: Path) -> None:
    student = folder / "student/fine_tune-0"
    shutil.copy(folder / "student/fine_tune_cot-0/model.safetensors", student)


COMPLETE = "student/fine_tune_cot-0/complete.json"
# What was changed, SHA256SUMS made anew to hide it -> the file that is named, and what is said of it.
HIDDEN: list[tuple[str, Callable[[Path], None], str, str]] = [
    ("a rationale", edit_line("generations.jsonl", 3, text="9"), "generations.jsonl", r"line 3 \(question .* another"),
    ("a sample", edit_line("generations.jsonl", 2, index=7), "generations.jsonl", r"line 2 .* not in the store"),
    ("blank lines", edit_text("generations.jsonl", "\n", "\n\n"), "", ""),  # blank lines say nothing
    ("a pair", edit_line("pairs.jsonl", 2, completion=" 9 --> 9 END"), "pairs.jsonl", r"line 2 \(question "),
    ("a pair that is none", edit_text("pairs.jsonl", "{", "["), "pairs.jsonl", r"line 1 \(no JSON of a pair"),
    ("a JSON that is none", edit_text("result.json", ":", ";"), "result.json", "cannot be read as JSON"),
    ("kept", edit_json("ledger.json", lambda v: v.update(kept=99)), "ledger.json", "kept: it has 99"),
    ("no ledger", no_object, "ledger.json", "JSON object"),
    (
        "a verdict",
        edit_line("predictions/fine_tune-0.jsonl", 4, category="correct"),
        "predictions/fine_tune-0.jsonl",
        r"line 4 \(question .*category is .correct., and read again",
    ),
    (
        "a text that reads as before",
        edit_line("predictions/fine_tune-0.jsonl", 4, prompt_tokens=1),
        "predictions/fine_tune-0.jsonl",
        r"line 4 .* another text in the store",
    ),
    (
        "a question",
        edit_line("predictions/zero_shot_cot.jsonl", 1, gold="12345"),
        "predictions/zero_shot_cot.jsonl",
        "line 1 .* another question",
    ),
    ("an accuracy", edit_json("result.json", lambda v: v["results"][2].update(accuracy=0.9)), "result.json", "0.9"),
    ("an interval", edit_json("result.json", lambda v: v["results"][0].update(low=0.2)), "result.json", "low"),
    (
        "a comparison",
        edit_json("result.json", lambda v: v["comparisons"][0].update(p=0.01)),
        "result.json",
        r"comparisons 1.p is 0.01",
    ),
    (
        "a mean",
        edit_json("result.json", lambda v: v["summaries"][1].update(mean=0.7)),
        "result.json",
        r"summaries 2.mean",
    ),
    (
        "mistakes",
        edit_json("result.json", lambda v: v["mistakes"]["fine_tune-0"].update(form=9)),
        "result.json",
        r"mistakes.fine_tune-0.form is 9",
    ),
    (
        "a mistake",
        edit_line("predictions/fine_tune-0.jsonl", 4, mistakes=[]),
        "predictions/fine_tune-0.jsonl",
        r"line 4 \(question .*mistakes is \[\]",
    ),
    ("a result less", edit_json("result.json", lambda v: v["results"].pop()), "result.json", "it has results of"),
    ("no results", edit_json("result.json", lambda v: v.clear()), "result.json", "not a list of results"),
    ("seeds", edit_json("manifest.json", lambda v: v.update(seeds=[9])), "manifest.json", r"seeds: it has \[9\]"),
    ("a manifest without", edit_json("manifest.json", lambda v: v.pop("trained")), "manifest.json", "KeyError"),
    ("a manifest of nothing", edit_json("manifest.json", lambda v: v.clear()), "manifest.json", "KeyError"),
    ("the task", edit_json("manifest.json", lambda v: v["task"].update(sha256="0" * 64)), "task", "0000"),
    ("weights", other_weights, "student/fine_tune-0/complete.json", "another SHA-256"),
    ("a learning rate", edit_text("config.yaml", "learning_rate: ", "learning_rate: 9"), COMPLETE, "other settings"),
    ("a student of another", edit_json(COMPLETE, lambda v: v["base"].update(revision="x")), COMPLETE, "its base model"),
    ("a config that is none", edit_text("config.yaml", "student:", "studnt:"), "config.yaml", "studnt"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("change", "name", "said"), [row[1:] for row in HIDDEN], ids=[row[0] for row in HIDDEN])
def test_a_change_is_found_without_the_hashes(change: Callable[[Path], None], name: str, said: str, copy: Path) -> None:
    change(copy)
    (copy / SUMS).unlink()
    write_sums(copy)
    bad = by_state(verify(copy), "BAD")
    if not name:
        assert not bad
        return
    assert name in bad, bad
    assert re.search(said, bad[name]), bad[name]


@pytest.mark.slow
def test_elsewhere_it_checks_what_it_can_and_says_what_it_cannot(finished: Path, tmp_path: Path) -> None:
    config = finished / "config.yaml"
    alone = shutil.copytree(finished, tmp_path / "else" / "other-name")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        moved = {
            path: path.with_name(path.name + ".gone")
            for path in (finished.parent / "base", finished.parent / "store.sqlite")
        }
        for path, gone in moved.items():
            path.rename(gone)
        try:
            checks = verify(Path("else/other-name"))
        finally:
            for path, gone in moved.items():
                gone.rename(path)
    assert config.read_bytes() == (alone / "config.yaml").read_bytes()
    assert not by_state(checks, "BAD")
    ok, unknown = by_state(checks, "ok"), by_state(checks, "not checked")
    assert set(unknown) == {"files", "generations.jsonl"}
    assert "there is no store" in unknown["generations.jsonl"]
    assert "none here" in ok["predictions/fine_tune-0.jsonl"]
    assert {"pairs.jsonl", "ledger.json", "result.json", COMPLETE} <= set(ok)


@pytest.mark.slow
def test_a_damaged_store_is_not_the_runs_fault_and_is_said(copy: Path) -> None:
    (copy / "config.yaml").write_text(
        (copy / "config.yaml").read_text().replace("store: null", f"store: {copy.parent / 'store.sqlite'}")
    )
    (copy / SUMS).unlink()
    write_sums(copy)
    with sqlite3.connect(copy.parent / "store.sqlite") as db:
        db.execute("UPDATE completions SET text = 'other' WHERE sample = 1")
    db.close()
    assert "damaged" in by_state(verify(copy), "BAD")["generations.jsonl"]
    for left in copy.parent.glob("store.sqlite*"):
        left.unlink()
    (copy.parent / "store.sqlite").write_bytes(b"no store")
    assert "not a cotdistill store" in by_state(verify(copy), "BAD")["store"]


@pytest.mark.slow
def test_another_base_model_in_its_place(copy: Path) -> None:
    base = copy.parent / "base"
    edit_text("config.yaml", "model: ", f"model: {base} #")(copy)  # the copy's own
    (copy / SUMS).unlink()
    write_sums(copy)
    assert "base model" in by_state(verify(copy), "ok")
    tiny_model(base, seed=1, positions=2048)
    assert set(by_state(verify(copy), "BAD")) == {"base model"}


@pytest.mark.slow
def test_a_task_that_is_gone_or_changed(base: Path, tmp_path: Path) -> None:
    data = write_questions(tmp_path / "mine.jsonl")
    own = {"task.data": str(data), "task.answer_type": "number", "task.train": None, "task.test": None}
    folder = run(quick(base, tmp_path / "runs", **own, **{"evaluate.methods": ["fine_tune"]})).folder
    assert not by_state(verify(folder), "BAD")
    data.write_text(data.read_text().replace("What is 5 plus", "What was 5 plus"))
    assert "not those of the run" in by_state(verify(folder), "BAD")["task"]
    data.unlink()
    checks = verify(folder)
    assert not by_state(checks, "BAD")
    assert "mine.jsonl: no such file" in by_state(checks, "not checked")["the rest"]


@pytest.mark.slow
def test_the_best_epoch_is_verified_too(base: Path, tmp_path: Path) -> None:
    """With select: paper all epochs but the measured one lose their weights."""
    paper = {"student.select": "paper", "student.steps": 0, "student.epochs": 2, "evaluate.methods": ["fine_tune"]}
    folder = run(quick(base, tmp_path, **paper)).folder
    assert not by_state(verify(folder), "BAD")
    (left,) = (folder / "student/fine_tune-0/epochs").glob("*/model.safetensors")
    left.write_bytes(left.read_bytes()[:-1] + b"x")
    assert set(by_state(verify(folder), "BAD")) == {left.relative_to(folder).as_posix()}


@pytest.mark.slow
def test_samples_and_seeds_are_verified_too(tmp_path: Path) -> None:
    methods = ["zero_shot", "fine_tune", "self_consistency"]
    sampled = {"evaluate.methods": methods, "evaluate.samples": 3, "student.seeds": [0, 1]}
    folder = run(quick(tiny_model(tmp_path / "base", positions=2048), tmp_path, **sampled)).folder
    assert not by_state(verify(folder), "BAD")
    edit_json("result.json", lambda v: v["results"][-1]["at_k"][0].update(value=0.5))(folder)
    write_sums(folder)
    assert "self_consistency-1: at_k" in by_state(verify(folder), "BAD")["result.json"]


@pytest.mark.slow
def test_a_page_that_is_written_again_is_right_and_nothing_else(copy: Path) -> None:
    (copy / "predictions/fine_tune-0.jsonl").write_text((copy / "predictions/fine_tune-0.jsonl").read_text() + "\n")
    (copy / "report.html").write_text("damaged")
    assert set(by_state(verify(copy), "BAD")) == {"report.html", "predictions/fine_tune-0.jsonl"}
    assert call("report", str(copy)) == 0
    assert set(by_state(verify(copy), "BAD")) == {"predictions/fine_tune-0.jsonl"}


@pytest.mark.slow
def test_a_damaged_list_is_not_made_right_by_a_page(copy: Path) -> None:
    (copy / SUMS).write_text((copy / SUMS).read_text().replace("result.json", "result.jsom"))
    assert call("report", str(copy)) == 0
    assert SUMS in by_state(verify(copy), "BAD")


@pytest.mark.slow
def test_running_again_does_not_make_a_damaged_student_right(copy: Path) -> None:
    tokenizer = copy / "student/fine_tune-0/tokenizer.json"
    sums, _ = read_sums(copy)
    tokenizer.write_text(tokenizer.read_text() + " ")
    write_sums(copy)
    assert sha256(tokenizer) != sums["student/fine_tune-0/tokenizer.json"]
    assert set(by_state(verify(copy), "BAD")) == {"student/fine_tune-0/tokenizer.json"}


@pytest.mark.slow
def test_what_it_prints_is_text(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_line("predictions/fine_tune-0.jsonl", 1, question_id="\x1b[2J\u202e" + "x" * 2000)(copy)
    assert call("verify", str(copy)) == DataError.exit_code
    shown = capsys.readouterr().out
    assert shown.count("BAD ") == 2  # its hash, and what is wrong with its first line
    assert not {c for c in shown if not c.isprintable()} - {"\n"}
    assert max(map(len, shown.splitlines())) < 700


def test_what_is_no_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert call("verify", str(folder)) == DataError.exit_code
        said = capsys.readouterr()
        assert said.out == ""
        assert SUMS in said.err
        assert len(said.err.splitlines()) <= 3


def test_the_list_holds_any_file_and_knows_itself(tmp_path: Path) -> None:
    for name in ("a b.txt", "sub/ü.bin", ".lock", "x.unfinished/y", "student/logs/z", "line\nbreak"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(name.encode())
    write_sums(tmp_path)
    sums, whole = read_sums(tmp_path)
    assert whole
    assert list(sums) == ["a b.txt", "sub/ü.bin"]
    assert not_covered(tmp_path) == [".lock", "line\nbreak", "student/logs/z", "x.unfinished/y"]
    (tmp_path / SUMS).write_text((tmp_path / SUMS).read_text().replace("a b.txt", "a c.txt"))
    assert read_sums(tmp_path)[1] is False
