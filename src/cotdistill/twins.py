"""A student that another run of a sweep has already is taken from there, and never trained twice.

    with made_once(store, folder, fingerprint(pairs, config.student, seed), config, siblings):
        train(pairs, config.student, folder, seed)

Such are the plain fine_tune students of a sweep over D. Weights are hard links: each run can be removed for itself.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cotdistill.config import Config, load_config
from cotdistill.errors import CotdistillError
from cotdistill.models import COMPLETE, folder_when_whole
from cotdistill.progress import say
from cotdistill.store import Store

POLL_SECONDS = 0.5


@contextmanager
def made_once(store: Store, folder: Path, print_of: str, config: Config, siblings: Sequence[Path]) -> Iterator[None]:
    """Hold the student of that fingerprint for this process, and link it into `folder` if a sibling run has it.

    Where another process holds it, as one that trains it, this waits.
    """
    if not siblings:
        yield
        return
    key = bytes.fromhex(print_of)
    if not store.claim([key]):
        say(f"{folder.name}: another run is training this very student; waiting for it")
        while not store.claim([key]):
            time.sleep(POLL_SECONDS)
    try:
        if _facts(folder / COMPLETE).get("fingerprint") != print_of and (
            twin := _twin(folder.name, print_of, config, siblings)
        ):
            with suppress(OSError, shutil.Error):  # it may be gone by now: then it is trained
                _link(twin, folder)
                say(f"{folder.name}: linked from {twin}, the same student")
        yield
    finally:
        store.unclaim([key])


def _twin(name: str, print_of: str, config: Config, siblings: Sequence[Path]) -> Path | None:
    """The folder of a student with that fingerprint, of a run that has all that `config`'s needs of it."""
    for run in siblings:
        student = run / "student" / name
        same = _facts(student / COMPLETE).get("fingerprint") == print_of
        if same and (_whole(student) or _same_test(run, config)):
            return student
    return None


def _facts(mark: Path) -> dict[str, Any]:
    try:
        facts = json.loads(mark.read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _whole(student: Path) -> bool:
    marks = student.rglob(COMPLETE)
    return all((mark.parent / name).is_file() for mark in marks for name in _facts(mark).get("weights", {"?": ""}))


def _same_test(run: Path, config: Config) -> bool:
    """Whether a run is tested as `config`'s: then the store has what its epochs wrote, whose weights are dropped."""
    try:
        other = load_config(run / "config.yaml")
    except CotdistillError:
        return False
    return _test(other) == _test(config)


def _test(config: Config) -> tuple[object, ...]:
    return config.task.model_copy(update={"train": None}), config.evaluate.max_tokens, config.store_path.resolve()


def _link(twin: Path, folder: Path) -> None:
    with folder_when_whole(folder) as beside:
        shutil.copytree(twin, beside, copy_function=_link_weights, dirs_exist_ok=True)
    shutil.rmtree(folder.with_name(f"{folder.name}.unfinished"), ignore_errors=True)  # what a killed training left


def _link_weights(source: str, target: str) -> None:
    """Only what is large and never changed is shared."""
    if source.endswith(".safetensors"):
        with suppress(OSError):  # another file system, or one without hard links
            return os.link(source, target)
    shutil.copy2(source, target)
    return None
