"""A model on this machine, and a recorded one: the batch a request is in must not show."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from asking import ask as ask_backend
from cotdistill.backends import Backend, open_backend
from cotdistill.backends.recorded import RecordedBackend
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.config import LimitsConfig, TeacherConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.models import LoadedModel, import_training, is_seq2seq, mark_complete
from cotdistill.records import FinishReason
from cotdistill.store import Row, Store
from tiny import tiny_bart, tiny_model, tiny_t5

if TYPE_CHECKING:
    import torch

PROMPTS = ["Q: 1?", "Q: How many apples are there?\nA:", "x", "Q: Why?\nA: Let's think", "What is 2 + 2? ###"]
SAMPLED = SamplingParams(40, temperature=1.0)


def asking_for(*turns: str, sample: int = 0) -> Request:
    return Request(turns, SAMPLED, (sample,))


REQUESTS = [asking_for(prompt) for prompt in PROMPTS]


def open_tiny(folder: Path) -> TransformersBackend:
    backend = TransformersBackend(str(folder))
    backend.loaded.model.float()  # where a batch rounds like a single row, but for the last digits
    return backend


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module", params=["own pad", "eos is pad", "encoder-decoder"])
def backend(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    if request.param == "encoder-decoder":
        return open_tiny(tiny_t5(tmp_path_factory.mktemp("t5") / "base", std=0.5))
    if request.param == "eos is pad":
        from transformers import AutoTokenizer

        folder = Path(shutil.copytree(folder, tmp_path_factory.mktemp("pad") / "base"))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    return open_tiny(folder)


def sampled(requests: Sequence[Request], params: SamplingParams) -> list[Request]:
    return [replace(request, params=params) for request in requests]


def ask(backend: Backend, requests: Sequence[Request], params: SamplingParams) -> list[Completion]:
    return ask_backend(backend, sampled(requests, params))


def one_by_one(backend: TransformersBackend, requests: list[Request], params: SamplingParams) -> list[Completion]:
    return [ask(backend, [request], params)[0] for request in requests]


def next_logits(loaded: LoadedModel, prompt: list[int], written: list[int]) -> torch.Tensor:
    """What the bare model makes of one prompt and what it has written, without batch or cache."""
    import torch

    with torch.no_grad(), loaded.model.device:
        if not loaded.seq2seq:
            return loaded.model(torch.tensor([prompt + written])).logits[0, -1]  # type: ignore[no-any-return]
        start = loaded.model.config.decoder_start_token_id
        output = loaded.model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[start, *written]]))
        return output.logits[0, -1]  # type: ignore[no-any-return]


def test_greedy_is_the_arg_max_of_the_bare_model(backend: TransformersBackend) -> None:
    loaded = backend.loaded
    for request, completion in zip(REQUESTS, ask(backend, REQUESTS, SamplingParams(20)), strict=True):
        prompt = loaded.tokenizer.encode(request.prompt[0])
        written: list[int] = []
        while len(written) < 20 and not set(written) & set(loaded.eos_ids):
            written.append(int(next_logits(loaded, prompt, written).argmax()))
        text = loaded.tokenizer.decode(written, skip_special_tokens=True)
        reason: FinishReason = "stop" if written[-1] in loaded.eos_ids else "length"
        assert completion == Completion(text, reason, len(prompt), len(written))


@pytest.mark.parametrize("stop", [(), ("e", "7", "Q:")])
@pytest.mark.parametrize(
    ("temperature", "top_p"),
    [(0.0, 1.0), *(pytest.param(*of, marks=pytest.mark.slow) for of in [(1.0, 1.0), (0.7, 0.9)])],
)
def test_a_batch_does_not_show(
    backend: TransformersBackend, temperature: float, top_p: float, stop: tuple[str, ...]
) -> None:
    params = SamplingParams(40, temperature, top_p, stop)
    requests = [replace(request, samples=(i,)) for request in REQUESTS for i in range(3)]
    together = ask(backend, requests, params)
    assert together == one_by_one(backend, requests, params)
    backend.batch_size = 4
    assert ask(backend, requests[::-1], params)[::-1] == together
    backend.batch_size = 64


def test_samples_differ_and_repeat(backend: TransformersBackend) -> None:
    requests = [asking_for(PROMPTS[1], sample=sample) for sample in range(8)]
    texts = [c.text for c in ask(backend, requests, SAMPLED)]
    assert len(set(texts)) == 8
    assert [c.text for c in ask(backend, requests, SAMPLED)] == texts
    other_pool = [c.text for c in ask(backend, requests, replace(SAMPLED, seed=1))]
    assert not set(other_pool) & set(texts)


def test_a_sample_follows_the_model_s_distribution(backend: TransformersBackend) -> None:
    """The first token of 2,000 samples, against the probabilities of the most likely ones."""
    requests = [asking_for("x", sample=sample) for sample in range(2000)]
    backend.batch_size = 2000
    firsts = [c.text for c in ask(backend, requests, SamplingParams(1, temperature=0.5))]
    backend.batch_size = 64
    logits = next_logits(backend.loaded, backend._encode(requests[0]), [])
    texts = [backend.loaded.tokenizer.decode([token], skip_special_tokens=True) for token in range(len(logits))]
    for text in {texts[token] for token in logits.topk(5).indices}:
        p = float((logits / 0.5).softmax(-1)[[t == text for t in texts]].sum())  # all that are left out read ""
        assert firsts.count(text) / 2000 == pytest.approx(p, abs=5 * (p * (1 - p) / 2000) ** 0.5)


def test_ends_and_token_counts(backend: TransformersBackend) -> None:
    """Characters are tokens here; rows of one batch end by EOS, by a stop string, and by the limit."""
    requests = [asking_for(prompt, sample=sample) for prompt in PROMPTS for sample in range(8)]
    free = ask(backend, requests, SAMPLED)
    assert {c.finish_reason for c in free} == {"stop", "length"}
    ended = stopped = 0
    for request, completion in zip(requests, free, strict=True):
        assert completion.prompt_tokens == len(backend._encode(request))
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
    positions = [
        PROMPTS.index(asked.prompt[0]) for asked, *_ in backend.generate(iter(sampled(REQUESTS, SamplingParams(1))))
    ]
    backend.batch_size = 64
    assert positions == sorted(range(5), key=lambda i: -len(PROMPTS[i]))


def test_no_request_loads_no_model() -> None:
    assert list(TransformersBackend("/no/such/folder").generate(iter([]))) == []


def test_turns_are_joined(backend: TransformersBackend) -> None:
    turns = [asking_for("Q: 1?", " It is", " 1.")]
    assert ask(backend, turns, SamplingParams(9)) == ask(backend, [asking_for("Q: 1? It is 1.")], SamplingParams(9))


def test_chat_uses_the_template(folder: Path, tmp_path: Path) -> None:
    backend = TransformersBackend(str(tiny_model(tmp_path / "chat", chat=True)), chat=True, system="Be brief.")
    ids = backend._encode(asking_for("Q?", "A.", "So?"))
    turns = ["[system]Be brief.", "[user]Q?", "[assistant]A.", "[user]So?"]
    assert backend.loaded.tokenizer.decode(ids) == "<end>\n".join([*turns, "[assistant]"])
    plain = TransformersBackend(backend.model).identity
    assert backend.identity == {**plain, "form": "chat", "system": "Be brief."}
    backend.loaded.tokenizer.chat_template = "{{ raise_exception('No system role.') }}"
    with pytest.raises(BackendError, match=r"refuses these turns: No system role\."):
        ask(backend, REQUESTS, SAMPLED)
    with pytest.raises(BackendError, match=r"no chat template(?s:.*)teacher\.api=completions"):
        ask(TransformersBackend(str(folder), chat=True), REQUESTS, SAMPLED)


def test_room_is_for_prompt_and_completion_of_a_causal_model_alone(tmp_path: Path) -> None:
    asked = [asking_for("x" * 30)]
    causal = open_tiny(tiny_model(tmp_path / "causal", positions=40))
    assert ask(causal, asked, SamplingParams(9))[0].finish_reason != "error"
    (refused,) = ask(causal, asked, SamplingParams(10))
    assert refused == Completion("", "error", error="the prompt has 31 tokens, and the model room for 30")
    assert ask(open_tiny(tiny_t5(tmp_path / "t5")), [asking_for("x" * 600)], SamplingParams(3))[0].prompt_tokens == 602
    bart = open_tiny(tiny_bart(tmp_path / "bart", positions=40))
    assert ask(bart, [asking_for("x" * 39)], SamplingParams(20))[0].finish_reason != "error"
    assert ask(bart, [asking_for("x" * 40)], SamplingParams(20))[0].finish_reason == "error"


def test_absolute_positions_of_an_encoder(tmp_path: Path) -> None:
    bart = open_tiny(tiny_bart(tmp_path / "bart"))
    together = ask(bart, REQUESTS, SamplingParams(20))
    assert together == one_by_one(bart, REQUESTS, SamplingParams(20))
    assert len({completion.text for completion in together}) > 2


def test_is_seq2seq(folder: Path, tmp_path: Path) -> None:
    assert is_seq2seq(str(tiny_t5(tmp_path / "t5")))
    assert not is_seq2seq(str(folder))
    assert not is_seq2seq("smollm2-135m-instruct")
    program = (
        "import sys; from cotdistill.models import is_seq2seq; print(is_seq2seq(sys.argv[1]), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "t5")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True False\n"


def test_freed_memory_is_kept_where_glibc_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())  # another C library
    import_training()


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


def test_damaged_weights_of_ours_are_named(folder: Path, tmp_path: Path) -> None:
    ours = Path(shutil.copytree(folder, tmp_path / "ours"))
    mark_complete(ours, {})
    assert ask(open_tiny(ours), REQUESTS, SAMPLED) == ask(open_tiny(folder), REQUESTS, SAMPLED)
    weights = ours / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")  # it would load
    with pytest.raises(BackendError, match=f"{ours}: model.safetensors is damaged"):
        ask(TransformersBackend(str(ours)), REQUESTS, SAMPLED)


BIG = {"model": "big", "endpoint": "http://somewhere/v1"}
FIRST = SamplingParams(128, 0.7, stop=("Q:",))
SECOND = SamplingParams(32)
ASKED = [asking_for("Q: 1?", sample=sample) for sample in range(3)]


def record(path: Path, identity: dict[str, str], params: SamplingParams, requests: list[Request]) -> None:
    pool = Pool(identity, params)
    with Store(path) as store:
        for asked in requests:
            completion = Completion(f"{identity['model']} {asked.samples[0]}", "length", 3, 2)
            store.write([Row(pool, pool.key(asked.prompt), asked.prompt, asked.samples[0], completion)])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.sqlite"
    record(path, BIG, FIRST, ASKED)
    record(path, BIG, SECOND, ASKED[:1])
    return path


def test_recorded(recorded: Path) -> None:
    backend = open_backend(TeacherConfig(backend="recorded", store=recorded), LimitsConfig())
    assert backend.identity == BIG
    assert ask(backend, ASKED[::-1], FIRST) == [Completion(f"big {2 - i}", "length", 3, 2) for i in range(3)]
    assert list(backend.generate(iter([]))) == []


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
    requests = [*ASKED, asking_for("Q: 2?")] if not changes else ASKED
    params = SamplingParams(**{**asdict(FIRST), **changes})
    with pytest.raises(BackendError) as error:
        ask(RecordedBackend(recorded), requests, params)
    first, second = str(error.value).split("\n")
    assert first == f"completions are not in recorded.sqlite: {differs}."
    assert "teacher.backend" in second


def test_one_model_of_several(recorded: Path) -> None:
    record(recorded, {"model": "small"}, FIRST, ASKED)
    (completion,) = ask(RecordedBackend(recorded, "small"), ASKED[:1], FIRST)
    assert completion.text == "small 0"
    for name, found in (("huge", 0), ("", 2)):
        with pytest.raises(ConfigError, match=f"names {found} of the models") as error:
            assert RecordedBackend(recorded, name).identity
        assert str(error.value).endswith("Recorded there: big, small.")


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such store"):
        ask(RecordedBackend(tmp_path / "none.sqlite"), ASKED, FIRST)
