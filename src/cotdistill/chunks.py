"""What is too long to hold, some at a time: generations in chunks, where a question may go on from one to the next.

A chunk of a file is its place in it, so that whoever works on it reads it; nothing else is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from cotdistill.errors import DataError
from cotdistill.records import Generation, from_line

BYTES = 1 << 20  # of a file
ROWS = 2000  # of a chunk that is a list
LINES = msgspec.json.Decoder(Generation)
NAMES = frozenset(f.name for f in fields(Generation))

T = TypeVar("T")


@dataclass(frozen=True)
class Span:
    """Whole lines of a file, from the byte `start` up to `end`."""

    path: Path
    start: int
    end: int


Chunk = Span | list[Generation]


def pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at a time."""
    rest = iter(items)
    while piece := list(islice(rest, size)):
        yield piece


def groups(items: Iterable[T], size_of: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Some at a time, as many as come to `most`."""
    group: list[T] = []
    size = 0
    for one in items:
        group.append(one)
        size += size_of(one)
        if size >= most:
            yield group
            group, size = [], 0
    if group:
        yield group


def generations_of(chunk: Chunk) -> list[Generation]:
    """The generations of a chunk. Raises `DataError` that names file and line."""
    if not isinstance(chunk, Span):
        return chunk
    try:
        with chunk.path.open("rb") as file:
            file.seek(chunk.start)
            text = file.read(chunk.end - chunk.start)
    except OSError as error:
        raise _unreadable(chunk.path, error) from None
    try:
        return LINES.decode_lines(text)  # twice as fast as to make each of its line
    except msgspec.DecodeError:
        return list(_lines(chunk.path, chunk.start, text))


def spans(path: Path) -> Iterator[Span]:
    """Chunks of about BYTES of a file of generations."""
    try:
        size, start = path.stat().st_size, 0
        with path.open("rb") as file:
            while start < size:
                file.seek(start + BYTES)
                file.readline()
                end = min(file.tell(), size)
                yield Span(path, start, end)
                start = end
    except OSError as error:
        raise _unreadable(path, error) from None


def _lines(path: Path, position: int, text: bytes) -> Iterator[Generation]:
    for line in text.split(b"\n"):
        if line.strip():
            yield _generation(path, position, line)
        position += len(line) + 1


def _generation(path: Path, position: int, line: bytes) -> Generation:
    """The generation of a line, which may have other keys too."""
    try:
        value = from_line(line)
        if not isinstance(value, dict):
            raise TypeError("not a JSON object")
        return Generation(**{key: value[key] for key in value.keys() & NAMES})
    except (ValueError, RecursionError, TypeError) as error:
        raise DataError(
            f"{path}, line {_number(path, position)}: not a Generation ({error}). Fix or remove the line."
        ) from None


def _number(path: Path, position: int) -> int:
    """Of the line that begins at a byte, the first being 1."""
    number = 1
    with path.open("rb") as file:
        while position > 0 and (block := file.read(min(position, BYTES))):
            number += block.count(b"\n")
            position -= len(block)
    return number


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read ({error.strerror}). Check the path, or where you run from.")
