"""The default limiter: how many requests run at once, how fast they start, the pause after a 429.

A request passes the limiter before it asks aiohttp for a connection, so no timeout runs meanwhile.
"""

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from vpsbackups_async._checks import check_int, check_number
from vpsbackups_async._transport.limiter import Limiter, Observation

__all__ = ["LONGEST_PAUSE", "AdaptiveLimiter"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_OWN_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 3600.0
"""The longest pause in seconds that a server's `Retry-After` gets."""
_MAX_SPREAD: Final = 5.0
_PATIENCE: Final = 8
_MAX_DOUBLINGS: Final = 3


class AdaptiveLimiter:
    """Adapts to the server's 429s: at most `maximum` requests at once, first come, first served.

    A 429 closes the limiter for all requests until the server's `Retry-After` is over, for an hour
    at most. The waiting requests then start one by one, spread over a short time after that. A 429
    without `Retry-After` closes it for 0.5 s, and for twice as long with each further one in a row,
    up to 30 s. When it opens again, half as many requests may run at once. After as many successes
    as the limit is now, the limit grows by one, up to `maximum`. Above the level last refused,
    growth slows with each repeated refusal.

    `rate` spaces the starts evenly: requests a second, None for no spacing. `LimiterState` has the
    rest. Raises `ValueError` for a `maximum` or `rate` out of range.
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
        self._left = 0  # cancelled entries of the queue
        self._timer: asyncio.TimerHandle | None = None
        # Whether a start depends on free slots alone, not on the time.
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
        """The requests that were let through and have not ended."""
        return self._running

    @property
    def waiting(self) -> int:
        """The requests that wait in line."""
        return len(self._queue) - self._left

    def closed_for(self, kind: str | None = None) -> float:  # noqa: ARG002  # as `LimiterState` has it
        """The seconds until it opens again after a 429, for all kinds alike; 0 if it is open."""
        return 0.0 if self._opens == -math.inf else max(0.0, self._opens - self._now())

    def _try_acquire(self) -> bool:
        """Start a request if one may start now; False if it has to wait in `acquire`."""
        if self._timeless and self._running < self._limit:  # then the line is empty
            self._running += 1
            return True
        return False

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:  # noqa: ARG002  # as `Limiter` has it
        """Return once the request may start."""
        if self._try_acquire():
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
                self._running -= 1  # cancelled just as it was let through: pass the slot on
            self._let_through()
            raise

    def observe(self, outcome: Observation) -> None:
        """Give the slot to the next in line, and adapt to how the request ended."""
        if outcome.status == 429:
            self._refused(outcome)
        elif self._recovering and outcome.status is not None and outcome.status < 500:
            self._succeeded(outcome)
        self._running -= 1
        if self._queue:
            self._let_through()

    # --- The line ------------------------------------------------------------------------------

    def _leave(self) -> None:
        """Count a cancelled entry of the line; drop them all once they are more than half of it."""
        self._left += 1
        if self._left * 2 > len(self._queue):
            waiting = deque(turn for turn in self._queue if not turn.done())
            self._left -= len(self._queue) - len(waiting)
            self._queue = waiting

    def _let_through(self) -> None:
        """Start requests from the head of the line while slots are free and their time has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._running < self._limit:
            turn = self._queue[0]
            if turn.done():  # cancelled while it waited
                self._left -= 1
            else:
                loop = turn.get_loop()
                if not self._timeless and self._too_early(loop):
                    return
                self._running += 1
                turn.set_result(None)
            self._queue.popleft()

    def _too_early(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the first in line has to wait; if so, sets the timer that starts it."""
        now = loop.time()
        start = self._first_start(now)
        if now < start:
            self._timer = loop.call_at(start, self._let_through)
            return True
        self._next_start = max(now, self._next_start) + self._gap
        self._drawn_start = -math.inf
        if len(self._queue) == 1:
            self._all_open = -math.inf  # the line is empty: nothing left to spread
        return False

    def _first_start(self, now: float) -> float:
        """When the first in line may start, in loop time."""
        if now < self._opens:
            return self._opens
        if now < self._all_open:
            if self._drawn_start == -math.inf:
                # A random share of the remaining time that leaves enough for the rest of the line.
                share = 1.6 * random.random() / (len(self._queue) + 1)
                self._drawn_start = now + share * (self._all_open - now)
            return max(self._drawn_start, self._next_start)
        self._opens = -math.inf
        self._timeless = self._rate is None
        return self._next_start

    def _now(self) -> float:
        return time.monotonic() if self._loop is None else self._loop.time()

    # --- Adapting to the server ----------------------------------------------------------------

    def _refused(self, outcome: Observation) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._now()
        # A request sent before the last cut says nothing about the limit after it.
        if now - outcome.elapsed > self._last_cut + 1e-6:
            self._last_cut = now
            self._bursts += 1
            self._cut()
        own = min(_FIRST_PAUSE * 2.0 ** min(self._bursts - 1, 10), _LONGEST_OWN_PAUSE)
        asked = own if outcome.retry_after is None else outcome.retry_after
        pause = min(asked, LONGEST_PAUSE)
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
        # Below the limit, a success does not show that the server takes more.
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


def quick_acquire(limiter: Limiter) -> Callable[[], bool]:
    """A function that starts a request if one may start at once, without a coroutine for it.

    It never does for any class but `AdaptiveLimiter` itself: a subclass or wrapper must see every
    request in its `acquire`.
    """
    if type(limiter) is AdaptiveLimiter:
        return limiter._try_acquire  # noqa: SLF001  # of the class above
    return bool  # which is False
