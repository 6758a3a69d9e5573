"""How often the rules of the study of errors fire, and how often they are right: the tables of docs/errors.md.

    python benchmarks/mistakes.py DATA

DATA is a folder with `teacher/*.jsonl` (outputs of text-davinci-002: index, question, rationale,
answer_extraction_output, truncated, gold) and `annotations/date_understanding_rationale_labels.json` (golden, bad:
indices), as made from https://github.com/kojima-takeshi188/zero_shot_cot and
https://github.com/itsnamgyu/reasoning-teacher.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Set
from pathlib import Path

from cotdistill.answers import TYPED
from cotdistill.evaluate import score
from cotdistill.judge import kappa
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question, iter_json_lines
from cotdistill.results.mistakes import A_MODEL, KINDS, MEASURED, PEOPLE, Measured, Mistake, count, mistakes_of
from cotdistill.stats import wilson
from cotdistill.tasks.files import options_in

TEACHER = {
    "coin_flip": "yes_no",
    "date_understanding": "choice",
    "last_letter_concatenation": "text",
    "multiarith": "number",
    "strategy_qa": "yes_no",
    "svamp": "number",
    "tracking_shuffled_objects": "choice",
}

# Right answers of date_understanding whose rationale does not lead there by true steps, of all right ones in the
# file. Read by a language model (the one that wrote the rules, and after it had), not by a person.
READ_AS_BAD = frozenset(
    map(
        int,
        re.findall(
            r"\d+",
            """
        0 2 7 11 12 14 19 22 23 24 25 27 30 33 34 35 36 37 40 51 56 59 64 74 82 85 88 98 100 101 110 120 121 122 123
        124 127 130 131 133 134 140 143 155 157 160 162 163 167 174 188 196 199 202 204 205 209 216 233 236 237 244
        246 263 266 267 278 284 293 297 298 299 301 303 304 305 310 313 314 334 336 338 339 341 344 345 346 358 362
        363 364 365
        """,
        ),
    )
)


def found_in(path: Path, answer_type: str) -> Iterator[tuple[int, str, tuple[Mistake, ...]]]:
    """The index, the category and the mistakes of each output of a log."""
    method, rule = METHODS["zero_shot_cot"], TYPED[answer_type]
    for _, row in iter_json_lines(path):
        choices = options_in(row["question"]) if answer_type == "choice" else ()
        question = Question(str(row["index"]), row["question"], str(row["gold"]), choices)
        finish = "length" if row["truncated"] else "stop"
        generation = Generation(question.id, 0, row["rationale"], row["answer_extraction_output"], finish)  # type: ignore[arg-type]
        judged = score(generation, question, method, rule)
        yield row["index"], judged.category, mistakes_of(generation, question, judged, method, rule, answer_type)


def right_dates(data: Path) -> dict[int, tuple[Mistake, ...]]:
    """The mistakes of each Date Understanding output whose answer is right."""
    rows = found_in(data / "teacher" / "date_understanding.jsonl", TEACHER["date_understanding"])
    return {index: found for index, category, found in rows if category == "correct"}


def labels(data: Path) -> tuple[set[int], set[int]]:
    """The indices that people labelled as good and as bad."""
    value = json.loads((data / "annotations" / "date_understanding_rationale_labels.json").read_text())
    return set(value["golden"]), set(value["bad"])


def measure(found: dict[int, tuple[Mistake, ...]], bad: Set[int], labelled_by: str) -> list[Measured]:
    """How the rules, together and each, tell the `bad` from the others: one row a rule that fires at all."""
    kinds: list[str] = ["any", *(kind for kind in KINDS if any(m.kind == kind for ms in found.values() for m in ms))]
    rows = []
    for kind in kinds:
        fires = {i for i, ms in found.items() if (ms if kind == "any" else any(m.kind == kind for m in ms))}
        rows.append(Measured(kind, labelled_by, len(found), len(bad & found.keys()), len(fires), len(fires & bad)))
    return rows


def measured(data: Path) -> list[Measured]:
    """By both labels: the published ones, of people, and those of READ_AS_BAD."""
    right = right_dates(data)
    good, bad = labels(data)
    both = {i: found for i, found in right.items() if i in good | bad}
    return measure(both, bad, PEOPLE) + measure(right, READ_AS_BAD, A_MODEL)


def share(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{k} of {n}: {k / n:.0%} ({low:.0%} to {high:.0%})" if n else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    print("| rule | labelled by | n | bad | precision | recall |\n| --- | --- | --- | --- | --- | --- |")
    rows = measured(data)
    for m in rows:
        print(f"| {m.rule} | {m.labelled_by} | {m.n} | {m.bad} | {share(m.hits, m.fired)} | {share(m.hits, m.bad)} |")
    print("as in the package" if tuple(rows) == MEASURED else f"\nother than in the package:\n{rows}")
    good, bad = labels(data)
    right = right_dates(data)
    print(f"\n{len((good | bad) - right.keys())} of the {len(good | bad)} labelled as right are wrong in this file.")
    pairs: list[tuple[object, object]] = [(i in bad, i in READ_AS_BAD) for i in sorted(right.keys() & (good | bad))]
    print(
        "people and the model agree: {:.0%}, n={}, kappa {:.2f} ({:.2f} to {:.2f})".format(
            sum(a == b for a, b in pairs) / len(pairs), len(pairs), *kappa(pairs)
        )
    )
    print(f"\n| task | answers | n | {' | '.join(KINDS)} |\n| --- | --- | --- |{' --- |' * len(KINDS)}")
    for name, answer_type in TEACHER.items():
        rows_of = list(found_in(data / "teacher" / f"{name}.jsonl", answer_type))
        for what in ("right", "not right"):
            some = [found for _, category, found in rows_of if (category == "correct") == (what == "right")]
            print(f"| {name} | {what} | {len(some)} | {' | '.join(map(str, count(some).values()))} |")


if __name__ == "__main__":
    main()
