"""Coin Flip with a real 175B teacher: text-davinci-002's own zero-shot-CoT outputs, the default student.

    python benchmarks/coin_flip.py DATA [--runs runs] [section.field=value ...]

DATA is a folder with `teacher/coin_flip.jsonl` (the teacher's outputs: index, question, rationale,
answer_extraction_output, truncated, gold, split), as made from the logs of
https://github.com/kojima-takeshi188/zero_shot_cot and the splits of
https://github.com/itsnamgyu/reasoning-teacher. Curated by the paper's rule, 320 of the 350 training
questions are right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from cotdistill.config import load_quickstart
from cotdistill.config_file import parse_overrides
from cotdistill.importing import import_completions
from cotdistill.pipeline import run
from cotdistill.reports.report import terminal_table
from cotdistill.results.compare import verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("overrides", nargs="*", help="section.field=value")
    arguments = parser.parse_args()

    runs, outputs = arguments.runs, arguments.data / "teacher" / "coin_flip.jsonl"
    sections = import_completions(
        [outputs],
        runs / "coin_flip_175b.sqlite",
        "text-davinci-002",
        answer_type="yes_no",
        questions=runs / "coin_flip.jsonl",
    )
    settings = {
        "name": "coin_flip_175b",
        "runs": str(runs),
        **sections,
        "task.rule": "paper",
        "curate": {
            "truncated": "keep",
            "loops": "keep",
            "leaked": "keep",
            "dedup": False,
        },  # the paper filters by the answer alone
        "student": {"steps": 65, "batch_size": 8, "learning_rate": 2e-4},
        "evaluate.methods": ["fine_tune", "fine_tune_cot"],
        **parse_overrides(arguments.overrides),
    }
    this = run(load_quickstart(settings))
    if this.curated:
        print(f"kept {this.curated.ledger['right']} right of {this.curated.ledger['asked']} training questions")
    Console().print(terminal_table(this.results))
    print(verdict(this.summaries, this.comparisons))


if __name__ == "__main__":
    main()
