"""The one WARNING a minute while looks fail."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Final

from vpsbackups_async._waiting.waiter import Waiter
from vpsbackups_async.errors import VPSBackupsError

__all__ = ["Warnings"]

logger = logging.getLogger("vpsbackups_async")

_SECONDS: Final = 60.0


class Warnings:
    """Says for how many of these waits looks fail, and why, once a minute for as long as they do.

    Also while nothing happens: a look may stand in line for minutes.
    """

    def __init__(self, waits: Callable[[], Iterable[Waiter]]) -> None:
        self._waits = waits
        self._warned_at = -math.inf
        self._error: VPSBackupsError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def attempt_failed(self, error: VPSBackupsError) -> None:
        """Note why an attempt failed; a warning follows if its look still fails in a minute."""
        self._error = error
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._again)

    def look_failed(self, error: VPSBackupsError) -> None:
        """Warn, unless that was done within the last minute."""
        self.attempt_failed(error)
        if asyncio.get_running_loop().time() >= self._warned_at + _SECONDS:
            self._warn()

    def stop(self) -> None:
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _again(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        left = self._warned_at + _SECONDS - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._again)
        else:
            self._warn()

    def _warn(self) -> None:
        waits = list(self._waits())
        failing = sum(waiter.error is not None for waiter in waits)
        self.stop()
        if failing:
            loop = asyncio.get_running_loop()
            self._warned_at = loop.time()
            self._timer = loop.call_later(_SECONDS, self._again)
            words = "looks fail for %d of %d waits, which go on: %s"
            logger.warning(words, failing, len(waits), self._error)
