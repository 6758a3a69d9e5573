"""A model on this machine, and a recorded one: the batch a request is in must not show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cotdistill.backends import open_backend
from cotdistill.backends.recorded import RecordedBackend
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.config import LimitsConfig, TeacherConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.records import FinishReason
from cotdistill.store import Completion, Request, Row, SamplingParams, Store, canonical, identity_text
from tiny import tiny_model

PROMPTS = ["Q: 1?", "Q: How many apples are there?\nA:", "x", "Q: Why?\nA: Let's think", "What is 2 + 2? ###"]
REQUESTS = [Request((prompt,)) for prompt in PROMPTS]
SAMPLED = SamplingParams(40, temperature=1.0)


def open_tiny(folder: Path) -> TransformersBackend:
    backend = TransformersBackend(str(folder))
    backend.loaded.model.float()  # where a batch rounds like a single row, but for the last digits
    return backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module", params=["own pad", "eos is pad"])
def backend(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    if request.param == "eos is pad":
        from transformers import AutoTokenizer

        folder = Path(shutil.copytree(folder, tmp_path_factory.mktemp("pad") / "base"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    return open_tiny(folder)


def ask(backend: TransformersBackend, requests: list[Request], params: SamplingParams) -> list[Completion]:
    completions = dict(backend.generate(requests, params))
    return [completions[position] for position in range(len(requests))]


def one_by_one(backend: TransformersBackend, requests: list[Request], params: SamplingParams) -> list[Completion]:
    return [ask(backend, [request], params)[0] for request in requests]


def test_greedy_is_the_arg_max_of_the_bare_model(backend: TransformersBackend) -> None:
    import torch

    loaded = backend.loaded
    for request, completion in zip(REQUESTS, ask(backend, REQUESTS, SamplingParams(20)), strict=True):
        ids = loaded.tokenizer.encode(request.prompt[0])
        prompt_tokens = len(ids)
        while len(ids) < prompt_tokens + 20 and ids[-1] not in loaded.eos_ids:
            with torch.no_grad():
                ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        text = loaded.tokenizer.decode(ids[prompt_tokens:], skip_special_tokens=True)
        reason: FinishReason = "stop" if ids[-1] in loaded.eos_ids else "length"
        assert completion == Completion(text, reason, prompt_tokens, len(ids) - prompt_tokens)


@pytest.mark.parametrize("stop", [(), ("e", "7", "Q:")])
@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 0.9)])
def test_a_batch_does_not_show(
    backend: TransformersBackend, temperature: float, top_p: float, stop: tuple[str, ...]
) -> None:
    params = SamplingParams(40, temperature, top_p, stop)
    requests = [replace(request, sample=i) for request in REQUESTS for i in range(3)]
    together = ask(backend, requests, params)
    assert together == one_by_one(backend, requests, params)
    backend.batch_size = 4
    assert ask(backend, requests[::-1], params)[::-1] == together
    backend.batch_size = 64


def test_samples_differ_and_repeat(backend: TransformersBackend) -> None:
    requests = [Request((PROMPTS[1],), sample) for sample in range(8)]
    texts = [c.text for c in ask(backend, requests, SAMPLED)]
    assert len(set(texts)) == 8
    assert [c.text for c in ask(backend, requests, SAMPLED)] == texts
    other_pool = [c.text for c in ask(backend, requests, replace(SAMPLED, seed=1))]
    assert not set(other_pool) & set(texts)


def test_a_sample_follows_the_model_s_distribution(backend: TransformersBackend) -> None:
    """The first token of 2,000 samples, against the probabilities of the most likely ones."""
    import torch

    requests = [Request(("x",), sample) for sample in range(2000)]
    backend.batch_size = 2000
    firsts = [c.text for c in ask(backend, requests, SamplingParams(1, temperature=0.5))]
    backend.batch_size = 64
    with torch.no_grad():
        logits = backend.loaded.model(torch.tensor([backend._encode(requests[0])])).logits[0, -1]
    for token in logits.topk(5).indices.tolist():
        p = (logits / 0.5).softmax(-1)[token].item()
        seen = firsts.count(backend.loaded.tokenizer.decode([token])) / 2000
        assert seen == pytest.approx(p, abs=5 * (p * (1 - p) / 2000) ** 0.5)


def test_ends_and_token_counts(backend: TransformersBackend) -> None:
    """Characters are tokens here; rows of one batch end by EOS, by a stop string, and by the limit."""
    requests = [Request((prompt,), sample) for prompt in PROMPTS for sample in range(8)]
    free = ask(backend, requests, SAMPLED)
    assert {c.finish_reason for c in free} == {"stop", "length"}
    ended = stopped = 0
    for request, completion in zip(requests, free, strict=True):
        assert completion.prompt_tokens == len(request.prompt[0]) + 1  # and <s>
        whole = completion.completion_tokens - (completion.finish_reason == "stop")
        if completion.finish_reason == "length":
            assert completion.completion_tokens == 40
        ended += completion.finish_reason == "stop" and len(completion.text) == whole
    assert ended

    stop = ("e", "Z1", "4")
    for before, after in zip(free, ask(backend, requests, replace(SAMPLED, stop=stop)), strict=True):
        cut = min((before.text.find(s) for s in stop if s in before.text), default=None)
        if cut is None:
            assert after == before
            continue
        assert after.text == before.text[:cut]
        assert after.finish_reason == "stop"
        if len(before.text) == before.completion_tokens - (before.finish_reason == "stop"):  # no <s> or <pad> in it
            stopped += 1
            (met,) = {s for s in stop if before.text.startswith(s, cut)}
            assert after.completion_tokens == cut + len(met)
    assert stopped


def test_a_limit_of_one_token(backend: TransformersBackend) -> None:
    assert {c.completion_tokens for c in ask(backend, REQUESTS, SamplingParams(1))} == {1}


def test_longest_first(backend: TransformersBackend) -> None:
    backend.batch_size = 2
    positions = [position for position, _ in backend.generate(REQUESTS, SamplingParams(1))]
    backend.batch_size = 64
    assert positions == sorted(range(5), key=lambda i: -len(PROMPTS[i]))


def test_no_request_loads_no_model() -> None:
    assert list(TransformersBackend("/no/such/folder").generate([], SAMPLED)) == []


def test_turns_are_joined(backend: TransformersBackend) -> None:
    turns = [Request(("Q: 1?", " It is", " 1."))]
    assert ask(backend, turns, SamplingParams(9)) == ask(backend, [Request(("Q: 1? It is 1.",))], SamplingParams(9))


def test_chat_uses_the_template(folder: Path) -> None:
    backend = TransformersBackend(str(folder), chat=True, system="Be brief.")
    tokenizer = backend.loaded.tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}{% if add_generation_prompt %}[a:{% endif %}"
    )
    ids = backend._encode(Request(("Q?", "A.", "So?")))
    assert tokenizer.decode(ids) == "[system:Be brief.][user:Q?][assistant:A.][user:So?][a:"
    assert backend.identity == {**open_tiny(folder).identity, "form": "chat", "system": "Be brief."}


def test_identity_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    identity = TransformersBackend(str(folder)).identity
    copy = tiny_model(tmp_path / "base")
    assert TransformersBackend(str(copy)).identity == identity
    assert TransformersBackend(str(tiny_model(copy, seed=1))).identity != identity


def rename_to_pickle(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BROKEN: dict[str, Callable[[Path], object]] = {
    "no weights": lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
    "cut weights": lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 100),
    "pickle only": rename_to_pickle,
    "no config": lambda folder: (folder / "config.json").unlink(),
    "broken config": lambda folder: (folder / "config.json").write_text("{"),
    "unknown type": lambda folder: (folder / "config.json").write_text('{"model_type": "nothing"}'),
    "no tokenizer": lambda folder: [path.rename(folder / f"no-{path.name}") for path in folder.glob("tokenizer*")],
    "nothing": shutil.rmtree,
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_model_that_cannot_be_loaded(folder: Path, tmp_path: Path, name: str) -> None:
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    BROKEN[name](broken)
    with pytest.raises(BackendError, match="could not be loaded") as error:
        ask(TransformersBackend(str(broken)), REQUESTS, SAMPLED)
    message = str(error.value)
    assert str(broken) in message
    assert "Give a folder that holds config.json and safetensors" in message
    assert len(message.splitlines()) <= 3


BIG = {"model": "big", "endpoint": "http://somewhere/v1"}
FIRST = SamplingParams(128, 0.7, stop=("Q:",))
SECOND = SamplingParams(32)
ASKED = [Request(("Q: 1?",), sample) for sample in range(3)]


def record(path: Path, identity: dict[str, str], params: SamplingParams, requests: list[Request]) -> None:
    model, text = identity_text(identity), canonical(asdict(params))
    with Store(path) as store:
        store.write(
            [
                Row(r.key(model, text), model, text, r, Completion(f"{identity['model']} {r.sample}", "length", 3, 2))
                for r in requests
            ]
        )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.sqlite"
    record(path, BIG, FIRST, ASKED)
    record(path, BIG, SECOND, ASKED[:1])
    return path


def test_recorded(recorded: Path) -> None:
    backend = open_backend(TeacherConfig(backend="recorded", store=recorded), LimitsConfig())
    assert backend.identity == BIG
    assert list(backend.generate(ASKED[::-1], FIRST)) == [
        (position, Completion(f"big {2 - position}", "length", 3, 2)) for position in range(3)
    ]
    assert list(backend.generate([], SECOND)) == []


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"temperature": 0.3}, "temperature=0.3 (recorded: 0.7)"),
        ({"max_tokens": 64}, "max_tokens=64 (recorded: 128)"),
        ({"max_tokens": 32}, "max_tokens=32 (recorded: 128)"),  # the second prompt has 32
        ({"seed": 4, "top_p": 0.9}, "top_p=0.9 (recorded: 1.0); seed=4 (recorded: 0)"),
        ({"stop": ("\n",)}, "stop=['\\n'] (recorded: ['Q:'])"),
        ({}, "other questions, or more samples, than were recorded"),
    ],
)
def test_not_recorded(recorded: Path, changes: dict[str, object], differs: str) -> None:
    requests = [*ASKED, Request(("Q: 2?",))] if not changes else ASKED
    params = SamplingParams(**{**asdict(FIRST), **changes})
    with pytest.raises(BackendError) as error:
        list(RecordedBackend(recorded).generate(requests, params))
    first, second = str(error.value).split("\n")
    missing = 3 if changes else 1
    assert first == f"{missing} of {len(requests)} completions are not in recorded.sqlite: {differs}."
    assert "teacher.backend" in second


def test_one_model_of_several(recorded: Path) -> None:
    record(recorded, {"model": "small"}, FIRST, ASKED)
    ((_, completion),) = RecordedBackend(recorded, "small").generate(ASKED[:1], FIRST)
    assert completion.text == "small 0"
    for name, found in (("huge", 0), ("", 2)):
        with pytest.raises(ConfigError, match=f"names {found} of the models") as error:
            assert RecordedBackend(recorded, name).identity
        assert str(error.value).endswith("Recorded there: big, small.")


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such store"):
        list(RecordedBackend(tmp_path / "none.sqlite").generate(ASKED, FIRST))
