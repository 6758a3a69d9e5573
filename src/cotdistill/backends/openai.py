"""Any server that speaks the OpenAI wire format: vLLM, SGLang, llama.cpp, Ollama, hosted APIs.

    backend = OpenAIBackend("qwen3-32b", "http://localhost:8000/v1")
    for request, sample, completion in backend.generate(iter(requests)): ...

The generator drives an event loop of its own: while the caller has the word, nothing runs. Several
samples of a prompt go out as one request where the server honours `n`.
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager

from cotdistill.backends.flight import SOME, Flight, Result
from cotdistill.backends.loops import first_interrupt, own_loop
from cotdistill.backends.remote import Api, Remote
from cotdistill.backends.wire import EMPTY
from cotdistill.budget import Budget, Price
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError

OBJECTS_A_COLLECTION = 20_000


class OpenAIBackend(Remote):
    """A model behind an OpenAI-compatible server, asked as fast as it answers, within `limits`."""

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str = "",
        api: Api = "chat",
        system: str = "",
        limits: LimitsConfig = LimitsConfig(),  # noqa: B008 - frozen
        budget: Budget | None = None,
        price: Price | None = None,
    ) -> None:
        super().__init__(model, base_url, api_key, api, system, budget, price)
        self.limits = limits
        self.answered = 0  # replies with a completion, of all calls
        self.turns = set[int]()  # of prompts that were answered: then a refusal of such a one is no fault of the config

    def check(self) -> str:
        """Ask for a few tokens, once; returns how it went, such as "200 OK in 0.12 s"."""
        once = copy.copy(self)
        once.limits = self.limits.model_copy(update={"retries": 0})
        start = time.monotonic()
        ((_, _, completion),) = once.generate(iter([Request(("Say hi.",), SamplingParams(8))]))
        # A thinking model may spend so few tokens before its first word.
        if completion.finish_reason == "error" and not completion.error.startswith(EMPTY):
            raise BackendError(f"{self.endpoint}: {completion.error}\nCheck the server and teacher.model.")
        return f"200 OK in {time.monotonic() - start:.2f} s"

    def generate(self, requests: Iterator[Request | None]) -> Generator[Result, None, None]:
        """Close the generator to cancel what is in flight; that leaves no task and no connection.

        A Ctrl-C, a spent budget and an error of every request end in the same way: nothing new is
        asked, what is in flight is yielded, and then it is raised. A second Ctrl-C does not wait.
        """
        with _fewer_collections(), own_loop() as (loop, run):
            flight = Flight(self, loop)
            try:
                with first_interrupt(flight.interrupt):
                    run(flight.open())
                    while flight.fill(requests) or flight.tasks or flight.done:
                        run(flight.something())
                        for _ in range(min(len(flight.done), SOME)):
                            yield from flight.done.popleft()
                    if flight.stopped is not None:
                        raise flight.stopped
                    if flight.spent is not None:
                        raise self.budget.reached(flight.spent)
            finally:
                run(flight.close())


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for garbage in cycles less often: a request is hundreds of objects, hardly any in one."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_A_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
