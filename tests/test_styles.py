"""What a fine_tune_cot student writes: a rationale in full or short, before the answer or after it, or in a mix."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cotdistill.answers import answer_type
from cotdistill.config import CurateConfig, StudentConfig, load_quickstart
from cotdistill.curate import curate
from cotdistill.errors import ConfigError
from cotdistill.evaluate import score, split_answer
from cotdistill.methods import FORMS, METHODS, STYLES, Method, methods
from cotdistill.pipeline import run
from cotdistill.records import Generation, Pair, Question, Score
from cotdistill.runs import Run
from cotdistill.students.train import fingerprint
from cotdistill.styles import short
from tiny import tiny_model, tiny_t5

SWAPS = "Al has a red ball, and Bo has a blue ball. First, Al and Bo swap balls. What does Al have?"
SHORT = {
    # name: question, answer, rationale, what is left of it
    "equations": ("?", "14", "She has 3 + 4 = 7 figs.\nTwice that is 7 * 2 = 14 figs.", "3 + 4 = 7. 7 * 2 = 14."),
    "as they stand": ("?", "5590", "So $130*($51-$8) = $130*$43 = \n\n$5,590.", "$130*($51-$8) = $130*$43 = $5,590."),
    "units inside": ("?", "10", "So 2 foes * 5 points = 10 points.", "2 foes * 5 points = 10."),
    "once each": ("?", "6", "3 + 3 = 6. Again: 3 + 3 = 6.", "3 + 3 = 6."),
    "signs of print": ("?", "6", "It is 2 \u00d7 3 = 6, or 2 \\times 3 = 6.", "2 \\times 3 = 6."),
    "in brackets": ("?", "9", "Nine (as 45/5=9) or (3 * 3 = 9).", "45/5=9. (3 * 3 = 9)."),
    "a point, a comma": ("?", "1000.5", "Thus 1,000 + 0.5 = 1,000.5, no more.", "1,000 + 0.5 = 1,000.5."),
    "less than nothing": ("?", "-9", "So 54 - 63 = -9.", "54 - 63 = -9."),
    "the answer in the middle": ("?", "8", "3 + 5 = 8 and 20 + 59 = 79.", "3 + 5 = 8. 20 + 59 = 79."),
    "they stop before the answer": ("?", "5", "4 + 6 = 10. Half of it is 5.", "4 + 6 = 10. Half of it is 5."),
    "the answer is no number": ("?", "no", "4 + 0 = 4. 4 is no prime.", "4 + 0 = 4. 4 is no prime."),
    "the answer is a formula": ("?", "\\frac{1}{2}", "6 + 6 = 12. Half.", "6 + 6 = 12. Half."),
    "a date is no fraction": ("?", "9", "3/20/2020 + 176 days = 9/12/2020.", "3/20/2020 + 176 days = 9/12/2020."),
    "part of an unknown": ("?", "7", "So x * 3 + 4 = 7, x = 1.", "So x * 3 + 4 = 7, x = 1."),
    "a part of a number": ("?", "1", "1/2 + 1 = 1 1/2, not 1.", "1/2 + 1 = 1 1/2, not 1."),
    "more than a number": ("?", "7", "3 + 4 = 7x and 6 + 1 = 7/2.", "3 + 4 = 7x and 6 + 1 = 7/2."),
    "the question again": ("Al has 3 figs. How many?", "3", "Al has 3 figs.\n\nSo there are 3.", "So there are 3."),
    "but for case and signs": ('"Now", AL has $3. How?', "3", "Al has $3! How many? It is 3.", "How many? It is 3."),
    "not what was found": (
        SWAPS,
        "blue",
        "Al has a red ball. \nFirst, Al and Bo swap balls. Al has a blue ball. Al has the blue one.",
        "Al has a blue ball. Al has the blue one.",
    ),
    "the last is kept": ("Is it so?", "yes", "Is it so?", "Is it so?"),
    "other numbers": ("It is -5 there. And?", "5", "It is 5 there. So 5.", "It is 5 there. So 5."),
    "nothing": ("?", "5", " \n", ""),
}


@pytest.mark.parametrize("name", SHORT)
def test_short(name: str) -> None:
    text, answer, rationale, left = SHORT[name]
    assert short(Question("1", text, answer), rationale) == left


FORM_NAMES = [*FORMS, "seq2seq"]


def student(form: str, rationale: Any) -> Method:
    return methods("paper" if form == "seq2seq" else form, form == "seq2seq", rationale=rationale)["fine_tune_cot"]


FIGS = Question("1", " Jo has {3} figs and buys 4. How many? ", " 7 ")
RATIONALE = "\nSo she has 3 + 4 = 7 figs. "
WRITTEN = {
    # form: prompt of full and short, theirs of a full rationale, prompt of answer_first, and its completion
    "paper": ("{} ###", " {} --> 7 END", "{} ###", " 7 <-- {} END"),
    "paper_gpt3": ("{}\n\n###\n\n", " {}\n\n-->\n\n7 END", "{}\n\n ### \n\n", " 7\n\n<--\n\n{} END"),
    "natural": (
        "Q: {}\n\nA: Let's think step by step.\n\n",
        " {}\n\nTherefore, the answer is\n\n7 END",
        "Q: {}\n\nA:",
        " 7\n\nExplanation: {} END",
    ),
    "chat": ("{}", "{}\n\nTherefore, the answer is 7", "{}", "7\n\nExplanation: {}"),
    "seq2seq": ("{}", "{} --> 7", "{}", "7 Explanation: {}"),
}


def written(method: Method, question: Question = FIGS, rationale: str = RATIONALE) -> tuple[str, str]:
    assert method.completion is not None
    return method.prompt(question), method.completion(question, rationale)


@pytest.mark.parametrize("form", FORM_NAMES)
def test_words_of_each_form_and_style(form: str) -> None:
    asked, explained, asked_first, first = WRITTEN[form]
    question, whole, short_one = FIGS.text.strip(), RATIONALE.strip(), "3 + 4 = 7."
    assert written(student(form, "full")) == (asked.format(question), explained.format(whole))
    assert written(student(form, "short")) == (asked.format(question), explained.format(short_one))
    assert written(student(form, "answer_first")) == (asked_first.format(question), first.format(whole))
    mixed = student(form, {"full": 1, "short": 1, "answer_first": 1})
    assert written(mixed) == written(student(form, "full")), "the first named is asked as it is alone"
    assert [written(other) for other in mixed.others] == [
        (asked.format(f"{question} [short]"), explained.format(short_one)),
        (asked_first.format(f"{question} [answer first]"), first.format(whole)),
    ]


def test_a_student_that_answers_first_is_asked_for_no_more() -> None:
    for form in FORM_NAMES:
        method, plain = student(form, "answer_first"), methods()["fine_tune"]
        assert method.max_tokens == plain.max_tokens
        assert method.mark in method.stop
        assert student(form, "short").stop == student(form, "full").stop == method.stop[1:]


ANSWERS = [
    *[("number", "5"), ("number", "1,234.5"), ("number", "-3"), ("integer", "39"), ("choice", "B"), ("yes_no", "no")],
    *[("text", "yajo"), ("text", "New York"), ("text", "(B)"), ("date", "05/01/2021"), ("math", "\\frac{1}{2}")],
]


def judged(form: str, method: Method, text: str, rule: str, kind: str, gold: str) -> Score:
    question = Question("1", "Q?", gold, choices=("one", "two", "three") if kind == "choice" else ())
    generation = Generation("1", 0, text, None, "stop")
    return score(generation, question, method, answer_type(rule, kind, 3 if kind == "choice" else 0))


@pytest.mark.parametrize("form", FORM_NAMES)
@pytest.mark.parametrize(("rule", "kind", "gold"), [("typed", *row) for row in ANSWERS] + [("paper", "text", "yajo")])
def test_what_is_written_is_read(form: str, rule: str, kind: str, gold: str) -> None:
    """Stopped as a backend does, or not, and with the white space that a model may leave out or add."""
    rationale = "It is not 12, no, and not (C) or 06/02/2020 or Rome."
    for style in STYLES:
        method = student(form, style)
        _, text = written(method, Question("1", "Q?", gold), rationale)
        stopped = min((text.partition(stop)[0] for stop in method.stop), key=len, default=text)
        assert len(stopped) < len(text) or form in ("chat", "seq2seq")
        ran_on = [text, f"{text} 77", text.replace("\n", " ")] if method.mark else []
        for one in (stopped, *ran_on):
            assert judged(form, method, one, rule, kind, gold).category == "correct", one
        read = split_answer(Generation("1", 0, text, None, "stop"), method, answer_type(rule, kind))
        assert [str(part).strip().removesuffix(" END") for part in read] == [rationale, gold]


@pytest.mark.parametrize("form", FORM_NAMES)
def test_an_answer_that_is_missing_or_cut_is_none(form: str) -> None:
    method = student(form, "answer_first")
    assert method.mark
    assert judged(form, method, f" {method.mark} It is 5.", "typed", "number", "5").category == "no_answer"
    cut = Generation("1", 0, " 12", None, "length")
    assert score(cut, Question("1", "Q?", "12"), method, answer_type("typed", "number")).category == "truncated"


MIX: dict[str, float] = {"short": 2, "full": 1, "answer_first": 5}


def names(mixed: Method, samples: list[tuple[str, int]]) -> list[str]:
    styles = dict(zip(map(id, (mixed, *mixed.others)), MIX, strict=True))
    return [styles[id(mixed.style_of(*sample))] for sample in samples]


def test_shares_of_a_mix_in_any_order() -> None:
    mixed = student("paper", MIX)
    samples = [(f"q{i}", index) for i in range(1000) for index in range(4)]
    drawn = names(mixed, samples)
    shares = {style: n / len(samples) for style, n in Counter(drawn).items()}
    assert shares == pytest.approx({style: weight / 8 for style, weight in MIX.items()}, abs=0.02)
    for index in range(4):  # each by itself: D = 1 is mixed as D = 4 is
        part = Counter(drawn[index::4])
        assert {s: n / 1000 for s, n in part.items()} == pytest.approx({s: w / 8 for s, w in MIX.items()}, abs=0.05)
    assert names(mixed, samples[::-1]) == drawn[::-1]
    assert names(student("chat", {s: w / 3 for s, w in MIX.items()}), samples[:100]) == drawn[:100]
    first = ["answer_first", "short", "full", "short", "answer_first", "answer_first"]
    assert drawn[:6] == first, "the students of a mix would be trained again"
    assert mixed.style_of("half a \ud800", 0)


def curated(tmp_path: Path, rationale: Any, processes: int = 1, n: int = 12) -> list[Pair]:
    texts = (" Jo has {a} figs. So it is {a} + {i} = {b}.", " Jo has {a} figs. So {a} and {i} are {b}.")
    questions = [Question(f"q{a}", f"Jo has {a} figs and buys. How many?", str(a + 1)) for a in range(2, 2 + n)]
    generations = [
        Generation(q.id, i, text.format(a=q.id[1:], i=1, b=q.answer), f" {q.answer}", "stop")
        for q in questions
        for i, text in enumerate(texts)
    ]
    teacher, kind = METHODS["zero_shot_cot"], answer_type("typed", "number")
    made = curate(
        generations, questions, teacher, student("paper", rationale), kind, CurateConfig(), tmp_path / "p.jsonl",
        processes=processes,
    )  # fmt: skip
    assert made.ledger["kept"] == 2 * n
    return made.pairs


def test_pairs_of_each_style(tmp_path: Path) -> None:
    full, brief, first = (curated(tmp_path, style) for style in STYLES)
    asked = "Jo has 2 figs and buys. How many?"
    assert [(pair.prompt, pair.completion) for pair in (*full[:2], *brief[:2], *first[:2])] == [
        (f"{asked} ###", " Jo has 2 figs. So it is 2 + 1 = 3. --> 3 END"),
        (f"{asked} ###", " Jo has 2 figs. So 2 and 1 are 3. --> 3 END"),
        (f"{asked} ###", " 2 + 1 = 3. --> 3 END"),
        (f"{asked} ###", " So 2 and 1 are 3. --> 3 END"),
        (f"{asked} ###", " 3 <-- Jo has 2 figs. So it is 2 + 1 = 3. END"),
        (f"{asked} ###", " 3 <-- Jo has 2 figs. So 2 and 1 are 3. END"),
    ]
    mixed = curated(tmp_path, MIX)
    of_style = dict(zip(STYLES, (full, brief, first), strict=True))
    for i, (pair, style) in enumerate(
        zip(mixed, names(student("paper", MIX), [(p.question_id, p.index) for p in mixed]), strict=True)
    ):
        assert pair.completion == of_style[style][i].completion
        named = "" if style == "short" else f" [{style.replace('_', ' ')}]"
        assert pair.prompt == full[i].prompt.replace(" ###", f"{named} ###")


@pytest.mark.slow
def test_a_mix_is_the_same_in_any_number_of_processes(tmp_path: Path) -> None:
    assert curated(tmp_path, MIX, 4, 5000) == curated(tmp_path, MIX, 1, 5000)


NO_STYLES: list[Any] = [{}, 3, None, ["full"]]


@pytest.mark.parametrize(
    ("rationale", "message"),
    [
        ("shrt", r"student\.rationale: no style 'shrt'. Did you mean 'short'\?"),
        ({"full": 1, "answer": 1}, r"student\.rationale: no style 'answer'. Did you mean 'answer_first'\?"),
        ({"full": 0, "short": 1}, "the weight of full must be a number above 0"),
        ({"full": True, "short": 1}, "the weight of full"),
        ({"full": "2", "short": 1}, "the weight of full"),
        ({"full": float("inf"), "short": 1}, "the weight of full"),
        ({"full": float("nan"), "short": 1}, "the weight of full"),
        ({1: 1}, "no style 1; known"),
        *[(value, "a style, or several with their weights, of full, short, answer_first") for value in NO_STYLES],
    ],
)
def test_a_style_that_is_not_known_is_refused(rationale: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_quickstart({"student.rationale": rationale})


def test_the_config_keeps_the_order_of_a_mix(tmp_path: Path) -> None:
    config = load_quickstart({"student.rationale": {"short": 2, "full": 0.5}})
    assert list(config.student.rationale) == ["short", "full"]
    assert "  rationale:\n    short: 2.0\n    full: 0.5\n" in config.to_yaml()
    assert load_quickstart({"student.rationale": {"short": 3}}).student.rationale == "short"
    assert StudentConfig().rationale == "full"


def test_the_fingerprint_is_that_of_the_pairs(tmp_path: Path) -> None:
    """A student that was made before there were styles is the same still, and one of answers alone in any style."""
    base = tiny_model(tmp_path / "tiny")
    pair = Pair("1", 0, "Q? ###", " R --> 5 END")
    full, first, mixed = (StudentConfig(model=str(base), rationale=style) for style in ("full", "answer_first", MIX))
    assert fingerprint([pair], full, 0) == fingerprint([pair], first, 0) == fingerprint([pair], mixed, 0)


SEVENS = [{"q": f"What is {a} and {7 - a}?", "a": 7, "why": f"As {a} + {7 - a} = 7."} for a in range(1, 7)]


def taught(folder: Path, base: Path, rationale: Any, **changes: Any) -> Run:
    """A run in which a tiny student learns that all is 7."""
    (folder / "sevens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SEVENS))
    task = {"data": folder / "sevens.jsonl", "question": "q", "answer": "a", "answer_type": "number"}
    settings: dict[str, Any] = {
        **{f"task.{key}": str(value) for key, value in task.items()},
        **{"task.train": None, "task.test": None, "task.rationale": "why", "teacher.style": "human"},
        **{"runs": str(folder / "runs"), "name": "sevens", "evaluate.methods": ["fine_tune_cot"]},
        **{"student.model": str(base), "student.rationale": rationale, "student.max_length": 0},
        **{"student.steps": 100, "student.learning_rate": 5e-3, "student.batch_size": 4, "student.dev_fraction": 0},
        **{"student.select": "last", **changes},
    }
    return run(load_quickstart(settings))


@pytest.mark.slow
def test_a_student_that_answers_first_is_stopped_there(tmp_path: Path) -> None:
    this = taught(tmp_path, tiny_model(tmp_path / "tiny"), "answer_first")
    assert this.curated
    assert all(pair.completion.startswith(" 7 <-- As ") for pair in this.curated.pairs)
    (result,) = this.results
    assert result.accuracy == 1
    generations, scores = this.predictions["fine_tune_cot-0"]
    assert {(g.text, g.finish_reason, s.predicted) for g, s in zip(generations, scores, strict=True)} == {
        (" 7 ", "stop", "7")
    }
    assert result.completion_tokens == len(" 7 <--"), "of a character each"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["natural", "chat", "seq2seq"])
def test_a_student_of_another_form_answers_first(form: str, tmp_path: Path) -> None:
    base = tiny_t5(tmp_path / "t5") if form == "seq2seq" else tiny_model(tmp_path / "tiny", chat=True)
    changes = {"student.steps": 500, "student.format": "paper" if form == "seq2seq" else form}
    this = taught(tmp_path, base, {"answer_first": 1, "short": 1}, **changes)
    (result,) = this.results
    assert result.accuracy == 1
    generations, _ = this.predictions["fine_tune_cot-0"]
    assert {(g.text.strip(), g.finish_reason) for g in generations} == {("7", "stop")}
    assert result.completion_tokens < 32, "it was not stopped at the mark"


def test_t5_can_write_its_mark(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_t5(tmp_path / "t5"))
    mixed = student("seq2seq", {"answer_first": 1, "short": 1})
    for text in (written(mixed)[1], *written(mixed.others[0])):
        ids = tokenizer.encode(text.replace("{3}", "3"))
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text.replace("{3}", "3")
