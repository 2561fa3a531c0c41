"""How fast the whole list and servers' lists answered lately, and which is read sooner."""

import math
from typing import Final

__all__ = ["Pace"]

_LONG: Final = 5.0
"""Seconds that a sweep may take, even if servers' lists would be read sooner."""
_DEARER: Final = 10.0
"""The most requests to servers for each page of a sweep that they are read instead of."""
_AT_ONCE: Final = 16
"""Servers' lists that are read at once."""
_WEIGHT: Final = 0.3
"""Of the latest answer, in how long answers take."""
_FORGOTTEN: Final = 300.0
"""Seconds after which a sweep is tried again, for the list may be faster by then."""


class Pace:
    """How long answers took lately. Times are in seconds of loop time."""

    def __init__(self) -> None:
        self._page = self._list = math.nan
        self._measured_at = -math.inf

    def page_answered(self, seconds: float, now: float) -> None:
        """Learn how long a page of the whole list took, from its request to its answer."""
        self._page = _mean(math.nan if self._is_old(now) else self._page, seconds)
        self._measured_at = now

    def list_answered(self, seconds: float) -> None:
        """Learn how long a server's list took, from its request to its answer."""
        self._list = _mean(self._list, seconds)

    def is_slower(self, pages: float, servers: float, now: float) -> bool:
        """Whether so many pages would take too long, and the lists of so many servers less."""
        if self._is_old(now) or servers == math.inf or servers > _DEARER * pages:
            return False
        seconds = pages * self._page
        at_servers = self._page if math.isnan(self._list) else self._list
        return seconds > max(_LONG, math.ceil(servers / _AT_ONCE) * at_servers)

    def _is_old(self, now: float) -> bool:
        return now >= self._measured_at + _FORGOTTEN


def _mean(so_far: float, seconds: float) -> float:
    return seconds if math.isnan(so_far) else so_far + _WEIGHT * (seconds - so_far)
