"""Distillation besides the rationales: what a teacher with the student's tokenizer gives each completion token.

    soft = SoftTargets(student, examples, config.student.kd, runs / ".kd")
    if soft.missing:
        soft.compute()     # the teacher is loaded here, and gone afterwards

The loss is that of Hinton et al. (2015, arXiv:1503.02531): temperature squared times KL(teacher || student). Of each
distribution the teacher's `top_k` tokens are told apart, and all the rest is one: the loss is then never below 0, never
above that of the whole distributions, and is that one where `top_k` is the vocabulary.

Imports torch: to be imported after `import_training`, which says how to install it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch.nn.functional import kl_div
from torch.utils.checkpoint import checkpoint

from cotdistill.completions import canonical
from cotdistill.config import KdConfig
from cotdistill.errors import BackendError, ConfigError
from cotdistill.models import LoadedModel, free_memory, has_bf16, load_model, load_tokenizer, model_identity, sha256
from cotdistill.progress import PLAIN_SECONDS, say
from cotdistill.records import write_atomic
from cotdistill.students.examples import BLANK, IGNORED, Example, collate
from cotdistill.students.trainer import read_completions, rows_at_once

SHARD = 256  # examples a file
TOKENS = 2048  # that the teacher reads at once, with padding
NOTHING = torch.finfo(torch.float32).min  # the logarithm of 0, but a number: 0 times it is 0
PROBE = " 12.5 + 3 = 15.5, so\n\tThe answer — is (a)."


class Place(NamedTuple):
    """Where the rows of an example are: of an open shard, from `start` to `end`."""

    shard: Any
    start: int
    end: int


class SoftTargets:
    """The soft targets of `examples`, of the teacher that `kd` names, in shards below `cache`.

    A row is for one completion token: `teacher_ids` (top_k) and `teacher_logprobs` (top_k + 1), the last of which is
    of all other tokens together. Shards are read where they lie. Raises `ConfigError` for a teacher that cannot be
    compared with the student token by token.
    """

    def __init__(
        self,
        student: LoadedModel,
        examples: Sequence[Example],
        kd: KdConfig,
        cache: Path,
        trust_remote_code: bool = False,
    ) -> None:
        self.kd = kd
        self.trust_remote_code = trust_remote_code
        self.examples = {_key(vars(example)): example for example in examples}
        theirs = load_tokenizer(kd.model, trust_remote_code)
        # Output layers of one family are padded to different sizes: only what is a token counts.
        tokens = max(theirs.get_vocab().values()) + 1
        self.size = min(tokens, student.model.get_input_embeddings().weight.shape[0])
        self.identity = model_identity(kd.model)
        dtype = "bf16" if has_bf16() else "fp32"
        key = canonical([self.identity, kd.top_k, kd.temperature, self.size, dtype])
        self.folder = cache / hashlib.sha256(key.encode()).hexdigest()[:16]
        self.places = _read(self.folder)

    @property
    def missing(self) -> list[Example]:
        return [example for key, example in self.examples.items() if key not in self.places]

    @property
    def weight(self) -> float:
        """How much one nat between student and teacher adds to the loss."""
        return self.kd.alpha * self.kd.temperature**2

    def loss(self, logits: Any, targets: Any, inputs: Mapping[str, Any]) -> Any:
        """What is added to the summed cross-entropy of a batch."""
        rows = inputs["teacher_ids"], inputs["teacher_logprobs"]
        return self.kd.alpha * kd_loss(logits, targets, *rows, self.kd.temperature)

    def rows(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows of a batch, one example after the other."""
        nowhere = next(iter(self.places.values()))._replace(start=0, end=0)
        blank = vars(BLANK)["labels"]
        places = [nowhere if e["labels"] == blank else self.places[_key(e)] for e in examples]
        return {
            f"teacher_{name}": torch.cat([p.shard.get_slice(name)[p.start : p.end] for p in places])
            for name in ("ids", "logprobs")
        }

    def compute(self) -> None:
        """Have the teacher read what is missing; each shard is whole on the disk, or not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"student.kd: another process has {self.kd.model} read these examples; it is waited for")
            lock.acquire()
        try:
            for left in self.folder.glob(".*.safetensors.*"):  # by a process that was killed
                left.unlink()
            self.places = _read(self.folder)
            if self.missing:
                self._compute()
                self.places = _read(self.folder)
        finally:
            lock.release()

    def _compute(self) -> None:
        missing = sorted(self.missing, key=lambda example: example.length)
        say(f"student.kd: {self.kd.model} reads {len(missing)} examples, once")
        teacher = load_model(self.kd.model, self.trust_remote_code)
        most = getattr(teacher.model.config, "max_position_embeddings", None) or missing[-1].length
        if missing[-1].length > most:
            raise ConfigError(
                f"student.kd.model: {self.kd.model!r} reads at most {most} tokens, and the longest example has "
                f"{missing[-1].length}.\nSet student.max_length={most} and student.over_long=drop."
            )
        said = time.monotonic()
        for start in range(0, len(missing), SHARD):
            shard = missing[start : start + SHARD]
            if time.monotonic() - said > PLAIN_SECONDS:
                said = time.monotonic()
                say(f"student.kd: {start} of {len(missing)} examples")
            _write(self.folder, shard, [self._read_by(teacher, batch) for batch in _batches(shard)])
        del teacher
        free_memory()

    @torch.inference_mode()
    def _read_by(self, teacher: LoadedModel, examples: Sequence[Example]) -> tuple[Any, Any]:
        """The rows of a batch: ids (tokens, k) and log-probabilities (tokens, k + 1)."""
        batch = collate([vars(example) for example in examples], teacher.pad_id)
        there = {name: rows.to(teacher.model.device) for name, rows in batch.items() if name != "question_ids"}
        _, logits, targets = read_completions(teacher.model, teacher.model, there)
        parts = []
        for places in (targets != IGNORED).nonzero().split(rows_at_once(targets)):
            scaled = logits[tuple(places.T)][:, : self.size].float() / self.kd.temperature
            ids = scaled.topk(min(self.kd.top_k, scaled.shape[1])).indices
            parts.append((ids.int().cpu(), grouped(scaled, ids).cpu()))
        ids, logprobs = (torch.cat(columns) for columns in zip(*parts, strict=True))
        if not logprobs.isfinite().all():
            names = ", ".join(example.question_id for example in examples[:8])
            raise BackendError(
                f"student.kd.model: {self.kd.model!r} gives probabilities that are no numbers, as for {names}.\n"
                "Take another teacher, or leave student.kd out."
            )
        return ids, logprobs


def kd_loss(logits: Any, targets: Any, top_ids: Any, top_logprobs: Any, temperature: float) -> Any:
    """Temperature squared times KL(teacher || student), summed over the tokens whose target is not IGNORED.

    `logits` (..., vocabulary) and `targets` (...) are aligned; the teacher's rows are for those tokens, in that order.
    """

    def of(rows: Any, ids: Any, logprobs: Any) -> Any:
        return kl_div(grouped(rows.float() / temperature, ids.long()), logprobs, reduction="sum", log_target=True)

    # A few rows at a time, and again for their gradient: else it took twice the memory of the cross-entropy.
    split = (rows.split(rows_at_once(logits)) for rows in (logits[targets != IGNORED], top_ids, top_logprobs))
    parts = [checkpoint(of, *some, use_reentrant=False, preserve_rng_state=False) for some in zip(*split, strict=True)]
    return temperature**2 * torch.stack(parts).sum()


def grouped(logits: Any, ids: Any) -> Any:
    """Log-probabilities (tokens, k + 1): of the `ids` (tokens, k) of each row, then of all the others together."""
    # Not log(1 - the sum of the first): next to 1, that has no digit left.
    rest = logits.scatter(-1, ids, NOTHING).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), rest], -1) - logits.logsumexp(-1, keepdim=True)


def refuse_other_tokens(ours: Any, theirs: Any, name: str) -> None:
    """Raise `ConfigError` unless the two tokenizers say the same with the same ids."""
    a, b = ours.get_vocab(), theirs.get_vocab()
    if a != b:
        differ = sum(a.get(token) != b.get(token) for token in {*a, *b})
        why = f"{differ} tokens of their vocabularies differ"
    elif ours.eos_token_id != theirs.eos_token_id:
        why = f"it ends a text with {theirs.eos_token!r}, the student with {ours.eos_token!r}"
    elif ours.encode(PROBE, add_special_tokens=False) != theirs.encode(PROBE, add_special_tokens=False):
        why = "it splits a text into other tokens"
    else:
        return
    raise ConfigError(
        f"student.kd.model: {name!r} does not have the tokenizer of {ours.name_or_path!r}: {why}.\n"
        "Take a larger model of the student's own family and kind, or leave student.kd out."
    )


def _batches(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Those of like length together, at most TOKENS with their padding."""
    batch: list[Example] = []
    for example in examples:  # each is as long as the one before, or longer
        if batch and example.length * (len(batch) + 1) > TOKENS:
            yield batch
            batch = []
        batch.append(example)
    yield batch


def _key(example: Mapping[str, Any]) -> str:
    content = json.dumps([example["input_ids"], example["labels"]])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _write(folder: Path, examples: Sequence[Example], rows: Sequence[tuple[Any, Any]]) -> None:
    """A shard, named by its own SHA-256; its metadata says which examples it has, in order, and their tokens."""
    # In fp32: the ids take half of it anyway, and the loss is 0 where the student is its teacher.
    ids, logprobs = (torch.cat(columns).contiguous() for columns in zip(*rows, strict=True))
    tokens = {_key(vars(e)): sum(label != IGNORED for label in e.labels) for e in examples}
    content = save({"ids": ids, "logprobs": logprobs}, {"examples": json.dumps(tokens)})
    write_atomic(folder / f"{hashlib.sha256(content).hexdigest()}.safetensors", content)


def _read(folder: Path) -> dict[str, Place]:
    """The places of all examples whose shards are whole; a damaged shard is named and removed."""
    places = {}
    for path in sorted(folder.glob("[!.]*.safetensors")):
        try:
            whole = sha256(path) == path.stem
        except OSError:
            whole = False
        if not whole:
            say(f"warning: {path} is damaged: its sha256 is not its name. What it held is computed again.")
            path.unlink(missing_ok=True)
            continue
        shard: Any = safe_open(path, "pt")
        start = 0
        for key, tokens in json.loads(shard.metadata()["examples"]).items():
            places[key] = Place(shard, start, start + tokens)
            start += tokens
    return places
