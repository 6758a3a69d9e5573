"""Cards: what they say is what the run's files say, Hugging Face reads them, and no text of others breaks them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from cotdistill.checksums import CARD
from cotdistill.config import load_quickstart
from cotdistill.curate import DROPPED, Curated
from cotdistill.errors import DataError
from cotdistill.models import sha256
from cotdistill.pages import make_manifest
from cotdistill.pipeline import run
from cotdistill.reports.cards import dataset_card, filters, ledger_of
from cotdistill.reports.markdown import block, code, front_matter, plain
from cotdistill.runs import Run
from test_pipeline import quick
from tiny import tiny_model

HOSTILE = [
    "<script>alert(1)</script>",
    "`<b>`",
    "a``b```c",
    "```\n# heading\n~~~",
    "---\nlicense: mit\n---",
    "[x](https://evil.example) ![y](z)",
    "| a | b |\n| --- | --- |",
    "*bold* _it_ &amp; \\",
    "\u202egnp.exe\x00\x1b[31m",
    "https://evil.example www.evil.example <https://evil.example>",
    "x" * 10_000,
    "",
    " ",
    "`",
]


def tokens(markdown: str) -> list[Token]:
    """All that a reader of Markdown finds, HTML and tables with it."""
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return [inner for token in parser.parse(markdown) for inner in (token, *(token.children or ()))]


def kinds(markdown: str) -> set[str]:
    return {token.type for token in tokens(markdown)}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_of_others_is_text(text: str) -> None:
    shown = code(text)
    (inner,) = [token for token in tokens(f"a {shown} b") if token.type == "code_inline"]
    assert kinds(f"a {shown} b") == {"paragraph_open", "inline", "text", "code_inline", "paragraph_close"}
    assert len(inner.content) < 400
    (fenced,) = tokens(block(text))
    assert fenced.type == "fence"
    if text.isprintable() and len(text) < 1000:
        assert fenced.content == text + "\n"
        assert inner.content.strip() == text.strip()
    allowed = {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert kinds(f"- note: {plain(text)}") <= allowed | {
        f"{k}_{w}" for k in ("bullet_list", "list_item") for w in ("open", "close")
    }
    assert "https://" not in plain(text)
    assert "\u202e" not in shown + plain(text) + block(text)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_metadata_holds_any_text(text: str) -> None:
    yaml = pytest.importorskip("yaml")
    head, body = front_matter({"pretty_name": text, "license": "unknown"}).removeprefix("---\n").split("\n---\n")
    assert body == ""
    assert yaml.safe_load(head) == {"pretty_name": text, "license": "unknown"}


def test_filters_add_up_or_are_refused() -> None:
    dropped = dict.fromkeys(DROPPED, 1)
    ledger: dict[str, Any] = {"asked": 20, "failed": 2, "kept": 18 - len(DROPPED), "dropped": dropped}
    rows = [line.split("|")[1:3] for line in filters(ledger).splitlines()[2:]]
    numbers = [int(n) for _, n in rows]
    assert numbers[0] == sum(numbers[1:])
    assert all(line.split("|")[3].strip() for line in filters(ledger).splitlines()[3:-1]), "each reason is explained"
    this = Run(load_quickstart(), None, None, Curated(Path(), {**ledger, "kept": 1}))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="not the sum"):
        ledger_of(this)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    return run(quick(tiny_model(runs / "base", positions=2048), runs))


@pytest.mark.slow
def test_hugging_face_reads_them(finished: Run) -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.DatasetCard.load(finished.folder / CARD).data
    assert data.license == "unknown"
    assert data.size_categories == ["n<1K"]
    for config in data.configs:
        assert (finished.folder / config["data_files"]).is_file()
    student = hub.ModelCard.load(finished.folder / "student/fine_tune_cot-0" / CARD).data
    assert student.library_name == "transformers"
    (result,) = student.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", finished.results[-1].accuracy)
    for path in (finished.folder / CARD, finished.folder / "student/fine_tune-0" / CARD):
        assert hub.repocard.metadata_load(path)["license"] == "unknown"


@pytest.mark.slow
def test_the_pairs_card_says_what_the_files_say(finished: Run) -> None:
    text = (finished.folder / CARD).read_text()
    ledger = json.loads((finished.folder / "ledger.json").read_text())
    manifest = json.loads((finished.folder / "manifest.json").read_text())
    for name, n in {"asked": ledger["asked"], **ledger["dropped"]}.items():
        assert f"{name} | {n} |" in text
    for said in (manifest["task"]["sha256"], manifest["teachers"][0]["revision"], "Apache-2.0", "provider may bind"):
        assert said in text
    fences = [token.content for token in tokens(text) if token.type == "fence"]
    assert "Q: {question}\nA: Let's think step by step.\n" in fences
    assert "\nTherefore, the answer is\n" in fences
    assert finished.curated is not None
    assert f"{finished.curated.pairs[0].completion}\n" in fences
    for result in json.loads((finished.folder / "result.json").read_text())["results"]:
        accuracy, low, high = (f"{100 * result[name]:.1f}%" for name in ("accuracy", "low", "high"))
        seed = "-" if result["seed"] is None else result["seed"]
        assert f"| `{result['method']}` | {seed} | {accuracy} | {low} to {high} | {result['n']} |" in text


@pytest.mark.slow
def test_a_students_card_is_of_that_student(finished: Run) -> None:
    cards = {name: (folder / CARD).read_text() for name, folder in finished.students.items()}
    for name, text in cards.items():
        weights = json.loads((finished.students[name] / "complete.json").read_text())["weights"]
        assert all(digest in text for digest in weights.values())
        assert "{question} ###\n" in [token.content for token in tokens(text) if token.type == "fence"]
        assert "steps 2" in text
    assert "## Filters" in cards["fine_tune_cot-0"]
    assert "## Filters" not in cards["fine_tune-0"], "it had no teacher"
    assert "terms of the teacher" not in cards["fine_tune-0"]


@pytest.mark.slow
def test_the_best_epoch_on_the_test_set_is_told_from_the_weights_beside(base: Path, tmp_path: Path) -> None:
    paper = {"student.select": "paper", "student.steps": 0, "student.epochs": 2, "evaluate.methods": ["fine_tune"]}
    this = run(quick(base, tmp_path, **paper))
    folder = this.students["fine_tune-0"]
    text = (folder / CARD).read_text()
    (measured,) = folder.glob("epochs/*/model.safetensors")
    assert f"The accuracy is that of `epochs/{measured.parent.name}`" in text
    for path in (folder / "model.safetensors", measured):
        assert f"| `{path.relative_to(folder)}` | `{sha256(path)}` |" in text


@pytest.mark.slow
def test_running_again_changes_no_byte_and_no_student(finished: Run) -> None:
    paths = [*finished.folder.rglob(CARD), finished.folder / "SHA256SUMS"]
    assert len(paths) == 4
    before = {path: path.read_bytes() for path in paths}
    weights = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")}
    run(finished.config)
    assert {path: path.read_bytes() for path in paths} == before
    assert {path: path.stat().st_mtime_ns for path in finished.folder.rglob("*.safetensors")} == weights


@pytest.mark.slow
def test_the_command_has_no_password(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["cotdistill", "run", "teacher.base_url=https://me:p@ss:word@host/v1", "teacher.stop=[\n]"]
    monkeypatch.setattr(sys, "argv", words)
    manifest = make_manifest(finished)
    assert manifest["command"] == "cotdistill run teacher.base_url=https://...@host/v1 'teacher.stop=[\n]'"
    assert "ss:word" not in dataset_card(finished, manifest)


@pytest.mark.slow
def test_a_hostile_run_makes_whole_cards(tmp_path: Path) -> None:
    """Questions, rationales, the names of a file and of a model: all are somebody else's."""
    hub = pytest.importorskip("huggingface_hub")
    base = tiny_model(tmp_path / "<img src=x onerror=alert(1)> `b` | [c](d)", positions=2048)
    data = tmp_path / "--- # `x` <b> [y](z) |.jsonl"
    rows = [
        {"question": f"{i}: {text[:200]} How many is {i}?", "answer": i, "rationale": f"{text[:200]}\n```\n# {i}\n<b>"}
        for i, text in enumerate(HOSTILE)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"task.data": str(data), "task.answer_type": "number", "task.rationale": "rationale", "task.train": None}
    options = {"task.test": None, "evaluate.methods": ["fine_tune_cot"], "teacher.style": "human"}
    folder = run(quick(base, tmp_path / "runs", **own, **options)).folder
    for path, kind in ((folder / CARD, hub.DatasetCard), (folder / "student/fine_tune_cot-0" / CARD, hub.ModelCard)):
        assert kind.load(path).data.license == "unknown"
        text = path.read_text().split("\n---\n", 1)[1]
        found = tokens(text)
        assert not {"html_block", "html_inline", "image"} & kinds(text)
        links = {token.attrs["href"] for token in found if token.type == "link_open"}
        assert links == {"https://arxiv.org/abs/2212.10071"}
        titles = [found[i + 1].content for i, token in enumerate(found) if token.type == "heading_open"]
        assert titles[-1] == "Limits"
        assert len(titles) == len(set(titles)) <= 11
        assert not {c for c in text if not c.isprintable()} - {"\n"}
