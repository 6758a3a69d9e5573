"""The evaluate stage: what each method writes for the test questions, scored, compared and reviewed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import NamedTuple

from cotdistill import progress, review
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.completions import SamplingParams
from cotdistill.config import EvaluateConfig
from cotdistill.curate import without_leaked
from cotdistill.evaluate import evaluate, score
from cotdistill.generate import ask, first_params, make_job, read
from cotdistill.methods import HUMAN, Method
from cotdistill.models import drop_weights, free_memory
from cotdistill.records import Generation, Question, Result, Score, to_json, write_atomic
from cotdistill.results.compare import comparisons, rights, summaries
from cotdistill.results.costs import Costs, costs, teacher_prices
from cotdistill.results.mistakes import count, mistakes_of
from cotdistill.results.sampled import at_k, by_question, vote
from cotdistill.results.timing import Timed, seconds_an_answer
from cotdistill.runs import Run, label, students, write_json
from cotdistill.students.train import trained_facts
from cotdistill.tasks import without_exemplars
from cotdistill.tasks.listing import baselines


class Written(NamedTuple):
    """What a method wrote, the score of each, and how many seconds an answer took."""

    generations: list[Generation]
    scores: list[Score]
    seconds: float | None


def measure(this: Run) -> list[Result]:
    """Each method's predictions on the test questions, scored and compared; written to predictions/ and result.json."""
    base = local_backend(this, this.config.student.model)
    this.results = [predict(this, method, None, base) for method in this.methods.values() if not method.trained]
    trained = [method for method in this.methods.values() if method.trained]
    this.results += [predict_trained(this, method, seed) for method in trained for seed in this.config.student.seeds]
    this.summaries, this.comparisons = summaries(this.rights), comparisons(this.rights)
    this.costs = cost(this)
    this.warnings = tuple(warnings(this))
    write_json(
        this.folder / "result.json",
        {
            "task": this.task.name,
            "results": [to_json(r) for r in this.results],
            "summaries": [asdict(s) for s in this.summaries],
            "comparisons": [asdict(c) for c in this.comparisons],
            "costs": asdict(this.costs),
            "warnings": this.warnings,
            "mistakes": {name: count(found) for name, found in this.mistakes.items()},
        },
    )
    return this.results


def cost(this: Run) -> Costs:
    """What the run has cost so far, and what an answer costs."""
    asked = this.needs_teacher and this.teacher_method is not HUMAN
    prices = teacher_prices(this.teachers) if asked else {}
    return costs(
        this.curated.ledger if this.curated else {},
        prices,
        {
            label(method, seed): trained_facts(this.students[label(method, seed)])["seconds"]
            for method, seed in students(this)
        },
        {result.label: result for result in this.results},
        this.answer_seconds,
        this.config.evaluate.usd_per_hour,
        this.budget.spent.usd if prices and None not in prices.values() else None,
    )


def warnings(this: Run) -> Iterator[str]:
    """Of the questions, of each result, and of them all."""
    task, config = this.task, this.config
    yield from task.notes
    for result in this.results:
        yield from (f"{result.label}: {warning}" for warning in result.warnings)
    yield from review.not_above_baseline(this.summaries, *baselines(task))
    if students(this):
        yield from review.seen_in_training(without_leaked(task.train, task.test, config.curate), task.test)
    if this.curated and this.teacher_method is not HUMAN:
        options = 2 if task.answer_type == "yes_no" else sum(len(q.choices) for q in task.train) / len(task.train)
        yield from review.teacher_warnings(this.curated.ledger, options, config.curate.keep)


def predict_trained(this: Run, method: Method, seed: int) -> Result:
    """The student of `method` and `seed`, measured; with select: paper, its best epoch on the test set."""
    taught = this.known_methods[method.taught_as]
    folder = this.students[label(taught, seed)]
    facts = trained_facts(folder)
    epochs = [folder / name for name in facts["epoch_folders"]]
    if not epochs:
        return replace(predict(this, method, seed, local_backend(this, str(folder))), seconds=facts["seconds"])
    measured = [counted(this, taught, seed, local_backend(this, str(epoch))) for epoch in epochs]
    found = [epoch.accuracy for epoch in measured]
    best = max(range(len(epochs)), key=found.__getitem__)
    result = predict(this, method, seed, local_backend(this, str(epochs[best])))
    if not any(epoch.categories["error"] for epoch in measured):  # those are asked again by the next run
        for other in {*epochs} - {epochs[best]}:
            drop_weights(other)
    note = review.best_on_test(found, best, facts["selected_epoch"])
    return replace(result, seconds=facts["seconds"], epochs=tuple(found), warnings=(*result.warnings, note))


def local_backend(this: Run, model: str) -> TransformersBackend:
    """A local model for evaluation, in the student's form; nothing is loaded before something is asked."""
    student = this.config.student
    return TransformersBackend(
        model,
        chat=student.format == "chat",
        batch_size=this.config.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
    )


def predict(this: Run, method: Method, seed: int | None, backend: TransformersBackend) -> Result:
    """What a model writes for the test questions, summed up, kept in the run and written to predictions/."""
    name = label(method, seed)
    questions = asked_of(this, method)
    written = answer(this, method, name, questions, backend)
    answers = answers_of(this, method, written.scores)
    this.predictions[name] = written.generations, written.scores
    by_id = {question.id: question for question in questions}
    this.mistakes[name] = [
        mistakes_of(g, by_id[g.question_id], s, method, this.answer_type, this.task.answer_type)
        for g, s in zip(written.generations, written.scores, strict=True)
    ]
    this.rights[method.name, seed] = rights(answers)
    this.answer_seconds[name] = written.seconds
    write_predictions(this, name, answers)
    result = result_of(this, method, seed, written.generations, written.scores)
    if left_out := len(this.task.test) - len(questions):
        note = f"{left_out} of {len(this.task.test)} test questions are exemplars in its prompt, and were left out."
        result = replace(result, warnings=(*result.warnings, note))
    return result


def result_of(
    this: Run, method: Method, seed: int | None, generations: Sequence[Generation], scores: Sequence[Score]
) -> Result:
    """The result of what a method wrote, which has several samples of a question where it is sampled."""
    result = evaluate(generations, answers_of(this, method, scores), method, seed)
    if not method.sampled:
        return result
    tokens = result.completion_tokens * this.config.evaluate.samples  # of one answer
    return replace(result, completion_tokens=tokens, at_k=at_k(by_question(scores), this.answer_type.equal))


def counted(this: Run, method: Method, seed: int, backend: TransformersBackend) -> Result:
    """What a model writes, counted and not kept."""
    written = answer(this, method, label(method, seed), asked_of(this, method), backend)
    return evaluate(written.generations, written.scores, method, seed)


def asked_of(this: Run, method: Method) -> list[Question]:
    """The test questions, without those that the method's prompt answers."""
    return without_exemplars(this.task.test, this.exemplars) if method.name == "few_shot_cot" else [*this.task.test]


def answer(this: Run, method: Method, name: str, questions: list[Question], backend: TransformersBackend) -> Written:
    """What a model writes for questions, from the store or asked for, each with its score; how long it took is kept."""
    timed = Timed(backend)
    job = make_job(timed, method, *sampling(this.config.evaluate, method))
    with progress.stage(f"evaluate {name}", "completions") as advance:
        if this.cluster:
            this.cluster.answer(job, questions, timed, advance)
        else:
            ask(job, questions, timed, this.store, advance)
    free_memory()  # of the student before
    generations = list(read(job, questions, this.store))
    by_id = {question.id: question for question in questions}
    scores = [score(g, by_id[g.question_id], method, this.answer_type) for g in generations]
    seconds = seconds_an_answer(this.folder / "predictions" / "seconds.json", job, questions, timed)
    return Written(generations, scores, seconds)


def sampling(config: EvaluateConfig, method: Method) -> tuple[SamplingParams, int]:
    """How a method's first prompt is continued, and how often."""
    temperature, samples = (config.temperature, config.samples) if method.sampled else (0.0, 1)
    return first_params(method, config.max_tokens or None, temperature), samples


def answers_of(this: Run, method: Method, scores: Sequence[Score]) -> list[Score]:
    """One score a question: that of its answer."""
    if not method.sampled:
        return [*scores]
    return [vote(of_question, this.answer_type.equal) for of_question in by_question(scores)]


def write_predictions(this: Run, name: str, answers: list[Score]) -> None:
    """One line a completion: what was asked, what was written, how it was judged; `chosen`, where there are several."""
    generations, scores = this.predictions[name]
    by_id = {question.id: question for question in this.task.test}
    chosen = {(s.question_id, s.index) for s in answers}
    lines = [
        {
            "question": by_id[g.question_id].text,
            "gold": by_id[g.question_id].answer,
            **to_json(g),
            **to_json(s),
            "mistakes": [to_json(mistake) for mistake in found],
        }
        | ({"chosen": (s.question_id, s.index) in chosen} if len(scores) > len(answers) else {})
        for g, s, found in zip(generations, scores, this.mistakes[name], strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(this.folder / "predictions" / f"{name}.jsonl", text)
