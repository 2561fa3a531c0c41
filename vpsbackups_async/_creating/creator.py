"""The create: sent once, settled by looking where its answer is lost, never left unknown."""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Final, Literal

from attrs import define, evolve, field

from vpsbackups_async import _wire
from vpsbackups_async._creating.settling import Doubt, Sight, may_create_again, new_since, settle
from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.prefetch import Fetch
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._transport.retry import RetryPolicy, is_ambiguous
from vpsbackups_async._transport.transport import Flight, Transport
from vpsbackups_async.errors import (
    ApiError,
    BackupInProgressError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    CreateOutcomeUnknownError,
    InvalidResponseError,
    ManualBackupLimitError,
    VPSBackupsError,
    WaitError,
)
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.models import Backup, BackupStatus, BackupType, Page

logger = logging.getLogger("vpsbackups_async")

IfRunning = Literal["raise", "wait", "adopt"]

MANUAL_BACKUP_LIMIT: Final = 10
"""Manual backups that a server may have: the provider's own page on backups."""
_BUSY_WORDS: Final = ("progress", "running", "ongoing")


@define(eq=False, repr=False)
class _Creation:
    """One create on its way."""

    request: _wire.Request
    server_id: int
    description: str | None
    if_running: IfRunning
    flight: Flight = field(factory=Flight)
    doubt: Doubt | None = None
    posts: int = 0

    @property
    def is_committed(self) -> bool:
        """Whether the server may be making the backup, or have made it."""
        return self.flight.in_air or self.doubt is not None


class Creator:
    """Makes backups for one client, one at a time on a server."""

    def __init__(
        self,
        transport: Transport,
        fetch: Fetch,
        links: NextLinks,
        wait: Callable[[Backup], Awaitable[Backup]],
        retry: RetryPolicy,
        emit: Callable[[Event], None],
    ) -> None:
        self._transport = transport
        self._fetch = fetch
        self._links = links
        self._wait = wait
        self._retry = retry
        self._emit = emit
        self._turns: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._left: set[asyncio.Task[Backup]] = set()
        self._newest = 0
        self._stopped = False

    async def create(
        self, server_id: int, description: str | None, if_running: IfRunning
    ) -> Backup:
        """The backup; see `BackupsClient.create`."""
        if self._stopped:
            raise ConfigurationError("this client is being closed: it creates no further backup")
        request = _wire.create_request(server_id, description)
        creation = _Creation(request, server_id, description, if_running)
        task = asyncio.create_task(self._in_turn(creation), name=f"vpsbackups-create-{server_id}")
        try:
            made = await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                self._report(creation, task)
            elif creation.is_committed:
                creation.flight.grounded = True
                self._left.add(task)
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

    def _report(self, creation: _Creation, task: asyncio.Task[Backup]) -> None:
        """Log what became of a create whose caller was cancelled, and emit it as an event."""
        self._left.discard(task)
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
        """Begin nothing any more."""
        self._stopped = True

    async def close(self) -> None:
        """Wait for creates whose callers were cancelled, no longer than one can take."""
        if self._left:
            patience = self._transport.timeouts.attempt + self._retry.create_grace
            await asyncio.wait(self._left, timeout=patience)
        left = tuple(self._left)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _in_turn(self, creation: _Creation) -> Backup:
        turn = self._turns.setdefault(creation.server_id, asyncio.Lock())
        async with turn:
            while True:
                if creation.if_running != "raise":
                    running = await self._running(creation.server_id)
                    if running is not None and creation.if_running == "adopt":
                        return running
                    if running is not None:
                        await self._end_of(running)
                try:
                    return await self._make(creation)
                except BackupInProgressError:
                    if creation.if_running == "raise":
                        raise

    async def _running(self, server_id: int) -> Backup | None:
        """The newest backup that runs on a server, None if none does."""
        running = [
            backup
            for backup in await self._held(server_id)
            if backup.status == BackupStatus.IN_PROGRESS
        ]
        return max(running, key=lambda backup: backup.id, default=None)

    async def _end_of(self, running: Backup) -> None:
        """Wait for the end of another backup, whichever it is."""
        try:
            await self._wait(running)
        except WaitError as error:
            if self._stopped:
                raise
            logger.debug("a backup that was in the way ended: %s", error)

    # --- Sending and settling --------------------------------------------------------------------

    async def _make(self, creation: _Creation) -> Backup:
        """Send the create until it is known what became of it."""
        while True:
            began = asyncio.get_running_loop().time()
            before = self._newest
            creation.posts += 1
            try:
                reply = await self._transport.send(creation.request, creation.flight)
                made = _wire.read_backup(reply)
            except VPSBackupsError as error:
                failure = error
            else:
                self._newest = max(self._newest, made.id)
                if creation.doubt is not None:
                    await self._warn_of_twins(creation.doubt, made)
                return made
            if creation.doubt is None:
                if not (is_ambiguous(failure) or isinstance(failure, InvalidResponseError)):
                    raise await self._recognised(failure, creation.server_id)
                creation.doubt = Doubt(creation.server_id, creation.description, began, before)
            found = await self._settle(creation, creation.doubt, failure)
            if found is not None:
                self._newest = max(self._newest, found.id)
                return found

    async def _settle(
        self, creation: _Creation, doubt: Doubt, failure: VPSBackupsError
    ) -> Backup | None:
        """The backup that an unanswered create made; None if it may be sent again.

        Raises `CreateOutcomeUnknownError`, or a later refusal where nothing was made before it.
        """
        if self._retry.attempts == 1:
            raise doubt.unknown((), failure.describe()) from failure

        async def look() -> Sight:
            return await self._sight(creation.server_id)

        logger.debug("looking for the backup of a create without an answer: %s", failure)
        loop = asyncio.get_running_loop()
        end = doubt.began + self._transport.timeouts.deadline
        grace = min(self._retry.create_grace, end - loop.time())
        try:
            async with asyncio.timeout_at(end):
                found = await settle(doubt, look, grace=grace)
        except CreateOutcomeUnknownError as unknown:
            raise unknown from failure
        except TimeoutError:
            raise doubt.unknown((), failure.describe()) from failure
        if found is not None:
            logger.info("found backup %s, whose create had no answer", found.id)
            return found
        refused = isinstance(failure, ApiError) and failure.status < 500
        if refused and not creation.flight.grounded:
            creation.doubt = None
            raise await self._recognised(failure, creation.server_id)
        if (
            creation.flight.grounded
            or creation.posts >= self._retry.attempts
            or grace < self._retry.create_grace
            or not may_create_again(failure)
        ):
            raise doubt.unknown((), failure.describe()) from failure
        return None

    async def _warn_of_twins(self, doubt: Doubt, made: Backup) -> None:
        """Log where a create that counted as not made was made after all."""
        try:
            sight = await self._sight(doubt.server_id)
        except VPSBackupsError:
            return
        twins = [one.id for one in new_since(doubt, sight) if one.id != made.id]
        if twins:
            logger.warning(
                "server %s got backup %s, but %s may be of the same create, which was carried out "
                "late: delete one of them if so",
                doubt.server_id,
                made.id,
                twins,
            )

    async def _sight(self, server_id: int) -> Sight:
        """What a look at a server's manual backups shows, and when on the server's clock."""
        loop = asyncio.get_running_loop()
        server_time: datetime | None = None
        at = loop.time()

        async def fetch(query: str) -> Page:
            nonlocal server_time, at
            reply = await self._transport.send(_wire.list_request(query))
            server_time, at = _wire.date_of(reply.headers), loop.time()
            return _wire.read_page(reply)

        walk = Walk(fetch, _wire.list_query(server_id, BackupType.MANUAL, None), self._links)
        held = await self._all(walk, server_id)
        return Sight(held, server_time, at, walk.complete)

    async def _held(self, server_id: int) -> list[Backup]:
        """All backups of a server."""
        walk = Walk(self._fetch, _wire.list_query(server_id, None, None), self._links)
        return await self._all(walk, server_id)

    @staticmethod
    async def _all(walk: Walk, server_id: int) -> list[Backup]:
        """The walk's backups, without what a server that ignores filters adds."""
        held: list[Backup] = []
        async with aclosing(walk.pages()) as pages:
            async for page in pages:
                held.extend(backup for backup in page.items if backup.server.id == server_id)
        return held

    async def _recognised(self, refusal: VPSBackupsError, server_id: int) -> VPSBackupsError:
        """The refusal of a create as the error that says why, going by what the server holds.

        How the API words these refusals is not documented, so that the words are only a hint.
        """
        if not isinstance(refusal, BadRequestError | ConflictError) or (
            set(refusal.field_errors) == {"description"}
        ):
            return refusal
        try:
            held = await self._held(server_id)
        except VPSBackupsError:
            return refusal
        full = sum(backup.is_manual for backup in held) >= MANUAL_BACKUP_LIMIT
        busy = any(backup.status == BackupStatus.IN_PROGRESS for backup in held)
        said = refusal.describe().casefold()
        if busy and (not full or any(word in said for word in _BUSY_WORDS)):
            return BackupInProgressError(*refusal.args)
        return ManualBackupLimitError(*refusal.args) if full else refusal
