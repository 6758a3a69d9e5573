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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from textwrap import shorten
from typing import Any, NamedTuple

from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question, iter_json_lines
from cotdistill.tasks.splits import Split, drawn

DELIMITERS = ",;\t|"  # that some program writes between columns
Rows = Iterator[tuple[int, dict[str, Any]]]


class Placed(NamedTuple):
    """A question, where it stands, such as "my.csv, line 3", and the split it names, "" for none."""

    place: str
    question: Question
    split: str


def load(config: TaskConfig) -> tuple[Split, Split, dict[str, str]]:
    """Train, test, and the place of each question id: of `data`, by a column or at random, or of two files."""
    if config.data is None:
        raise ConfigError("task.data is not set: set it to your .jsonl or .csv file.")
    if config.choices and config.answer_type != "choice":
        raise ConfigError(f"task.choices is set and task.answer_type is {config.answer_type}: it must be choice.")
    if config.split is not None and config.test_data is not None:
        raise ConfigError("task.split and task.test_data are both set: leave one of the two out.")
    placed = read_questions(config.data, config)
    questions = [row.question for row in placed]
    if config.split is not None:
        train = [row.question for row in placed if row.split == "train"]
        test = [row.question for row in placed if row.split == "test"]
        if not (train and test):
            raise DataError(
                f"{config.data}: no row is {'train' if test else 'test'} in column {config.split!r}.\n"
                "Some must be of either, or leave task.split out: then some are drawn for testing."
            )
    elif config.test_data is not None:
        placed_test = read_questions(config.test_data, config, id_prefix="test-")
        train, test = questions, [row.question for row in placed_test]
        placed += placed_test
    else:
        train, test = split(questions, config)
    places: dict[str, str] = {}
    for place, question, _ in placed:
        if question.id in places:
            raise DataError(f"{place}: the id {question.id!r} is also that of {places[question.id]}.\nMake ids unique.")
        places[question.id] = place
    return drawn(train, config.train, "train"), drawn(test, config.test, "test"), places


def split(questions: list[Question], config: TaskConfig) -> tuple[list[Question], list[Question]]:
    """A random share from a seed, each split in the order of the file."""
    n = len(questions)
    if n < 2:
        raise DataError(f"{config.data}: one question cannot be split. Add more, or set task.test_data.")
    order = list(range(n))
    Random(config.seed).shuffle(order)
    # At least one question on either side, however small the file.
    cut = min(max(round((1 - config.test_fraction) * n), 1), n - 1)
    return [questions[i] for i in sorted(order[:cut])], [questions[i] for i in sorted(order[cut:])]


def read_questions(path: Path, config: TaskConfig, id_prefix: str = "") -> list[Placed]:
    """The questions of one file, each with its place."""
    if path.suffix.lower() not in READERS:
        raise DataError(f"{path}: a file type that is not read. Use one of {', '.join(READERS)}.")
    unit, reader = READERS[path.suffix.lower()]
    placed = []
    for number, row in reader(path):
        place = f"{path}, {unit} {number}"
        question = _question(row, f"{id_prefix}{number}", config, place)
        placed.append(Placed(place, question, _split(row, config.split, place) if config.split else ""))
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
            text = with_options(text, choices)
    elif config.answer_type == "choice":
        choices = options_in(text)
    if config.answer_type == "choice":
        answer = _letter_of(answer, choices, place)
    rationale = _rationale(row, config.rationale, place) if config.rationale else ""
    return Question(question_id, text, answer, choices, rationale)


def _value(row: dict[str, Any], field: str, column: str, place: str) -> Any:
    if column not in row:
        raise missing_column(place, column, row, f"Name yours with task.{field}=COLUMN.")
    return row[column]


def missing_column(place: str, column: str, row: Iterable[str], hint: str) -> DataError:
    """The error for a `row` without a `column`, with the nearest there is, also for COLUMN in the `hint`."""
    close = difflib.get_close_matches(column, list(row), n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(
        f"{place}: no column {column!r}.{guess} The columns are: {shorten(', '.join(row), 300)}.\n"
        + (hint.replace("COLUMN", close[0]) if close else hint)
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


def _split(row: dict[str, Any], column: str, place: str) -> str:
    side = _cell(row, "split", column, place)
    if side not in ("train", "test"):
        raise DataError(
            f"{place}: the split (column {column!r}) is {side[:60]!r}: it must be train or test.\n"
            "Write one of the two, or remove the row."
        )
    return side


def _rationale(row: dict[str, Any], column: str, place: str) -> str:
    """What a person wrote, "" where there is nothing."""
    text = _text(_value(row, "rationale", column, place))
    if text is None:
        raise DataError(f"{place}: the rationale (column {column!r}) must be text, or null where there is none.")
    return text


def letter(i: int) -> str:
    """The letter of the `i`-th option: A, B, C, ..."""
    return chr(ord("A") + i)


def with_options(text: str, choices: Sequence[str]) -> str:
    """A question with its options listed, in the paper's words."""
    options = ", ".join(f"({letter(i)}) {choice}" for i, choice in enumerate(choices))
    return f"{text} Answer choices: {options}."


def options_in(text: str) -> tuple[str, ...]:
    """The options that a question lists as (A) x, (B) y; none unless the letters run A, B, C, ..."""
    _, *parts = re.split(r"\(([A-Z])\)", text)
    letters, options = parts[::2], tuple(part.strip(" \t\n,.;") for part in parts[1::2])
    runs = len(options) > 1 and letters == [letter(i) for i in range(len(options))]
    return options if runs and all(options) else ()


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
                columns = [cell.strip() for cell in cells]  # "question, answer"
                if len(columns) == 1 and any(d in columns[0] for d in DELIMITERS):
                    raise DataError(
                        f"{path}, line {line}: one column only, {columns[0][:60]!r}.\n"
                        f"Save it with {delimiter!r} between columns; with tabs it is a .tsv."
                    )
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
        raise DataError(f"{path}: a list of objects was expected, [{{...}}, ...], not {type(items).__name__}.")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{path}, item {number}: a JSON object was expected, not {str(item)[:40]!r}.")
        yield number, item


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path, or where you run from.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}). Save it as UTF-8.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).\nCheck the path and the rights.") from None


READERS: dict[str, tuple[str, Callable[[Path], Rows]]] = {
    ".jsonl": ("line", iter_json_lines),
    ".json": ("item", json_rows),
    ".csv": ("line", partial(csv_rows, delimiter=",")),
    ".tsv": ("line", partial(csv_rows, delimiter="\t")),
}
