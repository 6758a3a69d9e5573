"""An event loop of a generator's own, driven from the caller's thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T: ...


@contextmanager
def own_loop(keep_interrupts: bool = False) -> Iterator[tuple[asyncio.AbstractEventLoop, Run]]:
    """A new loop, and a function that runs a coroutine in it to its end; closed with the block.

    With `keep_interrupts` a Ctrl-C in the main thread ends the run that is on, or that comes next, and a second one
    whatever there is: raised wherever Python just is, a KeyboardInterrupt is lost where that is a finalizer.
    """
    loop = _new_loop()
    with _Interrupts(loop) if keep_interrupts else nullcontext() as interrupts:

        def run(work: Coroutine[Any, Any, T]) -> T:
            outer = asyncio._get_running_loop()  # the caller's, as in a notebook
            asyncio._set_running_loop(None)
            try:
                return interrupts.run(work) if interrupts else loop.run_until_complete(work)
            finally:
                asyncio._set_running_loop(outer)

        try:
            yield loop, run
        finally:
            run(loop.shutdown_asyncgens())
            run(loop.shutdown_default_executor())  # it looked up host names
            loop.close()


class _Interrupts:
    """Ctrl-C, while it is kept for a loop: the first is raised by `run`, once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pressed = self.raised = False
        self.task: asyncio.Task[Any] | None = None

    def __enter__(self) -> _Interrupts | None:
        in_main = threading.current_thread() is threading.main_thread()
        if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return None  # somebody else sees to it
        signal.signal(signal.SIGINT, self.press)
        return self

    def __exit__(self, *_: object) -> None:
        # A bound method is made anew each time, so it is equal and not the same.
        if signal.getsignal(signal.SIGINT) == self.press:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        if self.task:
            self.loop.call_soon_threadsafe(self.task.cancel)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        self.task = self.loop.create_task(work)
        if self._due():
            self.task.cancel()
        try:
            result: T = self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            if not self._due():
                raise
        finally:
            self.task = None
        if self._due():
            self.raised = True
            raise KeyboardInterrupt
        return result

    def _due(self) -> bool:
        return self.pressed and not self.raised


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
