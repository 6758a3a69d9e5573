"""A run's folder, read again: all that its page, `report RUN` and `view` show. Nothing is asked, trained or bought.

write_report(read_page(Path("runs/quickstart")), Path("report.html"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from cotdistill.chunks import generations_of, spans
from cotdistill.config import Config
from cotdistill.curate import Job, make_job
from cotdistill.errors import CotdistillError, DataError
from cotdistill.filters import leaked
from cotdistill.methods import METHODS
from cotdistill.models import COMPLETE
from cotdistill.records import Generation, Pair, Question, Result, Score, iter_json_lines, record_of
from cotdistill.reports.inspector import TEACHER
from cotdistill.reports.report import Page, Rationale
from cotdistill.results import compare
from cotdistill.results.compare import Comparison, Summary
from cotdistill.results.costs import Costs
from cotdistill.results.mistakes import MEASURED, MEASURED_ON, Mistake, mistakes_of
from cotdistill.runs import Setup, read_json, saved_config
from cotdistill.tasks import load_task

MOST_TRAINING = 1500  # training questions that a page is made of: it seldom holds more
SHOWN_PAIRS = 2
Predictions = Mapping[str, tuple[Sequence[Generation], Sequence[Score]]]
Mistakes = dict[str, dict[tuple[str, int], tuple[Mistake, ...]]]
Record = TypeVar("Record")
# What a page cannot be without, of files that somebody else may have made.
OF_LEDGER = "questions", "questions_covered", "asked", "answered", "failed", "kept", "dropped", "teacher_accuracy"
OF_STUDENT = "pairs", "examples", "over_long_dropped", "dev_losses"
Key = tuple[str, int, str]  # question id, sample, teacher


def read_page(folder: Path, setup: Setup | None = None, only: str = "") -> Page:
    """The page of the run in `folder`, of what is there; `only`: one question.

    `setup` is the run's own; None: it is read. Where the task cannot be, the questions are those of the predictions.
    Raises `DataError` where the folder has no run.
    """
    config, setup, notes = (setup.config, setup, list(setup.task.notes)) if setup else read_setup(folder)
    path = folder / "result.json"
    found = read_file(path)
    results = as_records(list[Result], found.get("results", []), path)
    there = sorted(path.stem for path in (folder / "predictions").glob("*.jsonl"))
    names = [r.label for r in results] or there
    notes += [f"predictions/{n}.jsonl is not there: what it wrote is not shown." for n in names if n not in there]
    predictions, mistakes, written = read_predictions(folder, [name for name in names if name in there])
    summaries, comparisons = compared(found, rights_of(results, predictions), path)
    questions = asked(setup, written, notes)
    taught = any(METHODS[name].learns_rationale for name in config.evaluate.methods)
    ledger = read_file(folder / "ledger.json", OF_LEDGER) if taught or not results else {}
    lengths, n_asked, rationales = read_rationales(folder, setup, only) if ledger and setup else ([], 0, [])
    if setup and mistakes and rationales:
        mistakes[TEACHER] = mistakes_of_teacher(setup, rationales)
    trained = {n: facts for n in names if (facts := read_file(folder / "student" / n / COMPLETE, OF_STUDENT))}
    return Page(
        name=config.name,
        task=setup.task.name if setup else config.task.name,
        answer_type=setup.task.answer_type if setup else str(config.task.answer_type or "not known"),
        n_train=len(setup.task.train) if setup else ledger.get("questions", 0),
        n_test=len(questions),
        source=setup.task.source if setup else "",
        verdict=compare.verdict(summaries, comparisons, setup.methods if setup else METHODS),
        results=results,
        ledger=ledger,
        questions=questions,
        predictions=predictions,
        manifest=read_file(folder / "manifest.json"),
        pairs=[pair for _, pair in islice(read_pairs(folder), SHOWN_PAIRS)] if ledger else [],
        warnings=[*notes, *(warning for warning in found.get("warnings", []) if warning not in notes)],
        dev_losses={name: facts["dev_losses"] for name, facts in trained.items()},
        dev_accuracies={name: facts.get("dev_accuracies", []) for name, facts in trained.items()},
        summaries=summaries,
        comparisons=comparisons,
        costs=as_records(Costs, found["costs"], path) if found.get("costs") else None,
        mistakes=mistakes,
        rules_measured=measured() if mistakes else "",
        teachers=[*ledger.get("teachers", ())],
        student=config.student.model,
        rationales=rationales,
        n_asked=n_asked,
        trained=next((facts for n, facts in trained.items() if method_of(n) == "fine_tune_cot"), {}),
        teacher_lengths=lengths,
        max_tokens=max(teacher.max_tokens for teacher in config.all_teachers),
        reader=setup.answer_type if setup else None,
        methods={n: setup.methods[m] for n in names if (m := method_of(n)) in setup.methods} if setup else {},
        teacher_method=setup.teacher_method if setup and ledger else None,
    )


def compared(found: Mapping[str, Any], rights: compare.BySeed, path: Path) -> tuple[list[Summary], list[Comparison]]:
    """The summaries and comparisons of a result.json; made of what is right, where an older version left none."""
    if "summaries" not in found:
        return list(compare.summaries(rights)), list(compare.comparisons(rights))
    return (
        as_records(list[Summary], found["summaries"], path),
        as_records(list[Comparison], found.get("comparisons", []), path),
    )


def rights_of(results: Sequence[Result], predictions: Predictions) -> dict[tuple[str, int | None], dict[str, bool]]:
    """Which questions each method and seed has right; those that it has not answered, for an error, are left out."""
    # Backwards: of several samples the first is the method's answer.
    return {
        (r.method, r.seed): compare.rights([*reversed(predictions[r.label][1])])
        for r in results
        if r.label in predictions
    }


def asked(setup: Setup | None, written: Mapping[str, Question], notes: list[str]) -> Sequence[Question]:
    """The test questions: the task's, or what the predictions say where it has others; then with a note."""
    questions: Sequence[Question] = setup.task.test if setup else []
    if setup and not written.items() <= {q.id: Question(q.id, q.text, q.answer) for q in questions}.items():
        notes.append("the task's test questions are not those that were asked: these are shown, without options.")
        questions = []
    return questions or list(written.values())


def mistakes_of_teacher(
    setup: Setup, rationales: Sequence[tuple[Question, Sequence[Rationale]]]
) -> dict[tuple[str, int], tuple[Mistake, ...]]:
    """What the rules find in rationales, by question id and place: several teachers have the same sample indices."""
    return {
        (q.id, place): mistakes_of(g, q, s, setup.teacher_method, setup.answer_type, setup.task.answer_type)
        for q, of_question in rationales
        for place, (g, s, _) in enumerate(of_question)
    }


def measured() -> str:
    """How far the rules of mistakes can be trusted, in one sentence for each who labelled texts."""
    found = (
        f"Of {m.n}, labelled by {m.labelled_by}, {m.bad} are bad: the rules name {m.fired}, and {m.hits} of these are "
        f"(precision {m.precision:.0%}, recall {m.recall:.0%})."
        for m in MEASURED
        if m.rule == "any"
    )
    return f"How far to trust these rules: they were measured on {MEASURED_ON}. {' '.join(found)}"


def method_of(name: str) -> str:
    """The method that names a file of predictions, such as fine_tune_cot-0."""
    return name if name in METHODS else name.rpartition("-")[0]


def read_setup(folder: Path) -> tuple[Config, Setup | None, list[str]]:
    """The config of the run in a folder, its setup where its task can be read, and notes on that."""
    config = saved_config(folder)
    try:
        setup = Setup(config, load_task(config.task))
        _ = setup.methods, setup.teacher_method
    except CotdistillError as error:
        why = str(error).splitlines()[0]
        note = f"the task cannot be read again ({why}): test questions are shown as they were asked, without options."
        return config, None, [note]
    return config, setup, list(setup.task.notes)


def read_file(path: Path, keys: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_json`; empty where there is no file."""
    return read_json(path, keys) if path.exists() else {}


def as_records(kind: type[Record], value: Any, path: Path) -> Record:
    """Records of a dataclass out of JSON; keys that it does not have are ignored."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: not the results of a run ({error}).") from None


def read_predictions(folder: Path, names: Sequence[str]) -> tuple[Predictions, Mistakes, dict[str, Question]]:
    """What each method wrote, scored, the mistakes that were found in it, and the questions that were asked, by id.

    Of several samples of a question the one that is its method's answer comes first.
    """
    predictions: dict[str, tuple[list[Generation], list[Score]]] = {}
    mistakes: Mistakes = {}
    written: dict[str, Question] = {}
    for name in names:
        path = folder / "predictions" / f"{name}.jsonl"
        generations, scores = predictions.setdefault(name, ([], []))
        for number, line in sorted(iter_json_lines(path), key=lambda row: not row[1].get("chosen", True)):
            try:
                g = msgspec.convert(line, Generation)
                scores.append(msgspec.convert(line, Score))
                question = Question(g.question_id, line["question"], line["gold"])
                if "mistakes" in line:
                    found = msgspec.convert(line["mistakes"], tuple[Mistake, ...])
                    mistakes.setdefault(name, {})[g.question_id, g.index] = found
            except (msgspec.ValidationError, KeyError) as error:
                raise DataError(f"{path}, line {number}: not a prediction of a run ({error}).") from None
            generations.append(g)
            written.setdefault(question.id, question)
    return predictions, mistakes, written


def read_pairs(folder: Path) -> Iterator[tuple[Key, Pair]]:
    """The pairs of a run with what names each."""
    path = folder / "pairs.jsonl"
    if not path.is_file():
        return
    for number, value in iter_json_lines(path):
        pair = record_of(value, Pair, f"{path}, line {number}")
        yield (pair.question_id, pair.index, pair.teacher), pair


def read_rationales(
    folder: Path, setup: Setup, only: str = ""
) -> tuple[list[tuple[int, int, int]], int, list[tuple[Question, Sequence[Rationale]]]]:
    """The lengths of all rationales, how many questions have some, and part of these with what became of each.

    Lengths are tokens, how many have them, and how many of these were cut. `only`: of this question alone.
    """
    path = folder / "generations.jsonl"
    if not path.is_file():
        return [], 0, []
    train = setup.task.train
    some = train if len(train) <= MOST_TRAINING else Random(0).sample(train, MOST_TRAINING)
    chosen = {only} if only else {question.id for question in some}
    kept = {key for key, _ in read_pairs(folder) if key[0] in chosen}
    job = _job(setup)
    lengths, cut = Counter[int](), Counter[int]()
    found: dict[str, Sequence[Rationale]] = {}
    n_asked = 0
    generations = chain.from_iterable(map(generations_of, spans(path)))
    for question_id, group in groupby(generations, key=attrgetter("question_id")):
        n_asked += 1
        shown = question_id in chosen and question_id in job.questions
        rationales = []
        for g in group:
            if g.finish_reason != "error":
                lengths[g.completion_tokens] += 1
                cut[g.completion_tokens] += g.finish_reason == "length"
            if shown:
                rationales.append(g)
        if shown:
            found[question_id] = fates(job, rationales, kept)
    in_order = [(q, found[q.id]) for q in train if q.id in found]
    return [(tokens, n, cut[tokens]) for tokens, n in sorted(lengths.items()) if tokens], n_asked, in_order


def _job(setup: Setup) -> Job:
    """What judged the rationales of a run."""
    task, curate = setup.task, setup.config.curate
    rest = task.train, setup.teacher_method, setup.known_methods["fine_tune_cot"], setup.answer_type
    in_test = leaked(task.train, task.test)
    try:
        return make_job(*rest, curate, in_test)
    except DataError:  # the list of curate.only is no more there: what it left out is "left_out"
        return make_job(*rest, curate.model_copy(update={"only": None}), in_test)


def fates(job: Job, group: Sequence[Generation], kept: set[Key]) -> list[Rationale]:
    """The rationales of one question with their scores and what became of them; the pairs say which were kept."""
    question = job.questions[group[0].question_id]
    looks, reasons = job.looks(question, group)
    not_drawn = "over_total" if job.config.total else "left_out"
    rationales = []
    for g, look, reason in zip(group, looks, reasons, strict=True):
        fate = "kept" if (g.question_id, g.index, g.teacher) in kept else reason or not_drawn
        rationales.append((g, Score(g.question_id, g.index, *look.judged, g.teacher), fate))
    return rationales


def settings(config: Config) -> Mapping[str, str]:
    """Each setting of a config by its name, as `section.field`."""
    values = config.model_dump(mode="json", exclude={"name": True, "runs": True, "store": True, "limits": True})
    flat: dict[str, str] = {}
    for section, content in values.items():
        if isinstance(content, dict):
            flat |= {f"{section}.{field}": str(value) for field, value in content.items() if field != "api_key"}
        else:
            flat[section] = str(content)
    return flat
