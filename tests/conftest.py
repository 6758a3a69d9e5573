"""What several test modules share."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from object_store import start_s3
from servers import Server, start_server
from tiny import tiny_model, tiny_t5

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: threads that spin take another's core


def pytest_collection_finish() -> None:
    """What the modules brought in stays; `gc.collect` in each of hundreds of tests need not go through it (0.2 s)."""
    gc.freeze()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on loopback that answers every request."""
    with start_server() as running:
        yield running


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal student, to be trained."""
    return tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def t5_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder-decoder one."""
    return tiny_t5(tmp_path_factory.mktemp("tiny") / "t5")


@pytest.fixture(scope="session")  # s3fs keeps what it is connected to, by what it is told and not by the environment
def bucket() -> Iterator[str]:
    """Of an S3-compatible server on loopback, which the environment names."""
    pytest.importorskip("s3fs")
    with start_s3() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield "s3://bucket"


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Nor a task or a transport."""
    before = set(threading.enumerate())
    yield
    gc.collect()  # one that was not closed warns here, and warnings are errors
    assert set(threading.enumerate()) <= before
