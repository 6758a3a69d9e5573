"""Runs whose student is a tiny random model, and a server of one in a thread of this process.

with serving(make_run(tmp_path)) as served:
    served.post("/chat/completions", {"messages": [{"role": "user", "content": "Why?"}]})
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request
from cotdistill.config import load_quickstart
from cotdistill.errors import CotdistillError
from cotdistill.models import LoadedModel, load_model, mark_complete
from cotdistill.serving.asking import Limits
from cotdistill.serving.start import bind, run_server
from cotdistill.serving.student import Student, find_student
from tiny import tiny_model

MAX_TOKENS = 40
USUAL = Limits()
QUESTION = "How many figs are there?"


def make_run(
    folder: Path,
    make: Callable[[Path], Path] = lambda folder: tiny_model(folder, positions=2048),
    form: str = "paper",
    labels: tuple[str, ...] = ("fine_tune_cot-0",),
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """A run as training leaves it, its students the model that `make` saves."""
    config = load_quickstart(
        {"runs": str(folder), "name": "mine", "student.format": form, "evaluate.max_tokens": MAX_TOKENS}
        | dict(overrides or {})
    )
    for label in labels:
        student = folder / "mine" / "student" / label
        student.parent.mkdir(parents=True, exist_ok=True)
        make(student)
        mark_complete(student, {"seconds": 1.0, "epoch_folders": []})
    (folder / "mine" / "config.yaml").write_text(config.to_yaml())
    return folder / "mine"


def load_fp32(student: Student) -> LoadedModel:
    """Where a batch rounds like a single row, but for the last digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cotdistill.models.has_bf16", lambda: False)
        return load_model(str(student.folder))


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """Of a stream, without its [DONE], which must be there."""
        lines = [line.removeprefix("data: ") for line in self.body.decode().split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]


@dataclass
class Served:
    """A server that runs, the student behind it, and the same model without a server."""

    address: str
    student: Student
    loaded: LoadedModel
    key: str = ""
    ended: Sequence[CotdistillError] = ()  # why it ended by itself

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1].split("/")[0])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Reply:
        connection = self.connect()
        try:
            given = {"Authorization": f"Bearer {self.key}"} if self.key else {}
            connection.request(method, path, body, {**given, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> Reply:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.ask("POST", f"/v1{path}", content, {"Content-Type": "application/json", **(headers or {})})

    def chat(self, question: str = QUESTION, **more: Any) -> Reply:
        return self.post("/chat/completions", {"messages": [{"role": "user", "content": question}], **more})

    def metric(self, name: str) -> float:
        """The sum of a metric's lines that begin so."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def direct(self, prompt: str, **more: Any) -> Completion:
        """What our own backend writes, as evaluation asks it: alone, greedily."""
        backend = TransformersBackend("", self.student.method.chat, loaded=self.loaded)
        request = Request((prompt,), replace(self.student.params, **more))
        return next(completion for _, _, completion in backend.generate(iter([request])))


@contextmanager
def serving(run: Path, limits: Limits = USUAL, key: str = "", label: str = "", slow: float = 0.0) -> Iterator[Served]:
    """A server on loopback; `slow`: seconds that each token takes at least."""
    student = find_student(run, label)
    loaded, alone = load_fp32(student), load_fp32(student)
    if slow:
        loaded = replace(loaded, eos_ids=[])  # it goes on
        loaded.model.register_forward_pre_hook(lambda *_: time.sleep(slow))
    ready: list[str] = []
    up = threading.Event()
    ended: list[CotdistillError] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []

    def tell(address: str) -> None:
        ready.append(address)
        up.set()

    async def main() -> None:
        task = asyncio.ensure_future(run_server(student, loaded, listening, limits, key, tell))
        loops.append((asyncio.get_running_loop(), task))
        try:
            await task
        except asyncio.CancelledError:
            pass
        except CotdistillError as error:
            ended.append(error)
        finally:
            up.set()

    listening = bind("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert up.wait(120)
        assert ready, ended
        yield Served(ready[0], student, alone, key, ended)
    finally:
        loop, task = loops[0]
        with suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        listening.close()
