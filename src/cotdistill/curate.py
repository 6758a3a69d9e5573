"""Keep the generations whose answer is right, as pairs, and account for every other one.

    curated = curate(run / "generations.jsonl", task.train, METHODS["zero_shot_cot"], ..., pairs=run / "pairs.jsonl")

The pair's answer is the known answer as it is stored, its rationale what the teacher wrote (paper,
section 3; spec: data/format of the authors' code). Question by question, in as many processes as there
are cores: memory holds the questions and a few thousand generations, however many there are.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

from cotdistill.answers import AnswerType
from cotdistill.chunks import Chunk, batches, generations_of, spans
from cotdistill.config import CurateConfig
from cotdistill.errors import DataError
from cotdistill.evaluate import score, split_answer
from cotdistill.filters import equations, leaked, loops, overlap
from cotdistill.methods import Method
from cotdistill.records import Generation, Pair, Question, Score, atomic, from_line, read_jsonl, to_line
from cotdistill.tasks import fold
from cotdistill.tasks.splits import draw
from cotdistill.workers import cores, mapped

# In the order in which they are tried: a generation counts under the first that holds.
DROPPED = (
    *("wrong", "no_answer", "truncated", "empty", "loop", "not_listed", "leaked"),  # of itself
    *("duplicate", "over_per_question"),  # beside the others of its question, those of `prefer` first
    "over_total",
)
FEW = 4  # chunks, some thousands of generations: fewer are not worth the start of a process
SHOWN = 5

Dropped = tuple[Question, Generation, Score]


@dataclass(frozen=True)
class Curated:
    """What curation made: a file of pairs, and the ledger that accounts for the rest, of which the first few are here.

    The ledger's `teachers` are the counts of each, where generations name theirs; its `marginal` has for each
    sample index how many distinct right rationales it added, and the tokens it took.
    """

    path: Path
    ledger: dict[str, object]
    dropped: list[Dropped]

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
) -> Curated:
    """Filter a teacher's generations, or a file of them, into pairs of prompt and completion.

    All generations of a question must stand together. Those of `test` questions are left out. `processes`: 0 for
    the cores there are; the output is the same. Raises `DataError` if the ledger does not add up, a generation is
    of no known question or apart from the others of its own, or `config.only` names no question that is known.
    """
    by_id = {question.id: question for question in questions}
    listed = _listed(config.only, by_id.keys()) if config.only else None
    in_test = leaked(questions, test)
    held_out = in_test if config.leaked == "drop" else set[str]()
    job = Job(by_id, teacher, student, answer_type, config, listed, held_out)
    with atomic(pairs) as out:
        if config.total:
            with tempfile.TemporaryFile(dir=pairs.parent) as unlimited:
                whole = _write(job, generations, unlimited, processes)
                _draw(whole, unlimited, out, config.total)
        else:
            whole = _write(job, generations, out, processes)
        ledger = _ledger(whole, len(questions))
    if test:
        eight, thirteen = overlap(questions, test)
        ledger["test_overlap"] = {"exact": len(in_test), "8_words": eight, "13_words": thirteen}
    return Curated(pairs, ledger, whole.dropped)


def answer_pairs(questions: Sequence[Question], student: Method) -> list[Pair]:
    """Pairs of question and known answer, for plain fine-tuning: every question, no teacher."""
    return [_pair(question, student, student.prompt(question), "", 0) for question in questions]


def without_leaked(questions: Sequence[Question], test: Sequence[Question], config: CurateConfig) -> list[Question]:
    """The questions that may be taught: with `config.leaked` drop, none that is a test question."""
    held_out = leaked(questions, test) if config.leaked == "drop" else set[str]()
    return [question for question in questions if question.id not in held_out]


@dataclass
class Part:
    """What one chunk, or all of them, came to.

    `counts` are by teacher: what happened, how often; `marginal` by sample index: what it brought and cost.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    marginal: dict[int, Counter[str]] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    covered: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)


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
        rest = self.teacher, self.student, self.answer_type, self.config, self.listed, self.held_out
        return _job, ([_FIELDS(question) for question in self.questions.values()], *rest)

    def __call__(self, chunk: Chunk) -> Part:
        part = Part()
        for question_id, group in groupby(generations_of(chunk), key=attrgetter("question_id")):
            if (question := self.questions.get(question_id)) is None:
                raise DataError(f"generations of questions that the task does not have, such as {question_id!r}.")
            part.questions.append(question_id)
            self._question(question, list(group), part)
        part.lines = [b"".join(part.lines)]
        return part

    def _question(self, question: Question, group: list[Generation], part: Part) -> None:
        scores = [score(generation, question, self.teacher, self.answer_type) for generation in group]
        rationales = [split_answer(generation, self.teacher, self.answer_type)[0] for generation in group]
        reasons = _choose([self._look(*one) for one in zip(group, scores, rationales, strict=True)], self.config)
        prompt = self.student.prompt(question)
        for generation, judged, rationale, reason in zip(group, scores, rationales, reasons, strict=True):
            if (counts := part.counts.get(generation.teacher)) is None:
                counts = part.counts[generation.teacher] = Counter()
            counts["asked"] += 1
            counts["right"] += judged.correct
            counts["prompt_tokens"] += generation.prompt_tokens
            counts["completion_tokens"] += generation.completion_tokens
            counts[reason or "kept"] += 1
            if reason is None:
                pair = _pair(question, self.student, prompt, rationale, generation.index, generation.teacher)
                part.lines.append(to_line(pair))
            elif len(part.dropped) < SHOWN:
                part.dropped.append((question, generation, judged))
        part.covered += None in reasons
        self._margin(group, scores, rationales, part)

    def _margin(
        self, group: Sequence[Generation], scores: Sequence[Score], rationales: Sequence[str], part: Part
    ) -> None:
        """Count by sample the right rationales that none before it had, and the tokens it took."""
        seen: set[str] = set()
        for generation, judged, rationale in zip(group, scores, rationales, strict=True):
            if (counts := part.marginal.get(generation.index)) is None:
                counts = part.marginal[generation.index] = Counter()
            counts["tokens"] += generation.prompt_tokens + generation.completion_tokens
            if usable(generation, judged, self.config) and (folded := fold(rationale)) not in {"", *seen}:
                seen.add(folded)
                counts["right"] += 1

    def _look(self, generation: Generation, judged: Score, rationale: str) -> tuple[str | None, str]:
        """Why a generation is dropped, whatever else its question has, or `None` and its rationale, folded."""
        if judged.category == "error":
            return "failed", ""
        if self.config.keep == "correct" and not judged.correct:
            return judged.category, ""
        if generation.finish_reason == "length" and self.config.truncated == "drop":
            return "truncated", ""
        if not (folded := fold(rationale)):
            return "empty", ""
        if self.config.loops == "drop" and loops(folded):
            return "loop", ""
        if self.listed is not None and generation.question_id not in self.listed:
            return "not_listed", ""
        return ("leaked", "") if generation.question_id in self.held_out else (None, folded)


_FIELDS = attrgetter(*(f.name for f in fields(Question)))


def _job(questions: list[tuple[Any, ...]], *rest: Any) -> Job:
    return Job({row[0]: Question(*row) for row in questions}, *rest)


def usable(generation: Generation, judged: Score, config: CurateConfig) -> bool:
    """Whether a rationale is right, and not dropped for its cut."""
    return judged.correct and not (generation.finish_reason == "length" and config.truncated == "drop")


def _choose(looks: Sequence[tuple[str | None, str]], config: CurateConfig) -> list[str | None]:
    """Why each rationale of a question is dropped: for itself, or beside the others."""
    reasons = [reason for reason, _ in looks]
    order = [i for i, reason in enumerate(reasons) if reason is None]
    if config.prefer == "short":
        order.sort(key=lambda i: len(looks[i][1]))
    seen: set[object] = set()
    kept = 0
    for i in order:
        folded = looks[i][1]
        same = (config.dedup == "equations" and equations(folded)) or folded
        if config.dedup != "off" and same in seen:
            reasons[i] = "duplicate"
        elif 0 < config.per_question <= kept:
            reasons[i] = "over_per_question"
        else:
            seen.add(same)
            kept += 1
    return reasons


def _pair(question: Question, student: Method, prompt: str, rationale: str, index: int, teacher: str = "") -> Pair:
    if student.completion is None:
        raise ValueError(f"{student.name} is not a method that a student learns")
    return Pair(question.id, index, prompt, student.completion(rationale, question.answer), teacher)


def _write(job: Job, generations: Path | Iterable[Generation], out: BinaryIO, processes: int) -> Part:
    """Write the pairs of all generations; returns all but these."""
    whole, met = Part(), set[str]()
    chunks = spans(generations) if isinstance(generations, Path) else batches(generations)
    with closing(_parts(job, chunks, processes or cores())) as parts:
        for part in parts:
            out.writelines(part.lines)
            for teacher, counts in part.counts.items():
                whole.counts.setdefault(teacher, Counter()).update(counts)
            for index, counts in part.marginal.items():
                whole.marginal.setdefault(index, Counter()).update(counts)
            whole.covered += part.covered
            whole.dropped += part.dropped[: SHOWN - len(whole.dropped)]
            for question_id in part.questions:
                if question_id in met:
                    raise DataError(
                        f"the generations of question {question_id!r} do not stand together.\n"
                        "Sort them by question: duplicates and limits are counted within one."
                    )
                met.add(question_id)
    return whole


def _parts(job: Job, chunks: Iterator[Chunk], processes: int) -> Generator[Part]:
    first = list(islice(chunks, FEW))
    if processes < 2 or len(first) < FEW:
        yield from map(job, chain(first, chunks))
    else:
        yield from mapped(job, chain(first, chunks), processes)


def _draw(whole: Part, unlimited: BinaryIO, out: BinaryIO, total: int) -> None:
    """Copy `total` of the pairs, drawn by the paper's rule, and correct the counts; all, if there are no more."""
    n = sum(counts["kept"] for counts in whole.counts.values())
    wanted = set(draw(n, total))
    kept, covered = Counter[str](), set[str]()
    unlimited.seek(0)
    for i, line in enumerate(unlimited):
        if i in wanted:
            out.write(line)
            pair = from_line(line)
            kept[pair["teacher"]] += 1
            covered.add(pair["question_id"])
    for teacher, counts in whole.counts.items():
        counts["over_total"] = counts["kept"] - kept[teacher]
        counts["kept"] = kept[teacher]
    whole.covered = len(covered)


def _ledger(whole: Part, questions: int) -> dict[str, object]:
    total = _account(sum(whole.counts.values(), Counter[str]()))
    ledger = {"questions": questions, "questions_covered": whole.covered, **total}
    if any(whole.counts):  # one of them has a name
        ledger["teachers"] = {teacher: _account(counts) for teacher, counts in sorted(whole.counts.items())}
    ledger["marginal"] = [
        {"sample": index, "right": counts["right"], "tokens": counts["tokens"]}
        for index, counts in sorted(whole.marginal.items())
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
