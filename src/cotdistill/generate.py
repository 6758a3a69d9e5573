"""Ask each question n times through a backend and a method; never ask for what is stored.

    generations = generate(questions, backend, METHODS["zero_shot_cot"], store, n=8, temperature=0.7)

One function writes teachers' rationales and students' predictions. What is in the store is read,
only the rest is asked for, and each completion is committed before it counts. A question goes its own
way: the second prompt leaves as soon as the first's text is there, and what is held in memory is
what is in flight.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

from cotdistill.backends import Backend
from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.errors import BackendError, DataError
from cotdistill.jobs import Job, Until, Work, finished, look
from cotdistill.methods import Method
from cotdistill.progress import say
from cotdistill.records import Generation, Question
from cotdistill.store import Mark, Row, Store

POLL_SECONDS = 0.5  # how often to look for what another process is buying
COMMIT_SECONDS = 0.001
MANY = 32  # requests in flight: another completion comes at once
UNSAVED = 512  # completions that may wait for the disk, besides as many as are in flight
AT_ONCE = 32  # questions taken up together, for one look into the store, and completions stored
SAME_TEXTS = 8  # questions whose samples are all one text, and none otherwise: the server does not sample

Progress = Callable[[int, int], None]  # done, of how many


def generate(
    questions: Sequence[Question],
    backend: Backend,
    method: Method,
    store: Store,
    n: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int | None = None,
    stop: tuple[str, ...] = (),
    seed: int = 0,
    until: Until | None = None,
    progress: Progress | None = None,
) -> Iterator[Generation]:
    """Ask each question `n` times, and then read its n generations from the store, in order.

    All is asked when this returns; reading is what is left to the iterator. The second prompt, where the
    method has one, holds the first's raw text and is asked at temperature 0 (paper, section 3, and the
    authors' code). A sample that fails for good comes back as a generation of finish reason "error" and
    is asked again by the next run. Raises what the backend raises, with all that was answered stored.
    """
    first = first_params(method, max_tokens, temperature, top_p, stop, seed)
    job = make_job(backend, method, first, n, until)
    ask(job, questions, backend, store, progress)
    return read(job, questions, store)


def make_job(backend: Backend, method: Method, first: SamplingParams, n: int = 1, until: Until | None = None) -> Job:
    """How a backend's model is asked: `n` samples of the first prompt by `first`, the second greedily."""
    second = second_params(method, first)
    return Job(method, n, Pool(backend.identity, first), Pool(backend.identity, second), until)


def ask(
    job: Job, questions: Sequence[Question], backend: Backend, store: Store, progress: Progress | None = None
) -> None:
    """Ask for what is missing of a job; all of it is in the store when this returns."""
    _Asking(job, questions, store, progress or (lambda done, total: None)).run(backend)


def first_params(
    method: Method,
    max_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: tuple[str, ...] = (),
    seed: int = 0,
) -> SamplingParams:
    """How the first prompt is sampled."""
    # float: 0 and 0.0 are one temperature, and must be one key.
    return SamplingParams(max_tokens or method.max_tokens, float(temperature), float(top_p), method.stop + stop, seed)


def second_params(method: Method, first: SamplingParams) -> SamplingParams:
    """How the second prompt is sampled: greedily, and to the same stops."""
    return SamplingParams(method.answer_tokens, stop=first.stop)


def read(job: Job, questions: Sequence[Question], store: Store, partial: bool = False) -> Iterator[Generation]:
    """The generations of a job from the store, question by question; `partial`: as far as they go.

    Raises `DataError` for a sample that is neither stored nor known to have failed.
    """
    for start in range(0, len(questions), AT_ONCE):
        works = [Work(job, question) for question in questions[start : start + AT_ONCE]]
        look(works, store)
        for work in works:
            if len(work.texts) == job.n and not job.until and not job.cue:
                yield from work.generations()
                continue
            missing = work.next_samples()
            for sample, error in store.failures(work.key).items() if missing else ():
                work.texts.setdefault(sample, Completion("", "error", error=error))
            for sample, key in work.unanswered():
                if (failed := store.failures(key).get(0)) is not None:
                    work.answers[sample] = Completion("", "error", error=failed)
            if not partial and (work.next_samples() or work.unanswered()):
                store.forget_finished(job.id)
                raise DataError(
                    f"{store.path}: completions of question {work.question.id!r} are gone.\nRun it again to buy them."
                )
            yield from work.generations()


class _Asking:
    """The questions of one job on their way: those to come, those in flight, those that wait."""

    def __init__(self, job: Job, questions: Sequence[Question], store: Store, advance: Progress) -> None:
        self.job, self.questions, self.store, self.advance = job, questions, store, advance
        self.fresh = iter(range(len(questions)))
        self.finished = finished(job, store)
        self.ready: deque[Request] = deque()  # second prompts and further samples, before new questions
        self.asked: dict[Request, list[tuple[Work, int]]] = {}  # who waits for it, with their sample
        self.answering: dict[bytes, Request] = {}  # second prompts in flight, by key
        self.busy: dict[bytes, Work] = {}  # claimed, until all of it is committed
        self.later: deque[int] = deque()  # another process, or an equal question, is at it
        self.parked: list[deque[int]] = [deque() for _ in range(job.until.enough if job.until else 0)]
        self.committed: deque[Row | Mark] = deque()  # by the writer's thread
        self.outbox: list[Row | Mark] = []  # for it
        self.unsaved = 0  # completions that are not on the disk
        self.most_in_flight = 0  # requests at once
        self.done, self.total = 0, len(questions) * job.n * job.steps
        self.same = self.different = 0
        self.failed, self.why = 0, ""  # completions, and the first's reason
        self.known = set[str]()  # sampling parameters that this model has answered to before

    def run(self, backend: Backend) -> None:
        """Ask for all that is missing."""
        self.known = set(self.store.params(backend.identity))
        try:
            with self.store.writer(self.committed.extend) as self.write:
                yielded = 1
                while yielded:
                    yielded = 0
                    try:
                        with closing(backend.generate(self.requests())) as stream:
                            for request, sample, completion in stream:
                                yielded += 1
                                self.take(request, sample, completion)
                    finally:
                        self.flush()
                    if not self.asked:
                        return
                    self.ask_again()
                raise BackendError(
                    f"{type(backend).__name__} returned nothing for {len(self.asked)} requests.\n"
                    "A backend must yield a completion for each sample, of finish reason 'error' where it has none."
                )
        finally:
            self.store.unclaim(self.busy)
            self.say_failures()

    def requests(self) -> Iterator[Request | None]:
        """What to ask next; None where only what is in flight can bring more."""
        while True:
            if self.outbox or self.committed:
                self.settle()
            in_flight = len(self.asked) - len(self.ready)
            self.most_in_flight = max(self.most_in_flight, in_flight)
            if self.unsaved > self.most_in_flight + UNSAVED:  # a kill would lose so many that are paid
                if in_flight:
                    yield None
                else:
                    self.wait_for_disk()
            elif self.ready:
                yield self.ready.popleft()
            elif some := self.next_positions():
                self.start(some)
            elif self.asked:
                yield None
            elif self.busy:
                self.wait_for_disk()
            elif self.later:
                self.later, again = deque(), self.later
                self.start(again)
                if len(self.later) == len(again):
                    time.sleep(POLL_SECONDS)
            else:
                return

    def wait_for_disk(self) -> None:
        self.write([])  # else nobody hears that it is full
        time.sleep(COMMIT_SECONDS)

    def next_positions(self) -> list[int]:
        """Some questions to take up: new ones, or those with the fewest right rationales."""
        if some := list(islice(self.fresh, AT_ONCE)):
            return some
        queue = next((queue for queue in self.parked if queue), deque[int]())
        return [queue.popleft() for _ in range(min(AT_ONCE, len(queue)))]

    def start(self, positions: Iterable[int]) -> None:
        """Take up questions, but for those that are done, or that another process or an equal one is at."""
        some: list[Work] = []
        for position in positions:
            question = self.questions[position]
            prompt = (self.job.method.prompt(question),)
            key = self.job.first.key(prompt)
            if key in self.finished:
                self.count(self.job.n * self.job.steps)
            elif key in self.busy:
                self.later.append(position)
            else:
                self.busy[key] = work = Work(self.job, question, position, prompt, key)
                some.append(work)
        claimed = self.store.claim([work.key for work in some])
        for work in some:
            if work.key not in claimed:
                del self.busy[work.key]
                self.later.append(work.position)
        mine = [work for work in some if work.key in claimed]
        look(mine, self.store)  # claimed first: another may have bought it until then
        for work in mine:
            if work.texts:
                self.count(len(work.texts) + len(work.answers), work)
                for sample, key in work.unanswered():
                    self.ask_answer(work, sample, key)
                work.level = work.rights_found()
            self.go_on(work)

    def go_on(self, work: Work) -> None:
        """Ask for further samples; where nothing of the question is on its way, end or park it."""
        if work.coming:
            return
        samples = work.next_samples()
        if samples and self.job.until and self.job.until.sparing and work.rights_found() > work.level:
            work.parked = True  # those with fewer come first
            self.outbox.append(Mark(self.job.id, work.key, 0))
        elif samples:
            follow_up = self.job.second.sampling.max_tokens if self.job.cue else 0
            request = Request(work.prompt, self.job.first.sampling, samples, follow_up, self.is_known(self.job.first))
            self.ask(request, [(work, sample) for sample in samples])
        else:
            self.end(work)

    def end(self, work: Work) -> None:
        marked = 0
        if self.job.cue and not self.job.until:
            failed = any(c.finish_reason == "error" for c in (*work.texts.values(), *work.answers.values()))
            marked = 0 if failed else self.job.n
        self.outbox.append(Mark(self.job.id, work.key, marked))
        self.count(self.job.n * self.job.steps - work.counted, work)
        if len(work.texts) > 1 and self.job.first.sampling.temperature > 0:
            texts = [c.text for c in work.texts.values() if c.finish_reason != "error"]
            if len(texts) > 1:
                self.note_sampling(len(set(texts)) == 1)

    def ask(self, request: Request, who: list[tuple[Work, int]]) -> None:
        self.asked[request] = who
        self.ready.append(request)
        for work, _ in who:
            work.coming += 1

    def ask_again(self) -> None:
        """Put back what a backend left out."""
        left, self.asked = self.asked, {}
        for request, who in left.items():
            if len(request.prompt) == 1:
                request = replace(request, samples=tuple(sample for _, sample in who))
            self.asked[request] = who
            self.ready.append(request)

    def ask_answer(self, work: Work, sample: int, key: bytes) -> None:
        """Ask for the answer after a text, once for equal texts."""
        if (request := self.answering.get(key)) is not None:
            self.asked[request].append((work, sample))
            work.coming += 1
        elif found := self.store.samples(key):
            work.answers[sample] = found[0]
            self.count(1, work)
        else:
            second = self.job.second
            request = Request(work.answer_prompt(sample), second.sampling, known=self.is_known(second))
            self.answering[key] = request
            self.ask(request, [(work, sample)])

    def take(self, request: Request, sample: int, completion: Completion) -> None:
        """Store a completion, and let those who waited for it go on."""
        second = len(request.prompt) > 1
        key = self.job.second.key(request.prompt) if second else self.asked[request][0][0].key
        self.unsaved += 1
        if completion.finish_reason == "error":
            self.failed += 1
            self.why = self.why or completion.error
        self.outbox.append(Row(self.job.second if second else self.job.first, key, request.prompt, sample, completion))
        if second:
            waiting = self.asked.pop(request)
            del self.answering[key]
        elif len(self.asked[request]) == 1:
            waiting = self.asked.pop(request)
        else:
            waiting = [pair for pair in self.asked[request] if pair[1] == sample]
            self.asked[request] = [pair for pair in self.asked[request] if pair[1] != sample]
        for work, its_sample in waiting:
            work.coming -= 1
            (work.answers if second else work.texts)[its_sample] = completion
            self.count(1, work)
            if not second and self.job.cue and completion.finish_reason != "error":
                self.ask_answer(work, its_sample, work.answer_key(its_sample))
            self.go_on(work)
        # One reply's samples are stored as one: asked for alone, the rest of a half would be other texts. More of it
        # may come at once; if not, the next look for requests stores what there is.
        if request not in self.asked and (len(self.outbox) >= AT_ONCE or len(self.asked) < MANY):
            self.flush()

    def settle(self) -> None:
        """What is marked and on the disk is done with: another process may have its question."""
        self.flush()
        ended = []
        while self.committed:
            item = self.committed.popleft()
            if isinstance(item, Mark):
                ended.append(item.key)
            else:
                self.unsaved -= 1
        if ended:
            self.store.unclaim(ended)
        for key in ended:
            work = self.busy.pop(key)
            if work.parked:
                self.parked[work.rights_found()].append(work.position)

    def flush(self) -> None:
        if self.outbox:
            self.write(self.outbox)
            self.outbox = []

    def count(self, more: int, work: Work | None = None) -> None:
        if work is not None:
            work.counted += more
        self.done += more
        self.advance(self.done, self.total)

    def is_known(self, pool: Pool) -> bool:
        return pool.params in self.known

    def say_failures(self) -> None:
        if self.failed:
            say(f"warning: {self.failed} completions failed; the next run asks for them again. The first: {self.why}")

    def note_sampling(self, same: bool) -> None:
        self.same, self.different = self.same + same, self.different + (not same)
        if self.same == SAME_TEXTS and not self.different:
            say(
                f"warning: all samples of each of {SAME_TEXTS} questions are one text, at temperature "
                f"{self.job.first.sampling.temperature:g}: the server seems to ignore seed or temperature. "
                "`cotdistill doctor` looks closer."
            )
