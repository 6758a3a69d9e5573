"""Pairs as a student reads them: tokenised, padded or laid end to end, in batches of like length.

    example = make_example(student, pair)
    batch = collate([vars(example)], student.pad_id)

Imports torch: to be imported after `import_training`, which says how to install it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch

from cotdistill.models import LoadedModel, chat_text, encode_turns
from cotdistill.records import Pair

IGNORED = -100  # PyTorch's label for "no loss here"
GROUP = 50  # batches whose examples are sorted by length together

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A tokenised pair.

    For a causal student `input_ids` are prompt and completion, and `labels` are IGNORED on the prompt; an
    encoder-decoder one reads the prompt as `input_ids` and learns to write the completion, the `labels`.
    """

    input_ids: list[int]
    labels: list[int]
    question_id: str = ""

    @property
    def length(self) -> int:
        return max(len(self.input_ids), len(self.labels))


# Fills a batch that several processes share, and counts for nothing.
BLANK = Example([0, 0], [IGNORED, IGNORED])


def make_example(student: LoadedModel, pair: Pair, chat: bool = False) -> Example:
    """Tokenise a pair; the prompt by the function that inference uses, so its ids are the same there."""
    tokenizer = student.tokenizer
    prompt = encode_turns(tokenizer, (pair.prompt,), chat)
    text = assistant_turn(tokenizer, pair) if chat else pair.completion
    completion = list(tokenizer.encode(text, add_special_tokens=student.seq2seq))
    if not completion or completion[-1] not in student.eos_ids:
        completion.append(tokenizer.eos_token_id)
    if student.seq2seq:
        return Example(prompt, completion, pair.question_id)
    ids = prompt + completion
    start = max(1, len(prompt))  # nothing predicts a first token
    return Example(ids, [IGNORED] * start + ids[start:], pair.question_id)


def assistant_turn(tokenizer: Any, pair: Pair) -> str:
    """What the chat template puts after the prompt: the completion and what ends the turn."""
    before = chat_text(tokenizer, (pair.prompt,))
    whole = chat_text(tokenizer, (pair.prompt, pair.completion))
    # Most templates go on with a newline, which the model is never to write.
    return whole.removeprefix(before).rstrip() if whole.startswith(before) else pair.completion


def pack(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Lay a batch end to end; returns input_ids, labels and position_ids, each (1, all its tokens), and ids.

    Positions begin at 0 for each example: by that attention, fused or not, tells one from the next.
    """

    def row(values: Iterable[Sequence[int]]) -> torch.Tensor:
        return torch.tensor([[*chain.from_iterable(values)]])

    return {
        "input_ids": row(example["input_ids"] for example in examples),
        "labels": row(example["labels"] for example in examples),
        "position_ids": row(range(len(example["input_ids"])) for example in examples),
        "question_ids": [example["question_id"] for example in examples],
    }


def collate(examples: Sequence[Mapping[str, Any]], pad_id: int) -> dict[str, Any]:
    """Pad a batch on the right; returns input_ids, attention_mask and labels, each (batch, its longest), and ids."""

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": padded(ids, pad_id),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([example["labels"] for example in examples], IGNORED),
        "question_ids": [example["question_id"] for example in examples],
    }


class LengthGrouped(torch.utils.data.Sampler[int]):
    """Indices that fall into batches of like length, in random order; each `epoch` another.

    `fill`: the last batch is as large as the others, by an index beyond the last.

    transformers' own sampler leaves the batches sorted: the last steps of a short training see short examples only.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, fill: bool = False) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.blanks = -len(lengths) % batch_size if fill else 0
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths) + self.blanks

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epoch):  # so that a training that goes on draws what it would have drawn
            self._drawn(generator)
        return iter(self._drawn(generator))

    def _drawn(self, generator: torch.Generator) -> list[int]:
        order = _permuted(range(len(self.lengths)), generator)
        size = GROUP * self.batch_size
        groups = [sorted(order[i : i + size], key=self.lengths.__getitem__) for i in range(0, len(order), size)]
        batches = [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]  # before others, it would shift them
        blanks = [len(self.lengths)] * self.blanks
        return [i for batch in [*_permuted(whole, generator), *rest, blanks] for i in batch]


def _permuted(values: Sequence[T], generator: torch.Generator) -> list[T]:
    return [values[i] for i in torch.randperm(len(values), generator=generator)]
