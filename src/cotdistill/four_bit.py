"""QLoRA (Dettmers et al. 2023, arXiv:2305.14314): adapters on weights that are frozen in 4 bits, by bitsandbytes.

    model = kind.from_pretrained(path, **how_to_load())    # NF4, doubly quantised
    plain, weights = merged(peft_model)                    # what `plain.save_pretrained(state_dict=weights)` saves

The adapters learn beside the rounded weights, and make up for the rounding. So the student that is saved is those
rounded weights plus the adapters, in fp32 as any other: merged into the exact ones they would give another student,
and rounded to 4 bits once more they would be lost in part.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

from cotdistill.errors import ConfigError


def need_bitsandbytes() -> None:
    """Raise `ConfigError` if bitsandbytes is not installed."""
    if not find_spec("bitsandbytes"):
        raise ConfigError(
            "student.lora.four_bit: the package 'bitsandbytes' is needed here and is not installed.\n"
            "Install it with: pip install -U bitsandbytes"
        )


def how_to_load(dtype: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained`, to compute in `dtype`; what is not in 4 bits is loaded in it."""
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "dtype": dtype}  # on the process's own device, by itself


def keep_rounded_once(model: Any) -> None:
    """Have a CPU that has AVX512-BF16 leave the 4-bit weights of `model` as they are.

    On such a one bitsandbytes lays them out anew when a model is read in eval mode, as for the dev loss: rounded once
    more, with no gradient, and it fails where 32 does not divide their number of rows.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def merged(model: Any) -> tuple[Any, dict[str, Any]]:
    """The plain model that a PEFT model of 4-bit weights stands for, still without its weights, and these."""
    import torch

    bare = model.get_base_model()
    config = copy.deepcopy(bare.config)
    del config.quantization_config
    with torch.device("meta"):
        plain = type(bare)._from_config(config, dtype=torch.float32)
    plain.generation_config = bare.generation_config
    weights: dict[str, Any] = {}
    seen: dict[int, Any] = {}  # tied weights stay one
    for name in plain.state_dict():
        where, _, what = name.rpartition(".")
        layer = bare.get_submodule(where)
        held = getattr(getattr(layer, "base_layer", layer), what)
        if id(held) not in seen:
            adapted = what == "weight" and hasattr(layer, "lora_A")
            seen[id(held)] = _whole(layer, held) if adapted else held.detach().float().cpu()
        weights[name] = seen[id(held)]
    return plain, weights


def _whole(layer: Any, weight: Any) -> Any:
    """A layer's weight with its adapter, one layer at a time on the device: all at once may not fit there."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        delta = layer.get_delta_weight("default").float()
        if not hasattr(weight, "quant_state"):  # as T5's that must be in fp32
            return (weight.float() + delta).cpu()
        whole = (dequantize_4bit(weight.data, weight.quant_state).float() + delta).cpu()
    # GPT-2's layers have their weights the other way round.
    return whole.T.contiguous() if getattr(layer.base_layer, "source_cls", None) is Conv1D else whole
