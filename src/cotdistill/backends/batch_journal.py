"""What was submitted to a batch API, noted so that a killed run finds it again: one JSON object a line.

    journal = Journal(path)
    entry = journal.add(file_id, ids)        # before the batch is made
    journal.name(entry, batch_id)            # as soon as it is
    journal.end(entry, failed)               # when its output was read

A line is on the disk when its call returns. Lines of one nonce make one entry, a later one adding to
those before it; a last line that was cut short never happened.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotdistill.errors import DataError
from cotdistill.records import write_atomic

KEEP_SECONDS = 30 * 86400  # OpenAI deletes the files of a batch then


@dataclass(eq=False)
class Entry:
    """One batch: the uploaded `file` of the requests `ids`, and what became of it.

    `nonce` stands in its metadata. `failed` are those of its requests that it brought no completion
    for, once it is `done`.
    """

    nonce: str
    file: str
    ids: list[str]
    time: float  # seconds since 1970
    batch: str = ""
    done: bool = False
    failed: set[str] = field(default_factory=set)


class Journal:
    """The entries of the file at `path`, made at its first line.

    Raises `DataError` where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Entry] = {}
        self._holder: dict[str, Entry] = {}  # by request: the latest that has it
        for entry in self._read():
            self._take(entry)

    def holding(self, request: str) -> Entry | None:
        """The batch that a request waits for: it was submitted, and its completion is still to be had there.

        One that was read already may hold it too, where the completion was lost on its way to the store.
        """
        entry = self._holder.get(request)
        return None if entry is None or (entry.done and request in entry.failed) else entry

    def add(self, file: str, ids: list[str]) -> Entry:
        """Note an uploaded file that a batch is about to be made of."""
        entry = Entry(secrets.token_hex(16), file, ids, time.time())
        self._write({"nonce": entry.nonce, "file": file, "ids": ids, "time": entry.time})
        self._take(entry)
        return entry

    def name(self, entry: Entry, batch: str) -> None:
        """Note the batch that was made."""
        self._write({"nonce": entry.nonce, "batch": batch})
        entry.batch = batch

    def end(self, entry: Entry, failed: Collection[str]) -> None:
        """Note that a batch has given all it had: of all its requests but the `failed` ones."""
        failed = entry.failed.union(failed)
        self._write({"nonce": entry.nonce, "done": True, "failed": sorted(failed)})
        entry.done, entry.failed = True, failed

    def _take(self, entry: Entry) -> None:
        self._entries[entry.nonce] = entry
        self._holder |= dict.fromkeys(entry.ids, entry)

    def _read(self) -> list[Entry]:
        """The entries of the file, which is left without those that are too old and without a cut line."""
        lines: dict[str, dict[str, Any]] = {}
        with errors_named(self.path):
            if not self.path.exists():
                return []
            whole, _, cut = self.path.read_bytes().rpartition(b"\n")
            for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
                try:
                    value = json.loads(line)
                    lines.setdefault(value["nonce"], {}).update(value)
                except (ValueError, TypeError, LookupError):
                    raise DataError(
                        f"{self.path}, line {number}: not a note of a batch.\nTake the file from a backup, or remove "
                        "it to submit anew what its batches were asked."
                    ) from None
            try:
                entries = [Entry(**{**value, "failed": set(value.get("failed", ()))}) for value in lines.values()]
                fresh = [e for e in entries if not (e.done and time.time() - e.time > KEEP_SECONDS)]
            except TypeError as error:
                raise DataError(f"{self.path}: not notes of batches ({error}).") from None
            if cut or len(fresh) < len(entries):
                text = [json.dumps({**vars(entry), "failed": sorted(entry.failed)}) + "\n" for entry in fresh]
                write_atomic(self.path, "".join(text))
        return fresh

    def _write(self, value: dict[str, Any]) -> None:
        with errors_named(self.path):
            new = not self.path.exists()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                rest = memoryview(json.dumps(value).encode() + b"\n")
                while rest:
                    rest = rest[os.write(file, rest) :]
                os.fsync(file)
            finally:
                os.close(file)
            if new:  # so that its name is on the disk as well
                folder = os.open(self.path.parent, os.O_RDONLY)
                os.fsync(folder)
                os.close(folder)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """What the file system says, as a `DataError` that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{path}: what goes to a batch API cannot be kept here ({error}).\nCheck the path, the disk and the rights."
        ) from None
