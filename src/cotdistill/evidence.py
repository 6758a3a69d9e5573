"""What the files of a finished run say, beside what comes out of what they were made of.

    pairs_agree(Evidence(...))      # "curating again gives the same 16 pairs", or raises Differs

Each function looks at one file, and says in words what agrees. It raises `Differs` where the file says another
thing, and `Unknown` where that cannot be told here, as without the store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cotdistill import records
from cotdistill.backends import open_backend
from cotdistill.completions import Pool
from cotdistill.config import Config
from cotdistill.curate import Curated
from cotdistill.errors import CotdistillError, DataError
from cotdistill.evaluate import score
from cotdistill.generate import first_params, read, second_params
from cotdistill.jobs import Job, Until
from cotdistill.measure import answers_of, asked_of, result_of, sampling
from cotdistill.methods import HUMAN, Method
from cotdistill.models import COMPLETE, EMBEDDED, model_identity
from cotdistill.pages import identity_facts
from cotdistill.parts import Parts
from cotdistill.pipeline import curate_generations, human_rationale, lesson
from cotdistill.records import Generation, Question, Score, iter_json_lines, read_jsonl, to_json
from cotdistill.results.compare import comparisons, rights, summaries
from cotdistill.results.mistakes import Mistake, count, mistakes_of
from cotdistill.runs import Run, label, measured_folder, read_json, students
from cotdistill.shards import read_parts
from cotdistill.students.train import fingerprint, trained_facts

MANIFEST = "manifest.json"
RESULT = "result.json"
GENERATIONS = "generations.jsonl"
PAIRS = "pairs.jsonl"
LEDGER = "ledger.json"
# Of a Result: what its predictions alone decide.
NUMBERS = ("accuracy", "low", "high", "n", "categories", "lenient_accuracy", "completion_tokens", "at_k")
Key = tuple[str, int, str]  # question id, index, teacher


class Differs(Exception):
    """A file does not say what comes out of what it was made of."""


class Unknown(Exception):
    """What is needed to tell is not here."""


@dataclass
class Evidence:
    """What the checks have before them: the run as its config makes it, and its files."""

    this: Run
    config: Config  # as it was saved
    digests: Mapping[str, str]
    work: Path
    store: Path | None

    @property
    def folder(self) -> Path:
        return self.this.folder

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / MANIFEST)

    @cached_property
    def recurated(self) -> Curated:
        return curate_generations(self.this, self.work / PAIRS)

    @cached_property
    def answers(self) -> dict[str, Question]:
        return {question.id: question for question in self.this.task.test}

    def predictions(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        return list(iter_json_lines(self.folder / "predictions" / f"{name}.jsonl"))

    @cached_property
    def results(self) -> dict[str, dict[str, Any]]:
        """The entries of result.json, by label."""
        try:
            listed = read_json(self.folder / RESULT)["results"]
            return {records.label(r["method"], r["seed"]): r for r in listed}
        except (LookupError, TypeError) as error:
            raise DataError(f"result.json: not a list of results ({error!r})") from None


def manifest_agrees(e: Evidence) -> str:
    """Config, task, teachers and students are those of the manifest."""
    this, manifest = e.this, e.manifest
    said: list[tuple[str, object, object]] = [
        ("task.name", manifest["task"]["name"], this.task.name),
        ("seeds", manifest["seeds"], list(this.config.student.seeds)),
        ("trained", sorted(manifest["trained"]), sorted(label(method, seed) for method, seed in students(this))),
    ]
    for name, facts in manifest["trained"].items():
        found = trained_facts(e.folder / "student" / name)
        said.append((f"trained.{name}", facts, identity_facts(found)))
    base = e.config.student.model
    if base == EMBEDDED:
        said.append(("student", manifest["student"], model_identity(base)))
    else:  # a folder is known by its name
        said.append(("student.model", Path(manifest["student"]["model"]).name, Path(base).name))
    said += _teachers_said(e)
    for what, stands, is_now in said:
        if stands != is_now:
            raise Differs(f"{what}: it has {_shown(stands)}, and config and files give {_shown(is_now)}")
    return "task, teachers, students and seeds are those of config and files"


def _teachers_said(e: Evidence) -> Iterator[tuple[str, object, object]]:
    listed = e.manifest["teachers"]
    if not e.this.needs_teacher or e.this.teacher_method is HUMAN:
        yield "teachers", listed, [{"model": "human"}] if e.this.needs_teacher else []
        return
    yield "teachers", len(listed), len(e.config.all_teachers)
    for config, identity in zip(e.config.all_teachers, listed, strict=True):
        if config.backend == "openai":
            expected = {"name": config.name or config.model, **open_backend(config, e.config.limits).identity}
            yield "teachers", identity, expected


def generations_agree(e: Evidence) -> str:
    """Each text is the one in the store."""
    this, questions = e.this, e.this.task.train
    written = read_jsonl(e.folder / GENERATIONS, Generation)
    if this.teacher_method is HUMAN:
        stored: Iterable[Generation] = map(human_rationale, questions)
    elif e.config.cluster:
        stored = _in_parts(e, questions)
    else:
        stored = (replace(g, teacher=name) for job, name in _jobs(e) for g in _stored(e, job, questions))
    _same_texts(written, {_key(g): g for g in stored})
    if (most := _asked(e)) and len(written) != most:
        raise Differs(f"it has {len(written):,} texts, and {most:,} were asked for")
    place = e.config.parts_url if e.config.cluster else e.store
    return f"{len(written):,} texts are those of {'the dataset' if this.teacher_method is HUMAN else place}"


def _asked(e: Evidence) -> int:
    """How many texts there must be; 0 where that hung on what came, or on a limit."""
    questions, limits = len(e.this.task.train), e.config.limits
    if e.this.teacher_method is HUMAN:
        return questions
    if limits.max_usd or limits.max_tokens or limits.max_requests or any(t.until for t in e.config.all_teachers):
        return 0
    return questions * sum(teacher.samples for teacher in e.config.all_teachers)


def _jobs(e: Evidence) -> Iterator[tuple[Job, str]]:
    """How each teacher was asked, by the identity that the manifest has: it need not be here."""
    this, method = e.this, e.this.teacher_method
    for config, listed in zip(e.config.all_teachers, e.manifest["teachers"], strict=True):
        identity = {key: value for key, value in listed.items() if key != "name"}
        first = first_params(method, config.max_tokens, config.temperature, config.top_p, config.stop, config.seed)
        until = Until(config.until, this.right) if config.until else None
        pools = Pool(identity, first), Pool(identity, second_params(method, first))
        yield Job(method, config.samples, *pools, until), str(listed["name"])


def _stored(e: Evidence, job: Job, questions: Sequence[Question]) -> list[Generation]:
    if e.store is None:
        raise Unknown(f"there is no store at {e.config.store_path} or beside the run, so its texts are not compared")
    try:
        return list(read(job, questions, e.this.store, partial=True))
    except DataError as error:  # a row is damaged
        raise Differs(str(error).splitlines()[0]) from None


def _in_parts(e: Evidence, questions: Sequence[Question]) -> Iterator[Generation]:
    try:
        parts = Parts(e.config.parts_url, 0)
    except CotdistillError as error:
        raise Unknown(f"the cluster's store cannot be read: {str(error).splitlines()[0]}") from None
    try:
        yield from read_parts(parts, {name: job for job, name in _jobs(e)}, questions)
    except DataError as error:  # a part is damaged
        raise Differs(str(error).splitlines()[0]) from None


def _key(generation: Generation) -> Key:
    return generation.question_id, generation.index, generation.teacher


def _same_texts(written: Sequence[Generation], stored: Mapping[Key, Generation]) -> None:
    """Raise `Differs` for a text that is not the stored one; one that failed may have been bought since."""
    wrong = [
        (number, generation)
        for number, generation in enumerate(written, 1)
        if generation.finish_reason != "error" and stored.get(_key(generation)) != generation
    ]
    if wrong:
        number, generation = wrong[0]
        what = "is another text in the store" if _key(generation) in stored else "is not in the store"
        raise Differs(f"line {number} (question {generation.question_id}) {what}{_and_more(wrong)}")


def pairs_agree(e: Evidence) -> str:
    """Curating again gives the same pairs, byte for byte."""
    only = e.config.curate.only
    if only is not None and not only.is_file():
        raise Unknown(f"curate.only: {only} is not here")
    with e.recurated.path.open("rb") as again, (e.folder / PAIRS).open("rb") as written:
        differing = [
            (number, new if old is None else old)
            for number, (old, new) in enumerate(zip_longest(written, again), 1)
            if old != new
        ]
    if differing:
        number, line = differing[0]
        raise Differs(f"line {number} ({_question_of(line)}) is not what curating again gives{_and_more(differing)}")
    return f"curating again gives the same {e.recurated.ledger['kept']:,} pairs"


def _question_of(line: bytes) -> str:
    try:
        return f"question {json.loads(line)['question_id']}"
    except (ValueError, LookupError, TypeError):
        return "no JSON of a pair"


def ledger_agrees(e: Evidence) -> str:
    """It adds up, and is the one that comes out again."""
    ledger = read_json(e.folder / LEDGER)
    for name, value in json.loads(json.dumps(e.recurated.ledger)).items():
        if ledger.get(name) != value:
            raise Differs(f"{name}: it has {_shown(ledger.get(name))}, and curating again gives {_shown(value)}")
    dropped = sum(ledger["dropped"].values())
    if ledger["asked"] != ledger["failed"] + ledger["kept"] + dropped:
        raise Differs(f"asked {ledger['asked']} is not failed {ledger['failed']} + kept {ledger['kept']} + {dropped}")
    return f"{ledger['asked']:,} asked = {ledger['failed']:,} failed + {ledger['kept']:,} kept + {dropped:,} dropped"


def student_agrees(e: Evidence, method: Method, seed: int) -> str:
    """Its weights are those that were written, and it was trained on these pairs with these settings."""
    name = f"student/{label(method, seed)}"
    facts = trained_facts(e.folder / name)
    folders = {name: facts["weights"]}
    for epoch in facts["epoch_folders"]:
        mark = trained_facts(e.folder / name / epoch)
        folders[f"{name}/{epoch}"] = mark["weights"]
        if mark["student"] != facts["fingerprint"]:
            raise Differs(f"{epoch} is of another student")
    for folder, weights in folders.items():
        for file, digest in weights.items():
            found = e.digests.get(f"{folder}/{file}")
            if found != digest and (found is not None or folder == name):  # epochs but the best lose their weights
                raise Differs(f"{folder}/{file} has another SHA-256 than {COMPLETE} says")
    if facts["base"] != e.manifest["student"]:
        raise Differs(f"its base model is {_shown(facts['base'])}, not {_shown(e.manifest['student'])}")
    if method.learns_rationale:
        e.this.curated = Curated(e.folder / PAIRS, {})
    pairs, config = lesson(e.this, method)
    if facts["fingerprint"] != fingerprint(pairs, config, seed, facts["base"]):
        raise Differs("it was trained on other pairs, or with other settings, than those that are here")
    return f"weights, base model, settings and {len(pairs):,} pairs are those it was trained with"


def predictions_agree(e: Evidence, method: Method, seed: int | None) -> str:
    """Each text, read again, has the same verdict, and is the one in the store."""
    lines = e.predictions(label(method, seed))
    wrong = []
    for number, line in lines:
        question = e.answers.get(str(line.get("question_id")))
        if question is None or (question.text, question.answer) != (line.get("question"), line.get("gold")):
            raise Differs(f"line {number} (question {line.get('question_id')}): the task has another question")
        generation = _generation(number, line)
        judged = score(generation, question, method, e.this.answer_type)
        found = mistakes_of(generation, question, judged, method, e.this.answer_type, e.this.task.answer_type)
        again = to_json(judged) | {"mistakes": [to_json(mistake) for mistake in found]}
        wrong += [(number, question.id, k, line.get(k), v) for k, v in again.items() if line.get(k) != v]
    if wrong:
        number, question_id, what, stands, is_now = wrong[0]
        read_again = f"{what} is {_shown(stands)}, and read again {_shown(is_now)}"
        raise Differs(f"line {number} (question {question_id}): {read_again}{_and_more(wrong)}")
    asked = [question.id for question in asked_of(e.this, method)]
    if list(dict.fromkeys(str(line["question_id"]) for _, line in lines)) != asked:
        raise Differs(f"it has not the {len(asked)} test questions, in their order")
    again_read = f"{len(lines):,} texts have the same verdict when they are read again"
    return f"{again_read}; {_compared(e, method, seed, [_generation(*line) for line in lines])}"


def _generation(number: int, line: Mapping[str, Any]) -> Generation:
    try:
        return Generation(**{name: line[name] for name in Generation.__slots__})
    except LookupError as error:
        raise DataError(f"line {number}: there is no {error}") from None


def _compared(e: Evidence, method: Method, seed: int | None, written: Sequence[Generation]) -> str:
    """The texts beside those in the store, where they are there: the identity is in the manifest, or the mark."""
    if e.store is None:
        return "not compared with a store: there is none here"
    identity = e.manifest["student"]
    if method.trained:
        epochs = e.results[label(method, seed)]["epochs"] if e.config.student.select == "paper" else ()
        taught = label(e.this.known_methods[method.taught_as], seed)
        identity = model_identity(str(measured_folder(e.folder / "student" / taught, epochs)))
    identity = {**identity, "form": "chat" if e.config.student.format == "chat" else "completion"}
    first, samples = sampling(e.config.evaluate, method)
    job = Job(method, samples, Pool(identity, first), Pool(identity, second_params(method, first)))
    stored = {_key(g): g for g in _stored(e, job, asked_of(e.this, method))}
    if not stored:
        return f"not compared with a store: they are not in {e.store}"
    _same_texts(written, stored)
    return f"all are in {e.store}"


def results_agree(e: Evidence, every: Sequence[tuple[Method, int | None]]) -> str:
    """Every number comes out of the predictions again."""
    names = [label(method, seed) for method, seed in every]
    if sorted(e.results) != sorted(names):
        raise Differs(f"it has results of {', '.join(e.results)}, and the config asks for {', '.join(names)}")
    found: dict[tuple[str, int | None], dict[str, bool]] = {}
    mistakes: dict[str, dict[str, int]] = {}
    for method, seed in every:
        name = label(method, seed)
        lines = e.predictions(name)
        generations = [_generation(*line) for line in lines]
        scores = [Score(**{field: line[field] for field in Score.__slots__}) for _, line in lines]
        found[method.name, seed] = rights(answers_of(e.this, method, scores))
        mistakes[name] = count([Mistake(**mistake) for mistake in line["mistakes"]] for _, line in lines)
        again = to_json(result_of(e.this, method, seed, generations, scores))
        for number in NUMBERS:
            _same(f"{name}: {number}", e.results[name].get(number), again[number])
    written = read_json(e.folder / RESULT)
    _same("summaries", written.get("summaries"), [asdict(summary) for summary in summaries(found)])
    _same("comparisons", written.get("comparisons"), [asdict(comparison) for comparison in comparisons(found)])
    _same("mistakes", written.get("mistakes"), mistakes)
    return f"the numbers of {len(names)} results, their intervals and comparisons come out again"


def _same(what: str, stands: object, is_now: object) -> None:
    """Raise `Differs` at the first place where two values of JSON differ."""
    for place, a, b in _differing(what, stands, json.loads(json.dumps(is_now))):
        raise Differs(f"{place} is {_shown(a)}, and comes out as {_shown(b)}")


def _differing(what: str, a: Any, b: Any) -> Iterator[tuple[str, object, object]]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in b:
            yield from _differing(f"{what}.{key}", a[key], b[key])
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, pair in enumerate(zip(a, b, strict=True), 1):
            yield from _differing(f"{what} {number}", *pair)
    # Another scipy may round otherwise.
    elif not (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=1e-9)) and a != b:
        yield what, a, b


def _and_more(wrong: Sequence[object]) -> str:
    return f" (and {len(wrong) - 1:,} more)" if len(wrong) > 1 else ""


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:120] + "..."
