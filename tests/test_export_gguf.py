"""GGUF files of students, read again by transformers, and by llama.cpp itself where xllamacpp is installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cotdistill.errors import ConfigError, DataError
from cotdistill.export import export
from cotdistill.exports import gguf as gguf_file
from exporting import number, trained, with_merges
from tiny import tiny_family

pytestmark = pytest.mark.slow
LLAMA_CPP = find_spec("xllamacpp") is not None


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2"])
def test_a_file_is_read_as_the_student(family: str, tmp_path: Path) -> None:
    folder = trained(tmp_path, number, with_merges(family, tmp_path / "base"), 60)
    serve, create = export(folder, "gguf", tmp_path / "out")
    assert serve.split()[:3] == ["llama-server", "--model", str(tmp_path / "out/fine_tune_cot-0.gguf")]
    assert create.endswith(str(tmp_path / "out/Modelfile.fine_tune_cot-0"))
    found = json.loads((tmp_path / "out/export.json").read_text())["checks"]["fine_tune_cot-0"]
    assert set(found) == {"transformers", "llama.cpp"} if LLAMA_CPP else {"transformers"}
    for counts in found.values():
        assert counts["same"] + counts["ties"] == counts["questions"] == 12
        assert counts["same"] >= 10
        assert 0 < counts["ended"] == counts["to_end"]
    assert (tmp_path / "out/Modelfile.fine_tune_cot-0").read_text() == (
        'FROM ./fine_tune_cot-0.gguf\nTEMPLATE """{{ .Prompt }} ###"""\nPARAMETER stop " END"\n'
        "PARAMETER temperature 0\nPARAMETER num_predict 60\n"
    )


def test_a_chat(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from tiny import CHAT

    base = with_merges("llama", tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT.replace("<end>", "</s>")
    tokenizer.save_pretrained(base)
    folder = trained(tmp_path, number, base, 60, "chat")
    export(folder, "gguf", tmp_path / "out")
    modelfile = (tmp_path / "out/Modelfile.fine_tune_cot-0").read_text()
    assert 'TEMPLATE """[user]{{ .Prompt }}</s>\n[assistant]"""' in modelfile


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("run")
    return trained(work, number, with_merges("llama", work / "base"), 60)


def other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "_interleaved", lambda weights, heads: weights)


def other_merges(monkeypatch: pytest.MonkeyPatch) -> None:
    described = gguf_file.described

    def fewer(tokenizer: Any) -> dict[str, Any]:
        tokens = described(tokenizer)
        tokens["model"]["merges"] = tokens["model"]["merges"][:-2]
        return tokens

    monkeypatch.setattr(gguf_file, "described", fewer)


def other_eos(monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import GGUFWriter

    add = GGUFWriter.add_eot_token_id
    monkeypatch.setattr(GGUFWriter, "add_eot_token_id", lambda self, token: add(self, 3 + ord("=") - 33))


def other_bos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "specials", lambda tokenizer: ("", ""))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_weights, r"q_proj\.weight.*not those of the student"),
        (other_merges, "the prompt of .* has other token ids"),
        (other_eos, "another text"),
        pytest.param(other_bos, "other token ids", marks=pytest.mark.skipif(not LLAMA_CPP, reason="needs xllamacpp")),
    ],
)
def test_what_is_not_the_student_is_not_left(
    damage: Callable[[pytest.MonkeyPatch], None],
    message: str,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(monkeypatch)
    with pytest.raises(DataError, match=message):
        export(run_folder, "gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


@pytest.fixture
def unknown_folder(tmp_path: Path) -> Path:
    """Of a student whose tokenizer splits in a way that llama.cpp has no name for here."""
    return trained(tmp_path, number, tiny_family("llama", tmp_path / "base"), 60)


def test_what_is_not_known_goes_to_the_converter_of_llama_cpp(
    unknown_folder: Path, run_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"its tokenizer.*\n.*--converter PATH/convert_hf_to_gguf\.py"):
        export(unknown_folder, "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # Stands in for llama.cpp's, which is no package: what it writes is checked as ours is.
    export(run_folder, "gguf", tmp_path / "good")
    converter = tmp_path / "convert_hf_to_gguf.py"
    copy = "import shutil, sys; shutil.copy({!r}, sys.argv[sys.argv.index('--outfile') + 1])"
    converter.write_text(copy.format(str(tmp_path / "good/fine_tune_cot-0.gguf")))
    export(run_folder, "gguf", tmp_path / "out", converter=converter)
    with pytest.raises(DataError, match="not those of the student"):  # of the other run
        export(unknown_folder, "gguf", tmp_path / "out", converter=converter)
    (tmp_path / "junk.gguf").write_bytes(b"GGUF")
    converter.write_text(copy.format(str(tmp_path / "junk.gguf")))
    with pytest.raises(DataError, match="cannot read it"):
        export(run_folder, "gguf", tmp_path / "out", converter=converter)
    converter.write_text("import sys; sys.exit('no such architecture')")
    with pytest.raises(DataError, match=r"wrote no GGUF file \(exit 1\): no such architecture"):
        export(run_folder, "gguf", tmp_path / "out", converter=converter)
    with pytest.raises(ConfigError, match="no such file"):
        export(run_folder, "gguf", tmp_path / "out", converter=Path("nowhere.py"))


@pytest.mark.parametrize(("family", "message"), [("gemma3", "gemma3_text"), ("t5", "t5")])
def test_a_model_that_is_not_written_here(family: str, message: str, tmp_path: Path) -> None:
    folder = trained(tmp_path, number, tiny_family(family, tmp_path / "base"), 1)
    with pytest.raises(ConfigError, match=message):
        export(folder, "gguf", tmp_path / "out")


def test_the_names_of_splits_are_those_of_known_tokenizers() -> None:
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert gguf_file.SPLITS[PRETOKENIZE_REGEX, "ByteLevel"] == "qwen2"
