"""Training: the loss is where it should be, the right epoch is kept, and a student is whole or not there."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asking import ask
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.methods import METHODS
from cotdistill.models import load_for_training, model_identity, sha256
from cotdistill.records import Pair
from cotdistill.students.examples import IGNORED, Example, LengthGrouped, collate, make_example
from cotdistill.students.train import split_dev, train, trained_facts
from cotdistill.students.trainer import make_trainer
from losses import mean_loss
from tiny import CHAT, tiny_bart, tiny_model

PAIRS = [Pair(f"q{i}", 0, f"{i}+{i}? ###", f" {'so ' * i}{i} plus {i} --> {2 * i} END") for i in range(8)]


@pytest.fixture(scope="module")
def chat_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "chat", chat=True)


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "dev_fraction": 0.0}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


def answers(student: Path, pairs: Sequence[Pair]) -> list[Completion]:
    params = SamplingParams(60, stop=METHODS["fine_tune_cot"].stop)
    return ask(TransformersBackend(str(student)), [Request((pair.prompt,), params) for pair in pairs])


def test_the_loss_is_on_the_completion_and_its_end_alone(base: Path) -> None:
    student = load_for_training(str(base))
    tokenizer = student.tokenizer
    for pair in PAIRS:
        example = make_example(student, pair)
        learned = [i for i, label in enumerate(example.labels) if label != IGNORED]
        prompt = example.input_ids[: learned[0]]
        assert learned == list(range(len(prompt), len(example.input_ids)))
        assert [example.labels[i] for i in learned] == example.input_ids[len(prompt) :]
        assert tokenizer.decode(prompt) == "<s>" + pair.prompt
        assert tokenizer.decode(example.input_ids[len(prompt) :]) == pair.completion + "</s>"


def test_a_chat_example_ends_with_the_end_of_the_turn(chat_base: Path) -> None:
    student = load_for_training(str(chat_base))
    example = make_example(student, Pair("q", 0, "1+1?", "So 2."), chat=True)
    prompt = example.labels.count(IGNORED)
    assert student.tokenizer.decode(example.input_ids[:prompt]) == "[user]1+1?<end>\n[assistant]"
    assert student.tokenizer.decode(example.labels[prompt:]) == "So 2.<end>"
    assert example.input_ids[prompt:] == example.labels[prompt:]
    assert example.labels[-1] in student.eos_ids


@pytest.mark.parametrize(
    ("template", "completion"),
    [
        (CHAT.replace("<end>", "."), "So 2..</s>"),  # nothing that generation stops at ends the turn
        (CHAT.replace("[assistant]{%", "[a]{%"), "So 2.</s>"),  # does not begin as the prompt does
    ],
)
def test_a_chat_template_that_does_not_fit(chat_base: Path, template: str, completion: str) -> None:
    student = load_for_training(str(chat_base))
    student.tokenizer.chat_template = template
    example = make_example(student, Pair("q", 0, "1+1?", "So 2."), chat=True)
    assert student.tokenizer.decode([label for label in example.labels if label != IGNORED]) == completion


def test_an_encoder_decoder_example(t5_base: Path, tmp_path: Path) -> None:
    student = load_for_training(str(t5_base))
    example = make_example(student, Pair("q", 0, "1 {+} 1?", "So\n2."))
    assert student.tokenizer.decode(example.input_ids) == "1 <unk>+<unk> 1?</s>"
    assert student.tokenizer.decode(example.labels) == "So 2.</s>"
    assert example.length == len(example.input_ids)
    student = load_for_training(str(tiny_bart(tmp_path / "bart")))  # its decoder begins with <s>, if its tokenizer does
    assert student.tokenizer.decode(make_example(student, PAIRS[0]).labels) == "<s> 0 plus 0 --> 0 END</s>"


@pytest.mark.parametrize("kind", ["base", "chat_base", "t5_base"])
def test_the_prompt_has_the_ids_it_has_at_inference(kind: str, request: pytest.FixtureRequest) -> None:
    chat = kind == "chat_base"
    backend = TransformersBackend(str(request.getfixturevalue(kind)), chat=chat)
    for pair in PAIRS:
        prompt = backend._encode(Request((pair.prompt,), SamplingParams(1)))
        example = make_example(backend.loaded, pair, chat)
        assert example.input_ids[: len(prompt)] == prompt
        if kind == "t5_base":
            assert len(example.input_ids) == len(prompt)
            assert IGNORED not in example.labels
        else:
            assert example.labels[: len(prompt) + 1] == [IGNORED] * len(prompt) + [example.input_ids[len(prompt)]]


@pytest.mark.parametrize("kind", ["base", "chat_base", "t5_base"])
def test_the_loss_of_a_batch_is_the_mean_over_its_completion_tokens(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    student = load_for_training(str(folder))
    examples = [make_example(student, pair, chat=kind == "chat_base") for pair in PAIRS]
    expected = mean_loss(student, examples)

    trainer = make_trainer(student, examples, [], settings(folder, batch_size=8), 0, tmp_path)
    (batch,) = trainer.get_train_dataloader()
    assert len({tuple(row) for row in batch["attention_mask"].tolist()}) > (kind != "t5_base")  # there is padding
    assert len({tuple(row) for row in (batch["labels"] == IGNORED).tolist()}) > 1
    # The model as it is, before Trainer wraps it in autocast: fp32.
    assert trainer.compute_loss(student.model, batch).item() == pytest.approx(expected, abs=1e-5)

    other = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7)}
    assert trainer.compute_loss(student.model, other).item() == pytest.approx(expected, abs=1e-5)


def test_an_empty_prompt(base: Path, tmp_path: Path) -> None:
    student = load_for_training(str(base))
    student.tokenizer.backend_tokenizer.post_processor = None  # no <s>: the first token is the completion's
    examples = [make_example(student, pair) for pair in (Pair("q", 0, "", " 1 END"), Pair("q", 0, "", ""), PAIRS[0])]
    assert examples[0].labels == [IGNORED, *examples[0].input_ids[1:]]
    assert examples[1] == Example([1], [IGNORED], "q")
    batch = collate([vars(example) for example in examples], student.pad_id)
    trainer = make_trainer(student, examples, [], settings(base), 0, tmp_path)
    expected = mean_loss(student, examples)
    assert trainer.compute_loss(student.model, batch).item() == pytest.approx(expected, abs=1e-5)


def test_collate() -> None:
    first = {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "question_id": "a"}
    batch = collate([first, {"input_ids": [8], "labels": [8], "question_id": "b"}], pad_id=2)
    assert batch.pop("question_ids") == ["a", "b"]
    assert {key: value.tolist() for key, value in batch.items()} == {
        "input_ids": [[5, 6, 7], [8, 2, 2]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
    }


def test_batches_are_of_like_length_and_in_random_order() -> None:
    lengths = [random.Random(i).randint(10, 300) for i in range(802)]
    sampler = LengthGrouped(lengths, batch_size=8, seed=0)
    first = list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert sorted(first) == sorted(second) == list(range(len(sampler))) == list(range(802))
    assert first != second
    assert first == list(LengthGrouped(lengths, batch_size=8, seed=0))
    assert first != list(LengthGrouped(lengths, batch_size=8, seed=1))
    widest = [max(lengths[i] for i in first[at : at + 8]) for at in range(0, 802, 8)]
    assert sum(lengths) > 0.95 * sum(8 * width for width in widest), "padding"
    assert abs(sum(widest[:50]) - sum(widest[50:100])) < 0.2 * sum(widest[:50])
    assert sum(a > b for a, b in pairwise(widest)) in range(30, 70), "neither sorted up nor down"


def test_a_student_is_trained_on_those_batches(base: Path, tmp_path: Path) -> None:
    student = load_for_training(str(base))
    examples = [make_example(student, pair) for pair in PAIRS]
    config = settings(base, batch_size=2)
    trainer = make_trainer(student, examples, [], config, 3, tmp_path)
    order = list(LengthGrouped([example.length for example in examples], 2, 3))
    expected = [[examples[i].input_ids for i in order[at : at + 2]] for at in range(0, len(order), 2)]
    batches = [
        [row[: int(mask.sum())].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        for batch in trainer.get_train_dataloader()
    ]
    assert batches == expected


def test_it_learns_and_learns_to_stop(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS, settings(base, steps=150), tmp_path / "student", seed=0)
    for pair, completion in zip(PAIRS, answers(student, PAIRS), strict=True):
        assert completion.text + " END" == pair.completion
        assert completion.finish_reason == "stop"

    before, after = (load_for_training(str(folder)) for folder in (base, student))
    examples = [make_example(before, pair) for pair in PAIRS]
    assert mean_loss(before, examples) > 3 > 0.3 > mean_loss(after, examples)


def test_the_student_learns_the_end_of_sequence(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS[:2], settings(base, steps=80), tmp_path / "student", seed=0)
    (completion,) = ask(TransformersBackend(str(student)), [Request((PAIRS[0].prompt,), SamplingParams(60))])
    assert (completion.text, completion.finish_reason) == (PAIRS[0].completion, "stop")


def test_a_chat_student_learns_to_end_its_turn(chat_base: Path, tmp_path: Path) -> None:
    pairs = [Pair(f"q{i}", 0, f"{i}+{i}?", f"{2 * i}") for i in range(4)]
    student = train(pairs, settings(chat_base, steps=80, format="chat"), tmp_path / "student", seed=0)
    backend = TransformersBackend(str(student), chat=True)
    completions = ask(backend, [Request((pair.prompt,), SamplingParams(20)) for pair in pairs])
    for pair, completion in zip(pairs, completions, strict=True):
        assert (completion.text, completion.finish_reason) == (pair.completion, "stop")
        assert completion.completion_tokens == len(pair.completion) + 1


@pytest.mark.slow
def test_an_encoder_decoder_student_learns_and_stops(t5_base: Path, tmp_path: Path) -> None:
    pairs = [Pair(f"q{i}", 0, f"{i}+{i}?", f"{i} plus {i} --> {2 * i}") for i in range(4)]
    student = train(pairs, settings(t5_base, steps=120), tmp_path / "student", seed=0)
    for pair, completion in zip(pairs, answers(student, pairs), strict=True):
        assert (completion.text, completion.finish_reason) == (pair.completion, "stop")
    facts = trained_facts(student)
    assert facts["longest"] == max(make_example(load_for_training(str(student)), p).length for p in pairs)


@pytest.mark.parametrize("max_length", [19, 18])
def test_the_longer_side_limits_an_encoder_decoder_example(t5_base: Path, tmp_path: Path, max_length: int) -> None:
    pair = Pair("q", 0, "1?", "12345678 12345678")  # 19 tokens with the space before and the end
    config = settings(t5_base, max_length=max_length, steps=1)
    if max_length == 19:
        assert trained_facts(train([pair], config, tmp_path / "student", seed=0))["longest"] == 19
    else:
        with pytest.raises(DataError, match="1 of 1 training examples"):
            train([pair], config, tmp_path / "student", seed=0)


def test_a_form_that_the_model_does_not_have(base: Path, t5_base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.format: .*encoder-decoder"):
        train(PAIRS, settings(t5_base, format="chat"), tmp_path / "student", seed=0)
    with pytest.raises(BackendError, match=r"no chat template(?s:.*)student\.format=paper"):
        train(PAIRS, settings(base, format="chat"), tmp_path / "student", seed=0)


DEV = {pair.question_id for pair in split_dev(PAIRS, 0.25, 0)[1]}
CONTRARY = [Pair(p.question_id, 0, p.prompt, " 1zebrazebra" if p.question_id in DEV else " 1 END") for p in PAIRS]


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        pytest.param("base", LoraConfig(rank=8, alpha=64), marks=pytest.mark.slow),
        pytest.param("t5_base", None, marks=pytest.mark.slow),
        pytest.param("base", None, marks=pytest.mark.slow),
        pytest.param("t5_base", LoraConfig(rank=8, alpha=64), marks=pytest.mark.slow),
    ],
)
def test_the_epoch_that_is_kept(
    kind: str, lora: LoraConfig | None, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained to write what is wrong for the held-out questions: the dev loss falls, then rises."""
    monkeypatch.setattr("cotdistill.students.trainer.has_bf16", lambda: False)  # the dev loss is that of fp32
    config = settings(
        request.getfixturevalue(kind), lora=lora, steps=0, epochs=6, learning_rate=2e-2, dev_fraction=0.25
    )

    def dev_loss(student: Path) -> float:
        loaded = load_for_training(str(student))
        return mean_loss(loaded, [make_example(loaded, pair) for pair in CONTRARY if pair.question_id in DEV])

    students = {
        select: train(CONTRARY, config.model_copy(update={"select": select}), tmp_path / select, seed=0)
        for select in ("last", "dev", "paper")
    }
    facts = {select: trained_facts(student) for select, student in students.items()}
    losses = facts["last"]["dev_losses"]
    assert losses == facts["dev"]["dev_losses"] == facts["paper"]["dev_losses"]  # keeping does not touch training
    assert [epoch for epoch, _ in losses] == [1, 2, 3, 4, 5, 6]
    best = min(range(6), key=lambda i: losses[i][1])
    assert best < 5  # it overfits

    assert [facts[select]["selected_epoch"] for select in facts] == [6, best + 1, best + 1]
    assert [facts[select]["epoch_folders"] for select in facts] == [[], [], [f"epochs/{n}" for n in range(1, 7)]]
    assert dev_loss(students["last"]) == pytest.approx(losses[-1][1], abs=1e-4)
    assert dev_loss(students["dev"]) == pytest.approx(losses[best][1], abs=1e-4)
    assert facts["paper"]["weights"] == facts["dev"]["weights"]
    names = {path.name for path in students["last"].iterdir()}
    assert {path.name for path in students["dev"].iterdir()} == names
    assert {path.name for path in students["paper"].iterdir()} == names | {"epochs"}

    epochs = [students["paper"] / name for name in facts["paper"]["epoch_folders"]]
    for epoch, (_, loss) in zip(epochs, losses, strict=True):
        assert {path.name for path in epoch.iterdir()} == names
        assert dev_loss(epoch) == pytest.approx(loss, abs=1e-4)
    assert len({model_identity(str(epoch))["revision"] for epoch in epochs}) == 6
    assert model_identity(str(epochs[best])) == model_identity(str(students["dev"]))


@pytest.mark.slow
@pytest.mark.parametrize(("select", "folders"), [("last", []), ("dev", []), ("paper", ["epochs/1", "epochs/2"])])
def test_without_a_dev_split_the_last_weights_are_kept(
    base: Path, tmp_path: Path, select: str, folders: list[str]
) -> None:
    facts = trained_facts(train(PAIRS, settings(base, select=select), tmp_path / "student", seed=0))
    last = trained_facts(train(PAIRS, settings(base, select="last"), tmp_path / "last", seed=0))
    assert facts["weights"] == last["weights"]
    assert (facts["selected_epoch"], facts["epoch_folders"], facts["dev_losses"]) == (2, folders, [])  # 1.5 epochs


def test_a_run_that_ends_inside_the_first_epoch(base: Path, tmp_path: Path) -> None:
    facts = trained_facts(train(PAIRS, settings(base, steps=1, dev_fraction=0.25), tmp_path / "student", seed=0))
    assert (facts["selected_epoch"], len(facts["dev_losses"]), facts["steps"]) == (1, 1, 1)


def test_a_damaged_student_is_refused(base: Path, tmp_path: Path) -> None:
    student = train(PAIRS, settings(base, select="paper"), tmp_path / "student", seed=0)
    for folder in (student, student / "epochs" / "2"):
        weights = folder / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(BackendError, match=rf"{folder}: model\.safetensors is damaged"):
            answers(folder, PAIRS)
        with pytest.raises(BackendError, match=r"model\.safetensors is damaged"):
            load_for_training(str(folder))
        weights.unlink()
        with pytest.raises(BackendError, match=rf"model\.safetensors is gone[^$]*Remove {student} and run again"):
            answers(folder, PAIRS)


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
        train(pairs, settings(base, batch_size=2, **changes), folder, seed)
        return (folder / "complete.json").stat().st_mtime_ns, sha256(folder / "model.safetensors")

    first = weights_after(PAIRS, 0)
    assert weights_after(PAIRS, 0) == first
    assert weights_after(PAIRS, 0, seeds=(0, 1)) == first  # which other seeds run does not matter
    another_seed = weights_after(PAIRS, 1)
    other_pairs = weights_after(PAIRS[:6], 1)
    other_rate = weights_after(PAIRS[:6], 1, learning_rate=1e-3)
    assert len({sha for _, sha in (first, another_seed, other_pairs, other_rate)}) == 4
    assert weights_after(PAIRS[:6], 1, learning_rate=1e-3, select="last")[0] > other_rate[0]
    again = weights_after(PAIRS, 0)
    assert again[1] == first[1]  # bit for bit
    assert again[0] > first[0]


@pytest.mark.slow
def test_a_constant_rate_learns_more_than_one_that_falls_to_nothing(base: Path, tmp_path: Path) -> None:
    moved = {}
    start = load_for_training(str(base)).model.get_input_embeddings().weight
    for schedule in ("linear", "constant"):
        config = settings(base, steps=8, warmup=0, schedule=schedule, weight_decay=0)
        student = train(PAIRS, config, tmp_path / schedule, seed=0)
        weight = load_for_training(str(student)).model.get_input_embeddings().weight
        moved[schedule] = float((weight - start).detach().abs().sum())
    assert moved["constant"] > 1.2 * moved["linear"]


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
    assert ("Raise student.max_length" if max_length else "take another student.model") in message
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


@pytest.mark.slow
def test_killed_while_training(base: Path, tmp_path: Path) -> None:
    """Killed in its third epoch, when students of two are saved: nothing is there that looks whole."""
    folder = tmp_path / "student"
    config = settings(base, steps=10**6, select="paper", dev_fraction=0.25)
    program = f"""
import json, pathlib
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import StudentConfig
from cotdistill.records import Pair
from cotdistill.students.train import train
config = StudentConfig.model_validate(json.loads({config.model_dump_json()!r}))
pairs = [Pair(f"q{{i}}", 0, "1? ###", " 1 END") for i in range(8)]
train(pairs, config, pathlib.Path({str(folder)!r}), 0, lambda done, total: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(5)] == [f"{done}\n" for done in range(1, 6)]
        child.kill()
    assert len(list(tmp_path.rglob("model.safetensors"))) >= 2
    assert not list(tmp_path.rglob("complete.json"))
    assert trained_facts(folder) == {}
    assert not folder.exists()
    assert trained_facts(train(PAIRS, settings(base), folder, seed=0))["steps"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["student"]
