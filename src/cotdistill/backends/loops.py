"""An event loop of a generator's own, driven from the caller's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


@contextmanager
def own_loop() -> Iterator[tuple[asyncio.AbstractEventLoop, Run]]:
    """A new loop, and a function that runs a coroutine in it to its end; closed with the block."""
    loop = _new_loop()

    def run(work: Coroutine[Any, Any, T]) -> T:
        outer = asyncio._get_running_loop()  # the caller's, as in a notebook
        asyncio._set_running_loop(None)
        try:
            return loop.run_until_complete(work)
        finally:
            asyncio._set_running_loop(outer)

    try:
        yield loop, run
    finally:
        run(loop.shutdown_asyncgens())
        run(loop.shutdown_default_executor())  # it looked up host names
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
