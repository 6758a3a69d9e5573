"""One budget in many processes: never above, nothing lost, nobody waits for ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cotdistill.budget import ENDLESS, NOTHING, Amount, Budget
from cotdistill.errors import BudgetReached
from cotdistill.shares import PATIENCE, Desk, Share

ONE = Amount(1, 100, 0.1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


def desk_of(requests: float, clock: Clock, path: Path | None = None) -> Desk:
    return Desk(Budget(Amount(requests, 1e9, 1e9), path), lease=60, clock=clock)


def shares_of(desk: Desk, n: int) -> list[Share]:
    return [Share(f"w{i}/0", desk.draw, limited=True) for i in range(n)]


def ask(share: Share, used: Amount = ONE) -> bool:
    """One request, from its start to its end; whether it could leave."""
    if not share.reserve(ONE):
        return False
    share.settle(ONE, used)
    return True


def until_reached(shares: list[Share], clock: Clock) -> list[int]:
    """They ask in turn until each hears that the limit is reached; how many requests each had."""
    asked, left = [0] * len(shares), set(range(len(shares)))
    for _ in range(10_000):
        for i in sorted(left):
            clock.now += PATIENCE
            try:
                asked[i] += ask(shares[i])
            except BudgetReached:
                left.discard(i)
        if not left:
            return asked
    raise AssertionError("they wait for ever")


@pytest.mark.parametrize(("most", "n"), [(1, 1), (1, 4), (10, 3), (100, 3), (1000, 7), (64, 64), (1000, 1)])
def test_all_of_a_limit_is_used_and_no_more(most: int, n: int, clock: Clock, tmp_path: Path) -> None:
    desk = desk_of(most, clock, tmp_path / "spent.json")
    shares = shares_of(desk, n)
    asked = until_reached(shares, clock)
    assert sum(asked) == most
    for share in shares:
        share.leave()
    spent, lost = desk.close()
    assert spent == pytest.approx(Amount(most, 100 * most, 0.1 * most))
    assert lost == NOTHING
    assert json.loads((tmp_path / "spent.json").read_text())["spent"]["requests"] == most
    assert shares[0].wanted == ONE


def test_the_file_knows_at_any_moment_what_may_have_been_spent(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "spent.json"
    desk = desk_of(500, clock, path)
    shares = shares_of(desk, 3)
    for turn in range(300):
        ask(shares[turn % 3])
        saved = json.loads(path.read_text())
        assert turn + 1 <= saved["spent"]["requests"] + saved["held"]["requests"] <= 500
    after = Budget(Amount(500, 1e9, 1e9), path)  # the driver was killed
    assert 300 <= after.spent.requests <= 500


def test_one_that_is_lost_counts_at_its_most_and_is_corrected_if_it_comes_back(clock: Clock) -> None:
    desk = desk_of(100, clock)
    one, other = shares_of(desk, 2)
    assert all(ask(one) for _ in range(5))
    held = desk.tranches["w0/0"].amount.requests
    clock.now += 61
    asked = until_reached([other], clock)
    assert asked == [100 - held]
    assert desk.budget.spent.requests == 100
    one.leave()  # it spent five
    assert desk.budget.spent.requests == 100 - held + 5
    assert ask(other)
    other.leave()
    spent, lost = desk.close()
    assert spent.requests == 100 - held + 6
    assert lost == pytest.approx(NOTHING, abs=1e-6)


def test_a_worker_that_is_started_anew_says_that_the_one_before_is_gone(clock: Clock) -> None:
    desk = desk_of(100, clock)
    one, other = shares_of(desk, 2)
    assert ask(one)
    held = desk.tranches["w0/0"].amount.requests
    desk.forget("w0/")
    assert until_reached([other], clock) == [100 - held]
    spent, lost = desk.close()
    assert (spent.requests, lost.requests) == (100, held)


def test_what_is_kept_for_second_prompts_is_not_given_back(clock: Clock) -> None:
    desk = desk_of(3, clock)
    one, other = shares_of(desk, 2)
    assert one.reserve(ONE, after=ONE)
    one.settle(ONE, ONE)
    assert ask(other)
    assert not ask(other), "the third is promised"
    clock.now += PATIENCE
    with pytest.raises(BudgetReached):
        one.reserve(ONE, after=ONE, keep=ONE)
    clock.now += PATIENCE
    assert ask(one)
    one.leave()
    clock.now += PATIENCE
    with pytest.raises(BudgetReached):
        ask(other)


def test_without_a_limit_what_is_spent_is_counted(clock: Clock) -> None:
    desk = Desk(Budget(), clock=clock)
    share = Share("w", desk.draw, limited=False)
    assert share.most is ENDLESS
    assert all(ask(share, Amount(1, 7, 0.5)) for _ in range(20))
    share.leave()
    assert desk.close() == (Amount(20, 140, 10.0), NOTHING)


def test_a_server_that_bills_more_than_it_may_is_counted(clock: Clock) -> None:
    desk = desk_of(1000, clock)
    (share,) = shares_of(desk, 1)
    for _ in range(10):
        assert ask(share, Amount(1, 1e6, 0))
    share.leave()
    assert desk.close()[0].tokens == 1e7
    assert desk.budget.held == pytest.approx(NOTHING, abs=1e-6)
