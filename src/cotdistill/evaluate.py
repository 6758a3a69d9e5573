"""Score generations, a teacher's or a student's, and sum the scores up into a Result.

    scores = [score(generation, question, method, answer_type) for ...]
    result = evaluate(scores, ...)

The strict rule reads the answer in the form that the method asks for: from what follows the second
prompt, or the cue. The lenient rule takes the last candidate of the whole text when the form was
missed, as the authors' evaluator does (spec: src/evaluation/evaluator.py, 83-104).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cotdistill.answers import RULES, AnswerType
from cotdistill.config import nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.methods import METHODS, Method
from cotdistill.records import CATEGORIES, Category, Generation, Question, Result, Score, iter_json_lines
from cotdistill.stats import wilson

MANY_ERRORS = 0.05


def score(generation: Generation, question: Question, method: Method, answer_type: AnswerType) -> Score:
    """Judge one generation of `method` against the known answer of its question."""

    def judged(predicted: str | None, category: Category, lenient: bool) -> Score:
        return Score(generation.question_id, generation.index, predicted, category, lenient)

    if generation.finish_reason == "error":
        return judged(None, "error", False)
    candidates = answer_type.candidates(answer_region(generation, method), question.choices)
    # Strictly the first: what follows an answer is often the start of another question.
    if candidates:
        right = answer_type.equal(candidates[0], question.answer)
        return judged(candidates[0], "correct" if right else "wrong", right)
    anywhere = answer_type.candidates(_whole(generation), question.choices)
    lenient = bool(anywhere) and answer_type.equal(anywhere[-1], question.answer)
    return judged(None, "truncated" if generation.finish_reason == "length" else "no_answer", lenient)


def answer_region(generation: Generation, method: Method) -> str:
    """The part of a generation where its answer must stand; "" where the form was missed."""
    if method.answer_cue:
        return generation.answer_text or ""
    if method.cue:
        return generation.text.partition(method.cue)[2]
    return generation.text


def _whole(generation: Generation) -> str:
    # The last line of the last text that says anything: a number type reads line by line.
    text = f"{generation.text}\n{generation.answer_text or ''}".strip()
    return text.rpartition("\n")[2]


def evaluate(
    generations: Sequence[Generation],
    scores: Sequence[Score],
    method: Method,
    seed: int | None = None,
    seconds: float | None = None,
) -> Result:
    """The Result of one method over scored generations; errors are left out of n and counted."""
    counts = Counter(s.category for s in scores)
    answered = [s for s in scores if s.category != "error"]
    tokens = [g.completion_tokens for g in generations if g.finish_reason != "error"]
    n, right = len(answered), counts["correct"]
    low, high = wilson(right, n)
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
        seconds,
        tuple(_warnings(right, n, counts["error"], len(scores))),
    )


def _warnings(right: int, n: int, errors: int, total: int) -> list[str]:
    warnings = []
    if n and right in (0, n):
        warnings.append(f"{right} of {n} are right: check the answer type and a few predictions before you believe it.")
    if total and errors > MANY_ERRORS * total:
        warnings.append(f"{errors} of {total} generations are errors: the accuracy is over the other {n} only.")
    if total and not n:
        warnings.append("nothing was answered: there is no accuracy.")
    return warnings


def score_file(path: Path, answer_type: str, rule: str, method: str) -> Result:
    """The Result of JSON lines that hold `text` and `gold`, such as a run's predictions.

    `answer_text`, `finish_reason` and `choices` are used where they are. Raises `DataError` for a
    line without the two, and `ConfigError` for an unknown type, rule or method.
    """
    for name, known in ((rule, RULES), (answer_type, RULES["typed"]), (method, METHODS)):
        if name not in known:
            raise ConfigError(f"no {name!r} here{nearest(name, known)}")
    reader = RULES[rule][answer_type]
    generations, scores = [], []
    for number, line in iter_json_lines(path):
        if missing := {"text", "gold"} - line.keys():
            raise DataError(f"{path}, line {number}: no {min(missing)!r}; it has {', '.join(line)}.")
        question = Question(str(number), "", str(line["gold"]), tuple(line.get("choices", ())))
        generation = Generation(
            str(number), 0, str(line["text"]), line.get("answer_text"), line.get("finish_reason", "stop")
        )
        generations.append(generation)
        scores.append(score(generation, question, METHODS[method], reader))
    return evaluate(generations, scores, METHODS[method])


def verdict(results: Sequence[Result]) -> str:
    """One plain sentence on whether learning from rationales beat learning from answers alone."""
    cot = next((r for r in results if r.method == "fine_tune_cot"), None)
    plain = next((r for r in results if r.method == "fine_tune"), None)
    if cot is None or plain is None:
        return "This run did not compare fine_tune_cot with fine_tune."
    numbers = f"{_shown(cot)} against {_shown(plain)}"
    if cot.low > plain.high:
        return f"Taught with rationales, the student reasons: {numbers} when taught the answers alone."
    if cot.high < plain.low:
        return f"Rationales did not help here: {numbers} when taught the answers alone, which is better."
    return (
        f"This run does not show that rationales help: {numbers} when taught the answers alone; the intervals overlap."
    )


def _shown(result: Result) -> str:
    return f"{result.accuracy:.0%} right ({result.low:.0%} to {result.high:.0%}, n={result.n})"
