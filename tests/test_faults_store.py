"""A store that is damaged, of another version, or where it cannot be written: F10 of the matrix, and its schemas."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from cotdistill.backends.recorded import RecordedBackend
from cotdistill.budget import Amount, Budget
from cotdistill.completions import Completion, Request, SamplingParams, canonical, identity_text, turns_text
from cotdistill.config import TaskConfig
from cotdistill.errors import ConfigError, DataError
from cotdistill.generate import first_params, generate, make_job
from cotdistill.methods import METHODS
from cotdistill.records import Generation, Question
from cotdistill.schema import VERSION
from cotdistill.store import Store
from cotdistill.tasks import load_task

COT = METHODS["zero_shot_cot"]
QUESTIONS = [Question(str(i), f"What is {i} plus 1?", str(i + 1)) for i in range(25)]
WEIRD = ["a\u0085b\u2028c\r\nd", "NUL \0.", "\ufeff\N{GRINNING FACE}", "\u00e9" * 300, "x" * 6000]  # a page and more


def answered(prompt: tuple[str, ...], sample: int) -> Completion:
    """The same for the same request, as a server at temperature 0 or with a seed."""
    draw = int.from_bytes(hashlib.sha256(f"{prompt} {sample}".encode("utf-8", "surrogatepass")).digest()[:4])
    text = f" {draw}." if len(prompt) > 1 else f"{WEIRD[draw % 5] if draw % 3 == 0 else ''} = {draw}."
    return Completion(text, "length" if draw % 7 == 0 else "stop", draw % 300, draw % 90, served=f"m-{draw % 2}")


class Teacher:
    """Answers at once; counts."""

    identity: Mapping[str, str] = {"model": "m", "endpoint": "http://localhost:8000/v1/chat/completions"}

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Iterator[Request | None]) -> Generator[tuple[Request, int, Completion], None, None]:
        while waiting := list(iter(lambda: next(requests, None), None)):
            self.asked += waiting
            for request in waiting:
                for sample in request.samples:
                    yield request, sample, answered(request.prompt, sample)


def ask(store: Store, teacher: Teacher, temperature: float = 0.7, n: int = 2) -> list[Generation]:
    return list(generate(QUESTIONS, teacher, COT, store, n=n, temperature=temperature))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "s.sqlite"
    with Store(path) as store:
        ask(store, Teacher())
    return path


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With all its rows in the write-ahead log, as a killed writer leaves it."""
    path, copy = (tmp_path_factory.mktemp(name) / "s.sqlite" for name in ("live", "killed"))
    with Store(path) as store:
        ask(store, Teacher())
        for name in (path, Path(f"{path}-wal")):
            shutil.copy(name, copy.with_name(name.name))
    return copy


def damage(content: bytearray, rng: random.Random, only: Sequence[range] = ()) -> None:
    if only:
        content[rng.choice(rng.choice(only))] ^= 1 << rng.randrange(8)
    elif rng.random() < 0.25:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def damaged_stores(
    source: Path, part: str, folder: Path, cycles: int, seed: int, only: Sequence[range] = ()
) -> dict[str, int]:
    """Damage a store, and go on with it: never another text, count or finish reason. How often each thing happened."""
    rng = random.Random(seed)
    with Store(folder.with_name("expected.sqlite")) as store:
        expected = ask(store, Teacher())
    found = {"right": 0, "asked": 0, "gone": 0, "detected": 0}
    for _ in range(cycles):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source.parent, folder)
        path = folder / source.name
        target = folder / f"{source.name}{part}"
        content = bytearray(target.read_bytes())
        damage(content, rng, only)
        target.write_bytes(content)
        outcome = "right"
        for _ in range(2):
            teacher = Teacher()
            try:
                with Store(path, read_only=True) as store:
                    store.models()
                    store.served(Teacher.identity)
                with Store(path) as store:
                    assert ask(store, teacher) == expected
                    outcome = "asked" if teacher.asked and outcome == "right" else outcome
                break
            except DataError as error:
                assert source.name in str(error)  # noqa: PT017 - it may also not be raised
                if "Run it again" not in str(error):
                    outcome = "detected"
                    break
                outcome = "gone"  # and then it must be bought
        else:
            pytest.fail("it was to be run again, and then had to be run again")
        found[outcome] += 1
    return found


@pytest.mark.parametrize("part", ["", "-wal"])
def test_f10_damaged_store_is_detected_or_right(whole: Path, killed: Path, tmp_path: Path, part: str) -> None:
    source = killed if part else whole
    found = damaged_stores(source, part, tmp_path / "damaged", 50 if part else 450, seed=1)
    assert found["asked" if part else "detected"] > 20, found


@pytest.mark.slow
@pytest.mark.parametrize("part", ["", "-wal"])
def test_f10_thousands_of_damaged_stores(whole: Path, killed: Path, tmp_path: Path, part: str) -> None:
    damaged_stores(killed if part else whole, part, tmp_path / "damaged", 300 if part else 2500, seed=2)


# What a flipped bit, or somebody with an editor, can do -> what comes of the next run, and of the one after it.
CHANGES = {
    "a question that is finished, and is not": (
        "DELETE FROM completions WHERE prompt IN (SELECT id FROM prompts LIMIT 10)",
        ["run it again", "right"],
    ),
    "more samples finished than asked": ("UPDATE finished SET samples = 3", ["run it again", "right"]),
    "a key of finished": ("UPDATE finished SET key = zeroblob(16) WHERE rowid_of(key)", ["right", "right"]),
    "a key of prompts": ("UPDATE prompts SET key = zeroblob(16) WHERE id = 3", ["run it again", "right"]),
    "the turns of a prompt": ("UPDATE prompts SET turns = '[]' WHERE id = 3", ["right", "right"]),
    "a pool's model": ("UPDATE pools SET model = 'n' || model", ["damaged"]),
    "a text": ("UPDATE completions SET text = text || '!' WHERE rowid = 5", ["damaged", "damaged"]),
    "a token count": ("UPDATE completions SET completion_tokens = 4 + completion_tokens WHERE rowid = 5", ["damaged"]),
    "a finish reason": ("UPDATE completions SET finish_reason = 'stopp' WHERE rowid = 5", ["damaged"]),
    "who served it": ("UPDATE completions SET served = 'n-1' WHERE rowid = 5", ["damaged"]),
    "which sample it is": ("UPDATE completions SET sample = 7 WHERE rowid = 5", ["damaged"]),
    "whose completion it is": ("UPDATE completions SET prompt = 999 WHERE rowid = 5", ["run it again", "right"]),
    "a failure of what is here": (
        "INSERT INTO failures SELECT key, 0, 'gone', x'00', 0 FROM prompts",
        ["right", "right"],
    ),
}


@pytest.mark.parametrize(("statement", "then"), CHANGES.values(), ids=CHANGES)
def test_f10_a_changed_value(whole: Path, tmp_path: Path, statement: str, then: list[str]) -> None:
    path = tmp_path / "s.sqlite"
    shutil.copy(whole, path)
    with Store(path, read_only=True) as store:
        job = make_job(Teacher(), COT, first_params(COT, temperature=0.7), 2)
        expected = ask(store, Teacher())
        assert len(store.finished(job.id, 2)) == len(QUESTIONS)
    db = sqlite3.connect(path)
    db.create_function("rowid_of", 1, lambda key: key == min(store_keys), deterministic=True)
    store_keys = [key for (key,) in db.execute("SELECT key FROM finished")]
    n = 3 if "samples = 3" in statement else 2
    db.execute(statement)
    db.commit()
    db.close()
    for outcome in then:
        teacher = Teacher()
        try:
            with Store(path) as store:
                store.models()
                found = ask(store, teacher, n=n)
        except DataError as error:
            assert outcome.casefold() in str(error).casefold()  # noqa: PT017 - it may also not be raised
            assert "s.sqlite" in str(error)  # noqa: PT017
        else:
            assert outcome == "right"
            assert [g for g in found if g.index < 2] == expected


def test_f10_a_damaged_index_makes_nobody_pay_in_each_run(whole: Path, tmp_path: Path) -> None:
    db = sqlite3.connect(whole)
    ((size,),) = db.execute("PRAGMA page_size").fetchall()
    roots = [page for (page,) in db.execute("SELECT rootpage FROM sqlite_master WHERE name LIKE 'sqlite_autoindex_%'")]
    db.close()
    pages = [range((root - 1) * size, root * size) for root in roots]
    assert damaged_stores(whole, "", tmp_path / "damaged", 300, seed=2, only=pages)["gone"] > 5


def test_f3_no_room_for_the_very_last_commit_ends_it(tmp_path: Path) -> None:
    """Nothing is asked any more by then, and it must not wait for ever for what will never be on the disk."""
    said: list[BaseException] = []

    def run() -> None:
        try:
            with Store(tmp_path / "s.sqlite") as store:
                ask(store, Teacher())
        except DataError as error:
            said.append(error)

    with Store(tmp_path / "s.sqlite"):
        db = sqlite3.connect(tmp_path / "s.sqlite")
        db.execute("CREATE TRIGGER full BEFORE INSERT ON finished BEGIN SELECT RAISE(ABORT, 'no room'); END")
        db.close()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert "no room" in str(said[0])


# Of commit 6635a2f, the first that had a store.
OLD_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    model TEXT NOT NULL,             -- the backend's identity, JSON
    params TEXT NOT NULL,            -- SamplingParams, JSON
    prompt TEXT NOT NULL,            -- its turns, a JSON list
    sample INTEGER NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created REAL NOT NULL            -- seconds since 1970
) STRICT;
CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, owner TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
# Half a character in a question: the store of then held it, as JSON.
OLD_QUESTIONS = [*QUESTIONS, Question("half", "What is \ud800?", "1"), Question("line", "a\u2028b\n\u0085 \0?", "1")]


def old_store(path: Path, questions: list[Question] = OLD_QUESTIONS, n: int = 2, padding: str = "") -> int:
    """A store as the first version wrote it, with all that zero_shot_cot asks; how many rows."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode=WAL")
    db.executescript(OLD_SCHEMA)
    db.execute("PRAGMA application_id=49277")
    model = identity_text(Teacher.identity)
    first, second = (canonical(asdict(p)) for p in (SamplingParams(128, 0.7), SamplingParams(32)))
    rows: dict[bytes, tuple[object, ...]] = {}
    for question in questions:
        prompt: tuple[str, ...] = (COT.prompt(question),)
        for sample in range(n):
            c = answered(prompt, sample)
            text = c.text + padding
            turns = (*prompt, text, COT.answer_cue or "")
            a = answered(turns, 0)
            for params, asked, number, one, words in ((first, prompt, sample, c, text), (second, turns, 0, a, a.text)):
                key = hashlib.sha256(canonical([model, params, number, *asked]).encode()).digest()
                values = (key, model, params, turns_text(asked), number, words, one.finish_reason)
                rows[key] = (*values, one.prompt_tokens, one.completion_tokens, 1.7e9)
    db.executemany(
        "INSERT INTO completions (key, model, params, prompt, sample, text, finish_reason, prompt_tokens, "
        "completion_tokens, created) VALUES (?,?,?,?,?,?,?,?,?,?)",
        rows.values(),
    )
    db.execute("INSERT INTO claims VALUES (x'00', 'somebody who is dead')")
    db.commit()
    db.close()
    return len(rows)


def test_old_store_is_migrated_and_answers_everything(tmp_path: Path) -> None:
    rows = old_store(tmp_path / "s.sqlite")
    with Store(tmp_path / "fresh.sqlite") as fresh:
        expected = list(generate(OLD_QUESTIONS, Teacher(), COT, fresh, n=2, temperature=0.7))
    for _ in range(2):
        teacher = Teacher()
        with Store(tmp_path / "s.sqlite") as store:
            assert list(generate(OLD_QUESTIONS, teacher, COT, store, n=2, temperature=0.7)) == expected
            assert len(store) == rows
            assert store.models() == [Teacher.identity]
        assert teacher.asked == []
    db = sqlite3.connect(tmp_path / "s.sqlite")
    assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT DISTINCT created FROM completions").fetchall() == [(1.7e9,)]
    assert db.execute("SELECT name FROM sqlite_master WHERE name IN ('old', 'claims')").fetchall() == []
    db.close()


def test_old_store_that_is_only_read_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    old_store(path)
    before = path.read_bytes()
    backend = RecordedBackend(path)
    with Store(tmp_path / "own.sqlite") as store:
        generations = list(generate(OLD_QUESTIONS, backend, COT, store, n=2, temperature=0.7))
    assert len(generations) == 2 * len(OLD_QUESTIONS)
    assert {g.finish_reason for g in generations} == {"stop", "length"}
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("s.sqlite?*")] == []


@pytest.mark.slow
def test_killed_while_it_migrates_the_old_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    rows = old_store(path, [Question(str(i), f"What is {i}?", "") for i in range(3000)], padding=" x" * 200)
    saved = path.read_bytes()
    code = "import sys; from pathlib import Path; from cotdistill.store import Store; print(1, flush=True); "
    command = [sys.executable, "-c", code + "Store(Path(sys.argv[1])).close()", str(path)]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    rng = random.Random(4)
    versions = set()
    for _ in range(8):
        for rest in tmp_path.glob("s.sqlite?*"):
            rest.unlink()
        path.write_bytes(saved)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            time.sleep(rng.uniform(0, seconds / 2))
            process.kill()
        db = sqlite3.connect(path)
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        column = "prompt" if version else "key"  # of its own schema, whole
        assert db.execute(f"SELECT count({column}) FROM completions").fetchone() == (rows,)  # noqa: S608
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.close()
        versions.add(version)
    assert 0 in versions
    with Store(path) as store:
        assert len(store) == rows


def test_newer_store_is_refused_and_left_alone(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    shutil.copy(whole, path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    before = path.read_bytes()
    for arguments in ([f"store={path}"], [f"teacher.store={path}"]):
        done = command_line("generate", *arguments, f"runs={tmp_path}/runs")
        assert done.returncode == 3
        assert "s.sqlite: the store is of version 99" in done.stderr
        assert "Upgrade cotdistill" in done.stderr
    assert path.read_bytes() == before


def test_what_changes_the_text_is_asked_anew_and_what_was_bought_stays(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole, tmp_path / "s.sqlite")
    other = Teacher()
    other.identity = {**Teacher.identity, "model": "another"}
    with Store(tmp_path / "s.sqlite") as store:
        for teacher, temperature in ((Teacher(), 0.8), (other, 0.7)):
            before = len(store)
            ask(store, teacher, temperature)
            assert sum(len(r.samples) for r in teacher.asked if len(r.prompt) == 1) == 2 * len(QUESTIONS)
            assert len(store) >= before + 2 * len(QUESTIONS)
        questions = [Question(q.id, f"{q.text} Now.", q.answer) for q in QUESTIONS[:3]]
        asked = Teacher()
        list(generate(questions, asked, COT, store, n=1, temperature=0.7))
        assert len([r for r in asked.asked if len(r.prompt) == 1]) == 3
        again = Teacher()
        ask(store, again)
        assert again.asked == []


# As root everything may be written, unless it gives that right up.
PLAIN_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def command_line(*words: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "cotdistill", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.find("cotdistill: ") :]
    assert done.returncode == 0 or len(message.strip().splitlines()) <= 3, done.stderr
    return done


# What is done to the folder of runs (with a store, and a run of one question) -> what the message names.
UNUSABLE = {
    "a file where the runs should be": ("rm -r runs; touch runs", "runs/mine: the run cannot have its folder"),
    "the runs cannot be written": ("rm -r runs/mine; chmod 555 runs", "runs/mine: the run cannot have its folder"),
    "the run cannot be written": ("rm runs/mine/.lock; chmod 555 runs/mine", "runs/mine: the run cannot have its"),
    "its files cannot be written": ("chmod 555 runs/mine", "runs/mine/config.yaml: cannot be written"),
    "a folder in a file's place": ("rm runs/mine/*; mkdir runs/mine/pairs.jsonl", "runs/mine/pairs.jsonl: cannot be"),
    "a folder in the lock's place": ("rm runs/mine/.lock; mkdir runs/mine/.lock", "runs/mine: the run cannot have"),
    "a folder in the store's place": ("rm runs/s*; mkdir runs/store.sqlite", "runs/store.sqlite: the store cannot be"),
    "a store that cannot be written": ("chmod 444 runs/s*", "store.sqlite: the store cannot be used"),
    "a store that cannot be read": ("chmod 000 runs/s*", "store.sqlite: the store cannot be used"),
    "an empty config.yaml": (": > runs/mine/config.yaml", ""),
    "a cut generations.jsonl": ("truncate -s 50 runs/mine/*.jsonl runs/mine/ledger.json", ""),
    "a garbled manifest.json": ("echo '[' > runs/mine/manifest.json; echo '{' > runs/mine/result.json", ""),
}


WORDS = ("curate", "name=mine", "task.train=2", "task.test=2", "teacher.samples=1")


@pytest.fixture(scope="module")
def done_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("done") / "runs"
    assert command_line(*WORDS, f"runs={runs}").returncode == 0
    return runs


@pytest.mark.parametrize(("shell", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_f10_what_cannot_be_used_is_named(done_run: Path, tmp_path: Path, shell: str, message: str) -> None:
    if PLAIN_USER and "chmod" in shell:
        if shutil.which("setpriv") is None:
            pytest.skip("as root, without setpriv")
        if subprocess.run([*PLAIN_USER, "true"], check=False, capture_output=True).returncode:
            pytest.skip("as root, and setpriv may not drop its rights")
    shutil.copytree(done_run, tmp_path / "runs")
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs" / "mine").glob("*.json*")}
    subprocess.run(["/bin/sh", "-c", shell], cwd=tmp_path, check=True)
    more = ("teacher.samples=2",) if "store" in message else ()  # it must write
    done = command_line(*WORDS, f"runs={tmp_path}/runs", *more, prefix=PLAIN_USER if "chmod" in shell else ())
    subprocess.run(["/bin/chmod", "-R", "u+rwX", str(tmp_path)], check=True)
    assert done.returncode == (3 if message else 0), done.stderr
    assert message in done.stderr
    if not message:
        assert {
            name: (tmp_path / "runs" / "mine" / name).read_bytes() for name in before if "manifest" not in name
        } == before


def test_f10_a_damaged_data_file_is_named_or_read(tmp_path: Path) -> None:
    rng = random.Random(8)
    lines = [json.dumps({"question": f"What is {i} plus 1?", "answer": i + 1}, indent=None) for i in range(20)]
    content = "\n".join(lines).encode()
    named = 0
    for suffix in (".jsonl", ".json", ".csv"):
        path = tmp_path / f"mine{suffix}"
        for _ in range(60):
            damaged = bytearray(content if suffix == ".jsonl" else b"[" + content.replace(b"\n", b",\n") + b"]")
            if suffix == ".csv":
                damaged = bytearray(b"question,answer\n" + b"".join(b'"What is %d?",%d\n' % (i, i) for i in range(20)))
            damage(damaged, rng)
            path.write_bytes(damaged)
            try:
                load_task(TaskConfig(data=path, answer_type="number"))
            except (DataError, ConfigError) as error:
                named += 1
                assert str(path) in str(error)  # noqa: PT017 - it may also not be raised
    assert named > 60


SPENT = [
    *("", "{", "[]", "null", "1", '{"spent": {}}', '{"spent": {"requests": 1}, "held": []}', "[" * 100_000, "\0" * 50),
    *('{"spent": {"requests": "1"}, "held": {}}', '{"spent": {"requests": NaN}, "held": {}}'),
    *(
        '{"spent": {"usd": -1}, "held": {}}',
        '{"spent": {"tokens": Infinity}, "held": {}}',
        '{"spent": {"x": 1}, "held": {}}',
    ),
]


@pytest.mark.parametrize("content", SPENT, ids=lambda content: ascii(content[:40]))
def test_f10_a_damaged_account_is_named_and_nothing_is_spent(tmp_path: Path, content: str) -> None:
    (tmp_path / "spent.json").write_text(content)
    with pytest.raises(DataError, match=r"spent\.json: what this run has spent cannot be read"):
        Budget(Amount(requests=10), tmp_path / "spent.json")
    assert (tmp_path / "spent.json").read_text() == content
