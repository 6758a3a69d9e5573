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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cotdistill.config import Config, load_quickstart
from cotdistill.doctor import checks
from cotdistill.errors import BackendError, BudgetReached, ConfigError
from cotdistill.parts import Parts, copy
from cotdistill.pipeline import run
from cotdistill.runs import open_run
from cotdistill.store import Store
from cotdistill.students.train import trained_facts
from cotdistill.verify import verify
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
def cluster(bucket: str) -> Iterator[Any]:
    """Two nodes, of one processor each, that know the bucket."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": MEMORY}
    quickly = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    quickly["worker_niceness"] = 0  # else, on a busy machine, workers take minutes to import torch
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
        "evaluate.methods": ["fine_tune_cot"],
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
        assert_same(one, many, *CURATED, "predictions/fine_tune_cot-0.jsonl")
        assert "error" in {json.loads(line)["finish_reason"] for line in lines(one, "generations.jsonl")}
        spent = [json.loads((config.folder / "spent.json").read_text()) for config in (one, many)]
        assert spent[0] == spent[1]
    of_one, of_many = (without_times(json.loads((c.folder / "result.json").read_text())) for c in (one, many))
    assert of_one == of_many
    checks = {check.name: check for check in verify(many.folder)}
    assert {check.state for check in checks.values()} <= {"ok", "not checked"}, checks
    assert "store.parts" in checks["generations.jsonl"].found
    left = [*many.folder.rglob("*"), *(Path("/tmp/ray") / "session_latest").rglob("*")]  # noqa: S108 - Ray's own
    files = [path for path in left if path.is_file()]
    assert any(path.name.startswith("ray-data") for path in files)
    assert not [path for path in files if CANARY.encode() in path.read_bytes()]
    assert not list(many.folder.glob(".ray*"))


@pytest.fixture(scope="module")
def expected(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Counter[str]]:
    """The run of one process whose server never fails, and how often it asked each prompt."""
    with start_server("--wrong-rate", "0.3") as server:
        config = here(server, questions, tmp_path_factory.mktemp("expected"))
        run(config, "curate")
        return config, Counter(server.stats()["prompts"])


@contextmanager
def driver(config: Config, command: str = "generate") -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own."""
    path = config.runs / "config.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(config.to_yaml())
    words = [sys.executable, "-m", "cotdistill", command, str(path)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_requests(server: Server, n: int) -> None:
    until = time.monotonic() + 120
    while server.stats()["requests"] < n:
        assert time.monotonic() < until
        time.sleep(0.05)


def kill_worker(title: str = "MapBatches(Asker)") -> None:
    """As the kernel does where memory runs out: one of this cluster, for another may be tested beside it."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended by itself
            if title in " ".join(process.cmdline()):
                process.kill()
                return
    raise AssertionError("no worker is there")


def end(process: subprocess.Popen[str], code: int) -> str:
    _, said = process.communicate(timeout=180)
    assert process.returncode == code, said
    return said


def assert_accounts(config: Config, server: Server, most: int) -> None:
    """What the run says that it spent is no less than what the server saw, and no more than the limit."""
    spent = json.loads((config.folder / "spent.json").read_text())
    assert server.stats()["requests"] <= spent["spent"]["requests"] <= most
    assert spent["held"]["requests"] == 0


SLOW = ("--wrong-rate", "0.3", "--latency", "0.3")
SMALL = {"limits.concurrency": 6, "limits.max_requests": 1000, "cluster.workers": 3, "limits.timeout": 5}
LOST = 4  # requests of one worker: two in flight, and those that came since the last part


def assert_bought_again(config: Config, server: Server, expected: tuple[Config, Counter[str]], most: int) -> None:
    """The run is as if nothing had died, and no more than `most` of it was asked again."""
    asked = Counter(server.stats()["prompts"])
    assert_accounts(config, server, 1000)
    assert_same(expected[0], config, "generations.jsonl")
    assert asked.keys() == expected[1].keys()
    again = (asked - expected[1]).total()
    print(f"bought again: {again} of {expected[1].total()}")
    assert again <= most


def test_a_worker_and_a_node_die(
    cluster: Any, questions: Path, tmp_path: Path, expected: tuple[Config, Counter[str]]
) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    with start_server(*SLOW) as server:
        config = there(cluster, server, questions, tmp_path, **SMALL)
        with driver(config) as process:
            wait_for_requests(server, 15)
            kill_worker()
            wait_for_requests(server, 60)
            cluster.remove_node(node, allow_graceful=False)
            end(process, 0)
        assert_bought_again(config, server, expected, 2 * LOST)


def test_the_driver_dies_and_is_started_again(
    cluster: Any, questions: Path, tmp_path: Path, expected: tuple[Config, Counter[str]]
) -> None:
    with start_server(*SLOW) as server:
        config = there(cluster, server, questions, tmp_path, **{**SMALL, "cluster.workers": 2})
        with driver(config) as process:
            wait_for_requests(server, 40)
            process.kill()
        before = server.stats()["requests"]
        saved = json.loads((config.folder / "spent.json").read_text())
        assert before <= saved["spent"]["requests"] + saved["held"]["requests"]
        with driver(config) as process:
            end(process, 0)
        assert_bought_again(config, server, expected, 2 * (LOST + 1))


def test_ctrl_c_loses_nothing(
    cluster: Any, questions: Path, tmp_path: Path, expected: tuple[Config, Counter[str]]
) -> None:
    with start_server(*SLOW) as server:
        config = there(cluster, server, questions, tmp_path, **{**SMALL, "cluster.workers": 2})
        with driver(config) as process:
            wait_for_requests(server, 40)
            process.send_signal(signal.SIGINT)
            said = end(process, 130)
        assert "interrupted. All that was answered is stored; the same command resumes." in said
        assert "Traceback" not in said
        with driver(config) as process:
            end(process, 0)
        assert Counter(server.stats()["prompts"]) == expected[1]
        assert_accounts(config, server, expected[1].total())
    assert_same(expected[0], config, "generations.jsonl")


def test_a_limit_holds_for_all_workers_together(cluster: Any, questions: Path, tmp_path: Path) -> None:
    with start_server("--wrong-rate", "0.3", "--latency", "0.05") as server:
        limits: dict[str, object] = {"limits.max_requests": 50, "limits.concurrency": 8, "limits.timeout": 5}
        with pytest.raises(BudgetReached, match=r"limits.max_requests=50 is reached: \d+ spent, .* may take \d"):
            run(there(cluster, server, questions, tmp_path, **limits), "generate")
        assert 40 <= server.stats()["requests"] <= 50
        limits |= {"limits.max_requests": 80, "limits.reached": "go_on"}
        config = there(cluster, server, questions, tmp_path, **limits)
        run(config, "curate")
        assert 70 <= server.stats()["requests"] <= 80
        assert_accounts(config, server, 80)
        assert max(server.stats()["prompts"].values()) == 1
        ledger = json.loads((config.folder / "ledger.json").read_text())
        assert 0 < ledger["kept"] <= ledger["asked"] == len(lines(config, "generations.jsonl")) < 126


def test_a_store_in_a_bucket_and_a_file_are_one(cluster: Any, questions: Path, tmp_path: Path, bucket: str) -> None:
    more: dict[str, object] = {
        "teachers": [{"model": "a", "until": 2}, {"model": "b", "samples": 2}],
        "curate.total": 50,
        "teacher.temperature": 1.0,
    }
    with start_server("--wrong-rate", "0.3") as server:
        one = here(server, questions, tmp_path / "one", **more)
        run(one, "curate")
    with start_server("--wrong-rate", "0.3") as server:
        many = there(cluster, server, questions, tmp_path, **more, **{"cluster.store": f"{bucket}/first"})
        run(many, "curate")
        assert_same(one, many, *CURATED)
        asked = server.stats()["prompts"]
        with Store(tmp_path / "back.sqlite") as store:
            assert copy(Parts(f"{bucket}/first", 0), store) == len(store) > 200
        back = here(server, questions, tmp_path / "back", store=str(tmp_path / "back.sqlite"), **more)
        run(back, "curate")
        assert server.stats()["prompts"] == asked


def test_what_one_machine_bought_is_not_bought_again(
    cluster: Any, questions: Path, tmp_path: Path, expected: tuple[Config, Counter[str]]
) -> None:
    with start_server("--wrong-rate", "0.3") as server:
        one = here(server, questions, tmp_path)
        run(one, "curate")
        with Store(one.store_path) as store:
            copy(store, Parts(str(tmp_path / "store.parts"), 8))
        many = there(cluster, server, questions, tmp_path)
        run(many, "curate")
        assert Counter(server.stats()["prompts"]) == expected[1]
        assert_same(one, many, *CURATED)


def test_a_second_run_and_a_dead_server_are_named(
    cluster: Any, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from cotdistill.cluster import open_cluster

    with start_server() as server:
        config = there(cluster, server, questions, tmp_path)
    with pytest.raises(BackendError, match="no server answers"):
        run(config, "generate")
    assert config.cluster is not None
    monkeypatch.setattr("cotdistill.cluster.FREE_SECONDS", 1)
    ray.init(cluster.address, namespace="cotdistill", log_to_driver=False)
    try:
        with open_run(config) as this, open_cluster(this, config.cluster) as one:
            one.ray.get(one.office.news.remote())
            again = there(cluster, server, questions, tmp_path, name="again")
            with pytest.raises(ConfigError, match="another run of this cluster is buying into this store"):
                run(again, "generate")
    finally:
        ray.shutdown()


def test_doctor_looks_at_the_machines_and_the_store(cluster: Any, questions: Path, tmp_path: Path, bucket: str) -> None:
    with start_server() as server:
        good = there(cluster, server, questions, tmp_path, **{"cluster.store": f"{bucket}/doctor"})
        dead = there(cluster, server, questions, tmp_path, **{"cluster.address": "127.0.0.1:9"})
        (ok,) = (check for check in checks(good) if check.name == "cluster")
        (bad,) = (check for check in checks(dead) if check.name == "cluster")
    assert ok.ok
    assert ok.found == f"2 machines, 2 processors, 0 GPUs; no store of parts yet in {bucket}/doctor"
    assert not bad.ok
    assert "no Ray cluster can be reached" in bad.found


def test_two_workers_train_the_student_of_one(cluster: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    more = {
        "runs": str(tmp_path),
        "task.train": 20,
        "task.test": 6,
        "teacher.samples": 2,
        "student.model": str(tiny_model(tmp_path / "tiny", positions=2048)),
        "student.max_length": 0,
        "student.steps": 8,
        "student.batch_size": 4,
        "student.learning_rate": 1e-3,
        "student.dev_fraction": 0.2,
        "evaluate.max_tokens": 8,
        "evaluate.methods": ["fine_tune"],
    }
    one = run(load_quickstart({**more, "name": "one"}), "train")
    together = {"cluster.address": cluster.address, "cluster.train_workers": 2}
    many = run(load_quickstart({**more, **together, "name": "many"}), "train")
    assert trained_facts(many.students["fine_tune-0"])["steps"] == 8
    weights = [load_file(this.students["fine_tune-0"] / "model.safetensors") for this in (one, many)]
    apart = max(float((a - weights[1][name]).abs().max()) for name, a in weights[0].items())
    assert 0 < apart <= 1e-3, "in bf16, where the processor has it"
    assert {p.name for p in one.folder.rglob("*")} == {p.name for p in many.folder.rglob("*")}
    (saved,) = many.folder.rglob("model.safetensors")
    before = saved.stat().st_mtime_ns
    run(load_quickstart({**more, **together, "name": "many"}), "train")
    assert saved.stat().st_mtime_ns == before, "trained again"
    with pytest.raises(ConfigError, match="3 examples a step cannot be shared by 2 processes"):
        run(load_quickstart({**more, **together, "name": "odd", "student.batch_size": 3}), "train")


def test_a_training_process_dies_and_all_go_on(cluster: Any, tmp_path: Path) -> None:
    config = load_quickstart(
        {
            "runs": str(tmp_path),
            "task.train": 20,
            "task.test": 6,
            "student.model": str(tiny_model(tmp_path / "tiny", positions=2048)),
            "student.max_length": 0,
            "student.steps": 30,
            "student.batch_size": 4,
            "student.checkpoint_minutes": 1e-9,
            "evaluate.methods": ["fine_tune"],
            "cluster.address": cluster.address,
            "cluster.train_workers": 2,
        }
    )
    student = config.folder / "student" / "fine_tune-0"
    with driver(config, "train") as process:
        until = time.monotonic() + 300
        while not list(student.with_name("fine_tune-0.unfinished").glob("checkpoint-*/whole.json")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        kill_worker("RayTrainWorker")
        said = end(process, 0)
    assert "fine_tune-0: goes on from" in said
    assert trained_facts(student)["steps"] == 30
