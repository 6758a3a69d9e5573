"""Our client against its peers: completions a second and CPU time each, from a server that is never the bottleneck.

    python benchmarks/generation.py --setup              # makes the peers' environments, then measures
    python benchmarks/generation.py --clients ours,curator --rounds 5 --json generation.json

Each client is a process of its own (`clients.py`) and has a fresh server (`loopback.py`); they take turns,
`--rounds` times. Client and server are pinned to a core each, with all their threads and children, unless
`--unpinned`. A first run of one request a connection warms the client up; a second is timed as what
starting a run costs, and is taken off the third, the one that counts. Ours commits every completion to
the disk; no peer but curator, which appends each to a file, keeps any before the end.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from platformdirs import user_cache_path

from environments import Failed, interpreter, measured, set_up
from loopback import loopback
from machine import cores, describe, spread, verdict

ENVIRONMENTS = {  # what pip installs in each
    "openai": ("openai[aiohttp]==3.54.0",),
    "litellm": ("litellm==1.106.2",),
    "curator": ("bespokelabs-curator==0.1.31",),
    "distilabel": ("distilabel[openai]==1.5.3", "openai==3.54.0", "requests"),  # it needs `requests` undeclared
}
# No telemetry, no viewer, no look-up of a model or a price on the network.
OFFLINE = {
    "TELEMETRY_ENABLED": "false",
    "CURATOR_VIEWER": "0",
    "CURATOR_DISABLE_RICH_DISPLAY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
}
CHILD_SECONDS = 600


@dataclass(frozen=True)
class Row:
    """A client: its label, its environment ("" is ours), about how many requests a second it does, our goal."""

    label: str
    environment: str
    requests: int
    goal: float = 0.0  # ours is to be so many times as fast, against the server that answers at once


ROWS = {
    "ours": Row("cotdistill, store on", "", 5000),
    "ours_n8": Row("cotdistill, store on, n=8", "", 2500),
    "raw_aiohttp": Row("aiohttp + uvloop + orjson, no store", "", 10_000),
    "openai": Row("openai, default", "openai", 450, goal=10),
    "openai_aiohttp": Row("openai on aiohttp", "openai", 900),
    "litellm": Row("litellm", "litellm", 250, goal=15),
    "curator": Row("curator", "curator", 550, goal=8),
    "distilabel": Row("distilabel pipeline", "distilabel", 150, goal=30),
}

CPU_GOAL = 200.0  # us for a durable completion, at most
IDEAL_GOAL = 0.92  # of connections / latency, at least


def pinned(name: str) -> tuple[str, tuple[str, ...]]:
    environment = ROWS[name].environment
    return environment, ENVIRONMENTS.get(environment, ())


@dataclass(frozen=True)
class Scenario:
    title: str
    connections: int
    latency: float = 0.0  # seconds

    @property
    def ideal(self) -> float:
        """Completions a second of a client that costs no time."""
        return self.connections / self.latency if self.latency else float("inf")


@dataclass(frozen=True)
class Measured:
    """One round of one client. Rates are of what a run costs beyond its start."""

    rate: float  # completions a second
    cpu: float  # us a completion
    whole_rate: float  # completions a second with the start of the run in it
    busy: float  # share of a core that the client had; less than it could use where others wanted the core
    server_busy: float
    a_request: float  # completions
    versions: dict[str, str]


# --- One measurement ------------------------------------------------------------------------------------------


def measure(name: str, scenario: Scenario, python: Path, seconds: float, pinned: bool) -> Measured:
    """A fresh server, a fresh client process. Raises `Failed`."""
    client_core, server_core = cores() if pinned else (None, None)
    if scenario.latency:
        seconds *= 2  # a wave takes half a second: enough of them
    waves = max(3, round(min(ROWS[name].requests, scenario.ideal) * seconds / scenario.connections))
    command = [str(python), str(Path(__file__).with_name("clients.py")), name]
    flags = [f"--requests={waves * scenario.connections}", f"--concurrency={scenario.connections}"]
    if client_core is not None:
        flags.append(f"--core={client_core}")
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    if ROWS[name].environment:
        kept.pop("PYTHONPATH", None)
    with loopback(scenario.latency, server_core) as server, tempfile.TemporaryDirectory() as home:
        before = server.stats()
        reply = measured([*command, server.base_url, *flags], {**kept, **OFFLINE, "HOME": home}, CHILD_SECONDS)
        after = server.stats()
    start, work = reply["start"], reply["work"]
    completions, wall = work["completions"] - start["completions"], work["wall"] - start["wall"]
    rate = completions / wall
    return Measured(
        rate=rate,
        cpu=(work["cpu"] - start["cpu"]) / completions * 1e6,
        whole_rate=work["completions"] / work["wall"],
        busy=(work["cpu"] - start["cpu"]) / wall,
        server_busy=(after["cpu"] - before["cpu"]) / after["completions"] * rate,
        a_request=after["completions"] / after["requests"],
        versions=reply["versions"],
    )


def rounds(
    names: Sequence[str], scenario: Scenario, arguments: argparse.Namespace
) -> Iterator[tuple[str, Measured | str]]:
    """Each client in turn, round by round; a client that failed is left out of the rest."""
    failed = set()
    for number in range(1, arguments.rounds + 1):
        for name in names:
            if name in failed:
                continue
            try:
                python = interpreter(*pinned(name), arguments.envs)
                one = measure(name, scenario, python, arguments.seconds, not arguments.unpinned)
            except Failed as reason:
                failed.add(name)
                yield name, str(reason)
                continue
            seen = f"{name} {one.rate:,.0f}/s, {one.cpu:,.0f} us, core {one.busy:.0%} busy"
            print(f"{scenario.title}, round {number}: {seen}", file=sys.stderr)
            yield name, one


# --- Report ---------------------------------------------------------------------------------------------------


def ratios(found: dict[str, list[Measured]], name: str) -> dict[str, list[float]]:
    """Ours against a client, round by round: how many times as fast, and with how many times less CPU."""
    pairs = list(zip(found.get("ours", []), found.get(name, []), strict=False))
    return {"rate": [a.rate / b.rate for a, b in pairs], "cpu": [b.cpu / a.cpu for a, b in pairs]}


def table(scenario: Scenario, found: dict[str, list[Measured]], skipped: dict[str, str]) -> Iterator[str]:
    """The table of one scenario, in Markdown."""
    yield f"### {scenario.title}\n"
    yield "| client | completions/s | CPU us each | ours: times as fast | times less CPU | its core, % | server, % |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, row in ROWS.items():
        if name in skipped:
            yield f"| {row.label} | skipped: {skipped[name]} | | | | | |"
        elif all_rounds := found.get(name):
            several = f" ({all_rounds[0].a_request:.0f} a request)" if name == "ours_n8" else ""
            figures = [spread([getattr(one, field) for one in all_rounds]) for field in ("rate", "cpu")]
            times = [
                spread(values, 1) if not name.startswith("ours") else "" for values in ratios(found, name).values()
            ]
            busy = [spread([100 * getattr(one, field) for one in all_rounds]) for field in ("busy", "server_busy")]
            yield f"| {' | '.join([row.label + several, *figures, *times, *busy])} |"
    yield ""


def goals(scenario: Scenario, found: dict[str, list[Measured]]) -> Iterator[str]:
    ours = found.get("ours", [])
    if not ours:
        return
    if scenario.latency:
        share = median(one.whole_rate for one in ours) / scenario.ideal
        yield verdict(
            f"{share:.3f} of the ideal {scenario.ideal:,.0f}/s, start included", share >= IDEAL_GOAL, IDEAL_GOAL
        )
        return
    for name, row in ROWS.items():
        if row.goal and found.get(name):
            times, less = (median(values) for values in ratios(found, name).values())
            what = f"{times:.1f}x {row.label} ({less:.1f}x by CPU time)"
            yield verdict(what, times >= row.goal, f"{row.goal:.0f}x")
    cpu = median(one.cpu for one in ours)
    yield verdict(f"{cpu:.0f} us CPU a durable completion", cpu <= CPU_GOAL, f"{CPU_GOAL:.0f} us", "at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = user_cache_path("cotdistill") / "benchmarks"
    parser.add_argument("--envs", type=Path, default=cache, help=f"the peers' environments (default {cache})")
    parser.add_argument("--setup", action="store_true", help="make the environments that are missing")
    parser.add_argument("--clients", default=",".join(ROWS), help="which, by name, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of work a client and round, twice that with 0.5 s")
    parser.add_argument("--connections", type=int, default=64, help="to the server that answers at once")
    parser.add_argument("--only", choices=("fast", "slow"), help="one server only")
    parser.add_argument("--unpinned", action="store_true", help="let the kernel choose the cores")
    parser.add_argument("--json", type=Path, help="write every round here")
    arguments = parser.parse_args()
    names = arguments.clients.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no client {unknown[0]!r}: use {', '.join(ROWS)}")

    failures: dict[str, str] = {}  # by environment
    for environment, pins in {pinned(name) for name in names} if arguments.setup else ():
        try:
            set_up(environment, pins, arguments.envs)
        except Failed as reason:
            failures[environment] = str(reason)

    scenarios = {
        "fast": Scenario(f"Answers at once, {arguments.connections} connections", arguments.connections),
        "slow": Scenario("Answers after 0.5 s, 512 connections", 512, latency=0.5),
    }
    placing = "Not pinned" if arguments.unpinned or cores()[0] is None else "Client and server on a core each"
    print(f"{describe()}\n{placing}; {arguments.rounds} rounds in turns: median (lowest to highest).\n")
    versions: dict[str, str] = {}
    results = {}
    for key, scenario in scenarios.items():
        if arguments.only not in (None, key):
            continue
        found: dict[str, list[Measured]] = {}
        skipped = {name: failures[env] for name in names if (env := ROWS[name].environment) in failures}
        for name, one in rounds([name for name in names if name not in skipped], scenario, arguments):
            if isinstance(one, str):
                skipped[name] = one
            else:
                found.setdefault(name, []).append(one)
                versions[name] = " ".join(f"{package} {version}" for package, version in one.versions.items())
        print("\n".join([*table(scenario, found, skipped), *goals(scenario, found)]), end="\n\n", flush=True)
        results[key] = {name: [asdict(one) for one in all_rounds] for name, all_rounds in found.items()}
    print("Versions: " + "; ".join(f"{name}: {text}" for name, text in versions.items() if text))
    if arguments.json:
        arguments.json.write_text(json.dumps({"on": describe(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
