"""Distillation besides the rationales: its loss is the one that is written, and the teacher is asked once."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from cotdistill.completions import canonical
from cotdistill.config import KdConfig, LoraConfig, StudentConfig, load_quickstart
from cotdistill.errors import BackendError, ConfigError
from cotdistill.models import LoadedModel, load_for_training, load_model, model_identity
from cotdistill.pipeline import run
from cotdistill.records import Pair
from cotdistill.students import kd
from cotdistill.students.examples import IGNORED, Example, make_example
from cotdistill.students.kd import NOTHING, SoftTargets, grouped, kd_loss
from cotdistill.students.train import ALL_THE_SAME, fingerprint, train, trained_facts
from cotdistill.students.trainer import CompletionTrainer, make_trainer
from losses import mean_loss
from tiny import tiny_model, tiny_t5

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(8)]
KINDS = ("llama", "t5")
ALL = 1000  # more than the vocabulary
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each kind a student and a teacher, the teacher's name ending in -teacher."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "llama")
    tiny_model(folder / "llama-teacher", seed=1)
    tiny_t5(folder / "t5")
    tiny_t5(folder / "t5-teacher", seed=1, std=1.0)
    return folder


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("students.trainer", "models", "students.kd"):
        monkeypatch.setattr(f"cotdistill.{module}.has_bf16", lambda: False)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many examples the teacher read in each of its passes; two a shard, and one at once."""
    sizes: list[int] = []

    def load(name: str, trust_remote_code: bool = False) -> LoadedModel:
        loaded = load_model(name, trust_remote_code)
        loaded.model.register_forward_hook(lambda model, args, output: sizes.append(len(output.logits)))
        return loaded

    monkeypatch.setattr(kd, "load_model", load)
    monkeypatch.setattr(kd, "SHARD", 2)
    monkeypatch.setattr(kd, "TOKENS", 1)
    return sizes


def settings(models: Path, kind: str = "llama", kd: dict[str, Any] | None = None, **changes: Any) -> StudentConfig:
    values: dict[str, Any] = {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, "dev_fraction": 0.0}
    teacher = {"model": str(models / f"{kind}-teacher"), **kd} if kd is not None else None
    return StudentConfig.model_validate({"model": str(models / kind), "kd": teacher, **values, **changes})


def prepared(
    models: Path, cache: Path, kind: str, pairs: Sequence[Pair] = PAIRS, **of_kd: Any
) -> tuple[LoadedModel, list[Example], SoftTargets]:
    student = load_for_training(str(models / kind))
    examples = [make_example(student, pair) for pair in pairs]
    soft = SoftTargets(student, examples, KdConfig(model=str(models / f"{kind}-teacher"), **of_kd), cache)
    soft.compute()
    return student, examples, soft


def logits_of(loaded: LoadedModel, example: Example) -> torch.Tensor:
    """Those of its completion's tokens, of the example alone."""
    places = [i for i, label in enumerate(example.labels) if label != IGNORED]
    device = loaded.model.device
    inputs = {"input_ids": torch.tensor([example.input_ids], device=device)}
    if loaded.seq2seq:
        start = loaded.model.config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.tensor([[start, *example.labels[:-1]]], device=device)
    else:
        places = [i - 1 for i in places]
    logits: torch.Tensor = loaded.model(**inputs).logits[0, places]
    return logits


def direct_kl(student: Any, teacher: Any, temperature: float, top_k: int | None = None) -> Any:
    """KL(teacher || student) by its definition, in fp64, summed over the rows; with `top_k`, of groups."""
    p, q = ((logits.double() / temperature).softmax(-1) for logits in (teacher, student))
    if top_k is not None:
        ids = p.topk(top_k).indices
        p, q = (torch.cat([x.gather(-1, ids), 1 - x.gather(-1, ids).sum(-1, keepdim=True)], -1) for x in (p, q))
    return (p * (p.log() - q.log())).sum()


def mean_kl(student: LoadedModel, teacher: LoadedModel, examples: list[Example], *options: Any) -> float:
    tokens = sum(label != IGNORED for example in examples for label in example.labels)
    with torch.no_grad():
        alone = [direct_kl(logits_of(student, e), logits_of(teacher, e), *options) for e in examples]
    return float(sum(alone)) / tokens


@pytest.mark.parametrize(
    ("kind", "temperature", "top_k"),
    [
        ("llama", 2.0, ALL),
        ("llama", 2.0, 5),
        ("t5", 1.0, ALL),
        pytest.param("llama", 1.0, ALL, marks=SLOW),
        pytest.param("t5", 2.0, ALL, marks=SLOW),
        pytest.param("t5", 2.0, 5, marks=SLOW),
    ],
)
def test_the_loss_is_that_of_the_examples_one_by_one(
    models: Path, tmp_path: Path, kind: str, temperature: float, top_k: int
) -> None:
    student, examples, soft = prepared(models, tmp_path, kind, alpha=0.7, top_k=top_k, temperature=temperature)
    teacher = load_for_training(str(models / f"{kind}-teacher"))
    kl = mean_kl(student, teacher, examples, temperature)
    if top_k == 5:
        whole, kl = kl, mean_kl(student, teacher, examples, temperature, top_k)
        assert 0.05 < kl < whole
    plain = mean_loss(student, examples)
    expected = plain + 0.7 * temperature**2 * kl

    trainer = make_trainer(student, examples, [], settings(models, kind, batch_size=8), 0, tmp_path, soft=soft)
    (batch,) = trainer.get_train_dataloader()
    assert trainer.compute_loss(student.model.eval(), batch).item() == pytest.approx(plain, abs=1e-5)  # as the dev loss
    assert trainer.compute_loss(student.model.train(), batch).item() == pytest.approx(expected, abs=1e-5)
    halves = [trainer.data_collator([vars(e) for e in examples[at : at + 4]]) for at in (0, 4)]
    items = sum(int((half["labels"] != IGNORED).sum()) for half in halves)
    parts = [trainer.compute_loss(student.model, half, num_items_in_batch=items).item() for half in halves]
    assert sum(parts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("top_k", [1, 3, 20])
@pytest.mark.parametrize("scale", [1.0, 100.0])  # at 100 what is left of most rows is too little for fp32
def test_the_gradient_is_that_of_the_formula(top_k: int, scale: float) -> None:
    torch.manual_seed(0)
    logits = (scale * torch.randn(2, 5, 20)).requires_grad_()
    targets = torch.randint(0, 20, (2, 5))
    targets[0, 3:] = targets[1, 0] = IGNORED
    teacher = scale * torch.randn(7, 20)
    ids = (teacher / 2).topk(top_k).indices
    loss = kd_loss(logits, targets, ids.int(), grouped(teacher / 2, ids), 2.0)
    (found,) = torch.autograd.grad(loss, logits)

    rows = logits[targets != IGNORED]
    p, log_q = (teacher.double() / 2).softmax(-1), (rows.double() / 2).log_softmax(-1)
    others = torch.ones_like(p).scatter(-1, ids, 0.0)
    terms = torch.special.xlogy(p, p).gather(-1, ids) - p.gather(-1, ids) * log_q.gather(-1, ids)
    expected = terms.sum()
    if top_k < 20:
        rest = (p * others).sum(-1)
        log_rest = (log_q + others.log()).logsumexp(-1)
        expected = expected + (torch.special.xlogy(rest, rest) - rest * log_rest).sum()
    (right,) = torch.autograd.grad(4 * expected, logits)
    assert loss.item() == pytest.approx(4 * expected.item(), rel=1e-5)
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)
    assert loss.item() > 0 == found[0, 3:].abs().sum()


@pytest.mark.parametrize("top_k", [1, 4, 10])
def test_a_student_that_is_its_teacher_loses_nothing(top_k: int) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[80.0, *[0.0] * 9], [0.0] * 10, [-200.0, 200.0, *[0.0] * 8]], requires_grad=True)
    ids = logits.topk(top_k).indices
    rows = grouped(logits, ids).detach()
    loss = kd_loss(logits, torch.tensor([1, 2, 3]), ids, rows, 1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert abs(loss.item()) < 1e-6
    assert gradient.abs().max() < 1e-6
    assert rows.isfinite().all()
    assert (rows[:, -1] < 0.9 * NOTHING).all() == (top_k == 10)


def test_a_larger_output_layer_is_cut(models: Path, tmp_path: Path) -> None:
    """As of Qwen's larger models, which have more rows than tokens."""
    teacher = load_for_training(str(models / "llama-teacher"))
    teacher.model.resize_token_embeddings(128)
    teacher.model.lm_head.weight.data[99:] = 9.0
    teacher.model.save_pretrained(tmp_path / "llama-teacher")
    teacher.tokenizer.save_pretrained(tmp_path / "llama-teacher")
    _, examples, soft = prepared(models, tmp_path / "cache", "llama", top_k=ALL)
    tiny_model(tmp_path / "llama")
    _, _, padded = prepared(tmp_path, tmp_path / "cache", "llama", top_k=ALL)
    rows = [targets.rows([vars(examples[3])]) for targets in (soft, padded)]
    assert rows[0]["teacher_ids"].shape[1] == 99
    torch.testing.assert_close(rows[1], rows[0])


def test_each_example_is_read_once_for_all_seeds_and_runs(models: Path, tmp_path: Path, readings: list[int]) -> None:
    config = settings(models, kd={"top_k": 4}, dev_fraction=0.25, steps=1)
    facts = trained_facts(train(PAIRS, config, tmp_path / "0", seed=0))
    assert facts["kd"]["model"] == "llama-teacher"
    assert readings == [1] * 8  # those that are held out as well: with another seed they are not
    prepared(models, tmp_path / "kd", "llama", PAIRS[2:6], top_k=4)
    assert len(readings) == 8
    prepared(models, tmp_path / "kd", "llama", [*PAIRS, Pair("q9", 0, "9?", " 9 END")], top_k=4)
    assert len(readings) == 9
    (folder,) = (tmp_path / "kd").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 5


def test_interrupted_only_what_is_missing_is_read_again(
    models: Path, tmp_path: Path, readings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    read_by = SoftTargets._read_by

    def interrupted(self: SoftTargets, teacher: LoadedModel, examples: list[Example]) -> tuple[Any, Any]:
        if len(readings) == 5:
            raise KeyboardInterrupt
        return read_by(self, teacher, examples)

    monkeypatch.setattr(SoftTargets, "_read_by", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared(models, tmp_path, "llama")
    monkeypatch.setattr(SoftTargets, "_read_by", read_by)
    left = next(tmp_path.iterdir()) / ".abc.safetensors.xyz"
    left.touch()  # by a process that was killed while it wrote
    _, examples, soft = prepared(models, tmp_path, "llama")
    assert len(readings) == 5 + 4  # two shards of two were there
    assert soft.missing == []
    assert not left.exists()
    _, _, whole = prepared(models, tmp_path / "whole", "llama")
    for example in examples:
        torch.testing.assert_close(soft.rows([vars(example)]), whole.rows([vars(example)]), rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["bit", pytest.param("cut", marks=SLOW), pytest.param("empty", marks=SLOW)])
def test_a_damaged_shard_is_named_and_made_again(
    models: Path, tmp_path: Path, readings: list[int], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, examples, soft = prepared(models, tmp_path, "llama")
    before = soft.rows([vars(e) for e in examples])
    before = {name: rows.clone() for name, rows in before.items()}
    shard = sorted(tmp_path.glob("*/*.safetensors"))[1]
    content = shard.read_bytes()
    shard.unlink()  # not written in place: it is mapped
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    shard.write_bytes({"bit": flipped, "cut": content[:-5], "empty": b""}[damage])
    capsys.readouterr()
    _, _, again = prepared(models, tmp_path, "llama")
    said = capsys.readouterr().err
    assert said.count("warning") == 1
    assert f"warning: {shard} is damaged" in said
    assert len(readings) == 8 + 2
    assert shard.read_bytes() == content
    torch.testing.assert_close(again.rows([vars(e) for e in examples]), before, rtol=0, atol=0)


def test_what_is_kept_is_of_one_teacher_and_its_settings(models: Path, tmp_path: Path) -> None:
    student = load_for_training(str(models / "llama"))

    def folder(**of_kd: Any) -> Path:
        kd = KdConfig.model_validate({"model": str(models / "llama-teacher"), **of_kd})
        return SoftTargets(student, [], kd, tmp_path).folder

    assert folder() == folder(alpha=0.5)
    assert len({folder(), folder(top_k=3), folder(temperature=2.0), folder(model=str(models / "llama"))}) == 4


def test_a_fingerprint_without_is_as_before_and_with_has_the_weights_of_the_teacher(
    models: Path, tmp_path: Path
) -> None:
    def prints(kd: dict[str, Any] | None) -> str:
        return fingerprint(PAIRS, settings(models, kd=kd), 0)

    without = settings(models).model_dump(mode="json", exclude={"kd", "rationale", "seeds", "model", *ALL_THE_SAME})
    content = canonical([[asdict(pair) for pair in PAIRS], without, model_identity(str(models / "llama")), 0])
    assert prints(None) == hashlib.sha256(content.encode()).hexdigest()
    assert len({prints(None), prints({}), prints({"alpha": 2}), prints({"top_k": 3}), prints({"temperature": 2})}) == 5
    tiny_model(tmp_path / "a" / "llama-teacher", seed=1)
    tiny_model(tmp_path / "b" / "llama-teacher", seed=2)
    a, b = (prints({"model": str(tmp_path / name / "llama-teacher")}) for name in "ab")
    assert a == prints({}) != b


def other_vocabulary(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<more>"])


def other_end(tokenizer: Any) -> None:
    tokenizer.eos_token = "<pad>"


def other_splitting(tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_vocabulary, "1 tokens of their vocabularies differ"),
        (other_end, "it ends a text with '<pad>', the student with '</s>'"),
        (other_splitting, "it splits a text into other tokens"),
    ],
)
def test_another_tokenizer_is_refused(models: Path, tmp_path: Path, change: Any, why: str) -> None:
    teacher = load_for_training(str(models / "llama-teacher"))
    change(teacher.tokenizer)
    teacher.model.save_pretrained(tmp_path / "other")
    teacher.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"student\.kd\.model: '.*other' does not have the tokenizer of") as error:
        train(PAIRS, settings(models, kd={"model": str(tmp_path / "other")}), tmp_path / "student", seed=0)
    assert why in str(error.value)
    assert not (tmp_path / "student").exists()


def test_a_teacher_of_another_kind_or_none_is_refused(models: Path, tmp_path: Path) -> None:
    config = settings(models, kd={"model": str(models / "t5-teacher")})
    with pytest.raises(ConfigError, match=r"student\.kd\.model: .* is encoder-decoder, and the student causal"):
        train(PAIRS, config, tmp_path / "student", seed=0)
    short = tiny_model(tmp_path / "short", seed=1, positions=40)
    with pytest.raises(ConfigError, match=r"reads at most 40 tokens(?s:.*)student\.max_length=40"):
        train(PAIRS, settings(models, kd={"model": str(short)}), tmp_path / "student", seed=0)
    with pytest.raises(BackendError, match="nobody"):
        train(PAIRS, settings(models, kd={"model": str(tmp_path / "nobody" / "x")}), tmp_path / "student", seed=0)


def test_a_teacher_whose_probabilities_are_no_numbers(models: Path, tmp_path: Path) -> None:
    teacher = load_for_training(str(models / "llama-teacher"))
    teacher.model.lm_head.weight.data[5] = torch.nan
    teacher.model.save_pretrained(tmp_path / "sick")
    teacher.tokenizer.save_pretrained(tmp_path / "sick")
    with pytest.raises(BackendError, match=r"student\.kd\.model: .*sick' gives .* no numbers, as for q0, q1"):
        train(PAIRS, settings(models, kd={"model": str(tmp_path / "sick")}), tmp_path / "student", seed=0)
    assert not list(tmp_path.rglob("*.safetensors.*"))


@SLOW
@pytest.mark.parametrize("lora", [LoraConfig(rank=4, dropout=0.5), None])
def test_alpha_0_makes_the_student_that_there_is_without(models: Path, tmp_path: Path, lora: LoraConfig | None) -> None:
    config = settings(models, lora=lora, steps=2)
    plain = trained_facts(train(PAIRS, config, tmp_path / "plain", seed=0))
    with_0 = settings(models, kd={"alpha": 0}, lora=lora, steps=2)
    for name in ("asked", "kept")[: 1 if lora else 2]:  # the teacher was loaded before, and not
        assert trained_facts(train(PAIRS, with_0, tmp_path / name, seed=0))["weights"] == plain["weights"]


@SLOW
@pytest.mark.parametrize("kind", KINDS)
def test_it_brings_the_student_nearer_to_its_teacher(models: Path, tmp_path: Path, kind: str) -> None:
    teacher = load_for_training(str(models / f"{kind}-teacher"))
    nearness = {}
    for alpha in (0.0, 3.0):
        config = settings(models, kind, kd={"alpha": alpha, "top_k": 8}, steps=40, learning_rate=5e-3)
        loaded = load_for_training(str(train(PAIRS, config, tmp_path / str(alpha), seed=0)))
        nearness[alpha] = mean_kl(loaded, teacher, [make_example(loaded, pair) for pair in PAIRS], 1.0)
    assert nearness[3.0] < 0.7 * nearness[0.0]


@SLOW
@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_make_the_same_student(models: Path, tmp_path: Path, kind: str) -> None:
    losses = []
    for size in (4, 2, 1):
        config = settings(models, kind, kd={}, micro_batch_size=size)
        loaded = load_for_training(str(train(PAIRS, config, tmp_path / str(size), seed=0)))
        losses.append(mean_loss(loaded, [make_example(loaded, pair) for pair in PAIRS]))
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=1e-4)


@SLOW
def test_where_memory_runs_out_it_goes_on(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CompletionTrainer.training_step

    def too_large(self: CompletionTrainer, model: Any, inputs: Any, items: Any = None) -> Any:
        if len(inputs["labels"]) > 2:
            raise MemoryError
        return step(self, model, inputs, items)

    expected = trained_facts(train(PAIRS, settings(models, kd={}, micro_batch_size=2), tmp_path / "small", seed=0))
    monkeypatch.setattr(CompletionTrainer, "training_step", too_large)
    halved = trained_facts(train(PAIRS, settings(models, kd={}), tmp_path / "halved", seed=0))
    assert halved["weights"] == expected["weights"]


@SLOW
def test_an_example_of_no_completion_has_no_rows(models: Path, tmp_path: Path) -> None:
    student, examples, _ = prepared(models, tmp_path, "llama", PAIRS[:2])
    examples.insert(1, Example([1], [IGNORED]))  # of an empty pair, where nothing is put before a prompt
    soft = SoftTargets(student, examples, KdConfig(model=str(models / "llama-teacher")), tmp_path)
    soft.compute()
    rows = soft.rows([vars(example) for example in examples])
    assert len(rows["teacher_ids"]) == sum(label != IGNORED for e in examples for label in e.labels)
    assert len(soft.rows([vars(examples[1])])["teacher_logprobs"]) == 0


@SLOW
def test_a_killed_training_goes_on_without_the_teacher(models: Path, tmp_path: Path, readings: list[int]) -> None:
    config = settings(models, kd={}, steps=8, dev_fraction=0.25, checkpoint_minutes=1e-9)
    whole = trained_facts(train(PAIRS, config, tmp_path / "whole", seed=0))

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(PAIRS, config, tmp_path / "killed", 0, stop)
    assert trained_facts(train(PAIRS, config, tmp_path / "killed", seed=0))["weights"] == whole["weights"]
    assert readings == [1] * 8


@SLOW
def test_killed_while_the_teacher_reads(models: Path, tmp_path: Path, readings: list[int]) -> None:
    """SIGKILL after five of eight examples: the two shards of four are there, and nothing else is."""
    config = settings(models, kd={}, steps=1)
    program = f"""
import json, pathlib, time
from cotdistill.config import StudentConfig
from cotdistill.models import import_training
import_training()
from cotdistill import models
from cotdistill.students import kd
from cotdistill.students import trainer
models.has_bf16 = trainer.has_bf16 = kd.has_bf16 = lambda: False
from cotdistill.records import Pair
from cotdistill.students.train import train
kd.SHARD, kd.TOKENS = 2, 1
read_by = kd.SoftTargets._read_by
def slowly(self, *arguments):
    rows = read_by(self, *arguments)
    print("read", flush=True)
    slowly.done += 1
    time.sleep(60 if slowly.done == 5 else 0)
    return rows
slowly.done = 0
kd.SoftTargets._read_by = slowly
pairs = [Pair(**pair) for pair in json.loads({json.dumps([asdict(pair) for pair in PAIRS])!r})]
config = StudentConfig.model_validate(json.loads({config.model_dump_json()!r}))
train(pairs, config, pathlib.Path({str(tmp_path / "student")!r}), 0)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(5)] == ["read\n"] * 5
        child.kill()
    assert len(list((tmp_path / "kd").glob("*/*.safetensors"))) == 2
    train(PAIRS, config, tmp_path / "student", seed=0)
    assert readings == [1] * 4


@SLOW
def test_two_processes_ask_the_teacher_once(models: Path, tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from cotdistill.models import import_training
import_training()
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_kd
from cotdistill.students import kd
kd.SHARD, kd.TOKENS = 1, 1
test_kd.prepared(Path({str(models)!r}), Path({str(tmp_path)!r}), "llama")
"""
    command = [sys.executable, "-c", program]
    children = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [child.communicate(timeout=300)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], said
    assert "".join(said).count("reads 8 examples, once") == 1
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 8


@SLOW
def test_a_run(models: Path, tmp_path: Path, readings: list[int]) -> None:
    """Of the two trained methods, only the one that learns rationales has the teacher; a second run does nothing."""
    student, teacher = (tiny_model(tmp_path / name, seed, 2048) for seed, name in enumerate(("student", "teacher")))
    values = {"runs": str(tmp_path / "runs"), "name": "tiny", "task.train": 12, "task.test": 6, "teacher.samples": 2}
    values |= {"student.model": str(student), "student.steps": 2, "student.max_length": 0, "evaluate.max_tokens": 8}
    this = run(load_quickstart({**values, "student.kd.model": str(teacher)}))
    facts = {name: trained_facts(folder) for name, folder in this.students.items()}
    assert "kd" not in facts["fine_tune-0"]
    assert facts["fine_tune_cot-0"]["kd"]["model"] == "teacher"
    read = len(readings)
    assert read == this.curated.ledger["kept"]  # type: ignore[union-attr]
    assert len(list((tmp_path / "runs" / ".kd").iterdir())) == 1
    plain = run(load_quickstart({**values, "name": "plain"}))
    assert trained_facts(plain.students["fine_tune-0"])["fingerprint"] == facts["fine_tune-0"]["fingerprint"]
    again = run(load_quickstart({**values, "name": "again", "student.kd.model": str(teacher), "student.seeds": [0, 1]}))
    assert trained_facts(again.students["fine_tune_cot-0"])["weights"] == facts["fine_tune_cot-0"]["weights"]
    assert len(readings) == read
