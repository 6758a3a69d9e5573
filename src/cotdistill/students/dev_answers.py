"""A student in training answers the held-out questions, after the dev loss of each epoch.

Imports torch and transformers: to be imported after `import_training`, which says how to install them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import transformers
from torch import OutOfMemoryError

from cotdistill import ranks
from cotdistill.models import LoadedModel
from cotdistill.progress import say
from cotdistill.students.examples import Example

MOST = 100  # questions: more would cost more than they tell while it trains
Answer = Callable[[LoadedModel, Collection[str]], tuple[int, int]]


class DevAnswers(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Logs how many the student has right by `answer`: "eval_accuracy" of "eval_n". `name` is the student's.

    The first process asks and the others wait, which have no `answer`. Nothing that training goes on with is changed.
    """

    trainer: Any  # set by make_trainer

    def __init__(self, answer: Answer | None, student: LoadedModel, dev: Sequence[Example], name: str) -> None:
        self.answer = answer
        self.student = student
        self.ids = sorted({example.question_id for example in dev})[:MOST]
        self.name = name

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        trainer = self.trainer
        if trainer.is_fsdp_enabled:  # no process has the whole student
            return
        right, n = ranks.shared(self._count())
        if n:
            say(
                f"{self.name}: epoch {round(state.epoch, 2):g}: dev loss {metrics['eval_loss']:.3f}, "
                f"{right} of {n} dev questions right"
            )
            trainer.log({"eval_accuracy": right / n, "eval_n": n})

    def _count(self) -> tuple[int, int]:
        if self.answer is None:
            return 0, 0
        model = self.trainer.model  # in eval mode since its dev loss
        if hasattr(model, "get_base_model"):  # refill.py does not know adapters' wrapper; they are in the layers too
            model = model.get_base_model()
        try:
            with self.trainer.accelerator.autocast():
                return self.answer(replace(self.student, model=model), self.ids)
        except OutOfMemoryError:  # the training has room: it shall not be done with fewer examples at once for this
            self.answer = None
            say(f"warning: {self.name}: memory ran out over the dev questions; they are not asked again.")
            return 0, 0


def dev_accuracies(history: Sequence[dict[str, Any]]) -> list[tuple[float, int, int]]:
    """(epoch, right, n) of each epoch, from a trainer's log."""
    return [
        (log["epoch"], round(log["eval_accuracy"] * log["eval_n"]), int(log["eval_n"]))
        for log in history
        if "eval_accuracy" in log
    ]
