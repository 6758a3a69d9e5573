"""The grid of a sweep file as runs, one after the other, over one store.

    base: base.yaml            # a config; none: the embedded default
    name: d_scaling
    grid:
      teacher.samples: [1, 2, 4]
      student.seeds: [[0], [1]]

Runs share the store, so D = 1 and 2 are read from what D = 4 bought. A run that fails is reported and
the rest go on; running again does what is missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cotdistill import progress
from cotdistill.config import Config, load_config, load_quickstart, read_yaml
from cotdistill.errors import ConfigError, CotdistillError
from cotdistill.pipeline import run, write_json
from cotdistill.records import to_json


def sweep(path: Path) -> dict[str, Any]:
    """Run the grid of a sweep file; returns, and writes to RUNS/NAME.sweep.json, the results by run.

    Raises `ConfigError` if the file is wrong, before anything runs.
    """
    runs = grid(path)
    done: list[dict[str, Any]] = []
    for number, (settings, config) in enumerate(runs, 1):
        progress.say(f"sweep: run {number} of {len(runs)}, {config.name}")
        entry: dict[str, Any] = {"run": config.name, "settings": settings}
        try:
            entry["results"] = [to_json(result) for result in run(config).results]
        except CotdistillError as error:
            progress.say(f"sweep: {config.name} failed: {error}")
            entry["error"] = str(error)
        done.append(entry)
    summary = {"sweep": path.stem, "runs": done}
    write_json(runs[0][1].runs / f"{path.stem}.sweep.json", summary)
    return summary


def grid(path: Path) -> list[tuple[dict[str, Any], Config]]:
    """Each combination of the grid's settings with its config, the last setting changing fastest."""
    values = read_yaml(path)
    axes = values.get("grid")
    if not isinstance(axes, Mapping) or not axes or not all(isinstance(v, list) and v for v in axes.values()):
        raise ConfigError(f"{path}: `grid:` must map fields to lists, such as teacher.samples: [1, 2, 4].")
    if strange := values.keys() - {"base", "name", "grid"}:
        raise ConfigError(f"{path}: {min(strange)}: no such key; known: base, name, grid.")
    name, base = values.get("name", path.stem), values.get("base")
    runs = []
    for combination in itertools.product(*axes.values()):
        settings = dict(zip(axes, combination, strict=True))
        short = "-".join(f"{key.rpartition('.')[2]}{_short(value)}" for key, value in settings.items())
        overrides = {**settings, "name": f"{name}-{short}"}
        runs.append((settings, load_config(path.parent / base, overrides) if base else load_quickstart(overrides)))
    if len({config.name for _, config in runs}) < len(runs):
        raise ConfigError(f"{path}: two runs of the grid have the same settings, or names that look the same.")
    return runs


def _short(value: Any) -> str:
    text = "_".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(c if c.isalnum() or c in "._" else "_" for c in text)
