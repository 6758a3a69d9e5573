"""Hostile words, from a model or a user: answers, configs, names, odd characters. F13, F14, F18, F19, F21."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cotdistill import cli, math_answers
from cotdistill.answers import RULES, TYPED
from cotdistill.config import Config, load_config
from cotdistill.errors import ConfigError, DataError
from cotdistill.evaluate import score
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Pair, Question, read_jsonl, write_atomic
from cotdistill.reports.report import Page, write_report
from cotdistill.sweeps.sweep import grid
from cotdistill.tasks import exemplars_of, load_task
from servers import start_server

# A verifier that ends its process at certain words: the first n times, by a file that grows at each.
CRASHING = """
import ctypes, os, sys
from pathlib import Path
import math_verify
from cotdistill.math_answers import serve
whole, tries = math_verify.parse, Path(sys.argv[1])
def parse(text, *more, **options):
    if "crash" in text:
        with tries.open("a") as file:
            file.write(text + "\\n")
        if tries.read_text().count(text) <= (1 if "once" in text else 99):
            ctypes.string_at(0) if "segfault" in text else os.kill(os.getpid(), 9)
    return whole("$5$" if "crash" in text else text, *more, **options)
math_verify.parse = parse
serve()
"""


@pytest.fixture
def tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a crashing verifier writes; it is in the place of ours."""
    pytest.importorskip("math_verify")
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, limit[1]))
    math_answers._stop()
    monkeypatch.setattr(math_answers, "_worker", None)
    monkeypatch.setattr(math_answers, "WORKER", [sys.executable, "-c", CRASHING, str(tmp_path / "tries")])
    yield tmp_path / "tries"
    math_answers._stop()
    monkeypatch.setattr(math_answers, "_worker", None)
    resource.setrlimit(resource.RLIMIT_CORE, limit)


@pytest.mark.parametrize(
    ("word", "equal", "times"),
    [
        ("killcrash once", True, 2),
        pytest.param("segfaultcrash once", True, 2, marks=pytest.mark.slow),
        pytest.param("killcrash", False, 2, marks=pytest.mark.slow),
        ("segfaultcrash", False, 2),
    ],
)
def test_f13_a_verifier_that_dies_is_asked_once_more(tries: Path, word: str, equal: bool, times: int) -> None:
    assert math_answers.math_equal("x+x", "2x")
    first = math_answers._worker
    assert math_answers.math_equal(word, "5") is equal
    assert len(tries.read_text().splitlines()) == times
    assert first is not None
    assert first.returncode in (-9, -11)  # reaped
    assert math_answers.math_equal("x+x", "2x")  # the next one is not concerned
    assert not math_answers.math_equal("x+x", "3x")


def test_f13_a_question_whose_verifier_dies_is_wrong_and_the_others_are_right(tries: Path) -> None:
    texts = {"a": "The answer is $x+x$.", "b": "The answer is $segfaultcrash$.", "c": "The answer is $2x$."}
    questions = [Question(name, "?", "2 x") for name in texts]
    generations = [Generation(name, 0, "", text, "stop") for name, text in texts.items()]
    scores = [score(g, q, METHODS["zero_shot_cot"], TYPED["math"]) for g, q in zip(generations, questions, strict=True)]
    assert [s.correct for s in scores] == [True, False, True]


BOMBS = {
    "factorial": "9999999!",
    "factorials": "((((9!)!)!)!)!",
    "power of a sum": "(9+9)^(9^9+9)",
    "power in braces": "9^{9^{9^{9}}}",
    "large exponent": "2^{999}" * 40,
    "5,000 brackets": "(" * 5000 + "1" + ")" * 5000,
    "19 brackets": "(" * 19 + "1" + ")" * 19,
    "nested roots": "\\sqrt{" * 500 + "2" + "}" * 500,
    "some nested roots": "\\sqrt{" * 15 + "2" + "}" * 15,
    "nested fractions": "\\frac{1}{1+" * 300 + "1" + "}" * 300,
    "some nested fractions": "\\frac{1}{1+" * 12 + "1" + "}" * 12,
    "binomial": "\\binom{999999999}{99999999}",
    "sum": "\\sum_{k=1}^{999999999} k^k",
    "product": "\\prod_{k=1}^{999999} k",
    "integral": "\\int_0^1 \\sin(x^{99})^{99} \\exp(x^{x^x}) dx",
    "expansion": "(a+b+c+d+e+f)^{99} - (f+e+d+c+b+a)^{98}",
    "trigonometry": "\\sin(" * 15 + "x" + ")" * 15,
    "matrix": "\\begin{pmatrix}" + " & ".join("x^{99}" for _ in range(20)) + "\\end{pmatrix}",
    "set": "\\{" + ", ".join(map(str, range(60))) + "\\}",
    "code": "().__class__.__bases__[0].__subclasses__()",
    "digits and dots": "1." * 5_000,
    "percent": "%" * 5_000,
    "thousands": "1,000" * 5_000,
    "fractions": "1/2/" * 5_000,
    "ordinals": "first second third " * 3_000,
    "months": "January 1, 2021, " * 3_000,
    "zalgo": "5" + "\u0301" * 20_000,
    "right to left": "\u202e5\u202c" * 5_000,
    "full width": "\uff15" * 5_000,
}
MEASURE = """
import json, pathlib, resource, sys
from cotdistill.answers import RULES
kind, texts = sys.argv[1], json.load(sys.stdin)
abc = ("one", "two", "three")
for rule in RULES.values():
    for text in texts:
        for words in (text, f" 39. The answer is 5{text}", f"The answer is ${text}$."):
            rule[kind].candidates(words, abc), rule[kind].find(words, abc)
            rule[kind].equal(words[:5000], "5"), rule[kind].equal("5", words[:5000])
from cotdistill import math_answers
math_answers._stop()
own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
# On Linux ru_maxrss is that of the parent at first, and pytest is large.
status = pathlib.Path("/proc/self/status")
peak = int(status.read_text().split("VmHWM:")[1].split()[0]) if status.exists() else own.ru_maxrss
print(json.dumps([max(peak, children.ru_maxrss), own.ru_utime + children.ru_utime]))
"""


def measured(kind: str, texts: list[str]) -> tuple[float, float]:
    """MiB and seconds of the processor, the verifier's too, to read texts and compare them, by either rule."""
    command = [sys.executable, "-c", MEASURE, kind]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, seconds = json.loads(done.stdout)
    return size / (1024 if sys.platform == "linux" else 2**20), seconds


@pytest.mark.parametrize(
    "kind", [*sorted(TYPED.keys() - {"integer", "math"}), pytest.param("math", marks=pytest.mark.slow)]
)
def test_f14_hostile_answers_cost_little(kind: str) -> None:
    if kind == "math":
        pytest.importorskip("math_verify")
    size, seconds = measured(kind, list(BOMBS.values()))
    assert size < 1024
    assert seconds < 2 * 3 * len(BOMBS)  # a second each


# fmt: off
PIECES = [
    "the answer is ", "Therefore, ", "= ", "\\boxed{", "}", "{", "(A)", "(B", ")", "A", "$", "\\frac{", "\\sqrt{",
    "^", "_", "-", "1", "0", "9", "7/2", ",", ".", "%", "e", "E+", " ", "\n", "\n\n", "####", "**", "yes", "no",
    "not ", "or ", "two ", "hundred ", "and ", "half ", "January ", "2021", "/", ":", "\u2212", "\xbd", "\u0665",
    "\ud800", "\x00", "\u2028", "!", "\\\\", "\\text{", "\\pi", "x", "True", "None", "[", "]", "'", '"', "option ",
    "choice ", "<think>", "</think>",
]
# fmt: on


@pytest.mark.parametrize("kind", sorted(TYPED.keys() - {"integer"}))
def test_f14_random_answers_are_read_or_not_and_never_an_error(kind: str) -> None:
    if kind == "math":
        pytest.importorskip("math_verify")
    rng = random.Random(14)
    start = time.process_time()
    n = 40 if kind == "math" else 400
    for _ in range(n):
        text, other = ("".join(rng.choices(PIECES, k=rng.randrange(1, 40))) for _ in range(2))
        for rule in RULES.values():
            found = rule[kind].candidates(text, ("x", "y", "z"))
            assert all(isinstance(candidate, str) for candidate in found)
            rule[kind].find(text, ("x", "y", "z"))
            assert rule[kind].equal(text, other) in (True, False)
            for candidate in found[:2]:
                assert rule[kind].equal(candidate, candidate), candidate
    assert time.process_time() - start < n / 10


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code of the command, and what it said, which is short."""
    codes: list[int] = []
    cli.main(list(words), leave=codes.append)
    said = capsys.readouterr().err
    assert codes[0] == 0 or len(said[said.find("cotdistill: ") :].strip().splitlines()) <= 3, said
    assert max(map(len, said.splitlines()), default=0) < 1000
    return codes[0], said


def test_f18_a_config_of_a_gigabyte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    with path.open("wb") as file:
        file.truncate(2**30)
    for verb in ("generate", "sweep"):
        code, said = command(capsys, verb, str(path))
        assert code == 2
        assert "50,000 bytes" in said


NUMBERS = ["0x" + "f" * 5_000, "0b" + "1" * 40_000, "1" + ":1" * 20_000, "1e400", "-1e400", "0x" + "_f" * 5_000]
CONFIGS = [
    *(
        f"{key}: {{{field}: {number}}}"
        for number in NUMBERS
        for key, field in (("teacher", "samples"), ("task", "seed"))
    ),
    *(f"student: {{seeds: [{number}]}}" for number in NUMBERS[:3]),
    "limits: {timeout: 1e400}",
    "task: !!python/name:os.system",
    "task: !!binary aGVsbG8=",
    "task: !!set {a, b}",
    "teachers: [" + "{}," * 5_000 + "{}]",
    "teachers: [[[[]]]]",
    "task: {? {a: 1} : 2}",
    "task: {[1, 2]: 3}",
    "--- a\n--- b",
    "%YAML 9.9\n---\n{}",
    "task: 2001-01-01",
    "runs: 2001-01-01",
    "name: [" + "a, " * 10_000 + "]",
]


@pytest.mark.parametrize("text", CONFIGS, ids=lambda text: ascii(text[:40]))
def test_f18_a_hostile_config_gets_a_short_error_soon(tmp_path: Path, text: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "my.yaml").to_yaml()
    assert time.process_time() - start < 2
    assert len(str(caught.value).splitlines()) <= 3
    assert len(str(caught.value)) < 1000


NAMES = {
    "parent": "../x",
    "absolute": "/etc/x",
    "hidden": ".x",
    "dots": "..",
    "slash": "a/b",
    "backslash": "..\\x",
    "NUL": "a\0b",
    "5 kB": "a" * 5000,
    "drive": "C:x",
    "stream": "x:y",
    "line": "a\nb",
    "end of line": "a\n",
    "half a character": "a\ud800",
    "right to left": "a\u202eb",
    "empty": "",
    "space": "a b",
    "percent": "%2e%2e",
    "tilde": "~x",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_f19_a_run_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "my.yaml").write_text(json.dumps({"name": name, "runs": str(tmp_path / "runs")}))
    with pytest.raises(ConfigError, match="name"):
        load_config(tmp_path / "my.yaml")
    sweep = {"name": name, "grid": {"task.name": [name, "coin_flip"]}, "base": {"runs": str(tmp_path / "runs")}}
    (tmp_path / "sweep.yaml").write_text(json.dumps(sweep))
    try:
        folders = [config.folder.resolve() for _, config in grid(tmp_path / "sweep.yaml", {})]
    except ConfigError:
        folders = []
    assert all(folder.parent == (tmp_path / "runs").resolve() for folder in folders)


@pytest.mark.parametrize("name", [*NAMES.values(), "reasoning_gym/../x", "reasoning_gym/" + "a" * 5000], ids=ascii)
def test_f19_a_task_is_one_of_ours(tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    for values in ({"name": name}, {"exemplars": name or "x"}, {"name": "coin_flip", "split": name}):
        config = Config.model_validate({"task": values}).task
        with pytest.raises((ConfigError, DataError)) as caught:
            exemplars_of(config, load_task(config))
        assert len(str(caught.value)) < 10_000
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("field", ["runs", "store", "task.data", "task.test_data", "teacher.store", "curate.only"])
@pytest.mark.parametrize("path", ["a\0b", "a\ud800b"], ids=ascii)
def test_f19_a_path_that_cannot_be_one_is_named(tmp_path: Path, field: str, path: str) -> None:
    values = {"task": {"data": "x.csv", "answer_type": "number"}} if field == "task.test_data" else {}
    (tmp_path / "my.yaml").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"{field}: a path cannot hold"):
        load_config(tmp_path / "my.yaml", {field: path})


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["generate", "runs={long}"], 3),
        (["generate", "store={long}", "runs={f}/runs"], 3),
        (["generate", "task.data={long}.csv", "task.answer_type=number", "runs={f}/runs"], 3),
        (["generate", "curate.only={long}", "runs={f}/runs", "name=NUL"], 0),
        (["generate", "{long}.yaml"], 2),
        (["score", "{long}", "--answer-type", "number"], 3),
        (["score", "{f}/mine.jsonl", "--answer-type", "number", "--out", "{long}"], 3),
        (["score", "{f}/mine.jsonl", "--answer-type", "number", "--out", "{f}"], 3),
        (["import", "{long}", "--store", "{f}/s.sqlite", "--model", "m"], 3),
        (["import", "{f}/mine.jsonl", "--store", "{f}", "--model", "m"], 3),
        (["import", "{f}/mine.jsonl", "--store", "{f}/s.sqlite", "--model", "m", "--form", "../x"], 2),
        (["init", "{f}/mine.jsonl", "--out", "{long}"], 2),
        (["init", "{f}/mine.jsonl", "--out", "{f}/no/such/my.yaml"], 2),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_f19_a_path_of_5_kb_or_of_no_place_is_an_error_of_ours(
    tmp_path: Path, words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"question": "What is 1 plus 1?", "answer": "2", "output": "2", "rationale": "", "answer_text": ""}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    found, said = command(capsys, *(word.format(f=tmp_path, long="a" * 5000) for word in words))
    assert found == code, said


def test_f19_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "link").symlink_to(other)
    write_atomic(tmp_path / "link", "new")
    assert other.read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


TEXTS = {
    "line separators": "a\u0085b\u2028c\u2029d\x0be\x0cf",
    "CRLF": "a\r\nb\rc\n\n",
    "BOM": "\ufeffa\ufeff",
    "controls": "a\x1b[31m\x00b\x7f",
    "direction": "\u202eabc\u202c \u2066x\u2069",
    "emoji and combining": "\N{GRINNING FACE}\u200d\N{FIRE} e\u0301 \u1e9e",
    "markup": "<script>alert(1)</script></pre>&amp;{{ 7*7 }}",
    "JSON": '{"a": "\\u2028"}\\',
}


@pytest.mark.parametrize("text", ["|".join(TEXTS.values()), "x" * 10**6], ids=["odd", "a line of 1 MB"])
def test_f21_text_comes_through_byte_by_byte(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{text} 12."
    (tmp_path / "reply").write_bytes(text.encode())
    (tmp_path / "mine.jsonl").write_text('{"question": "a?", "answer": 12}\n{"question": "b?", "answer": 12}\n')
    with start_server("--reply-file", str(tmp_path / "reply")) as server:
        values = {
            "runs": str(tmp_path / "runs"),
            "task": {"data": str(tmp_path / "mine.jsonl"), "answer_type": "number", "test_fraction": 0.5},
            "teacher": {"model": "m", "base_url": server.base_url, "samples": 1, "max_tokens": 2**21},
            "curate": {"keep": "all", "loops": "keep"},
        }
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(values))
        code, said = command(capsys, "curate", str(tmp_path / "my.yaml"))
    assert code == 0, said
    folder = tmp_path / "runs" / "quickstart"
    (generation,) = read_jsonl(folder / "generations.jsonl", Generation)
    assert generation.text == generation.answer_text == text
    (pair,) = read_jsonl(folder / "pairs.jsonl", Pair)
    assert text.strip() in pair.completion
    for name in ("generations.jsonl", "pairs.jsonl"):
        assert (folder / name).read_bytes().count(b"\n") == 1
    page = Page("n", "t", "number", 1, 1, "", "", [], {}, [], {}, {}, pairs=[pair])
    write_report(page, folder / "report.html")
    shown = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in shown
    assert "\u202e" not in shown
    assert "\x1b" not in shown


def test_f21_half_a_character_from_a_server_is_a_failure_and_not_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = r'{"choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "\ud800 12."}}]}'
    (tmp_path / "mine.jsonl").write_text('{"question": "a?", "answer": 12}\n{"question": "b?", "answer": 12}\n')
    with start_server("--raw", raw) as server:
        words = [f"task.data={tmp_path}/mine.jsonl", "task.answer_type=number", "teacher.backend=openai"]
        words += ["teacher.model=m", f"teacher.base_url={server.base_url}", "limits.retries=0", "teacher.samples=1"]
        code, said = command(capsys, "curate", *words, f"runs={tmp_path}/runs")
    assert code == 0, said
    (generation,) = read_jsonl(tmp_path / "runs" / "quickstart" / "generations.jsonl", Generation)
    assert (generation.finish_reason, generation.text) == ("error", "")
    ledger = json.loads((tmp_path / "runs" / "quickstart" / "ledger.json").read_text())
    assert (ledger["failed"], ledger["kept"]) == (1, 0)
