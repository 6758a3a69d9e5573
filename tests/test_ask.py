"""`ask` and `serve` from the command line: answers, mistakes, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cotdistill import cli
from cotdistill.answers import answer_type
from cotdistill.completions import Completion
from cotdistill.errors import DataError
from cotdistill.models import mark_complete
from cotdistill.records import FinishReason, Question
from cotdistill.serving import once
from cotdistill.serving.student import find_student
from serve_runs import QUESTION, Reply, Served, load_fp32, make_run
from tiny import tiny_model, tiny_t5


def call(*words: str) -> int:
    """The command in this process; its exit code."""
    codes: list[int] = []
    cli.main(list(words), leave=codes.append)
    return codes[0]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = ("fine_tune-0", "fine_tune_cot-10", "fine_tune_cot-2")
    return make_run(tmp_path_factory.mktemp("runs"), labels=labels)


def test_which_student(mine: Path, tmp_path: Path) -> None:
    assert find_student(mine).label == "fine_tune_cot-2"  # the first by seed, not by letters
    plain = find_student(mine, "fine_tune-0")
    assert plain.method.max_tokens == 32
    assert plain.name == "mine/fine_tune-0"
    only = make_run(tmp_path, labels=("fine_tune-3",))
    assert find_student(only).label == "fine_tune-3"


def test_of_select_paper_it_is_the_epoch_that_was_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path, overrides={"student.select": "paper"})
    student = run / "student" / "fine_tune_cot-0"
    names = ["epochs/1", "epochs/2", "epochs/3"]
    for name in names:
        mark_complete(tiny_model(student / name), {"epoch": 1})
    mark_complete(student, {"epoch_folders": names})
    with pytest.raises(DataError, match=r"result\.json"):
        find_student(run)
    result = {"method": "fine_tune_cot", "seed": 0, "epochs": [0.1, 0.4, 0.2]}
    (run / "result.json").write_text(json.dumps({"results": [{**result, "seed": 1, "epochs": [0.9]}, result]}))
    assert find_student(run).folder == student / "epochs/2"


@pytest.mark.parametrize("rule", ["typed", "paper"])
@pytest.mark.parametrize(("step", "letter"), [("Sam", "F"), ("(F)", "F"), ("(B)", "B")])
def test_an_answer_is_read_among_the_options_of_its_question(mine: Path, rule: str, step: str, letter: str) -> None:
    question = "Who won? Answer choices: (A) Bob, (B) Kim, (C) Ada, (D) Leo, (E) Mia, (F) Sam."
    written = Completion(f" It is he. --> {step}", "stop")
    read = once.read_answer(find_student(mine), question, written, answer_type(rule, "choice")).answer
    assert read == (letter if rule == "typed" or step != "Sam" else None)


@pytest.mark.parametrize("make", [tiny_model, pytest.param(tiny_t5, marks=pytest.mark.slow)])
def test_ask_prints_what_evaluation_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    run = make_run(tmp_path, make)
    student = find_student(run)
    served = Served("", student, load_fp32(student))
    monkeypatch.setattr("cotdistill.models.has_bf16", lambda: False)
    assert call("ask", str(run), f"  {QUESTION}\n", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    expected = served.direct(student.method.prompt(Question("", QUESTION, "")))
    assert (found["text"], found["finish_reason"]) == (expected.text, expected.finish_reason)
    assert (found["prompt_tokens"], found["completion_tokens"]) == (expected.prompt_tokens, expected.completion_tokens)
    monkeypatch.setattr(sys, "stdin", io.StringIO(QUESTION + "\n"))
    assert call("ask", str(run), "-", "--json") == 0
    assert json.loads(capsys.readouterr().out) == found


# What a student wrote, how it ended -> the rationale, the answer, and what is said.
WRITTEN: list[tuple[str, FinishReason, str, str | None, list[str]]] = [
    (" 2 + 3 = 5. --> 5", "stop", "2 + 3 = 5.", "5", []),
    (" 2 + 3 = 5. --> five", "stop", "2 + 3 = 5.", "5", []),
    (" I do not know. -->", "stop", "I do not know.", None, ["no answer"]),
    (" So it goes on and", "length", "So it goes on and", None, ["cut at 40 tokens", "no answer"]),
    (" 1 1 1 1", "length", "1 1 1 1", None, ["repeating itself", "no answer"]),
    (" \x1b[31m red \u202e --> 7", "stop", "[U+001B][31m red [U+202E]", "7", []),
]


@pytest.mark.parametrize(("text", "reason", "rationale", "answer", "says"), WRITTEN, ids=[w[0] for w in WRITTEN])
def test_what_was_written_is_split_and_read(
    mine: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    reason: FinishReason,
    rationale: str,
    answer: str | None,
    says: list[str],
) -> None:
    student = find_student(mine)
    tokens = 20 if "repeating itself" in says else student.params.max_tokens
    kind = once.answer_type_of_task(student.config.task)
    found = once.read_answer(student, "Why?", Completion(text, reason, 9, tokens), kind)
    once.show(found)
    shown, _, last = capsys.readouterr().out.rstrip("\n").partition("\n\nanswer: ")
    assert (shown, last or None) == (rationale, answer)
    notes = once.minded(found, student.params.max_tokens)
    assert len(notes) == len(says)
    for note, part in zip(notes, says, strict=True):
        assert part in note


@contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "cotdistill", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


TAKEN = "{taken}"
MISTAKES: list[tuple[str, list[str], int, list[str]]] = [
    ("no run", ["ask", "{f}/nowhere", "Why?"], 3, ["nowhere", "config.yaml"]),
    ("the folder of runs", ["serve", "{f}"], 3, ["It has runs: "]),
    ("no student", ["serve", "{f}/empty"], 3, ["no trained student", "to its end"]),
    ("a student misspelt", ["ask", "{f}/mine", "Why?", "--student", "fine_tune_cot_2"], 2, ["'fine_tune_cot-2'"]),
    ("a student's path", ["serve", "{f}/mine", "--student", "../../x\x1b[31m"], 2, ["known: fine_tune_cot-2"]),
    ("an empty question", ["ask", "{f}/mine", " "], 2, ["question is empty"]),
    ("no question", ["ask", "{f}/mine"], 2, ["QUESTION"]),
    ("a long question", ["ask", "{f}/mine", "x" * 2100], 3, ["2105 tokens", "Shorten"]),
    ("other machines without a key", ["serve", "{f}/mine", "--host", "0.0.0.0"], 2, ["COTDISTILL_API_KEY", "--no-key"]),  # noqa: S104
    ("a key that is not there", ["serve", "{f}/mine", "--key-env", "sk-canary"], 2, ["--key-env", "export"]),
    ("a port that is taken", ["serve", "{f}/mine", "--port", TAKEN], 2, ["cannot listen", "--port"]),
    ("a port that is none", ["serve", "{f}/mine", "--port", "99999"], 2, ["--port", "65535"]),
    ("a host that is none", ["serve", "{f}/mine", "--host", "no.such.host.invalid", "--no-key"], 2, ["--host"]),
    ("no slots", ["serve", "{f}/mine", "--slots", "0"], 2, ["slots"]),
    ("an option misspelt", ["serve", "{f}/mine", "--prot", "1"], 2, ["--port"]),
    ("damaged weights", ["ask", "{f}/damaged", "Why?"], 5, ["damaged", "made anew"]),
]


@pytest.mark.parametrize(("words", "code", "named"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_gets_three_lines_that_name_the_fix(
    mine: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, named: list[str]
) -> None:
    folder = mine.parent
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "empty" / "config.yaml").write_text((mine / "config.yaml").read_text())
    if "{f}/damaged" in words:
        run = make_run(folder / "d")
        weights = run / "student" / "fine_tune_cot-0" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-9] + b"123456789")
        words = [word.replace("{f}/damaged", str(run)) for word in words]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [w.replace("{f}", str(folder)).replace(TAKEN, str(taken.getsockname()[1])) for w in words]
        assert call(*words) == code
    output = capsys.readouterr()
    assert output.out == ""
    message = output.err[output.err.find("cotdistill: ") :] if "cotdistill: " in output.err else output.err
    assert len(message.strip().splitlines()) <= (3 if "cotdistill: " in output.err else 6), message
    assert "Traceback" not in message
    assert "\x1b" not in message
    assert "canary" not in message
    for name in named:
        assert name in message


def test_the_address_and_what_to_do_with_it_are_printed(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cotdistill.serving.start import introduce

    introduce(find_student(mine), "http://127.0.0.1:1/v1")
    output = capsys.readouterr()
    assert output.out == "http://127.0.0.1:1/v1\n"
    for part in (
        f"cotdistill export {mine} --student fine_tune_cot-2",
        "--to hf",
        "--to gguf",
        "teacher.style=student",
    ):
        assert part in output.err


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "code"), [(1, 0), (2, 130)])
def test_ctrl_c_waits_for_what_is_written_and_a_second_does_not(mine: Path, signals: int, code: int) -> None:
    """A real process, with a real key from its environment that is never printed."""
    os.environ["MY_KEY"] = "sk-canary"
    with process("serve", str(mine), "--port", "0", "--key-env", "MY_KEY") as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        student = find_student(mine)
        served = Served(address, student, None, "sk-canary")  # type: ignore[arg-type] # it is not asked directly
        replies: list[Reply | ConnectionError | Exception] = []

        def ask() -> None:
            try:
                replies.append(served.chat(n=16, temperature=1, seed=1, max_tokens=1500))
            except (OSError, __import__("http.client").client.HTTPException) as error:
                replies.append(error)

        client = threading.Thread(target=ask)
        client.start()
        end = time.monotonic() + 20
        while not served.ask("GET", "/health").json["writing"]:
            assert time.monotonic() < end
        began = time.monotonic()
        for _ in range(signals):
            server.send_signal(signal.SIGINT)
            time.sleep(0.1)
        if signals == 1:
            with pytest.raises(ConnectionError):
                served.chat()
        assert server.wait(60) == code
        client.join()
        assert (isinstance(replies[0], Reply) and len(replies[0].json["choices"]) == 16) == (signals == 1)
        if signals == 2:
            assert time.monotonic() - began < 5
        assert server.stderr is not None
        said = server.stderr.read()
        assert "sk-canary" not in said
        assert ("ended at once; 1" in said) == (signals == 2)
        assert "Traceback" not in said
    del os.environ["MY_KEY"]


def test_a_run_that_is_served_loads_no_questions(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "load_task", None)
    config = find_student(mine).config.task
    assert once.answer_type_of_task(config).candidates(" 5", ()) == ["5"]
    own = config.model_copy(update={"data": Path("gone.jsonl"), "answer_type": "choice"})
    assert once.answer_type_of_task(own).candidates(" (B)", ()) == ["B"]
