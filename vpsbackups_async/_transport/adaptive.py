"""How many requests may run at once, how fast they may start, and that none does during a 429.

The gate is taken before aiohttp is asked for a connection, so that no timeout runs while waiting.
"""

import asyncio
import math
import random
import time
from collections import deque
from typing import Final

from vpsbackups_async._checks import check_int, check_number
from vpsbackups_async._transport.limiter import Observation

__all__ = ["AdaptiveLimiter"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_OWN_PAUSE: Final = 30.0
_LONGEST_PAUSE: Final = 3600.0
_MAX_SPREAD: Final = 5.0
_PATIENCE: Final = 8
_MAX_DOUBLINGS: Final = 3


class AdaptiveLimiter:
    """Lets as much through as the server bears: at most `maximum` requests at once.

    A 429 closes it for everybody until the server's `Retry-After` is over; those who wait then
    come through one by one in the moments after it, never earlier. A 429 that asks for nothing
    closes it for half a second, and twice as long each time that it goes on (30 s at most). More
    than an hour is never waited for. When it opens again, half as many may run at once; each
    further time that so many succeeded, one more may, up to `maximum`. Beyond what was refused the
    last time it goes more slowly the more often it was refused there.

    `rate` spaces the starts evenly, so many a second (None: no spacing). First come, first served.
    """

    def __init__(self, maximum: int = 64, rate: float | None = None) -> None:
        check_int("maximum", maximum)
        if rate is not None:
            check_number("rate", rate, above=0, unit="number of requests a second")
        self._maximum = self._limit = maximum
        self._rate = rate
        self._gap = 0.0 if rate is None else 1 / rate
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._left = 0  # of the queue, how many were cancelled
        self._timer: asyncio.TimerHandle | None = None
        # Whether a start depends on slots alone, and not on the time.
        self._timeless = rate is None
        self._next_start = self._drawn_start = -math.inf
        self._opens = self._all_open = -math.inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._recovering = False
        self._successes = 0
        self._window = maximum
        self._refused_at = math.inf
        self._doublings = 0
        self._bursts = 0
        self._last_cut = -math.inf

    def __repr__(self) -> str:
        return f"AdaptiveLimiter(maximum={self._maximum}, rate={self._rate})"

    @property
    def maximum(self) -> int:
        """The most requests that may ever run at once."""
        return self._maximum

    @property
    def limit(self) -> int:
        """The most requests that may run at once now."""
        return self._limit

    @property
    def running(self) -> int:
        """The requests that are let through and have not ended."""
        return self._running

    @property
    def waiting(self) -> int:
        """The requests in line."""
        return len(self._queue) - self._left

    @property
    def closed_for(self) -> float:
        """The seconds until it opens again after a 429; 0 if it is open."""
        return 0.0 if self._opens == -math.inf else max(0.0, self._opens - self._now())

    def try_acquire(self, cost: int = 1, kind: str = "list") -> bool:  # noqa: ARG002  # the protocol's
        """Whether the request may start at once; then it counts as running."""
        if self._timeless and self._running < self._limit:  # then nobody is in line
            self._running += 1
            return True
        return False

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start."""
        if self.try_acquire(cost, kind):
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._let_through()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave()
            else:
                self._running -= 1  # it came in the same moment, and goes to the next in line
            self._let_through()
            raise

    def observe(self, outcome: Observation) -> None:
        """Give the slot to the next in line, and learn from how it went."""
        if outcome.status == 429:
            self._refused(outcome)
        elif self._recovering and outcome.status is not None and outcome.status < 500:
            self._succeeded(outcome)
        self._running -= 1
        if self._queue:
            self._let_through()

    # --- The line ------------------------------------------------------------------------------

    def _leave(self) -> None:
        """One in line was cancelled; the line is tidied when most of it is such."""
        self._left += 1
        if self._left * 2 > len(self._queue):
            here = deque(turn for turn in self._queue if not turn.done())
            self._left -= len(self._queue) - len(here)
            self._queue = here

    def _let_through(self) -> None:
        """Start whoever is first in line, as long as there are slots and it is time for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._running < self._limit:
            turn = self._queue[0]
            if turn.done():  # it was cancelled while it waited
                self._left -= 1
            else:
                loop = turn.get_loop()
                if not self._timeless and self._too_early(loop):
                    return
                self._running += 1
                turn.set_result(None)
            self._queue.popleft()

    def _too_early(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the first in line has to wait; then it is called again when it is time."""
        now = loop.time()
        start = self._first_start(now)
        if now < start:
            self._timer = loop.call_at(start, self._let_through)
            return True
        self._next_start = max(now, self._next_start) + self._gap
        self._drawn_start = -math.inf
        if len(self._queue) == 1:
            self._all_open = -math.inf  # nobody is left to be kept apart from the others
        return False

    def _first_start(self, now: float) -> float:
        """When the first in line may start, as far as that is known."""
        if now < self._opens:
            return self._opens
        if now < self._all_open:
            if self._drawn_start == -math.inf:
                # By chance, and so that all in line find their place in what is left.
                share = 1.6 * random.random() / (len(self._queue) + 1)
                self._drawn_start = now + share * (self._all_open - now)
            return max(self._drawn_start, self._next_start)
        self._opens = -math.inf
        self._timeless = self._rate is None
        return self._next_start

    def _now(self) -> float:
        return time.monotonic() if self._loop is None else self._loop.time()

    # --- What the server bears -----------------------------------------------------------------

    def _refused(self, outcome: Observation) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._now()
        # What was sent before the last cut says nothing about the limit since then.
        if now - outcome.elapsed > self._last_cut + 1e-6:
            self._last_cut = now
            self._bursts += 1
            self._cut()
        own = min(_FIRST_PAUSE * 2.0 ** min(self._bursts - 1, 10), _LONGEST_OWN_PAUSE)
        asked = own if outcome.retry_after is None else outcome.retry_after
        pause = min(asked, _LONGEST_PAUSE)
        if pause > 0:
            self._timeless = False
            self._opens = max(self._opens, now + pause)
            self._all_open = max(self._all_open, now + pause + min(0.2 * pause, _MAX_SPREAD))
            self._drawn_start = -math.inf

    def _cut(self) -> None:
        again = self._limit >= self._refused_at
        self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS) if again else 0
        self._refused_at = max(2, self._limit)
        self._recovering = True
        self._move_to(max(1, self._limit // 2))

    def _succeeded(self, outcome: Observation) -> None:
        if self._now() - outcome.elapsed > self._last_cut:
            self._bursts = 0
        # Where fewer run than may, their success says nothing about more.
        if self._running >= self._limit:
            self._successes += 1
        if self._successes >= self._window and self._limit < self._maximum:
            if self._limit >= self._refused_at:
                self._refused_at, self._doublings = math.inf, 0
            self._move_to(self._limit + 1)
        self._recovering = self._limit < self._maximum or self._bursts > 0

    def _move_to(self, limit: int) -> None:
        self._limit = limit
        self._successes = 0
        nearing = limit + 1 == self._refused_at
        self._window = limit * (_PATIENCE << self._doublings if nearing else 1)
