"""Which of a question's rationales become pairs, whether they come all at once or piece by piece.

    whole = gather(parts, config, out, folder)

At once, they are compared as they are. A chunk is cut anywhere, so its first and last question may go on in others,
as one with a million samples does: of these a rationale is remembered by a digest of what is compared.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from cotdistill.config import CurateConfig
from cotdistill.equations import equations
from cotdistill.errors import DataError
from cotdistill.evaluate import Judged

IN_MEMORY = 1 << 20  # bytes of lines that wait: more are in a file


class Look(NamedTuple):
    """One generation by itself: why it is dropped, if it is, and its rationale, folded too if it is usable."""

    reason: str | None
    rationale: str
    folded: str
    judged: Judged


class Row(NamedTuple):
    """What one generation leaves of itself, where the others of its question are elsewhere.

    `same` and `right` are digests: of what it must not share with another to be kept, and of its words if it is
    right; empty where there is none. `length` is that of its words, `line` its pair.
    """

    teacher: str
    sample: int
    same: bytes
    right: bytes
    length: int
    line: bytes


@dataclass
class Part:
    """What one chunk, or all of them, came to.

    `counts` are by teacher: what happened, how often; `right` and `tokens` by sample index: how many distinct right
    rationales it added, and what it took. `ends` are the first and last of the questions, if these may go on.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    right: Counter[int] = field(default_factory=Counter)
    tokens: Counter[int] = field(default_factory=Counter)
    questions: list[str] = field(default_factory=list)
    covered: int = 0
    lines: list[bytes] = field(default_factory=list)
    ends: list[list[Row]] = field(default_factory=list)

    def of(self, teacher: str) -> Counter[str]:
        """The counts of one."""
        if (counts := self.counts.get(teacher)) is None:
            counts = self.counts[teacher] = Counter()
        return counts

    def add(self, other: Part) -> None:
        """Count what another came to."""
        for teacher, counts in other.counts.items():
            self.of(teacher).update(counts)
        self.right.update(other.right)
        self.tokens.update(other.tokens)
        self.covered += other.covered


class Choice:
    """What was kept of one question so far, and so why the next is dropped, if it is."""

    def __init__(self, config: CurateConfig) -> None:
        self.kept = 0
        self._compared, self._most = config.dedup != "off", config.per_question
        self._seen = set[object]()

    def __call__(self, same: object) -> str | None:
        if self._compared and same in self._seen:
            return "duplicate"
        if 0 < self._most <= self.kept:
            return "over_per_question"
        if self._compared:
            self._seen.add(same)
        self.kept += 1
        return None


def choose(looks: Sequence[Look], config: CurateConfig) -> list[str | None]:
    """Why each rationale of a question is dropped: for itself, or beside the others; None: it is kept."""
    reasons = [look.reason for look in looks]
    order = [i for i, reason in enumerate(reasons) if reason is None]
    if config.prefer == "short":
        order.sort(key=lambda i: len(looks[i].folded))
    choice = Choice(config)
    for i in order:
        folded = looks[i].folded
        reasons[i] = choice((config.dedup == "equations" and equations(folded)) or folded)
    return reasons


def digests(look: Look, config: CurateConfig) -> tuple[bytes, bytes]:
    """`same` and `right` of a Row."""
    correct = look.judged[1] == "correct"
    words = _digest(look.folded) if look.folded and (correct or look.reason is None) else b""
    same = words if look.reason is None else b""
    if same and config.dedup == "equations" and (found := equations(look.folded)):
        same = _digest("\0".join(found), b"equations")  # no text is the same as these
    return same, words if correct else b""


def _digest(text: str, kind: bytes = b"") -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind).digest()


class Pieces:
    """A question whose generations come piece by piece; what is kept is written as soon as that is known.

    The shortest are known at the end only: until then the lines wait in the file `spill`.
    """

    def __init__(self, config: CurateConfig, whole: Part, out: BinaryIO, spill: IO[bytes]) -> None:
        self.question_id: str | None = None
        self._config, self._short = config, config.prefer == "short"
        self._whole, self._out, self._spill = whole, out, spill

    def add(self, question_id: str, rows: Iterable[Row]) -> None:
        """More of a question: of the one before, or of the next."""
        if question_id != self.question_id:
            self._begin(question_id)
        for teacher, sample, same, right, length, line in rows:
            if right and right not in self._right:
                self._right.add(right)
                self._whole.right[sample] += 1
            if same and self._short:
                self._lengths.append(length)
                self._same.append(same)
                self._teachers.append(teacher)
                self._spill.write(line)
            elif same:
                self._settle(teacher, line, self._choice(same))

    def _begin(self, question_id: str) -> None:
        self.end()
        self.question_id = question_id
        self._choice, self._right = Choice(self._config), set[bytes]()
        # Of each that waits, in the order of its line in the file:
        self._lengths, self._same, self._teachers = array("q"), list[bytes](), list[str]()
        self._spill.seek(0)

    def end(self) -> None:
        """No more of the question, if there was one."""
        if self.question_id is None:
            return
        self.question_id = None
        reasons: list[str | None] = [None] * len(self._lengths)
        for i in sorted(range(len(reasons)), key=self._lengths.__getitem__):
            reasons[i] = self._choice(self._same[i])
        self._spill.seek(0)
        for teacher, reason in zip(self._teachers, reasons, strict=True):
            self._settle(teacher, self._spill.readline(), reason)
        self._whole.covered += self._choice.kept > 0

    def _settle(self, teacher: str, line: bytes, reason: str | None) -> None:
        self._whole.of(teacher)[reason or "kept"] += 1
        if reason is None:
            self._out.write(line)


def gather(parts: Iterable[Part], config: CurateConfig, out: BinaryIO, folder: Path) -> Part:
    """Write the pairs of all parts, which come in order; returns all but these.

    Lines that wait for others do so in a file in `folder`, which has no name. Raises `DataError` if the generations
    of a question do not stand together.
    """
    whole, met = Part(), set[str]()
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder)) as spill:
        pieces = Pieces(config, whole, out, spill)
        for part in parts:
            whole.add(part)
            goes_on = part.questions[:1] == [pieces.question_id]
            _meet(part.questions[goes_on:], met)
            if not part.questions:
                continue
            if part.ends:
                pieces.add(part.questions[0], part.ends[0])
            if len(part.ends) != 1:
                pieces.end()
                out.writelines(part.lines)
            if len(part.ends) == 2:
                pieces.add(part.questions[-1], part.ends[1])
        pieces.end()
    return whole


def _meet(questions: Iterable[str], met: set[str]) -> None:
    for question_id in questions:
        if question_id in met:
            raise DataError(
                f"the generations of question {question_id!r} do not stand together.\n"
                "Sort them by question: duplicates and limits are counted within one."
            )
        met.add(question_id)
