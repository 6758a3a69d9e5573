"""A model behind the batch API of an OpenAI-compatible server: a day's wait for half the price.

    backend = BatchBackend("gpt-4.1-mini", "https://api.openai.com/v1", folder / "batches.jsonl", key)
    for request, sample, completion in backend.generate(requests): ...

All that is asked goes into input files, a line a sample; a second prompt goes into a later file. The
journal notes each batch before it is made, so that no run, however it ended, submits a request twice:
the next one waits for the batch that has it. Its completions and those of `OpenAIBackend` are the same
rows of a store.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Literal

from cotdistill.backends.batch_asking import Answer, Asking
from cotdistill.backends.batch_journal import Journal
from cotdistill.backends.batch_server import BatchServer
from cotdistill.backends.loops import own_loop
from cotdistill.backends.wire import checked_key
from cotdistill.budget import Budget, Price
from cotdistill.completions import Request
from cotdistill.errors import ConfigError
from cotdistill.progress import say


class BatchBackend:
    """A model behind a batch API, its batches noted in the file `journal`.

    `timeout` and `retries` are those of one call, `poll_seconds` the first wait for a batch, which grows
    to a minute; a batch has up to `max_requests` lines and `max_bytes`. `budget` is what may be spent,
    `price` what it costs: where it is reached, what is submitted by then is still waited for. Raises what
    `BatchServer` does.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        journal: Path,
        api_key: str = "",
        api: Literal["chat", "completions"] = "chat",
        system: str = "",
        timeout: float = 120,
        retries: int = 6,
        *,
        poll_seconds: float = 5.0,
        max_requests: int = 50_000,
        max_bytes: int = 200_000_000,
        budget: Budget | None = None,
        price: Price | None = None,
    ) -> None:
        if system and api != "chat":
            raise ConfigError("teacher.system: a plain completion has no system message.\nSet teacher.api=chat.")
        self.model = model
        self.system = system
        self.chat = api == "chat"
        path = "/chat/completions" if self.chat else "/completions"
        self.endpoint = base_url.rstrip("/") + path
        self.url = f"/v1{path}"  # as it stands in a batch, whatever the address of the server
        self.journal = journal
        self.poll_seconds = poll_seconds
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.budget = budget or Budget()
        self.price = price or Price(0, 0)
        self.api_key = checked_key(api_key, base_url)
        self.server = BatchServer(base_url, api_key, timeout, retries)

    @property
    def identity(self) -> Mapping[str, str]:
        identity = {"model": self.model, "endpoint": self.endpoint}
        return {**identity, "system": self.system} if self.system else identity

    def generate(self, requests: Iterator[Request | None]) -> Generator[Answer, None, None]:
        """Close the generator, or kill the process, to leave at once: the journal has what is to be had."""
        with own_loop() as (_, run):
            asking = Asking(self, requests, Journal(self.journal), run)
            try:
                yield from asking.run()
            except KeyboardInterrupt:
                if asking.open:
                    say(f"{asking.names()}: the server is at work; the same command takes up the completions.")
                raise
            finally:
                self.budget.save()
                run(self.server.close())
