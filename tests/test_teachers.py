"""Several teachers, and asking only as long as it helps."""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

from cotdistill import answers
from cotdistill.backends import RECORDED
from cotdistill.backends.recorded import RecordedBackend
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import load_config, load_quickstart
from cotdistill.errors import BudgetReached, ConfigError
from cotdistill.evaluate import score
from cotdistill.generate import ask, first_params, make_job, read
from cotdistill.jobs import Until
from cotdistill.methods import METHODS, teacher_method
from cotdistill.pipeline import plan_teachers, run
from cotdistill.records import Generation, Question, read_jsonl
from cotdistill.store import Store
from cotdistill.tasks import load_task
from servers import start_server

CONFIG = load_quickstart()
TASK = load_task(CONFIG.task)
METHOD = teacher_method(CONFIG.teacher.style, CONFIG.teacher.answer_cue, TASK.answer_type, TASK.options)
TYPE = answers.answer_type(CONFIG.task.rule, TASK.answer_type, TASK.options)
SAMPLES = CONFIG.teacher.samples


class Counting:
    """A recorded teacher that counts its samples, and that a budget stops after `most` of them."""

    def __init__(self, most: int = 10**9) -> None:
        self.recorded = RecordedBackend(RECORDED)
        self.rationales, self.most = 0, most

    @property
    def identity(self) -> Mapping[str, str]:
        return self.recorded.identity

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        for request, sample, completion in self.recorded.generate(requests):
            self.rationales += len(request.prompt) == 1
            if self.rationales > self.most:
                raise BudgetReached("enough")
            yield request, sample, completion


def right(question: Question, generation: Generation) -> str | None:
    correct = score(generation, question, METHOD, TYPE).correct
    return " ".join(generation.text.split()) if correct else None


def replay(store: Path, until: Until | None, most: int = 10**9) -> tuple[int, list[Generation]]:
    """The recorded rationales that were asked for, and what they were."""
    backend, c = Counting(most), CONFIG.teacher
    first = first_params(METHOD, c.max_tokens, c.temperature, c.top_p, c.stop, c.seed)
    job = make_job(backend, METHOD, first, SAMPLES, until)
    with Store(store) as bought:
        try:
            ask(job, TASK.train, backend, bought)
        except BudgetReached:
            return backend.rationales, list(read(job, TASK.train, bought, partial=True))
        return backend.rationales, list(read(job, TASK.train, bought))


def covered(generations: list[Generation]) -> set[str]:
    """The questions with a right rationale."""
    by_id = {question.id: question for question in TASK.train}
    return {g.question_id for g in generations if right(by_id[g.question_id], g) is not None}


@pytest.mark.parametrize("sparing", [False, True])
def test_asking_until_there_is_one_covers_the_same_questions_in_fewer_calls(tmp_path: Path, sparing: bool) -> None:
    fixed, all_of_them = replay(tmp_path / "fixed.sqlite", None)
    asked, some = replay(tmp_path / "until.sqlite", Until(1, right, sparing))
    assert fixed == len(all_of_them) == SAMPLES * len(TASK.train)
    assert asked == len(some) < 0.75 * fixed
    assert set(some) < set(all_of_them)
    assert covered(some) == covered(all_of_them)
    # From a store that has more than it needs it takes the same, and asks for nothing.
    assert replay(tmp_path / "fixed.sqlite", Until(1, right, sparing)) == (0, some)


def test_a_budget_goes_first_to_questions_that_have_no_right_rationale(tmp_path: Path) -> None:
    budget = 3 * len(TASK.train) // 2
    found = {}
    for name, until in {"fixed": None, "sparing": Until(2, right, sparing=True)}.items():
        asked, generations = replay(tmp_path / f"{name}.sqlite", until, budget)
        assert asked == budget + 1
        found[name] = len(covered(generations))
    _, everything = replay(tmp_path / "all.sqlite", None)
    assert found["fixed"] < found["sparing"] == len(covered(everything))


class Dice:
    """Eight samples a question by the toss of a die, the same in every run; two right ones may be one text."""

    identity: Mapping[str, str] = {"model": "dice"}

    def __init__(self) -> None:
        self.samples: list[tuple[str, int]] = []

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        while waiting := list(iter(lambda: next(requests, None), None)):
            for request in waiting:
                for sample in request.samples:
                    self.samples.append((request.prompt[0], sample))
                    yield request, sample, Completion(self.text(request.prompt[0], sample), "stop")

    def text(self, prompt: str, sample: int) -> str:
        return f"right {sample // 2}" if random.Random(f"{prompt} {sample}").random() < 0.4 else f"wrong {sample}"


@pytest.mark.parametrize("sparing", [False, True])
@pytest.mark.parametrize("enough", [1, 2, 4])
def test_distinct_right_rationales_are_what_counts(tmp_path: Path, enough: int, sparing: bool) -> None:
    questions = [Question(str(i), f"{i}?", "") for i in range(100)]
    dice = Dice()
    until = Until(enough, lambda q, g: g.text if g.text.startswith("right") else None, sparing)
    with Store(tmp_path / "s.sqlite") as store:
        job = make_job(dice, METHODS["zero_shot"], SamplingParams(32, 0.7), 8, until)
        ask(job, questions, dice, store)
        generations = list(read(job, questions, store))
    assert len(dice.samples) == len(set(dice.samples)) == len(generations)
    for question in questions:
        texts = [dice.text(METHODS["zero_shot"].prompt(question), sample) for sample in range(8)]
        needed = next(
            (n for n in range(1, 9) if len({t for t in texts[:n] if t.startswith("right")}) == enough), len(texts)
        )
        assert [g.text for g in generations if g.question_id == question.id] == texts[:needed]


def write_config(folder: Path, text: str) -> Path:
    rows = [{"question": f"What is {i} plus {2 * i}?", "answer": str(3 * i)} for i in range(20)]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = f"task: {{data: {folder / 'q.jsonl'}, answer_type: number, test_fraction: 0.25}}\nruns: {folder / 'runs'}\n"
    (folder / "c.yaml").write_text(f"{head}name: two\n{text}")
    return folder / "c.yaml"


def test_several_teachers_are_told_apart_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTDISTILL_TEST_KEY", "sk-canary-0123456789")
    with start_server("--wrong-rate", "0.5") as weak, start_server("--require-key", "sk-canary-0123456789") as strong:
        path = write_config(
            tmp_path,
            "teacher: {samples: 2}\n"
            f'teachers:\n- {{model: weak, base_url: "{weak.base_url}"}}\n'
            f'- {{model: m, name: strong, base_url: "{strong.base_url}", samples: 1,'
            ' api_key: "${COTDISTILL_TEST_KEY}"}\n',
        )
        this = run(load_config(path), "curate")
        asked = weak.stats()["requests"], strong.stats()["requests"]
        run(load_config(path), "curate")
        run(load_config(this.folder / "config.yaml", {"teachers.1.api_key": "${COTDISTILL_TEST_KEY}"}), "curate")
        assert (weak.stats()["requests"], strong.stats()["requests"]) == asked
    generations = read_jsonl(this.folder / "generations.jsonl", Generation)
    assert [(g.teacher, g.index) for g in generations[:3]] == [("weak", 0), ("weak", 1), ("strong", 0)]
    assert this.curated is not None
    teachers = this.curated.ledger["teachers"]
    assert isinstance(teachers, dict)
    assert {name: teachers[name]["asked"] for name in teachers} == {"weak": 30, "strong": 15}
    assert teachers["strong"]["teacher_accuracy"] == 1 > teachers["weak"]["teacher_accuracy"]
    assert {pair.teacher for pair in this.curated.pairs} == {"weak", "strong"}
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"canary" not in file.read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("teachers: [{model: a}, {model: a, seed: 1}]", r"c\.yaml: teachers: two have the same name"),
        ("teacher: {model: a, until: 8, samples: 4}", "cannot come of samples: 4; raise samples"),
        ("teacher: {backend: transformers, mode: batch}", "batch needs backend openai"),
        ("teachers: [{model: a}, {model: b, style: one_step}]", "must be the same for all"),
        ("teachers: {model: a}", "a list of sections"),
        ("teachers: [{sampels: 2}]", r"teachers\.0\.sampels.*'samples'"),
        ("teacher: {model: a}\nlimits: {max_usd: 1}", r"limits\.max_usd: the price of a is not known"),
        ("teacher: {model: a, price: {input: 1}}", r"teacher\.price\.output"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_asked(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(load_config(write_config(tmp_path, text)), "generate")


def test_batches_bring_what_live_requests_do_and_nothing_is_asked_again(tmp_path: Path) -> None:
    with start_server("--wrong-rate", "0.3") as server:
        path = write_config(tmp_path, f'teacher: {{model: m, base_url: "{server.base_url}", samples: 1}}\n')
        batch = run(load_config(path, {"teacher.mode": "batch", "store": str(tmp_path / "batch.sqlite")}), "curate")
        assert len(server.stats()["batches"]) == 2  # of both prompts
        asked = server.stats()["requests"]
        run(load_config(path, {"store": str(tmp_path / "batch.sqlite")}), "curate")
        assert server.stats()["requests"] == asked
        written = (batch.folder / "pairs.jsonl").read_bytes()
        live = run(load_config(path, {"name": "live"}), "curate")
    assert (live.folder / "pairs.jsonl").read_bytes() == written


def test_a_limit_ends_the_run_with_what_is_there(tmp_path: Path) -> None:
    with start_server() as server:
        path = write_config(tmp_path, f'teacher: {{model: m, base_url: "{server.base_url}", samples: 2}}\n')
        said = r"limits\.max_requests=11 is reached: 10 spent, and the next question may take 3"
        with pytest.raises(BudgetReached, match=said):
            run(load_config(path, {"limits.max_requests": 11}), "curate")
        some = read_jsonl(tmp_path / "runs/two/generations.jsonl", Generation)
        this = run(load_config(path, {"limits.max_requests": 11, "limits.reached": "go_on"}), "curate")
        assert this.curated is not None
        assert this.curated.ledger["asked"] == len(some) > 0
        assert server.stats()["requests"] == 10  # the eleventh would be a rationale without its answer
        this = run(load_config(path, {"limits.max_requests": 1000}), "curate")
        assert this.curated is not None
        assert this.curated.ledger["asked"] == 30
        spent = json.loads((this.folder / "spent.json").read_text())["spent"]
        assert server.stats()["requests"] == spent["requests"]


def test_a_plan_prices_what_is_missing_and_a_pilot_measures_it(tmp_path: Path) -> None:
    with start_server("--wrong-rate", "0.5") as server:
        path = write_config(
            tmp_path,
            f'teacher: {{model: m, base_url: "{server.base_url}", samples: 2, price: {{input: 1, output: 3}}}}\n',
        )
        (blind,) = plan_teachers(load_config(path))
        assert server.stats()["requests"] == 0
        assert (blind.stored, blind.missing, blind.pilot, blind.right) == (0, 30, 0, None)
        (plan,) = plan_teachers(load_config(path), pilot=6)
        assert (plan.stored, plan.missing, plan.requests, plan.pilot) == (12, 18, 36, 6)
        before = server.stats()["requests"]
        this = run(load_config(path), "curate")
        assert server.stats()["requests"] <= before + plan.requests
    assert this.curated is not None
    ledger, generations = this.curated.ledger, this.generations
    tokens = sum(g.completion_tokens for g in generations) * plan.missing / len(generations)
    assert plan.completion_tokens.value == pytest.approx(tokens, rel=0.1)
    assert blind.completion_tokens.value > 5 * tokens
    assert plan.right is not None
    assert plan.usd is not None
    assert blind.usd is not None
    assert plan.right.low is not None
    assert plan.right.high is not None
    assert plan.right.low <= ledger["teacher_accuracy"] <= plan.right.high  # type: ignore[operator]
    assert 0 < plan.usd.value < blind.usd.value
