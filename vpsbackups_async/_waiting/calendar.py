"""Which waiter is due when."""

import heapq
import math
from collections.abc import Callable
from typing import Final

from vpsbackups_async._waiting.waiter import Waiter

TOGETHER: Final = 0.5
"""Waiters that are due within so many seconds look together."""


class Calendar:
    """Whose turn comes when; moving a turn leaves nothing behind, whatever how often it moves."""

    def __init__(self, turn: Callable[[Waiter], float]) -> None:
        self._turn = turn
        self._spans: dict[float, dict[Waiter, None]] = {}
        self._starts: list[float] = []  # a heap of the keys of `_spans`, and of some that were

    def add(self, waiter: Waiter) -> None:
        """Note the waiter's turn, which must not change while it is noted here."""
        start = self._turn(waiter) // TOGETHER
        span = self._spans.get(start)
        if span is None:
            span = self._spans[start] = {}
            heapq.heappush(self._starts, start)
        span[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Forget the waiter's turn, if it is noted."""
        start = self._turn(waiter) // TOGETHER
        span = self._spans.get(start)
        if span is not None and waiter in span:
            del span[waiter]
            if not span:
                del self._spans[start]
                if len(self._starts) > 2 * len(self._spans) + 100:
                    self._starts = sorted(self._spans)

    def upcoming(self, until: float = -math.inf) -> list[Waiter]:
        """Who has the next turn or one before `until`, and a few more around them."""
        while self._starts and self._starts[0] not in self._spans:
            heapq.heappop(self._starts)
        if not self._starts:
            return []
        last = max(self._starts[0], until // TOGETHER)
        starts = sorted(start for start in self._spans if start <= last)
        return [waiter for start in starts for waiter in self._spans[start]]

    def take(self, until: float) -> list[Waiter]:
        """Those whose turn comes up to then; they are noted no longer."""
        taken = [one for one in self.upcoming(until) if self._turn(one) <= until]
        for waiter in taken:
            self.discard(waiter)
        return taken
