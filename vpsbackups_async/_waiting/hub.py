"""Many waiters, few requests: one hub looks at the list for all that wait for a backup.

The API has no way to ask for one backup. Whoever is due looks together, and a look counts for all
whose backup it happens to show.
"""

import asyncio
import copy
import heapq
import itertools
import logging
import math
import operator
from collections.abc import Callable, Iterable
from typing import Final, Literal, Protocol

from vpsbackups_async._lists.finder import Report, Wanted
from vpsbackups_async.backoff import Attempt, Backoff, LearnedBackoff, delay_of
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    BackupDisappearedError,
    BackupFailedError,
    BackupNeverAppearedError,
    ConfigurationError,
    PermissionDeniedError,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
    WrongEventLoopError,
)
from vpsbackups_async.models import Backup, BackupRef, BackupStatus, Page

logger = logging.getLogger("vpsbackups_async")

_TOGETHER: Final = 0.5
"""Waiters that are due within so many seconds look together."""
_TICK: Final = 0.001
"""Seconds below which nothing is slept: a timer may ring that much before its time."""
_REQUESTS_A_SECOND: Final = 2.0
"""A look that took many requests is followed by a rest, as if so many a second were allowed."""
_STRETCH: Final = 0.5
"""But nobody waits longer for that than this share of the delay its own strategy asked for."""
_MISSES: Final = 2
"""A backup that was seen once is gone when so many complete looks in a row do not show it."""

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


class Waiter:
    """One wait: what it waits for, when it is next due, and what it has seen.

    `due` is when it looks next; `limit` is when it ends even without the look that is under way.
    """

    __slots__ = (
        "appear_grace",
        "backoff",
        "backup",
        "deadline",
        "delay",
        "due",
        "error",
        "future",
        "limit",
        "listed",
        "misses",
        "number",
        "on_poll",
        "on_unknown",
        "ref",
        "seen_running",
        "started",
    )

    def __init__(
        self,
        ref: BackupRef,
        known: Backup | None,
        *,
        backoff: Backoff,
        timeout: float | None = 3600.0,
        on_poll: Callable[[Attempt], object] | None = None,
        on_unknown: Literal["wait", "raise"] = "wait",
        appear_grace: float = 60.0,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ref = ref
        self.backup = known
        self.listed = False
        self.backoff = backoff
        self.on_poll = on_poll
        self.on_unknown = on_unknown
        self.appear_grace = appear_grace
        self.started = loop.time()
        self.deadline = math.inf if timeout is None else self.started + timeout
        self.due = self.limit = self.deadline
        self.number = 0
        self.delay: float | None = None
        # A wait for what began at an unknown time has no duration to teach.
        begins = known is not None and known.status == BackupStatus.IN_PROGRESS
        self.seen_running: float | None = 0.0 if begins else None
        self.misses = 0
        self.error: VPSBackupsError | None = None
        self.future: asyncio.Future[Backup] = loop.create_future()

    @property
    def last_status(self) -> BackupStatus | None:
        """The last state seen in the list, else the one that the caller brought."""
        return None if self.backup is None else self.backup.status

    def elapsed(self) -> float:
        """The seconds since the wait began."""
        return self.future.get_loop().time() - self.started

    def abandon(self) -> None:
        """End the wait because its client was closed."""
        self.fail(WaitError(self.ref, self.last_status, self.elapsed(), "the client was closed"))

    def wanted(self) -> Wanted:
        """What a look must find for this waiter."""
        # A backup that was just made may be listed late; its first look need not dig for it.
        proof = self.listed or self.number > 1 or self.elapsed() >= self.appear_grace
        manual = self.backup is not None and self.backup.is_manual
        return Wanted(self.ref.id, self.ref.server_id, manual, proof)

    def plan(self, now: float) -> None:
        """Set when to look next; asks the waiter's own strategy, which may raise anything."""
        self.number += 1
        attempt = Attempt(self.number, now - self.started, self.delay, self.backup)
        self.delay = delay_of(self.backoff, attempt)
        self.due = min(now + self.delay, self.deadline)

    def due_after(self, rest: float) -> float:
        """When to look next if there should be none before `rest`."""
        return max(self.due, min(rest, self.due + _STRETCH * (self.delay or 0.0)))

    def succeed(self, backup: Backup) -> None:
        """End the wait with the completed backup."""
        if not self.future.done():
            self.future.set_result(backup)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        """End the wait because its time is up."""
        error = WaitTimeoutError(self.ref, self.last_status, self.elapsed())
        error.__cause__ = self.error
        self.fail(error)

    def see(self, backup: Backup) -> None:
        """Take in what a look showed of the backup."""
        status = backup.status
        fresh = not self.listed or self.last_status != status
        self.backup, self.listed, self.misses, self.error = backup, True, 0, None
        if status.is_completed:
            self._learn(backup)
            self.succeed(backup)
            return
        if self.seen_running is not None:
            self.seen_running = self.elapsed()
        if status.is_failed:
            self.fail(BackupFailedError(self.ref, status, self.elapsed(), backup=backup))
        elif not status.is_known and fresh:
            logger.warning("backup %s has the unknown status %r", backup.id, str(status))
            if self.on_unknown == "raise":
                reason = "its status is not known to this library"
                self.fail(WaitError(self.ref, status, self.elapsed(), reason))

    def _learn(self, backup: Backup) -> None:
        if isinstance(self.backoff, LearnedBackoff) and self.seen_running is not None:
            self.backoff.learn(backup, self.seen_running, self.elapsed())

    def miss(self) -> None:
        """Take in that a complete look did not show the backup."""
        self.misses += 1
        status, elapsed = self.last_status, self.elapsed()
        if not self.listed:
            if elapsed >= self.appear_grace:
                self.fail(BackupNeverAppearedError(self.ref, status, elapsed))
        elif self.misses >= _MISSES:
            gone = BackupDisappearedError(self.ref, status, elapsed, last_seen=self.backup)
            self.fail(gone)

    def report(self) -> None:
        """Tell the caller's `on_poll` about a look; what it raises does not end the wait."""
        if self.on_poll is None or self.future.done():
            return
        attempt = Attempt(self.number, self.elapsed(), self.delay, self.backup)
        try:
            self.on_poll(attempt)
        except Exception:
            logger.exception("on_poll failed for backup %s", self.ref.id)


class _Calendar:
    """Whose turn comes when; moving a turn leaves nothing behind, whatever how often it moves."""

    def __init__(self, turn: Callable[[Waiter], float]) -> None:
        self._turn = turn
        self._spans: dict[float, dict[Waiter, None]] = {}
        self._starts: list[float] = []  # a heap of the keys of `_spans`, and of some that were

    def add(self, waiter: Waiter) -> None:
        """Note the waiter's turn, which must not change while it is noted here."""
        start = self._turn(waiter) // _TOGETHER
        span = self._spans.get(start)
        if span is None:
            span = self._spans[start] = {}
            heapq.heappush(self._starts, start)
        span[waiter] = None

    def discard(self, waiter: Waiter) -> None:
        """Forget the waiter's turn, if it is noted."""
        start = self._turn(waiter) // _TOGETHER
        span = self._spans.get(start)
        if span is not None and waiter in span:
            del span[waiter]
            if not span:
                del self._spans[start]
                if len(self._starts) > 2 * len(self._spans) + 100:
                    self._starts = sorted(self._spans)

    def upcoming(self, until: float = -math.inf) -> list[Waiter]:
        """Who has the next turn or one before `until`, and a few more around them."""
        while self._starts and self._starts[0] not in self._spans:
            heapq.heappop(self._starts)
        if not self._starts:
            return []
        last = max(self._starts[0], until // _TOGETHER)
        starts = sorted(start for start in self._spans if start <= last)
        return [waiter for start in starts for waiter in self._spans[start]]

    def take(self, until: float) -> list[Waiter]:
        """Those whose turn comes up to then; they are noted no longer."""
        taken = [one for one in self.upcoming(until) if self._turn(one) <= until]
        for waiter in taken:
            self.discard(waiter)
        return taken


class WaitHub:
    """Looks at the list on behalf of all waiters of one client.

    `patience` is how long, in seconds, one request may take: a wait whose time is up while a look
    is under way ends no later than that.
    """

    def __init__(self, scout: Scouting, *, patience: float) -> None:
        self._scout = scout
        self._patience = patience
        self._waiters: dict[int, dict[Waiter, None]] = {}
        self._due = _Calendar(operator.attrgetter("due"))
        self._limits = _Calendar(operator.attrgetter("limit"))
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
                due = [one for one in self._due.take(began + _TOGETHER) if not one.future.done()]
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
