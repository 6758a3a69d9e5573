"""Curation: a wrong rationale never reaches a pair, and every generation is accounted for."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cotdistill.answers import PAPER, TYPED, AnswerType
from cotdistill.config import CurateConfig
from cotdistill.curate import DROPPED, Curated, answer_pairs, curate
from cotdistill.errors import DataError
from cotdistill.methods import METHODS, teacher_method
from cotdistill.records import FinishReason, Generation, Pair, Question

QUESTIONS = [Question("a", "2 + 3?", "5"), Question("b", "3 + 4?", "7"), Question("c", "4 + 5?", "9")]
NUMBER = TYPED["number"]


def wrote(
    question: str, index: int, text: str, answer: str | None = "", finish: FinishReason = "stop", tokens: int = 10
) -> Generation:
    return Generation(question, index, text, answer, finish, 20, tokens, "HTTP 500" if finish == "error" else "")


MIXED = [
    wrote("a", 0, " 2 and 3 is 5.", " 5."),
    wrote("a", 1, "\n2 and 3  is 5. ", " 5"),  # the same words
    wrote("a", 2, " 3 more than 2 is 5.", " 5.0"),
    wrote("a", 3, " 5 it is.", " 5"),
    wrote("b", 0, " 3 + 4 = 8.", " 8"),
    wrote("b", 1, " Who knows.", " unclear"),
    wrote("b", 2, " 3 + 4 is what", " 7", "length"),
    wrote("b", 3, " 3 + 4 is what", " unclear", "length"),
    wrote("b", 4, " \n", " 7"),
    wrote("b", 5, "", None, "error", tokens=0),
]


def curated(
    generations: list[Generation] = MIXED,
    questions: list[Question] = QUESTIONS,
    answer_type: AnswerType = NUMBER,
    **changes: Any,
) -> Curated:
    config = CurateConfig.model_validate(changes)
    return curate(generations, questions, METHODS["zero_shot_cot"], METHODS["fine_tune_cot"], answer_type, config)


def kept(result: Curated) -> list[tuple[str, int]]:
    return [(pair.question_id, pair.index) for pair in result.pairs]


def test_every_reason_counts_and_the_ledger_adds_up() -> None:
    result = curated(per_question=2)
    assert kept(result) == [("a", 0), ("a", 2)]
    assert result.ledger == {
        "questions": 3,
        "asked": 10,
        "answered": 9,
        "failed": 1,
        "kept": 2,
        "dropped": {
            "wrong": 1,
            "no_answer": 1,
            "truncated": 2,
            "empty": 1,
            "not_listed": 0,
            "duplicate": 1,
            "over_per_question": 1,
            "over_total": 0,
        },
        "questions_covered": 1,
        "right": 6,
        "teacher_accuracy": 6 / 9,
        "prompt_tokens": 200,
        "completion_tokens": 90,
    }
    assert [s.category for s in result.scores][4:6] == ["wrong", "no_answer"]
    assert len(result.scores) == len(MIXED)


def test_a_pair_has_the_teacher_s_words_and_the_known_answer() -> None:
    assert curated().pairs[1] == Pair("a", 2, "2 + 3? ###", " 3 more than 2 is 5. --> 5 END")


CHOICES: list[tuple[dict[str, Any], list[tuple[str, int]]]] = [
    ({}, [("a", 0), ("a", 2), ("a", 3)]),
    ({"dedup": False}, [("a", 0), ("a", 1), ("a", 2), ("a", 3)]),
    ({"per_question": 1}, [("a", 0)]),
    ({"per_question": 1, "dedup": False}, [("a", 0)]),
    ({"truncated": "keep"}, [("a", 0), ("a", 2), ("a", 3), ("b", 2)]),
    ({"keep": "all"}, [("a", 0), ("a", 2), ("a", 3), ("b", 0), ("b", 1)]),
    (
        {"keep": "all", "truncated": "keep", "dedup": False},
        [("a", 0), ("a", 1), ("a", 2), ("a", 3), ("b", 0), ("b", 1), ("b", 2), ("b", 3)],
    ),
]


@pytest.mark.parametrize(("changes", "pairs"), CHOICES)
def test_what_is_kept(changes: dict[str, Any], pairs: list[tuple[str, int]]) -> None:
    result = curated(**changes)
    assert kept(result) == pairs
    dropped = result.ledger["dropped"]
    assert isinstance(dropped, dict)
    assert tuple(dropped) == DROPPED
    assert sum(dropped.values()) + len(pairs) == result.ledger["answered"]


def test_a_total_is_drawn_by_the_papers_rule() -> None:
    """RandomState(0).permutation, as the authors drew 123 of 170, in the order of the questions."""
    generations = [wrote("a", i, f" Way {i}.", " 5") for i in range(10)]
    result = curated(generations, total=4)
    assert kept(result) == [("a", 2), ("a", 4), ("a", 8), ("a", 9)]
    dropped = result.ledger["dropped"]
    assert isinstance(dropped, dict)
    assert dropped["over_total"] == 6
    assert len(curated(generations, total=10).pairs) == 10


def test_only_listed_questions(tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("b\nc\n")
    assert kept(curated(only=listed, keep="all")) == [("b", 0), ("b", 1)]
    assert kept(curated(only=listed)) == []
    listed.write_text("d\n")
    with pytest.raises(DataError, match="names no training question"):
        curated(only=listed)
    with pytest.raises(DataError, match="cannot be read"):
        curated(only=tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("teacher", "text", "rationale"),
    [
        ("few_shot_cot", " 2 and 3 is 5. The answer is 5.\n", "2 and 3 is 5."),
        ("one_step", "2 and 3 is 5.\nThe answer is 5.", "2 and 3 is 5."),
    ],
)
def test_a_teacher_that_is_asked_once_gives_its_rationale_without_the_answer(
    teacher: str, text: str, rationale: str
) -> None:
    method = teacher_method(teacher, answer_type="number")
    generation = Generation("a", 0, text, None, "stop")
    config = CurateConfig()
    (pair,) = curate([generation], QUESTIONS, method, METHODS["fine_tune_cot"], NUMBER, config).pairs
    assert pair.completion == f" {rationale} --> 5 END"
    bare = Generation("a", 0, " The answer is 5.", None, "stop")
    ledger = curate([bare], QUESTIONS, method, METHODS["fine_tune_cot"], NUMBER, config).ledger
    assert isinstance(ledger["dropped"], dict)
    assert ledger["dropped"]["empty"] == 1, "an answer without a rationale teaches no reasoning"


def test_keep_all_still_teaches_the_known_answer() -> None:
    (pair,) = curated([MIXED[4]], keep="all").pairs
    assert pair.completion == " 3 + 4 = 8. --> 7 END"


def test_equal_words_of_two_questions_are_both_kept() -> None:
    same = [wrote("a", 0, " Count.", " 5"), wrote("b", 0, " Count.", " 7"), wrote("b", 1, " Count.", " 7")]
    assert kept(curated(same)) == [("a", 0), ("b", 0)]


def test_a_dropped_rationale_makes_no_duplicate() -> None:
    """The same words, wrong the first time: the right one is the first of its kind."""
    assert kept(curated([wrote("a", 0, " Add.", " 6"), wrote("a", 1, " Add.", " 5")])) == [("a", 1)]


@pytest.mark.parametrize("seed", range(20))
def test_a_wrong_rationale_never_reaches_a_pair(seed: int) -> None:
    draw = random.Random(seed)
    answers = {q.id: q.answer for q in QUESTIONS}
    finishes: tuple[FinishReason, ...] = ("stop", "length", "error")
    generations = [
        wrote(
            q, i, f" thought {draw.randrange(4)}", draw.choice([" 5", " 7.", " 9", " 57", " -5", " none", ""]), finish
        )
        for i in range(200)
        for q, finish in [(draw.choice("abc"), draw.choice(finishes))]
    ]
    config: dict[str, Any] = {"truncated": draw.choice(["drop", "keep"]), "per_question": draw.choice([0, 2])}
    result = curated(generations, **config)
    by_place = {(g.question_id, g.index): g for g in generations}
    assert result.pairs
    for place in kept(result):
        generation = by_place[place]
        assert generation.finish_reason != "error"
        assert (generation.answer_text or "").strip(" .") == answers[generation.question_id]


def test_the_rule_decides_what_is_right() -> None:
    questions = [Question("a", "Which?", "B", ("red", "blue"))]
    generations = [wrote("a", 0, " Sky.", " A man would take (B)."), wrote("a", 1, " Sea.", " B, not A")]
    assert kept(curated(generations, questions, TYPED["choice"])) == [("a", 0), ("a", 1)]
    assert kept(curated(generations, questions, PAPER["choice"])) == [("a", 1)]


def test_nothing() -> None:
    result = curated([])
    assert (result.pairs, result.scores) == ([], [])
    assert result.ledger["teacher_accuracy"] is None
    only_errors = curated([MIXED[-1]]).ledger
    assert (only_errors["answered"], only_errors["failed"], only_errors["teacher_accuracy"]) == (0, 1, None)


def test_a_generation_of_no_question() -> None:
    with pytest.raises(DataError, match="such as 'z'"):
        curated([*MIXED, replace(MIXED[0], question_id="z")])


def test_answer_pairs() -> None:
    assert answer_pairs(QUESTIONS[:2], METHODS["fine_tune"]) == [
        Pair("a", 0, "2 + 3? ###", " 5 END"),
        Pair("b", 0, "3 + 4? ###", " 7 END"),
    ]
    with pytest.raises(ValueError, match="zero_shot is not a method that a student learns"):
        answer_pairs(QUESTIONS, METHODS["zero_shot"])
