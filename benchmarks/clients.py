"""What `generation.py` measures, one function a client: ours, and each peer as its documentation uses it.

    python benchmarks/clients.py ours http://127.0.0.1:8000/v1 --requests 10000 --concurrency 64

Run by the interpreter of the client's own environment, so it imports nothing but the standard library (and
`machine`, which does the same) before it knows which client. The last line of stdout is the measurement, as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module, metadata
from importlib.resources import files
from pathlib import Path

from machine import settle

PARAMS = {"temperature": 0.7, "max_tokens": 128}
Client = Callable[[list[str], str, int, Path], int]  # prompts, base_url, concurrency, a fresh folder: completions


def prompt(i: int) -> str:
    """Word problem `i`, of 200 characters; no two are the same."""
    return (
        f"Order {i}: a shop has {i % 83 + 12} boxes with {i % 37 + 6} pencils each. It sells {i % 61 + 9} pencils in "
        f"the morning and a third of those left in the afternoon. How many pencils are there at the end of day {i}?"
    )


# --- Ours -----------------------------------------------------------------------------------------------------


def ours(prompts: list[str], base_url: str, concurrency: int, folder: Path, n: int = 1) -> int:
    """The public API; a completion counts once it is on the disk."""
    from cotdistill.backends.openai import OpenAIBackend
    from cotdistill.config import LimitsConfig
    from cotdistill.generate import generate
    from cotdistill.methods import METHODS
    from cotdistill.records import Question
    from cotdistill.store import Store

    questions = [Question(str(i), text, "5") for i, text in enumerate(prompts)]
    backend = OpenAIBackend("fake", base_url, limits=LimitsConfig(concurrency=concurrency))
    with Store(folder / "store.sqlite") as store:
        done = len(list(generate(questions, backend, METHODS["zero_shot"], store, n=n, temperature=0.7)))
        assert len(store) == done, f"{done} completions, {len(store)} of them stored"
    return done


def ours_n8(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    return ours(prompts, base_url, concurrency, folder, n=8)


# --- Peers ----------------------------------------------------------------------------------------------------


async def workers(prompts: list[str], concurrency: int, ask: Callable[[str], Awaitable[object]]) -> int:
    """`ask` each prompt, `concurrency` at a time; returns how many brought a text."""
    texts = []
    queue = iter(prompts)

    async def work() -> None:
        for text in queue:
            texts.append(await ask(text))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return sum(map(bool, texts))


def raw_aiohttp(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    """What Python can do without a store, a retry or a check."""
    import aiohttp
    import orjson
    import uvloop

    async def run() -> int:
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

            async def ask(text: str) -> object:
                body = {"model": "fake", "messages": [{"role": "user", "content": text}], **PARAMS}
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    f"{base_url}/chat/completions", data=orjson.dumps(body), headers=headers
                ) as response:
                    reply = orjson.loads(await response.read())
                return reply["choices"][0]["message"]["content"]

            return await workers(prompts, concurrency, ask)

    return uvloop.run(run())


def openai_default(prompts: list[str], base_url: str, concurrency: int, folder: Path, on_aiohttp: bool = False) -> int:
    openai = import_module("openai")  # not `import`: our own environment has none of the peers

    async def run() -> int:
        http = {"http_client": openai.DefaultAioHttpClient()} if on_aiohttp else {}
        async with openai.AsyncOpenAI(base_url=base_url, api_key="none", **http) as client:

            async def ask(text: str) -> object:
                messages = [{"role": "user", "content": text}]
                reply = await client.chat.completions.create(model="fake", messages=messages, **PARAMS)
                return reply.choices[0].message.content

            return await workers(prompts, concurrency, ask)

    return asyncio.run(run())


def openai_aiohttp(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    return openai_default(prompts, base_url, concurrency, folder, on_aiohttp=True)


def litellm(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    litellm = import_module("litellm")

    async def run() -> int:
        async def ask(text: str) -> object:
            messages = [{"role": "user", "content": text}]
            reply = await litellm.acompletion(
                model="openai/fake", api_base=base_url, api_key="none", messages=messages, **PARAMS
            )
            return reply.choices[0].message.content

        return await workers(prompts, concurrency, ask)

    return asyncio.run(run())


def curator(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    # Its tokenizer would be downloaded; litellm, which it needs, has a copy.
    copy = files("litellm") / "litellm_core_utils" / "tokenizers"
    os.environ["TIKTOKEN_CACHE_DIR"] = str(copy)
    limits = {"max_requests_per_minute": 10**8, "max_tokens_per_minute": 10**12}  # never what it waits for
    llm = import_module("bespokelabs.curator").LLM(
        model_name="fake",
        backend="openai",
        generation_params=PARAMS,
        backend_params={"base_url": base_url, "api_key": "none", "max_concurrent_requests": concurrency, **limits},
    )
    return sum(map(bool, llm(prompts, working_dir=str(folder)).dataset["response"]))


def distilabel(prompts: list[str], base_url: str, concurrency: int, folder: Path) -> int:
    """Its unit of concurrency is the batch: all requests of one are in flight together."""
    models, pipelines = import_module("distilabel.models"), import_module("distilabel.pipeline")
    steps, tasks = import_module("distilabel.steps"), import_module("distilabel.steps.tasks")
    with pipelines.Pipeline(name="benchmark", cache_dir=folder) as pipeline:
        load = steps.LoadDataFromDicts(data=[{"instruction": text} for text in prompts], batch_size=concurrency)
        llm = models.OpenAILLM(
            model="fake",
            base_url=base_url,
            api_key="none",
            generation_kwargs={"temperature": PARAMS["temperature"], "max_new_tokens": PARAMS["max_tokens"]},
        )
        load >> tasks.TextGeneration(llm=llm, input_batch_size=concurrency)
    return sum(map(bool, pipeline.run(use_cache=False)["default"]["train"]["generation"]))


# --- Measuring ------------------------------------------------------------------------------------------------

CLIENTS: dict[str, tuple[Client, tuple[str, ...]]] = {  # and the packages whose versions are reported
    "ours": (ours, ("aiohttp", "orjson", "uvloop")),
    "ours_n8": (ours_n8, ()),
    "raw_aiohttp": (raw_aiohttp, ("aiohttp", "orjson", "uvloop")),
    "openai": (openai_default, ("openai",)),
    "openai_aiohttp": (openai_aiohttp, ("openai", "aiohttp")),
    "litellm": (litellm, ("litellm", "openai", "httpx")),
    "curator": (curator, ("bespokelabs-curator", "aiohttp", "litellm")),
    "distilabel": (distilabel, ("distilabel", "openai")),
}


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measured(client: Client, prompts: list[str], base_url: str, concurrency: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.monotonic(), cpu_seconds()
        completions = client(prompts, base_url, concurrency, Path(folder))
        wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
    return {"completions": completions, "wall": wall, "cpu": cpu}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("base_url")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--core", type=int, help="run on this core only")
    arguments = parser.parse_args(argv)
    settle(arguments.core)

    client, packages = CLIENTS[arguments.client]
    few, many = arguments.concurrency, arguments.requests
    prompts = [prompt(i) for i in range(2 * few + many)]
    parts = [prompts[:few], prompts[few : 2 * few], prompts[2 * few :]]
    # The first run imports and fills caches; the second is what starting a run costs; the third is the work.
    _, start, work = [measured(client, part, arguments.base_url, arguments.concurrency) for part in parts]
    versions = {name: metadata.version(name) for name in packages}
    print()  # a peer may have left its line open
    print(json.dumps({"start": start, "work": work, "versions": versions, "python": sys.version.split()[0]}))


if __name__ == "__main__":
    main()
