"""The line in front of a limiter: slots, their order, and the times at which requests start."""

import asyncio
import math
import random
import time
from collections import deque
from typing import Final

from vpsbackups_async.errors import WrongEventLoopError

__all__ = ["LONGEST_PAUSE", "Line"]

LONGEST_PAUSE: Final = 3600.0
"""The longest pause in seconds that a server's `Retry-After` gets."""
_MAX_SPREAD: Final = 5.0


class Line:
    """Lets `_limit` requests run at once, first come first served, at times that it sets.

    It is closed until `_opens`, and lets those that waited through until `_all_open`. It serves one
    event loop at a time.
    """

    def __init__(self, limit: int, rate: float | None) -> None:
        self._limit = limit
        self._rate = rate
        self._gap = 0.0 if rate is None else 1 / rate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = 0
        self._queue: deque[tuple[asyncio.Future[None], str]] = deque()
        self._left = 0  # cancelled entries of the queue
        self._timer: asyncio.TimerHandle | None = None
        # Whether a start depends on free slots alone: of any kind of request, and of those in line.
        self._quick = self._timeless = rate is None
        self._slow = False  # whether requests of some kind never start at once
        self._next_start = self._drawn_start = -math.inf
        self._opens = self._all_open = -math.inf
        self._closed_by = ""  # the kind of request whose refusal closed it last
        self._reopens = False

    def _is_refused(self, kind: str) -> bool:  # noqa: ARG002  # a subclass knows
        """Whether the last that is known of this kind is a refusal."""
        return False

    def _try_acquire(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Start a request if one may start now; False if it has to wait in `acquire`."""
        if loop is not self._loop:
            self._enter(loop)
        if self._quick and self._running < self._limit:  # then the line is empty
            self._running += 1
            return True
        return False

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Serve this event loop; what ran and waited in another one will not end any more."""
        if self._loop is not None and self._loop.is_running():
            raise WrongEventLoopError("this limiter is in use in the event loop of another thread")
        if self._loop is not None:
            self._running = self._left = 0
            self._queue.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._next_start = self._drawn_start = -math.inf
            # The clocks of event loops are the same, but for virtual ones.
            if self._opens - loop.time() > LONGEST_PAUSE:
                self._opens = self._all_open = -math.inf
        self._loop = loop

    async def _wait_in_line(self, kind: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append((turn, kind))
        self._let_through()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave()
                self._let_through()
            else:
                self._end()  # cancelled just as it was let through: pass the slot on
            raise

    def _end(self) -> None:
        """Give a slot to the next in line."""
        if self._running:  # else it began in an event loop before this one
            self._running -= 1
        if self._queue:
            self._let_through()

    def _leave(self) -> None:
        """Count a cancelled entry of the line; drop them all once they are more than half of it."""
        self._left += 1
        if self._left * 2 > len(self._queue):
            waiting = deque(entry for entry in self._queue if not entry[0].done())
            self._left -= len(self._queue) - len(waiting)
            self._queue = waiting

    def _let_through(self) -> None:
        """Start requests from the head of the line while slots are free and their time has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._reopens and self._now() >= self._opens:
            self._let_another_kind_try()
        while self._queue and self._running < self._limit:
            turn, _ = self._queue[0]
            if turn.done():  # cancelled while it waited
                self._left -= 1
            else:
                loop = turn.get_loop()
                if not self._timeless and self._too_early(loop):
                    return
                self._running += 1
                turn.set_result(None)
            self._queue.popleft()

    def _let_another_kind_try(self) -> None:
        """Move to the head of the line a request of a kind that was not refused, if there is one.

        Else a kind that alone is refused would close it again before the others have a turn.
        """
        self._reopens = False
        for place, (turn, kind) in enumerate(self._queue):
            if not turn.done() and not self._is_refused(kind):
                entry = self._queue[place]
                del self._queue[place]
                self._queue.appendleft(entry)
                return

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
        self._quick = self._timeless and not self._slow
        return self._next_start

    def _now(self) -> float:
        return time.monotonic() if self._loop is None else self._loop.time()

    def _close(self, kind: str, pause: float) -> None:
        """Let nothing through for so many seconds, because of a request of this kind."""
        opens = self._now() + pause
        self._quick = self._timeless = False
        self._reopens, self._closed_by = True, kind
        self._opens = max(self._opens, opens)
        self._all_open = max(self._all_open, opens + min(0.2 * pause, _MAX_SPREAD))
        self._drawn_start = -math.inf
