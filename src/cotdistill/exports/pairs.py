"""The pairs for other trainers: OpenAI's fine-tuning JSONL, and Parquet. Read and written a row at a time.

What was written is read again and compared with pairs.jsonl, row for row. OpenAI's rules:
https://platform.openai.com/docs/guides/supervised-fine-tuning and /docs/api-reference/files.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cotdistill.checksums import SUMS, read_sums
from cotdistill.chunks import pieces
from cotdistill.errors import DataError
from cotdistill.exports.job import Job, Made
from cotdistill.models import sha256
from cotdistill.parquet import arrow
from cotdistill.progress import say
from cotdistill.records import Pair, iter_json_lines, record_of, to_json

PAIRS = "pairs.jsonl"
FEWEST = 10  # examples that OpenAI takes
MOST_BYTES = 512 * 10**6  # of a file
LONG = 65_536  # tokens of an example, at most, of its newest models; a token has a byte or more
FILES = "https://api.openai.com/v1/files"
ROWS = 10_000  # of Parquet in memory at once
READ = 'print(pandas.read_parquet("{}").iloc[0])'


def to_openai(job: Job) -> Made:
    """`openai.jsonl`: one `{"messages": [user, assistant]}` a pair."""
    source, file = _source(job), job.folder / "openai.jsonl"
    long = 0
    with file.open("w", encoding="utf-8") as out:
        for number, row in rows(source):
            line = json.dumps(example(source, number, row), ensure_ascii=False) + "\n"
            long += len(line.encode()) > LONG
            out.write(line)
    _compare(source, file.name, (value for _, value in iter_json_lines(file)), example)
    count, size = sum(1 for _ in rows(source)), file.stat().st_size
    if count < FEWEST or size > MOST_BYTES:
        raise DataError(
            f"{file.name}: {count:,} examples, {size:,} bytes. OpenAI takes {FEWEST} examples or more, and "
            f"{MOST_BYTES:,} bytes at most."
        )
    if long:
        say(
            f"warning: {long} examples have over {LONG:,} bytes, and may have more tokens than a model of OpenAI takes."
        )
    form = shlex.quote(f"file=@{job.out.absolute() / file.name}")
    command = f'curl {FILES} -H "Authorization: Bearer $OPENAI_API_KEY" -F purpose=fine-tune -F {form}'
    return Made([command], {file.name: {"rows": count, "bytes": size}})


def to_parquet(job: Job) -> Made:
    """`pairs.parquet`: the columns of pairs.jsonl, compressed with zstd."""
    pyarrow = arrow()
    text = pyarrow.string()
    message = pyarrow.struct([("role", text), ("content", text)])
    fields = [("question_id", text), ("index", pyarrow.int32()), ("prompt", text), ("completion", text)]
    schema = pyarrow.schema([*fields, ("teacher", text), ("messages", pyarrow.list_(message))])
    source, file = _source(job), job.folder / "pairs.parquet"
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for some in pieces(rows(source), ROWS):
            writer.write_table(pyarrow.Table.from_pylist([whole(source, *row) for row in some], schema))
    with pyarrow.parquet.ParquetFile(file) as written:
        read = (row for batch in written.iter_batches(ROWS) for row in batch.to_pylist())
        _compare(source, file.name, read, whole)
        count = written.metadata.num_rows
    command = shlex.join(["python", "-c", f"import pandas; {READ.format(job.out.absolute() / file.name)}"])
    return Made([command], {file.name: {"rows": count, "bytes": file.stat().st_size}})


def rows(source: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, row) of pairs.jsonl. Raises `DataError` at a line that is no pair, or no UTF-8."""
    for number, value in iter_json_lines(source):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError(f"{source}, line {number}: half a surrogate pair, which is no UTF-8.") from None
        yield number, to_json(record_of(value, Pair, f"{source}, line {number}"))


def whole(source: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """The row as it is."""
    return row


def example(source: Path, number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as OpenAI has it. Raises `DataError` where a message is empty."""
    for message in row["messages"]:
        if not message["content"].strip():
            raise DataError(f"{source}, line {number}: the {message['role']}'s message is empty, which OpenAI refuses.")
    return {"messages": row["messages"]}


def _source(job: Job) -> Path:
    folder = job.this.folder
    source = folder / PAIRS
    if not source.is_file():
        raise DataError(f"{source}: the run has no pairs: no method of it learns rationales, or it is not finished.")
    if (folder / SUMS).is_file() and read_sums(folder)[0].get(PAIRS, "") != sha256(source):
        raise DataError(f"{source}: it is not as the run wrote it: its hash is another than in {SUMS}.")
    return source


def _compare(source: Path, name: str, read: Iterator[Any], form: Any) -> None:
    expected = (form(source, number, row) for number, row in rows(source))
    for number, (ours, theirs) in enumerate(zip_longest(expected, read), 1):
        if ours != theirs:
            raise DataError(f"{name}, row {number}: read again, it is {theirs!r:.200}, not {ours!r:.200}.")
