"""Ask a backend directly, as `generate` does."""

from __future__ import annotations

from collections.abc import Sequence

from cotdistill.backends import Backend
from cotdistill.completions import Completion, Request


def ask(backend: Backend, requests: Sequence[Request]) -> list[Completion]:
    """Each completion, in the order of the requests and their samples; each is yielded once."""
    asked = [(request, sample) for request in requests for sample in request.samples]
    found = [((request, sample), completion) for request, sample, completion in backend.generate(iter(requests))]
    assert len(found) == len(asked) == len(dict(found))
    return [dict(found)[pair] for pair in asked]
