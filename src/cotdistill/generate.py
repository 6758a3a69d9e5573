"""Ask each question n times through a backend and a method; never ask for what is stored.

    generations = generate(questions, backend, METHODS["zero_shot_cot"], store, n=8, temperature=0.7)

One function writes teachers' rationales and students' predictions. What is in the store is read,
only the rest is asked for, and each completion is committed before it counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict

from cotdistill.backends import Backend
from cotdistill.errors import BackendError
from cotdistill.methods import Method
from cotdistill.records import Generation, Question
from cotdistill.store import Completion, Request, Row, SamplingParams, Store, canonical, identity_text

POLL_SECONDS = 0.5  # how often to look for what another process is buying

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
    progress: Progress | None = None,
) -> list[Generation]:
    """Ask each question `n` times; returns n generations a question, in the order of `questions`.

    The second prompt, where the method has one, holds the first's raw text and is asked at
    temperature 0 (paper, section 3, and the authors' code). A request that fails for good
    comes back as a generation of finish reason "error" and is asked again by the next run.
    """
    asked = [(question, index) for question in questions for index in range(n)]
    total = len(asked) * (2 if method.answer_cue else 1)

    params = first_params(method, max_tokens, temperature, top_p, stop, seed)
    requests = [first_request(method, question, index) for question, index in asked]
    first = complete(requests, backend, params, store, lambda done: progress and progress(done, total))

    answers: list[Completion | None] = [None] * len(asked)
    if method.answer_cue:
        rows = [i for i, completion in enumerate(first) if completion.finish_reason != "error"]
        seconds = [second_request(method, requests[i], first[i].text) for i in rows]
        done_before = total - len(seconds)
        greedy = second_params(method, stop)
        for i, completion in zip(
            rows,
            complete(seconds, backend, greedy, store, lambda done: progress and progress(done_before + done, total)),
            strict=True,
        ):
            answers[i] = completion
    return [
        _generation(question, index, text, answer)
        for (question, index), text, answer in zip(asked, first, answers, strict=True)
    ]


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


def first_request(method: Method, question: Question, index: int) -> Request:
    """Sample `index` of the method's first prompt."""
    return Request((method.prompt(question),), index)


def second_params(method: Method, stop: tuple[str, ...] = ()) -> SamplingParams:
    """How the second prompt is sampled: greedily."""
    return SamplingParams(method.answer_tokens, stop=method.stop + stop)


def second_request(method: Method, first: Request, text: str) -> Request:
    """The prompt that asks for the answer after `text`, which the `first` prompt brought."""
    # It holds the sampled text already, so one greedy answer a prompt is enough: sample 0.
    return Request((*first.prompt, text, method.answer_cue or ""))


def complete(
    requests: Sequence[Request],
    backend: Backend,
    params: SamplingParams,
    store: Store,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Completion]:
    """The completion of each request, from the store or, once, from the backend."""
    model, params_text = identity_text(backend.identity), canonical(asdict(params))
    keys = [request.key(model, params_text) for request in requests]
    wanted = dict(zip(keys, requests, strict=True))
    found = store.read(wanted)
    done = len(requests) - len(wanted)  # equal requests are one row

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done)

    count(len(found))

    while missing := [key for key in wanted if key not in found]:
        claimed = store.claim(missing)
        mine = [key for key in missing if key in claimed]
        if not mine:  # another process is buying all that is left
            time.sleep(POLL_SECONDS)
        try:
            with store.writer(count) as write, closing(backend.generate([wanted[k] for k in mine], params)) as stream:
                for position, completion in stream:
                    key = mine[position]
                    found[key] = completion
                    if completion.finish_reason == "error":
                        count(1)
                    else:
                        write(Row(key, model, params_text, wanted[key], completion))
        finally:
            store.unclaim()
        if mine and not any(key in found for key in mine):
            raise BackendError(
                f"{type(backend).__name__} returned nothing for {len(mine)} requests.\n"
                "A backend must yield a completion for each, of finish reason 'error' where it has none."
            )
        others = store.read(key for key in missing if key not in found)
        found |= others
        count(len(others))
    return [found[key] for key in keys]


def _generation(question: Question, index: int, text: Completion, answer: Completion | None) -> Generation:
    failed = next((c for c in (text, answer) if c and c.finish_reason == "error"), None)
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
