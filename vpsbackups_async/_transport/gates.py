"""Tells when a limiter closes after an answer to its client, and when it opens again."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Final

from vpsbackups_async import _events

__all__ = ["GateWatch"]

_NEWS: Final = 1.0
"""Seconds by which a closed gate is to open later for that to be told."""
_TICK: Final = 0.001
"""Seconds after which a limiter that is still closed is asked again at the earliest."""


class _Gate:
    """A closed gate: since when, until when, and until when as it was told last."""

    def __init__(self, since: float, until: float) -> None:
        self.since = since
        self.until = self.told = until


class GateWatch:
    """Tells `emit` of the gates of a limiter, by its `closed_for`.

    `None` stands for the gate of all kinds of requests. A kind has a gate of its own while it is
    closed for longer than all are.
    """

    def __init__(self, closed_for: Callable[[str | None], float], emit: "_events.OnEvent") -> None:
        self._closed_for = closed_for
        self._emit = emit
        self._kinds: set[str] = set()  # those that were refused
        self._closed: dict[str | None, _Gate] = {}
        self._timer: asyncio.TimerHandle | None = None

    def hear(self, kind: str, status: int | None) -> None:
        """Tell what an answer changed, after the limiter heard of it."""
        if status in {429, 503}:
            self._kinds.add(kind)
            self._look(status)
        elif self._closed:
            self._look(None)

    def stop(self) -> None:
        """Tell of no opening any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, status: int | None) -> None:
        """Tell what has changed; `status` is that of a refusal."""
        loop = asyncio.get_running_loop()
        now, of_all = loop.time(), self._closed_for(None)
        self._note(None, of_all, now, status)
        for kind in self._kinds:
            left = self._closed_for(kind)
            self._note(kind, left if left > of_all else 0.0, now, status)
        self.stop()
        if self._closed:
            opens = min(gate.until for gate in self._closed.values())
            self._timer = loop.call_at(max(opens, now + _TICK), _ring, weakref.ref(self))

    def _note(self, kind: str | None, left: float, now: float, status: int | None) -> None:
        gate, until = self._closed.get(kind), now + left
        if left <= 0:
            if gate is not None:
                del self._closed[kind]
                self._emit(_events.GateOpened(kind, now - gate.since))
        elif gate is None:
            self._closed[kind] = _Gate(now, until)
            # An answer that is no refusal may show which kind an earlier 429 was for.
            self._emit(_events.GateClosed(kind, left, status or 429))
        else:
            gate.until = until
            if status is not None and until > gate.told + _NEWS:
                gate.told = until
                self._emit(_events.GateClosed(kind, left, status))


def _ring(watch: weakref.ref[GateWatch]) -> None:
    """Look when a gate is to open; a client that is gone tells nothing."""
    one = watch()
    if one is not None:
        one._look(None)  # noqa: SLF001  # of the class above
