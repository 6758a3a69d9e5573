"""llama.cpp itself, from the package xllamacpp, as a server of its own process that reads a GGUF file.

with served(Path("student.gguf"), context=2048) as ask:
    ask("/tokenize", {"content": "Q: ..."})["tokens"]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotdistill.errors import DataError
from cotdistill.records import Question

if TYPE_CHECKING:
    from cotdistill.exports.check import Trained

SLOTS = 4
START_SECONDS = 600
SERVE = """
import os, sys
from xllamacpp import CommonParams, Server, ggml_type, llama_flash_attn_type
params = CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.cache_type_k = params.cache_type_v = ggml_type.GGML_TYPE_F32  # as the weights: nothing is rounded
params.flash_attn_type = llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.n_gpu_layers, params.warmup = 0, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
server = Server(params)
os.write(1, f"\\nAT {server.listening_address}\\n".encode())  # at once: its threads write there too
sys.stdin.read()  # until whoever asks is gone
"""
Ask = Callable[[str, dict[str, Any]], dict[str, Any]]


def installed() -> bool:
    return find_spec("xllamacpp") is not None


def check(trained: Trained, file: Path) -> dict[str, int]:
    """Compare what llama.cpp reads and writes. Raises `DataError` where it is not the trained student."""
    from cotdistill.exports.check import Written

    method = trained.student.method
    longest = max(len(ids) for ids in trained.asked) + trained.max_tokens + 1
    with served(file, longest * SLOTS) as ask:

        def ids_of(text: str) -> list[int]:
            told = {"content": text, "add_special": True, "parse_special": True}
            return list(ask("/tokenize", told)["tokens"])

        def chat_ids(question: Question) -> list[int]:
            messages = [{"role": "user", "content": question.text.strip()}]
            return ids_of(ask("/apply-template", {"messages": messages})["prompt"])

        if not method.chat:
            trained.refuse_other_prompts("llama.cpp, the plain prompt", lambda q: ids_of(method.prompt(q)))
        trained.refuse_other_prompts("llama.cpp, the chat template", chat_ids)

        def answer(ids: list[int]) -> Written:
            told = {"prompt": ids, "n_predict": trained.max_tokens, "temperature": 0, "cache_prompt": False}
            given = ask("/completion", {**told, "return_tokens": True})
            tokens, ended = list(given["tokens"]), given["stop_type"] == "eos"
            ends = trained.end_ids()
            return Written(tokens[:-1] if ended and tokens and tokens[-1] in ends else tokens, ended)

        with ThreadPoolExecutor(SLOTS) as pool:
            return trained.compare("llama.cpp", list(pool.map(answer, trained.asked)))


@contextmanager
def served(file: Path, context: int) -> Iterator[Ask]:
    """llama.cpp with a model of `context` tokens in all; yields a function that posts JSON to a path."""
    import torch

    threads = torch.get_num_threads()  # OMP_NUM_THREADS, or the cores
    words = [sys.executable, "-c", SERVE, str(file), str(context), str(SLOTS), str(threads)]
    # "a": what it writes is appended, wherever this process, which shares the file's position, has read to.
    with tempfile.TemporaryFile("a+", errors="replace") as log:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            address = _address(process, log, file)

            def ask(path: str, told: dict[str, Any]) -> dict[str, Any]:
                head = {"Content-Type": "application/json"}
                request = urllib.request.Request(address + path, json.dumps(told).encode(), head)  # noqa: S310  # ours
                try:
                    with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
                        return json.load(response)  # type: ignore[no-any-return]
                except OSError as error:
                    said = error.read().decode(errors="replace") if hasattr(error, "read") else ""
                    raise DataError(f"{file.name}: llama.cpp refuses {path}: {error} {said[:300]}") from None

            yield ask
        finally:
            process.kill()
            process.communicate()


def _address(process: subprocess.Popen[bytes], log: Any, file: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        log.seek(0)
        text = log.read()
        if at := re.search(r"^AT (\S+)$", text, re.MULTILINE):
            return at[1]
        if process.poll() is not None:
            said = [line for line in text.splitlines() if "error" in line.lower()][-1:] or text.splitlines()[-1:]
            raise DataError(f"{file.name}: llama.cpp cannot read it: {''.join(said)[:300]}")
        time.sleep(0.05)
    raise DataError(f"{file.name}: llama.cpp was not ready to answer after {START_SECONDS} seconds.")
