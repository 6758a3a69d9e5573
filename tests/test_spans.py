"""Where an answer was read from: the place, or none where it cannot be told."""

from __future__ import annotations

import pytest

from cotdistill.answers import PAPER, TYPED
from cotdistill.evaluate import score
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question
from cotdistill.reports.spans import answer_span

CHOICES = ("red", "blue")

# type, method, text with the place in « », answer step after |
ROWS = [
    ("number", "zero_shot", " «39» pieces are left."),
    ("number", "zero_shot", " «8». She has 8 and 8."),
    ("number", "zero_shot", " so she has 3 + 5 = «8» apples"),
    ("number", "zero_shot", " The answer is \\boxed{«1,008»}"),
    ("number", "zero_shot", " «-3»"),
    ("number", "fine_tune_cot", " 8 - 3 = 5. --> «5» END"),
    ("number", "fine_tune_cot", " She had 8. So she has «8» apples."),
    ("number", "fine_tune_cot", " 1 --> 2 --> «3» END"),
    ("number", "zero_shot_cot", "She has 8 apples.| «eight»"),
    ("number", "zero_shot_cot", "She has 8 apples.| 8 or 9"),
    ("number", "zero_shot", " I do not know"),
    ("choice", "zero_shot", " The answer is («B») blue."),
    ("choice", "zero_shot", " it is «blue»"),
    ("yes_no", "zero_shot", " «Yes», it is"),
    ("date", "zero_shot", " It is «May 6, 2021»."),
    ("text", "zero_shot", ' "«nsty»".'),
    pytest.param("math", "zero_shot", "«x+1»", marks=pytest.mark.slow),  # a process is started
]


def bare(text: str) -> str:
    return text.replace("«", "").replace("»", "")


@pytest.mark.parametrize(("kind", "method", "row"), ROWS)
def test_the_place_is_the_one_that_was_read(kind: str, method: str, row: str) -> None:
    if kind == "math":
        pytest.importorskip("math_verify")
    text, step, answer_text = row.partition("|")
    g = Generation("q", 0, bare(text), bare(answer_text) if step else None, "stop")
    question = Question("q", "?", "8", CHOICES if kind == "choice" else ())
    predicted = score(g, question, METHODS[method], TYPED[kind]).predicted
    if "«" not in row:
        assert predicted is None
        return
    assert predicted is not None
    found = answer_span(g, predicted, question, METHODS[method], TYPED[kind], kind)
    assert found is not None
    assert found[0] is bool(step)
    where = answer_text if step else text
    assert found[1] == (where.index("«"), where.index("»") - 1)


def test_no_place_is_given_where_the_text_does_not_have_the_answer_as_it_was_read() -> None:
    question, method = Question("q", "?", "x"), METHODS["zero_shot"]
    for text in (" May\n6, 2021", "x" * 30_000):
        g = Generation("q", 0, text, None, "stop")
        predicted = score(g, question, method, PAPER["date"]).predicted or text
        assert answer_span(g, predicted, question, method, PAPER["date"], "date") is None


def test_the_paper_rule_reads_the_first_number_of_a_step() -> None:
    g, question = Generation("q", 0, " 8, that is 8.", None, "stop"), Question("q", "?", "8")
    found = answer_span(g, "8", question, METHODS["zero_shot"], PAPER["number"], "number")
    assert found == (False, (1, 2))


def test_a_thousand_same_numbers_are_no_trouble() -> None:
    g, question = Generation("q", 0, " 8 = " * 4000, None, "stop"), Question("q", "?", "8")
    answer_span(g, "8", question, METHODS["zero_shot"], TYPED["number"], "number")
