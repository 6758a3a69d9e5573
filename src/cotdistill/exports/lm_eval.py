"""A task of EleutherAI's lm-evaluation-harness, by which it asks the students and reads answers by our rule."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from cotdistill import answers, models
from cotdistill.errors import ConfigError
from cotdistill.evaluate import score
from cotdistill.exports.job import Job, Made
from cotdistill.methods import Method, methods
from cotdistill.records import FinishReason, Generation, Question, write_atomic
from cotdistill.runs import Run

LM_EVAL_READER = '''"""Questions, and how cotdistill reads an answer, for lm-eval; it needs cotdistill beside it."""

import json
from pathlib import Path

import datasets

from cotdistill.exports.lm_eval import judge_with

JUDGE = judge_with({settings})


def documents(file, **_):
    lines = Path(__file__).with_name(file).read_text(encoding="utf-8").split("\\n")
    return {{"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}}


def judge(doc, results):
    return {{"exact_match": float(JUDGE(doc, results[0]))}}
'''


def to_lm_eval(job: Job) -> Made:
    """A task of lm-eval for each method that trains: its YAML, its questions with their prompts, and the reader.

    Where a student learns to write a stop string, lm-eval is not told of it: the reader cuts there itself, for
    only so it can tell a text that was ended from one that was cut at the most tokens.
    """
    this, out = job.this, job.folder
    student, commands = this.config.student, []
    settings = {
        "rule": this.config.task.rule,
        "answer_type": this.task.answer_type,
        "options": this.task.options,
        "form": student.format,
        "seq2seq": models.is_seq2seq(student.model),
        "rationale": student.rationale,
    }
    write_atomic(out / "utils.py", LM_EVAL_READER.format(settings=f"**{settings!r}"))
    for method in dict.fromkeys(student.method for student in job.students):
        _write_task(this, method, out)
    for one in job.students:
        method, model = one.method, one.folder.absolute()
        if "," in str(model):
            raise ConfigError(f"{model}: lm-eval takes a comma for the end of a path. Move the run, and export again.")
        arguments = [f"pretrained={model}", *_dtype(), *(["trust_remote_code=True"] * student.trust_remote_code)]
        arguments += ["add_bos_token=False"] * method.chat  # the template says what a text begins with
        words = ["lm_eval", "--model", "hf", "--model_args", ",".join(arguments)]
        words += ["--tasks", _task_name(this, method), "--include_path", str(job.out.absolute()), "--batch_size", "16"]
        commands.append(shlex.join(words + ["--apply_chat_template"] * method.chat))
    return Made(commands)


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
    return [f"dtype={'bfloat16' if models.has_bf16() else 'float32'}"]


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
