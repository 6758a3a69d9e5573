"""A training that was killed goes on from its last whole checkpoint, and ends as if nothing had been."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.records import Pair
from cotdistill.students.checkpoints import MARK, newest_whole, seal
from cotdistill.students.train import train, trained_facts

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(12)]
STEPS = 8  # of two examples: two and two thirds epochs of three steps, with a quarter of the pairs held out
ALWAYS = 1e-9  # minutes between checkpoints


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": STEPS, "batch_size": 3, "learning_rate": 1e-2, "dev_fraction": 0.25}
    return StudentConfig.model_validate({"model": str(base), "checkpoint_minutes": ALWAYS, **values, **changes})


class Killed(BaseException):
    """As if by a signal: nobody catches it."""


def train_until(step: int, config: StudentConfig, folder: Path) -> None:
    def watch(done: int, total: int) -> None:
        if done == step:
            raise Killed

    with pytest.raises(Killed):
        train(PAIRS, config, folder, 0, watch)


def outcome(folder: Path) -> dict[str, Any]:
    """All that is known of a student but for how long it took."""
    facts = trained_facts(folder)
    del facts["seconds"]
    return facts


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dev": ("base", {"select": "dev"}),
    "last": ("base", {"select": "last", "dev_fraction": 0}),
    "paper": ("base", {"select": "paper"}),
    "lora": ("base", {"lora": LoraConfig(rank=4, alpha=8, dropout=0.5)}),
    "encoder-decoder": ("t5_base", {}),
    "micro-batches": ("base", {"micro_batch_size": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_as_if_it_had_not_been_killed(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, changes = KINDS[kind]
    config = settings(request.getfixturevalue(name), **changes)
    expected = outcome(train(PAIRS, config.model_copy(update={"checkpoint_minutes": 0}), tmp_path / "whole", seed=0))
    assert expected["steps"] == STEPS
    for step in (3, 4):  # in an epoch, and after its end and its dev loss
        folder = tmp_path / f"killed-{step}" / "student"
        train_until(step, config, folder)
        assert not folder.exists()
        assert outcome(train(PAIRS, config, folder, seed=0)) == expected
        last = step - 1  # the step itself was not sealed
        assert f"student: goes on from {folder}.unfinished/checkpoint-{last}\n" in capsys.readouterr().err
        assert [path.name for path in folder.parent.iterdir()] == ["student"]


@pytest.mark.slow
def test_f11_killed_by_a_signal_in_the_middle(base: Path, tmp_path: Path) -> None:
    config = settings(base)
    folder = tmp_path / "student"
    program = f"""
import json, pathlib
from cotdistill.config import StudentConfig
from cotdistill.records import Pair
from cotdistill.students.train import train
config = StudentConfig.model_validate(json.loads({config.model_dump_json()!r}))
pairs = [Pair(f"q{{i}}", 0, f"{{i}}? ###", f" {{i}} END") for i in range(12)]
train(pairs, config, pathlib.Path({str(folder)!r}), 0, lambda done, total: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(5)] == [f"{done}\n" for done in range(1, 6)]
        child.kill()
    assert newest_whole(tmp_path / "student.unfinished")[0]
    pairs = [Pair(f"q{i}", 0, f"{i}? ###", f" {i} END") for i in range(12)]
    after = outcome(train(pairs, config, folder, seed=0))
    assert after == outcome(train(pairs, config, tmp_path / "whole", seed=0))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [Path.unlink, *(pytest.param(f, marks=pytest.mark.slow) for f in (halve, flip))])
def test_f11_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    base: Path, tmp_path: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(base)
    train_until(6, config, tmp_path / "student")
    work = tmp_path / "student.unfinished"
    shutil.copytree(work, tmp_path / "copy")
    names = sorted(path.name for path in (work / "checkpoint-5").iterdir())
    assert {"model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", MARK} <= {
        *names
    }
    for name in names:
        shutil.rmtree(work)
        shutil.copytree(tmp_path / "copy", work)
        damage(work / "checkpoint-5" / name)
        found, facts = newest_whole(work)
        assert (found, facts.keys() >= {"seconds"}) == (work / "checkpoint-4", True)
        said = capsys.readouterr().err
        assert f"{work}/checkpoint-5 is not used" in said.replace("\n", " ")
        assert name in said or (name == MARK and "it was not finished" in said)
    flip(work / "checkpoint-4" / "model.safetensors")
    assert newest_whole(work) == (None, {})

    shutil.rmtree(work)
    (tmp_path / "copy").rename(work)
    damage(work / "checkpoint-5" / "optimizer.pt")
    after = outcome(train(PAIRS, config, tmp_path / "student", seed=0))
    assert after == outcome(train(PAIRS, config, tmp_path / "whole", seed=0))


def test_f11_a_mark_of_another_version(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_text("weights")
    seal(checkpoint, {"seconds": 1.0})
    assert newest_whole(tmp_path) == (None, {})  # no optimizer: transformers would go on with a new one
    for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json"):
        (checkpoint / name).write_text(name)
    seal(checkpoint, {"seconds": 1.0})
    assert newest_whole(tmp_path)[0] == checkpoint
    for mark in ("[]", "{}", '{"files": 1}', '{"files": {"', "null"):
        (checkpoint / MARK).write_text(mark)
        assert newest_whole(tmp_path) == (None, {}), mark


@pytest.mark.slow
def test_checkpoints_of_another_student_are_not_used(base: Path, tmp_path: Path) -> None:
    train_until(6, settings(base), tmp_path / "student")
    other = settings(base, learning_rate=2e-2)
    after = outcome(train(PAIRS, other, tmp_path / "student", seed=0))
    assert after == outcome(train(PAIRS, other, tmp_path / "whole", seed=0))


def test_no_more_than_two_checkpoints_take_room(base: Path, tmp_path: Path) -> None:
    train_until(7, settings(base), tmp_path / "student")
    found = sorted(path.name for path in (tmp_path / "student.unfinished").glob("checkpoint-*"))
    assert found == ["checkpoint-5", "checkpoint-6"]
    train_until(7, settings(base, checkpoint_minutes=0), tmp_path / "other")
    assert not (tmp_path / "other.unfinished").exists()
