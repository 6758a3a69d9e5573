"""Kills, full disks, two processes, jumping clocks: the real command, a real server. F1, F3, F8, F9 of the matrix."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Completion, Request
from cotdistill.errors import DataError
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question
from cotdistill.store import Store
from cotdistill.workers import cores
from disks import MOUNT, small_disk
from servers import start_server

SRC = Path(__file__).parents[1] / "src" / "cotdistill"
CONCURRENCY = 4
ARTEFACTS = ("generations.jsonl", "pairs.jsonl", "ledger.json")
MARK = "COTDISTILL_TEST_MARK"  # in the environment of every process of a test


class Run:
    """A config in a folder, and the command on it."""

    def __init__(self, folder: Path, base_url: str, questions: int = 30, **sections: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.config = folder / "my.yaml"
        self.runs = folder / "runs"
        rows = [{"question": f"What is {a} plus {a + 7}?", "answer": 2 * a + 7} for a in range(3, 3 + questions)]
        (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        teacher = {"model": "test", "base_url": base_url, "samples": 3, "max_tokens": 64}
        values: dict[str, Any] = {
            "name": "mine",
            "runs": str(self.runs),
            "task": {"data": str(folder / "mine.jsonl"), "answer_type": "number", "test_fraction": 0.1},
            "teacher": {**teacher, **sections.pop("teacher", {})},
            "limits": {"concurrency": CONCURRENCY, "retries": 0, **sections.pop("limits", {})},
            **sections,
        }
        self.config.write_text(yaml.safe_dump(values))

    @property
    def folder(self) -> Path:
        return self.runs / "mine"

    @property
    def store(self) -> Path:
        return self.runs / "store.sqlite"

    def start(
        self, verb: str, *overrides: str, env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", "cotdistill", verb, str(self.config), *overrides],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark, **(env or {})},
        )

    def done(self, verb: str, *overrides: str, code: int = 0, **options: Any) -> str:
        """Run it to its end; what it said."""
        with self.start(verb, *overrides, **options) as process:
            said = process.communicate(timeout=120)[1]
        assert process.returncode == code, said
        assert [word for word in ("Traceback", "Unclosed") if word in said] == [], said
        return said

    def alive(self) -> list[int]:
        """The processes that this run has started, and that have not ended."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:  # it ended meanwhile, or is somebody else's
                continue
        return found

    def artefacts(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in ARTEFACTS}


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait for what must come; fails where it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def integrity(store: Path) -> list[tuple[str]]:
    db = sqlite3.connect(store)
    try:
        return db.execute("PRAGMA integrity_check").fetchall()
    finally:
        db.close()


def kill_and_finish(run: Run, rng: random.Random, kills: int, seconds: float) -> int:
    """Kill the command at random moments of its `seconds`, then let it end; how many kills met it alive."""
    hit = 0
    for _ in range(kills):
        with run.start(rng.choice(["generate", "curate"])) as process:
            time.sleep(rng.uniform(0, seconds))
            hit += process.poll() is None
            process.kill()
        until(lambda: not run.alive())  # no worker outlives it
    run.done("curate")
    until(lambda: not run.alive())
    return hit


TEACHERS: dict[str, dict[str, Any]] = {
    "two prompts": {},
    "until right": {"samples": 4, "until": 1},
    "one prompt": {"style": "one_step", "samples": 2},
}


def killed_runs(tmp_path: Path, teacher: dict[str, Any], rounds: int, kills: int) -> None:
    rng = random.Random(11)
    hits = 0
    with start_server("--latency", "0.02", "--wrong-rate", "0.4") as server:
        whole = Run(tmp_path / "whole", server.base_url, teacher=teacher)
        started = time.monotonic()
        whole.done("curate")
        seconds = time.monotonic() - started
        needed = server.stats()["requests"]
        expected = whole.artefacts()
        for number in range(rounds):
            before = server.stats()["requests"]
            killed = Run(tmp_path / f"killed{number}", server.base_url, teacher=teacher)
            hit = kill_and_finish(killed, rng, kills, seconds)
            assert killed.artefacts() == expected
            assert server.stats()["requests"] - before <= needed + hit * CONCURRENCY
            assert integrity(killed.store) == [("ok",)]
            hits += hit
    assert hits > rounds * kills / 4


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize(
    "teacher",
    [
        pytest.param(TEACHERS["two prompts"], id="two prompts"),
        pytest.param(TEACHERS["until right"], id="until", marks=pytest.mark.slow),
    ],
)
def test_f1_killed_at_any_moment_it_ends_the_same(tmp_path: Path, teacher: dict[str, Any]) -> None:
    killed_runs(tmp_path, teacher, rounds=1, kills=5)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
@pytest.mark.parametrize("teacher", TEACHERS.values(), ids=TEACHERS)
def test_f1_killed_two_hundred_times(tmp_path: Path, teacher: dict[str, Any]) -> None:
    killed_runs(tmp_path, teacher, rounds=10, kills=7)


class Talker:
    """Has the identity of a server, and long rationales that are right two times of three."""

    def __init__(self, base_url: str) -> None:
        self.identity = OpenAIBackend("test", base_url).identity

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        while waiting := list(iter(lambda: next(requests, None), None)):
            for request in waiting:
                a = int(request.prompt[0].split("What is ")[1].split()[0])
                for sample in request.samples:
                    rng = random.Random(f"{a} {sample}")
                    text = " ".join(str(rng.random()) for _ in range(100))
                    if len(request.prompt) > 1:
                        text = f" {2 * a + 7 + (rng.random() < 0.3)}."
                    yield request, sample, Completion(text, "stop", 10, 100)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for orphans in /proc")
def test_f1_killed_while_it_curates_in_several_processes(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/v1"  # whoever asks fails
    whole, killed = (Run(tmp_path / name, nobody, questions=620) for name in ("whole", "killed"))
    questions = [Question(str(a), f"What is {a} plus {a + 7}?", "") for a in range(3, 623)]
    with Store(whole.store) as store:
        options: dict[str, Any] = {"n": 3, "temperature": 0.7, "max_tokens": 64}
        for _ in generate(questions, Talker(nobody), METHODS["zero_shot_cot"], store, **options):
            pass
    killed.runs.mkdir()
    shutil.copy(whole.store, killed.store)
    started = time.monotonic()
    with whole.start("curate") as process:
        most = 0
        while process.poll() is None:
            most = max(most, len(whole.alive()))
            time.sleep(0.03)
        assert process.returncode == 0
    assert most == 1 + (cores() if cores() > 1 else 0)
    kill_and_finish(killed, random.Random(3), 2, time.monotonic() - started)
    assert killed.artefacts() == whole.artefacts()


FULL = [
    ("no room for the store", {"samples": 1}, {}, ["disk/run/runs/"]),  # of the store, or of spent.json
    ("no room for the files", {"samples": 1}, {"store": "{f}/elsewhere.sqlite"}, ["generations.jsonl", "No space"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "sections", "words"), [f[1:] for f in FULL], ids=[f[0] for f in FULL])
def test_f3_full_disk(tmp_path: Path, teacher: dict[str, Any], sections: dict[str, str], words: list[str]) -> None:
    (tmp_path / "reply").write_text("x" * 60_000 + " 12.")
    sections = {key: value.format(f=tmp_path) for key, value in sections.items()}
    disk = tmp_path / "disk"
    with small_disk(disk, "6m"), start_server("--latency=0.02", "--reply-file", str(tmp_path / "reply")) as server:
        run = Run(disk / "run", server.base_url, questions=120, teacher=teacher, **sections)
        said = run.done("generate", code=3)
        assert [word for word in words if word not in said] == [], said
        assert len(said[said.index("cotdistill: ") :].strip().splitlines()) <= 3
        asked = server.stats()["requests"]
        store = Path(sections.get("store", run.store))
        with Store(store, read_only=True) as kept:
            stored = len(kept)
        assert asked - 3 * CONCURRENCY <= stored <= asked  # but for what was on its way
        assert not list(run.folder.glob(".generations*"))
        subprocess.run([MOUNT, "-o", "remount,size=60m", str(disk)], check=True)
        run.done("generate")
        assert server.stats()["requests"] == asked + 2 * 108 - stored
        assert integrity(store) == [("ok",)]
        assert len((run.folder / "generations.jsonl").read_bytes().splitlines()) == 108


def test_f3_a_file_may_grow_no_more(tmp_path: Path) -> None:
    """As on a full disk, where none can be made: what is acknowledged stays."""
    (tmp_path / "reply").write_text("x" * 20_000 + " 12.")
    limited = ("sh", "-c", 'ulimit -f 4000; exec "$@"', "sh")  # blocks of 512 bytes
    with start_server("--reply-file", str(tmp_path / "reply")) as server:
        run = Run(tmp_path / "run", server.base_url, questions=100, teacher={"samples": 1})
        said = run.done("generate", code=3, prefix=limited)
        assert "store.sqlite: the store cannot be used" in said
        asked = server.stats()["requests"]
        with Store(run.store, read_only=True) as kept:
            stored = len(kept)
        assert 20 < stored <= asked
        run.done("generate")
        assert server.stats()["requests"] == asked + 2 * 90 - stored


@pytest.mark.slow
def test_f8_the_second_on_a_folder_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    with start_server("--latency", "0.2") as server:
        run = Run(tmp_path / "run", server.base_url, questions=20, teacher={"samples": 1})
        with run.start("generate") as first:
            until(lambda: server.stats()["requests"])
            said = run.done("curate", code=2)
            assert first.poll() is None, "it waited"
            assert "another process is working on this run" in said
            assert "name=NAME" in said
            first.kill()
        before = server.stats()["requests"]
        run.done("generate")  # the lock died with its holder
        assert server.stats()["requests"] <= before + 2 * 18


def test_f8_two_runs_buy_into_one_store_and_nothing_twice(tmp_path: Path) -> None:
    with start_server("--latency", "0.01", "--wrong-rate", "0.4") as server:
        run = Run(tmp_path / "run", server.base_url, questions=40)
        with run.start("curate") as one, run.start("curate", "name=other") as two:
            said = [process.communicate(timeout=120)[1] for process in (one, two)]
            assert (one.returncode, two.returncode) == (0, 0), said
        stats = server.stats()
        asked = Counter(json.dumps([body["messages"], body.get("seed")]) for body in stats["bodies"])
        assert stats["requests"] == len(stats["bodies"])
    assert [request for request, times in asked.items() if times > 1] == []
    for name in ARTEFACTS:
        assert (run.folder / name).read_bytes() == (run.runs / "other" / name).read_bytes()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_f8_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    # Such a file system (NFS without its lock daemon) cannot be had in a test.
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with Store(tmp_path / "s.sqlite") as store, pytest.raises(DataError, match=r"s\.sqlite: .*no locks") as caught:
        store.claim([bytes(16)])
    assert "store=PATH" in str(caught.value)


# Preloaded, it moves the time of day once a file is there, and no other clock: as when somebody sets it.
JUMP = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
    const char *file = getenv("JUMP_FILE"), *seconds = getenv("JUMP_SECONDS");
    return file && seconds && access(file, F_OK) == 0 ? atol(seconds) : 0;
}
int clock_gettime(clockid_t id, struct timespec *t) {
    int code = syscall(SYS_clock_gettime, id, t);
    if (code == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += jump();
    return code;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


def preloaded(folder: Path) -> str:
    """Not libfaketime: that moves what time.sleep waits for as well, and so breaks every sleep."""
    source, library = folder / "jump.c", folder / "jump.so"
    source.write_text(JUMP)
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, -1])
def test_f9_the_clock_jumps_by_a_day(tmp_path: Path, days: int) -> None:
    clock = tmp_path / "jumped"
    fake = {"LD_PRELOAD": preloaded(tmp_path), "JUMP_FILE": str(clock), "JUMP_SECONDS": str(days * 86400)}
    with start_server("--latency", "0.02", "--wrong-rate", "0.4") as server:
        still, jumping = (
            Run(tmp_path / name, server.base_url, questions=12, limits={"timeout": 20}) for name in ("still", "jumping")
        )
        still.done("curate")
        needed = server.stats()["requests"]
        with jumping.start("curate", env=fake) as process:
            until(lambda: server.stats()["requests"] > needed + 10)
            clock.touch()
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 0, said
        assert server.stats()["requests"] == 2 * needed
    assert jumping.artefacts() == still.artefacts()
    db = sqlite3.connect(jumping.store)
    ((first, last),) = db.execute("SELECT min(created), max(created) FROM completions").fetchall()
    db.close()
    assert last - first > 80_000, "the clock did not jump"


# Where the time of day is read: for a row's date, for a Retry-After that is a date (capped), for how old a file is
# that a killed writer left, and for the date in our own server's replies.
TIME_OF_DAY = {
    "store.py",
    "parts.py",
    "objects.py",
    "backends/wire.py",
    "backends/batch_journal.py",
    "serving/replies.py",
    "serving/server.py",
}
CLOCKS = [
    "time.time",
    *(f"{kind}.{name}" for kind in ("datetime", "date", "Date") for name in ("now", "today", "utcnow")),
]


def test_f9_nothing_else_reads_the_time_of_day() -> None:
    found = set()
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in CLOCKS:
                found.add(str(path.relative_to(SRC)))
    assert found == TIME_OF_DAY
