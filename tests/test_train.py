"""Training: the loss is where it should be, a student is whole or not there, and a seed repeats."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cotdistill.backends.transformers import TransformersBackend
from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import BackendError, DataError
from cotdistill.methods import METHODS
from cotdistill.models import load_for_training, sha256
from cotdistill.records import Pair
from cotdistill.store import Completion, Request, SamplingParams
from cotdistill.train import IGNORED, Example, _trainer, collate, make_example, split_dev, train, trained_facts
from tiny import tiny_model

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(8)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "base")


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "dev_fraction": 0.0}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


def answers(student: Path, pairs: Sequence[Pair]) -> list[Completion]:
    requests = [Request((pair.prompt,)) for pair in pairs]
    params = SamplingParams(60, stop=METHODS["fine_tune_cot"].stop)
    return [c for _, c in sorted(TransformersBackend(str(student)).generate(requests, params))]


def completion_loss(model: Any, example: Example) -> tuple[float, int]:
    """The summed loss of an example's completion by hand, alone and without padding, and its tokens."""
    import torch

    with torch.no_grad():
        log_probabilities = model(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
    places = [i for i, label in enumerate(example.labels) if label != IGNORED]
    return -sum(log_probabilities[i - 1, example.input_ids[i]].item() for i in places), len(places)


def test_the_loss_is_on_the_completion_and_its_end_alone(base: Path) -> None:
    _, tokenizer = load_for_training(str(base))
    for pair in PAIRS:
        example = make_example(tokenizer, pair)
        learned = [i for i, label in enumerate(example.labels) if label != IGNORED]
        prompt = example.input_ids[: learned[0]]
        assert learned == list(range(len(prompt), len(example.input_ids)))
        assert [example.labels[i] for i in learned] == example.input_ids[len(prompt) :]
        assert tokenizer.decode(prompt) == "<s>" + pair.prompt
        assert tokenizer.decode(example.input_ids[len(prompt) :]) == pair.completion + "</s>"


def test_the_prompt_has_the_ids_it_has_at_inference(base: Path) -> None:
    backend = TransformersBackend(str(base))
    for pair in PAIRS:
        prompt = backend._encode(Request((pair.prompt,)))
        example = make_example(backend.loaded.tokenizer, pair)
        assert example.input_ids[: len(prompt)] == prompt
        assert example.labels[: len(prompt) + 1] == [IGNORED] * len(prompt) + [example.input_ids[len(prompt)]]


def test_the_loss_of_a_batch_is_the_mean_over_its_completion_tokens(base: Path, tmp_path: Path) -> None:
    model, tokenizer = load_for_training(str(base))
    examples = [make_example(tokenizer, pair) for pair in PAIRS]
    alone = [completion_loss(model, example) for example in examples]
    expected = sum(loss for loss, _ in alone) / sum(tokens for _, tokens in alone)

    trainer = _trainer(
        model, tokenizer, examples, [], settings(base, batch_size=8), 0, tmp_path, lambda done, total: None
    )
    (batch,) = trainer.get_train_dataloader()
    assert len({tuple(row) for row in batch["attention_mask"].tolist()}) > 1  # there is padding
    # The model as it is, before Trainer wraps it in autocast: fp32.
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected, abs=1e-5)

    other = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)}
    assert trainer.compute_loss(model, other).item() == pytest.approx(expected, abs=1e-5)


def test_collate() -> None:
    batch = collate([{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8], "labels": [8]}], pad_id=2)
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
    }


def test_it_learns_and_learns_to_stop(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS, settings(base, steps=150), tmp_path / "student", seed=0)
    for pair, completion in zip(PAIRS, answers(student, PAIRS), strict=True):
        assert completion.text + " END" == pair.completion
        assert completion.finish_reason == "stop"

    losses = []
    for folder in (base, student):
        model, tokenizer = load_for_training(str(folder))
        examples = [completion_loss(model, make_example(tokenizer, pair)) for pair in PAIRS]
        losses.append(sum(loss for loss, _ in examples) / sum(tokens for _, tokens in examples))
    assert losses[0] > 3 > 0.3 > losses[1]


def test_the_student_learns_the_end_of_sequence(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS[:2], settings(base, steps=80), tmp_path / "student", seed=0)
    ((_, completion),) = TransformersBackend(str(student)).generate([Request((PAIRS[0].prompt,))], SamplingParams(60))
    assert (completion.text, completion.finish_reason) == (PAIRS[0].completion, "stop")


def test_a_saved_student(base: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    config = settings(base, dev_fraction=0.25)
    student = train(PAIRS, config, tmp_path / "s" / "student", 5, lambda *step: done.append(step))
    assert student == tmp_path / "s" / "student"
    assert [path.name for path in student.parent.iterdir()] == ["student"]
    assert {path.name for path in student.iterdir()} == {
        *("complete.json", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    facts = trained_facts(student)
    assert facts["weights"] == {"model.safetensors": sha256(student / "model.safetensors")}
    counts = {"seed": 5, "pairs": 8, "examples": 6, "over_long_dropped": 0, "steps": 3, "epochs": 1.5}
    assert counts.items() <= facts.items()
    assert [epoch for epoch, loss in facts["dev_losses"] if 0 < loss < 10] == [1.0, 1.5]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_epochs_set_the_steps(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS, settings(base, steps=0, epochs=2, batch_size=3), tmp_path / "student", seed=0)
    assert trained_facts(student)["steps"] == 6


def test_a_student_is_made_once_and_again_when_something_changes(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"

    def weights_after(pairs: list[Pair], seed: int, **changes: Any) -> tuple[int, str]:
        train(pairs, settings(base, **changes), folder, seed)
        return (folder / "complete.json").stat().st_mtime_ns, sha256(folder / "model.safetensors")

    first = weights_after(PAIRS, 0)
    assert weights_after(PAIRS, 0) == first
    assert weights_after(PAIRS, 0, seeds=(0, 1)) == first  # which other seeds run does not matter
    another_seed = weights_after(PAIRS, 1)
    other_pairs = weights_after(PAIRS[:6], 1)
    other_rate = weights_after(PAIRS[:6], 1, learning_rate=1e-3)
    assert len({sha for _, sha in (first, another_seed, other_pairs, other_rate)}) == 4
    again = weights_after(PAIRS, 0)
    assert again[1] == first[1]  # bit for bit
    assert again[0] > first[0]


def test_lora_saves_a_plain_model(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    lora = LoraConfig(rank=4, alpha=8, dropout=0.1)
    student = train(PAIRS, settings(base, lora=lora), tmp_path / "student", seed=0)
    before, after = load_file(base / "model.safetensors"), load_file(student / "model.safetensors")
    assert {name: w.shape for name, w in after.items()} == {name: w.shape for name, w in before.items()}
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == {name for name in before if "_proj" in name}
    assert not list(student.glob("adapter*"))
    assert len(answers(student, PAIRS)) == len(PAIRS)
    again = train(PAIRS, settings(base, lora=lora), tmp_path / "again", seed=0)
    assert sha256(again / "model.safetensors") == sha256(student / "model.safetensors")


LONG = Pair("long", 0, "Say it. ###", " very" * 20 + " END")  # 112 tokens with both ends; the others at most 51


@pytest.mark.parametrize("max_length", [60, 0])
def test_over_long_examples_stop_the_training(base: Path, tmp_path: Path, max_length: int) -> None:
    model = base if max_length else tiny_model(tmp_path / "short", positions=60)
    with pytest.raises(DataError) as error:
        train([*PAIRS, LONG], settings(model, max_length=max_length), tmp_path / "student", seed=0)
    message = str(error.value)
    assert message.startswith("1 of 9 training examples have more than 60 tokens (up to 32: ")
    assert "up to 128: 1)" in message
    assert "student.over_long=drop" in message
    assert len(message.splitlines()) <= 3
    assert not (tmp_path / "student").exists()


def test_over_long_examples_are_dropped_and_counted_on_both_sides(base: Path, tmp_path: Path) -> None:
    twice = [pair for i in range(4) for pair in (PAIRS[i], Pair(f"long{i}", 0, "Say it. ###", LONG.completion))]
    config = settings(base, max_length=60, over_long="drop", dev_fraction=0.5)
    facts = trained_facts(train(twice, config, tmp_path / "student", seed=0))
    assert (facts["pairs"], facts["over_long_dropped"], facts["examples"]) == (8, 4, 2)
    assert facts["longest"] <= 60
    with pytest.raises(DataError, match="1 of 1 training examples"):
        train([LONG], config, tmp_path / "other", seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_dev_split_is_by_question(seed: int) -> None:
    pairs = [Pair(f"q{i}", j, "p", f"c{j}") for i in range(20) for j in range(i % 4 + 1)]
    kept, dev = split_dev(pairs, 0.25, seed)
    assert len({pair.question_id for pair in dev}) == 5
    assert not {pair.question_id for pair in dev} & {pair.question_id for pair in kept}
    assert sorted(kept + dev, key=pairs.index) == pairs
    assert split_dev(pairs[::-1], 0.25, seed)[1] == dev[::-1]
    assert split_dev(pairs, 0.0, seed) == (pairs, [])


def test_no_pairs(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"student: there is no pair .* ledger\.json"):
        train([], settings(base), tmp_path / "student", seed=0)


@pytest.mark.parametrize("steps", [3, 12])  # 12: past the first log
def test_a_loss_that_is_no_number(base: Path, tmp_path: Path, steps: int) -> None:
    with pytest.raises(BackendError, match=r"(?s)loss became (nan|inf).*student\.learning_rate"):
        train(PAIRS, settings(base, steps=steps, learning_rate=1e30), tmp_path / "out" / "student", seed=0)
    assert not list((tmp_path / "out").iterdir())


def test_a_failed_training_leaves_the_student_that_was_there(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS, settings(base), tmp_path / "student", seed=0)
    before = {path.name: path.read_bytes() for path in student.iterdir()}
    with pytest.raises(BackendError):
        train(PAIRS, settings(base, learning_rate=1e30), student, seed=0)
    assert {path.name: path.read_bytes() for path in student.iterdir()} == before


def test_killed_while_training(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    program = f"""
import json, pathlib
from cotdistill.config import StudentConfig
from cotdistill.records import Pair
from cotdistill.train import train
config = StudentConfig.model_validate(json.loads({settings(base, steps=10**6).model_dump_json()!r}))
pairs = [Pair(f"q{{i}}", 0, "1? ###", " 1 END") for i in range(8)]
train(pairs, config, pathlib.Path({str(folder)!r}), 0, lambda done, total: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        child.kill()
    assert trained_facts(folder) == {}
    assert not folder.exists()
    assert trained_facts(train(PAIRS, settings(base), folder, seed=0))["steps"] == 3
