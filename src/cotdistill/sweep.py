"""The grid of a sweep file as runs, one after the other, over one store.

    base: base.yaml            # a config, or its sections right here; none: the embedded default
    name: d_scaling
    until: curate              # the last stage; none: the whole run
    grid:
      teacher.samples: [1, 2, 4]
      task:                    # values with names of their own
        dates: {data: dates.jsonl, answer_type: choice}
        coins: {name: coin_flip}

Runs share the store, so D = 1 and 2 are read from what D = 4 bought. A run that fails is reported and
the rest go on; running again does what is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cotdistill import progress
from cotdistill.config import QUICKSTART, Config, make_config
from cotdistill.config_file import read_yaml
from cotdistill.errors import ConfigError, CotdistillError
from cotdistill.pipeline import STAGES, run
from cotdistill.records import to_json
from cotdistill.runs import write_json

KEYS = ("base", "name", "grid", "until")


def sweep(path: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run the grid of a sweep file; returns, and writes to RUNS/NAME.sweep.json, the results by run.

    `overrides` hold for every run. Raises `ConfigError` if the file is wrong, before anything runs.
    """
    runs = grid(path, overrides or {})
    until = read_yaml(path).get("until", "report")
    done: list[dict[str, Any]] = []
    for number, (settings, config) in enumerate(runs, 1):
        progress.say(f"sweep: run {number} of {len(runs)}, {config.name}")
        entry: dict[str, Any] = {"run": config.name, "settings": settings}
        try:
            this = run(config, until)
            ledger = this.curated.ledger if this.curated else {}
            entry |= {"task": this.task.name, "results": [to_json(r) for r in this.results], "ledger": ledger}
        except CotdistillError as error:
            progress.say(f"sweep: {config.name} failed: {error}")
            entry["error"] = str(error)
        done.append(entry)
        # After each run: what is done is read while the rest goes on.
        write_json(config.runs / f"{path.stem}.sweep.json", summary := {"sweep": path.stem, "runs": done})
    return summary


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
    base = values.get("base", QUICKSTART)
    source = path if isinstance(base, Mapping) or base == QUICKSTART else path.parent / base
    sections = dict(base) if isinstance(base, Mapping) else read_yaml(path.parent / base)
    runs = []
    for combination in itertools.product(*map(_points, axes.values())):
        points = dict(zip(axes, combination, strict=True))
        short = "-".join(f"{key.rpartition('.')[2]}{_plain(point.name)}" for key, point in points.items())
        settings = {key: point.value for key, point in points.items()}
        name = f"{values.get('name', path.stem)}-{short}"
        shown = {
            key: point.name.lstrip("-") if isinstance(point.value, Mapping) else point.value
            for key, point in points.items()
        }
        runs.append((shown, make_config(sections, {**settings, **overrides, "name": name}, source)))
    if len({config.name for _, config in runs}) < len(runs):
        raise ConfigError(f"{path}: two runs of the grid have the same settings, or names that look the same.")
    return runs


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
