"""The evaluate stage: what each method writes for the test questions, scored."""

from __future__ import annotations

import json
from dataclasses import replace

from cotdistill import progress
from cotdistill.backends import Backend
from cotdistill.evaluate import evaluate, score
from cotdistill.generate import generate
from cotdistill.methods import Method
from cotdistill.mistakes import count, mistakes_of
from cotdistill.models import drop_weights, free_memory
from cotdistill.records import Result, to_json, write_atomic
from cotdistill.runs import Run, label, students, write_json
from cotdistill.tasks import without_exemplars
from cotdistill.train import trained_facts


def measure(this: Run) -> list[Result]:
    """Each method's predictions on the test questions, scored; written to predictions/ and result.json."""
    base = local_backend(this, this.config.student.model)
    results = [predict(this, method, None, base) for method in this.methods.values() if not method.trained]
    results += [predict_trained(this, method, seed) for method, seed in students(this)]
    found = {name: count(mistakes) for name, mistakes in this.mistakes.items()}
    value = {"task": this.task.name, "results": [to_json(r) for r in results], "mistakes": found}
    write_json(this.folder / "result.json", value)
    return results


def predict_trained(this: Run, method: Method, seed: int) -> Result:
    """The student of `method` and `seed`, measured; with select: paper, its best epoch on the test set."""
    folder = this.students[label(method, seed)]
    facts = trained_facts(folder)
    epochs = [folder / name for name in facts["epoch_folders"]]
    if not epochs:
        return replace(predict(this, method, seed, local_backend(this, str(folder))), seconds=facts["seconds"])
    measured = [predict(this, method, seed, local_backend(this, str(epoch))) for epoch in epochs]
    found = [epoch.accuracy for epoch in measured]
    best = max(range(len(epochs)), key=found.__getitem__)
    # From the store: its predictions are those that are written.
    result = predict(this, method, seed, local_backend(this, str(epochs[best])))
    if not any(epoch.categories["error"] for epoch in measured):  # those are asked again by the next run
        for other in {*epochs} - {epochs[best]}:
            drop_weights(other)
    gap = (
        f"epoch {best + 1} of {len(epochs)}, the best on the test set, as in the paper: {found[best]:.1%}; "
        f"the epoch of the lowest dev loss ({facts['selected_epoch']}) has {found[facts['selected_epoch'] - 1]:.1%}."
    )
    return replace(result, seconds=facts["seconds"], epochs=tuple(found), warnings=(*result.warnings, gap))


def local_backend(this: Run, model: str) -> Backend:
    """A local model for evaluation, in the student's form; nothing is loaded before something is asked."""
    from cotdistill.backends.transformers import TransformersBackend

    student = this.config.student
    return TransformersBackend(
        model,
        chat=student.format == "chat",
        batch_size=this.config.evaluate.batch_size,
        trust_remote_code=student.trust_remote_code,
    )


def predict(this: Run, method: Method, seed: int | None, backend: Backend) -> Result:
    """What a model writes for the test questions, scored, and written to predictions/."""
    name = label(method, seed)
    questions = list(this.task.test)
    if method.name == "few_shot_cot":
        questions = without_exemplars(questions, this.exemplars)
    with progress.stage(f"evaluate {name}", "completions") as advance:
        limit = this.config.evaluate.max_tokens or None
        generations = list(generate(questions, backend, method, this.store, max_tokens=limit, progress=advance))
    free_memory()  # of the student before
    scores = [score(g, q, method, this.answer_type) for g, q in zip(generations, questions, strict=True)]
    this.predictions[name] = generations, scores
    by_id = {question.id: question for question in questions}
    this.mistakes[name] = [
        mistakes_of(g, by_id[g.question_id], s, method, this.answer_type, this.task.answer_type)
        for g, s in zip(generations, scores, strict=True)
    ]
    write_predictions(this, name)
    result = evaluate(generations, scores, method, seed)
    if left_out := len(this.task.test) - len(questions):
        note = f"{left_out} of {len(this.task.test)} test questions are exemplars in its prompt, and were left out."
        result = replace(result, warnings=(*result.warnings, note))
    return result


def write_predictions(this: Run, name: str) -> None:
    """One line a test question: what was asked, what was written, how it was judged."""
    generations, scores = this.predictions[name]
    by_id = {question.id: question for question in this.task.test}
    lines = [
        {
            "question": by_id[g.question_id].text,
            "gold": by_id[g.question_id].answer,
            **to_json(g),
            **to_json(s),
            "mistakes": [to_json(mistake) for mistake in found],
        }
        for g, s, found in zip(generations, scores, this.mistakes[name], strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    write_atomic(this.folder / "predictions" / f"{name}.jsonl", text)
