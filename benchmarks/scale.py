"""How time and memory of `curate` grow with the rows, and what one question with very many samples does to them.

    python benchmarks/scale.py [--rows 1000000 3000000 10000000] [--samples 8] [--skew 1000000] [--processes N]

Writes generations as `generate` stores them, about 620 bytes a row, to a temporary folder: 70% right, 5% cut, 10% say
what another of their question says; 100,000 rows are made and then written as often as it takes, under other ids. Each
size is curated in a process of its own, from file to file, imports and the making of the questions apart. With `--skew`
the smallest size is curated twice more, with so many samples of one question besides, half of them distinct: as the
others, and with `prefer: short`, for which lines wait in a file. CPU seconds are of all processes, and what counts
where others use the machine too.

    python benchmarks/scale.py --bytes GENERATIONS

Bytes a row of a file of generations, real ones: as JSONL, and as Parquet with zstd and a key of 32 bytes a row.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from curation import ANSWERS, ENDS, MIDDLES, NAMES, STEPS, THINGS
from machine import describe, resident

BLOCK = 100_000  # rows
TEXT = "{n} has {a} {t} in a box and gets {b} more from a friend. {n} gives {c} {t} away. What is left?"
MB = 1e6


def write_block(folder: Path, rows: int, samples: int) -> None:
    """block.jsonl and questions.jsonl; ids begin with an @."""
    rng = random.Random(0)
    with (folder / "questions.jsonl").open("wb") as asked, (folder / "block.jsonl").open("wb") as written:
        for q in range(rows // samples):
            words, right = words_of(rng)
            asked.write(orjson.dumps({"id": f"@{q}", "text": TEXT.format(**words), "answer": right}) + b"\n")
            said: list[str] = []
            for index in range(samples):
                text = rng.choice(said) if said and rng.random() < 0.1 else rationale(rng, words)
                said.append(text)
                written.write(row(rng, f"@{q}", index, text, words, right))


def words_of(rng: random.Random) -> tuple[dict[str, Any], str]:
    a, b, c = rng.randrange(20, 90), rng.randrange(20, 90), rng.randrange(2, 30)
    things = {"n": rng.choice(NAMES), "t": rng.choice(THINGS)}
    return {**things, "a": a, "b": b, "c": c, "s": a + b, "r": a + b - c}, str(a + b - c)


def rationale(rng: random.Random, words: dict[str, Any]) -> str:
    steps = [rng.choice(part) for part in (STEPS, MIDDLES, ENDS)]
    last = f"there were {rng.randrange(10**4)} ways to count them, and each of them comes to the same {{r}} in the end"
    return rng.choice((" {} {} {} So {}.", "{}\n{}\n{}\n\nThat is to say, {}.")).format(*steps, last).format(**words)


def row(rng: random.Random, question_id: str, index: int, text: str, words: dict[str, Any], right: str) -> bytes:
    cut = rng.random() < 0.05
    shapes, weights = zip(*ANSWERS["number"], strict=True)
    x = right if rng.random() < 0.7 else str(int(right) + 10)
    return orjson.dumps(
        {
            "question_id": question_id,
            "index": index,
            "text": text[:-40] if cut else text,
            "answer_text": rng.choices(shapes, weights)[0].format(x=x, **words),
            "finish_reason": "length" if cut else "stop",
            "prompt_tokens": 140,
            "completion_tokens": 80,
            "error": "",
            "teacher": "",
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def write_generations(folder: Path, rows: int, skew: int) -> int:
    """generations.jsonl, with the question of many samples in the middle; returns its bytes."""
    block = (folder / "block.jsonl").read_bytes()
    path = folder / "generations.jsonl"
    with path.open("wb") as out:
        for i in range(rows // BLOCK):
            out.write(block.replace(b'"@', b'"%d-' % i))
            if i == rows // BLOCK // 2:
                out.writelines(many_of_one(skew))
    return path.stat().st_size


def many_of_one(samples: int) -> Iterator[bytes]:
    rng = random.Random(1)
    words, right = words_of(random.Random(2))
    for index in range(samples):
        text = f"{rationale(random.Random(3), words)} In way {rng.randrange(samples)} as in others."
        yield row(rng, "many", index, text, words, right)


def child(folder: Path, rows: int, skew: int, prefer: str, processes: int) -> None:
    """Curate, and print what it took."""
    from cotdistill.answers import answer_type
    from cotdistill.config import CurateConfig
    from cotdistill.curate import curate
    from cotdistill.methods import METHODS
    from cotdistill.records import Question

    asked = [orjson.loads(line) for line in (folder / "questions.jsonl").read_bytes().splitlines()]
    numbers = range(rows // BLOCK)
    questions = [Question(f"{i}-{q['id'][1:]}", f"{i}. {q['text']}", q["answer"]) for i in numbers for q in asked]
    if skew:
        words, right = words_of(random.Random(2))
        questions.append(Question("many", TEXT.format(**words), right))
    del asked
    peaks: dict[str, int] = {}
    threading.Thread(target=watch, args=(peaks,), daemon=True).start()
    before, started, cpu = resident(), time.perf_counter(), seconds_of_cpu()
    curated = curate(
        folder / "generations.jsonl",
        questions,
        METHODS["zero_shot_cot"],
        METHODS["fine_tune_cot"],
        answer_type("typed", "number"),
        CurateConfig.model_validate({"prefer": prefer}),
        folder / "pairs.jsonl",
        processes=processes,
    )
    own, all_of_it = (after - at_first for after, at_first in zip(seconds_of_cpu(), cpu, strict=True))
    found = {
        "seconds": time.perf_counter() - started,
        **{"cpu": all_of_it, "own_cpu": own, "before": before, "peak": resident(peak=True)},
        **{"worker": max(peaks.values(), default=0) * 1024 / MB, "questions": len(questions)},
        **{"pairs": curated.ledger["kept"], "bytes": (folder / "pairs.jsonl").stat().st_size},
    }
    print(json.dumps(found))


def seconds_of_cpu() -> tuple[float, float]:
    """Of this process, and with those of it that have ended."""
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    mine = own.ru_utime + own.ru_stime
    return mine, mine + ended.ru_utime + ended.ru_stime


def watch(peaks: dict[str, int]) -> None:
    """Keep the peak in kB of each worker: what the system says of ended ones has their parent's too."""
    while True:
        for worker in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            try:
                status = Path(f"/proc/{worker}/status").read_text()
            except OSError:  # it has ended
                continue
            peaks[worker] = next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmHWM")), 0)
        time.sleep(0.2)


def measured(folder: Path, rows: int, skew: int, prefer: str, processes: int) -> dict[str, float]:
    words = [f"--child={folder}", f"--rows={rows}", f"--skew={skew}", f"--prefer={prefer}", f"--processes={processes}"]
    out = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True).stdout
    (folder / "pairs.jsonl").unlink()
    found: dict[str, float] = json.loads(out)
    return found


def show(name: str, rows: int, size: int, found: dict[str, float]) -> None:
    print(
        f"| {name} | {size / 1e9:.2f} | {found['questions']:,.0f} | {found['seconds']:,.1f} | {found['cpu']:,.1f} "
        f"| {found['cpu'] / rows * 1e6:.2f} | {found['own_cpu'] / rows * 1e6:.2f} | {found['before']:,.0f} "
        f"| {found['peak'] - found['before']:,.0f} | {found['worker']:,.0f} | {found['pairs']:,.0f} "
        f"| {found['bytes'] / 1e9:.2f} | {os.getloadavg()[0]:.1f} |",
        flush=True,
    )


def show_bytes(path: Path) -> None:
    parquet, arrow = (importlib.import_module(name) for name in ("pyarrow.parquet", "pyarrow"))
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    print(f"{len(rows):,} rows: {path.stat().st_size / len(rows):.0f} bytes a row as JSONL")
    for row in rows:
        row["key"] = hashlib.sha256(f"{row['question_id']} {row['index']}".encode()).digest()
    for level in (1, 3, 9):
        out = io.BytesIO()
        parquet.write_table(arrow.Table.from_pylist(rows), out, compression="zstd", compression_level=level)
        print(f"{out.tell() / len(rows):.0f} as Parquet, zstd level {level}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--samples", type=int, default=8, help="of each question")
    parser.add_argument("--skew", type=int, default=0, help="samples of one question")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the files go, and are removed; twice their bytes are needed")
    parser.add_argument("--bytes", type=Path, metavar="GENERATIONS")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prefer", default="first", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.rows[0], arguments.skew, arguments.prefer, arguments.processes)
        return
    if arguments.bytes:
        show_bytes(arguments.bytes)
        return
    if any(rows % BLOCK for rows in arguments.rows) or BLOCK % arguments.samples:
        parser.error(f"rows must be a multiple of {BLOCK:,}, and that of --samples")
    print(describe())
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as name:
        folder = Path(name)
        write_block(folder, BLOCK, arguments.samples)
        print(
            "| rows | GB | questions | seconds | CPU s | CPU us a row | parent's | MB before | more at the peak "
            f"| MB of a worker | pairs | GB | load |\n{'| --- ' * 13}|"
        )
        first: dict[str, float] = {}
        runs = [(rows, 0, "first") for rows in arguments.rows]
        if arguments.skew:
            runs += [(min(arguments.rows), arguments.skew, prefer) for prefer in ("first", "short")]
        for rows, skew, prefer in runs:
            size = write_generations(folder, rows, skew)
            found = measured(folder, rows, skew, prefer, arguments.processes)
            each = found["cpu"] / (rows + skew)
            first = first or {"each": each}
            name = f"{rows:,}" + f" and {skew:,} of one, prefer: {prefer}" * bool(skew)
            show(name, rows + skew, size, found)
            print(f"  CPU a row: {each / first['each']:.3f} of the first line's", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
