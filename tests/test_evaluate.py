"""Judging: five categories, a strict and a lenient rule, and errors that are never wrong answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cotdistill.answers import PAPER, RULES, TYPED
from cotdistill.evaluate import Judged, evaluate, judge, score, split_answer
from cotdistill.methods import METHODS
from cotdistill.records import CATEGORIES, Category, FinishReason, Generation, Question, Result, Score
from cotdistill.stats import share_interval, wilson

QUESTION = Question("q", "How many?", "5")


def written(text: str, answer_text: str | None = None, finish: FinishReason = "stop", index: int = 0) -> Generation:
    return Generation("q", index, text, answer_text, finish, 10, 4, "HTTP 500" if finish == "error" else "")


ROWS: list[tuple[str, str, str | None, FinishReason, str | None, Category, bool]] = [
    # method, text, answer_text, finish_reason: predicted, category, lenient
    ("zero_shot", " 5 apples.", None, "stop", "5", "correct", True),
    ("zero_shot", " 5 apples, and then", None, "length", "5", "correct", True),
    ("zero_shot", " 4", None, "stop", "4", "wrong", False),
    ("zero_shot", " 4 or 5", None, "stop", None, "no_answer", False),  # two answers are none
    ("zero_shot", " 5", None, "length", None, "truncated", True),  # it may go on as 57
    ("zero_shot", " none", None, "stop", None, "no_answer", False),
    ("zero_shot", "", None, "stop", None, "no_answer", False),
    ("zero_shot", " Let me", None, "length", None, "truncated", False),
    ("zero_shot", "", None, "error", None, "error", False),
    ("zero_shot_cot", " 2 + 3 = 5.", " 5.", "stop", "5", "correct", True),
    ("zero_shot_cot", " It is 5.", " 4.", "stop", "4", "wrong", False),  # what follows the second prompt is judged
    ("zero_shot_cot", " It is 4.", " 5.", "stop", "5", "correct", True),
    ("zero_shot_cot", " It goes on", " 5", "length", "5", "correct", True),
    ("zero_shot_cot", " It is 5.", "", "stop", None, "no_answer", True),
    ("zero_shot_cot", " It is 4.\n", " \n", "stop", None, "no_answer", False),
    ("zero_shot_cot", " It is 5.", " unclear", "stop", None, "no_answer", False),
    ("zero_shot_cot", " It goes on", " unclear", "length", None, "truncated", False),
    ("zero_shot_cot", " It is 5.", None, "error", None, "error", False),
    ("fine_tune", " 5", None, "stop", "5", "correct", True),
    ("fine_tune", " 6", None, "stop", "6", "wrong", False),
    ("fine_tune_cot", " 2 + 3 = 5. --> 5", None, "stop", "5", "correct", True),
    ("fine_tune_cot", " 2 + 2 = 5. --> 4", None, "stop", "4", "wrong", False),
    ("fine_tune_cot", " 1 --> 4 --> 5", None, "stop", "5", "correct", True),  # an arrow in a rationale
    ("fine_tune_cot", " 2 + 3 = 5.", None, "stop", "5", "correct", True),  # the form was missed, the answer not
    ("fine_tune_cot", " 2 + 3 = 6.", None, "stop", "6", "wrong", False),
    ("fine_tune_cot", " She had 5. She ate 3.", None, "stop", None, "no_answer", True),
    ("fine_tune_cot", " It is 4. The answer is 5. And", None, "length", "5", "correct", True),
    ("fine_tune_cot", " 2 + 3 = 5. -->", None, "stop", None, "no_answer", True),
    ("fine_tune_cot", " 2 + 3 = 5. So", None, "length", None, "truncated", True),
    ("fine_tune_cot", " 2 + 3 is", None, "length", None, "truncated", False),
    ("fine_tune_cot", " 2 + 3 = 5. --> 5 END Q: 1", None, "length", "5", "correct", True),
    ("fine_tune_cot", " 2 + 3 = 5. --> 5 END Q: 1 --> 7", None, "length", "5", "correct", True),
    ("fine_tune_cot", " 2 + 3 = 5. --> 5", None, "length", None, "truncated", True),
    ("few_shot_cot", " 2 + 3 = 5. The answer is 5.", None, "stop", "5", "correct", True),
    ("few_shot_cot", " So the answer is 5.", None, "stop", "5", "correct", True),
]

PAPER_ROWS: list[tuple[str, str, str | None, FinishReason, str | None, Category]] = [
    ("zero_shot", " 4 or 5", None, "stop", "4", "wrong"),  # the first
    ("zero_shot", " 5", None, "length", "5", "correct"),  # a cut text is like any other
    ("zero_shot", " Let me", None, "length", None, "no_answer"),
    ("zero_shot_cot", " It goes on", " 2 + 3 = 5", "length", "2", "wrong"),
    ("zero_shot_cot", " It is 5.", " unclear", "stop", None, "no_answer"),
    ("fine_tune_cot", " 1 --> 4 --> 5", None, "stop", "4", "wrong"),  # after the first arrow
    ("fine_tune_cot", " 2 + 3 = 5. Now", None, "length", "5", "correct"),  # without one, the last of all
    ("fine_tune_cot", " It is 5. -->", None, "stop", None, "no_answer"),
    ("few_shot_cot", " The answer is 4 + 1. The answer is 5.", None, "stop", "4", "wrong"),
]

SPLITS: list[tuple[str, str, str, str | None, tuple[str, str | None]]] = [
    # rule, method, text, answer_text: rationale, answer step
    ("typed", "zero_shot_cot", " 2 + 3.", " 5.", (" 2 + 3.", " 5.")),
    ("typed", "zero_shot", " 5.", None, ("", " 5.")),
    ("typed", "fine_tune", " 5 --> 6", None, ("", " 5 --> 6")),
    ("typed", "fine_tune_cot", " a --> b --> 5", None, (" a --> b ", " 5")),
    ("paper", "fine_tune_cot", " a --> b --> 5", None, (" a ", " b --> 5")),
    ("typed", "fine_tune_cot", " a --> 5 END b --> 6", None, (" a ", " 5")),
    ("typed", "fine_tune_cot", " a 5", None, (" a 5", None)),
    ("typed", "few_shot_cot", " 2 + 3. The answer is 5.", None, (" 2 + 3. ", " 5.")),
]


@pytest.mark.parametrize(("rule", "method", "text", "answer_text", "parts"), SPLITS)
def test_split_answer(
    rule: str, method: str, text: str, answer_text: str | None, parts: tuple[str, str | None]
) -> None:
    assert split_answer(written(text, answer_text), METHODS[method], RULES[rule]["number"]) == parts


@pytest.mark.parametrize(("method", "text", "answer_text", "finish", "predicted", "category"), PAPER_ROWS)
def test_score_as_the_authors_do(
    method: str, text: str, answer_text: str | None, finish: FinishReason, predicted: str | None, category: Category
) -> None:
    judged = score(written(text, answer_text, finish), QUESTION, METHODS[method], PAPER["integer"])
    assert (judged.predicted, judged.category) == (predicted, category)


@pytest.mark.parametrize(("method", "text", "answer_text", "finish", "predicted", "category", "lenient"), ROWS)
def test_score(
    method: str,
    text: str,
    answer_text: str | None,
    finish: FinishReason,
    predicted: str | None,
    category: Category,
    lenient: bool,
) -> None:
    judged = score(written(text, answer_text, finish, index=3), QUESTION, METHODS[method], TYPED["number"])
    assert judged == Score("q", 3, predicted, category, lenient)
    assert judged.correct is (category == "correct")


def test_what_is_known_of_other_samples_changes_no_judgement() -> None:
    known: dict[str, Judged] = {}
    for method, text, answer_text, finish, *expected in ROWS + ROWS[::-1]:
        generation = written(text, answer_text, finish)
        _, answer = split_answer(generation, METHODS[method], TYPED["number"])
        assert judge(generation, answer, QUESTION, TYPED["number"], known) == tuple(expected)
    assert len(known) > 5


def test_the_rules_differ() -> None:
    question = Question("q", "Which?", "B", ("red", "blue"))
    generation = written("", " A man would take (B).")
    method = METHODS["zero_shot_cot"]
    assert score(generation, question, method, TYPED["choice"]).category == "correct"
    assert score(generation, question, method, PAPER["choice"]).predicted == "A"


def result_of(
    categories: list[Category], method: str = "fine_tune_cot", seed: int | None = None, each: int = 1
) -> Result:
    """Of generations of so many `each` question."""
    reasons: dict[Category, FinishReason] = {"truncated": "length", "error": "error"}
    generations = [
        replace(written("", finish=reasons.get(c, "stop"), index=i), completion_tokens=0 if c == "error" else 10 + i)
        for i, c in enumerate(categories)
    ]
    scores = [
        Score(f"q{i // each}", i % each, None, c, c in ("correct", "truncated")) for i, c in enumerate(categories)
    ]
    return evaluate(generations, scores, METHODS[method], seed)


def many(**counts: int) -> list[Category]:
    return [category for category in CATEGORIES for _ in range(counts.get(category, 0))]


def test_errors_are_in_no_share() -> None:
    result = result_of(["correct", "wrong", "no_answer", "truncated", "error", "error"], seed=1)
    low, high = wilson(1, 4)
    assert (result.method, result.seed, result.seconds) == ("fine_tune_cot", 1, None)
    assert (result.n, result.accuracy, result.low, result.high) == (4, 0.25, low, high)
    assert result.lenient_accuracy == 0.5
    assert result.completion_tokens == 11.5  # of 10, 11, 12 and 13
    assert result.categories == {"correct": 1, "wrong": 1, "no_answer": 1, "truncated": 1, "error": 2}
    assert result.warnings == (
        "2 of 6 generations are errors: the accuracy is over the other 4 only.",
        "1 of 4 were cut before they had an answer: raise the limit, as evaluate.max_tokens.",
    )


def test_nothing_answered_has_no_accuracy_but_the_widest_interval() -> None:
    result = result_of(["error"])
    assert (result.n, result.accuracy, result.low, result.high, result.completion_tokens) == (0, 0, 0, 1, 0)


def test_several_answers_to_a_question_are_no_more_questions() -> None:
    alike = result_of(many(correct=8, wrong=8) * 6, each=8)
    apart = result_of(["correct", "wrong"] * 48)
    assert (alike.n, alike.accuracy) == (apart.n, apart.accuracy) == (96, 0.5)
    assert (apart.low, apart.high) == wilson(48, 96)
    assert (alike.low, alike.high) == pytest.approx(share_interval([[1.0] * 8, [0.0] * 8] * 6)[1:])
    assert alike.high - alike.low > 2 * (apart.high - apart.low)
