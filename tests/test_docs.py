"""The documents hold what they say: commands parse, links and trees exist, configs load."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main
import yaml

from cotdistill import __version__
from cotdistill.cli import app, main, read_config
from cotdistill.sweeps.sweep import grid

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)


GROUP = typer.main.get_command(app)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(word: str) -> list[list[str]]:
    """The command lines of all documents that begin with `word`, comments left out."""
    lines = [
        line
        for document in DOCUMENTS
        for block in blocks(document.read_text(), "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    split = dict.fromkeys(tuple(shlex.split(line, comments=True)) for line in lines)
    return [list(words) for words in split if words and words[0] == word]


@pytest.mark.parametrize("words", commands("cotdistill"), ids=" ".join)
def test_every_command_parses(words: list[str]) -> None:
    if words[1].startswith("--"):
        return  # such as --version: test_docs_commands.py runs it
    context = GROUP.make_context("cotdistill", words[1:2], resilient_parsing=False)
    command = GROUP.get_command(context, words[1])  # type: ignore[attr-defined]
    assert command is not None, words
    parsed = command.make_context(words[1], words[2:]).params
    overrides = [word for word in parsed.get("arguments") or [] if "=" in word]
    if overrides:
        read_config(overrides)


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_every_make_target_is_there(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in words[1:]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("block", [b for d in DOCUMENTS for b in blocks(d.read_text(), "yaml")])
def test_every_config_loads(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    assert isinstance(yaml.safe_load(block), dict)
    (tmp_path / "config.yaml").write_text(block)
    if "grid" in yaml.safe_load(block):
        assert grid(tmp_path / "config.yaml", {})
    else:
        read_config([str(tmp_path / "config.yaml")])


@pytest.mark.slow
def test_the_sweep_of_the_document_says_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs/sweeps.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("pool.yaml").write_text(blocks(text, "yaml")[0])
    with pytest.raises(SystemExit) as end:
        main(shlex.split(blocks(text, "bash")[0])[1:])
    assert end.value.code == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for line in blocks(text, "text")[0].splitlines():
        assert line == "..." or line in printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_tree_is_the_one_on_the_disk() -> None:
    (tree,) = blocks(CONTRIBUTING, "text")
    root, *lines = tree.splitlines()
    named = {name for line in lines for name in re.findall(r"\w+(?:\.py|/)", line)}
    package = ROOT / root.strip()
    there = {f"{p.name}/" if p.is_dir() else p.name for p in package.iterdir() if not p.name.startswith("__")}
    assert {name for name in there if name.endswith((".py", "/"))} - {"recorded/"} == named


def test_a_file_imports_those_above_it_in_the_tree() -> None:
    """A function may import what stands below: that is loaded when it is called."""
    (tree,) = blocks(CONTRIBUTING, "text")
    root, *lines = tree.splitlines()
    order = [re.sub(r"\.py|/", "", name) for line in lines for name in re.findall(r"\w+(?:\.py|/)", line)]
    for path in (ROOT / root.strip()).rglob("*.py"):
        own = path.relative_to(ROOT / root.strip()).parts[0].removesuffix(".py")
        imported = re.findall(r"^from cotdistill\.(\w+)|^from cotdistill import (.+)$", path.read_text(), re.MULTILINE)
        names = {name.strip() for one in imported for name in ",".join(one).split(",")} & {*order} - {own}
        if own in order:
            assert all(order.index(name) < order.index(own) for name in names), (path, names)


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 700
    assert len(CONTRIBUTING.splitlines()) <= 100


def test_version_and_changelog() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    entries = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert entries[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", entry) for entry in entries[1:]]
    assert all(released), entries
    assert [match[1] for match in released if match][:1] in ([], [__version__])
    kinds = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_container_is_made_of_files_that_are_let_in_and_runs_without_root() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in lines if re.match(r"COPY (?!--)", line) for name in line.split()[1:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1:] == ["1000"], "a number, so that a host can see that it is not root"
    assert 'ENTRYPOINT ["cotdistill"]' in lines
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|SECRET)", "\n".join(lines), re.MULTILINE)
