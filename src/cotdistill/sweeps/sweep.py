"""The grid of a sweep file as runs, in turn or side by side, over one store.

    base: base.yaml            # a config, or its sections right here; none: the embedded default
    name: d_scaling
    until: curate              # the last stage; none: the whole run
    grid:
      teacher.samples: [1, 2, 4]
      task:                    # values with names of their own
        dates: {data: dates.jsonl, answer_type: choice}
        coins: {name: coin_flip}

Runs share the store, so D = 1 and 2 are read from what D = 4 bought, and a student that several runs have is trained
in one. A run that fails is reported and the rest go on; running again does what is missing.
"""

from __future__ import annotations

import itertools
import math
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cotdistill import progress, ranks
from cotdistill.config import QUICKSTART, Config, make_config, nearest
from cotdistill.config_file import read_yaml
from cotdistill.errors import ConfigError, CotdistillError
from cotdistill.methods import METHODS
from cotdistill.pipeline import STAGES, Stage, run
from cotdistill.records import Result, to_json
from cotdistill.runs import Run, write_json
from cotdistill.sweeps.board import Board
from cotdistill.sweeps.curves import fitted
from cotdistill.sweeps.page import warnings_of, write_pages
from cotdistill.sweeps.places import place_of
from cotdistill.sweeps.points import points
from cotdistill.sweeps.side_by_side import side_by_side

KEYS = ("base", "name", "grid", "until")


def sweep(
    path: Path, overrides: Mapping[str, Any] | None = None, jobs: int = 1, only: str | None = None
) -> dict[str, Any]:
    """Run the grid of a sweep file, `jobs` runs at once; returns the results by run, in the grid's order.

    They are written to RUNS/NAME.sweep.json after each run, and at the end to .csv and .html beside it. `overrides`
    hold for every run; `only` does the one run of that name, and writes nothing of the sweep. Raises `ConfigError` if
    the file is wrong, before anything runs; a run that fails has its "error" in the results.
    """
    runs = grid(path, overrides or {})
    until = read_yaml(path).get("until", "report")
    folders = [config.folder for _, config in runs]
    if only is not None:
        settings, config = _named(runs, only)
        entry = {"run": only, "settings": settings, **one_run(config, until, folders)}
        return {"sweep": path.stem, "runs": [entry], "curves": []}
    if jobs > 1 and ranks.processes() > 1:
        raise ConfigError(
            "--jobs: this is one of several processes of torchrun, which train together.\nUse one or the other."
        )
    stem = _stem(path, runs)
    entries: dict[str, dict[str, Any]] = {}

    def done(name: str, entry: dict[str, Any]) -> None:
        settings = next(settings for settings, config in runs if config.name == name)
        entries[name] = {"run": name, "settings": settings, **entry}
        board.end(name, entry)
        # After each run: what is done is read while the rest goes on.
        write_json(Path(f"{stem}.json"), _summary(path, runs, entries))

    # The largest D first: its prompts bring all samples at once, and the smaller ones are read from them.
    order = sorted(runs, key=lambda run: -sum(teacher.samples for teacher in run[1].all_teachers))
    with Board([config.name for _, config in order]) as board:
        if jobs == 1:
            for _, config in order:
                board.begin(config.name)
                done(config.name, one_run(config, until, folders))
        else:
            for name, error in buy(order, until):
                done(name, {"error": error})
            left = [config.name for _, config in order if config.name not in entries]
            command = partial(_command, path, overrides or {})
            for name, entry in side_by_side(left, jobs, command, stem, board.begin):
                done(name, entry)
    summary = _summary(path, runs, entries)
    write_pages(summary, stem)
    return summary


def one_run(config: Config, until: Stage, siblings: Sequence[Path] = ()) -> dict[str, Any]:
    """What came of one run: its results, or its error."""
    try:
        this = run(config, until, siblings)
        place = place_of(this)
    except CotdistillError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - the rest go on; the traceback is shown
        progress.say(traceback.format_exc())
        return {"error": f"{type(error).__name__}: {error}"}
    ledger = this.curated.ledger if this.curated else {}
    results = [to_json(result) | {"rights": _rights(this, result)} for result in this.results]
    return {"task": this.task.name, "place": place, "results": results, "ledger": ledger}


def _rights(this: Run, result: Result) -> str:
    """A character a test question, so that seeds of several runs can be put beside each other."""
    rights = this.rights[result.method, result.seed]
    return "".join({True: "1", False: "0", None: "-"}[rights.get(question.id)] for question in this.task.test)


def say_failures(summary: Mapping[str, Any]) -> None:
    """Which warnings there are, and which runs failed."""
    runs = summary["runs"]
    for warning, where in warnings_of(runs).items():
        progress.say(f"warning: {where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {warning}")
    failed = [entry for entry in runs if "error" in entry]
    for entry in failed:
        progress.say(f"sweep: {entry['run']} failed: {entry['error']}")
    if failed:
        progress.say(f"sweep: {len(failed)} of {len(runs)} runs failed; the same command does them again.")


def buy(runs: Sequence[tuple[dict[str, Any], Config]], until: Stage) -> Iterator[tuple[str, str]]:
    """Ask all teachers, one pool after the other; yields name and error of each run whose teacher failed.

    In one process: the limits of an endpoint hold for each, and several would go beyond them together.
    """
    errors: dict[str, str] = {}
    for _, config in runs:
        asked = until in ("generate", "curate") or any(METHODS[m].learns_rationale for m in config.evaluate.methods)
        pool = repr((config.task, config.all_teachers))
        if asked and pool not in errors:
            progress.say(f"sweep: first the teacher's part of {config.name}")
            errors[pool] = one_run(config, "generate").get("error", "")
        if asked and errors[pool]:
            yield config.name, errors[pool]


def _command(path: Path, overrides: Mapping[str, Any], name: str) -> list[str]:
    """The command of one run, as a person could type it."""
    words = [f"{key}={_yaml(value)}" for key, value in overrides.items()]
    return [sys.executable, "-m", "cotdistill", "sweep", str(path), "--only", name, "--json", *words]


def _yaml(value: object) -> str:
    value = str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("\n...\n").removesuffix("\n")


def _named(runs: Sequence[tuple[dict[str, Any], Config]], name: str) -> tuple[dict[str, Any], Config]:
    for one in runs:
        if one[1].name == name:
            return one
    raise ConfigError(f"--only: no run {name!r}{nearest(name, [config.name for _, config in runs])}")


def _summary(
    path: Path, runs: Sequence[tuple[dict[str, Any], Config]], entries: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    done = [entries[config.name] for _, config in runs if config.name in entries]
    curves = [asdict(curve) for curve in fitted(points(done))]
    return {"sweep": path.stem, "runs": done, "curves": curves, "page": f"{_stem(path, runs)}.html"}


def _stem(path: Path, runs: Sequence[tuple[dict[str, Any], Config]]) -> Path:
    return runs[0][1].runs / f"{path.stem}.sweep"


def grid(path: Path, overrides: Mapping[str, Any]) -> list[tuple[dict[str, Any], Config]]:
    """Each combination of the grid's settings with its config, the last setting changing fastest."""
    values = read_yaml(path)
    if strange := values.keys() - set(KEYS):
        raise ConfigError(f"{path}: {min(strange)}: no such key; known: {', '.join(KEYS)}.")
    if values.get("until", "report") not in STAGES:
        raise ConfigError(f"{path}: until: {values['until']!r} is not one of {', '.join(STAGES)}.")
    axes = values.get("grid")
    if not isinstance(axes, Mapping) or not axes or not all(isinstance(v, list | dict) and v for v in axes.values()):
        raise ConfigError(f"{path}: `grid:` must map fields to lists, such as teacher.samples: [1, 2, 4].")
    for key in overrides:
        if axis := next((axis for axis in axes if _sets(key, axis, axes[axis])), None):
            raise ConfigError(
                f"{key}: it is what the grid of {path} varies ({axis}). Change it there, or copy the file."
            )
    base = values.get("base", QUICKSTART)
    source = path if isinstance(base, Mapping) or base == QUICKSTART else path.parent / base
    sections = dict(base) if isinstance(base, Mapping) else read_yaml(path.parent / base)
    runs = []
    for combination in itertools.product(*map(_points, axes.values())):
        chosen = dict(zip(axes, combination, strict=True))
        short = "-".join(f"{key.rpartition('.')[2]}{_plain(point.name)}" for key, point in chosen.items())
        settings = {key: point.value for key, point in chosen.items()}
        name = f"{values.get('name', path.stem)}-{short}"
        shown = {
            key: point.name.lstrip("-") if isinstance(point.value, Mapping) else point.value
            for key, point in chosen.items()
        }
        runs.append((shown, make_config(sections, {**settings, **overrides, "name": name}, source)))
    if len({config.name for _, config in runs}) < len(runs):
        raise ConfigError(f"{path}: two runs of the grid have the same settings, or names that look the same.")
    return runs


def _sets(key: str, axis: str, values: Any) -> bool:
    """Whether setting `key` would undo what an axis sets."""
    if key == axis or axis.startswith(f"{key}."):
        return True
    field = key.removeprefix(f"{axis}.").partition(".")[0]
    sections = values.values() if isinstance(values, dict) else values
    return key.startswith(f"{axis}.") and any(isinstance(v, Mapping) and field in v for v in sections)


class _Point(NamedTuple):
    """One value of an axis, with what names it."""

    name: str
    value: Any


def _points(values: list[Any] | dict[str, Any]) -> list[_Point]:
    if isinstance(values, dict):
        return [_Point(f"-{name}", value) for name, value in values.items()]
    return [_Point("_".join(map(str, v)) if isinstance(v, list) else str(v), v) for v in values]


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
