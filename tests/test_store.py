"""The store, against real processes: what was acknowledged stays, and nothing is bought twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cotdistill.completions import (
    Completion,
    Pool,
    Request,
    SamplingParams,
    canonical,
    identity_text,
    turns_text,
)
from cotdistill.errors import DataError
from cotdistill.store import Row, Store

PARAMS = SamplingParams(32, temperature=0.7)
POOL = Pool({"model": "fake"}, PARAMS)


def row(i: int, text: str = "") -> Row:
    prompt = (f"Q: {i}",)
    return Row(POOL, POOL.key(prompt), prompt, i, Completion(text or f" {i}.", "stop", 1, 2, served="fake-1"))


def key(i: int) -> bytes:
    return row(i).key


def texts(rows: Iterable[Row]) -> dict[bytes, Completion]:
    return {row.key: row.completion for row in rows}


def read(store: Store, rows: Iterable[Row]) -> dict[bytes, Completion]:
    """Those of the rows' samples that are stored."""
    found = {row.key: store.samples(row.key).get(row.sample) for row in rows}
    return {key: completion for key, completion in found.items() if completion}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.sqlite"
    with Store(path) as store:
        store.write([row(i) for i in range(1200)])
        store.write([])
        store.write([row(3, "another"), row(3, "a third")])
        assert len(store) == 1200
        assert read(store, map(row, range(1300))) == texts(map(row, range(1200)))
        several = store.samples_of([key(i) for i in range(800, 1210)])
        assert several == {key(i): {i: row(i).completion} for i in range(800, 1200)}
        assert store.served({"model": "fake"}) == {"fake-1": 1200}
        assert store.models() == [{"model": "fake"}]
        assert store.params({"model": "fake"}) == [canonical(asdict(PARAMS))]
        assert store.params({"model": "other"}) == []
    with Store(path, read_only=True) as store:
        assert store.samples(key(3)) == {3: row(3).completion}
    assert [p.name for p in path.parent.iterdir()] == ["store.sqlite"]


def test_full_are_those_with_all_of_their_first_samples(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        store.write([row(0), row(1), row(2)])  # whose samples are 0, 1 and 2
        store.write([row(1)._replace(sample=sample) for sample in range(3)])
        assert [store.full(POOL, n) for n in (1, 3, 4)] == [{key(0), key(1)}, {key(1)}, set()]
        assert store.full(Pool({"model": "other"}, PARAMS), 1) == set()


TEXTS = {
    "empty": "",
    "separators": "a\u0085b\u2028c\r\nd\re",
    "NUL": "a\0b",
    "BOM and emoji": "\ufeff\N{GRINNING FACE}",
    "1 MB": "x" * 2**20,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_comes_back_exactly(tmp_path: Path, text: str) -> None:
    prompt = (text, text, text)
    with Store(tmp_path / "s.sqlite") as store:
        store.write([Row(POOL, POOL.key(prompt), prompt, 0, Completion(text, "length"))])
    with Store(tmp_path / "s.sqlite") as store:
        assert store.samples(POOL.key(prompt)) == {0: Completion(text, "length")}


def test_half_a_character_is_refused_and_the_store_goes_on(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(DataError, match="half a character"):
            store.write([row(1), row(2, "a\ud800")])
        assert len(store) == 0
        prompt = ("a\ud800",)
        store.write([row(1), Row(POOL, POOL.key(prompt), prompt, 0, Completion("b", "stop"))])
        assert len(store) == 2


def test_keys_differ_where_the_text_may() -> None:
    params = [
        PARAMS,
        *(replace(PARAMS, max_tokens=33), replace(PARAMS, temperature=0.8), replace(PARAMS, top_p=0.9)),
        *(replace(PARAMS, stop=("a", "b")), replace(PARAMS, stop=("ab",)), replace(PARAMS, seed=1)),
    ]
    all_keys = [Pool({"model": "fake"}, p).key(("ab", "c", "d")) for p in params]
    all_keys += [POOL.key(prompt) for prompt in (("a", "bc", "d"), ("abcd",), ("ab", "c", "d "))]
    for identity in ({"model": "fake2"}, {"model": "fake", "system": "x"}):
        all_keys.append(Pool(identity, PARAMS).key(("ab", "c", "d")))
    assert len(set(all_keys)) == len(all_keys)
    assert identity_text({"b": "1", "a": "2"}) == identity_text({"a": "2", "b": "1"})


@pytest.mark.parametrize("prompt", [(), ("a",), ('a\n"\\', "\u00e9\U0001f600\u2028\0", "\ud800")], ids=ascii)
def test_turns_are_canonical_json(prompt: tuple[str, ...]) -> None:
    assert turns_text(prompt) == canonical(prompt)


def test_seeds_differ_by_sample_and_pool_and_nothing_else() -> None:
    def seed(sample: int, *prompt: str, params: SamplingParams = PARAMS) -> int:
        return Request(prompt, params).seed(sample)

    assert seed(0, "ab") == seed(0, "ab", params=replace(PARAMS, max_tokens=1, temperature=0.1))
    others = [seed(1, "ab"), seed(0, "a", "b"), seed(0, "ab", params=replace(PARAMS, seed=1))]
    assert len({seed(0, "ab"), *others}) == 4
    assert all(0 <= seed < 2**31 for seed in others)


# Stored completions hang on these: if this fails, every store in use is worthless.
def test_keys_stay_what_they_are() -> None:
    assert key(1).hex() == "50a5185b5eec7fd107eba53f8841aeac"
    assert Request(("Q: 1",), PARAMS).seed(1) == 1315006852


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"not a store\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000, b"PK\3\4" * 1000])
def test_file_that_is_not_a_store(tmp_path: Path, content: bytes, read_only: bool) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"s\.sqlite"):
        Store(path, read_only)
    assert path.read_bytes() == content


def test_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE photos (name)")
    db.close()
    content = path.read_bytes()
    for read_only in (False, True):
        with pytest.raises(DataError, match=r"photos\.db"):
            Store(path, read_only)
    assert path.read_bytes() == content


def test_paths_that_hold_no_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such store"):
        Store(tmp_path / "none.sqlite", read_only=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=tmp_path.name):
        Store(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file"):
        Store(tmp_path / "file" / "s.sqlite")


def test_damaged_store_is_named_and_never_crashes(tmp_path: Path) -> None:
    """What the damage leaves readable comes back whole; the rest is a `DataError`."""
    path = tmp_path / "s.sqlite"
    rows = [row(i, f"{i} " * 50) for i in range(200)]
    with Store(path) as store:
        store.write(rows)
    whole = path.read_bytes()
    rng = random.Random(7)
    detected = 0
    for cycle in range(60):
        content = bytearray(whole)
        if cycle % 2:
            del content[rng.randrange(1, len(content)) :]
        else:
            start = rng.randrange(len(content) - 64)
            content[start : start + 64] = rng.randbytes(64)
        path.write_bytes(content)
        for read_only in (True, False):
            try:
                with Store(path, read_only) as store:
                    assert all(read(store, [r]) in ({}, texts([r])) for r in rows)
                    store.models()
                    if not read_only:
                        store.write([row(1000 + cycle)])
            except DataError as error:
                detected += 1
                assert "s.sqlite" in str(error)  # noqa: PT017 - it may also not be raised
        for rest in tmp_path.glob("s.sqlite?*"):
            rest.unlink()
    assert detected > 60


# For children: they start in a tenth of a second, without pytest.
HELPERS = """
import sys, time
from pathlib import Path
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.store import Row, Store
POOL = Pool({"model": "fake"}, SamplingParams(32, temperature=0.7))
def key(i):
    return POOL.key((f"Q: {i}",))
def row(i):
    return Row(POOL, key(i), (f"Q: {i}",), i, Completion(f" {i}." * 50, "stop", 1, 2))
store = Store(Path(sys.argv[1]))
"""
WRITER = """
for i in range(int(sys.argv[2]), 10**9, 3):
    store.write([row(i), row(i + 1), row(i + 2)])
    print(i, i + 1, i + 2, flush=True)
"""
CLAIMER = """
print("ready", flush=True)
sys.stdin.readline()
for i in range(300):
    if store.claim([key(i)]):
        if i not in store.samples(key(i)):
            print(i, flush=True)
            time.sleep(0.0005)
            if "store" in sys.argv: store.write([row(i)])
        if "store" in sys.argv: store.unclaim([key(i)])
print("done", flush=True)
sys.stdin.readline()
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HELPERS + code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_acknowledged_rows_survive_sigkill(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    rng = random.Random(1)
    acknowledged: list[int] = []
    for cycle in range(25):
        with child(WRITER, path, 100_000 * cycle) as process:
            said = next(lines(process))
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            said += "".join(lines(process))
        assert process.returncode == -signal.SIGKILL
        acknowledged += map(int, said.split())
    wanted = [row(i, f" {i}." * 50) for i in acknowledged]
    assert len(wanted) > 100
    # Read-only first: rows that are only in the write-ahead log count as well.
    for read_only in (True, False):
        with Store(path, read_only) as store:
            assert read(store, wanted) == texts(wanted)
            assert len(store) % 3 == 0  # a batch is there whole or not at all
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


@pytest.mark.parametrize(("seconds", "first"), [(60, [256]), (0, [1] * 256)])
def test_a_commit_waits_for_company(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, first: list[int]
) -> None:
    monkeypatch.setattr(Store, "gather", float(seconds))
    commits: list[int] = []
    started = time.monotonic()
    with (
        Store(tmp_path / "store.sqlite") as store,
        store.writer(lambda items: commits.append(len(items))) as write,
    ):
        for i in range(256):
            write([row(i)])
            while len(commits) < len(first) * (i + 1) // 256:
                time.sleep(0.0001)
        assert commits == first
        write([row(256), row(257)])
    assert commits == [*first, 2]  # the end waits for nobody
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("mode", ["claim", "store"])
def test_two_processes_never_buy_the_same_sample(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "s.sqlite"
    processes = [child(CLAIMER, path, mode) for _ in range(3)]  # they make the new store at the same time
    try:
        for process in processes:
            assert next(lines(process)) == "ready\n"
        for process in processes:
            tell(process)
        bought = [[int(line) for line in iter(lines(p).__next__, "done\n")] for p in processes]
        assert sorted(i for some in bought for i in some) == list(range(300))
        with Store(path) as store:
            assert len(store) == (300 if mode == "store" else 0)
            held = {i for i in range(300) if not store.claim([key(i)])}
            assert held == (set(range(300)) if mode == "claim" else set())
            processes[0].kill()
            processes[0].wait()
            assert {i for i in held if store.claim([key(i)])} == (set(bought[0]) if mode == "claim" else set())
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_a_reader_that_was_there_first_sees_what_a_writer_adds(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    first, more = ([row(i, f" {i}." * 500) for i in range(start, start + 3000)] for start in (0, 3000))
    with Store(path) as store:
        store.write(first)
    with Store(path, read_only=True) as reader:
        assert len(reader) == 3000
        with Store(path) as store:
            for start in range(0, 3000, 300):  # more than the write-ahead log holds: pages of the file itself move
                store.write(more[start : start + 300])
            assert read(reader, first) == texts(first)
            assert len(reader) == sum(1 for _ in reader.rows()) == 6000
        with pytest.raises(DataError, match="readonly"):
            reader.write([row(7000)])
    assert [p.name for p in tmp_path.iterdir()] == ["s.sqlite"]


@pytest.mark.slow
def test_a_reader_that_cannot_lock_says_that_a_writer_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.write([row(i) for i in range(3000)])
    monkeypatch.setattr("os.access", lambda *_: False)  # tests may be root's, who may write anywhere
    with Store(path, read_only=True) as reader:
        assert len(reader) == sum(1 for _ in reader.rows()) == 3000
        with Store(path) as store:
            for start in range(3000, 6000, 300):
                store.write([row(i, f" {i}." * 500) for i in range(start, start + 300)])
        for use in (lambda: len(reader), lambda: list(reader.rows()), lambda: reader.samples(key(1))):
            with pytest.raises(DataError, match=r"s\.sqlite: another process writes to it"):
                use()


def test_a_new_store_waits_for_who_else_makes_it(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # where SQLite itself does not wait, but says at once: database is locked
    threading.Timer(0.2, other.rollback).start()
    with Store(path) as store:
        store.write([row(1)])
        assert len(store) == 1
    other.close()


def test_two_stores_in_one_process_hold_their_own_claims(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as one, Store(path) as two:
        assert one.claim([key(1), key(2)]) == {key(1), key(2)}
        assert two.claim([key(2), key(3)]) == {key(3)}
        one.unclaim([key(2)])
        assert two.claim([key(1), key(2)]) == {key(2)}
    with Store(path) as three:
        assert len(three.claim([key(i) for i in (1, 2, 3)])) == 3
