"""`cotdistill serve`: the port, the model, the server, and its end.

A Ctrl-C (or SIGTERM) ends it when what is being written is sent; a second one at once, with exit code 130.
"""

from __future__ import annotations

import asyncio
import copy
import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from cotdistill.backends.wire import is_loopback
from cotdistill.config_file import shown
from cotdistill.errors import BackendError, ConfigError, missing_extra
from cotdistill.models import LoadedModel, load_model
from cotdistill.progress import say
from cotdistill.serving.asking import Limits, Reader
from cotdistill.serving.student import Student, find_student

if TYPE_CHECKING:
    from cotdistill.serving.engine import Engine

KEY = "COTDISTILL_API_KEY"
ENDED_AT_ONCE = 130
MOST_SHOWN = 200  # characters of a name or a path


def serve(run: Path, label: str, host: str, port: int, key_env: str, no_key: bool, limits: Limits) -> None:
    """Serve a run's student until it is told to end; the first line of stdout is its address."""
    if find_spec("prometheus_client") is None:
        raise missing_extra("prometheus_client", "serve")
    key = read_key(key_env)
    if not (key or no_key or is_loopback(host)):
        raise ConfigError(
            f"--host {shown(host)}: others could use this student, and no key is set.\n"
            f"Set one: export {KEY}=...; or say --no-key."
        )
    student = find_student(run, label)
    with closing(bind(host, port)) as listening:
        say(f"serve: loading {shown(student.name, MOST_SHOWN)}")
        loaded = load_model(str(student.folder), student.config.student.trust_remote_code)
        asyncio.run(run_server(student, loaded, listening, limits, key, lambda address: introduce(student, address)))


def read_key(key_env: str) -> str:
    """The key that clients must show, from the environment; "" where none is set."""
    key = os.environ.get(key_env or KEY, "").strip()
    if key_env and not key:
        # The name is not shown: it may be the key itself, given by mistake.
        raise ConfigError(
            "--key-env: no environment variable of that name is set.\nRun: export NAME=..., then --key-env NAME."
        )
    return key


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there, before the model is loaded. Raises `ConfigError` where it cannot."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"{shown(host)}:{port}: cannot listen there ({getattr(error, 'strerror', None) or error}).\n"
            "Choose another: --port N, or 0 for any that is free; --host ADDRESS."
        ) from None


async def run_server(
    student: Student,
    loaded: LoadedModel,
    listening: socket.socket,
    limits: Limits,
    key: str = "",
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve on a socket until SIGINT, SIGTERM or the model's end; `ready` is told the address.

    Raises `BackendError` where the model's thread has died.
    """
    from aiohttp import web

    from cotdistill.backends.transformers import TransformersBackend
    from cotdistill.serving.engine import DEAD, Engine
    from cotdistill.serving.metrics import Metrics
    from cotdistill.serving.server import Server

    loop, end, dead = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    metrics = Metrics()
    engine = Engine(TransformersBackend("", loaded=loaded), limits.slots, limits.queue, metrics)
    # A tokenizer of its own: the model's thread uses the other at the same time.
    reader = Reader(student, loaded, copy.deepcopy(loaded.tokenizer), engine.most)
    only_here = not key and is_loopback(listening.getsockname()[0])
    server = Server(student, reader, engine, metrics, limits, key, only_here)

    def died() -> None:
        dead.set()
        loop.call_soon_threadsafe(end.set)

    # A daemon: a second Ctrl-C does not wait for it.
    thread = threading.Thread(target=engine.run, args=(died,), name="model", daemon=True)
    runner = web.AppRunner(
        server.app(),
        access_log=None,
        handler_cancellation=True,  # what a client that left has asked for is given up
        shutdown_timeout=limits.seconds,
    )
    await runner.setup()
    try:
        thread.start()
        await web.SockSite(runner, listening, backlog=128).start()
        _end_on_signals(loop, end, engine)
        ready(address_of(listening))
        await end.wait()
        server.draining = True
    finally:
        await runner.cleanup()
        engine.close()
        await asyncio.to_thread(thread.join)
    if dead.is_set():
        raise BackendError(f"{DEAD}\nIt is shown above. Start the server again.")


def _end_on_signals(loop: asyncio.AbstractEventLoop, end: asyncio.Event, engine: Engine) -> None:
    """The first signal ends the server in order, the second at once."""
    if threading.current_thread() is not threading.main_thread():
        return

    def told() -> None:
        unfinished = len(engine.writing) + len(engine.waiting)
        if end.is_set():
            say(f"serve: ended at once; {unfinished} completions were cut off")
            sys.stdout.flush()
            os._exit(ENDED_AT_ONCE)  # the model's thread is in the middle of a token
        end.set()
        say(f"serve: ending, after {unfinished} completions that are on their way; Ctrl-C again to end at once")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def introduce(student: Student, address: str) -> None:
    """Say where it is and how it is used; the address alone goes to stdout."""
    print(address, flush=True)
    name, run = shown(student.name, MOST_SHOWN), shown(shlex.quote(str(student.run)), MOST_SHOWN)
    say(f"serve: model {name}, asked in the form {student.form!r}; greedy unless a request says otherwise")
    say(f"  ask it:       cotdistill ask {run} 'QUESTION' --student {student.label}")
    say(f"  as a teacher: teacher.style=student teacher.backend=openai teacher.base_url={address}")
    say(f"                teacher.model={shown(student.pinned, MOST_SHOWN)}")
    more = f"cotdistill export {run} --student {student.label}"
    say(f"  for more:     {more} --to hf, or --to gguf: prints the command for vLLM, or for Ollama and llama.cpp")
