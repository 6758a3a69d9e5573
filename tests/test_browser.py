"""The page in a real browser: filters, search, links, keys, no request, no fault that axe-core finds.

Pictures of it are left in the folder of COTDISTILL_SCREENSHOTS, else in pytest's own (--basetemp).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cotdistill.answers import TYPED
from cotdistill.methods import METHODS, teacher_method
from cotdistill.records import Category, Generation, Pair, Question, Score
from cotdistill.reports.report import Page, write_report
from cotdistill.results.compare import Comparison, Summary
from cotdistill.results.costs import AnswerCost, Costs
from cotdistill.results.mistakes import Mistake
from test_report import LEDGER, make_page, make_result

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright (pip install playwright)"),
]

CATEGORIES: list[tuple[Category, Category]] = [
    ("wrong", "correct"),
    ("correct", "correct"),
    ("no_answer", "correct"),
    ("correct", "wrong"),
    ("wrong", "wrong"),
    ("error", "truncated"),
]


def example_page() -> Page:
    """Six test questions that two methods answer in different ways, and two training questions."""
    questions = [Question(f"apples {i}", f"Ann has {i} apples and buys 5. How many?", str(i + 5)) for i in range(6)]
    predictions: dict[str, tuple[list[Generation], list[Score]]] = {"zero_shot": ([], []), "fine_tune_cot-0": ([], [])}
    for question, categories in zip(questions, CATEGORIES, strict=True):
        for (name, (generations, scores)), category in zip(predictions.items(), categories, strict=True):
            read = question.answer if category == "correct" else "99" if category == "wrong" else None
            text = f" {read}" if name == "zero_shot" else f" She buys 5 more. --> {read} END"
            error = "HTTP 500" if category == "error" else ""
            generations.append(Generation(question.id, 0, text, None, "error" if error else "stop", 9, 7, error))
            scores.append(Score(question.id, 0, read, category, False))
    rationales = []
    for i in range(2):
        question = Question(f"pears {i}", f"Bob has {i} pears and eats none. How many?", str(i))
        fates = [("kept", str(i)), ("wrong", "7")]
        rationales.append(
            (
                question,
                [
                    (
                        Generation(question.id, k, f"He has {read}.", f" {read}.", "stop", 9, 7),
                        Score(question.id, k, read, "correct" if fate == "kept" else "wrong", True),
                        fate,
                    )
                    for k, (fate, read) in enumerate(fates)
                ],
            )
        )
    results = [
        dataclasses.replace(
            make_result(name, seed, {c: [s.category for s in predictions[key][1]].count(c) for c in TALLIED}, 2),
            low=0.1,
        )
        for name, seed, key in (("zero_shot", None, "zero_shot"), ("fine_tune_cot", 0, "fine_tune_cot-0"))
    ]
    return Page(
        name="apples",
        task="apples",
        answer_type="number",
        n_train=2,
        n_test=6,
        source="made for a test",
        verdict="This run does not show that rationales help.",
        results=results,
        ledger={**LEDGER, "prompt_tokens": 100, "completion_tokens": 50},
        questions=questions,
        predictions=predictions,
        manifest={"task": {"name": "apples"}, "seeds": [0]},
        pairs=[Pair("pears 0", 0, "Bob has 0 pears. ###", " He has 0. --> 0 END")],
        warnings=["six questions show little"],
        dev_losses={"fine_tune_cot-0": [(1, 0.9), (2, 0.7)]},
        dev_accuracies={"fine_tune_cot-0": [(1, 3, 17), (2, 9, 17)]},
        summaries=[Summary("fine_tune_cot", "fine_tune_cot", 2, 0.5, 0.1, 0.2, 0.8, 6)],
        comparisons=[Comparison("fine_tune_cot", "zero_shot", 5, 0.2, -0.1, 0.5, 2, 1, 0.4, 0.4)],
        costs=Costs(
            100,
            50,
            0.012,
            0.0001,
            0.0002,
            {"fine_tune_cot-0": 300.0},
            {"zero_shot": AnswerCost(7, 0.1, None, None)},
            None,
        ),
        mistakes={
            "fine_tune_cot-0": {("apples 4", 0): (Mistake("calculation", "4 + 5 = 99"),)},
            "teacher": {("pears 0", 1): (Mistake("misread"),)},
        },
        rules_measured="On labelled texts the rules find 3 of 10 mistakes.",
        teachers=["a large one"],
        student="a small one",
        rationales=rationales,
        n_asked=2,
        trained={
            "pairs": 895,
            "examples": 850,
            "over_long_dropped": 5,
            "lengths": [[10, 800], [90, 95]],
            "max_length": 80,
        },
        teacher_lengths=[(20, 30, 0), (64, 5, 5)],
        max_tokens=64,
        reader=TYPED["number"],
        methods={"zero_shot": METHODS["zero_shot"], "fine_tune_cot-0": METHODS["fine_tune_cot"]},
        teacher_method=teacher_method("zero_shot_cot"),
    )


TALLIED: tuple[Category, ...] = ("correct", "wrong", "no_answer", "truncated", "error")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(example_page(), path)
    return path


class Watched:
    """A tab that remembers what it asked for and complained of."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.tab: Tab = browser.new_page(**options)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("console", lambda message: self.faults.append(message.text) if message.type == "error" else None)
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.url = path.as_uri()
        self.tab.goto(self.url)

    def shown(self) -> list[str]:
        found: list[str] = self.tab.eval_on_selector_all("details.question:not([hidden])", "all => all.map(q => q.id)")
        return found

    def close(self) -> None:
        self.tab.close()
        assert self.faults == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


def grave_faults(watched: Watched) -> dict[str, list[str]]:
    """What axe-core finds in the tab that is serious or worse: some of the places of each fault."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        watched.close()
        pytest.skip("no axe-core (pip install axe-playwright-python): faults are not looked for")
    watched.tab.add_script_tag(path=Path(spec.origin).parent / "axe.min.js")
    found = watched.tab.evaluate("axe.run({preload: false})")["violations"]  # its own requests are not the page's
    return {v["id"]: [n["html"][:200] for n in v["nodes"][:3]] for v in found if v["impact"] in ("serious", "critical")}


@pytest.fixture
def page(browser: Browser, report: Path) -> Iterator[Watched]:
    watched = Watched(browser, report, viewport={"width": 1100, "height": 900})
    yield watched
    watched.close()


ALL = [f"q-apples {i}" for i in range(6)] + ["t-pears 0", "t-pears 1"]


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        ({}, ALL),
        ({"which": "test"}, ALL[:6]),
        ({"which": "training"}, ALL[6:]),
        ({"category": "wrong"}, ["q-apples 0", "q-apples 3", "q-apples 4", *ALL[6:]]),
        ({"method": "zero_shot", "category": "wrong"}, ["q-apples 0", "q-apples 4"]),
        ({"method": "fine_tune_cot-0", "category": "truncated"}, ["q-apples 5"]),
        ({"method": "teacher", "category": "kept"}, ALL[6:]),
        ({"method": "zero_shot"}, ALL[:6]),
        ({"a": "zero_shot", "b": "fine_tune_cot-0"}, ["q-apples 0", "q-apples 2", "q-apples 3"]),
        ({"a": "fine_tune_cot-0", "b": "zero_shot", "category": "no_answer"}, ["q-apples 2"]),
        ({"a": "zero_shot", "b": "zero_shot"}, []),
        ({"mistake": "calculation"}, ["q-apples 4"]),
        ({"mistake": "misread", "method": "teacher"}, ["t-pears 0"]),
        ({"mistake": "misread", "method": "zero_shot"}, []),
    ],
    ids=str,
)
def test_filters(page: Watched, chosen: dict[str, str], shown: list[str]) -> None:
    for name, value in chosen.items():
        page.tab.select_option(f"#{name}", value)
    assert page.shown() == shown
    assert page.tab.inner_text("#shown") == f"Showing {len(shown)} of 8 questions"
    page.tab.click("button[type=reset]")
    page.tab.locator("#shown", has_text="Showing 8 of 8 questions").wait_for()


@pytest.mark.parametrize(
    ("words", "shown"), [("APPLES buys", ALL[:6]), ("http 500", ["q-apples 5"]), ("pears eats 7", ALL[6:]), ("nix", [])]
)
def test_search_needs_all_words(page: Watched, words: str, shown: list[str]) -> None:
    page.tab.fill("#search", words)
    assert page.shown() == shown


def test_a_link_to_a_question_works_though_it_is_filtered_out(page: Watched) -> None:
    page.tab.select_option("#mistake", "calculation")
    page.tab.goto(f"{page.url}#q-apples%200")
    page.tab.wait_for_selector("details[id='q-apples 0'][open]")
    assert page.shown() == ALL
    page.tab.click("details[id='q-apples 0'] .link a")
    assert page.tab.url.endswith("#q-apples%200")
    page.tab.click("#mistakes ~ .scroll a >> nth=0")
    page.tab.wait_for_selector("details[id='q-apples 4'][open]")


def focused(tab: Tab) -> str:
    found: str = tab.evaluate("(document.activeElement.closest('details.question') || document.activeElement).id")
    return found


def test_keys(page: Watched) -> None:
    tab = page.tab
    for key, where in (("j", ALL[0]), ("j", ALL[1]), ("ArrowDown", ALL[2]), ("k", ALL[1]), ("ArrowUp", ALL[0])):
        tab.keyboard.press(key)
        assert focused(tab) == where, key
    tab.keyboard.press("o")
    assert tab.locator("details.question[open]").count() == 1
    tab.keyboard.press("Enter")
    assert tab.locator("details.question[open]").count() == 0
    tab.keyboard.press("/")
    tab.keyboard.type("pears j ?")
    assert tab.input_value("#search") == "pears j ?"
    tab.keyboard.press("Escape")
    assert focused(tab) != "search"
    tab.fill("#search", "pears")
    tab.keyboard.press("Escape")
    tab.keyboard.press("j")
    assert focused(tab) == ALL[6], "hidden questions are passed over"
    tab.keyboard.press("?")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("j")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#help").is_visible()


def test_the_answer_is_marked_where_it_was_read(page: Watched) -> None:
    page.tab.click("details[id='q-apples 0'] > summary")
    answers = page.tab.locator("details[id='q-apples 0'] .answer")
    assert [answers.nth(i).locator("mark").all_inner_texts() for i in range(2)] == [["99"], ["5"]]
    assert answers.nth(1).locator("pre").inner_text().strip() == "She buys 5 more. --> 5 END"
    before = answers.nth(1).locator("mark").evaluate("m => m.previousSibling.textContent")
    assert before.endswith("--> ")


def test_without_script_everything_is_there(browser: Browser, report: Path) -> None:
    watched = Watched(browser, report, java_script_enabled=False)
    assert watched.tab.locator("details.question").count() == 8
    assert not watched.tab.locator("#filters").is_visible()
    watched.tab.click("details[id='q-apples 0'] > summary")
    assert watched.tab.locator("details[id='q-apples 0'] pre").first.is_visible()
    watched.close()


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1100, "height": 900}},
    "dark": {"viewport": {"width": 1100, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}},
}


@pytest.mark.parametrize("look", LOOKS)
def test_looks(browser: Browser, report: Path, tmp_path: Path, look: str) -> None:
    """Nothing is wider than the window, axe-core finds no serious fault, and a picture is kept."""
    folder = Path(os.environ.get("COTDISTILL_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    watched = Watched(browser, report, bypass_csp=True, **LOOKS[look])  # for axe-core's own script
    watched.tab.click("details.question > summary >> nth=0")
    watched.tab.click("details.training > summary >> nth=0")
    wide = watched.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    watched.tab.screenshot(path=folder / f"report-{look}.png", full_page=True)
    if look == "light":
        watched.tab.pdf(path=folder / "report-print.pdf")
    assert (folder / f"report-{look}.png").stat().st_size > 20_000
    assert grave_faults(watched) == {}
    watched.close()


def test_in_print_questions_are_there_and_controls_are_not(page: Watched) -> None:
    page.tab.emulate_media(media="print", color_scheme="dark")
    assert not page.tab.locator("#filters").is_visible()
    assert not page.tab.locator("nav").is_visible()
    assert page.tab.locator("details.question").first.is_visible()
    assert page.tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_hostile_text_runs_nowhere_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    hostile = make_page(n_train=10)
    long = Generation(hostile.questions[0].id, 0, "<b>" * 350_000, None, "stop")
    generations, scores = hostile.predictions["zero_shot"]
    predictions = {**hostile.predictions, "zero_shot": ([long, *generations[1:]], scores)}
    write_report(dataclasses.replace(hostile, predictions=predictions), path)
    watched = Watched(browser, path, viewport={"width": 360, "height": 740})
    watched.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    watched.tab.wait_for_timeout(100)
    assert "owned" not in watched.tab.title()
    assert watched.tab.locator("script").count() == 1
    assert watched.tab.locator("main b img, main pre img, main pre a, main pre b").count() == 0
    wide = watched.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    assert "1,043,000 of 1,050,000 characters are left out here" in watched.tab.content()
    watched.close()
