"""The batch backend against a server on loopback that speaks the files and batches endpoints."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from asking import TALK, TALK_BODY
from cotdistill.backends import batch_asking as batch_module
from cotdistill.backends.batch import BatchBackend
from cotdistill.backends.batch_journal import Journal
from cotdistill.backends.batch_lines import outcome
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.wire import Transient
from cotdistill.budget import NOTHING, Amount, Budget, Price
from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.config import LimitsConfig
from cotdistill.errors import BackendError, BudgetReached, ConfigError, DataError
from servers import Server, start_server

SAMPLED = SamplingParams(32, temperature=0.7)
GREEDY = SamplingParams(16)
KEY = "sk-canary-0123456789"
CUE = "\nTherefore, the answer is"
Found = dict[tuple[tuple[str, ...], int], Completion]


def questions(n: int, samples: tuple[int, ...] = (0,)) -> list[Request]:
    return [Request((f"Q: What is {i} plus 7?\nA:",), SAMPLED, samples) for i in range(n)]


def rationale(i: int) -> str:
    return f" {i} plus 7 is {i} + 7 = {i + 7}."


def backend(server: Server, folder: Path, **options: Any) -> BatchBackend:
    return BatchBackend("fake", server.base_url, folder / "batches.jsonl", **{"poll_seconds": 0.02, **options})


def ask(
    server: Server, folder: Path, requests: Iterable[Request | None], found: Found | None = None, **options: Any
) -> Found:
    found = {} if found is None else found
    for request, sample, completion in backend(server, folder, **options).generate(iter(requests)):
        assert sample in request.samples
        assert (request.prompt, sample) not in found, "yielded twice"
        found[request.prompt, sample] = completion
    return found


def assert_right(found: Found, n: int, samples: tuple[int, ...] = (0,)) -> None:
    texts = {(q.prompt, s): rationale(i) for i, q in enumerate(questions(n)) for s in samples}
    assert {key: completion.text for key, completion in found.items()} == texts
    assert {completion.finish_reason for completion in found.values()} == {"stop"}


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


def submitted(server: Server) -> list[list[str]]:
    """The custom_ids of each batch that was made."""
    return [batch["custom_ids"] for batch in server.stats()["batches"]]


def answered(server: Server) -> int:
    """How many answers the server was paid for; none of them twice."""
    stats = server.stats()
    assert Counter(json.dumps(body) for body in stats["bodies"]).most_common(1)[0][1] == 1
    assert isinstance(stats["requests"], int)
    return stats["requests"]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_all_come_back_in_any_order(tmp_path: Path, api: Literal["chat", "completions"]) -> None:
    with start_server() as server:
        assert_right(ask(server, tmp_path, questions(40, (0, 1, 5)), api=api), 40, (0, 1, 5))
        (ids,) = submitted(server)
        assert answered(server) == 120
    path = {"chat": "/chat/completions", "completions": "/completions"}[api]
    pool = Pool({"model": "fake", "endpoint": server.base_url + path}, SAMPLED)  # as of the live requests
    assert ids[:2] == [f"{pool.key(questions(1)[0].prompt).hex()}-{sample}" for sample in (0, 1)]


def test_what_is_sent(tmp_path: Path) -> None:
    with start_server() as server:
        ask(server, tmp_path, [TALK], system="Be brief.")
        ((body,), (batch,)) = (server.stats()[name] for name in ("bodies", "batches"))
        identity = backend(server, tmp_path, system="Be brief.").identity
    assert identity == {"model": "fake", "endpoint": f"{server.base_url}/chat/completions", "system": "Be brief."}
    assert body == TALK_BODY
    assert batch["endpoint"] == "/v1/chat/completions"


def test_second_prompts_follow_the_first_texts(tmp_path: Path) -> None:
    first = questions(6)
    waiting: list[Request] = []
    open_samples = len(first)

    def requests() -> Iterator[Request | None]:
        yield from first
        while open_samples or waiting:
            yield waiting.pop() if waiting else None

    answers = {}
    with start_server() as server:
        for request, _, completion in backend(server, tmp_path).generate(requests()):
            if len(request.prompt) == 1:
                open_samples -= 1
                waiting.append(Request((*request.prompt, completion.text, CUE), GREEDY))
            else:
                answers[request.prompt[0]] = completion.text
        assert [len(ids) for ids in submitted(server)] == [6, 6]
    assert answers == {q.prompt[0]: f" {i + 7}." for i, q in enumerate(first)}


def test_nothing_asked_needs_no_server(tmp_path: Path) -> None:
    nowhere = BatchBackend("fake", "http://127.0.0.1:1/v1", tmp_path / "j")
    assert list(nowhere.generate(iter(()))) == []
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize(("options", "sizes"), [({"max_requests": 4}, [4, 4, 2]), ({"max_bytes": 1300}, [5, 5])])
def test_more_than_a_batch_holds(tmp_path: Path, options: dict[str, Any], sizes: list[int]) -> None:
    with start_server() as server:
        assert_right(ask(server, tmp_path, questions(10), **options), 10)
        assert [len(ids) for ids in submitted(server)] == sizes


@pytest.mark.parametrize("end", ["expired", "failed"])
def test_only_what_a_batch_left_undone_is_submitted_again(tmp_path: Path, end: str) -> None:
    with start_server("--batch-expire", "0.6", "0.5", "--batch-end", end) as server:
        assert_right(ask(server, tmp_path, questions(20)), 20)
        first, second, third = submitted(server)
        assert (set(second), set(third)) == (set(first[8:]), set(second[6:]))
        assert answered(server) == 20


def test_a_cancelled_batch_ends_the_run_and_the_next_one_submits_the_rest(tmp_path: Path) -> None:
    """Who cancels it wants to stop paying."""
    with start_server("--batch-expire", "0.6", "--batch-end", "cancelled") as server:
        found: Found = {}
        with pytest.raises(BackendError, match=r"was cancelled, with 8 completions\.\n.* the other 12 again"):
            ask(server, tmp_path, questions(20), found)
        assert len(found) == 8
        rest = [request for request in questions(20) if (request.prompt, 0) not in found]
        assert_right(found | ask(server, tmp_path, rest), 20)
        assert [len(ids) for ids in submitted(server)] == [20, 12]
        assert answered(server) == 20


def test_a_request_is_submitted_three_times_at_most(tmp_path: Path) -> None:
    with start_server("--batch-expire", "1", "1", "0.5", "0", "1", "1", "1") as server:
        found = ask(server, tmp_path, questions(4))
        assert sorted(c.finish_reason for c in found.values()) == ["error", "error", "stop", "stop"]
        assert {c.error for c in found.values()} == {
            "",
            "3 batches brought no completion, the last: This request could not be executed in time.",
        }
        # What failed is asked anew by the next run, what was answered is still to be had.
        assert_right(ask(server, tmp_path, questions(4)), 4)
        assert [len(ids) for ids in submitted(server)] == [4, 4, 4, 2]
        assert answered(server) == 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ("--batch-fail", "model nowhere \x1b[31m is not there"),
            "batch batch_0 failed: model nowhere [31m is not there",
        ),
        (("--batch-limit", "4"), "batch_0 failed: Enqueued token limit reached.\nSubmit fewer requests a batch"),
        (("--require-key", "another"), "HTTP 401: Incorrect API key provided: [key]\nCheck teacher.api_key."),
    ],
)
def test_what_no_request_can_pass_ends_the_run(tmp_path: Path, flags: tuple[str, ...], said: str) -> None:
    with start_server(*flags) as server:
        with pytest.raises(BackendError) as raised:
            ask(server, tmp_path, questions(5), api_key=KEY)
        assert said in str(raised.value)
        assert "\x1b" not in str(raised.value)
        assert server.stats()["create"] + server.stats()["upload"] <= 2


def test_a_failed_batch_does_not_stand_in_the_way_of_the_next_run(tmp_path: Path) -> None:
    with start_server("--batch-fail", "bad line") as server:
        for _ in range(2):
            with pytest.raises(BackendError, match="bad line"):
                ask(server, tmp_path, questions(5))
        assert [len(ids) for ids in submitted(server)] == [5, 5]


def test_batches_wait_for_the_tokens_of_those_before(tmp_path: Path) -> None:
    with start_server("--batch-limit", "5", "--batch-seconds", "0.1") as server:
        assert_right(ask(server, tmp_path, questions(12), max_requests=4), 12)
        assert answered(server) == 12
        assert 4 <= len(submitted(server)) <= 5, "each of two was too much once, unless one before it was quick"


def test_a_batch_that_was_too_much_beside_one_that_has_ended_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = batch_module.Asking.next_ended

    def late(asking: Any) -> Any:
        time.sleep(0.3)  # the first has ended, and is taken first
        return look(asking)

    monkeypatch.setattr(batch_module.Asking, "next_ended", late)
    with start_server("--batch-limit", "5", "--batch-seconds", "0.1") as server:
        assert_right(ask(server, tmp_path, questions(8), max_requests=4), 8)
        assert [len(ids) for ids in submitted(server)] == [4, 4, 4]


def test_refused_lines_are_error_completions(tmp_path: Path) -> None:
    message = f"prompt refused, your key is {KEY}"
    with start_server("--fail-rate", "0.4", "--status", "400", "--message", message) as server:
        found = ask(server, tmp_path, questions(30), api_key=KEY)
        assert len(submitted(server)) == 1
        errors = [completion for completion in found.values() if completion.finish_reason == "error"]
        assert 5 < len(errors) < 25
        assert {c.error for c in errors} == {"HTTP 400: prompt refused, your key is [key]"}
        assert all(b"prompt refused" in c.reply and KEY.encode() not in c.reply for c in errors)
        # They were reported: the next run asks them anew, and nothing else.
        ask(server, tmp_path, questions(30), api_key=KEY)
        assert len(submitted(server)[1]) == len(errors)


@pytest.mark.parametrize(
    "flags",
    [
        ("--fail-rate", "0.3", "--status", "500"),
        ("--fail-rate", "0.3", "--status", "429"),
        ("--batch-expire", "0.3"),
    ],
)
def test_what_passes_is_submitted_again(
    tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "SUBMISSIONS", 20)
    with start_server(*flags) as server:
        assert_right(ask(server, tmp_path, questions(20)), 20)
        assert len(submitted(server)) > 1


@pytest.mark.parametrize(
    "flags",
    [
        ("--drop-reply",),
        ("--file-late", "2"),
        ("--lose-output", "2"),
        pytest.param(("--poll-fail", "12"), marks=pytest.mark.slow),
        ("--break-output", "2"),
        ("--batch-lines", "not JSON\n[]\n{}\n\n\x85" + '{"custom_id": "nobody"}\n{"custom_id": 5, "error": []}\n'),
    ],
)
def test_what_passes_costs_no_second_batch(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with start_server(*flags) as server:
        assert_right(ask(server, tmp_path, questions(20)), 20)
        assert (len(submitted(server)), answered(server)) == (1, 20)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"response": {"status_code": 200, "body": {"choices": [{"message": {"content": 5}}]}}}, "no completion: 5"),
        ({"response": {"status_code": 200, "body": "<html>"}}, "no completion: <html>"),
        ({"response": {"status_code": "200"}}, "HTTP 200: None"),
        ({"response": [], "error": None}, "its line has neither a response nor an error"),
        ({"response": {"status_code": 200, "body": nested(400)}}, "cannot be read"),
        ({}, "its line has neither a response nor an error"),
        ({"error": {"code": "batch_cancelled", "message": "stopped"}}, "stopped"),
    ],
)
def test_lines_that_say_nothing_final(line: dict[str, Any], said: str) -> None:
    with pytest.raises(Transient, match=said):
        outcome(line, True, KEY)


@pytest.mark.parametrize("error", ["no", ["no"], {"code": "invalid", "message": "no"}, {"message": "no"}])
def test_an_error_without_a_response_is_final(error: object) -> None:
    completion = outcome({"error": error}, True, KEY)
    assert (completion.finish_reason, completion.error.strip("[']")) == ("error", "no")


def test_a_line_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotdistill.backends.batch_server.MAX_LINE_BYTES", 2**20)
    with start_server("--reply", "x" * 2**15, "--batch-lines", "") as server:
        ask(server, tmp_path, questions(3))
        monkeypatch.setattr("cotdistill.backends.batch_server.MAX_LINE_BYTES", 2**14)
        monkeypatch.setattr("cotdistill.backends.batch_server.CHUNK_BYTES", 2**13)
        found = ask(server, tmp_path / "new", questions(3))
        assert {c.error for c in found.values()} == {
            "3 batches brought no completion, the last: the batch had no line for it"
        }


def test_prompts_that_cannot_be_sent(tmp_path: Path) -> None:
    requests = [Request(("half \ud800",), SAMPLED), Request(("long " * 400,), SAMPLED), *questions(2)]
    with start_server() as server:
        found = ask(server, tmp_path, requests, max_bytes=1000)
        assert [len(ids) for ids in submitted(server)] == [2]
    errors = [c.error for c in found.values() if c.finish_reason == "error"]
    assert [error.split(":")[0] for error in errors] == [
        "the prompt cannot be sent",
        "its line is longer than a batch may be",
    ]


def test_polls_grow_rare(tmp_path: Path) -> None:
    with start_server("--batch-seconds", "1") as server:
        assert_right(ask(server, tmp_path, questions(3), poll_seconds=0.05), 3)
        assert server.stats()["poll"] <= 10


def test_a_budget_stops_what_is_not_submitted(tmp_path: Path) -> None:
    found: Found = {}
    budget = Budget(Amount(7, 10**6, 1), tmp_path / "spent.json")
    with start_server() as server:
        with pytest.raises(BudgetReached, match=r"limits\.max_requests=7 is reached"):
            ask(server, tmp_path, questions(10), found, max_requests=3, budget=budget, price=Price(1, 2))
        assert [len(ids) for ids in submitted(server)] == [3, 3, 1]
    assert len(found) == 7
    prompt, written = (sum(getattr(c, f"{kind}_tokens") for c in found.values()) for kind in ("prompt", "completion"))
    assert budget.spent[:2] == (7, prompt + written)
    assert budget.spent.usd == pytest.approx((prompt + 2 * written) / 1e6)
    assert budget.held == pytest.approx(NOTHING, abs=1e-12)


def test_what_a_batch_holds_of_the_budget_is_settled_by_the_run_that_reads_it(tmp_path: Path) -> None:
    path, most = tmp_path / "spent.json", Amount(100, 10**6, 1)
    with start_server("--batch-seconds", "2") as server:
        interrupt = threading.Timer(1, signal.raise_signal, [signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            ask(server, tmp_path, questions(5), budget=Budget(most, path))
        interrupt.join()
        left = Budget(most, path)
        assert left.spent.requests == 5 == left.lost.requests
        found = ask(server, tmp_path, questions(5), budget=(again := Budget(most, path)))
        assert answered(server) == 5
    assert again.spent == Amount(5, sum(c.prompt_tokens + c.completion_tokens for c in found.values()))


def test_live_and_batch_completions_are_the_same_rows(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"api_key": KEY, "api": "chat", "system": "Be brief."}
    batch = BatchBackend("m", "https://a.example/v1/", tmp_path / "b.jsonl", **arguments)
    assert batch.identity == OpenAIBackend("m", "https://a.example/v1/", **arguments).identity


def client(base_url: str, journal: str, out: str) -> None:
    """What the processes of the tests below run: ask for what is not in the file `out`, in three batches."""
    backend = BatchBackend("fake", base_url, Path(journal), KEY, poll_seconds=0.05, max_requests=5)
    with Path(out).open("a+", buffering=1) as file:
        file.seek(0)
        stored = {json.loads(line)[0] for line in file}
        missing = [request for request in questions(12) if request.prompt[0] not in stored]
        for request, _, completion in backend.generate(iter(missing)):
            file.write(json.dumps([request.prompt[0], completion.text]) + "\n")


def start_client(server: Server, folder: Path) -> subprocess.Popen[str]:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_batch_backend as t; t.client(*sys.argv[2:])"
    arguments = [str(Path(__file__).parent), server.base_url, str(folder / "batches.jsonl"), str(folder / "out")]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("flags", "reached", "uploads"),
    [
        (("--batch-seconds", "1.5"), "poll", 3),
        (("--stall", "upload"), "upload", 4),  # the first file was never whole
        (("--stall", "before"), "create", 4),  # its file is uploaded again: it may hold what is not wanted by now
        pytest.param(("--stall", "after", "--batch-seconds", "1.5"), "create", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_and_run_again(tmp_path: Path, flags: tuple[str, ...], reached: str, uploads: int) -> None:
    with start_server(*flags) as server:
        with start_client(server, tmp_path) as process:
            wait_for(lambda: server.stats()[reached] > 0)
            process.kill()
        log = finish(server, tmp_path)
        assert_paid_once(server, tmp_path)
        assert server.stats()["upload"] == uploads
    assert KEY not in log + (tmp_path / "batches.jsonl").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"batches.jsonl", "out"}, "an input file was left"


def finish(server: Server, folder: Path) -> str:
    with start_client(server, folder) as process:
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    return log


def assert_paid_once(server: Server, folder: Path) -> None:
    """All answers are there, and each was paid once."""
    answers = [json.loads(line) for line in (folder / "out").read_text().splitlines()]
    assert sorted(answers) == sorted([q.prompt[0], rationale(i)] for i, q in enumerate(questions(12)))
    assert Counter(custom_id for ids in submitted(server) for custom_id in ids).most_common(1)[0][1] == 1
    assert answered(server) == 12


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    with start_server("--batch-seconds", "0.7", "--latency", "0.03") as server:
        for _ in range(4):
            before = calls(server)
            with start_client(server, tmp_path) as process:
                wait_for(lambda: process.poll() is not None or calls(server) > before)  # noqa: B023 - called here only
                time.sleep(chance.choice([0, 0, chance.uniform(0, 0.06), chance.uniform(0, 2)]))
                process.kill()
        finish(server, tmp_path)
        assert_paid_once(server, tmp_path)


def calls(server: Server) -> int:
    stats = server.stats()
    return sum(stats[call] for call in ("upload", "create", "list", "poll"))


def test_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    with start_server("--batch-seconds", "600") as server, start_client(server, tmp_path) as process:
        wait_for(lambda: server.stats()["poll"] > 0)
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, log
    assert "batch batch_0 and 2 more: the server is at work; the same command takes up the completions." in log
    assert KEY not in log


def test_a_batch_is_found_among_many(tmp_path: Path) -> None:
    with start_server() as server:
        ask(server, tmp_path / "before", questions(6), max_requests=2)
        assert_right(ask(server, tmp_path, questions(9)), 9)
        ask(server, tmp_path / "after", questions(10), max_requests=2)
        journal = tmp_path / "batches.jsonl"
        journal.write_text(journal.read_text().split("\n")[0] + "\n")  # as if killed before the reply
        assert_right(ask(server, tmp_path, questions(9)), 9)
        assert len(submitted(server)) == 3 + 1 + 5
        assert "batch_3" in journal.read_text()


def test_what_was_lost_on_its_way_to_the_store_is_read_again(tmp_path: Path) -> None:
    with start_server() as server:
        assert_right(ask(server, tmp_path, questions(8)), 8)
        assert_right(ask(server, tmp_path, questions(8)), 8)
        asked = backend(server, tmp_path).generate(iter(questions(10)))
        assert len([next(asked) for _ in range(5)]) == 5
        asked.close()  # in the middle of what was read before; two are new
        assert_right(ask(server, tmp_path, questions(10)), 10)
        assert ([len(ids) for ids in submitted(server)], answered(server)) == ([8, 2], 10)


def test_a_batch_that_the_server_does_not_know(tmp_path: Path) -> None:
    with start_server("--batch-seconds", "600") as server, start_client(server, tmp_path) as process:
        wait_for(lambda: server.stats()["poll"] > 0)
        process.kill()
    noted = (tmp_path / "batches.jsonl").read_text()
    with start_server("--port", str(server.port)) as another:
        with pytest.raises(BackendError, match=r"does not know batch batch_0.*\n.*remove .*batches.jsonl"):
            ask(another, tmp_path, questions(12))
        assert submitted(another) == []
    assert (tmp_path / "batches.jsonl").read_text() == noted


def test_a_server_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cotdistill.backends.batch_server.MAX_SILENT", 4)
    with start_server("--poll-fail", "5") as server:
        with pytest.raises(BackendError, match=r"HTTP 503: .*, 4 times in a row.\nRun the same command again"):
            ask(server, tmp_path, questions(4))
        assert_right(ask(server, tmp_path, questions(4)), 4)
        assert (len(submitted(server)), answered(server)) == (1, 4)


def test_output_that_is_gone_is_paid_again_by_another_command_only(tmp_path: Path) -> None:
    with start_server("--lose-output", "2") as server:
        with pytest.raises(BackendError, match=r"file file-1 of batch batch_0 is gone.\n.* 4 requests again"):
            ask(server, tmp_path, questions(4), limits=LimitsConfig(retries=1))
        assert len(submitted(server)) == 1
        assert_right(ask(server, tmp_path, questions(4)), 4)
        assert len(submitted(server)) == 2


def test_no_server_is_said_soon(tmp_path: Path) -> None:
    nowhere = BatchBackend("fake", "http://127.0.0.1:1/v1", tmp_path / "j", poll_seconds=0.01)
    with pytest.raises(BackendError, match=r"no server answers at http://127.0.0.1:1/v1 .*\nStart it"):
        list(nowhere.generate(iter(questions(2))))
    with start_server() as server:
        other = BatchBackend("fake", f"{server.base_url}/nothing", tmp_path / "j")
        with pytest.raises(BackendError, match="not every server has the files and batches endpoints"):
            list(other.generate(iter(questions(2))))
        secure = BatchBackend("fake", server.base_url.replace("http:", "https:"), tmp_path / "j", poll_seconds=0.01)
        with pytest.raises(BackendError, match=r"teacher\.base_url is right to say https"):
            list(secure.generate(iter(questions(2))))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"base_url": "http://example.com/v1", "api_key": KEY}, BackendError, "unencrypted"),
        ({"base_url": "ftp://example.com/v1"}, ConfigError, "not an HTTP address"),
        ({"api_key": "sk-\u00e4"}, ConfigError, "no HTTP header"),
        ({"api": "completions", "system": "x"}, ConfigError, "no system message"),
    ],
)
def test_what_cannot_work(tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        BatchBackend(**{"model": "m", "base_url": "http://localhost/v1", "journal": tmp_path, **options})


def test_the_journal_keeps_what_was_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "batches.jsonl"
    journal = Journal(path)
    assert not path.exists()
    journal.name(journal.add("file-0", ["a-0", "b-0"]), "batch_0")
    journal.end(done := journal.add("file-1", ["c-0", "d-0"]), ["d-0"])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"nonce": "12')  # killed while it wrote
    again = Journal(path)
    held = {name: entry and entry.batch for name in "abcde" for entry in [again.holding(f"{name}-0")]}
    assert held == {"a": "batch_0", "b": "batch_0", "c": "", "d": None, "e": None}
    again.add("file-2", ["d-0"])
    assert Journal(path).holding("d-0")
    monkeypatch.setattr("time.time", lambda: done.time + 31 * 86400)
    aged = Journal(path)
    assert [bool(aged.holding(f"{name}-0")) for name in "abcd"] == [True, True, False, True]


@pytest.mark.parametrize("text", ["nonsense\n", "[]\n", '{"batch": "b"}\n', '{"nonce": "x", "batch": "b"}\n'])
def test_a_damaged_journal_is_named(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "j").write_text(text)
    with pytest.raises(DataError, match=str(path)):
        Journal(path)
    assert path.read_text() == text


def test_a_journal_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with start_server() as server, pytest.raises(DataError, match=r"cannot be kept here.*\nCheck the path"):
        ask(server, tmp_path / "file", questions(1))
