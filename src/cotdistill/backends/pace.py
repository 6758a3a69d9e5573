"""How fast a client goes: as many requests at once, and as many a second, as the server takes well.

Requests in flight grow while that brings more answers a second (up to `MOST_AT_ONCE`), unless the user
says how many. Requests a second are free until the server is busy (429); then they follow what it
answered, back up quickly to where they were and slowly beyond, as TCP CUBIC does (RFC 9438). The
user's own limits a minute are token buckets. Nothing here ever stops a run, or sleeps for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST_AT_ONCE = 3  # until a server has answered: a wrong key is refused no more often
AUTO_AT_ONCE = 16
MOST_AT_ONCE = 512
GROWTH = 1.5
PAYS = 0.3  # share of a growth that must come back as answers a second, or it is taken back
HOLD = 20  # windows between two tries to grow, once growing did not pay
CUT = 0.85  # of the rate, after a 429
CUT_SECONDS = 0.5  # between two cuts: what was under way before the first says nothing new
CLIMB, PROBE = 0.3, 0.1  # of the last good rate, a second: up to it, and beyond it
FLOOR = 0.5  # requests a second that are always tried

Clock = Callable[[], float]


class Bucket:
    """So many units a second, some of them at once; a request larger than the bucket goes into debt."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst, self.level, self.at = rate, burst, burst, now

    def delay(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be taken."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        return max(0.0, (min(amount, self.burst) - self.level) / self.rate)

    def take(self, amount: float) -> None:
        """Also gives back, where less was used."""
        self.level = min(self.burst, self.level - amount)


class Pace:
    """The pace of one client of one server; `concurrency` None is found by itself.

    `requests_per_minute` and `tokens_per_minute` are the user's limits, 0 for none.
    """

    def __init__(
        self,
        concurrency: int | None,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        self.clock = clock
        now = clock()
        self.auto = concurrency is None
        self.most = concurrency or AUTO_AT_ONCE
        self.limit = min(FIRST_AT_ONCE, self.most)
        self.in_flight = 0
        self.requests = Bucket(requests_per_minute / 60, max(1, requests_per_minute / 60), now)
        self.tokens = Bucket(tokens_per_minute / 60, max(1, tokens_per_minute / 60), now)
        self.pause_until = now
        self.rate: float | None = None  # requests a second, since the server was busy
        self.good = 0.0  # the rate to climb back to
        self.adaptive = Bucket(1, 1, now)
        self.cut_at = now
        self.since, self.answers, self.refusals = now, 0, 0  # of the present look at the rate
        self.window_at, self.window_answers, self.window_rate, self.window_limit = now, 0, 0.0, 0
        self.hold = 0

    def delay(self, tokens: int) -> float:
        """Seconds until a request of about `tokens` may leave, slots apart."""
        now = self.clock()
        wait = self.pause_until - now
        if self.requests.rate:
            wait = max(wait, self.requests.delay(1, now))
        if self.tokens.rate:
            wait = max(wait, self.tokens.delay(tokens, now))
        if self.rate is not None:
            self._climb(now)
            wait = max(wait, self.adaptive.delay(1, now))
        return wait

    def enter(self, tokens: int) -> float:
        """A request leaves; returns when."""
        self.in_flight += 1
        self.requests.take(1)
        self.tokens.take(tokens)
        self.adaptive.take(1)
        return self.clock()

    def leave(self, tokens: int, used: int) -> None:
        """It has ended, and used so many of its tokens."""
        self.in_flight -= 1
        self.tokens.take(used - tokens)

    def answered(self) -> None:
        """A request brought what it asked for."""
        self.answers += 1
        if self.window_limit == 0:  # the first: the server is there, and lets us in
            self.limit = self.window_limit = self.most
            self.window_at, self.window_answers = self.clock(), 0
        self.window_answers += 1
        if self.auto and self.window_answers >= 2 * self.limit:
            self._grow_while_it_pays()

    def busy(self, sent: float) -> None:
        """The server refused a request that left at `sent`, since it has too much to do."""
        now = self.clock()
        self.refusals += 1
        if sent < self.cut_at or now - self.cut_at < CUT_SECONDS:
            return
        seconds = max(now - self.since, CUT_SECONDS)
        measured = self.answers / seconds
        refused = self.refusals / (self.answers + self.refusals)
        rate = self.rate if self.rate is not None else (self.answers + self.refusals) / seconds
        if refused <= 0.5:
            self.good, rate = rate, rate * CUT
        else:  # far too fast: at what it did answer; all refused says only that it is a bad time
            self.good = (max(self.good, rate) + measured) / 2 if self.answers else max(self.good, rate)
            rate = measured
        self._set_rate(max(rate, FLOOR, self.good / 20), now)
        self.cut_at, self.since, self.answers, self.refusals = now, now, 0, 0
        self.hold = HOLD

    def too_many(self) -> None:
        """There are no more connections to be had: fewer at once."""
        self.auto, self.limit = False, max(1, self.in_flight // 2)

    def pause(self, seconds: float) -> None:
        """The server said that a limit of its own is spent for so long."""
        self.pause_until = max(self.pause_until, self.clock() + seconds)

    def _climb(self, now: float) -> None:
        rate, seconds = self.rate or 0.0, now - self.adaptive.at
        self._set_rate(rate + seconds * max(self.good, FLOOR) * (CLIMB if rate < self.good else PROBE), now)
        if now - self.since > 2:  # a fresh look now and then: old answers say nothing of the present rate
            self.since, self.answers, self.refusals = now, 0, 0

    def _set_rate(self, rate: float, now: float) -> None:
        self.adaptive.delay(0, now)
        self.rate = self.adaptive.rate = rate
        self.adaptive.burst = max(1.0, rate / 20)

    def _grow_while_it_pays(self) -> None:
        now = self.clock()
        rate = self.window_answers / max(now - self.window_at, 1e-6)
        grew = self.limit / self.window_limit - 1
        if grew > 0 and rate < self.window_rate * (1 + PAYS * grew):
            self.limit, self.hold = self.window_limit, HOLD
        elif self.hold > 0:
            self.hold -= 1
        else:
            self.window_limit, self.limit = self.limit, min(MOST_AT_ONCE, int(self.limit * GROWTH))
        self.window_rate = rate if self.hold == 0 or not self.window_rate else max(rate, 0.9 * self.window_rate)
        self.window_at, self.window_answers = now, 0
