"""A run's folder read again: its page, its table, its questions in a terminal; nothing is asked or written."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cotdistill import cli
from cotdistill.config import load_quickstart
from cotdistill.evaluate import evaluate, score
from cotdistill.measure import write_predictions
from cotdistill.methods import METHODS
from cotdistill.pipeline import run
from cotdistill.records import Generation, Question, Score, to_json
from cotdistill.reports.folders import read_page
from cotdistill.reports.inspector import TEACHER, training_rows
from cotdistill.reports.inspector import test_rows as rows_of
from cotdistill.reports.report import MOST_BYTES, write_report
from cotdistill.results.compare import Comparison, Summary
from cotdistill.results.costs import Costs
from cotdistill.results.mistakes import Mistake, mistakes_of
from cotdistill.runs import write_json
from test_report import make_page

LINE = '{"question_id": "a", "index": 0, "text": "", "answer_text": null, "finish_reason": "stop", "predicted": null, '
LINE += '"category": "wrong", "lenient": false, "question": "", "gold": "", "mistakes": [{"kind": %s, "evidence": ""}]}'
NOBODY = ("--wrong", "--method", "fine_tune_cot-0")
WRITTEN = {"zero_shot": " 3", "fine_tune_cot-0": " So it is. --> {} END"}


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recorded teacher, with what two methods wrote for its test questions; no student is trained."""
    runs = tmp_path_factory.mktemp("runs")
    this = run(load_quickstart({"runs": str(runs), "name": "one", "task.train": 12, "task.test": 6}), until="curate")
    results = []
    for name, text in WRITTEN.items():
        method = METHODS[name.removesuffix("-0")]
        written = [text.format(q.answer) for q in this.task.test]
        generations = [Generation(q.id, 0, t, None, "stop", 9, 4) for q, t in zip(this.task.test, written, strict=True)]
        generations[0] = Generation(this.task.test[0].id, 0, "", None, "error", error="\x1b[31mHTTP 500")
        scores = [score(g, q, method, this.answer_type) for g, q in zip(generations, this.task.test, strict=True)]
        this.predictions[name] = generations, scores
        this.mistakes[name] = [
            mistakes_of(g, q, s, method, this.answer_type, "number")
            for g, q, s in zip(generations, this.task.test, scores, strict=True)
        ]
        results.append(to_json(evaluate(generations, scores, method, 0 if name.endswith("-0") else None)))
    for name in WRITTEN:
        write_predictions(this, name, this.predictions[name][1])
    write_json(this.folder / "result.json", {"task": this.task.name, "results": results})
    return this.folder


@pytest.fixture
def folder(curated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(curated, tmp_path / "runs" / "one"))


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    codes: list[int] = []
    cli.main(list(words), codes.append)
    out, err = capsys.readouterr()
    return codes[0], out, err


def content(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_of_several_teachers_has_its_own_mistakes(folder: Path) -> None:
    """Their samples have the same indices."""
    page = read_page(folder)
    question, rationales = page.rationales[0]
    (g, s, fate), *_ = rationales
    twice = [(replace(g, teacher=name), s, fate) for name in ("a", "b")]
    found = {(question.id, 0): (Mistake("other", "of a"),), (question.id, 1): (Mistake("form", "of b"),)}
    (row,) = training_rows(replace(page, rationales=[(question, twice)], mistakes={TEACHER: found}))
    assert [answer.mistakes[0].evidence for answer in row.answers] == ["of a", "of b"]
    assert len(page.mistakes[TEACHER]) == sum(len(of_question) for _, of_question in page.rationales)


def test_what_became_of_each_rationale_adds_up_to_the_ledger(folder: Path) -> None:
    page = read_page(folder)
    counts = Counter(fate for _, rationales in page.rationales for _, _, fate in rationales)
    dropped = {reason: n for reason, n in page.ledger["dropped"].items() if n}
    assert counts == {"kept": page.ledger["kept"], **dropped}
    assert page.n_asked == len(page.rationales) == 12
    assert sum(n for _, n, _ in page.teacher_lengths) == page.ledger["answered"]


def test_a_rationale_that_a_limit_left_out_says_so(folder: Path) -> None:
    pairs = (folder / "pairs.jsonl").read_text().splitlines(keepends=True)
    (folder / "pairs.jsonl").write_text("".join(pairs[:-1]))
    assert Counter(fate for _, some in read_page(folder).rationales for _, _, fate in some)["left_out"] == 1


def test_the_page_is_written_and_nothing_else_is_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(folder.parent)
    code, out, _ = command(capsys, "report", str(folder))
    assert (code, out.strip()) == (0, str(folder / "report.html"))
    after = content(folder.parent)
    page = after.pop(str(folder / "report.html"))
    assert after == before
    assert page.count(b'<details class="question"') == 6
    assert page.count(b'<details class="question training"') == 12
    command(capsys, "report", str(folder))
    assert (folder / "report.html").read_bytes() == page


def test_without_its_task_the_questions_are_those_of_the_predictions(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("name: word_problems", "name: nix"))
    page = read_page(folder)
    lines = map(json.loads, (folder / "predictions" / "zero_shot.jsonl").read_text().splitlines())
    assert [(q.text, q.answer) for q in page.questions] == [(line["question"], line["gold"]) for line in lines]
    (warning,) = page.warnings
    assert "cannot be read again" in warning
    assert page.rationales == []


def test_another_task_under_the_same_name_is_noticed(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1", 1))
    page = read_page(folder)
    assert any("are not those that were asked" in warning for warning in page.warnings)
    assert len(rows_of(page)) == 6
    assert {a.category for row in rows_of(page) for a in row.answers} == {"error", "wrong", "correct"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("result.json", "[", "not as a run leaves it"),
        ("ledger.json", '{"asked": 1}', "ledger.json: not as a run leaves it (no 'questions')"),
        ("student/fine_tune_cot-0/complete.json", "{}", "not as a run leaves it (no 'pairs')"),
        ("predictions/zero_shot.jsonl", LINE % '"x"', "line 1: not a prediction"),
        ("result.json", '{"results": [{"x": 1}]}', "not the results of a run"),
        ("result.json", "[]", "no object"),
        ("predictions/zero_shot.jsonl", '{"text": "x"}', "zero_shot.jsonl, line 1: not a prediction"),
        ("pairs.jsonl", "nix\n", "pairs.jsonl, line 1: not valid JSON"),
        ("pairs.jsonl", "{}\n", "pairs.jsonl, line 1: not a Pair"),
    ],
)
def test_a_spoilt_file_is_named(
    folder: Path, name: str, text: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    code, _, err = command(capsys, "report", str(folder))
    assert code == 3
    assert says in err
    assert "Traceback" not in err


def test_no_run_and_no_folder_say_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (("report", str(folder.parent)), "It has runs: one."),
        (("report", str(folder / "nix")), "no such folder"),
        (("report", str(folder), str(folder)), "named twice"),
        (("report", str(folder), "--format", "pdf"), "not one of md, csv, html"),
        (("report", str(folder), "--format", "md", "--out", "a.md"), "a table goes to stdout"),
        (("view", str(folder / "nix")), "no run is here"),
        (("view", str(folder), "word_problems-0-test-99"), "Did you mean word_problems-0-test-"),
        (("view", str(folder), "--method", "nix"), "it has zero_shot, fine_tune_cot-0"),
    ):
        code, out, err = command(capsys, *words)
        assert code in (2, 3), words
        assert says in err
        assert out == ""


def two(folder: Path) -> list[str]:
    other = Path(shutil.copytree(folder, folder.parent / "=two|<b>"))
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("learning_rate: 0.0001", "learning_rate: 0.5"))
    return [str(folder), str(other)]


def test_what_else_the_folder_has_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What statistics and the study of errors leave there."""
    value = json.loads((folder / "result.json").read_text())
    assert "summaries" not in value, "as an older version left it"
    assert [s.label for s in read_page(folder).summaries] == ["zero_shot", "fine_tune_cot"]
    value["summaries"] = [asdict(Summary("fine_tune_cot", "fine_tune_cot", 2, 0.5, 0.125, 0.2, 0.8, 5))]
    value["comparisons"] = [asdict(Comparison("fine_tune_cot", "fine_tune", 5, 0.25, 0.1, 0.4, 2, 1, 0.01, 0.03))]
    value["costs"] = asdict(Costs(1, 2, 1.5, None, None, {"fine_tune_cot-0": 60}, {}, 1234.0))
    value["warnings"] = ["seen in training"]
    write_json(folder / "result.json", value)
    lines = [json.loads(line) for line in (folder / "predictions/zero_shot.jsonl").read_text().splitlines()]
    for line in lines:
        line["mistakes"] = [{"kind": "misread", "evidence": "<i>99"}]
    (folder / "predictions/zero_shot.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command(capsys, "report", str(folder))
    text = (folder / "report.html").read_text()
    for shown in ("mean of 2 seeds", "+25.0 points", "fine_tune_cot is better", "$1.50", "1,234 answers", "12.5"):
        assert shown in text
    assert "<li>seen in training</li>" in text
    assert "question misread <q" in text
    assert "&lt;i&gt;99" in text
    _, table, _ = command(capsys, "report", str(folder), "--format", "md")
    assert "50.0 ± 12.5 |    20.0–80.0 | 5 |" in table  # noqa: RUF001


def test_a_table_for_a_readme(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "report", *two(folder), "--format", "md")
    table = out.split("\n\n")[0].splitlines()
    assert len({len(line) for line in table}) == 1, "aligned"
    assert len(table) == 2 + 4
    assert table[3] == "| one       | fine_tune_cot |     1 |       100.0 |   56.6–100.0 | 5 |"  # noqa: RUF001
    assert "=two\\|<b>" in table[4]
    assert "word_problems, teacher Qwen" in out


def test_a_table_for_a_spreadsheet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "report", *two(folder), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["run"] for row in rows] == ["one", "one", "'=two|<b>", "'=two|<b>"]
    assert [(row["accuracy"], row["n"], row["errors"]) for row in rows[1:2]] == [("1.0", "5", "1")]


def test_a_table_for_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "report", *two(folder), "--format", "html")
    assert "<td>=two|&lt;b&gt;</td>" in out
    assert out.count("<tr>") == 5


def test_several_runs_are_compared_on_one_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = command(capsys, "report", *two(folder))
    text = Path(out.strip()).read_text()
    assert out.strip() == str(folder.parent / "compare.html")
    assert "2 runs, measured on the same 6 test questions." in text
    assert '<th scope="row">student.learning_rate</th><td>0.0001</td><td>0.5</td>' in text
    assert text.count('<details class="question"') == 6
    assert "&lt;b&gt;: fine_tune_cot-0" in text
    (row,) = re.findall(r"<tr><th scope=\"row\">[^<]*fine_tune_cot – [^<]*</th>.*", text)  # noqa: RUF001
    assert "no difference is shown" in row


def test_runs_of_other_questions_are_not_compared_in_silence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = two(folder)
    for name in WRITTEN:  # the same ids, other questions
        path = Path(folders[1], "predictions", f"{name}.jsonl")
        path.write_text(path.read_text().replace('"question": "', '"question": "Now: '))
    _, out, _ = command(capsys, "report", *folders, "--out", str(folder / "both.html"))
    text = (folder / "both.html").read_text()
    assert "test questions that are not the same" in text
    assert text.count('<details class="question"') == 12
    assert text.count("This question was not asked.") == 12 * 2
    _, out, _ = command(capsys, "report", *folders, "--format", "md")
    assert "NOT measured on the same test questions" in out


def test_questions_in_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ids(*words: str) -> list[str]:
        return [line.split("\t")[0] for line in command(capsys, "view", str(folder), *words)[1].splitlines()[1:]]

    everything = ids()
    assert len(everything) == 6
    assert ids("--wrong") == ids("--disagree")
    assert 0 < len(ids("--wrong")) < 6, "the question whose request failed is not wrong"
    assert ids(*NOBODY) == []
    assert len(ids("--training")) == 12
    assert 0 < len(ids("--training", "--wrong")) < 12


def test_no_question_in_the_terminal_is_said_why(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "0 questions are so." in command(capsys, "view", str(folder), *NOBODY)[2]
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(folder / "config.yaml", begun)
    assert "no curated rationales yet" in command(capsys, "view", str(begun), "--training")[2]


def test_one_question_in_the_terminal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = read_page(folder)
    code, out, err = command(capsys, "view", str(folder), page.questions[0].id)
    assert (code, err) == (0, "")
    assert "[U+001B][31mHTTP 500" in out
    assert "\x1b" not in out
    question = page.questions[1]
    _, out, _ = command(capsys, "view", str(folder), question.id)
    assert question.text in out
    assert f" So it is. --> {question.answer} END" in out
    assert "✗ wrong, read as 3" in out
    _, alone, _ = command(capsys, "view", str(folder), question.id, "--method", "zero_shot")
    assert "So it is" not in alone
    training, rationales = page.rationales[0]
    _, out, _ = command(capsys, "view", str(folder), training.id)
    assert all(g.text.strip() in out for g, _, _ in rationales)
    assert "kept as a training example" in out


@pytest.mark.slow
def test_what_does_not_fit_is_sampled_and_said(tmp_path: Path) -> None:
    questions = [Question(f"n{i}", "?", "1") for i in range(60)]
    generations = [Generation(q.id, i, "word " * 1500, None, "stop") for q in questions for i in range(40)]
    big = make_page(questions=questions, predictions={"zero_shot": (generations, [])}, rationales=())
    write_report(big, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert 0.8 * MOST_BYTES < len(text.encode()) <= 5_000_000
    shown = text.count('<details class="question"')
    assert f"{shown} of 60 test questions are here" in text
    assert "predictions/*.jsonl" in text
    write_report(big, tmp_path / "b.html")
    assert (tmp_path / "b.html").read_text() == text


@pytest.mark.slow
def test_a_thousand_questions_by_six_methods_fit(tmp_path: Path) -> None:
    words = "so he has 12 + 7 = 19 plums left, and then he gives 4 of them to his sister. "
    questions = [Question(f"test-{i}", words * 3, "15") for i in range(1000)]
    lengths = {"zero_shot": 1, "zero_shot_cot": 6, "few_shot_cot": 5, "fine_tune-0": 0}
    predictions = {}
    for name, n in {**lengths, "fine_tune_cot-0": 6, "fine_tune_cot-1": 6}.items():
        generations = [Generation(q.id, 0, f" {words * n} --> 15 END", None, "stop", 90, 99) for q in questions]
        predictions[name] = generations, [Score(q.id, 0, "15", "correct", True) for q in questions]
    write_report(make_page(questions=questions, predictions=predictions, rationales=()), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert text.count('<details class="question"') == 1000
    assert "are here</strong>" not in text
    assert len(text.encode()) <= 5_000_000
