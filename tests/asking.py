"""Ask a backend directly, as `generate` does."""

from __future__ import annotations

from collections.abc import Sequence

from cotdistill.backends import Backend
from cotdistill.completions import Completion, Request, SamplingParams

TALK = Request(("a", "b", "c"), SamplingParams(9, temperature=0.5, top_p=0.9, stop=(" END",), seed=3), (4,))
TALK_BODY = {
    "model": "fake",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": [" END"],
    "seed": TALK.seed(4),
}  # that a chat endpoint gets, of the system message "Be brief."


def ask(backend: Backend, requests: Sequence[Request]) -> list[Completion]:
    """Each completion, in the order of the requests and their samples; each is yielded once."""
    asked = [(request, sample) for request in requests for sample in request.samples]
    found = [((request, sample), completion) for request, sample, completion in backend.generate(iter(requests))]
    assert len(found) == len(asked) == len(dict(found))
    return [dict(found)[pair] for pair in asked]
