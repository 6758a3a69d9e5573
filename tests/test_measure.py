"""What a run says of its results: several samples, seeds, costs and times, the same on a second run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cotdistill.cli import main
from cotdistill.config import load_quickstart
from cotdistill.errors import ConfigError
from cotdistill.pipeline import run
from cotdistill.reports.tables import more_tables
from cotdistill.runs import Run
from cotdistill.store import Store
from tiny import tiny_model, tiny_t5

SUMS = [{"q": f"What is {a} and {a}?", "a": 2 * a, "why": f"{a} + {a} is {2 * a}."} for a in range(2, 14)]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", positions=2048)


def settings(folder: Path, student: Path, **overrides: Any) -> dict[str, Any]:
    """A student of people's rationales, of few sums; `section__field=value`."""
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    given: dict[str, Any] = {
        "runs": str(folder / "runs"),
        "name": "sums",
        "task.data": str(data),
        "task.question": "q",
        "task.answer": "a",
        "task.answer_type": "number",
        "task.rationale": "why",
        "task.train": None,
        "task.test": None,
        "teacher.style": "human",
        "student.model": str(student),
        "student.steps": 2,
        "student.max_length": 0,
        "evaluate.methods": ["fine_tune_cot"],
        "evaluate.max_tokens": 8,
    }
    return given | {key.replace("__", "."): value for key, value in overrides.items()}


def done(folder: Path, student: Path, **overrides: Any) -> Run:
    return run(load_quickstart(settings(folder, student, **overrides)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path) -> dict[str, bytes]:
    """All that a second run could change."""
    paths = [p for p in folder.rglob("*") if p.is_file() and "student" not in p.parts and p.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory, student: Path) -> Run:
    return done(
        tmp_path_factory.mktemp("sampled"), student, evaluate__methods=["self_consistency"], evaluate__samples=4
    )


@pytest.mark.slow
def test_self_consistency_samples_the_student_of_rationales(sampled: Run) -> None:
    assert list(sampled.students) == ["fine_tune_cot-0"], "it trains none of its own"
    (result,) = sampled.results
    n = len(sampled.task.test)
    assert (result.method, result.seed, result.n, sum(result.categories.values())) == ("self_consistency", 0, n, n)
    rows = lines(sampled.folder / "predictions/self_consistency-0.jsonl")
    assert [row["index"] for row in rows] == [0, 1, 2, 3] * n
    assert len({row["text"] for row in rows}) > n, "the samples differ"
    chosen = [row for row in rows if row["chosen"]]
    assert [row["question_id"] for row in chosen] == [question.id for question in sampled.task.test]
    assert result.categories["correct"] == sum(row["category"] == "correct" for row in chosen)
    assert result.completion_tokens == pytest.approx(sum(row["completion_tokens"] for row in rows) / n)
    saved = json.loads((sampled.folder / "result.json").read_text())
    at_k = saved["results"][0]["at_k"]
    assert [(f["measure"], f["k"]) for f in at_k] == [
        ("mean", 4),
        *(("maj", k) for k in (1, 2, 4)),
        *(("pass", k) for k in (1, 2, 4)),
    ]
    assert at_k[3]["value"] == result.accuracy


@pytest.mark.slow
def test_the_terminal_shows_the_numbers_at_k(sampled: Run) -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    for table in more_tables(sampled.results, sampled.summaries):
        console.print(table)
    shown = console.export_text()
    assert all(word in shown for word in ("self_consistency", "mean@4", "maj@1", "maj@4", "pass@2"))


@pytest.mark.slow
def test_samples_are_read_from_the_store_and_fewer_are_the_first_of_them(sampled: Run, student: Path) -> None:
    folder = sampled.folder.parents[1]
    before = written(sampled.folder)
    with Store(sampled.config.store_path) as store:
        bought = len(store)
    again = done(folder, student, evaluate__methods=["self_consistency"], evaluate__samples=4)
    assert written(again.folder) == before
    assert again.answer_seconds == sampled.answer_seconds
    fewer = done(folder, student, evaluate__methods=["self_consistency"], evaluate__samples=2)
    first = [g for g in sampled.predictions["self_consistency-0"][0] if g.index < 2]
    assert fewer.predictions["self_consistency-0"][0] == first
    with Store(sampled.config.store_path) as store:
        assert len(store) == bought
    assert fewer.answer_seconds == {"self_consistency-0": None}, "they were not made now"


@pytest.mark.slow
def test_killed_among_its_samples_it_goes_on_and_claims_no_time(student: Path, tmp_path: Path) -> None:
    given = {"evaluate__methods": ["self_consistency"], "evaluate__samples": 4}
    whole = done(tmp_path, student, **given)
    with Store(whole.config.store_path) as store:
        store._db.execute("DELETE FROM completions WHERE sample IN (1, 3)")
    for path in (whole.folder / "predictions").iterdir():
        path.unlink()
    resumed = done(tmp_path, student, **given)
    assert resumed.predictions == whole.predictions
    assert resumed.results == whole.results
    assert resumed.answer_seconds == {"self_consistency-0": None}
    assert resumed.costs is not None
    assert resumed.costs.answers["self_consistency-0"].seconds is None


@pytest.mark.slow
def test_seconds_are_those_of_the_first_time(student: Path, tmp_path: Path) -> None:
    first = done(tmp_path, student, evaluate__usd_per_hour=3.6, evaluate__methods=["zero_shot_cot", "fine_tune_cot"])
    assert first.costs is not None
    for name in ("zero_shot_cot", "fine_tune_cot-0"):
        cost = first.costs.answers[name]
        assert cost.seconds is not None
        assert 0 < cost.seconds < 5
        assert cost.usd == pytest.approx(cost.seconds / 1000)
    before = written(first.folder)
    done(tmp_path, student, evaluate__usd_per_hour=3.6, evaluate__methods=["zero_shot_cot", "fine_tune_cot"])
    assert written(first.folder) == before
    (first.folder / "predictions/seconds.json").write_text('{"half a fi')
    lost = done(tmp_path, student, evaluate__methods=["zero_shot_cot"])
    assert lost.answer_seconds == {"zero_shot_cot": None}


@pytest.mark.slow
def test_errors_do_not_make_it_measure_again(student: Path, tmp_path: Path) -> None:
    rows = [*SUMS, *({"q": "Add. " * 500 + str(i), "a": i, "why": "So."} for i in range(2))]
    (tmp_path / "long").mkdir()
    data = tmp_path / "long/sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given: dict[str, Any] = {"evaluate__methods": ["zero_shot"], "task__data": str(data), "task__test_fraction": 0.9}
    first = done(tmp_path, student, **given)
    assert 0 < first.results[0].categories["error"] < 3
    assert first.answer_seconds["zero_shot"] is not None
    before = written(first.folder)
    done(tmp_path, student, **given)
    assert written(first.folder) == before


@pytest.mark.slow
def test_several_seeds_have_one_row_and_one_verdict(student: Path, tmp_path: Path) -> None:
    this = done(tmp_path, student, student__seeds=[0, 1], evaluate__methods=["zero_shot", "fine_tune", "fine_tune_cot"])
    assert [(s.label, s.seeds) for s in this.summaries] == [("zero_shot", 1), ("fine_tune", 2), ("fine_tune_cot", 2)]
    saved = json.loads((this.folder / "result.json").read_text())
    assert [s["seeds"] for s in saved["summaries"]] == [1, 2, 2]
    assert [(c["a"], c["b"]) for c in saved["comparisons"]] == [
        ("fine_tune", "zero_shot"),
        ("fine_tune_cot", "zero_shot"),
        ("fine_tune_cot", "fine_tune"),
    ]
    assert set(saved["costs"]["training_seconds"]) == {
        f"{m}-{s}" for m in ("fine_tune", "fine_tune_cot") for s in (0, 1)
    }
    assert len([*more_tables(this.results, this.summaries)]) == 1
    assert "2 seeds" in (this.folder / "report.html").read_text()


@pytest.mark.slow
def test_the_papers_protocol_samples_the_epoch_that_answers_best(student: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "student__steps": 0,
        "student__epochs": 2,
        "student__select": "paper",
        "evaluate__samples": 2,
    }
    this = done(tmp_path, student, evaluate__methods=["fine_tune_cot", "self_consistency"], **given)
    cot, several = this.results
    assert cot.epochs == several.epochs
    alone = done(tmp_path, student, name="alone", evaluate__methods=["self_consistency"], **given)
    assert [*(p.name for p in (alone.folder / "predictions").glob("*.jsonl"))] == ["self_consistency-0.jsonl"]
    assert alone.results[0].accuracy == several.accuracy
    before = written(this.folder)
    done(tmp_path, student, evaluate__methods=["fine_tune_cot", "self_consistency"], **given)
    assert written(this.folder) == before


@pytest.mark.slow
def test_an_encoder_decoder_student_is_sampled_too(tmp_path: Path) -> None:
    this = done(tmp_path, tiny_t5(tmp_path / "t5"), evaluate__methods=["self_consistency"], evaluate__samples=3)
    assert {f.k for f in this.results[0].at_k} == {1, 2, 3}


@pytest.mark.slow
def test_warnings_stand_in_the_result_and_on_the_page(sampled: Run) -> None:
    saved = json.loads((sampled.folder / "result.json").read_text())["warnings"]
    assert tuple(saved) == sampled.warnings
    assert any("but for their numbers and names" in warning for warning in saved)
    assert any(warning.startswith("self_consistency-0: 0 of") for warning in saved)
    page = (sampled.folder / "report.html").read_text()
    assert "but for their numbers and names" in page


@pytest.mark.parametrize(
    ("key", "value"), [("evaluate__samples", 1), ("evaluate__temperature", 0), ("evaluate__usd_per_hour", -1)]
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, student: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key.replace("__", ".")):
        done(tmp_path, student, **{key: value})


def plan(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    codes: list[int] = []
    main(["evaluate", "--plan", *words], codes.append)
    assert codes == [0]
    return capsys.readouterr().out


def test_the_plan_says_what_the_questions_can_show(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = plan(capsys, "task.test=150", "student.seeds=[0, 1, 2, 3]")
    assert "word_problems: 150 test questions" in said
    assert "42.1% to 57.9%" in said
    assert "on 30% of the questions: 12.8 points" in said
    assert "4 seeds (this config): 46.0% to 54.0%" in said
    found = json.loads(plan(capsys, "--json", "task.test=10"))
    assert (found["n"], found["one_seed"]["smallest"]["0.1"]) == (10, None)
    assert found["at_best"]["3"]["high"] < found["one_seed"]["high"]
    assert "none: too few questions" in plan(capsys, "task.test=10")
    assert not [*tmp_path.iterdir()], "nothing is begun"
