"""The requests of one `generate` on their way: each a task, from its first try to its last."""

from __future__ import annotations

import asyncio
import errno
import random
import resource
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from cotdistill.backends.allowance import Allowance
from cotdistill.backends.pace import Pace
from cotdistill.backends.wire import (
    BUSY,
    MAX_REPLY_BYTES,
    RETRIED,
    Reply,
    Transient,
    advice,
    authorization,
    body,
    clean,
    exhausted_for,
    kept,
    read_reply,
    retry_after,
    server_message,
)
from cotdistill.budget import NOTHING, Amount
from cotdistill.completions import Completion, Request
from cotdistill.errors import BackendError, BudgetReached
from cotdistill.progress import say

if TYPE_CHECKING:
    from cotdistill.backends.openai import OpenAIBackend

CONNECT_SECONDS = 10.0
FIRST_TRIES = 3  # for a server that has never answered
GIVE_UP_AFTER = 20  # requests in a row that found no connection
REFUSED_AT_FIRST = 3  # different prompts refused, none answered: the fault is in the config
BACKOFF_SECONDS, BACKOFF_CAP = 0.5, 30.0
MOST_SAMPLES = 16  # in one request
SPARE_FILES = 32  # for the store, the run's files and the loop
TLS_ADVICE = (
    "Check that teacher.base_url is right to say https. For a certificate of your own authority, set SSL_CERT_FILE "
    "to its file."
)
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
            most=max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES),
        )
        self.allowance = Allowance(backend.budget, backend.price)
        self.tasks: set[asyncio.Task[None]] = set()
        self.sending: set[asyncio.Task[Any] | None] = set()  # those with a request at the server
        self.asleep = 0  # tasks that wait before another try
        self.done: deque[Result] = deque()
        self.exhausted = False
        self.stopped: BaseException | None = None
        self.spent: Amount | None = None  # what a first prompt would have taken of a budget that had not so much
        self.reached = False  # any reply has come
        self.answers = 0  # replies with a completion
        self.refused: set[tuple[str, ...]] = set()  # prompts, before the first completion
        self.unreachable = 0  # requests given up in a row, for want of a connection
        self.honours_n: bool | None = None  # not known yet
        self.left_out: set[str] = set()  # fields that the server refuses
        self.limit_field = "max_tokens"
        self.served = ""
        self.said: set[str] = set()

    async def open(self) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.backend.api_key:
            headers["Authorization"] = authorization(self.backend.api_key)
        self.turn = asyncio.Lock()  # tries leave in the order in which they came
        self.change = asyncio.Event()  # a slot, or part of the budget, may be free
        self.wake = asyncio.Event()  # there is something to yield, or room
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # Pace limits
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
        )
        # Those of the environment, but never between here and here: a proxy would see the key. Not by
        # aiohttp's trust_env: that also reads ~/.netrc, and puts what it finds there in the key's place.
        scheme, host = self.backend.scheme_and_host
        direct = self.backend.loopback or urllib.request.proxy_bypass(host)
        self.proxy = None if direct else urllib.request.getproxies().get(scheme)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.allowance.budget.save()
        if hasattr(self, "http"):
            await self.http.close()

    async def something(self) -> None:
        """Wait until there is something to yield, or room for a request."""
        self.wake.clear()
        if self.tasks and not self.done:
            await self.wake.wait()

    def fill(self, requests: Iterator[Request | None]) -> bool:
        """Start requests while there is room; whether any was started."""
        started = False
        while not self.exhausted and self.stopped is None and self.has_room():
            request = next(requests, _END)
            self.exhausted = request is _END
            if not isinstance(request, Request) or len(request.prompt) == 1:  # second prompts come before these
                self.allowance.all_started()
                self.change.set()
            if not isinstance(request, Request) or (self.spent and len(request.prompt) == 1):
                break
            self.start(request, request.samples)
            started = True
        return started

    def has_room(self) -> bool:
        """So many tasks that none is missed when one ends; those that sleep are counted, but not against it."""
        return len(self.tasks) - self.asleep < self.pace.limit and len(self.tasks) < 4 * self.pace.limit + 64

    def start(self, request: Request, samples: tuple[int, ...]) -> None:
        if self.stopped is not None:
            return
        self.allowance.start(request)
        together = MOST_SAMPLES if self.honours_n is not False and request.params.temperature > 0 else 1
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
        for task in self.tasks - self.sending:
            task.cancel()
        self.wake.set()

    def interrupt(self) -> None:
        say(f"stopping: waiting for {len(self.sending)} requests in flight. Ctrl-C again leaves them.")
        self.stop(KeyboardInterrupt())

    async def ask(self, request: Request, samples: tuple[int, ...]) -> None:
        """One request, tried again as often as it may be."""
        started, attempt, tries = time.monotonic(), 0, 0
        while True:
            answers = self.answers
            try:
                reply = await self.once(request, samples)
            except Transient as error:
                failure = error
            except orjson.JSONEncodeError as error:  # a lone surrogate
                return self.fail(request, samples, Transient(f"the prompt cannot be sent: {error}"))
            else:
                if reply is not None:
                    self.take(request, samples, reply)
                return None
            last = attempt >= self.limits.retries or time.monotonic() - started > self.limits.retry_seconds
            if failure.unreachable and not self.reached and (last or attempt + 1 >= FIRST_TRIES):
                raise BackendError(
                    f"no server answers at {self.backend.endpoint} ({failure}).\nStart it, or set teacher.base_url."
                )
            if self.stopped is not None:
                return None
            if last:
                return self.fail(request, samples, failure)
            await self.sleep(failure.wait, tries)
            tries += 1
            # Refused while others are answered: it is not its turn yet, and no fault of its own.
            attempt += not (failure.busy and self.answers > answers)

    async def sleep(self, least: float, tries: int) -> None:
        """Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/"""
        backoff = random.uniform(0, min(BACKOFF_CAP, BACKOFF_SECONDS * 2 ** min(tries, 10)))
        self.asleep += 1
        self.wake.set()
        try:
            await asyncio.sleep(max(least, backoff))
        finally:
            self.asleep -= 1

    def take(self, request: Request, samples: tuple[int, ...], reply: Reply) -> None:
        for sample, completion in zip(samples, reply.completions, strict=False):
            self.done.append((request, sample, completion))
        if reply.choices < len(samples) and self.honours_n is None:
            self.honours_n = False
            self.say(f"the server gave {reply.choices} of {len(samples)} samples of a request: from now on one each.")
        elif reply.choices == len(samples) > 1 and self.honours_n is None:
            self.honours_n = True
        elif reply.choices > len(samples):
            self.say(f"warning: the server gave {reply.choices} samples where {len(samples)} were asked for.")
        if missing := samples[len(reply.completions) :]:
            self.start(request, missing)
        served = next((c.served for c in reply.completions if c.served), "")
        if served and served != self.served:
            if self.served:
                self.say(f"warning: the server says that it is {served} now, and was {self.served}.")
            self.served = served

    def fail(self, request: Request, samples: tuple[int, ...], failure: Transient) -> None:
        """Give a request up, or everything, where the server is gone."""
        self.unreachable = self.unreachable + 1 if failure.unreachable else 0
        if self.unreachable >= GIVE_UP_AFTER:
            raise BackendError(
                f"{self.backend.endpoint}: the server is gone, {GIVE_UP_AFTER} requests in a row failed ({failure}).\n"
                "Run the same command again when it is back: all that was answered is stored."
            )
        reply = kept(failure.reply, self.backend.api_key)
        for sample in samples:
            self.done.append((request, sample, Completion("", "error", error=str(failure), reply=reply)))

    async def once(self, request: Request, samples: tuple[int, ...]) -> Reply | None:
        """One try. None where it was taken up again in another form."""
        b = self.backend
        fields = body(request, samples, b.model, b.chat, b.system, self.limit_field)
        fields = {name: value for name, value in fields.items() if name not in self.left_out}
        content = orjson.dumps(fields)
        wanted = request.params.max_tokens * len(samples)
        most, later = self.allowance.most(len(content), wanted), self.allowance.later(request, samples)
        likely = len(content) // 4 + wanted
        sent = await self.leave(request, most, later, likely)
        if sent is None:
            return None
        task = asyncio.current_task()
        used = Amount(1)
        self.sending.add(task)
        try:
            status, headers, reply = await self.post(content)
            if status == 200:
                read = read_reply(reply, b.chat, len(samples), b.api_key)
                used = self.bill(read, most)
                self.answers += 1
                self.pace.answered()
                self.allowance.redeem(later)
                later = NOTHING
                return read
            return self.refusal(request, samples, fields, status, headers, reply, sent)
        except BackendError as error:
            self.stop(error)  # now: the next request must not leave in between
            raise
        except Transient as error:
            used = most if error.unknown else used
            raise
        except asyncio.CancelledError:
            used = most
            raise
        finally:
            self.sending.discard(task)
            self.pace.leave(likely, int(used.tokens))
            self.allowance.settle(most, used, later)
            self.change.set()

    async def leave(self, request: Request, most: Amount, later: Amount, likely: int) -> float | None:
        """Wait for the turn, a slot, the rate and the budget; returns when it leaves, None where it may not."""
        while True:
            async with self.turn:
                await self.slot(likely)
                try:
                    if self.allowance.take(request, most, later):
                        return self.pace.enter(likely)
                except BudgetReached:
                    if len(request.prompt) > 1:
                        raise
                    self.spent = most.plus(later)
                    return None
            # What is under way may cost less than it holds; and second prompts are not to wait for this one.
            self.asleep += 1
            self.wake.set()
            try:
                await self.changed()
            finally:
                self.asleep -= 1

    async def slot(self, tokens: int) -> None:
        while True:
            # No more leave than may be refused before it is the config that is wrong.
            most = REFUSED_AT_FIRST - len(self.refused) if self.refused and not self.answers else self.pace.limit
            if self.pace.in_flight >= min(most, self.pace.limit):
                await self.changed()
            elif (seconds := self.pace.delay(tokens)) > 0:
                await asyncio.sleep(seconds)
            else:
                return

    async def changed(self) -> None:
        self.change.clear()
        await self.change.wait()

    def bill(self, reply: Reply, most: Amount) -> Amount:
        """What a reply cost; where the server does not say, the most that it can have."""
        if reply.tokens == 0:
            self.say("the server does not say how many tokens it used: each request counts at its most.")
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
        message = f"HTTP {status}: {clean(server_message(reply), b.api_key)}"
        if found := advice(status, reply):
            raise BackendError(f"{b.endpoint}: {message}\n{found}")
        if 300 <= status < 400:
            place = clean(headers.get("Location", "nowhere"), b.api_key)
            raise BackendError(
                f"{b.endpoint}: HTTP {status}, the server redirects to {place}.\n"
                "Set teacher.base_url to the address it should be; redirects are not followed."
            )
        if status in BUSY:
            self.pace.busy(sent)
        if status in RETRIED or not 400 <= status < 500:
            self.pace.pause(exhausted_for(headers))
            raise Transient(message, retry_after(headers), busy=status in BUSY, reply=reply)
        if self.adapt(request, fields, message):
            self.start(request, samples)
            return None
        if not self.answers:
            self.refused.add(request.prompt)
            if len(self.refused) >= REFUSED_AT_FIRST:
                raise BackendError(
                    f"{b.endpoint}: {message}\nNo request was accepted. Check the teacher section of the config."
                )
        self.fail(request, samples, Transient(message, reply=reply))
        return None

    def adapt(self, request: Request, fields: Mapping[str, Any], message: str) -> bool:
        """Leave out of the `fields` of a request what its refusal names, if that may be; whether it was in them."""
        if "max_completion_tokens" in message and "max_tokens" in fields:
            self.limit_field = "max_completion_tokens"  # as hosted reasoning models want it
        elif "seed" in fields and "seed" in message.lower():
            self.left_out.add("seed")
            self.say("the server refuses a seed: samples are stored, but cannot be drawn again.")
        elif fields.get("top_p") == 1 and "top_p" in message:
            self.left_out.add("top_p")
        elif "n" in fields and not self.honours_n:
            if self.honours_n is None:
                self.honours_n = False
                self.say(f"the server refuses several samples of a request: from now on one each ({message}).")
            else:
                self.refused.add(request.prompt)  # or something else is wrong
        else:
            return False
        return True

    async def post(self, content: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one exchange, all within `limits.timeout`."""
        reply = bytearray()
        http, key = self.http, self.backend.api_key
        try:
            async with (
                asyncio.timeout(self.limits.timeout),
                http.post(self.backend.endpoint, data=content, allow_redirects=False, proxy=self.proxy) as response,
            ):
                async for chunk in response.content.iter_any():
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise Transient(f"the reply is over {MAX_REPLY_BYTES >> 20} MB", unknown=True)
                self.reached, self.unreachable = True, 0
                return response.status, response.headers, bytes(reply)
        except aiohttp.ClientSSLError as error:
            if self.reached:
                raise Transient(clean(str(error), key), unreachable=True) from None
            raise BackendError(f"{self.backend.endpoint}: {clean(str(error), key)}\n{TLS_ADVICE}") from None
        except aiohttp.ClientConnectorError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # our trouble, not the server's
                self.pace.too_many()
                raise Transient(str(error)) from None
            raise Transient(clean(str(error), key), unreachable=True) from None
        except aiohttp.ClientConnectionError as error:
            raise Transient(clean(str(error), key), unreachable=not self.reached, unknown=True) from None
        except TimeoutError:
            raise Transient(f"no whole reply within {self.limits.timeout:g} s", unknown=True) from None
        except aiohttp.ClientError as error:
            raise Transient(f"broken reply: {clean(str(error), key)}", unknown=True) from None

    def say(self, text: str) -> None:
        """Once."""
        if text not in self.said:
            self.said.add(text)
            say(text)
