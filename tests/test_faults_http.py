"""The faults of servers and networks, by the number of their row; real processes on loopback."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from asking import ask as ask_backend
from cotdistill.backends.batch import BatchBackend
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.probe import probe
from cotdistill.budget import Budget
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError, ConfigError, CotdistillError
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question
from cotdistill.store import Store
from servers import Server, start_server

SAMPLED = SamplingParams(32, temperature=0.7)
KEY = "sk-canary-0123456789"
pytestmark = pytest.mark.usefixtures("no_thread_is_left")
DIRECT = METHODS["zero_shot"]  # one request a question


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as store:
        yield store


def bad_server(*flags: str, host: str = "127.0.0.1") -> AbstractContextManager[Server]:
    return start_server("--host", host, *flags, program="bad_server.py", host=host)


def questions(n: int) -> list[Question]:
    return [Question(str(i), f"What is {i} plus 7?", str(i + 7)) for i in range(n)]


def requests(n: int, samples: tuple[int, ...] = (0,), params: SamplingParams = SAMPLED) -> list[Request]:
    return [Request((f"Q: What is {i} plus 7?\nA:",), params, samples) for i in range(n)]


def backend_of(server: Server, **options: Any) -> OpenAIBackend:
    """`options` of the backend, and those of its limits."""
    limits = {name: options.pop(name) for name in list(options) if name in LimitsConfig.model_fields}
    return OpenAIBackend("fake", server.base_url, limits=LimitsConfig.model_validate(limits), **options)


def ask(server: Server, asked: Sequence[Request], **options: Any) -> list[Completion]:
    return ask_backend(backend_of(server, **options), asked)


def ask_stored(server: Server, n: int, store: Store, samples: int = 1, **options: Any) -> list[Generation]:
    backend = backend_of(server, **options)
    return list(generate(questions(n), backend, DIRECT, store, n=samples, temperature=0.7))


def right(i: int) -> str:
    return f" {i} plus 7 is {i} + 7 = {i + 7}."


def failures(store: Store) -> list[tuple[str, bytes]]:
    with sqlite3.connect(store.path) as db:
        return db.execute("SELECT error, reply FROM failures ORDER BY sample").fetchall()


# What is said of the peers in the table of faults, and what must hold here: all rows usable, no request in vain.
PEER_TABLE = {
    "429 with Retry-After, 10%": (("status:0.1", "--status", "429 Busy", "--retry-after", "1"), {}, 1.0),
    "500, 20%": (("status:0.2",), {}, 0.0),
    "truncated JSON, 5%": (("truncated:0.05",), {}, 0.0),
    "wrong schema, 5%": (("schema:0.05",), {}, 0.0),
    "empty completion, 5%": (("empty:0.05",), {}, 0.0),
    "silence, 2%": (("hang:0.02",), {"timeout": 1}, 1.0),
    "slow drip, 2%": (("drip:0.02",), {"timeout": 1}, 1.0),
}


@pytest.fixture(scope="module")
def fault_free(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds for the 300 requests of the table."""
    path = tmp_path_factory.mktemp("undisturbed") / "store.sqlite"
    with bad_server("--latency", "0.01") as server, Store(path) as undisturbed:
        start = time.monotonic()
        ask_stored(server, 300, undisturbed)
        return time.monotonic() - start


@pytest.mark.parametrize("row", PEER_TABLE)
def test_peer_table(row: str, store: Store, fault_free: float) -> None:
    flags, limits, longest = PEER_TABLE[row]
    with bad_server("--latency", "0.01", "--fault", *flags) as server:
        start = time.monotonic()
        found = ask_stored(server, 300, store, **limits)
        seconds = time.monotonic() - start
        stats = server.stats()
    assert [g.text for g in found] == [right(i) for i in range(300)]
    assert {g.finish_reason for g in found} == {"stop"}
    faulty = sum(stats["faults"].values())
    assert faulty > 0
    assert stats["requests"] <= 300 + faulty
    assert len(store) == 300
    assert failures(store) == []
    assert seconds < 2 * fault_free + longest + 15  # no benchmark: the machine may be busy


def test_peer_table_length_is_told_and_never_taken_as_whole(store: Store) -> None:
    with bad_server("--fault", "length:0.2") as server:
        found = ask_stored(server, 100, store)
        cut = server.stats()["faults"]["length"]
        assert server.stats()["requests"] == 100
    assert [g.finish_reason for g in found].count("length") == cut > 0
    assert all((g.text == right(i)) == (g.finish_reason == "stop") for i, g in enumerate(found))


# The command line, in a process of its own.


def configure(folder: Path, base_url: str, n: int = 200, **teacher: Any) -> Path:
    """A config of `n` questions of one sample each, in `folder`; the key is the environment's."""
    rows = [{"question": q.text, "answer": q.answer} for q in questions(n)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "r",
        "runs": str(folder / "runs"),
        "task": {"data": str(folder / "data.jsonl"), "answer_type": "number", "test": 1, "test_fraction": 0.01},
        "teacher": {
            "model": "fake",
            "base_url": base_url,
            "api_key": "${CANARY}",
            "style": "one_step",
            "samples": 1,
            **teacher,
        },
        "evaluate": {"methods": ["fine_tune_cot"]},
    }
    (folder / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    return folder / "run.yaml"


def command(config: Path, *words: str) -> list[str]:
    debug = [word for word in words if word == "--debug"]
    return [sys.executable, "-m", "cotdistill", *debug, "generate", str(config), *(w for w in words if w != "--debug")]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**clean, "CANARY": KEY, **more}


def run_cli(config: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(config, *words), env=environment(**env), capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("401 Unauthorized", "HTTP 401: [key] is wrong\nCheck teacher.api_key."),
        pytest.param(
            "403 Forbidden",
            "HTTP 403: [key] is wrong\nCheck teacher.api_key, and what it may use.",
            marks=pytest.mark.slow,
        ),
        ("404 Not Found", "HTTP 404: [key] is wrong\nCheck teacher.base_url (it should end in /v1) and teacher.model."),
        ("400 Bad", "HTTP 400: [key] is wrong\nNo request was accepted. Check the teacher section of the config."),
        pytest.param(
            "402 Pay",
            "HTTP 402: [key] is wrong\nCheck the credit of the account behind teacher.api_key.",
            marks=pytest.mark.slow,
        ),
        ("307 Elsewhere", "the server redirects to http://127.0.0.1:1/[key]"),
    ],
)
def test_f4_what_no_request_can_pass_ends_the_run_at_once(status: str, said: str, tmp_path: Path) -> None:
    flags = ("--fault", "status", "--status", status, "--message", f"{KEY} is wrong", "--latency", "0.05")
    with bad_server(*flags, "--location", f"http://127.0.0.1:1/{KEY}") as server:
        config = configure(tmp_path, server.base_url)
        done = run_cli(config)
        assert server.stats()["requests"] <= 3
    assert (done.returncode, done.stdout) == (5, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert KEY not in done.stderr


def test_f4_a_refusal_of_several_samples_at_once_is_told_from_one_of_everything() -> None:
    with bad_server("--fault", "status", "--status", "400 Bad", "--latency", "0.05") as server:
        with pytest.raises(BackendError, match="No request was accepted"):
            ask(server, requests(50, (0, 1, 2, 3)))
        assert server.stats()["requests"] <= 4
    with bad_server("--fault", "no_n", "--latency", "0.05") as server:
        found = ask(server, requests(50, (0, 1, 2, 3)))
        assert {c.finish_reason for c in found} == {"stop"}
        assert server.stats()["requests"] <= 200 + 3


def test_f4_one_refused_prompt_does_not_end_several_samples_for_the_others() -> None:
    with bad_server("--fault", "status:0.05", "--status", "400 Bad", "--good-first", "5") as server:
        found = ask(server, requests(100, (0, 1, 2, 3)))
        stats = server.stats()
    assert stats["requests"] == 100
    assert [c.finish_reason for c in found].count("error") == 4 * stats["faults"]["status"] > 0


def test_f4_prompts_that_are_refused_in_each_run_end_none(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """As those that are too long: the next verb of a run asks for nothing but them, and must go on all the same."""
    asked = [*questions(5), *(Question(f"long {i}", f"[status] {i}?", "1") for i in range(5))]
    with bad_server("--named", "--status", "400 Bad", "--message", "too long") as server:
        for times in (1, 2):
            found = list(generate(asked, backend_of(server), DIRECT, store))
            assert [g.finish_reason for g in found] == ["stop"] * 5 + ["error"] * 5
            assert server.stats()["requests"] == 5 + 5 * times
            said = " ".join(capsys.readouterr().err.split())
            assert "5 completions failed; the next run asks for them again. The first: HTTP 400: too long" in said
        with pytest.raises(BackendError, match="No request was accepted"):  # another setting has not been answered yet
            list(generate(asked[5:], backend_of(server), DIRECT, store, temperature=0.5))


def test_f4_a_model_that_refuses_temperature_0_is_told_before_all_first_prompts_are_paid(store: Store) -> None:
    with start_server("--refuse", "greedy", "--latency", "0.05") as server:
        backend = OpenAIBackend("fake", server.base_url, limits=LimitsConfig(concurrency=2))
        with pytest.raises(BackendError, match=r"No second prompt was accepted\. .*one_step"):
            generate(questions(200), backend, METHODS["zero_shot_cot"], store, temperature=0.7)
        assert server.stats()["requests"] < 100  # of 400


@pytest.mark.parametrize("fault", ["null", "status"])
def test_f4_a_model_that_never_answers_ends_the_run_before_all_is_paid(store: Store, fault: str) -> None:
    with bad_server("--fault", fault, "--good-first", "0") as server:
        with pytest.raises(BackendError, match="20 requests failed, and none was answered"):
            ask_stored(server, 300, store, retries=0)
        assert server.stats()["requests"] < 100
    with bad_server("--fault", fault, "--good-first", "1") as server:  # one that does answers for the rest
        found = ask_stored(server, 40, store, retries=0)
        assert [g.finish_reason for g in found].count("error") == 39


@pytest.mark.parametrize("status", ["408 Slow", "502 Bad", "503 Busy", "529 Busy"])
def test_f4_what_passes_is_tried_again(status: str) -> None:
    with bad_server("--fault", "status:0.2", "--status", status) as server:
        found = ask(server, requests(40))
        stats = server.stats()
    assert [c.text for c in found] == [right(i) for i in range(40)]
    assert stats["requests"] == 40 + stats["faults"]["status"]


@pytest.mark.parametrize(
    ("value", "least"),
    [("1", 1.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("-5", 0.0), ("nan", 0.0), ("soon", 0.0)],
)
def test_f4_retry_after_is_kept_where_it_makes_sense(value: str, least: float) -> None:
    with bad_server("--fault", "status:0.1", "--status", "429 Busy", "--retry-after", value) as server:
        start = time.monotonic()
        found = ask(server, requests(30))
        seconds = time.monotonic() - start
        assert server.stats()["faults"]["status"] > 0
    assert [c.text for c in found] == [right(i) for i in range(30)]
    assert least <= seconds < least + 15


@pytest.mark.parametrize("value", ["1e9", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_f4_an_absurd_retry_after_holds_back_no_other_request(value: str) -> None:
    with bad_server("--fault", "status:0.1", "--status", "429 Busy", "--retry-after", value) as server:
        stream = backend_of(server, concurrency=8).generate(iter(requests(100)))
        start = time.monotonic()
        seen = list(itertools.islice(stream, 85))
        stream.close()
    assert time.monotonic() - start < 20
    assert {completion.finish_reason for *_, completion in seen} == {"stop"}


@pytest.mark.slow
def test_f4_an_absurd_retry_after_is_capped() -> None:
    with bad_server("--fault", "status:0.3", "--status", "429 Busy", "--retry-after", "1e9") as server:
        start = time.monotonic()
        found = ask(server, requests(8))
        assert 60 <= time.monotonic() - start < 200
    assert {c.finish_reason for c in found} == {"stop"}


@pytest.mark.parametrize("concurrency", [pytest.param(64, marks=pytest.mark.slow), None])
def test_f4_a_429_storm_ends_no_run_and_the_server_is_used(concurrency: int | None) -> None:
    """The share that is used takes a machine that has time for it: of three runs, one is enough.

    A bound for machines that are busy with other things: on a quiet one it is 0.6 and more.
    """
    rate, n, used = 100, 300, 0.0
    for _ in range(3):
        with bad_server("--rate-limit", str(rate), "--burst", "2", "--latency", "0.05") as server:
            found = ask(server, requests(n), concurrency=concurrency)
            stats = server.stats()
        assert {c.finish_reason for c in found} == {"stop"}
        assert stats["faults"]["busy"] > 10
        times = stats["times"]
        used = (n - 1 - rate) / (times[-1] - times[rate]) / rate  # after the first second
        print(f"a server of {rate} requests a second, concurrency {concurrency}: {used:.2f} of it used")
        if used >= 0.3:
            break
    assert used >= 0.3


# F5: what a server may send instead of an answer, and how much of it is taken.

MEMORY = """
import json, resource, sys
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Request, SamplingParams
from cotdistill.config import LimitsConfig
limits = LimitsConfig(timeout=float(sys.argv[2]), retries=0, concurrency=4)
backend = OpenAIBackend("fake", sys.argv[1], limits=limits)
asked = [Request((f"What is {i} plus 7?",), SamplingParams(32)) for i in range(int(sys.argv[3]))]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
import cotdistill.backends.flight
before = peak()
errors = sorted({completion.error for _, _, completion in backend.generate(iter(asked))})
print(json.dumps({"errors": errors, "megabytes": peak() - before}))
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("huge", "the reply is over 16 MB"),
        pytest.param("chunks", "the reply is over 16 MB", marks=pytest.mark.slow),
        ("bomb", "the reply is over 16 MB"),
        ("headers", "broken reply: "),
        pytest.param("header", "broken reply: ", marks=pytest.mark.slow),
        ("garbage", "broken reply: "),
        pytest.param("short_body", "broken reply: ", marks=pytest.mark.slow),
        ("drip", "no whole reply within 1 s"),
        ("hang", "no whole reply within 1 s"),
    ],
)
def test_f5_no_reply_takes_more_time_or_memory_than_it_may(fault: str, said: str) -> None:
    timeout, n = ("1", "4") if fault in ("drip", "hang") else ("30", "12")
    with bad_server("--fault", fault, "--good-first", "1") as server:
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, server.base_url, timeout, n], capture_output=True, text=True, check=True
        )
        assert time.monotonic() - start < 30
    found = json.loads(done.stdout)
    wanted = [error for error in found["errors"] if error]
    assert wanted
    assert all(error.startswith(said) for error in wanted)
    assert all(len(error) < 300 and error.isprintable() for error in wanted)
    assert found["megabytes"] < 4 * 16 * 2 + 50


def test_f5_no_redirect_is_followed_with_the_key() -> None:
    with (
        bad_server() as elsewhere,
        bad_server(
            "--fault", "status", "--status", "307 Go", "--location", elsewhere.base_url + "/chat/completions"
        ) as server,
    ):
        with pytest.raises(BackendError, match="redirects are not followed"):
            ask(server, requests(20), api_key=KEY)
        assert elsewhere.stats()["requests"] == 0
        assert server.stats()["keys"] == [f"Bearer {KEY}"]


# F6: replies of status 200 that hold no answer, or not the one that was asked for.


NO_ANSWER = {  # fault: what is said of it, and how often it is tried where it may be tried twice
    "truncated": ("the reply is not JSON", 2),
    "schema": ("the reply has no completion", 2),
    "no_message": ("the reply has no completion", 2),
    "list": ("the reply has no completion", 2),
    "empty": ("empty completion", 2),
    "null": ("empty completion", 2),
    "nan": ("the reply is not JSON", 2),
    "twice": ("the reply is not JSON: a key stands twice", 2),
    "choices_twice": ("the reply is not JSON: a key stands twice", 2),
    "surrogate": ("the reply is not JSON", 2),
    "not_utf8": ("the reply is not JSON", 2),
    "no_word": ("cut before its first word. Raise teacher.max_tokens", 1),
    "refusal": ("the model refuses: [31mI will not: [key]", 1),
    "filter": ("the server's content filter held the text back", 1),
}


def test_f6_what_is_no_answer_is_never_stored_as_one(store: Store) -> None:
    asked = [Question(fault, f"[{fault}] What is 1 plus 7?", "8") for fault in NO_ANSWER]
    with bad_server("--named", "--message", KEY) as server:
        found = generate([*questions(1), *asked], backend_of(server, retries=1, api_key=KEY), DIRECT, store)
        good, *failed = found
        tries = server.stats()["prompts"]
        port = server.port
    assert good.text == right(0)
    for question, generation in zip(asked, failed, strict=True):
        said, times = NO_ANSWER[question.id]
        assert (generation.text, generation.finish_reason) == ("", "error")
        assert said in generation.error
        assert tries[DIRECT.prompt(question)] == times
    assert len(store) == 1
    kept = failures(store)
    assert sorted(error for error, _ in kept) == sorted(generation.error for generation in failed)
    assert all(len(body) > 20 and KEY.encode() not in body for _, body in kept)
    with bad_server("--port", str(port)) as server:  # asked again by the next run, which forgets the failures
        again = list(generate(asked, backend_of(server), DIRECT, store))
    assert {generation.text for generation in again} == {right(1)}
    assert failures(store) == []


def test_f6_each_of_several_samples_is_its_own(store: Store) -> None:
    """Whatever their order; those left out are asked for again, and those too many are not taken."""
    with bad_server() as server:
        expected = ask_stored(server, 20, store, samples=4)
        assert server.stats()["requests"] == 20
    for i, fault in enumerate(("reversed:0.5", "more:0.5", "fewer:0.5")):
        with bad_server("--fault", fault) as server, Store(store.path.with_name(f"{i}.sqlite")) as another:
            found = ask_stored(server, 20, another, samples=4)
            assert len(another) == 80
            assert sum(server.stats()["faults"].values()) > 0
        assert [(g.text, g.finish_reason) for g in found] == [(g.text, g.finish_reason) for g in expected]
        assert not [g for g in found if "999" in g.text]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fewer", "the server gave 3 of 4 samples of a request: from now on one each."),
        ("more", "warning: the server gave 5 samples where 4 were asked for."),
    ],
)
def test_f6_another_number_of_choices_is_said_once(
    fault: str, said: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with bad_server("--fault", fault) as server:
        ask_stored(server, 20, store, samples=4)
    assert len(store) == 80
    assert capsys.readouterr().err.count(said) == 1


def test_f7_a_lost_reply_is_paid_twice_and_stored_once(store: Store) -> None:
    budget = Budget()
    with bad_server("--fault", "dropped:0.2", "--good-first", "3") as server:
        found = list(generate(questions(60), backend_of(server, budget=budget), DIRECT, store))
        stats = server.stats()
    lost = stats["faults"]["dropped"]
    assert lost > 0
    assert [g.text for g in found] == [right(i) for i in range(60)]
    assert len(store) == 60
    assert budget.spent.requests == stats["requests"] == 60 + lost
    assert budget.spent.tokens >= stats["tokens"]  # what a lost one cost is not known: counted at its most


def test_f22_a_model_that_changes_in_a_run_is_said_and_counted(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with bad_server("--change-after", "30") as server:
        backend = backend_of(server, concurrency=1)
        assert len(list(generate(questions(50), backend, DIRECT, store))) == 50
    said = capsys.readouterr().err
    assert said.count("warning: the server says that it is fake-2 now, and was fake-1.") == 1
    assert store.served(backend.identity) == {"fake-1": 30, "fake-2": 20}


def test_f22_another_model_or_prompt_is_asked_anew_beside_the_old_rows(store: Store) -> None:
    with bad_server() as server:
        for options in ({}, {"model": "other"}, {"system": "Be brief."}, {}):
            backend = OpenAIBackend(**{"model": "fake", "base_url": server.base_url, **options})  # type: ignore[arg-type]
            list(generate(questions(10), backend, DIRECT, store))
        list(generate(questions(10), backend, METHODS["fine_tune_cot"], store))
        assert server.stats()["requests"] == len(store) == 40
    assert len(store.models()) == 3


# F23: what the machine and the network lack.

FEW_FILES = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(int(sys.argv[3]))]
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.budget import Amount, Budget
from cotdistill.config import LimitsConfig
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question
from cotdistill.store import Store
folder = Path(sys.argv[2])
budget = Budget(Amount(5000, 1e9, 1e9), folder / "spent.json")
backend = OpenAIBackend("fake", sys.argv[1], limits=LimitsConfig(concurrency=256), budget=budget)
questions = [Question(str(i), f"What is {i} plus 7?", str(i + 7)) for i in range(600)]
with Store(folder / "store.sqlite") as store:
    found = list(generate(questions, backend, METHODS["zero_shot"], store))
assert [g.text for g in found] == [f" {i} plus 7 is {i} + 7 = {i + 7}." for i in range(600)]
print(budget.spent.requests)
"""


@pytest.mark.parametrize("held", [0, 18])
def test_f23_few_files_mean_fewer_requests_at_once(held: int, tmp_path: Path) -> None:
    """Also where so many are open already that the limit comes sooner than it was reckoned with."""
    with bad_server("--latency", "0.02") as server:
        done = subprocess.run(
            [sys.executable, "-c", FEW_FILES, server.base_url, str(tmp_path), str(held)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        stats = server.stats()
    assert done.returncode == 0, done.stderr
    assert stats["requests"] == 600
    assert 4 <= stats["most_at_once"] <= 45


@pytest.mark.slow
def test_f23_a_host_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    done = run_cli(configure(tmp_path, "https://no-such-host.invalid/v1"))
    assert done.returncode == 5
    assert "cotdistill: no server answers at https://no-such-host.invalid/v1/chat/completions" in done.stderr
    assert "Start it, or set teacher.base_url." in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert time.monotonic() - start < 30


def test_f23_a_server_that_has_only_ipv6_is_reached() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with bad_server(host="::1") as server:
        assert [c.text for c in ask(server, requests(5), api_key=KEY)] == [right(i) for i in range(5)]


def test_f23_a_proxy_is_never_asked_for_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with bad_server() as proxy, bad_server() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert len(ask(server, requests(5), api_key=KEY)) == 5
        assert proxy.stats()["requests"] == 0
        # Another host is asked through it; what a .netrc says is nobody's business.
        backend = OpenAIBackend("fake", "http://teacher.example/v1")
        assert [c.text for c in ask_backend(backend, requests(5))] == [right(i) for i in range(5)]
        seen = proxy.stats()
        assert (seen["requests"], seen["keys"]) == (5, [""])
        assert seen["paths"] == ["POST http://teacher.example/v1/chat/completions"]
        # So do the batch API and doctor's look at a server.
        batch = BatchBackend("fake", "http://teacher.example/v1", tmp_path / "b", limits=LimitsConfig(retries=0))
        with pytest.raises(BackendError):
            list(batch.generate(iter(requests(1))))
        probe("http://teacher.example/v1", "", "fake", "chat", timeout=5)
        seen = proxy.stats()
    assert seen["keys"] == [""]
    assert {path.split()[1].split("/v1")[0] for path in seen["paths"]} >= {"http://teacher.example"}
    assert len(seen["paths"]) > 2


@pytest.mark.parametrize(
    ("proxy", "error", "said"),
    [
        ("socks5://127.0.0.1:9", ConfigError, "HTTPS_PROXY: it is not the address of an HTTP proxy"),
        ("http://me:secret@not a host:1", ConfigError, "NO_PROXY=teacher.example"),
        ("127.0.0.1:9", BackendError, "asked through the proxy 127.0.0.1:9 of the environment"),  # as curl reads it
        ("http://me:secret@127.0.0.1:9", BackendError, "check that, or set NO_PROXY=teacher.example"),
    ],
)
def test_f23_a_proxy_that_cannot_be_used_is_named_and_nothing_counts_as_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxy: str, error: type[CotdistillError], said: str
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    budget = Budget(path=tmp_path / "spent.json")
    backend = OpenAIBackend("fake", "https://teacher.example/v1", limits=LimitsConfig(retries=0), budget=budget)
    with pytest.raises(error, match=said) as caught:
        ask_backend(backend, requests(3))
    assert "secret" not in str(caught.value)
    assert budget.spent.requests == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed one for 127.0.0.1, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(path)]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = path.with_suffix(".crt")
    subprocess.run([openssl, "req", "-x509", *key, *name, "-out", str(made)], check=True, capture_output=True)
    path.write_text(path.read_text() + made.read_text())
    return path


def test_f23_a_certificate_that_cannot_be_trusted_ends_the_run_at_once(certificate: Path, tmp_path: Path) -> None:
    with bad_server("--certificate", str(certificate)) as server:
        config = configure(tmp_path, server.base_url.replace("http:", "https:"))
        start = time.monotonic()
        done = run_cli(config)
        assert time.monotonic() - start < 20
        trusted = run_cli(config, SSL_CERT_FILE=str(certificate.with_suffix(".crt")))
    assert done.returncode == 5
    assert "certificate verify failed" in done.stderr
    assert "set SSL_CERT_FILE" in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert trusted.returncode == 0, trusted.stderr


def test_f23_https_to_a_server_without_is_said() -> None:
    with start_server() as server:
        backend = OpenAIBackend("fake", server.base_url.replace("http:", "https:"))
        with pytest.raises(BackendError, match=r"teacher\.base_url is right to say https"):
            ask_backend(backend, requests(5))


def test_f23_the_key_is_not_sent_in_the_clear_to_another_host(tmp_path: Path) -> None:
    done = run_cli(configure(tmp_path, "http://192.0.2.1/v1"))
    assert done.returncode == 5
    assert "an API key would cross the network unencrypted" in done.stderr


# F15: the key is in the environment, and nowhere else.


def everything(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (("--fault", "status", "--status", "401 No"), ("--debug",), 1),
        (("--fault", "status", "--status", "500 Oh"), ("limits.retries=0",), 0),
        (("--fault", "status", "--status", "307 Go", "--location", f"http://{KEY}.example/"), ("--debug",), 1),
        (("--fault", "refusal:0.3", "--fault", "garbage:0.2"), ("limits.retries=1",), 0),
    ],
)
def test_f15_the_key_is_nowhere_but_in_the_environment(
    flags: tuple[str, ...], words: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    with bad_server("--message", f"{KEY} is not liked", "--latency", "0.05", *flags) as server:
        config = configure(tmp_path, server.base_url, n=20)
        with subprocess.Popen(
            command(config, *words), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            line = b""
            while not server.stats()["requests"] and process.poll() is None:
                line = Path(f"/proc/{process.pid}/cmdline").read_bytes() if sys.platform == "linux" else b""
                time.sleep(0.02)
            out, err = process.communicate(timeout=60)
        assert server.stats()["keys"] == [f"Bearer {KEY}"]
    assert process.returncode == code, err.decode()
    assert ("--debug" in words) == (b"Traceback" in err)
    for place in (line, out, err, everything(tmp_path)):
        assert KEY.encode() not in place
    assert (tmp_path / "runs" / "store.sqlite").exists()


def test_f15_a_crash_does_not_show_the_key(tmp_path: Path) -> None:
    code = (
        "import os, cotdistill.backends.flight as flight\n"
        "from cotdistill.cli import main\n"
        "def broken(*_): raise RuntimeError('a bug')\n"
        "flight.read_reply = broken\n"
        f"main(['generate', {str(tmp_path / 'run.yaml')!r}])"
    )
    with bad_server() as server:
        configure(tmp_path, server.base_url, n=20)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert KEY not in done.stderr + done.stdout
    assert KEY.encode() not in everything(tmp_path)


# F2: Ctrl-C.


@contextmanager
def interrupted(server: Server, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that was asked to stop while requests are in flight."""
    config = configure(folder, server.base_url, n=60)
    with subprocess.Popen(
        command(config, "limits.concurrency=4"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            while server.stats()["requests"] < 12:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            yield process
        finally:
            process.kill()


def stored(folder: Path) -> int:
    with Store(folder / "runs" / "store.sqlite") as store:
        return len(store)


def test_f2_ctrl_c_asks_nothing_more_and_keeps_what_is_in_flight(tmp_path: Path) -> None:
    with bad_server("--latency", "0.6") as server:
        with interrupted(server, tmp_path) as process:
            time.sleep(0.1)
            seen = server.stats()["requests"]
            _, err = process.communicate(timeout=30)
        assert server.stats()["requests"] == seen
        assert process.returncode == 130
        assert "stopping: waiting for 4 requests in flight. Ctrl-C again leaves them." in err
        assert "interrupted. All that was answered is stored; the same command resumes." in err
        assert "Traceback" not in err
        assert stored(tmp_path) == seen
        assert run_cli(tmp_path / "run.yaml", "limits.concurrency=64").returncode == 0
        assert max(server.stats()["prompts"].values()) == 1  # nothing was bought twice


def test_f2_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    with bad_server("--fault", "hang", "--good-first", "10") as server, interrupted(server, tmp_path) as process:
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - start < 10  # about one where nothing else runs; waiting would take 120
    assert process.returncode == 130
    assert "Traceback" not in err
    assert stored(tmp_path) == 10
    with sqlite3.connect(tmp_path / "runs" / "store.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
