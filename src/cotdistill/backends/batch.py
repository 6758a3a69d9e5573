"""A model behind the batch API of an OpenAI-compatible server: a day's wait for half the price.

    backend = BatchBackend("gpt-4.1-mini", "https://api.openai.com/v1", folder / "batches.jsonl", key)
    for request, sample, completion in backend.generate(requests): ...

All that is asked goes into input files, a line a sample; a second prompt goes into a later file. The
journal notes each batch before it is made, so that no run, however it ended, submits a request twice:
the next one waits for the batch that has it. Its completions and those of `OpenAIBackend` are the same
rows of a store.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

from cotdistill.backends.batch_asking import Answer, Asking
from cotdistill.backends.batch_journal import Journal
from cotdistill.backends.batch_server import BatchServer
from cotdistill.backends.loops import own_loop
from cotdistill.backends.remote import Api, Remote
from cotdistill.budget import Budget, Price
from cotdistill.completions import Request
from cotdistill.config import LimitsConfig
from cotdistill.progress import say


class BatchBackend(Remote):
    """A model behind a batch API, its batches noted in the file `journal`.

    The timeout and the retries of `limits` are those of one call, `poll_seconds` is the first wait for a batch, which
    grows to a minute; a batch has up to `max_requests` lines and `max_bytes`. Where the budget is reached, what
    is submitted by then is still waited for. Raises what `BatchServer` does.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        journal: Path,
        api_key: str = "",
        api: Api = "chat",
        system: str = "",
        limits: LimitsConfig = LimitsConfig(),  # noqa: B008 - frozen
        budget: Budget | None = None,
        price: Price | None = None,
        *,
        poll_seconds: float = 1.0,
        max_requests: int = 50_000,
        max_bytes: int = 200_000_000,
    ) -> None:
        super().__init__(model, base_url, api_key, api, system, budget, price)
        self.url = f"/v1{self.path}"  # as it stands in a batch, whatever the address of the server
        self.journal = journal
        self.poll_seconds = poll_seconds
        self.max_requests = max_requests
        self.max_bytes = max_bytes
        self.server = BatchServer(base_url, api_key, limits)

    def generate(self, requests: Iterator[Request | None]) -> Generator[Answer, None, None]:
        """Close the generator, or kill the process, to leave at once: the journal has what is to be had."""
        with own_loop(keep_interrupts=True) as (_, run):
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
