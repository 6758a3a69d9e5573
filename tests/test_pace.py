"""The pace of a client in simulated time: a server of a known rate, and a clock that is wound by hand."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cotdistill.backends.pace import AUTO_AT_ONCE, FIRST_AT_ONCE, FLOOR, MOST_AT_ONCE, Bucket, Pace


@dataclass
class World:
    """A client that always has something to ask, and its server; `rate(t)` requests a second are let in."""

    concurrency: int | None = 64
    rate: Callable[[float], float] = lambda time: 1e9
    burst: float = 1e9
    latency: Callable[[int], float] = lambda at_once: 0.05  # of an answer, by how many are in flight
    refusal: float = 0.03  # seconds it takes
    moody: float = 0.0  # share that it refuses for no reason
    limits: dict[str, Any] = field(default_factory=dict)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.pace = Pace(self.concurrency, clock=lambda: self.now, **self.limits)
        self.sent: list[float] = []
        self.answered: list[float] = []  # when they were sent
        self.most_at_once = 0
        self.rng, self.count = random.Random(0), itertools.count()
        self.coming: list[tuple[float, int, bool, float]] = []
        self.level, self.at = self.burst, 0.0

    def run(self, until: float) -> World:
        while self.now < until:
            wake = float("inf")
            while self.pace.in_flight < self.pace.limit:
                if (wait := self.pace.delay(10)) > 0:
                    wake = self.now + max(wait, 0.001)
                    break
                sent = self.pace.enter(10)
                self.sent.append(sent)
                self.level = min(self.burst, self.level + (sent - self.at) * self.rate(sent))
                self.at, good = sent, self.level >= 1 and self.rng.random() >= self.moody
                self.level -= good
                seconds = (self.latency(self.pace.in_flight) if good else self.refusal) * self.rng.uniform(0.8, 1.2)
                heapq.heappush(self.coming, (sent + seconds, next(self.count), good, sent))
            self.most_at_once = max(self.most_at_once, self.pace.in_flight)
            if not self.coming or wake < self.coming[0][0]:
                self.now = wake
                continue
            self.now, _, good, sent = heapq.heappop(self.coming)
            self.pace.leave(10, 10)
            if good:
                self.answered.append(sent)
                self.pace.answered()
            else:
                self.pace.busy(sent)
        return self

    def answers(self, since: float, until: float) -> float:
        """A second, of those sent between the two."""
        return sum(since <= sent < until for sent in self.answered) / (until - since)


@pytest.mark.parametrize("rate", [8.3, 20, 100, 1000])
@pytest.mark.parametrize("concurrency", [64, 512, None])
@pytest.mark.parametrize(("latency", "refusal"), [(0.05, 0.03), (0.05, 0.2), (1.0, 0.3)])
def test_the_pace_is_soon_that_of_a_busy_server(
    rate: float, concurrency: int | None, latency: float, refusal: float
) -> None:
    world = World(concurrency, lambda _: rate, max(2, rate / 10), lambda _: latency, refusal).run(16 + latency)
    reachable = min(rate, (concurrency or MOST_AT_ONCE) / latency)
    start = latency  # of the first answer
    if concurrency is not None:
        assert world.answers(start, start + 5) >= 0.9 * reachable
    assert world.answers(start + 10, start + 15) >= (0.9 if concurrency or latency < 1 else 0.5) * reachable


def test_a_server_that_counts_in_short_spans_is_served_too() -> None:
    """It refuses half of a rate that is a little too high."""
    assert World(64, lambda _: 100, burst=1).run(15).answers(5, 15) >= 65


@pytest.mark.parametrize("concurrency", [64, None])
@pytest.mark.parametrize("moody", [0.02, 0.1, 0.2])
def test_refusals_that_are_not_for_the_rate_do_not_lower_it(moody: float, concurrency: int | None) -> None:
    free = World(concurrency).run(30).answers(10, 30)
    assert World(concurrency, moody=moody).run(30).answers(10, 30) >= 0.6 * free
    world = World(concurrency, lambda _: 100, burst=10, moody=moody).run(30)
    assert world.answers(10, 30) >= 75
    assert len(world.sent) <= 30 * 100 * 1.7


def test_the_pace_climbs_back_after_a_bad_time() -> None:
    world = World(64, lambda time: 0.0 if 5 <= time < 15 else 100.0, burst=10).run(30)
    assert world.answers(1, 5) >= 90
    assert world.answers(20, 30) >= 90  # 5 s after it ended
    assert len([sent for sent in world.sent if 8 <= sent < 15]) <= 7 * 20  # refused, and few


def test_the_pace_follows_a_server_that_lets_in_more_and_then_less() -> None:
    world = World(64, lambda time: 200.0 if 10 <= time < 20 else 20.0, burst=2).run(30)
    assert world.answers(5, 10) >= 18
    assert world.answers(15, 20) >= 180
    assert world.answers(23, 30) >= 18


def test_something_is_always_tried() -> None:
    world = World(64, lambda _: 0.0, burst=3).run(60)
    assert all(b - a < 2 / FLOOR for a, b in itertools.pairwise(world.sent))
    assert len(world.sent) < 600


def test_nothing_holds_back_where_no_one_is_busy() -> None:
    world = World(64).run(10)
    assert world.answers(1, 9) >= 0.95 * 64 / 0.05
    assert world.most_at_once == 64


def test_concurrency_grows_while_it_pays() -> None:
    world = World(None).run(20)  # any number at once takes the same time
    assert world.pace.limit == world.most_at_once == MOST_AT_ONCE
    assert world.answers(15, 20) >= 0.9 * MOST_AT_ONCE / 0.05


def test_concurrency_is_taken_back_where_it_does_not_pay() -> None:
    # 24 at once take no longer than one; more wait for each other, as on a GPU.
    world = World(None, latency=lambda at_once: 0.1 * max(1, at_once / 24)).run(60)
    limits = []
    for until in range(61, 120):
        world.run(until)
        limits.append(world.pace.limit)
    assert min(limits) >= AUTO_AT_ONCE
    assert sorted(limits)[len(limits) // 2] <= 64
    assert world.answers(20, 115) >= 0.9 * 240


def test_few_leave_before_the_first_answer() -> None:
    world = World(None, latency=lambda _: 10.0).run(7)
    assert len(world.sent) == FIRST_AT_ONCE


@pytest.mark.parametrize(
    ("limits", "a_second", "burst"),
    [
        ({"requests_per_minute": 60}, 1, 1),
        ({"requests_per_minute": 6000}, 100, 100),
        ({"tokens_per_minute": 6000}, 10, 10),
    ],
)
def test_the_limits_of_the_user_hold_over_every_span(limits: dict[str, float], a_second: float, burst: float) -> None:
    world = World(64, limits=limits).run(20)
    for first, sent in enumerate(world.sent):
        for last in range(first, min(len(world.sent), first + 500)):
            assert last - first + 1 <= a_second * (world.sent[last] - sent) + burst + 1e-6
    assert len(world.sent) >= 0.95 * 20 * a_second


def test_tokens_that_were_not_used_are_given_back() -> None:
    now = 0.0
    pace = Pace(8, tokens_per_minute=6000, clock=lambda: now)
    assert pace.delay(100) == 0
    pace.enter(100)
    assert pace.delay(100) == pytest.approx(1)
    pace.leave(100, used=20)
    assert pace.delay(100) == pytest.approx(0.2)


def test_a_request_larger_than_the_bucket_leaves_and_is_paid_for_later() -> None:
    bucket = Bucket(rate=10, burst=10, now=0)
    assert bucket.delay(50, now=0) == 0
    bucket.take(50)
    assert bucket.delay(1, now=0) == pytest.approx(4.1)


def test_a_pause_is_kept_and_ends() -> None:
    world = World(8)
    world.run(1)
    world.pace.pause(5)
    world.pace.pause(2)  # no shorter for that
    world.run(8)
    assert not [sent for sent in world.sent if 1.1 < sent < 6]
    assert world.answers(6.2, 8) >= 0.9 * 8 / 0.05


def test_too_many_connections_mean_fewer_at_once() -> None:
    pace = Pace(256)
    pace.answered()
    for _ in range(100):
        pace.enter(1)
    pace.too_many()
    assert pace.limit == 50
