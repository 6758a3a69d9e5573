"""Texts that end make room for others: it must show in the time alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from transformers import AttentionInterface

from asking import ask
from cotdistill.backends import refill
from cotdistill.backends.cache import _grouped
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.models import LoadedModel
from tiny import ASCII, FAMILIES, SPECIAL, tiny_family, tiny_model

WORDS = ["Why?", "How many apples are there in the box?\nA:", "x", "Q: 1?", "Let's think step by step, and go on"]
PROMPTS = [f"{i}{word}" for i, word in enumerate(WORDS * 2)]
STOP = ("e", "7", "w")
FAST = ("llama", "gemma3")  # all layers see everything; some see a window
CAUSAL = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAMILIES if name != "t5"]


@pytest.fixture(autouse=True)
def fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch rounds like a single row, but for the last digits."""
    monkeypatch.setattr("cotdistill.models.has_bf16", lambda: False)


@pytest.fixture(scope="module", params=CAUSAL)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_family(request.param, tmp_path_factory.mktemp("family") / "base")


@pytest.fixture
def llama(tmp_path: Path) -> TransformersBackend:
    return TransformersBackend(str(tiny_model(tmp_path / "llama")), batch_size=4)


def asked(params: SamplingParams, prompts: Sequence[str] = PROMPTS) -> list[Request]:
    return [Request((prompt,), params, (i,)) for i, prompt in enumerate(prompts)]


def by_transformers(backend: TransformersBackend, request: Request) -> str:
    """What `generate` of transformers writes for one prompt, up to the first stop string."""
    import torch

    loaded, params = backend.loaded, request.params
    ids = torch.tensor([backend._encode(request)], device=loaded.model.device)
    stops = {"stop_strings": list(params.stop), "tokenizer": loaded.tokenizer} if params.stop else {}
    output = loaded.model.generate(
        ids, max_new_tokens=params.max_tokens, do_sample=False, pad_token_id=loaded.pad_id, **stops
    )
    text = loaded.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return str(text[: min((text.find(stop) for stop in params.stop if stop in text), default=None)])


@pytest.mark.parametrize("stop", [(), STOP])
def test_greedy_as_by_transformers(family: Path, stop: tuple[str, ...]) -> None:
    backend = TransformersBackend(str(family), batch_size=4)
    assert refill.can_refill(backend.loaded.model)
    requests = asked(SamplingParams(40, stop=stop))
    texts = [completion.text for completion in ask(backend, requests)]
    assert texts == [by_transformers(backend, request) for request in requests]
    assert not stop or len(set(map(len, texts))) > 1  # they ended at different times


def test_a_seed_gives_the_same_text_in_any_batch(family: Path) -> None:
    requests = asked(SamplingParams(40, temperature=1.0, top_p=0.9, stop=STOP))
    found = {size: ask(TransformersBackend(str(family), batch_size=size), requests) for size in (1, 4, 64)}
    assert found[4] == found[1]
    assert found[64] == found[1]
    assert len({completion.text for completion in found[1]}) > 3


def passes(backend: TransformersBackend, requests: Sequence[Request]) -> tuple[list[Completion], list[tuple[int, int]]]:
    """What comes back, and the rows and columns of the mask in each pass through the model."""
    shapes: list[tuple[int, int]] = []

    def note(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        shapes.append(tuple(options["attention_mask"].shape))

    backend.loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    return ask(backend, requests), shapes


def test_no_row_is_idle_and_none_too_many(llama: TransformersBackend) -> None:
    completions, shapes = passes(llama, asked(SamplingParams(40, 1.0, stop=STOP)))
    tokens = sum(completion.completion_tokens for completion in completions)
    assert sum(rows for rows, _ in shapes) == tokens
    assert max(rows for rows, _ in shapes) == 4
    assert len(shapes) < tokens / 2  # they go together


def test_columns_that_nobody_needs_are_dropped(llama: TransformersBackend) -> None:
    """A long prompt with a short text must not widen those that come after it."""
    requests = asked(SamplingParams(30), ["x" * 150, *PROMPTS])
    completions, shapes = passes(llama, requests)
    widest = max(completion.prompt_tokens for completion in completions[1:])
    assert shapes[0][1] == 151
    assert shapes[-1][1] <= widest + 30


def test_prompts_join_together(llama: TransformersBackend) -> None:
    """Not one by one: each time costs a pass of its own."""
    llama.batch_size = 8
    requests = asked(SamplingParams(30, 1.0, stop=STOP), PROMPTS * 3)
    prefills: list[int] = []

    def note(module: Any, arguments: Any, options: dict[str, Any]) -> None:
        if options["input_ids"].shape[1] > 1:
            prefills.append(len(options["input_ids"]))

    llama.loaded.model.register_forward_pre_hook(note, with_kwargs=True)
    ask(llama, requests)
    assert sum(prefills) == len(requests)
    assert min(prefills[:-1]) >= 2  # the last may be the last prompt


def test_a_stop_string_of_many_tokens(llama: TransformersBackend) -> None:
    """Each character is a token here."""
    requests = asked(SamplingParams(60, 1.0))
    free = next(c for c in ask(llama, requests) if len(c.text) == c.completion_tokens == 60)
    stop = free.text[20:50]
    (request,) = (r for r, c in zip(requests, ask(llama, requests), strict=True) if c == free)
    stopping = replace(request, params=replace(request.params, stop=(stop,)))
    assert ask(llama, [stopping]) == [Completion(free.text[:20], "stop", free.prompt_tokens, 50)]


@pytest.mark.parametrize("kind", ["ByteLevelBPETokenizer", "SentencePieceBPETokenizer"])
@pytest.mark.parametrize("stop", [(" END",), ("\n\n", "Q:"), (" ",), ("。",), ("\U0001f600", "figs")])
def test_a_stop_string_ends_a_text_at_its_last_token(kind: str, stop: tuple[str, ...]) -> None:
    """Whatever the tokens are: merged words, pieces with a space, the bytes of a character."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["She", *[" has", " 7", " figs", ".", " END", "Q", ":", "。", " is ", "  "], "\n", "\n\n"]
    random = Random(0)
    text = "".join(random.choices(words, k=3000))
    trained = getattr(tokenizers, kind)()
    trained.train_from_iterator([text], vocab_size=330, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer)
    loaded = LoadedModel(None, tokenizer, [], 0)
    params = SamplingParams(10**6, stop=stop)
    if kind.startswith("Byte"):
        words.append("\U0001f600")  # in four tokens
    ended = 0
    for _ in range(20):
        tokens = tokenizer.encode("".join(random.choices(words, k=40)))
        for n in range(1, len(tokens) + 1):
            said = tokenizer.decode(tokens[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            holds = any(one in said for one in stop)
            assert refill.has_ended(loaded, tokens[:n], params) == holds, said
            if holds:
                ended += 1
                break
    assert ended > 5


def test_max_tokens_differ_between_requests(llama: TransformersBackend) -> None:
    requests = [Request(("x",), SamplingParams(tokens)) for tokens in (1, 9, 3)]
    assert all(c.completion_tokens <= r.params.max_tokens for r, c in zip(requests, ask(llama, requests), strict=True))


A, B, C = (len(SPECIAL) + ASCII.index(character) for character in "abc")
EOS = 1
TOLD = "texts that went on repeating themselves were ended early"


@pytest.mark.parametrize(
    ("script", "temperature", "reason", "tokens"),
    [
        ([A, B] * 100, 0.0, "length", 96),
        ([A] * 200, 0.0, "length", 96),
        (list(range(10, 50)) * 5, 0.0, "length", 128),  # 120 are three times 40: at the next look
        ([A, B] * 100, 1.0, "length", 200),  # one that is sampled may come out of it
        ([C, *[A] * 95, EOS], 0.0, "stop", 97),  # just under the rule
        ([A] * 95 + [C] + [A] * 95 + [EOS], 0.0, "stop", 192),
        ([*list(range(10, 50)) * 2, *range(10, 49), EOS], 0.0, "stop", 120),
    ],
)
def test_a_loop_is_ended_early(
    llama: TransformersBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: list[int],
    temperature: float,
    reason: str,
    tokens: int,
) -> None:
    import torch

    written = iter(script)
    monkeypatch.setattr(refill, "choose", lambda scores, *_: torch.full((len(scores),), next(written)))
    (completion,) = ask(llama, [Request(("x",), SamplingParams(200, temperature))])
    assert (completion.finish_reason, completion.completion_tokens) == (reason, tokens)
    assert completion.text == llama.loaded.tokenizer.decode(script[:tokens], skip_special_tokens=True)
    ended_early = reason == "length" and tokens < 200
    assert capsys.readouterr().err == (f"evaluate: 1 {TOLD}\n" if ended_early else "")


def test_loops_are_said_once(
    llama: TransformersBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(refill, "choose", lambda scores, *_: torch.full((len(scores),), A))
    ask(llama, [*asked(SamplingParams(200)), *asked(SamplingParams(150))])
    assert capsys.readouterr().err == f"evaluate: {2 * len(PROMPTS)} {TOLD}\n"


def test_a_model_with_a_penalty_is_left_to_transformers(llama: TransformersBackend) -> None:
    plain = [completion.text for completion in ask(llama, asked(SamplingParams(30)))]
    llama.loaded.model.generation_config.repetition_penalty = 1.5
    assert not refill.can_refill(llama.loaded.model)
    llama.batch_size = 1
    requests = asked(SamplingParams(30))
    texts = [completion.text for completion in ask(llama, requests)]
    assert texts == [by_transformers(llama, request) for request in requests]
    assert texts != plain


@pytest.mark.parametrize("kind", ["MambaConfig", "Lfm2Config"])
def test_a_model_with_a_state_is_left_to_transformers(kind: str) -> None:
    import transformers

    shape = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    mixed = {"layer_types": ["conv", "full_attention"], "num_attention_heads": 2, "num_key_value_heads": 1}
    config = getattr(transformers, kind)(**shape, **(mixed if kind == "Lfm2Config" else {}))
    assert not refill.can_refill(transformers.AutoModelForCausalLM.from_config(config))


def test_attention_without_copies_is_that_of_the_fused_kernel() -> None:
    import torch

    sharing: Any = torch.nn.Identity()
    sharing.num_key_value_groups = 3
    query, key, value = (torch.randn(4, heads, columns, 16) for heads, columns in ((6, 1), (2, 9), (2, 9)))
    mask = torch.rand(4, 1, 1, 9) > 0.3
    mask[..., 0] = True
    fused = AttentionInterface()["sdpa"](sharing, query, key, value, mask)[0]
    torch.testing.assert_close(_grouped(sharing, query, key, value, mask)[0], fused)
