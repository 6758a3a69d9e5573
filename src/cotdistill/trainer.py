"""What `train` trains with: tokenised examples, transformers' `Trainer` with our loss, and the weights that are kept.

Imports torch and transformers: to be imported after `import_training`, which says how to install them.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch.nn.functional import cross_entropy

from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import BackendError, missing_extra
from cotdistill.models import LoadedModel, chat_text, encode_turns, has_bf16
from cotdistill.records import Pair

IGNORED = -100  # PyTorch's label for "no loss here"
GROUP = 50  # batches whose examples are sorted by length together

T = TypeVar("T")


@dataclass(frozen=True)
class Example:
    """A tokenised pair.

    For a causal student `input_ids` are prompt and completion, and `labels` are IGNORED on the prompt; an
    encoder-decoder one reads the prompt as `input_ids` and learns to write the completion, the `labels`.
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def length(self) -> int:
        return max(len(self.input_ids), len(self.labels))


def make_example(student: LoadedModel, pair: Pair, chat: bool = False) -> Example:
    """Tokenise a pair; the prompt by the function that inference uses, so its ids are the same there."""
    tokenizer = student.tokenizer
    prompt = encode_turns(tokenizer, (pair.prompt,), chat)
    text = assistant_turn(tokenizer, pair) if chat else pair.completion
    completion = list(tokenizer.encode(text, add_special_tokens=student.seq2seq))
    if not completion or completion[-1] not in student.eos_ids:
        completion.append(tokenizer.eos_token_id)
    if student.seq2seq:
        return Example(prompt, completion)
    ids = prompt + completion
    start = max(1, len(prompt))  # nothing predicts a first token
    return Example(ids, [IGNORED] * start + ids[start:])


def assistant_turn(tokenizer: Any, pair: Pair) -> str:
    """What the chat template puts after the prompt: the completion and what ends the turn."""
    before = chat_text(tokenizer, (pair.prompt,))
    whole = chat_text(tokenizer, (pair.prompt, pair.completion))
    # Most templates go on with a newline, which the model is never to write.
    return whole.removeprefix(before).rstrip() if whole.startswith(before) else pair.completion


def collate(examples: Sequence[Mapping[str, list[int]]], pad_id: int) -> dict[str, torch.Tensor]:
    """Pad a batch on the right; returns input_ids, attention_mask and labels, each (batch, its longest)."""

    def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
        width = max(map(len, rows))
        return torch.tensor([row + [fill] * (width - len(row)) for row in rows])

    ids = [example["input_ids"] for example in examples]
    return {
        "input_ids": padded(ids, pad_id),
        "attention_mask": padded([[1] * len(row) for row in ids], 0),
        "labels": padded([example["labels"] for example in examples], IGNORED),
    }


class LengthGrouped(torch.utils.data.Sampler[int]):
    """Indices that fall into batches of like length, in random order; each pass draws another.

    transformers' own sampler leaves the batches sorted: the last steps of a short training see short examples only.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        order = self._permuted(range(len(self)))
        size = GROUP * self.batch_size
        groups = [sorted(order[i : i + size], key=self.lengths.__getitem__) for i in range(0, len(order), size)]
        batches = [group[i : i + self.batch_size] for group in groups for i in range(0, len(group), self.batch_size)]
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]  # before others, it would shift them
        return (i for batch in [*self._permuted(whole), *rest] for i in batch)

    def _permuted(self, values: Sequence[T]) -> list[T]:
        return [values[i] for i in torch.randperm(len(values), generator=self.generator)]


class CompletionTrainer(transformers.Trainer):  # type: ignore[misc]  # untyped
    """Its loss is the mean over the labels of a batch that are not IGNORED; its batches are LengthGrouped."""

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        lengths = [Example(**example).length for example in self.train_dataset]
        return LengthGrouped(lengths, self.args.train_batch_size, self.args.data_seed)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"]
        read = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
        if self.model.config.is_encoder_decoder:
            outputs = model(**read, decoder_input_ids=self.model.prepare_decoder_input_ids_from_labels(labels))
            logits, targets = outputs.logits, labels
        else:
            # Logits from the first completion token on: of a prompt they are never needed.
            first = max(1, int((labels != IGNORED).int().argmax(-1).min()))
            outputs = model(**read, logits_to_keep=labels.shape[1] - first + 1)
            logits, targets = outputs.logits[:, :-1], labels[:, first:]
        loss = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = loss / (num_items_in_batch if num_items_in_batch is not None else (targets != IGNORED).sum())
        return (loss, outputs) if return_outputs else loss


class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Reports each step, and stops a run whose loss is no longer a number."""

    def __init__(self, progress: Callable[[int, int], object]) -> None:
        self.progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        # train_loss, the mean over all steps, comes last: a short run logs no other.
        loss = logs.get("loss", logs.get("train_loss", 0.0))
        if not math.isfinite(loss):
            raise BackendError(
                f"the training loss became {loss} at step {state.global_step}.\n"
                "Lower student.learning_rate; nothing of this student was saved."
            )


class Keep(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Saves the student to `folder`: the epoch with the lowest dev loss, or the last; see StudentConfig.select.

    Afterwards `epoch` is the one, from 1, and `epoch_folders` hold every epoch's student, of "paper" only.
    """

    def __init__(self, select: str, folder: Path, tokenizer: Any) -> None:
        self.select = select
        self.folder = folder
        self.tokenizer = tokenizer
        self.epoch = 0
        self.lowest = math.inf
        self.epoch_folders: list[str] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self.select == "paper":
            self.epoch_folders.append(f"epochs/{math.ceil(state.epoch)}")
            save_whole(model, self.tokenizer, self.folder / self.epoch_folders[-1])

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any, metrics: dict[str, float], **_: Any) -> None:
        if self.select == "last" or not metrics["eval_loss"] < self.lowest:
            return
        self.lowest, self.epoch = metrics["eval_loss"], math.ceil(state.epoch)
        if self.select == "dev":
            save_whole(model, self.tokenizer, self.folder)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if self.select == "paper":
            self.epoch = self.epoch or len(self.epoch_folders)
            shutil.copytree(self.folder / self.epoch_folders[self.epoch - 1], self.folder, dirs_exist_ok=True)
        elif not self.epoch:  # no dev loss was to decide
            self.epoch = math.ceil(state.epoch)
            save_whole(model, self.tokenizer, self.folder)


def save_whole(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model and its tokenizer, LoRA adapters merged; the model itself can train on."""
    if hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model.base_model).merge_and_unload()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_trainer(
    student: LoadedModel,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    config: StudentConfig,
    seed: int,
    work: Path,
    callbacks: Sequence[Any] = (),
) -> CompletionTrainer:
    """A `Trainer` of `student` as `config` says; it writes nothing itself."""
    on_gpu = torch.cuda.is_available()
    steps = config.steps or math.ceil(len(examples) / config.batch_size) * config.epochs
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"linear": "linear", "constant": "constant_with_warmup"}[config.schedule],
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        bf16=has_bf16(),
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if dev_examples else "no",
        save_strategy="no",
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide what Watch looks for
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
    )
    trainer = CompletionTrainer(
        model=_with_lora(student, config.lora) if config.lora else student.model,
        args=arguments,
        train_dataset=[asdict(example) for example in examples],
        eval_dataset=[asdict(example) for example in dev_examples] or None,
        data_collator=lambda batch: collate(batch, student.pad_id),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _with_lora(student: LoadedModel, config: LoraConfig) -> Any:
    try:
        import peft
    except ImportError:
        raise missing_extra("peft", "train") from None
    adapters = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules="all-linear",
        task_type="SEQ_2_SEQ_LM" if student.seq2seq else "CAUSAL_LM",
    )
    return peft.get_peft_model(student.model, adapters)
