"""A real llama.cpp server as the teacher: COTDISTILL_GGUF=model.gguf, and the package xllamacpp beside ours."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import pytest

from asking import ask as ask_backend
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.probe import probe
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LimitsConfig

GGUF = os.environ.get("COTDISTILL_GGUF", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("xllamacpp") is None, reason="needs the package xllamacpp"),
    pytest.mark.skipif(not GGUF, reason="needs a model: COTDISTILL_GGUF=model.gguf"),
]
SERVE = """
import sys, time
from xllamacpp import CommonParams, Server
params = CommonParams()
params.model.path, params.model_alias, params.n_parallel, params.n_ctx = sys.argv[1], {"small"}, 2, 2048
params.cpuparams.n_threads = 1  # others may use this machine
server = Server(params)
print("AT", server.listening_address, flush=True)
time.sleep(3600)
"""
QUESTION = "Q: Tom has 5 boxes of 4 eggs and sells 3 eggs. How many eggs are left?\nA: Let's think step by step."


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("llama") / "log"  # not a pipe: it logs much, and nobody would read
    with log.open("w") as out, subprocess.Popen([sys.executable, "-c", SERVE, GGUF], stdout=out, stderr=out) as process:
        try:
            while not (at := re.search(r"^AT (\S+)$", log.read_text(errors="replace"), re.MULTILINE)):
                assert process.poll() is None, log.read_text(errors="replace")
                time.sleep(0.1)
            yield at[1] + "/v1"
        finally:
            process.kill()


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_it_is_known_and_honours_all(base_url: str, api: Literal["chat", "completions"]) -> None:
    found = probe(base_url, "", "small", api, timeout=120)
    assert str(found) == "llama.cpp; its usage counts one choice of n; n up to 2, its slots"
    assert found.models == ("small",)


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_seeds_and_stop(base_url: str, api: Literal["chat", "completions"]) -> None:
    def ask(**params: Any) -> list[Completion]:
        # One at a time: in a batch of others the same seed may round to another token.
        backend = OpenAIBackend("small", base_url, api=api, limits=LimitsConfig(concurrency=1))
        return ask_backend(backend, [Request((QUESTION,), SamplingParams(32, **params), (i,)) for i in range(3)])

    first = ask(temperature=0.7)
    assert {c.finish_reason for c in first} <= {"stop", "length"}
    assert all(0 < c.completion_tokens <= 32 for c in first)
    assert len({c.text for c in first}) == 3
    assert [c.text for c in ask(temperature=0.7, seed=1)] != [c.text for c in first]
    (greedy, *others) = ask()
    assert {c.text for c in others} == {greedy.text}
    word = greedy.text.split()[2]
    assert {c.text for c in ask(stop=(word,))} == {greedy.text.partition(word)[0]}
