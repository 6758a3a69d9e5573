"""The command as a person meets it: help, exit codes, and the mistakes a new user makes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from cotdistill import cli
from servers import Server, start_server


def call(*words: str) -> int:
    """The command in this process; its exit code."""
    codes: list[int] = []
    cli.main(list(words), leave=codes.append)
    return codes[0]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with start_server("--require-key", "right") as running:
        yield running


def own(folder: Path, *lines: str, name: str = "mine.jsonl") -> str:
    path = folder / name
    path.write_text("".join(line + "\n" for line in lines))
    return f"task.data={path}"


def saved(folder: Path) -> Path:
    """A run's folder, as far as it has a config."""
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("name: old\n")
    return folder / "old"


GOOD = [json.dumps({"question": f"What is {a} plus 2?", "answer": a + 2}) for a in range(20)]
TYPE = "task.answer_type=number"

# What was done wrong -> the words, and what the message must name. {f} is a folder, {url} a live server.
MISTAKES: list[tuple[str, Callable[[Path], list[str]], int, list[str]]] = [
    ("unknown key", lambda f: ["student.epoch=2"], 2, ["student.epoch", "epochs"]),
    ("wrong type", lambda f: ["student.epochs=many"], 2, ["student.epochs", "many"]),
    ("no value", lambda f: ["student.epochs"], 2, ["student.epochs", "cotdistill init"]),
    ("missing config", lambda f: [str(f / "no.yaml")], 2, ["no.yaml", "cotdistill init"]),
    ("bad YAML", lambda f: [str(f / "bad.yaml")], 2, ["bad.yaml, line 2"]),
    ("missing file", lambda f: [f"task.data={f}/no.jsonl", TYPE], 3, ["no.jsonl"]),
    ("no answer type", lambda f: [own(f, *GOOD)], 2, ["answer_type", "number"]),
    ("bad line", lambda f: [own(f, *GOOD, "{oops"), TYPE], 3, ["mine.jsonl", "line 21"]),
    ("missing column", lambda f: [own(f, *GOOD), TYPE, "task.question=questoin"], 3, ["questoin", "'question'"]),
    ("empty answer", lambda f: [own(f, *GOOD, '{"question": "Hm?", "answer": ""}'), TYPE], 3, ["line 21"]),
    ("answer of another type", lambda f: [own(f, '{"question": "Hm?", "answer": "red"}', *GOOD), TYPE], 3, ["red"]),
    ("unknown task", lambda f: ["task.name=coinflip"], 2, ["coinflip", "coin_flip"]),
    ("unknown method", lambda f: ["evaluate.methods=[fine_tune_cott]"], 2, ["fine_tune_cot"]),
    ("no environment variable", lambda f: ["teacher.api_key=${NO_SUCH_KEY}"], 2, ["export NO_SUCH_KEY"]),
    ("a key in the open", lambda f: ["teacher.api_key=sk-secret"], 2, ["environment variable"]),
    (
        "recorded, but other questions",
        lambda f: ["task.seed=5"],
        5,
        ["not in word_problems.sqlite", "teacher.backend"],
    ),
    ("recorded, but hotter", lambda f: ["teacher.temperature=1.0"], 5, ["temperature=1.0", "0.7"]),
    (
        "dead server",
        lambda f: ["teacher.backend=openai", "teacher.model=m", "teacher.base_url=http://127.0.0.1:9/v1"],
        5,
        ["127.0.0.1:9", "teacher.base_url"],
    ),
    ("no scheme", lambda f: ["teacher.backend=openai", "teacher.model=m", "teacher.base_url=host/v1"], 2, ["http"]),
    ("a field without its section", lambda f: ["samples=3"], 2, ["Did you mean teacher.samples?"]),
    ("a name that YAML reads as another thing", lambda f: ["teacher.model=no"], 2, ["it is False", "quotes"]),
    ("questions for a config", lambda f: [own(f, *GOOD)[10:]], 2, ["cotdistill init", "mine.jsonl"]),
    ("a run for its config", lambda f: [str(saved(f))], 2, ["old/config.yaml"]),
    ("asking nothing, and some", lambda f: ["--dry-run", "--pilot", "2"], 2, ["--dry-run asks nothing", "2 questions"]),
    ("no teacher model", lambda f: ["teacher.backend=openai"], 2, ["teacher.model"]),
]


@pytest.mark.parametrize(("words", "code", "named"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_gets_three_lines_that_name_the_fix(
    words: Callable[[Path], list[str]], code: int, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("task: {name: [\n")
    overrides = words(tmp_path)
    folder = [f"runs={tmp_path}/runs"] if "=" in overrides[0] else []
    assert call("generate", *overrides, *folder) == code
    output = capsys.readouterr()
    assert output.out == ""
    message = output.err[output.err.index("cotdistill: ") :]
    assert len(message.strip().splitlines()) <= 3, message
    for name in named:
        assert name in message
    assert "sk-secret" not in message
    assert "Traceback" not in message


def test_a_wrong_key_fails_at_once_with_the_servers_words(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-canary")
    words = ["teacher.backend=openai", "teacher.model=m", f"teacher.base_url={server.base_url}"]
    before = server.stats()["requests"]
    code = call("generate", *words, "teacher.api_key=${WRONG_KEY}", f"runs={tmp_path}/runs")
    message = capsys.readouterr().err
    assert code == 5
    assert "401" in message
    assert "teacher.api_key" in message
    assert server.stats()["requests"] - before <= 16, "a wrong key is no reason to try again"
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    assert "canary" not in message


def test_an_unknown_command_or_option_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("runn") == 2
    assert "run" in capsys.readouterr().err
    assert call("run", "--jsonn") == 2
    assert "--json" in capsys.readouterr().err


def test_help_and_version_need_nothing_heavy() -> None:
    """In a process where torch, transformers and the like cannot be imported at all."""
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'peft', 'scipy', 'aiohttp', 'matplotlib', 'pydantic', 'ray'):\n"
        "    sys.modules[name] = None\n"
        "from cotdistill.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    for word in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "cotdistill" in done.stdout


def test_no_room_for_what_is_printed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    file = full.open("w", buffering=1)
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", file)
        assert call("tasks") == 3
    with suppress(OSError):
        file.close()
    assert "No space left on device" in capsys.readouterr().err


def test_letters_that_the_locale_has_not_are_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "\u05de.jsonl"
    path.write_text('{"output": "4", "answer": "4"}\n')
    printed = BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", TextIOWrapper(printed, encoding="latin-1", write_through=True))
        assert call("score", str(path), "--answer-type", "number") == 0
        assert b"\\u05de.jsonl" in printed.getvalue()


def test_score_reads_a_runs_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "predictions.jsonl"
    lines = [{"text": " 2 + 2 = 4 --> 4", "gold": "4"}, {"text": " so --> 5", "gold": "4"}, {"text": "4", "gold": "4"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call("score", str(path), "--answer-type", "number", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 3
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert call("score", str(path), "--answer-type", "number", "--method", "fine_tune_cot", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 3


def test_tasks_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("tasks") == 0
    assert {"word_problems", "coin_flip", "last_letter_concatenation"} <= {
        line.split("\t")[0] for line in capsys.readouterr().out.splitlines()
    }


def test_init_then_curate_on_a_users_own_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sums.jsonl").write_text("".join(line + "\n" for line in GOOD))
    config = tmp_path / "sums.yaml"
    assert call("init", str(tmp_path / "sums.jsonl"), "--out", str(config)) == 0
    with start_server() as server:
        words = [f"teacher.base_url={server.base_url}", f"runs={tmp_path}/runs"]
        assert call("curate", str(config), *words) == 0
        pairs = Path(capsys.readouterr().out.splitlines()[-1])
        assert call("generate", str(config), *words, "--json") == 0
        assert Path(json.loads(capsys.readouterr().out)["generations"]).is_file()
    assert json.loads(pairs.read_text().splitlines()[0])["completion"].endswith(" END")
