"""Hard limits: never above, whatever is in flight, fails or is killed; and nothing is bought twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cotdistill.backends.openai import OpenAIBackend
from cotdistill.budget import ENDLESS, NOTHING, Amount, Budget, Price
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError, BudgetReached, DataError
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question
from cotdistill.store import Store
from servers import Server, start_server

DIRECT = METHODS["zero_shot"]
PRICE = Price(100.0, 1000.0)  # US dollars for a million tokens


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as store:
        yield store


def bad_server(*flags: str) -> AbstractContextManager[Server]:
    return start_server(*flags, program="bad_server.py")


def questions(n: int) -> list[Question]:
    return [Question(str(i), f"What is {i} plus 7?", str(i + 7)) for i in range(n)]


def buy(server: Server, store: Store, budget: Budget, n: int = 300, **options: Any) -> int:
    backend = OpenAIBackend("fake", server.base_url, budget=budget, price=PRICE, limits=LimitsConfig(**options))
    return len(list(generate(questions(n), backend, DIRECT, store)))


FAULTY = ("--fault", "status:0.2", "--fault", "dropped:0.05", "--fault", "truncated:0.1")


@pytest.mark.parametrize(
    ("most", "flags"),
    [
        (Amount(100, 1e9, 1e9), ()),
        (Amount(1e9, 4000, 1e9), ()),
        (Amount(1e9, 1e9, 2.0), ()),
        (Amount(1, 1e9, 1e9), ()),
        (Amount(0.5, 1e9, 1e9), ()),
        (Amount(100, 1e9, 1e9), FAULTY),
        (Amount(1e9, 4000, 1e9), FAULTY),
        (Amount(1e9, 1e9, 2.0), FAULTY),
    ],
)
def test_a_limit_is_never_passed(most: Amount, flags: tuple[str, ...], store: Store) -> None:
    budget = Budget(most)
    with bad_server("--latency", "0.01", *flags) as server:
        with pytest.raises(BudgetReached, match=r"limits.max_\w+=.* is reached: .*\nAll that was answered is stored"):
            buy(server, store, budget, concurrency=32)
        stats = server.stats()
        assert budget.spent.at_most(most)
        assert budget.held == pytest.approx(Amount(), abs=1e-9)
        assert stats["requests"] <= most.requests
        assert stats["tokens"] <= budget.spent.tokens <= most.tokens
        # A prompt has 8 words or so, an answer 9: the most that they cost is reserved, and given back.
        assert len(store) >= min(most.requests, most.tokens / 60, most.usd / 0.03) * (0.3 if flags else 0.7) - 1
        bought = len(store)
        if not flags:
            assert buy(server, store, Budget(), n=300) == 300
            assert server.stats()["requests"] == 300 == bought + server.stats()["requests"] - stats["requests"]


def configure(folder: Path, server: Server, n: int = 200) -> Path:
    rows = [{"question": q.text, "answer": q.answer} for q in questions(n)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "r",
        "runs": str(folder / "runs"),
        "task": {"data": str(folder / "data.jsonl"), "answer_type": "number", "test_fraction": 0.01},
        "teacher": {"model": "fake", "base_url": server.base_url, "style": "one_step", "samples": 1},
        "limits": {"concurrency": 8},
        "evaluate": {"methods": ["fine_tune_cot"]},
    }
    (folder / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder / "run.yaml"


def command(config: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "cotdistill", "generate", str(config), *words]


def run_cli(config: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(config, *words), capture_output=True, text=True, timeout=120, check=False)


def lines(config: Path) -> int:
    return len((config.parent / "runs" / "r" / "generations.jsonl").read_text().splitlines())


@pytest.mark.slow
def test_a_run_stops_at_its_limit_and_goes_on_at_a_higher_one(tmp_path: Path) -> None:
    with bad_server() as server:
        config = configure(tmp_path, server)
        for most in (50, 50, 120):
            done = run_cli(config, f"limits.max_requests={most}")
            assert done.returncode == 4
            assert f"limits.max_requests={most} is reached: {most} spent" in done.stderr
            assert "Traceback" not in done.stderr
            assert server.stats()["requests"] == lines(config) == most
        go_on = run_cli(config, "limits.max_requests=120", "limits.reached=go_on")
        assert (go_on.returncode, lines(config)) == (0, 120)
        whole = run_cli(config, "limits.max_requests=500")
        assert (whole.returncode, lines(config)) == (0, server.stats()["requests"])
        assert set(server.stats()["prompts"].values()) == {1}
        assert lines(config) > 190


def test_a_limit_in_money_needs_a_price(tmp_path: Path) -> None:
    with bad_server() as server:
        config = configure(tmp_path, server)
        refused = run_cli(config, "limits.max_usd=0.2")
        assert (refused.returncode, server.stats()["requests"]) == (2, 0)
        assert "the price of fake is not known" in refused.stderr
        reached = run_cli(config, "limits.max_usd=0.5", "teacher.price={input: 100, output: 1000}")
        assert reached.returncode == 4
        assert "limits.max_usd=0.5 is reached: 0." in reached.stderr
        spent = json.loads((tmp_path / "runs" / "r" / "spent.json").read_text())["spent"]
        assert 0.2 < spent["usd"] <= 0.5
        assert server.stats()["tokens"] == spent["tokens"]


@pytest.mark.slow
def test_a_kill_makes_no_limit_higher(tmp_path: Path) -> None:
    """What was in flight is counted at its most, so a limit holds over all runs together."""
    most, kills = 100, 4
    with bad_server("--latency", "0.03") as server:
        config = configure(tmp_path, server)
        seen = 0
        for _ in range(kills):
            with subprocess.Popen(command(config, f"limits.max_requests={most}"), stderr=subprocess.PIPE) as process:
                while server.stats()["requests"] < seen + 9 and process.poll() is None:
                    time.sleep(0.005)
                process.kill()
            seen = server.stats()["requests"]
            assert seen <= most
        done = run_cli(config, f"limits.max_requests={most}")
        seen = server.stats()["requests"]
        assert done.returncode == 4
        assert "in flight when it was killed are counted at their most" in done.stderr
        # In flight are 8; room for as many again may have been reserved ahead.
        assert most - kills * 16 <= seen <= most


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '{"spent": {}, "held": {}}',
        '{"spent": {"requests": 1, "tokens": 2, "usd": 3}}',
        '{"spent": {"requests": "1", "tokens": 2, "usd": 3}, "held": {"requests": 0, "tokens": 0, "usd": 0}}',
        '{"spent": {"requests": NaN, "tokens": 2, "usd": 3}, "held": {"requests": 0, "tokens": 0, "usd": 0}}',
        '{"spent": {"requests": -1, "tokens": 2, "usd": 3}, "held": {"requests": 0, "tokens": 0, "usd": 0}}',
        '{"spent": {"requests": 1, "tokens": 2, "usd": 3, "eur": 4}, "held": {"requests": 0, "tokens": 0, "usd": 0}}',
        "[" * 100_000,
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_named(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    path.write_bytes(damaged.encode("latin-1"))
    with pytest.raises(DataError, match=r"spent\.json: what this run has spent cannot be read .*\nWrite what you know"):
        Budget(Amount(10, 10, 10), path)


def test_what_was_spent_is_known_to_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    first = Budget(Amount(10, 1000, 1), path)
    assert first.reserve(Amount(1, 400, 0.25))
    first.settle(Amount(1, 400, 0.25), Amount(1, 100, 0.125))
    assert first.reserve(Amount(1, 400, 0.25))
    killed = Budget(Amount(10, 1000, 1), path)  # as it is on the disk, with one in flight
    assert (2, 500, 0.375) <= killed.spent <= (10, 1000, 1)
    first.settle(Amount(1, 400, 0.25), Amount(1, 100, 0.125))
    first.save()
    assert Budget(Amount(10, 1000, 1), path).spent == Amount(2, 200, 0.25)


def test_a_request_waits_for_what_is_held_and_ends_where_it_is_spent() -> None:
    budget = Budget(Amount(10, 100, 10))
    assert budget.reserve(Amount(1, 60, 0))
    assert not budget.reserve(Amount(1, 60, 0))
    budget.settle(Amount(1, 60, 0), Amount(1, 20, 0))
    assert budget.reserve(Amount(1, 60, 0))
    budget.settle(Amount(1, 60, 0), Amount(1, 60, 0))
    with pytest.raises(
        BudgetReached, match=r"limits\.max_tokens=100 is reached: 80 spent, and the next question may take 60"
    ):
        budget.reserve(Amount(1, 60, 0))


def test_a_server_that_bills_more_than_was_reserved_is_on_the_disk_at_once(tmp_path: Path) -> None:
    budget = Budget(Amount(10, 1000, 1), tmp_path / "spent.json")
    assert budget.reserve(Amount(1, 10, 0))
    budget.settle(Amount(1, 10, 0), Amount(1, 900, 0))
    assert Budget(Amount(10, 1000, 1), tmp_path / "spent.json").spent.tokens >= 900


def test_tokens_that_are_not_told_count_at_their_most_and_that_is_said_once(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = Budget(Amount(1e9, 10_000, 1e9))
    with bad_server("--no-usage") as server:
        with pytest.raises(BudgetReached):
            buy(server, store, budget)
        assert server.stats()["tokens"] < budget.spent.tokens <= 10_000
    assert capsys.readouterr().err.count("the server does not say how many tokens it used: each request") == 1


def test_without_a_limit_nothing_is_held_back() -> None:
    budget = Budget()
    assert all(budget.reserve(Amount(1, 1e6, 1e3)) for _ in range(1000))
    assert budget.most == ENDLESS


def test_what_never_left_costs_nothing(tmp_path: Path) -> None:
    budget = Budget(Amount(100, 10**6, 1), tmp_path / "spent.json")
    backend = OpenAIBackend("m", "http://127.0.0.1:1/v1", budget=budget)
    with pytest.raises(BackendError, match="no server answers"):
        list(backend.generate(iter([Request(("Q",), SamplingParams(8)) for _ in range(40)])))
    assert budget.spent == budget.held == NOTHING
