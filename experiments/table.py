"""A sweep's results beside the paper's, as Markdown: python experiments/table.py runs/recorded_175b.sweep.json

The paper's rows are in the package's sweeps/paper.csv; figures.py beside it says where they are from. Ours have 95%
Wilson intervals; of several seeds, each has a row.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cotdistill.sweeps.figures import paper as published

STUDENTS = ("GPT-2 124M", "T5-small 60M", "GPT-3 ada 0.3B")
METHODS = ("zero_shot", "few_shot_cot", "fine_tune", "fine_tune_cot", "fine_tune_cot_diverse")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    arguments = parser.parse_args()
    runs = json.loads(arguments.sweep.read_text())["runs"]
    print(table([run for run in runs if "results" in run], paper()))


def paper() -> dict[tuple[str, str, str], str]:
    """Accuracy in percent by (student, method, task)."""
    return {(row.student, row.method, row.task): f"{row.accuracy:.2f}" for row in published()}


def table(runs: list[dict[str, Any]], published: dict[tuple[str, str, str], str]) -> str:
    """One column a task: ours, then the paper's students."""
    lines = [
        "| | " + " | ".join(run["task"] for run in runs) + " |",
        "| --- " * (len(runs) + 1) + "|",
        "| right rationales of the teacher | " + " | ".join(teacher(run["ledger"]) for run in runs) + " |",
    ]
    found: dict[tuple[str, int | None], list[str]] = {}
    for column, run in enumerate(runs):
        for result in run["results"]:
            row = found.setdefault((result["method"], result["seed"]), ["-"] * len(runs))
            row[column] = shown(result)
    for (method, seed), row in found.items():
        of = "" if seed is None else f", seed {seed}"
        lines.append(f"| ours, {method}{of} | " + " | ".join(row) + " |")
    for student in STUDENTS:
        for method in METHODS:
            row = [published.get((student, method, run["task"]), "-") for run in runs]
            lines.append(f"| paper, {student}, {method} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def teacher(ledger: dict[str, Any]) -> str:
    return f"{ledger['right']} of {ledger['answered']}" if ledger else "-"


def shown(result: dict[str, Any]) -> str:
    low, high = 100 * result["low"], 100 * result["high"]
    return f"{100 * result['accuracy']:.1f} ({low:.1f}-{high:.1f}, n={result['n']})"


if __name__ == "__main__":
    main()
