"""How many requests may run at once, by what the server refused and took; no clock and no I/O."""

import math
from typing import Final

__all__ = ["Growth"]

_PATIENCE: Final = 8
_MAX_DOUBLINGS: Final = 3


class Growth:
    """A limit that is halved by a refusal and grows by one for each window of successes.

    A window is as many successes as the limit is now. Above the level last refused, growth slows
    with each repeated refusal. The limit is at least 1 and at most `maximum`.
    """

    def __init__(self, maximum: int, limit: int | None = None) -> None:
        self._maximum = maximum
        self.limit = self._window = maximum if limit is None else limit
        self._successes = 0
        self._refused_at = math.inf
        self._doublings = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is the maximum."""
        return self.limit == self._maximum

    def cut(self) -> None:
        """Halve the limit."""
        again = self.limit >= self._refused_at
        self._doublings = min(self._doublings + 1, _MAX_DOUBLINGS) if again else 0
        self._refused_at = max(2, self.limit)
        self._move_to(max(1, self.limit // 2))

    def succeed(self, *, at_limit: bool) -> None:
        """Count a success; below the limit, it does not show that the server takes more."""
        self._successes += at_limit
        if self._successes >= self._window and not self.is_full:
            if self.limit >= self._refused_at:
                self._refused_at, self._doublings = math.inf, 0
            self._move_to(self.limit + 1)

    def _move_to(self, limit: int) -> None:
        self.limit = limit
        self._successes = 0
        nearing = limit + 1 == self._refused_at
        self._window = limit * (_PATIENCE << self._doublings if nearing else 1)
