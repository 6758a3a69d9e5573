"""Fine-tune a student on pairs; the loss is on the completion alone, its end included.

    folder = train(pairs, config.student, folder, seed=0)

Pairs are the paper's prompt-completion pairs (section 3), tokenised once and for all and held out
by question for the dev loss; trainer.py has the loss and the choice of the epoch.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from cotdistill import ranks
from cotdistill.completions import canonical
from cotdistill.config import StudentConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.models import (
    COMPLETE,
    LoadedModel,
    folder_when_whole,
    free_memory,
    import_training,
    is_seq2seq,
    load_for_training,
    load_tokenizer,
    mark_complete,
    model_identity,
)
from cotdistill.progress import say
from cotdistill.records import Pair, write_atomic
from cotdistill.students.checkpoints import log_folder, newest_whole

if TYPE_CHECKING:
    from cotdistill.students.dev_answers import Answer
    from cotdistill.students.examples import Example
    from cotdistill.students.kd import SoftTargets


# Settings that change how a student is made, and not what comes of it.
ALL_THE_SAME = (
    *("micro_batch_size", "packing", "attention", "compile"),  # but for rounding
    *("checkpoint_minutes", "report_to", "trust_remote_code", "dev_accuracy"),
)


def train(
    pairs: Sequence[Pair],
    config: StudentConfig,
    folder: Path,
    seed: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
    cache: Path | None = None,
    answer: Answer | None = None,
) -> Path:
    """Fine-tune `config.model` on `pairs`; returns `folder`, whole, or as it was if it is this very student.

    What the teacher of `config.kd` says is kept in `cache`, for other students too; none: in "kd" beside `folder`.
    `answer` says how many of the questions with given ids a model answers right, and of how many; it is asked of
    the held-out ones after each epoch.
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
    refuse_other_kinds(config)
    with _unfinished(folder, print_of) as work:
        job = ranks.shared(Job(pairs, config, seed, work, cache or folder.parent / "kd"))
        origin = {"base": model_identity(config.model), "seed": seed}
        facts = {"fingerprint": print_of, **origin, **_learn(job, progress, answer)}
        for name in facts["epoch_folders"]:
            mark_complete(work / "student" / name, {**origin, "student": print_of, "epoch": int(Path(name).name)})
        mark_complete(work / "student", facts)
    free_memory()
    return folder


class Job(NamedTuple):
    """What is trained: by the process that does the run, and by those that help it."""

    pairs: Sequence[Pair]
    config: StudentConfig
    seed: int
    work: Path
    cache: Path


def help_to_train() -> int:
    """Train what the first process trains, with it, until it is done with all; returns 0."""
    while job := ranks.shared(None):
        _learn(job, lambda done, total: None)
    return 0


def _learn(job: Job, progress: Callable[[int, int], object], answer: Answer | None = None) -> dict[str, Any]:
    """Train a student in `job.work`; returns facts about it. Where memory runs out, half as many examples at once."""
    pairs, config, seed, work, _ = job
    _, _, transformers = import_training()
    from cotdistill.students.examples import make_example

    transformers.set_seed(seed)
    student = _load_student(config)
    limit = min(config.max_length or math.inf, getattr(student.model.config, "max_position_embeddings", math.inf))
    tokenised = {pair: make_example(student, pair, config.format == "chat") for pair in pairs}
    fitting = _fitting(pairs, tokenised, limit, config)
    examples, dev_examples = ([tokenised[p] for p in side] for side in split_dev(fitting, config.dev_fraction, seed))
    longest = max(example.length for example in examples)
    student, soft = _with_teacher(student, [tokenised[p] for p in fitting], job)
    say(f"{work.stem}: {len(examples)} examples, the longest of {longest} tokens, and {len(dev_examples)} held out")
    facts = {
        "pairs": len(pairs),
        "examples": len(examples),
        "over_long_dropped": len(pairs) - len(fitting),
        "longest": longest,
        "lengths": sorted(Counter(tokenised[pair].length for pair in pairs).items()),  # tokens, how many
        "max_length": None if limit == math.inf else int(limit),
        **({"kd": soft.identity} if soft else {}),
    }
    while True:
        try:
            return facts | _fine_tune(student, examples, dev_examples, soft, job, progress, answer)
        except TooLittleMemory:
            job = job._replace(config=_with_less_at_once(job.config))
        del student  # its weights have changed, and two would need more memory still
        free_memory()
        student = _load_student(config)


def _load_student(config: StudentConfig) -> LoadedModel:
    four_bit = config.lora is not None and config.lora.four_bit
    return load_for_training(config.model, config.trust_remote_code, config.attention, four_bit)


def _with_teacher(
    student: LoadedModel, examples: Sequence[Example], job: Job
) -> tuple[LoadedModel, SoftTargets | None]:
    """The student, loaded anew if the teacher had to be, and what that teacher says; nothing where there is none."""
    from cotdistill.students.kd import SoftTargets

    config = job.config
    if config.kd is None:
        return student, None
    soft = SoftTargets(student, examples, config.kd, job.cache, config.trust_remote_code)
    if soft.missing:
        # Student and teacher are never in memory together. (Weights in 4 bits cannot go to "meta".)
        for weights in student.model.parameters():
            weights.data = weights.data.new_empty(0)
        free_memory()
        soft.compute()
        import_training()[2].set_seed(job.seed)  # as before the first load: a missing weight is drawn
        student = _load_student(config)
    return student, soft


class TooLittleMemory(Exception):
    """For so many examples at once."""


def _with_less_at_once(config: StudentConfig) -> StudentConfig:
    at_once = config.micro_batch_size or config.batch_size // ranks.processes()
    if at_once == 1 or ranks.processes() > 1:  # the others would go on as they are
        lower = "student.micro_batch_size, student.max_length" if at_once > 1 else "student.max_length"
        raise BackendError(
            f"memory ran out with {at_once} training example{'s' * (at_once > 1)} at once.\n"
            f"Lower {lower} with student.over_long=drop, set student.lora, or take a smaller model."
        )
    say(f"warning: memory ran out: from now on {at_once // 2} examples at once (student.micro_batch_size).")
    return config.model_copy(update={"micro_batch_size": at_once // 2})


def _fine_tune(
    student: LoadedModel,
    examples: Sequence[Example],
    dev_examples: Sequence[Example],
    soft: SoftTargets | None,
    job: Job,
    progress: Callable[[int, int], object],
    answer: Answer | None,
) -> dict[str, Any]:
    """Train, from the newest whole checkpoint in `job.work` on, into its folder "student"; returns facts about it.

    Raises `TooLittleMemory` where that many examples at once do not fit.
    """
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    from cotdistill.students.dev_answers import DevAnswers, dev_accuracies
    from cotdistill.students.trainer import Keep, Watch, make_trainer

    config, work = job.config, job.work
    checkpoint, before = ranks.shared(newest_whole(work) if ranks.first() else (None, {}))
    if checkpoint:
        say(f"{work.stem}: goes on from {checkpoint}")
    keep = Keep(config, work / "student", student.tokenizer)
    watch = Watch(progress, config.checkpoint_minutes, before.get("seconds", 0.0))
    callbacks = [watch, keep]
    if config.dev_accuracy and dev_examples:  # in each process: they wait for the one that has an `answer`
        callbacks.append(DevAnswers(answer, student, dev_examples, work.stem))
    trainer = make_trainer(student, examples, dev_examples, config, job.seed, work, callbacks, soft)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except (OSError, SafetensorError) as error:
        raise _no_room(work, error) from None
    except (OutOfMemoryError, MemoryError, RuntimeError) as error:
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):  # how torch.save says it
            raise _no_room(work, error) from None
        if _out_of_memory(error):
            raise TooLittleMemory from None
        raise
    state = trainer.state
    return {
        "steps": state.global_step,
        "epochs": state.epoch,
        "seconds": watch.seconds,
        "dev_losses": [(log["epoch"], log["eval_loss"]) for log in state.log_history if "eval_loss" in log],
        "dev_accuracies": dev_accuracies(state.log_history),
        "selected_epoch": keep.epoch,
        "epoch_folders": keep.epoch_folders,
    }


def _no_room(work: Path, error: Exception) -> DataError:
    return DataError(
        f"{work}: a checkpoint or the student cannot be written ({str(error).splitlines()[0][:200]}).\n"
        "Check the disk and the rights. What was whole before is kept: the same command goes on from there."
    )


def _out_of_memory(error: Exception) -> bool:
    # On a CPU PyTorch raises a plain RuntimeError; "could not create a primitive" is how oneDNN says it.
    words = ("out of memory", "can't allocate memory", "could not create a primitive", "bad_alloc")
    return not isinstance(error, RuntimeError) or any(word in str(error) for word in words)


@contextmanager
def _unfinished(folder: Path, print_of: str) -> Iterator[Path]:
    """A folder for the checkpoints of this very student, whose "student" is moved to `folder` at the end."""
    work = folder.with_name(f"{folder.name}.unfinished")
    mark = work / "fingerprint"
    if not (mark.is_file() and mark.read_text() == print_of):
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(log_folder(work), ignore_errors=True)  # of a student before
        write_atomic(mark, print_of)
    try:
        yield work
    except BaseException:
        if not list(work.glob("checkpoint-*")):
            shutil.rmtree(work)
        raise
    with folder_when_whole(folder) as beside:
        beside.rmdir()
        (work / "student").rename(beside)
    shutil.rmtree(work)


def fingerprint(pairs: Sequence[Pair], config: StudentConfig, seed: int, base: Mapping[str, str] | None = None) -> str:
    """The hash of all that decides a student: pairs, base model, hyperparameters, seed.

    `base` is the identity of a base model that is not here.
    """
    # What is written of a rationale, the pairs say.
    settings = config.model_dump(mode="json", exclude={"seeds", "model", "rationale", "kd", *ALL_THE_SAME})
    if config.lora and not config.lora.four_bit:
        del settings["lora"]["four_bit"]  # students made before there was one are still those
    if config.kd:
        settings["kd"] = {**config.kd.model_dump(mode="json"), "model": model_identity(config.kd.model)}
    content = canonical([[asdict(p) for p in pairs], settings, base or model_identity(config.model), seed])
    return hashlib.sha256(content.encode()).hexdigest()


def refuse_other_kinds(config: StudentConfig) -> None:
    """Raise `ConfigError` for what such a student, or so many processes, cannot be trained with."""
    if config.batch_size % ranks.processes():
        raise ConfigError(
            f"student.batch_size: {config.batch_size} examples a step cannot be shared by {ranks.processes()} processes"
            " alike."
        )
    seq2seq = is_seq2seq(config.model)
    if seq2seq and config.format == "chat":
        raise ConfigError(f"student.format: {config.model!r} is an encoder-decoder model; chat is for causal ones.")
    if seq2seq and config.packing:
        raise ConfigError(f"student.packing: {config.model!r} is an encoder-decoder model; packing is for causal ones.")
    if config.kd and is_seq2seq(config.kd.model) != seq2seq:
        kinds = ("causal", "encoder-decoder")
        raise ConfigError(
            f"student.kd.model: {config.kd.model!r} is {kinds[not seq2seq]}, and the student {kinds[seq2seq]}.\n"
            "Take a larger model of the student's own family and kind, or leave student.kd out."
        )
    if config.kd:
        ours, theirs = (load_tokenizer(name, config.trust_remote_code) for name in (config.model, config.kd.model))
        from cotdistill.students.kd import refuse_other_tokens

        refuse_other_tokens(ours, theirs, config.kd.model)


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


def _fitting(
    pairs: Sequence[Pair], tokenised: Mapping[Pair, Example], limit: float, config: StudentConfig
) -> list[Pair]:
    lengths = [tokenised[pair].length for pair in pairs]
    fitting = [pair for pair, length in zip(pairs, lengths, strict=True) if length <= limit]
    dropped = len(pairs) - len(fitting)
    if (dropped and config.over_long == "raise") or not fitting:
        bins = Counter(2 ** math.ceil(math.log2(length)) for length in lengths)
        histogram = ", ".join(f"up to {top}: {bins[top]}" for top in sorted(bins))
        ours = limit == config.max_length
        more = "Raise student.max_length" if ours else "The model has no more positions: take another student.model"
        raise DataError(
            f"{dropped} of {len(pairs)} training examples have more than {limit} tokens ({histogram}).\n"
            f"A completion is never cut. {more}, or leave them out with student.over_long=drop."
        )
    return fitting
