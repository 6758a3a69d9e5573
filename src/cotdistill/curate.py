"""Keep the generations whose answer is right, as pairs, and account for every other one.

    pairs, ledger = curate(generations, task.train, METHODS["zero_shot_cot"], METHODS["fine_tune_cot"], ...)

The pair's answer is the known answer as it is stored, its rationale what the teacher wrote (paper,
section 3; spec: data/format of the authors' code).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from cotdistill.answers import AnswerType
from cotdistill.config import CurateConfig
from cotdistill.errors import DataError
from cotdistill.evaluate import score, split_answer
from cotdistill.methods import Method
from cotdistill.records import Generation, Pair, Question, Score
from cotdistill.tasks.splits import draw

DROPPED = ("wrong", "no_answer", "truncated", "empty", "not_listed", "duplicate", "over_per_question", "over_total")


@dataclass(frozen=True)
class Curated:
    """What curation made: the pairs, the ledger that accounts for the rest, and each score."""

    pairs: list[Pair]
    ledger: dict[str, object]
    scores: list[Score]


def curate(
    generations: Sequence[Generation],
    questions: Sequence[Question],
    teacher: Method,
    student: Method,
    answer_type: AnswerType,
    config: CurateConfig,
) -> Curated:
    """Filter a teacher's generations into pairs of prompt and completion.

    Reasons for dropping are tried in the order of `DROPPED`. Raises `DataError` if the ledger does
    not add up, a generation is of no known question, or `config.only` names none that is.
    """
    by_id = {question.id: question for question in questions}
    if strange := {g.question_id for g in generations} - by_id.keys():
        raise DataError(f"generations of questions that the task does not have, such as {min(strange)!r}.")
    scores = [score(g, by_id[g.question_id], teacher, answer_type) for g in generations]

    listed = _listed(config.only, by_id.keys()) if config.only else by_id.keys()

    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    kept_of: Counter[str] = Counter()
    for generation, judged in zip(generations, scores, strict=True):
        if judged.category == "error":
            continue
        rationale, _ = split_answer(generation, teacher, answer_type)
        plain = " ".join(rationale.split())
        reason = _reason(generation, judged, plain, config)
        if reason is None and generation.question_id not in listed:
            reason = "not_listed"
        if reason is None and config.dedup and (generation.question_id, plain) in seen:
            reason = "duplicate"
        if reason is None and 0 < config.per_question <= kept_of[generation.question_id]:
            reason = "over_per_question"
        if reason is not None:
            dropped[reason] += 1
            continue
        seen.add((generation.question_id, plain))
        kept_of[generation.question_id] += 1
        pairs.append(_pair(by_id[generation.question_id], student, rationale, generation.index))
    if 0 < config.total < len(pairs):
        dropped["over_total"] = len(pairs) - config.total
        pairs = [pairs[i] for i in draw(len(pairs), config.total)]
    return Curated(pairs, _ledger(generations, scores, pairs, dropped, len(questions)), scores)


def answer_pairs(questions: Sequence[Question], student: Method) -> list[Pair]:
    """Pairs of question and known answer, for plain fine-tuning: every question, no teacher."""
    return [_pair(question, student, rationale="", index=0) for question in questions]


def _reason(generation: Generation, judged: Score, rationale: str, config: CurateConfig) -> str | None:
    if config.keep == "correct" and not judged.correct:
        return judged.category
    if generation.finish_reason == "length" and config.truncated == "drop":
        return "truncated"
    return None if rationale else "empty"


def _listed(path: Path, known: Set[str]) -> set[str]:
    """The question ids in a file, one a line."""
    try:
        ids = set(path.read_text(encoding="utf-8-sig").split())
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"curate.only: {path} cannot be read ({error}).") from None
    if not ids & known:
        raise DataError(
            f"curate.only: {path} names no training question.\n"
            f"Write one id a line, such as {min(known, default='(there are none)')}."
        )
    return ids


def _pair(question: Question, student: Method, rationale: str, index: int) -> Pair:
    if student.completion is None:
        raise ValueError(f"{student.name} is not a method that a student learns")
    return Pair(question.id, index, student.prompt(question), student.completion(rationale, question.answer))


def _ledger(
    generations: Sequence[Generation],
    scores: Sequence[Score],
    pairs: Sequence[Pair],
    dropped: Counter[str],
    questions: int,
) -> dict[str, object]:
    failed = sum(s.category == "error" for s in scores)
    answered = len(generations) - failed
    if answered != len(pairs) + dropped.total():
        raise DataError(f"the ledger does not add up: {answered} answered, {len(pairs)} kept, {dict(dropped)} dropped.")
    right = sum(s.correct for s in scores)
    return {
        "questions": questions,
        "asked": len(generations),
        "answered": answered,
        "failed": failed,
        "kept": len(pairs),
        "dropped": {reason: dropped[reason] for reason in DROPPED},
        "questions_covered": len({pair.question_id for pair in pairs}),
        "right": right,
        "teacher_accuracy": right / answered if answered else None,
        "prompt_tokens": sum(g.prompt_tokens for g in generations),
        "completion_tokens": sum(g.completion_tokens for g in generations),
    }
