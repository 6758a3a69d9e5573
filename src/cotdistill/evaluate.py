"""Score generations, a teacher's or a student's, and sum the scores up into a Result.

    scores = [score(generation, question, method, answer_type) for ...]
    result = evaluate(scores, ...)
    right, n = count_right(method, questions, answer_type, config.evaluate, loaded, ids)

The answer is read in the form that the method asks for: from what follows the second prompt, or the
cue. Where the form was missed, the rule says what of the whole text counts (`AnswerType.find`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from cotdistill import answers
from cotdistill.answers import RULES, AnswerType
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import EvaluateConfig, nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.methods import FORMS, METHODS, Method
from cotdistill.models import LoadedModel
from cotdistill.reading import is_step
from cotdistill.records import CATEGORIES, Category, Generation, Question, Result, Score, iter_json_lines
from cotdistill.review import result_warnings
from cotdistill.stats import share_interval

FIX = "Check the columns and the answer type, or remove the line."
Judged = tuple[str | None, Category, bool]  # predicted, category and lenient of a Score
# For outputs of any tool: a second prompt's, after the paper's cue, an answer alone, or a text that has one.
ANY_FORM = Method("any form", lambda question: question.text, max_tokens=0)


def score(generation: Generation, question: Question, method: Method, answer_type: AnswerType) -> Score:
    """Judge one generation of `method` against the known answer of its question."""
    _, answer = split_answer(generation, method, answer_type)
    return Score(generation.question_id, generation.index, *judge(generation, answer, question, answer_type, {}))


def judge(
    generation: Generation, answer: str | None, question: Question, answer_type: AnswerType, known: dict[str, Judged]
) -> Judged:
    """As `score`, of a generation split already; `known` is kept from one of a question to the next: many end alike."""
    if generation.finish_reason == "error":
        return None, "error", False
    cut = generation.finish_reason == "length" and bool(answer_type.unfinished)
    # It is the text that was cut: not what followed the second prompt, or stands before a stop.
    ends_it = cut and generation.answer_text is None and (answer is None or generation.text.endswith(answer))
    mark = answer_type.unfinished if ends_it else ""
    if answer is None:
        predicted = answer_type.find(f"{generation.text}{mark}", question.choices)
    elif (read := f"{answer}{mark}") in known:
        return known[read]
    else:
        predicted = next(iter(answer_type.candidates(read, question.choices)), None)
    if predicted is None:
        anywhere = answer_type.candidates(_last_line(generation), question.choices)
        lenient = bool(anywhere) and answer_type.equal(anywhere[-1], question.answer)
        return None, "truncated" if cut else "no_answer", lenient
    right = answer_type.equal(predicted, question.answer)
    judged: Judged = predicted, "correct" if right else "wrong", right
    if answer is not None:
        known[read] = judged
    return judged


def split_answer(generation: Generation, method: Method, answer_type: AnswerType) -> tuple[str, str | None]:
    """The rationale and the answer step of a generation; `None` for the step where the form was missed."""
    text = generation.text
    if method.answer_cue or (method is ANY_FORM and generation.answer_text is not None):
        return text, generation.answer_text
    if method is ANY_FORM and (cue := FORMS["paper"].cue) not in text:
        # The authors' evaluator takes the first answer of a text without a cue, whatever it is.
        return ("", text) if answer_type.first_cue or is_step(text) else (text, None)
    if method.mark:
        answer, _, rationale = text.partition(method.mark)
        for stop in method.stop:
            answer = answer.partition(stop)[0]
        return rationale, answer
    if not (cue := method.cue or (cue if method is ANY_FORM else "")):
        return "", text
    if answer_type.first_cue:
        rationale, found, answer = text.partition(cue)
    else:
        for stop in method.stop:  # what follows is not this question's
            text = text.partition(stop)[0]
        rationale, found, answer = text.rpartition(cue)
    return (rationale, answer) if found else (generation.text, None)


def _last_line(generation: Generation) -> str:
    """Of the last text that says anything."""
    return f"{generation.text}\n{generation.answer_text or ''}".strip().rpartition("\n")[2]


def evaluate(
    generations: Sequence[Generation],
    scores: Sequence[Score],
    method: Method,
    seed: int | None = None,
) -> Result:
    """The Result of one method over scored generations; errors are left out of n and counted.

    The interval is Wilson's, or where a question has several generations clustered by question.
    """
    counts = Counter(s.category for s in scores)
    answered = [s for s in scores if s.category != "error"]
    tokens = [g.completion_tokens for g in generations if g.finish_reason != "error"]
    n, right = len(answered), counts["correct"]
    by_question: dict[str, list[float]] = {}
    for s in answered:
        by_question.setdefault(s.question_id, []).append(float(s.correct))
    low, high = share_interval([*by_question.values()])[1:] if n else (0.0, 1.0)
    return Result(
        method.name,
        seed,
        right / n if n else 0.0,
        low,
        high,
        n,
        {category: counts[category] for category in CATEGORIES},
        sum(s.lenient for s in answered) / n if n else 0.0,
        sum(tokens) / len(tokens) if tokens else 0.0,
        warnings=tuple(result_warnings(counts)),
    )


def count_right(
    method: Method,
    questions: Sequence[Question],
    answer_type: AnswerType,
    config: EvaluateConfig,
    loaded: LoadedModel,
    ids: Collection[str],
) -> tuple[int, int]:
    """How many of the questions with these `ids` a model answers right, greedily, and of how many.

    Nothing is stored: a student in training has no identity yet.
    """
    params = SamplingParams(config.max_tokens or method.max_tokens, stop=method.stop)
    asked = [(Request((method.prompt(question),), params), question) for question in questions if question.id in ids]
    backend = TransformersBackend("", chat=method.chat, batch_size=config.batch_size, loaded=loaded)
    written = {request: found for request, _, found in backend.generate(request for request, _ in asked)}
    generations = [(Generation(q.id, 0, written[r].text, None, written[r].finish_reason), q) for r, q in asked]
    categories = Counter(score(g, q, method, answer_type).category for g, q in generations)
    return categories["correct"], categories.total() - categories["error"]


def score_file(
    path: Path,
    answer_type: str,
    rule: str = "typed",
    method: str = "",
    columns: Mapping[str, str] | None = None,
    options: int = 0,
) -> tuple[Result, list[Score]]:
    """The Result of JSON lines of any tool, and the Score of each line.

    `columns` names those of `output`, `answer` and `choices` where they are others; `options` is how many a
    question has where it does not list them. Without a `method` no form is assumed. Raises `DataError`
    for a line without a known answer, `ConfigError` for an unknown type, rule or method.
    """
    for kind, name, known in (
        ("rule", rule, RULES),
        ("answer type", answer_type, RULES["typed"]),
        ("method", method or "zero_shot", METHODS),
    ):
        if name not in known:
            raise ConfigError(f"no {kind} {name!r}{nearest(name, known)}")
    reader, asked = answers.answer_type(rule, answer_type, options), METHODS[method] if method else ANY_FORM
    lines = list(iter_json_lines(path))
    names = _columns(path, [line for _, line in lines], columns or {})
    generations, scores = [], []
    for number, line in lines:
        question = _question(f"{path}, line {number}", str(number), line, names, answer_type, options)
        if rule == "typed" and answer_type not in ("text", "math"):  # "(B)" and "39 pieces" are B and 39
            plain = reader.candidates(question.answer, question.choices)
            if not plain:
                raise DataError(
                    f"{path}, line {number}: {question.answer[:60]!r} cannot be read as {answer_type}.\n{FIX}"
                )
            question = replace(question, answer=plain[0])
        known_id = line.get("question_id")  # of several answers to one question
        own = str(number if known_id is None else known_id)
        generation, form = _generation(own, line, names, asked, answer_type)
        generations.append(generation)
        scores.append(score(generation, question, form, reader))
    return replace(evaluate(generations, scores, asked), method=method or path.name), scores


def _columns(path: Path, lines: Sequence[Mapping[str, Any]], given: Mapping[str, str]) -> dict[str, str]:
    """The names of the columns: as given, or ours, or those of a run's predictions."""
    there = {name: None for line in lines for name in line}
    if not there:
        raise DataError(f"{path}: there are no lines to score.")
    names = {"choices": given.get("choices") or "choices"}
    for what, ours in (("output", "text"), ("answer", "gold")):
        names[what] = given.get(what) or (ours if what not in there and ours in there else what)
        if names[what] not in there:
            raise DataError(
                f"{path}: no column {names[what]!r}{nearest(names[what], there)}\nName it: --{what} COLUMN."
            )
    if given.get("choices") and names["choices"] not in there:
        raise DataError(f"{path}: no column {names['choices']!r}{nearest(names['choices'], there)}")
    return names


def _question(
    place: str, number: str, line: Mapping[str, Any], names: Mapping[str, str], answer_type: str, options: int
) -> Question:
    """The known answer and the options of a line; as many unnamed ones as the task has, where it lists none."""
    answer, choices = _written(line.get(names["answer"]), answer_type), line.get(names["choices"])
    if not answer:
        raise DataError(f"{place}: no known answer in column {names['answer']!r}.\n{FIX}")
    if isinstance(choices, dict):  # {"label": [...], "text": [...]}, or {"A": ..., "B": ...}
        choices = choices.get("text", list(choices.values()))
    if not isinstance(choices, list | None):
        raise DataError(f"{place}: column {names['choices']!r} is no list of options.\n{FIX}")
    named = tuple(map(str, choices)) if choices else ("",) * options
    # GSM8K gives a known answer as a rationale, #### and the answer.
    return Question(number, "", answer.rpartition("####")[2].strip(), named)


def _generation(
    number: str, line: Mapping[str, Any], names: Mapping[str, str], method: Method, answer_type: str
) -> tuple[Generation, Method]:
    """What a line holds as a Generation, and the form that it is in: JSON with an `answer` has its own."""
    output, answer_text = line.get(names["output"]), line.get("answer_text") if names["output"] == "text" else None
    cut = line.get("truncated") is True or line.get("finish_reason") in ("length", "max_tokens")
    if names["output"] != "rationale" and "rationale" in line:
        cut = False  # it is the rationale that was cut, and not the answer step beside it
    if output is None or line.get("finish_reason") == "error":
        return Generation(number, 0, "", None, "error", error="no output"), method
    fields = output if isinstance(output, dict) else _json_object(output)
    if fields:
        return Generation(number, 0, "", _written(fields.get("answer"), answer_type) or "", "stop"), ANY_FORM
    text = _written(output, answer_type) or ""
    if method.answer_cue and names["output"] != "text":
        text, answer_text = "", text  # the step alone, as it was logged
    tokens = line.get("completion_tokens", 0)
    return Generation(number, 0, text, answer_text, "length" if cut else "stop", completion_tokens=tokens), method


def _json_object(text: object) -> dict[str, Any]:
    """The object that a text spells, bare or in a fence; empty where it spells none."""
    bare = str(text).strip().removeprefix("```json").strip("`\n ")
    if not bare.startswith("{"):
        return {}
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _written(value: Any, answer_type: str) -> str | None:
    """A JSON value as a person would write it: true is yes, 1e22 has its zeros."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return ("no", "yes")[value] if answer_type == "yes_no" else ("false", "true")[value]
    return f"{Decimal(repr(value)):f}" if isinstance(value, (int, float)) else json.dumps(value)
