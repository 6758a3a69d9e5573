"""Environments of their own for the peers: each with the releases that were pinned for it, made once."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Failed(Exception):
    """Why a peer has no number."""


def interpreter(environment: str, pins: Sequence[str], folder: Path) -> Path:
    """The Python of an environment that is there and as pinned; ours where there are no pins. Raises `Failed`."""
    if not pins:
        return Path(sys.executable)
    python, written = folder / environment / "bin" / "python", folder / environment / "pins.txt"
    if not written.exists() or written.read_text().split() != [*pins]:
        raise Failed("not installed, run with --setup")
    return python


def set_up(environment: str, pins: Sequence[str], folder: Path) -> None:
    """Make an environment that is missing or has other pins. Raises `Failed` with what pip said last."""
    with contextlib.suppress(Failed):
        interpreter(environment, pins, folder)
        return
    target = folder / environment
    shutil.rmtree(target, ignore_errors=True)
    print(f"installing {' '.join(pins)} in {target}", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", target], check=True, capture_output=True, text=True)
        pip = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for pin in pins:  # in this order: torch first keeps its version, and the others take what is there
            subprocess.run([*pip, pin], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise Failed(f"did not install: {last_line(error.stderr)}") from None
    (target / "pins.txt").write_text("\n".join(pins))


def measured(command: Sequence[str], environment: Mapping[str, str], seconds: int) -> dict[str, Any]:
    """The JSON that a process of its own leaves as its last line. Raises `Failed`."""
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=seconds)
    except subprocess.CalledProcessError as error:
        raise Failed(f"failed: {last_line(error.stderr)}") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"took over {seconds} s") from None
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "no message"
