"""The endpoint: OpenAI's two APIs in front of an engine, with its limits. aiohttp.web serves.

    app = Server(student, reader, engine, metrics, limits, key).app()

Every answer that is no success is JSON in OpenAI's form. What is asked and written is never logged.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import hdrs, web

from cotdistill.backends.wire import is_loopback
from cotdistill.completions import Completion
from cotdistill.errors import BackendError
from cotdistill.serving.asking import ApiError, Limits, Reader
from cotdistill.serving.engine import Engine, Full, Job
from cotdistill.serving.metrics import Metrics
from cotdistill.serving.pieces import Piece
from cotdistill.serving.replies import Shape
from cotdistill.serving.student import Student

LEFT = 499  # the client did, before it had its answer
FAREWELL_SECONDS = 1.0  # for the last words to a client that may not be reading
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _BrokenOff(Exception):
    """A response that did not come to its end, and what it counts as."""

    def __init__(self, response: web.StreamResponse, status: int) -> None:
        super().__init__(status)
        self.response, self.status = response, status


class Server:
    """One student's endpoint; once `draining`, it takes no more requests. `only_here`: asked by a local name alone."""

    def __init__(
        self,
        student: Student,
        reader: Reader,
        engine: Engine,
        metrics: Metrics,
        limits: Limits,
        key: str = "",
        only_here: bool = False,
    ) -> None:
        self.student, self.reader, self.engine = student, reader, engine
        self.metrics, self.limits, self.key, self.only_here = metrics, limits, key, only_here
        self.draining = False
        self.started = int(time.time())
        self.usual = 1.0  # seconds of a request, lately
        metrics.watch("writing", "Completions that are being written.", lambda: len(engine.writing))
        metrics.watch("waiting", "Completions that wait for a place.", lambda: len(engine.waiting))

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=self.limits.body)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{name:.+}", self._model)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count requests by how they ended."""
        status = LEFT  # where the handler is cancelled
        try:
            response = await self._handled(request, handler)
            status = response.status
            return response
        except _BrokenOff as broken:
            status = broken.status
            return broken.response
        except Exception:
            status = 500
            raise
        finally:
            known = request.match_info.route.resource
            self.metrics.requests.labels(known.canonical if known else "other", str(status)).inc()

    async def _handled(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Ask for the key, and give errors their form."""
        try:
            self._refuse_other_names(request)
            self._refuse_without_key(request)
            return await handler(request)
        except ApiError as error:
            return web.json_response(error.json(), status=error.status, headers=error.headers)
        except web.HTTPException as error:
            response = web.json_response(_of_http(error, self.limits).json(), status=error.status)
            if hdrs.ALLOW in error.headers:
                response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            return response

    def _refuse_other_names(self, request: web.Request) -> None:
        """A page of another site can have its own name lead to this machine, and then ask as if it were from here."""
        if self.only_here and not is_loopback(request.url.host or ""):
            raise ApiError(403, "ask by 127.0.0.1 or localhost, or start the server with a key.", "other_name")

    def _refuse_without_key(self, request: web.Request) -> None:
        if not self.key or request.path == "/health":
            return
        given = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), self.key.encode()):
            raise ApiError(
                401,
                "a key is needed: Authorization: Bearer KEY",
                "invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, chat: bool) -> web.StreamResponse:
        """The reply to a request within its time, whole or as a stream; what nobody waits for is given up."""
        if request.content_type != "application/json":  # which a page of another site cannot send without being asked
            raise ApiError(415, "the body must be JSON: Content-Type: application/json.")
        began = time.monotonic()
        response: web.StreamResponse
        stream: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(self.limits.seconds):
                job = self._submit(await request.read(), chat)
                try:
                    first = await _next(job)
                    if job.asked.stream:
                        response = stream = await _open(request)
                        await _send_all(stream, job, first)
                    else:
                        response = web.json_response(await _whole(job, first))
                    self.usual += (time.monotonic() - began - self.usual) / 8
                    return response
                finally:
                    self.engine.give_up(job)
        except TimeoutError:
            failure = ApiError(504, f"not done within {self.limits.seconds:g} seconds, and given up.", "timeout")
        except BackendError as error:
            failure = ApiError(500, str(error))
        except ConnectionError:
            raise _BrokenOff(web.Response() if stream is None else stream, LEFT) from None
        finally:
            self.metrics.seconds.observe(time.monotonic() - began)
        if stream is None:
            raise failure
        await _break_off(request, stream, failure)
        raise _BrokenOff(stream, failure.status)

    def _submit(self, content: bytes, chat: bool) -> Job:
        if self.draining:
            raise ApiError(503, "the server is about to end.", "draining")
        asked = self.reader.read(content, chat)
        try:
            job = self.engine.submit(asked)
        except Full:
            wait = min(60, max(1, math.ceil(self.usual)))
            raise ApiError(
                429,
                f"the queue is full: {self.engine.most} completions are written or wait. Try again later.",
                "queue_full",
                headers={"Retry-After": str(wait)},
            ) from None
        self.metrics.prompt_tokens.inc(sum(map(len, asked.prompts)))
        return job

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [*map(self._described, self._names)]})

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._names:
            raise ApiError(404, f"no such model; there is {self.student.name}.", "model_not_found", "model")
        return web.json_response(self._described(name))

    @property
    def _names(self) -> tuple[str, str]:
        return self.student.name, self.student.pinned

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "cotdistill"}

    async def _health(self, _request: web.Request) -> web.Response:
        state = "draining" if self.draining else "ok"
        found = {"status": state, "writing": len(self.engine.writing), "waiting": len(self.engine.waiting)}
        return web.json_response(found, status=503 if self.draining else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _of_http(error: web.HTTPException, limits: Limits) -> ApiError:
    """What aiohttp itself refuses."""
    if error.status == 413:
        return ApiError(413, f"the body has more than {limits.body:,} bytes.", "too_large")
    return ApiError(error.status, f"{error.reason}: POST /v1/chat/completions or /v1/completions; GET /v1/models.")


async def _next(job: Job) -> Piece:
    """Raises what went wrong in the model's thread."""
    piece = await job.pieces.get()
    if isinstance(piece, Exception):
        raise piece
    return piece


async def _whole(job: Job, first: Piece) -> dict[str, Any]:
    pieces: list[list[Piece]] = [[] for _ in range(job.count)]
    pieces[first.index].append(first)
    left = job.count - bool(first.completion)
    while left:
        piece = await _next(job)
        pieces[piece.index].append(piece)
        left -= bool(piece.completion)
    return Shape(job.asked).whole(pieces)


async def _open(request: web.Request) -> web.StreamResponse:
    """A stream of server-sent events, which nothing between here and the client is to keep back."""
    stream = web.StreamResponse(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    stream.content_type = "text/event-stream"
    stream.charset = "utf-8"
    await stream.prepare(request)
    return stream


async def _send_all(stream: web.StreamResponse, job: Job, first: Piece) -> None:
    shape, completions, piece = Shape(job.asked), list[Completion](), first
    while True:
        await _send(stream, shape.chunk(piece))
        completions += [piece.completion] if piece.completion else []
        if len(completions) == job.count:
            break
        piece = await _next(job)
    if job.asked.include_usage:
        await _send(stream, shape.last(completions))
    await stream.write(b"data: [DONE]\n\n")
    await stream.write_eof()


async def _send(stream: web.StreamResponse, event: dict[str, Any]) -> None:
    await stream.write(b"data: %s\n\n" % json.dumps(event).encode())


async def _break_off(request: web.Request, stream: web.StreamResponse, failure: ApiError) -> None:
    """Say in the stream why it ends here; a client that does not read is cut off."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await _send(stream, failure.json())
            await stream.write_eof()
            return
    if request.transport is not None:
        request.transport.abort()
