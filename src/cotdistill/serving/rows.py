"""The rows that the server's model writes, each by the parameters of its own request, watched token by token.

Of a model that refill.py can decode, rows join and leave at any token (`LiveBatch`); of another, an encoder-decoder
one, those that wait are run together until the last ends (`write_together`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from cotdistill.backends.refill import Batch, Row, choose, has_ended
from cotdistill.backends.transformers import TransformersBackend

if TYPE_CHECKING:
    from cotdistill.serving.engine import Job


LEAST = -9999.0  # a log probability: JSON has no infinity


class Seen(NamedTuple):
    """A token with its log probability, and the `top` likeliest at its place, in natural logarithms."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(kw_only=True)
class LiveRow(Row):
    """A completion of a request: its `top` is how many log probabilities are wanted at a token, None for none.

    `ends` has for each token how many characters of the text are settled by it; `sent` and `shown` are how many
    characters and tokens the client has.
    """

    job: Job
    top: int | None
    seen: list[Seen] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    sent: int = 0
    shown: int = 0


After = Callable[[LiveRow, bool], None]


class LiveBatch(Batch[LiveRow]):
    """Rows that are sampled each in its own way; those whose client has gone leave."""

    def _choose(self, rows: list[LiveRow], scores: torch.Tensor) -> None:
        add_tokens(rows, scores)

    def _ended(self, row: LiveRow) -> bool:
        return row.job.gone or super()._ended(row)


def add_tokens(rows: Sequence[LiveRow], scores: torch.Tensor) -> None:
    """Write a token in each row, from its `scores` (rows, vocabulary); rows sampled alike are chosen for together."""
    alike: dict[tuple[float, float], list[int]] = {}
    for place, row in enumerate(rows):
        alike.setdefault((row.params.temperature, row.params.top_p), []).append(place)
    for places in alike.values():
        part = scores if len(alike) == 1 else scores[places]
        chosen = choose(part, rows[places[0]].params, [rows[place].generator for place in places])
        for place, token in zip(places, chosen.tolist(), strict=True):
            rows[place].tokens.append(token)
    watched = [(place, row) for place, row in enumerate(rows) if row.top is not None]
    if watched:
        logs = scores[[place for place, _ in watched]].float().log_softmax(-1).clamp(min=LEAST)
        values, ids = logs.topk(max(row.top or 1 for _, row in watched))
        for i, (_, row) in enumerate(watched):
            top = list(zip(ids[i].tolist(), values[i].tolist(), strict=True))[: row.top]
            row.seen.append(Seen(row.tokens[-1], float(logs[i, row.tokens[-1]]), top))


def write_together(backend: TransformersBackend, rows: Sequence[LiveRow], after: After) -> None:
    """Write `rows` until the last has ended; `after` is called with each that got a token, and whether it has ended."""
    live = _Live(backend, rows, after)
    backend.run_batch(
        [row.prompt for row in rows],
        max(row.params.max_tokens for row in rows),
        logits_processor=[live.choose],
        stopping_criteria=StoppingCriteriaList([live]),
    )


class _Live(StoppingCriteria):  # type: ignore[misc]
    """What `generate` of transformers calls at each token: first for the choice, then for which rows have ended."""

    def __init__(self, backend: TransformersBackend, rows: Sequence[LiveRow], after: After) -> None:
        self.backend, self.rows, self.after = backend, rows, after
        self.ended = [False] * len(rows)

    def choose(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        places = [i for i, ended in enumerate(self.ended) if not ended]
        rows = [self.rows[i] for i in places]
        add_tokens(rows, scores[places])
        only = torch.full_like(scores, -torch.inf)
        only[:, self.backend.loaded.pad_id] = 0.0  # of those that have ended
        only[places] = -torch.inf
        only[places, [row.tokens[-1] for row in rows]] = 0.0
        return only

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        going = [i for i, ended in enumerate(self.ended) if not ended]
        for i in going:
            row = self.rows[i]
            self.ended[i] = row.job.gone or has_ended(self.backend.loaded, row.tokens, row.params)
            self.after(row, self.ended[i])
        return torch.tensor(self.ended, device=input_ids.device)
