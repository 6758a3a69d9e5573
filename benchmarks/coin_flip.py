"""Coin Flip with a real 175B teacher: text-davinci-002's own zero-shot-CoT outputs, the default student.

    python benchmarks/coin_flip.py DATA [--runs runs] [section.field=value ...]

DATA is a folder with `teacher/coin_flip.jsonl` (the teacher's outputs: question, rationale,
answer_extraction_output, truncated) and `datasets/coin_flip.jsonl` (question, answer, split), as made
from the logs of https://github.com/kojima-takeshi188/zero_shot_cot and the splits of
https://github.com/itsnamgyu/reasoning-teacher. Curated by the paper's rule, 320 of the 350 training
questions are right.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from cotdistill.config import load_quickstart, parse_overrides
from cotdistill.evaluate import verdict
from cotdistill.importing import import_completions
from cotdistill.pipeline import run
from cotdistill.records import iter_json_lines, write_atomic
from cotdistill.report import terminal_table

TEACHER = "text-davinci-002"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("overrides", nargs="*", help="section.field=value")
    arguments = parser.parse_args()

    splits = write_splits(arguments.data / "datasets" / "coin_flip.jsonl", arguments.runs)
    store = arguments.runs / "coin_flip_175b.sqlite"
    import_completions(arguments.data / "teacher" / "coin_flip.jsonl", store, TEACHER)
    settings = {
        "name": "coin_flip_175b",
        "runs": str(arguments.runs),
        "task": {"data": str(splits["train"]), "test_data": str(splits["test"]), "answer_type": "yes_no"},
        "task.rule": "paper",
        "teacher": {"backend": "recorded", "store": str(store), "samples": 1, "temperature": 0.0, "max_tokens": 128},
        "curate": {"truncated": "keep", "dedup": False},  # the paper filters by the answer alone
        "student": {"steps": 65, "batch_size": 8, "learning_rate": 2e-4},
        "evaluate.methods": ["fine_tune", "fine_tune_cot"],
        **parse_overrides(arguments.overrides),
    }
    this = run(load_quickstart(settings))
    if this.curated:
        print(f"kept {this.curated.ledger['right']} right of {this.curated.ledger['asked']} training questions")
    Console().print(terminal_table(this.results))
    print(verdict(this.results))


def write_splits(source: Path, folder: Path) -> dict[str, Path]:
    """One file a split: question and answer as published."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for _, item in iter_json_lines(source):
        lines[item["split"]].append(json.dumps({"question": item["question"], "answer": item["answer"]}) + "\n")
    paths = {split: folder / f"coin_flip.{split}.jsonl" for split in lines}
    for split, path in paths.items():
        write_atomic(path, "".join(lines[split]))
    return paths


if __name__ == "__main__":
    main()
