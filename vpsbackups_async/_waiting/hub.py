"""One hub per client looks at the list for all waiters."""

import asyncio
import copy
import itertools
import logging
import math
import operator
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from vpsbackups_async._lists.finder import Report, Wanted
from vpsbackups_async._waiting.calendar import TOGETHER, Calendar
from vpsbackups_async._waiting.waiter import Waiter
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    VPSBackupsError,
    WrongEventLoopError,
)
from vpsbackups_async.models import Backup, Page

logger = logging.getLogger("vpsbackups_async")
_TICK: Final = 0.001
"""Seconds below which nothing is slept: a timer may ring that much before its time."""
_REQUESTS_A_SECOND: Final = 2.0
"""A look that took many requests is followed by a rest, as if so many a second were allowed."""
_FATAL: Final = (
    AuthenticationError,
    PermissionDeniedError,
    ConfigurationError,
    WrongEventLoopError,
)


class Scouting(Protocol):
    """What the hub needs of a `Scout`."""

    async def look(self, wanted: Iterable[Wanted], see: Callable[[Page], Iterable[int]]) -> Report:
        """Look for all of them."""
        ...


class WaitHub:
    """Looks at the list on behalf of all waiters of one client.

    `patience` is how long, in seconds, one request may take: a wait whose time is up while a look
    is under way ends no later than that.
    """

    def __init__(self, scout: Scouting, *, patience: float) -> None:
        self._scout = scout
        self._patience = patience
        self._waiters: dict[int, dict[Waiter, None]] = {}
        self._due = Calendar(operator.attrgetter("due"))
        self._limits = Calendar(operator.attrgetter("limit"))
        self._guard: asyncio.TimerHandle | None = None
        self._guard_at = math.inf
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._alarm = asyncio.Event()
        self._wake_at = -math.inf
        self._met: dict[Waiter, None] = {}
        self._urgent = False
        self._not_before = -math.inf
        self._rest = -math.inf
        self._closed = False

    async def wait(self, waiter: Waiter) -> Backup:
        """The completed backup; raises the `WaitError` that says why there is none."""
        if self._closed:
            waiter.abandon()
            return await waiter.future
        self._waiters.setdefault(waiter.ref.id, {})[waiter] = None
        try:
            self._plan(waiter, waiter.started)
            if waiter.limit < math.inf:
                self._limits.add(waiter)
                self._guard_from(waiter.limit)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="vpsbackups-wait-hub")
            return await waiter.future
        finally:
            self._leave(waiter)

    async def close(self) -> None:
        """End all waits and the hub's task; a later wait ends in the same way at once."""
        self._closed = True
        for waiter in list(self._all()):
            waiter.abandon()
        self._stop()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _all(self) -> Iterable[Waiter]:
        return itertools.chain.from_iterable(self._waiters.values())

    def _plan(self, waiter: Waiter, now: float) -> None:
        """Note when the waiter is next due; an unusable answer of its strategy ends the wait."""
        self._due.discard(waiter)
        try:
            waiter.plan(now)
        except Exception as error:  # noqa: BLE001  # the strategy is the caller's code
            waiter.fail(error)
            return
        self._due.add(waiter)
        if waiter.due_after(self._rest) < self._wake_at:
            self._alarm.set()

    def _leave(self, waiter: Waiter) -> None:
        self._due.discard(waiter)
        self._limits.discard(waiter)
        if waiter.future.done() and not waiter.future.cancelled():
            waiter.future.exception()  # which nobody may be there to see: no warning for that
        peers = self._waiters[waiter.ref.id]
        del peers[waiter]
        if not peers:
            del self._waiters[waiter.ref.id]
        if not self._waiters:
            self._stop()

    def _stop(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard, self._guard_at = None, math.inf
        if self._task is not None:
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
            self._task = None

    # --- Deadlines -----------------------------------------------------------------------------

    def _guard_from(self, when: float) -> None:
        """Have one timer for all deadlines ring no later than then."""
        if when < self._guard_at:
            if self._guard is not None:
                self._guard.cancel()
            self._guard_at = when
            self._guard = asyncio.get_running_loop().call_at(when, self._time_is_up)

    def _time_is_up(self) -> None:
        """Have a last look now; it gets the time of one request, none if no look may be had."""
        now = asyncio.get_running_loop().time() + _TICK
        self._guard, self._guard_at = None, math.inf
        for waiter in self._limits.take(now):
            if self._not_before > now or waiter.limit > waiter.deadline:
                waiter.expire()
            else:
                waiter.limit += self._patience
                self._limits.add(waiter)
                self._urgent = True
                self._alarm.set()
        self._guard_from(min((one.limit for one in self._limits.upcoming()), default=math.inf))

    # --- The hub's own task --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._sleep()
                loop = asyncio.get_running_loop()
                began = loop.time()
                due = [one for one in self._due.take(began + TOGETHER) if not one.future.done()]
                self._urgent = False
                report = await self._scout.look([waiter.wanted() for waiter in due], self._see)
                self._rest = began + report.requests / _REQUESTS_A_SECOND
                self._settle(due, report, loop.time())
        except BaseException as error:
            # Whatever went wrong here must not leave anybody waiting for nothing.
            if self._task is asyncio.current_task():
                for waiter in list(self._all()):
                    waiter.fail(error) if isinstance(error, Exception) else waiter.future.cancel()
            if not isinstance(error, Exception):
                raise

    async def _sleep(self) -> None:
        """Sleep until somebody is due; lets others run in any case."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        while (when := self._when()) > loop.time() + _TICK:
            self._alarm.clear()
            self._wake_at = when
            timer = None if when == math.inf else loop.call_at(when, self._alarm.set)
            try:
                await self._alarm.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._wake_at = -math.inf

    def _when(self) -> float:
        """When to look next: when the first waiter is due, or somewhat later after a dear look."""
        rest = -math.inf if self._urgent else self._rest
        first = min((one.due_after(rest) for one in self._due.upcoming(rest)), default=math.inf)
        return max(first, self._not_before)

    def _see(self, page: Page) -> list[int]:
        """Tell every waiter what the page shows of its backup, due or not; the ids it shows."""
        shown = [backup for backup in page.items if backup.id in self._waiters]
        for backup in shown:
            for waiter in self._waiters[backup.id]:
                waiter.see(backup)
                self._met[waiter] = None
        return [backup.id for backup in shown]

    def _settle(self, due: list[Waiter], report: Report, now: float) -> None:
        """Draw the conclusions of a look, for those who were due and those whom it met."""
        for error in set(report.errors.values()):
            self._absorb(error, now)
        met, self._met = self._met, {}
        for waiter in due:
            met[waiter] = None
            waiter.error = report.errors.get(waiter.ref.id)
            if waiter.ref.id in report.absent:
                waiter.miss()
        for waiter in met:
            waiter.report()
            if now >= waiter.deadline - _TICK:
                waiter.expire()
            if not waiter.future.done():
                self._plan(waiter, now)

    def _absorb(self, error: VPSBackupsError, now: float) -> None:
        """A failed look says nothing about the backups; only a refused token ends the waits."""
        if isinstance(error, _FATAL):
            for waiter in list(self._all()):
                waiter.fail(copy.copy(error))  # each its own, for each gets its own traceback
            return
        logger.debug("a look at the list failed: %s", error)
        if isinstance(error, ApiError) and error.retry_after is not None:
            self._not_before = max(self._not_before, now + error.retry_after)
