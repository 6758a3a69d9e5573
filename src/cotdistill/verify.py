"""Whether a finished run is what it says: every file hashed, and every number made again from the raw text.

    for check in verify(Path("runs/quickstart")):
        print(check.state, check.name, check.found)

Nobody is asked, nothing is trained or bought, and nothing in the folder is written. A file that is not as it was
written is named; what follows from it is then not checked, and that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cotdistill import evidence
from cotdistill.checksums import SUMS, covered, not_covered, read_sums
from cotdistill.config import load_config
from cotdistill.errors import BackendError, ConfigError, CotdistillError, DataError
from cotdistill.evidence import GENERATIONS, LEDGER, MANIFEST, PAIRS, RESULT, Differs, Evidence, Unknown
from cotdistill.methods import Method
from cotdistill.models import COMPLETE, EMBEDDED, model_identity, sha256
from cotdistill.pages import task_sha256
from cotdistill.runs import label, read_json, saved_run, students
from cotdistill.store import Store
from cotdistill.tasks import Task

CONFIG = "config.yaml"
State = Literal["ok", "BAD", "not checked"]
Look = tuple[str, tuple[str, ...], Callable[[], str]]  # a file, those that it follows from, and how it is looked at


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `name` is the file it is about."""

    name: str
    state: State
    found: str


def verify(folder: Path) -> list[Check]:
    """All checks of the run in `folder`. Raises `DataError` where it is no finished run."""
    folder = folder.absolute()
    sums, whole = read_sums(folder)
    checks = [
        Check(SUMS, "ok", f"{len(sums)} files are listed")
        if whole
        else Check(SUMS, "BAD", "it is not as it was written: files it names may be as they were")
    ]
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in covered(folder)}
    changed = [*_changed(sums, digests)]
    checks += changed
    if not changed:
        checks.append(Check("files", "ok", f"{len(sums)} have the SHA-256 that they were written with"))
    unlisted = [*not_covered(folder), *(name for name in digests if name not in sums)]
    if unlisted:
        checks.append(Check("files", "not checked", f"not covered: {', '.join(unlisted)}"))
    bad = {check.name for check in changed}
    with TemporaryDirectory(prefix="cotdistill-") as work:
        checks += _remade(folder, Path(work), digests, bad)
    return checks


def _changed(sums: Mapping[str, str], digests: Mapping[str, str]) -> Iterator[Check]:
    for name, digest in sums.items():
        if name not in digests:
            yield Check(name, "BAD", "it is gone")
        elif digests[name] != digest:
            yield Check(name, "BAD", f"it has changed: its SHA-256 is {digests[name][:12]}..., not {digest[:12]}...")


def _remade(folder: Path, work: Path, digests: Mapping[str, str], bad: set[str]) -> Iterator[Check]:
    """What comes out anew, compared with each file."""
    if CONFIG in bad or CONFIG not in digests:
        yield Check("the rest", "not checked", f"it follows from {CONFIG}")
        return
    try:
        config = load_config(folder / CONFIG)
    except CotdistillError as error:
        yield Check(CONFIG, "BAD", _first_line(error))
        return
    place = next((path for path in (config.store_path, folder.parent / "store.sqlite") if path.is_file()), None)
    if place and (fault := _fault(place)):
        yield Check("store", "BAD", fault)
        place = None
    try:
        with saved_run(folder, place) as this:
            if MANIFEST not in bad:
                yield (found := _task(folder, this.task))
                if found.state == "BAD":
                    return
                yield from _base(folder, config.student.model)
            looks = _looks(Evidence(this, config, digests, work, place), bad)
            yield from filter(None, (_check(*look, digests, bad) for look in looks))
    except CotdistillError as error:  # such as no task, or no word of the student's kind
        yield Check("the rest", "not checked", _first_line(error))
    except (LookupError, TypeError) as error:  # before any file is looked at
        yield Check(MANIFEST, "BAD", _malformed(error))


def _fault(store: Path) -> str:
    try:
        Store(store, read_only=True).close()
    except DataError as error:
        return _first_line(error)
    return ""


def _task(folder: Path, task: Task) -> Check:
    """All else follows from the questions."""
    sha, written = task_sha256(task), read_json(folder / MANIFEST)["task"]["sha256"]
    if sha != written:
        return Check("task", "BAD", f"its questions are not those of the run: {sha[:12]}..., not {written[:12]}...")
    return Check("task", "ok", f"{len(task.train):,} and {len(task.test):,} questions of SHA-256 {sha[:12]}...")


def _base(folder: Path, model: str) -> Iterator[Check]:
    """The base model, where it is a folder that is here."""
    if model != EMBEDDED and Path(model).is_dir():
        found, trained = model_identity(model), read_json(folder / MANIFEST)["student"]
        if found == trained:
            yield Check("base model", "ok", f"{model} is the one that was trained")
        else:
            yield Check("base model", "BAD", f"{model} is not what it was: {found}, and the run had {trained}")


def _looks(e: Evidence, bad: set[str]) -> Iterator[Look]:
    """Each file that can be made again, the files it is made of, and how."""
    trained = [(method, seed, f"student/{label(method, seed)}/{COMPLETE}") for method, seed in students(e.this)]
    yield MANIFEST, tuple(mark for *_, mark in trained), partial(evidence.manifest_agrees, e)
    if e.this.needs_teacher:
        yield GENERATIONS, (MANIFEST,), partial(evidence.generations_agree, e)
        yield PAIRS, (GENERATIONS,), partial(evidence.pairs_agree, e)
        yield LEDGER, (GENERATIONS, PAIRS), partial(evidence.ledger_agrees, e)
    for method, seed, mark in trained:
        weights = (name for name in bad if name.startswith(str(Path(mark).parent)) and name.endswith(".safetensors"))
        reads = (MANIFEST, *([PAIRS] * method.learns_rationale), *weights)
        yield mark, reads, partial(evidence.student_agrees, e, method, seed)
    every: list[tuple[Method, int | None, tuple[str, ...]]] = [
        *((method, None, ()) for method in e.this.methods.values() if not method.trained),
        *(
            (method, seed, (f"student/{label(e.this.known_methods[method.taught_as], seed)}/{COMPLETE}",))
            for method in e.this.methods.values()
            if method.trained
            for seed in e.this.config.student.seeds
        ),
    ]
    of_result = (RESULT,) if e.config.student.select == "paper" else ()  # which epoch it was
    for asked, its_seed, marks in every:
        reads = (MANIFEST, *marks, *of_result)
        yield _file(asked, its_seed), reads, partial(evidence.predictions_agree, e, asked, its_seed)
    compared = [(asked, its_seed) for asked, its_seed, _ in every]
    files = tuple(_file(asked, its_seed) for asked, its_seed in compared)
    yield RESULT, files, partial(evidence.results_agree, e, compared)


def _file(method: Method, seed: int | None) -> str:
    return f"predictions/{label(method, seed)}.jsonl"


def _check(
    name: str, reads: Sequence[str], look: Callable[[], str], digests: Mapping[str, str], bad: set[str]
) -> Check | None:
    """The check of one file; None where its hash has said it all."""
    if name not in digests:
        return None if name in bad else Check(name, "BAD", "it is missing, and the config asks for it")
    if lacking := [other for other in reads if other in bad or other not in digests]:
        return Check(name, "not checked", f"it follows from {lacking[0]}")
    try:
        found = look()
    except Differs as error:
        return Check(name, "BAD", str(error))
    except (Unknown, ConfigError, BackendError) as error:
        return Check(name, "not checked", _first_line(error))
    except DataError as error:
        return Check(name, "BAD", _first_line(error))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        return Check(name, "BAD", _malformed(error))
    return None if name in bad else Check(name, "ok", found)


def _malformed(error: Exception) -> str:
    return f"it is not in the form in which a run writes it ({type(error).__name__}: {error})"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
