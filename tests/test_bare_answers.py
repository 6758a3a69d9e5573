"""A bare answer that is read at once is what the general way reads."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from cotdistill import bare_answers, readers, reading
from cotdistill.answers import TYPED

TEACHER = Path(__file__).parents[2] / "shared" / "data" / "teacher"
WAYS: dict[str, tuple[reading.Read, reading.Read]] = {
    "number": (bare_answers.number, readers.read_number),
    "choice": (bare_answers.choice, readers.read_choice),
    "yes_no": (bare_answers.yes_no, readers.read_yes_no),
    "text": (bare_answers.text, readers.read_text),
    "date": (bare_answers.date, readers.read_date),
}
OPTIONS: list[tuple[str, ...]] = [
    (),
    ("red ball", "blue ball", "green ball"),
    ("A", "B", "C"),
    ("B", "A"),
    ("(b)", "a.", "b"),
    ("05/06/2021", "06/05/2021", "1", "2", "39", "no"),
    ("", "", "", "", ""),
]
HEADS = ["", " ", ": ", ":\n\n", " :", "\n", '"', "(", " **", "$", "-", "- ", "+", " " * 12, "a ", "is ", "is: ", ":: "]
CORES = {
    "number": [
        "39",
        "0",
        "007",
        "1,234",
        "12,34",
        "1,234,567.50",
        "0.5",
        ".5",
        "5.",
        "-6",
        "$-6",
        "3/4",
        "9" * 60,
        "1e5",
    ],
    "choice": ["A", "B", "C", "F", "Z", "b", "AB", "A)", "(B", "B or C", "(A)", "[B]", "I", "\u0391"],
    "yes_no": ["yes", "no", "Yes", "NO", "Yes.", "yes no", "ye\u017f", "not", "no one", "yes-no", "Yes\u2026"],
    "text": [
        "yajo",
        "is",
        "Is",
        "wait",
        "END",
        "a b",
        "it's",
        "_____",
        "a1",
        "\u00e9t\u00e9",
        "\u6728",
        "boxed",
        "a-b",
        "39",
    ],
    "date": [
        "05/06/2021",
        "5/6/2021",
        "31/12/2021",
        "13/13/2021",
        "02/30/2021",
        "00/00/0000",
        "05/06/21",
        "2021-05-06",
    ],
}
TAILS = [
    *[
        "",
        ".",
        "..",
        " .",
        ",",
        "!",
        "?",
        '"',
        '".',
        '."',
        ")",
        ").",
        "\u2026",
        ". ",
        ".\n\n",
        " " * 12,
        "%",
        " pieces.",
    ],
    *[
        ". \n\nI hope this helps!",
        "\n\nI hope this helped.",
        ". I hope this helps!",
        ". \n\nI hope so!",
        ".\n\nNo, wait.",
    ],
    *[". \n\nI hope this helps! 5", " END", "</s>", ".\nQ: What?", " or 5", ".\n8."],
]


def general(kind: str, text: str, choices: Sequence[str]) -> list[str]:
    return reading.candidates(WAYS[kind][1], TYPED[kind].equal, text, choices)


def differing(kind: str, texts: Sequence[str], options: Sequence[Sequence[str]]) -> tuple[int, list[str]]:
    """How many are read at once, and those that are read as something else."""
    read = partial(WAYS[kind][0])
    found = [(text, choices, answer) for text in texts for choices in options if (answer := read(text, choices))]
    return len(found), [text for text, choices, answer in found if general(kind, text, choices) != [answer]]


@pytest.mark.parametrize("kind", WAYS)
def test_made_up_answers(kind: str) -> None:
    texts = ["".join(parts) for parts in itertools.product(HEADS, CORES[kind], TAILS)]
    at_once, different = differing(kind, texts, OPTIONS if kind == "choice" else [()])
    assert different == []
    assert at_once > 100


@pytest.mark.parametrize("kind", WAYS)
def test_a_real_teachers_answers(kind: str) -> None:
    """All of the published ones, whatever their task; and each line of what led to them."""
    if not TEACHER.is_dir():
        pytest.skip(f"the teacher's logs are not here ({TEACHER})")
    texts = set()
    for path in TEACHER.glob("*.jsonl"):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            texts |= {row["answer_extraction_output"], f" {row['gold']}.", *row["rationale"].split("\n")}
            texts |= {f" {day}." for day in re.findall("[0-9/]{8,10}", row["question"])}
    at_once, different = differing(kind, sorted(texts), [(), ("red", "blue", "green", "05/06/2021", "no", "B")])
    assert different == []
    assert at_once > 3


@pytest.mark.parametrize("text", [" " * 100_000, ":" * 100_000 + "5", "9" * 100_000, "1,234" * 20_000, "a" * 100_000])
def test_hostile_text_is_left_to_the_general_way(text: str) -> None:
    assert all(bare(text, ()) is None for bare, _ in WAYS.values())


RARE = [
    *[(reading, name) for name in ("STATED", "RETRACTED")],
    *[(readers, name) for name in ("HEDGED", "NUMBER_WORD", "SCALED", "LIMITED", "UNSURE")],
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for _, name in RARE])
def test_a_rare_pattern_never_matches_without_one_of_its_words(name: str) -> None:
    """Over the words of its own alternatives, the tests of answers, and a real teacher's texts."""
    rare = getattr({known: module for module, known in RARE}[name], name)
    texts = [Path(__file__).with_name("test_answers.py").read_text(encoding="utf-8")]
    texts += [path.read_text(encoding="utf-8") for path in sorted(TEACHER.glob("*.jsonl"))]
    before = [
        text[max(0, found.start() - 60) : found.start()] for text in texts for found in re.finditer("[0-9]", text)
    ]
    matches = 0
    for text in texts + before:
        for match in rare.pattern.finditer(text):
            matches += 1
            assert not match[0].isascii() or any(word in match[0].lower() for word in rare.words), match
    assert matches
