"""Exemplars for few-shot-CoT: questions with a rationale, shown before the one that is asked.

    exemplars = exemplars_of(config, task)
    asked = without_exemplars(task.test, exemplars)

The paper's are the authors' own, downloaded when they are first needed; those of the generated tasks
and of tracking_shuffled_objects, for which the paper has none, are ours, in the folder `exemplars`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from cotdistill.config import TaskConfig, nearest
from cotdistill.errors import ConfigError, DataError
from cotdistill.records import Question
from cotdistill.tasks.files import READERS, read_questions
from cotdistill.tasks.raw import Raw, raw_file
from cotdistill.tasks.table import TASKS
from cotdistill.tasks.task import FORMS, Task, readable, shown

OWN = Path(__file__).parents[1] / "exemplars"

# MIT; adapted by the authors from Wei et al. 2022.
AUTHORS = Raw(
    "few_shot_cot_prompts.json",
    "https://raw.githubusercontent.com/itsnamgyu/reasoning-teacher/"
    "f8471666e5889e517c3bed04f9b346a1e6b8929b/data/few_shot_cot_prompts.json",
    "72bb973daf1ab1217ec5bc1cc95a8be8ab78d05ff42356a3176341d848956d19",
)
OPTIONS = re.compile(r"(?: which choice is true ?\?)? (?:answer choices:|\(a\) )")  # folded, in each wording met
SHOT = re.compile(r"Q: (.*?)\nA: (.*?) The answer is (.*?)\.(?:\n(?=Q: )|$)", re.DOTALL)


def exemplars_of(config: TaskConfig, task: Task) -> tuple[Question, ...]:
    """Those of `task.exemplars` where it is set, a file or the name of a task; else the task's own, if any."""
    source = config.exemplars or ("" if config.data is not None else config.name)
    if source in TASKS:
        exemplars = named_exemplars(source)
    elif config.exemplars is None:
        return ()
    elif (path := Path(source)).suffix.lower() in READERS:
        exemplars = read_exemplars(path)
    else:
        raise ConfigError(f"task.exemplars: {source!r} is neither a .jsonl file nor a task{nearest(source, TASKS)}")
    for number, exemplar in enumerate(exemplars, 1):
        if not readable(task.answer_type, exemplar):
            raise DataError(
                f"{source}, exemplar {number}: the answer {shown(exemplar.answer)} cannot be scored as "
                f"{task.answer_type}: it must be {FORMS[task.answer_type]}."
            )
    return exemplars


def named_exemplars(name: str) -> tuple[Question, ...]:
    """Our own for a named task, else the authors', else none."""
    own = OWN / f"{name}.jsonl"
    if own.is_file():
        return read_exemplars(own)
    prompts = json.loads(raw_file(AUTHORS).read_text(encoding="utf-8"))
    return parse_prompt(prompts[name]["prompt"]) if name in prompts else ()


def read_exemplars(path: Path) -> tuple[Question, ...]:
    """The exemplars of a file that has question, rationale and answer in every row."""
    columns = TaskConfig.model_validate({"data": path, "answer_type": "text", "rationale": "rationale"})
    placed = read_questions(path, columns)
    for place, exemplar, _ in placed:
        if not exemplar.rationale:
            raise DataError(f"{place}: the rationale is empty. An exemplar shows how to reason: write one.")
    return tuple(row.question for row in placed)


def parse_prompt(prompt: str) -> tuple[Question, ...]:
    """The exemplars of one of the authors' prompts."""
    return tuple(
        Question(f"exemplar-{i}", text, answer, rationale=rationale)
        for i, (text, rationale, answer) in enumerate(SHOT.findall(prompt))
    )


def without_exemplars(questions: Sequence[Question], exemplars: Sequence[Question]) -> list[Question]:
    """The questions that are not among the exemplars: a prompt must not hold the answer to its question."""
    shown_before = {stem(exemplar.text) for exemplar in exemplars}
    return [question for question in questions if stem(question.text) not in shown_before]


def stem(text: str) -> str:
    """A question as the authors' exemplars may spell it: folded, without "Yes or no:" and its options."""
    folded = " ".join(text.replace("\u2019", "'").replace("\u201c", '"').replace("\u201d", '"').casefold().split())
    return OPTIONS.split(folded.removeprefix("yes or no:").strip(), maxsplit=1)[0]
