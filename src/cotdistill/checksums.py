"""What the files of a finished run hold: SHA256SUMS, which `sha256sum -c` reads too, written last of all.

write_sums(folder)
sums, own = read_sums(folder)   # by path; whether SHA256SUMS itself is as it was written
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cotdistill.errors import DataError
from cotdistill.models import COMPLETE, sha256
from cotdistill.records import write_atomic

SUMS = "SHA256SUMS"
CARD = "README.md"
HEAD = "# sha256 of the lines below: "


def write_sums(folder: Path) -> None:
    """Hash every file of a run, but those of a student that is the same: what was damaged since is not made right."""
    before = read_sums(folder)[0] if (folder / SUMS).is_file() else {}
    sums: dict[str, str] = {}
    for path in covered(folder):
        name = path.relative_to(folder).as_posix()
        sums[name] = before[name] if name in before and _same_student(folder, path, before) else sha256(path)
    _write(folder, sums)


def renew(folder: Path, name: str) -> None:
    """Take up one file that was written anew, and leave the rest as it stands; nothing where there is no sound list."""
    sums, whole = read_sums(folder) if (folder / SUMS).is_file() else ({}, False)
    if whole and name in sums:
        _write(folder, sums | {name: sha256(folder / name)})


def read_sums(folder: Path) -> tuple[dict[str, str], bool]:
    """The digest of each file by its path in `folder`, and whether the list itself is as it was written.

    Raises `DataError` where there is none.
    """
    try:
        text = (folder / SUMS).read_bytes().decode(errors="replace")
    except OSError as error:
        raise DataError(
            f"{folder}: {SUMS} cannot be read ({error.strerror}), so this is no finished run.\n"
            "Name the folder of a run that has its report.html; `cotdistill report CONFIG` finishes one."
        ) from None
    head, _, lines = text.partition("\n")
    found = re.findall(r"^([0-9a-f]{64})  (.+)$", lines, re.MULTILINE)
    return {name: digest for digest, name in found}, head == f"{HEAD}{_digest(lines)}"


def covered(folder: Path) -> Iterator[Path]:
    """The files that are hashed, in order."""
    return (path for path in _files(folder) if not _passing(path.relative_to(folder)))


def not_covered(folder: Path) -> list[str]:
    """The files that are not, by their paths in `folder`."""
    return [path.relative_to(folder).as_posix() for path in _files(folder) if _passing(path.relative_to(folder))]


def _write(folder: Path, sums: Mapping[str, str]) -> None:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    write_atomic(folder / SUMS, f"{HEAD}{_digest(lines)}\n{lines}")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / SUMS)


def _passing(path: Path) -> bool:
    """Locks, logs of trackers, unfinished trainings; and names that a line cannot hold."""
    logs = path.parts[:2] == ("student", "logs")
    hidden = any(part.startswith(".") or part.endswith(".unfinished") for part in path.parts)
    return logs or hidden or not path.as_posix().isprintable() or "\\" in path.name


def _same_student(folder: Path, path: Path, before: dict[str, str]) -> bool:
    top, *rest = path.relative_to(folder).parts
    if top != "student" or len(rest) < 2 or path.name == CARD:
        return False
    mark = Path(top, rest[0], COMPLETE)
    return (folder / mark).is_file() and before.get(mark.as_posix()) == sha256(folder / mark)


def _digest(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()
