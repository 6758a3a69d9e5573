"""A GGUF file of each student, for llama.cpp and Ollama, with a Modelfile beside it.

The weights are written in fp32, as training left them: nothing is rounded, and llama.cpp's `llama-quantize` makes
smaller files of it. Written here are Llama, Qwen2, Qwen3 and GPT-2 with a byte-level BPE tokenizer; of the rest
llama.cpp's convert_hf_to_gguf.py knows much, and is used where it is there. Names and layouts are those of
https://github.com/ggml-org/llama.cpp, conversion/.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cotdistill.errors import ConfigError, DataError, missing_extra
from cotdistill.exports import llama_cpp
from cotdistill.exports.check import Trained, greedy
from cotdistill.exports.hf import chat_template, specials, write_folder
from cotdistill.exports.job import Job, Made, Student
from cotdistill.methods import Method
from cotdistill.models import chat_text, encode_turns, import_training, load_tokenizer
from cotdistill.progress import say
from cotdistill.records import Question

CONVERTER = "convert_hf_to_gguf.py"
ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gpt2": "GPT2"}  # by model_type
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How a tokenizer splits a text before it merges, in tokenizer.json and as llama.cpp calls it.
SPLITS = {
    ("ByteLevel+",): "gpt-2",
    ("Digits", "ByteLevel+"): "smollm",
    (_WORDS.format(digits=r"\p{N}"), "ByteLevel"): "qwen2",
    (_WORDS.format(digits=r"\p{N}{1,3}"), "ByteLevel"): "llama-bpe",
}
UNREAD = {"qwen3": ("head_dim",), "gpt2": ("vocab_size", "n_positions")}  # by transformers; llama.cpp reads them
CONTROL, USER_DEFINED, NORMAL, UNUSED = 3, 4, 1, 5  # gguf.TokenType
PLACE = "{question}"


def to_gguf(job: Job) -> Made:
    """A file for each student, in `job.folder`, checked by transformers, and by llama.cpp where xllamacpp is there."""
    converter = job.converter or (Path(found) if (found := shutil.which(CONVERTER)) else None)
    commands, checks = [], {}
    job.folder.mkdir(exist_ok=True)
    ours = {student.name: _is_written_here(student, job, converter) for student in job.students}
    for student in job.students:
        trained = Trained.load(student, job.this)
        file = job.folder / f"{student.name}.gguf"
        if ours[student.name]:
            write_file(trained, file)
        else:
            with tempfile.TemporaryDirectory(dir=job.folder, prefix=".hf.") as work:
                write_folder(trained, job.this, Path(work) / student.name)
                convert(str(converter), Path(work) / student.name, file)
        checks[student.name] = check_file(trained, file)
        (job.folder / f"Modelfile.{student.name}").write_text(modelfile(trained), encoding="utf-8")
        out = job.out.absolute()
        commands.append(shlex.join(["llama-server", "--model", str(out / file.name), "--jinja", "--temp", "0"]))
        commands.append(shlex.join(["ollama", "create", student.name, "-f", str(out / f"Modelfile.{student.name}")]))
    if not llama_cpp.installed():
        say("gguf: read again by transformers alone. To have llama.cpp read it too: pip install xllamacpp, and again.")
    return Made(commands, checks)


def _is_written_here(student: Student, job: Job, converter: Path | None) -> bool:
    """Whether the converter is not needed. Raises `ConfigError` where it is, and is not there."""
    _, _, transformers = import_training()
    trust = job.this.config.student.trust_remote_code
    config = transformers.AutoConfig.from_pretrained(student.folder, trust_remote_code=trust)
    why = unknown(config, load_tokenizer(str(student.folder), trust))
    if why and not converter:
        raise ConfigError(
            f"{student.name}: GGUF is not written here for {why}.\n"
            f"Give llama.cpp's own converter, which knows more: --converter PATH/{CONVERTER}."
        )
    return why is None and job.converter is None


def convert(converter: str, folder: Path, file: Path) -> None:
    """Have llama.cpp's converter write the file."""
    words = [sys.executable, converter, str(folder), "--outfile", str(file), "--outtype", "f32"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode or not file.is_file():
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(f"{converter}: it wrote no GGUF file (exit {done.returncode}): {said}")


def unknown(config: Any, tokenizer: Any) -> str | None:
    """What of a student cannot be written here, or None."""
    if config.model_type not in ARCHITECTURES:
        return f"models of the type {config.model_type!r}, only for {', '.join(ARCHITECTURES)}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope != "default" or getattr(config, "use_sliding_window", False):
        return f"rope of the type {rope!r}" if rope != "default" else "a sliding window"
    if not hasattr(tokenizer, "backend_tokenizer") or split_of(described(tokenizer)) is None:
        return "its tokenizer, only for byte-level BPE that splits as GPT-2, SmolLM2, Qwen2 or Llama 3"
    first, last = (tokenizer.encode(text, add_special_tokens=False) for text in specials(tokenizer))
    if first not in ([], [tokenizer.bos_token_id]) or last not in ([], [tokenizer.eos_token_id]):
        return "a tokenizer that adds other special tokens than one at the beginning and one at the end"
    return None


def described(tokenizer: Any) -> dict[str, Any]:
    """tokenizer.json."""
    return json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[no-any-return]


def split_of(tokens: dict[str, Any]) -> str | None:
    """llama.cpp's name of how a tokenizer splits a text; None where there is none."""
    before, model = tokens.get("pre_tokenizer"), tokens["model"]
    if not before or model["type"] != "BPE" or model.get("byte_fallback"):
        return None
    parts = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    return SPLITS.get(tuple(_part(part) for part in parts))


def _part(part: dict[str, Any]) -> str:
    kind = part["type"]
    if kind == "Split":
        plain = part["behavior"] == "Isolated" and not part["invert"]
        return str(part["pattern"].get("Regex", "")) if plain else "another split"
    if kind == "ByteLevel":
        return "another" if part["add_prefix_space"] else "ByteLevel" + "+" * part["use_regex"]
    return "Digits" if kind == "Digits" and part["individual_digits"] else "another"


def write_file(trained: Trained, file: Path) -> None:
    """Write the weights in fp32, the tokenizer and what llama.cpp needs to know of the model."""
    try:
        import gguf
    except ImportError:
        raise missing_extra("gguf", "train") from None
    config = trained.loaded.model.config
    kind = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type])
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(trained.student.name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_shape(writer, config)
    _add_tokenizer(writer, trained)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for name, weights in tensors(trained.loaded.model):
        written = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if written is None:
            raise DataError(f"{trained.student.name}: GGUF has no name for the weights {name!r}.")
        writer.add_tensor(written, weights.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: Any) -> None:
    heads, width = config.num_attention_heads, config.hidden_size
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(width)
    writer.add_head_count(heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * width)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = getattr(config, "head_dim", None) or width // heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)


def _add_tokenizer(writer: Any, trained: Trained) -> None:
    tokenizer, method = trained.loaded.tokenizer, trained.student.method
    tokens = described(tokenizer)
    vocabulary = {i: (token, NORMAL) for token, i in tokens["model"]["vocab"].items()}
    for added in tokens["added_tokens"]:
        vocabulary[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    rows = [vocabulary.get(i, (f"[PAD{i}]", UNUSED)) for i in range(trained.loaded.model.config.vocab_size)]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokens["model"]["merges"]]
    first, last = around(tokenizer, method)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split_of(tokens))
    writer.add_token_list([token for token, _ in rows])
    writer.add_token_types([kind for _, kind in rows])
    writer.add_token_merges(merges)
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(bool(first))
    writer.add_add_eos_token(bool(last))
    others = [token for token in trained.end_ids() if token != tokenizer.eos_token_id]
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": trained.loaded.pad_id}
    ids |= {"eot": others[0] if others else None, "eom": others[1] if others[1:] else None}  # they end a text too
    for name, token in ids.items():
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_chat_template(chat_template(tokenizer, method))


def around(tokenizer: Any, method: Method) -> tuple[str, str]:
    """The special tokens that llama.cpp is to put around a prompt: it does so around a chat too, as others do not."""
    if not method.chat:
        return specials(tokenizer)
    begun = tokenizer.bos_token and chat_text(tokenizer, ("a",)).startswith(tokenizer.bos_token)
    return (tokenizer.bos_token if begun else "", "")


def tensors(model: Any) -> Iterator[tuple[str, Any]]:
    """The weights as llama.cpp has them, by the names of transformers."""
    config = model.config
    for name, weights in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            yield name, weights.T  # Conv1D
        elif config.model_type == "llama" and ".q_proj." in name:
            yield name, _interleaved(weights, config.num_attention_heads)
        elif config.model_type == "llama" and ".k_proj." in name:
            yield name, _interleaved(weights, config.num_key_value_heads)
        else:
            yield name, weights


def _interleaved(weights: Any, heads: int) -> Any:
    """(heads, halves, pairs) to (heads, pairs, halves): llama.cpp turns neighbours, transformers turns halves."""
    size = weights.shape[0] // heads // 2
    return weights.reshape(heads, 2, size, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def check_file(trained: Trained, file: Path) -> dict[str, Any]:
    """Read a file again, and compare it. Raises `DataError` where it is not the trained student."""
    _, torch, transformers = import_training()
    where: dict[str, Any] = {"gguf_file": file.name}
    config = trained.loaded.model.config
    where |= {key: getattr(config, key) for key in UNREAD.get(config.model_type, ())}
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # transformers draws a bar of its own here
            tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where).eval()
    except (ValueError, KeyError, TypeError, RuntimeError, struct.error) as error:
        raise DataError(f"{file.name}: transformers cannot read it: {error}") from None
    trained.refuse_other_weights("transformers from GGUF", model)
    written = greedy(
        f"{trained.student.name}: the file",
        model,
        trained.asked,
        trained.loaded.pad_id,
        eos_token_id=_ends(file),
        pad_token_id=trained.loaded.pad_id,
        do_sample=False,
        max_new_tokens=trained.max_tokens,
    )
    found: dict[str, Any] = {"transformers": trained.compare("transformers from GGUF", written)}
    if llama_cpp.installed():
        found["llama.cpp"] = llama_cpp.check(trained, file)
    else:  # else llama.cpp says: transformers does not read how a text is split
        method = trained.student.method
        trained.refuse_other_prompts("transformers from GGUF", lambda q: _ids(tokenizer, method, q))
    return found


def _ends(file: Path) -> list[int]:
    """The tokens that end a text, as the file has them."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    found = (fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
    return [int(field.contents()) for field in found if field]


def _ids(tokenizer: Any, method: Method, question: Question) -> list[int]:
    return encode_turns(tokenizer, (method.prompt(question),), method.chat)


def modelfile(trained: Trained) -> str:
    """What Ollama needs to know: its templates are Go's, so one question is written out."""
    tokenizer, method = trained.loaded.tokenizer, trained.student.method
    messages = [{"role": "user", "content": PLACE}]
    template = chat_template(tokenizer, method)
    text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
    first, last = around(tokenizer, method)  # which llama.cpp under Ollama adds
    before, _, after = str(text).removeprefix(first).removesuffix(last).partition(PLACE)
    if '"""' in text or "{{" in before + after:
        raise DataError(f"{trained.student.name}: its prompt has {'{{'} or quotes, which a Modelfile cannot hold.")
    lines = [f"FROM ./{trained.student.name}.gguf", f'TEMPLATE """{before}{{{{ .Prompt }}}}{after}"""']
    lines += [f"PARAMETER stop {json.dumps(stop)}" for stop in method.stop]
    lines += ["PARAMETER temperature 0", f"PARAMETER num_predict {trained.max_tokens}"]
    return "\n".join(lines) + "\n"
