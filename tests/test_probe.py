"""What is found out about a teacher's server: its name, its models, what it ignores and refuses."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any, Literal

import pytest

from cotdistill.backends.probe import ADVICE, DOCUMENTED, REQUESTS, UNKNOWN, Found, Replies, Reply, probe
from cotdistill.errors import BackendError, ConfigError
from servers import Server, start_server

KEY = "sk-canary-0123456789"


def look(server: Server, key: str = "", model: str = "fake", api: Literal["chat", "completions"] = "chat") -> Found:
    return probe(server.base_url, key, model, api, timeout=5)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("", UNKNOWN),
        ("--server vllm", "vLLM"),
        ("--server sglang", "SGLang"),
        ("--server ollama --models fake:latest", "Ollama"),
        ("--server llamacpp", "llama.cpp; n up to 4, its slots"),
        ("--ignore n", "ignores n"),
        ("--ignore seed", "ignores seed"),
        ("--ignore stop", "ignores stop"),
        ("--ignore temperature", "ignores temperature"),
        ("--ignore usage", "ignores usage"),
        ("--ignore n,seed,stop", "ignores n, seed, stop"),
        ("--ignore model --models qwen3", f"{UNKNOWN}; qwen3 answers whatever teacher.model says"),
        ("--refuse n", "refuses n"),
        ("--refuse seed", "refuses seed"),
        ("--refuse max_tokens", "refuses max_tokens"),
        ("--reply words.", "ignores temperature"),
    ],
)
def test_what_is_told_of_a_server(flags: str, told: str) -> None:
    with start_server(*flags.split()) as server:
        found = look(server)
        assert server.stats()["requests"] <= REQUESTS
    verb, _, names = told.partition(" ")
    if verb in ("ignores", "refuses"):
        expected = {"ignores": (), "refuses": (), verb: tuple(names.split(", "))}
        assert (found.ignores, found.refuses) == (expected["ignores"], expected["refuses"])
        assert all(f"{verb} {name}: {ADVICE[name]}" in str(found) for name in expected[verb])
    else:
        assert str(found) == told


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize(
    ("name", "told"), [("vllm", "vLLM"), ("sglang", "SGLang"), ("ollama", "Ollama"), ("llamacpp", "llama.cpp")]
)
def test_the_owner_of_the_models_gives_a_server_away(name: str, told: str, api: Literal["chat", "completions"]) -> None:
    with start_server("--server", name, "--models", "qwen3-8b,qwen3-32b", "--require-key", KEY) as server:
        found = look(server, KEY, "qwen3-8b", api)
        refused = look(server, "", "qwen3-8b", api)
    assert found.server == told
    assert found.models == ("qwen3-8b", "qwen3-32b")
    assert found.ignores == found.refuses == ()
    assert found.instead_of("qwen3-8") == ". Did you mean 'qwen3-8b'?"
    assert KEY not in f"{found}{found!r}{refused!r}"


def test_documentation_counts_where_nothing_could_be_asked() -> None:
    with start_server("--server", "sglang", "--status", "503", "--fail-rate", "1") as server:
        found = look(server)
    assert found.ignores == DOCUMENTED["SGLang"]
    assert str(found) == "SGLang; ignores seed: start it with --enable-deterministic-inference"


@pytest.mark.parametrize(
    "flags",
    ["--bomb", "--raw [1]", '--raw {"choices":[{"message":5},3]}', "--hang-rate 1", "--status 307 --fail-rate 1"],
)
def test_a_bad_server_is_no_error(flags: str) -> None:
    with start_server(*flags.split()) as server:
        found = probe(server.base_url, KEY, "fake", "chat", timeout=1)
    assert found.server == UNKNOWN
    assert KEY not in f"{found!r}"


def test_nobody_there() -> None:
    with socket.socket() as held:  # bound and not listening
        held.bind(("127.0.0.1", 0))
        assert probe(f"http://127.0.0.1:{held.getsockname()[1]}/v1", "", "m", "chat") == Found()


def test_a_key_does_not_cross_a_network_in_the_clear() -> None:
    with pytest.raises(BackendError, match="unencrypted"):
        probe("http://192.0.2.1/v1", KEY, "m", "chat")
    with pytest.raises(ConfigError, match="not an HTTP address"):
        probe("localhost", KEY, "m", "chat")


def replies(first: str, again: str, other: str, greedy: str, stopped: str, **more: Any) -> Replies:
    one, two, three, four, five = (reply(text, **more) for text in (first, again, other, greedy, stopped))
    return Replies(one, two, three, four, five, stop="word")


def reply(text: str, key: str = "content", tokens: int = 16) -> Reply:
    return Reply(200, "", {"choices": [{"message": {key: text}}], "usage": {"completion_tokens": tokens}})


@pytest.mark.parametrize(
    ("seen", "ignores"),
    [
        (replies("a", "a", "b", "c word d", "c"), ()),
        (replies("a", "a", "b", "c word d", "c word d"), ("stop",)),
        # Nothing ends a thinking model's thoughts.
        (replies("a", "a", "b", "c word d", "c word d", key="reasoning_content"), ()),
        (replies("a", "a", "a", "c word d", "c"), ("seed",)),
        (replies("a", "b", "c", "d word", "e"), ("seed", "temperature")),
        (replies("a word", "a word", "a word", "a word", "a"), ("temperature",)),
        (replies("a", "a", "b", "c word d", "c", tokens=90), ("max_tokens",)),
        (Replies(reply("a"), reply("a"), reply("b"), reply("c")), ()),  # one word, so no stop was tried
        (replace(replies("a", "a", "b", "c word d", "c"), stopped=Reply(429)), ()),
        (replies("", "", "", "", ""), ()),
        (Replies(), ()),
    ],
)
def test_verdicts(seen: Replies, ignores: tuple[str, ...]) -> None:
    assert seen.verdict() == ignores
