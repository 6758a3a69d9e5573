"""The store of a cluster: completions as Parquet parts under a folder or a URL, by shard.

    parts = Parts("s3://bucket/completions")
    with ShardStore(parts, 12, scratch) as store:   # a Store, as generate takes it
        ...

    parts.json                  {"format": "cotdistill parts", "version": 1, "shards": 256}
    00012/SHA256.parquet        a part, named by its content: one row a completion, never changed
    00012/manifest-SHA256.json  what a compaction left: the parts that must be there, and those they replace

A question and all that is asked after it are in one shard. Several workers may write into a shard, and a part
may be there twice over: of each completion that which was stored first is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from filelock import FileLock, Timeout

from cotdistill.chunks import groups, pieces
from cotdistill.errors import ConfigError, DataError
from cotdistill.objects import Files
from cotdistill.parquet import Record, merged, once, record, row_of, write
from cotdistill.store import Mark, Row, Store

FORMAT, VERSION = "cotdistill parts", 1
SHARDS = 256
MOST_SHARDS = 65_536
WHOLE_BYTES = 128 * 2**20  # a part so large is not written anew for a few rows more
TRIES = 20  # to read a shard that is compacted meanwhile
ROWS_AT_ONCE = 4096
BROUGHT_AT_ONCE = 8
COPY_BYTES = 32 * 2**20  # of text in a part that copying writes


class Manifest(NamedTuple):
    """What compactions say of a shard: the parts that must be there, and those whose rows are in others.

    `files` are what says so. Each compaction adds one, and none writes over another's: what two say at once both holds.
    """

    files: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()


class Parts:
    """Completions as Parquet parts under `url`: a local path, s3://, gs://, memory:// or another of fsspec's.

    `shards`: of a store that is new; one that is there keeps its own. 0: it must be there. `options` are fsspec's for
    the URL, besides those of the environment. Raises `DataError` for a folder of something else, and `ConfigError`
    for a URL that nothing serves.
    """

    def __init__(self, url: str, shards: int = SHARDS, options: Mapping[str, Any] | None = None) -> None:
        if not 0 <= shards <= MOST_SHARDS:
            raise ConfigError(f"shards={shards}: a store of parts has 1 to {MOST_SHARDS}.")
        self.files = Files(url, options)
        self.url = self.files.shown
        self.shards = self._known() or self._make(shards)

    def _known(self) -> int:
        data = self.files.read("parts.json")
        if data is None:
            return 0
        try:
            said = json.loads(data)
            version, shards = int(said["version"]), int(said["shards"])
            if said["format"] != FORMAT or not 1 <= shards <= MOST_SHARDS:
                raise ValueError(f"format {said['format']!r}, {shards} shards")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.url}/parts.json: not a cotdistill store, or damaged ({error}).") from None
        if version > VERSION:
            raise DataError(
                f"{self.url}: of version {version}, and this cotdistill reads up to {VERSION}.\nUpgrade cotdistill."
            )
        return shards

    def _make(self, shards: int) -> int:
        if not shards:
            raise DataError(f"{self.url}: no store of parts there (no parts.json). Check the path.")
        if others := sorted(self.files.names()):
            if known := self._known():  # another process made it meanwhile
                return known
            raise DataError(
                f"{self.url}: holds {others[0]!r} and no parts.json, so it is no store of parts.\nName an empty folder."
            )
        said = {"format": FORMAT, "version": VERSION, "shards": shards}
        self.files.put("parts.json", json.dumps(said).encode() + b"\n")
        return self._known()  # another process may have been at it: what stands there now holds for all

    def shard_of(self, prompt: tuple[str, ...]) -> int:
        """Where a prompt's completions are: by its first turn, so a question's second prompts are with its first."""
        return int.from_bytes(hashlib.sha256(prompt[0].encode("utf-8", "surrogatepass")).digest()[:8]) % self.shards

    def read(self, shard: int) -> Iterator[Row]:
        """The completions of a shard, sorted by key and sample, each once. Raises `DataError` for what is damaged.

        Every part is brought to this machine's temporary folder and checked before the first row comes.
        """
        with self._brought(shard) as (_, _, records):
            try:
                yield from map(row_of, once(records))
            except DataError as error:
                raise DataError(f"{self.url}/{shard:05}: {error}") from None

    def write(self, shard: int, items: Sequence[Row | Mark]) -> None:
        """Store the completions among `items` as one part, durable when this returns; failures and marks are not."""
        now = time.time()
        rows = [item for item in items if isinstance(item, Row) and item.completion.finish_reason != "error"]
        for row in rows:
            if self.shard_of(row.prompt) != shard:
                raise ValueError(f"a completion of shard {self.shard_of(row.prompt)} is written into shard {shard}")
        if not rows:
            return
        file = io.BytesIO()
        try:
            write(file, once(sorted(record(row, now) for row in rows)))
        except UnicodeEncodeError as error:
            raise DataError(f"{self.url}: a completion holds half a character ({error.reason}), no text.") from None
        data = file.getvalue()
        self.files.put(f"{shard:05}/{hashlib.sha256(data).hexdigest()}.parquet", data)

    def compact(self, shard: int) -> int:
        """Put the smaller parts of a shard into one; returns how many there were, 0 where nothing was to do.

        Safe against a kill at any point, and against writers and other compactors: a part is removed only when one
        with all its rows is there, and no two compactions write the same part.
        """
        with self._brought(shard, WHOLE_BYTES) as (before, live, records):
            small = {name for name, size in live.items() if size < WHOLE_BYTES}
            there = self.files.names(f"{shard:05}").keys()
            rest = before.replaced & there  # of a compaction that was killed
            if len(small) < 2:
                self.files.remove(f"{shard:05}", rest)
                return 0
            with tempfile.TemporaryDirectory(prefix="cotdistill-") as folder:
                path = Path(folder) / "part"
                # A name of its own: else what one compaction writes could be what another is about to remove.
                write(path, once(records), {"compaction": uuid4().hex})
                with path.open("rb") as file:
                    name = hashlib.file_digest(file, "sha256").hexdigest()
                self.files.put_file(f"{shard:05}/{name}.parquet", path)
            if _manifests(self.files.names(f"{shard:05}")) != before.files:  # another one was faster
                return 0
            said = {
                "parts": sorted({*live} - small | {f"{name}.parquet"}),
                "replaced": sorted(small | before.replaced & (there | before.parts)),
            }
            self.files.put(f"{shard:05}/manifest-{name}.json", json.dumps(said, indent=1).encode())
            if f"{name}.parquet" not in self.files.names(f"{shard:05}"):  # others have gone on from it meanwhile
                self.files.remove(f"{shard:05}", {f"manifest-{name}.json"})
                return 0
            self.files.remove(f"{shard:05}", small | rest | before.files)
            return len(small)

    def sizes(self, shard: int) -> dict[str, int]:
        """The parts of a shard that are read, with their bytes."""
        return self._live(shard)[1]

    @contextmanager
    def _brought(self, shard: int, below: int = 2**63) -> Iterator[tuple[Manifest, dict[str, int], Iterator[Record]]]:
        """A shard's manifest, its parts with their sizes, and the records of those smaller than `below`, sorted."""
        with tempfile.TemporaryDirectory(prefix="cotdistill-") as name:
            folder = Path(name)
            for _ in range(TRIES):
                manifest, live = self._live(shard)
                wanted = sorted(part for part, size in live.items() if size < below)
                with ThreadPoolExecutor(BROUGHT_AT_ONCE) as pool:
                    whole = all(pool.map(lambda part: self._bring(shard, part, folder / part), wanted))
                if whole:
                    yield manifest, live, merged([folder / part for part in wanted], folder)
                    return
        raise DataError(f"{self.url}/{shard:05}: its parts went away while they were read, {TRIES} times over.")

    def _bring(self, shard: int, part: str, target: Path) -> bool:
        """Bring a part and check it; False where a compaction has replaced it since it was listed."""
        place = f"{shard:05}/{part}"
        if target.exists():
            return True
        found = self.files.get(place, target)
        if found is not None and found != part.removesuffix(".parquet"):
            raise DataError(
                f"{self.url}/{place}: the part is damaged ({target.stat().st_size:,} bytes, SHA-256 {found}).\n"
                "Take it from a backup. Or remove it, and the manifests beside it, to buy its completions again."
            )
        return found is not None

    def _live(self, shard: int) -> tuple[Manifest, dict[str, int]]:
        """The parts that are read: those listed, without those that a compaction replaced and did not yet remove."""
        for _ in range(TRIES):
            manifest = self._manifest(shard)
            listed = self.files.names(f"{shard:05}")
            # A compaction removes after it has written what it did: in a listing between equal ones nothing is amiss.
            if manifest is None or _manifests(self.files.names(f"{shard:05}")) != manifest.files:
                continue
            if lost := sorted(manifest.parts - manifest.replaced - listed.keys()):
                raise DataError(
                    f"{self.url}/{shard:05}/{lost[0]}: the part is not there, and a manifest says that it must be.\n"
                    "Take it from a backup. Or remove the manifests there, to buy its completions again."
                )
            return manifest, {
                name: size
                for name, size in listed.items()
                if name.endswith(".parquet") and not name.startswith(".") and name not in manifest.replaced
            }
        raise DataError(f"{self.url}/{shard:05}: compacted {TRIES} times while it was listed.")

    def _manifest(self, shard: int) -> Manifest | None:
        """What all manifests of a shard say; None where another took the place of one meanwhile."""
        names = _manifests(self.files.names(f"{shard:05}"))
        parts, replaced = set[str](), set[str]()
        for name in sorted(names):
            data = self.files.read(f"{shard:05}/{name}")
            if data is None:
                return None
            try:
                said = json.loads(data)
                parts.update(said["parts"])
                replaced.update(said["replaced"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self.url}/{shard:05}/{name}: damaged ({error}).\n"
                    "Take it from a backup, or remove it: no completion is lost."
                ) from None
        return Manifest(names, frozenset(parts), frozenset(replaced))


def _manifests(names: Iterable[str]) -> frozenset[str]:
    """Those that compactions left, of the names in a shard; once there was one, manifest.json."""
    return frozenset(name for name in names if name.startswith("manifest") and name.endswith(".json"))


class ShardStore(Store):
    """A Store of one shard, in a `scratch` folder of this machine: a batch is a part before it counts as committed.

    What is there is loaded first, so that all look-ups are SQLite's, and memory does not grow with the shard. For one
    worker a shard: another process of this machine is refused. `gather`: seconds between puts; what comes
    meanwhile goes into the next. Failures and marks are of this scratch only: the next run asks, and looks, again.
    """

    def __init__(self, parts: Parts, shard: int, scratch: Path, gather: float = 0.25) -> None:
        self.parts, self.shard, self.gather = parts, shard, gather
        scratch.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(f"{parts.files.url} {parts.files.path('')}".encode()).hexdigest()[:8]
        path = scratch / f"{name}-{shard:05}.sqlite"
        self._alone = FileLock(path.with_suffix(".lock"))
        try:
            self._alone.acquire(timeout=0)
        except Timeout:
            raise DataError(
                f"{parts.url}/{shard:05}: another process of this machine is at this shard ({self._alone.lock_file}).\n"
                "Wait for it, or end it."
            ) from None
        try:
            self.path = path
            remove_store(path)  # of a worker that was killed
            super().__init__(path)
            for rows in pieces(parts.read(shard), ROWS_AT_ONCE):
                super()._commit(self._db, rows)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close and remove the scratch file; every completion is in the parts."""
        if self._alone.is_locked:
            if "_db" in self.__dict__:
                super().close()
            remove_store(self.path)
            self._alone.release()

    def _commit(self, db: sqlite3.Connection, items: Sequence[Row | Mark]) -> None:
        self.parts.write(self.shard, items)
        super()._commit(db, items)


def remove_store(path: Path) -> None:
    for end in ("", "-wal", "-shm", "-journal", "-claims"):
        Path(f"{path}{end}").unlink(missing_ok=True)


def copy(source: Store | Parts, target: Store | Parts) -> int:
    """Bring every completion of `source` that `target` has not into it; returns how many those were.

    Held in memory are a few thousand completions, and the keys of one shard. Killed and run again, it goes on.
    """
    if isinstance(target, Store):
        rows = source.rows() if isinstance(source, Store) else (r for i in range(source.shards) for r in source.read(i))
        return sum(_into_store(target, some) for some in pieces(rows, ROWS_AT_ONCE))
    if isinstance(source, Parts):  # of another number of shards, it may be
        with (
            tempfile.TemporaryDirectory(prefix="cotdistill-") as folder,
            Store(Path(folder) / "between.sqlite") as between,
        ):
            copy(source, between)
            return copy(between, target)
    shards = groupby(source.rows(target.shard_of), lambda row: target.shard_of(row.prompt))
    return sum(_into_shard(target, shard, rows) for shard, rows in shards)


def _into_shard(target: Parts, shard: int, rows: Iterable[Row]) -> int:
    there = {(row.key, row.sample) for row in target.read(shard)}
    count = 0
    for some in groups((row for row in rows if (row.key, row.sample) not in there), _bytes, COPY_BYTES):
        target.write(shard, some)
        count += len(some)
    return count


def _into_store(target: Store, rows: Sequence[Row]) -> int:
    there = target.samples_of([*{row.key for row in rows}])
    new = [row for row in rows if row.sample not in there.get(row.key, ())]
    target.write(new)
    return len(new)


def _bytes(row: Row) -> int:
    return len(row.completion.text) + sum(map(len, row.prompt)) + 100
