"""What is read as an answer, by the typed rule and by the authors' rule, and what counts as equal."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cotdistill.answers import PAPER, RULES, TYPED, number_equal

SHARED = Path(__file__).parents[2] / "shared"
ABC = ("red ball", "blue ball", "green ball")

# type, text, choices, the first candidate, a gold answer it equals
TYPED_ROWS = [
    ("number", " 5 + 3 = 8 apples.", (), "8", "8.0"),
    ("number", "10-5=5", (), "5", "5"),
    ("number", "10 - 5 = 5", (), "5", "5"),
    ("number", "5 - 10 = -5", (), "-5", "-5.0"),
    ("number", "10-5", (), "10", "10"),
    ("number", "x=-5", (), "-5", "-5"),
    ("number", "(5)-3", (), "5", "5"),
    ("number", "It is -3 degrees", (), "-3", "-3"),
    ("number", "\u22124 degrees", (), "-4", "-4"),
    ("number", "1,234,567.5 people", (), "1234567.5", "1,234,567.50"),
    ("number", "8, 9", (), "8", "8"),
    ("number", "$18.00", (), "18.00", "18"),
    ("number", "-$5", (), "-5", "-5"),
    ("number", "$-5", (), "-5", "-5"),
    ("number", "\\(\\boxed{20}\\)", (), "20", "20"),
    ("number", "**42**.", (), "42", "42"),
    ("number", "3.50%", (), "3.50", "3.5"),
    ("number", "about .5 of it", (), ".5", "0.5"),
    ("number", "so...5", (), "5", "5"),
    ("number", "the sum =\n8", (), "8", "8"),
    ("number", "\n\n 7 \n 8", (), "7", "7"),
    ("number", "007", (), "007", "7"),
    ("number", "none", (), None, None),
    ("choice", "(B)", ABC, "B", "B"),
    ("choice", "C.", ABC, "C", "C"),
    ("choice", "**B**", ABC, "B", "B"),
    ("choice", "A", ABC, "A", "A"),
    ("choice", "I think A.", tuple("abcdefghij"), "A", "A"),
    ("choice", "A man holds it, so B.", ABC, "B", "B"),
    ("choice", "A is right", ABC, "A", "A"),
    ("choice", "Alice, Bob and Claire swap; Claire has C", ABC, "C", "C"),
    ("choice", "Bob has the Green Ball.", ABC, "C", "C"),
    ("choice", "Bob", ABC, None, None),
    ("choice", "(D) or (B)", ABC, "B", "B"),
    ("choice", "E", ABC, None, None),
    ("choice", "it is 10", ("1", "10"), "B", "B"),
    ("choice", "it is 12", ("1", "2"), None, None),
    ("choice", "05/01/2021.", ("04/29/2021", "05/01/2021 "), "B", "B"),
    ("choice", "(beta)", ("alpha", "beta"), "B", "b"),
    ("yes_no", "YES!", (), "yes", "Yes"),
    ("yes_no", "No, not yes", (), "no", "no"),
    ("yes_no", "I know nothing", (), None, None),
    ("text", ' "nsty".', (), "nsty", "nsty"),
    ("text", " is: 'nsty'\nbecause", (), "nsty", "NSTY"),
    ("text", "isaac", (), "isaac", "Isaac"),
    ("text", "\n  new   york ", (), "new   york", "New York"),
    ("text", ' "." ', (), None, None),
]

PAPER_ROWS = [
    ("number", "10-5=5", (), "10", "10"),
    ("number", " 1,234.50 dollars", (), "1234.50", "1234.5"),
    ("number", "5 + 3 = 8", (), "5", "5.0"),
    ("number", "-$5", (), "5", "5"),
    ("number", "none", (), None, None),
    ("choice", "Bob has (C)", ABC, "B", "B"),
    ("choice", "D then C", ABC, "C", "C"),
    ("choice", "F", tuple("abcdef"), "F", "F"),
    ("choice", "F", tuple("abcde"), None, None),
    ("choice", "E", (), "E", "E"),
    ("yes_no", " 'Yes.'", (), "yes", "Yes"),
    ("yes_no", "yes!", (), None, None),
    ("text", ' "n s t y".\n', (), "nsty", "nsty"),
]


@pytest.mark.parametrize(
    ("rule", "row"), [("typed", row) for row in TYPED_ROWS] + [("paper", row) for row in PAPER_ROWS], ids=repr
)
def test_first_candidate(rule: str, row: tuple[str, str, tuple[str, ...], str | None, str | None]) -> None:
    kind, text, choices, expected, gold = row
    answer_type = RULES[rule][kind]
    first = next(iter(answer_type.candidates(text, choices)), None)
    assert first == expected
    if first is not None and gold is not None:
        assert answer_type.equal(first, gold)


@pytest.mark.parametrize(
    ("rule", "kind", "a", "b", "equal"),
    [
        ("typed", "number", "8.0000001", "8", True),
        ("typed", "number", "8.01", "8", False),
        ("typed", "number", "9" * 40, "9" * 39 + "8", False),
        ("typed", "number", "-0", "0", True),
        ("typed", "number", "eight", "8", False),
        ("typed", "number", "NaN", "NaN", False),
        ("typed", "text", "a  b", "A b", True),
        ("typed", "yes_no", "yes", "no", False),
        ("paper", "text", "nsty", "Nsty", False),
        ("paper", "choice", "A", "a", False),
    ],
)
def test_equal(rule: str, kind: str, a: str, b: str, equal: bool) -> None:
    assert RULES[rule][kind].equal(a, b) is equal


HOSTILE = {
    "200,000 digits": "1" * 200_000,
    "100,000 spaces": " " * 100_000,
    "20,000 numbers": "1 " * 20_000,
    "commas": "1,111" + ",111" * 50_000 + ",1",
    "minuses": "-" * 200_000,
    "equals": "=" * 200_000,
    "brackets": "(A" * 100_000,
    "letters": "A " * 200_000,
    "letter and spaces": ("A" + " " * 300) * 300,
    "empty lines": "\n" * 100_000,
    "is": "is " * 50_000,
    "quotes": "\"'" * 100_000,
    "power": "9^9^9^9",
    "exponent": "1e999999",
    "overflow": "1e999999999999999999",
    "code": "__import__('os').system('true')",
    "NUL and half a character": "\0\ud800 5",
    "Arabic digits": "\u0665" * 1000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_ends_soon(text: str) -> None:
    start = time.perf_counter()
    for answer_types in RULES.values():
        for answer_type in answer_types.values():
            candidates = answer_type.candidates(text, ABC)
            for candidate in [*candidates[:1], *candidates[-1:], text]:
                answer_type.equal(candidate, "5")
    for a, b in [(text, "5"), ("5", text), (text, text), ("-" + text, text)]:
        number_equal(a, b)
    assert time.perf_counter() - start < 1


def test_rules_know_the_same_types() -> None:
    assert set(TYPED) == set(PAPER)


@pytest.mark.parametrize(
    ("dataset", "kind", "options", "right", "of"),
    [
        ("multiarith", "number", 0, 332, 420),
        ("svamp", "number", 0, 432, 700),
        ("date_understanding", "choice", 6, 176, 258),
        ("tracking_shuffled_objects", "choice", 3, 282, 525),
        ("last_letter_concatenation", "text", 0, 205, 350),
        ("coin_flip", "yes_no", 0, 320, 350),
        ("strategy_qa", "yes_no", 0, 875, 1603),
    ],
)
def test_paper_rule_counts_what_the_paper_counts(dataset: str, kind: str, options: int, right: int, of: int) -> None:
    """The 175B teacher's logged answers to the training questions, as counted in the specification, section 7."""
    path = SHARED / "data" / "teacher" / f"{dataset}.jsonl"
    if not path.is_file():
        pytest.skip(f"the teacher's logs are not here ({path})")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["split"] == "train"]
    rule = PAPER[kind]
    correct = 0
    for row in rows:
        candidates = rule.candidates(row["answer_extraction_output"], ("option",) * options)
        correct += bool(candidates) and rule.equal(candidates[0], row["gold"])
    assert (correct, len(rows)) == (right, of)
