"""The cards of what a run made, written from its files: README.md of the pairs, and of each trained student.

    write_cards(this, manifest)     # RUN/README.md, RUN/student/fine_tune_cot-0/README.md

Both begin with the metadata that Hugging Face reads, so either folder can be uploaded as it is. The same run
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cotdistill.checksums import CARD
from cotdistill.curate import REASONS
from cotdistill.errors import DataError
from cotdistill.methods import HUMAN, METHODS, Method
from cotdistill.models import EMBEDDED, sha256
from cotdistill.records import Question, Result, write_atomic
from cotdistill.reports.markdown import block, code, front_matter, plain, table, yaml_block
from cotdistill.runs import Run, label, measured_folder, students
from cotdistill.students.train import trained_facts
from cotdistill.tasks import TASKS

PAPER = "Fine-tune-CoT, <https://arxiv.org/abs/2212.10071>"
PLACE = Question("", "{question}", "{answer}")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
TAGS = ["cotdistill", "chain-of-thought", "reasoning", "distillation", "synthetic"]
OTHER_EPOCH = "The weights beside this card are of epoch {}, which has the lowest dev loss."
# Settings of a teacher that say nothing of its texts, or only hold on one machine.
NOT_SHOWN = {"api_key", "base_url", "store", "price", "batch_size", "mode", "name", "model", "system"}


def write_cards(this: Run, manifest: Mapping[str, Any]) -> None:
    """A card for the pairs, where there are any, and one for each student that was trained."""
    if this.curated is not None:
        write_atomic(this.folder / CARD, dataset_card(this, manifest))
    for method, seed in students(this):
        folder = this.students[label(method, seed)]
        write_atomic(folder / CARD, model_card(this, manifest, method, seed))


def dataset_card(this: Run, manifest: Mapping[str, Any]) -> str:
    """The card of pairs.jsonl, with the metadata by which `load_dataset` reads the run's folder."""
    n = ledger_of(this)["kept"]
    configs = [("pairs", "pairs.jsonl"), ("generations", "generations.jsonl")]
    metadata = {
        "license": "unknown",
        "pretty_name": f"{this.config.name}: rationales for {_line(this.task.name)}",
        "task_categories": ["text-generation"],
        "tags": TAGS,
        "size_categories": [next((name for most, name in SIZES if n < most), "n>1M")],
        "configs": [
            {"config_name": name, "data_files": file, **({"default": True} if name == "pairs" else {})}
            for name, file in configs
        ],
    }
    sections = [
        f"# Rationales for {code(this.task.name)}",
        f"{n:,} pairs of prompt and completion that teach a student to reason, of the run {code(this.config.name)} of "
        f"cotdistill ({PAPER}): what a teacher wrote for the training questions, without what was dropped below. "
        "`pairs.jsonl` has the pairs, as `prompt` and `completion` and as `messages`; "
        "`generations.jsonl` all that the teacher wrote, word for word; `ledger.json` the counts.",
        *data_sections(this, manifest),
        *_section("Licence and terms", *licences(this, teacher=True, weights=False)),
        *_section("Results", "What students learned of it, and what they are compared with:", results(this)),
        *_section("Hashes", hashes(this, manifest)),
        *_section("Made with", *made_with(manifest)),
        *_section("Limits", *limits(this)),
    ]
    return front_matter(metadata) + "\n" + "\n\n".join(sections) + "\n"


def model_card(this: Run, manifest: Mapping[str, Any], method: Method, seed: int) -> str:
    """The card of one student."""
    name = label(method, seed)
    facts = trained_facts(this.students[name])
    asked = [r for r in this.results if (METHODS[r.method].taught_as, r.seed) == (method.name, seed)]
    own = min(asked, key=lambda result: result.method != method.name)  # as it was taught, else its samples' vote
    sections = [
        f"# {this.config.name}, {name}",
        f"{code(manifest['student']['model'])}, fine-tuned on "
        + ("rationales of a teacher" if method.learns_rationale else "known answers alone, without a teacher")
        + f" for {code(this.task.name)}, with seed {seed}, by cotdistill ({PAPER}).",
        *_section("Results", *_own_result(own, this.students[name]), results(this)),
        *_section("How to ask it", *how_to_ask(this, method)),
        *_section("Training", *training(this, facts, seed)),
        *(data_sections(this, manifest) if method.learns_rationale else ()),
        *_section("Licence and terms", *licences(this, teacher=method.learns_rationale, weights=True)),
        *_section("Hashes", hashes(this, manifest, *weights_of(this.students[name], own))),
        *_section("Made with", *made_with(manifest)),
        *_section("Limits", *limits(this)),
    ]
    return front_matter(_model_metadata(this, name, own)) + "\n" + "\n\n".join(sections) + "\n"


def _model_metadata(this: Run, name: str, own: Result) -> dict[str, Any]:
    base = this.config.student.model
    hub = "HuggingFaceTB/SmolLM2-135M-Instruct" if base == EMBEDDED else base
    on_hub = not Path(base).exists() and len(hub.split("/")) == 2
    task = {"name": _line(this.task.name), "type": "own" if this.config.task.data else _line(this.task.name)}
    metric = {"type": "accuracy", "value": round(own.accuracy, 4), "name": f"accuracy of {own.method}, n={own.n}"}
    measured = {"task": {"type": "text-generation"}, "dataset": task, "metrics": [metric]}
    return {
        "license": "unknown",
        "library_name": "transformers",
        **({"base_model": _line(hub)} if on_hub else {}),
        "tags": TAGS[:-1],
        **({"model-index": [{"name": f"{this.config.name}-{name}", "results": [measured]}]} if own.n else {}),
    }


def data_sections(this: Run, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Who was asked, how, and what was kept: with counts that add up."""
    yield from _section("Teacher", *teachers(this, manifest))
    yield from _section("Prompts", *prompts(this))
    ledger = ledger_of(this)
    kept_of = f"Of {ledger['asked']:,} texts for {ledger['questions']:,} questions {ledger['kept']:,} were kept, for "
    yield from _section(
        "Filters",
        f"{kept_of}{ledger['questions_covered']:,} questions. Each other one is counted once, under the first that "
        "holds:",
        filters(ledger),
        *(
            f"- {code(name)}: {counts['kept']:,} kept of {counts['asked']:,}"
            for name, counts in ledger.get("teachers", {}).items()
        ),
        "The settings:",
        yaml_block(this.config.curate.model_dump(mode="json", exclude={"only"})),
    )


def ledger_of(this: Run) -> dict[str, Any]:
    """The ledger. Raises `DataError` where it does not add up."""
    ledger: dict[str, Any] = dict(this.curated.ledger) if this.curated else {}
    if ledger["asked"] != ledger["failed"] + ledger["kept"] + sum(ledger["dropped"].values()):
        raise DataError(f"{this.folder / 'ledger.json'}: asked is not the sum of failed, kept and dropped.")
    return ledger


def filters(ledger: Mapping[str, Any]) -> str:
    counts = {"failed": ledger["failed"], **ledger["dropped"]}
    reasons = {"failed": "no text came, or none could be read", **REASONS}
    rows = [("asked", f"{ledger['asked']:,}", "")]
    rows += [(f"- {name}", f"{n:,}", reasons.get(name, "")) for name, n in counts.items()]
    return table(("", "texts", ""), [*rows, ("**= kept**", f"{ledger['kept']:,}", "")])


def teachers(this: Run, manifest: Mapping[str, Any]) -> Iterator[str]:
    if this.teacher_method is HUMAN:
        yield "People: the rationales are those of the dataset."
        return
    served = ledger_of(this).get("served", {})
    for config, identity in zip(this.config.all_teachers, manifest["teachers"], strict=True):
        known = {k: v for k, v in identity.items() if k not in ("name", "endpoint", "system")}
        where = [("host", urlsplit(identity["endpoint"]).hostname)] if "endpoint" in identity else []
        facts = ", ".join(f"{key} {code(value)}" for key, value in (*known.items(), *where))
        yield f"{code(identity['name'])}: {facts}."
        if names := served.get(identity["name"]):
            yield (
                "The server called it " + ", ".join(f"{code(n)} ({count:,} texts)" for n, count in names.items()) + "."
            )
        yield yaml_block(config.model_dump(mode="json", exclude=NOT_SHOWN))
        if config.system:
            yield "With the system message:"
            yield block(config.system)


def prompts(this: Run) -> Iterator[str]:
    """The templates, word for word, and one pair."""
    teacher = this.teacher_method
    if teacher is not HUMAN:
        yield "The teacher was asked:"
        yield block(teacher.prompt(PLACE))
        if teacher.answer_cue:
            yield "and then, after what it had written, greedily:"
            yield block(teacher.answer_cue)
        else:
            yield f"Its answer is what it wrote after {code(teacher.cue)}."
    pair = next(iter(this.curated.pairs), None) if this.curated else None
    if pair is not None:
        yield "A student reads and writes, of the first pair:"
        yield block(pair.prompt)
        yield block(pair.completion)


def how_to_ask(this: Run, method: Method) -> Iterator[str]:
    if method.chat:
        yield "As the user's turn of its chat template, where `{question}` is the question:"
    else:
        yield "With exactly this, white space included, where `{question}` is the question:"
    yield block(method.prompt(PLACE))
    stops = ", ".join(map(code, method.stop)) or "the end of sequence alone"
    limit = this.config.evaluate.max_tokens or method.max_tokens
    yield f"It was measured greedily, with at most {limit} new tokens, stopped at {stops}."
    if method.completion is not None:
        yield "What it learned to write has the form:"
        yield block(method.completion(PLACE, "{rationale}"))


def training(this: Run, facts: Mapping[str, Any], seed: int) -> Iterator[str]:
    shown = ("pairs", "examples", "over_long_dropped", "longest", "steps", "epochs", "selected_epoch")
    yield (
        "The loss is on the completion alone. "
        + ", ".join(f"{name.replace('_', ' ')} {facts[name]:g}" for name in shown if facts.get(name) is not None)
        + f"; {facts['seconds']:.0f} seconds."
    )
    settings = this.config.student.model_dump(mode="json", exclude={"model", "seeds"})
    if settings.get("kd"):
        settings["kd"]["model"] = Path(settings["kd"]["model"]).name
    yield yaml_block({**settings, "seed": seed})


def _own_result(own: Result, folder: Path) -> Iterator[str]:
    if own.epochs:
        best, beside = measured_folder(folder, own.epochs).name, trained_facts(folder)["selected_epoch"]
        yield f"The accuracy is that of `epochs/{best}`, the best on the test set of all epochs, as in the paper. " + (
            OTHER_EPOCH.format(beside)
        )
    if own.n:
        yield (
            f"**{own.accuracy:.1%}** of {own.n:,} test questions, 95% interval {own.low:.1%} to {own.high:.1%}. "
            "With what it is compared with:"
        )


def results(this: Run) -> str:
    """Every method and seed, with its interval and n."""
    rows = []
    for r in this.results:
        numbers = (f"{r.accuracy:.1%}", f"{r.low:.1%} to {r.high:.1%}") if r.n else ("-", "-")
        rows.append((f"`{r.method}`", "-" if r.seed is None else str(r.seed), *numbers, f"{r.n:,}"))
    return table(("method", "seed", "accuracy", "95% interval", "n"), rows)


def licences(this: Run, teacher: bool, weights: bool) -> Iterator[str]:
    yield "The licence is not known: it follows from those of what this was made of. Before you share it, read"
    task = this.config.task
    if task.data is not None:
        own = "your own file"
    elif task.name in TASKS:
        own = f"{plain(TASKS[task.name].licence)}, {plain(TASKS[task.name].source)}"
    else:
        own = "see reasoning-gym"
    yield f"- the licence of the questions, {code(this.task.name)}: {own}"
    if teacher and this.teacher_method is not HUMAN:
        yield (
            "- the terms of the teacher: a provider may bind what its models wrote, and some forbid training other "
            "models on it; open weights have a licence of their own"
        )
    if weights:
        model = this.config.student.model
        yield f"- the licence of the base model, {code(Path(model).name if Path(model).is_dir() else model)}"


def hashes(this: Run, manifest: Mapping[str, Any], *weights: tuple[str, str]) -> str:
    """SHA-256 of what the numbers come from."""
    found = [("questions and known answers, both splits", manifest["task"]["sha256"])]
    if this.curated is not None:
        found.append(("`generations.jsonl`, the rows of the store", sha256(this.folder / "generations.jsonl")))
        found.append(("`pairs.jsonl`", sha256(this.folder / "pairs.jsonl")))
    found += [(code(name), digest) for name, digest in weights]
    return table(("", "SHA-256"), [(what, f"`{digest}`") for what, digest in found])


def weights_of(student: Path, own: Result) -> Iterator[tuple[str, str]]:
    """The weights beside the card, and of `select: paper` those that were measured: path and digest."""
    for folder in dict.fromkeys((student, measured_folder(student, own.epochs))):
        for name, digest in trained_facts(folder)["weights"].items():
            yield (folder / name).relative_to(student).as_posix(), digest


def made_with(manifest: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    yield f"Python {manifest['python']}, {plain(versions)}."
    yield block(manifest["command"])


def limits(this: Run) -> Iterator[str]:
    """What the numbers do not say."""
    yield (
        "- Each accuracy is of one task, asked in one form of prompt, read by a rule "
        f"(`task.rule: {this.config.task.rule}`); its interval is of the questions alone. Another seed, prompt or task "
        "may give another number. Errors are not in n."
    )
    if this.curated is not None:
        kept = (
            "everything was kept, right or wrong" if this.config.curate.keep == "all" else "only answers were checked"
        )
        yield f"- Of the rationales {kept}: one may come to the right answer by a false step."
        if this.task.answer_type in ("choice", "yes_no"):
            yield "- With so few options, a wrong rationale is often right by luck, and was kept."
        if overlap := ledger_of(this).get("test_overlap"):
            shared = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in overlap.items())
            yield f"- Training questions that share text with test questions: {shared}."
    yield from (f"- {plain(note)}" for note in this.task.notes)
    yield from (f"- `{r.label}`: {plain(w)}" for r in this.results for w in r.warnings)


def _section(title: str, *parts: str) -> Iterator[str]:
    yield f"## {title}"
    lines = [*parts]
    while lines:  # the items of a list stand together
        part = lines.pop(0)
        while part.startswith("- ") and lines and lines[0].startswith("- "):
            part += "\n" + lines.pop(0)
        yield part


def _line(text: str) -> str:
    """On one line of metadata."""
    return " ".join(text.split())[:100]
