"""The config: one frozen model per section, checked once on load, saved resolved beside the results.

    config = load_config(Path("my.yaml"), {"student.epochs": 2, "teacher.samples": 8})

`${NAME}` stands for an environment variable, in `teacher.api_key` only; secrets are never saved.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator

from cotdistill.cluster_config import ClusterConfig
from cotdistill.config_file import MAX_SHOWN, fill_secrets, read_yaml, set_value, shown
from cotdistill.errors import ConfigError
from cotdistill.sections import FilePath, ModelName, Section

MOST_WEIGHT = 1_000_000
QUICKSTART = Path(__file__).parent / "quickstart.yaml"


class TaskConfig(Section):
    """What is asked: a task of ours by `name`, or your own file by `data`."""

    name: str = Field("word_problems", description="a name from `cotdistill tasks`, or reasoning_gym/NAME")
    train: int | None = Field(None, ge=1, description="training questions, drawn by the paper's rule; none: all")
    test: int | None = Field(None, ge=1, description="test questions, drawn like those; none: all")
    seed: int = Field(0, description="seed of a generated task, and of the split of a file")
    split: str | None = Field(
        None, description="a paper's task: template, for its template-wise split; your file: the column that says"
    )
    overlap: Literal["refuse", "keep"] = Field(
        "refuse", description="test questions that are training questions too; keep: and say how many"
    )
    exemplars: str | None = Field(
        None, description="for few_shot_cot: .jsonl of question, rationale, answer, or the task to take them from"
    )
    data: FilePath | None = Field(None, description="your own .jsonl or .csv file")
    test_data: FilePath | None = Field(None, description="a file of its own for testing; none: a split of data")
    test_fraction: float = Field(0.3, gt=0, lt=1, description="share of data kept for testing")
    id: str | None = Field(None, description="column of a unique id; none: the line number")
    question: str = Field("question", description="column of the question")
    answer: str = Field("answer", description="column of the known answer")
    choices: str | None = Field(None, description="column of the list of options; none: read from the question")
    rationale: str | None = Field(None, description="column of a rationale that a person wrote")
    answer_type: Literal["number", "integer", "choice", "yes_no", "text", "date", "math"] | None = Field(
        None, description="how answers are read; needed for your own file"
    )
    rule: Literal["typed", "paper"] = Field("typed", description="typed: with care; paper: the authors' evaluator")

    @model_validator(mode="after")
    def _own_file_has_a_type(self) -> TaskConfig:
        if self.data is not None and self.answer_type is None:
            raise ValueError("answer_type is needed with data: number, integer, choice, yes_no, text, date or math")
        return self


class PriceConfig(Section):
    """What a teacher's tokens cost, in US dollars for a million."""

    input: float = Field(ge=0, description="of the prompt")
    output: float = Field(ge=0, description="of the completion")


class TeacherConfig(Section):
    """Who writes the rationales, and how it is asked."""

    name: str = Field("", description="what it is called in the results; none: its model")

    style: Literal["zero_shot_cot", "few_shot_cot", "one_step", "student", "human"] = Field(
        "zero_shot_cot",
        description="zero_shot_cot: two requests a rationale; others one; student: a served one; human: the dataset's",
    )
    answer_cue: Literal["paper", "kojima"] = Field(
        "paper", description="zero_shot_cot's second prompt: one for all tasks, or that of Kojima et al. by answer type"
    )
    backend: Literal["openai", "transformers", "recorded"] = Field("openai", description="how it is reached")
    model: ModelName = Field("", description="its name there; for recorded: which model of the store, if several")
    base_url: str = Field("http://localhost:8000/v1", description="openai: the server, up to and with /v1")
    api_key: SecretStr = Field(SecretStr(""), description="openai: ${OPENAI_API_KEY}; never written anywhere")
    api: Literal["chat", "completions"] = Field("chat", description="chat messages, or plain text to continue")
    system: str = Field("", description="a system message, chat only")
    store: FilePath | None = Field(None, description="recorded: the store to read; none: the one in the package")
    price: PriceConfig | None = Field(None, description="USD for a million tokens, as {input: 0.5, output: 1.5}")
    mode: Literal["live", "batch"] = Field(
        "live", description="batch: openai's batch API, half the price, done within a day"
    )
    samples: int = Field(4, ge=1, description="D, rationales a question; with until: at most")
    until: int = Field(0, ge=0, description="stop at so many distinct right rationales of a question; 0: ask for all")
    temperature: float = Field(0.7, ge=0, description="of the rationale; the answer is always greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus sampling; 1 is off")
    max_tokens: int = Field(128, ge=1, description="of the rationale")
    stop: tuple[str, ...] = Field((), description="texts that end a completion, besides the model's own end")
    seed: int = Field(0, description="another seed asks for another pool of samples")
    batch_size: int = Field(64, ge=1, description="transformers: sequences a batch")

    @model_validator(mode="after")
    def _batches_are_of_a_server(self) -> TeacherConfig:
        if self.mode == "batch" and self.backend != "openai":
            raise ValueError(f"mode: batch needs backend openai, and it is {self.backend}")
        return self

    @model_validator(mode="after")
    def _enough_can_be_reached(self) -> TeacherConfig:
        if self.until > self.samples:
            raise ValueError(
                f"until: {self.until} right rationales cannot come of samples: {self.samples}; raise samples"
            )
        return self


class LimitsConfig(Section):
    """What an endpoint is asked at once, how fast, for how long, and what it may cost in all."""

    concurrency: int | None = Field(None, ge=1, description="requests in flight; none: found by itself")
    requests_per_minute: float = Field(0, ge=0, description="0: no limit but the server's own")
    tokens_per_minute: float = Field(0, ge=0, description="prompt and completion; 0: no limit but the server's own")
    timeout: float = Field(120, gt=0, description="seconds for one request, all in")
    retries: int = Field(6, ge=0, description="after 429, 5xx, a timeout or a broken reply")
    retry_seconds: float = Field(1800, gt=0, description="after so long a request is not tried again")
    max_usd: float | None = Field(None, gt=0, description="of the whole run, at teacher.price; none: no limit")
    max_tokens: int | None = Field(None, ge=1, description="of the whole run, prompt and completion; none: no limit")
    max_requests: int | None = Field(None, ge=1, description="of the whole run, with retries; none: no limit")
    reached: Literal["stop", "go_on"] = Field(
        "stop", description="at one of these three: stop, exit code 4; go_on: use what was answered"
    )


class CurateConfig(Section):
    """Which generations become training pairs."""

    keep: Literal["correct", "all"] = Field("correct", description="all: no answer filter, for ablations")
    truncated: Literal["drop", "keep"] = Field("drop", description="rationales cut at teacher.max_tokens")
    loops: Literal["drop", "keep"] = Field("drop", description="rationales that say one thing over and over")
    leaked: Literal["drop", "keep"] = Field(
        "drop", description="training questions that are test questions too, but for case and white space"
    )
    dedup: Literal["off", "exact", "equations"] = Field(
        "exact",
        description="drop a rationale that repeats another of its question. exact: in its words, or true; "
        "equations: in what it computes; off, or false",
    )
    per_question: int = Field(0, ge=0, description="keep at most so many a question; 0: no limit")
    prefer: Literal["first", "short"] = Field(
        "first", description="which of a question's are kept by dedup and per_question: by sample, or the shortest"
    )
    total: int = Field(0, ge=0, description="keep so many in all, drawn at random by the paper's rule; 0: no limit")
    only: FilePath | None = Field(
        None, description="a file of question ids, one a line: keep rationales of these alone"
    )

    @field_validator("dedup", mode="before")
    @classmethod
    def _yes_or_no(cls, dedup: object) -> object:
        return ("off", "exact")[dedup] if isinstance(dedup, bool) else dedup  # YAML reads off as false


class LoraConfig(Section):
    """LoRA adapters instead of full fine-tuning; merged into the saved student."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    four_bit: bool = Field(False, description="the frozen weights in 4 bits (QLoRA): needs bitsandbytes")


class KdConfig(Section):
    """A teacher whose probabilities are learned besides its rationales; it has the student's own tokenizer."""

    model: ModelName = Field(min_length=1, description="the teacher: ours, a Hugging Face id, or a folder")
    alpha: float = Field(1.0, ge=0, description="loss = cross-entropy + alpha * KL(teacher || student)")
    top_k: int = Field(32, ge=1, description="tokens of the teacher that are told apart; the rest counts as one")
    temperature: float = Field(1.0, gt=0, description="of both; above 1, unlikely tokens count for more")


class StudentConfig(Section):
    """Who learns, in what form, and how long."""

    model: ModelName = Field("smollm2-135m-instruct", description="ours, a Hugging Face id, or a folder")
    format: Literal["paper", "paper_gpt3", "natural", "chat"] = Field(
        "paper", description="of prompts and completions; chat: the student's own chat template"
    )
    rationale: str | dict[str, float] = Field(
        "full",
        description="what fine_tune_cot writes: full; short; answer_first, and at the test no more than that; "
        "or several by weight, as {full: 2, answer_first: 1}, asked in the first",
    )
    select: Literal["last", "dev", "paper"] = Field(
        "dev",
        description="the epoch kept: of the lowest dev loss; last; paper: the best on the test set, as the authors. "
        "Until they are measured that keeps the weights of every epoch",
    )
    epochs: float = Field(3, gt=0, description="passes over the pairs; not used where steps is set")
    steps: int = Field(0, ge=0, description="optimiser steps, the same for every method; 0: from epochs")
    learning_rate: float = Field(2e-4, gt=0, description="peak, after the warm-up")
    batch_size: int = Field(8, ge=1, description="examples a step")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    schedule: Literal["linear", "constant"] = Field("linear", description="after the warm-up: decay to 0, or none")
    weight_decay: float = Field(0.01, ge=0)
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="one student a seed and method")
    dev_fraction: float = Field(0.05, ge=0, lt=1, description="share of training questions held out for the dev loss")
    dev_accuracy: bool = Field(True, description="answer the held-out questions after each epoch, and count the right")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a lower dev loss; 0: never")
    micro_batch_size: int = Field(
        0, ge=0, description="examples at once, of those of a step; 0: all, halved where memory runs out"
    )
    packing: bool = Field(False, description="lay the examples of a batch end to end: no padding; for a GPU")
    attention: str = Field("", description="sdpa, eager, flash_attention_2 or another of transformers; none: its own")
    compile: bool = Field(False, description="torch.compile: slow to begin, then faster; for a GPU")
    checkpoint_minutes: float = Field(10, ge=0, description="between checkpoints, to go on from after a kill; 0: none")
    report_to: tuple[str, ...] = Field((), description="trackers of transformers: wandb, mlflow, tensorboard, trackio")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model: only if you know it")
    max_length: int = Field(0, ge=0, description="tokens a training example may have; 0: the longest there is")
    over_long: Literal["raise", "drop"] = Field("raise", description="drop: leave longer ones out and count them")
    lora: LoraConfig | None = Field(None, description="e.g. {rank: 16}; none: all weights are trained")
    kd: KdConfig | None = Field(None, description="e.g. {model: ID}; none: the rationales are all that is learned from")

    @field_validator("rationale", mode="before")
    @classmethod
    def _known_styles(cls, rationale: object) -> object:
        from cotdistill.methods import STYLES

        weights = {rationale: 1} if isinstance(rationale, str) else rationale
        if not isinstance(weights, dict) or not weights:
            raise ValueError(f"a style, or several with their weights, of {', '.join(STYLES)}")
        for style, weight in weights.items():
            if style not in STYLES:
                raise ValueError(f"no style {style!r}{nearest(str(style), STYLES)}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MOST_WEIGHT:
                raise ValueError(f"the weight of {style} must be a number above 0, at most 1,000,000, not {weight!r}")
        return weights if len(weights) > 1 else next(iter(weights))

    @model_validator(mode="after")
    def _patience_has_a_dev_loss(self) -> StudentConfig:
        if self.patience and (self.select == "last" or not self.dev_fraction):
            raise ValueError("patience: it needs a dev loss; set dev_fraction above 0, and select to dev or paper")
        return self


class EvaluateConfig(Section):
    """Which methods are compared on the test questions."""

    methods: tuple[str, ...] = ("zero_shot", "zero_shot_cot", "fine_tune", "fine_tune_cot")
    batch_size: int = Field(128, ge=1, description="sequences a batch")
    max_tokens: int = Field(0, ge=0, description="of a prediction; 0: each method's own")
    samples: int = Field(8, ge=2, description="self_consistency: answers a question, of which the most frequent counts")
    temperature: float = Field(0.7, gt=0, description="self_consistency: they are sampled at")
    usd_per_hour: float = Field(0, ge=0, description="of the machine that answers and trains; 0: not known")

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        from cotdistill.methods import METHODS

        for method in methods:
            if method not in METHODS:
                raise ValueError(f"no method {method!r}{nearest(method, METHODS)}")
        return methods


class Config(Section):
    """A whole run."""

    name: str = Field("quickstart", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", description="of the run's folder")
    runs: FilePath = Field(Path("runs"), description="the folder of all runs")
    store: FilePath | None = Field(None, description="completions bought; none: RUNS/store.sqlite, shared by all runs")
    task: TaskConfig = TaskConfig()
    teacher: TeacherConfig = TeacherConfig()
    teachers: tuple[TeacherConfig, ...] = Field((), description="several; what one leaves out is as in teacher")
    limits: LimitsConfig = LimitsConfig()
    curate: CurateConfig = CurateConfig()
    student: StudentConfig = StudentConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    cluster: ClusterConfig | None = Field(None, description="many machines through Ray, as {address: auto}; none: here")
    judge: TeacherConfig | None = Field(None, description="who labels mistakes for evaluate --judge, as in teacher")

    @property
    def all_teachers(self) -> tuple[TeacherConfig, ...]:
        return self.teachers or (self.teacher,)

    @model_validator(mode="before")
    @classmethod
    def _teachers_are_like_teacher(cls, values: Any) -> Any:
        several = values.get("teachers") if isinstance(values, dict) else None
        if not several:
            return values
        if not isinstance(several, list) or not all(isinstance(one, dict) for one in several):
            raise ValueError("teachers: a list of sections like teacher, such as [{model: a}, {model: b}]")
        return {**values, "teachers": [{**(values.get("teacher") or {}), **one} for one in several]}

    @model_validator(mode="after")
    def _teachers_have_names_of_their_own(self) -> Config:
        names = [teacher.name or teacher.model for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError("teachers: two have the same name; give each a name of its own")
        if len({(teacher.style, teacher.answer_cue) for teacher in self.teachers}) > 1:
            raise ValueError("teachers: style and answer_cue must be the same for all: their answers are read alike")
        return self

    @model_validator(mode="after")
    def _batches_need_no_cluster(self) -> Config:
        if self.cluster and any(teacher.mode == "batch" for teacher in self.all_teachers):
            raise ValueError("cluster: with teacher.mode: batch the server does the work; ask it with cluster=null")
        return self

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def store_path(self) -> Path:
        return self.store or self.runs / "store.sqlite"

    @property
    def parts_url(self) -> str:
        """The store of the cluster: a URL, or a folder from the root."""
        url = (self.cluster and self.cluster.store) or str(self.runs / "store.parts")
        return url if "://" in url else str(Path(url).absolute())

    def to_yaml(self) -> str:
        """Everything resolved, but for secrets."""
        key = {"api_key"}
        values = self.model_dump(mode="json", exclude={"teacher": key, "judge": key, "teachers": {"__all__": key}})
        # ASCII only: PyYAML reads back a U+0085 that it wrote as it is as a space.
        return yaml.safe_dump(values, sort_keys=False)


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config of a YAML file with overrides such as {"student.epochs": 2} applied.

    Relative paths in it are taken from the current folder. Raises `ConfigError` that names the key
    and the nearest right one.
    """
    return make_config(read_yaml(Path(path)), overrides or {}, Path(path))


def make_config(values: dict[str, Any], overrides: Mapping[str, Any], path: Path) -> Config:
    """The config of `values`, which were read from `path`, with overrides applied."""
    values = copy.deepcopy(values)
    for key, value in overrides.items():
        set_value(values, key, value)
    fill_secrets(values)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def load_quickstart(overrides: Mapping[str, Any] | None = None) -> Config:
    """The embedded default: generated word problems, a recorded teacher, a student from PyPI."""
    return load_config(QUICKSTART, overrides)


def nearest(name: str, known: Any) -> str:
    """' (did you mean ...?)' with the nearest of the known names, or all of them."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f". Did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}."


def _explain(error: ValidationError, path: Path | None) -> str:
    first, *rest = error.errors()
    key = shown(".".join(map(str, first["loc"])))
    if first["type"] == "extra_forbidden":
        section: Any = Config
        for part in first["loc"][:-1]:
            if isinstance(part, int):  # which of a list
                continue
            annotation = section.model_fields[str(part)].annotation
            section = next(
                (t for t in (annotation, *getattr(annotation, "__args__", ())) if hasattr(t, "model_fields")), Section
            )
        last = str(first["loc"][-1])
        owner = next(
            (n for n, f in Config.model_fields.items() if last in getattr(f.annotation, "model_fields", ())), ""
        )
        meant = f". Did you mean {owner}.{last}?" if owner and section is Config else ""
        what = f"no such key{meant or nearest(last, section.model_fields)}"
    else:
        what = shown(first["msg"].removeprefix("Value error, "), 3 * MAX_SHOWN)
        if first["loc"] and first["loc"][-1] != "api_key" and not isinstance(first["input"], dict):
            what += f" (it is {shown(repr(first['input']))})"
        if first["type"] == "string_type" and not isinstance(first["input"], dict | list):
            what += ". Put it into quotes, '\"...\"' on a command line"  # YAML has read no, 2026 or 1.5 as it does
    where = ": ".join(filter(None, (str(path or ""), key)))
    more = f"\n(and {len(rest)} more)" if rest else ""
    return f"{where}: {what}{more}"
