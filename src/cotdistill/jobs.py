"""What is wanted of a question: which samples to ask for, given those that are there.

work = Work(job, question)
look([work], store)
work.next_samples()      # (2, 3): those that are missing, and could all be needed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from cotdistill.completions import Completion, Pool, canonical, hash_of
from cotdistill.methods import Method
from cotdistill.records import Generation, Question
from cotdistill.store import Store


class Until(NamedTuple):
    """When a question has been asked enough: at `enough` distinct right rationales.

    `right` gives what makes a rationale distinct, None where it is not right. With `sparing` a question
    is asked for one sample at a time until one is right, and those with few right ones come first: for a
    budget that may not suffice.
    """

    enough: int
    right: Callable[[Question, Generation], str | None]
    sparing: bool = False


@dataclass(frozen=True)
class Job:
    """How questions are asked: `n` samples of a method's first prompt, each followed by its second."""

    method: Method
    n: int
    first: Pool
    second: Pool
    until: Until | None = None

    @cached_property
    def id(self) -> bytes:
        return hash_of(canonical([self.first.model, self.first.params, self.second.params, self.cue]).encode())

    @property
    def cue(self) -> str | None:
        return self.method.answer_cue

    @property
    def steps(self) -> int:
        """Completions a sample."""
        return 2 if self.cue else 1


def second_prompt(method: Method, first: tuple[str, ...], text: str) -> tuple[str, ...]:
    """The prompt that asks for the answer after `text`, which the `first` prompt brought."""
    # It holds the sampled text already, so one greedy answer a prompt is enough: sample 0.
    return (*first, text, method.answer_cue or "")


@dataclass(slots=True)
class Work:
    """A question while it is asked: its completions by sample, and how many are on their way."""

    job: Job
    question: Question
    position: int = 0
    prompt: tuple[str, ...] = ()
    key: bytes = b""
    texts: dict[int, Completion] = field(default_factory=dict)
    answers: dict[int, Completion] = field(default_factory=dict)
    rights: dict[int, str | None] = field(default_factory=dict)
    coming: int = 0
    counted: int = 0
    level: int = 0  # distinct right rationales when it was taken up
    parked: bool = False  # it waits for questions with fewer

    def __post_init__(self) -> None:
        if not self.prompt:
            self.prompt = (self.job.method.prompt(self.question),)
            self.key = self.job.first.key(self.prompt)

    def answer_prompt(self, sample: int) -> tuple[str, ...]:
        return second_prompt(self.job.method, self.prompt, self.texts[sample].text)

    def answer_key(self, sample: int) -> bytes:
        return self.job.second.key(self.answer_prompt(sample))

    def unanswered(self) -> list[tuple[int, bytes]]:
        """Samples whose second prompt has no answer, each with the prompt's key."""
        if not self.job.cue:
            return []
        wanted = (s for s, c in self.texts.items() if s not in self.answers and c.finish_reason != "error")
        return [(sample, self.answer_key(sample)) for sample in wanted]

    def generation(self, sample: int) -> Generation | None:
        """What there is of a sample; None where it is not done."""
        text, answer = self.texts.get(sample), self.answers.get(sample)
        if text is None or (self.job.cue and answer is None and text.finish_reason != "error"):
            return None
        return _generation(self.question, sample, text, answer)

    def right(self, sample: int) -> str | None:
        """What makes a right rationale distinct; None for one that is wrong, failed or not there."""
        if self.job.until is None:
            return None
        if sample not in self.rights:
            generation = self.generation(sample)
            if generation is None:
                return None
            failed = generation.finish_reason == "error"
            self.rights[sample] = None if failed else self.job.until.right(self.question, generation)
        return self.rights[sample]

    def rights_found(self) -> int:
        """How many distinct right rationales there are, of a job that asks until there are enough."""
        return len({self.right(sample) for sample in self.texts} - {None})

    def next_samples(self) -> tuple[int, ...]:
        """The samples to ask for now: no more than could all be needed."""
        if len(self.texts) == self.job.n:
            return ()
        if (until := self.job.until) is None:
            return tuple(s for s in range(self.job.n) if s not in self.texts)
        found: set[str] = set()
        ask: list[int] = []
        for sample in range(self.job.n):
            if len(found) + len(ask) >= until.enough or (until.sparing and ask and not found):
                break
            if sample not in self.texts:
                ask.append(sample)
            elif (distinct := self.right(sample)) is not None:
                found.add(distinct)
        return tuple(ask)

    def generations(self) -> list[Generation]:
        """In order of their samples, up to where there were enough."""
        found: set[str] = set()
        done = []
        for sample in range(self.job.n):
            if self.job.until and len(found) >= self.job.until.enough:
                break
            if (generation := self.generation(sample)) is None:
                continue
            done.append(generation)
            if (distinct := self.right(sample)) is not None:
                found.add(distinct)
        return done


def finished(job: Job, store: Store) -> set[bytes]:
    """The keys of a job's questions of which nothing need be read or asked."""
    if job.until:
        return set()
    # A second prompt is found by its first's text only: so a question with two is marked when it is done.
    return store.finished(job.id, job.n) if job.cue else store.full(job.first, job.n)


def look(works: Sequence[Work], store: Store) -> None:
    """Take what is stored of the first prompts, and of the second after each text."""
    found = store.samples_of([work.key for work in works])
    for work in works:
        work.texts = {sample: text for sample, text in found.get(work.key, {}).items() if sample < work.job.n}
    wanted = [(work, sample, key) for work in works for sample, key in work.unanswered()]
    answers = store.samples_of([key for *_, key in wanted]) if wanted else {}
    for work, sample, key in wanted:
        if key in answers:
            work.answers[sample] = answers[key][0]


def _generation(question: Question, index: int, text: Completion, answer: Completion | None) -> Generation:
    failed = text if text.finish_reason == "error" else answer if answer and answer.finish_reason == "error" else None
    return Generation(
        question.id,
        index,
        text.text,
        answer.text if answer else None,
        "error" if failed else text.finish_reason,
        text.prompt_tokens + (answer.prompt_tokens if answer else 0),
        text.completion_tokens + (answer.completion_tokens if answer else 0),
        failed.error if failed else "",
    )
