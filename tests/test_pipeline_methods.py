"""Whole runs of every method, teacher style, form and protocol, on tiny random students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cotdistill.config import TaskConfig, load_quickstart
from cotdistill.errors import BackendError, ConfigError
from cotdistill.pipeline import run
from cotdistill.runs import Run
from cotdistill.students.train import trained_facts
from cotdistill.tasks import load_task
from servers import start_server
from tiny import tiny_model, tiny_t5


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny", positions=8192)


def done(folder: Path, student: Path, until: Any = "report", **overrides: Any) -> Run:
    """A run of the embedded default with few questions; `section__field=value`."""
    settings: dict[str, Any] = {
        "runs": str(folder / "runs"),
        "name": "tiny",
        "task.train": 8,
        "task.test": 4,
        "student.model": str(student),
        "student.steps": 2,
        "evaluate.max_tokens": 8,
    }
    settings |= {key.replace("__", "."): value for key, value in overrides.items()}
    return run(load_quickstart(settings), until)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SUMS = [{"q": f"What is {a} and {a}?", "a": 2 * a, "why": f"{a} + {a} is {2 * a}."} for a in range(2, 14)]
OWN = {"task__question": "q", "task__answer": "a", "task__answer_type": "number", "task__train": None}


def own(folder: Path, **overrides: Any) -> dict[str, Any]:
    return {**OWN, "task__data": str(write(folder / "sums.jsonl", SUMS)), "task__test": None, **overrides}


def test_every_method_of_the_paper_stands_in_one_result(student: Path, tmp_path: Path) -> None:
    every = ["zero_shot", "zero_shot_cot", "few_shot_cot", "fine_tune", "fine_tune_cot"]
    this = done(tmp_path, student, evaluate__methods=every)
    assert [r.method for r in this.results] == every
    assert all(r.n == 4 for r in this.results)
    page = (this.folder / "report.html").read_text()
    assert all(method in page for method in every)


def test_a_test_question_that_is_an_exemplar_is_left_out_and_counted(student: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "sums.jsonl", SUMS)
    columns = {"data": data, "question": "q", "answer": "a", "answer_type": "number"}
    first = load_task(TaskConfig.model_validate(columns)).test[0]
    exemplar = {"question": first.text, "rationale": "Add.", "answer": first.answer}
    shots = write(tmp_path / "shots.jsonl", [exemplar, {"question": "1 and 1?", "rationale": "Add.", "answer": "2"}])
    methods = ["zero_shot", "few_shot_cot"]
    this = done(tmp_path, student, **own(tmp_path, task__exemplars=str(shots), evaluate__methods=methods))
    zero, few = this.results
    assert few.n == zero.n - 1
    assert any("1 of 4 test questions are exemplars" in warning for warning in few.warnings)
    asked = {line["question_id"] for line in lines(this.folder / "predictions/few_shot_cot.jsonl")}
    assert first.id not in asked


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluate__methods": ["fine_tune_cot", "few_shot_cot"]}, r"task\.exemplars"),
        ({"teacher__style": "few_shot_cot"}, r"task\.exemplars"),
        ({"teacher__style": "human"}, r"task\.rationale"),
        ({"student__format": "chat", "student__model": "T5"}, r"student\.format"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_bought(
    tmp_path: Path, student: Path, settings: dict[str, Any], message: str
) -> None:
    if settings.get("student__model"):
        settings = {**settings, "student__model": str(tiny_t5(tmp_path / "t5"))}
    with start_server() as server:
        live = {"teacher__backend": "openai", "teacher__model": "test", "teacher__base_url": server.base_url}
        with pytest.raises(ConfigError, match=message):
            done(tmp_path, student, **own(tmp_path, **live, **settings))
        assert server.stats()["requests"] == 0


def test_rationales_of_people_teach_without_a_teacher(student: Path, tmp_path: Path) -> None:
    rows = [*SUMS[:-1], {**SUMS[-1], "why": None}]
    data = write(tmp_path / "sums.jsonl", rows)
    settings = own(tmp_path, task__rationale="why", teacher__style="human", evaluate__methods=["fine_tune_cot"])
    this = done(tmp_path, student, until="report", **settings | {"task__data": str(data)})
    assert this.curated is not None
    why = {str(question.id): question.rationale for question in this.task.train}
    assert all(why[pair.question_id] in pair.completion for pair in this.curated.pairs)
    without = sum(not rationale for rationale in why.values())
    assert this.curated.ledger["failed"] == without
    assert len(this.curated.pairs) == len(why) - without
    assert json.loads((this.folder / "manifest.json").read_text())["teachers"] == [{"model": "human"}]


@pytest.mark.parametrize(
    ("style", "calls"), [("zero_shot_cot", 2), ("few_shot_cot", 1), ("one_step", 1)], ids=lambda value: str(value)
)
def test_styles_of_asking_a_teacher(student: Path, tmp_path: Path, style: str, calls: int) -> None:
    shots = write(tmp_path / "shots.jsonl", [{"question": "1 and 1?", "rationale": "Add.", "answer": "2"}])
    with start_server() as server:
        settings = own(
            tmp_path,
            task__exemplars=str(shots),
            teacher__backend="openai",
            teacher__model="test",
            teacher__base_url=server.base_url,
            teacher__samples=2,
            teacher__style=style,
            teacher__stop=[],
        )
        this = done(tmp_path, student, until="curate", **settings)
        assert server.stats()["requests"] <= len(this.generations) * calls
    assert len(this.generations) == 2 * len(this.task.train)
    assert all((g.answer_text is None) is (calls == 1) for g in this.generations)


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=pytest.mark.slow) for form in ("chat", "natural", "paper_gpt3")]
)
def test_forms_reach_training_and_testing(tmp_path: Path, form: str) -> None:
    student = tiny_model(tmp_path / "tiny", positions=8192, chat=True)
    this = done(tmp_path, student, student__format=form)
    assert [r.n for r in this.results] == [4] * 4
    pair = lines(this.folder / "pairs.jsonl")[0]
    cue = "-->" if form == "paper_gpt3" else "Therefore, the answer is"
    assert cue in pair["completion"]
    assert pair["prompt"].endswith("###") is False


@pytest.mark.slow
def test_an_encoder_decoder_student_goes_the_whole_way(tmp_path: Path) -> None:
    this = done(tmp_path, tiny_t5(tmp_path / "t5"))
    assert [r.n for r in this.results] == [4] * 4
    pair = lines(this.folder / "pairs.jsonl")[0]
    assert "###" not in pair["prompt"]
    assert "END" not in pair["completion"]


@pytest.mark.slow
def test_the_papers_protocol_shows_its_gap_to_the_dev_protocol(student: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"student__steps": 0, "student__epochs": 3, "student__dev_fraction": 0.3}
    methods = ["fine_tune"]
    this = done(tmp_path, student, student__select="paper", evaluate__methods=methods, **settings)
    (result,) = this.results
    assert len(result.epochs) == 3
    assert result.accuracy == max(result.epochs)
    assert any("the best on the test set, as in the paper" in warning for warning in result.warnings)
    facts = trained_facts(this.folder / "student/fine_tune-0")
    losses = dict(facts["dev_losses"])
    assert losses[facts["selected_epoch"]] == min(losses.values())
    left = {path.parent.name for path in (this.folder / "student/fine_tune-0/epochs").rglob("*.safetensors")}
    assert left == {str(result.epochs.index(result.accuracy) + 1)}, "the others' weights take room"
    again = done(tmp_path, student, student__select="paper", evaluate__methods=methods, **settings)
    assert again.results == this.results
    with pytest.raises(BackendError, match=r"is gone: once[^$]*Remove .*fine_tune-0 and run again"):
        done(tmp_path, student, student__select="paper", evaluate__methods=methods, task__test=5, **settings)
    other = done(tmp_path, student, name="dev", evaluate__methods=methods, **settings)
    assert other.results[0].epochs == ()
    assert other.results[0].accuracy == result.epochs[facts["selected_epoch"] - 1]


@pytest.mark.slow
def test_epochs_that_are_to_be_asked_again_keep_their_weights(student: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"student__steps": 0, "student__epochs": 2, "student__select": "paper"}
    no_room = {"evaluate__methods": ["fine_tune"], "evaluate__max_tokens": 8191}
    first = done(tmp_path, student, **settings, **no_room)
    assert first.results[0].categories["error"] == 4
    assert len([*(first.folder / "student/fine_tune-0/epochs").rglob("*.safetensors")]) == 2
    assert done(tmp_path, student, **settings, **no_room).results == first.results


def test_the_authors_rule_looks_for_the_letters_of_the_longest_list(student: Path, tmp_path: Path) -> None:
    rows = [{"q": f"Pick {i}.", "a": "B", "c": "x|y|z" if i else "x|y", "why": "No C."} for i in range(6)]
    picks = own(tmp_path, task__data=str(write(tmp_path / "picks.jsonl", rows)))
    picks |= {"task__choices": "c", "task__answer_type": "choice", "task__rationale": "why", "teacher__style": "human"}
    for rule, read in (("typed", ["B"]), ("paper", ["C", "B"])):
        this = done(tmp_path, student, "generate", task__rule=rule, **picks)
        assert this.answer_type.candidates("Not C, so B.", ("x", "y")) == read
