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

import errno
import fcntl
import json
import os
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

from cotdistill.completions import Completion, Pool, identity_text, pool_of, turns_text
from cotdistill.errors import DataError
from cotdistill.records import FinishReason
from cotdistill.schema import checksum_of, connect, open_store, open_to_read, state_without_locks, unchanged

KEYS_A_QUERY = (1, 8, 32, 256)
ITEMS_A_COMMIT = 256
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # as over NFS without its lock daemon
BATCHES_WAITING = 256  # for the disk, before whoever brings more has to wait as well


class Row(NamedTuple):
    """One sample of a prompt: a completion to keep, or how it failed."""

    pool: Pool
    key: bytes
    prompt: tuple[str, ...]
    sample: int
    completion: Completion
    created: float = 0.0  # seconds since 1970; 0: when it is stored


class Mark(NamedTuple):
    """That all `samples` of a question are here, as a `job` needs them; none: that it goes on later."""

    job: bytes
    key: bytes
    samples: int


class Store:
    """A SQLite file of completions, safe against a kill at any moment and for several processes.

    Raises `DataError` if the file is not a store, is damaged, or is of a newer version.
    """

    gather = 0.02  # seconds between commits: a kill loses what came in that time, besides what was in flight

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        with errors_named(path):
            self._before = state_without_locks(path) if read_only else None
            self._db = open_to_read(path) if read_only else open_store(path)

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
        count: int = self._query("SELECT count(*) FROM completions")[0][0]
        return count

    def samples(self, key: bytes) -> dict[int, Completion]:
        """The stored completions of a prompt, by sample. Raises `DataError` for one that was damaged."""
        return self.samples_of([key]).get(key, {})

    def samples_of(self, keys: Sequence[bytes]) -> dict[bytes, dict[int, Completion]]:
        """Those of several prompts, of each that has any. Raises `DataError` for one that was damaged."""
        found: dict[bytes, dict[int, Completion]] = {}
        for start in range(0, len(keys), KEYS_A_QUERY[-1]):
            some = keys[start : start + KEYS_A_QUERY[-1]]
            size = next(size for size in KEYS_A_QUERY if size >= len(some))  # few, so that SQLite knows them prepared
            marks = ", ".join("?" * size)
            rows = self._query(
                "SELECT key, sample, text, finish_reason, prompt_tokens, completion_tokens, served, checksum "  # noqa: S608
                f"FROM prompts JOIN completions ON prompt = id WHERE key IN ({marks})",
                *some,
                *[b""] * (size - len(some)),
            )
            for key, sample, *values in rows:
                found.setdefault(key, {})[sample] = self._completion(key, sample, *values)
        return found

    def rows(self, place: Callable[[tuple[str, ...]], int] = lambda prompt: 0) -> Iterator[Row]:
        """Every completion, by the `place` of its prompt; on disk, not in memory, while they are sorted."""

        def place_of(turns: str) -> int:
            return place(tuple(json.loads(turns)))

        with errors_named(self.path), unchanged(self.path, self._before):
            self._db.create_function("place", 1, place_of, deterministic=True)
            for model, params, turns, created, key, sample, *values in self._db.execute(
                "SELECT model, params, turns, created, key, sample, text, finish_reason, prompt_tokens, "
                "completion_tokens, served, checksum FROM pools JOIN prompts ON pool = pools.id "
                "JOIN completions ON prompt = prompts.id ORDER BY place(turns), key, sample"
            ):
                completion = self._completion(key, sample, *values)
                yield Row(pool_of(model, params), key, tuple(json.loads(turns)), sample, completion, created)

    def _completion(
        self,
        key: bytes,
        sample: int,
        text: str,
        reason: FinishReason,
        prompt_tokens: int,
        completion_tokens: int,
        served: str,
        checksum: int,
    ) -> Completion:
        """A stored one. Raises `DataError` if it was damaged."""
        if checksum_of(key, sample, text, reason, prompt_tokens, completion_tokens, served) != checksum:
            raise DataError(
                f"{self.path}: the completion of key {key.hex()}, sample {sample}, is damaged: its checksum "
                "is another.\nTake the file from a backup, or delete that row to buy it again."
            )
        return Completion(text, reason, prompt_tokens, completion_tokens, served=served)

    def failures(self, key: bytes) -> dict[int, str]:
        """How the last try of a prompt's missing samples failed, by sample."""
        return dict(self._query("SELECT sample, error FROM failures WHERE key = ?", key))

    def full(self, pool: Pool, samples: int) -> set[bytes]:
        """The keys of a pool's prompts that have their first `samples` samples."""
        return {
            key
            for (key,) in self._query(
                "SELECT key FROM prompts WHERE pool = (SELECT id FROM pools WHERE (model, params) = (?, ?)) "
                "AND (SELECT count(*) FROM completions WHERE prompt = id AND sample < ?) = ?",
                *(pool.model, pool.params, samples, samples),
            )
        }

    def finished(self, job: bytes, samples: int) -> set[bytes]:
        """The keys of a job's questions that have at least so many samples: nothing of them need be read."""
        return {key for (key,) in self._query("SELECT key FROM finished WHERE job = ? AND samples >= ?", job, samples)}

    def forget_finished(self, job: bytes) -> None:
        """Drop a job's marks, as where rows were lost since, and make the indexes anew.

        A row that only a damaged index does not find would be bought in each run, and be there.
        """
        with errors_named(self.path):
            self._db.execute("DELETE FROM finished WHERE job = ?", (job,))
            self._db.execute("REINDEX")

    def write(self, items: Sequence[Row | Mark]) -> None:
        """Store `items`; on the disk when this returns. A sample that is there already stays as it is."""
        self._commit(self._db, items)

    def _commit(self, db: sqlite3.Connection, items: Sequence[Row | Mark]) -> None:
        with errors_named(self.path):
            _write(db, items)

    @contextmanager
    def writer(
        self, committed: Callable[[Sequence[Row | Mark]], object] = lambda items: None
    ) -> Iterator[Callable[[Sequence[Row | Mark]], None]]:
        """A function that stores items soon, in a thread; `committed` hears there what is on the disk.

        Commits are `gather` seconds apart, the first at once: large ones are half the work of small ones, and
        what comes seldom need not wait. All is on the disk when the block ends, however it ends. The function
        raises what stopped the thread, such as a full disk; without items it does only that.
        """
        queue: SimpleQueue[Sequence[Row | Mark] | None] = SimpleQueue()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                with errors_named(self.path):
                    connected = connect(self.path)
                with closing(connected) as db:
                    items, until = queue.get(), 0.0
                    while items is not None:
                        batch = [*items]
                        while len(batch) < ITEMS_A_COMMIT and (items := _next(queue, until)):
                            batch += items
                        self._commit(db, batch)
                        committed(batch)
                        until = time.monotonic() + self.gather
                        if items is not None:
                            items = queue.get()
            except BaseException as error:  # noqa: BLE001 - raised where the rows come from
                failed.append(error)

        def put(items: Sequence[Row | Mark]) -> None:
            while queue.qsize() > BATCHES_WAITING and not failed:
                time.sleep(0.001)
            if failed:
                raise failed[0]
            if items:
                queue.put(items)

        thread = threading.Thread(target=work, name="store")
        thread.start()
        try:
            yield put
        finally:
            queue.put(None)
            thread.join()
        if failed:
            raise failed[0]

    def claim(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those of the prompts whose missing samples this process may buy now; another one is at the rest."""
        with errors_named(self.path):
            return {key for key in keys if _lock(self._claims, key, take=True)}

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
        found = self._query("SELECT DISTINCT model FROM pools")
        with errors_named(self.path):
            return [json.loads(model) for (model,) in found]

    def params(self, identity: Mapping[str, str]) -> list[str]:
        """The sampling parameters, as JSON, that a model was asked with."""
        return [p for (p,) in self._query("SELECT params FROM pools WHERE model = ?", identity_text(identity))]

    def served(self, identity: Mapping[str, str]) -> dict[str, int]:
        """How many completions of a model came under each name that the server gave itself."""
        query = (
            "SELECT served, count(*) FROM completions "
            "JOIN prompts ON prompt = prompts.id JOIN pools ON pool = pools.id "
            "WHERE model = ? AND served != '' GROUP BY served"
        )
        return dict(self._query(query, identity_text(identity)))

    def _query(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with errors_named(self.path), unchanged(self.path, self._before):
            return self._db.execute(query, values).fetchall()


def _next(queue: SimpleQueue[Sequence[Row | Mark] | None], until: float) -> Sequence[Row | Mark] | None:
    """What comes next: None for the end, and nothing where nothing has come by then."""
    try:
        return queue.get(timeout=max(0.0, until - time.monotonic()))
    except Empty:
        return ()


def _write(db: sqlite3.Connection, items: Sequence[Row | Mark]) -> None:
    now = time.time()
    rows = [item for item in items if isinstance(item, Row)]
    good = [row for row in rows if row.completion.finish_reason != "error"]
    bad = [
        (r.key, r.sample, r.completion.error, r.completion.reply, now)
        for r in rows
        if r.completion.finish_reason == "error"
    ]
    marks = [item for item in items if isinstance(item, Mark) and item.samples]
    # BEGIN IMMEDIATE, so that a reader that turns writer cannot find the file changed under it.
    db.execute("BEGIN IMMEDIATE")
    try:
        pools = {(row.pool.model, row.pool.params) for row in good}
        db.executemany("INSERT INTO pools (model, params) VALUES (?, ?) ON CONFLICT (model, params) DO NOTHING", pools)
        ids = {
            pool: db.execute("SELECT id FROM pools WHERE (model, params) = (?, ?)", pool).fetchone()[0]
            for pool in pools
        }
        prompts = {r.key: (r.key, ids[r.pool.model, r.pool.params], turns_text(r.prompt)) for r in good}
        # Not OR IGNORE: in a damaged file that would swallow a row whose id is taken, and buy it in each run.
        _insert(
            db,
            "INSERT INTO prompts (key, pool, turns) VALUES",
            "(?, ?, ?)",
            prompts.values(),
            "ON CONFLICT (key) DO NOTHING",
        )
        _insert(
            db,
            "INSERT INTO completions VALUES",
            "((SELECT id FROM prompts WHERE key = ?), ?, ?, ?, ?, ?, ?, ?, ?)",
            [(r.key, *values, checksum_of(r.key, *values), r.created or now) for r in good for values in (_values(r),)],
            "ON CONFLICT (prompt, sample) DO NOTHING",
        )
        if good and db.execute("SELECT 1 FROM failures LIMIT 1").fetchone():
            db.executemany("DELETE FROM failures WHERE key = ? AND sample = ?", [(r.key, r.sample) for r in good])
        _insert(db, "INSERT OR REPLACE INTO failures VALUES", "(?, ?, ?, ?, ?)", bad)
        _insert(db, "INSERT OR REPLACE INTO finished VALUES", "(?, ?, ?)", marks)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite rolls back by itself where the disk is full
            db.execute("ROLLBACK")
        raise


def _insert(
    db: sqlite3.Connection, statement: str, row: str, rows: Iterable[tuple[object, ...]], conflict: str = ""
) -> None:
    """Insert many rows by few statements.

    Not executemany: that takes and gives back the interpreter's lock for each row, and with a busy
    thread beside it waits for it each time.
    """
    rows = list(rows)
    while rows:
        size = next(size for size in (64, 16, 4, 1) if size <= len(rows))  # few, so that SQLite knows them prepared
        db.execute(f"{statement} {', '.join([row] * size)} {conflict}", [value for row in rows[:size] for value in row])
        rows = rows[size:]


def _values(row: Row) -> tuple[int, str, FinishReason, int, int, str]:
    c = row.completion
    return row.sample, c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens, c.served


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
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise DataError(
            f"its file system has no locks ({error.strerror}), so two processes could pay for the same.\n"
            "Keep the store on a local disk: store=PATH."
        ) from None
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
