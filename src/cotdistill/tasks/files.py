"""Your own questions, from a .jsonl, .json, .csv or .tsv file.

    train, test, places = load(TaskConfig(data=Path("my.csv"), answer_type="number"))

Nothing is skipped but blank lines: whatever does not fit is one `DataError` with the file, the line
and what to do. `places` says where each question id stands, for errors found later.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from textwrap import shorten
from typing import Any

from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question, iter_json_lines

Rows = Iterator[tuple[int, dict[str, Any]]]
Split = tuple[Question, ...]


def load(config: TaskConfig) -> tuple[Split, Split, dict[str, str]]:
    """Train, test, and the place of each question id: a split of `data`, or `data` and `test_data`."""
    if config.data is None:
        raise ConfigError("task.data is not set: set it to your .jsonl or .csv file.")
    if config.choices and config.answer_type != "choice":
        raise ConfigError(f"task.choices is set and task.answer_type is {config.answer_type}: it must be choice.")
    placed = read_questions(config.data, config)
    if config.test_data is not None:
        placed_test = read_questions(config.test_data, config, id_prefix="test-")
        train, test = [q for _, q in placed], [q for _, q in placed_test]
        placed += placed_test
    else:
        train, test = split([q for _, q in placed], config)
    places: dict[str, str] = {}
    for place, question in placed:
        if question.id in places:
            raise DataError(f"{place}: the id {question.id!r} is also that of {places[question.id]}.\nMake ids unique.")
        places[question.id] = place
    return tuple(train), tuple(test), places


def split(questions: list[Question], config: TaskConfig) -> tuple[list[Question], list[Question]]:
    """The paper's rule: a random share from a seed, each split in the order of the file."""
    n = len(questions)
    if n < 2:
        raise DataError(f"{config.data}: one question cannot be split. Add more, or set task.test_data.")
    order = list(range(n))
    Random(config.seed).shuffle(order)
    # At least one question on either side, however small the file.
    cut = min(max(round((1 - config.test_fraction) * n), 1), n - 1)
    return [questions[i] for i in sorted(order[:cut])], [questions[i] for i in sorted(order[cut:])]


def read_questions(path: Path, config: TaskConfig, id_prefix: str = "") -> list[tuple[str, Question]]:
    """The questions of one file, each with its place, such as "my.csv, line 3"."""
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: a file type that is not read. Use one of {', '.join(READERS)}.")
    unit, reader = READERS[path.suffix.lower()]
    placed = []
    for number, row in reader(path):
        place = f"{path}, {unit} {number}"
        placed.append((place, _question(row, f"{id_prefix}{number}", config, place)))
    if not placed:
        raise DataError(f"{path}: there is no question in this file.")
    return placed


def _question(row: dict[str, Any], number: str, config: TaskConfig, place: str) -> Question:
    """One row as a question; `number` is its id where no column of ids is named."""
    text = _cell(row, "question", config.question, place)
    bools = ("no", "yes") if config.answer_type == "yes_no" else ("false", "true")
    answer = _cell(row, "answer", config.answer, place, bools)
    question_id = _cell(row, "id", config.id, place) if config.id else number
    choices: tuple[str, ...] = ()
    if config.choices:
        choices = _choices(_value(row, "choices", config.choices, place), place)
        if not _shows(text, choices):
            options = ", ".join(f"({letter(i)}) {choice}" for i, choice in enumerate(choices))
            text = f"{text} Answer choices: {options}."
    if config.answer_type == "choice":
        answer = _letter_of(answer, choices, place)
    return Question(question_id, text, answer, choices)


def _value(row: dict[str, Any], field: str, column: str, place: str) -> Any:
    if column in row:
        return row[column]
    close = difflib.get_close_matches(column, list(row), n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise DataError(
        f"{place}: no column {column!r}.{guess} The columns are: {shorten(', '.join(row), 300)}.\n"
        f"Name yours with task.{field}={close[0] if close else 'COLUMN'}."
    )


def _cell(row: dict[str, Any], field: str, column: str, place: str, bools: tuple[str, str] = ("false", "true")) -> str:
    """A value of a row as text that is not empty."""
    text = _text(_value(row, field, column, place), bools)
    if text is None:
        raise DataError(f"{place}: the {field} (column {column!r}) must be text or a number.")
    if not text:
        raise DataError(f"{place}: the {field} (column {column!r}) is empty. Fill it in, or remove the row.")
    return text


def _text(value: Any, bools: tuple[str, str] = ("false", "true")) -> str | None:
    """A JSON value or a CSV field as text, empty for null; `None` for what is no text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return bools[value]
    if isinstance(value, str | int | float):
        text = str(value).strip()
        # Half a surrogate pair: JSON may hold one, and no tokenizer, store or HTTP body can.
        return None if re.search(r"[\ud800-\udfff]", text) else text
    return None


def letter(i: int) -> str:
    """The letter of the `i`-th option: A, B, C, ..."""
    return chr(ord("A") + i)


def _choices(value: Any, place: str) -> tuple[str, ...]:
    """Options from a list, or from text that is a JSON list or has `|` between them."""
    listed = value
    if isinstance(value, str):
        try:
            listed = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except (ValueError, RecursionError):
            listed = None
    options = [_text(option) for option in listed] if isinstance(listed, list) else []
    different = {option.casefold() for option in options if option}
    if not 2 <= len(options) <= 26 or len(different) < len(options):
        raise DataError(
            f"{place}: the choices {str(value)[:60]!r} are not 2 to 26 different options.\n"
            'Write them as a JSON list, ["x", "y"], or with | between them, x|y.'
        )
    return tuple(option for option in options if option)


def _shows(text: str, choices: Sequence[str]) -> bool:
    """Whether a question lists its options already, as (A) x or A. x or A: x."""
    return all(re.search(rf"\b{letter(i)}[).:]\s*{re.escape(choice)}", text) for i, choice in enumerate(choices))


def _letter_of(answer: str, choices: Sequence[str], place: str) -> str:
    """The letter of a known answer that is given as a letter or as the text of an option."""
    letters = [letter(i) for i in range(len(choices) or 26)]
    found = {letter(i) for i, choice in enumerate(choices) if choice.casefold() == answer.casefold()}
    if (match := re.fullmatch(r"\(?([A-Za-z])[).]?", answer)) and match[1].upper() in letters:
        found.add(match[1].upper())
    if len(found) == 1:
        return found.pop()
    if found:
        what = f"is the letter of one option and the text of another ({' or '.join(sorted(found))})"
    else:
        what = f"is neither a letter from A to {letters[-1]} nor the text of an option"
    options = "".join(f" ({letter(i)}) {choice}" for i, choice in enumerate(choices))
    where = f": {shorten(options, 300)}" if choices else ". Name the column of the options with task.choices=COLUMN."
    # In brackets it cannot be taken for the text of an option.
    raise DataError(f"{place}: the answer {answer[:60]!r} {what}{where}\nGive the letter in brackets, such as (B).")


def csv_rows(path: Path, delimiter: str) -> Rows:
    """Yield (first line of the row, row) of a file whose first row names the columns."""
    # Strict: a quote that never closes would otherwise swallow the rest of the file.
    reader = csv.reader(io.StringIO(_read(path), newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    line = 1
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) and len(cells) < 2:
                pass
            elif not columns:
                columns = cells
                if twice := next((c for c in columns if columns.count(c) > 1), None):
                    raise DataError(f"{path}, line {line}: two columns are named {twice!r}. Rename one.")
            elif len(cells) != len(columns):
                raise DataError(
                    f"{path}, line {line}: {len(cells)} field(s), where the first row names {len(columns)} columns.\n"
                    f"Put a field that holds {delimiter!r}, a quote or a line break in double quotes."
                )
            else:
                yield line, dict(zip(columns, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: not valid CSV ({error}).\nIn a quoted field, write a quote as two."
        ) from None


def json_rows(path: Path) -> Rows:
    """Yield (position from 1, object) of a file that is one JSON list."""
    try:
        items = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}). One object a line? Name the file .jsonl.") from None
    if not isinstance(items, list):
        raise DataError(f"{path}: a list of objects was expected, not {type(items).__name__}.")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{path}, item {number}: a JSON object was expected, not {str(item)[:40]!r}.")
        yield number, item


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path, or where you run from.") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}). Save it as UTF-8.") from None


READERS: dict[str, tuple[str, Callable[[Path], Rows]]] = {
    ".jsonl": ("line", iter_json_lines),
    ".json": ("item", json_rows),
    ".csv": ("line", partial(csv_rows, delimiter=",")),
    ".tsv": ("line", partial(csv_rows, delimiter="\t")),
}
