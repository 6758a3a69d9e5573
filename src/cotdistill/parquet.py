"""Rows of the store as Parquet: one row a completion, zstd, sorted, so that many files are read as one.

    write(path, sorted(record(row, now) for row in rows))
    for one in once(merged(paths, folder)): row_of(one)

Text is UTF-8 as in the SQLite store, so that any reader of Parquet reads it: half a character is refused by both.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cotdistill.chunks import groups, pieces
from cotdistill.completions import KEY_BYTES, Completion, pool_of, turns_text
from cotdistill.errors import DataError, missing_extra
from cotdistill.schema import checksum_of
from cotdistill.store import Row

# First what rows are sorted by: of the same sample bought twice, that which was stored first is read.
Record = tuple[bytes, int, float, str, str, str, str, str, int, int, str, int]
COLUMNS = [
    *("key", "sample", "created", "model", "params", "turns", "text", "finish_reason"),
    *("prompt_tokens", "completion_tokens", "served", "checksum"),
]
FORM: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,  # an eighth smaller than at 1, in the same time
    "use_dictionary": ["model", "params", "finish_reason", "served"],
    "write_statistics": False,
}
ROWS_AT_ONCE = 512
GROUP_BYTES = 4 * 2**20  # of text in a row group, which a reader holds of each file
FILES_AT_ONCE = 64


def record(row: Row, now: float) -> Record:
    c = row.completion
    values = (row.sample, c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens, c.served)
    return (
        *(row.key, row.sample, row.created or now, row.pool.model, row.pool.params, turns_text(row.prompt)),
        *(c.text, c.finish_reason, c.prompt_tokens, c.completion_tokens, c.served, checksum_of(row.key, *values)),
    )


def row_of(one: Record) -> Row:
    """Raises `DataError` for one that was damaged before it was written."""
    key, sample, created, model, params, turns, text, reason, prompt_tokens, completion_tokens, served, checksum = one
    try:
        sound = checksum_of(key, sample, text, reason, prompt_tokens, completion_tokens, served) == checksum
        prompt = tuple(json.loads(turns))
    except (TypeError, AttributeError, ValueError):  # nothing in a column, or no list of turns
        sound = False
    if not sound:
        raise DataError(f"the completion of key {key.hex()}, sample {sample}, is damaged: its checksum is another.")
    completion = Completion(text, reason, prompt_tokens, completion_tokens, served=served)  # type: ignore[arg-type]
    return Row(pool_of(model, params), key, prompt, sample, completion, created)


def write(file: Path | IO[bytes], records: Iterable[Record], metadata: Mapping[str, str] | None = None) -> None:
    """Write records as they come, holding a row group of them."""
    pa = arrow()
    import pyarrow.parquet as pq

    schema = pa.schema(
        {"key": pa.binary(KEY_BYTES), "sample": pa.int64(), "created": pa.float64()}
        | {name: pa.string() for name in COLUMNS[3:8]}
        | {
            "prompt_tokens": pa.int64(),
            "completion_tokens": pa.int64(),
            "served": pa.string(),
            "checksum": pa.uint32(),
        },
        metadata=dict(metadata or {}),
    )
    with pq.ParquetWriter(file, schema, **FORM) as out:
        for group in groups(records, lambda one: len(one[5]) + len(one[6]) + 100, GROUP_BYTES):
            columns = zip(*group, strict=True)
            out.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))


def read(path: Path) -> Iterator[Record]:
    """The records of a file, holding a row group. Raises `DataError` if it is no Parquet, or of other columns."""
    pa = arrow()
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=2**16) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=COLUMNS):
                yield from zip(*(batch.column(name).to_pylist() for name in COLUMNS), strict=True)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(f"{path.name}: not a part of a store of completions ({error}).") from None


def merged(paths: Sequence[Path], folder: Path) -> Iterator[Record]:
    """The records of several files, sorted; few files are open at once, and what is between lies in `folder`."""
    level = 0
    while len(paths) > FILES_AT_ONCE:
        level += 1
        fewer = []
        for i, some in enumerate(pieces(paths, FILES_AT_ONCE)):
            fewer.append(folder / f"merged-{level}-{i}")
            write(fewer[-1], once(heapq.merge(*map(read, some))))
            for path in some:
                path.unlink()
        paths = fewer
    return heapq.merge(*map(read, paths))


def once(records: Iterable[Record]) -> Iterator[Record]:
    """The first of each key and sample, of sorted records. Raises `DataError` where they are not sorted."""
    last = (b"", -1)
    for one in records:
        if one[:2] > last:
            last = one[:2]
            yield one
        elif one[:2] < last:
            raise DataError(f"the completions are not sorted at key {one[0].hex()}: not a part of a store.")


def arrow() -> Any:
    """pyarrow, with its Parquet. Raises `ConfigError` where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise missing_extra("pyarrow", "parquet") from None
    return pyarrow
