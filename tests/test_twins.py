"""A student that another run has is linked, not trained again."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest

from cotdistill.config import Config, load_quickstart
from cotdistill.records import write_atomic
from cotdistill.store import Store
from cotdistill.twins import made_once

PRINT = "ab" * 32


def a_run(runs: Path, name: str, **overrides: object) -> Config:
    config = load_quickstart({"runs": str(runs), "name": name, **overrides})
    write_atomic(config.folder / "config.yaml", config.to_yaml())
    return config


def a_student(config: Config, print_of: str = PRINT, epochs: tuple[str, ...] = ()) -> Path:
    """As training leaves one; `epochs` hold weights of their own."""
    folder = config.folder / "student/fine_tune-0"
    for place in (folder, *(folder / epoch for epoch in epochs)):
        write_atomic(place / "model.safetensors", "weights")
        mark = {"fingerprint": print_of, "weights": {"model.safetensors": "sha"}, "epoch_folders": epochs}
        write_atomic(place / "complete.json", json.dumps(mark))
    return folder


def make(config: Config, print_of: str = PRINT) -> Path | None:
    """What is there when training would begin."""
    folder = config.folder / "student/fine_tune-0"
    with (
        Store(config.store_path) as store,
        made_once(store, folder, print_of, config, [config.runs / name for name in ("zero", "one", "two")]),
    ):
        return folder if folder.exists() else None


def test_it_shares_weights_and_outlives_the_other(tmp_path: Path) -> None:
    twin = a_student(a_run(tmp_path, "one"))
    mine = a_run(tmp_path, "two")
    (mine.folder / "student/fine_tune-0.unfinished").mkdir(parents=True)
    folder = make(mine)
    assert folder is not None
    assert (folder / "model.safetensors").samefile(twin / "model.safetensors")
    assert not (folder / "complete.json").samefile(twin / "complete.json")  # that may be written again
    assert [path.name for path in folder.parent.iterdir()] == ["fine_tune-0"]
    shutil.rmtree(twin)
    assert (folder / "model.safetensors").read_text() == "weights"


@pytest.mark.parametrize(
    ("fault", "taken"),
    [
        ("none", True),
        ("another student", False),
        ("weights gone", False),
        ("mark cut", False),
        ("mark gone", False),
        ("no sibling", False),
    ],
)
def test_only_a_whole_one_of_the_same_making_is_taken(fault: str, taken: bool, tmp_path: Path) -> None:
    name = "stranger" if fault == "no sibling" else "one"
    twin = a_student(a_run(tmp_path / "runs", name), "cd" * 32 if fault == "another student" else PRINT)
    if fault == "weights gone":
        (twin / "model.safetensors").unlink()
        (twin.parents[1] / "config.yaml").unlink()
    elif fault == "mark cut":
        (twin / "complete.json").write_text('{"finger')
    elif fault == "mark gone":
        (twin / "complete.json").unlink()
    assert (make(a_run(tmp_path / "runs", "two")) is not None) == taken


@pytest.mark.parametrize(
    ("overrides", "taken"),
    [({}, True), ({"task.train": 10}, True), ({"task.test": 7}, False), ({"evaluate.max_tokens": 9}, False)],
)
def test_epochs_whose_weights_are_dropped_do_for_the_same_test(
    overrides: dict[str, object], taken: bool, tmp_path: Path
) -> None:
    twin = a_student(a_run(tmp_path, "one"), epochs=("epochs/1", "epochs/2"))
    (twin / "epochs/1/model.safetensors").unlink()  # what they wrote is in the store
    assert (make(a_run(tmp_path, "two", **overrides)) is not None) == taken


def test_one_trains_and_the_other_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (a_run(tmp_path, name) for name in ("one", "two"))
    began = threading.Event()

    def train() -> None:
        with (
            Store(one.store_path) as store,
            made_once(store, one.folder / "student/fine_tune-0", PRINT, one, [two.folder]),
        ):
            began.set()
            time.sleep(0.1)
            a_student(one)

    thread = threading.Thread(target=train)
    thread.start()
    began.wait()
    folder = make(two)
    thread.join()
    assert folder is not None
    assert (folder / "model.safetensors").samefile(one.folder / "student/fine_tune-0/model.safetensors")
    assert "another run is training this very student" in capsys.readouterr().err
