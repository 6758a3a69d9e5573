"""The five records that flow through a run, and the JSON lines they are kept in.

    Question -> Generation -> Score -> Pair -> Result

All are frozen. A record is written as one JSON object a line, and read back by `read_jsonl`, which
names the file and the line of whatever does not fit.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import msgspec
import orjson

from cotdistill.errors import DataError

FinishReason = Literal["stop", "length", "error"]
Category = Literal["correct", "wrong", "no_answer", "truncated", "error"]
CATEGORIES: tuple[Category, ...] = ("correct", "wrong", "no_answer", "truncated", "error")


@dataclass(frozen=True, slots=True)
class Question:
    """One question whose answer is known; `choices` are the options of a choice question, A first.

    `rationale` is what a person wrote to explain the answer, where a dataset or an exemplar has it.
    """

    id: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    rationale: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """What a model wrote for one question: a teacher's rationale or a student's prediction.

    `text` is the raw completion of the method's first prompt, `answer_text` that of its second and
    `None` where the method has one prompt only. Neither is ever edited. `finish_reason` is that of
    `text`; an `error` has the reason in `error` and no text. Token counts are over both prompts.
    `teacher` says which of several wrote it.
    """

    question_id: str
    index: int
    text: str
    answer_text: str | None
    finish_reason: FinishReason
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    teacher: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """How one generation was judged.

    `predicted` is the answer read by the strict rule: in the form the method asks for. `lenient` says
    whether the answer is right when it may stand anywhere in the text.
    """

    question_id: str
    index: int
    predicted: str | None
    category: Category
    lenient: bool
    teacher: str = ""

    @property
    def correct(self) -> bool:
        return self.category == "correct"


@dataclass(frozen=True, slots=True)
class Pair:
    """One training example: a student reads `prompt` and learns to write `completion`."""

    question_id: str
    index: int
    prompt: str
    completion: str
    teacher: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a dict that TRL, OpenAI fine-tuning and `load_dataset("json")` read as it is."""
        return {
            "question_id": self.question_id,
            "index": self.index,
            "prompt": self.prompt,
            "completion": self.completion,
            "teacher": self.teacher,
            "messages": [
                {"role": "user", "content": self.prompt},
                {"role": "assistant", "content": self.completion},
            ],
        }


@dataclass(frozen=True, slots=True)
class AtK:
    """Of a student that was sampled: a share of the questions, with its 95% interval.

    `mean`: of single samples that are right; `maj`: of questions whose most frequent answer of `k` samples is;
    `pass`: of questions of which one of `k` samples is.
    """

    measure: Literal["mean", "maj", "pass"]
    k: int
    value: float
    low: float
    high: float


def label(method: str, seed: int | None) -> str:
    """What names a method's files and rows: fine_tune_cot-0, or zero_shot where nothing was trained."""
    return method if seed is None else f"{method}-{seed}"


@dataclass(frozen=True, slots=True)
class Result:
    """The accuracy of one method and seed over a set of questions.

    `accuracy`, `low` and `high` (a 95% interval) and `lenient_accuracy` are fractions of `n`, the
    answered generations: errors are counted in `categories` and in nothing else. `epochs` are the
    accuracies after each epoch where the best on the test set was chosen, as the authors did. `at_k` is what
    a method has that samples several answers; its accuracy, categories and tokens are of the one that they make.
    """

    method: str
    seed: int | None
    accuracy: float
    low: float
    high: float
    n: int
    categories: Mapping[str, int]
    lenient_accuracy: float
    completion_tokens: float
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    epochs: tuple[float, ...] = ()
    at_k: tuple[AtK, ...] = ()

    @property
    def label(self) -> str:
        return label(self.method, self.seed)


Record = TypeVar("Record", Generation, Pair, Question)


def to_json(record: Any) -> dict[str, Any]:
    """A record as a JSON-ready dict."""
    return record.to_json() if isinstance(record, Pair) else asdict(record)


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write beside `path`, moved in when the block is done, so a cut write leaves the old file.

    Raises `DataError` where it cannot be written, as on a full disk.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DataError(
                f"{path}: cannot be written ({error.strerror or error}).\n"
                "Check the path, the rights and the room on the disk; then run again."
            ) from None
        raise


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write `data` beside `path` and move it in when whole."""
    with atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def to_line(record: Any) -> bytes:
    """A record as one line of JSON."""
    value = record.to_json() if isinstance(record, Pair) else record
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # half a surrogate pair, which UTF-8 cannot hold
        return json.dumps(value, default=asdict).encode() + b"\n"


def from_line(line: bytes) -> Any:
    """What a line of JSON says. Raises `ValueError` or `RecursionError` where it is none."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # it refuses a mark at the head of a file, and half a surrogate pair
        return json.loads(line.decode("utf-8-sig"))


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write one record a line, atomically."""
    with atomic(path) as file:
        file.writelines(map(to_line, records))


def iter_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSON-lines file; blank lines are passed over.

    Raises `DataError` that names the file and line for anything that is not a JSON object.
    """
    try:
        # Split on \n alone: at U+2028, which JSON allows, a record would break.
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _object(line.removesuffix("\n"), f"{path}, line {number}")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path, or where you run from.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}).\nSave it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).\nCheck the path and the rights.") from None


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 10,000 brackets
        raise DataError(
            f"{place}: not valid JSON ({error}). Fix or remove the line; each holds one whole object."
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: a JSON object was expected, not {line[:40]!r}.\n"
            "Write one object a line, such as {...}; a file that is one list has the ending .json."
        )
    return value


def read_jsonl(path: Path, record: type[Record]) -> list[Record]:
    """Read the records that `write_jsonl` wrote."""
    return [record_of(value, record, f"{path}, line {number}") for number, value in iter_json_lines(path)]


def record_of(value: object, record: type[Record], place: str) -> Record:
    """The record that JSON read at a `place` is; keys that it does not have are ignored."""
    try:
        return msgspec.convert(value, record)
    except msgspec.ValidationError as error:
        raise DataError(f"{place}: not a {record.__name__} ({error}).") from None
