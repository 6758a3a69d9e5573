"""What only a GPU can show. All other tests of training and decoding use one as well, where there is one.

pytest tests/test_gpu.py tests/test_train.py tests/test_refill.py -m "gpu or not slow"
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from asking import ask
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import StudentConfig
from cotdistill.models import load_for_training, load_model
from cotdistill.records import Pair
from cotdistill.students.examples import make_example
from cotdistill.students.train import train, trained_facts
from losses import mean_loss
from tiny import tiny_family, tiny_model

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # of compilers, drivers and cards
PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * (i % 9)}{i} plus {i} --> {2 * i} END") for i in range(64)]


@pytest.fixture(autouse=True)
def gpu() -> Any:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return torch.cuda


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 12, "batch_size": 16, "learning_rate": 1e-2, "dev_fraction": 0.25, "select": "last"}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


def dev_loss(base: Path, folder: Path, **changes: Any) -> float:
    """Of a student trained so, after its last epoch."""
    train(PAIRS, settings(base, **changes), folder, 0)
    return float(trained_facts(folder)["dev_losses"][-1][1])


@pytest.mark.parametrize(
    "changes",
    [
        {"packing": True},
        {"micro_batch_size": 4},
        {"attention": "eager"},
        {"compile": True},
        {"packing": True, "attention": "flash_attention_2"},
    ],
    ids=str,
)
def test_how_it_is_trained_makes_no_other_student(changes: dict[str, Any], tmp_path: Path) -> None:
    if changes.get("attention", "").startswith("flash"):
        pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    base = tiny_model(tmp_path / "base")
    assert dev_loss(base, tmp_path / "one", **changes) == pytest.approx(dev_loss(base, tmp_path / "plain"), rel=0.03)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "t5"])
def test_the_loss_is_that_of_the_cpu(family: str, tmp_path: Path) -> None:
    """In bf16 there, in fp32 here."""
    base = tiny_family(family, tmp_path / "base")
    loss = dev_loss(base, tmp_path / "student", dev_fraction=0.5)
    student = load_for_training(str(tmp_path / "student"))
    student.model.to("cpu")
    examples = {pair.question_id: make_example(student, pair) for pair in PAIRS}
    from cotdistill.students.train import split_dev

    held_out = [examples[pair.question_id] for pair in split_dev(PAIRS, 0.5, 0)[1]]
    assert loss == pytest.approx(mean_loss(student, held_out), rel=0.02)


def test_less_memory_is_enough(gpu: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half as many examples at once, with the same steps."""
    base = tiny_model(tmp_path / "base", positions=2048)
    long = {"batch_size": 64, "dev_fraction": 0.0, "steps": 2}
    pairs = [Pair(f"q{i}", 0, f"{i}? ###", " so" * 600 + f" --> {i} END") for i in range(64)]
    gpu.empty_cache()
    gpu.reset_peak_memory_stats()
    train(pairs, settings(base, **long), tmp_path / "free", 0)
    share = 0.7 * gpu.max_memory_reserved() / gpu.get_device_properties(0).total_memory
    gpu.empty_cache()
    gpu.set_per_process_memory_fraction(share)
    try:
        train(pairs, settings(base, **long), tmp_path / "tight", 0)
    finally:
        gpu.set_per_process_memory_fraction(1.0)
    assert "memory ran out: from now on 32 examples at once" in capsys.readouterr().err
    assert trained_facts(tmp_path / "tight")["steps"] == trained_facts(tmp_path / "free")["steps"] == 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_text_is_that_of_the_cpu(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32, many at once, with attention in groups where heads share keys."""
    monkeypatch.setattr("cotdistill.models.has_bf16", lambda: False)
    loaded = load_model(str(tiny_family(family, tmp_path / "base")))
    assert loaded.model.device.type == "cuda"
    requests = [Request((f"{i} and {'so ' * (i % 7)}on",), SamplingParams(40, stop=("7",))) for i in range(40)]
    there = TransformersBackend("it", batch_size=16, loaded=copy.deepcopy(loaded))
    loaded.model.to("cpu")
    here = TransformersBackend("it", batch_size=1, loaded=loaded)
    same = [a.text == b.text for a, b in zip(ask(there, requests), ask(here, requests), strict=True)]
    assert sum(same) >= 38, "two tokens may be as likely but for rounding"
