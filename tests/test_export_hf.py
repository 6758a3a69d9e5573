"""Hugging Face folders of students: others use them without our code, and what is not the student fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cotdistill import cli
from cotdistill.errors import ConfigError, DataError
from cotdistill.export import export
from cotdistill.exports import hf
from cotdistill.exports.hf import chat_template
from cotdistill.methods import methods
from cotdistill.models import encode_turns
from cotdistill.records import Question
from exporting import number, trained, with_merges
from tiny import tiny_bart, tiny_family, tiny_model, tiny_t5

OTHERS = """
import json, sys
import transformers
folder, kind, questions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = getattr(transformers, kind).from_pretrained(folder)
for question in questions:
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    output = model.generate(**inputs)[0]
    new = output[1:] if model.config.is_encoder_decoder else output[inputs["input_ids"].shape[1]:]
    print(json.dumps([tokenizer.decode(new, skip_special_tokens=True), len(new)]))
"""


def of_kind(kind: str, folder: Path, form: str) -> Path:
    if kind == "t5":
        return tiny_t5(folder)
    if kind == "llama, a stop token":
        return with_merges("llama", folder)
    return tiny_model(folder, chat=True) if form == "chat" else tiny_family(kind, folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "steps"),
    [
        ("llama", "paper", 60),
        ("llama, a stop token", "paper", 60),
        ("llama", "natural", 120),
        ("llama", "paper_gpt3", 60),
        ("llama", "chat", 120),
        ("llama, pad is eos", "paper", 60),
        ("gpt2", "paper", 60),
        ("qwen2", "paper", 60),
        ("qwen3", "paper", 60),
        ("gemma3", "paper", 60),
        ("t5", "paper", 100),
    ],
)
def test_others_get_the_texts_of_the_run(
    kind: str, form: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cotdistill.models.has_bf16", lambda: False)
    folder = trained(tmp_path, number, of_kind(kind, tmp_path / "base", form), steps, form)
    (command,) = export(folder, "hf", tmp_path / "out")
    place = tmp_path / "out/fine_tune_cot-0"
    assert str(place) in command
    found = json.loads((tmp_path / "out/export.json").read_text())["checks"]["fine_tune_cot-0"]
    assert found["questions"] == found["same"] == 12
    ours = [json.loads(line) for line in (folder / "predictions/fine_tune_cot-0.jsonl").read_text().splitlines()]
    assert any(line["finish_reason"] == "stop" for line in ours), "a student that never ends proves nothing"
    head = "AutoModelForSeq2SeqLM" if kind == "t5" else "AutoModelForCausalLM"
    words = [sys.executable, "-c", OTHERS, str(place), head, json.dumps([f" {line['question']}\n" for line in ours])]
    if form == "chat":  # the model's own template, which does not strip
        words[-1] = json.dumps([line["question"] for line in ours])
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = [json.loads(line) for line in done.stdout.splitlines()]
    for line, (text, tokens) in zip(ours, theirs, strict=True):
        assert text.startswith(line["text"])
        assert tokens <= 60
        if line["finish_reason"] == "stop" and form != "chat" and kind != "t5":
            assert text.removeprefix(line["text"]).startswith(" END")
    assert sum(tokens < 60 for _, tokens in theirs) >= found["ended"] > 0
    if kind == "llama, a stop token":
        assert found["ended"] == found["to_end"]
        ends = json.loads((place / "generation_config.json").read_text())["eos_token_id"]
        assert len(ends) == 2


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two students, of which one is used."""
    work = tmp_path_factory.mktemp("run")
    return trained(work, number, tiny_family("llama", work / "base"), 60)


def edit_json(file: str, **values: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))

    return edit


def flip_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace(" ###", " ##"))


def another_normalizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}}))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight": (flip_a_weight, r"model\.norm\.weight.*not those of the student"),
    "the template": (another_template, "the chat template: the prompt of .* other token ids .* from token"),
    "the tokenizer": (another_normalizer, "the plain prompt: the prompt of .* other token ids"),
    "the eos": (edit_json("generation_config.json", eos_token_id=2), "goes on past its end of sequence"),
    "an eos too many": (edit_json("generation_config.json", eos_token_id=[1, 3 + ord("=") - 33]), "another text"),
    "too few tokens": (edit_json("generation_config.json", max_new_tokens=4), "another text"),
    "a penalty": (edit_json("generation_config.json", repetition_penalty=5.0), "another text"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_not_the_student_is_not_left(
    name: str, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = DAMAGES[name]
    write = hf.write_folder

    def write_damaged(trained: Any, this: Any, folder: Path) -> None:
        write(trained, this, folder)
        damage(folder)

    monkeypatch.setattr(hf, "write_folder", write_damaged)
    codes: list[int] = []
    cli.main(["export", str(run_folder), "--to", "hf", "--out", str(tmp_path / "out")], leave=codes.append)
    assert codes == [3]
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(message, said), said
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]


@pytest.mark.slow
def test_only_what_an_export_wrote_is_replaced(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(run_folder, "hf", out)
    card = (out / "fine_tune_cot-0/README.md").read_text()
    assert "## Use" in card
    assert "## Results" in card
    assert str(tmp_path) not in card.split("## Results")[0]
    export(run_folder, "hf", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt is not as the last export wrote it"):
        export(run_folder, "hf", out)
    (out / "notes.txt").unlink()
    (out / "fine_tune_cot-0/README.md").write_text(card.replace("unknown", "apache-2.0"))
    with pytest.raises(ConfigError, match=r"README\.md is not as the last export wrote it"):
        export(run_folder, "hf", out)
    with pytest.raises(ConfigError, match="something else than an export to gguf"):
        export(run_folder, "gguf", out)
    with pytest.raises(ConfigError, match="something else"):
        export(run_folder, "hf", run_folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="something else"):
        export(run_folder, "hf", tmp_path / "file")


@pytest.mark.slow
def test_one_of_several_and_the_epoch_that_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_family("llama", tmp_path / "base")
    several: dict[str, object] = {
        "student.seeds": [0, 1],
        "student.select": "paper",
        "student.steps": 0,
        "student.epochs": 3,
    }
    several |= {"evaluate.methods": ["fine_tune", "fine_tune_cot"]}
    folder = trained(tmp_path, number, base, 0, more=several)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="fine_tune-1"):
        export(folder, "hf", student="fine_tune-2")
    export(folder, "hf", student="fine_tune-1")
    assert sorted(path.name for path in Path("exports/t-fine_tune-1-hf").iterdir()) == ["export.json", "fine_tune-1"]
    best = json.loads((folder / "result.json").read_text())["results"]
    epochs = next(r["epochs"] for r in best if (r["method"], r["seed"]) == ("fine_tune", 1))
    measured = f"epochs/{epochs.index(max(epochs)) + 1}"
    sent = Path("exports/t-fine_tune-1-hf/fine_tune-1")
    theirs = (folder / "student/fine_tune-1" / measured / "model.safetensors").read_bytes()
    assert (sent / "model.safetensors").read_bytes() == theirs
    card = (sent / "README.md").read_text()
    assert f"those of `{measured}`" in card
    assert "beside this card" not in card
    assert len(export(folder, "hf", tmp_path / "all")) == 4


@pytest.mark.slow
def test_a_damaged_student_is_not_exported(tmp_path: Path) -> None:
    folder = trained(tmp_path, number, tiny_family("llama", tmp_path / "base"), 1)
    flip_a_weight(folder / "student/fine_tune_cot-0")
    codes: list[int] = []
    cli.main(["export", str(folder), "--to", "hf", "--out", str(tmp_path / "out")], leave=codes.append)
    assert codes == [5]
    assert not (tmp_path / "out").exists()


TEXTS = ["What is 2+3?", "  spaces around \n", "two\nlines", "It's \"quoted\" {{ 'braces' }} {% raw %} \\n"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "t5", "bart"])
@pytest.mark.parametrize("form", ["paper", "paper_gpt3", "natural"])
@pytest.mark.parametrize("style", ["full", "answer_first"])
def test_the_template_gives_the_prompt(kind: str, form: str, style: str, tmp_path: Path) -> None:
    import transformers

    seq2seq = kind != "llama"
    if seq2seq and form != "paper":
        return
    make: dict[str, Callable[[Path], Path]] = {"llama": tiny_model, "t5": tiny_t5, "bart": tiny_bart}
    folder = make[kind](tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for method in methods(form, seq2seq, rationale=style).values():
        if not method.trained:
            continue
        tokenizer.chat_template = chat_template(tokenizer, method)
        for text in TEXTS:
            messages = [{"role": "user", "content": text}]
            ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
            assert ids == encode_turns(tokenizer, (method.prompt(Question("", text, "")),), chat=False)
    taught = [{"role": "user", "content": "q"}, {"role": "assistant", "content": " r END"}]
    assert tokenizer.apply_chat_template(taught, tokenize=False).endswith(" r END</s>")
    parts = [{"role": "user", "content": [{"type": "text", "text": "q"}]}]
    for refused in ([{"role": "system", "content": "s"}, *taught[:1]], [*taught, taught[0]], parts):
        with pytest.raises(Exception, match="one user message"):
            tokenizer.apply_chat_template(refused)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "hff"], "--to: no format 'hff'"),
        (["--to", "hf", "--push", "me/x"], "are for --to hub"),
        (["--to", "hf", "--converter", "x"], "--converter is for --to gguf"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    cli.main(["export", str(tmp_path), *words], leave=codes.append)
    assert codes == [2]
    assert message in capsys.readouterr().err


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml"):
        export(tmp_path, "hf", tmp_path / "out")
