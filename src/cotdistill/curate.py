"""Keep the generations whose answer is right, as pairs, and account for every other one.

    curated = curate(run / "generations.jsonl", task.train, METHODS["zero_shot_cot"], ..., pairs=run / "pairs.jsonl")

The pair's answer is the known answer as it is stored, its rationale what the teacher wrote (paper,
section 3; spec: data/format of the authors' code). In as many processes as there are cores: memory holds the
questions and a few thousand generations, however many there are, and of a question that is larger a digest each.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from cotdistill.answers import AnswerType
from cotdistill.choice import Look, Part, Row, choose, digests, gather
from cotdistill.chunks import ROWS, Chunk, generations_of, pieces, spans
from cotdistill.config import CurateConfig
from cotdistill.errors import DataError
from cotdistill.evaluate import Judged, judge, split_answer
from cotdistill.filters import leaked, loops, overlap
from cotdistill.methods import Method
from cotdistill.records import Generation, Pair, Question, atomic, from_line, read_jsonl, to_line
from cotdistill.shelf import ROW, Shelf, shelved
from cotdistill.tasks import fold
from cotdistill.tasks.splits import draw
from cotdistill.workers import cores, mapped

# In the order in which they are tried: a generation counts under the first that holds.
REASONS = {
    # Of itself.
    "wrong": "its answer is not the known one",
    "no_answer": "no answer could be read in the form that was asked for",
    "truncated": "cut at the limit of tokens",
    "empty": "an answer without a rationale",
    "loop": "it says one thing over and over",
    "not_listed": "its question is not listed in curate.only",
    "leaked": "its question is a test question too",
    # Beside the others of its question, those of `prefer` first.
    "duplicate": "it repeats another of its question",
    "over_per_question": "more than curate.per_question",
    "over_total": "not drawn for curate.total",
}
DROPPED = tuple(REASONS)
FEW = 4  # chunks, some thousands of generations: fewer are not worth the start of a process
MANY = 50_000  # questions: more are in a file, not in each process


@dataclass(frozen=True)
class Curated:
    """What curation made: a file of pairs, and the ledger that accounts for the rest.

    The ledger's `teachers` are the counts of each, where generations name theirs; its `marginal` has for each
    sample index how many distinct right rationales it added, and the tokens it took.
    """

    path: Path
    ledger: dict[str, object]

    @cached_property
    def pairs(self) -> list[Pair]:
        """All of them, read from the file."""
        return read_jsonl(self.path, Pair)


def curate(
    generations: Path | Iterable[Generation],
    questions: Sequence[Question],
    teacher: Method,
    student: Method,
    answer_type: AnswerType,
    config: CurateConfig,
    pairs: Path,
    test: Sequence[Question] = (),
    processes: int = 0,
    elsewhere: Callable[[Job], Generator[Part]] | None = None,
) -> Curated:
    """Filter a teacher's generations, or a file of them, into pairs of prompt and completion.

    All generations of a question must stand together. Those of `test` questions are left out. `processes`: 0 for
    the cores there are; the output is the same. Raises `DataError` if the ledger does not add up, a generation is
    of no known question or apart from the others of its own, or `config.only` names no question that is known.
    """
    in_test = leaked(questions, test)
    job = make_job(questions, teacher, student, answer_type, config, in_test)
    parts = elsewhere(job) if elsewhere else _parts(job, generations, processes or cores(), pairs.parent)
    del job  # `parts` may do with less of it
    with atomic(pairs) as out, ThreadPoolExecutor(1) as pool, closing(parts):
        shared = pool.submit(overlap, questions, test)  # while the processes are at it
        if config.total:
            with tempfile.TemporaryFile(dir=pairs.parent) as unlimited:
                whole = gather(parts, config, unlimited, pairs.parent)
                _draw(whole, unlimited, out, config.total)
        else:
            whole = gather(parts, config, out, pairs.parent)
        ledger = _ledger(whole, len(questions))
        eight, thirteen = shared.result()
    if test:
        ledger["test_overlap"] = {"exact": len(in_test), "8_words": eight, "13_words": thirteen}
    return Curated(pairs, ledger)


def make_job(
    questions: Sequence[Question],
    teacher: Method,
    student: Method,
    answer_type: AnswerType,
    config: CurateConfig,
    in_test: Set[str],
) -> Job:
    """What judges generations of these questions, of which those with ids `in_test` are test questions too."""
    by_id = {question.id: question for question in questions}
    listed = _listed(config.only, by_id.keys()) if config.only else None
    return Job(by_id, teacher, student, answer_type, config, listed, in_test if config.leaked == "drop" else set())


def answer_pairs(questions: Sequence[Question], student: Method) -> list[Pair]:
    """Pairs of question and known answer, for plain fine-tuning: every question, no teacher."""
    return [_pair(question, student, student.prompt(question), "", 0) for question in questions]


def without_leaked(questions: Sequence[Question], test: Sequence[Question], config: CurateConfig) -> list[Question]:
    """The questions that may be taught: with `config.leaked` drop, none that is a test question."""
    held_out = leaked(questions, test) if config.leaked == "drop" else set[str]()
    return [question for question in questions if question.id not in held_out]


@dataclass(frozen=True)
class Job:
    """All that a process must know to make a Part of a chunk."""

    questions: Mapping[str, Question]
    teacher: Method
    student: Method
    answer_type: AnswerType
    config: CurateConfig
    listed: Set[str] | None
    held_out: Set[str]

    def __reduce__(self) -> tuple[object, ...]:
        # Questions as tuples: to pickle 100,000 records takes a second, and as long to read them.
        questions = self.questions if isinstance(self.questions, Shelf) else list(map(ROW, self.questions.values()))
        rest = self.teacher, self.student, self.answer_type, self.config, self.listed, self.held_out
        return _job, (questions, *rest)

    def __call__(self, chunk: Chunk, cut: bool = False) -> Part:
        """A Part of the questions of a chunk; `cut`: of the first and the last, some may be in other chunks."""
        part = Part()
        groups = [list(group) for _, group in groupby(generations_of(chunk), key=attrgetter("question_id"))]
        for i, group in enumerate(groups):
            if (question := self.questions.get(group[0].question_id)) is None:
                raise DataError(
                    f"generations of questions that the task does not have, such as {group[0].question_id!r}."
                )
            part.questions.append(question.id)
            if cut and i in (0, len(groups) - 1):
                part.ends.append(list(self._rows(question, group, part)))
            else:
                self._question(question, group, part)
        part.lines = [b"".join(part.lines)]
        return part

    def looks(self, question: Question, group: Sequence[Generation]) -> tuple[list[Look], list[str | None]]:
        """How each generation of a question looks, and why it is dropped; None: kept, if `total` does not say else."""
        judged: dict[str, Judged] = {}
        looks = [self._look(generation, question, judged) for generation in group]
        return looks, choose(looks, self.config)

    def _question(self, question: Question, group: list[Generation], part: Part) -> None:
        looks, reasons = self.looks(question, group)
        prompt = self.student.prompt(question)
        seen: set[str] = {""}
        for generation, look, reason in zip(group, looks, reasons, strict=True):
            correct = _count(generation, look, part)
            part.of(generation.teacher)[reason or "kept"] += 1
            if correct and look.folded not in seen:
                seen.add(look.folded)
                part.right[generation.index] += 1
            if reason is None:
                part.lines.append(self._line(question, generation, look.rationale, prompt))
        part.covered += None in reasons

    def _rows(self, question: Question, group: list[Generation], part: Part) -> Iterator[Row]:
        """What `gather` must know of those whose fate depends on others; the rest is counted."""
        judged: dict[str, Judged] = {}
        prompt = self.student.prompt(question)
        for generation in group:
            look = self._look(generation, question, judged)
            _count(generation, look, part)
            same, right = digests(look, self.config)
            if look.reason:
                part.of(generation.teacher)[look.reason] += 1
            if same or right:
                line = self._line(question, generation, look.rationale, prompt) if same else b""
                yield Row(generation.teacher, generation.index, same, right, len(look.folded), line)

    def _line(self, question: Question, generation: Generation, rationale: str, prompt: str) -> bytes:
        style = self.student.style_of(question.id, generation.index)
        asked = prompt if style is self.student else style.prompt(question)
        return to_line(_pair(question, style, asked, rationale, generation.index, generation.teacher))

    def _look(self, generation: Generation, question: Question, known: dict[str, Judged]) -> Look:
        rationale, answer = split_answer(generation, self.teacher, self.answer_type)
        judged = judge(generation, answer, question, self.answer_type, known)
        reason: str | None = None
        folded = ""
        if judged[1] == "error":
            reason = "failed"
        elif self.config.keep == "correct" and judged[1] != "correct":
            reason = judged[1]
        elif _cut(generation, self.config):
            reason = "truncated"
        elif not (folded := fold(rationale)):
            reason = "empty"
        elif self.config.loops == "drop" and loops(folded):
            reason = "loop"
        elif self.listed is not None and question.id not in self.listed:
            reason = "not_listed"
        elif question.id in self.held_out:
            reason = "leaked"
        return Look(reason, rationale, folded, judged)


def _job(questions: Shelf | list[tuple[Any, ...]], *rest: Any) -> Job:
    by_id = questions if isinstance(questions, Shelf) else {row[0]: Question(*row) for row in questions}
    return Job(by_id, *rest)


def rationale_of(
    generation: Generation, question: Question, teacher: Method, answer_type: AnswerType, config: CurateConfig
) -> str | None:
    """The rationale of a generation that is right and not dropped for its cut, folded; None of any other."""
    rationale, answer = split_answer(generation, teacher, answer_type)
    right = judge(generation, answer, question, answer_type, {})[1] == "correct"
    return fold(rationale) or None if right and not _cut(generation, config) else None


def _cut(generation: Generation, config: CurateConfig) -> bool:
    return generation.finish_reason == "length" and config.truncated == "drop"


def _count(generation: Generation, look: Look, part: Part) -> bool:
    """Count what does not depend on others; returns whether it is right."""
    correct = look.judged[1] == "correct"
    counts = part.of(generation.teacher)
    counts["asked"] += 1
    counts["right"] += correct
    counts["prompt_tokens"] += generation.prompt_tokens
    counts["completion_tokens"] += generation.completion_tokens
    part.tokens[generation.index] += generation.prompt_tokens + generation.completion_tokens
    return correct


def _pair(question: Question, student: Method, prompt: str, rationale: str, index: int, teacher: str = "") -> Pair:
    if student.completion is None:
        raise ValueError(f"{student.name} is not a method that a student learns")
    return Pair(question.id, index, prompt, student.completion(question, rationale), teacher)


def _parts(job: Job, generations: Path | Iterable[Generation], processes: int, folder: Path) -> Generator[Part]:
    """A Part of each chunk, in order."""
    chunks = spans(generations) if isinstance(generations, Path) else pieces(generations, ROWS)
    first = list(islice(chunks, FEW))
    if processes < 2 or len(first) < FEW:
        yield from map(partial(job, cut=True), chain(first, chunks))
        return
    with ExitStack() as stack:
        if len(job.questions) >= MANY:
            job = replace(job, questions=stack.enter_context(shelved(job.questions.values(), folder)))
        yield from mapped(partial(job, cut=True), chain(first, chunks), processes)


def _draw(whole: Part, unlimited: BinaryIO, out: BinaryIO, total: int) -> None:
    """Copy `total` of the pairs, drawn by the paper's rule, and correct the counts; all, if there are no more."""
    n = sum(counts["kept"] for counts in whole.counts.values())
    wanted = iter(draw(n, total))
    following, last = next(wanted, None), None
    kept, whole.covered = Counter[str](), 0
    unlimited.seek(0)
    for i, line in enumerate(unlimited):
        if i == following:
            out.write(line)
            pair = from_line(line)
            kept[pair["teacher"]] += 1
            whole.covered += pair["question_id"] != last  # those of a question stand together
            following, last = next(wanted, None), pair["question_id"]
    for teacher, counts in whole.counts.items():
        counts["over_total"] = counts["kept"] - kept[teacher]
        counts["kept"] = kept[teacher]


def _ledger(whole: Part, questions: int) -> dict[str, object]:
    total = _account(sum(whole.counts.values(), Counter[str]()))
    ledger = {"questions": questions, "questions_covered": whole.covered, **total}
    if any(whole.counts):  # one of them has a name
        ledger["teachers"] = {teacher: _account(counts) for teacher, counts in sorted(whole.counts.items())}
    ledger["marginal"] = [
        {"sample": index, "right": whole.right[index], "tokens": tokens}
        for index, tokens in sorted(whole.tokens.items())
    ]
    return ledger


def _account(counts: Counter[str]) -> dict[str, object]:
    dropped = {reason: counts[reason] for reason in DROPPED}
    answered = counts["asked"] - counts["failed"]
    if answered != counts["kept"] + sum(dropped.values()):
        raise DataError(f"the ledger does not add up: {answered} answered, {counts['kept']} kept, {dropped} dropped.")
    return {
        "asked": counts["asked"],
        "answered": answered,
        "failed": counts["failed"],
        "kept": counts["kept"],
        "dropped": dropped,
        "right": counts["right"],
        "teacher_accuracy": counts["right"] / answered if answered else None,
        "prompt_tokens": counts["prompt_tokens"],
        "completion_tokens": counts["completion_tokens"],
    }


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
