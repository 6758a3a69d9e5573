"""A run on several machines: a real Ray cluster of three nodes on this one, a real server, real deaths."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cotdistill.config import Config, load_quickstart
from cotdistill.errors import BackendError, BudgetReached, ConfigError
from cotdistill.parts import Parts, copy
from cotdistill.pipeline import run
from cotdistill.store import Store
from servers import Server, start_server
from tiny import tiny_model

pytestmark = [
    pytest.mark.slow,
    # Ray closes its own sockets, files and processes when it is collected.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::DeprecationWarning",  # of settings that it makes itself
    ),
]
CANARY = "sk-canary-in-the-coal-mine"
MEMORY = 80 * 2**20  # bytes, of each node's object store
QUESTIONS = 60


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, of one processor each."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    quickly = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    made = Cluster(initialize_head=True, head_node_args={**node, "_system_config": quickly})
    made.add_node(**node)
    try:
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "questions.jsonl"
    lines = [{"question": f"What is {i} plus 7?", "answer": i + 7} for i in range(QUESTIONS)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings(server: Server, questions: Path, runs: Path, **more: object) -> dict[str, object]:
    return {
        "runs": str(runs),
        "name": "many",
        "task.data": str(questions),
        "task.answer_type": "number",
        "teacher.backend": "openai",
        "teacher.model": "fake",
        "teacher.base_url": server.base_url,
        "teacher.api": "completions",
        "teacher.samples": 3,
        **more,
    }


def here(server: Server, questions: Path, runs: Path, **more: object) -> Config:
    """The run of one process."""
    return load_quickstart(settings(server, questions, runs, name="one", **more))


def there(cluster: Any, server: Server, questions: Path, runs: Path, **more: object) -> Config:
    """The same in the cluster."""
    section = {"cluster.address": cluster.address, "cluster.shards": 8}
    return load_quickstart(settings(server, questions, runs, **{**section, **more}))


def lines(config: Config, name: str) -> list[str]:
    return (config.folder / name).read_text().splitlines()


def assert_same(one: Config, many: Config, *names: str) -> None:
    for name in names:
        assert lines(one, name) == lines(many, name), name


CURATED = ("generations.jsonl", "pairs.jsonl", "ledger.json")
FAULTY = ("--wrong-rate", "0.3", "--fail-rate", "0.05", "--status", "400")


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    for one in result["results"]:
        one["seconds"] = None
    return {**result, "costs": None}


def test_the_whole_run_is_that_of_one_process(
    cluster: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", CANARY)
    more = {
        "teacher.api_key": "${TEACHER_KEY}",
        "student.model": str(tiny_model(tmp_path / "tiny", positions=2048)),
        "student.steps": 2,
        "student.max_length": 0,
        "evaluate.max_tokens": 8,
        "evaluate.methods": ["zero_shot_cot", "fine_tune_cot"],
        "evaluate.batch_size": 2,
    }
    with start_server(*FAULTY, "--require-key", CANARY) as server:
        one = here(server, questions, tmp_path / "runs", store=str(tmp_path / "one.sqlite"), **more)
        run(one)
        asked = server.stats()["prompts"]
    with start_server(*FAULTY, "--require-key", CANARY) as server:
        many = there(cluster, server, questions, tmp_path / "runs", **more)
        run(many)
        assert server.stats()["prompts"] == asked
        assert_same(one, many, *CURATED, "predictions/zero_shot_cot.jsonl", "predictions/fine_tune_cot-0.jsonl")
        assert "error" in {json.loads(line)["finish_reason"] for line in lines(one, "generations.jsonl")}
        spent = [json.loads((config.folder / "spent.json").read_text()) for config in (one, many)]
        assert spent[0] == spent[1]
    of_one, of_many = (without_times(json.loads((c.folder / "result.json").read_text())) for c in (one, many))
    assert of_one == of_many
    left = [*many.folder.rglob("*"), *(Path("/tmp/ray") / "session_latest").rglob("*")]  # noqa: S108 - Ray's own
    files = [path for path in left if path.is_file()]
    assert any(path.name.startswith("ray-data") for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert not list(many.folder.glob(".ray*"))
