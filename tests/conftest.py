"""What several test modules share."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator

import pytest

from servers import Server, start_server

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported: threads that spin take another's core


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server on loopback that answers every request."""
    with start_server() as running:
        yield running


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Nor a task or a transport."""
    before = set(threading.enumerate())
    yield
    gc.collect()  # one that was not closed warns here, and warnings are errors
    assert set(threading.enumerate()) <= before
