"""The lines of a batch's files: what one asks, and what one says.

https://platform.openai.com/docs/api-reference/batch/request-input, and request-output
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from cotdistill.backends.wire import RETRIED, Transient, clean, kept, read_reply, server_message
from cotdistill.completions import Completion


def line(custom_id: str, url: str, body: Mapping[str, Any]) -> bytes:
    """A line of an input file. Raises `orjson.JSONEncodeError` for half a character."""
    value = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def outcome(line: Mapping[str, Any], chat: bool, key: str) -> Completion:
    """What a line of an output or error file says, without the API `key`.

    Raises `Transient` where another try may do better, and where the request was never asked.
    """
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        status, reply = response.get("status_code"), _json(response.get("body"))
        if status == 200:
            return read_reply(reply, chat, 1, key).completions[0]
        message = f"HTTP {status}: {server_message(reply)}"
        if not isinstance(status, int) or status in RETRIED or not 400 <= status < 500:
            raise Transient(message)
        return failure(message, key, reply)
    if not error:
        raise Transient("its line has neither a response nor an error")
    reply = _json(error)
    if isinstance(error, dict) and str(error.get("code")).startswith("batch_"):  # batch_expired, batch_cancelled
        raise Transient(server_message(reply))
    return failure(server_message(reply), key, reply)


def failure(message: str, key: str, reply: bytes = b"") -> Completion:
    """A completion that failed for good."""
    return Completion("", "error", error=clean(message, key), reply=kept(reply, key))


def _json(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:  # 255 brackets
        raise Transient(f"the reply cannot be read: {error}") from None
