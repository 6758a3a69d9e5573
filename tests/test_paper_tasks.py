"""The paper's datasets: row for row as published, split as the authors split them, fetched once and checked."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from numpy.random import RandomState

from cotdistill import cli
from cotdistill.config import TaskConfig
from cotdistill.errors import BackendError, ConfigError, DataError
from cotdistill.methods import methods
from cotdistill.records import Question
from cotdistill.tasks import TASKS, Task, exemplars_of, fold, load_task, paper, raw, without_exemplars
from cotdistill.tasks.exemplars import parse_prompt
from cotdistill.tasks.listing import baselines, rows, unscorable
from cotdistill.tasks.paper import published
from cotdistill.tasks.raw import Raw, raw_file
from cotdistill.tasks.splits import draw, random_split, template_split
from cotdistill.tasks.table import Entry

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the authors' data is not on this machine")

PAPER = [name for name in TASKS if name != "word_problems" and not name.startswith("generated_")]
LOADED = [name for name in PAPER if name != "aqua"]  # its training file is not in the mirror


def config(**values: Any) -> TaskConfig:
    return TaskConfig.model_validate(values)


@cache
def load(name: str, **values: Any) -> Task:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(raw.MIRROR, str(SHARED / "raw"))
        return load_task(config(name=name, **values))


def shared_split(name: str) -> dict[str, Any]:
    split: dict[str, Any] = json.loads((SHARED / "splits" / f"{name}.json").read_text())
    return split


def indices(questions: tuple[Question, ...]) -> list[int]:
    return [int(question.id.rpartition("-")[2]) for question in questions]


def same_rows(name: str, questions: tuple[Question, ...]) -> None:
    lines = (SHARED / "datasets" / f"{name}.jsonl").read_text().strip().split("\n")  # not at U+2028
    expected = {row["index"]: row for row in map(json.loads, lines)}
    assert sorted(indices(questions)) == sorted(expected)
    for question, index in zip(questions, indices(questions), strict=True):
        row = expected[index]
        assert question.id == f"{name}-{index}"
        assert (question.text, question.answer) == (row["question"], row["answer"])
        assert question.rationale == row.get("gold_rationale", "")
        for i, option in enumerate(question.choices):
            assert f"({'ABCDEF'[i]}) {option}" in question.text


# Against the authors' data


@shared
@pytest.mark.parametrize("name", LOADED)
def test_questions_and_splits_are_the_authors(name: str) -> None:
    task, split = load(name), shared_split(name)
    same_rows(name, task.train + task.test)
    assert (indices(task.train), indices(task.test)) == (split["train"], split["test"])
    assert indices(load(name, train=8).train) == split["shots"]["8"]
    for shots, expected in split["shots"].items():
        assert [split["train"][i] for i in draw(len(task.train), int(shots))] == expected
    with pytest.raises(ConfigError, match=f"there are {len(task.test)} test questions"):
        load(name, test=len(task.test) + 1)


@shared
@pytest.mark.parametrize(("name", "templates"), [("multiarith", 120), ("date_understanding", 41)])
def test_template_splits_are_the_authors(name: str, templates: int) -> None:
    task, split = load(name, split="template"), shared_split(name)["template"]
    assert (indices(task.train), indices(task.test)) == (split["train"], split["test"])
    template = {"multiarith": paper.without_numbers_and_names, "date_understanding": paper.before_what_is_the_date}[
        name
    ]
    train, test = ({template(q.text) for q in part} for part in (task.train, task.test))
    assert (len(train | test), len(train), train & test) == (templates, round(0.7 * templates), set())


@shared
def test_aqua_without_its_training_file() -> None:
    items = paper.items((SHARED / "raw" / "AQuA" / "test.json").read_text())
    test = tuple(
        Question(f"aqua-{i}", q.text, q.answer, q.choices, q.rationale) for i, q in enumerate(paper.aqua(items), 97467)
    )
    same_rows("aqua", test)
    split = shared_split("aqua")
    assert (draw(97467, 10_000), indices(test)) == (split["train"], split["test"])
    for shots, expected in split["shots"].items():
        assert [split["train"][i] for i in draw(10_000, int(shots))] == expected
    assert baselines(Task("aqua", "choice", test, test)) == (TASKS["aqua"].random, TASKS["aqua"].majority)
    assert not unscorable(Task("aqua", "choice", test, test), "paper")
    with pytest.raises(DataError, match=r"AQuA/train.json: no such file[^$]*google-deepmind/AQuA.*\(sha256 35b70c7c"):
        load("aqua")


@shared
@pytest.mark.parametrize("name", [name for name in TASKS if name != "aqua"])
def test_what_is_listed_is_what_is_loaded(name: str) -> None:
    task, entry = load(name), TASKS[name]
    assert (len(task.train), len(task.test)) == (entry.train, entry.test)
    assert baselines(task) == (entry.random, entry.majority)
    assert max(len(q.choices) for q in task.train + task.test) == entry.options
    assert (unscorable(task, "typed"), unscorable(task, "paper")) == ([], [])
    repeated = {"multiarith": "5 of 180", "strategy_qa": "1 of 687"}
    assert task.notes == ((f"{repeated[name]} test questions are also training questions",) if name in repeated else ())


def test_the_listed_baselines_are_the_papers() -> None:
    expected = {  # random, as the paper has it, and majority
        "aqua": (20, 24.80),
        "date_understanding": (17.12, 27.93),
        "tracking_shuffled_objects": (33.33, 33.78),
        "coin_flip": (50, 55.33),
        "commonsense_qa": (20, 20.88),
        "strategy_qa": (50, 52.55),
    }
    assert {name: (TASKS[name].random, TASKS[name].majority) for name in expected} == expected
    assert {TASKS[name].random for name in PAPER if name not in expected} == {0}


@shared
@pytest.mark.parametrize("name", PAPER)
def test_exemplars_are_the_authors_and_never_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(raw.MIRROR, str(SHARED / "raw"))
    task = Task(name, TASKS[name].answer_type, (), ()) if name == "aqua" else load(name)
    exemplars = exemplars_of(config(name=name), task)
    left_out = {"date_understanding": {53, 143}, "strategy_qa": {0, 3, 7}}.get(name, set())
    assert set(indices(task.test)) - set(indices(tuple(without_exemplars(task.test, exemplars)))) == left_out
    if name == "tracking_shuffled_objects":
        assert len(exemplars) == 4
        assert not {fold(q.text) for q in task.train + task.test} & {fold(e.text) for e in exemplars}
        return
    authors = json.loads((SHARED / "few_shot_cot.json").read_text())[name]
    assert [(e.text, e.rationale, e.answer) for e in exemplars] == [
        (e["question"], e["rationale"], e["answer"]) for e in authors["exemplars"]
    ]
    asked = methods(exemplars=exemplars)["few_shot_cot"].prompt(Question("", "Why?", "1"))
    assert asked == f"{authors['prompt']}\nQ: Why?\nA:"


@shared
def test_aqua_is_never_asked_its_exemplars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(raw.MIRROR, str(SHARED / "raw"))
    test = list(paper.aqua(paper.items((SHARED / "raw" / "AQuA" / "test.json").read_text())))
    exemplars = exemplars_of(config(name="aqua"), Task("aqua", "choice", (), ()))
    assert (len(exemplars), without_exemplars(test, exemplars)) == (4, test)


# The rules, without the data


def test_tracking_exemplars_are_right() -> None:
    for exemplar in exemplars_of(config(name="tracking_shuffled_objects"), Task("t", "choice", (), ())):
        start, swaps = exemplar.text.split("\n\n")
        found = re.findall(r"([A-Z]\w+) (?:has a|gets|is playing) ([^,.]+)", start)
        held, options = dict(found), [thing for _, thing in found]
        for one, other in re.findall(r"(?:First|Then|Finally), (\w+) and (\w+) ", swaps):
            held[one], held[other] = held[other], held[one]
        (who,) = re.findall(r"At the end of the \w+, (\w+)", swaps)
        assert exemplar.answer == "ABC"[options.index(held[who])]
        assert f"{held[who]} at the end, which is ({exemplar.answer})." in exemplar.rationale


def test_exemplars_are_in_the_wheel() -> None:
    from hatchling.builders.wheel import WheelBuilder

    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    ours = ("word_problems", "generated_coin_flip", "generated_last_letter", "tracking_shuffled_objects")
    assert {f"cotdistill/exemplars/{name}.jsonl" for name in ours} <= files


DATE = {"input": "Today is 01/02/2003. What is the date tomorrow? ", "target_scores": {"a.": 0, "b": 1, "c": 0}}

READERS: list[tuple[paper.Read, dict[str, Any], Question]] = [
    (paper.math_word_problems, {"sQuestion": " 1 + 1 ? ", "lSolutions": [2.0]}, Question("", "1 + 1 ?", "2.0")),
    (paper.math_word_problems, {"sQuestion": "1 + 1 ?", "lSolutions": ["2"]}, Question("", "1 + 1 ?", "2")),
    (paper.multiarith, {"sQuestion": " 1 + 1? ", "lSolutions": [2.0]}, Question("", "1 + 1?", "2")),
    (paper.svamp, {"Body": "One. ", "Question": " Two?", "Answer": 51.0}, Question("", "One. Two?", "51.0")),
    (
        paper.gsm8k,
        {"question": "Sum?", "answer": "500 + 500 = 1,000.\n#### 1,000"},
        Question("", "Sum?", "1,000", rationale="500 + 500 = 1,000."),
    ),
    (
        paper.aqua,
        {"question": "1 + 1? ", "options": ["A)1", "B) 2 "], "rationale": " Two.\n", "correct": "B"},
        Question("", "1 + 1? Answer choices: (A) 1, (B) 2.", "B", ("1", "2"), "Two."),
    ),
    (
        paper.commonsense_qa,
        {"answerKey": "A", "question": {"stem": "Sky?", "choices": [{"text": "blue"}, {"text": "red"}]}},
        Question("", "Sky? Answer choices: (A) blue, (B) red.", "A", ("blue", "red")),
    ),
    (
        paper.tracking_shuffled_objects,
        {"input": "Bob has  ", "target_scores": {"red ball.": 0, "blue ball.": 1}},
        Question(
            "",
            "Bob has \nWhich choice is true? Answer choices: (A) red ball, (B) blue ball.",
            "B",
            ("red ball", "blue ball"),
        ),
    ),
    (paper.symbolic, {"question": "Flip?", "answer": "yes"}, Question("", "Flip?", "yes")),
    (
        paper.strategy_qa,
        {"input": "Frost?", "target": "No. It is hot. Dry.", "target_scores": {"Yes": 0, "No": 1}},
        Question("", "Frost?", "No", rationale="It is hot. Dry."),
    ),
]


@pytest.mark.parametrize(("read", "item", "expected"), READERS)
def test_how_an_item_becomes_a_question(read: paper.Read, item: dict[str, Any], expected: Question) -> None:
    assert list(read([item])) == [expected]


def test_date_options_are_shuffled_by_one_generator() -> None:
    random = RandomState(0)
    for question in paper.date_understanding([DATE] * 5):
        places = random.permutation(3)
        expected = [""] * 3
        for option, place in zip("abc", places, strict=True):
            expected[place] = option
        assert question.choices == tuple(expected)
        assert question.choices["ABC".index(question.answer)] == "b"
        assert question.text.startswith(
            "Today is 01/02/2003. What is the date tomorrow?\nWhich choice is true? Answer "
        )


@pytest.mark.parametrize(
    "text",
    ['[{"a": 1}, {"a": 2}]', '{"name": "x", "examples": [{"a": 1}, {"a": 2}]}', '{"a": 1}\n{"a": 2}\n'],
)
def test_items_of_every_kind_of_file(text: str) -> None:
    assert paper.items(text) == [{"a": 1}, {"a": 2}]


def test_splits() -> None:
    train, test = random_split(10)
    assert (len(train), sorted(train + test)) == (7, list(range(10)))
    assert train == sorted(RandomState(0).permutation(10)[:7])
    train, test = template_split(list("aabbccddeeffgghhiijj"))
    assert [len(train), len(test)] == [14, 6]
    assert all(i ^ 1 in side for side in (train, test) for i in side)


def test_templates() -> None:
    multiarith = paper.without_numbers_and_names
    assert multiarith("Debby had 32 cats and Amy 101.") == multiarith("Luke had 4 cats and Zoe 12.") != ""
    date = paper.before_what_is_the_date
    assert date("It is 4/19/1969. What is the date today?") == date("It is 5/28/1987. What is the date a week ago?")


@pytest.mark.parametrize(
    ("text", "exemplar", "left_out"),
    [
        ("Would a pear sink?", "Yes or no: would a  pear sink?", True),
        ("Hydrogen's number?", "Hydrogen\u2019s number?", True),
        ("Q?\nWhich choice is true? Answer choices: (A) 1.", "Q? Which choice is true? Answer choices: (A) 2.", True),
        ("Q? (A) 1 (B) 2", "Q? (A) 3 (B) 4", True),
        ("Would a pear sink?", "Would a pear float?", False),
        ("Would a pear sink? Answer choices: (A) x.", "Would a pear float? Answer choices: (A) x.", False),
    ],
)
def test_what_counts_as_an_exemplar(text: str, exemplar: str, left_out: bool) -> None:
    question = Question("1", text, "A")
    assert without_exemplars([question], [Question("e", exemplar, "A")]) == ([] if left_out else [question])


def test_a_prompt_is_parsed_back_into_its_exemplars() -> None:
    prompt = "Q: 1 + 1?\nA: One and one.\nThat is 2. The answer is 2.\nQ: 0.5 + 1? Q: no.\nA: Sum. The answer is 1.5."
    assert [(e.text, e.rationale, e.answer) for e in parse_prompt(prompt)] == [
        ("1 + 1?", "One and one.\nThat is 2.", "2"),
        ("0.5 + 1? Q: no.", "Sum.", "1.5"),
    ]


# A thirteenth dataset, from a mirror that is a folder or a server

ITEMS = [{"Body": f"{i} and", "Question": "one?", "Answer": i + 1} for i in range(10)]
CONTENT = json.dumps(ITEMS).encode()
FILE = Raw("Sums/sums.json", "https://example.org/sums.json", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the raw file of the task `sums`."""
    monkeypatch.setitem(TASKS, "sums", Entry("number", published(paper.svamp, FILE), train=7, test=3))
    monkeypatch.setenv("COTDISTILL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "mirror"
    (folder / "Sums").mkdir(parents=True)
    (folder / FILE.path).write_bytes(CONTENT)
    monkeypatch.setenv(raw.MIRROR, str(folder))
    return folder


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and counts."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *arguments: object) -> None:
        self.asked.append(self.path)


@pytest.fixture
def server(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The base URL of a server that has the mirror."""
    Handler.asked.clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Handler, directory=mirror)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv(raw.MIRROR, url + "/")
        yield url
        server.shutdown()
        thread.join()


def sums() -> Task:
    return load_task(config(name="sums"))


def test_a_mirror_that_is_a_folder(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = sums()
    assert {q.id: q.answer for q in task.train + task.test} == {f"sums-{i}": str(i + 1) for i in range(10)}
    assert (len(task.train), len(task.test)) == (7, 3)
    monkeypatch.setenv(raw.MIRROR, mirror.as_uri())
    assert sums() == task
    assert not (tmp_path / "cache").exists()


def test_a_mirror_that_is_a_server_is_asked_once(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sums() == sums()
    assert Handler.asked == ["/" + FILE.path]
    assert (tmp_path / "cache" / "raw" / FILE.path).read_bytes() == CONTENT
    assert f"fetching {server}/{FILE.path}, once" in capsys.readouterr().err.replace("\n", "")


def test_other_content_is_refused_with_both_hashes(server: str, mirror: Path, tmp_path: Path) -> None:
    other = hashlib.sha256(b"[]").hexdigest()
    (mirror / FILE.path).write_bytes(b"[]")
    cached = tmp_path / "cache" / "raw" / FILE.path
    with pytest.raises(DataError) as caught:
        sums()
    for part in (f"{server}/{FILE.path}", other, FILE.sha256, "not kept", FILE.url):
        assert part in str(caught.value)
    assert not cached.exists()
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"[]")
    with pytest.raises(DataError) as caught:
        sums()
    for part in (str(cached), other, FILE.sha256, "Delete it"):
        assert part in str(caught.value)


def test_what_is_not_in_the_mirror(server: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror / FILE.path).unlink()
    with pytest.raises(BackendError, match=r"sums.json: could not be downloaded: HTTP Error 404"):
        sums()
    monkeypatch.setenv(raw.MIRROR, str(mirror))
    with pytest.raises(DataError, match=rf"sums.json: no such file in {raw.MIRROR}.\nPut {FILE.url} there"):
        sums()


@pytest.mark.parametrize("base", ["http://127.0.0.1:1", "http://["])
def test_offline(mirror: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(raw.MIRROR, base)
    with pytest.raises(BackendError) as caught:
        sums()
    for part in (f"{base}/{FILE.path}: could not be downloaded", raw.MIRROR, FILE.path):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "message"), [("MOST_BYTES", f"over 0 bytes; this is not {FILE.path}"), ("SECONDS", "not whole after 0")]
)
def test_a_download_is_bounded(server: str, monkeypatch: pytest.MonkeyPatch, limit: str, message: str) -> None:
    monkeypatch.setattr(raw, limit, 0)
    with pytest.raises(BackendError, match=message):
        raw_file(FILE)


def test_every_file_of_the_table_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Raw] = []
    (tmp_path / "empty.json").write_text("[]")

    def note(file: Raw) -> Path:
        files.append(file)
        return tmp_path / "empty.json"

    monkeypatch.setattr(paper, "raw_file", note)
    for name in PAPER:
        assert TASKS[name].load(config(name=name)) == ((), ())
    assert len(files) == len({file.path for file in files}) == 15
    for file in files:
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert re.match(
            r"https://(raw\.githubusercontent\.com/[\w-]+/[\w-]+/[0-9a-f]{40}|s3\.amazonaws\.com)/", file.url
        )
        assert not SHARED.is_dir() or file.path == "AQuA/train.json" or (SHARED / "raw" / file.path).is_file()


def test_other_splits_are_refused(mirror: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.split=template: sums has one split only"):
        load_task(config(name="sums", split="template"))
    with pytest.raises(ConfigError, match=r"task.split=templates: multiarith has one split only"):
        load_task(config(name="multiarith", split="templates"))


def test_repeated_questions_of_a_published_dataset_are_told(
    mirror: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.dumps(ITEMS[:1] * 10).encode()
    file = Raw("Sums/same.json", "https://example.org", hashlib.sha256(content).hexdigest())
    (mirror / file.path).write_bytes(content)
    monkeypatch.setitem(TASKS, "same", Entry("number", published(paper.svamp, file)))
    assert load_task(config(name="same")).notes == ("3 of 3 test questions are also training questions",)
    assert call("tasks", "check", "same") == 0
    assert "note: 3 of 3 test questions" in capsys.readouterr().out


# The command


def call(*words: str) -> int:
    codes: list[int] = []
    cli.main(list(words), leave=lambda code: codes.append(int(code or 0)))
    return codes[0]


def test_listing_loads_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw, "download", None)
    monkeypatch.setattr(paper, "raw_file", None)
    assert call("tasks") == 0
    header, *lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert header[:4] == ["name", "answer_type", "train", "test"]
    assert [line[0] for line in lines] == list(TASKS)
    assert lines[list(TASKS).index("date_understanding")][:7] == [
        *("date_understanding", "choice", "258", "111", "17.12", "27.93", "6")
    ]
    assert call("tasks", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows()


def test_listing_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert call("tasks") == 0
    text = capsys.readouterr().out
    assert "majority" in text
    assert all(name in text for name in TASKS)


def test_check_names_what_does_not_score(
    mirror: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("tasks", "check", "sums") == 0
    out = capsys.readouterr().out
    assert "sums: 7 train, 3 test, number" in out
    assert "every known answer scores as correct by typed and paper" in out
    content = json.dumps(
        [{**item, "Answer": "two words" if i == 4 else "one"} for i, item in enumerate(ITEMS)]
    ).encode()
    file = Raw("Sums/words.json", "https://example.org", hashlib.sha256(content).hexdigest())
    (mirror / file.path).write_bytes(content)
    monkeypatch.setitem(TASKS, "words", Entry("text", published(paper.svamp, file)))
    assert call("tasks", "check", "words") == DataError.exit_code
    captured = capsys.readouterr()
    assert "paper: words-4\n" in captured.out  # the authors' rule takes spaces out
    assert "do not score as correct by the rule paper" in captured.err
    assert call("tasks", "check", "sum") == ConfigError.exit_code
