"""A judge beside the rules: asked once, read strictly, counted, and compared by kappa."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotdistill import cli
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.budget import Amount, Budget
from cotdistill.config import LimitsConfig, load_quickstart
from cotdistill.errors import BudgetReached, ConfigError
from cotdistill.judge import (
    Judged,
    Prediction,
    agreement,
    as_json,
    ask_judge,
    describe,
    judge_run,
    kappa,
    kind_of,
    sample,
)
from cotdistill.judge import prompt as judge_prompt
from cotdistill.records import Generation, Question, Score
from cotdistill.results.mistakes import MOST, Mistake
from cotdistill.store import Store
from servers import Server, start_server
from tiny import tiny_model

# What each text begins with is what the server's judge says (answering.py).
TEXTS = ["none", "calculation", "other", "garbage", "misread", "aloud"]
ANSWERS = ["none", "calculation", "other", "unreadable", "misread", "other"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Its own: its requests are counted."""
    with start_server() as running:
        yield running


def predictions(texts: list[str], mistakes: tuple[Mistake, ...] = ()) -> list[Prediction]:
    return [
        (
            Question(f"q{i}", f"What is it, {i}?", "7"),
            Generation(f"q{i}", 0, f"{text} {i}", None, "stop"),
            Score(f"q{i}", 0, None, "wrong", False),
            mistakes,
        )
        for i, text in enumerate(texts)
    ]


def judged_by(server: Server, store: Path, texts: list[str], budget: Budget | None = None, **more: bool) -> list[str]:
    backend = OpenAIBackend("fake", server.base_url, limits=LimitsConfig(retries=0), budget=budget)
    with Store(store) as bought:
        return [one.judge for one in ask_judge(predictions(texts), backend, bought, 50, **more)]


def test_what_it_said_is_never_bought_twice(server: Server, tmp_path: Path) -> None:
    before = server.stats()["requests"]
    assert judged_by(server, tmp_path / "s", TEXTS[:4]) == ANSWERS[:4]
    assert server.stats()["requests"] == before + 4
    assert judged_by(server, tmp_path / "s", TEXTS) == ANSWERS
    assert judged_by(server, tmp_path / "s", TEXTS) == ANSWERS
    assert server.stats()["requests"] == before + 6
    assert {body["temperature"] for body in server.stats()["bodies"]} == {0}


def test_what_failed_is_counted_apart_and_asked_again(server: Server, tmp_path: Path) -> None:
    with start_server("--fail-rate", "1") as broken:
        other = OpenAIBackend("fake", broken.base_url, limits=LimitsConfig(retries=0, retry_seconds=1))
        with Store(tmp_path / "s") as bought:
            judged = list(ask_judge(predictions(TEXTS[:2]), other, bought, 50))
    assert [one.judge for one in judged] == ["failed", "failed"]
    assert (agreement(judged).n, agreement(judged).failed) == (0, 2)
    assert describe(judged) == ["no reply names a kind: 0 unreadable, 2 failed. Look at judged.jsonl."]
    assert judged_by(server, tmp_path / "s", TEXTS[:2]) == ANSWERS[:2]


def test_it_stops_at_the_budget(server: Server, tmp_path: Path) -> None:
    budget = Budget(Amount(2, math.inf, math.inf), tmp_path / "spent.json")
    with pytest.raises(BudgetReached):
        judged_by(server, tmp_path / "s", TEXTS, budget)
    assert json.loads((tmp_path / "spent.json").read_text())["spent"]["requests"] == 2
    before = server.stats()["requests"]
    some = judged_by(server, tmp_path / "s", TEXTS, Budget(Amount(2), tmp_path / "spent.json"), partial=True)
    assert len(some) == 2
    assert server.stats()["requests"] == before


REPLIES = [
    ("Kind: none", "none"),
    (" kind: Calculation.\n", "calculation"),
    ("**Kind:** `misread`", "misread"),
    ("- Kind: <form>", "form"),
    ("I think so.\nKind: none\nNo:\nKind: other", "other"),
    ("Kind: false_step\n\nBecause 2 + 2 is 4.", "false_step"),
    ("none", "unreadable"),
    ("Kind: wrong", "unreadable"),
    ("Kind: none or other", "unreadable"),
    ("Kind: calculation|false_step|repetition|truncated|form|misread|other|none", "unreadable"),
    ("The kind: none of them", "unreadable"),
    ("", "unreadable"),
    ("Kind: none\n" + "x" * 10_000, "unreadable"),  # far from the end
    ("*" * 1_000_000, "unreadable"),
    ("kind" * 250_000, "unreadable"),
]


@pytest.mark.parametrize(("reply", "kind"), REPLIES)
def test_replies_are_read_strictly(reply: str, kind: str) -> None:
    assert kind_of(reply) == kind


def test_a_prompt_holds_what_was_written_as_it_is() -> None:
    question = Question("q", "How {many}?", "7")
    asked = judge_prompt(question, Generation("q", 0, "{text} %s {0}" + "x" * 10**6, " 7.", "length"))
    assert "How {many}?" in asked
    assert "{text} %s {0}x" in asked
    assert "x 7.\n</text>\nThe text was cut at its limit." in asked
    assert len(asked) < MOST + 2000
    assert "cut at its limit.\n\n" not in judge_prompt(question, Generation("q", 0, "7", None, "stop"))


def test_a_larger_sample_holds_the_smaller() -> None:
    all_of_them = predictions(["none"] * 50)
    assert sample(all_of_them, 20)[:10] == sample(all_of_them, 10)
    assert len(sample(all_of_them, 60)) == 50


def test_kappa_and_its_interval() -> None:
    # SAS/STAT, PROC FREQ: two dermatologists, 88 patients: kappa 0.3449 (0.2030 to 0.4868).
    table = [[10, 4, 1, 0], [5, 10, 12, 2], [2, 4, 12, 5], [0, 2, 6, 13]]
    pairs = [(i, j) for i, row in enumerate(table) for j, n in enumerate(row) for _ in range(n)]
    assert kappa(pairs) == pytest.approx((0.3449, 0.2030, 0.4868), abs=5e-5)
    assert kappa([("a", "a"), ("b", "b")] * 5) == pytest.approx((1, 1, 1))
    assert kappa([("a", "b"), ("b", "a")] * 5)[0] == pytest.approx(-1)
    assert all(map(math.isnan, kappa([("a", "a")] * 5)))
    assert all(map(math.isnan, kappa([])))


def one(rule: str, judge: str) -> Judged:
    return Judged("q", 0, "wrong", () if rule == "none" else (rule, "other"), judge, "")


def test_agreement_counts_those_with_a_label() -> None:
    pairs = [("calculation", "calculation"), ("calculation", "other"), ("none", "none"), ("none", "misread")]
    judged = [one(*pair) for pair in pairs] + [one("none", "unreadable"), one("none", "failed")]
    found = agreement(judged)
    assert (found.n, found.unreadable, found.failed, found.raw, found.raw_wrong) == (4, 1, 1, 0.5, 0.75)
    assert found.table["calculation"]["other"] == 1
    assert sum(sum(row.values()) for row in found.table.values()) == 4
    assert json.loads(as_json(judged))["kappa_wrong"][0] == pytest.approx(0.5)
    assert json.loads(as_json(judged[:1]))["kappa"] is None
    text = "\n".join(describe(judged))
    assert "4 predictions have a label of the judge; 1 replies were unreadable, 1 failed." in text
    assert "75.0% agree with the rules, kappa 0.50 (" in text
    assert "truncated" not in text, "what neither says has no row"


REFUSED: list[tuple[dict[str, object], str, str]] = [
    ({}, "", "no judge"),
    ({"judge.base_url": "http://localhost"}, "", "judge.model is needed"),
    ({"judge.model": "m", "judge.samples": 2}, "", "judge.samples"),
    ({"judge.model": "m", "judge.temperature": 0.2}, "", "judge.temperature"),
    ({"judge.model": "m", "limits.max_usd": 1}, "", "judge.price"),
    ({"judge.model": "m"}, "fine_tune_cot", "fine_tune_cot-0"),
    ({"judge.model": "m", "evaluate.methods": ["zero_shot"]}, "", "zero_shot"),
]


@pytest.mark.parametrize(("settings", "name", "said"), REFUSED)
def test_a_judge_that_cannot_be_asked_is_refused_before_anything_is_done(
    settings: dict[str, object], name: str, said: str, tmp_path: Path
) -> None:
    config = load_quickstart({"runs": str(tmp_path / "runs"), **settings})
    with pytest.raises(ConfigError, match=said):
        judge_run(config, 5, name)
    assert not (tmp_path / "runs").exists()


def test_its_key_is_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    config = load_quickstart({"judge.model": "m", "judge.api_key": "${MY_KEY}"})
    assert config.judge is not None
    assert config.judge.api_key.get_secret_value() == "sk-secret"
    assert "secret" not in config.to_yaml()
    with pytest.raises(ConfigError, match=r"judge\.api_key"):
        load_quickstart({"judge.model": "m", "judge.api_key": "sk-secret"})


@pytest.mark.slow
def test_evaluate_judges_a_sample_of_a_run(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tiny_model(tmp_path / "tiny", positions=2048)
    words = [f"runs={tmp_path}/runs", "name=t", "task.train=12", "task.test=6", f"student.model={student}"]
    words += ["evaluate.methods=[zero_shot]", "evaluate.max_tokens=8", "limits.max_requests=5"]
    words += ["judge.model=fake", f"judge.base_url={server.base_url}"]
    codes: list[int] = []

    def judge(n: int, *more: str) -> str:
        cli.main(["evaluate", "--judge", str(n), "--judge-method", "zero_shot", *words, *more], leave=codes.append)
        return capsys.readouterr().out

    before = server.stats()["requests"]
    shown = judge(3)
    assert "unreadable" in shown
    assert judge(3) == shown
    assert server.stats()["requests"] == before + 3
    lines = [json.loads(line) for line in (tmp_path / "runs/t/judged.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["zero_shot"] * 3
    judge(6)
    assert codes == [0, 0, 4], "five requests are all that this run may make"
    judge(6, "limits.reached=go_on")
    assert codes[-1] == 0
    assert len((tmp_path / "runs/t/judged.jsonl").read_text().splitlines()) == 5
    assert server.stats()["requests"] == before + 5
    dead = ("judge.base_url=http://127.0.0.1:9/v1", "limits.max_requests=50")
    cli.main(["evaluate", "--judge", "3", "--judge-method", "zero_shot", *words[:-1], *dead], leave=codes.append)
    assert codes[-1] == 5
    assert "judge.base_url" in capsys.readouterr().err
    result = json.loads((tmp_path / "runs/t/result.json").read_text())
    predicted = [
        json.loads(line) for line in (tmp_path / "runs/t/predictions/zero_shot.jsonl").read_text().splitlines()
    ]
    kinds = [{mistake["kind"] for mistake in line["mistakes"]} for line in predicted]
    assert all(n == sum(kind in some for some in kinds) for kind, n in result["mistakes"]["zero_shot"].items())
    assert sum(map(bool, kinds)) == 6, "random letters are no answers"
