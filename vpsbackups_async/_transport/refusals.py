"""What a limiter remembers of refusals: which ones close it, and for whom. No clock and no I/O.

Times are in seconds of loop time: `began` is when a request was sent, `now` when its end is known.
"""

import math
from typing import Final

__all__ = ["Kinds", "Unavailable", "Unreachable"]

_RUN: Final = 6
_SHORTEST_RUN: Final = 1
_CALM: Final = 50
"""Successes without a pause after which a run has to be one longer again."""
_HELPED: Final = 6
"""Successes after a pause, before a 503, that show that it helped."""
_PAUSES: Final = 3
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Unavailable:
    """Tells a server that is busy from one that is down or fails now and then, all with 503.

    A run of 503s without a success in between means that it is busy: at random, one answer in a
    hundred thousand ends such a run where 15 % fail. Where a pause of the limiter helped, as
    several requests succeeded before the next 503, a shorter run means it again, until many have
    succeeded; but not for a kind of request of which none succeeded since the pause. If several
    pauses bring no success at all, the server is down, and pauses of the limiter are of no use.
    """

    def __init__(self) -> None:
        self._run = self._pauses = 0
        self._enough = _RUN
        self._paused_at = -math.inf
        self._succeeded = 0  # since the last pause
        self._disturbed = False  # whether a 503 came since then
        self._helped = False
        self._taken: set[str] = set()  # the kinds of which one succeeded since the last pause

    def refuse(self, kind: str, began: float, now: float) -> bool:
        """Whether a 503 closes the limiter."""
        is_later = began > self._paused_at
        if is_later and not self._disturbed:
            self._disturbed, self._helped = True, self._succeeded >= _HELPED
        self._run += 1
        enough = self._enough if kind in self._taken else _RUN
        if self._run < enough:
            return False
        if is_later:
            self._pauses += 1
            self._paused_at = now
            self._succeeded, self._disturbed = 0, False
            self._taken.clear()
            shorter, longer = max(_SHORTEST_RUN, self._enough // 2), min(_RUN, self._enough + 1)
            self._enough = shorter if self._helped else longer
        return self._pauses <= _PAUSES

    def succeed(self, kind: str, began: float) -> None:
        """Note a success."""
        self._run = self._pauses = 0
        if began > self._paused_at:
            self._taken.add(kind)
            self._succeeded += 1
            if self._succeeded % _CALM == 0:
                self._enough = min(_RUN, self._enough + 1)

    @property
    def listens(self) -> bool:
        """Whether a success would be news."""
        paused = self._paused_at > -math.inf
        return self._run > 0 or self._enough < _RUN or (paused and self._succeeded < _HELPED)


class Unreachable:
    """Tells when a server to which no connection can be made is tried again, by one request."""

    def __init__(self) -> None:
        self.lasts = False
        self.until = -math.inf
        """When the next request may try."""
        self._failures = 0
        self._last = -math.inf

    def fail(self, began: float, now: float) -> bool:
        """Note that no connection was made; whether that is news, and no end of the same burst."""
        if began <= self._last:
            return False
        pause = min(_FIRST_PAUSE * 2.0 ** min(self._failures, 10), _LONGEST_PAUSE)
        self._failures += 1
        self._last, self.lasts, self.until = now, True, began + pause
        return True

    def reach(self, began: float) -> bool:
        """Note that a connection was made; whether that ends the time without one."""
        if not self.lasts or began <= self._last:
            return False
        self.lasts, self._failures, self.until = False, 0, -math.inf
        return True


class _Refusals:
    """The refusals in a row of one kind of request."""

    def __init__(self, at: float) -> None:
        self.first = self.last = at
        self.times = 1
        self.others_succeeded = False

    @property
    def are_of_this_kind_alone(self) -> bool:
        return self.times > 1 and self.others_succeeded


class Kinds:
    """Tells a kind of request that alone is refused from a server that refuses all."""

    def __init__(self) -> None:
        self._refused: dict[str, _Refusals] = {}

    def refuse(self, kind: str, began: float, now: float) -> bool:
        """Whether this kind was refused before and only other kinds have succeeded since."""
        before = self._refused.setdefault(kind, _Refusals(now))
        if began > before.last:
            before.times += 1
            before.last = now
        return before.are_of_this_kind_alone

    def succeed(self, kind: str, began: float) -> list[str]:
        """Note a success; the kinds of which it shows that they alone are refused."""
        own = self._refused.get(kind)
        if own is not None and began > own.last:
            del self._refused[kind]
        alone = []
        for refused, refusals in self._refused.items():
            if refused != kind and began > refusals.first:
                refusals.others_succeeded = True
                if refusals.are_of_this_kind_alone:
                    alone.append(refused)
        return alone

    def is_refused(self, kind: str) -> bool:
        """Whether the last that is known of this kind is a refusal."""
        return kind in self._refused

    @property
    def any_refused(self) -> bool:
        """Whether a success would be news."""
        return bool(self._refused)
