"""The calls that wait: in a limiter until it lets them through, or between two attempts."""

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from vpsbackups_async._transport.deadlines import Scope

__all__ = ["Lines", "lines_of"]


class Lines:
    """The scopes of the requests that wait in one limiter, of all clients that share it."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, float], set[Scope]] = {}
        self.closed_by = 429
        """The status of the answer that closed the limiter last."""

    def of(self, kind: str, patience: float) -> set[Scope]:
        """The scopes of requests of a kind; a request adds its own, and removes it again.

        They end as soon as the limiter is closed for longer than `patience` seconds.
        """
        return self._lines.setdefault((kind, patience), set())

    def send_away(self, closed_for: Callable[[str], float]) -> None:
        """End the wait of requests that would not have joined the line as it is now."""
        loop = asyncio.get_running_loop()
        for (kind, patience), line in self._lines.items():
            if line and closed_for(kind) > patience:
                waiting = tuple(line)
                line.clear()
                for scope in waiting:
                    if scope.loop is loop:  # not of a loop that was closed meanwhile
                        scope.expire()


_lines: Final[WeakKeyDictionary[object, Lines]] = WeakKeyDictionary()


def lines_of(limiter: object) -> Lines:
    """The one `Lines` of a limiter; a new one for a limiter that cannot be a weak key."""
    try:
        return _lines.setdefault(limiter, Lines())
    except TypeError:
        return Lines()
