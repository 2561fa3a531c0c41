"""What the creates of one client share; they end also if their callers are cancelled."""

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from attrs import evolve

from vpsbackups_async import _events
from vpsbackups_async._creating.creation import Creation
from vpsbackups_async._creating.known import KnownBackups
from vpsbackups_async._transport.failures import doubt
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async._transport.waits import closed_error
from vpsbackups_async.errors import ConfigurationError, VPSBackupsError
from vpsbackups_async.models import Backup

__all__ = ["Creates", "WaitForEnd"]

logger = logging.getLogger("vpsbackups_async")

WaitForEnd = Callable[[Backup, float | None], Awaitable[Backup]]
"""Waits for a running backup, for so many seconds at most; None for no limit."""


class Creates:
    """What the creates of one client share, whatever their timeouts and retries.

    `wait` waits for a backup that runs already, `monitor` is told of each end of a create. `known`
    has the backups that a later create cannot have made.
    """

    def __init__(self, wait: WaitForEnd, known: KnownBackups, monitor: Monitor) -> None:
        self.wait = wait
        self.known = known
        self.stopped = False
        """Whether no further create, and no further attempt of an open one, is sent."""
        self.monitor = monitor
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._open: dict[asyncio.Task[Backup], Creation] = {}
        self._orphans: set[asyncio.Task[Backup]] = set()  # of those, whose callers were cancelled

    def lock(self, server_id: int) -> asyncio.Lock:
        """The lock of a server, on which one create runs at a time."""
        return self._locks.setdefault(server_id, asyncio.Lock())

    async def run(
        self, creation: Creation, work: Callable[[Creation], Coroutine[Any, Any, Backup]]
    ) -> Backup:
        """The backup that the work gives; if the server may make one, it needs no caller to end."""
        server_id = creation.server_id
        name = f"vpsbackups-create-{server_id}"
        task = asyncio.create_task(_told(creation, work), name=name)
        self._open[task] = creation
        task.add_done_callback(self._open.pop)
        try:
            made = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                self._report(creation, task)
            elif creation.is_committed:
                creation.sending.no_more_attempts = True
                self._orphans.add(task)
                task.add_done_callback(partial(self._report, creation))
            else:
                task.cancel()
                await asyncio.wait([task])
                if creation.doubt is not None:
                    self._report(creation, task)
            raise
        except Exception as error:
            if self.monitor.emit is not None:
                self.monitor.emit(_events.CreateEnded(server_id, error=error))
            raise
        if self.monitor.emit is not None:
            self.monitor.emit(_events.CreateEnded(server_id, made, existing=not creation.made))
        return made

    def _report(self, creation: Creation, task: asyncio.Task[Backup]) -> None:
        """Log what became of a create whose caller was cancelled, and emit it as an event."""
        self._orphans.discard(task)
        server_id, name = creation.server_id, task.get_name()
        event = _events.CreateEnded(server_id, caller_cancelled=True)
        if task.cancelled():
            why = "the client was closed" if self.stopped else "its caller was cancelled"
            cut = creation.unknown((), f"it was cut short, for {why}")
            cut.__cause__ = creation.doubt
            event = evolve(event, error=cut)
            how = f"was cut short: {cut}"
        elif isinstance(error := task.exception(), Exception):
            event = evolve(event, error=error)
            how = f"failed: {error}"
        elif error is None:
            event = evolve(event, backup=task.result(), existing=not creation.made)
            how = f"{'made' if creation.made else 'found'} backup {task.result().id}"
        else:
            return
        logger.warning("%s, whose caller was cancelled, %s", name, how, extra={"event": event})
        if self.monitor.emit is not None:
            self.monitor.emit(event)

    def stop(self) -> None:
        """Refuse further attempts of the creates that are open, and end what precedes them."""
        self.stopped = True
        for creation in self._open.values():
            creation.sending.no_more_attempts = True
            if creation.preparing is not None and not creation.preparing.expired():
                creation.preparing.reschedule(0.0)

    @asynccontextmanager
    async def preparing(self, creation: Creation, end: float) -> AsyncIterator[asyncio.Timeout]:
        """A block of a create before anything is sent.

        Raises `TimeoutError` at `end`, in loop time, and `ConfigurationError` as soon as the client
        is being closed.
        """
        if self.stopped:
            raise closed_error()
        try:
            async with asyncio.timeout_at(end) as creation.preparing:
                yield creation.preparing
        except TimeoutError:
            if self.stopped:
                raise closed_error() from None
            raise
        finally:
            creation.preparing = None

    async def close(self) -> None:
        """Wait for creates that the server may be carrying out, no longer than one can take.

        Creates whose callers were cancelled are cancelled after that.
        """
        waited = {
            task: creation.longest
            for task, creation in self._open.items()
            if creation.is_committed or task in self._orphans
        }
        if waited:
            await asyncio.wait(waited, timeout=max(waited.values()))
        left = tuple(self._orphans)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _told(
    creation: Creation, work: Callable[[Creation], Coroutine[Any, Any, Backup]]
) -> Backup:
    """The backup that the work gives; its error tells of all attempts, not only of the last one."""
    try:
        return await work(creation)
    except VPSBackupsError as error:
        if creation.doubt is None or error.in_doubt:
            raise
        if isinstance(error, ConfigurationError):  # as of a client that was closed
            reason = f"{creation.doubt.describe()}; {error.describe()}"
            raise creation.unknown((), reason) from creation.doubt
        doubt(error)
        raise
