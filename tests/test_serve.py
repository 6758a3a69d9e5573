"""The endpoint of a run's student: what it writes is what evaluation stores, and what it refuses it says."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cotdistill.serving.asking import Limits
from serve_runs import QUESTION, Served, make_run, serving
from tiny import tiny_model, tiny_t5

QUESTIONS = [f"{i} {word}" for i, word in enumerate(["Why?", "How many apples are there?", "x", "Say it."] * 2)]


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


@pytest.fixture(scope="module", params=["llama", pytest.param("t5", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runs")
    make = {"t5": lambda f: tiny_t5(f, std=0.5), "llama": lambda f: tiny_model(f, positions=2048)}[request.param]
    with serving(make_run(folder, make)) as running:
        yield running


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(make_run(tmp_path_factory.mktemp("runs"))) as running:
        yield running


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("runs")
    with serving(make_run(folder, lambda f: tiny_model(f, positions=2048, chat=True), form="chat")) as running:
        yield running


def prompt_of(served: Served, question: str) -> str:
    from cotdistill.records import Question

    return served.student.method.prompt(Question("", question, ""))


def test_a_question_gets_the_text_that_evaluation_stores(served: Served) -> None:
    for question in QUESTIONS[:4]:
        expected = served.direct(prompt_of(served, question))
        reply = served.chat(question).json
        (choice,) = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
        assert choice["finish_reason"] == expected.finish_reason
        total = expected.prompt_tokens + expected.completion_tokens
        assert reply["usage"] == {
            "prompt_tokens": expected.prompt_tokens,
            "completion_tokens": expected.completion_tokens,
            "total_tokens": total,
        }
        raw = served.post("/completions", {"prompt": prompt_of(served, question)}).json
        assert raw["choices"][0]["text"] == expected.text


def test_a_chat_student_hears_several_turns(chatty: Served) -> None:
    assert chatty.chat(QUESTION).json["choices"][0]["message"]["content"] == chatty.direct(QUESTION).text
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    ]
    reply = chatty.post("/chat/completions", {"messages": turns}).json
    text = "[system]Be brief.<end>\n[user]a<end>\n[assistant]b<end>\n[user]c<end>\n[assistant]"
    assert reply["usage"]["prompt_tokens"] == len(chatty.loaded.tokenizer.encode(text, add_special_tokens=False))


def test_together_as_alone(served: Served) -> None:
    """Eight clients, each with parameters of its own, while the others are answered."""
    bodies: list[dict[str, Any]] = [
        {"prompt": prompt_of(served, question), "max_tokens": 5 + 4 * i, "seed": i, "temperature": (i % 3) / 2}
        | ({"top_p": 0.8} if i % 2 else {"stop": ["e", "7"]})
        for i, question in enumerate(QUESTIONS)
    ]
    alone = [served.post("/completions", body).json for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = [reply.json for reply in pool.map(lambda body: served.post("/completions", body), bodies * 2)]
    assert [r["choices"] for r in together] == [r["choices"] for r in alone] * 2
    assert len({r["choices"][0]["text"] for r in alone}) == len(bodies)
    assert all(r["usage"]["completion_tokens"] <= b["max_tokens"] for r, b in zip(alone, bodies, strict=True))


@pytest.mark.slow
def test_eight_are_written_in_one_batch(tmp_path: Path) -> None:
    with serving(make_run(tmp_path), slow=0.02) as slowed:
        began = time.monotonic()
        slowed.chat("alone", temperature=1, seed=1)
        once = time.monotonic() - began
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: slowed.chat(f"{i}?", temperature=1, seed=i), range(8)))
        assert time.monotonic() - began < 3 * once


def test_n_choices_and_their_seeds(served: Served) -> None:
    def texts(**more: Any) -> list[str]:
        return [c["message"]["content"] for c in served.chat(temperature=1.0, **more).json["choices"]]

    five = texts(n=5, seed=3)
    assert len(set(five)) == 5
    assert texts(n=5, seed=3) == five
    assert texts(n=2, seed=3) == five[:2]
    assert texts(n=5, seed=4) != five
    assert texts() != texts()
    reply = served.post("/completions", {"prompt": ["a", "b"], "n": 2, "temperature": 0}).json
    found = [choice["text"] for choice in reply["choices"]]
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert found == [served.direct("a").text] * 2 + [served.direct("b").text] * 2


@pytest.mark.parametrize("stop", [[], ["e"], ["ab", "x7"]])
def test_a_stream_is_the_text_in_pieces(served: Served, stop: list[str]) -> None:
    free = served.chat(temperature=1, seed=5).json["choices"][0]["message"]["content"]
    more: dict[str, Any] = {"temperature": 1, "seed": 5, "n": 3, "stop": [*stop, free[8:11]]}  # of several tokens
    whole = served.chat(**more).json
    events = served.chat(**more, stream=True, stream_options={"include_usage": True}).events
    texts, reasons = [""] * 3, [""] * 3
    assert {e["id"] for e in events} == {events[0]["id"]}
    assert events[-1]["usage"] == whole["usage"]
    for event in events[:-1]:
        (choice,) = event["choices"]
        assert ("role" in choice["delta"]) == (texts[choice["index"]] == "" == reasons[choice["index"]])
        texts[choice["index"]] += choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"] or ""
    assert texts == [c["message"]["content"] for c in whole["choices"]]
    assert reasons == [c["finish_reason"] for c in whole["choices"]]
    assert free[8:11] not in texts[0]


def test_a_stream_comes_as_it_is_written(llama: Served) -> None:
    assert len(llama.chat(stream=True, temperature=1, seed=2, max_tokens=30).events) >= 10
    plain = llama.post("/completions", {"prompt": "x", "stream": True, "max_tokens": 5}).events
    assert "".join(event["choices"][0]["text"] for event in plain) == llama.direct("x", max_tokens=5).text


@pytest.mark.parametrize("temperature", [0, 1])
def test_logprobs_are_those_of_a_forward_pass(served: Served, temperature: float) -> None:
    import torch

    body = {"prompt": "What?", "logprobs": 3, "temperature": temperature, "seed": 1, "stop": ["Z"], "max_tokens": 20}
    reply = served.post("/completions", body).json["choices"][0]
    found, tokenizer, model = reply["logprobs"], served.loaded.tokenizer, served.loaded.model
    assert "".join(found["tokens"]) == reply["text"]
    assert found["text_offset"] == [len("".join(found["tokens"][:i])) for i in range(len(found["tokens"]))]
    prompt = tokenizer.encode("What?")
    seq2seq = served.loaded.seq2seq
    space = "\u2581" if seq2seq else "Ġ"  # T5 drops the first
    written = tokenizer.convert_tokens_to_ids([text.replace("\n", "Ċ").strip() or space for text in found["tokens"]])
    assert len(written) > 5
    with torch.no_grad(), model.device:
        if seq2seq:
            start = [model.config.decoder_start_token_id]
            logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([start + written])).logits[0]
        else:
            logits = model(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :]
    expected = logits.log_softmax(-1)
    for i, token in enumerate(written):
        assert found["token_logprobs"][i] == pytest.approx(float(expected[i, token]), abs=1e-4)
        best = sorted(found["top_logprobs"][i].values(), reverse=True)
        assert best == pytest.approx(expected[i].topk(3).values.tolist()[: len(best)], abs=1e-4)


def test_logprobs_of_a_chat_streamed_and_whole(served: Served) -> None:
    more: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "temperature": 1, "seed": 9, "stop": ["q"]}
    whole = served.chat(**more).json["choices"][0]
    content = whole["logprobs"]["content"]
    assert "".join(token["token"] for token in content) == whole["message"]["content"]
    assert bytes(b for token in content for b in token["bytes"]).decode().strip() == whole["message"]["content"].strip()
    assert all(len(token["top_logprobs"]) == 2 for token in content)
    events = served.chat(**more, stream=True).events
    assert [t for e in events for t in (e["choices"][0]["logprobs"] or {"content": []})["content"]] == content
    without = served.chat(logprobs=True).json["choices"][0]["logprobs"]["content"]
    assert without[0]["top_logprobs"] == []


CHAT = {"messages": [{"role": "user", "content": "x"}]}
LONG = "x" * 2100
REFUSED: list[tuple[str, object, int, str]] = [
    ("/chat/completions", b'{"messages": [', 400, "not valid JSON"),
    ("/chat/completions", b"[1]", 400, "JSON object"),
    ("/chat/completions", b'{"a":' * 3000, 400, "not valid JSON"),
    ("/chat/completions", {}, 400, "messages"),
    ("/chat/completions", {"messages": []}, 400, "messages"),
    ("/chat/completions", {"messages": [{"role": "user", "content": "  "}]}, 400, "empty"),
    ("/chat/completions", {"messages": [{"role": "assistant", "content": "x"}]}, 400, "by turns"),
    ("/chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role"),
    ("/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0"),
    ("/chat/completions", {"messages": [*CHAT["messages"] * 3]}, 400, "by turns"),
    (
        "/chat/completions",
        {"messages": [{"role": "system", "content": "s"}, *CHAT["messages"]]},
        400,
        "one user message",
    ),
    ("/chat/completions", {**CHAT, "model": "mine/fine_tune_cot-1"}, 404, "Did you mean 'mine/fine_tune_cot-0'"),
    ("/chat/completions", {**CHAT, "model": "mine/fine_tune_cot-0@000000000000"}, 404, "no model"),
    ("/chat/completions", {**CHAT, "temprature": 1}, 400, "Did you mean 'temperature'"),
    ("/chat/completions", {**CHAT, "tools": [{"type": "function"}]}, 400, "tools is not supported"),
    ("/chat/completions", {**CHAT, "presence_penalty": 0.5}, 400, "presence_penalty is not supported"),
    ("/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}, 400, "response_format"),
    ("/chat/completions", {**CHAT, "n": 0}, 400, "n: "),
    ("/chat/completions", {**CHAT, "n": 81}, 400, "room for 80"),
    ("/chat/completions", {**CHAT, "n": 1e30}, 400, "n: "),
    ("/chat/completions", {**CHAT, "temperature": -1}, 400, "temperature"),
    ("/chat/completions", {**CHAT, "temperature": "hot"}, 400, "temperature"),
    ("/chat/completions", {**CHAT, "top_p": 0}, 400, "top_p"),
    ("/chat/completions", {**CHAT, "max_tokens": 0}, 400, "max_tokens"),
    ("/chat/completions", {**CHAT, "max_tokens": 5000}, 400, "room for 2048"),
    ("/chat/completions", {**CHAT, "stop": [""]}, 400, "stop"),
    ("/chat/completions", {**CHAT, "stop": ["x"] * 17}, 400, "stop"),
    ("/chat/completions", {**CHAT, "top_logprobs": 2}, 400, "needs logprobs"),
    ("/chat/completions", {**CHAT, "logprobs": 2}, 400, "logprobs"),
    ("/chat/completions", {"messages": [{"role": "user", "content": LONG}]}, 400, "the prompt has 2105 tokens"),
    ("/completions", {"prompt": [1, 2]}, 400, "prompt"),
    ("/completions", {"prompt": "x", "echo": True}, 400, "echo is not supported"),
    ("/completions", {"prompt": "x", "logprobs": 21}, 400, "logprobs"),
    ("/completions", {"prompt": ["x"] * 81}, 400, "room for 80"),
    ("/chat/completion", CHAT, 404, "POST /v1/chat/completions"),
    ("/models", CHAT, 405, "GET /v1/models"),
    ("/completions", {"prompt": "x" * 2**18}, 413, "262,144 bytes"),
]


@pytest.mark.parametrize(("path", "body", "status", "says"), REFUSED, ids=[f"{r[2]} {r[3]}" for r in REFUSED])
def test_what_is_refused_is_said(llama: Served, path: str, body: object, status: int, says: str) -> None:
    reply = llama.post(path, body)
    assert reply.status == status
    assert says in reply.error["message"]
    assert len(reply.error["message"]) < 300
    assert llama.chat().status == 200


def test_what_asks_for_nothing_is_taken(llama: Served) -> None:
    harmless: dict[str, Any] = {
        "user": "me",
        "presence_penalty": 0,
        "logit_bias": {},
        "tools": None,
        "response_format": {"type": "text"},
    }
    plain = llama.chat().json["choices"]
    assert llama.chat(**harmless, stop=None, temperature=1e-8, model=llama.student.pinned).json["choices"] == plain
    assert llama.chat(max_completion_tokens=3).json["usage"]["completion_tokens"] == 3


def test_a_body_must_say_that_it_is_json(llama: Served) -> None:
    """What a web page of another site may send without being asked first is refused."""
    assert llama.post("/chat/completions", CHAT, {"Content-Type": "text/plain"}).status == 415


def test_models_and_health(llama: Served) -> None:
    names = [model["id"] for model in llama.ask("GET", "/v1/models").json["data"]]
    assert names == ["mine/fine_tune_cot-0", llama.student.pinned]
    assert llama.ask("GET", f"/v1/models/{names[1]}").json["id"] == names[1]
    assert llama.ask("GET", "/v1/models/other").status == 404
    assert llama.ask("GET", "/health").json == {"status": "ok", "writing": 0, "waiting": 0}


def test_a_key(tmp_path: Path) -> None:
    with serving(make_run(tmp_path), key="sk-right-canary") as locked:
        assert locked.chat().status == 200
        locked.key = "sk-wrong"
        for path in ("/v1/models", "/metrics"):
            assert locked.ask("GET", path).status == 401
        refused = locked.chat()
        assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
        assert b"canary" not in refused.body
        locked.key = "\xe9"
        assert locked.chat().status == 401
        locked.key = ""
        assert locked.chat().status == 401
        assert locked.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    ("host", "status"), [("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 403), ("", 403)]
)
def test_without_a_key_it_is_asked_by_a_local_name(llama: Served, host: str, status: int) -> None:
    """The name of another site may lead here."""
    assert llama.ask("GET", "/v1/models", headers={"Host": host}).status == status


def long(served: Served, **more: Any) -> Any:
    """A request that goes on for minutes."""
    return served.chat(max_tokens=2000, temperature=1, seed=1, **more)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Served]:
    """Two places and one that waits, 0.02 seconds a token, 4 seconds a request."""
    with serving(make_run(tmp_path), Limits(slots=2, queue=1, seconds=4), slow=0.02) as running:
        yield running


@pytest.mark.slow
def test_a_full_queue_and_a_time_limit(slow: Served) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(long, slow) for _ in range(3)]
        busy = {"status": "ok", "writing": 2, "waiting": 1}
        until(lambda: slow.ask("GET", "/health").json == busy)
        full = slow.chat()
        assert full.status == 429
        assert 1 <= int(full.headers["Retry-After"]) <= 60
        assert full.error["code"] == "queue_full"
        assert [reply.result().status for reply in running] == [504] * 3
    assert time.monotonic() - began < 12
    until(lambda: slow.ask("GET", "/health").json["writing"] == 0)
    assert slow.chat(max_tokens=3).status == 200
    # The third may begin in the moment between the ends of the others and its own.
    assert slow.metric('cotdistill_completions_total{finish_reason="given_up"}') in (2, 3)


@pytest.mark.slow
def test_a_time_limit_in_a_stream_is_said_there(slow: Served) -> None:
    reply = long(slow, stream=True)
    assert reply.status == 200
    *_, last = [line for line in reply.body.decode().split("\n\n") if line]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert b"[DONE]" not in reply.body
    assert slow.metric('cotdistill_requests_total{path="/v1/chat/completions",status="504"}') == 1


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(tmp_path: Path, stream: bool) -> None:
    with serving(make_run(tmp_path), slow=0.02) as slowed:
        connection = slowed.connect()
        body = json.dumps({**CHAT, "max_tokens": 2000, "temperature": 1, "n": 3, "stream": stream})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        until(lambda: slowed.metric("cotdistill_writing") == 3)
        connection.close()
        if connection.sock:
            connection.sock.close()
        until(lambda: slowed.metric("cotdistill_writing") == 0)
        assert slowed.metric('cotdistill_completions_total{finish_reason="given_up"}') == 3
        until(lambda: slowed.metric('cotdistill_requests_total{path="/v1/chat/completions",status="499"}') == 1)
        assert slowed.chat(max_tokens=3).status == 200


@pytest.mark.slow
def test_clients_that_are_slow_hold_nobody_up(slow: Served) -> None:
    """One sends half a request, one reads nothing of its stream."""
    half = socket.create_connection(("127.0.0.1", slow.port))
    half.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 99\r\n\r\n{"
    )
    deaf = socket.create_connection(("127.0.0.1", slow.port))
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    body = json.dumps({**CHAT, "max_tokens": 2000, "stream": True, "temperature": 1}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += "Content-Length: "
    deaf.sendall(head.encode() + b"%d\r\n\r\n" % len(body) + body)
    until(lambda: slow.metric("cotdistill_writing") == 1)
    assert slow.chat(max_tokens=3).status == 200
    until(lambda: slow.metric("cotdistill_writing") == 0)
    half.settimeout(10)
    assert b" 504 " in half.recv(1000)
    half.close()
    deaf.close()


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    with serving(make_run(tmp_path)) as fresh:
        first, second = fresh.chat().json["usage"], fresh.chat(n=2, temperature=1, seed=1).json["usage"]
        fresh.chat(n=0)
        fresh.ask("GET", "/nowhere")
        assert fresh.metric("cotdistill_prompt_tokens_total") == first["prompt_tokens"] + second["prompt_tokens"]
        written = first["completion_tokens"] + second["completion_tokens"]
        assert fresh.metric("cotdistill_completion_tokens_total") == written
        assert fresh.metric("cotdistill_completions_total") == 3
        assert fresh.metric('cotdistill_requests_total{path="/v1/chat/completions",status="200"}') == 2
        assert fresh.metric('cotdistill_requests_total{path="/v1/chat/completions",status="400"}') == 1
        assert fresh.metric('cotdistill_requests_total{path="other",status="404"}') == 1
        assert fresh.metric("cotdistill_request_seconds_count") == 3


def test_a_failure_of_the_model_is_said_and_the_next_request_answered(tmp_path: Path) -> None:
    with serving(make_run(tmp_path)) as breaking:
        import torch

        from cotdistill.serving import rows

        with pytest.MonkeyPatch.context() as patch:

            def fail(*_: object) -> None:
                raise torch.OutOfMemoryError("out of memory: 9 GiB")

            patch.setattr(rows, "add_tokens", fail)
            reply = breaking.chat(n=2)
            assert reply.status == 500
            assert "OutOfMemoryError" in reply.error["message"]
        assert breaking.chat().status == 200
        assert breaking.metric('cotdistill_completions_total{finish_reason="error"}') == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_dies_ends_the_server(tmp_path: Path) -> None:
    with serving(make_run(tmp_path)) as dying:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cotdistill.serving.rows.add_tokens", None)
            assert dying.chat().status == 500
        until(lambda: bool(dying.ended))
        assert "Start the server again" in str(dying.ended[0])
        assert dying.ended[0].exit_code == 5
        with pytest.raises(ConnectionError):
            dying.chat()
