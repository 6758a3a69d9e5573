"""A random Llama, T5 and BART of width 32, with tokenizers of one token a character; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ASCII = [chr(code) for code in range(33, 127)] + ["Ġ", "Ċ"]  # byte-level names of the space and the newline
SPECIAL = ["<s>", "</s>", "<pad>"]
END_OF_TURN = "<end>"
CHAT = (  # as ChatML: what ends a turn is not what ends a text, and a newline follows it
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tiny_model(folder: Path, seed: int = 0, positions: int = 256, chat: bool = False) -> Path:
    """Save the Llama to `folder`, as safetensors; `positions` in tokens, `chat` with a template.

    Characters not of ASCII are left out.
    """
    import torch
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    extra = [END_OF_TURN] if chat else []
    vocabulary = {token: i for i, token in enumerate(SPECIAL + ASCII + extra)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    # A prompt begins with <s>, as with many real models; a completion must not.
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    bos, eos, pad = SPECIAL
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=extra,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT if chat else None
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=positions,
        initializer_range=0.2,  # wide, so that what it writes depends on what it reads
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    if chat:
        model.generation_config.eos_token_id = [1, vocabulary[END_OF_TURN]]
    model.save_pretrained(folder)
    return folder


def tiny_t5(folder: Path, seed: int = 0, std: float | None = None) -> Path:
    """Save the T5 to `folder`; as with the real ones, `{`, `}` and `<` are unknown and a newline is a space.

    With a wide `std` what it writes depends on what it reads; with T5's own it learns sooner.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    characters = ["\u2581", *(c for c in ASCII[:94] if c not in "{}<")]
    vocabulary = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")] + [(c, -2.0) for c in characters]
    T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(vocabulary),
        d_model=32,
        d_ff=64,
        d_kv=16,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        dtype="float32",
    )
    model = T5ForConditionalGeneration(config)
    for weights in model.parameters():
        if std and weights.dim() > 1:
            torch.nn.init.normal_(weights, std=std)
    model.save_pretrained(folder)
    return folder


def tiny_bart(folder: Path, positions: int = 40) -> Path:
    """Save the BART to `folder`: an encoder-decoder whose positions are absolute and limited."""
    import torch
    from transformers import BartConfig, BartForConditionalGeneration

    tiny_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    layers = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("ffn_dim", 64))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 1}
    config = BartConfig(
        vocab_size=len(SPECIAL + ASCII),
        d_model=32,
        max_position_embeddings=positions,
        init_std=0.5,
        forced_eos_token_id=None,
        dtype="float32",
        **layers,
        **heads,
        **special,
    )
    BartForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _shape(**more: Any) -> dict[str, Any]:
    """Of a model of two layers of width 32."""
    return {
        "vocab_size": len(SPECIAL + ASCII),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **more,
    }


# Each a configuration class of transformers and its arguments; T5 is made by tiny_t5.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _shape()),
    "llama, pad is eos": ("LlamaConfig", _shape(pad_token_id=1)),
    "qwen2": ("Qwen2Config", _shape()),
    "qwen3": ("Qwen3Config", _shape()),
    "gemma3": ("Gemma3TextConfig", _shape(sliding_window=8, layer_types=["sliding_attention", "full_attention"])),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": len(SPECIAL + ASCII), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        | {"initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2},
    ),
    "t5": ("", {}),
}


def tiny_family(name: str, folder: Path) -> Path:
    """Save a random model of a family to `folder`."""
    import torch
    import transformers

    kind, arguments = FAMILIES[name]
    if not kind:
        return tiny_t5(folder)
    tiny_model(folder)  # for its tokenizer
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**arguments, dtype="float32")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if arguments["pad_token_id"] == arguments["eos_token_id"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    return folder
