"""Starts `fake_server.py`, or another one, as a process of its own.

with start_server("--fail-rate", "0.2") as server:
    OpenAIBackend("fake", server.base_url)
    server.stats()["requests"]

What the servers import takes a third of a second: one process, the nursery, has it and forks for each of hundreds.
"""

from __future__ import annotations

import atexit
import http.client
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass
class Server:
    pid: int
    port: int
    host: str = "127.0.0.1"
    alive: bool = True

    @property
    def base_url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """What it has seen: requests, prompts (each with its count), bodies, most_at_once."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request("GET", "/stats")
            stats: dict[str, Any] = json.loads(connection.getresponse().read())
            return stats
        finally:
            connection.close()

    def kill(self) -> None:
        """As a crash would: nothing more is answered, and its port is free."""
        if self.alive:
            self.alive = False
            call(self.pid)


@contextmanager
def start_server(*flags: str, program: str = "fake_server.py", host: str = "127.0.0.1") -> Iterator[Server]:
    """A server that is listening, killed at the end."""
    pid, line = call((Path(program).stem, flags))
    server = Server(pid, int(line), host)
    try:
        yield server
    finally:
        server.kill()


def call(what: Any) -> Any:
    nursery().send(what)
    return nursery().recv()


@cache
def nursery() -> Connection[Any, Any]:
    """To the process that forks, of this one; it ends, and its servers, when this one does."""
    ours, theirs = Pipe()
    command = [sys.executable, __file__, str(theirs.fileno())]
    # A session of its own: a Ctrl-C is for the tests alone.
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # the last is called first
    return ours


def main() -> None:
    """The nursery: (module, flags) starts a server and gives its pid and its first line; a pid ends that one."""
    import bad_server  # noqa: F401
    import fake_server  # noqa: F401

    calls: Connection[Any, Any] = Connection(int(sys.argv[1]))
    running: set[int] = set()
    with suppress(EOFError):
        while True:
            what = calls.recv()
            if isinstance(what, int):
                end(what)
                running.remove(what)
                calls.send(None)
            else:
                pid, line = fork(*what)
                running.add(pid)
                calls.send((pid, line))
    for pid in running:
        end(pid)


def fork(module: str, flags: tuple[str, ...]) -> tuple[int, str]:
    read, write = os.pipe()
    if pid := os.fork():
        os.close(write)
        with os.fdopen(read) as stdout:
            return pid, stdout.readline()
    try:
        os.dup2(write, 1)
        sys.argv = [module, *flags]
        import_module(module).main()
    finally:
        traceback.print_exc()  # what ended it
        os._exit(1)


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
