"""A raw server that answers right, or does what no HTTP library would let it do, for tests.

    python tests/bad_server.py --fault drip:0.02 --fault truncated:0.05 --rate-limit 100

Its port is the first line of stdout. A request gets the fault of its draw, which follows from a hash of its
prompt and how often that was seen, else the right answer. GET /stats tells what it has seen.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from fake_server import answer, share

MEGABYTE = 2**20


@dataclass
class Asked:
    """A request, and what would be right to answer."""

    flags: argparse.Namespace
    body: dict[str, Any]
    prompt: str
    model: str

    @property
    def texts(self) -> list[str]:
        seed = self.body.get("seed", 0)
        return [answer(self.prompt, seed + i, self.flags.wrong_rate) for i in range(self.body.get("n", 1))]

    @property
    def usage(self) -> dict[str, int]:
        return {"prompt_tokens": len(self.prompt.split()), "completion_tokens": sum(len(t.split()) for t in self.texts)}

    def reply(self, texts: list[str] | None = None, reason: str = "stop", **message: Any) -> dict[str, Any]:
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text, **message}, "finish_reason": reason}
            for i, text in enumerate(self.texts if texts is None else texts)
        ]
        usage = {} if self.flags.no_usage else {"usage": self.usage}
        return {"model": self.model, "choices": choices, **usage}

    @property
    def right(self) -> bytes:
        return json.dumps(self.reply()).encode()


def http(content: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", *headers]
    lines.append(f"Content-Length: {len(content) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def as_json(value: object) -> bytes:
    return http(json.dumps(value).encode())


def problem(asked: Asked, status: str) -> bytes:
    headers = [f"Retry-After: {asked.flags.retry_after}"] if asked.flags.retry_after else []
    headers += [f"Location: {asked.flags.location}"] if asked.flags.location else []
    return http(json.dumps({"error": {"message": asked.flags.message}}).encode(), status, *headers)


async def drip(asked: Asked) -> AsyncIterator[bytes]:
    for byte in http(asked.right):
        yield bytes([byte])
        await asyncio.sleep(0.1)


async def silence(asked: Asked) -> AsyncIterator[bytes]:
    await asyncio.sleep(3600)
    yield b""


async def huge(asked: Asked) -> AsyncIterator[bytes]:
    yield http(b"", length=1024 * MEGABYTE)
    for _ in range(1024):
        yield b" " * MEGABYTE


async def headers(asked: Asked) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for i in range(1024):
        yield (f"X-{i}: ".encode() + b"x" * 1000 + b"\r\n") * 1000


async def header(asked: Asked) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nX-Long: "
    for _ in range(1024):
        yield b"x" * MEGABYTE


async def chunks(asked: Asked) -> AsyncIterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(1024):
        yield b"100000\r\n" + b" " * MEGABYTE + b"\r\n"


@cache
def bomb() -> bytes:
    return gzip.compress(bytes(256 * MEGABYTE), 1)


CUT = b""  # after it the connection is closed
# What each fault sends: bytes at once, or in its own time.
FAULTS: dict[str, Callable[[Asked], bytes | AsyncIterator[bytes]]] = {
    "status": lambda a: problem(a, a.flags.status),
    "hang": silence,
    "drip": drip,
    "huge": huge,
    "chunks": chunks,
    "headers": headers,
    "header": header,
    "bomb": lambda a: http(bomb(), "200 OK", "Content-Encoding: gzip"),
    "dropped": lambda a: CUT,
    "short_body": lambda a: http(a.right[: len(a.right) // 2], length=len(a.right)),
    "garbage": lambda a: b"\x16\x03\x01 not HTTP at all\r\n\r\n",
    "truncated": lambda a: http(a.right[: len(a.right) // 2]),
    "schema": lambda a: as_json({"result": a.texts}),
    "no_message": lambda a: as_json({"choices": [{"index": 0, "text": 5}]}),
    "list": lambda a: as_json([a.reply()]),
    "empty": lambda a: as_json(a.reply([""])),
    "null": lambda a: as_json(a.reply([None])),  # type: ignore[list-item]
    "length": lambda a: as_json(a.reply([text[: len(text) // 2] for text in a.texts], "length")),
    "no_word": lambda a: as_json(a.reply([""], "length")),
    "refusal": lambda a: as_json(a.reply([""], refusal="\x1b[31mI will not: " + a.flags.message)),
    "filter": lambda a: as_json(a.reply([""], "content_filter")),
    "nan": lambda a: http(a.right.replace(b'"index": 0', b'"index": NaN')),
    "twice": lambda a: http(a.right.replace(b'"content": "', b'"content": " 1.", "content": "')),
    "choices_twice": lambda a: http(b'{"choices": [], ' + a.right[1:]),
    "surrogate": lambda a: http(a.right.replace(b'"content": "', b'"content": "\\ud800')),
    "not_utf8": lambda a: http(a.right.replace(b'"content": "', b'"content": "\xff')),
    "reversed": lambda a: as_json({**a.reply(), "choices": a.reply()["choices"][::-1]}),
    "fewer": lambda a: as_json(a.reply(a.texts[: max(1, len(a.texts) - 1)])),
    "more": lambda a: as_json(a.reply([*a.texts, " 999."])),
    "no_n": lambda a: problem(a, "400 Bad Request") if a.body.get("n", 1) > 1 else as_json(a.reply()),
}


class BadServer:
    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.prompts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.tokens = self.requests = self.at_once = self.most_at_once = self.connections = 0
        self.keys: set[str] = set()
        self.paths: set[str] = set()
        self.times: list[float] = []  # of right answers
        self.level, self.at = float(flags.burst or max(1, flags.rate_limit / 10)), time.monotonic()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self.exchange(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, EOFError):
            pass  # the client has left
        finally:
            writer.transport.abort()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        content = await reader.readexactly(int(fields.get("content-length", 0)))
        method, path, _ = head[0].split(" ")
        if path == "/stats":
            writer.write(as_json(self.stats()))
            await writer.drain()
            return True
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.requests += 1
        self.keys.add(fields.get("authorization", ""))
        self.paths.add(f"{method} {path}")
        try:
            await asyncio.sleep(self.flags.latency)
            return await self.send(json.loads(content or b"{}"), writer)
        finally:
            self.at_once -= 1

    async def send(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        if not self.lets_in():
            self.faults["busy"] += 1
            writer.write(problem(Asked(self.flags, body, "", ""), "429 Too Many Requests"))
            return True
        prompt = "".join(message["content"] for message in body.get("messages", []))
        self.prompts[prompt] += 1
        changed = self.flags.change_after and self.requests > self.flags.change_after
        asked = Asked(self.flags, body, prompt, "fake-2" if changed else "fake-1")
        fault = self.draw(f"{prompt}|{body.get('seed', 0)}|{self.prompts[prompt]}")
        self.faults[fault] += 1
        if fault not in ("status", "no_n"):
            self.tokens += sum(asked.usage.values())
        sent = FAULTS[fault](asked) if fault else http(asked.right)
        if not fault:
            self.times.append(time.monotonic())
        if isinstance(sent, bytes):
            writer.write(sent)
            return sent != CUT and fault not in ("short_body", "garbage")
        async for part in sent:
            writer.write(part)
            await writer.drain()
        return False

    def draw(self, chance: str) -> str:
        if self.requests <= self.flags.good_first:
            return ""
        for fault, rate in self.flags.fault:
            if share(fault, chance) < rate:
                return str(fault)
        return ""

    def lets_in(self) -> bool:
        """The token bucket of --rate-limit."""
        if not self.flags.rate_limit:
            return True
        now = time.monotonic()
        burst = self.flags.burst or max(1, self.flags.rate_limit / 10)
        self.level, self.at = min(burst, self.level + (now - self.at) * self.flags.rate_limit), now
        if self.level < 1:
            return False
        self.level -= 1
        return True

    def stats(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "prompts": self.prompts,
            "faults": {fault: count for fault, count in self.faults.items() if fault},
            "tokens": self.tokens,
            "most_at_once": self.most_at_once,
            "connections": self.connections,
            "keys": sorted(self.keys),
            "paths": sorted(self.paths),
            "times": self.times,
        }


def fault_and_rate(text: str) -> tuple[str, float]:
    fault, _, rate = text.partition(":")
    if fault not in FAULTS:
        raise ValueError(f"no fault {fault}")
    return fault, float(rate or 1)


async def serve(flags: argparse.Namespace) -> None:
    context = None
    if flags.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(flags.certificate)
    served = await asyncio.start_server(
        BadServer(flags).connected, flags.host, flags.port, backlog=1024, limit=MEGABYTE, ssl=context
    )
    print(served.sockets[0].getsockname()[1], flush=True)
    await served.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--certificate", default="", help="PEM of certificate and key: speak TLS")
    parser.add_argument("--fault", type=fault_and_rate, action="append", default=[], help="NAME:SHARE, several")
    parser.add_argument("--good-first", type=int, default=0, help="so many requests without a fault")
    parser.add_argument("--status", default="500 Oh", help="of the fault of that name")
    parser.add_argument("--message", default="something went wrong")
    parser.add_argument("--retry-after", default="", help="with that status, and with a 429 of --rate-limit")
    parser.add_argument("--location", default="")
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--rate-limit", type=float, default=0.0, help="requests a second, 429 beyond")
    parser.add_argument("--burst", type=float, default=0.0, help="that it lets in at once; 0: a tenth of a second's")
    parser.add_argument("--change-after", type=int, default=0, help="another model answers after so many requests")
    parser.add_argument("--wrong-rate", type=float, default=0.0)
    parser.add_argument("--no-usage", action="store_true")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
