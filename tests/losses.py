"""The loss by hand, to compare the Trainer's with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cotdistill.models import LoadedModel
from cotdistill.students.examples import IGNORED, Example


def completion_loss(student: LoadedModel, example: Example, model: Any) -> tuple[float, int]:
    """The summed loss of an example's completion by hand, alone and without padding, and its tokens."""
    import torch

    places = [i for i, label in enumerate(example.labels) if label != IGNORED]
    targets = [example.labels[i] for i in places]
    inputs = {"input_ids": torch.tensor([example.input_ids], device=model.device)}
    if student.seq2seq:
        start = student.model.config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.tensor([[start, *targets[:-1]]], device=model.device)
    else:
        places = [i - 1 for i in places]
    with torch.no_grad():
        log_probabilities = model(**inputs).logits[0].log_softmax(-1)
    return -sum(log_probabilities[i, t].item() for i, t in zip(places, targets, strict=True)), len(targets)


def mean_loss(student: LoadedModel, examples: Sequence[Example], model: Any = None) -> float:
    """Over the completion tokens of all; of `model`, where it is not the student's own."""
    model = student.model if model is None else model.eval()
    alone = [completion_loss(student, example, model) for example in examples]
    return sum(loss for loss, _ in alone) / sum(tokens for _, tokens in alone)
