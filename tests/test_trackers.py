"""Trackers hear of a training, and what they write stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotdistill.config import StudentConfig
from cotdistill.errors import BackendError
from cotdistill.records import Pair
from cotdistill.students.train import train, trained_facts
from tiny import tiny_model


@pytest.mark.slow
def test_tensorboard_has_losses_and_accuracies_beside_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", exc_type=ImportError)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    pairs = [Pair(f"q{i}", 0, f"{i}? ###", f" {i} END") for i in range(8)]
    config = StudentConfig.model_validate(
        {"model": str(tiny_model(tmp_path / "base")), "steps": 12, "batch_size": 2, "dev_fraction": 0.25}
        | {"report_to": ["tensorboard"], "checkpoint_minutes": 0}
    )

    def curves(name: str) -> dict[str, list[float]]:
        events = EventAccumulator(str(tmp_path / "student" / "logs" / name)).Reload()
        return {tag: [point.value for point in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    for name, steps in (("a", 12), ("b", 12), ("a", 6)):  # another of a name takes the place of the one before
        changed = config.model_copy(update={"steps": steps})
        facts = trained_facts(
            train(pairs, changed, tmp_path / "student" / name, 0, answer=lambda loaded, ids: (1, len(ids)))
        )
        found = curves(name)
        assert found["eval/loss"] == pytest.approx([loss for _, loss in facts["dev_losses"]])
        assert found["eval/accuracy"] == [0.5] * (steps // 3)
        assert len(found.get("train/loss", [])) == steps // 10
    assert len(curves("b")["eval/loss"]) == 4
    assert sorted(path.name for path in (tmp_path / "student").iterdir()) == ["a", "b", "logs"]
    assert not list(Path().iterdir())

    with pytest.raises(BackendError):  # of a training that failed, they tell why
        train(pairs, config.model_copy(update={"learning_rate": 3.0, "warmup": 0.0}), tmp_path / "student" / "c", 0)
    assert (tmp_path / "student" / "logs" / "c").is_dir()
