"""The OpenAI wire format: what is sent, what comes back, and what a failure means. Pure functions.

A failure is one of three kinds: worth another try (`Transient`), of one request (a completion of
finish reason "error"), or of every request (a status with `advice`).
"""

from __future__ import annotations

import email.utils
import ipaddress
import json
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import orjson

from cotdistill.completions import Completion, Request, messages
from cotdistill.errors import BackendError, ConfigError
from cotdistill.records import FinishReason

MAX_REPLY_BYTES = 16 * 2**20  # a completion is kilobytes; more is a broken or hostile server
MAX_KEPT = 2**16  # bytes of a failed reply that are stored
MAX_MESSAGE = 200  # characters of a server's message that are shown
WAIT_CAP = 60.0  # seconds that a server may ask for
RETRIED = {408, 409, 425, 429}  # and all from 500 on
BUSY = {429, 503, 529}  # the server has too much to do: slow down
EMPTY = "empty completion"
ADVICE = {
    401: "Check teacher.api_key.",
    402: "Check the credit of the account behind teacher.api_key.",
    403: "Check teacher.api_key, and what it may use.",
    404: "Check teacher.base_url (it should end in /v1) and teacher.model.",
}

REDIRECT_ADVICE = "Set teacher.base_url to the address it should be; redirects are not followed."


class Transient(Exception):
    """Another try may do better, after `wait` seconds at least.

    `unreachable`: there was no connection. `busy`: the server asks for less. `unknown`: the reply was
    lost, so the server may have done the work, and billed it. `left` is False where nothing was sent.
    """

    def __init__(
        self,
        reason: str,
        wait: float = 0.0,
        unreachable: bool = False,
        busy: bool = False,
        unknown: bool = False,
        left: bool = True,
        reply: bytes = b"",
    ) -> None:
        super().__init__(reason)
        self.wait, self.unreachable, self.busy, self.unknown, self.reply = wait, unreachable, busy, unknown, reply
        self.left = left


class Reply(NamedTuple):
    """What a request brought: usable completions, of so many choices, and the tokens billed (0: not said)."""

    completions: list[Completion]
    choices: int
    tokens: int


class _Choice(NamedTuple):
    text: str
    finish: FinishReason
    error: str = ""


def body(request: Request, samples: Sequence[int], model: str, chat: bool, system: str, limit: str) -> dict[str, Any]:
    """The JSON of a request for `samples` of it; `limit` names the field of max_tokens."""
    params = request.params
    body: dict[str, Any] = {"model": model, limit: params.max_tokens, "temperature": params.temperature}
    if chat:
        body["messages"] = messages(request.prompt, system)
    else:
        body["prompt"] = "".join(request.prompt)
    if params.stop:
        body["stop"] = list(params.stop)
    if params.temperature > 0:
        body["top_p"] = params.top_p  # 1 too: left alone, llama.cpp takes 0.95, and others what the model's files say
        body["seed"] = request.seed(samples[0])
    if len(samples) > 1:
        body["n"] = len(samples)
    return body


def read_reply(content: bytes, chat: bool, n: int, api_key: str = "") -> Reply:
    """The completions in a reply of status 200 to a request for `n`; fewer where some cannot be used.

    Raises `Transient` where there is none.
    """
    try:
        # Refuses lone surrogates and NaN too, which neither UTF-8 nor JSON can hold.
        reply = orjson.loads(content)
        if content.count(b'"choices"') > 1 or content.count(b'"content"') > n or content.count(b'"text"') > n:
            json.loads(content, object_pairs_hook=_without_repeats)  # slow, and seldom
    except (ValueError, RecursionError) as error:
        page = clean(content[:2000].decode(errors="replace"), api_key)[:60]  # such as that of a proxy or a portal
        raise Transient(f"the reply is not JSON: {error}; it begins {page!r}", unknown=True, reply=content) from None
    choices = reply.get("choices") if isinstance(reply, dict) else None
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        message = clean(server_message(content), api_key)
        raise Transient(f"the reply has no completion: {message}", unknown=True, reply=content)
    if len(choices) > 1 and sorted(str(c.get("index")) for c in choices) == sorted(map(str, range(len(choices)))):
        choices = sorted(choices, key=lambda choice: int(choice["index"]))
    read = [_read_choice(choice, chat) for choice in choices[:n]]
    good = [choice for choice in read if isinstance(choice, _Choice)]
    if not good:
        raise Transient(clean(str(read[0]), api_key), unknown=True, reply=content)
    usage, served = reply.get("usage"), reply.get("model")
    prompt_tokens, tokens = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    served = _clean_name(served, api_key) if isinstance(served, str) else ""
    completions = []
    for i, (choice, share) in enumerate(zip(good, _shares(good, tokens), strict=True)):
        failure, raw = (clean(choice.error, api_key), kept(content, api_key)) if choice.error else ("", b"")
        # A bill is for a whole reply: its prompt is counted with the first.
        prompt = 0 if i else prompt_tokens
        completions.append(Completion(choice.text, choice.finish, prompt, share, failure, served, raw))
    return Reply(completions, len(choices), prompt_tokens + tokens)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are all different: of two, one reader takes the first, another the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _read_choice(choice: Mapping[str, Any], chat: bool) -> _Choice | str:
    """A completion, one that failed for good, or what is wrong that may be right the next time."""
    reason, message = choice.get("finish_reason"), choice.get("message")
    if chat and not isinstance(message, dict):
        return "the reply has no completion: no message"
    text = message.get("content") if chat and isinstance(message, dict) else choice.get("text")
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if reason == "content_filter":
        return _Choice("", "error", "the server's content filter held the text back")
    if not text and isinstance(refusal, str) and refusal:
        return _Choice("", "error", f"the model refuses: {refusal}")
    if chat and not text:
        if reason == "length":  # the same request would end the same way, and cost the same
            return _Choice("", "error", f"{EMPTY}: cut before its first word. Raise teacher.max_tokens.")
        thought = any(message.get(field) for field in ("reasoning_content", "reasoning")) if message else False
        return f"{EMPTY}: reasoning, and no text after it" if thought else EMPTY
    if not isinstance(text, str):
        return f"the reply has no completion: {text!r}"
    return _Choice(text, "length" if reason == "length" else "stop")


def _shares(choices: Sequence[_Choice], tokens: int) -> list[int]:
    """The billed `tokens` of a reply, by the length of its texts."""
    if len(choices) == 1:
        return [tokens]
    ends = list(accumulate(len(choice.text) for choice in choices))
    upto = [tokens * end // ends[-1] if ends[-1] else tokens for end in ends]
    return [end - start for start, end in zip([0, *upto], upto, strict=False)]


def _tokens(usage: Any, key: str) -> int:
    count = usage.get(key) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0


def authorization(api_key: str) -> str:
    """The header's value: of a key, or of what stood in an address as user:password@."""
    return api_key if api_key.startswith("Basic ") else f"Bearer {api_key}"


def clean(text: str, api_key: str) -> str:
    """A server's words, safe to show: on one line, without the key, not long."""
    if api_key:
        text = text.replace(api_key, "[key]")
    if len(text) > 10 * MAX_MESSAGE or not text.isprintable():
        text = " ".join("".join(c if c.isprintable() else " " for c in text[: 10 * MAX_MESSAGE]).split())
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


_clean_name = lru_cache(64)(clean)  # one name comes with each of many replies


def kept(reply: bytes, api_key: str) -> bytes:
    """The part of a failed reply that is stored, without the key."""
    reply = reply.replace(api_key.encode(), b"[key]") if api_key else reply
    return reply[:MAX_KEPT]


def server_message(reply: bytes) -> str:
    """What a server says went wrong, in any of the shapes that are about."""
    try:
        value = orjson.loads(reply)
    except orjson.JSONDecodeError:
        return reply[:2000].decode(errors="replace")
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and value.get(key):
            value = value[key]
    return str(value)


def refusal(status: int, headers: Mapping[str, str], reply: bytes, api_key: str) -> tuple[str, str]:
    """What a status other than 200 says, and what to do about it: "" where not every request will meet it."""
    if 300 <= status < 400:
        place = clean(headers.get("Location", "nowhere"), api_key)
        return f"HTTP {status}, the server redirects to {place}.", REDIRECT_ADVICE
    return f"HTTP {status}: {clean(server_message(reply), api_key)}", _advice(status, reply)


def _advice(status: int, reply: bytes) -> str:
    if status == 429 and b"insufficient_quota" in reply[:2000]:
        return ADVICE[402]
    if status in (400, 422) and re.search(rb"(?i)\bmodel.{0,80}(not.found|does not exist)", reply[:2000]):
        return ADVICE[404]
    return ADVICE.get(status, "")


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header, which has a number or a date; 0 where it makes no sense."""
    value = headers.get("Retry-After", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(seconds, WAIT_CAP) if seconds > 0 else 0.0  # NaN is not above 0


def exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until a spent limit is filled again, by the x-ratelimit headers; 0 where none is spent.

    https://platform.openai.com/docs/guides/rate-limits: remaining-requests 0, reset-requests "6m0s".
    """
    wait = 0.0
    for what in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{what}") == "0":
            reset = headers.get(f"x-ratelimit-reset-{what}", "")
            units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
            parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", reset)
            wait = max(wait, sum(float(number) * units[unit] for number, unit in parts))
    return min(wait, WAIT_CAP)


def host_of(base_url: str) -> str:
    """The host of a usable `base_url`. Raises `ConfigError` for one that cannot work, or holds a secret."""
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"teacher.base_url: {base_url!r} is not an HTTP address.\nWrite it like http://localhost:8000/v1."
        )
    if "@" in url.netloc or url.query or url.fragment:  # it is stored and shown, so it holds no secret
        raise ConfigError(
            "teacher.base_url: it must have no user, password, query or fragment.\n"
            "Put the key in teacher.api_key, and end the address in /v1."
        )
    return url.hostname or ""


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_key(api_key: str, base_url: str) -> str:
    """The key for a usable address. Raises `BackendError` where it would cross a network in the clear."""
    loopback, api_key = is_loopback(host_of(base_url)), api_key.strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("teacher.api_key: it has characters that no HTTP header holds.\nCopy it again.")
    if api_key and not loopback and base_url.lower().startswith("http:"):
        raise BackendError(
            f"{base_url}: an API key would cross the network unencrypted.\n"
            "Set teacher.base_url to an https:// address, or leave teacher.api_key empty."
        )
    return api_key
