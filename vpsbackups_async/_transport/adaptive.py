"""The default limiter: how many requests run at once, how fast they start, when they pause.

A request passes the limiter before it asks aiohttp for a connection, so no timeout runs meanwhile.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import msgspec

from vpsbackups_async._checks import check_int, check_number
from vpsbackups_async._transport.growth import Growth
from vpsbackups_async._transport.limiter import Limiter, Observation
from vpsbackups_async._transport.line import LONGEST_PAUSE, Line
from vpsbackups_async._transport.refusals import Kinds, Unavailable

__all__ = ["AdaptiveLimiter", "Shortcuts", "shortcuts"]

_FIRST_PAUSE: Final = 0.5
_LONGEST_OWN_PAUSE: Final = 30.0
_CLOCK_SLACK: Final = 1e-6


class AdaptiveLimiter(Line):
    """Adapts to what the server bears: at most `maximum` requests at once, first come first served.

    A 429 closes the limiter for all requests until the server's `Retry-After` is over, for an hour
    at most. The waiting requests then start one by one, spread over a short time after that. A 429
    without `Retry-After` closes it for 0.5 s, and for twice as long with each further one in a row,
    up to 30 s. When it opens again, half as many requests may run at once. After as many successes
    as the limit is now, the limit grows by one, up to `maximum`. Above the level last refused,
    growth slows with each repeated refusal.

    A kind of request that is refused again while other kinds succeed is held back alone from then
    on. A run of six 503s closes the limiter as a 429 does, for 30 s at most, unless the server
    takes nothing at all; once such pauses helped, fewer do.

    It serves one event loop at a time; in a new loop it starts afresh. `rate` spaces the starts
    evenly: requests a second, None for no spacing. `LimiterState` has the rest. Raises `ValueError`
    for a `maximum` or `rate` out of range; `acquire` raises `WrongEventLoopError` while the loop
    that it was used in last is running in another thread.
    """

    def __init__(self, maximum: int = 64, rate: float | None = None) -> None:
        check_int("maximum", maximum)
        if rate is not None:
            check_number("rate", rate, above=0, unit="number of requests a second")
        super().__init__(maximum, rate)
        self._maximum = maximum
        self._growth = Growth(maximum)
        self._watching = False  # whether a success would be news
        self._bursts = 0
        self._last_cut = -math.inf
        self._unavailable = Unavailable()
        self._kinds = Kinds()
        self._apart: dict[str, AdaptiveLimiter] = {}
        self._born = -math.inf

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
        apart = sum(gate.waiting for gate in self._apart.values())
        return len(self._queue) - self._left + apart

    def closed_for(self, kind: str | None = None) -> float:
        """The seconds until it opens for this kind after a 429 or a run of 503s; 0 if it is open.

        None asks about kinds that are not held back alone.
        """
        gate = None if kind is None else self._apart.get(kind)
        apart = 0.0 if gate is None else gate.closed_for()
        return apart if self._opens == -math.inf else max(apart, self._opens - self._now(), 0.0)

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start."""
        if self._try_acquire(asyncio.get_running_loop()):
            return
        while True:
            gate = self._apart.get(kind)
            if gate is not None:
                await gate.acquire(cost, kind)
            try:
                await self._wait_in_line(kind)
            except BaseException:
                if gate is not None:
                    gate.observe(Observation(kind, cost))
                raise
            apart = self._apart.get(kind)
            if apart is None or apart is gate:
                return
            self._end()  # its kind is held back now: it waits with the others of its kind

    def observe(self, outcome: Observation) -> None:
        """Give the slot to the next in line, and adapt to how the request ended."""
        status = outcome.status
        if status in {429, 503}:
            self._hear_refusal(outcome)
        elif self._watching and status is not None and status < 500:
            self._hear_answer(outcome)
        if self._apart:
            self._observe_apart(outcome)
        self._end()

    def _try_end(self, status: int | None) -> bool:
        """End a request whose answer tells nothing new; False if `observe` has to hear of it."""
        if status is None or status in {429, 503} or self._watching:
            return False
        self._end()
        return True

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        is_new = self._loop is not None
        super()._enter(loop)
        if is_new:
            self._last_cut = self._born = -math.inf
            self._unavailable = Unavailable()
            self._kinds = Kinds()
            self._apart.clear()
            self._slow = False
            self._set_limit()

    def _is_refused(self, kind: str) -> bool:
        return self._kinds.is_refused(kind)

    # --- Adapting to the server ----------------------------------------------------------------

    def _hear_refusal(self, outcome: Observation) -> None:
        """Adapt to a 429 or 503."""
        if self._loop is None:
            self._enter(asyncio.get_running_loop())
        now, kind = self._now(), outcome.kind
        began = now - outcome.elapsed - _CLOCK_SLACK
        self._watching = True
        if outcome.status == 503:
            if self._unavailable.refuse(kind, began, now):
                self._refused(outcome, now, _LONGEST_OWN_PAUSE)
        elif kind not in self._apart:
            if self._kinds.refuse(kind, began, now):
                self._put_apart(kind, outcome)
            else:
                self._refused(outcome, now, LONGEST_PAUSE)

    def _refused(self, outcome: Observation, now: float, longest: float) -> None:
        """Close it for as long as the server asks, at most for `longest` seconds."""
        # A request sent before the last cut says nothing about the limit after it.
        if now - outcome.elapsed > self._last_cut + _CLOCK_SLACK:
            self._last_cut = now
            self._bursts += 1
            self._growth.cut()
            self._set_limit()
        own = min(_FIRST_PAUSE * 2.0 ** min(self._bursts - 1, 10), _LONGEST_OWN_PAUSE)
        asked = own if outcome.retry_after is None else outcome.retry_after
        pause = min(asked, longest)
        if pause > 0:
            self._close(outcome.kind, pause)

    def _hear_answer(self, outcome: Observation) -> None:
        """Adapt to an answer that shows that the server takes requests."""
        began = self._now() - outcome.elapsed
        self._unavailable.succeed(outcome.kind, began)
        for kind in self._kinds.succeed(outcome.kind, began):
            if kind not in self._apart:
                self._put_apart(kind)
        if began > self._last_cut:
            self._bursts = 0
        self._growth.succeed(at_limit=self._running >= self._limit)
        self._set_limit()
        self._watching = (
            not self._growth.is_full
            or self._bursts > 0
            or self._unavailable.listens
            or self._kinds.any_refused
            or bool(self._apart)
        )

    def _set_limit(self) -> None:
        self._limit = self._growth.limit

    # --- Kinds that are held back alone ----------------------------------------------------------

    def _put_apart(self, kind: str, outcome: Observation | None = None) -> None:
        """Let requests of this kind pass a limiter of their own before this one.

        `outcome` is the refusal that shows it; without one, the last refusal closed this limiter.
        """
        now = self._now()
        gate = self._apart[kind] = AdaptiveLimiter(self._maximum)
        gate._loop, gate._born = self._loop, now
        if outcome is not None:
            gate._hear_refusal(outcome)
        elif self._closed_by == kind and self._opens > now:
            gate._close(kind, self._opens - now)
            self._opens = self._all_open = -math.inf
        gate._growth = Growth(self._maximum, 1)
        gate._set_limit()
        self._slow, self._quick = True, False

    def _observe_apart(self, outcome: Observation) -> None:
        """Tell the limiter of the kind, which ends with a success that nobody waits behind."""
        kind, status = outcome.kind, outcome.status
        gate = self._apart.get(kind)
        if gate is None or self._now() - outcome.elapsed < gate._born - _CLOCK_SLACK:  # noqa: SLF001  # of this class
            return  # it was sent before its kind was put apart
        gate.observe(outcome)
        if status is not None and status < 500 and status != 429 and not gate.waiting:
            del self._apart[kind]
            self._slow = bool(self._apart)
            self._quick = self._timeless and not self._slow


class Shortcuts(msgspec.Struct, frozen=True):
    """What a limiter does without a coroutine and an observation, for most requests.

    `try_acquire` starts a request in an event loop if one may start at once; False means that it
    has to pass `acquire`. `try_end` ends one with this status if its answer tells nothing new;
    False means that `observe` has to hear of it.
    """

    try_acquire: Callable[[asyncio.AbstractEventLoop], bool]
    try_end: Callable[[int | None], bool]


def _never(_: object) -> bool:
    return False


def shortcuts(limiter: Limiter) -> Shortcuts:
    """The shortcuts of a limiter.

    There are none for any class but `AdaptiveLimiter` itself: a subclass or wrapper must see every
    request in its `acquire` and `observe`.
    """
    if type(limiter) is AdaptiveLimiter:
        return Shortcuts(limiter._try_acquire, limiter._try_end)  # noqa: SLF001  # of the class above
    return Shortcuts(_never, _never)
