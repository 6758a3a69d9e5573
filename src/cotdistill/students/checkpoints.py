"""Checkpoints of a training that may be killed: each whole, by a mark that is written last, or not used.

    seal(checkpoint, {"seconds": 61.5})         # the SHA-256 of every file, all of it on the disk
    checkpoint, facts = newest_whole(folder)    # what to go on from

transformers writes them. By itself it would die of one that is incomplete, and go on from one whose optimizer is
gone or whose weights are damaged without a word.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotdistill.models import sha256
from cotdistill.progress import say
from cotdistill.records import write_atomic

MARK = "whole.json"
NEEDED = ("scheduler.pt", "trainer_state.json")  # and weights, optimizer and random states, by other names each


def seal(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Mark a checkpoint as whole, with what each of its files holds; on the disk when this returns."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != MARK]
    for path in (*files, checkpoint):
        _sync(path)
    digests = {str(path.relative_to(checkpoint)): sha256(path) for path in files}
    write_atomic(checkpoint / MARK, json.dumps({**facts, "files": digests}, indent=1) + "\n")
    _sync(checkpoint)


def newest_whole(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The last checkpoint in `folder` that can be gone on from, and its facts; newer ones are named and left."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        facts, fault = _read(checkpoint)
        if not fault:
            return checkpoint, facts
        say(f"warning: {checkpoint} is not used: {fault}.")
    return None, {}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _read(checkpoint: Path) -> tuple[dict[str, Any], str]:
    """The facts of a checkpoint, or what is wrong with it."""
    try:
        facts: dict[str, Any] = json.loads((checkpoint / MARK).read_text())
        digests = {**dict.fromkeys(NEEDED), **facts["files"]}
    except FileNotFoundError:
        return {}, "it was not finished"
    except (OSError, ValueError, LookupError, TypeError) as error:
        return {}, f"{MARK} cannot be read ({error})"
    for name, digest in digests.items():
        try:
            damaged = sha256(checkpoint / name) != digest
        except OSError as error:
            return {}, f"{name} cannot be read ({error.strerror})"
        if damaged:
            return {}, f"{name} is damaged: its sha256 is not the one in {MARK}"
    return facts, ""


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def log_folder(work: Path) -> Path:
    """Where a training in `work` writes TensorBoard's files: `work` is removed, at the end and where it fails."""
    return work.parent / "logs" / work.stem
