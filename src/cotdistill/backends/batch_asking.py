"""The requests of one `generate` by a batch API: those to submit, and the batches that have others."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import orjson

from cotdistill.backends.batch_journal import Entry, Journal, errors_named
from cotdistill.backends.batch_lines import failure, line, outcome
from cotdistill.backends.batch_server import Refused
from cotdistill.backends.loops import Run
from cotdistill.backends.wire import Transient, body, clean
from cotdistill.budget import NOTHING, Amount
from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.errors import BackendError, BudgetReached
from cotdistill.progress import say

if TYPE_CHECKING:
    from cotdistill.backends.batch import BatchBackend

ENDED = {"completed", "failed", "expired", "cancelled"}
POLL_GROWTH, POLL_CAP = 1.5, 60.0
SAY_SECONDS = 60.0
SUBMISSIONS = 3  # of a request, before it counts as failed
# A failed batch of this code is too much for now: the account's limit of tokens that wait.
TOO_MANY_TOKENS = "token_limit_exceeded"

Answer = tuple[Request, int, Completion]


@dataclass(slots=True)
class _Wanted:
    """A sample that has no completion yet."""

    request: Request
    sample: int
    reason: str = "the batch had no line for it"  # why the last batch brought none
    held: Amount = NOTHING  # of the budget, while it is submitted


class Asking:
    """The requests of one `generate` on their way: those to submit, and the batches that have others."""

    def __init__(self, backend: BatchBackend, requests: Iterator[Request | None], journal: Journal, run: Run) -> None:
        self.backend, self.requests, self.journal, self.do = backend, requests, journal, run
        self.budget = backend.budget
        self.server = backend.server
        self.pools: dict[SamplingParams, Pool] = {}
        self.wanted: dict[str, _Wanted] = {}  # by custom_id
        self.pending: deque[str] = deque()  # to submit
        self.submissions: Counter[str] = Counter()
        self.open: dict[str, Entry] = {}  # batches to wait for, by nonce
        self.counts: dict[str, tuple[int, int, int]] = {}  # of those: requests completed, failed, all
        self.alone: set[str] = set()  # batches that were submitted when there was no other, by nonce
        self.most_open = 0  # batches that the account takes at once, 0 where that is not known
        self.spent: BudgetReached | None = None
        self.said = time.monotonic()

    def run(self) -> Iterator[Answer]:
        while self.pull() or self.pending or self.open:
            if self.spent and not self.open:
                raise self.spent
            yield from self.submit()
            if self.open:
                yield from self.harvest(*self.next_ended())

    def shown(self, text: object) -> str:
        """What a server named, for a person."""
        return clean(str(text), self.backend.api_key)

    def names(self) -> str:
        """The open batches, for a person."""
        first, *others = (entry.batch for entry in self.open.values())
        return f"batch {self.shown(first)}" + (f" and {len(others)} more" if others else "")

    def pull(self) -> bool:
        """Take all requests that there are now; whether there was one."""
        found = False
        for request in self.requests:
            if request is None:
                break
            found = True
            pool = self.pools.setdefault(request.params, Pool(self.backend.identity, request.params))
            key = pool.key(request.prompt).hex()
            for sample in request.samples:
                if (custom_id := f"{key}-{sample}") in self.wanted:
                    continue
                self.wanted[custom_id] = _Wanted(request, sample)
                if (entry := self.journal.holding(custom_id)) is None or not self.adopt(entry):
                    self.pending.append(custom_id)
                else:
                    self.hold_again(custom_id)
        return found

    def adopt(self, entry: Entry) -> bool:
        """Wait for a batch that an earlier run submitted; False where it never came to be."""
        if entry.nonce in self.open:
            return True
        if not entry.batch:
            batch = self.do(self.server.find(entry.file, entry.nonce))
            if batch is None:  # unless it is still being made
                self.do(asyncio.sleep(self.backend.poll_seconds))
                batch = self.do(self.server.find(entry.file, entry.nonce))
            if batch is None:
                self.journal.end(entry, entry.ids)
                return False
            self.journal.name(entry, batch["id"])
        say(f"batch {self.shown(entry.batch)}: submitted by an earlier run, waiting for it")
        self.wait_for(entry)
        return True

    def hold_again(self, custom_id: str) -> None:
        """An earlier run held it, and that run's budget counts it at its most until it is settled."""
        wanted = self.wanted[custom_id]
        size = len(self.line(custom_id, wanted))
        wanted.held = self.backend.price.most(size, wanted.request.params.max_tokens)
        self.budget.take_up(wanted.held)

    def wait_for(self, entry: Entry) -> None:
        self.open[entry.nonce] = entry
        self.counts[entry.nonce] = (0, 0, len(entry.ids))

    def submit(self) -> Iterator[Answer]:
        """Make batches of what is pending, as far as the account and the budget go."""
        while self.pending and not self.spent and (not self.most_open or len(self.open) < self.most_open):
            folder = self.backend.journal.parent
            with errors_named(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder) as file:
                    ids = yield from self.write(file)
                    if not ids:
                        return
                    self.make(ids, file)

    def write(self, file: IO[bytes]) -> Generator[Answer, None, list[str]]:
        """Write the lines of one batch; returns their custom_ids. What cannot be sent is answered here."""
        ids: list[str] = []
        size = 0
        while self.pending and len(ids) < self.backend.max_requests:
            custom_id = self.pending[0]
            if (wanted := self.wanted.get(custom_id)) is None:  # another batch had it after all
                self.pending.popleft()
                continue
            try:
                asking = self.line(custom_id, wanted)
            except orjson.JSONEncodeError as error:
                problem = f"the prompt cannot be sent: {error}"
            else:
                problem = "its line is longer than a batch may be" if len(asking) > self.backend.max_bytes else ""
            if problem:
                self.pending.popleft()
                yield self.answered(custom_id, failure(problem, self.backend.api_key))
                continue
            if size + len(asking) > self.backend.max_bytes:
                break
            most = self.backend.price.most(len(asking), wanted.request.params.max_tokens)
            try:
                if not self.budget.reserve(most):  # there may be room when a batch has ended
                    break
            except BudgetReached as error:
                self.spent = error
                break
            wanted.held = most
            ids.append(self.pending.popleft())
            size += file.write(asking)
        file.flush()
        return ids

    def line(self, custom_id: str, wanted: _Wanted) -> bytes:
        backend = self.backend
        content = body(wanted.request, (wanted.sample,), backend.model, backend.chat, backend.system, "max_tokens")
        return line(custom_id, backend.url, content)

    def make(self, ids: list[str], file: IO[bytes]) -> None:
        """Upload a file and make a batch of it, noted first."""
        entry = self.journal.add(self.do(self.server.upload(file)), ids)
        try:
            batch = self.do(self.server.create(entry.file, self.backend.url, entry.nonce, self.backend.poll_seconds))
        except Refused:
            self.journal.end(entry, ids)
            raise
        self.journal.name(entry, batch["id"])
        if not self.open:
            self.alone.add(entry.nonce)
        self.wait_for(entry)
        say(f"batch {self.shown(entry.batch)}: {len(ids)} requests submitted")

    def next_ended(self) -> tuple[Entry, dict[str, Any]]:
        """Wait for one of the open batches to end."""
        wait = self.backend.poll_seconds
        while True:
            for entry in self.open.values():
                batch = self.look(entry)
                if batch is None:
                    break
                completed, failed = (_number(batch, name) for name in ("completed", "failed"))
                self.counts[entry.nonce] = (completed, failed, len(entry.ids))
                # With some completed, but no output yet, it is as good as finalizing.
                if batch["status"].lower() in ENDED and (batch.get("output_file_id") or not completed):
                    return entry, batch
            if time.monotonic() - self.said > SAY_SECONDS:
                self.said = time.monotonic()
                sums = [sum(column) for column in zip(*self.counts.values(), strict=True)]
                say(f"{self.names()}: {sums[0]} of {sums[2]} requests completed, {sums[1]} failed")
            self.do(asyncio.sleep(wait))
            wait = min(wait * POLL_GROWTH, POLL_CAP)

    def look(self, entry: Entry) -> dict[str, Any] | None:
        """A batch as it stands; None while the server is away."""
        try:
            return self.do(self.server.batch(entry.batch))
        except Refused as error:
            if error.status != 404:
                raise
            raise BackendError(
                f"{self.server.base_url}: the server does not know batch {self.shown(entry.batch)}, which it made.\n"
                f"Check teacher.api_key, or remove {self.journal.path} to submit its requests again."
            ) from None

    def harvest(self, entry: Entry, batch: Mapping[str, Any]) -> Iterator[Answer]:
        """Yield what a batch brought; what it did not is pending again, or has failed."""
        status = batch["status"].lower()
        good, failed = 0, set()
        for name in ("output_file_id", "error_file_id"):
            with closing(self.lines(entry, batch.get(name))) as lines:
                for custom_id, completion in self.outcomes(entry, lines):
                    if completion.finish_reason == "error":
                        failed.add(custom_id)
                    else:
                        good += 1
                    yield self.answered(custom_id, completion)
        missing = self.missing(entry)
        for custom_id in missing:
            self.settle(self.wanted[custom_id], NOTHING)
        if status == "cancelled" and missing:
            self.end(entry, failed.union(missing))
            raise BackendError(
                f"{self.server.base_url}: batch {self.shown(entry.batch)} was cancelled, with {good} completions.\n"
                f"They are stored; the same command submits the other {len(missing)} again."
            )
        if status == "failed" and (problem := _of(_of(_of(batch, "errors"), "data"), 0)):
            self.end(entry, failed.union(missing))
            self.put_off(entry, problem)
            self.pending.extend(missing)
            return
        self.submissions.update(missing)
        for custom_id in missing:
            if self.submissions[custom_id] >= SUBMISSIONS:
                failed.add(custom_id)
                reason = f"{SUBMISSIONS} batches brought no completion, the last: {self.wanted[custom_id].reason}"
                yield self.answered(custom_id, failure(reason, self.backend.api_key))
        self.end(entry, failed.union(missing))  # the consumer came back for more: it has all of them
        again = [custom_id for custom_id in missing if custom_id in self.wanted]
        self.pending.extend(again)
        say(
            f"batch {self.shown(entry.batch)}: {self.shown(status)}, {good} completions, {len(failed)} errors"
            + (f", {len(again)} to submit again" if again else "")
        )

    def outcomes(self, entry: Entry, lines: Iterator[dict[str, Any]]) -> Iterator[tuple[str, Completion]]:
        """The completions that are wanted of those in the lines of a batch's file, with their custom_ids."""
        for value in lines:
            custom_id = value.get("custom_id")
            if isinstance(custom_id, str) and custom_id in self.wanted and self.holds(entry, custom_id):
                try:
                    yield custom_id, outcome(value, self.backend.chat, self.backend.api_key)
                except Transient as error:
                    self.wanted[custom_id].reason = str(error)

    def missing(self, entry: Entry) -> list[str]:
        """What a batch was to bring and did not."""
        return [custom_id for custom_id in entry.ids if custom_id in self.wanted and self.holds(entry, custom_id)]

    def holds(self, entry: Entry, custom_id: str) -> bool:
        """Whether it is this batch that a request waits for: an old one is read again for what it held."""
        return self.journal.holding(custom_id) is entry

    def end(self, entry: Entry, failed: set[str]) -> None:
        self.journal.end(entry, failed)
        del self.open[entry.nonce], self.counts[entry.nonce]

    def put_off(self, entry: Entry, problem: object) -> None:
        """Take up fewer batches at once where one was too much; raises for any other failure of a whole batch."""
        name, message = self.shown(entry.batch), self.shown(_of(problem, "message") or problem)
        advised = "Check the teacher section of the config."
        if _of(problem, "code") == TOO_MANY_TOKENS:
            if entry.nonce not in self.alone:
                self.most_open = max(1, len(self.open))
                say(f"batch {name}: {message} Its requests wait for the batches before it.")
                return
            advised = "Submit fewer requests a batch, or wait until other batches of the account have ended."
        raise BackendError(f"{self.server.base_url}: batch {name} failed: {message}\n{advised}")

    def lines(self, entry: Entry, file_id: object) -> Generator[dict[str, Any], None, None]:
        """The objects of a batch's file. Raises `BackendError` where it is gone, and what was paid with it."""
        if not isinstance(file_id, str) or not file_id:
            return
        stream = self.server.lines(file_id)
        try:
            while (lines := self.do(_next(stream))) is not None:
                for text in lines:
                    try:
                        value = orjson.loads(text)
                    except orjson.JSONDecodeError:
                        continue
                    if isinstance(value, dict):
                        yield value
        except Refused as error:
            if error.status != 404:
                raise
            missing = self.missing(entry)
            self.end(entry, set(missing))
            raise BackendError(
                f"{self.server.base_url}: file {self.shown(file_id)} of batch {self.shown(entry.batch)} is gone.\n"
                f"The same command submits its {len(missing)} requests again, to be paid again."
            ) from None
        finally:
            self.do(stream.aclose())

    def settle(self, wanted: _Wanted, used: Amount) -> None:
        if wanted.held != NOTHING:
            self.budget.settle(wanted.held, used)
            wanted.held = NOTHING

    def answered(self, custom_id: str, completion: Completion) -> Answer:
        wanted = self.wanted.pop(custom_id)
        tokens = completion.prompt_tokens, completion.completion_tokens
        used = Amount(1, sum(tokens), self.backend.price.of(*tokens))
        said = sum(tokens) or completion.finish_reason == "error"
        self.settle(wanted, used if said else wanted.held)
        return wanted.request, wanted.sample, completion


async def _next(stream: AsyncGenerator[list[bytes], None]) -> list[bytes] | None:
    return await anext(stream, None)


def _of(value: object, key: str | int) -> Any:
    """A field of what a server sent; None where it has none."""
    if isinstance(value, dict):
        return value.get(key)
    return value[key] if isinstance(value, list) and isinstance(key, int) and key < len(value) else None


def _number(batch: Mapping[str, Any], name: str) -> int:
    """How many of its requests are `name`."""
    count = _of(batch.get("request_counts"), name)
    return count if isinstance(count, int) else 0
