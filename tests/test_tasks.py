"""Tasks: made ones are right and repeatable, own files are read whole or refused with the place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from numpy.random import RandomState

from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question
from cotdistill.tasks import Task, answer_type_of, check, exemplars_of, fold, load_task, symbolic, word_problems
from cotdistill.tasks.files import csv_rows


def config(**values: Any) -> TaskConfig:
    return TaskConfig.model_validate(values)


# Made tasks

MADE = ("word_problems", "generated_coin_flip", "generated_last_letter")


@pytest.mark.parametrize("name", MADE)
def test_sizes_and_no_question_in_both_splits(name: str) -> None:
    task = load_task(config(name=name, train=120, test=60))
    texts = {fold(q.text) for q in task.train + task.test}
    assert (len(task.train), len(task.test), len(texts)) == (120, 60, 180)
    whole = load_task(config(name=name))
    assert (len(whole.train), len(whole.test), whole.notes) == (320, 150, ())


@pytest.mark.parametrize("name", MADE)
def test_question_i_is_the_same_whatever_the_size(name: str) -> None:
    small = load_task(config(name=name, train=20, test=10))
    large = load_task(config(name=name, train=50, test=30))
    assert (small.train, small.test) == (large.train[:20], large.test[:10])
    assert small.train[0] != load_task(config(name=name, train=1, test=1, seed=1)).train[0]


@pytest.mark.parametrize(
    ("make", "text", "answer"),
    [
        (
            symbolic.make_coin_flip,
            "A coin is heads up. A flips the coin. A does not flip the coin. A does not flip the coin. "
            'A flips the coin. Is the coin still heads up? Note that "flip" here means "reverse".',
            "yes",
        ),
        (
            symbolic.make_last_letter,
            'Take the last letters of each words in "A A A A" and concatenate them.',
            "aaaa",
        ),
    ],
)
def test_wording_is_the_papers(make: Callable[[int, int], Question], text: str, answer: str) -> None:
    # The wording is compared with every name written as A and every coin action as the same.
    def masked(text: str) -> str:
        names = re.sub("|".join(rf"\b{name}\b" for name in symbolic.NAMES), "A", text)
        return names.replace("does not flip", "flips")

    assert masked(make(0, 0).text) == masked(text)


def test_coin_flip_answers() -> None:
    questions = [symbolic.make_coin_flip("3", i) for i in range(300)]
    for question in questions:
        flips = question.text.count(" flips the coin.")
        assert flips + question.text.count(" does not flip the coin.") == 4
        assert question.answer == ("yes" if flips % 2 == 0 else "no")
    # Even odds: neither answer alone is a good guess.
    assert 100 < sum(q.answer == "yes" for q in questions) < 200


def test_last_letter_answers() -> None:
    for question in (symbolic.make_last_letter("3", i) for i in range(300)):
        match = re.search(r'"(\w*)(\w) (\w*)(\w) (\w*)(\w) (\w*)(\w)"', question.text)
        assert match
        assert question.answer == match[2] + match[4] + match[6] + match[8]


def test_names_are_a_hundred_different_ones() -> None:
    assert len(set(symbolic.NAMES)) == len(symbolic.NAMES) == 100


# Read from the sentences, not from the tables that made them.
GAIN = re.compile(
    r"\b(finds|gives [A-Z]\w+ \d|buys \d+ \w+ at|get on|bakes|brings|earns|gets|pays back|arrive|join|picks|adds)"
)
LOSS = re.compile(
    r"\b(gives \d|loses|swaps|get off|A customer buys|sells|drops|spends|pays \d|lends|leave|go away|takes|uses|eats"
    r"|borrows|taken away)"
)


def test_word_problem_answers_by_reading_them() -> None:
    for question in (word_problems.make_question("5", i) for i in range(400)):
        opening, *steps, _ending = re.split(r"(?<=[.?]) ", question.text)
        [start] = re.findall(r"\d+", opening)
        total = int(start)
        for step in steps:
            [n] = re.findall(r"\d+", step)
            # A customer who buys takes from the bakery; someone who buys at the market gains.
            loss, gain = bool(LOSS.search(step)), bool(GAIN.search(step))
            assert loss != gain, step
            total += int(n) if gain else -int(n)
            assert total >= 1
        assert question.answer == str(total), question.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "coin_flips"}, "no task 'coin_flips'. Did you mean 'coin_flip'?"),
        ({"name": "zzz"}, "known: word_problems, generated_coin_flip, generated_last_letter, single_eq, addsub, "),
        ({"test_data": "x.csv"}, "task.data is not"),
        ({"name": "generated_coin_flip", "answer_type": "text"}, "has the answer type yes_no"),
        ({"name": "word_problems", "split": "template"}, "task.split=template: word_problems has one split only"),
        ({"data": "x.csv", "answer_type": "text", "split": "s", "test_data": "y.csv"}, "task.split and task.test_data"),
        ({"data": "x.csv", "answer_type": "text", "choices": "options"}, "it must be choice"),
    ],
)
def test_wrong_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_task(config(**values))


ONE, TWO = Question("1", "one?", "1"), Question("2", "two?", "2")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((), (TWO,), "no train questions"),
        ((ONE,), (), "no test questions"),
        ((ONE,), (replace(TWO, id="1"),), "question 1: the id '1' is used twice"),
        ((ONE,), (replace(TWO, text=" one?\n"),), "question 2: this test question is also a training question"),
        ((ONE,), (replace(TWO, answer="two"),), "question 2: the answer 'two' cannot be scored as number"),
        ((ONE,), (replace(TWO, answer="10-5"),), "question 2"),
        ((replace(ONE, answer=""),), (TWO,), "question 1"),
    ],
)
def test_check(train: tuple[Question, ...], test: tuple[Question, ...], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        check(Task("t", "number", train, test))


def test_answer_type_of_a_name() -> None:
    known = ("gsm8k", "date_understanding", "tracking_shuffled_objects", "aqua", "generated_coin_flip", "word_problems")
    assert [answer_type_of(name) for name in known] == [
        ("integer", 0),
        ("choice", 6),
        ("choice", 3),
        ("choice", 5),
        ("yes_no", 0),
        ("number", 0),
    ]
    with pytest.raises(ConfigError, match="Did you mean 'gsm8k'"):
        answer_type_of("gsm8")


# Exemplars

SHOT = {"question": "1 + 1?", "rationale": "One and one are two.", "answer": "2"}


@pytest.mark.parametrize(("name", "n"), [(MADE[0], 6), (MADE[1], 8), (MADE[2], 8)])
def test_our_exemplars_are_right_and_never_asked(name: str, n: int) -> None:
    task = load_task(config(name=name))
    exemplars = exemplars_of(config(name=name), task)
    assert len({fold(e.text) for e in exemplars} - {fold(q.text) for q in task.train + task.test}) == n
    for exemplar in exemplars:
        if name == "generated_coin_flip":
            right = "no" if exemplar.text.count(" flips the coin") % 2 else "yes"
        elif name == "generated_last_letter":
            right = "".join(word[-1] for word in exemplar.text.split('"')[1].split())
        else:
            for sum_, total in re.findall(r"(\d+ [+-] \d+) = (\d+)", exemplar.rationale):
                a, sign, b = sum_.split()
                assert int(a) + int(sign + b) == int(total)
            assert sorted(re.findall(r"\d+", exemplar.text)) == sorted(
                re.findall(r"[+-] (\d+)", exemplar.rationale) + re.findall(r"\d+", exemplar.rationale)[:1]
            )
            right = re.findall(r"\d+", exemplar.rationale)[-1]
        assert exemplar.answer == right, exemplar


def test_exemplars_of_a_file_or_of_another_task(tmp_path: Path) -> None:
    path = write(tmp_path / "shots.jsonl", json.dumps(SHOT))
    data = write(tmp_path / "x.csv", as_csv(ROWS))
    own = {"data": data, "answer_type": "number"}
    task = load_task(config(**own))
    assert exemplars_of(config(**own), task) == ()
    (shot,) = exemplars_of(config(**own, exemplars=str(path)), task)
    assert {"question": shot.text, "rationale": shot.rationale, "answer": shot.answer} == SHOT
    assert len(exemplars_of(config(**own, exemplars="word_problems"), task)) == 6


@pytest.mark.parametrize(
    ("exemplars", "content", "message"),
    [
        ("word_problem", None, "neither a .jsonl file nor a task. Did you mean 'word_problems'?"),
        ("generated_coin_flip", None, "generated_coin_flip, exemplar 1: the answer 'yes' cannot be scored as number"),
        ("shots.jsonl", None, "shots.jsonl: no such file"),
        ("shots.jsonl", {**SHOT, "rationale": ""}, "line 1: the rationale is empty"),
        ("shots.jsonl", {**SHOT, "answer": "two"}, "exemplar 1: the answer 'two' cannot be scored"),
        ("shots.jsonl", {"question": "1?", "answer": "1"}, "line 1: no column 'rationale'"),
    ],
)
def test_wrong_exemplars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exemplars: str, content: dict[str, str] | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        write(tmp_path / exemplars, json.dumps(content))
    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        exemplars_of(config(exemplars=exemplars), Task("t", "number", (ONE,), (TWO,)))


# reasoning-gym


@pytest.mark.parametrize(
    ("name", "answer_type"), [("chain_sum", "number"), ("syllogism", "yes_no"), ("spell_backward", "text")]
)
def test_reasoning_gym(name: str, answer_type: str) -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task(config(name=f"reasoning_gym/{name}", train=30, test=10))
    assert (task.answer_type, len(task.train), len(task.test)) == (answer_type, 30, 10)
    assert not {fold(q.text) for q in task.train} & {fold(q.text) for q in task.test}
    more = load_task(config(name=f"reasoning_gym/{name}", train=40, test=10))
    assert more.test == task.test
    assert more.train[:30] == task.train
    other = load_task(config(name=f"reasoning_gym/{name}", train=30, test=10, seed=1))
    assert not {q.text for q in other.train} >= {q.text for q in task.train[:5]}


def test_reasoning_gym_answers_are_right() -> None:
    pytest.importorskip("reasoning_gym")
    for question in load_task(config(name="reasoning_gym/spell_backward", train=20, test=5)).train:
        assert question.answer[::-1] in question.text


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"name": "reasoning_gym/chain_sums"}, ConfigError, "Did you mean 'chain_sum'?"),
        ({"name": "reasoning_gym/rubiks_cube"}, DataError, "gives no answer to compare with"),
        ({"name": "reasoning_gym/binary_matrix"}, DataError, "cannot be scored as text"),
        ({"name": "reasoning_gym/spell_backward", "answer_type": "number"}, DataError, "cannot be scored as number"),
        ({"name": "reasoning_gym/coin_flip", "train": 400, "test": 400}, DataError, "different test questions"),
    ],
)
def test_reasoning_gym_refuses(values: dict[str, Any], error: type[Exception], message: str) -> None:
    pytest.importorskip("reasoning_gym")
    with pytest.raises(error, match=re.escape(message)):
        load_task(config(**{"train": 8, "test": 4, **values}))


# Your own file

ROWS = [{"question": f"What is {i} plus 1?", "answer": str(i + 1)} for i in range(10)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> str:
    return "\n".join(delimiter.join(r) for r in [list(rows[0]), *(r.values() for r in rows)]) + "\n"


JSONL = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", JSONL),
        ("x.JSONL", "\ufeff" + JSONL.replace("\n", "\r\n\r\n") + "\r\n"),
        ("x.json", json.dumps(ROWS)),
        ("x.json", "\ufeff" + json.dumps([{**r, "answer": int(r["answer"])} for r in ROWS], indent=1)),
        ("x.csv", as_csv(ROWS)),
        ("x.csv", "\ufeff" + as_csv(ROWS).replace("\n", "\r\n") + "\r\n"),
        ("x.tsv", as_csv(ROWS, "\t")),
        ("x.csv", as_csv(ROWS).replace("question,answer", " question, answer ")),
    ],
)
def test_every_format_gives_the_same_split(tmp_path: Path, name: str, content: str) -> None:
    task = load_task(config(data=write(tmp_path / name, content), answer_type="number"))
    expected = [(r["question"], r["answer"]) for r in ROWS]
    order = list(range(10))
    Random(0).shuffle(order)
    assert [(q.text, q.answer) for q in task.train] == [expected[i] for i in sorted(order[:7])]
    assert [(q.text, q.answer) for q in task.test] == [expected[i] for i in sorted(order[7:])]


def test_split_follows_seed_and_fraction(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", JSONL)
    tasks = [
        load_task(config(data=path, answer_type="number", seed=s, test_fraction=f))
        for s, f in [(0, 0.5), (1, 0.5), (0, 0.01), (0, 0.99)]
    ]
    assert tasks[0].test != tasks[1].test
    assert [len(t.test) for t in tasks] == [5, 5, 1, 9]


def test_a_test_file_of_its_own(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", as_csv(ROWS[:6]))
    test = write(tmp_path / "test.jsonl", "\n".join(map(json.dumps, ROWS[6:])))
    task = load_task(config(data=train, test_data=test, answer_type="number"))
    assert [q.id for q in task.train] == ["2", "3", "4", "5", "6", "7"]
    assert [q.id for q in task.test] == ["test-1", "test-2", "test-3", "test-4"]
    assert task.test[3].text == ROWS[9]["question"]


def test_the_column_that_says_the_split(tmp_path: Path) -> None:
    rows = [{**row, "part": "test" if i % 3 == 0 else "train"} for i, row in enumerate(ROWS)]
    values = {"data": write(tmp_path / "x.csv", as_csv(rows)), "answer_type": "number", "split": "part"}
    task = load_task(config(**values))
    assert [q.id for q in task.test] == ["2", "5", "8", "11"]
    assert len(task.train) == 6


def test_fewer_questions_by_the_papers_rule(tmp_path: Path) -> None:
    values = {"data": write(tmp_path / "x.csv", as_csv(ROWS)), "answer_type": "number"}
    whole, some = load_task(config(**values)), load_task(config(**values, train=3, test=2))
    order = {n: [int(i) for i in RandomState(0).permutation(n)] for n in (7, 3)}
    assert some.train == tuple(whole.train[i] for i in sorted(order[7][:3]))
    assert some.test == tuple(whole.test[i] for i in sorted(order[3][:2]))
    with pytest.raises(ConfigError, match=r"task.test=4: there are 3 test questions"):
        load_task(config(**values, test=4))


def test_rationales_that_people_wrote(tmp_path: Path) -> None:
    rows = [{**row, "why": "One more." if i else None} for i, row in enumerate(ROWS)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    task = load_task(config(data=path, answer_type="number", rationale="why"))
    by_id = {q.id: q.rationale for q in task.train + task.test}
    assert by_id == {"1": "", **{str(i): "One more." for i in range(2, 11)}}


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Date? (A) 04/29/2021 (B) 05/01/2021", ("04/29/2021", "05/01/2021")),
        ("Ball? (A) orange ball. (B) white ball. (C) blue ball.", ("orange ball", "white ball", "blue ball")),
        ("Which? Answer choices: (A) x, (B) y.", ("x", "y")),
        ("Which?\n(A) x;\n(B) y z", ("x", "y z")),
        ("Which? (B) x, (A) y.", ()),
        ("Which? (A) x, (C) y.", ()),
        ("Plan (A) is it?", ()),
        ("Which? (A) , (B) y", ()),
        ("Which?", ()),
    ],
)
def test_options_that_the_question_lists(tmp_path: Path, text: str, choices: tuple[str, ...]) -> None:
    rows = [{"question": f"{i}. {text}", "answer": "B"} for i in range(2)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    (question,) = load_task(config(data=path, answer_type="choice")).train
    assert (question.choices, question.answer) == (choices, "B")
    assert question.text.endswith(text)


def test_a_repeated_question_may_be_kept(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", as_csv(ROWS[:6]))
    test = write(tmp_path / "test.csv", as_csv(ROWS[4:]))
    task = load_task(config(data=train, test_data=test, answer_type="number", overlap="keep"))
    assert task.notes == ("2 of 6 test questions are also training questions",)


def test_what_is_there_twice_is_told(tmp_path: Path) -> None:
    rows = [*ROWS[:5], {**ROWS[0], "answer": "99"}, ROWS[1]]
    train = write(tmp_path / "train.csv", as_csv(rows))
    test = write(tmp_path / "test.csv", as_csv([*ROWS[5:], ROWS[5]]))
    task = load_task(config(data=train, test_data=test, answer_type="number"))
    assert task.notes == (
        "2 train questions are there more than once, 1 of them with different known answers",
        "1 test questions are there more than once",
    )


def test_a_folder_in_a_file_s_place(tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.csv"):
        (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
            load_task(config(data=tmp_path / name, answer_type="number"))


def test_quoted_fields_and_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'question,answer\r\n"a, ""b""\r\nc?",1\r\n\r\nd?,2\r\n')
    assert list(csv_rows(path, ",")) == [
        (2, {"question": 'a, "b"\nc?', "answer": "1"}),
        (5, {"question": "d?", "answer": "2"}),
    ]


@pytest.mark.parametrize(
    ("answer_type", "value", "expected"),
    [
        ("number", 3, "3"),
        ("number", 51.0, "51.0"),
        ("number", -0.5, "-0.5"),
        ("number", "1,000", "1,000"),
        ("yes_no", True, "yes"),
        ("yes_no", False, "no"),
        ("yes_no", "Yes", "Yes"),
        ("text", True, "true"),
        ("text", " two words ", "two words"),
        ("choice", "B", "B"),
        ("choice", "(c)", "C"),
    ],
)
def test_answers_are_read(tmp_path: Path, answer_type: str, value: Any, expected: str) -> None:
    rows = [{"q": f"{i}?", "a": value} for i in range(2)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    task = load_task(config(data=path, answer_type=answer_type, question="q", answer="a"))
    assert [q.answer for q in task.train] == [expected]


OPTIONS = {"red": "A", "blue": "B", "green": "C", "b": "B", "(C)": "C", "C.": "C", "Blue": "B"}


@pytest.mark.parametrize(("gold", "letter"), OPTIONS.items())
@pytest.mark.parametrize("options", ['["red", "blue", "green"]', "red|blue| green"])
def test_choices(tmp_path: Path, gold: str, letter: str, options: str) -> None:
    quoted = options.replace('"', '""')
    path = write(
        tmp_path / "x.csv",
        f'question,answer,options\nSky?,{gold},"{quoted}"\nSea? (A) red (B) blue (C) green,{gold},"{quoted}"\n',
    )
    task = load_task(config(data=path, answer_type="choice", choices="options"))
    assert {q.text for q in task.train + task.test} == {
        "Sky? Answer choices: (A) red, (B) blue, (C) green.",
        "Sea? (A) red (B) blue (C) green",
    }
    assert {(q.answer, q.choices) for q in task.train + task.test} == {(letter, ("red", "blue", "green"))}


def test_a_letter_in_brackets_is_never_the_text_of_an_option(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "question,answer,options\n1?,(A),b|a\n2?,(A),b|a\n")
    task = load_task(config(data=path, answer_type="choice", choices="options"))
    assert task.train[0].answer == "A"


def test_choices_of_json(tmp_path: Path) -> None:
    rows = [{"question": f"{i} plus 1?", "answer": i + 1, "options": [i, i + 1, 2.5]} for i in (4, 5)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    task = load_task(config(data=path, answer_type="choice", choices="options"))
    assert [(q.answer, q.choices) for q in task.train + task.test] in (
        [("B", ("4", "5", "2.5")), ("B", ("5", "6", "2.5"))],
        [("B", ("5", "6", "2.5")), ("B", ("4", "5", "2.5"))],
    )


Q = "question,answer\n"
CHOICE = {"answer_type": "choice", "choices": "options"}

# (file name, content, config, what the message holds)
BAD_FILES: list[tuple[str, str | bytes | None, dict[str, Any], list[str]]] = [
    ("x.csv", None, {}, ["x.csv: no such file"]),
    ("x.jsonl", None, {}, ["x.jsonl: no such file"]),
    ("x.json", None, {}, ["x.json: no such file"]),
    ("x.xlsx", "a", {}, ["x.xlsx", ".jsonl, .json, .csv, .tsv"]),
    ("x", "a", {}, ["not read"]),
    ("x.csv", "", {}, ["x.csv: there is no question"]),
    ("x.csv", Q, {}, ["there is no question"]),
    ("x.jsonl", "\n\n", {}, ["there is no question"]),
    ("x.json", "[]", {}, ["there is no question"]),
    ("x.csv", Q + "a?,1\n", {}, ["one question cannot be split", "test_data"]),
    ("x.csv", b"\xff\xfe" + (Q + "a?,1\n").encode("utf-16-le"), {}, ["x.csv: cannot be read as UTF-8"]),
    (
        "x.csv",
        "questions,answer,more\na?,1,2\n",
        {},
        [
            "x.csv, line 2: no column 'question'",
            "Did you mean 'questions'?",
            "questions, answer, more",
            "task.question=",
        ],
    ),
    (
        "x.jsonl",
        '{"question": "a?", "answer": 1}\n\n{"question": "b?", "gold": 1}',
        {},
        ["x.jsonl, line 3: no column 'answer'", "question, gold", "task.answer=COLUMN"],
    ),
    ("x.csv", Q + "a?,1\n", {"id": "key"}, ["no column 'key'", "task.id="]),
    ("x.csv", "question,answer\na?,A\n", CHOICE, ["no column 'options'", "task.choices="]),
    ("x.csv", Q + "a?,1\n  ,2\n", {}, ["x.csv, line 3: the question", "is empty"]),
    ("x.csv", Q + "a?,1\nb?,\n", {}, ["x.csv, line 3: the answer", "is empty"]),
    ("x.csv", Q + "a?,1\n,\n", {}, ["line 3: the question", "is empty"]),
    ("x.jsonl", '{"question": null, "answer": 1}', {}, ["line 1: the question", "is empty"]),
    ("x.jsonl", '{"question": "a?", "answer": null}', {}, ["line 1: the answer", "is empty"]),
    ("x.jsonl", '{"question": ["a?"], "answer": 1}', {}, ["line 1: the question", "must be text"]),
    ("x.jsonl", '{"question": "a\\ud800?", "answer": 1}', {}, ["line 1: the question", "must be text"]),
    ("x.csv", "id,question,answer\nq1,a?,1\nq2,b?,2\nq1,c?,3\n", {"id": "id"}, ["line 4: the id 'q1'", "line 2"]),
    ("x.csv", "id,question,answer\n,a?,1\n", {"id": "id"}, ["line 2: the id", "is empty"]),
    ("x.csv", Q + "a?,1\n a?,1\n", {}, ["also a training question", "line 2", "line 3", "task.overlap=keep"]),
    ("x.csv", "question,answer,s\na?,1,dev\n", {"split": "s"}, ["line 2: the split", "'dev'", "train or test"]),
    ("x.csv", "question,answer,s\na?,1,\n", {"split": "s"}, ["line 2: the split", "is empty"]),
    ("x.csv", Q + "a?,1\n", {"split": "s"}, ["line 2: no column 's'", "task.split=COLUMN"]),
    ("x.csv", Q + "a?,1\n", {"rationale": "anser"}, ["Did you mean 'answer'?", "task.rationale=answer"]),
    ("x.jsonl", '{"question": "a?", "answer": 1, "why": [1]}', {"rationale": "why"}, ["line 1: the rationale", "null"]),
    ("x.csv", Q + "a? (A) x (B) y,C\n", {"answer_type": "choice"}, ["line 2: the answer 'C'", "A to B", "(B) y"]),
    ("x.jsonl", JSONL + "\n{question: 1}", {}, ["x.jsonl, line 11: not valid JSON"]),
    ("x.jsonl", JSONL + "\n[1]", {}, ["x.jsonl, line 11: a JSON object"]),
    ("x.json", JSONL, {}, ["x.json: not valid JSON", ".jsonl"]),
    ("x.json", "{}", {}, ["x.json: a list"]),
    ("x.csv", "question;answer\na?;1\n", {}, ["line 1: one column only, 'question;answer'", "Save it with ','"]),
    ("x.tsv", Q + "a?,1\n", {}, ["one column only", "Save it with '\\t'"]),
    ("x.jsonl", json.dumps(ROWS), {}, ["line 1: a JSON object", "one list has the ending .json"]),
    ("x.jsonl", b"\xff\xfe{", {}, ["x.jsonl: cannot be read as UTF-8", "Save it as UTF-8"]),
    (
        "x.csv",
        "question,answer,s\na?,1,train\n",
        {"split": "s"},
        ["no row is test in column 's'", "leave task.split out"],
    ),
    ("x.json", '[{"question": "a?", "answer": 1}, 2]', {}, ["x.json, item 2: a JSON object"]),
    ("x.json", "[" * 100_000, {}, ["x.json: not valid JSON"]),
    ("x.csv", Q + "a?,1\nb, c?,2\n", {}, ["x.csv, line 3: 3 field(s)", "2 columns", "double quotes"]),
    ("x.csv", Q + "a?,1\nb?\n", {}, ["x.csv, line 3: 1 field(s)", "2 columns"]),
    ("x.csv", Q + 'a?,1\n"b?,2\nc?,3\n', {}, ["x.csv, line 3: not valid CSV"]),
    ("x.csv", "question,answer,answer\na?,1,1\n", {}, ["x.csv, line 1: two columns", "'answer'"]),
    ("x.csv", Q + "a?,1\nb?,twelve\n", {}, ["x.csv, line 3: the answer 'twelve'", "number", "such as 12"]),
    ("x.csv", Q + "a?,1\nb?,3 apples\n", {}, ["line 3: the answer '3 apples'"]),
    ("x.jsonl", '{"question": "a?", "answer": NaN}\n{"question": "b?", "answer": 1}', {}, ["line 1: the answer 'nan'"]),
    ("x.csv", Q + "a?,yes\nb?,maybe\n", {"answer_type": "yes_no"}, ["line 3: the answer 'maybe'", "yes or no"]),
    ("x.csv", Q + "a?,x\nb?,U.S.\n", {"answer_type": "text"}, ["line 3: the answer 'U.S.'", "text", "stop"]),
    (
        "x.csv",
        Q + "a?,A\nb?,12\n",
        {"answer_type": "choice"},
        ["line 3: the answer '12'", "A to Z", "task.choices", "(B)"],
    ),
    ("x.csv", "question,answer,options\na?,D,x|y|z\n", CHOICE, ["line 2: the answer 'D'", "A to C", "(B) y"]),
    ("x.csv", "question,answer,options\na?,w,x|y|z\n", CHOICE, ["line 2: the answer 'w'", "(C) z"]),
    ("x.csv", "question,answer,options\na?,a,b|a\n", CHOICE, ["line 2: the answer 'a'", "A or B"]),
    ("x.csv", "question,answer,options\na?,A,x\n", CHOICE, ["line 2: the choices 'x'", "x|y"]),
    ("x.csv", "question,answer,options\na?,A,x|X\n", CHOICE, ["line 2: the choices", "different"]),
    ("x.csv", 'question,answer,options\na?,A,"[""x"", "\n', CHOICE, ["line 2: the choices", "JSON list"]),
    ("x.jsonl", '{"question": "a?", "answer": "A", "options": {"A": 1}}', CHOICE, ["line 1: the choices"]),
]


@pytest.mark.parametrize(("name", "content", "values", "parts"), BAD_FILES)
def test_bad_files(
    tmp_path: Path, name: str, content: str | bytes | None, values: dict[str, Any], parts: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(DataError) as caught:
        load_task(config(data=path, **{"answer_type": "number", **values}))
    message = str(caught.value)
    assert str(path) in message
    for part in parts:
        assert part in message
    assert len(message.splitlines()) <= 3


def test_a_question_in_both_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", as_csv(ROWS[:6]))
    test = write(tmp_path / "test.csv", as_csv(ROWS[5:]))
    with pytest.raises(DataError) as caught:
        load_task(config(data=train, test_data=test, answer_type="number"))
    assert f"{test}, line 2" in str(caught.value)
    assert f"{train}, line 7" in str(caught.value)
