"""Many waiters, few requests: one hub looks at the list for all that wait for a backup.

The API has no way to ask for one backup, so a look is a walk through the list: of one server, or of
all of them. Whoever is due looks together.
"""

import asyncio
import copy
import heapq
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final, Literal, Protocol

from vpsbackups_async.backoff import Attempt, Backoff, delay_of
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
_AT_ONCE: Final = 16
"""So many servers are looked at side by side in one look."""
_MISSES: Final = 2
"""A backup that was seen once is gone when so many complete looks in a row do not show it."""

_FATAL: Final = (
    AuthenticationError,
    PermissionDeniedError,
    ConfigurationError,
    WrongEventLoopError,
)


class Look(Protocol):
    """One walk through the list of one server, or of all."""

    def pages(self) -> AsyncGenerator[Page]:
        """The pages, until the reader has seen enough."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the list was read to its end and did not visibly move meanwhile."""
        ...


class Waiter:
    """One wait: what it waits for, when it is next due, and what it has seen."""

    __slots__ = (
        "appear_grace",
        "backoff",
        "deadline",
        "delay",
        "error",
        "future",
        "known",
        "last",
        "misses",
        "number",
        "on_poll",
        "on_unknown",
        "ref",
        "started",
        "timer",
    )

    def __init__(
        self,
        ref: BackupRef,
        known: Backup | None,
        *,
        backoff: Backoff,
        timeout: float | None,
        on_poll: Callable[[Attempt], object] | None,
        on_unknown: Literal["wait", "raise"],
        appear_grace: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.ref = ref
        self.known = known
        self.last: Backup | None = None
        self.backoff = backoff
        self.on_poll = on_poll
        self.on_unknown = on_unknown
        self.appear_grace = appear_grace
        self.started = loop.time()
        self.deadline = math.inf if timeout is None else self.started + timeout
        self.number = 0
        self.delay: float | None = None
        self.misses = 0
        self.error: VPSBackupsError | None = None
        self.future: asyncio.Future[Backup] = loop.create_future()
        self.timer: asyncio.TimerHandle | None = None

    @property
    def last_status(self) -> BackupStatus | None:
        """The last state seen in the list, else the one that the caller brought."""
        seen = self.last or self.known
        return None if seen is None else seen.status

    def elapsed(self) -> float:
        """The seconds since the wait began."""
        return self.future.get_loop().time() - self.started

    def next_due(self, now: float) -> float:
        """When to look next; asks the waiter's own strategy."""
        self.number += 1
        attempt = Attempt(self.number, now - self.started, self.delay, self.last or self.known)
        self.delay = delay_of(self.backoff, attempt)
        return min(now + self.delay, self.deadline)

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
        fresh = self.last is None or self.last.status != backup.status
        self.last, self.misses, self.error = backup, 0, None
        status = backup.status
        if status.is_completed:
            self.succeed(backup)
        elif status.is_failed:
            self.fail(BackupFailedError(self.ref, status, self.elapsed(), backup=backup))
        elif not status.is_known and fresh:
            logger.warning("backup %s has the unknown status %r", backup.id, str(status))
            if self.on_unknown == "raise":
                reason = "its status is not known to this library"
                self.fail(WaitError(self.ref, status, self.elapsed(), reason))

    def miss(self) -> None:
        """Take in that a complete look did not show the backup."""
        self.error = None
        self.misses += 1
        if self.last is None:
            if self.elapsed() >= self.appear_grace:
                self.fail(BackupNeverAppearedError(self.ref, self.last_status, self.elapsed()))
        elif self.misses >= _MISSES:
            self.fail(
                BackupDisappearedError(
                    self.ref, self.last_status, self.elapsed(), last_seen=self.last
                )
            )

    def report(self) -> None:
        """Tell the caller's `on_poll` about a look; what it raises does not end the wait."""
        if self.on_poll is None or self.future.done():
            return
        attempt = Attempt(self.number, self.elapsed(), self.delay, self.last or self.known)
        try:
            self.on_poll(attempt)
        except Exception:
            logger.exception("on_poll failed for backup %s", self.ref.id)


class WaitHub:
    """Looks at the list on behalf of all waiters of one client.

    `look` gives a walk through the list of a server, or of all for None. `patience` is how long, in
    seconds, one request may take: a wait whose time is up while its last look is under way ends no
    later than that.
    """

    def __init__(self, look: Callable[[int | None], Look], *, patience: float) -> None:
        self._look = look
        self._patience = patience
        self._waiters: dict[int, list[Waiter]] = {}
        self._due: list[tuple[float, int, Waiter]] = []
        self._ticket = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.Event | None = None
        self._not_before = 0.0
        self._list_pages: int | None = None

    async def wait(self, waiter: Waiter) -> Backup:
        """The completed backup; raises the `WaitError` that says why there is none."""
        now = waiter.started
        self._waiters.setdefault(waiter.ref.id, []).append(waiter)
        try:
            self._push(waiter, now)
            if waiter.deadline < math.inf:
                loop = asyncio.get_running_loop()
                waiter.timer = loop.call_at(waiter.deadline, self._time_is_up, waiter)
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="vpsbackups-wait-hub")
            return await waiter.future
        finally:
            if waiter.timer is not None:
                waiter.timer.cancel()
            self._leave(waiter)

    def _time_is_up(self, waiter: Waiter) -> None:
        """End the wait now if no look may be had, else leave the last one time for a request."""
        loop = asyncio.get_running_loop()
        if self._not_before > loop.time():
            waiter.expire()
        else:
            waiter.timer = loop.call_at(waiter.deadline + self._patience, waiter.expire)

    async def close(self) -> None:
        """End all waits and the hub's task."""
        for waiter in list(self._all()):
            waiter.fail(
                WaitError(waiter.ref, waiter.last_status, waiter.elapsed(), "the client was closed")
            )
        tasks = [*self._ending, *([self._task] if self._task is not None else [])]
        self._task = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _all(self) -> Iterable[Waiter]:
        return itertools.chain.from_iterable(self._waiters.values())

    def _push(self, waiter: Waiter, now: float) -> None:
        """Note when the waiter is next due; an unusable answer of its strategy ends the wait."""
        try:
            due = waiter.next_due(now)
        except Exception as error:  # noqa: BLE001  # the strategy is the caller's code
            waiter.fail(error)
            return
        heapq.heappush(self._due, (due, next(self._ticket), waiter))
        if self._alarm is not None and self._due[0][2] is waiter:
            self._alarm.set()

    def _leave(self, waiter: Waiter) -> None:
        peers = self._waiters[waiter.ref.id]
        peers.remove(waiter)
        if not peers:
            del self._waiters[waiter.ref.id]
        if not self._waiters and self._task is not None:
            self._task.cancel()
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
            self._task = None
            self._due.clear()

    # --- The hub's own task --------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while True:
                due = await self._next_due()
                await self._look_for(due)
                now = asyncio.get_running_loop().time()
                for waiter in due:
                    waiter.report()
                    if now >= waiter.deadline:
                        waiter.expire()
                    if not waiter.future.done():
                        self._push(waiter, now)
        except Exception as error:  # noqa: BLE001
            # Whatever went wrong here must not leave anybody waiting for nothing.
            for waiter in list(self._all()):
                waiter.fail(error)

    async def _next_due(self) -> list[Waiter]:
        """Sleep until somebody is due; those who are due together."""
        loop = asyncio.get_running_loop()
        while True:
            while self._due and self._due[0][2].future.done():
                heapq.heappop(self._due)
            now = loop.time()
            when = max(self._due[0][0], self._not_before) if self._due else math.inf
            if when <= now:
                break
            self._alarm = asyncio.Event()
            timer = None if when == math.inf else loop.call_at(when, self._alarm.set)
            try:
                await self._alarm.wait()
            finally:
                self._alarm = None
                if timer is not None:
                    timer.cancel()
        due = []
        while self._due and self._due[0][0] <= now + _TOGETHER:
            waiter = heapq.heappop(self._due)[2]
            if not waiter.future.done():
                due.append(waiter)
        return due

    async def _look_for(self, due: list[Waiter]) -> None:
        """One look for all who are due, in whichever way takes fewer requests."""
        servers = {waiter.ref.server_id for waiter in due}
        known = [server_id for server_id in servers if server_id is not None]
        whole = len(known) < len(servers)
        if (not whole and len(known) <= (self._list_pages or 1)) or not await self._look_at_list(
            due, None if whole else len(known)
        ):
            await self._look_at_servers(known, due)

    async def _look_at_list(self, due: list[Waiter], most: int | None) -> bool:
        """Go through the whole list; False if that turns out to need more than `most` requests."""
        wanted = {waiter.ref.id for waiter in due}
        seen: set[int] = set()
        look = self._look(None)
        try:
            async with aclosing(look.pages()) as pages:
                number = 0
                async for page in pages:
                    number += 1
                    self._learn(page, number)
                    seen.update(self._see(page))
                    if wanted <= seen:
                        return True
                    if most is not None and (self._list_pages or 1) > most:
                        return False
        except VPSBackupsError as error:
            self._absorb(error, [waiter for waiter in due if waiter.ref.id not in seen])
            return True
        if look.complete:
            self._miss(due, seen)
        return True

    async def _look_at_servers(self, servers: list[int], due: list[Waiter]) -> None:
        """Look at the list of each server, a few at once."""
        by_server: dict[int, list[Waiter]] = {}
        for waiter in due:
            if waiter.ref.server_id is not None:
                by_server.setdefault(waiter.ref.server_id, []).append(waiter)
        queue = iter(servers)

        async def work() -> None:
            for server_id in queue:
                await self._look_at_server(server_id, by_server[server_id])

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(servers))):
                group.create_task(work())

    async def _look_at_server(self, server_id: int, due: list[Waiter]) -> None:
        wanted = {waiter.ref.id for waiter in due}
        seen: set[int] = set()
        look = self._look(server_id)
        try:
            async with aclosing(look.pages()) as pages:
                async for page in pages:
                    seen.update(self._see(page))
                    if wanted <= seen:
                        return
        except VPSBackupsError as error:
            self._absorb(error, [waiter for waiter in due if waiter.ref.id not in seen])
            return
        if look.complete:
            self._miss(due, seen)

    def _learn(self, page: Page, number: int) -> None:
        """How many pages the whole list has, going by a page that is not its last."""
        if page.next is None:
            self._list_pages = number
        elif page.count is not None and page.items:
            self._list_pages = max(number + 1, math.ceil(page.count / len(page.items)))

    def _see(self, page: Page) -> list[int]:
        """Tell every waiter what the page shows of its backup, due or not; the ids it shows."""
        shown = [backup for backup in page.items if backup.id in self._waiters]
        for backup in shown:
            for waiter in self._waiters[backup.id]:
                waiter.see(backup)
        return [backup.id for backup in shown]

    def _miss(self, due: list[Waiter], seen: set[int]) -> None:
        for waiter in due:
            if waiter.ref.id not in seen:
                waiter.miss()

    def _absorb(self, error: VPSBackupsError, due: list[Waiter]) -> None:
        """A failed look says nothing about the backups; only a refused token ends the waits."""
        if isinstance(error, _FATAL):
            for waiter in list(self._all()):
                waiter.fail(copy.copy(error))  # each its own, for each gets its own traceback
            return
        logger.debug("a look for %d backups failed: %s", len(due), error)
        for waiter in due:
            waiter.error = error
        if isinstance(error, ApiError) and error.retry_after is not None:
            now = asyncio.get_running_loop().time()
            self._not_before = max(self._not_before, now + error.retry_after)
