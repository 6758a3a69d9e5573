"""Formulas, read and compared by math-verify in a process of its own, which can be killed.

    >>> math_equal(r"\\frac{1}{2}", "0.5")
    True

math-verify bounds its work by alarm signals, which reach Python code in a main thread only; 9**9**9 stays
in one C call. Here the kernel's own alarm ends the worker, or its limit of memory, and another takes its place.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from cotdistill.errors import missing_extra
from cotdistill.readers import LONGEST, plain, read_number
from cotdistill.reading import UNFINISHED

SECONDS = 0.5  # of the processor, for one question to the worker; another process that is busy changes no answer
MEMORY = 3 * 2**28  # bytes, where the kernel counts them
TRIES = 2  # of a question on which the worker ends, as when somebody kills it or it crashes
# Brackets in brackets, powers of powers and powers of four digits: no answer has them, and they take the longest.
TOO_MUCH = re.compile(
    r"(?:[(\[{]\s*){20}|(?:\^|\*\*)[\s{(]*[0-9.]+[\s)}]*(?:\^|\*\*)|(?:\^|\*\*)[\s{(]*[0-9]{4}|[0-9]{60}"
)
WORKER = [sys.executable, "-P", "-c", "from cotdistill.math_answers import serve; serve()"]


def read_math(sentence: str, choices: Sequence[str] = ()) -> str | None:
    """The formula of a sentence: all of it, the one between dollars, or the number of a sentence in words."""
    text = re.sub(r"\\[()\[\]]|\${1,2}", "$", sentence).strip(" \t:.,*")
    dollars = re.findall(r"\$([^$]+)\$", text)
    if len(dollars) == 1:
        text = dollars[0]
    elif dollars or len(re.findall(r"(?<![\\A-Za-z])[A-Za-z]{3,}", re.sub(r"\\text\{[^{}]*\}", "", text))) > 1:
        return read_number(sentence)
    text = re.sub(r"^\\boxed\{(.*)\}$", r"\1", text.strip(" \t:.,*$"))
    if not text or len(text) > LONGEST or text.endswith(UNFINISHED) or TOO_MUCH.search(text):
        return None
    return text if _ask([text]) else None


def math_equal(a: str, b: str) -> bool:
    """Whether two formulas are the same; no, where a second does not tell."""
    if max(len(a), len(b)) > LONGEST or TOO_MUCH.search(a) or TOO_MUCH.search(b):
        return False
    return plain(a).strip() == plain(b).strip() or _ask([b, a])


def serve() -> None:
    """The worker: a JSON list of one formula (is it one?) or two (are they equal?) a line; answers true or false."""
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)

    def answer(formulas: list[str]) -> bool:
        config = [LatexExtractionConfig()]  # never its reader of Python expressions
        parsed = [
            parse(f"${formula}$", config, fallback_mode="no_fallback", parsing_timeout=None) for formula in formulas
        ]
        equal = all(parsed) and verify(parsed[0], parsed[-1], timeout_seconds=None)
        return bool(equal) if len(parsed) == 2 else bool(parsed[0])

    answer(["(x+1)^2", "x^2+2x+1"])  # loads what takes longer than a question
    with suppress(ValueError):  # there is a lower limit, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # what needs more ends this process too
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # nobody handles it: it ends this process
        reply = answer(json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), flush=True)


_lock = threading.Lock()
_worker: subprocess.Popen[str] | None = None


def _ask(formulas: list[str]) -> bool:
    global _worker
    if importlib.util.find_spec("math_verify") is None:
        raise missing_extra("math-verify", "math")
    with _lock:
        for _ in range(TRIES):
            # Taken until its reply is here: after a Ctrl-C that would be read as the next question's.
            worker, _worker = _worker or _start(), None
            reply = ""
            try:
                with suppress(BrokenPipeError):  # it ended before
                    reply = _exchange(worker, json.dumps(formulas))
            finally:
                if not reply:
                    _end(worker)
            if reply:
                _worker = worker
                return reply == "true\n"
            _worker = _start()  # imports while the caller goes on
            if worker.returncode == -signal.SIGPROF:  # its time was up, and would be again
                break
        return False


def _start() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    # A process group of its own: Ctrl-C is for the parent alone.
    return subprocess.Popen(WORKER, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, process_group=0)


def _exchange(worker: subprocess.Popen[str], line: str) -> str:
    """The worker's reply, or "" where it is no more."""
    if worker.stdin is None or worker.stdout is None:  # never: they are pipes
        return ""
    worker.stdin.write(line + "\n")
    worker.stdin.flush()
    return worker.stdout.readline()


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.communicate()  # reaps it and closes the pipes


@atexit.register
def _stop() -> None:
    global _worker
    if _worker is not None:
        _end(_worker)
        _worker = None


def _forget() -> None:
    """In a fork: the worker is the parent's, and replies to it."""
    global _lock, _worker
    if _worker is not None:
        _worker.returncode = 0  # no child of this process, to be warned of
    _lock, _worker = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
