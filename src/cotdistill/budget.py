"""What a run may spend: reserved before a request leaves, settled when it ends, known across kills.

    budget = Budget(Amount(requests=1000), folder / "spent.json")
    budget.reserve(Amount(1, 900, 0.001))     # raises BudgetReached
    budget.settle(Amount(1, 900, 0.001), Amount(1, 240, 0.0002))

The file says at any moment no less than what may have been spent: what a killed run had in flight is
counted at its most.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from cotdistill.errors import BudgetReached, DataError
from cotdistill.records import write_atomic

SAVE_SECONDS = 5.0  # between two savings that nothing hangs on
ROUNDING = 1e-9


class Amount(NamedTuple):
    """Requests, tokens (prompt and completion) and US dollars."""

    requests: float = 0
    tokens: float = 0
    usd: float = 0.0

    def plus(self, other: Amount, times: int = 1) -> Amount:
        return Amount(
            self.requests + times * other.requests, self.tokens + times * other.tokens, self.usd + times * other.usd
        )

    def at_most(self, other: Amount) -> bool:
        return self.requests <= other.requests and self.tokens <= other.tokens and self.usd <= other.usd + ROUNDING


class Price(NamedTuple):
    """US dollars for a million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6

    def most(self, size: int, tokens: int) -> Amount:
        """The most that a request of so many bytes can cost, for so many tokens: a token is a byte at least."""
        return Amount(1, size + tokens, self.of(size, tokens))


NOTHING = Amount()
ENDLESS = Amount(math.inf, math.inf, math.inf)


class Budget:
    """What was `spent`, what is `held` for requests in flight, and the `most` that both may be.

    `path` keeps it between runs; None for one run only. Raises `DataError` if that file is damaged.
    """

    patience: float | None = None  # seconds after which what is held may be less, though nothing has ended here

    def __init__(self, most: Amount = ENDLESS, path: Path | None = None) -> None:
        self.most, self.path = ENDLESS if most == ENDLESS else most, path
        self.spent = self.held = NOTHING
        self.lost = NOTHING  # held by a run that was killed
        if path is not None and path.exists():
            try:
                saved = json.loads(path.read_text())
                self.lost = _amount(saved["held"])
                self.spent = _amount(saved["spent"]).plus(self.lost)
            except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
                raise DataError(
                    f"{path}: what this run has spent cannot be read ({error}).\n"
                    "Write what you know into it, or remove it to count from nothing."
                ) from None
        self._on_disk = self.spent  # no more than this may have been spent, by the file
        self._saved_at = time.monotonic()

    def __str__(self) -> str:
        text = f"{self.spent.requests:,.0f} requests and {self.spent.tokens:,.0f} tokens"
        money = f", {self.spent.usd:,.4f} USD" if self.spent.usd else ""
        lost = f" ({self.lost.requests:,.0f} requests in flight when it was killed are counted at their most)"
        return text + money + (lost if self.lost.requests else "")

    def reserve(self, amount: Amount, after: Amount = NOTHING, keep: Amount = NOTHING) -> bool:
        """Hold the most that a request may cost; False while only what is under way is in its way.

        There must be room too for what will come `after` it, and for what others are to `keep`. Raises
        `BudgetReached` where there is not so much left.
        """
        if self.most is ENDLESS:
            return True
        total = self.spent.plus(self.held).plus(amount)
        if not total.plus(after).plus(keep).at_most(self.most):
            if not self.spent.plus(amount).plus(after).at_most(self.most):
                raise self.reached(amount.plus(after))
            return False
        self.held = self.held.plus(amount)
        if not total.at_most(self._on_disk):
            self.save(ahead=self.held)
        return True

    def take_up(self, amount: Amount) -> None:
        """Hold again what an earlier run held, as for a batch that is still at the server."""
        counted = Amount(*map(min, amount, self.lost))
        self.lost = self.lost.plus(counted, -1)
        self.spent = self.spent.plus(counted, -1)
        if self.most is not ENDLESS:
            self.held = self.held.plus(amount)

    def settle(self, reserved: Amount, used: Amount) -> None:
        """A request has ended, and cost so much."""
        self.spent = self.spent.plus(used)
        if self.most is not ENDLESS:
            self.held = self.held.plus(reserved, -1)
        more = self.most is not ENDLESS and not self.spent.at_most(self._on_disk)  # than it could cost, by its server
        if more or time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save(ahead=self.held)

    def save(self, ahead: Amount = NOTHING) -> None:
        """Write the file, with room for requests to come, so that not each of them waits for the disk."""
        held = Amount(*map(max, NOTHING, self.held.plus(ahead)))
        room = self.most.plus(self.spent, -1)
        held = Amount(*map(min, held, Amount(*map(max, room, self.held))))
        self._on_disk = self.spent.plus(held)
        self._saved_at = time.monotonic()
        if self.path is not None:
            values = {"spent": _rounded(self.spent), "held": _rounded(held)}
            write_atomic(self.path, json.dumps(values, indent=1) + "\n")

    def reached(self, amount: Amount) -> BudgetReached:
        """The error for a request of so much that is not left."""
        for name, most, spent, more in zip(Amount._fields, self.most, self.spent, amount, strict=True):
            if spent + more > most + ROUNDING:
                text = "{:,.4f}" if name == "usd" else "{:,.0f}"
                return BudgetReached(
                    f"limits.max_{name}={most:g} is reached: {text.format(spent)} spent, and the next question may "
                    f"take {text.format(more)}.\nAll that was answered is stored. Raise the limit and run again to go "
                    "on, or set limits.reached=go_on to use what is there."
                )
        raise ValueError("nothing is reached")


def _amount(saved: Any) -> Amount:
    values = [saved[name] for name in Amount._fields]
    if len(saved) > len(values) or not all(isinstance(v, int | float) and 0 <= v < math.inf for v in values):
        raise ValueError(f"amounts were expected, not {str(saved)[:100]}")
    return Amount(*values)


def _rounded(amount: Amount) -> dict[str, float]:
    return {"requests": round(amount.requests), "tokens": round(amount.tokens), "usd": round(amount.usd, 9)}
