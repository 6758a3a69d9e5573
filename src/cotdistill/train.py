"""Fine-tune a student on pairs; the loss is on the completion alone, its end included.

    folder = train(pairs, config.student, folder, seed=0)

transformers' `Trainer` on our own `input_ids` and `labels`. Pairs are the paper's prompt-completion
pairs (section 3), tokenised here once and for all: prompt, completion, end of sequence.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import BackendError, DataError, missing_extra
from cotdistill.models import (
    COMPLETE,
    encode_prompt,
    folder_when_whole,
    has_bf16,
    import_training,
    load_for_training,
    mark_complete,
    model_identity,
)
from cotdistill.records import Pair
from cotdistill.store import canonical

if TYPE_CHECKING:
    import torch

IGNORED = -100  # PyTorch's label for "no loss here"


@dataclass(frozen=True)
class Example:
    """A tokenised pair; `labels` equal `input_ids` on the completion and are IGNORED on the prompt."""

    input_ids: list[int]
    labels: list[int]


def train(
    pairs: Sequence[Pair],
    config: StudentConfig,
    folder: Path,
    seed: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Path:
    """Fine-tune `config.model` on `pairs`; returns `folder`, whole, or as it was if it is this very student.

    Raises `DataError` if there is nothing to train on or an example is too long, and `BackendError`
    if the loss stops being a number.
    """
    if not pairs:
        raise DataError(
            f"{folder.name}: there is no pair to train on. See ledger.json for why generations were dropped."
        )
    print_of = fingerprint(pairs, config, seed)
    if trained_facts(folder).get("fingerprint") == print_of:
        return folder
    _, _, transformers = import_training()
    transformers.set_seed(seed)
    model, tokenizer = load_for_training(config.model)
    limit = min(config.max_length or math.inf, getattr(model.config, "max_position_embeddings", math.inf))
    tokenised = {pair: make_example(tokenizer, pair) for pair in pairs}
    fitting = _fitting(pairs, tokenised, limit, config.over_long)
    examples, dev_examples = ([tokenised[p] for p in side] for side in split_dev(fitting, config.dev_fraction, seed))

    started = time.monotonic()
    with folder_when_whole(folder) as beside:
        trainer = _trainer(model, tokenizer, examples, dev_examples, config, seed, beside, progress)
        trainer.train()
        facts = {
            "fingerprint": print_of,
            "base": model_identity(config.model),
            "seed": seed,
            "pairs": len(pairs),
            "examples": len(examples),
            "over_long_dropped": len(pairs) - len(fitting),
            "longest": max(len(e.input_ids) for e in examples),
            "steps": trainer.state.global_step,
            "epochs": trainer.state.epoch,
            "seconds": round(time.monotonic() - started, 1),
            "dev_losses": [(log["epoch"], log["eval_loss"]) for log in trainer.state.log_history if "eval_loss" in log],
        }
        model = trainer.accelerator.unwrap_model(trainer.model)
        if config.lora:
            model = model.merge_and_unload()
        model.save_pretrained(beside)
        tokenizer.save_pretrained(beside)
        mark_complete(beside, facts)
    del trainer, model
    gc.collect()
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


def make_example(tokenizer: Any, pair: Pair) -> Example:
    """Tokenise a pair; the prompt by the function that inference uses, so its ids are the same there."""
    prompt = encode_prompt(tokenizer, pair.prompt)
    completion = [*tokenizer.encode(pair.completion, add_special_tokens=False), tokenizer.eos_token_id]
    return Example(prompt + completion, [IGNORED] * len(prompt) + completion)


def split_dev(pairs: Sequence[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Hold out that fraction of the *questions*: two rationales of one question stay on one side."""
    questions = sorted({pair.question_id for pair in pairs})
    held_out = set(Random(seed).sample(questions, int(fraction * len(questions))))
    train_pairs = [pair for pair in pairs if pair.question_id not in held_out]
    return train_pairs, [pair for pair in pairs if pair.question_id in held_out]


def _fitting(pairs: Sequence[Pair], tokenised: Mapping[Pair, Example], limit: float, over_long: str) -> list[Pair]:
    lengths = [len(tokenised[pair].input_ids) for pair in pairs]
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


def collate(examples: Sequence[Mapping[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad a batch on the right; returns input_ids, attention_mask and labels, each (batch, longest)."""
    import torch

    width = max(len(example["input_ids"]) for example in examples)

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": padded(ids, pad_id),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([example["labels"] for example in examples], IGNORED),
    }


def _trainer(
    model: Any,
    tokenizer: Any,
    examples: list[Example],
    dev_examples: list[Example],
    config: StudentConfig,
    seed: int,
    work: Path,
    progress: Callable[[int, int], object],
) -> Any:
    _, torch, transformers = import_training()
    if config.lora:
        model = _with_lora(model, config.lora)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    class Watch(transformers.TrainerCallback):  # type: ignore[misc, name-defined]  # untyped
        """Reports each step, and stops a run whose loss is no longer a number."""

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress(state.global_step, state.max_steps)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            # train_loss, the mean over all steps, comes last: a short run logs no other.
            loss = logs.get("loss", logs.get("train_loss", 0.0))
            if not math.isfinite(loss):
                raise BackendError(
                    f"the training loss became {loss} at step {state.global_step}.\n"
                    "Lower student.learning_rate; nothing of this student was saved."
                )

    class CompletionTrainer(transformers.Trainer):  # type: ignore[misc, name-defined]  # untyped
        """Computes logits from the first completion token on: of a prompt they are never needed."""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"]
            first = int((labels != IGNORED).int().argmax(-1).min())
            outputs = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                logits_to_keep=labels.shape[1] - first + 1,
            )
            targets = labels[:, first:].flatten()
            loss = torch.nn.functional.cross_entropy(
                outputs.logits[:, :-1].flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum"
            )
            loss = loss / (num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum())
            return (loss, outputs) if return_outputs else loss

    steps = config.steps or math.ceil(len(examples) / config.batch_size) * config.epochs
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        train_sampling_strategy="group_by_length",
        bf16=has_bf16(),
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if dev_examples else "no",
        save_strategy="no",
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide what Watch looks for
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=[asdict(example) for example in examples],
        eval_dataset=[asdict(example) for example in dev_examples] or None,
        data_collator=lambda batch: collate(batch, pad),
        callbacks=[Watch()],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _with_lora(model: Any, config: LoraConfig) -> Any:
    try:
        import peft
    except ImportError:
        raise missing_extra("peft", "train") from None
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, adapters)
