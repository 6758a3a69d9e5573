"""A student in training answers the held-out questions, and is the same student."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cotdistill.answers import answer_type
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.config import EvaluateConfig, LoraConfig, StudentConfig
from cotdistill.evaluate import count_right
from cotdistill.methods import METHODS, methods
from cotdistill.models import LoadedModel
from cotdistill.records import Pair, Question
from cotdistill.students.train import split_dev, train, trained_facts

QUESTIONS = [Question(f"q{i}", f"{i}+{i}?", str(2 * i)) for i in range(8)]


def settings(base: Path, **changes: Any) -> StudentConfig:
    values = {"steps": 8, "batch_size": 2, "learning_rate": 1e-2, "dev_fraction": 0.25, "checkpoint_minutes": 0}
    return StudentConfig.model_validate({"model": str(base), **values, **changes})


def of(kind: str, max_tokens: int = 20) -> tuple[list[Pair], Any]:
    """Pairs, two a question, and what answers."""
    method = methods(seq2seq=kind == "t5_base")["fine_tune_cot"]
    assert method.completion
    texts = [(q, i, method.completion(q, f"{'so ' * i}{q.text}")) for q in QUESTIONS for i in range(2)]
    pairs = [Pair(q.id, i, method.prompt(q), text) for q, i, text in texts]
    limit = EvaluateConfig(max_tokens=max_tokens)
    return pairs, partial(count_right, method, QUESTIONS, answer_type("typed", "integer"), limit)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("base", {}),
        pytest.param("base", {"lora": LoraConfig(rank=4, alpha=8, dropout=0.5)}, marks=pytest.mark.slow),
        pytest.param("base", {"packing": True, "select": "paper"}, marks=pytest.mark.slow),
        pytest.param("t5_base", {}, marks=pytest.mark.slow),
    ],
)
def test_it_is_the_student_that_it_would_be_without(
    kind: str, changes: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import torch

    (pairs, answer), states, asked = of(kind), [], []

    def watched(loaded: LoadedModel, ids: Collection[str]) -> tuple[int, int]:
        assert not loaded.model.training
        states.append(torch.get_rng_state())
        found: tuple[int, int] = answer(loaded, ids)
        assert torch.get_rng_state().equal(states[-1])
        asked.append(list(ids))
        return found

    facts = {}
    for on in (True, False):
        config = settings(request.getfixturevalue(kind), dev_accuracy=on, **changes)
        facts[on] = trained_facts(train(pairs, config, tmp_path / str(on), 0, answer=watched))
    assert facts[True]["weights"] == facts[False]["weights"]
    assert facts[True]["fingerprint"] == facts[False]["fingerprint"]
    assert facts[True]["dev_losses"] == facts[False]["dev_losses"]
    dev = sorted({pair.question_id for pair in split_dev(pairs, 0.25, 0)[1]})
    assert asked == [dev, dev], "one answer a question, after each epoch"
    assert [(epoch, n) for epoch, _, n in facts[True]["dev_accuracies"]] == [(1.0, 2), (pytest.approx(8 / 6), 2)]
    assert facts[False]["dev_accuracies"] == []


@pytest.mark.slow
def test_those_that_are_right_are_those_that_the_saved_student_has_right(base: Path, tmp_path: Path) -> None:
    method = METHODS["fine_tune"]
    assert method.completion
    twins = [Question(f"{twin}{i}", f"{i}?", str(i)) for i in range(3) for twin in "abc"]  # learned from each other
    pairs = [Pair(q.id, 0, method.prompt(q), method.completion(q, "")) for q in twins]
    answer = partial(count_right, method, twins, answer_type("typed", "integer"), EvaluateConfig())
    student = train(pairs, settings(base, steps=60, select="last"), tmp_path / "student", 0, answer=answer)
    *_, (_, right, n) = trained_facts(student)["dev_accuracies"]
    held_out = {pair.question_id for pair in split_dev(pairs, 0.25, 0)[1]}
    assert (right, n) == (len(held_out), len(held_out)) == answer(TransformersBackend(str(student)).loaded, held_out)


def test_a_prompt_that_does_not_fit_is_not_counted(base: Path) -> None:
    questions = [Question("a", "1?", "1"), Question("b", "1? " * 90, "1")]
    backend = TransformersBackend(str(base))
    answer = partial(count_right, METHODS["fine_tune"], questions, answer_type("typed", "integer"), EvaluateConfig())
    assert answer(backend.loaded, ["a", "b"])[1] == 1
    assert answer(backend.loaded, ["b"]) == (0, 0)


@pytest.mark.slow
def test_it_is_said_once_an_epoch(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, answer = of("base", max_tokens=150)  # so many that texts repeat themselves and are ended
    train(pairs, settings(base, steps=4), tmp_path / "student", 0, answer=answer)
    _, said = capsys.readouterr().err.splitlines()
    assert said.startswith("student: epoch 0.67: dev loss ")
    assert said.endswith(" of 2 dev questions right")


def test_no_more_than_a_hundred_are_asked(base: Path, tmp_path: Path) -> None:
    pairs = [Pair(f"q{i:03}", 0, "1? ###", " 1 END") for i in range(202)]
    asked: list[Collection[str]] = []

    def count(loaded: LoadedModel, ids: Collection[str]) -> tuple[int, int]:
        asked.append(ids)
        return 0, len(ids)

    train(pairs, settings(base, steps=1, dev_fraction=0.5, batch_size=8), tmp_path / "student", 0, answer=count)
    assert asked == [sorted({pair.question_id for pair in split_dev(pairs, 0.5, 0)[1]})[:100]]


def test_too_little_memory_for_it_leaves_the_training_as_it_is(base: Path, tmp_path: Path) -> None:
    import torch

    calls = []

    def count(loaded: LoadedModel, ids: Collection[str]) -> tuple[int, int]:
        calls.append(ids)
        raise torch.OutOfMemoryError

    facts = trained_facts(train(of("base")[0], settings(base), tmp_path / "student", 0, answer=count))
    assert (facts["steps"], facts["dev_accuracies"], len(facts["dev_losses"]), len(calls)) == (8, [], 2, 1)


class Killed(BaseException):
    """As if by a signal."""


def test_those_before_a_kill_are_kept(base: Path, tmp_path: Path) -> None:
    pairs, _ = of("base")
    config = settings(base, checkpoint_minutes=1e-9)
    counts = iter(range(9))

    def count(loaded: LoadedModel, ids: Collection[str]) -> tuple[int, int]:
        return next(counts), 9

    def watch(done: int, total: int) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        train(pairs, config, tmp_path / "student", 0, watch, answer=count)
    facts = trained_facts(train(pairs, config, tmp_path / "student", 0, answer=count))
    assert facts["dev_accuracies"] == [[1.0, 0, 9], [pytest.approx(8 / 6), 1, 9]]
