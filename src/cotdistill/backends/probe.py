"""What stands behind a base_url: which server it is, which models it has, what it ignores of a request.

    found = probe("http://localhost:8080/v1", "", "qwen3-8b", "chat")
    found.server, found.ignores     # "Ollama", ("n",)

The name is read (host, headers, owner of the models, endpoints that only one server has); what is
honoured is asked, in six requests of at most 16 tokens. Documentation decides where asking cannot.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import orjson

from cotdistill.backends.exchange import open_session
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.wire import MAX_REPLY_BYTES
from cotdistill.config import nearest

PROMPT = "A random list of ten English words:"  # many ways to go on, as a chat message and as plain text
TOKENS = 16
REQUESTS = 7  # at most, the refused ones included
NAME_SECONDS = 5.0
MOST_MODELS = 2000  # of a list that is kept
UNKNOWN = "an OpenAI-compatible server"

HOSTS = {
    "api.openai.com": "OpenAI",
    "openrouter.ai": "OpenRouter",
    "api.together.xyz": "Together",
    "api.groq.com": "Groq",
    "api.anthropic.com": "Anthropic",
    "generativelanguage.googleapis.com": "Gemini",
    "api.mistral.ai": "Mistral",
    "api.deepseek.com": "DeepSeek",
    "api.fireworks.ai": "Fireworks",
}
OWNERS = {"llamacpp": "llama.cpp", "vllm": "vLLM", "sglang": "SGLang", "library": "Ollama"}  # in /v1/models
# (path, a key of its JSON, whose it is). SGLang has Ollama's endpoints too, so it comes first.
ENDPOINTS = (
    ("/get_server_info", "model_path", "SGLang"),
    ("/server_info", "model_path", "SGLang"),
    ("/props", "total_slots", "llama.cpp"),
    ("/version", "version", "vLLM"),
    ("/api/version", "version", "Ollama"),
)
# What documentation or source says is ignored or refused, read 2026-11-24; believed where asking told nothing.
# vLLM and llama.cpp honour all six: vllm/v1/engine/parallel_sampling.py, llama.cpp's tools/server/server-task.cpp.
DOCUMENTED: Mapping[str, tuple[str, ...]] = {
    "Ollama": ("n",),  # no such field: https://github.com/ollama/ollama/blob/main/openai/openai.go
    # Without --enable-deterministic-inference:
    "SGLang": ("seed",),  # https://docs.sglang.io/advanced_features/deterministic_inference.html
    "Groq": ("n",),  # https://console.groq.com/docs/openai
    "Anthropic": ("n", "seed"),  # https://docs.anthropic.com/en/api/openai-sdk
    "Gemini": ("seed",),  # https://github.com/coder/balatrollm/pull/75
    "Mistral": ("seed",),  # random_seed instead: https://github.com/Vali-98/ChatterUI/issues/143
}
# What follows from it, in the order in which it is told.
ADVICE = {
    "n": "each sample is a request of its own",
    "seed": "its samples are stored, but cannot be drawn again",
    "temperature": "compare some samples of a question before you buy many",
    "stop": "leave teacher.stop empty",
    "max_tokens": "a completion may be longer, and cost more",
    "usage": "tokens cannot be counted",
}
REMEDIES = {("SGLang", "seed"): "start it with --enable-deterministic-inference"}  # where more can be done
IN_ITS_PLACE = {"max_tokens": "it is asked with max_completion_tokens"}  # of what is refused by name


@dataclass(frozen=True)
class Found:
    """A server: its name, its models (none where it does not list them), and what it does with our parameters."""

    server: str = UNKNOWN
    models: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Such as "Ollama; ignores n: each sample is a request of its own"."""
        told = [
            f"{verb} {name}: {self._advice(name)}"
            for name in ADVICE
            for verb, names in (("refuses", self.refuses), ("ignores", self.ignores))
            if name in names
        ]
        return "; ".join((self.server, *told, *self.notes))

    def _advice(self, name: str) -> str:
        if name in self.refuses and name in IN_ITS_PLACE:
            return IN_ITS_PLACE[name]
        return REMEDIES.get((self.server, name), ADVICE[name])

    def lists(self, model: str) -> bool:
        """Whether `model` may be there: it is listed, or nothing is."""
        return not self.models or not {model, f"{model}:latest"}.isdisjoint(self.models)

    def instead_of(self, model: str) -> str:
        """The end of a sentence: the nearest model, or all there are."""
        told = nearest(model, self.models)
        return told if len(told) <= 200 else f"; it lists {len(self.models)} models at /v1/models."


def probe(base_url: str, api_key: str, model: str, api: Literal["chat", "completions"], timeout: float = 30) -> Found:
    """What is behind `base_url`; nothing but a name where it does not answer. `timeout` in seconds a request.

    Raises as `OpenAIBackend` does: `ConfigError` for an unusable address, `BackendError` for a key in the clear.
    """
    backend = OpenAIBackend(model, base_url, api_key, api)  # for its checks
    return asyncio.run(_probe(base_url.rstrip("/"), api_key.strip(), backend, timeout))


async def _probe(base_url: str, api_key: str, backend: OpenAIBackend, timeout: float) -> Found:
    async with open_session(base_url, api_key, seconds=timeout) as http:
        listed = await _call(http, base_url + "/models", seconds=NAME_SECONDS)
        if not listed.status:
            return Found()
        cards = listed.json.get("data")
        cards = [card for card in cards if isinstance(card, dict)] if isinstance(cards, list) else []
        names = [str(card.get("id", "")) for card in cards[:MOST_MODELS]]
        # They are shown: a server that sends back the key, or a control sequence, is not quoted.
        models = tuple(n for n in names if n.isprintable() and 0 < len(n) <= 200 and not (api_key and api_key in n))
        server, slots = await _name(http, base_url, listed, cards)
        replies = await _ask_all(http, backend)
    ignores, notes = replies.verdict(DOCUMENTED.get(server, ())), []
    if answered := replies.model(backend.model, models):
        notes.append(f"{answered} answers whatever teacher.model says")
    if replies.counts_one_choice():
        notes.append("its usage counts one choice of n")
    if slots and "n" not in (*ignores, *replies.refuses):
        notes.append(f"n up to {slots}, its slots")
    return Found(server, models, ignores, replies.refuses, tuple(notes))


async def _name(
    http: aiohttp.ClientSession, base_url: str, listed: Reply, cards: list[dict[str, Any]]
) -> tuple[str, int]:
    """Which server it is, and how many slots a llama.cpp has (0: it is another, or does not say)."""
    host = urlsplit(base_url).hostname or ""
    for end, name in HOSTS.items():
        if host == end or host.endswith(f".{end}"):
            return name, 0
    server = "llama.cpp" if "llama.cpp" in listed.server else ""
    server = server or next((OWNERS[o] for card in cards if (o := str(card.get("owned_by"))) in OWNERS), "")
    if server not in ("", "llama.cpp"):
        return server, 0
    root = base_url.removesuffix("/v1")
    for path, key, name in ENDPOINTS:
        if server in ("", name):
            reply = await _call(http, root + path, seconds=NAME_SECONDS)
            if key in reply.json:
                slots = reply.json.get("total_slots")
                return name, slots if isinstance(slots, int) else 0
            if not reply.status:
                break
    return server or UNKNOWN, 0


@dataclass(frozen=True)
class Reply:
    """Status 0: no whole reply came. `json` is {} where it is no object; `text` is for looking for words only."""

    status: int = 0
    server: str = ""
    json: dict[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def choices(self) -> list[dict[str, Any]]:
        choices = self.json.get("choices")
        return [c for c in choices if isinstance(c, dict)] if self.status == 200 and isinstance(choices, list) else []

    @property
    def texts(self) -> list[str]:
        """Of each choice; a thinking model's thoughts where it got no further in so few tokens."""
        return [_first(choice, ("text", "content", "reasoning_content", "reasoning")) for choice in self.choices]

    @property
    def spoke(self) -> bool:
        """There is more than thoughts, which a stop does not end."""
        return any(_first(choice, ("text", "content")) for choice in self.choices)

    @property
    def tokens(self) -> int | None:
        usage = self.json.get("usage")
        count = usage.get("completion_tokens") if isinstance(usage, dict) else None
        return count if isinstance(count, int) else None


def _first(choice: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """The first text that a choice of either API style has under `keys`."""
    message = choice.get("message")
    merged = {**choice, **message} if isinstance(message, dict) else choice
    return next((text for key in keys if isinstance(text := merged.get(key), str) and text.strip()), "")


async def _call(http: aiohttp.ClientSession, url: str, body: Any = None, seconds: float | None = None) -> Reply:
    """GET, or POST with a body; redirects are not followed, with the key."""
    content = bytearray()
    try:
        async with (
            asyncio.timeout(seconds),
            http.request(
                "GET" if body is None else "POST",
                url,
                data=None if body is None else orjson.dumps(body),
                allow_redirects=False,
            ) as response,
        ):
            async for chunk in response.content.iter_chunked(2**16):
                content += chunk
                if len(content) > MAX_REPLY_BYTES:
                    return Reply()
            status, server = response.status, response.headers.get("Server", "")
    except (aiohttp.ClientError, TimeoutError):
        return Reply()
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        value = None
    return Reply(
        status, server, value if isinstance(value, dict) else {}, content[: 2**14].decode(errors="replace").lower()
    )


async def _ask_all(http: aiohttp.ClientSession, backend: OpenAIBackend) -> Replies:
    """Six requests; each again without what it refuses by name."""
    replies = Replies()
    left = REQUESTS

    async def ask(**parameters: Any) -> Reply:
        nonlocal left
        while left:
            left -= 1
            body = {"model": backend.model, "max_tokens": TOKENS, "temperature": 1.0, **parameters}
            body |= {"messages": [{"role": "user", "content": PROMPT}]} if backend.chat else {"prompt": PROMPT}
            if "max_tokens" in replies.refuses:
                body["max_completion_tokens"] = TOKENS
            body = {name: value for name, value in body.items() if name not in replies.refuses}
            reply = await _call(http, backend.endpoint, body)
            if not reply.status:  # it hangs, or is gone: wait no more
                left = 0
            if refused := _refused(reply, body):
                replies.refuses += (refused,)
            if refused in ("", "n"):  # without n there is nothing to see
                return reply
        return Reply()

    replies.first = await ask(seed=1)
    if replies.first.texts:  # if not, the backend's own check says why
        replies.again = await ask(seed=1)
        replies.other = await ask(seed=2)
        replies.greedy = await ask(temperature=0)
        replies.two = await ask(seed=3, n=2)
        if words := _text(replies.greedy).split()[1:]:
            replies.stop = max(words, key=len)
            replies.stopped = await ask(temperature=0, stop=[replies.stop])
    return replies


@dataclass
class Replies:
    """To the same request twice, with another seed, at temperature 0, that with a stop, and with n = 2."""

    first: Reply = Reply()
    again: Reply = Reply()
    other: Reply = Reply()
    greedy: Reply = Reply()
    stopped: Reply = Reply()
    two: Reply = Reply()
    stop: str = ""
    refuses: tuple[str, ...] = ()

    def model(self, asked: str, models: tuple[str, ...]) -> str:
        """The model that answered to another's name, if that is so."""
        answered = self.first.json.get("model")
        return str(answered) if answered in models and asked not in (answered, *models) else ""

    def verdict(self, documented: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The parameters that are ignored; where the replies do not say, those `documented`."""
        honours = {**self._sampling(), **self._limits(), "n": self._n()}
        silent = {name for name in documented if honours.get(name) is None}
        wrong = {name for name, kept in honours.items() if kept is False}
        return tuple(name for name in ADVICE if name in silent | wrong and name not in self.refuses)

    def counts_one_choice(self) -> bool:
        """Whether usage leaves out all but one choice of n."""
        cut = [choice.get("finish_reason") == "length" for choice in self.two.choices]
        return len(cut) > 1 and all(cut) and self.two.tokens is not None and self.two.tokens <= TOKENS

    def _sampling(self) -> dict[str, bool | None]:
        """Of temperature and seed: True, False, or None where the texts do not say."""
        first, again, other, greedy = map(_text, (self.first, self.again, self.other, self.greedy))
        if not (first and again and other and greedy):
            return {}
        if first == again == other == greedy:
            return {"temperature": False}
        honours: dict[str, bool | None] = {"seed": first == again != other}
        if self.stopped.choices:  # at temperature 0 again, and so the same text, if shorter
            honours["temperature"] = _text(self.stopped) in (greedy, greedy.partition(self.stop)[0].strip())
        return honours

    def _limits(self) -> dict[str, bool | None]:
        """Of stop, max_tokens and usage."""
        if not self.first.texts:
            return {}
        tokens = self.first.tokens
        stop = self.stop not in _text(self.stopped) if self.greedy.spoke and self.stopped.choices else None
        short = len(_text(self.first).split()) <= 2 * TOKENS if tokens is None else tokens <= TOKENS
        return {"stop": stop, "max_tokens": short, "usage": tokens is not None}

    def _n(self) -> bool | None:
        if not self.two.choices:
            return None
        texts = self.two.texts
        alike = len(set(texts)) < len(texts) and _text(self.first) != _text(self.other)  # copies of one sample
        return len(texts) > 1 and not alike


def _text(reply: Reply) -> str:
    return reply.texts[0].strip() if reply.texts else ""


def _refused(reply: Reply, body: Mapping[str, Any]) -> str:
    """The parameter that an error names as the one it does not take; "" where it names none of ours."""
    if "n" in body and (reply.status in (400, 422) or (reply.status == 500 and "choice" in reply.text)):
        return "n"
    if reply.status in (400, 422):
        if "max_completion_tokens" in reply.text and "max_tokens" in body:
            return "max_tokens"
        for name in ("seed", "temperature"):
            if name in body and re.search(rf"\b{name}\b", reply.text):
                return name
    return ""
