"""Works on one server of a run: does what the run is for, and notes how that ended."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, TypeVar

from attrs import evolve

from vpsbackups_async._creating.ensuring import Need
from vpsbackups_async._creating.looks import Look
from vpsbackups_async._pruning.plan import ServerPlan
from vpsbackups_async._pruning.rotation import RotateOptions, Rotation
from vpsbackups_async._tags import with_labels
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.deletions import Deletions
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.failures import failed
from vpsbackups_async.durable.guard import Guard
from vpsbackups_async.durable.items import (
    Item,
    Items,
    NoPlaceError,
    RunCancelledError,
    SupersededError,
)
from vpsbackups_async.durable.search import Found
from vpsbackups_async.durable.values import (
    BackupTask,
    EnsureTask,
    ItemState,
    Limits,
    RotateTask,
    RunOutcome,
)
from vpsbackups_async.errors import (
    AuthenticationError,
    BackupNeverAppearedError,
    PaginationError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, BackupRef

__all__ = ["Work"]

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("vpsbackups_async")

_RUNNING_WITHIN: Final = timedelta(hours=6)
"""For how long a backup that runs counts for `ensure`, as for `BackupsClient.ensure`."""
_APPEAR_GRACE: Final = 60.0
"""Seconds within which a list must show a backup, as for `BackupsClient.wait`."""
_NOTED_WITHIN: Final = 5.0
"""Seconds in which a create that has ended must be noted in the database, once it is stopped."""
_UNANSWERED_WITHIN: Final = 60.0
"""Seconds in which a worker that ends must have noted which creates must not be sent again."""
_LEFT_WITHIN: Final = 0.5
"""Seconds in which creates must end whose connections were closed."""
_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 16.0
_REREAD_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a list is read again that could not be read completely; it moves, or is wrong."""
_CUT_SHORT: Final = "the run was cancelled before all was deleted that the policy keeps no longer"
_PLACE_PAUSE: Final = 0.5
"""Seconds between two looks whether there is a place for another server."""


class Work:
    """What a worker does for each entry of the queue.

    Once `stop` was called, nothing more is sent; what is under way is left to another worker.
    `fail` is called with an error that ends the worker: a refused token, or one of the database.
    `rate` is how many creates may start a second, over all workers.
    """

    def __init__(
        self,
        client: WorkerClient,
        items: Items,
        limits: Limits,
        fail: Callable[[Exception], None],
        rate: float | None,
    ) -> None:
        self._client = client
        self._items = items
        self._limits = limits
        self._fail = fail
        self._stopped = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._is_hurried = False
        self._patience: asyncio.Timeout | None = None
        self.unsettled: int = 0
        """How many creates were on the wire as `hurry` left them to the next worker."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._line = asyncio.Lock()
        self._guard = Guard(client, items, limits, self._stopped, rate)

    async def do(self, entry: Entry) -> None:
        """Do what the run asks for; cancelled if it is left to another worker."""
        if self._stopped.is_set():
            raise asyncio.CancelledError
        task = asyncio.create_task(self._do(entry), name=f"vpsbackups-{entry.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await task

    async def learn_cancels(self) -> None:
        """Look whether runs were cancelled whose creates wait for their turns."""
        await self._guard.learn_cancels()

    async def stop(self) -> None:
        """Leave what is under way to other workers; creates that are on the wire end first.

        It closes the client, which sends nothing more.
        """
        self._stopped.set()
        left = tuple(self._tasks)
        for task in left:
            if not self._guard.is_sending(task):
                task.cancel()
        closing = asyncio.create_task(self._client.close(), name="vpsbackups-close")
        await asyncio.sleep(0)  # a close that has begun closes the connections where it is cut
        self._closing = closing
        if self._is_hurried:
            self.hurry()
        await asyncio.wait([closing])
        if not closing.cancelled():
            closing.result()
        if left:
            await asyncio.wait(left, timeout=_LEFT_WITHIN if closing.cancelled() else _NOTED_WITHIN)
        for task in left:  # the database is away
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._note_rest()

    async def _note_rest(self) -> None:
        """Wait for the database to note the creates that must not be sent again.

        Nothing is held up by it: while the database is away, no worker can do anything.
        """
        patience = _NOTED_WITHIN if self._is_hurried else _UNANSWERED_WITHIN
        try:
            async with asyncio.timeout(patience) as self._patience:
                await self._guard.note_rest()
        except TimeoutError:
            pass
        finally:
            self._patience = None
        if unnoted := self._guard.unnoted:
            logger.error(
                "the database did not take that servers %s may still be at work on their creates: "
                "look at their backups before another worker may create them again",
                unnoted,
            )

    def hurry(self) -> None:
        """Wait no longer for creates that are on the wire, now or once `stop` would wait for them.

        Their intents are in the database, so that the next worker looks for them.
        """
        self._is_hurried = True
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time() + _NOTED_WITHIN)
        unsettled = sum(self._guard.is_sending(task) for task in self._tasks)
        if self._closing is not None and self._closing.cancel() and unsettled:
            self.unsettled = unsettled
            logger.warning("%s creates are unsettled: the next worker looks for them", unsettled)

    async def _do(self, entry: Entry) -> None:
        try:
            await self._worked(entry)
        except Exception as error:
            # Of ours or of the database. The engine would take it for the end of this server.
            self._fail(error)
            raise asyncio.CancelledError from error

    async def _worked(self, entry: Entry) -> None:
        item = await self._claimed(entry)
        if item is None:
            return
        try:
            outcome = await self._outcome(item)
            await self._items.end(item, outcome)
        except SupersededError:
            logger.debug("server %s was taken over by another worker", entry.server_id)
            # Who took it over may have been late, and end: the engine is not to take it for done.
            raise asyncio.CancelledError from None

    async def _claimed(self, entry: Entry) -> Item | None:
        """The item once there is a place for it; None if it has ended.

        The engine does not count what was handed out again, so that it hands out too many.
        """
        with suppress(NoPlaceError):
            return await self._items.claim(entry)
        async with self._line:  # one of those that wait asks for all
            while True:
                with suppress(NoPlaceError):
                    return await self._items.claim(entry)
                await asyncio.sleep(_PLACE_PAUSE)

    async def _outcome(self, item: Item) -> RunOutcome:
        ended = RunOutcome(
            item.run.name,
            item.server_id,
            ItemState.COMPLETED,
            retry=item.retry,
            ended_at=datetime.now(UTC),
        )
        try:
            return evolve(await self._completed(item, ended), ended_at=datetime.now(UTC))
        except RunCancelledError:
            return await self._cancelled(item, ended)
        except (VPSBackupsError, ValueError, OSError) as error:
            if self._stopped.is_set():
                raise asyncio.CancelledError from error
            if isinstance(error, AuthenticationError):
                self._fail(error)
                raise asyncio.CancelledError from error
            if item.deleted or item.in_doubt:
                await self._look(item)
            return await self._with_others(item, failed(ended, error))

    async def _cancelled(self, item: Item, ended: RunOutcome) -> RunOutcome:
        """The outcome of a server whose run was cancelled while it was worked on."""
        began = item.backup_id is not None or item.deleted or item.in_doubt
        listed = await self._look(item) if began else ()
        outcome = evolve(
            ended,
            state=ItemState.CANCELLED,
            backup=next((one for one in listed if one.id == item.backup_id), None),
        )
        if item.backup_id is not None and isinstance(item.run.task, RotateTask):
            outcome = evolve(outcome, detail=_CUT_SHORT)
        return await self._with_others(item, outcome)

    async def _with_others(self, item: Item, outcome: RunOutcome) -> RunOutcome:
        """The outcome with whether its backup was there before, and with that one's twins."""
        if item.backup_id is None:
            return outcome
        return evolve(
            outcome,
            existing=isinstance(item.run.task, EnsureTask) and item.was_adopted,
            twins=await self._guard.twins(item, item.backup_id),
        )

    async def _look(self, item: Item) -> Sequence[Backup]:
        """Look once more at what is there, and was or may have been deleted, before that is told.

        Empty where the server cannot be looked at.
        """
        try:
            look = await self._client.look(item.server_id)
        except VPSBackupsError as error:
            logger.debug("no last look at server %s: %s", item.server_id, error)
            return ()
        Deletions(self._items, item).saw(look)
        return look.backups

    async def _completed(self, item: Item, ended: RunOutcome) -> RunOutcome:
        match item.run.task:
            case BackupTask(description, job):
                return await self._backed_up(item, description, job, ended)
            case EnsureTask() as task:
                return await self._ensured(item, task, ended)
            case RotateTask() as task:
                return await self._rotated(item, task, ended)

    async def _backed_up(
        self, item: Item, description: str | None, job: str | None, ended: RunOutcome
    ) -> RunOutcome:
        """Create a backup, unless it is known already, and wait for its end."""
        twins: tuple[int, ...] = ()
        backup = await self._known(item)
        if backup is None:
            found = await self._guard.create(item, description, job=job)
            backup, twins = await self._wait(found.backup), found.twins
        return evolve(ended, backup=backup, twins=twins or await self._twins(item, backup))

    async def _known(self, item: Item) -> Backup | None:
        """The backup whose id is noted, once it is completed; None if there is none.

        One that no list shows fails the item. In a retry it is looked for by its marker then, as
        after a create of unknown outcome.
        """
        if item.backup_id is None:
            return None
        try:
            return await self._wait(BackupRef(item.backup_id, item.server_id))
        except BackupNeverAppearedError:
            if item.retry == 0:
                raise
            return None

    async def _twins(self, item: Item, backup: Backup | None) -> tuple[int, ...]:
        return () if backup is None else await self._guard.twins(item, backup.id)

    async def _wait(self, backup: Backup | BackupRef) -> Backup:
        if self._stopped.is_set():
            raise asyncio.CancelledError
        return await self._client.wait(
            backup,
            backoff=self._limits.backoff,
            timeout=self._limits.wait_timeout,
            appear_grace=_APPEAR_GRACE,
        )

    # --- ensure ----------------------------------------------------------------------------------

    async def _ensured(self, item: Item, task: EnsureTask, ended: RunOutcome) -> RunOutcome:
        """Find a recent backup, or create one; a create that was begun is looked for first.

        In a retry, one that was found before and is gone since is looked for, too.
        """
        is_gone = item.was_adopted and item.retry > 0
        backup = None if is_gone else await self._known(item)
        if backup is not None:
            existing, twins = item.was_adopted, await self._twins(item, backup)
            return evolve(ended, backup=backup, existing=existing, twins=twins)
        description = task.description
        found = await self._guard.find(item, with_labels(description))
        if found is None:
            seconds = (self._limits.create_again_after or 0.0) if is_gone else 0.0
            recent = await self._recent(item, task, seconds)
            if recent is not None:
                await self._items.note_started(item, recent.id)
                return evolve(ended, backup=await self._wait(recent), existing=True)
            if is_gone:
                await self._items.give_up_backup(item)
            found = await self._guard.create(item, description, is_searched=True)
        else:
            await self._items.note_started(item, found.backup.id)
        backup = await self._wait(found.backup)
        return evolve(ended, backup=backup, twins=found.twins or await self._twins(item, backup))

    async def _recent(self, item: Item, task: EnsureTask, seconds: float) -> Backup | None:
        """A recent backup, or the one that was found before, by looks over so many seconds."""
        need = Need(item.server_id, task.description or "", task.within, _RUNNING_WITHIN)
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + seconds, _FIRST_PAUSE
        while True:
            look = await self._reread(item, partial(self._whole, item.server_id))
            there = [one for one in look.backups if one.id == item.backup_id]
            if there:
                return there[0]
            recent = need.newest(look.backups, look.server_time or datetime.now(UTC))
            left = end - loop.time()
            if recent is not None or left <= 0:
                return recent
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _MAX_PAUSE)

    async def _whole(self, server_id: int) -> Look:
        look = await self._client.look(server_id)
        if not look.complete:
            raise PaginationError(
                f"the list of server {server_id} could not be read completely, so that it "
                "does not tell what is there: nothing was sent"
            )
        return look

    async def _reread(self, item: Item, work: Callable[[], Awaitable[T]]) -> T:
        """What this gives; once more where a list cannot be read, and nothing was sent before."""
        before = item.posts, item.deleted, item.in_doubt
        for pause in _REREAD_PAUSES:
            try:
                return await work()
            except PaginationError as error:
                if (item.posts, item.deleted, item.in_doubt) != before:
                    raise
                logger.debug("server %s is looked at again: %s", item.server_id, error)
            await asyncio.sleep(pause)
        return await work()

    # --- rotate ----------------------------------------------------------------------------------

    async def _rotated(self, item: Item, task: RotateTask, ended: RunOutcome) -> RunOutcome:
        """Rotate, from where the worker before left it: deletions are safe to repeat."""
        options = RotateOptions(
            retention=task.retention,
            description=task.description,
            make_room=task.make_room,
            timeout=self._limits.wait_timeout,
            backoff=self._limits.backoff,
        )
        create = _GuardedCreate(self._guard, item)
        deletions = Deletions(self._items, item)
        rotator = self._client.rotator(options, create, noting=deletions.noted, saw=deletions.saw)
        begun = await self._begun(item, options.labelled)
        try:
            rotation = (
                await self._reread(item, partial(rotator.begin, item.server_id))
                if begun is None
                else Rotation(item.server_id, ServerPlan(item.server_id), begun.backup)
            )
            if self._stopped.is_set():
                raise asyncio.CancelledError
            rotation = await rotator.finish(rotation)
        except VPSBackupsError as error:
            if deletions.were_stopped:
                raise RunCancelledError from error
            raise
        twins = create.twins if begun is None else begun.twins
        return evolve(
            ended,
            backup=rotation.backup,
            twins=twins or await self._twins(item, rotation.backup),
        )

    async def _begun(self, item: Item, labelled: str) -> Found | None:
        """The backup that this rotation, or its worker before, made; None if there is none."""
        known = await self._known(item)
        if known is not None:
            return Found(known)
        found = await self._guard.find(item, labelled)
        if found is not None:
            await self._items.note_started(item, found.backup.id)
        return found


class _GuardedCreate:
    """Creates the backup of a rotation through the guard, which has looked for it before.

    Nothing is read between the turn of a create and its request, which would come too late to it:
    the guard tells by the marker alone which backup is the new one.
    """

    def __init__(self, guard: Guard, item: Item) -> None:
        self._guard = guard
        self._item = item
        self.twins: tuple[int, ...] = ()

    async def __call__(self, server_id: int, description: str | None) -> Backup:
        """The backup of the item; raises `ValueError` for another server."""
        if server_id != self._item.server_id:
            raise ValueError(f"this create is for server {self._item.server_id}, not {server_id}")
        found = await self._guard.create(self._item, description, is_searched=True)
        self.twins = found.twins
        return found.backup
