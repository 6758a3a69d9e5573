"""The same completions in SQLite and as Parquet parts: rows a second, bytes a row, memory.

    python benchmarks/parts.py [--questions 6250] [--url FOLDER_OR_URL]

Each question has 8 samples and their second prompts, 16 completions. The texts are words drawn as often as they come
in the rationales of the package, 620 bytes each; second ones are short. Words drawn alone compress less well than
what a model writes, so the package's own completions are measured beside them. Local files are synced and then in the
page cache.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cotdistill.backends import RECORDED
from cotdistill.chunks import pieces
from cotdistill.completions import Completion, Pool, SamplingParams
from cotdistill.parts import Parts, ShardStore, copy
from cotdistill.store import Row, Store
from machine import describe, reset_peak, resident

TEXT_BYTES = 620
SAMPLES = 8
FIRST = Pool({"model": "fake"}, SamplingParams(256, temperature=0.7))
SECOND = Pool({"model": "fake"}, SamplingParams(32))


def rows(questions: int) -> Iterator[Row]:
    with Store(RECORDED, read_only=True) as store:
        words = [word for row in store.rows() for word in row.completion.text.split(" ")]
    rng = random.Random(0)

    def text(size: int) -> str:
        return " ".join(rng.choices(words, k=size // 3))[:size]

    for i in range(questions):
        prompt = (f"Q: {text(200)} ({i})\nA: Let's think step by step.",)
        for sample in range(SAMPLES):
            first = text(TEXT_BYTES)
            yield Row(FIRST, FIRST.key(prompt), prompt, sample, Completion(first, "stop", 80, 150, served="fake"))
            asked = (*prompt, first, "Therefore, the answer is")
            yield Row(SECOND, SECOND.key(asked), asked, 0, Completion(f" {i}.", "stop", 240, 3, served="fake"))


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    reset_peak()
    before, start, busy = resident(), time.monotonic(), time.process_time()
    yield
    seconds, cpu = time.monotonic() - start, time.process_time() - busy
    more = resident(peak=True) - before
    print(
        f"- {what}: {count / seconds:,.0f} rows/s ({seconds:.1f} s, of them {cpu:.1f} s of CPU; "
        f"{more:,.0f} MB more memory)",
        flush=True,
    )


def stored(parts: Parts) -> int:
    return sum(size for shard in range(parts.shards) for size in parts.sizes(shard).values())


def measure(made: Sequence[Row], folder: Path, url: str) -> None:
    n, batches = len(made), list(pieces(made, 256))
    path = folder / "store.sqlite"

    def put(write: Callable[[list[Row]], None]) -> None:
        for batch in batches:
            write(batch)

    small = Parts(f"{url}/small", 1)
    with Store(path) as store:
        with timed("SQLite, written by 256, each commit synced", n):
            put(store.write)
        with timed("parts, written by 256, each part durable", n):
            put(lambda batch: small.write(0, batch))
        by_256 = stored(small)
        with timed(f"{len(batches)} parts read as one shard", n):
            assert sum(1 for _ in small.read(0)) == n
        with timed(f"{len(batches)} parts compacted into one", n):
            small.compact(0)
        with timed("the compacted one read", n):
            assert sum(1 for _ in small.read(0)) == n
        with timed("ShardStore opened: read, and put into its scratch file", n):
            ShardStore(small, 0, folder / "scratch").close()
        several = Parts(f"{url}/several", 16)
        with timed("copied from SQLite into 16 shards", n):
            assert copy(store, several) == n
        with timed("copied again: nothing is new", n):
            assert copy(store, several) == 0
    with timed("copied back into SQLite", n), Store(folder / "back.sqlite") as back:
        assert copy(several, back) == n
    sizes = {"SQLite": path.stat().st_size, "parts of 256": by_256, "compacted": stored(small)}
    print("- bytes/row: " + ", ".join(f"{name} {size / n:,.0f}" for name, size in sizes.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=6250)
    parser.add_argument("--url", help="where the parts lie; none: a temporary folder")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = list(rows(arguments.questions))
        size = sum(len(r.completion.text.encode()) for r in made) / len(made)
        print(f"\n{len(made):,} completions, {size:,.0f} bytes of text each, half of them long ones:\n")
        measure(made, folder, f"{arguments.url or folder}/{uuid4().hex}")
        with Store(RECORDED, read_only=True) as store:
            recorded = list(store.rows())
        parts = Parts(str(folder / "recorded"), 1)
        parts.write(0, recorded)
        size = sum(len(r.completion.text.encode()) for r in recorded) / len(recorded)
        print(
            f"\n{len(recorded):,} completions of a model, {size:,.0f} bytes of text each: bytes/row SQLite "
            f"{RECORDED.stat().st_size / len(recorded):,.0f}, one part {stored(parts) / len(recorded):,.0f}"
        )


if __name__ == "__main__":
    main()
