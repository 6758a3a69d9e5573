"""Pieces of a text that is being written: joined they are the text, whatever falls between two tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import SamplingParams
from cotdistill.models import LoadedModel
from cotdistill.serving.pieces import _byte_characters, next_piece, settled_length
from cotdistill.serving.rows import LiveRow, Seen


@pytest.mark.parametrize(
    ("text", "stops", "settled"),
    [
        ("so it is 5", [" END"], 10),
        ("so it is 5 ", [" END"], 10),
        ("so it is 5 EN", [" END"], 10),
        ("so it is 5 E N", [" END"], 14),
        ("aab", ["aabc", "bcd"], 0),
        ("ab", ["x", "b"], 2),  # a whole stop ends the text elsewhere
        ("", [" END"], 0),
        (" EN", [], 3),
    ],
)
def test_what_may_become_a_stop_is_kept_back(text: str, stops: list[str], settled: int) -> None:
    assert settled_length(text, stops) == settled


def byte_tokenizer() -> Any:
    """One token a byte, as the smallest of a byte-level vocabulary are."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["</s>", *_byte_characters()])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=False)


def fallback_tokenizer() -> Any:
    """As SentencePiece's with a token for each byte, of which all but ASCII is made."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    letters = [chr(code) for code in range(33, 127)] + ["\u2581"]
    known = ["</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokenizer = Tokenizer(BPE(vocab={t: i for i, t in enumerate(known)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", clean_up_tokenization_spaces=False)


TEXTS = [" 2 € + 3 € = 5 €. --> 5 END", "Привет, 👩‍👩‍👧 is a family END ", "日本語 --> 5", "�� END", "a\n\nE ENE END"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [byte_tokenizer, fallback_tokenizer])
@pytest.mark.parametrize("upto", [None, 7, 8, 9, 10])  # tokens: cut in the middle of a character
def test_pieces_joined_are_the_text(text: str, make: Any, upto: int | None) -> None:
    tokenizer = make()
    if make is fallback_tokenizer:
        text = text.replace("\n", " ").replace(" ", "\u2581")
    loaded = LoadedModel(None, tokenizer, [tokenizer.eos_token_id], tokenizer.eos_token_id)
    backend = TransformersBackend("", loaded=loaded)
    params = SamplingParams(99, stop=(" END", "\n\n#"))
    job: Any = None
    row = LiveRow(0, [1], None, params, job=job, top=1)  # type: ignore[arg-type] # no draw
    text_tokens = tokenizer.encode(text)[:upto]
    pieces, tokens = "", []
    for token in text_tokens:
        row.tokens.append(token)
        row.seen.append(Seen(token, -1.0, [(token, -1.0)]))
        completion = backend.completion(row.tokens, 1, params)
        done = completion.finish_reason == "stop" or len(row.tokens) == len(text_tokens)
        piece = next_piece(row, tokenizer, completion if done else None)
        pieces += piece.text
        tokens += piece.tokens
        if done:
            break
    assert pieces == completion.text
    joined = "".join(token.text for token in tokens)
    assert joined == completion.text
    assert [token.start for token in tokens] == [len("".join(t.text for t in tokens[:i])) for i in range(len(tokens))]
    octets = bytes(byte for token in tokens for byte in token.bytes or [])
    assert octets.decode(errors="replace").replace("\ufffd", "").startswith(completion.text.replace("\ufffd", ""))


def test_half_a_character_is_never_sent() -> None:
    tokenizer = byte_tokenizer()
    job: Any = None
    row = LiveRow(0, [1], None, SamplingParams(9), job=job, top=None)  # type: ignore[arg-type]
    sent = []
    for token in tokenizer.encode("a€b"):
        row.tokens.append(token)
        sent.append(next_piece(row, tokenizer).text)
    assert sent == ["a", "", "", "€", "b"]


@pytest.mark.slow
def test_a_model_that_writes_bytes_at_random(tmp_path: Path) -> None:
    """Whatever a stream holds, it is the text that is sent whole."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from serve_runs import make_run, serving

    def make(folder: Path) -> Path:
        tokenizer = byte_tokenizer()
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=257,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=512,
            initializer_range=0.2,
            eos_token_id=0,
            dtype="float32",
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return folder

    with serving(make_run(tmp_path, make)) as served:
        more: dict[str, Any] = {"temperature": 1, "n": 8, "logprobs": True, "max_tokens": 200}
        for seed in range(3):
            whole = served.chat(**more, seed=seed).json["choices"]
            texts = [""] * 8
            for event in served.chat(**more, seed=seed, stream=True).events:
                (choice,) = event["choices"]
                texts[choice["index"]] += choice["delta"].get("content", "")
            assert texts == [choice["message"]["content"] for choice in whole]
            for text, choice in zip(texts, whole, strict=True):
                assert "".join(token["token"] for token in choice["logprobs"]["content"]) == text
