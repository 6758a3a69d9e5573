"""One run's budget in many processes: a desk has it, and shares draw from it, a few requests' worth at a time.

    desk = Desk(Budget(most, folder / "spent.json"))
    backend = OpenAIBackend(..., budget=Share("worker 1", desk.draw, limited=True))

What a share was given counts as held until it says what it spent, so the totals are as hard as one process's. A
share that is not heard of any more counts at its most, and is corrected if it comes back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from cotdistill.budget import ENDLESS, NOTHING, SAVE_SECONDS, Amount, Budget
from cotdistill.errors import BudgetReached

MOST_AT_ONCE = 64  # times what is needed, so that not each request waits for the desk
PATIENCE = 0.3  # seconds between two looks whether others gave something back

# Who, what was spent since the last call, what of the rest is kept, what more is needed; returns what is given, and
# whether the limit is reached.
Draw = Callable[[str, Amount, Amount, Amount], tuple[Amount, bool]]


@dataclass
class Tranche:
    """What a share holds, when it was last heard of, and whether it counts as lost."""

    amount: Amount
    heard: float
    lost: bool = False


class Desk:
    """A budget, and who holds what of it; `lease` in seconds without a word before a share counts as lost."""

    def __init__(self, budget: Budget, lease: float = 60, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.lease, self.clock = budget, lease, clock
        self.tranches: dict[str, Tranche] = {}

    def draw(self, who: str, used: Amount, kept: Amount, need: Amount) -> tuple[Amount, bool]:
        """Note what a share `used` and goes on to keep, and give it what it needs, or more, if there is so much."""
        self._note(who, used, kept)
        given, reached = NOTHING, False
        if need != NOTHING:
            self._find_lost()
            room = self.budget.most.plus(self.budget.spent, -1).plus(self.budget.held, -1)
            times = min(
                [MOST_AT_ONCE, *(r / n / (2 * len(self.tranches)) for r, n in zip(room, need, strict=True) if n > 0)]
            )
            given, reached = self._reserve([need.plus(need, max(0, int(times) - 1)), need])
        self.tranches[who].amount = kept.plus(given)
        return given, reached

    def forget(self, prefix: str) -> None:
        """Count at their most the shares whose names begin so, and whose processes are known to be gone."""
        for who, tranche in self.tranches.items():
            if who.startswith(prefix) and not tranche.lost:
                self._lose(tranche)

    def close(self) -> tuple[Amount, Amount]:
        """All workers have ended, one way or another; returns what is spent, and how much of it was lost."""
        self.forget("")
        self.budget.save()
        return self.budget.spent, self.budget.lost

    def _note(self, who: str, used: Amount, kept: Amount) -> None:
        tranche = self.tranches.setdefault(who, Tranche(NOTHING, self.clock()))
        if tranche.lost:
            self.budget.take_up(tranche.amount)
            tranche.lost = False
        # Held again before anything is saved.
        self.budget.settle(tranche.amount.plus(kept, -1), used)
        tranche.heard = self.clock()

    def _reserve(self, amounts: list[Amount]) -> tuple[Amount, bool]:
        for amount in amounts:
            try:
                if self.budget.reserve(amount):
                    return amount, False
            except BudgetReached:
                if amount == amounts[-1]:
                    return NOTHING, True
        return NOTHING, False

    def _find_lost(self) -> None:
        for tranche in self.tranches.values():
            if not tranche.lost and self.clock() - tranche.heard > self.lease:
                self._lose(tranche)

    def _lose(self, tranche: Tranche) -> None:
        self.budget.settle(tranche.amount, tranche.amount)
        self.budget.lost = self.budget.lost.plus(tranche.amount)
        tranche.lost = True


class Share(Budget):
    """A worker's part of a run's budget; `limited`: whether there is a limit at all."""

    patience: float | None = PATIENCE

    def __init__(self, who: str, draw: Draw, limited: bool) -> None:
        super().__init__(NOTHING if limited else ENDLESS)
        self.who, self.draw = who, draw
        self.told = NOTHING  # of what was spent
        self.refused_at = -math.inf  # when the desk had nothing
        self.wanted: Amount | None = None  # by what there is no room for, once the limit is reached

    def reserve(self, amount: Amount, after: Amount = NOTHING, keep: Amount = NOTHING) -> bool:
        """As a budget's. False too while only what others hold is in the way: ask again after `patience`."""
        if self.most is ENDLESS:
            return True
        total = self.spent.plus(self.held).plus(amount).plus(after).plus(keep)
        if not total.at_most(self.most) and not self._more(total, keep, amount.plus(after)):
            return False
        self.held = self.held.plus(amount)
        return True

    def settle(self, reserved: Amount, used: Amount) -> None:
        self.spent = self.spent.plus(used)
        if self.most is not ENDLESS:
            self.held = self.held.plus(reserved, -1)
        if time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()

    def save(self, ahead: Amount = NOTHING) -> None:
        """Say what was spent."""
        self._tell(self._room())

    def leave(self) -> None:
        """Nothing is under way: give back all."""
        self.held = NOTHING
        self._tell(NOTHING)

    def reached(self, amount: Amount) -> BudgetReached:
        self.wanted = amount
        return BudgetReached("a limit of the run is reached.")  # the driver knows the totals

    def _more(self, total: Amount, keep: Amount, wanted: Amount) -> bool:
        """Draw what lacks of `total`; whether it was given."""
        if time.monotonic() - self.refused_at < PATIENCE:
            return False
        room = self._room()
        lacks = Amount(*map(max, NOTHING, total.plus(self.spent, -1).plus(room, -1)))
        given, reached = self._tell(room, lacks)
        if given != NOTHING:
            return True
        if reached:
            raise self.reached(wanted)
        self.refused_at = time.monotonic()
        if self.held.at_most(NOTHING):
            self._tell(keep)  # what is free here may be what another waits for
        return False

    def _room(self) -> Amount:
        return NOTHING if self.most is ENDLESS else Amount(*map(max, NOTHING, self.most.plus(self.spent, -1)))

    def _tell(self, kept: Amount, need: Amount = NOTHING) -> tuple[Amount, bool]:
        given, reached = self.draw(self.who, self.spent.plus(self.told, -1), kept, need)
        self.told = self.spent
        self._saved_at = time.monotonic()
        if self.most is not ENDLESS:
            self.most = self.spent.plus(kept).plus(given)
        return given, reached
