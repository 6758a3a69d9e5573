"""Parts: what was acknowledged is there, once, after kills, compactions and damage; SQLite and S3 give the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cotdistill import parquet
from cotdistill import parts as parts_module
from cotdistill.cli import main
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.errors import ConfigError, CotdistillError, DataError
from cotdistill.objects import Files, without_secrets
from cotdistill.parquet import record
from cotdistill.parts import Parts, ShardStore, copy
from cotdistill.records import write_atomic
from cotdistill.store import Mark, Row, Store
from disks import small_disk

pytest.importorskip("pyarrow")

POOL = Pool({"model": "fake"}, SamplingParams(32, temperature=0.7, stop=("\n\nQ:",)))
SECOND = Pool({"model": "fake", "system": "Be brief.\u2028"}, SamplingParams(8))
TEXTS = [  # F21 of the matrix
    *("", "a\u0085b\u2028c\r\nd\re", "a\0b", "\ufeff\N{GRINNING FACE}", "x" * 2**20, "\u00e9" * 300),
]


def row(i: int, text: str | None = None, created: float = 1.7e9) -> Row:
    prompt = (f"Q: {i // 2}",)  # two samples a question
    completion = Completion(f" {i}." if text is None else text, "stop", i % 300, 2, served=f"fake-{i % 2}")
    return Row(POOL, POOL.key(prompt), prompt, i % 2, completion, created + i)


def second(i: int) -> Row:
    prompt = (*row(i).prompt, row(i).completion.text, "Therefore")
    return Row(SECOND, SECOND.key(prompt), prompt, 0, Completion(f" so {i}", "length", 1, 2), 1.7e9 + i)


ROWS = [*map(row, range(100)), *map(second, range(100))]


def odd_rows() -> list[Row]:
    rows = []
    for i, text in enumerate(TEXTS):
        asked = text[:400]
        prompt = (f"{asked}\ud800" if i % 2 else asked, asked)  # a prompt is kept as JSON, which holds half a character
        rows.append(Row(POOL, POOL.key(prompt), prompt, i, Completion(text, "length"), 1.0 + i))
    return rows


def in_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (r.key, r.sample))


def everything(parts: Parts) -> list[Row]:
    """Of all shards, and each shard's own are there and nowhere else."""
    found = []
    for shard in range(parts.shards):
        rows = list(parts.read(shard))
        assert all(parts.shard_of(r.prompt) == shard for r in rows)
        assert rows == in_order(rows)
        found += rows
    assert len({(r.key, r.sample) for r in found}) == len(found)
    return in_order(found)


def fill(parts: Parts, rows: Iterable[Row]) -> None:
    shards: dict[int, list[Row]] = {}
    for one in rows:
        shards.setdefault(parts.shard_of(one.prompt), []).append(one)
    for shard, some in shards.items():
        parts.write(shard, some)


def files(parts: Parts, shard: int = 0) -> list[Path]:
    assert parts.files.local
    return sorted(p for p in (parts.files.local / f"{shard:05}").iterdir() if p.name.endswith(".parquet"))


@pytest.fixture(params=["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("memory", "s3"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{uuid4().hex}"
    return str(tmp_path / "parts") if request.param == "local" else f"memory://{uuid4().hex}"


def test_both_stores_read_each_other_row_for_row(tmp_path: Path, url: str) -> None:
    rows = in_order([*ROWS, *odd_rows()])
    parts = Parts(url, 4)
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as other:
        one.write([*rows, Mark(b"job", b"key", 2)])
        one.write([row(1000)._replace(completion=Completion("", "error", error="HTTP 500"))])
        assert (copy(one, parts), copy(one, parts)) == (len(rows), 0)
        assert everything(Parts(url)) == rows
        assert [Parts(url, shards).shards for shards in (0, 256, 4)] == [4, 4, 4]
        assert (copy(parts, other), copy(parts, other)) == (len(rows), 0)
        assert list(other.rows()) == list(one.rows()) == rows
        other.write([row(500)])
        assert (copy(other, parts), copy(parts, one), copy(one, other)) == (1, 1, 0)
        several = Parts(str(tmp_path / "several"), 7)
        assert (copy(parts, several), copy(parts, several)) == (len(rows) + 1, 0)
        assert everything(several) == everything(parts)


def test_where_a_question_is_stays_what_it_is(tmp_path: Path) -> None:
    """If this fails, no store of parts that is in use is read any more."""
    parts = Parts(str(tmp_path), 256)
    assert [parts.shard_of((f"Q: {i}",)) for i in range(4)] == [45, 213, 144, 82]
    assert parts.shard_of(("Q: 1", " so", "Therefore")) == 213
    with pytest.raises(ValueError, match="shard 213 is written into shard 3"):
        parts.write(3, [row(2)])


def test_of_a_sample_bought_twice_the_first_is_read_for_ever(url: str) -> None:
    parts = Parts(url, 1)
    later, first, between = row(1, "later", 3.0), row(1, "first", 1.0), row(1, "between", 2.0)
    parts.write(0, [later, row(2)])
    assert list(parts.read(0)) == in_order([later, row(2)])
    parts.write(0, [between, first, row(3)])
    expected = in_order([first, row(2), row(3)])
    assert list(parts.read(0)) == expected
    assert parts.compact(0) == 2
    parts.write(0, [between])
    assert list(parts.read(0)) == expected
    assert (parts.compact(0), parts.compact(0)) == (2, 0)
    assert list(parts.read(0)) == expected


def test_half_a_character_is_refused_as_by_the_other_store(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path / "parts"), 1)
    for rows in ([row(1, "a\ud800")], [row(2), row(1, "\udfff")]):
        with pytest.raises(DataError, match="half a character"):
            parts.write(0, rows)
    assert everything(parts) == []


def test_a_part_that_is_written_again_is_there_once(url: str) -> None:
    parts = Parts(url, 1)
    for _ in range(2):
        parts.write(0, ROWS)
        parts.write(0, [])
    assert len(parts.sizes(0)) == 1
    fill(parts, [row(500)])
    parts.compact(0)
    parts.write(0, ROWS)  # a put that is tried again after its part was compacted away
    assert len(parts.sizes(0)) == 1
    assert everything(parts) == in_order([*ROWS, row(500)])


@pytest.mark.slow
def test_many_parts_are_read_with_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FILES_AT_ONCE", 3)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 500)
    parts = Parts(str(tmp_path), 1)
    for start in range(0, len(ROWS), 10):
        parts.write(0, ROWS[max(0, start - 2) : start + 10])  # some twice
    assert everything(parts) == in_order(ROWS)
    assert parts.compact(0) == 20
    assert everything(parts) == in_order(ROWS)


def test_a_large_part_is_not_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(str(tmp_path), 1)
    parts.write(0, ROWS)
    monkeypatch.setattr(parts_module, "WHOLE_BYTES", files(parts)[0].stat().st_size)
    (large,) = files(parts)
    for some in ([row(500)], [row(501), row(1)], [row(502)]):
        parts.write(0, some)
    assert parts.compact(0) == 3
    assert large in files(parts)
    assert len(files(parts)) == 2
    assert everything(parts) == in_order([*ROWS, row(500), row(501), row(502)])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def manifest(path: Path) -> Path:
    """The only one beside a part."""
    (found,) = path.parent.glob("manifest*.json")
    return found


def foreign(path: Path) -> None:
    """Someone's Parquet under a name that is right."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), path)
    path.rename(path.with_name(f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"))


def wrong_row(path: Path) -> None:
    """A row that was damaged in memory, before it was written."""
    one = list(record(row(1), 0.0))
    one[6] = " 2."
    parquet.write(path, [tuple(one)])  # type: ignore[list-item]
    path.rename(path.with_name(f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"))


def unsorted(path: Path) -> None:
    parquet.write(path, [record(one, 0.0) for one in reversed(in_order(ROWS))])
    path.rename(path.with_name(f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (flip, r"00000/[0-9a-f]{64}.parquet: the part is damaged"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-9]), r"[0-9a-f]{64}.parquet: the part is damaged"),
    "empty": (lambda p: p.write_bytes(b""), r"[0-9a-f]{64}.parquet: the part is damaged \(0 bytes"),
    "gone": (Path.unlink, r"00000/[0-9a-f]{64}.parquet: the part is not there"),
    "manifest": (lambda p: manifest(p).write_text("{"), r"00000/manifest-[0-9a-f]{64}.json: damaged"),
    "no list": (lambda p: manifest(p).write_text("[]"), r"00000/manifest-[0-9a-f]{64}.json: damaged"),
    "foreign": (foreign, r"00000: [0-9a-f]{64}.parquet: not a part of a store"),
    "not sorted": (unsorted, r"00000: the completions are not sorted at key"),
    "a row": (wrong_row, r"00000: the completion of key [0-9a-f]{32}, sample 1, is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_never_read(tmp_path: Path, damage: str) -> None:
    harm, message = DAMAGES[damage]
    parts = Parts(str(tmp_path / "parts"), 1)
    parts.write(0, ROWS[:50])
    parts.write(0, ROWS[50:])
    parts.compact(0)
    (path,) = files(parts)
    if damage in ("foreign", "a row", "not sorted"):
        manifest(path).unlink()
    harm(path)
    for use in (lambda: list(parts.read(0)), lambda: ShardStore(parts, 0, tmp_path / "scratch")):
        with pytest.raises(DataError, match=message):
            use()
    if damage in ("a bit", "gone"):  # as the message says
        path.unlink(missing_ok=True)
        manifest(path).unlink()
        assert everything(parts) == []


class Killed(BaseException):
    """At once: no handler of the code may mend what it left."""


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the store die before its operation number `at`."""
    from fsspec.implementations.local import LocalFileSystem

    count = 0

    def counted(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                raise Killed
            return function(*arguments)

        return call

    for kind, name in ((Files, "put"), (Files, "put_file"), (LocalFileSystem, "rm_file")):
        monkeypatch.setattr(kind, name, counted(getattr(kind, name)))


def test_compaction_killed_between_its_steps_loses_nothing(tmp_path: Path) -> None:
    for at in range(1, 100):
        parts = Parts(str(tmp_path / str(at)), 1)
        for start in range(0, len(ROWS), 70):
            parts.write(0, ROWS[start : start + 70])
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, at)
            try:
                assert parts.compact(0) == 3
                died = False
            except Killed:
                died = True
        assert everything(parts) == in_order(ROWS)
        parts.write(0, [row(500)])
        parts.compact(0)
        assert everything(parts) == in_order([*ROWS, row(500)])
        assert len(files(parts)) == 1  # and what the killed one left is gone
        if not died:
            break
    assert at == 6  # a new part, a manifest, three to remove


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, 2, 3])
def test_others_compact_between_any_two_steps_of_a_compaction(tmp_path: Path, others: int) -> None:
    for at in range(100):
        parts, slow = (Parts(str(tmp_path / str(at)), 1) for _ in range(2))
        expected = ROWS[:60]
        for start in range(0, 60, 20):
            parts.write(0, ROWS[start : start + 20])
        count = 0

        def others_first(function: Any, at: int = at, parts: Parts = parts, expected: list[Row] = expected) -> Any:
            def call(*arguments: Any) -> Any:
                nonlocal count
                count += 1
                for i in range(others if count == at else 0):
                    expected.append(row(500 + i))
                    parts.write(0, expected[-1:])
                    assert parts.compact(0)
                    assert everything(parts) == in_order(expected)
                return function(*arguments)

            return call

        for name in ("put", "put_file", "names", "read", "get", "remove"):
            setattr(slow.files, name, others_first(getattr(slow.files, name)))
        slow.compact(0)
        assert everything(parts) == in_order(expected)
        for _ in range(2):
            parts.write(0, [row(600)])
            parts.compact(0)
        assert everything(parts) == in_order([*expected, row(600)])
        assert len(files(parts)) == len(list(files(parts)[0].parent.glob("manifest*"))) == 1
        if count < at:
            break
    assert 10 < at < 99


def test_copying_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(str(tmp_path / "parts"), 4)
    with Store(tmp_path / "s.sqlite") as store, Store(tmp_path / "back.sqlite") as back:
        store.write(ROWS)
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, 3)
            with pytest.raises(Killed):
                copy(store, parts)
        there = len(everything(parts))
        assert 0 < there < len(ROWS)
        assert copy(store, parts) == len(ROWS) - there
        assert everything(parts) == in_order(ROWS)
        monkeypatch.setattr(parts_module, "ROWS_AT_ONCE", 30)
        flip(files(parts, 2)[0])
        with pytest.raises(DataError, match=r"00002/.*damaged"):
            copy(parts, back)
        there = len(back)
        assert 0 < there < len(ROWS)
        flip(files(parts, 2)[0])
        assert copy(parts, back) == len(ROWS) - there
        assert list(back.rows()) == in_order(ROWS)


def test_what_killed_writers_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(str(tmp_path), 1)
    parts.write(0, ROWS)
    left = tmp_path / "00000" / ".abc.parquet.x1"
    left.write_bytes(b"half")
    parts.compact(0)
    assert left.exists()  # it may be at work
    monkeypatch.setattr("cotdistill.objects.LEFT_SECONDS", -1)
    parts.compact(0)
    assert not left.exists()
    assert everything(parts) == in_order(ROWS)


def test_failures_and_marks_are_of_the_scratch_alone(tmp_path: Path) -> None:
    parts = Parts(str(tmp_path / "parts"), 1)
    failed = row(2)._replace(completion=Completion("", "error", error="HTTP 500"))
    with ShardStore(parts, 0, tmp_path / "scratch", gather=0.0) as store:
        heard: list[Row | Mark] = []
        with store.writer(heard.extend) as write:
            write([row(1), failed])
            write([Mark(b"job", row(1).key, 1)])
        assert len(heard) == 3
        assert store.failures(failed.key) == {0: "HTTP 500"}
        assert store.finished(b"job", 1) == {row(1).key}
        assert everything(parts) == [row(1)]
    with ShardStore(parts, 0, tmp_path / "scratch") as store:
        assert store.samples(row(1).key) == {1: row(1).completion}
        assert (store.failures(failed.key), store.finished(b"job", 1)) == ({}, set())
        with pytest.raises(DataError, match="another process of this machine is at this shard"):
            ShardStore(parts, 0, tmp_path / "scratch")
    assert [p.suffix for p in (tmp_path / "scratch").iterdir()] == [".lock"]


def test_what_comes_while_a_part_is_put_goes_into_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(str(tmp_path / "parts"), 1)
    go_on, write_part, batches = threading.Event(), parts.write, list[int]()

    def slow(shard: int, items: Any) -> None:
        go_on.wait(30)
        write_part(shard, items)

    monkeypatch.setattr(parts, "write", slow)
    with (
        ShardStore(parts, 0, tmp_path / "scratch", gather=0.0) as store,
        store.writer(lambda items: batches.append(len(items))) as write,
    ):
        write([row(0)])
        time.sleep(0.05)
        for i in range(1, 60):
            write([row(i)])
        assert batches == []  # nothing counts before its part is there
        go_on.set()
    assert batches == [1, 59]
    assert [len(files(parts)), len(everything(parts))] == [2, 60]


def test_a_full_disk_is_named_and_the_store_goes_on_after(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m"):
        parts = Parts(str(tmp_path / "disk/parts"), 1)
        parts.write(0, ROWS)
        filler = tmp_path / "disk/filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        heard: list[Row | Mark] = []
        full = rf"^{parts.url}/00000/.*parquet: cannot be written \(No space left on device"
        with ShardStore(parts, 0, tmp_path / "scratch") as store:
            with pytest.raises(DataError, match=full), store.writer(heard.extend) as write:
                write([row(500)])
            assert (store.samples(row(500).key), heard) == ({}, [])
            assert [p.name for p in (tmp_path / "disk/parts/00000").iterdir()] == [files(parts)[0].name]
            filler.unlink()
            store.write([row(500)])
        assert everything(parts) == in_order([*ROWS, row(500)])


PLACES = {
    "s4://a/b": (ConfigError, "s4://a/b: cannot be used .Protocol not known"),
    "simplecache::s3://u:pw@a/b": (ConfigError, "chain of file systems"),
    "sftp://user:hush@localhost/a?token=hush": (CotdistillError, "sftp://localhost/a"),
    "{tmp}/file": (DataError, "file/parts.json: cannot be used .NotADirectoryError"),
    "{tmp}": (DataError, "holds 'broken' and no parts.json, so it is no store of parts"),
    "{tmp}/newer": (DataError, "of version 2, and this cotdistill reads up to 1"),
    "{tmp}/broken": (DataError, "broken/parts.json: not a cotdistill store, or damaged"),
    "{tmp}/odd": (DataError, "odd/parts.json: not a cotdistill store, or damaged"),
    "{tmp}/other": (DataError, "other/parts.json: not a cotdistill store, or damaged"),
}


@pytest.mark.parametrize("place", PLACES)
def test_places_that_hold_no_parts(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    said = {"format": "cotdistill parts", "version": 1, "shards": 4}
    for name, text in {
        "newer": json.dumps(said | {"version": 2}),
        "broken": "{",
        "odd": json.dumps(said | {"version": "one"}),
        "other": json.dumps(said | {"shards": 0}),
    }.items():
        write_atomic(tmp_path / name / "parts.json", text)
    kind, message = PLACES[place]
    with pytest.raises(kind, match=message) as caught:
        Parts(place.format(tmp=tmp_path))
    assert "hush" not in str(caught.value)
    with pytest.raises(DataError, match="no store of parts there"):
        Parts(str(tmp_path / "none"), shards=0)
    assert not (tmp_path / "none").exists()


def test_secrets_are_not_said() -> None:
    assert without_secrets("s3://k:s@h/p?q=1 or http://x/y?z w?") == "s3://h/p or http://x/y w?"
    assert Files("memory://a", {"secret": "hush", "key": "k1"}).hidden("k1 is wrong, hush!") == "*** is wrong, ***!"


COMMANDS = [
    ("store copy a.sqlite parts --shards 3", 0, "200 completions of a.sqlite are new in parts"),
    ("store copy a.sqlite parts", 0, "0 completions"),
    ("store copy parts b.sqlite", 0, "200 completions"),
    ("store compact parts", 0, "0 parts are 0 now, in 3 shards"),
    ("store copy a.sqlite parts --shards 4", 2, "--shards 4: parts has 3, and keeps them"),
    ("store copy none parts", 3, "none: no store of parts there"),
    ("store copy none.sqlite parts", 3, "none.sqlite: no such store"),
    ("store compact a.sqlite", 3, "NotADirectoryError"),
    ("store copy a.sqlite x --shards 99999", 2, "a store of parts has 1 to 65536"),
]


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with Store(Path("a.sqlite")) as store:
        store.write(ROWS)
    for words, code, said in COMMANDS:
        codes: list[int] = []
        main(words.split(), codes.append)
        out = capsys.readouterr()
        assert codes == [code], words
        assert said in (out.out if code == 0 else out.err), words
    assert not Path("x").exists()


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "parquet"), ("fsspec", "parquet"), ("s3fs", "s3")])
@pytest.mark.slow
def test_what_to_install_is_said(tmp_path: Path, package: str, extra: str) -> None:
    place = "s3://bucket/parts" if package == "s3fs" else str(tmp_path / "parts")
    code = f"import sys; sys.modules[{package!r}] = None; from cotdistill.cli import main; main()"
    with Store(tmp_path / "a.sqlite") as store:
        store.write(ROWS)
    ended = subprocess.run(
        [sys.executable, "-c", code, "store", "copy", str(tmp_path / "a.sqlite"), place],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert f"pip install 'cotdistill[{extra}]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 2
