"""Creates, one at a time on a server, which end also if their callers are cancelled."""

import asyncio
import logging
import math
import weakref
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from attrs import evolve

from vpsbackups_async import _tags, _wire
from vpsbackups_async._creating.creation import Creation, IfRunning
from vpsbackups_async._creating.known import KnownBackups
from vpsbackups_async._creating.maker import Maker, closing_error
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async.backoff import Attempt, ExponentialBackoff
from vpsbackups_async.errors import (
    BackupInProgressError,
    CreateOutcomeUnknownError,
    PaginationError,
    WaitError,
    WaitTimeoutError,
)
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.models import Backup, BackupStatus, BackupType

__all__ = ["Creator", "IfRunning"]

logger = logging.getLogger("vpsbackups_async")

_AFTER_REFUSAL: Final = ExponentialBackoff(1.0, maximum=30.0)
"""The pause after a refusal because of a running backup that no list shows yet, or any more."""

WaitForEnd = Callable[[Backup, float | None], Awaitable[Backup]]
"""Waits for a running backup, for so many seconds at most; None for no limit."""


class Creator:
    """Makes backups for one client, one at a time on a server."""

    def __init__(
        self,
        transport: Transport,
        finder: Finder,
        wait: WaitForEnd,
        retry: RetryPolicy,
        emit: Callable[[Event], None],
    ) -> None:
        self._finder = finder
        self._known = KnownBackups()
        self._maker = Maker(transport, finder, retry, self._known)
        self._wait = wait
        self._emit = emit
        self._longest = transport.timeouts.attempt + max(
            retry.create_grace, retry.create_again_after or 0.0
        )
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._open: dict[asyncio.Task[Backup], Creation] = {}
        self._orphans: set[asyncio.Task[Backup]] = set()  # of those, whose callers were cancelled
        self._stopped = False

    async def create(
        self,
        server_id: int,
        description: str | None,
        *,
        if_running: IfRunning = "raise",
        timeout: float | None = None,
        marker: bool | str = False,
    ) -> Backup:
        """The backup; see `BackupsClient.create`."""
        if self._stopped:
            raise closing_error()
        sought = None if isinstance(marker, bool) else _tags.check_marker(marker)
        request = _wire.create_request(server_id, description)
        if marker:
            description = _tags.with_marker(description, sought or _tags.new_marker())
            request = _wire.create_request(server_id, description)
        creation = Creation(request, server_id, description or "", if_running, sought)
        if timeout is not None:
            creation.wait_until = asyncio.get_running_loop().time() + timeout
        task = asyncio.create_task(self._create(creation), name=f"vpsbackups-create-{server_id}")
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
            raise
        except Exception as error:
            self._emit(CreateEnded(server_id, error=error))
            raise
        self._emit(CreateEnded(server_id, made))
        return made

    def _report(self, creation: Creation, task: asyncio.Task[Backup]) -> None:
        """Log what became of a create whose caller was cancelled, and emit it as an event."""
        self._orphans.discard(task)
        server_id, name = creation.server_id, task.get_name()
        event = CreateEnded(server_id, caller_cancelled=True)
        if task.cancelled():
            how = "was cut short: a backup may have been made"
        elif isinstance(error := task.exception(), Exception):
            event = evolve(event, error=error)
            how = f"failed: {error}"
        elif error is None:
            event = evolve(event, backup=task.result())
            how = f"made backup {task.result().id}"
        else:
            return
        logger.warning("%s, whose caller was cancelled, %s", name, how, extra={"event": event})
        self._emit(event)

    def stop(self) -> None:
        """Refuse further creates, and further attempts of those that are open."""
        self._stopped = True
        for creation in self._open.values():
            creation.sending.no_more_attempts = True

    async def close(self) -> None:
        """Wait for creates that the server may be carrying out, no longer than one can take.

        Creates whose callers were cancelled are cancelled after that.
        """
        committed = {task for task, creation in self._open.items() if creation.is_committed}
        if waited := committed | self._orphans:
            await asyncio.wait(waited, timeout=self._longest)
        left = tuple(self._orphans)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def settle(self, error: CreateOutcomeUnknownError, server_id: int) -> Backup:
        """The backup of a create that failed so; see `BackupsClient.settle`."""
        async with self._lock(server_id):
            return await self._maker.settle(error, server_id)

    # --- One at a time on a server ---------------------------------------------------------------

    def _lock(self, server_id: int) -> asyncio.Lock:
        return self._locks.setdefault(server_id, asyncio.Lock())

    async def _create(self, creation: Creation) -> Backup:
        """The backup, made while no other create of this client runs on the server.

        Others may run there while this one waits for the end of a running backup.
        """
        refused = 0
        while True:
            async with self._lock(creation.server_id):
                held = await self._read(creation)
                if there := self._answer(creation, held):
                    return there
                running = self._running(creation, held)
                if running is None:
                    try:
                        return await self._maker.make(creation)
                    except BackupInProgressError as error:
                        refused += 1
                        if creation.if_running == "raise" or self._time_left(creation) == 0:
                            raise
                        logger.debug("the server refuses a second backup: %s", error)
                elif creation.if_running == "adopt":
                    return running
            if running is not None:
                await self._end_of(running, creation)
            else:
                await asyncio.sleep(_AFTER_REFUSAL(Attempt(refused)))

    async def _read(self, creation: Creation) -> tuple[Backup, ...]:
        """The backups of the server, if they decide what to do; notes what was there before.

        Raises `PaginationError` where the list cannot be read completely.
        """
        if creation.if_running == "raise" and creation.sought_marker is None:
            return ()
        kind = BackupType.MANUAL if creation.if_running == "raise" else None
        sweep = await self._finder.read_server(creation.server_id, kind)
        manual = [backup for backup in sweep.items if backup.is_manual]
        if sweep.complete:
            self._known.list(creation.server_id, manual)
        elif not self._answer(creation, manual) and not self._running(creation, sweep.items):
            raise PaginationError(
                f"the list of server {creation.server_id} could not be read completely, so that it "
                "does not tell what is there: nothing was sent"
            )
        creation.known_ids = frozenset(backup.id for backup in manual)
        creation.read_before = True
        return sweep.items

    def _answer(self, creation: Creation, held: Iterable[Backup]) -> Backup | None:
        """The backup that an earlier try with the caller's own marker made."""
        if creation.sought_marker is None:
            return None
        made = [
            backup
            for backup in held
            if backup.is_manual
            and not backup.is_failed
            and _tags.marker_of(backup.description) == creation.sought_marker
        ]
        made.sort(key=lambda backup: backup.id)
        if made[1:]:
            logger.warning(
                "server %s has several backups with the marker %r: %s; the first is taken",
                creation.server_id,
                creation.sought_marker,
                [backup.id for backup in made],
            )
        return self._known.give(made[0]) if made else None

    def _running(self, creation: Creation, held: Iterable[Backup]) -> Backup | None:
        """The newest running backup, if the caller asked to mind it."""
        if creation.if_running == "raise":
            return None
        running = [backup for backup in held if backup.status == BackupStatus.IN_PROGRESS]
        return max(running, key=lambda backup: backup.id, default=None)

    async def _end_of(self, running: Backup, creation: Creation) -> None:
        """Wait until another backup has ended, well or not."""
        left = self._time_left(creation)
        try:
            await self._wait(running, None if left == math.inf else left)
        except WaitTimeoutError as error:
            error.add_note(f"no backup of server {creation.server_id} was asked for")
            raise
        except WaitError as error:
            if self._stopped:
                raise
            logger.debug("the wait for the running backup ended: %s", error)

    def _time_left(self, creation: Creation) -> float:
        """The seconds for which the create may wait for other backups."""
        return max(0.0, creation.wait_until - asyncio.get_running_loop().time())
