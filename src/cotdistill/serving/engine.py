"""One thread that owns the model, and writes the completions of all requests together.

engine = Engine(backend, slots=16, queue=64, metrics=Metrics())
job = engine.submit(asked)          # in the event loop; raises `Full`
piece = await job.pieces.get()      # a Piece, or what went wrong
engine.give_up(job)                 # its places are free again

A request that comes while others are written joins them at the next token.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from cotdistill.backends.refill import can_refill
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.errors import BackendError
from cotdistill.progress import say
from cotdistill.serving.metrics import Metrics
from cotdistill.serving.pieces import Piece, next_piece
from cotdistill.serving.rows import LiveBatch, LiveRow, write_together

if TYPE_CHECKING:
    from cotdistill.serving.asking import Asked


DEAD = "the model's thread has ended by an error; nothing more can be written."


class Full(Exception):
    """As many completions as there may be are written or wait."""


class Job:
    """A request on its way: `pieces` as they are written; `gone` once nobody waits for them."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.loop = asyncio.get_running_loop()
        self.pieces: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.gone = False
        self.count = len(asked.prompts) * asked.n

    def rows(self) -> list[LiveRow]:
        """One a choice: those of the first prompt, then of the next. Each draws by a seed of its own."""
        asked, rows = self.asked, list[LiveRow]()
        seed = secrets.randbits(31) if asked.seed is None else asked.seed
        for index in range(self.count):
            # The first is as in process: there a request's seed is that of its only sample.
            own = seed if not index else int.from_bytes(hashlib.sha256(f"{seed},{index}".encode()).digest()[:4]) >> 1
            generator = torch.Generator().manual_seed(own % 2**63)
            prompt = asked.prompts[index // asked.n]
            rows.append(LiveRow(index, prompt, generator, asked.params, job=self, top=asked.top))
        return rows

    def tell(self, piece: Piece | Exception) -> None:
        """From the model's thread."""
        self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Engine:
    """Writes up to `slots` completions at once, while `queue` more may wait."""

    def __init__(self, backend: TransformersBackend, slots: int, queue: int, metrics: Metrics) -> None:
        self.backend, self.slots, self.most, self.metrics = backend, slots, slots + queue, metrics
        self.waiting: list[LiveRow] = []
        self.writing: dict[int, LiveRow] = {}  # by id()
        self.changed = threading.Condition()
        self.closed = False
        self.refills = not backend.loaded.seq2seq and can_refill(backend.loaded.model)

    def submit(self, asked: Asked) -> Job:
        """Put a request in the queue. Raises `Full` where there is no room for all that it asks for."""
        job = Job(asked)
        rows = job.rows()
        with self.changed:
            if self.closed:
                raise BackendError(DEAD)
            if len(self.waiting) + len(self.writing) + len(rows) > self.most:
                raise Full
            self.waiting += rows
            self.changed.notify()
        return job

    def give_up(self, job: Job) -> None:
        """Nobody waits for what is not written of a job: it leaves at the next token."""
        with self.changed:
            job.gone = True
            self.waiting = [row for row in self.waiting if row.job is not job]

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify()

    def run(self, died: Callable[[], None]) -> None:
        """The thread's work, until it is closed; `died` is called where it ends by what is no error of torch's."""
        try:
            while rows := self._take(self.slots, wait=True):
                try:
                    (self._refill if self.refills else self._together)(rows)
                except (RuntimeError, MemoryError, IndexError) as error:  # such as: out of memory
                    self._fail(error)
        finally:
            if not self.closed:
                self.close()
                self._fail(BackendError(DEAD))
                died()

    def _take(self, free: int, wait: bool = False) -> list[LiveRow]:
        """The next rows of the queue, as many as there are places; none once it is closed."""
        with self.changed:
            while wait and not self.waiting and not self.closed:
                self.changed.wait()
            taken, self.waiting = self.waiting[:free], self.waiting[free:]
            self.writing |= {id(row): row for row in taken}
            return taken

    def _refill(self, rows: list[LiveRow]) -> None:
        """Write `rows`, and whatever comes meanwhile, until nothing is left."""
        batch = LiveBatch(self.backend.loaded)
        while rows or batch.rows:
            if rows:
                batch.join(rows)
            else:
                batch.step()
            for row in batch.leave():
                self._finish(row)
            for row in rows or batch.rows:  # those that got a token
                if id(row) in self.writing:
                    self._show(row)
            rows = self._take(self.slots - len(batch.rows))

    def _together(self, rows: list[LiveRow]) -> None:
        """Write `rows` until the last has ended: those that come meanwhile wait."""
        write_together(self.backend, rows, lambda row, ended: self._finish(row) if ended else self._show(row))

    def _show(self, row: LiveRow) -> None:
        """Send what is new of a row whose client wants to see it as it is written, or each token's probability."""
        if row.job.asked.stream or row.top is not None:
            piece = next_piece(row, self.backend.loaded.tokenizer)
            if piece.text or piece.tokens:
                row.job.tell(piece)

    def _finish(self, row: LiveRow) -> None:
        with self.changed:
            del self.writing[id(row)]
        self.metrics.tokens.inc(len(row.tokens))
        if row.job.gone:
            self.metrics.completions.labels("given_up").inc()
            return
        completion = self.backend.completion(row.tokens, len(row.prompt), row.params)
        self.metrics.completions.labels(completion.finish_reason).inc()
        row.job.tell(next_piece(row, self.backend.loaded.tokenizer, completion))

    def _fail(self, error: Exception) -> None:
        """What is being written cannot be: the next requests begin anew."""
        with self.changed:
            rows, self.writing = [*self.writing.values()], {}
            if self.closed:
                rows, self.waiting = rows + self.waiting, []
        say(f"serve: {len(rows)} completions failed: {type(error).__name__}: {error}")
        self.metrics.completions.labels("error").inc(len(rows))
        for job in dict.fromkeys(row.job for row in rows):
            job.tell(error if self.closed else BackendError(f"the model failed: {type(error).__name__}"))
