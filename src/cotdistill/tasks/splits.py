"""Which questions are for training and which for testing: the authors' rules, all from one seed.

Source: https://github.com/itsnamgyu/reasoning-teacher, src/data/split.py and generate_split.py, and
notebooks/old/Data Preparation.ipynb for the template-wise split.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import RandomState

from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError
from cotdistill.records import Question

Split = tuple[Question, ...]
TRAIN_SHARE = 0.7


def random_split(n: int) -> tuple[list[int], list[int]]:
    """70% of the positions 0 to n - 1 for training and 30% for testing, each in order."""
    order = RandomState(0).permutation(n).tolist()
    cut = round(TRAIN_SHARE * n)
    return sorted(order[:cut]), sorted(order[cut:])


def template_split(templates: Sequence[str]) -> tuple[list[int], list[int]]:
    """70% of the templates for training, with all their positions: no template is in both splits."""
    positions: dict[str, list[int]] = {}
    for i, template in enumerate(templates):
        positions.setdefault(template, []).append(i)
    groups = list(positions.values())
    sides = random_split(len(groups))
    train, test = (sorted(i for group in side for i in groups[group]) for side in sides)
    return train, test


def draw(n: int, size: int) -> list[int]:
    """`size` of the positions 0 to n - 1, in order: the paper's 8, 32 and 128 shots."""
    return sorted(RandomState(0).permutation(n)[:size].tolist())


def drawn(questions: Sequence[Question], size: int | None, split: str) -> Split:
    """`size` of the questions of a split, all for `None`. Raises `ConfigError` if there are fewer."""
    if size is not None and size > len(questions):
        raise ConfigError(f"task.{split}={size}: there are {len(questions)} {split} questions. Set it lower.")
    return tuple(questions) if size is None else tuple(questions[i] for i in draw(len(questions), size))


def refuse_split(config: TaskConfig) -> None:
    """Raise `ConfigError` if a split is asked for, of a task that has one only."""
    if config.split is not None:
        raise ConfigError(
            f"task.split={config.split}: {config.name} has one split only.\nLeave it out; `template` is "
            "for multiarith and date_understanding, a column's name for your own file."
        )
