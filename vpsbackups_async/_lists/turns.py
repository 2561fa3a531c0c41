"""In which order servers' lists are asked for where not all can be at once."""

import math
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from vpsbackups_async.errors import RateLimitedError, VPSBackupsError

__all__ = ["Turn", "Turns"]

_SLOW: Final = 3.0
"""Seconds of its last request with which a list that failed is slow."""
_FEW: Final = 2
"""Failures in a row beyond which more of them make no difference."""
_REMEMBERED: Final = 3600.0
"""Seconds after which it does not matter any more when a list was asked for: the longest pause."""
_TIDY: Final = 1_000
"""Lists asked for beyond which those are dropped that no longer matter."""


class Turn(NamedTuple):
    """Whose turn it is: the least comes first.

    Lists that answered with a 429 when they were last asked for come last, for one more closes the
    gate for all. Before them come those that failed, at last the ones whose failure took long: they
    would keep the few places from lists that answer. `asked` is when the list was last asked for.
    """

    limited: bool
    slow: bool
    failures: int
    asked: float


class _Last(msgspec.Struct, frozen=True):
    asked: float
    seconds: float
    limited: bool


_NEVER: Final = _Last(-math.inf, 0.0, False)


class Turns:
    """When each server's list was last asked for, and how that ended; loop time in seconds."""

    def __init__(self) -> None:
        self._last: dict[int, _Last] = {}
        self._tidy_at = _TIDY

    def asked(self, server_id: int, now: float) -> None:
        """Note that a list is asked for now."""
        self._last[server_id] = replace(self._last.get(server_id, _NEVER), asked=now)
        if len(self._last) > self._tidy_at:
            since = now - _REMEMBERED
            self._last = {one: last for one, last in self._last.items() if last.asked > since}
            self._tidy_at = max(_TIDY, 2 * len(self._last))

    def ended(self, server_id: int, error: VPSBackupsError | None, seconds: float) -> None:
        """Note how the last request for a list ended, and how long it took."""
        limited = isinstance(error, RateLimitedError)
        last = self._last.get(server_id, _NEVER)
        self._last[server_id] = _Last(last.asked, seconds, limited)

    def of(self, server_id: int, failures: int) -> Turn:
        """The turn of a list with so many failures in a row."""
        last = self._last.get(server_id, _NEVER)
        slow = failures > 0 and last.seconds >= _SLOW
        return Turn(last.limited, slow, min(failures, _FEW), last.asked)
