"""An event loop of a generator's own, driven from the caller's thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


@contextmanager
def own_loop(keep_interrupts: bool = False) -> Iterator[tuple[asyncio.AbstractEventLoop, Run]]:
    """A new loop, and a function that runs a coroutine in it to its end; closed with the block.

    With `keep_interrupts` a first Ctrl-C ends the run that is on, or that comes next: raised wherever Python just is,
    a KeyboardInterrupt is lost where that is a finalizer.
    """
    loop = _new_loop()
    interrupts = _Interrupts(loop)

    def run(work: Coroutine[Any, Any, T]) -> T:
        outer = asyncio._get_running_loop()  # the caller's, as in a notebook
        asyncio._set_running_loop(None)
        try:
            return interrupts.run(work) if keep_interrupts else loop.run_until_complete(work)
        finally:
            asyncio._set_running_loop(outer)

    with first_interrupt(interrupts.press) if keep_interrupts else nullcontext():
        try:
            yield loop, run
        finally:
            run(loop.shutdown_asyncgens())
            run(loop.shutdown_default_executor())  # it looked up host names
            loop.close()


@contextmanager
def first_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C calls `stop`; the next one is a KeyboardInterrupt.

    Where it is ignored, as in a script's background command, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return

    def handle(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is handle:
            signal.signal(signal.SIGINT, before)


class _Interrupts:
    """A Ctrl-C that is kept for a loop, until `run` raises it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.due = False
        self.task: asyncio.Task[Any] | None = None

    def press(self) -> None:
        self.due = True
        if self.task:
            self.loop.call_soon_threadsafe(self.task.cancel)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.task = self.loop.create_task(work)
        if self.due:
            self.task.cancel()
        try:
            result: T = self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            if not self.due:
                raise
        finally:
            self.task = None
        if self.due:
            self.due = False
            raise KeyboardInterrupt
        return result


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
