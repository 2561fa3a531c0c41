"""Counts the items of a bulk job that end, and reports progress."""

import asyncio
import logging
from collections.abc import Callable, Sized
from typing import Final

from vpsbackups_async._checks import check_callable
from vpsbackups_async.models import Progress

logger = logging.getLogger("vpsbackups_async")
OnProgress = Callable[[Progress], object]
_REPORT_INTERVAL: Final = 0.25
"""The shortest time between two reports, in seconds; the last report may come sooner."""


class Meter:
    """Counts the items that ended, and calls `on_progress` with a `Progress` at intervals.

    Its owner sets `ok` and `failed`, the numbers of items that succeeded and failed, and `running`,
    which returns the number of items being worked on. The total is taken from `items`, if they have
    a length.

    Raises `ValueError` if `on_progress` is not callable.
    """

    def __init__(self, on_progress: OnProgress | None, items: object) -> None:
        if on_progress is not None:
            check_callable("on_progress", on_progress)
        self.ok = 0
        self.failed = 0
        self.running: Callable[[], int] = int
        self._on_progress = on_progress
        self._total = len(items) if isinstance(items, Sized) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    def begin(self) -> None:
        """Start measuring the time that the job takes."""
        self._loop = asyncio.get_running_loop()
        self._start = self._due = self._loop.time()

    def changed(self) -> None:
        """Report the new counts, now or as soon as the next report is due."""
        if self._on_progress is None or self._timer is not None or self._loop is None:
            return
        if self._loop.time() >= self._due:
            self._report()
        else:
            self._timer = self._loop.call_at(self._due, self._report)

    def end(self) -> None:
        """Make the last report, at once."""
        if self._timer is not None:
            self._timer.cancel()
        self._report()

    def _report(self) -> None:
        self._timer = None
        if self._on_progress is None or self._loop is None:
            return
        now = self._loop.time()
        self._due = now + _REPORT_INTERVAL
        done = self.ok + self.failed
        progress = Progress(
            done, self.ok, self.failed, self.running(), self._total, now - self._start
        )
        try:
            self._on_progress(progress)
        except (Exception, asyncio.CancelledError):  # the caller's code must not stop the job
            if not self._warned:
                self._warned = True
                logger.warning("on_progress failed; the run goes on", exc_info=True)
