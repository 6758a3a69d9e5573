"""Decoding of a causal model in which new prompts take the place of the texts that have ended.

    for i, tokens, looped in decode(loaded, prompts, seeds, params, batch_size):

`generate` of transformers runs a batch until its longest text ends, with most rows idle for most of the time. Here
a row leaves as it ends. The rows are right-aligned in one cache, so each has its next token in the same column.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import pad
from transformers import Cache, DynamicCache, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from cotdistill.backends.cache import ROOM, attend_grouped, joined
from cotdistill.completions import SamplingParams
from cotdistill.models import LoadedModel

JOIN_SHARE = 4  # prompts join when this part of the batch is free: a few of them are read no faster than many
PROMPTS_AT_ONCE = 32  # rows read together, padded to the longest of them
LOOP_TOKENS = 96  # that repeat one span, and ...
LOOP_REPEATS = 3  # ... repeat it as often: a greedy text does not come out of that again
LOOP_EVERY = 16  # tokens between two looks
# What a model's generation_config.json may say without another greedy text: `generate` alone knows the rest.
PLAIN = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache", "max_length"}
PLAIN |= {"do_sample", "temperature", "top_p", "top_k", "cache_implementation", "max_new_tokens"}


def can_refill(model: Any) -> bool:
    """Whether a causal model keeps only keys and values of its tokens, and its scores are used as they are."""
    if not {"past_key_values", "position_ids", "logits_to_keep"} <= set(inspect.signature(model.forward).parameters):
        return False
    layers = DynamicCache(config=model.config).layers
    known = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    says = {key for key in model.generation_config.to_diff_dict() if not key.startswith(("_", "output_"))}
    return known and says <= PLAIN


@dataclass
class Row:
    """A text that is being written by `params`: `tokens` so far, of the prompt at `index`."""

    index: int
    prompt: list[int]
    generator: torch.Generator
    params: SamplingParams
    tokens: list[int] = field(default_factory=list)
    looped: bool = False


AnyRow = TypeVar("AnyRow", bound=Row)


def decode(
    loaded: LoadedModel,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    params: SamplingParams,
    batch_size: int,
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield (position of the prompt, tokens, whether it repeated itself) as each text ends, `batch_size` at a time."""
    batch = Batch[Row](loaded)
    begun = 0
    while begun < len(prompts) or batch.rows:
        free = min(batch_size - len(batch.rows), len(prompts) - begun)
        if free and (free * JOIN_SHARE >= batch_size or begun + free == len(prompts)):
            news = range(begun, begun + free)
            batch.join([Row(i, prompts[i], torch.Generator().manual_seed(seeds[i]), params) for i in news])
            begun += free
        else:
            batch.step()
        for row in batch.leave():
            yield row.index, row.tokens, row.looped


class Batch(Generic[AnyRow]):
    """The rows that are being written, and what the model keeps of them.

    `mask` (rows, columns and room) is 1 where a column is the row's own, 0 left of its prompt and in the room.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.rows: list[AnyRow] = []
        self.layers: list[Any] = []
        self.columns = 0  # that are written
        self.mask = torch.empty(0, 0, dtype=torch.long, device=loaded.model.device)
        attend_grouped(loaded.model)

    @torch.inference_mode()
    def join(self, rows: list[AnyRow]) -> None:
        """Read the prompts of `rows`, those of like length together, and write the first token of each."""
        parts = [rows[start : start + PROMPTS_AT_ONCE] for start in range(0, len(rows), PROMPTS_AT_ONCE)]
        read = [self._read(part) for part in parts]
        self.rows = self.rows + rows
        self._arrange(read)

    @torch.inference_mode()
    def step(self) -> None:
        """Write one token more in each row."""
        if self.columns == self.mask.shape[1]:
            self._arrange([])
        self.mask[:, self.columns] = 1
        self.columns += 1
        ids = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self.mask.device)
        self._write(self.rows, ids, self.mask, self.mask.sum(-1, keepdim=True) - 1, Cache(layers=self.layers))

    @torch.inference_mode()
    def leave(self) -> list[AnyRow]:
        """The rows that have ended, taken out; those of the end of the batch go into their places."""
        ended = [i for i, row in enumerate(self.rows) if self._ended(row)]
        left = [self.rows[i] for i in ended]
        if left:
            count = len(self.rows) - len(ended)
            places = [i for i in ended if i < count]
            movers = sorted(set(range(count, len(self.rows))) - set(ended))
            for place, i in zip(places, movers, strict=True):
                self.rows[place] = self.rows[i]
            self.rows = self.rows[:count]
            self.mask = _moved(self.mask, places, movers, count)
            for layer in self.layers:
                layer.keys, layer.values = (_moved(x, places, movers, count) for x in (layer.keys, layer.values))
        return left

    def _read(self, rows: list[AnyRow]) -> tuple[torch.Tensor, list[Any]]:
        """The mask and the layers of the prompts of `rows`."""
        width = max(len(row.prompt) for row in rows)
        ids = [[self.loaded.pad_id] * (width - len(row.prompt)) + row.prompt for row in rows]
        ones = [[0] * (width - len(row.prompt)) + [1] * len(row.prompt) for row in rows]
        mask = torch.tensor(ones, device=self.mask.device)
        # Without the configuration: sliding layers keep all columns, and the mask alone says what they see.
        cache = DynamicCache()
        self._write(rows, torch.tensor(ids, device=mask.device), mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        return mask, cache.layers

    def _arrange(self, read: list[tuple[torch.Tensor, list[Any]]]) -> None:
        """Put what is kept, and what was `read`, in as many columns as the longest row needs, and room."""
        parts = [(self.mask[:, : self.columns], self.layers)] if self.layers else []
        parts += read
        self.columns = max(len(row.prompt) + len(row.tokens) - 1 for row in self.rows)  # the last token is not in yet
        self.mask = torch.cat([pad(mask, (self.columns - mask.shape[1], ROOM)) for mask, _ in parts])
        # Layer by layer: never two caches in memory.
        self.layers = [joined(layers, self.columns) for layers in zip(*(layers for _, layers in parts), strict=True)]

    def _write(
        self, rows: list[AnyRow], ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache
    ) -> None:
        output = self.loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._choose(rows, output.logits[:, -1])

    def _choose(self, rows: list[AnyRow], scores: torch.Tensor) -> None:
        """Write the token in each of `rows`, sampled in one way, that follows from its `scores` (rows, vocabulary)."""
        tokens = choose(scores, rows[0].params, [row.generator for row in rows])
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.tokens.append(token)

    def _ended(self, row: AnyRow) -> bool:
        if has_ended(self.loaded, row.tokens, row.params):
            return True
        row.looped = row.params.temperature == 0 and len(row.tokens) % LOOP_EVERY == 0 and loops(row.tokens)
        return row.looped


def has_ended(loaded: LoadedModel, tokens: list[int], params: SamplingParams) -> bool:
    """Whether a text has its last token: the model's own end, that of a stop string, or as many as there may be."""
    if tokens[-1] in loaded.eos_ids or len(tokens) == params.max_tokens:
        return True

    def stops(part: list[int]) -> bool:
        text = loaded.tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return any(stop in text for stop in params.stop)

    if not params.stop or not loaded.may_stop(params.stop, tokens[-1]):
        return False
    return stops(tokens[-_tail(params.stop) :]) and stops(tokens)


@lru_cache(1024)
def _tail(stop: tuple[str, ...]) -> int:
    """The most tokens that a stop string can be, none shorter than a byte."""
    return max(len(one.encode()) for one in stop) + 1  # some tokenizers drop a text's first space


def choose(scores: torch.Tensor, params: SamplingParams, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """A token a row of `scores` (rows, vocabulary): the likeliest, or one drawn with the row's own generator."""
    if params.temperature == 0:
        return scores.max(-1).indices  # the first of equals, as argmax; in bf16 on a CPU 4 times as fast
    ids: Any = None  # which neither of the two looks at
    scores = TemperatureLogitsWarper(params.temperature)(ids, scores.float())
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(ids, scores)
    cumulated = scores.softmax(-1).cumsum(-1)
    uniform = torch.cat([torch.rand(1, generator=g) for g in generators]).to(scores.device)
    # right=True: a token of probability 0 adds nothing to the sum, and is never the first above.
    chosen = torch.searchsorted(cumulated, uniform[:, None] * cumulated[:, -1:], right=True)
    return chosen.clamp_(max=scores.shape[-1] - 1)[:, 0]


def loops(tokens: list[int]) -> bool:
    """Whether a text ends in one span of tokens, again and again."""
    for period in range(1, len(tokens) // LOOP_REPEATS + 1):
        span = max(LOOP_TOKENS, LOOP_REPEATS * period)
        if (
            tokens[-1] == tokens[-1 - period]
            and len(tokens) >= span
            and tokens[-span:-period] == tokens[period - span :]
        ):
            return True
    return False


def _moved(x: torch.Tensor, places: list[int], movers: list[int], count: int) -> torch.Tensor:
    """The first `count` rows of `x`, in which those of `movers` are now at `places`."""
    if places:
        x[places] = x[movers]
    return x[:count]
