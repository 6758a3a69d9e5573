"""What a run leaves for its readers: manifest.json, the cards, report.html made of all the rest, and SHA256SUMS."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cotdistill.checksums import write_sums
from cotdistill.completions import canonical
from cotdistill.models import model_identity
from cotdistill.runs import Run, write_json
from cotdistill.students.train import trained_facts
from cotdistill.tasks import Task

PACKAGES = ("cotdistill", "torch", "transformers", "peft", "accelerate", "numpy", "aiohttp")


def write_page(this: Run) -> None:
    """manifest.json, the cards and report.html; and at last SHA256SUMS, of all that is in the folder."""
    from cotdistill.reports.cards import write_cards
    from cotdistill.reports.folders import read_page
    from cotdistill.reports.report import write_report

    manifest = make_manifest(this)
    write_json(this.folder / "manifest.json", manifest)
    write_cards(this, manifest)
    write_report(read_page(this.folder, this), this.folder / "report.html")
    write_sums(this.folder)


def make_manifest(this: Run) -> dict[str, Any]:
    """What made the results: identities, hashes, seeds, versions, hardware. No times: running again changes nothing."""
    return {
        "task": {"name": this.task.name, "sha256": task_sha256(this.task)},
        "teachers": this.teacher_identities,
        "student": model_identity(this.config.student.model),
        "trained": {name: identity_facts(trained_facts(folder)) for name, folder in this.students.items()},
        "seeds": list(this.config.student.seeds),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "command": re.sub(r"//[^/\s]+@", "//...@", shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
    }


def task_sha256(task: Task) -> str:
    """The hash of the questions and known answers of both splits."""
    questions = canonical([[asdict(q) for q in task.train], [asdict(q) for q in task.test]])
    return hashlib.sha256(questions.encode()).hexdigest()


def identity_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """What made a student, of what its training left: not how it went."""
    return {name: value for name, value in facts.items() if name != "lengths" and not name.startswith("dev_")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
