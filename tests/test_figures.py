"""The figures of a sweep, its page and its CSV."""

from __future__ import annotations

import csv
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cotdistill.results.compare import Rights, summaries
from cotdistill.sweeps.curves import fitted
from cotdistill.sweeps.figures import Figure, figures, paper, short
from cotdistill.sweeps.page import write_pages
from cotdistill.sweeps.places import count_parameters
from cotdistill.sweeps.points import over_seeds, points
from grids import made_run, over_d, result

HOSTILE = "<script>alert(1)</script>\u202e"


def drawn(runs: list[dict[str, Any]]) -> list[Figure]:
    found = points(runs)
    return figures(found, fitted(found))


def students(*models: tuple[str, int]) -> list[dict[str, Any]]:
    return [
        made_run(f"s-{n}", {"student.model": m}, [result("zero_shot", 3, seed=None)], student=m, parameters=n)
        for m, n in models
    ]


def teachers(usd: float | None) -> list[dict[str, Any]]:
    return [
        made_run(
            name,
            {"teacher.model": name},
            [result("fine_tune_cot", 20)],
            teacher=name,
            teacher_accuracy=accuracy,
            teacher_tokens=tokens,
            teacher_usd=usd and usd * tokens,
        )
        for name, accuracy, tokens in (("small", 0.4, 1000), ("large", 0.8, 3000))
    ]


@pytest.mark.parametrize(
    ("runs", "axes"),
    [
        (over_d({1: [10], 2: [12]}), ["D", "teacher_tokens"]),
        (over_d({4: [10]}), []),
        (students(("a/b", 100), ("a/c", 200)), ["parameters"]),
        (teachers(None), ["teacher_accuracy", "teacher_tokens"]),
        (teachers(0.001), ["teacher_accuracy", "teacher_usd"]),
        ([made_run(f"{r}", {"student.learning_rate": r}, [result("fine_tune", 5)]) for r in (1, 2)], []),
        (
            [
                made_run(f"{n}", {"task.train": n}, [result("fine_tune", n)], train=n, teacher_tokens=None)
                for n in (8, 9)
            ],
            ["train"],
        ),
    ],
    ids=["D", "one D", "students", "teachers", "teachers at a price", "another setting", "data"],
)
def test_which_are_drawn_follows_from_the_grid(runs: list[dict[str, Any]], axes: list[str]) -> None:
    assert [figure.axis.place for figure in drawn(runs)] == axes


def test_seeds_are_points_about_their_mean_and_the_baseline_is_one_level() -> None:
    figure = drawn(over_d({1: [10, 20], 2: [30, 30], 4: [40, 44]}))[0]
    (line,) = figure.lines
    assert [spot.mean for spot in line.spots] == pytest.approx([0.15, 0.30, 0.42])
    assert [len(spot.points) for spot in line.spots] == [2, 2, 2]
    assert [baseline.name for baseline in figure.baselines] == ["fine_tune"]
    assert figure.svg is not None
    assert "fine_tune_cot" in figure.svg
    assert "paper, GPT-2 124M" in figure.svg


def test_an_interval_over_seeds_is_wider_than_either_alone() -> None:
    point, other = points(over_d({1: [30, 50]}))[1:]
    assert over_seeds([point]) == (point.accuracy, point.low, point.high)
    mean, low, high = over_seeds([point, other])
    assert mean == 0.4
    same = over_seeds([point, point])
    # Seeds alike: the questions are all there is.
    assert same == pytest.approx((point.accuracy, point.low, point.high), abs=0.003)
    assert 0 <= low < same[1] < same[2] < high <= 1


def test_the_interval_over_seeds_is_of_the_questions_that_all_answered() -> None:
    (point,) = points([made_run("a", {}, [result("fine_tune_cot", 2, 4)])])
    seeds = [replace(point, rights=rights) for rights in ("11-0", "0110")]
    answered: list[Rights] = [
        {q: mark == "1" for q, mark in zip("abcd", seed.rights, strict=True) if mark != "-"} for seed in seeds
    ]
    (summary,) = summaries({("fine_tune_cot", i): rights for i, rights in enumerate(answered)})
    assert over_seeds(seeds) == (summary.mean, summary.low, summary.high)
    assert over_seeds([replace(seed, rights="----") for seed in seeds])[1:] == (0, 1)


def test_the_papers_numbers_stand_beside_ours_where_it_has_them() -> None:
    d_figure, *_ = drawn(over_d({1: [10], 64: [30]}))
    assert {(p.student, p.d, p.accuracy) for p in d_figure.published} >= {
        ("GPT-3 ada 0.3B", 1, 6.11),
        ("GPT-3 ada 0.3B", 64, 23.89),
    }
    assert not drawn(over_d({1: [10], 64: [30]}, task="my_own"))[0].published
    (sizes,) = drawn(students(("a/b", 100), ("a/c", 200)))
    assert {p.parameters for p in sizes.published} == {60e6, 124e6, 0.3e9}
    assert {p.method for p in sizes.published} == {"zero_shot"}
    assert len(paper()) == 168


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (512, "512"), (2048, "2048"), (20_000, "20k"), (135e6, "135M"), (7e9, "7B"), (0.02, "0.02")],
)
def test_a_number_on_an_axis_is_short(value: float, text: str) -> None:
    assert short(value) == text


def test_a_page_is_one_file_that_asks_for_nothing_and_runs_nothing(tmp_path: Path) -> None:
    runs = over_d({1: [10], 2: [12], 4: [20]})
    runs[0]["results"][0]["warnings"] = [HOSTILE]
    runs.append({"run": "d-samples8", "settings": {"teacher.samples": 8}, "error": f"{HOSTILE} failed"})
    runs.append(made_run("none", {"teacher.samples": 16}, [result("fine_tune_cot", 0, 0)], D=16))
    curves = [asdict(curve) for curve in fitted(points(runs))]
    write_pages({"sweep": "d", "runs": runs, "curves": curves}, tmp_path / "d.sweep")
    html = (tmp_path / "d.sweep.html").read_text()
    assert "<script" not in html
    assert "[U+202E]" in html
    assert "default-src 'none'" in html
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:|//)""", html.replace("http://www.w3.org", ""))
    assert "3 runs done" not in html
    assert "4 runs done, 1 failed" in html
    assert html.count("<figure>") == html.count("As a table") == 2
    assert curves[0]["sentence"] in html
    assert "normal, with the variance that so many questions have" in html
    assert '<a href="d-samples1/report.html">' in html
    write_pages({"sweep": "d", "runs": runs, "curves": curves}, tmp_path / "again.sweep")
    assert (tmp_path / "again.sweep.html").read_bytes() == html.encode()


def test_the_csv_has_a_row_a_result_and_one_for_a_run_that_failed(tmp_path: Path) -> None:
    runs = over_d({1: [10, 11]})
    runs.append({"run": "d-samples8", "settings": {"teacher.samples": 8}, "error": "=cmd"})
    runs.append(made_run("none", {"teacher.samples": 16}, [result("fine_tune_cot", 0, 0)]))
    write_pages({"sweep": "d", "runs": runs, "curves": []}, tmp_path / "d.sweep")
    with (tmp_path / "d.sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["seed"], row["accuracy"], row["failed"]) for row in rows] == [
        ("fine_tune", "0", "0.12", ""),
        ("fine_tune_cot", "0", "0.1", ""),
        ("fine_tune_cot", "1", "0.11", ""),
        ("", "", "", "'=cmd"),
        ("fine_tune_cot", "0", "", ""),  # nothing was answered: no accuracy, and not 0
    ]
    assert rows[0]["parameters"] == "124439808"


def test_parameters_are_counted_from_the_head_of_a_file(tmp_path: Path) -> None:
    weights = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16), "c": torch.zeros(())}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert count_parameters(tmp_path / "model.safetensors") == 15 + 7 + 1
