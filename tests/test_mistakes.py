"""What the rules find in a rationale, and what they leave alone: a row a case."""

from __future__ import annotations

import json
import runpy
import time
from fractions import Fraction
from pathlib import Path

import pytest

from cotdistill.answers import TYPED
from cotdistill.equations import value
from cotdistill.evaluate import score
from cotdistill.methods import METHODS
from cotdistill.records import Category, FinishReason, Generation, Question, Score
from cotdistill.results.mistakes import (
    KINDS,
    MEANINGS,
    MEASURED,
    MOST,
    MOST_FOUND,
    MOST_SHOWN,
    Measured,
    Mistake,
    count,
    mistakes,
    mistakes_of,
)

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
FIGS = Question("q", "Jo has 3 figs, and buys 4 for $2.50 each. How many figs has Jo?", "7")
DATES = Question(
    "q",
    "Yesterday was April 30, 2021. What is the date today? (A) 04/29/2021 (B) 05/01/2021",
    "B",
    ("04/29/2021", "05/01/2021"),
)
COIN = Question("q", "A coin is heads up. Al flips the coin. Is the coin still heads up?", "no")
LOOP = "So she must have seven of them by now, I think. " * 4


def found(question: Question, text: str, category: Category, answer_type: str, cut: bool = False) -> list[Mistake]:
    return [*mistakes(question, text, Score("q", 0, None, category, False), answer_type, cut)]


# A text of a wrong answer -> the equations that are false.
CALCULATIONS: list[tuple[str, list[str]]] = [
    ("3 + 4 = 8", ["3 + 4 = 8"]),
    ("She has 3 + 4 = 8 figs, and 8 - 1 = 6.", ["3 + 4 = 8", "8 - 1 = 6"]),
    ("So $1,357 * 223 = \n$304,651.", ["$1,357 * 223 = \n$304,651"]),
    ("So (3 * 4 = 13) figs.", ["3 * 4 = 13"]),
    ("a total of 3 + 4 = 8", ["3 + 4 = 8"]),
    ("41 cupcakes + 31 cookies - 32 pastries = 0", ["41 cupcakes + 31 cookies - 32 pastries = 0"]),
    ("2 + 3 * 4 = 20", ["2 + 3 * 4 = 20"]),
    ("(79-44)/5 = 15", ["(79-44)/5 = 15"]),
    ("3*8+5*8 = 24+41 = 65", ["3*8+5*8 = 24+41 = 65"]),
    ("172-186 = 14", ["172-186 = 14"]),
    ("4 \u00d7 5 = 21", ["4 \u00d7 5 = 21"]),
    ("4 \\times 5 = 21", ["4 \\times 5 = 21"]),
    ("2^10 = 1000", ["2^10 = 1000"]),
    ("10/3 = 3.5", ["10/3 = 3.5"]),
    ("10/4 = 2", ["10/4 = 2"]),
    ("0.1 + 0.2 = 0.31", ["0.1 + 0.2 = 0.31"]),
    ("20% * 50 = 15", ["20% * 50 = 15"]),
    ("100% - 20% = 70%", ["100% - 20% = 70%"]),
    ("13 - 5 = 8 \n3 + 4 = 8", ["3 + 4 = 8"]),
    ("3 + 4 = 7.", []),
    ("7 * $1,000 = $7,000", []),
    ("3 figs + 4 figs = 7 figs", []),
    ("0.1 + 0.2 = 0.3, and 1.50 + 1.50 = 3", []),
    ("10/3 = 3.33, or 10/3 = 3.3", []),
    ("2/3 = 0.67, 2/3 = 0.66 and 1/3 = 33%", []),
    ("10/4 = 2 remainder 2", []),
    ("10/4 = 2.5, rounded up: 10/4 = 3", []),
    ("10/4 = 3, about", []),
    ("20% * 50 = 10, and 0.2 * 100 = 20%", []),
    ("50 + 10% = 55", []),
    ("10 * 5 = 50%", []),
    ("5 + 3 = 8 + 2 = 10", []),  # what is found so far, taken on
    ("-5 + 3 = -2 and 54 - 63 = -9", []),
    ("1 hour - 20 minutes = 40 minutes", []),
    ("3 dollars + 50 cents = 3.50", []),
    ("x * 3 + 4 = 7 and 3 + 4y = 7 and 3x = 12", []),
    ("15 + 48 = 12 + 2x\n63 = 12 + 2x\n63 - 12 = 51", []),
    ("1 1/2 + 1/2 = 2", []),
    ("half of 10 + 2 = 7", []),
    ("5 plus 3 - 2 = 6", []),
    ("9:30 + 2 = 11:30, at 9:30 + 2 = 11 am", []),
    ("200 million / 35 million = 5.71", []),
    ("3 * 2 = 6 million", []),
    ("3/20/2020 + 176 = 9/12/2020", []),
    ("2 + 2 = 5 is false", []),
    ("2 + 2 = 5?", []),
    ("5/0 = 3", []),
    ("9^9^9^9 = 3", []),
    ("1,2 + 3 = 4", []),
    ("It is 3 and 4, so 8.", []),  # a false sum that is no equation
    ("", []),
]


@pytest.mark.parametrize(("text", "false"), CALCULATIONS)
def test_false_equations(text: str, false: list[str]) -> None:
    assert [m.evidence for m in found(COIN, text, "wrong", "yes_no") if m.kind == "calculation"] == false


def test_what_the_question_says_is_no_mistake() -> None:
    puzzle = Question("q", "If 2 + 3 = 10, what is 7 + 2?", "63")
    assert found(puzzle, "2 + 3 = 10, so 63.", "correct", "number") == []


# question, text, category, answer type, cut -> all that is found
TEXTS: list[tuple[Question, str, Category, str, bool, list[tuple[str, str]]]] = [
    (FIGS, "3 + 4 = 7", "correct", "number", False, []),
    (FIGS, "3 + 4 = 8", "wrong", "number", False, [("calculation", "3 + 4 = 8")]),
    (FIGS, "2 * 2 = 5. So 7.", "correct", "number", False, [("calculation", "2 * 2 = 5"), ("false_step", "2 * 2 = 5")]),
    # It concludes another answer than the one given after it, and that stands nowhere.
    (FIGS, "She had 3. So she has 6 figs.", "correct", "number", False, [("false_step", "So she has 6 figs.")]),
    (FIGS, "She has 7 figs. So she paid for 4.", "correct", "number", False, []),
    (FIGS, "She had 3. So she has 6 figs.", "wrong", "number", False, [("other", "")]),
    (FIGS, "She had 3. So she has 6", "correct", "number", True, [("truncated", "")]),
    (FIGS, "She has 3 + 4 = 1", "truncated", "number", True, [("truncated", "")]),  # 1 may go on
    (FIGS, "2 + 2 = 5 and so 3 + 4 = 1", "wrong", "number", True, [("calculation", "2 + 2 = 5"), ("truncated", "")]),
    (
        FIGS,
        "She had 3. So " + " ".join(f"word{i}" for i in range(MOST // 5)),
        "correct",
        "number",
        False,
        [],
    ),  # its end is not read
    (FIGS, "She had three. So she has seven.", "correct", "number", False, []),
    (FIGS, "I do not know.", "correct", "number", False, []),
    (Question("q", "3 - 8?", "-5"), "So it is -5.", "correct", "number", False, []),
    (Question("q", "3 / 2?", "1.5"), "So it is 1 1/2.", "correct", "number", False, []),
    (DATES, "So today is May 2, 2021.", "correct", "choice", False, [("false_step", "So today is May 2, 2021.")]),
    (DATES, "So today is 5/1/2021.", "correct", "choice", False, []),
    (DATES, "Today is May 1, 2021. So tomorrow is May 2, 2021.", "correct", "choice", False, []),
    (DATES, "So the answer is B.", "correct", "choice", False, []),
    (FIGS, LOOP, "wrong", "number", False, [("repetition", "")]),
    (FIGS, LOOP, "no_answer", "number", True, [("repetition", ""), ("truncated", ""), ("form", "")]),
    (FIGS, "She has", "truncated", "number", True, [("truncated", "")]),
    (FIGS, "I do not know.", "no_answer", "number", False, [("form", "")]),
    # Numbers of equations: given in figures or words, made before, or known to anybody.
    (FIGS, "19 + 4 = 23", "wrong", "number", False, [("misread", "19 + 4 = 23")]),
    (FIGS, "Each of 7 is $2.50, so 7 * 2.50 = 17.50.", "wrong", "number", False, [("other", "")]),
    (FIGS, "4 * 2.5 = 10 and 10 - 3 = 7", "correct", "number", False, []),
    (FIGS, "She had 12 * 7 = 84", "wrong", "number", False, [("other", "")]),
    (Question("q", "Half of twenty-one?", "10.5"), "21 * 0.5 = 10.5", "correct", "number", False, []),
    (
        Question("q", "Jo, the 5th of 29, gets 15%.", "5"),
        "29 - 5 = 24, 24 * 0.15 = 3.6",
        "correct",
        "number",
        False,
        [],
    ),
    (Question("q", "How many legs?", "5"), "17 + 4 = 21", "wrong", "number", False, [("other", "")]),
    # Without numbers there is nothing to say but of loops, cuts and forms.
    (COIN, "Al flips, so it is tails. No, heads.", "correct", "yes_no", False, []),
    (COIN, "He flips it 3 times, 3 + 6 = 9.", "correct", "yes_no", False, []),
    (COIN, "So the answer is yes.", "correct", "yes_no", False, []),
    (COIN, "So it is heads up.", "wrong", "yes_no", False, [("other", "")]),
    (Question("q", 'The last letters of "Tj Al"?', "jl"), "So it is 5.", "correct", "text", False, []),
    (FIGS, "3 + 4 = 8", "error", "number", True, []),
]


@pytest.mark.parametrize(("question", "text", "category", "answer_type", "cut", "expected"), TEXTS)
def test_mistakes(
    question: Question, text: str, category: Category, answer_type: str, cut: bool, expected: list[tuple[str, str]]
) -> None:
    got = found(question, text, category, answer_type, cut)
    assert [(m.kind, m.evidence) for m in got] == expected
    assert all(m.evidence in text for m in got)


# method, text, what followed the second prompt, how it ended -> kinds
GENERATIONS: list[tuple[str, str, str | None, FinishReason, list[str]]] = [
    ("fine_tune_cot", "3 + 4 = 7. --> 7", None, "stop", []),
    ("fine_tune_cot", "3 + 4 = 8. --> 8", None, "stop", ["calculation"]),
    ("fine_tune_cot", "3 + 4 = 7. --> 2 + 2 = 7", None, "stop", []),  # the rationale alone is read
    ("fine_tune_cot", "3 + 4 = 7. --> 7 END Q: 3 + 4 = 8", None, "length", []),
    ("fine_tune_cot", "3 + 4 = 7. --> 7", None, "length", ["truncated"]),  # or 70
    ("fine_tune_cot", "3 + 4 = 7. So", None, "length", ["truncated"]),
    ("fine_tune_cot", "I do not know", None, "stop", ["form"]),
    ("zero_shot_cot", "3 + 4 = 7, and", " 7.", "length", ["truncated"]),
    ("zero_shot_cot", "3 + 4 = 8.", " 7.", "stop", ["calculation", "false_step"]),
    ("fine_tune", "8", None, "stop", ["other"]),
    ("zero_shot", "3 + 4 = 8", None, "stop", ["calculation"]),  # no rationale: all that was written
    ("zero_shot", "", None, "error", []),
]


@pytest.mark.parametrize(("name", "text", "answer_text", "finish", "kinds"), GENERATIONS)
def test_mistakes_of_a_generation(
    name: str, text: str, answer_text: str | None, finish: FinishReason, kinds: list[str]
) -> None:
    method, rule = METHODS[name], TYPED["number"]
    generation = Generation("q", 0, text, answer_text, finish)
    judged = score(generation, FIGS, method, rule)
    assert [m.kind for m in mistakes_of(generation, FIGS, judged, method, rule, "number")] == kinds


def test_texts_are_counted_and_not_findings() -> None:
    two = (Mistake("calculation", "1 + 1 = 3"), Mistake("calculation", "2 + 2 = 5"))
    assert count([two, (), (Mistake("other"),)]) == dict.fromkeys(KINDS, 0) | {"calculation": 1, "other": 1}
    assert tuple(MEANINGS) == KINDS


HOSTILE = {
    "sums": "1+" * 500_000,
    "brackets": "(" * 1_000_000,
    "digits": "9" * 1_000_000,
    "commas": "1," * 500_000,
    "equations": "1+1=3 " * 170_000,
    "equal signs": "1=" * 500_000,
    "numbers": "1 2 3 4 5 7 8 9 " * 60_000,
    "units": "1 aaaaaaaaaaaaaaaaaaaa+ " * 40_000,
    "powers": "9^9^9^9=9^9^9^9 " * 60_000,
    "decimals": "0." + "1" * 50 + "*0." + "1" * 50 + "=3 ",
    "spaces": " " * 1_000_000,
    "lone halves": "\ud800 + 1 = 3" * 1000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_no_time_and_leave_little(text: str) -> None:
    start = time.perf_counter()
    some = found(FIGS, text, "correct", "number")
    assert time.perf_counter() - start < 1
    assert len(some) <= MOST_FOUND * len(KINDS)
    assert all(len(m.evidence) <= MOST_SHOWN for m in some)


VALUES: list[tuple[str, Fraction | None]] = [
    ("2 + 3 * 4", Fraction(14)),
    ("(2 + 3) * 4", Fraction(20)),
    ("8 - 3 - 2", Fraction(3)),
    ("-2^2", Fraction(-4)),
    ("2^3^2", Fraction(512)),
    ("2^-1", Fraction(1, 2)),
    ("3 cats/6 - 1", Fraction(-1, 2)),
    ("$1,000.50", Fraction(2001, 2)),
    ("10% * 50", Fraction(5)),
    ("2 \u00f7 4 \u2212 1", Fraction(-1, 2)),
    ("1 / 0", None),
    ("3 +", None),
    ("(3", None),
    ("3)", None),
    ("12,34", None),
    ("9^9^9", None),
    ("2^0.5", None),
    ("$2x/$2", None),
    ("", None),
]


@pytest.mark.parametrize(("expression", "expected"), VALUES)
def test_value(expression: str, expected: Fraction | None) -> None:
    assert value(expression) == expected


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the authors' data is not on this machine")
def test_the_published_numbers_are_those_of_the_rules(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "mistakes.py"))
    assert tuple(script["measured"](SHARED)) == MEASURED
    monkeypatch.setattr("sys.argv", ["mistakes.py", str(SHARED)])
    script["main"]()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(MEASURED) + 2 + 14
    published = (ROOT / "docs" / "errors.md").read_text()
    assert [row for row in rows if row not in published] == []


@pytest.mark.parametrize("measured", MEASURED, ids=str)
def test_each_published_number_has_its_n(measured: Measured) -> None:
    assert 0 <= measured.hits <= min(measured.fired, measured.bad) <= measured.n
    assert (measured.precision, measured.recall) == (measured.hits / measured.fired, measured.hits / measured.bad)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the authors' data is not on this machine")
@pytest.mark.parametrize("task", ["coin_flip", "last_letter_concatenation", "tracking_shuffled_objects"])
def test_where_there_are_no_numbers_the_rules_do_not_guess(task: str) -> None:
    script = runpy.run_path(str(ROOT / "benchmarks" / "mistakes.py"))
    rows = script["found_in"](SHARED / "teacher" / f"{task}.jsonl", script["TEACHER"][task])
    kinds = {m.kind for _, _, some in rows for m in some}
    assert kinds <= {"repetition", "truncated", "form", "other"}


def test_a_finding_is_json() -> None:
    from cotdistill.records import to_json

    assert json.loads(json.dumps(to_json(Mistake("form")))) == {"kind": "form", "evidence": ""}
