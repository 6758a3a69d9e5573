"""What workers of a cluster do, in this process: shards, their order, and what is refused. (Ray: test_cluster.py.)"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cotdistill.answers import answer_type
from cotdistill.backends.openai import OpenAIBackend
from cotdistill.backends.transformers import TransformersBackend
from cotdistill.budget import Amount
from cotdistill.choice import Part
from cotdistill.cli import main
from cotdistill.completions import Completion, Pool, Request, SamplingParams
from cotdistill.config import CurateConfig, LimitsConfig, load_quickstart
from cotdistill.crew import Office, enter, open_parts, refuse_another, refuse_another_folder, share_of
from cotdistill.curate import Job as Judge
from cotdistill.curate import curate
from cotdistill.errors import ConfigError, CotdistillError, DataError
from cotdistill.generate import first_params, make_job, read
from cotdistill.jobs import Job
from cotdistill.methods import METHODS
from cotdistill.parts import Parts
from cotdistill.records import Generation, Question, to_line
from cotdistill.shards import DONE, Jobs, Lines, Outcome, Shard, ask_shard, in_order, into_shards, job_of, read_shard
from cotdistill.store import Row, Store
from servers import Server, start_server

METHOD = METHODS["zero_shot_cot"]
SOURCE = Path(__file__).parents[1] / "src" / "cotdistill"


def questions(n: int) -> list[Question]:
    return [Question(str(i), f"What is {i} plus 7?", str(i + 7)) for i in range(n)]


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    pytest.importorskip("pyarrow")
    return Parts(str(tmp_path / "parts"), 4)


def backend(server: Server) -> OpenAIBackend:
    return OpenAIBackend("fake", server.base_url, api="completions", limits=LimitsConfig(retries=0))


def job_for(server: Server, n: int = 2) -> Job:
    return make_job(backend(server), METHOD, first_params(METHOD, temperature=0.7), n)


def ask_all(
    server: Server, parts: Parts, job: Job, asked: list[Question], stop: bool = False
) -> dict[int, tuple[Shard, Outcome]]:
    done: list[int] = []
    teacher = backend(server)
    list(teacher.generate(iter([Request(("hello",), SamplingParams(4))])))  # it accepts requests: that is known
    shards = into_shards(asked, job, parts)
    return {
        shard.number: (shard, ask_shard(shard, {"t": job}, {"t": teacher}, parts, lambda: stop, done.append))
        for shard in shards
    }


def read_all(parts: Parts, jobs: Jobs, found: dict[int, tuple[Shard, Outcome]], folder: Path) -> bytes:
    rows = [
        lines
        for shard, outcome in found.values()
        for lines in read_shard(shard, jobs, parts, outcome.failed, partial=False, job=None)
    ]
    random.Random(0).shuffle(rows)
    return b"".join(lines.lines for lines in in_order(rows, folder))


def test_only_one_file_imports_ray() -> None:
    imports = re.compile(r"^\s*(?:import|from) ray\b", re.MULTILINE)
    assert [p.name for p in SOURCE.rglob("*.py") if imports.search(p.read_text())] == ["cluster.py"]


@pytest.mark.slow
def test_without_the_section_it_is_not_imported_and_with_it_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['ray'] = None\n"
        "from cotdistill.cli import main\n"
        "main(['generate', *sys.argv[1:], 'task.train=4', 'teacher.samples=1'])\n"
    )
    command = [sys.executable, "-c", code, f"runs={tmp_path}"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    done = subprocess.run([*command, "cluster.address=local"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "cotdistill: the package 'ray' is needed here and is not installed.",
        "Install it with: pip install 'cotdistill[ray]'",
    ]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"cluster.address": "ray://head:10001"}, "cannot go through Ray's client"),
        ({"cluster.store": "s3://me:secret@bucket/x"}, "a secret has no place in it"),
        ({"cluster.store": "s3://bucket/x?token=1"}, "a secret has no place in it"),
        ({"cluster.shards": 0}, "greater than or equal to 1"),
        ({"cluster.worker": 2}, "Did you mean 'workers'?"),
        (
            {"cluster.workers": 2, "teacher.backend": "openai", "teacher.model": "m", "teacher.mode": "batch"},
            "the server does the work",
        ),
    ],
)
def test_a_mistake_in_the_section_is_named(section: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        load_quickstart(section)
    assert "me:secret" not in str(caught.value).replace("(it is 's3://me:secret@bucket/x')", "")


def test_a_plan_and_torchrun_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    main(["generate", "--dry-run", "cluster.address=local", f"runs={tmp_path}"], leave=codes.append)
    assert codes == [2]
    assert "cluster=null" in capsys.readouterr().err
    pytest.importorskip("ray")
    from cotdistill.cluster import open_cluster
    from cotdistill.cluster_config import ClusterConfig

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="not torchrun"), open_cluster(None, ClusterConfig()):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("limits", "workers", "expected"),
    [
        ({}, 4, {}),
        ({"requests_per_minute": 600, "tokens_per_minute": 9000}, 3, (200, 3000, None)),
        ({"concurrency": 64}, 4, (0, 0, 16)),
        ({"concurrency": 7}, 3, (0, 0, 2)),
        ({"max_requests": 10, "timeout": 5}, 2, (0, 0, None)),
    ],
)
def test_a_worker_has_its_share(limits: dict[str, float], workers: int, expected: tuple[object, ...]) -> None:
    given = LimitsConfig.model_validate(limits)
    share = share_of(given, workers)
    assert (share.requests_per_minute, share.tokens_per_minute, share.concurrency) == (expected or (0, 0, None))
    assert (share.max_requests, share.timeout) == (given.max_requests, given.timeout)


def test_lines_come_in_order_whatever_order_they_have(tmp_path: Path) -> None:
    wanted = [Lines(p, s, f"{p} {s}\n".encode()) for p in range(-1, 200) for s in range(3)]
    mixed = random.Random(1).sample(wanted, len(wanted))
    assert list(in_order(mixed, tmp_path)) == wanted
    assert list(in_order([], tmp_path)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_shards_are_asked_once_and_read_in_order(server: Server, parts: Parts, tmp_path: Path) -> None:
    job, asked = job_for(server), questions(20)
    found = ask_all(server, parts, job, asked)
    assert all(outcome.done and not outcome.ended for _, outcome in found.values())
    assert len(parts.files.names(DONE)) == len(found) == 4
    assert all(len(parts.sizes(number)) == 1 for number in found), "its parts are put into one"
    before = server.stats()["requests"]
    assert ask_all(server, parts, job, asked).keys() == found.keys()
    assert server.stats()["requests"] == before + 1, "hello"
    lines = read_all(parts, {"t": job}, found, tmp_path)
    with Store(tmp_path / "one.sqlite") as store:
        for number in found:
            store.write(list(parts.read(number)))
        expected = [replace(generation, teacher="t") for generation in read(job, asked, store)]
    assert lines == b"".join(map(to_line, expected))


@pytest.mark.slow
def test_a_shard_with_a_failure_is_not_done_and_its_failure_is_read(parts: Parts, tmp_path: Path) -> None:
    with start_server("--fail-rate", "0.3", "--status", "400") as server:
        job, asked = job_for(server, n=1), questions(12)
        found = ask_all(server, parts, job, asked)
        failed = sum(len(outcome.failed) for _, outcome in found.values())
        assert failed > 0
        assert len(parts.files.names(DONE)) == sum(not outcome.failed for _, outcome in found.values()) < 4
        lines = read_all(parts, {"t": job}, found, tmp_path)
        assert lines.count(b'"finish_reason":"error"') == failed
        assert len(lines.splitlines()) == 12


def test_a_worker_that_is_told_to_stop_asks_nothing(server: Server, parts: Parts) -> None:
    before = server.stats()["requests"]
    found = ask_all(server, parts, job_for(server), [Question("x", "What is 900 plus 1?", "901")], stop=True)
    ((_, outcome),) = found.values()
    assert outcome.ended is not None
    assert not outcome.done
    assert server.stats()["requests"] == before + 1, "hello"


@pytest.mark.slow
def test_a_mark_goes_where_completions_are_gone(server: Server, parts: Parts) -> None:
    job, asked = job_for(server, n=1), questions(8)
    found = ask_all(server, parts, job, asked)
    number, (shard, _) = next(iter(found.items()))
    parts.files.remove(f"{number:05}", parts.files.names(f"{number:05}").keys())
    with pytest.raises(DataError, match="are gone"):
        list(read_shard(shard, {"t": job}, parts, (), partial=False, job=None))
    assert len(parts.files.names(DONE)) == len(found) - 1


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, {"prefer": "short", "per_question": 9}, {"total": 1200, "dedup": "off"}])
def test_a_question_of_thousands_of_samples_is_curated_as_by_one_process(
    parts: Parts, tmp_path: Path, config: dict[str, object]
) -> None:
    asked, n = questions(3), 4500
    method = METHODS["few_shot_cot"]
    pool = Pool({"model": "m"}, SamplingParams(64, 0.7))
    job = Job(replace(method, prompt=lambda question: question.text), n, pool, pool)
    draw = random.Random(0)
    for question in asked:
        rows = []
        for sample in range(n if question.id == "1" else 3):
            total = int(question.answer) + draw.choice((0, 0, 0, 1))
            text = f" {'so ' * draw.randrange(4)}{draw.randrange(800)}. The answer is {total}."
            rows.append(
                Row(
                    job.first, job.first.key((question.text,)), (question.text,), sample, Completion(text, "stop", 9, 5)
                )
            )
        parts.write(parts.shard_of((question.text,)), rows)
    kind, settings = answer_type("typed", "number", 0), CurateConfig.model_validate(config)
    shards = into_shards(asked, job, parts)

    def elsewhere(judge: Judge) -> Iterator[Part]:
        rows = [lines for s in shards for lines in read_shard(s, {"t": job}, parts, (), True, job_of(judge, s))]
        for lines in in_order(rows, tmp_path):
            if isinstance(lines.part, Part):
                lines.part.lines = [lines.lines]
                yield lines.part

    with Store(tmp_path / "one.sqlite") as store:
        for number in range(parts.shards):
            store.write(list(parts.read(number)))
        generations: list[Generation] = [replace(g, teacher="t") for g in read(job, asked, store, partial=True)]
    common = (asked, method, METHODS["fine_tune_cot"], kind, settings)
    one = curate(generations, *common, pairs=tmp_path / "one.jsonl", processes=1)
    many = curate([], *common, pairs=tmp_path / "many.jsonl", elsewhere=elsewhere)  # type: ignore[arg-type]
    assert len(generations) == n + 6
    assert one.ledger == many.ledger
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "many.jsonl").read_bytes()


def test_what_workers_say_is_said_once(tmp_path: Path) -> None:
    office = Office(Amount(10, 1e9, 1e9), tmp_path / "spent.json", 60)
    for text in ("slow", "slow", "slower"):
        office.say(text)
    assert office.news() == (0, ["slow", "slower"], True)
    office.say("slow")
    assert office.news() == (0, [], True)


def test_a_machine_that_sees_other_folders_is_named(tmp_path: Path, server: Server) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "seen").write_text("another word")
    wrong = TransformersBackend(str(tmp_path))
    calls: list[Callable[[], object]] = [
        lambda: enter(tmp_path / "not there"),
        lambda: open_parts(str(tmp_path / "not there")),
        lambda: refuse_another_folder(tmp_path / "seen", "a word"),
        lambda: refuse_another_folder(tmp_path / "not there" / "seen", "a word"),
        lambda: refuse_another(wrong, job_for(server)),
    ]
    for call in calls:
        with pytest.raises(CotdistillError, match=r"(does not see|has another model)[^\n]*\n.*machines of the cluster"):
            call()
