"""Curation in pieces: the same bytes as when a question is held whole and its texts are compared as they are."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest

from cotdistill.answers import TYPED
from cotdistill.config import CurateConfig
from cotdistill.curate import DROPPED, curate
from cotdistill.equations import equations
from cotdistill.errors import DataError
from cotdistill.evaluate import score, split_answer
from cotdistill.filters import loops
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Pair, Question, to_line, write_jsonl
from cotdistill.tasks import fold
from cotdistill.tasks.splits import draw

TEACHER, STUDENT, NUMBER = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"], TYPED["number"]
SAMPLES = (3, 1, 150, 4, 2, 40, 1, 5)  # of each question: the third and the sixth are in many chunks
QUESTIONS = [Question(f"q{i}", f"{i} and 7 \u2028 more?", str(i + 7)) for i in range(len(SAMPLES))]
TESTED = [Question("t", QUESTIONS[3].text.upper(), "10")]
LISTED = {question.id for question in QUESTIONS} - {"q5"}


def made() -> list[Generation]:
    """Of two teachers: right, wrong, cut, empty, looping and failed ones, and many that repeat others in some way."""
    rng = random.Random(0)
    found = []
    for question, samples in zip(QUESTIONS, SAMPLES, strict=True):
        for i in range(samples):
            a = rng.randrange(9)
            text = rng.choice(
                [
                    f" First  {a} + 7 = {a + 7},\nthen we count{' on' * rng.randrange(3)}.",
                    f" {a} plus 7 \ud800 by counting{' up' * rng.randrange(3)}.",
                    f" So {a}.0 + 7 = {a + 7}",
                    f" {a}+7={a + 7}",
                    rng.choice([" ", " It is as has been said before, I say." * 5]),
                ]
            )
            answer = f" {question.answer}." if rng.random() < 0.8 else rng.choice([" 3", " none", " 3 or 4"])
            finish: Any = "stop" if rng.random() < 0.9 else rng.choice(["length", "error"])
            teacher, tokens = rng.choice(["large", "small"]), rng.randrange(50)
            found.append(Generation(question.id, i, text, answer, finish, 20, tokens, teacher=teacher))
    return found


GENERATIONS = made()


def plainly(config: CurateConfig) -> tuple[bytes, dict[str, object]]:
    """What curation is: all in memory, question by question."""
    kept: list[Pair] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    right, tokens = Counter[int](), Counter[int]()
    for question, (_, group) in zip(QUESTIONS, groupby(GENERATIONS, lambda g: g.question_id), strict=True):
        all_of_it = list(group)
        reasons = [of_itself(generation, question, config) for generation in all_of_it]
        beside_others(all_of_it, reasons, config)
        seen = {""}
        for generation, reason in zip(all_of_it, reasons, strict=True):
            correct = score(generation, question, TEACHER, NUMBER).correct
            counts[generation.teacher].update(
                {"asked": 1, "right": correct, reason or "kept": 1, "prompt_tokens": 20},
                completion_tokens=generation.completion_tokens,
            )
            tokens[generation.index] += 20 + generation.completion_tokens
            usable = correct and reason != "truncated"
            if usable and (words := fold(generation.text)) not in seen:
                seen.add(words)
                right[generation.index] += 1
            if reason is None:
                assert STUDENT.completion
                completion = STUDENT.completion(question, split_answer(generation, TEACHER, NUMBER)[0])
                prompt = STUDENT.prompt(question)
                kept.append(Pair(question.id, generation.index, prompt, completion, generation.teacher))
    if config.total:
        drawn = [kept[i] for i in draw(len(kept), config.total)]
        for teacher, of_one in counts.items():
            n = sum(pair.teacher == teacher for pair in drawn)
            of_one["over_total"], of_one["kept"] = of_one["kept"] - n, n
        kept = drawn
    total = account(sum(counts.values(), Counter()))
    ledger = {"questions": len(QUESTIONS), "questions_covered": len({pair.question_id for pair in kept}), **total}
    ledger["teachers"] = {teacher: account(counts[teacher]) for teacher in sorted(counts)}
    ledger["marginal"] = [{"sample": i, "right": right[i], "tokens": tokens[i]} for i in sorted(tokens)]
    return b"".join(map(to_line, kept)), ledger


def of_itself(generation: Generation, question: Question, config: CurateConfig) -> str | None:
    category = score(generation, question, TEACHER, NUMBER).category
    if category == "error":
        return "failed"
    if config.keep == "correct" and category != "correct":
        return category
    if generation.finish_reason == "length" and config.truncated == "drop":
        return "truncated"
    if not (words := fold(generation.text)):
        return "empty"
    if config.loops == "drop" and loops(words):
        return "loop"
    if config.only and question.id not in LISTED:
        return "not_listed"
    return "leaked" if question is QUESTIONS[3] and config.leaked == "drop" else None


def beside_others(group: Sequence[Generation], reasons: list[str | None], config: CurateConfig) -> None:
    words = [fold(generation.text) for generation in group]
    order = [i for i, reason in enumerate(reasons) if reason is None]
    if config.prefer == "short":
        order.sort(key=lambda i: len(words[i]))
    seen, n = set[object](), 0
    for i in order:
        same = (config.dedup == "equations" and equations(words[i])) or words[i]
        if config.dedup != "off" and same in seen:
            reasons[i] = "duplicate"
        elif 0 < config.per_question <= n:
            reasons[i] = "over_per_question"
        else:
            seen.add(same)
            n += 1


def account(counts: Counter[str]) -> dict[str, object]:
    answered = counts["asked"] - counts["failed"]
    return {
        **{"asked": counts["asked"], "answered": answered, "failed": counts["failed"], "kept": counts["kept"]},
        "dropped": {reason: counts[reason] for reason in DROPPED},
        **{"right": counts["right"], "teacher_accuracy": counts["right"] / answered},
        **{name: counts[name] for name in ("prompt_tokens", "completion_tokens")},
    }


LIMITS: list[dict[str, Any]] = [{}, {"per_question": 4}, {"total": 10}, {"per_question": 9, "total": 10}]
CASES = [
    {"keep": keep, "dedup": dedup, "prefer": prefer, **limits}
    for keep, dedup, prefer, limits in product(
        ("correct", "all"), ("exact", "equations", "off"), ("first", "short"), LIMITS
    )
]
CASES += [
    {name: "keep", "prefer": prefer} for name in ("truncated", "loops", "leaked") for prefer in ("first", "short")
]
CASES += [{"only": "ids.txt", "prefer": prefer} for prefer in ("first", "short")]


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_pieces_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ids.txt").write_text("\n".join(sorted(LISTED)))
    config = CurateConfig.model_validate(changes)
    write_jsonl(Path("generations.jsonl"), GENERATIONS)
    expected, ledger = plainly(config)
    monkeypatch.setattr("cotdistill.choice.IN_MEMORY", 1000)
    for size in (1, 2000, 10**6):  # a generation a chunk, some, all
        monkeypatch.setattr("cotdistill.chunks.BYTES", size)
        source, out = Path("generations.jsonl"), Path("pairs.jsonl")
        result = curate(source, QUESTIONS, TEACHER, STUDENT, NUMBER, config, out, TESTED, processes=1)
        del result.ledger["test_overlap"]
        assert out.read_bytes() == expected
        assert (result.ledger, [*result.ledger]) == (ledger, [*ledger])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["generations.jsonl", "ids.txt", "pairs.jsonl"]


def test_the_cases_have_all_there_is() -> None:
    """Else they would prove less than they seem to."""
    reasons = Counter[str]()
    for changes in ({}, {"dedup": "equations", "per_question": 4, "total": 10, "only": "ids.txt"}):
        dropped = plainly(CurateConfig.model_construct(**{**CurateConfig().model_dump(), **changes}))[1]["dropped"]
        assert isinstance(dropped, dict)
        reasons.update(dropped)
    assert all(reasons[reason] for reason in DROPPED), reasons


@pytest.mark.parametrize("size", [1, 300, 10**6])
def test_generations_apart_are_told_wherever_chunks_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int
) -> None:
    monkeypatch.setattr("cotdistill.chunks.BYTES", size)
    moved = [*GENERATIONS[:3], *GENERATIONS[4:30], GENERATIONS[2], *GENERATIONS[30:]]
    write_jsonl(tmp_path / "g.jsonl", moved)
    with pytest.raises(DataError, match="do not stand together"):
        curate(
            *(tmp_path / "g.jsonl", QUESTIONS, TEACHER, STUDENT, NUMBER, CurateConfig(), tmp_path / "pairs.jsonl"),
            processes=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]
