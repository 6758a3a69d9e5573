"""What the requests of one `generate` take of a budget, with room left for the second prompts.

A first prompt is not worth its money without its second. So where the budget ends, first prompts
do, and the second prompts after those in flight still go.
"""

from __future__ import annotations

from collections.abc import Sequence

from cotdistill.budget import ENDLESS, NOTHING, Amount, Budget, Price
from cotdistill.completions import Request

REQUEST_BYTES = 300  # of a request beside its turns
TOKEN_BYTES = 6  # of text that a model writes, about at most


class Allowance:
    """A budget, what a model costs, and what is promised to second prompts."""

    def __init__(self, budget: Budget, price: Price) -> None:
        self.budget, self.price = budget, price
        self.promised = NOTHING  # to the second prompts after those in flight
        self.redeemed = NOTHING  # of that: their texts have come, and they are on their way

    def later(self, request: Request, samples: Sequence[int]) -> Amount:
        """The most that the second prompts after a first may cost, about."""
        if not request.follow_up or self.budget.most is ENDLESS:
            return NOTHING
        size = REQUEST_BYTES + len(request.prompt[0]) + TOKEN_BYTES * request.params.max_tokens
        return NOTHING.plus(self.price.most(size, request.follow_up), len(samples))

    def start(self, request: Request) -> None:
        """A second prompt is about to be asked: it has its promise until it takes it."""
        if len(request.prompt) > 1 and self.budget.most is not ENDLESS:
            self.promised = self.promised.plus(self._own(request))

    def take(self, request: Request, most: Amount, later: Amount) -> bool:
        """Reserve a try, and promise what follows; False while only what is in flight is in its way.

        Raises `BudgetReached`.
        """
        if self.budget.most is ENDLESS:
            return True
        second = len(request.prompt) > 1
        if not self.budget.reserve(most, later, NOTHING if second else self.promised):
            return False
        own = self._own(request) if second else NOTHING
        self.promised = self.promised.plus(later).plus(own, -1)
        return True

    def redeem(self, later: Amount) -> None:
        """A first prompt has its texts: what it was promised is for those that follow."""
        if later is not NOTHING:
            self.redeemed = self.redeemed.plus(later)

    def all_started(self) -> None:
        """All second prompts whose first has come have been started, with promises of their own."""
        if self.redeemed is not NOTHING:
            self.promised, self.redeemed = self.promised.plus(self.redeemed, -1), NOTHING

    def settle(self, most: Amount, used: Amount, later: Amount = NOTHING) -> None:
        """A try has ended; `later` will not follow."""
        self.budget.settle(most, used)
        if later is not NOTHING:
            self.promised = self.promised.plus(later, -1)

    def _own(self, request: Request) -> Amount:
        return self.price.most(REQUEST_BYTES + sum(map(len, request.prompt)), request.params.max_tokens)
