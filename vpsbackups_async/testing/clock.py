"""The server's clock, date formats, and a token bucket for the rate limit."""

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
    """A time in the API's format, such as ``2025-01-16T15:45:00Z``, truncated to whole seconds."""
    return _iso(int(seconds))


def http_date(moment: datetime) -> str:
    """A time in the format of HTTP headers, truncated to whole seconds."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def parse_iso(text: object) -> float | None:
    """Seconds since 1970, or None if ``text`` is not ISO 8601; a time without offset is UTC."""
    return _parse_iso(text) if isinstance(text, str) else None


# Cached because thousands of backups share a second, and formatting a time costs more than
# everything else about creating a backup.
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
    """The server's clock: calling it returns seconds since 1970.

    It starts at `START` and follows the event loop's time while the server runs, so virtual time
    moves it too. With a ``source``, a function that returns seconds since 1970, it follows that
    function instead.
    """

    source: Callable[[], float] | None = None
    _base: float = START.timestamp()
    _loop: asyncio.AbstractEventLoop | None = None
    _origin: float = 0.0

    def start(self) -> None:
        """Follow the running event loop from now on."""
        self._loop = asyncio.get_running_loop()
        self._origin = self._loop.time()

    def stop(self) -> None:
        """Stop the clock, unless it follows a ``source``."""
        if self._loop is not None and self.source is None:
            self._base += self._loop.time() - self._origin
        self._loop = None

    def advance(self, seconds: float) -> None:
        """Move the clock forward by ``seconds``."""
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
    """A token bucket that allows a burst of one second's requests, at least one."""

    _tokens: float | None = None
    _at: float = 0.0

    def take(self, rate: float, now: float) -> bool:
        """Take a token at ``now`` (s); return False if that exceeds ``rate`` (requests/s)."""
        burst = max(1.0, float(int(rate)))
        tokens = burst if self._tokens is None else self._tokens + (now - self._at) * rate
        tokens, self._at = min(burst, tokens), now
        # The slack absorbs rounding errors for requests that arrive exactly at the rate.
        allowed = tokens >= 1.0 - 1e-6
        self._tokens = tokens - 1.0 if allowed else tokens
        return allowed
