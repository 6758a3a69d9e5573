"""How fast a client goes: as many requests at once, and as many a second, as the server takes well.

Requests in flight grow while that brings more answers a second (up to `MOST_AT_ONCE`), unless the user
says how many. Requests a second are free until the server is busy (429); then they follow what it
let in, found anew every half second or so: down to that where it refused some, back up quickly to
where they were and in growing steps beyond. The user's own limits a minute are token buckets. Nothing
here ever stops a run, or sleeps for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

FIRST_AT_ONCE = 3  # at first: a wrong key is refused no more often
AUTO_AT_ONCE = 16
MOST_AT_ONCE = 512
FIRST_GROWTH, GROWTH = 2.0, 1.5  # before and after it did not pay for the first time
PAYS = 0.3  # share of a growth that must come back as answers a second, or it is taken back
HOLD = 20  # windows between two tries to grow, once growing did not pay
LOOK_SECONDS, MOST_LOOK_SECONDS = 0.5, 2.0  # how long to watch what the server lets in, before a new rate
LOOK_SENT = 16  # requests that such a look should have
SWAMPED_SECONDS, SWAMPED = 0.1, 8  # so many refused, and most: look no longer
MARGIN = 0.97  # of what it let in
CUT = 0.85  # no more at once, where it refused less than half
OFTEN = 0.3  # a share of refusals that may come of something else than our rate
CLIMB, STEP, MOST_STEP = 2.0, 0.04, 0.5  # a look without refusals: times two, up to the last good rate; beyond it more
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


class Cut(NamedTuple):
    """The rate before, the share refused at it, and what will still be, if it was for that rate."""

    rate: float
    share: float
    expected: float


class Pace:
    """The pace of one client of one server; `concurrency` None is found by itself.

    `requests_per_minute` and `tokens_per_minute` are the user's limits, 0 for none; `most` is how many
    connections there can be.
    """

    def __init__(
        self,
        concurrency: int | None,
        requests_per_minute: float = 0,
        tokens_per_minute: float = 0,
        most: int = MOST_AT_ONCE,
        clock: Clock = time.monotonic,
    ) -> None:
        self.clock = clock
        now = clock()
        self.auto = concurrency is None
        self.growable = min(MOST_AT_ONCE, most)
        self.most = min(concurrency or AUTO_AT_ONCE, most)
        self.limit = min(FIRST_AT_ONCE, self.most)
        self.in_flight = 0
        self.requests = Bucket(requests_per_minute / 60, max(1, requests_per_minute / 60), now)
        self.tokens = Bucket(tokens_per_minute / 60, max(1, tokens_per_minute / 60), now)
        self.pause_until = now
        self.rate: float | None = None  # requests a second, since the server was busy
        self.good = 0.0  # what it let in when it refused some
        self.step = 0.0  # the next one beyond it
        self.adaptive = Bucket(1, 1, now)
        self.since, self.sent, self.refused = now, 0, 0  # of the present look
        self.lag = 0.0  # seconds that a refusal takes
        self.cut: Cut | None = None  # the last look's, to see whether it helps
        self.usual = 0.0  # share of refusals that no cut lowers
        self.window_at, self.window_answers, self.window_rate, self.window_limit = now, 0, 0.0, 0
        self.hold = 0
        self.growth = FIRST_GROWTH
        self.full = False  # as many at once as the limit lets, in that window

    def delay(self, tokens: int) -> float:
        """Seconds until a request of about `tokens` may leave, slots apart."""
        now = self.clock()
        seconds, enough = now - self.since, not self.refused or self.sent >= LOOK_SENT
        if seconds > max(LOOK_SECONDS, 4 * self.lag) and (enough or seconds > MOST_LOOK_SECONDS):
            self._look(now)
        wait = self.pause_until - now
        if self.requests.rate:
            wait = max(wait, self.requests.delay(1, now))
        if self.tokens.rate:
            wait = max(wait, self.tokens.delay(tokens, now))
        if self.rate is not None:
            wait = max(wait, self.adaptive.delay(1, now))
        return wait

    def enter(self, tokens: int) -> float:
        """A request leaves; returns when."""
        self.in_flight += 1
        self.full = self.full or self.in_flight >= self.limit
        self.sent += 1
        if self.requests.rate:
            self.requests.take(1)
        if self.tokens.rate:
            self.tokens.take(tokens)
        if self.rate is not None:
            self.adaptive.take(1)
        return self.clock()

    def leave(self, tokens: int, used: int) -> None:
        """It has ended, and used so many of its tokens."""
        self.in_flight -= 1
        if self.tokens.rate:
            self.tokens.take(used - tokens)

    def open_up(self) -> None:
        """Nobody was refused so far, though none is answered yet: go on as if one were."""
        if self.window_limit == 0:
            self.limit = self.most

    def answered(self) -> None:
        """A request brought what it asked for."""
        if self.window_limit == 0:  # the first: the server is there, and lets us in
            self.limit = self.window_limit = self.most
            self.window_at, self.window_answers = self.clock(), 0
        self.window_answers += 1
        if self.auto and self.window_answers >= 2 * self.limit:
            self._grow_while_it_pays()

    def busy(self, sent: float) -> None:
        """The server refused a request that left at `sent`, since it has too much to do."""
        now = self.clock()
        if sent < self.since:
            return  # it left at an earlier rate, and says nothing of this one
        self.refused += 1
        self.lag += (now - sent - self.lag) / self.refused
        if self.refused >= SWAMPED and 2 * self.refused > self.sent and now - self.since > SWAMPED_SECONDS:
            self._look(now)

    def too_many(self) -> None:
        """There are no more connections to be had: fewer at once."""
        self.auto, self.limit = False, max(1, self.in_flight // 2)

    def pause(self, seconds: float) -> None:
        """The server said that a limit of its own is spent for so long."""
        self.pause_until = max(self.pause_until, self.clock() + seconds)

    def _look(self, now: float) -> None:
        """A new rate, by what left since the last one, and came back refused."""
        seconds = max(now - self.since, 1e-6)
        sent, let_in = self.sent / seconds, (self.sent - self.refused) / seconds
        share = self.refused / max(1, self.sent)
        rate = sent if self.rate is None else self.rate
        cut, self.cut = self.cut, None
        if cut is not None and cut.expected + cut.share / 2 < share <= OFTEN:  # it is not for our rate
            self.usual = max(share, cut.share)
            self._set_rate(cut.rate, now)
        elif share <= 2 * self.usual:
            self.usual += min(0.0, share - self.usual) / 8
            if self.rate is not None and sent > rate / 2:  # else something else holds it back
                self._set_rate(max(min(rate * CLIMB, self.good), rate * (1 + self.step)), now)
                self.step = min(MOST_STEP, 2 * self.step) if self.rate >= self.good else STEP
        elif let_in > 0:
            # Servers that count in short spans refuse more of a rate just too high than they need.
            least = rate * CUT if share <= 0.5 else 0.0
            believed = 1 - min(1, self.sent / LOOK_SENT) / 2  # not all of it, by one look
            self.good, self.step = max(let_in, least, self.good * believed), STEP
            self._set_rate(max(let_in * MARGIN, least, self.good / 20, FLOOR), now)
            if share <= OFTEN:
                self.cut = Cut(rate, share, max(0.0, 1 - let_in / self.adaptive.rate))
        else:  # a bad time, which says nothing of the good ones
            self._set_rate(max(rate / 2, self.good / 20, FLOOR), now)
        self.since, self.sent, self.refused = now, 0, 0

    def _set_rate(self, rate: float, now: float) -> None:
        self.adaptive.delay(0, now)
        self.rate = self.adaptive.rate = rate
        self.adaptive.burst = max(1.0, rate / 20)

    def _grow_while_it_pays(self) -> None:
        now = self.clock()
        rate = self.window_answers / max(now - self.window_at, 1e-6)
        grew = self.limit / self.window_limit - 1
        if not self.full:
            pass  # something else holds it back
        elif grew > 0 and rate < self.window_rate * (1 + PAYS * grew):
            self.limit, self.hold, self.growth = self.window_limit, HOLD, GROWTH
        elif self.hold > 0:
            self.hold -= 1
        else:
            self.window_limit, self.limit = self.limit, min(self.growable, int(self.limit * self.growth))
        self.window_rate = rate if self.hold == 0 or not self.window_rate else max(rate, 0.9 * self.window_rate)
        self.window_at, self.window_answers, self.full = now, 0, False
