"""Bring outputs that a teacher wrote elsewhere into a store, for a recorded teacher to answer from.

    sections = import_completions([Path("outputs.jsonl")], Path("runs/outputs.sqlite"), "text-davinci-002")

`FORMS` are the files that are read. A rationale with what followed "Therefore, the answer is" becomes
the two rows that `generate` asks for with zero_shot_cot; one text with its answer inside becomes the one
row of one_step. No text is edited.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from cotdistill import progress
from cotdistill.answers import TYPED
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.config import nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.generate import first_params, second_params
from cotdistill.jobs import second_prompt
from cotdistill.methods import Method, teacher_method
from cotdistill.records import FinishReason, Question, iter_json_lines, write_atomic
from cotdistill.store import Row, Store
from cotdistill.tasks.files import missing_column

FileRows = Iterator[tuple[str, dict[str, Any]]]  # one output each, with its place, such as "a.jsonl, line 3"


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a teacher, whatever its form; `answer_text` is `None` where the text holds its answer."""

    place: str
    question: str
    text: str
    answer_text: str | None
    sample: int
    finish_reason: FinishReason
    tokens: int
    gold: Any
    id: str
    split: str | None


def lines(path: Path) -> FileRows:
    """One output a line."""
    for number, line in iter_json_lines(path):
        yield f"{path}, line {number}", line


def completion_dataset(path: Path) -> FileRows:
    """https://github.com/itsnamgyu/reasoning-teacher, src/data/completion_dataset.py: one object, lists of samples."""
    try:
        whole = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not one JSON object ({error}). One object a line? Name the file .jsonl.") from None
    data = whole.get("data") if isinstance(whole, dict) else None
    for index, samples in data.items() if isinstance(data, dict) else [("", None)]:
        if not isinstance(samples, list) or not all(isinstance(sample, dict) for sample in samples):
            raise DataError(f"{path}, data {index!r}: a list of completions was expected.")
        for number, sample in enumerate(samples):
            reason = sample.get("reasoning_finish_reason", sample.get("finish_reason"))
            yield f"{path}, data {index!r}, item {number}", {**sample, "finish_reason": reason}


def log_samples(path: Path) -> FileRows:
    """https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/evaluator.py: a line a question and filter.

    The columns are those of the task's own `doc`; `resps` has a list of texts for each request.
    """
    filters: list[object] = []
    for place, line in lines(path):
        doc, resps = line.get("doc"), line.get("resps")
        if not isinstance(doc, dict) or not isinstance(resps, list) or not resps or not isinstance(resps[0], list):
            raise DataError(f"{place}: 'doc' must be an object, and 'resps' a list with a list of texts.")
        filters = filters or [line.get("filter")]
        if line.get("filter") not in filters:
            continue  # the same texts again, for another filter
        # GSM8K's target is a whole solution, with the answer after ####.
        gold = str(line.get("target", "")).rpartition("####")[2].strip()
        for number, text in enumerate(resps[0]):
            sample = number if len(resps[0]) > 1 else None
            yield place, {**doc, "doc_id": line.get("doc_id"), "target": gold, "resps": text, "sample": sample}


COLUMNS = ("question", "rationale", "answer_text", "output", "gold", "id", "sample", "tokens")
# Each form's reader, the keys by which its first object is known, tried in this order, and its COLUMNS; "-" is none.
# A `rationale` in a row of lm_eval or nemo is the dataset's, not the teacher's.
FORMS: dict[str, tuple[Callable[[Path], FileRows], str, str]] = {
    "authors": (
        completion_dataset,
        "metadata data",
        "question reasoning_completion completion completion answer sample_index completion_index -",
    ),
    "lm_eval": (log_samples, "doc resps", "question - - resps target doc_id sample -"),
    # https://github.com/NVIDIA/NeMo-Skills, nemo_skills/inference/generate.py: output-rs0.jsonl, a file a seed.
    "nemo": (
        lines,
        "generation expected_answer",
        "problem - - generation expected_answer id sample num_generated_tokens",
    ),
    # Made from the logs of https://github.com/kojima-takeshi188/zero_shot_cot, log/.
    "kojima": (
        lines,
        "answer_extraction_output",
        "question rationale answer_extraction_output - gold index sample rationale_tokens",
    ),
    "plain": (lines, "", "question rationale answer_text output gold id sample rationale_tokens"),
}


def import_completions(
    files: Sequence[Path],
    store_path: Path,
    model: str,
    temperature: float = 0.0,
    max_tokens: int = 128,
    form: str = "",
    answer_type: str = "",
    questions: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, dict[str, object]]:
    """Import `files`, and return the sections of a config that asks for them; doing it again adds nothing.

    `temperature` and `max_tokens` are those of the rationale. `form` is a key of FORMS, "" to tell it
    from each file; `columns` are names that replace those of the form. `answer_type` is the task's:
    one_step's prompt names it. `questions` is a task file to write, with the files' own gold answers.
    Of two texts for one request the first stands, and a line on stderr says so.

    Raises `DataError`, before anything is stored, for an output that does not fit, or of which an
    earlier import stored another text.
    """
    if form and form not in FORMS:
        raise ConfigError(f"--form: no form {form!r}{nearest(form, FORMS)}")
    if answer_type and answer_type not in TYPED:
        raise ConfigError(f"--answer-type: no type {answer_type!r}{nearest(answer_type, TYPED)}")
    outputs, samples = _read(files, form, columns or {}, with_gold=questions is not None)
    method = _method(outputs, answer_type)
    rows = _rows(outputs, method, model, first_params(method, max_tokens, temperature))
    asked = _questions(outputs) if questions else []
    _store(rows, store_path)
    fewest, most = min(samples.values()), max(samples.values())
    uneven = f", of {fewest} to {most} samples; only {fewest} can be asked of all" if fewest < most else ""
    progress.say(f"{len(samples)} questions imported into {store_path}{uneven}")
    sections: dict[str, dict[str, object]] = {}
    if questions:
        write_atomic(questions, "".join(json.dumps(row) + "\n" for row in asked))
        split = {"split": "split"} if any("split" in row for row in asked) else {}
        kind = {"answer_type": answer_type} if answer_type else {}
        sections["task"] = {"data": str(questions), "id": "id", **split, **kind}
    teacher = {"backend": "recorded", "store": str(store_path), "model": model, "style": method.name}
    how = {"samples": fewest, "temperature": float(temperature), "max_tokens": max_tokens}
    return {**sections, "teacher": {**teacher, **how}}


def _read(
    files: Sequence[Path], form: str, columns: Mapping[str, str], with_gold: bool
) -> tuple[list[Output], Counter[str]]:
    """The outputs of all files, and how many samples each question has.

    A file that numbers no samples brings the next sample of each question that an earlier file has.
    """
    if "output" in columns:
        columns = {"rationale": "-", **columns}  # asked for by name, it comes before a rationale
    if not with_gold:
        columns = {**columns, "gold": "-"}
    outputs: list[Output] = []
    samples = Counter[str]()
    for path in files:
        rows, _, names = FORMS[form or _form_of(path)]
        before = samples.copy()
        for place, row in rows(path):
            output = _output(row, {**dict(zip(COLUMNS, names.split(), strict=True)), **columns}, place, before)
            samples[output.question] = max(samples[output.question], output.sample + 1)
            outputs.append(output)
    if not outputs:
        raise DataError(f"{', '.join(map(str, files))}: there is no output here.")
    return outputs, samples


def _form_of(path: Path) -> str:
    try:
        _, first = next(iter_json_lines(path), (0, {}))
    except DataError:
        if path.suffix.lower() != ".json":
            raise
        return "authors"  # one object over many lines
    return next(name for name, (_, keys, _) in FORMS.items() if first.keys() >= set(keys.split()))


def _output(row: dict[str, Any], columns: Mapping[str, str], place: str, samples: Mapping[str, int]) -> Output:
    """One row, checked; `samples` is how many samples of each question came before its file."""
    question = _text(row, columns, "question", place).strip()
    two = columns["rationale"] != "-" and (columns["rationale"] in row or columns["output"] not in row)
    truncated, reason = row.get("truncated"), row.get("finish_reason")
    if truncated not in (None, True, False) or reason not in (None, "stop", "length"):
        raise DataError(
            f"{place}: 'truncated' must be true or false, and 'finish_reason' stop or length.\n"
            "Remove an output that has no whole text, or rename the column."
        )
    sample = _count(row, columns["sample"], place)
    known_id, split = row.get(columns["id"]), row.get("split")
    return Output(
        place,
        question,
        text=_text(row, columns, "rationale" if two else "output", place),
        answer_text=_text(row, columns, "answer_text", place) if two else None,
        sample=samples[question] if sample is None else sample,
        finish_reason="length" if truncated or reason == "length" else "stop",
        tokens=_count(row, columns["tokens"], place) or 0,
        gold=_value(row, columns, "gold", place) if columns["gold"] != "-" else None,
        id=str(known_id) if isinstance(known_id, str | int) else "",
        split=split if isinstance(split, str) else None,
    )


def _value(row: dict[str, Any], columns: Mapping[str, str], field: str, place: str) -> Any:
    if columns[field] not in row:
        raise missing_column(place, columns[field], row, f"Name yours with --{field.replace('_', '-')}=COLUMN.")
    return row[columns[field]]


def _text(row: dict[str, Any], columns: Mapping[str, str], field: str, place: str) -> str:
    """A column's text, with no character changed."""
    value = _value(row, columns, field, place)
    # Half a surrogate pair, which JSON may hold, fits into no store.
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{place}: column {columns[field]!r} must be text, not {shorten(repr(value), 60)}.")
    return value


def _count(row: dict[str, Any], column: str, place: str) -> int | None:
    value = row.get(column)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31):
        return value
    raise DataError(f"{place}: column {column!r} must be a whole number from 0, not {shorten(repr(value), 60)}.")


def _method(outputs: Sequence[Output], answer_type: str) -> Method:
    """How a teacher must be asked to answer with these."""
    first = outputs[0]
    for output in outputs:
        if (output.answer_text is None) != (first.answer_text is None):
            raise DataError(
                f"{first.place} and {output.place}: one has an answer text of its own, the other has not.\n"
                "Import each kind for itself."
            )
    if first.answer_text is not None:
        return teacher_method("zero_shot_cot")
    if not answer_type:
        raise ConfigError(
            f"{first.place}: one text that holds its answer; a teacher's prompt for that names the type of answer.\n"
            "Say it with --answer-type, as in task.answer_type."
        )
    return teacher_method("one_step", answer_type=answer_type)


def _rows(
    outputs: Sequence[Output], method: Method, model: str, params: SamplingParams
) -> dict[tuple[bytes, int], tuple[str, Row]]:
    """What `generate` would have stored, by key and sample, each with its place; of two texts the first stands."""
    identity = {"model": model, "form": "imported"}
    first, second = Pool(identity, params), Pool(identity, second_params(method, params))
    rows: dict[tuple[bytes, int], tuple[str, Row]] = {}
    repeats, others = 0, []
    for output in outputs:
        prompt: tuple[str, ...] = (method.prompt(Question("", output.question, "")),)
        text = Completion(output.text, output.finish_reason, 0, output.tokens)
        made = [Row(first, first.key(prompt), prompt, output.sample, text)]
        if output.answer_text is not None:
            prompt = second_prompt(method, prompt, output.text)
            made.append(Row(second, second.key(prompt), prompt, 0, Completion(output.answer_text, "stop")))
        repeats += (made[0].key, output.sample) in rows
        for row in made:
            place, stands = rows.setdefault((row.key, row.sample), (output.place, row))
            if stands.completion.text != row.completion.text:
                others.append(f"{place} and {output.place}")
                break  # nobody asks for the answer after a rationale that does not stand
    if repeats or others:
        differ = f"; {len(others)} with another text than the first, which stands: {others[0]}" if others else ""
        progress.say(
            f"{repeats} of {len(outputs)} outputs repeat a question{differ}{', ...' if len(others) > 1 else ''}"
        )
    return rows


def _store(rows: Mapping[tuple[bytes, int], tuple[str, Row]], path: Path) -> None:
    with Store(path) as store:
        for (key, sample), (place, row) in rows.items():
            stored = store.samples(key).get(sample, row.completion)
            if stored.text != row.completion.text:
                raise DataError(
                    f"{place}: {path} has another text for it, from an earlier import.\n"
                    "Import into another store, or under another --model."
                )
        store.write([row for _, row in rows.values()])


def _questions(outputs: Sequence[Output]) -> list[dict[str, object]]:
    """A row of a task file for each id, or each question where the file has no ids."""
    numbers: dict[str, str] = {}
    found: dict[str, tuple[str, dict[str, object]]] = {}
    for output in outputs:
        row_id = output.id or numbers.setdefault(output.question, str(len(numbers) + 1))
        row = {"id": row_id, "question": output.question, "answer": output.gold}
        row |= {} if output.split is None else {"split": output.split}
        place, first = found.setdefault(row_id, (output.place, row))
        if row != first:
            raise DataError(
                f"{output.place}: by its id the question at {place}, but of another text, answer or split.\n"
                "Correct one of the two, or import files of different questions one by one."
            )
    return [row for _, row in found.values()]
