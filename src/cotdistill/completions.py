"""What is asked of a model and what comes back: the words that the store and the backends share.

request = Request(("Q: ...",), SamplingParams(128, temperature=0.7), samples=(0, 1, 2, 3))
key = Pool({"model": "m"}, request.params).key(request.prompt)     # one row a sample under it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from json.encoder import encode_basestring_ascii

from cotdistill.errors import DataError
from cotdistill.records import FinishReason

KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a completion is sampled: all that changes its text, and so a part of its key.

    `max_tokens` in tokens; `temperature` 0 is greedy; `seed` 0 is the first pool of samples, another
    one a pool of its own.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend returned for one sample. An `error` is no text: it is asked again by the next run.

    Tokens are those the server billed for; where one request brought several samples, the prompt is
    counted with the first of them, and the rest is shared out by length. `served` is the model that the
    server says it was, `reply` the raw body of a failure, kept for a look at it.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    served: str = field(default="", compare=False)
    reply: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)  # itself and no other: that is how its completions find back
class Request:
    """Completions to ask for: each of the `samples` of `prompt`.

    A prompt is a tuple of turns, the first and the last the user's, those between by turns the
    model's own and the user's. A completion model reads them joined, a chat model as messages.
    `follow_up` are the tokens of a second prompt's completion, which will be asked for after each text; 0: none.
    `known`: others that are asked like it were answered in an earlier run, so a refusal is its own.
    """

    prompt: tuple[str, ...]
    params: SamplingParams
    samples: tuple[int, ...] = (0,)
    follow_up: int = 0
    known: bool = False

    def seed(self, sample: int) -> int:
        """A seed of 31 bits for a sample, the same in every run, order and batch."""
        content = f"[{self.params.seed},{sample},{self.turns[1:]}"
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4]) >> 1

    @property
    def turns(self) -> str:
        """The prompt as canonical JSON."""
        return turns_text(self.prompt)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> str:
    """JSON with sorted keys, so equal values give equal text."""
    return _ENCODER.encode(value)


@lru_cache(1024)  # a prompt is read for its key, its seed and its row, soon after each other
def turns_text(prompt: tuple[str, ...]) -> str:
    """The same as `canonical(prompt)`, several times as fast."""
    return f"[{','.join(map(encode_basestring_ascii, prompt))}]"


def messages(turns: Sequence[str], system: str = "") -> list[dict[str, str]]:
    """A prompt as a chat: the turns are the user's and the assistant's, in that order."""
    before = [{"role": "system", "content": system}] if system else []
    return before + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


def identity_text(identity: Mapping[str, str]) -> str:
    """A backend's identity as it stands in the store and in keys."""
    return canonical(dict(identity))


@dataclass(frozen=True)
class Pool:
    """All completions of one model, by its `identity`, sampled in one way."""

    identity: Mapping[str, str]
    sampling: SamplingParams

    @cached_property
    def model(self) -> str:
        return identity_text(self.identity)

    @cached_property
    def params(self) -> str:
        return canonical(asdict(self.sampling))

    @cached_property
    def _start(self) -> bytes:
        return f"{self.model}\n{self.params}\n".encode()  # JSON has no bare line end: nothing runs together

    def key(self, prompt: tuple[str, ...]) -> bytes:
        """The hash of everything that decides the text, but for the sample."""
        return hash_of(self._start + turns_text(prompt).encode())


@lru_cache(1024)
def pool_of(model: str, params: str) -> Pool:
    """The pool that is stored so. Raises `DataError` for parameters that this version does not know."""
    try:
        values = json.loads(params)
        pool = Pool(json.loads(model), SamplingParams(**{**values, "stop": tuple(values["stop"])}))
    except (TypeError, KeyError, ValueError):
        pool = None
    if pool is None or (pool.model, pool.params) != (model, params):  # its keys would be others
        raise DataError(f"model {model}, sampling parameters {params}: of another version.\nUpgrade cotdistill.")
    return pool


def hash_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:KEY_BYTES]
