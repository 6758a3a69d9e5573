"""What `train` trains with: transformers' `Trainer` with our loss, and the weights that are kept.

Imports torch and transformers: to be imported after `import_training`, which says how to install them.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from cotdistill import ranks
from cotdistill.config import LoraConfig, StudentConfig
from cotdistill.errors import BackendError, ConfigError, missing_extra
from cotdistill.four_bit import merged
from cotdistill.models import LoadedModel, folder_when_whole, has_bf16
from cotdistill.progress import say
from cotdistill.students.checkpoints import log_folder, seal
from cotdistill.students.examples import BLANK, IGNORED, Example, LengthGrouped, collate, pack

if TYPE_CHECKING:
    from cotdistill.students.kd import SoftTargets

SHOWN = 8  # question ids of a batch
# Tokens whose whole distributions are there at once, in fp32: on a GPU as many as keep it busy.
ROWS = {"cpu": 256, "cuda": 2048}
# On a CPU, tokens x width x layers that keep for the backward pass what they computed; other layers compute it again
# then. More is faster, and takes gigabytes.
KEPT = 3_000_000
# On a CPU PyTorch's fused attention is slower than the plain one for shorter texts: its backward pass is.
EAGER = 256  # tokens


def read_completions(model: Any, bare: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """A model's outputs for a batch of `collate` or `pack`, and their logits beside the labels they are to give.

    `bare` is the model itself where `model` is wrapped.
    """
    labels, ids = batch["labels"], batch["input_ids"]
    if bare.config.is_encoder_decoder:
        written = bare.prepare_decoder_input_ids_from_labels(labels)
        mask = batch["attention_mask"]
        outputs = model(input_ids=ids, attention_mask=mask, decoder_input_ids=written, use_cache=False)
        return outputs, outputs.logits, labels
    # Logits where some completion goes on: of a prompt they are never needed. No attention mask: what is padded
    # stands on the right, where nothing that counts looks.
    targets = labels[:, 1:]
    columns = (targets != IGNORED).any(0).nonzero().flatten()
    outputs = model(input_ids=ids, position_ids=batch.get("position_ids"), logits_to_keep=columns, use_cache=False)
    return outputs, outputs.logits, targets[:, columns]


def rows_at_once(tensor: Any) -> int:
    """How many tokens' distributions, where `tensor` is."""
    return ROWS.get(tensor.device.type, ROWS["cpu"])


def summed_loss(logits: Any, targets: Any) -> Any:
    """The cross-entropy of `logits` (tokens, vocabulary) and `targets` (tokens), summed over those not IGNORED.

    In fp32 some ROWS at a time, and once more for their gradient: all at once would take the most memory of a step.
    """

    def of(rows: Any, labels: Any) -> Any:
        return cross_entropy(rows.float(), labels, ignore_index=IGNORED, reduction="sum")

    split = zip(logits.split(rows_at_once(logits)), targets.split(rows_at_once(logits)), strict=True)
    losses = [checkpoint(of, *some, use_reentrant=False, preserve_rng_state=False) for some in split]
    return torch.stack(losses).sum()


class CompletionTrainer(transformers.Trainer):  # type: ignore[misc]  # untyped
    """Its loss is the mean over the labels of a step that are not IGNORED; its batches are LengthGrouped.

    With `soft` targets, what they add is learned too, and is no part of the dev loss. Raises `BackendError` at a loss
    that is no number, or twice that of a guess among all tokens: nothing is learned from then on.
    """

    def __init__(self, soft: SoftTargets | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.soft = soft
        # Our loss counts the labels of all micro-batches of a step, whatever the model's own does.
        self.model_accepts_loss_kwargs = True
        self.add_callback(Epochs(self))
        guess = math.log(self.model.get_input_embeddings().weight.shape[0])
        self.most_loss = 2 * guess * (1 + (soft.weight if soft else 0))  # a guess is at most so far from any teacher
        self.attention = self.model.config._attn_implementation
        spared = self.args.use_cpu and self.args.world_size == 1
        self.layers = [m for m in self.model.modules() if spared and isinstance(m, GradientCheckpointingLayer)]
        for layer in self.layers:
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        lengths = [Example(**example).length for example in self.train_dataset]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        several = self.args.world_size > 1  # then the last example is BLANK
        self.sampler = LengthGrouped(lengths[: len(lengths) - several], size, self.args.data_seed, fill=several)
        return self.sampler

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        self._keep_what_fits(max(inputs["input_ids"].numel(), inputs["labels"].numel()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not loss.item() <= self.most_loss:  # NaN is not
            ids = inputs["question_ids"]
            raise BackendError(
                f"the training loss became {loss.item():.4g} at step {self.state.global_step + 1}, with the questions "
                f"{', '.join(ids[:SHOWN])}{' ...' if len(ids) > SHOWN else ''}.\n"
                "Lower student.learning_rate, or look at these pairs; nothing of this student was saved."
            )
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self._attend_fast(inputs["input_ids"].shape[1])
        outputs, logits, targets = read_completions(model, self.model, inputs)
        loss = summed_loss(logits.flatten(0, 1), targets.flatten())
        if self.soft and model.training:
            loss = loss + self.soft.loss(logits, targets, inputs)
        if num_items_in_batch is None:
            loss = loss / (targets != IGNORED).sum()
        else:  # of all processes, whose gradients are averaged
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The dev loss: the mean over the completion tokens of all dev examples, however they are batched."""
        examples = sorted(self.eval_dataset, key=lambda example: len(example["labels"]))
        size, at, of = self.args.eval_batch_size, self.accelerator.process_index, self.accelerator.num_processes
        batches = [examples[i : i + size] for i in range(0, len(examples), size)]
        batches += [[vars(BLANK)]] * (-len(batches) % of)  # as many for each process
        total = torch.zeros(2, dtype=torch.float64)
        model = self.model_wrapped if self.is_fsdp_enabled else self.model
        model.eval()
        with torch.no_grad():
            for batch in batches[at::of]:
                inputs = self._prepare_inputs(self.data_collator(batch))
                loss = self.compute_loss(model, inputs, num_items_in_batch=of)
                total += torch.tensor([loss.item(), int((inputs["labels"] != IGNORED).sum())])
        loss, tokens = self.accelerator.reduce(total.to(self.args.device)).tolist()
        self.log(metrics := {"eval_loss": loss / tokens})
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _keep_what_fits(self, tokens: int) -> None:
        """Have only the last layers, whose backward pass comes first, keep what they compute for so many `tokens`."""
        again = len(self.layers) - KEPT // (tokens * self.model.config.get_text_config().hidden_size)
        for number, layer in enumerate(self.layers):
            layer.gradient_checkpointing = number < again

    def _attend_fast(self, width: int) -> None:
        """Choose the attention for texts of `width` tokens; answers to dev questions may have set another."""
        if self.model.config.is_encoder_decoder:
            return
        wanted = "eager" if self.args.use_cpu and self.attention == "sdpa" and width <= EAGER else self.attention
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)


class Epochs(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Tells the sampler which epoch begins; accelerate does not, of one that is gone on with."""

    def __init__(self, trainer: CompletionTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.sampler.epoch = int(state.epoch)


class Watch(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Reports each step, and has a checkpoint made every so many `minutes`; 0: none.

    `seconds` is how long the training went on before, if it goes on from a checkpoint.
    """

    def __init__(self, progress: Callable[[int, int], object], minutes: float = 0, seconds: float = 0) -> None:
        self.progress = progress
        self.minutes = minutes
        self.saved_at = time.monotonic()
        self.started_at = self.saved_at - seconds

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self.started_at, 1)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self.progress(state.global_step, state.max_steps)
        # An epoch's own is made after its dev loss: one from before would go on without that.
        if state.epoch != int(state.epoch) and state.global_step < state.max_steps:
            self._save_in_time(control, model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        if state.global_step < state.max_steps:
            self._save_in_time(control, model)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved_at = time.monotonic()
        ranks.meet()  # each process writes its random state
        if ranks.first():
            seal(Path(args.output_dir) / f"checkpoint-{state.global_step}", {"seconds": self.seconds})

    def _save_in_time(self, control: Any, model: Any) -> None:
        if self.minutes and ranks.shared(time.monotonic() - self.saved_at >= 60 * self.minutes):
            refuse_infinite(model)
            control.should_save = True


class Keep(transformers.TrainerCallback):  # type: ignore[misc]  # untyped
    """Saves the student to `folder`: the epoch with the lowest dev loss, or the last; see StudentConfig.

    Afterwards `epoch` is the one, from 1, and `epoch_folders` hold every epoch's student, of "paper" only.
    """

    trainer: CompletionTrainer  # set by make_trainer

    def __init__(self, config: StudentConfig, folder: Path, tokenizer: Any) -> None:
        self.select = config.select
        self.patience = config.patience
        self.folder = folder
        self.tokenizer = tokenizer
        self.epoch = 0
        self.lowest = math.inf
        self.epoch_folders: list[str] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """As it was when the checkpoint was made that training goes on from."""
        for log in state.log_history:
            if self.select != "last" and log.get("eval_loss", math.inf) < self.lowest:
                self.lowest, self.epoch = log["eval_loss"], math.ceil(log["epoch"])
        if self.select == "paper":
            self.epoch_folders = [f"epochs/{n}" for n in range(1, int(state.epoch) + 1)]

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.select == "paper":
            self.epoch_folders.append(f"epochs/{math.ceil(state.epoch)}")
            self._save(self.folder / self.epoch_folders[-1])

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if self.select == "last":
            return
        if metrics["eval_loss"] < self.lowest:
            self.lowest, self.epoch = metrics["eval_loss"], math.ceil(state.epoch)
            if self.select == "dev":
                self._save(self.folder)
        elif 0 < self.patience <= math.ceil(state.epoch) - self.epoch:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.select == "paper":
            self.epoch = self.epoch or len(self.epoch_folders)
            if ranks.first():
                shutil.copytree(self.folder / self.epoch_folders[self.epoch - 1], self.folder, dirs_exist_ok=True)
        elif not self.epoch:  # no dev loss was to decide
            self.epoch = math.ceil(state.epoch)
            self._save(self.folder)

    def _save(self, folder: Path) -> None:
        trainer = self.trainer
        whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
        if ranks.first():
            save_whole(trainer.model, self.tokenizer, folder, whole)
        ranks.meet()


def refuse_infinite(model: Any) -> None:
    """Raise `BackendError` if a weight is no number: such a model is never written."""
    if not all(bool(weights.isfinite().all()) for weights in model.parameters()):
        raise BackendError(
            "a weight of the student is no longer a number.\nLower student.learning_rate; this state was not saved."
        )


def save_whole(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Save a model and its tokenizer in place of what is there, adapters merged; the model itself can train on.

    `weights` are the whole ones of a model of which each process has a part.
    """
    refuse_infinite(model)
    if getattr(model, "is_loaded_in_4bit", False):
        model, weights = merged(model)
    elif hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model.base_model).merge_and_unload()
    with folder_when_whole(folder) as beside:
        model.save_pretrained(beside, state_dict=weights)
        tokenizer.save_pretrained(beside)


def make_trainer(
    student: LoadedModel,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    config: StudentConfig,
    seed: int,
    work: Path,
    callbacks: Sequence[Any] = (),
    soft: SoftTargets | None = None,
) -> CompletionTrainer:
    """A `Trainer` of `student` as `config` says, with checkpoints in `work`."""
    on_gpu = torch.cuda.is_available()
    share = config.batch_size // ranks.processes()
    at_once = min(config.micro_batch_size or share, share)
    at_once = next(size for size in range(at_once, 0, -1) if share % size == 0)
    steps = config.steps or math.ceil(len(examples) / config.batch_size) * config.epochs
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        max_steps=config.steps or -1,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"linear": "linear", "constant": "constant_with_warmup"}[config.schedule],
        warmup_steps=int(config.warmup * steps),
        weight_decay=config.weight_decay,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=share // at_once,
        per_device_eval_batch_size=at_once,
        bf16=has_bf16(),
        torch_compile=config.compile,
        seed=seed,
        data_seed=seed,
        eval_strategy="epoch" if dev_examples else "no",
        save_strategy="no",  # Watch says when
        save_total_limit=2,
        logging_steps=10,
        logging_nan_inf_filter=False,  # what it would hide is an error here
        report_to=list(config.report_to),
        run_name=str(work.with_suffix("")),  # for trackers that have the students of all runs in one place
        disable_tqdm=True,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
    )
    model = _with_lora(student, config.lora) if config.lora else student.model
    lay = pack if config.packing else partial(collate, pad_id=student.pad_id)
    blank = [BLANK] if ranks.processes() > 1 else []
    try:
        trainer = CompletionTrainer(
            model=model,
            args=arguments,
            train_dataset=[asdict(example) for example in [*examples, *blank]],
            eval_dataset=[asdict(example) for example in dev_examples] or None,
            data_collator=lambda batch: lay(batch) | (soft.rows(batch) if soft else {}),
            callbacks=list(callbacks),
            soft=soft,
        )
    except (ValueError, RuntimeError) as error:  # a tracker that it does not know, or that is not installed
        if not config.report_to:
            raise
        raise ConfigError(f"student.report_to: {error}") from None
    if trainer.is_fsdp_enabled and (config.lora or trainer.accelerator.state.fsdp_plugin.fsdp_version == 1):
        raise ConfigError("FSDP: it is for full fine-tuning, and in its version 2 (fsdp_version: 2). Else use DDP.")
    if not trainer.is_fsdp_enabled and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        say("warning: accelerate has FSDP on GPUs only: each process holds the whole student (DDP).")
    trainer.remove_callback(transformers.PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if getattr(callback, "logging_dir", "") is None:  # TensorBoard's would be in `work`, which goes at the end
            callback.logging_dir = str(log_folder(work))
    for callback in callbacks:
        callback.trainer = trainer
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
        fan_in_fan_out=any(isinstance(m, transformers.pytorch_utils.Conv1D) for m in student.model.modules()),  # GPT-2
    )
    if config.four_bit:  # what is not in 4 bits goes to fp32, as without; micro_batch_size is what saves memory
        peft.prepare_model_for_kbit_training(student.model, use_gradient_checkpointing=False)
    return peft.get_peft_model(student.model, adapters)
