"""STAND-IN for the integrator's wire.py, only so that batch.py runs on this branch: drop it at the merge.

The pure parts of the OpenAI wire format, copied from backends/openai.py as it was.
"""

from __future__ import annotations

import email.utils
import ipaddress
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from cotdistill.completions import Completion, Request
from cotdistill.errors import BackendError, ConfigError
from cotdistill.records import FinishReason

MAX_MESSAGE = 200  # characters of a server's message that are shown
RETRY_AFTER_CAP = 60.0
RETRIED = {408, 409, 425, 429}  # and all from 500 on
EMPTY = "empty completion"
ADVICE = {
    401: "Check teacher.api_key.",
    402: "Check the credit of the account behind teacher.api_key.",
    403: "Check teacher.api_key, and what it may use.",
    404: "Check teacher.base_url (it should end in /v1) and teacher.model.",
}


class Transient(Exception):
    """Another try may do better, after `wait` seconds at least; `unreachable`: there was no connection."""

    def __init__(self, reason: str, wait: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait = wait
        self.unreachable = unreachable


def body(model: str, system: str, chat: bool, request: Request, samples: Sequence[int]) -> dict[str, Any]:
    """What asks for `samples` of a request."""
    params = request.params
    body: dict[str, Any] = {"model": model, "max_tokens": params.max_tokens, "temperature": params.temperature}
    if chat:
        messages = [{"role": "system", "content": system}] if system else []
        messages += [
            {"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(request.prompt)
        ]
        body["messages"] = messages
    else:
        body["prompt"] = "".join(request.prompt)
    if len(samples) > 1:
        body["n"] = len(samples)
    if params.top_p < 1:
        body["top_p"] = params.top_p
    if params.stop:
        body["stop"] = list(params.stop)
    if params.temperature > 0:
        body["seed"] = request.seed(samples[0])
    return body


def read(reply: bytes, chat: bool, n: int) -> list[Completion]:
    """The completions in a reply of status 200."""
    try:
        # Refuses lone surrogates and NaN too, which neither UTF-8 nor JSON can hold.
        value = orjson.loads(reply)
    except orjson.JSONDecodeError as error:
        raise Transient(f"the reply is not JSON: {error}") from None
    try:
        choice = value["choices"][0]
        reason = choice.get("finish_reason")
        text = choice["message"].get("content") if chat else choice["text"]
    except (LookupError, TypeError, AttributeError):
        raise Transient(f"the reply has no completion: {server_message(reply)}") from None
    if reason == "content_filter":
        return [Completion("", "error", error="the server's content filter held the text back")]
    if chat and not text:
        if reason == "length":  # the same request would end the same way, and cost the same
            return [Completion("", "error", error=f"{EMPTY}: cut before its first word. Raise teacher.max_tokens.")]
        raise Transient(EMPTY)
    if not isinstance(text, str):
        raise Transient(f"the reply has no completion: {text}")
    finish: FinishReason = "length" if reason == "length" else "stop"
    usage, served = value.get("usage"), value.get("model")
    tokens = _tokens(usage, "prompt_tokens"), _tokens(usage, "completion_tokens")
    return [Completion(text, finish, *tokens, served=served if isinstance(served, str) else "")]


def clean(text: str, key: str) -> str:
    """A server's words, safe to show: on one line, without the key, not long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if key:
        text = text.replace(key, "[key]")
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."


def check_address(base_url: str, key: str) -> bool:
    """Whether the server is on this machine; raises for a `base_url` or key that cannot work."""
    loopback = _is_loopback(_host(base_url))
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("teacher.api_key: it has characters that no HTTP header holds.\nCopy it again.")
    if key and not loopback and base_url.lower().startswith("http:"):
        raise BackendError(
            f"{base_url}: an API key would cross the network unencrypted.\n"
            "Set teacher.base_url to an https:// address, or leave teacher.api_key empty."
        )
    return loopback


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


def advice(status: int, reply: bytes) -> str | None:
    """What to do about a status that every request will meet; None where another may fare better."""
    if status == 429 and b"insufficient_quota" in reply[:2000]:
        return ADVICE[402]
    if status in (400, 422) and re.search(rb"(?i)\bmodel.{0,80}(not.found|does not exist)", reply[:2000]):
        return ADVICE[404]
    return ADVICE.get(status)


def retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which has a number or a date; 0 where it makes no sense."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return min(seconds, RETRY_AFTER_CAP) if seconds > 0 else 0.0  # NaN is not above 0


def _host(base_url: str) -> str:
    """The host of a usable `base_url`."""
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _tokens(usage: Any, key: str) -> int:
    count = usage.get(key) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and 0 <= count < 2**31 else 0
