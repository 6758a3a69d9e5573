"""The files and batches endpoints of `fake_server.py`: a batch asks the server itself, line by line.

Its output is in another order than its input. `--stall` keeps the first call of a kind from an answer, for a
client that is killed then: an upload, the creation of a batch before and after it is made.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import aiohttp
from aiohttp import web


class FakeBatches:
    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--batch-seconds", type=float, default=0.0, help="how long a batch takes")
        parser.add_argument("--batch-expire", type=float, nargs="*", default=[], help="the share left undone, by batch")
        parser.add_argument("--batch-end", default="expired", help="how one ends that is left undone in part")
        parser.add_argument("--batch-fail", default="", help="each batch fails with this message")
        parser.add_argument("--batch-limit", type=int, default=10**9, help="lines that may wait at once")
        parser.add_argument("--batch-lines", default="", help="this text before the lines of each output file")
        parser.add_argument("--lose-output", type=int, default=0, help="so many downloads find no file")
        parser.add_argument("--poll-fail", type=int, default=0, help="so many looks at a batch fail")
        parser.add_argument("--break-output", type=int, default=0, help="so many downloads end in the middle")
        parser.add_argument("--file-late", type=int, default=0, help="creations that do not know their file yet")
        parser.add_argument("--stall", choices=["upload", "before", "after"], default="")
        parser.add_argument("--drop-reply", action="store_true", help="the first batch is made, its reply is lost")

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, list[str]] = {}  # the custom_ids of each batch
        self.calls: dict[str, int] = {"upload": 0, "create": 0, "poll": 0, "list": 0, "content": 0}
        self.tasks: set[asyncio.Task[None]] = set()

    def mount(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self.upload)
        app.router.add_get("/v1/files/{id}/content", self.content)
        app.router.add_post("/v1/batches", self.create)
        app.router.add_get("/v1/batches", self.list_batches)
        app.router.add_get("/v1/batches/{id}", self.get_batch)

    def stats(self) -> dict[str, Any]:
        return {"batches": [{**batch, "custom_ids": self.lines[i]} for i, batch in self.batches.items()], **self.calls}

    def refuse(self, request: web.Request, call: str) -> None:
        """Count a call; raises where the key is wrong."""
        self.calls[call] += 1
        given = request.headers.get("Authorization", "")
        if self.flags.require_key and given != f"Bearer {self.flags.require_key}":
            text = json.dumps({"error": {"message": f"Incorrect API key provided: {given.removeprefix('Bearer ')}"}})
            raise web.HTTPUnauthorized(text=text, content_type="application/json")

    async def upload(self, request: web.Request) -> web.Response:
        self.refuse(request, "upload")
        parts = {part.name: await part.read() async for part in await request.multipart()}  # type: ignore[union-attr]
        assert parts["purpose"] == b"batch"
        if self.flags.stall == "upload" and self.calls["upload"] == 1:
            await asyncio.sleep(3600)
        return web.json_response({"id": self.add_file(bytes(parts["file"])), "object": "file", "purpose": "batch"})

    def add_file(self, content: bytes) -> str:
        self.files[name := f"file-{len(self.files)}"] = content
        return name

    async def content(self, request: web.Request) -> web.StreamResponse:
        self.refuse(request, "content")
        content = self.files.get(request.match_info["id"])
        if content is None or (self.calls["content"] <= self.flags.lose_output):
            raise web.HTTPNotFound(text='{"error": {"message": "No such File object"}}')
        if self.calls["content"] > self.flags.break_output:
            return web.Response(body=content)
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        await response.prepare(request)
        await response.write(content[: len(content) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def create(self, request: web.Request) -> web.Response:
        self.refuse(request, "create")
        asked = await request.json()
        assert asked["completion_window"] == "24h"
        assert asked["input_file_id"] in self.files
        if self.calls["create"] <= self.flags.file_late:
            raise web.HTTPBadRequest(text='{"error": {"message": "Cannot find file file-0, or you may not read it"}}')
        first = self.calls["create"] == 1
        if first and self.flags.stall == "before":
            await asyncio.sleep(3600)
        lines = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        waiting = sum(len(self.lines[i]) for i, batch in self.batches.items() if batch["status"] == "in_progress")
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "errors": None,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            **asked,
        }
        self.batches[str(batch["id"])] = batch
        self.lines[str(batch["id"])] = [line["custom_id"] for line in lines]
        if self.flags.batch_fail:
            fail(batch, "invalid_json_line", self.flags.batch_fail)
        elif waiting + len(lines) > self.flags.batch_limit:
            fail(batch, "token_limit_exceeded", "Enqueued token limit reached.")
        else:
            task = asyncio.create_task(self.work(batch, lines, str(request.url.origin()), dict(request.headers)))
            self.tasks.add(task)
        if first and self.flags.stall == "after":
            await asyncio.sleep(3600)
        if first and self.flags.drop_reply:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(batch)

    async def list_batches(self, request: web.Request) -> web.Response:
        """Two a page, the newest first."""
        self.refuse(request, "list")
        names = list(reversed(self.batches))
        start = names.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = names[start : start + 2]
        return web.json_response(
            {
                "object": "list",
                "data": [self.batches[name] for name in page],
                "has_more": len(names) > start + 2,
                "last_id": page[-1] if page else None,
            }
        )

    async def get_batch(self, request: web.Request) -> web.Response:
        self.refuse(request, "poll")
        if self.calls["poll"] <= self.flags.poll_fail:
            raise web.HTTPServiceUnavailable
        if request.match_info["id"] not in self.batches:
            raise web.HTTPNotFound(text='{"error": {"message": "No batch found"}}')
        return web.json_response(self.batches[request.match_info["id"]])

    async def work(
        self, batch: dict[str, Any], lines: list[dict[str, Any]], origin: str, headers: dict[str, str]
    ) -> None:
        batch["status"] = "in_progress"
        await asyncio.sleep(self.flags.batch_seconds)
        shares = dict(enumerate(self.flags.batch_expire))
        done = len(lines) - round(len(lines) * shares.get(int(batch["id"].removeprefix("batch_")), 0.0))
        outputs: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        async with aiohttp.ClientSession(headers={"Authorization": headers.get("Authorization", "")}) as session:
            for line in lines[:done]:
                assert line["method"] == "POST"
                assert line["url"] == batch["endpoint"]
                async with session.post(origin + line["url"], json=line["body"]) as response:
                    reply = {"status_code": response.status, "request_id": "req_0", "body": await response.json()}
                output = {"id": "batch_req_0", "custom_id": line["custom_id"], "response": reply, "error": None}
                (outputs if response.status == 200 else errors).append(output)
        for line in lines[done:]:
            problem = {"code": "batch_expired", "message": "This request could not be executed in time."}
            errors.append({"id": "batch_req_0", "custom_id": line["custom_id"], "response": None, "error": problem})
        batch["request_counts"] |= {"completed": len(outputs), "failed": len(errors)}
        for name, content in (("output_file_id", outputs), ("error_file_id", errors)):
            if content:
                text = self.flags.batch_lines + "".join(json.dumps(value) + "\n" for value in reversed(content))
                batch[name] = self.add_file(text.encode())
        batch["status"] = "completed" if done == len(lines) else self.flags.batch_end


def fail(batch: dict[str, Any], code: str, message: str) -> None:
    problem = {"code": code, "message": message, "line": 1, "param": None}
    batch |= {"status": "failed", "errors": {"object": "list", "data": [problem]}}
