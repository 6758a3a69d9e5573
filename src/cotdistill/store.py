"""The store: every completion that was paid for, in one SQLite file, keyed by what was asked.

    with Store(path) as store:
        found = store.samples(pool.key(prompt))     # by sample
        ...
        store.write(rows)                           # durable when it returns

A key is the hash of a request's content (model, prompt, sampling parameters), so the same request is
the same rows for any run, in any order. A row counts only once it is committed (WAL,
synchronous=FULL); its checksum tells a row that was damaged since. Two processes may buy into one
store: `claim` gives a key to one of them, by a kernel lock that dies with its process.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import NamedTuple

from cotdistill.completions import Completion, Pool, SamplingParams, canonical, hash_of, identity_text
from cotdistill.errors import DataError
from cotdistill.records import FinishReason

VERSION = 2
APPLICATION_ID = 0xC07D
SCHEMA = """
CREATE TABLE IF NOT EXISTS pools (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,             -- the backend's identity, JSON
    params TEXT NOT NULL,            -- SamplingParams, JSON
    UNIQUE (model, params)
) STRICT;
CREATE TABLE IF NOT EXISTS prompts (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,        -- Pool.key
    pool INTEGER NOT NULL REFERENCES pools,
    turns TEXT NOT NULL              -- a JSON list
) STRICT;
CREATE TABLE IF NOT EXISTS completions (
    prompt INTEGER NOT NULL REFERENCES prompts,
    sample INTEGER NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    served TEXT NOT NULL,            -- the model, as the server named it
    checksum INTEGER NOT NULL,       -- CRC-32 of key, sample and all above
    created REAL NOT NULL,           -- seconds since 1970
    UNIQUE (prompt, sample)
) STRICT;
CREATE TABLE IF NOT EXISTS failures (  -- the last one of each sample that has no completion
    key BLOB NOT NULL,
    sample INTEGER NOT NULL,
    error TEXT NOT NULL,
    reply BLOB NOT NULL,             -- the raw body
    created REAL NOT NULL,
    PRIMARY KEY (key, sample)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS finished (  -- questions of a job that need no look: all their samples are here
    job BLOB NOT NULL,
    key BLOB NOT NULL,
    samples INTEGER NOT NULL,
    PRIMARY KEY (job, key)
) STRICT, WITHOUT ROWID;
"""
# From the first schema, which kept one row a completion with all of its request in it.
MIGRATE = """
ALTER TABLE completions RENAME TO old;
{schema}
INSERT OR IGNORE INTO pools (model, params) SELECT DISTINCT model, params FROM old;
INSERT INTO prompts (key, pool, turns)
    SELECT DISTINCT prompt_key(old.model, old.params, old.prompt), pools.id, old.prompt
    FROM old JOIN pools USING (model, params);
INSERT INTO completions
    SELECT prompts.id, sample, text, finish_reason, prompt_tokens, completion_tokens, '',
        checksum(prompts.key, sample, text, finish_reason, prompt_tokens, completion_tokens, ''), created
    FROM old JOIN prompts ON prompts.key = prompt_key(old.model, old.params, old.prompt);
DROP TABLE old;
DROP TABLE IF EXISTS claims;
PRAGMA user_version={version};
"""
ROWS_A_COMMIT = 256
ROWS_WAITING = 4096  # for the disk, before whoever brings more has to wait as well


class Row(NamedTuple):
    """One sample of a prompt: a completion to keep, or how it failed."""

    pool: Pool
    key: bytes
    prompt: tuple[str, ...]
    sample: int
    completion: Completion


class Mark(NamedTuple):
    """That all `samples` of a question are here, as a `job` needs them; none: that it goes on later."""

    job: bytes
    key: bytes
    samples: int


class Store:
    """A SQLite file of completions, safe against a kill at any moment and for several processes.

    Raises `DataError` if the file is not a store, is damaged, or is of a newer version.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        with errors_named(path):
            self._db = _open_to_read(path) if read_only else _open(path)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back this process's claims and close the file."""
        if "_claims" in self.__dict__:
            os.close(self._claims)
            del self._claims
        self._db.close()

    def __len__(self) -> int:
        return int(self._query("SELECT count(*) FROM completions")[0][0])

    def samples(self, key: bytes) -> dict[int, Completion]:
        """The stored completions of a prompt, by sample. Raises `DataError` for one that was damaged."""
        rows = self._query(
            "SELECT sample, text, finish_reason, prompt_tokens, completion_tokens, served, checksum "
            "FROM completions JOIN prompts ON prompt = id WHERE key = ? ORDER BY sample",
            key,
        )
        found = {}
        for sample, text, reason, prompt_tokens, completion_tokens, served, checksum in rows:
            if _checksum(key, sample, text, reason, prompt_tokens, completion_tokens, served) != checksum:
                raise DataError(
                    f"{self.path}: the completion of key {key.hex()}, sample {sample}, is damaged: its checksum "
                    "is another.\nTake the file from a backup, or delete that row to buy it again."
                )
            found[sample] = Completion(text, reason, prompt_tokens, completion_tokens, served=served)
        return found

    def failures(self, key: bytes) -> dict[int, str]:
        """How the last try of a prompt's missing samples failed, by sample."""
        return dict(self._query("SELECT sample, error FROM failures WHERE key = ?", key))

    def finished(self, job: bytes, samples: int) -> set[bytes]:
        """The keys of a job's questions that have at least so many samples: nothing of them need be read."""
        return {key for (key,) in self._query("SELECT key FROM finished WHERE job = ? AND samples >= ?", job, samples)}

    def forget_finished(self, job: bytes) -> None:
        """Drop a job's marks, as where rows were lost since."""
        with errors_named(self.path):
            self._db.execute("DELETE FROM finished WHERE job = ?", (job,))

    def write(self, items: Sequence[Row | Mark]) -> None:
        """Store `items`; on the disk when this returns. A sample that is there already stays as it is."""
        with errors_named(self.path):
            _write(self._db, items)

    @contextmanager
    def writer(
        self, committed: Callable[[Sequence[Row | Mark]], object] = lambda items: None
    ) -> Iterator[Callable[[Row | Mark], None]]:
        """A function that stores an item soon, in a thread; `committed` hears there what is on the disk.

        What arrives while one commit waits for the disk goes into the next: many a commit under load,
        and none that waits for company. All is on the disk when the block ends, however it ends.
        """
        queue: SimpleQueue[Row | Mark | None] = SimpleQueue()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with errors_named(self.path):
                    db = _connect(self.path)
                    try:
                        item = queue.get()
                        while item is not None:
                            batch = [item]
                            while not queue.empty() and len(batch) < ROWS_A_COMMIT and (item := queue.get()) is not None:
                                batch.append(item)
                            _write(db, batch)
                            committed(batch)
                            if item is not None:
                                item = queue.get()
                    finally:
                        db.close()
            except BaseException as error:  # noqa: BLE001 - raised where the rows come from
                failed.append(error)

        def put(item: Row | Mark) -> None:
            while queue.qsize() > ROWS_WAITING and not failed:
                time.sleep(0.001)
            if failed:
                raise failed[0]  # such as a full disk
            queue.put(item)

        thread = threading.Thread(target=work, name="store")
        thread.start()
        try:
            yield put
        finally:
            queue.put(None)
            thread.join()
        if failed:
            raise failed[0]

    def claim(self, key: bytes) -> bool:
        """Whether this process may buy what is missing of a prompt; False while another one does."""
        with errors_named(self.path):
            return _lock(self._claims, key, take=True)

    def unclaim(self, keys: Iterable[bytes]) -> None:
        """Give back what was claimed."""
        with errors_named(self.path):
            for key in keys:
                _lock(self._claims, key, take=False)

    @cached_property
    def _claims(self) -> int:
        """The file whose bytes are locked; it is always empty, and stays."""
        return os.open(f"{self.path}-claims", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def models(self) -> list[dict[str, str]]:
        """The identities of the models whose completions are here."""
        import json

        return [json.loads(model) for (model,) in self._query("SELECT DISTINCT model FROM pools")]

    def params(self, identity: Mapping[str, str]) -> list[str]:
        """The sampling parameters, as JSON, that a model was asked with."""
        return [p for (p,) in self._query("SELECT params FROM pools WHERE model = ?", identity_text(identity))]

    def served(self, identity: Mapping[str, str]) -> dict[str, int]:
        """How many completions of a model came under each name that the server gave itself."""
        query = (
            "SELECT served, count(*) FROM completions JOIN prompts ON prompt = prompts.id JOIN pools ON pool = pools.id "
            "WHERE model = ? AND served != '' GROUP BY served"
        )
        return dict(self._query(query, identity_text(identity)))

    def _query(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with errors_named(self.path):
            return self._db.execute(query, values).fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    return db


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = _connect(path)
    try:
        if _version(db) < VERSION:
            _migrate_or_make(db)
    except BaseException:
        db.close()
        raise
    return db


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise DataError(f"{path}: no such store. Check the path, or make it with `cotdistill generate`.")
    # In a folder that cannot be written only an immutable file opens, and it must have no
    # rows in a write-ahead log, where a live or a killed writer leaves them.
    alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{alone}", uri=True, isolation_level=None)
    try:
        if _version(db) < VERSION:  # it may not be changed: read a copy
            copy = sqlite3.connect(":memory:", isolation_level=None)
            db.backup(copy)
            db.close()
            db = copy
            _migrate_or_make(db)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection) -> int:
    """The schema's: 0 of an empty file, 1 before there were versions. Raises for what is no store, or newer."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if tables and "completions" not in tables:
        raise sqlite3.DatabaseError("it is a database of something else")
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise DataError(
            f"the store is of version {version}, and this cotdistill reads up to {VERSION}.\nUpgrade cotdistill."
        )
    db.execute("SELECT sample FROM completions LIMIT 1").fetchone() if tables else None
    return max(version, 1) if tables else 0


def _migrate_or_make(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.create_function("prompt_key", 3, lambda *of: hash_of("\n".join(of).encode()), deterministic=True)
    db.create_function("checksum", 7, _checksum, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)  # another process may have been faster
    script = {0: f"{SCHEMA} PRAGMA user_version={VERSION};", 1: MIGRATE.format(schema=SCHEMA, version=VERSION)}
    for statement in script.get(version, "").split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute("COMMIT")


def _write(db: sqlite3.Connection, items: Sequence[Row | Mark]) -> None:
    now = time.time()
    rows = [item for item in items if isinstance(item, Row)]
    good = [row for row in rows if row.completion.finish_reason != "error"]
    # BEGIN IMMEDIATE, so that a reader that turns writer cannot find the file changed under it.
    db.execute("BEGIN IMMEDIATE")
    try:
        pools = {(row.pool.model, row.pool.params) for row in good}
        db.executemany("INSERT OR IGNORE INTO pools (model, params) VALUES (?, ?)", pools)
        db.executemany(
            "INSERT OR IGNORE INTO prompts (key, pool, turns) "
            "SELECT ?, id, ? FROM pools WHERE model = ? AND params = ?",
            [(row.key, canonical(row.prompt), row.pool.model, row.pool.params) for row in good],
        )
        db.executemany(
            "INSERT OR IGNORE INTO completions SELECT id, ?, ?, ?, ?, ?, ?, ?, ? FROM prompts WHERE key = ?",
            [(*values, _checksum(row.key, *values), now, row.key) for row in good for values in (_values(row),)],
        )
        db.executemany("DELETE FROM failures WHERE key = ? AND sample = ?", [(row.key, row.sample) for row in good])
        db.executemany(
            "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)",
            [
                (row.key, row.sample, row.completion.error, row.completion.reply, now)
                for row in rows
                if row.completion.finish_reason == "error"
            ],
        )
        db.executemany(
            "INSERT INTO finished VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET samples = max(samples, excluded.samples)",
            [item for item in items if isinstance(item, Mark) and item.samples],
        )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite rolls back by itself where the disk is full
            db.execute("ROLLBACK")
        raise


def _values(row: Row) -> tuple[int, str, FinishReason, int, int, str]:
    c = row.completion
    return row.sample, c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens, c.served


def _checksum(
    key: bytes, sample: int, text: str, finish_reason: str, prompt_tokens: int, completion_tokens: int, served: str
) -> int:
    rest = f"{sample} {finish_reason} {prompt_tokens} {completion_tokens} {served} {text}"
    return zlib.crc32(rest.encode(), zlib.crc32(key))


def _lock(file: int, key: bytes, take: bool) -> bool:
    """Lock or free the byte of `file` that stands for `key`; False where another process holds it.

    Open-file-description locks where there are any: a plain one is lost when any other descriptor
    of the file closes, and two stores in one process would share it.
    """
    place = int.from_bytes(key[:8]) >> 2
    try:
        if sys.platform == "linux":
            kind = fcntl.F_WRLCK if take else fcntl.F_UNLCK
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0))
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB if take else fcntl.LOCK_UN, 1, place)
    except (BlockingIOError, PermissionError):
        return False
    return True


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """What SQLite and the file system say, as a `DataError` that names the store."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a completion holds half a character ({error.reason}), which is not text.") from None
    except DataError as error:
        raise error if str(path) in str(error) else DataError(f"{path}: {error}") from None
    except (sqlite3.OperationalError, OSError) as error:
        raise DataError(
            f"{path}: the store cannot be used ({error}).\nCheck the path, the disk and the rights."
        ) from None
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DataError(
            f"{path}: not a cotdistill store, or damaged ({error}).\n"
            "Move it away to start a new one; `sqlite3 FILE .recover` may save its rows."
        ) from None
