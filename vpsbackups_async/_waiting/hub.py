"""One hub per client looks at the lists for all waiters."""

import asyncio
import copy
import itertools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Final

from vpsbackups_async._lists.planner import Finding
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async._waiting.calendar import TOGETHER, Calendar
from vpsbackups_async._waiting.limits import TICK, Limits
from vpsbackups_async._waiting.looks import Looks, Searches
from vpsbackups_async._waiting.waiter import Batch, Look, Waiter
from vpsbackups_async._waiting.warnings import Warnings
from vpsbackups_async.errors import (
    AuthenticationError,
    ConfigurationError,
    PermissionDeniedError,
    VPSBackupsError,
    WrongEventLoopError,
)
from vpsbackups_async.models import Backup

__all__ = ["WaitHub"]

_REQUESTS_PER_SECOND: Final = 2.0
"""The average rate of a hub's requests: a look of many is followed by a longer rest."""
_FATAL: Final = (AuthenticationError, ConfigurationError, WrongEventLoopError)


class WaitHub:
    """Looks for the backups of all waiters of one client.

    `search` carries out looks. `patience` and `closed_for` are those of `Limits`. `monitor` is told
    of looks and of waits. In one that is `closed` all waits end at once, as after `close`.
    """

    def __init__(
        self,
        search: Searches,
        *,
        patience: float,
        closed_for: Callable[[], float] = lambda: 0.0,
        monitor: Monitor | None = None,
        closed: bool = False,
    ) -> None:
        self._monitor = Monitor() if monitor is None else monitor
        self._waiters: dict[int, dict[Waiter, None]] = {}
        self._looks = Looks(
            search,
            self._waiters,
            show=self._show,
            end=self._end,
            attempted=self._attempted,
            refused=self._look_now,
        )
        self._warnings = Warnings(self._all)
        self._due = Calendar(operator.attrgetter("due"))
        self._limits = Limits(patience, closed_for)
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._alarm = asyncio.Event()
        self._wake_at = -math.inf
        self._rest = self._rested_from = -math.inf
        self._closed = closed

    async def wait(self, waiter: Waiter) -> Backup:
        """The completed backup; raises the `WaitError` that says why there is none."""
        if self._closed:
            waiter.abandon()
            return await waiter.future
        self._waiters.setdefault(waiter.ref.id, {})[waiter] = None
        self._monitor.waits += 1
        try:
            self._plan(waiter, waiter.started)
            self._limits.add(waiter)
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

    def _plan(self, waiter: Waiter, now: float, *, was_due: bool = True) -> None:
        """Note when the waiter is next due; an unusable answer of its strategy ends the wait."""
        self._due.discard(waiter)
        try:
            waiter.plan(now, was_due=was_due)
        except BaseException as error:  # noqa: BLE001  # the caller's code ends its own wait alone
            waiter.fail(error)
            return
        self._due.add(waiter)
        if waiter.due_after(self._rest) < self._wake_at:
            self._alarm.set()

    def _leave(self, waiter: Waiter) -> None:
        self._monitor.waits -= 1
        waiter.look = None
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
        self._limits.stop()
        self._warnings.stop()
        tasks = self._looks.stop()
        if self._task is not None:
            self._task.cancel()
            tasks.append(self._task)
            self._task = None
        for task in tasks:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    # --- The hub's own task --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                await self._sleep()
                began = asyncio.get_running_loop().time()
                due = [one for one in self._due.take(began + TOGETHER) if not one.future.done()]
                self._looks.begin(due, Batch(began))
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
        while (when := self._when()) > loop.time() + TICK:
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
        rest = self._rest
        return min((one.due_after(rest) for one in self._due.upcoming(rest)), default=math.inf)

    # --- What looks tell -----------------------------------------------------------------------

    def _show(self, look: Look, finding: Finding) -> None:
        """Tell every waiter what a finding shows of its backup, whether it is due or not."""
        for backup in finding.found:
            for waiter in self._waiters.get(backup.id, ()):
                if waiter.ref.server_id in {None, backup.server.id}:
                    waiter.see(backup)
                    look.met[waiter] = None
        batch = look.batch
        batch.requests += finding.requests
        look.requests += finding.requests
        if batch.began >= self._rested_from:
            self._rested_from = batch.began
            self._rest = batch.began + batch.requests / _REQUESTS_PER_SECOND

    def _attempted(self, look: Look, error: VPSBackupsError | None) -> None:
        """Note that an attempt of a look got an answer, or failed and is followed by another."""
        look.error = error
        if error is None:
            self._limits.answer(look)
            return
        self._warnings.attempt_failed(error)
        now = asyncio.get_running_loop().time()
        for waiter in look.concerned():
            waiter.error = error
            if now >= waiter.deadline - TICK:
                waiter.expire()
        if look.server_id is None:
            self._free(look)

    def _free(self, look: Look) -> None:
        """Let the waiters that waited for a look at their list look themselves."""
        for waiter in look.behind:
            if waiter.look is look:
                waiter.look = None
                self._due.add(waiter)
                self._alarm.set()
        look.behind.clear()

    def _end(self, look: Look, finding: Finding) -> None:
        """Plan the next look of the waiters that a look was for, and of those that it met."""
        now = asyncio.get_running_loop().time()
        self._limits.answer(look)  # also for what it leaves to other lists
        shown = list(look.met)
        due: set[Waiter] = set()
        for key, waiters in look.waiters.items():
            for waiter in waiters:
                if waiter.look is not look:
                    continue  # it left, or was seen by another look
                look.met[waiter] = None
                due.add(waiter)
                waiter.look = None
                waiter.error = finding.error if key in finding.failed else None
                if key in finding.absent:
                    waiter.miss()
        if finding.error is not None:
            self._absorb(look, finding.error)
        for waiter in look.met:
            waiter.report()
            if now >= waiter.deadline - TICK:
                waiter.expire()
            if not waiter.future.done():
                self._plan(waiter, now, was_due=waiter in due or waiter.look is not None)
        self._free(look)
        if self._monitor.emit is not None:
            self._monitor.emit(look.polled(shown, finding.error))

    def _absorb(self, look: Look, error: VPSBackupsError) -> None:
        """Go on after a failed look; a refused token ends the waits that it is refused for."""
        if isinstance(error, _FATAL):
            self._refuse(error)
        elif isinstance(error, PermissionDeniedError):
            self._refuse(error, lambda waiter: waiter.server_id == look.server_id)
        else:
            self._warnings.look_failed(error)

    def _look_now(self) -> None:
        """Look for all waiters, due or not: each one's own list tells whether it is refused."""
        waiters = [one for one in self._all() if one.look is None and not one.future.done()]
        for waiter in waiters:
            self._due.discard(waiter)
        self._looks.begin(waiters, Batch(asyncio.get_running_loop().time()))

    def _refuse(
        self, error: VPSBackupsError, whose: Callable[[Waiter], bool] = lambda _: True
    ) -> None:
        """End the waits that this holds for."""
        for waiter in list(self._all()):
            if whose(waiter):
                waiter.fail(copy.copy(error))  # a copy each, for each gets its own traceback
