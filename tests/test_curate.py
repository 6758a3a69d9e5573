"""Curation: a wrong rationale never reaches a pair, and every generation is accounted for."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cotdistill.answers import PAPER, TYPED, AnswerType
from cotdistill.config import CurateConfig, load_quickstart
from cotdistill.config_file import parse_overrides
from cotdistill.curate import DROPPED, Curated, answer_pairs, curate, without_leaked
from cotdistill.errors import DataError
from cotdistill.methods import METHODS, Method, teacher_method
from cotdistill.records import FinishReason, Generation, Pair, Question, to_line, write_jsonl

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
    test: Sequence[Question] = (),
    teacher: Method = METHODS["zero_shot_cot"],
    processes: int = 0,
    **changes: Any,
) -> Curated:
    config = CurateConfig.model_validate(changes)
    with TemporaryDirectory() as folder:
        pairs = Path(folder) / "pairs.jsonl"
        result = curate(
            generations, questions, teacher, METHODS["fine_tune_cot"], answer_type, config, pairs, test, processes
        )
        assert [json.loads(line) for line in pairs.read_bytes().splitlines()] == [p.to_json() for p in result.pairs]
        assert list(Path(folder).iterdir()) == [pairs], "something else was left there"
    dropped = result.ledger["dropped"]
    assert isinstance(dropped, dict)
    assert tuple(dropped) == DROPPED
    assert sum(dropped.values()) + len(result.pairs) == result.ledger["answered"]
    return result


def dropped(result: Curated) -> dict[str, int]:
    """The reasons that there were."""
    return {reason: count for reason, count in result.ledger["dropped"].items() if count}  # type: ignore[attr-defined]


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
            "loop": 0,
            "not_listed": 0,
            "leaked": 0,
            "duplicate": 1,
            "over_per_question": 1,
            "over_total": 0,
        },
        "questions_covered": 1,
        "right": 6,
        "teacher_accuracy": 6 / 9,
        "prompt_tokens": 200,
        "completion_tokens": 90,
        # Distinct, right, whole and not empty, beyond those of the samples before.
        "marginal": [
            {"sample": index, "right": right, "tokens": tokens}
            for index, (right, tokens) in enumerate([(1, 60), (0, 60), (1, 60), (1, 60), (0, 30), (0, 20)])
        ],
    }


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
    assert kept(curated(**changes)) == pairs


SUMS = [  # of question c; the equations, or the words where there are none
    wrote("c", 0, " We add the two of them up: 4 + 5 = 9.", " 9"),
    wrote("c", 1, " So $4.00 + 5 = 9 it is.", " 9"),
    wrote("c", 2, " 5 + 4 = 9.", " 9"),
    wrote("c", 3, " Nine, by counting.", " 9"),
    wrote("c", 4, " By counting on.", " 9"),
    wrote("c", 5, " Nine,  by counting. ", " 9"),
]
BESIDE_EACH_OTHER: list[tuple[dict[str, Any], list[int], dict[str, int]]] = [
    ({}, [0, 1, 2, 3, 4], {"duplicate": 1}),
    ({"dedup": "off"}, [0, 1, 2, 3, 4, 5], {}),
    ({"dedup": "equations"}, [0, 2, 3, 4], {"duplicate": 2}),
    ({"dedup": "equations", "prefer": "short"}, [1, 2, 3, 4], {"duplicate": 2}),
    ({"per_question": 2}, [0, 1], {"over_per_question": 4}),
    ({"per_question": 2, "prefer": "short"}, [2, 4], {"over_per_question": 4}),
    ({"per_question": 3, "prefer": "short", "dedup": "off"}, [2, 3, 4], {"over_per_question": 3}),
    ({"per_question": 9, "prefer": "short", "dedup": "exact"}, [0, 1, 2, 3, 4], {"duplicate": 1}),
]


@pytest.mark.parametrize(("changes", "indices", "why"), BESIDE_EACH_OTHER)
def test_which_of_one_question_are_kept(changes: dict[str, Any], indices: list[int], why: dict[str, int]) -> None:
    result = curated(SUMS, **changes)
    assert (kept(result), dropped(result)) == ([("c", i) for i in indices], why)


@pytest.mark.parametrize(
    ("written", "dedup"),
    [("true", "exact"), ("false", "off"), ("off", "off"), ("exact", "exact"), ("equations", "equations")],
)
def test_dedup_is_read_as_it_used_to_be_written(written: str, dedup: str) -> None:
    assert load_quickstart(parse_overrides([f"curate.dedup={written}"])).curate.dedup == dedup


def test_loops_are_dropped() -> None:
    generations = [wrote("a", 0, " It is five, as has been said before." * 5, " 5"), wrote("a", 1, " 2 + 3.", " 5")]
    result = curated(generations)
    assert (kept(result), dropped(result)) == ([("a", 1)], {"loop": 1})
    assert kept(curated(generations, loops="keep")) == [("a", 0), ("a", 1)]


LONG = "Tom has two red and three blue marbles in one of his bags. How many marbles does Tom have?"
TRAIN = [
    Question("a", LONG, "5"),
    Question("b", LONG.replace("does Tom", "does he"), "5"),
    Question("c", "In one of his bags are marbles. How many marbles does Tom have?", "5"),
    Question("d", "2 + 3?", "5"),
]


def test_training_questions_that_are_test_questions_are_left_out() -> None:
    test = [Question("t", f"  {LONG.upper()}\n", "5"), Question("u", "Another one?", "1")]
    generations = [wrote(question.id, 0, " Add.", " 5") for question in TRAIN]
    generations.insert(1, wrote("a", 1, " Guess.", " 6"))
    result = curated(generations, TRAIN, test=test)
    assert (kept(result), dropped(result)) == ([("b", 0), ("c", 0), ("d", 0)], {"wrong": 1, "leaked": 1})
    overlap = {"exact": 1, "8_words": 2, "13_words": 2}
    assert result.ledger["test_overlap"] == overlap
    result = curated(generations, TRAIN, test=test, leaked="keep")
    assert (len(result.pairs), result.ledger["test_overlap"]) == (4, overlap)
    assert "test_overlap" not in curated(generations, TRAIN).ledger
    assert without_leaked(TRAIN, test, CurateConfig()) == TRAIN[1:]
    assert without_leaked(TRAIN, test, CurateConfig(leaked="keep")) == TRAIN


def test_the_reasons_are_tried_in_their_order(tmp_path: Path) -> None:
    """Each generation has its own fault and all those that come after it."""
    loop, listed = " It is five, as has been said before." * 5, tmp_path / "ids.txt"
    listed.write_text("b")
    generations = [
        wrote("a", 0, loop, " 6", "length"),
        wrote("a", 1, loop, " ?"),
        wrote("a", 2, loop, " 5", "length"),
        wrote("a", 3, " ", " 5"),
        wrote("a", 4, loop, " 5"),
        wrote("a", 5, " Add.", " 5"),
        *(wrote("b", i, text, " 5") for i, text in enumerate([" Add.", " Count.", " Add.", " Guess."])),
        wrote("d", 0, " Add.", " 5"),
    ]
    changes: dict[str, Any] = {"only": listed, "per_question": 2, "total": 1}
    result = curated(generations, TRAIN, test=TRAIN[:1], **changes)
    assert result.ledger["dropped"] == {**dict.fromkeys(DROPPED, 1), "not_listed": 2, "leaked": 0}
    listed.write_text("a\nb")
    result = curated(generations, TRAIN, test=TRAIN[:1], **changes)
    assert result.ledger["dropped"] == dict.fromkeys(DROPPED, 1)


def test_the_ledger_has_the_counts_of_each_teacher() -> None:
    both = [replace(one, teacher=teacher) for one in MIXED[:5] for teacher in ("large", "small")]
    result = curated(both, total=2)
    teachers = result.ledger["teachers"]
    assert isinstance(teachers, dict)
    assert list(teachers) == ["large", "small"]
    for name in ("asked", "answered", "failed", "kept", "right", "completion_tokens"):
        assert teachers["large"][name] + teachers["small"][name] == result.ledger[name]
    assert teachers["large"]["dropped"]["wrong"] == 1
    assert {pair.teacher for pair in result.pairs} <= {"large", "small"}
    assert "teachers" not in curated().ledger


def test_generations_of_a_question_stand_together() -> None:
    with pytest.raises(DataError, match="question 'a' do not stand together"):
        curated([MIXED[0], MIXED[4], MIXED[1]])


def many(questions: int, samples: int = 8) -> tuple[list[Question], list[Generation]]:
    """Questions with right, wrong, cut, repeated and failed generations, and text of every kind."""
    draw = random.Random(0)
    asked = [Question(f"q{i}", f"{i} + 7? \u2028\u00e9", str(i + 7)) for i in range(questions)]
    finishes: tuple[FinishReason, ...] = ("stop", "stop", "stop", "length", "error")
    generations = [
        wrote(
            question.id,
            i,
            f" Way {draw.randrange(5)}: {question.text} \ud800 is " + "some more than that, " * draw.randrange(9),
            draw.choice([f" {question.answer}.", f" {question.answer} \x85apples", " 3", " none"]),
            draw.choice(finishes),
        )
        for question in asked
        for i in range(samples)
    ]
    return asked, generations


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"total": 500, "prefer": "short", "dedup": "equations", "per_question": 3}])
def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("cotdistill.chunks.BYTES", 20_000)
    monkeypatch.setattr("cotdistill.curate.ROWS", 100)
    if changes:  # each process reads them from a file
        monkeypatch.setattr("cotdistill.curate.MANY", 0)
    questions, generations = many(300)
    write_jsonl(tmp_path / "generations.jsonl", generations)
    methods = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"]
    found = []
    for source in (generations, iter(generations), tmp_path / "generations.jsonl"):
        for processes in (1, 3):
            out = tmp_path / "pairs.jsonl"
            config = CurateConfig.model_validate(changes)
            result = curate(source, questions, *methods, NUMBER, config, out, QUESTIONS, processes)
            found.append((out.read_bytes(), result.ledger))
            source = list(generations) if not isinstance(source, Path) else source
    assert found[0][0].count(b"\n") == found[0][1]["kept"] != 0
    assert all(one == found[0] for one in found[1:])


def test_an_error_leaves_the_old_pairs_and_nothing_else(tmp_path: Path) -> None:
    questions, generations = many(20)
    lines = [to_line(generation) for generation in generations]
    lines[33] = lines[33].rstrip() + b"}\n"
    (tmp_path / "generations.jsonl").write_bytes(b"".join(lines))
    (tmp_path / "pairs.jsonl").write_text("old")
    methods = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"]
    with pytest.raises(DataError, match=r"generations\.jsonl, line 34: not a Generation"):
        curate(tmp_path / "generations.jsonl", questions, *methods, NUMBER, CurateConfig(), tmp_path / "pairs.jsonl")
    assert (tmp_path / "pairs.jsonl").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generations.jsonl", "pairs.jsonl"]
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read"):
        curate(tmp_path / "none.jsonl", questions, *methods, NUMBER, CurateConfig(), tmp_path / "pairs.jsonl")


PEAK = """
import resource, sys
from pathlib import Path
from cotdistill.answers import TYPED
from cotdistill.config import CurateConfig, load_quickstart
from cotdistill.config_file import parse_overrides
from cotdistill.curate import curate
from cotdistill.methods import METHODS
from cotdistill.records import Question
folder = Path(sys.argv[1])
questions = [Question(str(i), f"{i} + 7?", str(i + 7)) for i in range(2000)]
methods = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"]
curate(folder / "generations.jsonl", questions, *methods, TYPED["number"], CurateConfig(), folder / "pairs.jsonl")
print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""


def peaks(folder: Path, questions: int, samples: int) -> list[float]:
    """MB of the process and of the largest of its workers, over so many generations."""
    with (folder / "generations.jsonl").open("wb") as file:
        for q in range(questions):
            for i in range(samples):
                file.write(to_line(wrote(str(q), i, f" In way {i}, " + "we count on and on. " * 15, f" {q + 7}.")))
    words = [sys.executable, "-c", PEAK, str(folder)]
    out = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return [int(kilobytes) / 1024 for kilobytes in out.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_generations(tmp_path: Path) -> None:
    """Ten times as many of the same questions, 80 MB more of text: less than 15 MB more in any process."""
    found = peaks(tmp_path, 2000, 10), peaks(tmp_path, 2000, 100)
    assert all(large - small < 15 for small, large in zip(*found, strict=True)), found


@pytest.mark.slow
def test_of_one_question_with_many_samples_little_is_held(tmp_path: Path) -> None:
    """180,000 more of one, 70 MB of text and 125 of pairs: 500 bytes each, and nothing in the workers."""
    (few, few_worker), (many, many_worker) = peaks(tmp_path, 1, 20_000), peaks(tmp_path, 1, 200_000)
    assert many - few < 90
    assert many_worker - few_worker < 15


def test_a_total_is_drawn_by_the_papers_rule() -> None:
    """RandomState(0).permutation, as the authors drew 123 of 170, in the order of the questions."""
    generations = [wrote("a", i, f" Way {i}.", " 5") for i in range(10)]
    result = curated(generations, total=4)
    assert kept(result) == [("a", 2), ("a", 4), ("a", 8), ("a", 9)]
    assert dropped(result) == {"over_total": 6}
    assert (result.ledger["questions_covered"], result.ledger["right"]) == (1, 10)
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
    (pair,) = curated([Generation("a", 0, text, None, "stop")], teacher=method).pairs
    assert pair.completion == f" {rationale} --> 5 END"
    bare = Generation("a", 0, " The answer is 5.", None, "stop")
    assert dropped(curated([bare], teacher=method)) == {"empty": 1}, "no reasoning is taught by an answer alone"


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
        for q in "abc"
        for i in range(70)
        for finish in [draw.choice(finishes)]
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
    assert result.pairs == []
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
