"""Any server that speaks the OpenAI wire format: vLLM, SGLang, llama.cpp, Ollama, hosted APIs.

    backend = OpenAIBackend("qwen3-32b", "http://localhost:8000/v1")
    for position, completion in backend.generate(requests, params): ...

An asyncio loop in a thread of its own keeps `concurrency` requests in flight. A failure is one of
three kinds: worth another try (`_Transient`), of one request (a completion of finish reason
"error"), or of every request (`BackendError`, which cancels the rest).
"""

from __future__ import annotations

import asyncio
import copy
import email.utils
import errno
import ipaddress
import random
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson

from cotdistill.errors import BackendError, ConfigError
from cotdistill.records import FinishReason
from cotdistill.store import Completion, Request, SamplingParams

MAX_REPLY_BYTES = 16 * 2**20  # a completion is kilobytes; more is a broken or hostile server
MAX_MESSAGE = 200  # characters of a server's message that are shown
CONNECT_SECONDS = 10.0
FIRST_TRIES = 3  # for a server that has never answered
GIVE_UP_AFTER = 20  # requests in a row that found no connection
REFUSED_AT_FIRST = 3  # different prompts refused, none answered: the fault is in the config
BACKOFF_SECONDS, BACKOFF_CAP, RETRY_AFTER_CAP = 0.5, 30.0, 60.0
RETRIED = {408, 409, 425, 429}  # and all from 500 on
EMPTY = "empty completion"
ADVICE = {
    401: "Check teacher.api_key.",
    402: "Check the credit of the account behind teacher.api_key.",
    403: "Check teacher.api_key, and what it may use.",
    404: "Check teacher.base_url (it should end in /v1) and teacher.model.",
}


class _Transient(Exception):
    """Another try may do better, after `wait` seconds at least; `unreachable`: there was no connection."""

    def __init__(self, reason: str, wait: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.unreachable = unreachable


@dataclass
class _Call:
    """What the workers of one `generate` share, and what they know of the server."""

    http: aiohttp.ClientSession
    params: SamplingParams
    reached: bool = False  # any reply has come
    answered: bool = False  # a completion has come
    refused: set[tuple[str, ...]] = field(default_factory=set)  # prompts, before the first completion
    unreachable: int = 0  # requests given up in a row, for want of a connection


class OpenAIBackend:
    """A model behind an OpenAI-compatible server; `timeout` in seconds for one attempt, all in.

    Raises `ConfigError` for a `base_url` or key that cannot work, and `BackendError` for a key that
    would cross a network in the clear.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        api_key: str = "",
        api: Literal["chat", "completions"] = "chat",
        system: str = "",
        concurrency: int = 16,
        timeout: float = 120,
        retries: int = 6,
    ) -> None:
        if system and api != "chat":
            raise ConfigError("teacher.system: a plain completion has no system message.\nSet teacher.api=chat.")
        self.model = model
        self.system = system
        self.chat = api == "chat"
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.endpoint = base_url.rstrip("/") + ("/chat/completions" if self.chat else "/completions")
        self._api_key = api_key.strip()
        self._loopback = _is_loopback(_host(base_url))
        if not (self._api_key.isascii() and self._api_key.isprintable()):
            raise ConfigError("teacher.api_key: it has characters that no HTTP header holds.\nCopy it again.")
        if self._api_key and not self._loopback and base_url.lower().startswith("http:"):
            raise BackendError(
                f"{base_url}: an API key would cross the network unencrypted.\n"
                "Set teacher.base_url to an https:// address, or leave teacher.api_key empty."
            )

    @property
    def identity(self) -> Mapping[str, str]:
        identity = {"model": self.model, "endpoint": self.endpoint}
        return {**identity, "system": self.system} if self.system else identity

    def check(self) -> str:
        """Ask for a few tokens, once; returns how it went, such as "200 OK in 0.12 s"."""
        once = copy.copy(self)
        once.retries = 0
        start = time.monotonic()
        ((_, completion),) = once.generate([Request(("Say hi.",))], SamplingParams(8))
        # A thinking model may spend so few tokens before its first word.
        if completion.finish_reason == "error" and not completion.error.startswith(EMPTY):
            raise BackendError(f"{self.endpoint}: {completion.error}\nCheck the server and teacher.model.")
        return f"200 OK in {time.monotonic() - start:.2f} s"

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Generator[tuple[int, Completion], None, None]:
        """Close the generator to cancel what is in flight; that leaves no thread and no connection."""
        if not requests:
            return
        results: SimpleQueue[tuple[int, Completion] | BaseException | None] = SimpleQueue()
        loop = _new_loop()
        task = loop.create_task(self._answer_all(requests, params, results))
        thread = threading.Thread(target=_drive, args=(loop, task, results), name="cotdistill-openai", daemon=True)
        thread.start()
        try:
            while isinstance(item := results.get(), tuple):
                yield item
            if item is not None:
                raise item
        finally:
            loop.call_soon_threadsafe(task.cancel)  # does nothing where the task has ended
            thread.join()
            loop.close()

    async def _answer_all(self, requests: Sequence[Request], params: SamplingParams, results: SimpleQueue[Any]) -> None:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._api_key:
            headers["Authorization"] = f"Bearer {self._api_key}"
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.concurrency),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            # A proxy of the environment, but never between here and here: it would see the key.
            trust_env=not self._loopback,
        )
        positions = iter(range(len(requests)))
        try:
            async with session, asyncio.TaskGroup() as workers:
                call = _Call(session, params)
                for _ in range(min(self.concurrency, len(requests))):
                    workers.create_task(self._work(call, positions, requests, results))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _work(
        self, call: _Call, positions: Iterator[int], requests: Sequence[Request], results: SimpleQueue[Any]
    ) -> None:
        for position in positions:
            while results.qsize() > self.concurrency:  # the reader is behind: buy no more for now
                await asyncio.sleep(0.01)
            results.put((position, await self._ask(call, requests[position])))

    async def _ask(self, call: _Call, request: Request) -> Completion:
        """One request, tried again as often as it may be."""
        try:
            body = orjson.dumps(self._body(request, call.params))
        except orjson.JSONEncodeError as error:  # a lone surrogate
            return Completion("", "error", error=f"the prompt cannot be sent: {error}")
        attempt = 0
        while True:
            try:
                return await self._once(call, request, body)
            except _Transient as error:
                failure = error
            last = attempt >= self.retries
            if failure.unreachable and not call.reached and (last or attempt + 1 >= FIRST_TRIES):
                raise BackendError(
                    f"no server answers at {self.endpoint} ({failure}).\nStart it, or set teacher.base_url."
                )
            if last:
                break
            # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            backoff = random.uniform(0, min(BACKOFF_CAP, BACKOFF_SECONDS * 2 ** min(attempt, 10)))
            await asyncio.sleep(max(failure.wait, backoff))
            attempt += 1
        call.unreachable = call.unreachable + 1 if failure.unreachable else 0
        if call.unreachable >= GIVE_UP_AFTER:
            raise BackendError(
                f"{self.endpoint}: the server is gone, {GIVE_UP_AFTER} requests in a row failed ({failure}).\n"
                "Run the same command again when it is back: all that was answered is stored."
            )
        return Completion("", "error", error=str(failure))

    def _body(self, request: Request, params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
        }
        if self.chat:
            messages = [{"role": "system", "content": self.system}] if self.system else []
            messages += [
                {"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(request.prompt)
            ]
            body["messages"] = messages
        else:
            body["prompt"] = "".join(request.prompt)
        if params.top_p < 1:
            body["top_p"] = params.top_p
        if params.stop:
            body["stop"] = list(params.stop)
        if params.temperature > 0:
            body["seed"] = request.seed(params)
        return body

    async def _once(self, call: _Call, request: Request, body: bytes) -> Completion:
        status, headers, reply = await self._post(call, body)
        call.reached, call.unreachable = True, 0
        if status == 200:
            completion = self._read(reply)
            call.answered = True
            return completion
        message = f"HTTP {status}: {self._clean(_server_message(reply))}"
        if advice := _advice(status, reply):
            raise BackendError(f"{self.endpoint}: {message}\n{advice}")
        if 300 <= status < 400:
            place = self._clean(headers.get("Location", "nowhere"))
            raise BackendError(
                f"{self.endpoint}: HTTP {status}, the server redirects to {place}.\n"
                "Set teacher.base_url to the address it should be; redirects are not followed."
            )
        if status in RETRIED or not 400 <= status < 500:
            raise _Transient(message, _retry_after(headers.get("Retry-After", "")))
        if not call.answered:
            call.refused.add(request.prompt)
            if len(call.refused) >= REFUSED_AT_FIRST:
                raise BackendError(
                    f"{self.endpoint}: {message}\nNo request was accepted. Check the teacher section of the config."
                )
        return Completion("", "error", error=message)

    async def _post(self, call: _Call, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        reply = bytearray()
        try:
            async with (
                asyncio.timeout(self.timeout),
                call.http.post(self.endpoint, data=body, allow_redirects=False) as response,
            ):
                async for chunk in response.content.iter_chunked(2**16):
                    reply += chunk
                    if len(reply) > MAX_REPLY_BYTES:
                        raise _Transient(f"the reply is over {MAX_REPLY_BYTES >> 20} MB")
                return response.status, response.headers, bytes(reply)
        except aiohttp.ClientConnectionError as error:
            # Out of file descriptors is our trouble, not the server's.
            unreachable = getattr(error, "errno", None) not in (errno.EMFILE, errno.ENFILE)
            raise _Transient(self._clean(str(error)), unreachable=unreachable) from None
        except TimeoutError:
            raise _Transient(f"no whole reply within {self.timeout:g} s") from None
        except aiohttp.ClientError as error:
            raise _Transient(f"broken reply: {self._clean(str(error))}") from None

    def _read(self, body: bytes) -> Completion:
        """The completion in a reply of status 200."""
        try:
            # Refuses lone surrogates and NaN too, which neither UTF-8 nor JSON can hold.
            reply = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _Transient(f"the reply is not JSON: {error}") from None
        try:
            choice = reply["choices"][0]
            reason = choice.get("finish_reason")
            text = choice["message"].get("content") if self.chat else choice["text"]
        except (LookupError, TypeError, AttributeError):
            raise _Transient(f"the reply has no completion: {self._clean(_server_message(body))}") from None
        if reason == "content_filter":
            return Completion("", "error", error="the server's content filter held the text back")
        if self.chat and not text:
            if reason == "length":  # the same request would end the same way, and cost the same
                return Completion("", "error", error=f"{EMPTY}: cut before its first word. Raise teacher.max_tokens.")
            raise _Transient(EMPTY)
        if not isinstance(text, str):
            raise _Transient(f"the reply has no completion: {self._clean(str(text))}")
        finish: FinishReason = "length" if reason == "length" else "stop"
        usage = reply.get("usage")
        return Completion(text, finish, _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens"))

    def _clean(self, text: str) -> str:
        """A server's words, safe to show: on one line, without the key, not long."""
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if self._api_key:
            text = text.replace(self._api_key, "[key]")
        return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def _host(base_url: str) -> str:
    """The host of a usable `base_url`."""
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"teacher.base_url: {base_url!r} is not an HTTP address.\nWrite it like http://localhost:8000/v1."
        )
    if "@" in url.netloc or url.query or url.fragment:  # it is stored and shown, so it holds no secret
        raise ConfigError(
            "teacher.base_url: it must have no user, password, query or fragment.\n"
            "Put the key in teacher.api_key, and end the address in /v1."
        )
    return url.hostname or ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], results: SimpleQueue[Any]) -> None:
    """Run `task` to its end; its exception, or None, is the last thing in `results`."""
    loop.run_until_complete(asyncio.wait([task]))
    results.put(None if task.cancelled() else task.exception())
    loop.run_until_complete(loop.shutdown_default_executor())  # it looked up host names


def _server_message(reply: bytes) -> str:
    """What a server says went wrong, in any of the shapes that are about."""
    try:
        value = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return reply[:2000].decode(errors="replace")
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    return str(value)


def _advice(status: int, reply: bytes) -> str | None:
    """What to do about a status that every request will meet; None where another may fare better."""
    if status == 429 and b"insufficient_quota" in reply[:2000]:
        return ADVICE[402]
    if status in (400, 422) and re.search(rb"(?i)\bmodel.{0,80}(not.found|does not exist)", reply[:2000]):
        return ADVICE[404]
    return ADVICE.get(status)


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which has a number or a date; 0 where it makes no sense."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(seconds, RETRY_AFTER_CAP) if seconds > 0 else 0.0  # NaN is not above 0


def _tokens(usage: Any, key: str) -> int:
    count = usage.get(key) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0
