"""What a number was measured on, the cores of client and server, memory in use, and how a number is said."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median


def describe() -> str:
    """Two lines: when, on what hardware and Python, and by which command."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    flags = set(fields.get("flags", "").split()) & {"avx512f", "avx512_bf16", "amx_bf16"}
    chip = ", ".join([fields.get("model name", platform.processor()).strip(), *sorted(flags)])
    return (
        f"{datetime.now(UTC):%d %B %Y, %H:%M} UTC; {os.cpu_count()} cores ({chip}), load {os.getloadavg()[0]:.1f} at "
        f"the start; {platform.system()} {platform.release()}; Python {platform.python_version()}\n"
        f"`python {shlex.join(sys.argv)}`"
    )


def cores() -> tuple[int | None, int | None]:
    """A core for the client and another for the server; None where there are not two, or no way to choose."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[-1]) if len(usable) > 1 else (None, None)


def settle(core: int | None) -> None:
    """Keep this process to one `core`, and put it before others there, where the system allows that."""
    if core is not None:
        os.sched_setaffinity(0, {core})
        with suppress(PermissionError):
            os.nice(-10)


def resident(peak: bool = False) -> float:
    """MB of this process in memory: now, or the most since its start or `reset_peak`. Linux only."""
    field = "VmHWM:" if peak else "VmRSS:"  # not ru_maxrss: a child begins with its parent's
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def reset_peak() -> None:
    """Count the peak from here on: https://docs.kernel.org/filesystems/proc.html, clear_refs."""
    Path("/proc/self/clear_refs").write_text("5")


def matrix_rate(size: int, repeats: int = 20) -> float:
    """Floating-point operations a second of a product of two random bf16 matrices, `size` x `size`: the best of some.

    On a GPU if there is one.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def seconds() -> float:
        started = time.perf_counter()
        one @ other
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return 2.0 * size**3 / min(seconds() for _ in range(repeats))


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median (lowest to highest)."""
    if not values:
        return ""
    low, high = f"{min(values):,.{digits}f}", f"{max(values):,.{digits}f}"
    middle = f"{median(values):,.{digits}f}"
    return middle if low == high else f"{middle} ({low} to {high})"


def verdict(what: str, met: bool, goal: object, bound: str = "at least") -> str:
    return f"- {what}; goal: {bound} {goal}: {'met' if met else 'missed'}"
