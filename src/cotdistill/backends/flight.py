"""The requests of one `generate` on their way: each a task, from its first try to its last."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import orjson

from cotdistill.backends.allowance import Allowance
from cotdistill.backends.dialect import Dialect
from cotdistill.backends.exchange import FIRST_TRIES, Exchange, backoff, free_files, no_server
from cotdistill.backends.pace import Pace
from cotdistill.backends.wire import (
    BUSY,
    RETRIED,
    Reply,
    Transient,
    exhausted_for,
    kept,
    read_reply,
    refusal,
    retry_after,
)
from cotdistill.budget import NOTHING, Amount
from cotdistill.completions import Completion, Request
from cotdistill.errors import BackendError, BudgetReached
from cotdistill.progress import say

if TYPE_CHECKING:
    from cotdistill.backends.openai import OpenAIBackend

GIVE_UP_AFTER = 20  # requests in a row that found no connection, or that were given up before any was answered
REFUSAL_SECONDS = 0.2  # in which a wrong key or model is told, about
REFUSED_AT_FIRST = 3  # different prompts refused, none answered: the fault is in the config
SOME = 32
LATE = "late"
_END = object()

Result = tuple[Request, int, Completion]


class Flight:
    """The requests of one `generate`: each a task, from its first try to its last."""

    def __init__(self, backend: OpenAIBackend, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.backend, self.limits = backend, backend.limits
        self.pace = Pace(
            self.limits.concurrency,
            self.limits.requests_per_minute,
            self.limits.tokens_per_minute,
            most=free_files(),
        )
        self.allowance = Allowance(backend.budget, backend.price)
        self.tasks: set[asyncio.Task[None]] = set()
        self.sending: dict[asyncio.Task[Any] | None, float] = {}  # those with a request at the server, since when
        self.asleep = 0  # tasks that wait before another try
        self.done: deque[list[Result]] = deque()  # what each reply brought: it is stored as one
        self.more = False  # there may be room for other requests right away
        self.exhausted = False
        self.stopped: BaseException | None = None
        self.spent: Amount | None = None  # what a first prompt would have taken of a budget that had not so much
        self.answers = backend.answered  # replies with a completion
        self.refused: set[tuple[str, ...]] = set()  # prompts, before the first completion
        self.unreachable = 0  # requests given up in a row, for want of a connection
        self.given_up = 0  # requests, before the first completion
        self.dialect = Dialect(backend)

    async def open(self) -> None:
        self.turn = asyncio.Lock()  # tries leave in the order in which they came
        self.change = asyncio.Event()  # a slot, or part of the budget, may be free
        self.wake = asyncio.Event()  # there is something to yield, or room
        self.exchange = Exchange(self.backend, self.pace.too_many)
        self.loop.call_later(REFUSAL_SECONDS, self.open_up)
        self.end_late()

    def end_late(self) -> None:
        """End the tries that take too long: by one clock for all, for a timer each is a twentieth of a try's work."""
        now = time.monotonic()
        for task, sent in self.sending.items():
            if task is None or now - sent < self.limits.timeout:
                break
            task.cancel(LATE)
        self.clock = self.loop.call_later(min(1.0, self.limits.timeout / 10), self.end_late)

    def open_up(self) -> None:
        """A refusal would have come by now: a slow answer is no reason to wait longer."""
        if not self.refused and self.stopped is None:
            self.pace.open_up()
            self.wake.set()
            self.change.set()

    async def close(self) -> None:
        if hasattr(self, "clock"):
            self.clock.cancel()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        try:
            self.allowance.budget.save()
        finally:
            if hasattr(self, "exchange"):
                await self.exchange.close()

    async def something(self) -> None:
        """Wait until there is something to yield, or room for a request; what was started leaves."""
        self.wake.clear()
        if self.done or self.more:
            await asyncio.sleep(0)
        elif self.tasks:
            await self.wake.wait()

    def fill(self, requests: Iterator[Request | None]) -> bool:
        """Start some requests while there is room; whether any was started.

        Some at a time, and some completions: the first leave while the others of a burst are still looked at.
        """
        started = 0
        while started < SOME and not self.exhausted and self.stopped is None and self.has_room():
            request = next(requests, _END)
            self.exhausted = request is _END
            if not isinstance(request, Request) or len(request.prompt) == 1:  # second prompts come before these
                self.allowance.all_started()
                self.change.set()
            if not isinstance(request, Request) or (self.spent and len(request.prompt) == 1):
                break
            self.start(request, request.samples)
            started += 1
        self.more = started == SOME
        return started > 0

    def has_room(self) -> bool:
        """So many tasks that none is missed when one ends; those that sleep are counted, but not against it."""
        return len(self.tasks) - self.asleep < self.pace.limit and len(self.tasks) < 4 * self.pace.limit + 64

    def start(self, request: Request, samples: tuple[int, ...]) -> None:
        if self.stopped is not None:
            return
        self.allowance.start(request)
        together = self.dialect.at_once(request)
        for first in range(0, len(samples), together):
            asking = self.ask(request, samples[first : first + together])
            task = self.loop.create_task(asking)
            task.add_done_callback(self.ended)
            self.tasks.add(task)

    def ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.stop(error)
        self.wake.set()
        self.change.set()

    def stop(self, error: BaseException) -> None:
        """Ask for nothing more, and let end what is at the server, for that is paid; then `error` is raised."""
        self.stopped = self.stopped or error
        for task in self.tasks - self.sending.keys():
            task.cancel()
        self.wake.set()

    def interrupt(self) -> None:
        """From a signal's handler, which may come in the middle of anything, as of a line that is being said."""
        self.stopped = self.stopped or KeyboardInterrupt()
        self.loop.call_soon_threadsafe(self.interrupted, self.stopped)

    def interrupted(self, error: BaseException) -> None:
        if self.sending:
            say(f"stopping: waiting for {len(self.sending)} requests in flight. Ctrl-C again leaves them.")
        self.stop(error)

    async def ask(self, request: Request, samples: tuple[int, ...]) -> None:
        """One request, tried again as often as it may be."""
        started, attempt, tries = time.monotonic(), 0, 0
        while True:
            answers = self.answers
            try:
                reply = await self.once(request, samples)
            except Transient as error:
                failure = error.with_traceback(None)  # whose frames hold the reply
            except orjson.JSONEncodeError as error:  # a lone surrogate
                return self.fail(request, samples, Transient(f"the prompt cannot be sent: {error}"))
            else:
                if reply is not None:
                    self.take(request, samples, reply)
                return None
            last = attempt >= self.limits.retries or time.monotonic() - started > self.limits.retry_seconds
            if failure.unreachable and not self.exchange.reached and (last or attempt + 1 >= FIRST_TRIES):
                raise no_server(self.backend.endpoint, failure)
            if self.stopped is not None:
                return None
            if last:
                return self.fail(request, samples, failure)
            await self.sleep(failure.wait, tries)
            tries += 1
            # Refused while others are answered: it is not its turn yet, and no fault of its own.
            attempt += not (failure.busy and self.answers > answers)

    async def sleep(self, least: float, tries: int) -> None:
        self.asleep += 1
        self.wake.set()
        try:
            await asyncio.sleep(backoff(tries, least))
        finally:
            self.asleep -= 1

    def take(self, request: Request, samples: tuple[int, ...], reply: Reply) -> None:
        self.done.append([(request, s, c) for s, c in zip(samples, reply.completions, strict=False)])
        self.dialect.learn(len(samples), reply)
        if missing := samples[len(reply.completions) :]:
            self.start(request, missing)

    def fail(self, request: Request, samples: tuple[int, ...], failure: Transient) -> None:
        """Give a request up, or everything, where the server is gone."""
        self.unreachable = self.unreachable + 1 if failure.unreachable else 0
        if self.unreachable >= GIVE_UP_AFTER:
            raise BackendError(
                f"{self.backend.endpoint}: the server is gone, {GIVE_UP_AFTER} requests in a row failed ({failure}).\n"
                "Run the same command again when it is back: all that was answered is stored."
            )
        if not failure.busy and not self.is_known(request):
            self.given_up += 1
            if self.given_up >= GIVE_UP_AFTER:  # each may be paid for
                raise BackendError(
                    f"{self.backend.endpoint}: {GIVE_UP_AFTER} requests failed, and none was answered ({failure}).\n"
                    "`cotdistill doctor` looks closer; then run the same command again."
                )
        reply = kept(failure.reply, self.backend.api_key)
        failed = Completion("", "error", error=str(failure), reply=reply)
        self.done.append([(request, sample, failed) for sample in samples])

    def is_known(self, request: Request) -> bool:
        """Whether one like it was answered, so that its failure is its own."""
        return request.known or len(request.prompt) in self.backend.turns

    async def once(self, request: Request, samples: tuple[int, ...]) -> Reply | None:
        """One try. None where it was taken up again in another form."""
        fields = self.dialect.fields(request, samples)
        content = orjson.dumps(fields)
        wanted = request.params.max_tokens * len(samples)
        most, later = self.backend.price.most(len(content), wanted), self.allowance.later(request, samples)
        likely = len(content) // 4 + wanted
        sent = await self.leave(request, most, later, likely)
        if sent is None:
            return None
        task = asyncio.current_task()
        used = Amount(1)
        self.sending[task] = sent
        try:
            status, headers, reply = await self.exchange.post(content)
            self.unreachable = 0
            if status == 200:
                read = read_reply(reply, self.backend.chat, len(samples), self.backend.api_key)
                used = self.bill(read, most)
                self.answers = self.backend.answered = self.answers + 1
                self.backend.turns.add(len(request.prompt))
                self.pace.answered()
                self.allowance.redeem(later)
                later = NOTHING
                return read
            return self.refusal(request, samples, fields, status, headers, reply, sent)
        except BackendError as error:
            self.stop(error)  # now: the next request must not leave in between
            raise
        except Transient as error:
            used = most if error.unknown else used if error.left else NOTHING
            raise
        except asyncio.CancelledError as error:
            used = most
            if error.args == (LATE,) and task is not None:
                task.uncancel()
                raise Transient(f"no whole reply within {self.limits.timeout:g} s", unknown=True) from None
            raise
        finally:
            del self.sending[task]
            self.pace.leave(likely, int(used.tokens))
            self.allowance.settle(most, used, later)
            self.change.set()

    async def leave(self, request: Request, most: Amount, later: Amount, likely: int) -> float | None:
        """Wait for the turn, a slot, the rate and the budget; returns when it leaves, None where it may not."""
        while True:
            if self.turn.locked() or self.delay(likely):  # else the turn is nobody's, and there is no wait
                async with self.turn:
                    while seconds := self.delay(likely):
                        await (self.changed() if seconds == math.inf else asyncio.sleep(seconds))
                    sent = self.enter(request, most, later, likely)
            else:
                sent = self.enter(request, most, later, likely)
            if sent is not False:
                return sent
            # What is under way may cost less than it holds; and second prompts are not to wait for this one.
            self.asleep += 1
            self.wake.set()
            try:
                await self.changed()
            finally:
                self.asleep -= 1

    def enter(self, request: Request, most: Amount, later: Amount, likely: int) -> float | Literal[False] | None:
        """Take what it takes; returns when, False while the budget is held by others, None where it is spent."""
        try:
            return self.allowance.take(request, most, later) and self.pace.enter(likely)
        except BudgetReached:
            if len(request.prompt) > 1:
                raise
            self.spent = most.plus(later)
            return None

    def delay(self, tokens: int) -> float:
        """Seconds until a request of about `tokens` may leave; endless while there is no slot."""
        # No more leave than may be refused before it is the config that is wrong.
        most = REFUSED_AT_FIRST - len(self.refused) if self.refused and not self.answers else self.pace.limit
        return math.inf if self.pace.in_flight >= min(most, self.pace.limit) else max(0.0, self.pace.delay(tokens))

    async def changed(self) -> None:
        self.change.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.allowance.budget.patience):
                await self.change.wait()

    def bill(self, reply: Reply, most: Amount) -> Amount:
        """What a reply cost; where the server does not say, the most that it can have."""
        if reply.tokens == 0:
            self.dialect.say("the server does not say how many tokens it used: each request counts at its most.")
            return most
        prompt = sum(c.prompt_tokens for c in reply.completions)
        return Amount(1, reply.tokens, self.backend.price.of(prompt, reply.tokens - prompt))

    def refusal(
        self,
        request: Request,
        samples: tuple[int, ...],
        fields: Mapping[str, Any],
        status: int,
        headers: Mapping[str, str],
        reply: bytes,
        sent: float,
    ) -> Reply | None:
        """What a status other than 200 means. Raises `Transient`, or `BackendError` where it is for good."""
        b = self.backend
        message, advice = refusal(status, headers, reply, b.api_key)
        if advice:
            raise BackendError(f"{b.endpoint}: {message}\n{advice}")
        if status in BUSY:
            self.pace.busy(sent)
        if status in RETRIED or not 400 <= status < 500:
            self.pace.pause(exhausted_for(headers))
            raise Transient(message, retry_after(headers), busy=status in BUSY, reply=reply)
        known = self.dialect.honours_n
        if self.dialect.adapt(fields, message):
            if known is False and "n" in fields and not request.known:
                self.refused.add(request.prompt)  # or something else is wrong
            self.start(request, samples)
            return None
        if not self.is_known(request):
            self.refused.add(request.prompt)
            if len(self.refused) >= REFUSED_AT_FIRST:
                which, advice = "request", "Check the teacher section of the config."
                if len(request.prompt) > 1:  # the first ones are answered, and paid: no more of them
                    which, advice = "second prompt", "It is asked at temperature 0; teacher.style: one_step asks once."
                raise BackendError(f"{b.endpoint}: {message}\nNo {which} was accepted. {advice}")
        self.fail(request, samples, Transient(message, reply=reply))
        return None
