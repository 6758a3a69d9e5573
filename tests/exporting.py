"""A run of tiny students, to be exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cotdistill.config import load_quickstart
from cotdistill.pipeline import run
from tiny import tiny_family

MERGES = [("Ġ", "E"), ("ĠE", "N"), ("ĠEN", "D"), ("i", "s"), ("Ġ", "is"), ("1", "1")]  # with them " END" is one token


def number(a: int) -> dict[str, str]:
    return {"question": f"What is {a}+{a % 5}?", "answer": f"{a + a % 5}", "rationale": f"{a}+{a % 5}={a + a % 5}."}


def trained(
    folder: Path,
    question: Callable[[int], dict[str, str]],
    model: Path,
    steps: int,
    form: str = "paper",
    more: Mapping[str, object] | None = None,
) -> Path:
    """A run whose students know most of their questions by heart: people wrote the rationales, nobody is asked."""
    data = folder / "questions.jsonl"
    data.write_text("".join(json.dumps(question(a)) + "\n" for a in range(2, 14)))
    task: dict[str, Any] = {"data": str(data), "test_data": str(data), "overlap": "keep", "rationale": "rationale"}
    task |= {"answer_type": question.__name__, "train": None, "test": None}
    student: dict[str, Any] = {
        "model": str(model),
        "steps": steps,
        "learning_rate": 5e-3,
        "batch_size": 12,
        "schedule": "constant",
    }
    student |= {"batch_size": 12, "max_length": 0, "dev_fraction": 0.0, "select": "last", "format": form}
    sections = {
        "task": task,
        "student": student,
        "teacher": {"style": "human"},
        "curate": {"leaked": "keep"},
        "evaluate": {"methods": ["fine_tune_cot"], "max_tokens": 60},
    }
    overrides = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return run(load_quickstart({"runs": str(folder / "runs"), "name": "t", **overrides, **(more or {})})).folder


def with_merges(name: str, folder: Path) -> Path:
    """A random model of a family, with a tokenizer that splits and merges as GPT-2's does."""
    import transformers

    tiny_family(name, folder)
    path = folder / "tokenizer.json"
    tokens = json.loads(path.read_text())
    tokens["pre_tokenizer"]["use_regex"] = True
    vocabulary = tokens["model"]["vocab"]
    for pair in MERGES:
        vocabulary["".join(pair)] = len(vocabulary)
    tokens["model"]["merges"] = MERGES
    path.write_text(json.dumps(tokens))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(vocabulary), mean_resizing=False)
    model.save_pretrained(folder)
    return folder
