"""Starts `fake_server.py`, or another one, as a process of its own.

with start_server("--fail-rate", "0.2") as server:
    OpenAIBackend("fake", server.base_url)
    server.stats()["requests"]
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Server:
    process: subprocess.Popen[str]
    port: int
    host: str = "127.0.0.1"

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
        """As a crash would: nothing more is answered."""
        self.process.kill()
        self.process.wait()


@contextmanager
def start_server(*flags: str, program: str = "fake_server.py", host: str = "127.0.0.1") -> Iterator[Server]:
    """A server that is listening, killed at the end."""
    command = [sys.executable, str(Path(__file__).with_name(program)), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline()), host)
        finally:
            process.kill()
