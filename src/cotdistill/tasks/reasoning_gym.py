"""Any generator of reasoning-gym (https://github.com/open-thought/reasoning-gym), by its name there.

    answer_type, train, test, source = load("chain_sum", TaskConfig(train=320, test=150))

An answer is right when it equals the generator's own: of a generator that accepts several answers
(`countdown`), a right one that differs is judged wrong. Generators that give no answer of their own,
or one that does not fit on a line, are refused.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

from cotdistill.config import TaskConfig, nearest
from cotdistill.errors import ConfigError, DataError, missing_extra
from cotdistill.records import Question
from cotdistill.tasks.generated import TEST, TRAIN
from cotdistill.tasks.splits import Split, refuse_split
from cotdistill.tasks.task import fold, guess_answer_type

# Draws for each question wanted, before a generator counts as having too few different ones.
DRAWS = 20


def names() -> list[str]:
    """The generators there are, but for the one that only mixes others."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        raise missing_extra("reasoning-gym", "tasks") from None
    return sorted(set(DATASETS) - {"composite"})


def load(name: str, config: TaskConfig) -> tuple[str, Split, Split, str]:
    """Answer type, train, test and source of the generator `name`, without a text in both splits."""
    if name not in (known := names()):
        raise ConfigError(f"task.name: reasoning-gym has no generator {name!r}{nearest(name, known)}")
    refuse_split(config)
    # Test first: it stays the same whatever the number of training questions.
    test = _draw(name, "test", config.seed, config.test or TEST, taken=())
    train = _draw(name, "train", config.seed, config.train or TRAIN, taken=test)
    answer_type = config.answer_type or guess_answer_type([question.answer for question in train + test])
    return answer_type, train, test, f"reasoning-gym {importlib.metadata.version('reasoning-gym')}"


def _draw(name: str, split: str, seed: int, n: int, taken: Iterable[Question]) -> Split:
    """The first `n` items of a split whose texts differ from each other and from `taken`."""
    seen = {fold(question.text) for question in taken}
    drawn = []
    for i, item in _items(name, split, seed, DRAWS * n):
        text = str(item["question"]).strip()
        if (folded := fold(text)) in seen:
            continue
        seen.add(folded)
        question_id = f"{name}-{seed}-{split}-{i}"
        if item["answer"] is None:
            raise DataError(
                f"question {question_id}: reasoning_gym/{name} gives no answer to compare with. Choose another task."
            )
        drawn.append(Question(question_id, text, str(item["answer"]).strip()))
        if len(drawn) == n:
            return tuple(drawn)
    raise DataError(
        f"reasoning_gym/{name}: {DRAWS * n} draws gave only {len(drawn)} different {split} questions, "
        f"not {n}.\nSet task.{split} lower."
    )


def _items(name: str, split: str, seed: int, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import reasoning_gym

    # Its item i comes from seed + i, so seeds 0 and 1 would share all items but one: spread them out.
    base = Random(f"reasoning_gym/{name}/{seed}/{split}").randrange(2**31)
    dataset = reasoning_gym.create_dataset(name, seed=base, size=size)
    return ((i, dataset[i]) for i in range(size))
