"""The store: every completion that was paid for, in one SQLite file, keyed by what was asked.

    with Store(path) as store:
        found = store.read(keys)
        ...
        store.write(rows)       # durable when it returns

A key is the hash of a request's content (model, prompt, sampling parameters, sample index), so the
same request is the same row for any run, in any order. A row counts only once it is committed
(WAL, synchronous=FULL). Two processes may buy into one store: `claim` gives each missing key to
one of them, and the kernel frees the claims of a process that died.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from filelock import FileLock, Timeout

from cotdistill.errors import DataError
from cotdistill.records import FinishReason

SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    model TEXT NOT NULL,             -- the backend's identity, JSON
    params TEXT NOT NULL,            -- SamplingParams, JSON
    prompt TEXT NOT NULL,            -- its turns, a JSON list
    sample INTEGER NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created REAL NOT NULL            -- seconds since 1970
) STRICT;
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
APPLICATION_ID = 0xC07D
ROWS_A_COMMIT = 256


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a completion is sampled: all that changes its text, and so a part of its key.

    `max_tokens` in tokens; `temperature` 0 is greedy; `seed` 0 is the first pool of samples, another
    one a pool of its own.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a backend returned for one request. An `error` was not paid for and is not stored."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to ask for: sample `sample` of `prompt`.

    A prompt is a tuple of turns, the first and the last the user's, those between by turns the
    model's own and the user's. A completion model reads them joined, a chat model as messages.
    """

    prompt: tuple[str, ...]
    sample: int = 0

    def key(self, model: str, params: str) -> bytes:
        """The hash of everything that decides the text; `model` and `params` as `canonical` JSON."""
        return hashlib.sha256(canonical([model, params, self.sample, *self.prompt]).encode()).digest()

    def seed(self, params: SamplingParams) -> int:
        """A seed of 31 bits for this sample, the same in every run, order and batch."""
        content = canonical([params.seed, self.sample, *self.prompt])
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:4]) >> 1


def canonical(value: object) -> str:
    """JSON with sorted keys, so equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Row:
    """One stored completion with the request it answers."""

    key: bytes
    model: str
    params: str
    request: Request
    completion: Completion


class Store:
    """A SQLite file of completions, safe against a kill at any moment and for several processes.

    Raises `DataError` if the file is not a store, or is damaged.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._owner = uuid.uuid4().hex
        with _errors_named(path):
            if read_only:
                if not path.is_file():
                    raise DataError(f"{path}: no such store. Check the path, or make it with `cotdistill generate`.")
                # In a folder that cannot be written only an immutable file opens, and it must have no
                # rows in a write-ahead log, where a live or a killed writer leaves them.
                alone = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
                self._db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{alone}", uri=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                # The writer thread uses it too, and nobody else while it does.
                self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            try:
                if not read_only:
                    tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master")}
                    if tables and "completions" not in tables:
                        raise sqlite3.DatabaseError("it is a database of something else")
                    self._db.execute("PRAGMA journal_mode=WAL")
                    self._db.execute("PRAGMA synchronous=FULL")
                    self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    self._db.executescript(SCHEMA)
                self._db.execute("SELECT key FROM completions LIMIT 1").fetchone()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back this process's claims and close the file."""
        if self._lock is not None:
            with suppress(sqlite3.Error):  # a claim that stays is freed with the lock
                self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None
        self._db.close()

    def __len__(self) -> int:
        with _errors_named(self.path):
            count: int = self._db.execute("SELECT count(*) FROM completions").fetchone()[0]
        return count

    def read(self, keys: Iterable[bytes]) -> dict[bytes, Completion]:
        """The completions of those `keys` that are stored."""
        query = "SELECT text, finish_reason, prompt_tokens, completion_tokens FROM completions WHERE key = ?"
        found = {}
        with _errors_named(self.path):
            for key in keys:
                if row := self._db.execute(query, (key,)).fetchone():
                    found[key] = Completion(*row)
        return found

    def write(self, rows: Sequence[Row]) -> None:
        """Store `rows`; on the disk when this returns. A key that is there already stays as it is."""
        now = time.time()
        values = [
            (
                *(row.key, row.model, row.params, canonical(row.request.prompt), row.request.sample),
                *(row.completion.text, row.completion.finish_reason),
                *(row.completion.prompt_tokens, row.completion.completion_tokens, now),
            )
            for row in rows
        ]
        with self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO completions (key, model, params, prompt, sample, text, finish_reason, "
                "prompt_tokens, completion_tokens, created) VALUES (?,?,?,?,?,?,?,?,?,?)",
                values,
            )
            self._db.executemany("DELETE FROM claims WHERE key = ?", [(row.key,) for row in rows])

    @contextmanager
    def writer(self, committed: Callable[[int], object]) -> Iterator[Callable[[Row], None]]:
        """A function that stores a row soon, in a thread; `committed` hears how many are on the disk.

        What arrives while one commit waits for the disk goes into the next: many a commit under load,
        and none that waits for company. All is on the disk when the block ends, however it ends.
        """
        rows: SimpleQueue[Row | None] = SimpleQueue()

        def work() -> None:
            row = rows.get()
            while row is not None:
                batch = [row]
                while not rows.empty() and len(batch) < ROWS_A_COMMIT and (row := rows.get()) is not None:
                    batch.append(row)
                self.write(batch)
                committed(len(batch))
                if row is not None:
                    row = rows.get()

        with ThreadPoolExecutor(1, thread_name_prefix="store") as pool:
            working = pool.submit(work)

            def put(row: Row) -> None:
                if working.done():
                    working.result()  # raises what stopped it, such as a full disk
                rows.put(row)

            try:
                yield put
            finally:
                rows.put(None)
            working.result()

    def claim(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the `keys` that this process may buy now; another live process holds the rest."""
        with self._transaction():
            if self._lock is None:  # inside: another process must not find the file before it is locked
                self._lock = FileLock(self._owner_file(self._owner))
                self._lock.acquire()
            self._free_dead_claims()
            self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", [(key, self._owner) for key in keys])
            mine = {key for (key,) in self._db.execute("SELECT key FROM claims WHERE owner = ?", (self._owner,))}
        # Another process may have stored a key, and so given up its claim, since the caller looked.
        return mine.intersection(keys) - self.read(keys).keys()

    def unclaim(self) -> None:
        """Give back every claim of this process, as after an error or a Ctrl-C."""
        with _errors_named(self.path):
            self._db.execute("DELETE FROM claims WHERE owner = ?", (self._owner,))

    def models(self) -> list[dict[str, str]]:
        """The identities of the models whose completions are here."""
        with _errors_named(self.path):
            return [json.loads(model) for (model,) in self._db.execute("SELECT DISTINCT model FROM completions")]

    def params(self, identity: Mapping[str, str]) -> list[str]:
        """The sampling parameters, as JSON, that a model was asked with."""
        query = "SELECT DISTINCT params FROM completions WHERE model = ?"
        with _errors_named(self.path):
            return [params for (params,) in self._db.execute(query, (identity_text(identity),))]

    def _owner_file(self, owner: str) -> str:
        return f"{self.path}.owner-{owner}"

    def _free_dead_claims(self) -> None:
        alive = [self._owner]
        for file in self.path.parent.glob(f"{glob.escape(self.path.name)}.owner-*"):
            owner = file.name.rpartition("-")[2]
            if owner == self._owner:
                continue
            lock = FileLock(file)
            try:
                with lock.acquire(timeout=0):
                    file.unlink(missing_ok=True)
            except Timeout:
                alive.append(owner)
        claimers = self._db.execute("SELECT DISTINCT owner FROM claims").fetchall()
        dead = [owner for owner in claimers if owner[0] not in alive]
        self._db.executemany("DELETE FROM claims WHERE owner = ?", dead)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """BEGIN IMMEDIATE, so that a reader that turns writer cannot find the file changed under it."""
        with _errors_named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """What SQLite and the file system say, as a `DataError` that names the store."""
    try:
        yield
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: a completion holds half a character ({error.reason}), which is not text.") from None
    except (sqlite3.OperationalError, OSError) as error:
        raise DataError(
            f"{path}: the store cannot be used ({error}).\nCheck the path, the disk and the rights."
        ) from None
    except (sqlite3.DatabaseError, ValueError) as error:
        raise DataError(
            f"{path}: not a cotdistill store, or damaged ({error}).\n"
            "Move it away to start a new one; `sqlite3 FILE .recover` may save its rows."
        ) from None


def identity_text(identity: Mapping[str, str]) -> str:
    """A backend's identity as it stands in the store and in keys."""
    return canonical(dict(identity))
