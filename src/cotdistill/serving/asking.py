"""The body of a request, checked: what it asks for, or an error in OpenAI's form. What is not done is refused.

https://platform.openai.com/docs/api-reference/chat/create and .../completions/create; a field that would change the
text and is not here must not be passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cotdistill.completions import SamplingParams
from cotdistill.config import nearest
from cotdistill.config_file import shown
from cotdistill.errors import BackendError
from cotdistill.models import LoadedModel, encode_turns
from cotdistill.records import Question
from cotdistill.serving.student import Student

MOST_TOKENS = 32_768
MOST_STOPS = 16
GREEDY = 1e-3  # a lower temperature is 0: some clients send 1e-8 for it, with which scores would overflow
# What says nothing of the text.
PASSED_OVER = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
# What is not done here, with the values that ask for nothing.
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
}
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class ApiError(Exception):
    """An answer that is no success; `code` and `param` as OpenAI has them."""

    def __init__(
        self, status: int, message: str, code: str = "", param: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param or None,
                "code": self.code or None,
            }
        }


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _StreamOptions(_Section):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Part(_Section):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class _Body(_Section):
    model: str = ""
    n: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] = Field(default_factory=list)
    seed: int | None = None
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()


class _PlainBody(_Body):
    prompt: str | Annotated[list[str], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=20)


class _ChatBody(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)


AnyBody = TypeVar("AnyBody", bound=_Body)


@dataclass(frozen=True)
class Limits:
    """`slots` completions at once, `queue` more that wait; `seconds` of a request; `body` in bytes."""

    slots: int = 16
    queue: int = 64
    seconds: float = 300.0
    body: int = 2**18


@dataclass(frozen=True)
class Asked:
    """A request: `n` completions of each of the `prompts`, in tokens; `top` as in LiveRow."""

    chat: bool
    model: str
    prompts: list[list[int]]
    params: SamplingParams
    n: int = 1
    seed: int | None = None
    top: int | None = None
    stream: bool = False
    include_usage: bool = False


class Reader:
    """Reads requests to one student; `most` is how many completions one request may ask for."""

    def __init__(self, student: Student, loaded: LoadedModel, tokenizer: Any, most: int) -> None:
        self.student, self.tokenizer, self.most, self.seq2seq = student, tokenizer, most, loaded.seq2seq
        self.room = getattr(loaded.model.config, "max_position_embeddings", sys.maxsize)

    def read(self, content: bytes, chat: bool) -> Asked:
        """What a body asks for. Raises `ApiError`."""
        return self._read_chat(_parse(content, _ChatBody)) if chat else self._read_plain(_parse(content, _PlainBody))

    def _read_chat(self, body: _ChatBody) -> Asked:
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true.", param="top_logprobs")
        limit = body.max_completion_tokens or body.max_tokens
        top = body.top_logprobs if body.logprobs else None
        return self._asked(body, True, [self._chat(body.messages)], limit, top)

    def _read_plain(self, body: _PlainBody) -> Asked:
        texts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        return self._asked(
            body, False, [self._encode((text,), False) for text in texts], body.max_tokens, body.logprobs
        )

    def _asked(self, body: _Body, chat: bool, prompts: list[list[int]], limit: int | None, top: int | None) -> Asked:
        names = (self.student.name, self.student.pinned)
        if body.model and body.model not in names:
            what = f"no model {shown(body.model)!r}{nearest(body.model, names)}"
            raise ApiError(404, what, "model_not_found", "model")
        params = self._params(body, limit)
        for ids in prompts:
            self._refuse_too_long(ids, params.max_tokens)
        if (count := len(prompts) * body.n) > self.most:
            raise ApiError(400, f"{count} completions in one request; this server has room for {self.most}.", param="n")
        model, usage = body.model or self.student.name, body.stream_options.include_usage
        return Asked(chat, model, prompts, params, body.n, body.seed, top, body.stream, usage)

    def _params(self, body: _Body, limit: int | None) -> SamplingParams:
        """As the student is evaluated, but for what the request says; its own stop strings stay."""
        own = self.student.params
        stop = [body.stop] if isinstance(body.stop, str) else body.stop
        return replace(
            own,
            max_tokens=limit or own.max_tokens,
            temperature=body.temperature if body.temperature >= GREEDY else 0.0,
            top_p=body.top_p,
            stop=tuple(dict.fromkeys((*own.stop, *stop))),
        )

    def _chat(self, messages: Sequence[_Message]) -> list[int]:
        """The prompt that a question becomes, in the student's own form."""
        method, form = self.student.method, self.student.form
        system = ""
        if messages[0].role in ("system", "developer"):
            system, messages = messages[0].text, messages[1:]
        roles = [message.role for message in messages]
        if roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or len(roles) % 2 == 0:
            raise ApiError(
                400, "messages: user and assistant by turns, the first and the last the user's.", param="messages"
            )
        if not method.chat and (system or len(roles) > 1):
            raise ApiError(
                400,
                f"this student was trained in the form {form!r}, on one question: send one user message and no system "
                "message. As a teacher of cotdistill it needs teacher.style=student.",
                "single_turn",
                "messages",
            )
        if not messages[0].text.strip():
            raise ApiError(400, "the question is empty.", param="messages")
        turns = (method.prompt(Question("", messages[0].text, "")), *(message.text for message in messages[1:]))
        return self._encode(turns, method.chat, system)

    def _encode(self, turns: Sequence[str], chat: bool, system: str = "") -> list[int]:
        try:
            return encode_turns(self.tokenizer, turns, chat, system)
        except BackendError as error:  # what the template says of these turns
            raise ApiError(400, str(error), param="messages") from None

    def _refuse_too_long(self, ids: Sequence[int], max_tokens: int) -> None:
        if not ids:
            raise ApiError(400, "the prompt is empty.", param="prompt")
        needed = max(len(ids), max_tokens) if self.seq2seq else len(ids) + max_tokens
        if needed > self.room:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens and max_tokens is {max_tokens}; the model has room for {self.room}.",
                "context_length_exceeded",
                "max_tokens",
            )


def _parse(content: bytes, form: type[AnyBody]) -> AnyBody:
    try:
        fields = orjson.loads(content)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be a JSON object.")
    fields = {name: value for name, value in fields.items() if value is not None and name not in PASSED_OVER}
    for name, harmless in NOT_DONE.items():
        if name in fields and fields.pop(name) not in harmless:
            raise ApiError(400, f"{name} is not supported here.", "unsupported_parameter", name)
    for name in fields:
        if name not in form.model_fields:
            raise ApiError(
                400,
                f"unknown field {shown(name)!r}{nearest(name, form.model_fields)}",
                "unknown_parameter",
                shown(name),
            )
    try:
        return form.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
        raise ApiError(400, f"{shown(place)}: {first['msg']}", "invalid_value", shown(place)) from None
