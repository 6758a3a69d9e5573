"""The keys and values of the rows of refill.py, and attention to them, without a copy of them all at each token.

Appending a column with `torch.cat` is such a copy, and so is a slice of columns, or repeated heads, before a product of
matrices. So the columns have room on their right, which the mask hides, and are used with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer

ROOM = 32  # columns: with more, attention looks at more of them in vain; with less, they are copied more often
GROUPED = "cotdistill_grouped"
NOT_PLAIN = ("softcap", "s_aux", "position_bias")  # what a family may add to attention


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (rows, heads, columns and room, width), of which `columns` are written."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, columns: int) -> None:
        super().__init__()
        self.keys, self.values, self.columns = keys, values, columns
        self.is_initialized = True

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a column of one token a row."""
        self.keys[:, :, self.columns] = keys[:, :, 0]
        self.values[:, :, self.columns] = values[:, :, 0]
        self.columns += 1
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.columns

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.keys.shape[2], 0


def joined(layers: Sequence[DynamicLayer], columns: int) -> RoomyLayer:
    """The rows of `layers`, which are emptied, right-aligned in `columns`, with room."""
    written = [layer.get_seq_length() for layer in layers]
    keys = _joined([layer.keys[:, :, :n] for layer, n in zip(layers, written, strict=True)], columns)
    values = _joined([layer.values[:, :, :n] for layer, n in zip(layers, written, strict=True)], columns)
    for layer in layers:
        layer.keys = layer.values = None
    return RoomyLayer(keys, values, columns)


def _joined(parts: Sequence[torch.Tensor], columns: int) -> torch.Tensor:
    rows, (_, heads, _, width) = sum(map(len, parts)), parts[0].shape
    whole = parts[0].new_zeros(rows, heads, columns + ROOM, width)
    for place, part in zip(torch.split(whole, [len(part) for part in parts]), parts, strict=True):
        needed = part[:, :, -columns:]
        place[:, :, columns - needed.shape[2] : columns] = needed
    return whole


def attend_grouped(model: Any) -> None:
    """Have a model attend with `_grouped`, if it attends with PyTorch's fused kernel and that would be slower.

    On a GPU it is where heads share keys: given a mask, transformers repeats the keys and values for it, at each token.
    """
    config = model.config.get_text_config()
    shared = getattr(config, "num_key_value_heads", None) not in (None, config.num_attention_heads)
    if model.config._attn_implementation == "sdpa" and (model.device.type == "cpu" or shared):
        AttentionInterface.register(GROUPED, _grouped)
        AttentionMaskInterface.register(GROUPED, AttentionMaskInterface()["sdpa"])
        model.set_attn_implementation(GROUPED)


def _grouped(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Plain attention of one token a row, the heads that share keys together; else the fused kernel's."""
    rows, heads, tokens, width = query.shape
    if tokens > 1 or any(options.get(name) is not None for name in NOT_PLAIN):
        return AttentionInterface()["sdpa"](  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
    groups = query.reshape(rows, key.shape[1], -1, width) * (width**-0.5 if scaling is None else scaling)
    scores = groups @ key.transpose(2, 3)
    if attention_mask is not None:
        scores.masked_fill_(attention_mask.logical_not(), -torch.inf)
    return (scores.softmax(-1) @ value).reshape(rows, 1, heads, value.shape[-1]), None
