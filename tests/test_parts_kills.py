"""Parts, against real processes: killed at random, several at once, on a disk and on S3; and asked through."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cotdistill.backends.openai import OpenAIBackend
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.errors import DataError
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.parts import Parts, ShardStore
from cotdistill.records import Generation, Question
from cotdistill.store import Row, Store
from object_store import start_s3
from servers import Server, start_server

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow

POOL = Pool({"model": "fake"}, SamplingParams(32, temperature=0.7))
# For children, without pytest.
HELPERS = """
import sys, time
from pathlib import Path
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.parts import Parts, ShardStore
from cotdistill.store import Row
POOL = Pool({"model": "fake"}, SamplingParams(32, temperature=0.7))
def row(i):
    prompt = (f"Q: {i}",)
    return Row(POOL, POOL.key(prompt), prompt, 0, Completion(f" {i}." * 50, "stop", 1, 2), 1.0)
parts = Parts(sys.argv[1], 1)
"""
WRITER = """
with ShardStore(parts, 0, Path(sys.argv[2]), gather=0.01) as store:
    with store.writer(lambda items: print(*(item.prompt[0][3:] for item in items), flush=True)) as write:
        for i in range(int(sys.argv[3]), int(sys.argv[4])):
            write([row(i)])
            time.sleep(0.001)
"""
PLAIN_WRITER = """
for i in range(int(sys.argv[3]), int(sys.argv[4]), 5):
    parts.write(0, [row(i + j) for j in range(6)])  # one of them is in the next part too
    print(*range(i, i + 6), flush=True)
"""
COMPACTOR = """
print("ready", flush=True)
while True:
    parts.compact(0)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HELPERS + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    return iter(process.stdout)


def there(parts: Parts) -> list[int]:
    """The numbers of all completions, each with the text that is its own."""
    rows = list(parts.read(0))
    numbers = [int(row.prompt[0][3:]) for row in rows]
    assert [row.completion.text for row in rows] == [f" {i}." * 50 for i in numbers]
    assert len(set(numbers)) == len(numbers)
    return numbers


@pytest.fixture(params=["local", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "parts")
    return f"{request.getfixturevalue('bucket')}/{uuid4().hex}"


def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, url: str) -> None:
    rng = random.Random(1)
    acknowledged: set[int] = set()
    for cycle in range(9):
        with child(WRITER, url, tmp_path / "scratch", 10_000 * cycle, 10_000 * (cycle + 1)) as process:
            lines = [next(said(process))]
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            lines += said(process)
        assert process.returncode == -signal.SIGKILL
        acknowledged |= {int(i) for line in lines if line.endswith("\n") for i in line.split()}
        if cycle % 4 == 2:
            parts = Parts(url)
            assert acknowledged <= {*there(parts)}
            parts.compact(0)
    assert len(acknowledged) > 100
    assert acknowledged <= {*there(Parts(url))}
    with ShardStore(Parts(url), 0, tmp_path / "scratch") as store:
        assert len(store) == len(there(Parts(url)))


def test_writers_compactors_and_a_reader_at_once(tmp_path: Path, url: str) -> None:
    parts = Parts(url, 1)
    each = 200 if url.startswith("s3") else 1500
    writers = [child(PLAIN_WRITER, url, "", i * 10_000, i * 10_000 + each) for i in range(2)]
    compactors = [child(COMPACTOR, url) for _ in range(2)]
    rng, killed, acknowledged = random.Random(2), 0, set[int]()
    try:
        while any(writer.poll() is None for writer in writers):
            before = {int(i) for writer in writers for i in next(said(writer), "").split()}
            acknowledged |= before
            assert acknowledged <= {*there(parts)}
            victim = rng.randrange(2)
            if rng.random() < 0.5:
                compactors[victim].kill()
                compactors[victim].communicate()
                compactors[victim], killed = child(COMPACTOR, url), killed + 1
        assert [writer.wait() for writer in writers] == [0, 0]
        assert killed
        assert [compactor.poll() for compactor in compactors] == [None, None]
    finally:
        for process in (*writers, *compactors):
            process.kill()
            process.communicate()
    expected = {i for start in (0, 10_000) for i in range(start, start + each + 1)}
    assert {*there(parts)} == expected
    parts.compact(0)
    assert {*there(parts)} == expected
    assert len(parts.sizes(0)) == 1


def test_s3_is_found_by_fsspec_s_own_variables_as_well(bucket: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {
        "FSSPEC_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "FSSPEC_S3_KEY": "a",
        "FSSPEC_S3_SECRET": "b",
    }
    with Store(tmp_path / "a.sqlite") as store:
        prompt = ("Q: 0",)
        store.write([Row(POOL, POOL.key(prompt), prompt, 0, Completion(" ok", "stop"))])
    command = [sys.executable, "-m", "cotdistill", "store", "copy", str(tmp_path / "a.sqlite"), f"{bucket}/fsspec"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.stdout == f"1 completions of {tmp_path / 'a.sqlite'} are new in s3://bucket/fsspec\n", ended.stderr
    assert len(list(Parts(f"{bucket}/fsspec", 0).read(Parts(f"{bucket}/fsspec", 0).shard_of(prompt)))) == 1


def test_a_dead_server_is_named_and_what_it_did_not_take_does_not_count(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    with start_s3() as server:
        quick = {"connect_timeout": 1, "retries": {"mode": "standard", "max_attempts": 1}}
        options = {"endpoint_url": server.endpoint, "key": "AKIA0", "secret": "hush", "config_kwargs": quick}
        parts = Parts("s3://bucket/parts", 1, options)
        prompts = [(f"Q: {i}",) for i in range(2)]
        rows = [Row(POOL, POOL.key(p), p, 0, Completion(" ok", "stop")) for p in prompts]
        heard: list[object] = []
        with ShardStore(parts, 0, tmp_path / "scratch") as store:
            with store.writer(heard.extend) as write:
                write(rows[:1])
            server.kill()
            with pytest.raises(DataError, match=r"s3://bucket/parts/00000/.*.parquet: cannot be used") as caught:
                store.write(rows[1:])
            assert "hush" not in str(caught.value)
            with pytest.raises(DataError, match="cannot be used"), store.writer(heard.extend) as write:
                write(rows[1:])
            assert len(store) == len(heard) == 1
    with pytest.raises(DataError, match="Could not connect to the endpoint"):
        Parts("s3://bucket/parts", 1, options)


QUESTIONS = [Question(str(i), f"What is {i} plus 1?", str(i + 1)) for i in range(60)]
COT = METHODS["zero_shot_cot"]
ASKER = """
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.config import LimitsConfig
from cotdistill.generate import generate
from cotdistill.methods import METHODS
from cotdistill.records import Question

class Said(ShardStore):
    def _commit(self, db, items):
        super()._commit(db, items)
        print(*(f"{item.key.hex()}-{item.sample}" for item in items if isinstance(item, Row)), flush=True)

questions = [Question(str(i), f"What is {i} plus 1?", str(i + 1)) for i in range(60)]
backend = OpenAIBackend("fake", sys.argv[3], limits=LimitsConfig(concurrency=8))
with Said(parts, 0, Path(sys.argv[2]), gather=0.05) as store:
    list(generate(questions, backend, METHODS["zero_shot_cot"], store, n=4, temperature=0.7))
"""


def asked(store: Store, server: Server) -> list[Generation]:
    return list(generate(QUESTIONS, OpenAIBackend("fake", server.base_url), COT, store, n=4, temperature=0.7))


def test_generations_are_those_of_the_other_store(tmp_path: Path, url: str) -> None:
    with start_server("--wrong-rate", "0.3") as server:
        with Store(tmp_path / "s.sqlite") as store:
            expected = asked(store, server)
        parts, found = Parts(url, 3), list[Generation]()
        for shard in range(3):
            mine = [q for q in QUESTIONS if parts.shard_of((COT.prompt(q),)) == shard]
            backend = OpenAIBackend("fake", server.base_url)
            with ShardStore(parts, shard, tmp_path / "scratch") as store:
                found += generate(mine, backend, COT, store, n=4, temperature=0.7)
        assert sorted(found, key=lambda g: (int(g.question_id), g.index)) == expected
        bought = server.stats()["requests"]
        for shard in range(3):
            with ShardStore(parts, shard, tmp_path / "elsewhere") as store:
                backend = OpenAIBackend("fake", server.base_url)
                list(generate(mine, backend, COT, store, n=4, temperature=0.7)) if shard == 2 else None
        assert server.stats()["requests"] == bought


def test_a_killed_run_buys_nothing_again_that_was_acknowledged(tmp_path: Path, url: str) -> None:
    rng, acknowledged = random.Random(3), set[str]()
    with start_server("--latency", "0.02", "--ignore", "n") as server:
        for cycle in range(7):
            with child(ASKER, url, tmp_path / "scratch", server.base_url) as process:
                lines = [line for line in [next(said(process), "")] if line]
                if cycle < 6:
                    time.sleep(rng.uniform(0, 0.3))
                    process.kill()
                lines += said(process)
            whole = {key for line in lines if line.endswith("\n") for key in line.split()}
            assert not whole & acknowledged  # what was acknowledged before is not bought again
            acknowledged |= whole
            assert process.returncode == (-signal.SIGKILL if cycle < 6 else 0)
        with ShardStore(Parts(url), 0, tmp_path / "scratch") as store:
            bought = server.stats()["requests"]
            generations = asked(store, server)
            assert server.stats()["requests"] == bought
            needed = len(store)
    assert len(generations) == 240
    assert 0 < len(acknowledged) <= needed
    if not url.startswith("s3"):  # where a put takes long, more is in it
        assert bought - needed <= 6 * (8 + 100)  # of each kill: in flight, and come since the last put, at 400 a second
