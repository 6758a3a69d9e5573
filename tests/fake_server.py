"""A small OpenAI-compatible server that answers by rule and fails on demand, for tests.

    python tests/fake_server.py --port 0 --fail-rate 0.2 --status 500

Its port is the first line of stdout. A question "What is A plus B?" gets a rationale that ends in the sum,
"Therefore, the answer is" gets that sum again, anything else " ok.". Which requests fail, and which answers
are off by one, follows from a hash of the request: the same in every run, whatever the order.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

from aiohttp import web

from answering import answer, share
from fake_batches import FakeBatches


class FakeServer:
    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.prompts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []  # the first thousand
        self.at_once = self.most_at_once = 0
        self.batches = FakeBatches(flags)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/completions", self.handle)
        app.router.add_post("/v1/chat/completions", self.handle)
        app.router.add_get("/stats", self.stats)
        self.batches.mount(app)
        app.router.add_get("/v1/models", self.models)
        if self.flags.server:
            _, path, body = IDENTITIES[self.flags.server]

            async def identity(_request: web.Request) -> web.Response:
                return web.json_response(body)

            app.router.add_get(path, identity)
        return app

    async def stats(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": self.prompts.total(),
                "prompts": self.prompts,
                "bodies": self.bodies,
                "most_at_once": self.most_at_once,
                **self.batches.stats(),
            }
        )

    async def models(self, _request: web.Request) -> web.Response:
        if not self.flags.models:
            return problem(404, "not found")
        owner = IDENTITIES[self.flags.server][0] if self.flags.server else "me"
        return web.json_response({"data": [{"id": m, "owned_by": owner} for m in self.flags.models.split(",")]})

    async def handle(self, request: web.Request) -> web.Response:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return await self.reply(request)
        finally:
            self.at_once -= 1

    async def reply(self, request: web.Request) -> web.Response:
        flags = self.flags
        body = await request.json()
        chat = request.path.endswith("/chat/completions")
        prompt = "".join(m["content"] for m in body["messages"] if m["role"] != "system") if chat else body["prompt"]
        self.prompts[prompt] += 1
        if len(self.bodies) < 1000:
            self.bodies.append(body)
        seed = body.get("seed", 0)
        chance = f"{prompt}|{seed}|{self.prompts[prompt]}"  # another draw each time the prompt is seen

        await asyncio.sleep(flags.latency)
        given = request.headers.get("Authorization", "")
        wanted = f"Basic {flags.require_basic}" if flags.require_basic else f"Bearer {flags.require_key}"
        if (flags.require_key or flags.require_basic) and given != wanted:
            return problem(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}\x1b[31m")
        if share("hang", chance) < flags.hang_rate:
            await asyncio.sleep(3600)
        if share("fail", chance) < flags.fail_rate:
            headers = {"Retry-After": flags.retry_after} if flags.retry_after else {}
            if 300 <= flags.status < 400:
                headers["Location"] = "https://elsewhere.example/v1"
            return problem(flags.status, flags.message, headers)
        if share("json", chance) < flags.bad_json_rate:
            return web.Response(text='{"choices": [{"tex', content_type="application/json")
        if flags.raw is not None:
            return web.Response(text=flags.raw, content_type="application/json")
        if flags.bomb:
            packed = gzip.compress(bytes(64 * 2**20))
            return web.Response(body=packed, headers={"Content-Encoding": "gzip"}, content_type="application/json")

        for name in filter(None, flags.refuse.split(",")):
            if name in body or (name == "greedy" and body["temperature"] == 0):
                instead = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                return problem(400, f"Unsupported parameter: '{name}' is not supported with this model.{instead}")
        limit = body.get("max_tokens", body.get("max_completion_tokens"))
        honoured = {name: value for name, value in body.items() if name not in flags.ignore.split(",")}
        choices, tokens = [], 0
        for index in range(honoured.get("n", 1)):
            if flags.reply is not None:
                text = flags.reply
            elif "random list" in prompt:
                text = random_list(honoured, index, chance)
            else:
                text = answer(prompt, seed + index, flags.wrong_rate)
            words = re.findall(r"\s*\S+", text)
            cut = min((text.find(s) for s in honoured.get("stop", ()) if s in text), default=len(text))
            reason = "length" if len(words) > limit and cut == len(text) else "stop"
            text = ("".join(words[:limit]) if len(words) > limit else text)[:cut]
            tokens += min(len(words), limit)
            choice = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choices.append({"index": index, **choice, "finish_reason": reason})
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": tokens}
        reply = {"choices": choices, **({} if "usage" in flags.ignore.split(",") else {"usage": usage})}
        if "model" in flags.ignore.split(","):
            reply["model"] = flags.models.split(",")[0]
        return web.json_response(reply)


# What gives a server away: the owner of its models, and an endpoint that only it has.
IDENTITIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vllm": ("vllm", "/version", {"version": "0.11.0"}),
    "sglang": ("sglang", "/get_server_info", {"model_path": "m"}),
    "ollama": ("library", "/api/version", {"version": "0.12.0"}),
    "llamacpp": ("llamacpp", "/props", {"total_slots": 4}),
}


def random_list(body: dict[str, Any], index: int, chance: str) -> str:
    """Words that follow from the seed, where it is to be honoured; one list at temperature 0."""
    if body.get("temperature") == 0:
        source = "greedy"
    else:
        source = f"{body['seed'] + index}" if "seed" in body else f"{chance}{index}"
    return "".join(f" word{int(share(source, i) * 1e6)}" for i in range(40))


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": None}}, status=status, headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of requests that get --status")
    parser.add_argument("--status", type=int, default=500)
    parser.add_argument("--message", default="something went wrong", help="what a failure says")
    parser.add_argument("--retry-after", default="", help="this header with each failure")
    parser.add_argument("--bad-json-rate", type=float, default=0.0)
    parser.add_argument("--hang-rate", type=float, default=0.0)
    parser.add_argument("--wrong-rate", type=float, default=0.0, help="share of rationales off by one")
    parser.add_argument("--require-key", default="")
    parser.add_argument("--require-basic", default="")
    parser.add_argument("--reply", default=None, help="this text to every prompt")
    parser.add_argument("--raw", default=None, help="this body, as it is, to every request")
    parser.add_argument("--server", default="", choices=["", *IDENTITIES], help="the server it looks like")
    parser.add_argument("--models", default="", help="what it lists, with commas; none: no list")
    parser.add_argument("--ignore", default="", help="n,seed,temperature,stop,usage,model: what it ignores")
    parser.add_argument("--refuse", default="", help="n,seed,max_tokens,greedy: what it answers 400 to")
    parser.add_argument("--bomb", action="store_true", help="every reply is 64 MB of zeros, gzipped")
    FakeBatches.add_flags(parser)
    parser.add_argument("--reply-file", type=Path, help="the text of this file to every prompt")
    flags = parser.parse_args()
    if flags.reply_file:
        flags.reply = flags.reply_file.read_bytes().decode()
    with socket.create_server(("127.0.0.1", flags.port), backlog=1024) as listening:
        print(listening.getsockname()[1], flush=True)
        web.run_app(FakeServer(flags).app(), sock=listening, print=lambda *_: None, access_log=None)


if __name__ == "__main__":
    main()
