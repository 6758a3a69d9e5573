"""A run's students, for other tools: FORMATS has one function each, which writes a folder and says how to use it.

for command in export(Path("runs/quickstart"), "lm-eval", Path("out")):
    print(command)
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from cotdistill import answers
from cotdistill.config import nearest
from cotdistill.errors import ConfigError
from cotdistill.evaluate import score
from cotdistill.methods import METHODS, Method, methods
from cotdistill.models import is_seq2seq
from cotdistill.records import FinishReason, Generation, Question, write_atomic
from cotdistill.runs import Run, label, measured_folder, read_json, saved_run, students

LM_EVAL_READER = '''"""Questions, and how cotdistill reads an answer, for lm-eval; it needs cotdistill beside it."""

import json
from pathlib import Path

import datasets

from cotdistill.export import judge_with

JUDGE = judge_with({settings})


def documents(file, **_):
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").split("\\n")
    return {{"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}}


def judge(doc, results):
    return {{"exact_match": float(JUDGE(doc, results[0]))}}
'''


def export(folder: Path, form: str, out: Path) -> list[str]:
    """Write the students' task in a `form` of FORMATS to `out`; returns the commands that use it, one a student."""
    if form not in FORMATS:
        raise ConfigError(f"--to: no format {form!r}{nearest(form, FORMATS)}")
    with saved_run(folder) as this:
        if not students(this):
            raise ConfigError(f"{folder}: this run trains no student (evaluate.methods), so there is none to export.")
        return FORMATS[form](this, out)


def to_lm_eval(this: Run, out: Path) -> list[str]:
    """A task of lm-eval for each method that trains: its YAML, its questions with their prompts, and the reader.

    Where a student learns to write a stop string, lm-eval is not told of it: the reader cuts there itself, for
    only so it can tell a text that was ended from one that was cut at the most tokens.
    """
    student, commands = this.config.student, []
    settings = {
        "rule": this.config.task.rule,
        "answer_type": this.task.answer_type,
        "options": this.task.options,
        "form": student.format,
        "seq2seq": is_seq2seq(student.model),
        "rationale": student.rationale,
    }
    write_atomic(out / "utils.py", LM_EVAL_READER.format(settings=f"**{settings!r}"))
    for method in dict.fromkeys(method for method, _ in students(this)):
        _write_task(this, method, out)
    for method, seed in students(this):
        model = measured(this, method, seed).absolute()
        if "," in str(model):
            raise ConfigError(f"{model}: lm-eval takes a comma for the end of a path. Move the run, and export again.")
        arguments = [f"pretrained={model}", *_dtype(), *(["trust_remote_code=True"] * student.trust_remote_code)]
        arguments += ["add_bos_token=False"] * method.chat  # the template says what a text begins with
        words = ["lm_eval", "--model", "hf", "--model_args", ",".join(arguments)]
        words += ["--tasks", _task_name(this, method), "--include_path", str(out.absolute()), "--batch_size", "16"]
        commands.append(shlex.join(words + ["--apply_chat_template"] * method.chat))
    return commands


def _write_task(this: Run, method: Method, out: Path) -> None:
    name = _task_name(this, method)
    questions = [
        {
            "id": question.id,
            "prompt": method.prompt(question),
            "answer": question.answer,
            "choices": list(question.choices),
            "method": method.name,
        }
        for question in this.task.test
    ]
    write_atomic(out / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in questions))
    task = {
        "task": name,
        "dataset_kwargs": {"file": f"{name}.jsonl"},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",  # a column: a template would lose a newline at its end
        "doc_to_target": "answer",
        "target_delimiter": "",
        "generation_kwargs": {
            "until": [],
            "do_sample": False,
            "max_gen_toks": this.config.evaluate.max_tokens or method.max_tokens,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    functions = "custom_dataset: !function utils.documents\nprocess_results: !function utils.judge\n"
    write_atomic(out / f"{name}.yaml", yaml.safe_dump(task, sort_keys=False) + functions)


def _task_name(this: Run, method: Method) -> str:
    return f"cotdistill_{this.config.name}_{method.name}"


def _dtype() -> list[str]:
    """As evaluation loads a model on this machine."""
    if find_spec("torch") is None:
        return []
    from cotdistill.models import has_bf16

    return [f"dtype={'bfloat16' if has_bf16() else 'float32'}"]


def measured(this: Run, method: Method, seed: int) -> Path:
    """The folder of a student that result.json is about."""
    folder = this.folder / "student" / label(method, seed)
    if this.config.student.select != "paper":
        return folder
    results = read_json(this.folder / "result.json")["results"]
    return measured_folder(
        folder, next(r["epochs"] for r in results if (METHODS[r["method"]].taught_as, r["seed"]) == (method.name, seed))
    )


def judge_with(
    rule: str, answer_type: str, options: int, form: str, seq2seq: bool, rationale: str | Mapping[str, float]
) -> Callable[[Mapping[str, Any], str], bool]:
    """A function that says whether a text answers a document that `_write_task` wrote, as evaluation would."""
    reader = answers.answer_type(rule, answer_type, options)
    known = methods(form, seq2seq, rationale=rationale)

    def judge(doc: Mapping[str, Any], text: str) -> bool:
        method = known[doc["method"]]
        ends = [text.find(stop) for stop in method.stop if stop in text]
        # Without a stop string nothing tells here whether a text was cut.
        reason: FinishReason = "stop" if ends or not method.stop else "length"
        generation = Generation(doc["id"], 0, text[: min(ends)] if ends else text, None, reason)
        question = Question(doc["id"], "", doc["answer"], tuple(doc["choices"]))
        return score(generation, question, method, reader).correct

    return judge


FORMATS: dict[str, Callable[[Run, Path], list[str]]] = {"lm-eval": to_lm_eval}
