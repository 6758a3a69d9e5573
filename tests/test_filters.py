"""What a rationale's own words say: loops, equations, and how questions overlap."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from cotdistill.equations import equations
from cotdistill.filters import LOOP, loops, overlap
from cotdistill.records import Question

TEACHER = Path(__file__).parents[2] / "shared" / "data" / "teacher"
SENTENCE = "That means there are 458 more girls than boys. "

LOOPS = {
    "a sentence, again and again": SENTENCE * 6,
    "three times": SENTENCE * 3,
    "three times after other words": "First we add them up, which is not hard at all. " + SENTENCE * 3,
    "three times before other words": SENTENCE * 3 + "So in the end the answer must be 458, as there are no others.",
    "one word": "no " * 60,
    "a few words": "I think that " * 12,
    "a long paragraph": ("One. " + SENTENCE + "Two and two is four, and four and four is eight. ") * 3,
    "cut in the middle": (SENTENCE * 4)[:-30],
    "no spaces": "\u6240\u4ee5\u7b54\u6848\u662f\u4e94\u3002" * 20,
    "dots": "." * 200,
    "its own part again": ("a" * 60 + "b" * 10) * 4,
}
NO_LOOPS = {
    "nothing": "",
    "a sentence twice": SENTENCE * 2,
    "three times, but short": "It is 5. It is 5. It is 5.",
    "just under the length": ("a" * (LOOP // 3 - 2) + " ") * 3,
    "not in a row": f"{SENTENCE}Then, we go on to the boys. {SENTENCE}Then, we add both. {SENTENCE}",
    "Last Letter": " ".join(
        f'The last letter of "{name}" is "{name[-1]}".' for name in ("Whitney", "Erika", "Benito", "Tj", "Mireya")
    ),
    "Coin Flip": " ".join(
        f"{name} flips the coin, so it is now {side} up."
        for name, side in zip("ABCDEF", 3 * ["tails", "heads"], strict=True)
    ),
    "Coin Flip with the same people": "Al flips the coin. Bo does not flip the coin. " * 2 + "Now it is heads up.",
    "shuffled objects": "Bob has the red ball. Ann and Bob swap balls. Bob has the blue ball. Bob and Ann swap balls. "
    "Bob has the red ball. Ann and Cy swap balls. Bob has the red ball. Bob and Ann swap balls. Bob has the green one.",
    "counting": " ".join(f"There are {i} apples in box {i}, so we have {i * (i + 1) // 2}." for i in range(1, 9)),
    "repeated addition": "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 = 63, so nine boxes of seven hold 63 pencils.",
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_loops(text: str) -> None:
    assert loops(" ".join(text.split()))


@pytest.mark.parametrize("text", NO_LOOPS.values(), ids=NO_LOOPS)
def test_no_loops(text: str) -> None:
    assert not loops(" ".join(text.split()))


@pytest.mark.parametrize("phrase", range(1, 60, 7))
@pytest.mark.parametrize("before", range(0, 60, 7))
def test_a_loop_is_found_wherever_it_starts(phrase: int, before: int) -> None:
    """Any period, behind words that repeat nothing; and the same a character short is none."""
    period = "".join(chr(0x4E00 + i) for i in range(phrase))
    head = "".join(chr(0x3400 + i) for i in range(before))
    size = max(LOOP, 3 * phrase)
    text = (period * LOOP)[:size]
    assert loops(head + text + "\u3399" * 3)
    assert not loops(head + text[:-1] + "\u3399" * 3)


@pytest.mark.parametrize("text", ["a" * 100_000, ("a" * 119 + "b" * 7) * 2000, "ab" * 50 + "c" * 119, "x y " * 30_000])
def test_hostile_text_ends_soon(text: str) -> None:
    start = time.process_time()
    loops(text)
    equations(text)
    equations("1 + " * 30_000)
    assert time.process_time() - start < 2


# of the training and test questions
REAL = [
    *[
        ("multiarith", 1, 600),
        ("svamp", 1, 1000),
        ("date_understanding", 0, 369),
        ("tracking_shuffled_objects", 0, 750),
    ],
    *[("last_letter_concatenation", 1, 500), ("coin_flip", 0, 500), ("strategy_qa", 2, 2290)],
]


@pytest.mark.parametrize(("dataset", "looping", "of"), REAL)
def test_what_a_175b_teacher_repeats(dataset: str, looping: int, of: int) -> None:
    """Only rationales that were cut: a loop goes on until then."""
    path = TEACHER / f"{dataset}.jsonl"
    if not path.is_file():
        pytest.skip(f"the teacher's logs are not here ({path})")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [row["truncated"] for row in rows if loops(" ".join(row["rationale"].split()))]
    assert (found, len(rows)) == ([True] * looping, of)


EQUATIONS: list[tuple[str, tuple[str, ...]]] = [
    ("Nothing is computed.", ()),
    ("There are 5 of 7.", ()),
    ("x = 5", ()),
    ("3+4=7", ("3+4=7",)),
    ("First 3 + 4 = 7. Then 7 - 2 = 5.", ("3+4=7", "7-2=5")),
    ("3 apples + 4 apples = 7 apples", ("3+4=7",)),
    ("$3.50 x 2 = $7.00", ("3.5*2=7",)),
    ("1,000 * 3 = 3,000, which is", ("1000*3=3000",)),
    ("3 \u00d7 4 = 12 and 12 \u00f7 4 = 3", ("3*4=12", "12/4=3")),
    ("3 \\times 4 = 12", ("3*4=12",)),
    ("5 \u2212 2 = 3", ("5-2=3",)),
    ("(3 + 4) * 2 = 14", ("(3+4)*2=14",)),
    ("3 + 4 + 5 = 12", ("3+4+5=12",)),
    ("50% of 10 is 5", ()),
    ("10 boxes x 5 = 50", ("10*5=50",)),
    ("2 x 3 = 6 boxes", ("2*3=6",)),
]


@pytest.mark.parametrize(("text", "found"), EQUATIONS)
def test_equations(text: str, found: tuple[str, ...]) -> None:
    assert equations(text) == found


def test_shared_words_are_found_wherever_they_stand() -> None:
    test = "one two three four five six seven eight nine ten eleven twelve thirteen"
    for before in range(9):
        for after in range(9):
            for size in (7, 8, 12, 13):
                words = ["x"] * before + test.split()[:size] + ["y"] * after
                assert overlap(questions(" ".join(words)), questions("a b", "z " * before + test)) == [
                    size > 7,
                    size > 12,
                ]


def questions(*texts: str) -> list[Question]:
    return [Question(str(i), text, "1") for i, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("train", "shared"),
    [
        ("one two three four five six seven", [0, 0]),
        ("one two three four five six seven eight", [1, 0]),
        ("ONE, two; three: 'four' five\n six seven - eight!", [1, 0]),
        ("zero one two three four five six seven eight nine", [1, 0]),
        ("two three four five six seven eight nine ten eleven twelve thirteen fourteen", [1, 1]),
        ("eight seven six five four three two one", [0, 0]),
        ("", [0, 0]),
    ],
)
def test_words_in_a_row_that_are_shared(train: str, shared: list[int]) -> None:
    test = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    assert overlap(questions(train, "an other one"), questions("short", test)) == shared
