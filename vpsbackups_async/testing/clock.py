"""The server's clock, and the rate that is measured by it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime

import attrs

__all__ = ["START", "Bucket", "Clock", "http_date", "iso", "parse_iso"]

START = datetime(2025, 1, 16, 15, 45, tzinfo=UTC)


def iso(seconds: float) -> str:
    """The moment in the API's form, such as ``2025-01-16T15:45:00Z``; fractions are cut off."""
    return _iso(int(seconds))


def http_date(moment: datetime) -> str:
    """The moment as HTTP headers give it, in whole seconds; fractions are cut off."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def parse_iso(text: object) -> float | None:
    """Seconds since 1970, or None if ``text`` is no ISO 8601 moment; a naive one is UTC."""
    return _parse_iso(text) if isinstance(text, str) else None


# Thousands of backups share a second, and formatting it costs more than all the rest of one.
@functools.lru_cache(maxsize=1024)
def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.lru_cache(maxsize=1024)
def _parse_iso(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@attrs.define(eq=False)
class Clock:
    """Seconds since 1970 by the server's clock.

    It starts at `START` and follows the event loop's time while the server runs, so that a loop
    with virtual time moves it. A ``source`` of one's own replaces both.
    """

    source: Callable[[], float] | None = None
    _base: float = START.timestamp()
    _loop: asyncio.AbstractEventLoop | None = None
    _origin: float = 0.0

    def start(self) -> None:
        """Follow the running loop from here on."""
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()

    def stop(self) -> None:
        """Stand still from here on."""
        if self._loop is not None and self.source is None:
            self._base += self._loop.time() - self._origin
        self._loop = None

    def advance(self, seconds: float) -> None:
        """Be that many seconds further."""
        self._base += seconds

    def __call__(self) -> float:
        """Seconds since 1970."""
        if self.source is not None:
            return self.source() + self._base - START.timestamp()
        if self._loop is None:
            return self._base
        return self._base + self._loop.time() - self._origin


@attrs.define(eq=False)
class Bucket:
    """A token bucket: a rate per second, and a burst of one second's worth, at least one."""

    _tokens: float | None = None
    _at: float = 0.0

    def take(self, rate: float, now: float) -> bool:
        """Whether a request at ``now`` (seconds) is within ``rate`` (requests per second)."""
        burst = max(1.0, float(int(rate)))
        held = burst if self._tokens is None else self._tokens + (now - self._at) * rate
        # The slack keeps requests that come exactly at the rate from failing by rounding.
        held, self._at = min(burst, held), now
        allowed = held >= 1.0 - 1e-6
        self._tokens = held - 1.0 if allowed else held
        return allowed
