"""The store, against real processes: what was acknowledged stays, and nothing is bought twice."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cotdistill.errors import DataError
from cotdistill.store import Completion, Request, Row, SamplingParams, Store, canonical, identity_text

MODEL = identity_text({"model": "fake"})
PARAMS = SamplingParams(32, temperature=0.7)


def row(i: int, text: str = "") -> Row:
    request = Request((f"Q: {i}",), i)
    params = canonical(asdict(PARAMS))
    return Row(request.key(MODEL, params), MODEL, params, request, Completion(text or f" {i}.", "stop", 1, 2))


def keys(*numbers: int) -> list[bytes]:
    return [row(i).key for i in numbers]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.sqlite"
    with Store(path) as store:
        store.write([row(i) for i in range(1200)])
        store.write([])
        store.write([row(3, "another"), row(3, "a third")])
        assert len(store) == 1200
        found = store.read(keys(*range(1300)))
        assert found == {row(i).key: row(i).completion for i in range(1200)}
        assert store.models() == [{"model": "fake"}]
        assert store.params({"model": "fake"}) == [canonical(asdict(PARAMS))]
        assert store.params({"model": "other"}) == []
    with Store(path, read_only=True) as store:
        assert store.read(keys(3)) == {row(3).key: row(3).completion}
    assert [p.name for p in path.parent.iterdir()] == ["store.sqlite"]


TEXTS = {
    "empty": "",
    "separators": "a\u0085b\u2028c\r\nd\re",
    "NUL": "a\0b",
    "BOM and emoji": "\ufeff\N{GRINNING FACE}",
    "1 MB": "x" * 2**20,
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_comes_back_exactly(tmp_path: Path, text: str) -> None:
    request = Request((text, text, text))
    row = Row(request.key(MODEL, "{}"), MODEL, "{}", request, Completion(text, "length"))
    with Store(tmp_path / "s.sqlite") as store:
        store.write([row])
    with Store(tmp_path / "s.sqlite") as store:
        assert store.read([row.key]) == {row.key: row.completion}


def test_half_a_character_is_refused_and_the_store_goes_on(tmp_path: Path) -> None:
    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(DataError, match="half a character"):
            store.write([row(1), row(2, "a\ud800")])
        assert len(store) == 0
        prompt = Request(("a\ud800",))
        store.write([row(1), Row(prompt.key(MODEL, "{}"), MODEL, "{}", prompt, Completion("b", "stop"))])
        assert len(store) == 2


def test_keys_differ_where_the_text_may() -> None:
    request = Request(("ab", "c", "d"), 1)
    params = [
        PARAMS,
        *(replace(PARAMS, max_tokens=33), replace(PARAMS, temperature=0.8), replace(PARAMS, top_p=0.9)),
        *(replace(PARAMS, stop=("a", "b")), replace(PARAMS, stop=("ab",)), replace(PARAMS, seed=1)),
    ]
    all_keys = [request.key(MODEL, canonical(asdict(p))) for p in params]
    text = canonical(asdict(PARAMS))
    for prompt, sample in (
        (("a", "bc", "d"), 1),
        (("abcd",), 1),
        (("ab", "c", "d"), 2),
        (
            (
                "ab",
                "c",
                "d ",
            ),
            1,
        ),
    ):
        all_keys.append(Request(prompt, sample).key(MODEL, text))
    all_keys.append(request.key(identity_text({"model": "fake2"}), text))
    all_keys.append(request.key(identity_text({"model": "fake", "system": "x"}), text))
    assert len(set(all_keys)) == len(all_keys)
    assert identity_text({"b": "1", "a": "2"}) == identity_text({"a": "2", "b": "1"})


def test_seeds_differ_by_sample_and_pool_and_nothing_else() -> None:
    request = Request(("ab",), 0)
    assert request.seed(PARAMS) == request.seed(replace(PARAMS, max_tokens=1, temperature=0.1))
    others = [Request(("ab",), 1).seed(PARAMS), Request(("a", "b")).seed(PARAMS), request.seed(replace(PARAMS, seed=1))]
    assert len({request.seed(PARAMS), *others}) == 4
    assert all(0 <= seed < 2**31 for seed in others)


# Recorded completions hang on these: if this fails, every store in use is worthless.
def test_keys_stay_what_they_are() -> None:
    assert row(1).key.hex() == "c852aebe5954e97e24d7963784145529d870fe0f5dcf4b63c2120fa7be6bde5d"
    assert row(1).request.seed(PARAMS) == 1315006852


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
                    found = store.read(r.key for r in rows)
                    assert len(found) <= len(rows)
                    store.models()
                    if not read_only:
                        store.write([row(1000 + cycle)])
                        store.claim([b"x"])
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
from cotdistill.store import Completion, Request, Row, Store
def row(i):
    return Row(b"%d" % i, "{}", "{}", Request((f"Q: {i}",), i), Completion(f" {i}." * 50, "stop"))
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
for start in range(0, 300, 10):
    keys = [b"%d" % i for i in range(start, start + 10)]
    mine = store.claim(keys)
    print(*(key.decode() for key in mine), flush=True)
    time.sleep(0.001)
    if "store" in sys.argv: store.write([row(int(key)) for key in mine])
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
    wanted = {b"%d" % i: f" {i}." * 50 for i in acknowledged}
    assert len(wanted) > 100
    # Read-only first: rows that are only in the write-ahead log count as well.
    for read_only in (True, False):
        with Store(path, read_only) as store:
            assert {key: found.text for key, found in store.read(wanted).items()} == wanted
            assert len(store) % 3 == 0  # a batch is there whole or not at all
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


@pytest.mark.parametrize("mode", ["claim", "store"])
def test_two_processes_never_get_the_same_key(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "s.sqlite"
    processes = [child(CLAIMER, path, mode) for _ in range(3)]  # they make the new store at the same time
    try:
        for process in processes:
            assert next(lines(process)) == "ready\n"
        for process in processes:
            tell(process)
        claimed = [[key for line in iter(lines(p).__next__, "done\n") for key in line.split()] for p in processes]
        assert sorted(int(key) for some in claimed for key in some) == list(range(300))

        everything = [b"%d" % i for i in range(300)]
        with Store(path) as store:
            assert store.claim(everything) == set()  # all are stored, or held by those who live
            processes[0].kill()
            processes[0].wait()
            freed = {key.encode() for key in claimed[0]} if mode == "claim" else set()
            assert store.claim(everything) == freed
            store.unclaim()
            assert store.claim(everything) == freed
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    with Store(path) as store:
        assert len(store) == (300 if mode == "store" else 0)
        assert len(store.claim(everything)) == (0 if mode == "store" else 300)


def test_two_stores_in_one_process_hold_their_own_claims(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Store(path) as one, Store(path) as two:
        assert one.claim(keys(1, 2)) == set(keys(1, 2))
        assert two.claim(keys(2, 3)) == set(keys(3))
        one.write([row(1)])
        one.unclaim()
        assert two.claim(keys(1, 2)) == set(keys(2))
