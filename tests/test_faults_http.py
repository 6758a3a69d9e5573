"""The faults of servers and networks, by the number of their row; real processes on loopback."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from asking import ask as ask_backend
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question
from cotdistill.store import Store
from servers import Server, start_server

SAMPLED = SamplingParams(32, temperature=0.7)
KEY = "sk-canary-0123456789"
DIRECT = METHODS["zero_shot"]  # one request a question


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    gc.collect()  # a task or a transport that was not closed warns here, and warnings are errors
    assert set(threading.enumerate()) <= before


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as store:
        yield store


def bad_server(*flags: str, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    return start_server("--host", host, *flags, program="bad_server.py", host=host)


def questions(n: int) -> list[Question]:
    return [Question(str(i), f"What is {i} plus 7?", str(i + 7)) for i in range(n)]


def requests(n: int, samples: tuple[int, ...] = (0,), params: SamplingParams = SAMPLED) -> list[Request]:
    return [Request((f"Q: What is {i} plus 7?\nA:",), params, samples) for i in range(n)]


def backend_of(server: Server, **options: Any) -> OpenAIBackend:
    """`options` of the backend, and those of its limits."""
    limits = {name: options.pop(name) for name in list(options) if name in LimitsConfig.model_fields}
    return OpenAIBackend("fake", server.base_url, limits=LimitsConfig.model_validate(limits), **options)


def ask(server: Server, asked: Sequence[Request], **options: Any) -> list[Completion]:
    return ask_backend(backend_of(server, **options), asked)


def ask_stored(server: Server, n: int, store: Store, samples: int = 1, **options: Any) -> list[Generation]:
    backend = backend_of(server, **options)
    return list(generate(questions(n), backend, DIRECT, store, n=samples, temperature=0.7))


def right(i: int) -> str:
    return f" {i} plus 7 is {i} + 7 = {i + 7}."


def failures(store: Store) -> list[tuple[str, bytes]]:
    with sqlite3.connect(store.path) as db:
        return db.execute("SELECT error, reply FROM failures ORDER BY sample").fetchall()


# What is said of the peers in the table of faults, and what must hold here: all rows usable, no request in vain.
PEER_TABLE = {
    "429 with Retry-After, 10%": (("status:0.1", "--status", "429 Busy", "--retry-after", "1"), {}, 1.0),
    "500, 20%": (("status:0.2",), {}, 0.0),
    "truncated JSON, 5%": (("truncated:0.05",), {}, 0.0),
    "wrong schema, 5%": (("schema:0.05",), {}, 0.0),
    "empty completion, 5%": (("empty:0.05",), {}, 0.0),
    "silence, 2%": (("hang:0.02",), {"timeout": 1}, 1.0),
    "slow drip, 2%": (("drip:0.02",), {"timeout": 1}, 1.0),
}


@pytest.mark.parametrize("row", PEER_TABLE)
def test_peer_table(row: str, store: Store) -> None:
    flags, limits, longest = PEER_TABLE[row]
    with bad_server("--latency", "0.01") as server, Store(store.path.with_name("undisturbed.sqlite")) as undisturbed:
        start = time.monotonic()
        expected = ask_stored(server, 300, undisturbed)
        fault_free = time.monotonic() - start
    with bad_server("--latency", "0.01", "--fault", *flags) as server:
        start = time.monotonic()
        found = ask_stored(server, 300, store, **limits)
        seconds = time.monotonic() - start
        stats = server.stats()
    assert [g.text for g in found] == [g.text for g in expected] == [right(i) for i in range(300)]
    assert {g.finish_reason for g in found} == {"stop"}
    faulty = sum(stats["faults"].values())
    assert faulty > 0
    assert stats["requests"] <= 300 + faulty
    assert len(store) == 300
    assert failures(store) == []
    assert seconds < 2 * fault_free + longest + 15  # no benchmark: the machine may be busy


def test_peer_table_length_is_told_and_never_taken_as_whole(store: Store) -> None:
    with bad_server("--fault", "length:0.2") as server:
        found = ask_stored(server, 100, store)
        cut = server.stats()["faults"]["length"]
        assert server.stats()["requests"] == 100
    assert [g.finish_reason for g in found].count("length") == cut > 0
    assert all((g.text == right(i)) == (g.finish_reason == "stop") for i, g in enumerate(found))
