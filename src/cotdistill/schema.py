"""The store's tables: made in a new file, migrated in an old one, refused in a newer one."""

from __future__ import annotations

import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cotdistill.completions import hash_of
from cotdistill.errors import DataError

VERSION = 2
APPLICATION_ID = 0xC07D
BUSY_SECONDS = 60.0  # for another process that is at the file
POLL_SECONDS = 0.01
IMMUTABLE = "ro&immutable=1"
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


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=4000")  # pages: 16 MB, so that a page that many rows touch moves once
    return db


def open_store(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    db = connect(path)
    try:
        if _version(db) < VERSION:
            _migrate_or_make(db)
    except BaseException:
        db.close()
        raise
    return db


def mode_to_read(path: Path) -> str:
    """How SQLite is to open a store that is only read.

    An immutable file is read without locks: of a writer that comes meanwhile, rubbish. In a folder that cannot be
    written there is no other way, and it must have no rows in a write-ahead log, where a killed writer leaves them.
    """
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "rw"
    return "ro" if path.with_name(f"{path.name}-wal").exists() else IMMUTABLE


def state_without_locks(path: Path) -> os.stat_result | None:
    """That of a file that is read without locks, for `unchanged`; None of any other."""
    return path.stat() if path.is_file() and mode_to_read(path) == IMMUTABLE else None


@contextmanager
def unchanged(path: Path, before: os.stat_result | None) -> Iterator[None]:
    """Raise `DataError` where a file was written while the block read it without locks: it may have read rubbish."""
    try:
        yield
    finally:
        if before and (now := path.stat()) and (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DataError(
                f"{path}: another process writes to it, and without the right to write this one cannot lock it.\n"
                "Wait for it, or read a copy."
            )


def open_to_read(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise DataError(f"{path}: no such store. Check the path, or make it with `cotdistill generate`.")
    uri = f"{path.resolve().as_uri()}?mode={mode_to_read(path)}"
    db = sqlite3.connect(uri, BUSY_SECONDS, isolation_level=None, uri=True)
    try:
        db.execute("PRAGMA query_only=ON")
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
    _to_wal(db)
    db.create_function("prompt_key", 3, lambda *of: hash_of("\n".join(of).encode()), deterministic=True)
    db.create_function("checksum", 7, checksum_of, deterministic=True)
    db.execute("BEGIN IMMEDIATE")
    version = _version(db)  # another process may have been faster
    script = {0: f"{SCHEMA} PRAGMA user_version={VERSION};", 1: MIGRATE.format(schema=SCHEMA, version=VERSION)}
    for statement in script.get(version, "").split(";"):
        db.execute(statement)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute("COMMIT")


def _to_wal(db: sqlite3.Connection) -> None:
    """Have the file keep a write-ahead log; waits for others that make it, as SQLite itself does not here."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(POLL_SECONDS)


def checksum_of(
    key: bytes, sample: int, text: str, finish_reason: str, prompt_tokens: int, completion_tokens: int, served: str
) -> int:
    rest = f"{sample} {finish_reason} {prompt_tokens} {completion_tokens} {served} {text}"
    return zlib.crc32(rest.encode(), zlib.crc32(key))
