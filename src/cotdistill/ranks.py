"""Several processes of one command, as `torchrun` and `accelerate launch` start them, on one machine or more.

    torchrun --nproc-per-node 4 -m cotdistill run my.yaml

The first does the run. The others have none: they wait for what it trains, and train it with it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

FOREVER = timedelta(days=365)  # a teacher may be asked for days before there is something to train

T = TypeVar("T")
_talk: list[Any] = []  # the group in which values are shared: on the CPU, and patient
_ours: list[bool] = []  # whether what these groups stand on is ours to end


def processes() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the one that does the run and writes its files."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def join() -> None:
    """Meet the others, each with a GPU of its own where there are some."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _ours.append(not torch.distributed.is_initialized())  # Ray begins and ends it itself
    if _ours[-1]:
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    _talk.append(torch.distributed.new_group(backend="gloo", timeout=FOREVER))


def shared(value: T) -> T:
    """What the first process has for `value`; all call it together."""
    if not _talk:
        return value
    import torch

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0, group=_talk[0])
    return values[0]


def meet() -> None:
    """Go on when all processes are here."""
    if _talk:
        import torch

        torch.distributed.barrier(group=_talk[0])


def part() -> None:
    """The end: the first process says so, and the others hear it."""
    if _talk:
        import torch

        if first():
            with suppress(RuntimeError):  # an error may have ended them before
                shared(None)
        _talk.clear()
        if _ours.pop():
            torch.distributed.destroy_process_group()
