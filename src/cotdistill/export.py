"""A run for other tools: FORMATS has one function each, which writes a folder, checks it, and says how to use it.

for command in export(Path("runs/quickstart"), "hf"):
    print(command)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from cotdistill import __version__
from cotdistill.config import nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.exports.gguf import to_gguf
from cotdistill.exports.hf import to_hf
from cotdistill.exports.hub import Target, send
from cotdistill.exports.job import Job, Made, Student
from cotdistill.exports.lm_eval import to_lm_eval
from cotdistill.exports.pairs import to_openai, to_parquet
from cotdistill.models import folder_when_whole, sha256
from cotdistill.runs import Run, label, read_json, result_folder, saved_run, students, write_json

FORMATS: dict[str, Callable[[Job], Made]] = {
    "hf": to_hf,
    "gguf": to_gguf,
    "hub": to_hf,  # then listed, or sent
    "openai-jsonl": to_openai,
    "parquet": to_parquet,
    "lm-eval": to_lm_eval,
}
OF_PAIRS = {"openai-jsonl", "parquet"}
MARK = "export.json"  # what an export wrote, so that the next one replaces nothing else


def export(
    folder: Path,
    form: str,
    out: Path | None = None,
    student: str = "",
    converter: Path | None = None,
    target: Target | None = None,
) -> list[str]:
    """Write a run in a `form` of FORMATS to `out`, None: exports/RUN-FORM here; returns the commands that use it.

    `student` is one of them, as in student/; "": all. `converter`: see Job. `target`: see hub.py. What fails its
    checks is not left there. Raises `ConfigError` where it would replace what it did not write, `DataError` where the
    export is not the trained student.
    """
    if form not in FORMATS:
        raise ConfigError(f"--to: no format {form!r}{nearest(form, FORMATS)}")
    if converter and form != "gguf":
        raise ConfigError("--converter is for --to gguf.")
    if converter and not converter.is_file():
        raise ConfigError(f"--converter: {converter}: no such file. Name llama.cpp's convert_hf_to_gguf.py.")
    if target and form != "hub":
        raise ConfigError("--push, --dry-run and --public are for --to hub.")
    with saved_run(folder) as this:
        asked = chosen(this, student) if form not in OF_PAIRS else ()
        if form == "hub":
            target = (target or Target()).of(asked)
        name = f"{this.config.name}{f'-{student}' if student else ''}-{form}"
        made, where = _written(this, form, asked, out or Path("exports") / name, converter)
        return send(where / asked[0].name, target) if target else made.commands


def chosen(this: Run, name: str) -> tuple[Student, ...]:
    """The students of a run, or the one of that name."""
    found = students(this)
    if not found:
        raise ConfigError(f"{this.folder}: this run trains no student (evaluate.methods), so there is none to export.")
    names = [label(method, seed) for method, seed in found]
    if name and name not in names:
        raise ConfigError(f"--student: no student {name!r}{nearest(name, names)}")
    return tuple(
        Student(own, method, seed, result_folder(this.folder, this.config, method.name, seed))
        for own, (method, seed) in zip(names, found, strict=True)
        if name in ("", own)
    )


def _written(this: Run, form: str, asked: tuple[Student, ...], out: Path, converter: Path | None) -> tuple[Made, Path]:
    with _place(out, form) as beside:
        made = FORMATS[form](Job(this, asked, beside, out, converter))
        files = {p.relative_to(beside).as_posix(): sha256(p) for p in sorted(beside.rglob("*")) if p.is_file()}
        facts = {"format": form, "run": this.config.name, "cotdistill": __version__, "checks": made.checks}
        write_json(beside / MARK, {**facts, "files": files})
    return made, out


@contextmanager
def _place(out: Path, form: str) -> Iterator[Path]:
    """A folder beside `out`, moved in at the end. Raises `ConfigError` where that would lose something."""
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.parent / f".{out.name}.lock", timeout=0):
            _refuse_foreign(out, form)
            with folder_when_whole(out) as beside:
                yield beside
    except TimeoutError:
        raise ConfigError(f"{out}: another export is writing it. Wait for it, or give another --out.") from None
    except OSError as error:
        if error.errno is None:  # not of the file system
            raise
        raise DataError(
            f"{out}: cannot be written ({error.strerror or error}).\n"
            "Check the path, the rights and the room on the disk; then run again."
        ) from None


def _refuse_foreign(out: Path, form: str) -> None:
    if not out.exists():
        return
    there = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()} if out.is_dir() else {"": out}
    if not there:
        return
    if MARK not in there or read_json(out / MARK).get("format") != form:
        raise ConfigError(f"{out}: there is something else than an export to {form}. Move it, or give another --out.")
    files = read_json(out / MARK, ["files"])["files"]
    for name, path in there.items():
        if name != MARK and (name not in files or sha256(path) != files[name]):
            raise ConfigError(
                f"{out}: {name} is not as the last export wrote it, and would be lost.\nMove it, or give another --out."
            )
