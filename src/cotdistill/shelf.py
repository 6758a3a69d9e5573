"""Questions in a file, by id, for any number of processes to share: none of them holds more than it asks for.

with shelved(questions, folder) as shelf:
    shelf["q1"]
"""

from __future__ import annotations

import pickle
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path

from cotdistill.errors import DataError
from cotdistill.records import Question

ROW = attrgetter(*(f.name for f in fields(Question)))


class Shelf(Mapping[str, Question]):
    """The questions of a file that `shelved` made; it is pickled as the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[type[Shelf], tuple[Path]]:
        return Shelf, (self.path,)

    @cached_property
    def _db(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)

    def __getitem__(self, question_id: str) -> Question:
        found = self._db.execute("SELECT row FROM questions WHERE id = ?", (_bytes(question_id),)).fetchone()
        if found is None:
            raise KeyError(question_id)
        return Question(*pickle.loads(found[0]))  # noqa: S301 - of our own process

    def __iter__(self) -> Iterator[str]:
        return (row[0].decode("utf-8", "surrogatepass") for row in self._db.execute("SELECT id FROM questions"))

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM questions").fetchone()[0])


@contextmanager
def shelved(questions: Iterable[Question], folder: Path) -> Iterator[Shelf]:
    """A Shelf of `questions` in a file in `folder`, about as large as their text, that is removed at the end.

    Of an id that is there twice the last is found. Raises `DataError` where the file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix=".questions.", dir=folder) as inside:
        path = Path(inside) / "questions.sqlite"
        try:
            _write(path, questions)
        except sqlite3.Error as error:
            raise DataError(
                f"{folder}: the questions cannot be written there, for all processes to read ({error}).\n"
                "Check the room on the disk; then run again."
            ) from None
        yield Shelf(path)


def _write(path: Path, questions: Iterable[Question]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")  # what is lost with the machine is of no use
        db.execute("CREATE TABLE questions (id BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
        db.execute("BEGIN")
        rows = ((_bytes(question.id), pickle.dumps(ROW(question), 5)) for question in questions)
        db.executemany("INSERT OR REPLACE INTO questions VALUES (?, ?)", rows)
        db.execute("COMMIT")


def _bytes(question_id: str) -> bytes:
    return question_id.encode("utf-8", "surrogatepass")  # it may have half a surrogate pair, which SQLite refuses
