"""Fine-tune a student on pairs; the loss is on the completion alone, its end included.

    folder = train(pairs, config.student, folder, seed=0)

Pairs are the paper's prompt-completion pairs (section 3), tokenised once and for all and held out
by question for the dev loss; trainer.py has the loss and the choice of the epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from cotdistill.completions import canonical
from cotdistill.config import StudentConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.models import (
    COMPLETE,
    folder_when_whole,
    free_memory,
    import_training,
    is_seq2seq,
    load_for_training,
    mark_complete,
    model_identity,
)
from cotdistill.records import Pair

if TYPE_CHECKING:
    from cotdistill.trainer import Example


def train(
    pairs: Sequence[Pair],
    config: StudentConfig,
    folder: Path,
    seed: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:
    """Fine-tune `config.model` on `pairs`; returns `folder`, whole, or as it was if it is this very student.

    Raises `DataError` if there is nothing to train on or an example is too long, `ConfigError` if the
    model cannot learn the form, and `BackendError` if it cannot be loaded or its loss stops being a number.
    """
    if not pairs:
        raise DataError(
            f"{folder.name}: there is no pair to train on. See ledger.json for why generations were dropped."
        )
    print_of = fingerprint(pairs, config, seed)
    if trained_facts(folder).get("fingerprint") == print_of:
        return folder
    chat = config.format == "chat"
    if chat and is_seq2seq(config.model):
        raise ConfigError(f"student.format: {config.model!r} is an encoder-decoder model; chat is for causal ones.")
    _, _, transformers = import_training()
    from cotdistill.trainer import Keep, Watch, make_example, make_trainer

    transformers.set_seed(seed)
    student = load_for_training(config.model)
    limit = min(config.max_length or math.inf, getattr(student.model.config, "max_position_embeddings", math.inf))
    tokenised = {pair: make_example(student, pair, chat) for pair in pairs}
    fitting = _fitting(pairs, tokenised, limit, config.over_long)
    examples, dev_examples = ([tokenised[p] for p in side] for side in split_dev(fitting, config.dev_fraction, seed))

    started = time.monotonic()
    with folder_when_whole(folder) as beside:
        keep = Keep(config.select, beside, student.tokenizer)
        trainer = make_trainer(student, examples, dev_examples, config, seed, beside, [Watch(progress), keep])
        trainer.train()
        state, origin = trainer.state, {"base": model_identity(config.model), "seed": seed}
        facts = {
            "fingerprint": print_of,
            **origin,
            "pairs": len(pairs),
            "examples": len(examples),
            "over_long_dropped": len(pairs) - len(fitting),
            "longest": max(e.length for e in examples),
            "steps": state.global_step,
            "epochs": state.epoch,
            "seconds": round(time.monotonic() - started, 1),
            "dev_losses": [(log["epoch"], log["eval_loss"]) for log in state.log_history if "eval_loss" in log],
            "selected_epoch": keep.epoch,
            "epoch_folders": keep.epoch_folders,
        }
        for name in keep.epoch_folders:
            mark_complete(beside / name, {**origin, "student": print_of, "epoch": int(Path(name).name)})
        mark_complete(beside, facts)
    del trainer, student, keep
    free_memory()
    return folder


def fingerprint(pairs: Sequence[Pair], config: StudentConfig, seed: int) -> str:
    """The hash of all that decides a student: pairs, base model, hyperparameters, seed."""
    settings = config.model_dump(mode="json", exclude={"seeds", "model"})
    content = canonical([[asdict(p) for p in pairs], settings, model_identity(config.model), seed])
    return hashlib.sha256(content.encode()).hexdigest()


def trained_facts(folder: Path) -> dict[str, Any]:
    """What training left in a student's folder: steps, seconds, dev losses; empty if it is not whole."""
    try:
        facts: dict[str, Any] = json.loads((folder / COMPLETE).read_text())
    except FileNotFoundError:
        return {}
    return facts


def split_dev(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Hold out that fraction of the *questions*: two rationales of one question stay on one side."""
    questions = sorted({pair.question_id for pair in pairs})
    held_out = set(Random(seed).sample(questions, int(fraction * len(questions))))
    train_pairs = [pair for pair in pairs if pair.question_id not in held_out]
    return train_pairs, [pair for pair in pairs if pair.question_id in held_out]


def _fitting(pairs: Sequence[Pair], tokenised: Mapping[Pair, Example], limit: float, over_long: str) -> list[Pair]:
    lengths = [tokenised[pair].length for pair in pairs]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]
    dropped = len(pairs) - len(fitting)
    if (dropped and over_long == "raise") or not fitting:
        bins = Counter(2 ** math.ceil(math.log2(length)) for length in lengths)
        histogram = ", ".join(f"up to {top}: {bins[top]}" for top in sorted(bins))
        raise DataError(
            f"{dropped} of {len(pairs)} training examples have more than {limit} tokens ({histogram}).\n"
            "A completion is never cut. Raise student.max_length, or leave them out with student.over_long=drop."
        )
    return fitting
