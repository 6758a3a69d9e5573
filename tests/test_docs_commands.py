"""Every command of the documents is run as it stands, in a folder made ready for it, or stands below with a reason.

A new command needs a row in COMMANDS. What is added to one keeps it small: a tiny student, a server on loopback.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cotdistill.cli import main
from servers import start_server
from test_docs import DOCUMENTS, ROOT, blocks
from test_pipeline import write_questions
from tiny import tiny_model


@dataclass(frozen=True)
class Runs:
    """What it prints, stdout or stderr, and what is added to it: {student}, {server}."""

    says: str
    more: str = ""
    fast: bool = False  # it needs no finished run and no server, and no scipy: half a second at most


TINY = "task.train=12 task.test=12 student.model={student} student.steps=2 evaluate.max_tokens=8"
SUMS = "task.data=my.jsonl task.answer_type=number teacher.base_url={server} limits.concurrency=4"
JUDGE = f"{TINY} judge.model=j judge.base_url={{server}}"  # a tiny student's texts are noise, to it too
MADE = "it makes the environment that the tests run in"
CHECKS = "it runs these tests"
INDEX = "it installs from an index; tests/test_dist.py installs the wheel with what it declares"
RAY = "Ray's own warnings would be errors here; tests/test_cluster.py has a whole run"
BUCKET = "tests/test_parts.py has one on loopback"
STORY = "test_the_tutorial runs its page from top to bottom"
SERVER = "another program, with a model of gigabytes"
PAPER = "the paper's data and some hours; test_docs.py reads its config"

COMMANDS: dict[str, Runs | str] = {
    # README, CONTRIBUTING, install
    "make run": "ten minutes; tests/test_quickstart.py runs what it runs",
    "make test": CHECKS,
    "make check": CHECKS,
    "make slow": CHECKS,
    "make setup": MADE,
    "make docs": "tests/test_site.py builds it",
    "make dist": INDEX,
    "cotdistill init my.jsonl": Runs("new.yaml", "--out new.yaml", fast=True),
    "cotdistill doctor cotdistill.yaml": Runs("ok  teacher"),
    "cotdistill run cotdistill.yaml": Runs("report.html"),
    "cotdistill generate cotdistill.yaml --dry-run": Runs("requests: at most"),
    "pip install 'cotdistill[train,report]'": INDEX,
    "cotdistill --version": Runs("cotdistill ", fast=True),
    "cotdistill doctor": Runs("ok  python", "student.model={student}"),
    "pipx run cotdistill curate task.train=8": INDEX,
    "uvx cotdistill curate task.train=8": INDEX,
    "pipx run --spec 'cotdistill[train]' cotdistill run": INDEX,
    "uvx --from 'cotdistill[train]' cotdistill run": INDEX,
    "docker build -f Containerfile -t cotdistill .": "it needs a container engine: the workflow has one",
    'docker run --rm -v "$PWD":/data --user "$(id -u)" cotdistill run cotdistill.yaml': "so does it",
    # tutorial
    "pip install 'cotdistill[train]'": INDEX,
    "python questions.py": STORY,
    "head -n 2 problems.jsonl": STORY,
    "cotdistill init problems.jsonl": STORY,
    "cotdistill evaluate cotdistill.yaml --plan": STORY,
    "cotdistill curate cotdistill.yaml": STORY,
    "head -n 1 runs/problems/pairs.jsonl": STORY,
    "cotdistill view runs/problems --disagree": STORY,
    "cotdistill report runs/problems --format md": STORY,
    "cotdistill verify runs/problems": STORY,
    # exporting, serving
    "cotdistill export runs/quickstart --to hf": Runs("vllm serve", "--student fine_tune_cot-0"),
    "cotdistill export runs/quickstart --to gguf --student fine_tune_cot-0": (
        "the tiny student's tokenizer is of another kind; tests/test_export_gguf.py writes and reads it"
    ),
    "cotdistill export runs/quickstart --to hub --student fine_tune_cot-0 --dry-run --push me/my-student": Runs(
        "model.safetensors"
    ),
    "cotdistill export runs/quickstart --to hub --student fine_tune_cot-0 --push me/my-student": (
        "it sends files to a hub; tests/test_export_hub.py has one on loopback"
    ),
    "cotdistill export runs/quickstart --to openai-jsonl": Runs("openai"),
    "cotdistill export runs/quickstart --to parquet --out pairs": Runs("read_parquet"),
    "export HF_TOKEN=...": "a key",
    'cotdistill ask runs/quickstart "Mia has 3 figs and buys 4. How many figs has she now?"': Runs(""),
    "cotdistill serve runs/quickstart --port 8000": "it serves until it is stopped; tests/test_serve.py runs it",
    # cluster
    "pip install 'cotdistill[ray,s3]'": INDEX,
    "ray start --head": "it stays; tests/test_cluster.py has nodes of its own",
    "cotdistill run my.yaml": RAY,
    "cotdistill run cluster.address=local cluster.workers=2": RAY,
    "cotdistill store copy runs/store.sqlite s3://bucket/completions": BUCKET,
    "cotdistill store copy s3://bucket/completions runs/store.sqlite": BUCKET,
    # errors, generation, page, sharing, statistics, training
    "cotdistill evaluate --judge 100": Runs("12 unreadable", JUDGE),
    "cotdistill evaluate --judge 100 --judge-method zero_shot_cot": Runs("12 unreadable", JUDGE),
    "cotdistill generate cotdistill.yaml --pilot 20": Runs("missing"),
    "cotdistill report": Runs("report.html", TINY),
    "cotdistill report runs/quickstart": Runs("report.html"),
    "cotdistill report runs/a runs/b": Runs("compare.html"),
    "cotdistill report runs/a runs/b --format md": Runs("| fine_tune_cot"),
    "cotdistill view runs/quickstart --disagree": Runs("questions"),
    "cotdistill view runs/quickstart word_problems-0-test-3": Runs("word_problems-0-test-3"),
    "hf upload me/my-student runs/NAME/student/fine_tune_cot-0": "it sends files to a hub",
    "hf upload me/my-pairs runs/NAME --repo-type dataset ...": "it sends files to a hub",
    "cotdistill verify runs/quickstart": Runs("result.json"),
    "pip install 'lm-eval[hf]>=0.4.13'": "make lm-eval",
    "cotdistill export runs/quickstart --to lm-eval --out lm-eval-task": Runs("lm_eval --model hf"),
    "lm_eval --model hf --model_args ...": "make lm-eval",
    "cotdistill evaluate --plan task.name=word_problems": Runs("150 test questions"),
    "torchrun --nproc-per-node 4 -m cotdistill run my.yaml": "four processes; tests/test_ranks.py runs two",
    # reproduction
    "for task in coin_flip ...": PAPER,
    "cotdistill sweep experiments/recorded_175b.yaml ...": PAPER,
    "python experiments/table.py runs/recorded_175b.sweep.json": PAPER,
    # sweeps
    "cotdistill sweep pool.yaml": "test_docs.py runs it, and compares its table",
    "cotdistill sweep pool.yaml --jobs 4 runs=runs/pool": Runs("429 of 640"),
    "cotdistill sweep pool.yaml --only pool-samples2-train80": Runs("114 of 160"),
    "cotdistill sweep pool.yaml --json": Runs('"runs"'),
    # teachers
    "cotdistill doctor teacher.backend=openai ...": Runs(
        "ok  teacher", "teacher.base_url={server} student.model={student}"
    ),
    "llama-server ...": SERVER,
    "vllm serve ...": SERVER,
    "python -m sglang.launch_server ...": SERVER,
    "OLLAMA_NUM_PARALLEL=8 OLLAMA_CONTEXT_LENGTH=4096 ollama serve": SERVER,
    "ollama pull qwen3:8b": SERVER,
    "cotdistill curate task.train=8 task.test=4 ...": Runs("pairs.jsonl", SUMS),
    "cotdistill generate task.train=8 task.test=4 teacher.backend=transformers ...": Runs(
        "generations.jsonl", "teacher.model={student} teacher.api=completions"
    ),
}


def commands_of(block: str) -> Iterator[str]:
    """The commands of a block on one line each, without comments and without the file that takes the output."""
    block = re.sub(r"^for .*?^done$", lambda loop: loop[0].replace("\n", "; "), block, flags=re.DOTALL | re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines():
        if words := re.sub(r"(^|\s+)#.*", "", " ".join(line.split())):
            yield re.sub(r" > \S+$", "", words)


def row_of(command: str) -> str | None:
    """The key of its row: itself, or the longest that ends in `...` and begins like it."""
    begins = [key for key in COMMANDS if key.endswith(" ...") and command.startswith(key.removesuffix(" ..."))]
    return command if command in COMMANDS else max(begins, key=len, default=None)


DOCUMENTED = {
    command: document.name
    for document in DOCUMENTS
    for language in ("bash", "sh")
    for block in blocks(document.read_text(), language)
    for command in commands_of(block)
}


def test_every_command_of_the_documents_is_run_or_has_a_reason() -> None:
    missing = {command: where for command, where in DOCUMENTED.items() if row_of(command) is None}
    assert missing == {}, "give each a row in COMMANDS: how it is run, or why it is not"
    assert COMMANDS.keys() - {row_of(command) for command in DOCUMENTED} == set(), "no document has these any more"


RUN = [(command, row) for command in DOCUMENTED if isinstance(row := COMMANDS.get(row_of(command) or ""), Runs)]


@dataclass(frozen=True)
class Place:
    """A folder as a reader of the documents has it, and what stands in for a large student and a server."""

    folder: Path
    student: Path
    server: str = ""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The files that a reader has before anything is run."""
    folder = tmp_path_factory.mktemp("reader")
    place = Place(folder / "here", folder / "student", "http://127.0.0.1:9/v1")
    place.folder.mkdir()
    write_questions(place.folder / "my.jsonl", 40)
    (place.folder / "pool.yaml").write_text(blocks((ROOT / "docs/sweeps.md").read_text(), "yaml")[0])
    write_config(place)
    return place


@pytest.fixture(scope="module")
def ready(files: Place) -> Iterator[Place]:
    """The same with a student, a server that answers, and runs that are done."""
    tiny_model(files.student, positions=2048)
    with start_server("--wrong-rate", "0.3") as server, pytest.MonkeyPatch.context() as patch:
        place = Place(files.folder.with_name("ready"), files.student, server.base_url)
        shutil.copytree(files.folder, place.folder)
        write_config(place)
        patch.chdir(place.folder)
        for name in ("quickstart", "a", "b"):
            assert do(["run", f"name={name}", *TINY.format(student=place.student).split()]) == 0
        yield place


def write_config(place: Place) -> None:
    """cotdistill.yaml for my.jsonl, of the place's server and student."""
    sections = {
        "name": "mine",
        "task": {"data": "my.jsonl", "answer_type": "number"},
        "teacher": {"model": "test", "base_url": place.server, "samples": 2, "max_tokens": 64},
        "limits": {"concurrency": 4},
        "student": {"model": str(place.student), "steps": 2},
        "evaluate": {"max_tokens": 8},
    }
    (place.folder / "cotdistill.yaml").write_text(yaml.safe_dump(sections))


def do(words: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        main(words)
    return int(end.value.code or 0)


def check(command: str, row: Runs, place: Place, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(place.folder, work, dirs_exist_ok=True)
    more = row.more.format(student=place.student, server=place.server).split()
    assert do([*shlex.split(command)[1:], *more]) == 0, capsys.readouterr()
    out, err = capsys.readouterr()
    assert row.says in out + err


@pytest.mark.parametrize(("command", "row"), [(c, r) for c, r in RUN if r.fast], ids=[c for c, r in RUN if r.fast])
def test_a_command_of_the_documents_that_is_fast(
    command: str,
    row: Runs,
    files: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    check(command, row, files, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "row"), [(c, r) for c, r in RUN if not r.fast], ids=[c for c, r in RUN if not r.fast]
)
def test_a_command_of_the_documents(
    command: str,
    row: Runs,
    ready: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    check(command, row, ready, tmp_path, capsys)


FENCED = re.compile(r"^```(python|bash|yaml|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial(
    ready: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom: its file is written, its sections go into the config, its commands print its lines."""
    monkeypatch.chdir(tmp_path)
    config = Path("cotdistill.yaml")
    tiny = {"model": str(ready.student), "steps": 2}
    printed = ""
    for language, block in FENCED.findall((ROOT / "docs/tutorial.md").read_text()):
        if language == "python":
            (name,) = re.findall(r"^# (\w+\.py)", block)
            Path(name).write_text(block)
        elif language == "yaml":
            sections = {**yaml.safe_load(config.read_text()), **yaml.safe_load(block)}
            if "base_url" in sections["teacher"]:
                sections["teacher"]["base_url"] = ready.server
            sections["student"] |= tiny
            sections["evaluate"]["max_tokens"] = 8
            config.write_text(yaml.safe_dump(sections))
        elif language == "text":
            assert [line for line in block.splitlines() if line not in printed] == []
        else:
            for command in commands_of(block):
                if isinstance(row := COMMANDS[row_of(command) or ""], str) and row == INDEX:
                    continue
                program, *words = shlex.split(command)
                if program == "cotdistill":
                    assert do(words) == 0, command
                else:
                    run = [sys.executable if program == "python" else program, *words]
                    subprocess.run(run, check=True)
            out, err = capfd.readouterr()
            printed = out + err
