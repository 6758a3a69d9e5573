"""Processes that work on items in turns: in order, whatever ends them, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cotdistill import workers
from cotdistill.errors import DataError
from cotdistill.records import Question, read_jsonl
from cotdistill.workers import AHEAD, mapped


def test_results_come_in_order() -> None:
    assert list(mapped(partial(pow, 2), range(20), processes=3)) == [2**i for i in range(20)]
    assert list(mapped(partial(pow, 2), range(2), processes=3)) == [1, 2]
    assert list(mapped(partial(pow, 2), [], processes=2)) == []


def test_a_slow_item_is_waited_for_and_few_are_done_before_it() -> None:
    begun = []

    def items() -> Iterator[str]:
        for i in range(40):
            begun.append(i)
            yield f"(__import__('time').sleep({0.3 * (i == 0)}), {i})[1]"

    results = mapped(eval, items(), processes=2)
    assert next(results) == 0
    assert len(begun) <= 2 + 2 * AHEAD + 1
    assert list(results) == list(range(1, 40))


def test_the_first_error_is_raised_whichever_is_there_first() -> None:
    read = (
        "(__import__('time').sleep({}), __import__('cotdistill.chunks').chunks.generations_of("
        "__import__('cotdistill.chunks').chunks.Span(__import__('pathlib').Path({!r}), 0, 1)))"
    )
    with pytest.raises(DataError, match="none0: cannot be read"):
        list(mapped(eval, [read.format(0.3 * (i == 0), f"none{i}") for i in range(5)], processes=2))


def test_large_items_and_results_pass() -> None:
    """Larger than any pipe's buffer, in both directions."""
    items = [bytes([i]) * 3_000_000 for i in range(6)]
    assert list(mapped(bytes.upper, items, processes=2)) == [item.upper() for item in items]


def test_what_is_printed_is_no_result() -> None:
    assert list(mapped(print, ["a", "b", "c"], processes=2)) == [None] * 3


def test_an_error_of_ours_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        list(mapped(partial(read_jsonl, record=Question), [tmp_path / "none.jsonl"] * 3, processes=2))


def test_an_error_among_the_items_is_raised_here() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DataError("line 3")

    with pytest.raises(DataError, match="line 3"):
        list(mapped(partial(pow, 2), items(), processes=2))


def test_a_worker_that_ends_is_an_error() -> None:
    with pytest.raises(DataError, match=r"ended before its work was done \(exit code 3\)"):
        list(mapped(os._exit, [3, 3, 3], processes=2))
    with pytest.raises(DataError, match=r"\(signal 9\)"):
        list(mapped(signal.raise_signal, [9, 9], processes=2))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(sent: signal.Signals) -> None:
    code = (
        "import os; from functools import partial; from cotdistill.workers import AHEAD, mapped\n"
        "work = partial(eval, \"(__import__('time').sleep(0.02), __import__('os').getpid())[1]\")\n"
        "for pid in mapped(work, ({} for _ in range(10**6)), processes=2): print(pid, flush=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = {int(parent.stdout.readline()) for _ in range(4)}
    assert len(pids) == 2
    parent.send_signal(sent)
    parent.communicate(timeout=10)
    for _ in range(100):
        if not any(map(_runs, pids)):
            break
        time.sleep(0.05)
    assert not any(map(_runs, pids))


def test_a_ctrl_c_while_workers_are_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, start = list[int](), workers._start

    def interrupted() -> workers.Worker:
        if len(begun) == 2:
            raise KeyboardInterrupt
        worker = start()
        begun.append(worker.pid)
        return worker

    monkeypatch.setattr(workers, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(mapped(partial(pow, 2), [1], processes=3))
    assert not any(map(_runs, begun))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
