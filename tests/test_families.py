"""What must hold for every family of students, with tiny random models of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import set_seed

from asking import ask
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import ConfigError
from cotdistill.models import load_for_training, sha256
from cotdistill.records import Pair
from cotdistill.students.examples import IGNORED, collate, make_example
from cotdistill.students.train import train
from cotdistill.students.trainer import make_trainer
from losses import mean_loss
from tiny import FAMILIES, tiny_family

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(8)]
PROMPTS = [Request((f"{'7' * n}?",), SamplingParams(12)) for n in (1, 9, 4, 17, 2)]


QUICK = ("llama",)  # the others' trainings are slow tests


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_family(request.param, tmp_path_factory.mktemp("family") / request.param)


TRAINED = pytest.mark.parametrize(
    "base", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES], indirect=True
)


@pytest.fixture
def in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("students.trainer", "models"):
        monkeypatch.setattr(f"cotdistill.{module}.has_bf16", lambda: False)


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 4, "batch_size": 4, "learning_rate": 1e-2, "dev_fraction": 0.0}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4, alpha=8)])
def test_the_loss_of_a_batch_is_that_of_its_examples_one_by_one(
    base: Path, tmp_path: Path, lora: LoraConfig | None
) -> None:
    student = load_for_training(str(base))
    examples = [make_example(student, pair) for pair in PAIRS]
    expected = mean_loss(student, examples)
    trainer = make_trainer(student, examples, [], settings(base, batch_size=8, lora=lora), 0, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(expected, abs=1e-5)
    halves = [collate([vars(e) for e in examples[at : at + 4]], student.pad_id) for at in (0, 4)]
    items = sum(int((half["labels"] != IGNORED).sum()) for half in halves)
    parts = [trainer.compute_loss(trainer.model, half, num_items_in_batch=items).item() for half in halves]
    assert sum(parts) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_examples_laid_end_to_end_do_not_see_each_other(base: Path, tmp_path: Path, attention: str) -> None:
    if base.name == "t5":
        with pytest.raises(ConfigError, match=r"student\.packing: .* is an encoder-decoder model"):
            train(PAIRS, settings(base, packing=True), tmp_path / "student", seed=0)
        return
    student = load_for_training(str(base), attention=attention)
    examples = [make_example(student, pair) for pair in PAIRS]
    trainer = make_trainer(student, examples, [], settings(base, batch_size=8, packing=True), 0, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    assert batch["input_ids"].shape == (1, sum(example.length for example in examples))
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(mean_loss(student, examples), abs=1e-5)
    trainer.model.zero_grad()
    loss.backward()
    packed = [weights.grad.clone() for weights in trainer.model.parameters()]
    trainer.model.zero_grad()
    padded = collate([vars(example) for example in examples], student.pad_id)
    trainer.compute_loss(trainer.model, padded).backward()
    for weights, gradient in zip(trainer.model.parameters(), packed, strict=True):
        assert (weights.grad - gradient).abs().max() < 1e-5


def test_what_is_computed_again_is_the_same(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = load_for_training(str(base))
    examples = [make_example(student, pair) for pair in PAIRS]
    trainer = make_trainer(student, examples, [], settings(base, batch_size=8), 0, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    items = (batch["labels"] != IGNORED).sum()
    layer = max(batch["input_ids"].numel(), batch["labels"].numel()) * student.model.config.hidden_size
    found = []
    for kept, again in ((len(trainer.layers), 0), (1, len(trainer.layers) - 1), (0, len(trainer.layers))):
        monkeypatch.setattr("cotdistill.students.trainer.KEPT", kept * layer)
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, batch, items)
        assert sum(one.gradient_checkpointing for one in trainer.layers) == again
        found.append((loss.item(), [weights.grad.clone() for weights in trainer.model.parameters()]))
    assert len(trainer.layers) > 1
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        for one, whole in zip(gradients, found[0][1], strict=True):
            assert (one - whole).abs().max() < 1e-5


def test_a_batch_is_generated_as_one_by_one(base: Path, in_fp32: None) -> None:
    together = ask(TransformersBackend(str(base)), PROMPTS)
    alone = ask(TransformersBackend(str(base), batch_size=1), PROMPTS)
    assert [c.text for c in together] == [c.text for c in alone]
    assert len({c.text for c in together}) > ("t5" not in base.name)


@pytest.mark.slow
def test_one_seed_repeats_and_two_differ(base: Path, tmp_path: Path) -> None:
    weights = [
        sha256(train(PAIRS, settings(base, batch_size=2), tmp_path / str(i), seed) / "model.safetensors")
        for i, seed in enumerate((0, 0, 1))
    ]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.slow
@TRAINED
def test_micro_batches_make_the_same_student(base: Path, tmp_path: Path, in_fp32: None) -> None:
    losses = []
    for size in (4, 2, 1):
        folder = train(PAIRS, settings(base, micro_batch_size=size), tmp_path / str(size), seed=0)
        student = load_for_training(str(folder))
        losses.append(mean_loss(student, [make_example(student, pair) for pair in PAIRS]))
    assert losses[1:] == pytest.approx(losses[:1] * 2, abs=1e-4)


@TRAINED
def test_merged_adapters_write_what_they_wrote_before(base: Path, tmp_path: Path, in_fp32: None) -> None:
    set_seed(0)  # as `train` does, for the adapters
    student = load_for_training(str(base))
    examples = [make_example(student, pair) for pair in PAIRS]
    config = settings(base, lora=LoraConfig(rank=4, alpha=32))
    trainer = make_trainer(student, examples, [], config, 0, tmp_path)
    trainer.train()
    unmerged = mean_loss(student, examples, trainer.model)
    folder = train(PAIRS, config, tmp_path / "student", seed=0)
    merged = load_for_training(str(folder))
    assert mean_loss(merged, examples) == pytest.approx(unmerged, abs=1e-4)
    assert unmerged < mean_loss(load_for_training(str(base)), examples) - 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's compiler uses it on import
@pytest.mark.parametrize("base", ["llama"], indirect=True)
def test_a_compiled_model_learns_the_same(base: Path, tmp_path: Path, in_fp32: None) -> None:
    losses = []
    for compiled in (False, True):
        folder = train(PAIRS, settings(base, compile=compiled), tmp_path / str(compiled), seed=0)
        student = load_for_training(str(folder))
        losses.append(mean_loss(student, [make_example(student, pair) for pair in PAIRS]))
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
