"""What doctor finds: with a real server and with a dead one, and never an exception."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from cotdistill import doctor
from cotdistill.config import Config
from cotdistill.doctor import Check, checks
from servers import Server, start_server

KEY = "sk-canary-0123456789"


@pytest.fixture(autouse=True)
def _no_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # It loads torch in another process: seconds that each test would pay.
    monkeypatch.setattr(doctor, "compute", lambda: Check("torch", True, "CPU"))
    monkeypatch.setenv("COTDISTILL_CACHE", str(tmp_path / "cache"))


def config(tmp_path: Path, **teacher: object) -> Config:
    values = {"runs": tmp_path / "runs", "task": {"train": 10, "test": 5}, "teacher": {"model": "fake", **teacher}}
    return Config.model_validate(values)


def found(config: Config) -> dict[str, Check]:
    done = list(checks(config))
    assert all(KEY not in f"{check}" for check in done)
    assert all(check.fix and "\n" not in check.found + check.fix for check in done if not check.ok)
    return {check.name: check for check in done}


def test_a_live_teacher_is_asked_seven_times(tmp_path: Path, server: Server) -> None:
    before = server.stats()["requests"]
    seen = found(config(tmp_path, base_url=server.base_url, api_key=KEY))
    assert [check for check in seen.values() if not check.ok and check.name not in ("memory", "train extra")] == []
    assert "an OpenAI-compatible server, 200 OK in " in seen["teacher"].found
    assert seen["task"].found == "word_problems: 10 train and 5 test questions, number"
    assert "aiohttp" in seen["packages"].found
    assert server.stats()["requests"] == before + 7


def test_each_of_several_teachers_is_looked_at(tmp_path: Path, server: Server) -> None:
    both = config(tmp_path, base_url=server.base_url, mode="batch").model_dump()
    both["teachers"] = [{"model": "one"}, {"model": "two", "base_url": "http://127.0.0.1:1/v1"}]
    seen = found(Config.model_validate(both))
    assert "200 OK" in seen["teacher one"].found
    assert "no server answers" in seen["teacher two"].found


def test_a_dead_port_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as held:  # bound and not listening: refused, and nobody else's
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/v1"
        check = found(config(tmp_path, base_url=url, api_key=KEY))["teacher"]
    assert not check.ok
    assert "no server answers" in check.found
    assert check.fix == "Start it, or set teacher.base_url."


@pytest.mark.parametrize(
    ("flags", "teacher", "found_end", "fix_start"),
    [
        ("--server ollama --ignore n", {}, "; ignores n: each sample is a request of its own", ""),
        ("--server llamacpp", {}, "; n up to 4, its slots", ""),
        ("--refuse seed", {}, "; refuses seed: its samples are stored, but cannot be drawn again", ""),
        ("--refuse max_tokens", {}, "; refuses max_tokens: it is asked with max_completion_tokens", ""),
        (
            "--server vllm --models qwen3-32b --fail-rate 1 --status 404",
            {"model": "qwen3_32b"},
            "HTTP 404: something went wrong",
            "teacher.model: vLLM has no 'qwen3_32b'. Did you mean 'qwen3-32b'?",
        ),
        (
            "--server vllm --models fake --fail-rate 1 --status 404",
            {},
            "HTTP 404: something went wrong",
            "Check teacher",
        ),
        ("--models fake --require-key x", {}, "Incorrect API key provided: [key] [31m", "Check teacher.api_key"),
    ],
)
def test_what_a_server_does_not_do(
    tmp_path: Path, flags: str, teacher: dict[str, object], found_end: str, fix_start: str
) -> None:
    with start_server(*flags.split()) as server:
        check = found(config(tmp_path, base_url=server.base_url, api_key=KEY, **teacher))["teacher"]
    assert check.ok == (not fix_start)
    assert check.found.endswith(found_end)
    assert check.fix.startswith(fix_start)


def test_each_failure_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not.sqlite").write_text("hello " * 100)
    (tmp_path / "empty").mkdir()
    values = {
        "runs": tmp_path / "runs",
        "task": {"name": "wrod_problems"},
        "teacher": {"backend": "recorded", "store": tmp_path / "not.sqlite"},
        "student": {"model": str(tmp_path / "empty")},
    }
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    seen = found(Config.model_validate(values))
    bad = {name for name, check in seen.items() if not check.ok} - {"memory", "train extra"}
    assert bad == {"task", "teacher", "student", "disk for runs", "disk for the cache"}
    assert "word_problems" in seen["task"].found
    assert "1.0 GB free" in seen["disk for runs"].found


def test_the_embedded_default_needs_no_network(tmp_path: Path) -> None:
    seen = found(config(tmp_path, backend="recorded", model=""))
    assert seen["teacher"].ok
    assert "fetches from PyPI" in seen["student"].found
    assert not (tmp_path / "runs").exists()


def test_missing_and_old_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["aiohttp>=99.1", "nosuch>=1; extra == 'train'"])
    check = doctor.packages("packages", "", "pip install --upgrade cotdistill")
    assert not check.ok
    assert check.found.startswith("aiohttp is ")
    assert check.found.endswith("99.1 is needed")
    assert doctor.packages("train extra", "train", "x").found == "nosuch is missing"
