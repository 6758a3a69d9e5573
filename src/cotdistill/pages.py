"""What a run leaves for its readers: manifest.json, and report.html made of all the rest."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cotdistill.compare import verdict
from cotdistill.completions import canonical
from cotdistill.models import model_identity
from cotdistill.runs import Run, write_json
from cotdistill.train import trained_facts

PACKAGES = ("cotdistill", "torch", "transformers", "peft", "accelerate", "numpy", "aiohttp")


def write_page(this: Run) -> None:
    """manifest.json and report.html."""
    from cotdistill.report import Page, write_report

    manifest = make_manifest(this)
    write_json(this.folder / "manifest.json", manifest)
    curated = this.curated
    trained = {name: trained_facts(folder) for name, folder in this.students.items()}
    page = Page(
        name=this.config.name,
        task=this.task.name,
        answer_type=this.task.answer_type,
        n_train=len(this.task.train),
        n_test=len(this.task.test),
        source=this.task.source,
        verdict=verdict(this.summaries, this.comparisons, this.methods),
        results=this.results,
        ledger=curated.ledger if curated else {},
        questions=this.task.test,
        predictions=this.predictions,
        mistakes={
            name: {(g.question_id, g.index): found for g, found in zip(generations, this.mistakes[name], strict=True)}
            for name, (generations, _) in this.predictions.items()
        },
        manifest=manifest,
        pairs=curated.pairs[:5] if curated else [],
        dropped=curated.dropped if curated else [],
        warnings=this.warnings,
        dev_losses={name: facts["dev_losses"] for name, facts in trained.items()},
        dev_accuracies={name: facts.get("dev_accuracies", []) for name, facts in trained.items()},
        summaries=this.summaries,
        comparisons=this.comparisons,
        costs=this.costs,
    )
    write_report(page, this.folder / "report.html")


def make_manifest(this: Run) -> dict[str, Any]:
    """What made the results: identities, hashes, seeds, versions, hardware. No times: running again changes nothing."""
    questions = canonical([[asdict(q) for q in this.task.train], [asdict(q) for q in this.task.test]])
    return {
        "task": {"name": this.task.name, "sha256": hashlib.sha256(questions.encode()).hexdigest()},
        "teachers": this.teacher_identities,
        "student": model_identity(this.config.student.model),
        "trained": {
            name: {k: v for k, v in trained_facts(folder).items() if not k.startswith("dev_")}
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
