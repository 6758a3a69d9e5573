"""A server on loopback that speaks the OpenAI wire format and is never the bottleneck.

    with loopback(latency=0.5) as server:
        ask(server.base_url)
        server.stats()  # {"requests": ..., "completions": ..., "first": ..., "last": ..., "cpu": ...}

One process, one asyncio protocol on uvloop: it looks for the length and for `n` in what came, and writes
a reply that is ready made but for a number: n rationales of 300 bytes, no two the same, with usage. It
checks nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import uvloop

from machine import settle

RATIONALE = (
    " Shop %08d starts with 48 boxes and each box holds 12 pencils, so there are 48 * 12 = 576 pencils in all. "
    "It sells 219 of them before noon, which leaves 576 - 219 = 357. In the afternoon it sells a third of what is "
    "left, 357 / 3 = 119 pencils. At the end of the day 357 - 119 = 238 pencils are there."
)
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
CHOICES = re.compile(rb'"n": *(\d+)')


@dataclass
class Stats:
    """`first` and `last`: when a request came, in seconds of the machine's monotonic clock."""

    requests: int = 0
    completions: int = 0
    first: float = 0.0
    last: float = 0.0
    cpu: float = 0.0  # seconds of this process


@cache
def reply(chat: bool, n: int) -> bytes:
    """The whole reply to a request for `n` completions, with a %08d in each."""
    choices = [
        {
            "index": index,
            **({"message": {"role": "assistant", "content": RATIONALE}} if chat else {"text": RATIONALE}),
            "logprobs": None,
            "finish_reason": "stop",
        }
        for index in range(n)
    ]
    body = {
        "id": "cmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1_700_000_000,
        "model": "fake",
        "choices": choices,
        "usage": {"prompt_tokens": 52, "completion_tokens": 84 * n, "total_tokens": 52 + 84 * n},
    }
    text = json.dumps(body)
    return http_reply(text, len(text % ((0,) * n)))


def http_reply(text: str, length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}".encode()


class Connection(asyncio.Protocol):
    """One client's connection, kept alive; requests may come in parts or several at once."""

    def __init__(self, stats: Stats, latency: float) -> None:
        self.stats = stats
        self.latency = latency
        self.loop = asyncio.get_running_loop()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            length = LENGTH.search(head)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(self.buffer) < whole:
                return
            body, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
            self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        stats = self.stats
        if head.startswith(b"GET"):
            usage = resource.getrusage(resource.RUSAGE_SELF)
            stats.cpu = usage.ru_utime + usage.ru_stime
            text = json.dumps(vars(stats))
            self.transport.write(http_reply(text, len(text)))
            return
        stats.last = time.monotonic()
        stats.first = stats.first or stats.last
        choices = CHOICES.search(body)
        n = int(choices[1]) if choices else 1
        body = reply(b"/chat/completions " in head[:100], n) % (*range(stats.completions, stats.completions + n),)
        stats.requests += 1
        stats.completions += n
        if self.latency:
            self.loop.call_later(self.latency, self.transport.write, body)
        else:
            self.transport.write(body)


async def serve(latency: float, port: int) -> None:
    stats = Stats()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stats, latency), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@dataclass
class Server:
    """A running server."""

    port: int

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/stats", timeout=60) as answer:
            stats: dict[str, Any] = json.load(answer)
        return stats


@contextmanager
def loopback(latency: float = 0.0, core: int | None = None, port: int = 0) -> Iterator[Server]:
    """A server process that is listening, killed at the end; on one `core`, or where the kernel likes."""
    command = [sys.executable, __file__, f"--latency={latency}", f"--port={port}"]
    if core is not None:
        command.append(f"--core={core}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"no server on port {port}: its message is above"
            yield Server(int(line))
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--core", type=int, help="run on this core only")
    arguments = parser.parse_args()
    settle(arguments.core)
    gc.freeze()
    uvloop.run(serve(arguments.latency, arguments.port))


if __name__ == "__main__":
    main()
