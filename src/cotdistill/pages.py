"""What a run leaves for its readers: manifest.json, and report.html made of all that the folder has."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cotdistill.completions import canonical
from cotdistill.models import model_identity
from cotdistill.runs import Run, write_json
from cotdistill.train import trained_facts

PACKAGES = ("cotdistill", "torch", "transformers", "peft", "accelerate", "numpy", "aiohttp")


def write_page(this: Run) -> None:
    """manifest.json and report.html."""
    from cotdistill.folders import read_page
    from cotdistill.report import write_report

    write_json(this.folder / "manifest.json", make_manifest(this))
    write_report(read_page(this.folder, this), this.folder / "report.html")


def make_manifest(this: Run) -> dict[str, Any]:
    """What made the results: identities, hashes, seeds, versions, hardware. No times: running again changes nothing."""
    questions = canonical([[asdict(q) for q in this.task.train], [asdict(q) for q in this.task.test]])
    return {
        "task": {"name": this.task.name, "sha256": hashlib.sha256(questions.encode()).hexdigest()},
        "teachers": this.teacher_identities,
        "student": model_identity(this.config.student.model),
        "trained": {
            name: {k: v for k, v in trained_facts(folder).items() if k != "lengths" and not k.startswith("dev_")}
            for name, folder in this.students.items()
        },
        "seeds": list(this.config.student.seeds),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count()},
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
