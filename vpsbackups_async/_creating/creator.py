"""Creates, one at a time on a server, each settled if its answer is lost."""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Literal

from attrs import define, evolve, field

from vpsbackups_async import _wire
from vpsbackups_async._creating.refusals import may_be_recognised, recognised
from vpsbackups_async._creating.settling import (
    Look,
    UnansweredCreate,
    may_create_again,
    new_since,
    settle,
)
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._transport.attempts import is_ambiguous
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async.errors import (
    ApiError,
    BackupInProgressError,
    ConfigurationError,
    CreateOutcomeUnknownError,
    InvalidResponseError,
    VPSBackupsError,
    WaitError,
)
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.models import Backup, BackupStatus, BackupType

logger = logging.getLogger("vpsbackups_async")

IfRunning = Literal["raise", "wait", "adopt"]


@define(eq=False, repr=False)
class _Creation:
    """One call of `create`, with all of its requests."""

    request: _wire.Request
    server_id: int
    description: str | None
    if_running: IfRunning
    sending: SendState = field(factory=SendState)
    unanswered: UnansweredCreate | None = None
    posts: int = 0

    @property
    def is_committed(self) -> bool:
        """Whether the server may be making the backup, or have made it."""
        return self.sending.on_the_wire or self.unanswered is not None


class Creator:
    """Makes backups for one client, one at a time on a server."""

    def __init__(
        self,
        transport: Transport,
        finder: Finder,
        wait: Callable[[Backup], Awaitable[Backup]],
        retry: RetryPolicy,
        emit: Callable[[Event], None],
    ) -> None:
        self._transport = transport
        self._finder = finder
        self._wait = wait
        self._retry = retry
        self._emit = emit
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._open: dict[asyncio.Task[Backup], _Creation] = {}
        self._orphans: set[asyncio.Task[Backup]] = set()  # of those, whose callers were cancelled
        self._newest_id = 0
        self._stopped = False

    async def create(
        self, server_id: int, description: str | None, if_running: IfRunning
    ) -> Backup:
        """The backup; see `BackupsClient.create`."""
        if self._stopped:
            raise _closing_error()
        request = _wire.create_request(server_id, description)
        creation = _Creation(request, server_id, description, if_running)
        task = asyncio.create_task(self._in_order(creation), name=f"vpsbackups-create-{server_id}")
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

    def _report(self, creation: _Creation, task: asyncio.Task[Backup]) -> None:
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
        """Refuse further creates."""
        self._stopped = True

    async def close(self) -> None:
        """Wait for creates that the server may be carrying out, no longer than one can take.

        Creates whose callers were cancelled are cancelled after that.
        """
        committed = {task for task, creation in self._open.items() if creation.is_committed}
        for task in committed:
            self._open[task].sending.no_more_attempts = True
        if waited := committed | self._orphans:
            patience = self._transport.timeouts.attempt + self._retry.create_grace
            await asyncio.wait(waited, timeout=patience)
        left = tuple(self._orphans)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _in_order(self, creation: _Creation) -> Backup:
        """Create while no other create of this client runs on the server."""
        async with self._locks.setdefault(creation.server_id, asyncio.Lock()):
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
        """The newest running backup of a server, None if there is none."""
        held = await self._held(server_id)
        running = [backup for backup in held if backup.status == BackupStatus.IN_PROGRESS]
        return max(running, key=lambda backup: backup.id, default=None)

    async def _end_of(self, running: Backup) -> None:
        """Wait until another backup has ended, well or not."""
        try:
            await self._wait(running)
        except WaitError as error:
            if self._stopped:
                raise
            logger.debug("the wait for the running backup ended: %s", error)

    # --- Sending and settling --------------------------------------------------------------------

    async def _make(self, creation: _Creation) -> Backup:
        """Send the create until its outcome is known."""
        while True:
            if self._stopped and creation.unanswered is None:
                raise _closing_error()  # it was in line when the client was closed
            began = asyncio.get_running_loop().time()
            newest_id = self._newest_id
            creation.posts += 1
            try:
                reply = await self._transport.send(creation.request, creation.sending)
                made = _wire.read_backup(reply)
            except VPSBackupsError as error:
                failure = error
            else:
                self._newest_id = max(self._newest_id, made.id)
                if creation.unanswered is not None:
                    await self._warn_of_twins(creation.unanswered, made)
                return made
            if creation.unanswered is None:
                if not (is_ambiguous(failure) or isinstance(failure, InvalidResponseError)):
                    raise await self._recognised(failure, creation.server_id)
                creation.unanswered = UnansweredCreate(
                    creation.server_id, creation.description, began, newest_id
                )
            found = await self._settle(creation, creation.unanswered, failure)
            if found is not None:
                self._newest_id = max(self._newest_id, found.id)
                return found

    async def _settle(
        self, creation: _Creation, unanswered: UnansweredCreate, failure: VPSBackupsError
    ) -> Backup | None:
        """The backup that an unanswered create made; None if the create may be sent again.

        Raises `CreateOutcomeUnknownError`, or a later refusal where nothing was made before it.
        """
        if self._retry.attempts == 1:
            raise unanswered.unknown((), failure.describe()) from failure

        async def look() -> Look:
            return await self._look(creation.server_id)

        logger.debug("looking for the backup of a create without an answer: %s", failure)
        loop = asyncio.get_running_loop()
        end = unanswered.began + self._transport.timeouts.deadline
        grace = min(self._retry.create_grace, end - loop.time())
        try:
            async with asyncio.timeout_at(end):
                found = await settle(unanswered, look, grace=grace)
        except CreateOutcomeUnknownError as unknown:
            raise unknown from failure
        except TimeoutError:
            raise unanswered.unknown((), failure.describe()) from failure
        if found is not None:
            logger.info("found backup %s, whose create had no answer", found.id)
            return found
        refused = isinstance(failure, ApiError) and failure.status < 500
        if refused and not creation.sending.no_more_attempts:
            creation.unanswered = None
            raise await self._recognised(failure, creation.server_id)
        if (
            creation.sending.no_more_attempts
            or creation.posts >= self._retry.attempts
            or grace < self._retry.create_grace
            or not may_create_again(failure)
        ):
            raise unanswered.unknown((), failure.describe()) from failure
        return None

    async def _warn_of_twins(self, unanswered: UnansweredCreate, made: Backup) -> None:
        """Log if an earlier request of the same create made a backup after all."""
        try:
            look = await self._look(unanswered.server_id)
        except VPSBackupsError:
            return
        twins = [one.id for one in new_since(unanswered, look) if one.id != made.id]
        if twins:
            logger.warning(
                "server %s got backup %s, but %s may be of the same create, which was carried out "
                "late: delete one of them if so",
                unanswered.server_id,
                made.id,
                twins,
            )

    async def _look(self, server_id: int) -> Look:
        """The manual backups of a server now, and the time on the server's clock."""
        loop = asyncio.get_running_loop()
        server_time: datetime | None = None
        at = loop.time()

        def note_time(response: _wire.Response) -> None:
            nonlocal server_time, at
            server_time, at = _wire.date_of(response.headers), loop.time()

        sweep = await self._finder.read_server(server_id, BackupType.MANUAL, on_response=note_time)
        return Look(sweep.items, server_time, at, sweep.complete)

    async def _held(self, server_id: int) -> tuple[Backup, ...]:
        """All backups of a server."""
        return (await self._finder.read_server(server_id)).items

    async def _recognised(self, refusal: VPSBackupsError, server_id: int) -> VPSBackupsError:
        """A refused create as the error that says why, if the server's backups can be read."""
        if not may_be_recognised(refusal):
            return refusal
        try:
            return recognised(refusal, await self._held(server_id))
        except VPSBackupsError:
            return refusal


def _closing_error() -> ConfigurationError:
    return ConfigurationError("this client is being closed: it creates no further backup")
