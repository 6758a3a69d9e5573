"""What a user installs: wheel and sdist as they are built, in environments that have what they declare and no more.

An environment is a venv of links into this one: the packages that the wheel's metadata names, and what those name.
So these tests need no network. That the declared ranges resolve on an index is tried by `make dist`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cotdistill import __version__
from tiny import tiny_model

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/cotdistill"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel, built from the sdist as an installer does, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t"]
    subprocess.run([*build, "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    subprocess.run([*build, "wheel"], cwd=folder / sdist.name.removesuffix(".tar.gz"), check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel, sdist


@pytest.fixture(scope="module")
def wheel(built: tuple[Path, Path]) -> Path:
    return built[0]


def declared(wheel: Path, extra: str = "") -> set[str]:
    """The distributions that `wheel[extra]` needs, and all that those need, of the ones installed here."""
    found: set[str] = set()

    def follow(requirements: list[str] | None, extras: set[str]) -> None:
        for requirement in map(Requirement, requirements or ()):
            wanted = requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in extras | {""})
            name = canonicalize_name(requirement.name)
            if wanted and name != "cotdistill" and not {name, *(f"{name}[{e}]" for e in requirement.extras)} <= found:
                found.update({name, *(f"{name}[{e}]" for e in requirement.extras)})
                follow(distribution(name).requires, set(requirement.extras))

    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        follow(Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist"), {extra})
    return {name for name in found if "[" not in name}


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def install(wheel: Path, folder: Path, extra: str = "") -> Command:
    """`wheel` in an environment of its own; returns its `cotdistill`."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in declared(wheel, extra):
        one = distribution(name)
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(one.locate_file(top))).resolve())
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        program = [str(folder / "bin/cotdistill"), *words]
        return subprocess.run(program, capture_output=True, text=True, check=False, cwd=folder, env=env)

    return command


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("core")
    command = install(wheel, folder / "venv")
    (folder / "venv/mine.jsonl").write_text('{"question": "What is 2 plus 3?", "answer": 5}\n' * 4)
    (folder / "venv/outputs.jsonl").write_text('{"output": "2 + 3 = 5. --> 5", "answer": 5}\n')
    return command


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    there = {f"cotdistill/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*") if path.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {n for n in there if "__pycache__" not in n}
    assert {"cotdistill/py.typed", "cotdistill/quickstart.yaml", "cotdistill/recorded/word_problems.sqlite"} <= names
    assert wheel.stat().st_size < 2**20


def test_the_sdist_holds_what_git_has_and_nothing_else(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()} - {"PKG-INFO"}
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a clone: there is no list of files to compare with")
    assert names == {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_metadata_is_whole(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        stem = f"cotdistill-{__version__}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{stem}/METADATA").decode())
        entry_points = archive.read(f"{stem}/entry_points.txt").decode()
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# cotdistill" in str(metadata.get_payload())
    assert "cotdistill = cotdistill.cli:main" in entry_points


WITHOUT_TORCH = [
    ("--version", 0, f"cotdistill {__version__}"),
    ("--help", 0, "Distil a large teacher"),
    ("tasks", 0, "word_problems"),
    ("init mine.jsonl", 0, "cotdistill.yaml"),
    ("score outputs.jsonl --answer-type number", 0, "1 correct"),
    ("curate task.train=10", 0, "runs/quickstart/pairs.jsonl"),
    ("doctor", 2, "Run: pip install 'cotdistill[train]'"),
    ("run task.train=10", 2, "pip install 'cotdistill[train]'"),
]


@pytest.mark.parametrize(("words", "code", "says"), WITHOUT_TORCH, ids=[row[0] for row in WITHOUT_TORCH])
def test_the_core_works_without_torch(core: Command, words: str, code: int, says: str) -> None:
    done = core(*words.split())
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_whole_run_works_with_the_train_extra(wheel: Path, tmp_path: Path) -> None:
    command = install(wheel, tmp_path / "venv", "train")
    student = tiny_model(tmp_path / "student", positions=2048)
    settings = ["task.train=12", "task.test=6", "student.steps=2", "evaluate.max_tokens=8"]
    done = command("run", *settings, f"student.model={student}", f"runs={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    assert command("verify", str(tmp_path / "runs/quickstart")).returncode == 0
