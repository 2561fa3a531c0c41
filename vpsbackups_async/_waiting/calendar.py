"""Which waiter is due when."""

import heapq
import math
from collections.abc import Callable
from typing import Final

from vpsbackups_async._waiting.waiter import Waiter

__all__ = ["TOGETHER", "Calendar"]

TOGETHER: Final = 0.5
"""Waiters that are due within this many seconds look together."""


class Calendar:
    """The waiters by their next time, in spans of `TOGETHER` seconds.

    A waiter whose time changes is taken out and added again; nothing is left behind.
    """

    def __init__(self, time_of: Callable[[Waiter], float]) -> None:
        self._time_of = time_of
        self._spans: dict[float, dict[Waiter, None]] = {}
        self._starts: list[float] = []  # a heap of the keys of `_spans`, stale ones included

    def add(self, waiter: Waiter) -> None:
        """Add a waiter; its time must not change while it is in the calendar."""
        start = self._time_of(waiter) // TOGETHER
        span = self._spans.get(start)
        if span is None:
            span = self._spans[start] = {}
            heapq.heappush(self._starts, start)
        span[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Take a waiter out, if it is in the calendar."""
        start = self._time_of(waiter) // TOGETHER
        span = self._spans.get(start)
        if span is not None and waiter in span:
            del span[waiter]
            if not span:
                del self._spans[start]
                if len(self._starts) > 2 * len(self._spans) + 100:
                    self._starts = sorted(self._spans)

    def upcoming(self, until: float = -math.inf) -> list[Waiter]:
        """The waiters of the first span, and of those up to `until`; some may be later."""
        while self._starts and self._starts[0] not in self._spans:
            heapq.heappop(self._starts)
        if not self._starts:
            return []
        last = max(self._starts[0], until // TOGETHER)
        starts = sorted(start for start in self._spans if start <= last)
        return [waiter for start in starts for waiter in self._spans[start]]

    def take(self, until: float) -> list[Waiter]:
        """Take out the waiters whose time is not after `until`."""
        taken = [waiter for waiter in self.upcoming(until) if self._time_of(waiter) <= until]
        for waiter in taken:
            self.discard(waiter)
        return taken
