"""The OpenAI backend against a real server on loopback, well and badly behaved."""

from __future__ import annotations

import gc
import io
import itertools
import re
import signal
import time
from email.utils import formatdate
from typing import Any, Literal

import pytest
from rich.console import Console

from asking import TALK, TALK_BODY
from asking import ask as ask_backend
from cotdistill import progress
from cotdistill.backends.loops import first_interrupt
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.wire import retry_after
from cotdistill.completions import Completion, Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError, ConfigError
from servers import Server, start_server

SAMPLED = SamplingParams(32, temperature=0.7)
KEY = "sk-canary-0123456789"
pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def questions(n: int, params: SamplingParams = SAMPLED) -> list[Request]:
    return [Request((f"Q: What is {i} plus 7?\nA:",), params, (i % 3,)) for i in range(n)]


def backend_of(server: Server, **options: Any) -> OpenAIBackend:
    """`options` of the backend, and those of its limits."""
    limits = {name: options.pop(name) for name in list(options) if name in LimitsConfig.model_fields}
    return OpenAIBackend("fake", server.base_url, limits=LimitsConfig.model_validate(limits), **options)


def ask(server: Server, requests: list[Request], **options: Any) -> list[Completion]:
    return ask_backend(backend_of(server, **options), requests)


def assert_right(completions: list[Completion]) -> None:
    assert [c.text for c in completions] == [f" {i} plus 7 is {i} + 7 = {i + 7}." for i in range(len(completions))]
    assert {c.finish_reason for c in completions} == {"stop"}


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_answers_both_prompts(server: Server, api: Literal["chat", "completions"]) -> None:
    assert_right(ask(server, questions(20), api=api))
    question = "Q: What is 2 plus 3?\nA:"
    (second,) = ask(server, [Request((question, " 2 + 3 = 5.", "\nTherefore, the answer is"), SAMPLED)], api=api)
    assert second == Completion(" 5.", "stop", prompt_tokens=16, completion_tokens=1)


def test_what_is_sent() -> None:
    with start_server() as server:
        ask(server, [TALK], system="Be brief.")
        ask(server, [Request(TALK.prompt, SamplingParams(9))], api="completions")
        sampled, greedy = server.stats()["bodies"]
    assert sampled == TALK_BODY
    assert greedy == {"model": "fake", "prompt": "abc", "max_tokens": 9, "temperature": 0.0}


def test_cut_text_is_of_finish_reason_length(server: Server) -> None:
    (completion,) = ask(server, questions(1, SamplingParams(3)))
    assert (completion.text, completion.finish_reason) == (" 0 plus 7", "length")


def test_no_requests_need_no_server() -> None:
    assert list(OpenAIBackend("fake", "http://127.0.0.1:1/v1").generate(iter([]))) == []


def test_requests_run_side_by_side() -> None:
    with start_server("--latency", "0.2") as server:
        start = time.monotonic()
        assert_right(ask(server, questions(32), concurrency=16))
        assert time.monotonic() - start < 0.5 * 32 * 0.2
        assert 8 <= server.stats()["most_at_once"] <= 16


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (("--fail-rate", "0.2", "--status", "429", "--retry-after", "0.3"), {}),
        (("--fail-rate", "0.2", "--status", "429", "--retry-after=-1e9"), {}),
        (("--fail-rate", "0.2", "--status", "500"), {}),
        (("--bad-json-rate", "0.1"), {}),
        (("--hang-rate", "0.1"), {"timeout": 0.5}),
    ],
)
def test_what_passes_is_tried_again(flags: tuple[str, ...], options: dict[str, Any]) -> None:
    with start_server(*flags) as server:
        assert_right(ask(server, questions(30), retries=20, **options))
        assert server.stats()["requests"] > 30


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--fail-rate", "1", "--status", "503", "--message", "over\x1b[2J\nloaded"), "HTTP 503: over [2J loaded"),
        (("--bad-json-rate", "1"), "the reply is not JSON"),
        (("--raw", "[1]"), "the reply has no completion"),
        (("--raw", '{"error": {"message": "no GPU left"}}'), "no GPU left"),
        (("--raw", '{"choices": [{"message": {"content": "\\ud800"}}]}'), "the reply is not JSON"),
        (("--raw", '{"choices": [{"message": {"content": 5}}]}'), "the reply has no completion"),
        (("--raw", '{"choices": [{"message": {"content": null}}]}'), "empty completion"),
        (("--bomb",), "the reply is over 16 MB"),
        (("--hang-rate", "1"), "no whole reply within 0.4 s"),
    ],
)
def test_what_never_passes_is_an_error_of_its_request(flags: tuple[str, ...], said: str) -> None:
    with start_server(*flags) as server:
        (completion,) = ask(server, questions(1), retries=1, timeout=0.4 if "--hang-rate" in flags else 10)
        assert (completion.text, completion.finish_reason) == ("", "error")
        assert said in completion.error
        assert server.stats()["requests"] == 2


@pytest.mark.parametrize(
    ("flags", "requests", "said"),
    [
        (("--fail-rate", "1", "--status", "422", "--message", "too long"), 1, "HTTP 422: too long"),
        (("--raw", '{"choices": [{"message": {}, "finish_reason": "content_filter"}]}'), 1, "content filter"),
        (("--raw", '{"choices": [{"message": {}, "finish_reason": "length"}]}'), 1, "Raise teacher.max_tokens"),
    ],
)
def test_what_would_fail_again_is_asked_once(flags: tuple[str, ...], requests: int, said: str) -> None:
    with start_server(*flags) as server:
        (completion,) = ask(server, questions(1))
        assert completion.finish_reason == "error"
        assert said in completion.error
        assert server.stats()["requests"] == requests


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--require-key", "another"), r"HTTP 401: Incorrect API key provided: \[key\] \[31m\nCheck teacher.api_key"),
        (("--fail-rate", "1", "--status", "404"), r"HTTP 404: something went wrong\nCheck teacher.base_url .* /v1"),
        (("--fail-rate", "1", "--status", "400", "--message", "The model x does not exist"), r"teacher\.model"),
        (("--fail-rate", "1", "--status", "400", "--message", "no seed"), r"HTTP 400: no seed\nNo request"),
        (("--fail-rate", "1", "--status", "429", "--message", "insufficient_quota"), "Check the credit"),
        (("--fail-rate", "1", "--status", "307"), r"redirects to https://elsewhere\.example/v1"),
    ],
)
def test_what_concerns_every_request_ends_the_run(flags: tuple[str, ...], said: str) -> None:
    with start_server(*flags) as server:
        with pytest.raises(BackendError, match=said) as raised:
            ask(server, questions(200), api_key=KEY, concurrency=4)
        assert KEY not in str(raised.value)
        assert server.stats()["requests"] <= 8


def test_an_error_of_one_request_does_not_show_the_key() -> None:
    # The key stands across the place where the message is cut.
    with start_server("--fail-rate", "1", "--status", "422", "--message", "x" * 190 + KEY) as server:
        (completion,) = ask(server, questions(1), api_key=KEY)
    assert "[key]" in completion.error
    assert KEY[:8] not in completion.error
    assert len(completion.error) < 230


def test_a_right_key_is_let_in() -> None:
    with start_server("--require-key", KEY) as server:
        assert_right(ask(server, questions(3), api_key=KEY))
        assert OpenAIBackend("fake", server.base_url, KEY).check().startswith("200 OK in 0.")
        with pytest.raises(BackendError, match="HTTP 401"):
            OpenAIBackend("fake", server.base_url, "").check()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_server_is_found_out_soon(host: str) -> None:
    backend = OpenAIBackend("fake", f"http://{host}:1/v1")
    start = time.monotonic()
    with pytest.raises(BackendError, match=f"no server answers at http://{host}:1/v1.*\nStart it, or set teacher"):
        list(backend.generate(iter(questions(100))))
    assert time.monotonic() - start < 4


def test_a_server_that_dies_ends_the_run_and_says_how_to_resume() -> None:
    with start_server() as server:
        backend = backend_of(server, concurrency=4, retries=1)
        stream = backend.generate(iter(questions(500)))
        seen = [completion for *_, completion in itertools.islice(stream, 5)]
        server.kill()
        with pytest.raises(BackendError, match="Run the same command again"):
            seen.extend(completion for *_, completion in stream)
    assert sum(c.finish_reason == "stop" for c in seen) >= 5
    assert 19 <= sum(c.finish_reason == "error" for c in seen) < 30


def test_a_server_that_comes_back_is_asked_again() -> None:
    with start_server() as first:
        stream = backend_of(first, concurrency=4).generate(iter(questions(60)))
        seen = [next(stream)]
    with start_server("--port", str(first.port)):
        seen += stream
    assert len({request for request, *_ in seen}) == len(seen) == 60
    assert {completion.finish_reason for *_, completion in seen} == {"stop"}


def test_closing_early_cancels_what_is_in_flight() -> None:
    collections = gc.get_threshold()
    with start_server("--latency", "0.1") as server:
        stream = backend_of(server, concurrency=8).generate(iter(questions(1000)))
        assert len(list(itertools.islice(stream, 3))) == 3
        start = time.monotonic()
        stream.close()
        assert time.monotonic() - start < 1
        seen = server.stats()["requests"]
        time.sleep(0.3)
        assert server.stats()["requests"] == seen < 40
    assert gc.get_threshold() == collections


def test_a_slow_reader_holds_the_requests_back() -> None:
    with start_server() as server:
        stream = backend_of(server, concurrency=4).generate(iter(questions(1000)))
        next(stream)
        time.sleep(0.5)
        assert server.stats()["requests"] <= 20
        stream.close()


@pytest.mark.parametrize(("before", "stops"), [(signal.default_int_handler, [True]), (signal.SIG_IGN, [])])
def test_an_ignored_ctrl_c_stays_ignored(before: Any, stops: list[bool]) -> None:
    found: list[bool] = []
    mine = signal.signal(signal.SIGINT, before)
    try:
        with first_interrupt(lambda: found.append(True)):
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, mine)
    assert found == stops


def test_an_error_of_the_reader_leaves_nothing_behind(server: Server) -> None:
    def read() -> None:
        for _ in OpenAIBackend("fake", server.base_url).generate(iter(questions(100))):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()


def test_a_prompt_that_is_not_text_is_an_error_of_its_own(server: Server) -> None:
    bad, good = ask(server, [Request(("\ud800",), SAMPLED), *questions(1)])
    assert (bad.finish_reason, good.finish_reason) == ("error", "stop")


@pytest.mark.parametrize(
    ("base_url", "options", "error", "said"),
    [
        ("localhost:8000/v1", {}, ConfigError, "Write it like http://"),
        ("http://:8000/v1", {}, ConfigError, "Write it like http://"),
        ("http://a:99999/v1", {}, ConfigError, "Write it like http://"),
        ("https://me:secret@a.example/v1", {}, ConfigError, "Put the key in teacher.api_key"),
        ("https://a.example/v1", {"api_key": "sk\nx"}, ConfigError, "Copy it again"),
        ("https://a.example/v1", {"api": "completions", "system": "Hi."}, ConfigError, "Set teacher.api=chat"),
        ("http://a.example/v1", {"api_key": KEY}, BackendError, "https://"),
        ("HTTP://10.0.0.1/v1", {"api_key": KEY}, BackendError, "https://"),
    ],
)
def test_what_cannot_work_is_refused(base_url: str, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        OpenAIBackend("fake", base_url, **options)
    assert KEY not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_identity_has_no_key() -> None:
    backend = OpenAIBackend("m", "https://a.example/v1/", KEY, system="Hi.")
    assert backend.identity == {
        "model": "m",
        "endpoint": "https://a.example/v1/chat/completions",
        "system": "Hi.",
    }
    assert KEY not in repr(backend)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2), ("0.5", 0.5), ("1e9", 60), ("inf", 60), ("-3", 0), ("nan", 0), ("soon", 0), ("", 0)],
)
def test_retry_after(value: str, seconds: float) -> None:
    assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_as_a_date() -> None:
    assert 5 < retry_after({"Retry-After": formatdate(time.time() + 10, usegmt=True)}) <= 10
    assert retry_after({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}) == 60
    assert retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0


def test_credentials_of_an_address_are_sent_as_such() -> None:
    with start_server("--require-basic", "bWU6cEBzcw==") as server:
        assert_right(ask(server, questions(2), api_key="Basic bWU6cEBzcw=="))
        with pytest.raises(BackendError, match="HTTP 401"):
            ask(server, questions(1), api_key=KEY)


@pytest.mark.slow
def test_a_ctrl_c_in_the_middle_of_a_line_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.RawIOBase):
        lines, pressed = b"", False

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.lines += bytes(data)
            if b"answered" in bytes(data) and not self.pressed:
                self.pressed = True
                signal.raise_signal(signal.SIGINT)
            return len(data)

    terminal = Terminal()
    stderr = io.TextIOWrapper(io.BufferedWriter(terminal), line_buffering=True)
    monkeypatch.setattr(progress, "console", Console(file=stderr))
    found: list[Completion] = []

    def answer_all(server: Server) -> None:
        for _, _, completion in backend_of(server, concurrency=8).generate(iter(questions(40))):
            found.append(completion)
            progress.say("answered")

    with start_server("--latency", "0.2") as server, pytest.raises(KeyboardInterrupt):
        answer_all(server)
    stderr.flush()
    assert re.search(
        rb"answered\nstopping: waiting for [1-9] requests in flight. Ctrl-C again leaves them.\n", terminal.lines
    )
    assert 1 < len(found) < 40  # what was in flight came, and nothing more was asked
    assert {completion.finish_reason for completion in found} == {"stop"}
