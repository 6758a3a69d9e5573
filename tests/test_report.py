"""The report: nothing a model wrote runs or hides, the same page gives the same bytes, nothing is left out."""

from __future__ import annotations

import dataclasses
import html
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cotdistill.records import CATEGORIES, Category, Generation, Pair, Question, Result, Score
from cotdistill.reports.report import Page, csp_hash, terminal_table, write_report
from cotdistill.reports.showing import visible

CHROMIUM = shutil.which("chromium")
HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></div></details></script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"><a href="javascript:alert(1)">click</a>',
    "invoice \u202egnp.exe",
    "one\u2028two\u0085three\r\nfour",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "{{ 7*7 }} {% raw %}",
    "lone \ud800 surrogate",
    "x" * 5000,
]
LEDGER: dict[str, Any] = {
    "asked": 1280,
    "answered": 1275,
    "failed": 5,
    "kept": 895,
    "dropped": {"wrong": 300, "no_answer": 10, "truncated": 50, "duplicate": 20, "over_per_question": 0},
    "questions": 320,
    "questions_covered": 290,
    "teacher_accuracy": 0.718,
}


def make_result(method: str, seed: int | None, categories: dict[str, int], lenient: int) -> Result:
    n = sum(categories.values()) - categories.get("error", 0)
    accuracy = categories["correct"] / n
    return Result(method, seed, accuracy, accuracy - 0.1, accuracy + 0.05, n, categories, lenient / n, 12.25)


def make_page(**changes: Any) -> Page:
    """A page where every text that a model or a file can hold is hostile."""
    questions = [Question(f"q {i}<b>", f"Q{i}: {text}", text) for i, text in enumerate(HOSTILE)]
    predictions = {}
    for key in ("zero_shot", "fine_tune_cot-0"):
        generations, scores = [], []
        for i, question in enumerate(questions):
            category: Category = CATEGORIES[i % 3] if key == "zero_shot" else "correct"
            generations.append(Generation(question.id, 0, HOSTILE[i], HOSTILE[-i - 1], "stop"))
            scores.append(Score(question.id, 0, HOSTILE[i], category, lenient=True))
        predictions[key] = (generations, scores)
    counts: Counter[str] = Counter(score.category for score in predictions["zero_shot"][1])
    page = Page(
        name=f"run {HOSTILE[0]}",
        task=HOSTILE[0],
        answer_type="number",
        n_train=320,
        n_test=len(questions),
        source=HOSTILE[3],
        verdict=HOSTILE[1],
        results=[
            make_result("zero_shot", None, dict(counts), 10),
            make_result("fine_tune_cot", 0, {"correct": 10}, 10),
        ],
        ledger=LEDGER,
        questions=questions,
        predictions=predictions,
        manifest={"teacher": {"model": HOSTILE[1]}, "versions": ["a", HOSTILE[0]], "command": HOSTILE[6]},
        pairs=[Pair(q.id, 0, q.text, q.answer) for q in questions],
        rationales=[
            (q, [(predictions["zero_shot"][0][i], predictions["zero_shot"][1][i], "kept" if i else "wrong")])
            for i, q in enumerate(questions)
        ],
        n_asked=len(questions),
        warnings=(HOSTILE[0], HOSTILE[4]),
        dev_losses={"fine_tune_cot-0": [(1, 0.9), (2, 0.7)], HOSTILE[0]: [(1, 1.25)]},
        dev_accuracies={"fine_tune_cot-0": [(1, 3, 17), (2, 9, 17)], HOSTILE[0]: []},
    )
    return dataclasses.replace(page, **changes)


def write(page: Page, path: Path) -> str:
    write_report(page, path)
    return path.read_bytes().decode()


class Tags(HTMLParser):
    """Collects the tags and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]


def test_hostile_text_is_shown_and_never_markup(tmp_path: Path) -> None:
    text = write(make_page(), tmp_path / "report.html")
    seen = Tags(text)
    assert seen.tags["script"] == 1  # ours
    assert seen.tags["img"] == 0
    assert not [name for name, _ in seen.attributes if name.startswith("on")]
    links = [value for name, value in seen.attributes if name in ("href", "src", "xlink:href")]
    assert not [link for link in links if not link.startswith(("#", "data:,"))]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    shown = html.unescape(text)
    for hostile in HOSTILE:
        assert visible(hostile) in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("\u202eabc\u2069", "[U+202E]abc[U+2069]"),
        ("\x1b[31m\x00\r", "[U+001B][31m[U+0000][U+000D]"),
        ("\u2028\u0085\ufeff\ud800", "[U+2028][U+0085][U+FEFF][U+D800]"),
        ("−5 é 日本 עברית 👩‍👧", "−5 é 日本 עברית 👩‍👧"),  # noqa: RUF001 - a real minus sign
    ],
)
def test_hidden_characters_are_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_policy_allows_only_our_script(tmp_path: Path) -> None:
    text = write(make_page(), tmp_path / "report.html")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert policy is not None
    assert script is not None
    assert policy[1].startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"script-src '{csp_hash(script[1])}'; img-src data:;" in policy[1]


def test_same_page_gives_same_bytes(tmp_path: Path) -> None:
    assert write(make_page(), tmp_path / "a.html") == write(make_page(), tmp_path / "b.html")


def test_every_question_and_answer_is_there(tmp_path: Path) -> None:
    page = make_page()
    text = write(page, tmp_path / "report.html")
    assert text.count('<details class="question"') == len(page.questions)
    assert text.count('<details class="question training"') == len(page.rationales)
    for question in page.questions:
        assert f'id="q-{html.escape(question.id)}"' in text
        assert f'id="t-{html.escape(question.id)}"' in text
    assert text.count('<div class="answer ') == len(page.questions) * (len(page.predictions) + 1)
    assert "are here</strong>" not in text


def test_unanswered_question_is_not_asked_rather_than_wrong(tmp_path: Path) -> None:
    page = make_page()
    text = write(
        dataclasses.replace(page, predictions={"zero_shot": ([], [])}, rationales=()), tmp_path / "report.html"
    )
    assert text.count('data-categories="not_asked"') == len(page.questions)
    assert "answer wrong" not in text


def test_ledger_adds_up_on_the_page(tmp_path: Path) -> None:
    text = write(make_page(), tmp_path / "report.html")
    for line in ("1,280 = 1,275 + 5", "1,275 = 895 + 380", "380 = 300 + 10 + 50 + 20<", "290 of 320", "71.8%"):
        assert line in text
    assert "does not add up" not in text


def test_teachers_and_further_samples_have_rows_of_their_own(tmp_path: Path) -> None:
    counts = {"answered": 640, "teacher_accuracy": 0.5, "kept": 300, "prompt_tokens": 1000, "completion_tokens": 234}
    teachers = {"<b>weak": counts, "strong": {**counts, "teacher_accuracy": None, "kept": 0}}
    marginal = [{"sample": 0, "right": 200, "tokens": 50000}, {"sample": 1, "right": 0, "tokens": 0}]
    text = write(make_page(ledger={**LEDGER, "teachers": teachers, "marginal": marginal}), tmp_path / "report.html")
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)]
    shown = ["|".join(filter(None, row.split("|"))).replace("\n", "") for row in rows]
    for row in ("&lt;b&gt;weak|640|50.0%|300|1,234", "strong|640|-|0|1,234", "1|200|50,000|4.00", "2|0|0|-"):
        assert row in shown
    alone = write(make_page(ledger={**LEDGER, "teachers": {"one": counts}}), tmp_path / "report.html")
    assert "Each teacher for itself" not in alone


def test_ledger_that_does_not_add_up_says_so(tmp_path: Path) -> None:
    text = write(make_page(ledger={**LEDGER, "kept": 894}), tmp_path / "report.html")
    assert "1,275 ≠ 894 + 380" in text
    assert "does not add up" in text


def test_page_of_a_run_with_nothing_in_it(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"results": [], "ledger": {}, "questions": [], "predictions": {}, "manifest": {}}
    text = write(
        make_page(**empty, pairs=(), rationales=(), dev_losses={}, dev_accuracies={}), tmp_path / "report.html"
    )
    assert "No teacher was asked" in text
    assert "There are no results yet" in text


def test_plot_is_part_of_the_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = write(make_page(), tmp_path / "report.html")
    assert text.count("<svg ") == 4
    assert all(re.search(r' aria-label="[^"]{20,}"', svg) for svg in re.findall(r"<svg [^>]*>", text))
    assert ">zero_shot</text>" in text
    assert ">fine_tune_cot-0 (n=17)</text>" in text
    assert '<td class="n">9 of 17</td>' in text
    without = write(make_page(dev_accuracies={"fine_tune_cot-0": []}), tmp_path / "without.html")
    assert without.count("<svg ") == 3
    assert "Right</th>" not in without


def test_without_matplotlib_the_page_says_how_to_get_the_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write(make_page(), tmp_path / "report.html")
    assert text.count("<svg") == 1, "the flow needs none"
    assert "cotdistill[report]" in text
    assert "Losses as a table" in text


def test_of_several_samples_the_first_is_the_methods_answer(tmp_path: Path) -> None:
    question = Question("one", "?", "8")
    categories: list[Category] = ["correct", "wrong", "wrong"]
    generations = [Generation("one", i, f" {i}", None, "stop") for i in (2, 0, 1)]
    scores = [Score("one", g.index, "8", c, False) for g, c in zip(generations, categories, strict=True)]
    page = make_page(questions=[question], predictions={"vote-0": (generations, scores)}, rationales=())
    text = write(page, tmp_path / "report.html")
    assert 'data-categories="correct"' in text
    assert "vote-0 (1 of 3 right)" in text
    assert re.findall(r"<strong>(vote-0, sample .*?)</strong>", text) == [
        "vote-0, sample 2: its answer",
        "vote-0, sample 0",
        "vote-0, sample 1",
    ]


def test_result_warnings_are_shown_once_and_with_their_method(tmp_path: Path) -> None:
    result = dataclasses.replace(make_result("zero_shot", 3, {"correct": 4}, 4), warnings=("accuracy is 100%", "seen"))
    text = write(make_page(results=[result], warnings=("seen",)), tmp_path / "report.html")
    assert re.findall("<li>(.*?)</li>", text) == ["seen", "zero_shot-3: accuracy is 100%"]
    text = write(make_page(results=[result], warnings=list("abcdeea")), tmp_path / "report.html")
    assert len(re.findall("<li>(.*?)</li>", text)) == 5 + 2
    assert "<summary>3 more</summary>" in text


def test_terminal_table_has_a_row_a_result_and_no_control_characters() -> None:
    results = [
        make_result("fine_tune_cot", 1, {"correct": 3, "wrong": 1, "error": 1}, 3),
        make_result("[red]x\x1b[0m", None, {"correct": 1000}, 1000),
        Result("zero_shot", None, 0.0, 0.0, 0.0, 0, {"error": 4}, 0.0, 0.0),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    rows = [re.findall(r"[^│\s](?:[^│]*[^│\s])?", line) for line in console.export_text().splitlines() if "│" in line]
    assert rows == [
        ["fine_tune_cot", "1", "75.0%", "65.0 to 80.0", "4"],
        ["[red]x[U+001B][0m", "-", "100.0%", "90.0 to 105.0", "1,000"],
        ["zero_shot", "-", "-", "-", "0"],
    ]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_browser_runs_our_script_and_no_other(tmp_path: Path) -> None:
    page = make_page()
    write_report(page, tmp_path / "report.html")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
    url = (tmp_path / "report.html").as_uri() + "#q-q%200%3Cb%3E"
    done = subprocess.run([str(CHROMIUM), *flags.split(), url], capture_output=True, timeout=120, check=True)
    dom = done.stdout.decode()
    n = len(page.questions) + len(page.rationales)
    assert f"Showing {n} of {n} questions" in dom
    assert re.search(r'<details class="question" id="q-q 0(<|&lt;)b(>|&gt;)"[^>]* open', dom)
    assert "<title>owned" not in dom
    assert len(re.findall(r"<script", dom)) == len(re.findall(r"<script>", (tmp_path / "report.html").read_text()))
    assert dom.count('<div class="answer ') == len(page.questions) * (len(page.predictions) + 1)
