"""Bring outputs that a teacher wrote elsewhere into a store, for a recorded teacher to answer from.

    import_completions(Path("outputs.jsonl"), Path("runs/outputs.sqlite"), "text-davinci-002")

One JSON object a line: a question as the teacher was asked it, its rationale, and what followed
"Therefore, the answer is". They become the two rows that `generate` asks for with zero_shot_cot.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import shorten
from typing import Any

from cotdistill.errors import DataError
from cotdistill.generate import first_params, first_request, second_params, second_request
from cotdistill.methods import METHODS
from cotdistill.records import FinishReason, Question, iter_json_lines
from cotdistill.store import Completion, Request, Row, SamplingParams, Store, canonical, identity_text

TEACHER = METHODS["zero_shot_cot"]
ROWS_AT_ONCE = 1000


def import_completions(
    source: Path,
    store_path: Path,
    model: str,
    temperature: float = 0.0,
    max_tokens: int = 128,
    question: str = "question",
    rationale: str = "rationale",
    answer_text: str = "answer_extraction_output",
) -> int:
    """Import `source`, and return how many questions it has; importing it again adds nothing.

    `temperature` and `max_tokens` are those of the rationale; `question`, `rationale` and
    `answer_text` name columns. Read where they are there: `sample` (which of a question's samples,
    from 0), `truncated` or `finish_reason`, and `rationale_tokens`. Where two samples have one
    rationale the first one's answer text stands for both, as one prompt has one greedy answer.

    Raises `DataError`, before anything is stored, for a line that does not fit or contradicts another.
    """
    identity = identity_text({"model": model, "form": "imported"})
    params = first_params(TEACHER, max_tokens, float(temperature))  # 0 and 0.0 are not one key
    seen: dict[Request, tuple[int, str, str]] = {}
    rows: dict[bytes, tuple[int, Row]] = {}
    for number, line in iter_json_lines(source):
        place = f"{source}, line {number}"
        asked, written, answer = (_text(line, column, place) for column in (question, rationale, answer_text))
        request = first_request(TEACHER, Question("", asked, ""), _count(line, "sample", place))
        earlier = seen.setdefault(request, (number, written, answer))
        if earlier[1:] != (written, answer):
            raise DataError(
                f"{source}, lines {earlier[0]} and {number}: two texts for sample {request.sample} of one question.\n"
                "Remove one of the lines, or number a question's samples from 0 in a column 'sample'."
            )
        first = Completion(written, _finish(line, place), 0, _count(line, "rationale_tokens", place))
        second = second_request(TEACHER, request, written)
        for row in (
            _row(identity, params, request, first),
            _row(identity, second_params(TEACHER), second, Completion(answer, "stop")),
        ):
            rows.setdefault(row.key, (number, row))
    if not rows:
        raise DataError(f"{source}: there is no line in this file.")
    with Store(store_path) as store:
        for some in _batches(list(rows)):
            _refuse_other_texts(source, store_path, store.read(some), rows)
        for some in _batches(list(rows)):
            store.write([rows[key][1] for key in some])
    return len({request.prompt for request in seen})


def _refuse_other_texts(
    source: Path, store_path: Path, stored: dict[bytes, Completion], rows: dict[bytes, tuple[int, Row]]
) -> None:
    for key, completion in stored.items():
        number, row = rows[key]
        if completion.text != row.completion.text:
            raise DataError(
                f"{source}, line {number}: {store_path} has another text for it, from an earlier import.\n"
                "Import into another store, or under another --model."
            )


def _row(identity: str, params: SamplingParams, request: Request, completion: Completion) -> Row:
    params_text = canonical(asdict(params))
    return Row(request.key(identity, params_text), identity, params_text, request, completion)


def _text(line: dict[str, Any], column: str, place: str) -> str:
    """A column's text, with no character changed."""
    if column not in line:
        close = difflib.get_close_matches(column, list(line), n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{place}: no column {column!r}.{guess} The columns are: {shorten(', '.join(line), 300)}.\n"
            "Name yours with --question, --rationale and --answer-text."
        )
    value = line[column]
    # Half a surrogate pair, which JSON may hold, fits into no store.
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{place}: column {column!r} must be text, not {shorten(repr(value), 60)}.")
    return value


def _count(line: dict[str, Any], column: str, place: str) -> int:
    value = line.get(column)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise DataError(f"{place}: column {column!r} must be a whole number from 0, not {shorten(repr(value), 60)}.")
    return value


def _finish(line: dict[str, Any], place: str) -> FinishReason:
    truncated, reason = line.get("truncated"), line.get("finish_reason")
    if truncated not in (None, True, False) or reason not in (None, "stop", "length"):
        raise DataError(
            f"{place}: 'truncated' must be true or false, and 'finish_reason' stop or length.\n"
            "Remove a line that has no whole text, or rename the column."
        )
    return "length" if truncated or reason == "length" else "stop"


def _batches(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), ROWS_AT_ONCE):
        yield keys[start : start + ROWS_AT_ONCE]
