"""Starts `fake_server.py` as a process of its own.

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

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """What it has seen: requests, prompts (each with its count), bodies, most_at_once."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
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
def start_server(*flags: str) -> Iterator[Server]:
    """A server that is listening, killed at the end."""
    command = [sys.executable, str(Path(__file__).with_name("fake_server.py")), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline()))
        finally:
            process.kill()
