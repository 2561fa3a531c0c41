"""When the time of each wait is up: one timer for all waits of a client."""

import asyncio
import math
import operator
from collections.abc import Callable
from typing import Final

from vpsbackups_async._waiting.calendar import Calendar
from vpsbackups_async._waiting.waiter import Look, Waiter

__all__ = ["TICK", "Limits"]

TICK: Final = 0.001
"""Seconds by which a timer of the event loop may be early; shorter times are not slept."""
_MOMENT: Final = 0.25
"""Seconds in which a look gets a request on its way, or shows what an answer says."""


class Limits:
    """Ends waits whose time is up, or gives them the time of the request that is under way.

    `patience` is the time in seconds that one request may take: a wait whose time is up while a
    request is under way ends that much later at most. `closed_for` gives the seconds for which no
    request is sent at all.
    """

    def __init__(self, patience: float, closed_for: Callable[[], float]) -> None:
        self._patience = patience
        self._closed_for = closed_for
        self._limits = Calendar(operator.attrgetter("limit"))
        self._over: dict[Waiter, None] = {}  # whose time is up but for a request
        self._answered: set[Waiter] = set()  # those of them whose request was answered
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def add(self, waiter: Waiter) -> None:
        """End the wait at its limit, if it has one."""
        if waiter.limit < math.inf:
            self._limits.add(waiter)
            self._ring_by(waiter.limit)

    def discard(self, waiter: Waiter) -> None:
        """Forget a wait that has ended."""
        self._limits.discard(waiter)
        self._over.pop(waiter, None)
        self._answered.discard(waiter)

    def stop(self) -> None:
        """Stop the timer; the next `add` starts it again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._rings_at = None, math.inf

    def answer(self, look: Look) -> None:
        """Let waits whose time is up end with the request that was just answered."""
        now = asyncio.get_running_loop().time()
        for waiter in [waiter for waiter in self._over if waiter.look is look]:
            if waiter not in self._answered:
                self._answered.add(waiter)
                self._limits.discard(waiter)
                waiter.limit = now + _MOMENT
                self.add(waiter)

    def _ring_by(self, when: float) -> None:
        if when < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = when
            self._timer = asyncio.get_running_loop().call_at(when, self._ring)

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time() + TICK
        self._timer, self._rings_at = None, math.inf
        for waiter in self._limits.take(now):
            limit = self._extended(waiter)
            if limit <= waiter.limit:
                waiter.expire()
            else:
                waiter.limit = limit
                self._limits.add(waiter)
                self._over[waiter] = None
        self._ring_by(min((one.limit for one in self._limits.upcoming()), default=math.inf))

    def _extended(self, waiter: Waiter) -> float:
        """The time at which a wait must end whose limit has come.

        A look that begins at the deadline has a moment to send its request. A look whose last
        attempt failed gets no more time, nor one that would have to wait in line.
        """
        look = waiter.look
        if look is not None and look.error is not None:
            return waiter.limit
        if look is not None and look.send.on_the_wire:
            began = look.send.began[-1]
            is_last = began <= waiter.deadline + _MOMENT and waiter not in self._answered
            return waiter.deadline + self._patience if is_last else waiter.limit
        return waiter.limit if self._closed_for() > 0 else waiter.deadline + _MOMENT
