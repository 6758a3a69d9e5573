"""A student's folder to the Hugging Face hub: listed first, and sent only to a repository that was named.

for line in send(Path("exports/quickstart-hub/fine_tune_cot-0"), Target("me/student", dry_run=True)):
    print(line)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotdistill.errors import BackendError, ConfigError, DataError, missing_extra
from cotdistill.exports.job import Student
from cotdistill.models import sha256

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


@dataclass(frozen=True)
class Target:
    """Where a student goes: "owner/name", or "": nowhere, it is listed. Private, unless `public`."""

    repository: str = ""
    dry_run: bool = False
    public: bool = False

    def of(self, students: tuple[Student, ...]) -> Target:
        """Checked, for these students."""
        if len(students) > 1:
            names = ", ".join(student.name for student in students)
            raise ConfigError(f"--to hub: a repository has one student. Add --student, one of {names}.")
        if self.repository and not NAME.fullmatch(self.repository):
            raise ConfigError(f"--push: {self.repository!r} is no repository, such as me/my-student.")
        if self.public and not self.repository:
            raise ConfigError("--public needs --push OWNER/NAME.")
        if self.repository and not self.dry_run:
            _token()  # before the minutes that an export takes
        return self if self.repository else replace(self, dry_run=True)


def send(folder: Path, target: Target) -> list[str]:
    """List a folder's files, and send just those unless it is a dry run. Returns the lines, for a person.

    The token is `HF_TOKEN` and nothing else. Raises `ConfigError` without it, and before anything is sent to a public
    repository that was not said to be public; `BackendError` where the hub refuses.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): (path.stat().st_size, sha256(path)) for path in files}
    lines = [f"{size:>14,}  {digest}  {name}" for name, (size, digest) in found.items()]
    lines.append(f"{sum(size for size, _ in found.values()):>14,}  bytes in {len(found)} files, of {folder.absolute()}")
    kind = "public" if target.public else "private"
    where = (
        f"{target.repository} ({kind}) at {endpoint()}" if target.repository else "nowhere: name it, --push OWNER/NAME"
    )
    if target.dry_run:
        return [*lines, f"dry run, nothing was sent. To: {where}"]
    return [*lines, f"sent to {where}", _push(folder, target, found)]


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _token() -> str:
    token = os.environ.get("HF_TOKEN", "")
    if not token:
        raise ConfigError("--push needs the environment variable HF_TOKEN, a token that may write. Nothing was sent.")
    return token


def _push(folder: Path, target: Target, found: dict[str, tuple[int, str]]) -> str:
    token = _token()
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HTTPError  # of its HTTP library, whichever that is
    except ImportError:
        raise missing_extra("huggingface_hub", "train") from None
    api = HfApi(endpoint=endpoint(), token=token)
    try:
        api.create_repo(target.repository, private=not target.public, exist_ok=True)
        if not api.repo_info(target.repository).private and not target.public:
            raise ConfigError(f"{target.repository}: it is public. Nothing was sent; add --public if it is to be.")
        operations = [CommitOperationAdd(name, str(folder / name)) for name in found]
        commit = api.create_commit(target.repository, operations, commit_message="cotdistill export")
        _refuse_other_files(api, target.repository, commit.oid, found)
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: of its uploader
        said = " ".join(f"{error} {error.__cause__ or ''}".split()) or type(error).__name__
        reason = said.replace(token, "***")
        raise BackendError(f"{target.repository}: the hub at {endpoint()} did not take it: {reason[:300]}") from None
    return f"{endpoint()}/{target.repository}"


def _refuse_other_files(api: Any, repository: str, commit: str, found: dict[str, tuple[int, str]]) -> None:
    """Raise `DataError` unless the hub has the files at that commit: their sizes, and hashes where it tells them."""
    there = {info.path: info for info in api.get_paths_info(repository, list(found), revision=commit)}
    for name, (size, digest) in found.items():
        info = there.get(name)
        if info is None or info.size != size or (info.lfs and info.lfs.sha256 != digest):
            raise DataError(f"{repository}: {name} is not at the hub as it was sent. Look there, and push again.")
