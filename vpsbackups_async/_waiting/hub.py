"""One hub per client looks at the lists for all waiters."""

import asyncio
import copy
import itertools
import logging
import math
import operator
from collections.abc import AsyncGenerator, Callable, Container, Iterable
from contextlib import aclosing
from typing import Final

from attrs import define, field

from vpsbackups_async._lists.finder import Finding
from vpsbackups_async._lists.wanted import Wanted
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
from vpsbackups_async.models import Backup

__all__ = ["WaitHub"]

logger = logging.getLogger("vpsbackups_async")

Find = Callable[[Iterable[Wanted], Container[int]], AsyncGenerator[Finding]]
"""Looks for backups, as `Finder.find` does."""

_TICK: Final = 0.001
"""Seconds by which a timer of the event loop may be early; shorter times are not slept."""
_REQUESTS_PER_SECOND: Final = 2.0
"""The average rate of a hub's requests: a look of many is followed by a longer rest."""
_FATAL: Final = (
    AuthenticationError,
    PermissionDeniedError,
    ConfigurationError,
    WrongEventLoopError,
)


@define(eq=False, repr=False)
class _Look:
    """What one look has told so far."""

    met: dict[Waiter, None] = field(factory=dict)
    absent: set[int] = field(factory=set)
    errors: dict[int, VPSBackupsError] = field(factory=dict)
    requests: int = 0


class WaitHub:
    """Looks for the backups of all waiters of one client.

    `find` carries out a look. `patience` is the time in seconds that one request may take: a wait
    whose time is up while a look is under way ends that much later at most.
    """

    def __init__(self, find: Find, *, patience: float) -> None:
        self._find = find
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
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the caller's code
            waiter.fail(error)
            return
        self._due.add(waiter)
        if waiter.due_after(self._rest) < self._wake_at:
            self._alarm.set()

    def _leave(self, waiter: Waiter) -> None:
        self._due.discard(waiter)
        self._limits.discard(waiter)
        if waiter.future.done() and not waiter.future.cancelled():
            waiter.future.exception()  # retrieved, for its caller may have been cancelled
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
        """Set the one timer for all deadlines to ring no later than `when`."""
        if when < self._guard_at:
            if self._guard is not None:
                self._guard.cancel()
            self._guard_at = when
            self._guard = asyncio.get_running_loop().call_at(when, self._time_is_up)

    def _time_is_up(self) -> None:
        """Start a last look for the waits whose time is up; it gets the time of one request."""
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
                began = asyncio.get_running_loop().time()
                due = [one for one in self._due.take(began + TOGETHER) if not one.future.done()]
                self._urgent = False
                await self._look(due, began)
        except BaseException as error:
            # An error here must not leave a wait without an end.
            if self._task is asyncio.current_task():
                for waiter in list(self._all()):
                    waiter.fail(error) if isinstance(error, Exception) else waiter.future.cancel()
            if not isinstance(error, Exception):
                raise

    async def _sleep(self) -> None:
        """Sleep until a waiter is due; lets other tasks run in any case."""
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
        """The time of the next look: when the first waiter is due, later after a costly look."""
        rest = -math.inf if self._urgent else self._rest
        first = min((one.due_after(rest) for one in self._due.upcoming(rest)), default=math.inf)
        return max(first, self._not_before)

    async def _look(self, due: list[Waiter], began: float) -> None:
        """Look for the backups of the waiters that are due, and note what that told."""
        look = _Look()
        wanted = [waiter.wanted() for waiter in due]
        async with aclosing(self._find(wanted, self._waiters)) as findings:
            async for finding in findings:
                self._note(finding, look)
        self._rest = began + look.requests / _REQUESTS_PER_SECOND
        self._conclude(due, look, asyncio.get_running_loop().time())

    def _note(self, finding: Finding, look: _Look) -> None:
        """Tell every waiter what a finding shows of its backup, whether it is due or not."""
        for backup in finding.found:
            for waiter in self._waiters.get(backup.id, ()):
                waiter.see(backup)
                look.met[waiter] = None
        look.absent |= finding.absent
        look.requests += finding.requests
        if finding.error is not None:
            look.errors.update(dict.fromkeys(finding.failed, finding.error))

    def _conclude(self, due: list[Waiter], look: _Look, now: float) -> None:
        """Plan the next look of the waiters that were due, and of those that the look met."""
        for error in set(look.errors.values()):
            self._absorb(error, now)
        for waiter in due:
            look.met[waiter] = None
            waiter.error = look.errors.get(waiter.ref.id)
            if waiter.ref.id in look.absent:
                waiter.miss()
        for waiter in look.met:
            waiter.report()
            if now >= waiter.deadline - _TICK:
                waiter.expire()
            if not waiter.future.done():
                self._plan(waiter, now)

    def _absorb(self, error: VPSBackupsError, now: float) -> None:
        """Go on after a failed look; only a refused token ends the waits."""
        if isinstance(error, _FATAL):
            for waiter in list(self._all()):
                waiter.fail(copy.copy(error))  # a copy each, for each gets its own traceback
            return
        logger.debug("a look at the list failed: %s", error)
        if isinstance(error, ApiError) and error.retry_after is not None:
            self._not_before = max(self._not_before, now + error.retry_after)
