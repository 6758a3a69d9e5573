"""How fast `curate` is over a million generations of each answer type, and beside other ways to do it.

    python benchmarks/curation.py [--rows 1000000] [--types number choice ...] [--rule typed] [--processes N]

Writes generations of 125,000 questions, D = 8, with rationales of about 300 characters to a temporary folder:
the shares of bare and other answers are near those of text-davinci-002 on SVAMP, Date Understanding, Last Letter
and StrategyQA; 30% are wrong, 5% cut, 10% repeat another. Each way is a process of its own, from the file of
generations to the file of pairs, imports included; CPU seconds are of all its processes. For `number` the others
do the same filter (right, not cut, not the same words twice):

    loop     one process: json, our own `score`, a set, json
    duckdb   the last number of the answer by a regular expression, in SQL
    polars   the same as lazy expressions

The last two are left out, with a line that says so, where they are not installed. Peak RSS is of the process itself,
and of the largest of its workers.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

D = 8
NAMES = ("Debby", "Carlos", "Amina", "Whitney", "Tom", "Faye", "Haley", "Luis", "Edward", "Rachel", "Wendy", "Paul")
THINGS = ("apples", "marbles", "stickers", "pencils", "cupcakes", "baseball cards", "toy cars", "sea shells")
STEPS = (
    "First, we need to find out how many {t} {n} had at the start. It says that {n} had {a} {t} in the first box.",
    "{n} starts with {a} {t}, and we know that there are {b} more of them in the other box on the table.",
    "Let us think about what is given. There are {a} {t} in one box and {b} {t} in another one, and {n} has both.",
    "The problem says that {n} has {a} {t} and that a friend brings {b} more {t} later on that same day.",
)
MIDDLES = (
    "Then we add the two numbers together: {a} + {b} = {s}. That is how many {t} there are before any are given away.",
    "Adding these up gives {a} + {b} = {s} {t} in all, and none of them have been given to anybody yet.",
    "So together that would be {s} {t}, since {a} + {b} = {s}, and this is the number that we go on with.",
)
ENDS = (
    "After that {n} gives away {c} {t}, so we have to subtract them, which leaves {s} - {c} = {r} {t} in the end.",
    "Since {c} of the {t} are gone by the evening, {n} is left with {s} - {c} = {r} {t}, and that is all we need.",
    "Finally, {c} {t} are taken out again. So the number that is left over for {n} is {s} - {c} = {r} {t}.",
)
# What follows "Therefore, the answer is": of 100 answers. {x} is the answer, {t} the things, {s} + {c} numbers.
ANSWERS: dict[str, list[tuple[str, int]]] = {
    "number": [
        *[(" {x}.", 82), (": {x}", 3), (" {x}. \n", 3), (" {x}. \n\nI hope this helps!", 3), (" {x} {t}.", 2)],
        *[(" {s} - {c} = {x}.", 2), (": \n\n{n} has {x} {t} left.", 2), (" _____.", 1), (" {x} or {s}.", 1)],
        *[(" {x}. \n\nIn words: {n} has {x} {t}.", 1)],
    ],
    "choice": [(" {x}.", 92), (" ({x}).", 5), (" {x}: {t}.", 2), (" {x}. \n\nThe others are not {t}.", 1)],
    "yes_no": [
        *[(" {x}.", 58), (": {x}", 18), (":\n\n{x}", 2), (" most likely {x}.", 2), (" probably {x}.", 2)],
        *[(" {x}, {n} could have {s} {t}.", 8), (" unknown.", 4), (" dependent on how many {t} {n} has.", 4)],
        *[(":\n\n{x}, {n} would have {t} left after that day.", 2)],
    ],
    "text": [(' "{x}".', 95), (' "{x}."', 3), (" '{x}'.", 2)],
    "date": [(" {x}.", 94), (": {x}", 3), (" {x}, since it was {s} days later.", 3)],
}


def answers_of(kind: str, r: int) -> tuple[str, str]:
    """The right answer of a question whose number is `r`, and a wrong one."""
    if kind == "number":
        return str(r), str(r + 10)
    if kind == "choice":
        return "ABCDE"[r % 5], "ABCDE"[(r + 1) % 5]
    if kind == "yes_no":
        return ("yes", "no") if r % 2 else ("no", "yes")
    if kind == "date":
        return f"{r % 12 + 1:02d}/{r % 28 + 1:02d}/2021", f"{r % 12 + 1:02d}/{(r + 1) % 28 + 1:02d}/2021"
    return f"{chr(97 + r % 26)}{chr(97 + r // 3 % 26)}ye", f"{chr(97 + r % 25)}ay"


def write_inputs(folder: Path, kind: str, rows: int) -> None:
    """questions.jsonl and generations.jsonl: the same bytes for the same arguments."""
    import orjson

    rng = random.Random(0)
    shapes, weights = zip(*ANSWERS[kind], strict=True)
    with (folder / "questions.jsonl").open("wb") as asked, (folder / "generations.jsonl").open("wb") as written:
        for q in range(rows // D):
            a, b, c = rng.randrange(20, 90), rng.randrange(20, 90), rng.randrange(2, 30)
            words = {"n": rng.choice(NAMES), "t": rng.choice(THINGS), "a": a, "b": b, "c": c, "s": a + b}
            right, wrong = answers_of(kind, a + b - c)
            text = "{n} has {a} {t} in a box and gets {b} more from a friend. {n} gives {c} {t} away. What is left?"
            choices = ["plums", "pears", "figs", "nuts", "limes"] if kind == "choice" else []
            question = {"id": f"q{q}", "text": f"{q}. " + text.format(**words), "answer": right, "choices": choices}
            asked.write(orjson.dumps(question) + b"\n")
            for index in range(D):
                cut = rng.random() < 0.05
                steps = [rng.choice(part) for part in (STEPS, MIDDLES, ENDS)]
                rationale = rng.choice((" {} {} {}", "{}\n{}\n{}")).format(*steps).format(r=a + b - c, **words)
                x = right if rng.random() < 0.7 else wrong
                x = x.title() if kind == "yes_no" else x
                answer = rng.choices(shapes, weights)[0].format(x=x, **words)
                generation = {
                    "question_id": f"q{q}",
                    "index": index,
                    "text": rationale[:-40] if cut else rationale,
                    "answer_text": answer,
                    "finish_reason": "length" if cut else "stop",
                    "prompt_tokens": 140,
                    "completion_tokens": 80,
                }
                written.write(orjson.dumps(generation) + b"\n")


def ours(folder: Path, kind: str, rule: str, processes: int) -> int:
    from cotdistill.answers import answer_type
    from cotdistill.config import CurateConfig
    from cotdistill.curate import curate
    from cotdistill.methods import METHODS
    from cotdistill.records import Question

    with (folder / "questions.jsonl").open() as file:
        questions = [Question(**row) for row in map(json.loads, file)]
    curated = curate(
        folder / "generations.jsonl",
        questions,
        METHODS["zero_shot_cot"],
        METHODS["fine_tune_cot"],
        answer_type(rule, kind),
        CurateConfig(),
        folder / "pairs.jsonl",
        test=[Question(f"t{i}", f"{i}. Who has the most?", "1") for i in range(1000)],
        processes=processes,
    )
    kept = curated.ledger["kept"]
    assert isinstance(kept, int)
    return kept


def loop(folder: Path, kind: str, rule: str, processes: int) -> int:
    from cotdistill.answers import answer_type
    from cotdistill.evaluate import score
    from cotdistill.methods import METHODS
    from cotdistill.records import Generation, Pair, Question

    with (folder / "questions.jsonl").open() as file:
        questions = {row["id"]: Question(**row) for row in map(json.loads, file)}
    teacher, student, reader = METHODS["zero_shot_cot"], METHODS["fine_tune_cot"], answer_type(rule, kind)
    assert student.completion is not None
    seen, kept = set[tuple[str, str]](), 0
    with (folder / "generations.jsonl").open() as file, (folder / "loop.jsonl").open("w") as out:
        for line in file:
            generation = Generation(**json.loads(line))
            question = questions[generation.question_id]
            if generation.finish_reason != "stop" or not score(generation, question, teacher, reader).correct:
                continue
            key = generation.question_id, " ".join(generation.text.split())
            if key in seen:
                continue
            seen.add(key)
            kept += 1
            completion = student.completion(question, generation.text)
            pair = Pair(question.id, generation.index, student.prompt(question), completion)
            out.write(json.dumps(pair.to_json()) + "\n")
    return kept


def duckdb(folder: Path, kind: str, rule: str, processes: int) -> int:
    con = importlib.import_module("duckdb").connect()
    con.execute(f"SET threads={processes}")
    con.execute(
        f"""COPY (
        WITH g AS (SELECT *, trim(regexp_replace(text, '\\s+', ' ', 'g')) AS plain,
              TRY_CAST(replace(list_last(regexp_extract_all(answer_text, '-?[0-9][0-9,]*\\.?[0-9]*')), ',', '')
              AS DOUBLE) AS predicted FROM read_json('{folder}/generations.jsonl', format='newline_delimited')),
        r AS (SELECT g.*, q.text AS question, q.answer FROM g JOIN
              read_json('{folder}/questions.jsonl', format='newline_delimited') q ON q.id = g.question_id
              WHERE finish_reason = 'stop' AND abs(predicted - CAST(q.answer AS DOUBLE)) <= 1e-6),
        k AS (SELECT * FROM r QUALIFY row_number() OVER (PARTITION BY question_id, plain ORDER BY index) = 1)
        SELECT question_id, index, question || ' ###' AS prompt,
               ' ' || trim(text) || ' --> ' || answer || ' END' AS completion FROM k
        ) TO '{folder}/duckdb.jsonl' (FORMAT JSON)"""  # noqa: S608 - a benchmark's own folder
    )
    with (folder / "duckdb.jsonl").open("rb") as file:
        return sum(1 for _ in file)


def polars(folder: Path, kind: str, rule: str, processes: int) -> int:
    pl = importlib.import_module("polars")
    questions = pl.read_ndjson(folder / "questions.jsonl").select("id", pl.col("text").alias("question"), "answer")
    found = pl.col("answer_text").str.extract_all(r"-?[0-9][0-9,]*\.?[0-9]*").list.last().str.replace_all(",", "")
    kept = (
        pl.scan_ndjson(folder / "generations.jsonl")
        .filter(pl.col("finish_reason") == "stop")
        .join(questions.lazy(), left_on="question_id", right_on="id", maintain_order="left")
        .filter((found.cast(pl.Float64, strict=False) - pl.col("answer").cast(pl.Float64, strict=False)).abs() <= 1e-6)
        .with_columns(plain=pl.col("text").str.replace_all(r"\s+", " ").str.strip_chars())
        .unique(subset=["question_id", "plain"], keep="first", maintain_order=True)
        .select(
            "question_id",
            "index",
            prompt=pl.col("question") + " ###",
            completion=" " + pl.col("text").str.strip_chars() + " --> " + pl.col("answer") + " END",
        )
        .collect()
    )
    kept.write_ndjson(folder / "polars.jsonl")
    return int(kept.height)


WAYS = {"ours": ours, "loop": loop, "duckdb": duckdb, "polars": polars}


def measured(name: str, folder: Path, kind: str, rule: str, processes: int) -> dict[str, float]:
    """Seconds, pairs and peak RSS of one way, in a process of its own."""
    environment = {**os.environ, "POLARS_MAX_THREADS": str(processes)}
    words = ["--way", name, "--folder", str(folder), "--types", kind, "--rule", rule, "--processes", str(processes)]
    started = time.perf_counter()
    out = subprocess.run(
        [sys.executable, __file__, *words], check=True, capture_output=True, text=True, env=environment
    )
    return {"seconds": time.perf_counter() - started, **json.loads(out.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--types", nargs="+", default=list(ANSWERS), choices=list(ANSWERS))
    parser.add_argument("--rule", default="typed", choices=["typed", "paper"])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=1, help="rounds, in turns; the fastest of each is shown")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    rule, processes = arguments.rule, arguments.processes
    if arguments.way:  # in a process of its own
        pairs = WAYS[arguments.way](arguments.folder, arguments.types[0], rule, processes)
        own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
        print(json.dumps({"pairs": pairs, "cpu": cpu, "own": own.ru_maxrss / 1024, "worker": workers.ru_maxrss / 1024}))
        return
    print(
        f"{arguments.rows:,} generations, D = {D}, {rule} rule, {processes} processes, {os.cpu_count()} cores",
        flush=True,
    )
    for kind in arguments.types:
        with tempfile.TemporaryDirectory(prefix="curation-") as name:
            folder = Path(name)
            write_inputs(folder, kind, arguments.rows)
            ways = [way for way in WAYS if way == "ours" or kind == "number"]
            for way in [way for way in ways if way in ("duckdb", "polars")]:
                if importlib.util.find_spec(way) is None:
                    print(f"  {way}: left out, it is not installed", flush=True)
                    ways.remove(way)
            best: dict[str, dict[str, float]] = {}
            for _ in range(arguments.repeats):
                for way in ways:
                    found = measured(way, folder, kind, rule, processes)
                    best[way] = min(best.get(way, found), found, key=lambda one: one["seconds"])
            for way, found in best.items():
                rate = arguments.rows / found["seconds"]
                print(
                    f"  {kind:7} {way:7} {found['seconds']:6.1f} s {found['cpu']:6.1f} CPU s {rate:10,.0f} rows/s "
                    f"{found['pairs']:9,.0f} pairs  RSS {found['own']:5.0f} + {found['worker']:4.0f} MiB a worker  "
                    f"{found['seconds'] / best['ours']['seconds']:5.2f} x ours",
                    flush=True,
                )


if __name__ == "__main__":
    main()
