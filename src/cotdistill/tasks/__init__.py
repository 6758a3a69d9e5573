"""Tasks: questions whose answers are known, split into train and test.

    task = load_task(TaskConfig(name="coin_flip"))

A task is your own file (files.py), a generator of reasoning-gym (`reasoning_gym/NAME`) or an entry of
`TASKS` (table.py). Whichever it is, it is checked before anything is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cotdistill.config import TaskConfig, nearest
from cotdistill.errors import ConfigError
from cotdistill.tasks import files, reasoning_gym
from cotdistill.tasks.exemplars import exemplars_of, without_exemplars
from cotdistill.tasks.table import TASKS, Entry
from cotdistill.tasks.task import Task, check, fold, readable

__all__ = [
    "TASKS",
    "Task",
    "answer_type_of",
    "check",
    "exemplars_of",
    "fold",
    "load_task",
    "readable",
    "without_exemplars",
]

GYM = "reasoning_gym/"


def load_task(config: TaskConfig) -> Task:
    """The task that `config` names, checked: see `check`. Raw files are downloaded on first use."""
    places: Mapping[str, str] = {}
    if config.data is not None:
        train, test, places = files.load(config)
        # The config refuses a file without an answer type.
        task = Task(config.data.stem, str(config.answer_type), train, test, str(config.data))
    elif config.test_data is not None:
        raise ConfigError("task.test_data is set and task.data is not: set task.data to your training file.")
    elif config.name.startswith(GYM):
        answer_type, train, test, source = reasoning_gym.load(config.name.removeprefix(GYM), config)
        task = Task(config.name, answer_type, train, test, source)
    else:
        entry = entry_of(config.name)
        train, test = entry.load(config)
        task = Task(config.name, entry.answer_type, train, test, entry.source)
    if config.answer_type not in (None, task.answer_type):
        raise ConfigError(f"task.answer_type: {task.name} has the answer type {task.answer_type}; leave it out.")
    # A published dataset is what it is: its repeated questions are told, not refused.
    return replace(task, notes=check(task, places, config.overlap if config.data is not None else "keep"))


def entry_of(name: str) -> Entry:
    """The entry of TASKS. Raises `ConfigError` with the nearest names."""
    if name not in TASKS:
        raise ConfigError(f"task.name: no task {name!r}{nearest(name, [*TASKS, GYM + 'NAME'])}")
    return TASKS[name]


def answer_type_of(name: str) -> tuple[str, int]:
    """Answer type and most options, 0 where there are none, of a named task; nothing is downloaded."""
    entry = entry_of(name)
    return entry.answer_type, entry.options
