"""What a server takes of the wire format, found out from what it refuses and leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cotdistill.backends.wire import Reply, body
from cotdistill.completions import Request
from cotdistill.progress import say

if TYPE_CHECKING:
    from cotdistill.backends.openai import OpenAIBackend

MOST_SAMPLES = 16  # in one request


class Dialect:
    """How one server is asked: `honours_n` None until it is known."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self.backend = backend
        self.honours_n: bool | None = None
        self.limit_field = "max_tokens"
        self.left_out: set[str] = set()  # fields that it refuses
        self.served = ""
        self.said: set[str] = set()

    def at_once(self, request: Request) -> int:
        """How many samples go into one request."""
        return MOST_SAMPLES if self.honours_n is not False and request.params.temperature > 0 else 1

    def fields(self, request: Request, samples: tuple[int, ...]) -> dict[str, Any]:
        """The JSON of a request."""
        b = self.backend
        fields = body(request, samples, b.model, b.chat, b.system, self.limit_field)
        for name in self.left_out:
            fields.pop(name, None)
        return fields

    def learn(self, asked: int, reply: Reply) -> None:
        """From a reply to a request for so many samples."""
        if reply.choices < asked and self.honours_n is None:
            self.honours_n = False
            self.say(f"the server gave {reply.choices} of {asked} samples of a request: from now on one each.")
        elif reply.choices == asked > 1 and self.honours_n is None:
            self.honours_n = True
        elif reply.choices > asked:
            self.say(f"warning: the server gave {reply.choices} samples where {asked} were asked for.")
        served = next((c.served for c in reply.completions if c.served), self.served)
        if self.served and served != self.served:
            self.say(f"warning: the server says that it is {served} now, and was {self.served}.")
        self.served = served

    def adapt(self, fields: Mapping[str, Any], message: str) -> bool:
        """Leave out of the `fields` of a request what its refusal names, if that may be; whether it was in them."""
        if "max_completion_tokens" in message and "max_tokens" in fields:
            self.limit_field = "max_completion_tokens"  # as hosted reasoning models want it
        elif "seed" in fields and "seed" in message.lower():
            self.left_out.add("seed")
            self.say("the server refuses a seed: samples are stored, but cannot be drawn again.")
        elif fields.get("top_p") == 1 and "top_p" in message:
            self.left_out.add("top_p")
        elif "n" in fields and self.honours_n is None:
            self.honours_n = False
            self.say(f"the server refuses several samples of a request: from now on one each ({message}).")
        else:
            return "n" in fields and self.honours_n is False
        return True

    def say(self, text: str) -> None:
        """Once."""
        if text not in self.said:
            self.said.add(text)
            say(text)
