"""How many requests may run at once, and how fast they may start.

The gate is taken before aiohttp is asked for a connection, so that no timeout runs while waiting.
"""

import asyncio
import math
from collections import deque
from typing import Protocol

from attrs import frozen

from vpsbackups_async._checks import check_int, check_number

__all__ = ["AdaptiveLimiter", "Limiter", "Observation"]


@frozen
class Observation:
    """How a request that was let through ended, told to the `Limiter` that let it through.

    `kind` is what it was for (`list`, `create`, `delete`, `restore`), `cost` what was acquired for
    it, `status` the HTTP status (None if no answer came), `retry_after` the seconds that the answer
    asked to wait (None if it did not), `elapsed` the seconds from `acquire` to the end.
    """

    kind: str
    cost: int = 1
    status: int | None = None
    retry_after: float | None = None
    elapsed: float = 0.0


class Limiter(Protocol):
    """Lets requests through, one `acquire` each, and hears how each one ended.

    Several clients of one event loop may share a limiter: together they stay within it.
    """

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start; must be safe to cancel while it waits."""
        ...

    def observe(self, outcome: Observation) -> None:
        """Hear of the end of a request; called exactly once for each `acquire` that returned."""
        ...


class AdaptiveLimiter:
    """At most `maximum` requests at once, and at most `rate` new ones a second (None: any number).

    First come, first served.
    """

    def __init__(self, maximum: int = 64, rate: float | None = None) -> None:
        check_int("maximum", maximum)
        if rate is not None:
            check_number("rate", rate, above=0, unit="number of requests a second")
        self._maximum = maximum
        self._rate = rate
        self._gap = 0.0 if rate is None else 1 / rate
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._next_start = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"AdaptiveLimiter(maximum={self._maximum}, rate={self._rate})"

    @property
    def maximum(self) -> int:
        """The most requests that may run at once."""
        return self._maximum

    @property
    def running(self) -> int:
        """The requests that are let through and have not ended."""
        return self._running

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:  # noqa: ARG002  # the protocol's
        """Return once the request may start."""
        if not self._gap and self._running < self._maximum:  # then nobody is in line
            self._running += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._let_through()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._running -= 1  # it came in the same moment, and goes to the next in line
            self._let_through()
            raise

    def observe(self, outcome: Observation) -> None:  # noqa: ARG002  # the protocol's
        """Give the slot to the next in line."""
        self._running -= 1
        self._let_through()

    def _let_through(self) -> None:
        """Start whoever is first in line, as long as there are slots and it is time for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._running < self._maximum:
            turn = self._queue[0]
            if not turn.done():  # else it was cancelled while it waited
                loop = turn.get_loop()
                now = loop.time()
                if now < self._next_start:
                    self._timer = loop.call_at(self._next_start, self._let_through)
                    return
                self._next_start = max(now, self._next_start) + self._gap
                self._running += 1
                turn.set_result(None)
            self._queue.popleft()
