"""How the raw items of the paper's twelve datasets become questions, word for word as the authors'.

    questions = svamp(items(path.read_text()))

One function a dataset, from all its items to questions without ids. Source:
https://github.com/itsnamgyu/reasoning-teacher, notebooks/old/Data Preparation.ipynb; the answer stays
the string that is stored there ("51.0" in SVAMP). `published` adds ids and splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from numpy.random import RandomState

from cotdistill.config import TaskConfig
from cotdistill.records import Question
from cotdistill.tasks.files import letter, with_options
from cotdistill.tasks.raw import Raw, raw_file
from cotdistill.tasks.splits import Split, draw, drawn, random_split, refuse_split, template_split

Item = dict[str, Any]
Read = Callable[[Sequence[Item]], Iterable[Question]]


def published(
    read: Read, *raw: Raw, template: Callable[[str], str] | None = None, most_train: int | None = None
) -> Callable[[TaskConfig], tuple[Split, Split]]:
    """A task from published files: two are its training and its test questions, one is split at random.

    `template` makes what questions of one template have in common, for `task.split=template`; of more than
    `most_train` training questions that many are drawn.
    """

    def load(config: TaskConfig) -> tuple[Split, Split]:
        if template is None or config.split != "template":
            refuse_split(config)
        parts = [list(read(items(raw_file(file).read_text(encoding="utf-8")))) for file in raw]
        questions = [replace(q, id=f"{config.name}-{i}") for i, q in enumerate(q for part in parts for q in part)]
        if config.split == "template" and template is not None:
            train, test = template_split([template(question.text) for question in questions])
        elif len(parts) == 2:
            n = len(parts[0])
            train = list(range(n)) if most_train is None else draw(n, most_train)
            test = list(range(n, len(questions)))
        else:
            train, test = random_split(len(questions))
        return (
            drawn([questions[i] for i in train], config.train, "train"),
            drawn([questions[i] for i in test], config.test, "test"),
        )

    return load


def items(text: str) -> list[Item]:
    """The items of a raw file: a JSON list, the "examples" of an object, or one object a line."""
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:  # only of one object a line: the file's checksum is right
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    examples: list[Item] = whole if isinstance(whole, list) else whole["examples"]
    return examples


def math_word_problems(items: Sequence[Item]) -> Iterable[Question]:
    """SingleEq and AddSub."""
    return (Question("", item["sQuestion"].strip(), str(item["lSolutions"][0])) for item in items)


def multiarith(items: Sequence[Item]) -> Iterable[Question]:
    return (replace(question, answer=str(int(float(question.answer)))) for question in math_word_problems(items))


def svamp(items: Sequence[Item]) -> Iterable[Question]:
    return (Question("", f"{i['Body'].strip()} {i['Question'].strip()}", str(i["Answer"])) for i in items)


def gsm8k(items: Sequence[Item]) -> Iterable[Question]:
    for item in items:
        rationale, _, answer = item["answer"].partition("#### ")
        yield Question("", item["question"], answer, rationale=rationale.strip())


def aqua(items: Sequence[Item]) -> Iterable[Question]:
    for item in items:
        options = [option[len("A)") :] for option in item["options"]]
        question = choice(item["question"], options, item["correct"])
        yield replace(question, rationale=item["rationale"].strip())


def commonsense_qa(items: Sequence[Item]) -> Iterable[Question]:
    for item in items:
        options = [option["text"] for option in item["question"]["choices"]]
        yield choice(item["question"]["stem"], options, item["answerKey"])


def date_understanding(items: Sequence[Item]) -> Iterable[Question]:
    """The options of each question in another order, by one generator running over all of them."""
    random = RandomState(0)
    return (big_bench_choice(item, random.permutation(len(item["target_scores"])).tolist()) for item in items)


def tracking_shuffled_objects(items: Sequence[Item]) -> Iterable[Question]:
    return (big_bench_choice(item, range(len(item["target_scores"]))) for item in items)


def big_bench_choice(item: Item, places: Sequence[int]) -> Question:
    """A question of BIG-bench; `places` says where each of its options is to stand."""
    options = [""] * len(places)
    for place, option in zip(places, item["target_scores"], strict=True):
        options[place] = option.removesuffix(".")
    right = list(item["target_scores"].values()).index(1)
    # One space at the end goes. Half of tracking_shuffled_objects has two: the other stays, as in the processed data.
    return choice(f"{item['input'].removesuffix(' ')}\nWhich choice is true?", options, letter(places[right]))


def choice(stem: str, options: Sequence[str], answer: str) -> Question:
    options = tuple(option.strip() for option in options)
    return Question("", with_options(stem.strip(), options), answer, options)


def symbolic(items: Sequence[Item]) -> Iterable[Question]:
    """Coin Flip and Last Letter Concatenation."""
    return (Question("", item["question"], item["answer"]) for item in items)


def strategy_qa(items: Sequence[Item]) -> Iterable[Question]:
    for item in items:
        answer, _, rationale = item["target"].partition(". ")  # "Yes. College commencement ceremonies ..."
        yield Question("", item["input"].strip(), answer, rationale=rationale.strip())


def without_numbers_and_names(text: str) -> str:
    """The template of a MultiArith question: the authors' list of names comes to every capitalised word."""
    return re.sub(r"\b[A-Z][a-z]+\b", "NAME", re.sub(r"\d+", "", text))


def before_what_is_the_date(text: str) -> str:
    """The template of a Date question: the authors mask the integers 1 to 101, which leaves some zeros."""
    return re.sub(r"[1-9]", "#", text).partition("What is the date")[0]
