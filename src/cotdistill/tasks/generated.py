"""Tasks without end: question i of a stream is made from a seed, however many are wanted.

train, test = endless(symbolic.make_coin_flip)(TaskConfig(train=320, test=150))
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from cotdistill.config import TaskConfig
from cotdistill.records import Question
from cotdistill.tasks.splits import Split, refuse_split

TRAIN, TEST = 320, 150  # questions, unless the config says


def endless(make: Callable[[str, int], Question]) -> Callable[[TaskConfig], tuple[Split, Split]]:
    """A task from `make(seed, i)`; train and test have streams of their own, so neither's size moves the other."""

    def load(config: TaskConfig) -> tuple[Split, Split]:
        refuse_split(config)
        made: dict[str, Question] = {}

        def stream(seed: str, n: int) -> Split:
            before = len(made)
            for i in count():
                if len(made) == before + n:
                    break
                question = make(seed, i)
                made.setdefault(question.text, question)
            return tuple(made.values())[before:]

        test = stream(f"{config.seed}-test", config.test or TEST)
        return stream(f"{config.seed}", config.train or TRAIN), test

    return load
