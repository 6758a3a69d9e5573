"""Asking: each completion is paid for once, whatever fails in between."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError
from cotdistill.generate import UNSAVED
from cotdistill.generate import generate as generate_all
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question
from cotdistill.store import Mark, Row, Store
from servers import start_server

QUESTIONS = [Question(str(i), f"What is {i} plus 1?", str(i + 1)) for i in range(5)]
COT = METHODS["zero_shot_cot"]


def generate(*arguments: Any, **options: Any) -> list[Generation]:
    return list(generate_all(*arguments, **options))


def reply(prompt: tuple[str, ...], sample: int) -> Completion:
    """A rationale that begins with an empty line, or the answer."""
    text = f"\n\nThink {sample}." if len(prompt) == 1 else " 7."
    return Completion(text, "stop", 10, 2)


class Scripted:
    """Answers by rule, what came last first, and counts what it was asked."""

    identity: Mapping[str, str] = {"model": "scripted"}

    def __init__(self, answer: Callable[[tuple[str, ...], int], Completion] = reply) -> None:
        self.answer = answer
        self.asked: Counter[tuple[tuple[str, ...], int, SamplingParams]] = Counter()

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        while waiting := list(iter(lambda: next(requests, None), None)):
            for request in reversed(waiting):
                for sample in reversed(request.samples):
                    self.asked[request.prompt, sample, request.params] += 1
                    yield request, sample, self.answer(request.prompt, sample)


@pytest.fixture
def store(tmp_path: Path) -> Generator[Store, None, None]:
    with Store(tmp_path / "s.sqlite") as store:
        yield store


def test_both_prompts_and_the_order(store: Store) -> None:
    backend = Scripted()
    done: list[tuple[int, int]] = []
    generations = generate(
        QUESTIONS, backend, COT, store, n=2, temperature=0.7, stop=("Q:",), progress=lambda *p: done.append(p)
    )
    assert generations == [
        Generation(q.id, i, f"\n\nThink {i}.", " 7.", "stop", 20, 4) for q in QUESTIONS for i in range(2)
    ]
    first, second = SamplingParams(128, 0.7, stop=("Q:",)), SamplingParams(32, stop=("Q:",))
    expected: list[tuple[tuple[str, ...], int, SamplingParams]] = []
    for question in QUESTIONS:
        prompt = f"Q: {question.text}\nA: Let's think step by step."
        for i in range(2):
            expected.append(((prompt,), i, first))
            # The raw text goes into the second prompt, leading lines and all.
            expected.append(((prompt, f"\n\nThink {i}.", "\nTherefore, the answer is"), 0, second))
    assert backend.asked == Counter(expected)
    assert done == sorted(done)
    assert done[-1] == (20, 20)


def test_one_prompt_methods(store: Store) -> None:
    backend = Scripted()
    (generation,) = generate(QUESTIONS[:1], backend, METHODS["fine_tune_cot"], store, max_tokens=9)
    assert generation == Generation("0", 0, "\n\nThink 0.", None, "stop", 10, 2)
    assert [*backend.asked] == [(("What is 0 plus 1? ###",), 0, SamplingParams(9, stop=(" END",)))]


def test_only_what_is_missing_is_asked(store: Store) -> None:
    backend = Scripted()
    one = generate(QUESTIONS, backend, COT, store, n=1, temperature=0.7)
    assert backend.asked.total() == 10
    two = generate(QUESTIONS, backend, COT, store, n=2, temperature=0.7)
    assert backend.asked.total() == 20
    assert [g for g in two if g.index == 0] == one
    assert generate(QUESTIONS, backend, COT, store, n=2, temperature=0.7) == two
    assert generate(QUESTIONS[3:1:-1], backend, COT, store, n=1, temperature=0.7) == [one[3], one[2]]
    assert backend.asked.total() == 20
    generate(QUESTIONS, backend, COT, store, n=1, temperature=0.7, seed=1)
    assert backend.asked.total() == 25  # another pool; the same texts need no other answers


def test_equal_requests_are_asked_once(store: Store) -> None:
    """Of two questions of one text, and for the answer after two equal texts."""
    backend = Scripted(lambda prompt, sample: Completion("Think." if len(prompt) == 1 else " 7.", "stop"))
    twice = [QUESTIONS[0], QUESTIONS[1], Question("again", QUESTIONS[0].text, "1")]
    generations = generate(twice, backend, COT, store, n=2, temperature=0.7)
    assert [(g.question_id, g.index, g.answer_text) for g in generations] == [
        (id, i, " 7.") for id in ("0", "1", "again") for i in range(2)
    ]
    assert max(backend.asked.values()) == 1
    assert backend.asked.total() == 2 * 2 + 2
    assert generate([], backend, COT, store) == []


@pytest.mark.parametrize("turns", [1, 3])
def test_error_is_not_stored_and_asked_again(store: Store, turns: int) -> None:
    def fail(prompt: tuple[str, ...], sample: int) -> Completion:
        failed = len(prompt) == turns and "What is 2" in prompt[0]
        return Completion("", "error", error="too long") if failed else reply(prompt, sample)

    failing, working = Scripted(fail), Scripted()
    generations = generate(QUESTIONS, failing, COT, store)
    assert [g.finish_reason for g in generations] == ["stop", "stop", "error", "stop", "stop"]
    assert generations[2].error == "too long"
    assert len(store) == failing.asked.total() - 1
    assert max(failing.asked.values()) == 1
    again = generate(QUESTIONS, working, COT, store)
    assert {g.finish_reason for g in again} == {"stop"}
    assert working.asked.total() == (2 if turns == 1 else 1)


@pytest.mark.parametrize("error", [BackendError("gone"), KeyboardInterrupt()], ids=repr)
def test_what_was_yielded_before_a_failure_is_kept(store: Store, error: BaseException) -> None:
    def fail(prompt: tuple[str, ...], sample: int) -> Completion:
        if "What is 1" in prompt[0]:
            raise error
        return reply(prompt, sample)

    with pytest.raises(type(error)):
        generate(QUESTIONS, Scripted(fail), METHODS["zero_shot"], store)
    assert len(store) == 3
    with Store(store.path) as another:  # nothing stays claimed
        backend = Scripted()
        generate(QUESTIONS, backend, METHODS["zero_shot"], another)
        assert backend.asked.total() == 2


class Together:
    """Brings all samples of a request in one reply, of which the rest never comes after `most` samples."""

    identity: Mapping[str, str] = {"model": "together"}

    def __init__(self, most: int) -> None:
        self.most = most

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        waiting = list(itertools.islice(iter(lambda: next(requests, None), None), 100))
        for number, (request, sample) in enumerate((r, s) for r in waiting for s in r.samples):
            if number == self.most:
                raise KeyboardInterrupt
            yield request, sample, Completion(f"{sample}", "stop")


@pytest.mark.parametrize("most", [1, 3, 4, 7, 299])
def test_what_was_yielded_last_is_stored_however_it_ends(store: Store, most: int) -> None:
    questions = [Question(str(i), f"What is {i}?", "1") for i in range(100)]
    with pytest.raises(KeyboardInterrupt):
        generate(questions, Together(most), METHODS["zero_shot"], store, n=3, temperature=0.7)
    assert len(store) == most


class Lazy(Scripted):
    """Breaks the contract: yields fewer than it was asked."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        some = list(itertools.islice(requests, 100))
        yield from super().generate(iter(some[: self.most]))


def test_backend_that_yields_too_few(store: Store) -> None:
    backend = Lazy(2)
    assert len(generate(QUESTIONS, backend, METHODS["zero_shot"], store)) == 5
    assert backend.asked.total() == 5
    with pytest.raises(BackendError, match="Lazy returned nothing for 5 requests"):
        generate(QUESTIONS, Lazy(0), COT, store)


def test_scripted_and_real_backends_give_the_same_kind_of_thing(store: Store) -> None:
    with start_server() as server:
        backend = OpenAIBackend("fake", server.base_url)
        generations = generate(QUESTIONS, backend, COT, store)
    assert [(g.text, g.answer_text) for g in generations] == [
        (f" {i} plus 1 is {i} + 1 = {i + 1}.", f" {i + 1}.") for i in range(5)
    ]


class Watched(Store):
    """Notes the lots that are handed to the writer."""

    lots: list[list[Row | Mark]]

    @contextmanager
    def writer(self, *args: Any, **kwargs: Any) -> Iterator[Callable[[Sequence[Row | Mark]], None]]:
        self.lots = []
        with super().writer(*args, **kwargs) as write:

            def put(items: Sequence[Row | Mark]) -> None:
                self.lots.append([*items])
                write(items)

            yield put


class Held(Store):
    """Lets nothing reach the disk before somebody waits for it."""

    @contextmanager
    def writer(self, *args: Any, **kwargs: Any) -> Iterator[Callable[[Sequence[Row | Mark]], None]]:
        held: list[Row | Mark] = []
        with super().writer(*args, **kwargs) as write:

            def put(items: Sequence[Row | Mark]) -> None:
                held.extend(items)
                if not items:  # what waits for the disk hands over nothing
                    write(held[:])
                    held.clear()

            yield put
            write(held)


def test_a_reply_s_samples_are_stored_as_one(tmp_path: Path) -> None:
    """Else a kill between two of them leaves one to be asked for alone, which is another text."""
    questions = [Question(str(i), f"What is {i} plus 1?", str(i + 1)) for i in range(60)]
    watched = Watched(tmp_path / "s.sqlite")
    with start_server() as server, watched:
        backend = OpenAIBackend("fake", server.base_url, limits=LimitsConfig(concurrency=40))
        generate(questions, backend, METHODS["zero_shot"], watched, n=5, temperature=0.7)
        assert server.stats()["requests"] == 60
    together = [Counter(item.key for item in lot if isinstance(item, Row)) for lot in watched.lots]
    assert {count for lot in together for count in lot.values()} == {5}
    assert sum(map(len, together)) == 60


def test_no_more_is_asked_than_the_disk_keeps_up_with(tmp_path: Path) -> None:
    """What is paid and not yet stored is lost to a kill: there may be so much of it, and then asking waits."""
    held, most = Held(tmp_path / "s.sqlite"), 0

    class Instant(Together):
        def generate(
            self, requests: Iterator[Request | None]
        ) -> Generator[tuple[Request, int, Completion], None, None]:
            nonlocal most
            paid = 0
            for request in requests:
                if request is not None:
                    most = max(most, paid - len(held))
                    paid += 1
                    yield request, 0, Completion("1", "stop")

    questions = [Question(str(i), f"What is {i}?", "1") for i in range(2000)]
    with held:
        generate(questions, Instant(0), METHODS["zero_shot"], held)
        assert len(held) == 2000
    assert 0 < most <= 2 * UNSAVED
