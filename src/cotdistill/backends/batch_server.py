"""The files and batches endpoints of an OpenAI-compatible server.

    server = BatchServer("https://api.openai.com/v1", key, LimitsConfig())
    file_id = await server.upload(file)
    batch = await server.create(file_id, "/v1/chat/completions", nonce)
    async for lines in server.lines(batch["output_file_id"]): ...

What may pass is tried again here; what may not is a `BackendError`, a `Refused` where the server says so.
https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import IO, Any, TypeVar
from urllib.parse import quote

import aiohttp
import orjson

from cotdistill.backends.exchange import FIRST_TRIES, backoff, no_server, not_trusted, open_session
from cotdistill.backends.wire import (
    MAX_REPLY_BYTES,
    RETRIED,
    Transient,
    checked_key,
    clean,
    refusal,
    retry_after,
)
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError

MAX_LINE_BYTES = 16 * 2**20
CHUNK_BYTES = 2**18
SLOWEST = 16 * 2**10  # bytes a second that a file must come or go at, when `timeout` has passed
MAX_SILENT = 60  # looks at a batch, of which most are a minute apart
MAX_PAGES = 1000
NONCE = "cotdistill"  # the key of a batch's metadata under which it stands
# A fresh file is not known to all of a server at once.
FILE_TO_COME = re.compile(r"(?i)(cannot|can't|could not) find file|file.{0,80}(not (found|ready|yet)|pending)")
NO_BATCHES = "Check teacher.base_url (it should end in /v1); not every server has the files and batches endpoints."

T = TypeVar("T")
Body = Callable[[], AsyncIterator[bytes]]


class Refused(BackendError):
    """The server answered a call with a `status` that another try does not change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BatchServer:
    """Its calls; `limits.timeout` is for one attempt, of a file for one that does not move.

    Raises `ConfigError` for a `base_url` or key that cannot work, and `BackendError` for a key that
    would cross a network in the clear.
    """

    def __init__(self, base_url: str, api_key: str, limits: LimitsConfig) -> None:
        self.base_url = base_url.rstrip("/")
        self.timeout, self.retries = limits.timeout, limits.retries
        self._api_key = checked_key(api_key, base_url)
        self._reached = False  # any reply has come
        self._silent = 0  # looks at a batch in a row that brought no reply
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def upload(self, file: IO[bytes]) -> str:
        """The id of a new input file with the content of `file`."""
        mark = secrets.token_hex(16)
        head = (
            f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="batch.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        tail = f"\r\n--{mark}--\r\n".encode()
        size = file.seek(0, 2)

        async def parts() -> AsyncIterator[bytes]:
            yield head
            file.seek(0)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
            yield tail

        headers = {
            "Content-Type": f"multipart/form-data; boundary={mark}",
            "Content-Length": str(len(head) + size + len(tail)),
        }

        async def once() -> str:
            reply = await self._json(self._sent("POST", "/files", parts, headers, self.timeout + size / SLOWEST))
            if not isinstance(file_id := reply.get("id"), str):
                raise Transient("the reply to an upload has no file id")
            return file_id

        return await self._tried(once)

    async def create(self, file_id: str, endpoint: str, nonce: str, settle: float) -> dict[str, Any]:
        """Make a batch of an uploaded file, once: where a reply was lost, the batch is looked for.

        `settle` are the seconds that the server may take to list it.
        """
        content = orjson.dumps(
            {
                "input_file_id": file_id,
                "endpoint": endpoint,
                "completion_window": "24h",
                "metadata": {NONCE: nonce},
            }
        )

        async def parts() -> AsyncIterator[bytes]:
            yield content

        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        attempt = 0
        while True:
            try:
                return await self._batch(self._sent("POST", "/batches", parts, headers))
            except Transient as error:
                error.wait = max(error.wait, settle)
                await self._pause(attempt, error)
            except Refused as error:
                if not FILE_TO_COME.search(str(error)) or attempt >= self.retries:
                    raise
                await self._pause(attempt, Transient(str(error)))
            if found := await self.find(file_id, nonce):
                return found
            attempt += 1

    async def find(self, file_id: str, nonce: str) -> dict[str, Any] | None:
        """The batch that was made of a file, if there is one."""
        after = ""
        for _ in range(MAX_PAGES):
            page = await self._tried(partial(self._page, after))
            data = page.get("data")
            batches: list[dict[str, Any]] = list(filter(_is_batch, data)) if isinstance(data, list) else []
            for batch in batches:
                metadata = batch.get("metadata")
                named = isinstance(metadata, dict) and metadata.get(NONCE) == nonce
                if named or batch.get("input_file_id") == file_id:
                    return batch
            last = after
            if batches:
                after = f"&after={quote(batches[-1]['id'], safe='')}"
            if not page.get("has_more") or after == last:
                return None
        return None

    async def _page(self, after: str) -> dict[str, Any]:
        return await self._json(self._sent("GET", f"/batches?limit=100{after}"))

    async def batch(self, batch_id: str) -> dict[str, Any] | None:
        """A batch as it stands; None while the server is away, which a day's wait must bear, up to an hour."""

        async def once() -> dict[str, Any]:
            return await self._batch(self._sent("GET", f"/batches/{quote(batch_id, safe='')}"))

        try:
            batch = await (once() if self._reached else self._tried(once))
        except Transient as error:
            self._silent += 1
            if self._silent >= MAX_SILENT:
                raise self._given_up(error, self._silent) from None
            await asyncio.sleep(error.wait)
            return None
        self._silent = 0
        return batch

    async def lines(self, file_id: str) -> AsyncGenerator[list[bytes], None]:
        """The lines of a file as they come, some at a time; from the start again where it broke off.

        A line over 16 MB is left out. Raises `Refused` where the file is not there.
        """
        attempt = farthest = 0
        while True:
            received = 0
            try:
                async for chunk, lines in self._lines(file_id):
                    received += chunk
                    yield lines
                return
            except Transient as error:
                attempt = 0 if received > farthest else attempt + 1
                farthest = max(farthest, received)
                await self._pause(attempt, error)
            except Refused as error:
                if error.status != 404 or attempt >= self.retries:
                    raise
                await self._pause(attempt, Transient(str(error)))  # it may be so new that not all know of it
                attempt += 1

    async def _lines(self, file_id: str) -> AsyncGenerator[tuple[int, list[bytes]], None]:
        """(bytes received, the lines that they end) of a file."""
        async with self._sent("GET", f"/files/{quote(file_id, safe='')}/content") as response:
            now = asyncio.get_running_loop().time
            rest, skipping = b"", False
            left = self.timeout  # seconds of waiting; what the reader takes between is its own affair
            while True:
                began = now()
                async with self._failures_named(left):
                    chunk = await response.content.read(CHUNK_BYTES)
                left = min(left + len(chunk) / SLOWEST - (now() - began), self.timeout)
                *lines, rest = (rest + chunk).split(b"\n")
                if lines and skipping:
                    del lines[0]
                    skipping = False
                if len(rest) > MAX_LINE_BYTES:
                    rest, skipping = b"", True
                yield len(chunk), lines if chunk else [*lines, b"" if skipping else rest]
                if not chunk:
                    return

    async def _tried(self, once: Callable[[], Awaitable[T]]) -> T:
        """What `once` brings, tried again as often as it may be."""
        attempt = 0
        while True:
            try:
                return await once()
            except Transient as error:
                await self._pause(attempt, error)
            attempt += 1

    async def _batch(self, sent: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> dict[str, Any]:
        if not _is_batch(batch := await self._json(sent)):
            raise Transient("the reply is no batch")
        return batch

    async def _json(self, sent: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> dict[str, Any]:
        """The JSON object that one attempt at a call brings."""
        async with sent as response:
            reply = await self._read(response)
        try:
            value = orjson.loads(reply)
        except orjson.JSONDecodeError as error:
            raise Transient(f"the reply is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise Transient("the reply is not a JSON object")
        return value

    @asynccontextmanager
    async def _sent(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of status 2xx in so many seconds (0: `timeout`), whose content is still to be read."""
        url = self.base_url + path
        async with self._failures_named(seconds or self.timeout):
            response = await self._http().request(
                method, url, data=body and body(), headers=headers, allow_redirects=False
            )
        try:
            self._reached = True
            if not 200 <= response.status < 300:
                raise self._failure(url, response, await self._read(response))
            yield response
        finally:
            response.close()

    @asynccontextmanager
    async def _failures_named(self, seconds: float) -> AsyncIterator[None]:
        """What the network does to a block, as a `Transient`; it has so many seconds."""
        key = self._api_key
        try:
            async with asyncio.timeout(seconds):
                yield
        except aiohttp.ClientConnectionError as error:
            if isinstance(error, aiohttp.ClientSSLError) and not self._reached:
                raise not_trusted(self.base_url, error, key) from None
            raise Transient(clean(str(error), key), unreachable=True) from None
        except TimeoutError:
            raise Transient(f"no whole reply within {max(seconds, 0):.3g} s") from None
        except aiohttp.ClientError as error:
            raise Transient(f"broken reply: {clean(str(error), key)}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        reply = bytearray()
        async with self._failures_named(self.timeout):
            async for chunk in response.content.iter_chunked(2**16):
                reply += chunk
                if len(reply) > MAX_REPLY_BYTES:
                    raise Transient(f"the reply is over {MAX_REPLY_BYTES >> 20} MB")
        return bytes(reply)

    def _failure(self, url: str, response: aiohttp.ClientResponse, reply: bytes) -> Exception:
        status = response.status
        message, advice = refusal(status, response.headers, reply, self._api_key)
        if status in (404, 405):
            advice = NO_BATCHES
        elif not advice and (status in RETRIED or status >= 500):
            return Transient(message, retry_after(response.headers))
        return Refused(f"{url}: {message}\n{advice or 'Check the teacher section of the config.'}", status)

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            # A minute between two calls outlives a connection that is kept.
            self._session = open_session(self.base_url, self._api_key, keep_alive=False)
        return self._session

    async def _pause(self, attempt: int, failure: Transient) -> None:
        """Wait before another attempt; raises `BackendError` where there were enough."""
        if failure.unreachable and not self._reached and attempt + 1 >= min(FIRST_TRIES, self.retries + 1):
            raise no_server(self.base_url, failure)
        if attempt >= self.retries:
            raise self._given_up(failure, attempt + 1)
        await asyncio.sleep(backoff(attempt, failure.wait))

    def _given_up(self, failure: Transient, times: int) -> BackendError:
        return BackendError(
            f"{self.base_url}: {failure}, {times} times in a row.\n"
            "Run the same command again when it is better: what was submitted is noted."
        )


def _is_batch(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("id"), str) and isinstance(value.get("status"), str)
