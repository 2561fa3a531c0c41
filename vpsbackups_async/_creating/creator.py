"""Creates, one at a time on a server, with what is there already."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import date, timedelta
from functools import partial
from typing import Final

from vpsbackups_async import _tags
from vpsbackups_async._bulk.places import without_place
from vpsbackups_async._creating.creates import Creates
from vpsbackups_async._creating.creation import Creation, IfRunning, first_of, late
from vpsbackups_async._creating.ensuring import Need, order_made
from vpsbackups_async._creating.looks import Look, Looks
from vpsbackups_async._creating.maker import Maker
from vpsbackups_async._creating.refusals import says_busy
from vpsbackups_async._creating.settling import Search, search
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._transport.retry import RetryPolicy
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async.backoff import Attempt, ExponentialBackoff
from vpsbackups_async.errors import (
    ApiError,
    BackupFailedError,
    BackupInProgressError,
    CreateOutcomeUnknownError,
    ManualBackupLimitError,
    PaginationError,
    WaitError,
    WaitTimeoutError,
)
from vpsbackups_async.models import Backup, BackupType, ended_badly, is_running

__all__ = ["Creator", "IfRunning"]

logger = logging.getLogger("vpsbackups_async")

_BETWEEN_ROUNDS: Final = ExponentialBackoff(1.0, maximum=120.0)
"""The pause where the list does not show how a running backup ended, or what runs at all."""


class Creator:
    """Makes backups for one client, one at a time on a server.

    What it shares with other creators of the client, whose timeouts and retries differ, is in
    `creates`. `finder` looks at the lists.
    """

    def __init__(
        self, transport: Transport, finder: Finder, retry: RetryPolicy, creates: Creates
    ) -> None:
        self._looks = Looks(finder, creates.known, transport.timeouts.attempt)
        self._creates = creates
        self._known = creates.known
        self._maker = Maker(transport, self._looks, retry, creates.known)
        self._deadline = transport.timeouts.deadline
        self._grace = retry.create_grace
        self._longest = transport.timeouts.attempt + max(
            retry.create_grace, retry.create_again_after or 0.0
        )

    async def create(
        self,
        server_id: int,
        description: str | None,
        *,
        if_running: IfRunning = "raise",
        timeout: float | None = None,
        marker: bool | str = False,
        keep: bool | date | None = None,
        job: str | None = None,
        read_before: bool = False,
        is_new: bool = False,
        looks_after: bool = True,
        is_too_late: Callable[[], bool] | None = None,
        before_again: Callable[[], Awaitable[object]] | None = None,
    ) -> Backup:
        """The backup; see `BackupsClient.create`.

        With `read_before` the server's manual backups are read completely first, so that a lost
        answer is settled with certainty. `is_new` says of the caller's own marker that no backup
        can have it yet. Without `looks_after` nothing is looked for where there is no answer, and
        `CreateOutcomeUnknownError` is raised at once. `is_too_late` is asked before each attempt;
        if it says so, nothing more is sent, and `DeadlineExceededError` is raised. `before_again`
        is awaited before each request but the first, as after a 503.
        """
        creation = Creation(server_id, description, if_running)
        creation.reads = read_before
        creation.looks_after = looks_after
        creation.sending.is_too_late = is_too_late
        creation.before_again = before_again
        creation.label(keep, job)
        if not isinstance(marker, bool):
            creation.sought = not is_new
            creation.mark(_tags.check_marker(marker))
        elif marker:
            creation.mark(_tags.new_marker())
        creation.longest = self._longest
        if if_running == "adopt" and timeout is None:
            timeout = self._deadline  # the refusals of a backup that no list shows must end
        if timeout is not None:
            creation.wait_until = asyncio.get_running_loop().time() + timeout
        return await self._creates.run(creation, self._create)

    async def ensure(
        self,
        server_id: int,
        description: str | None,
        within: timedelta,
        running_within: timedelta,
    ) -> Backup:
        """The backup; see `BackupsClient.ensure`."""
        need = Need(server_id, description or "", within, running_within)
        creation = Creation(server_id, description, need=need)
        creation.longest = self._longest
        return await self._creates.run(creation, self._create)

    async def settle(self, error: CreateOutcomeUnknownError, server_id: int) -> Backup:
        """The backup of a create that failed so; see `BackupsClient.settle`."""
        async with self._creates.lock(server_id):
            return await self._maker.settle(error, server_id)

    def adopt(self, backup: Backup) -> None:
        """Take the backup for that of a create without an answer; it has the create's marker."""
        self._known.give(self._maker.found(backup, certain=True))

    # --- One at a time on a server ---------------------------------------------------------------

    async def _create(self, creation: Creation) -> Backup:
        """The backup, made while no other create of this client runs on the server.

        Others may run there while this one waits for the end of a running backup.
        """
        rounds = 0
        loop = asyncio.get_running_loop()
        while True:
            creation.begin(loop.time(), self._deadline)
            lock = self._creates.lock(creation.server_id)
            held = await self._in_turn(creation, lock)
            try:
                if there := self._answer(creation, held):
                    return there
                running = self._running(creation, held)
                if running is None:
                    return await self._make(creation)
                if creation.if_running == "adopt":
                    return self._known.give(running)
            except BackupInProgressError as error:
                if creation.if_running == "raise" or self._time_left(creation) == 0:
                    raise
                logger.debug("the server refuses a second backup: %s", error)
                running = None
            finally:
                lock.release()
            async with without_place():
                if running is None or not await self._has_ended(running, creation):
                    rounds += 1
                    pause = min(_BETWEEN_ROUNDS(Attempt(rounds)), self._time_left(creation))
                    async with self._creates.preparing(creation, math.inf):
                        await asyncio.sleep(pause)

    async def _in_turn(self, creation: Creation, lock: asyncio.Lock) -> Sequence[Backup]:
        """The backups of the server, as `_read` gives them, with the lock held.

        Raises `DeadlineExceededError` where the time of the call is over first.
        """
        in_line = min(creation.end, creation.wait_until)
        try:
            async with self._creates.preparing(creation, in_line):
                await lock.acquire()
        except TimeoutError:
            raise late(creation, "in line behind another create on this server") from None
        reading: asyncio.Timeout | None = None
        try:
            async with self._creates.preparing(creation, creation.end) as reading:
                return await self._read(creation)
        except BaseException as error:
            lock.release()
            if isinstance(error, TimeoutError) and reading is not None and reading.expired():
                raise late(creation, "while the server's backups were read") from None
            raise

    async def _read(self, creation: Creation) -> Sequence[Backup]:
        """The backups of the server, if they decide what to do; notes what was there before.

        Raises `PaginationError` where the list cannot be read completely.
        """
        if creation.if_running == "raise" and not (creation.sought or creation.reads):
            return ()
        kind = BackupType.MANUAL if creation.if_running == "raise" else None
        look = await self._looks.look(creation.server_id, kind)
        if creation.need is not None:
            creation.see(look)
            creation.mark(creation.need.marker(creation.now))
        manual = [backup for backup in look.backups if backup.is_manual]
        if not look.complete and (
            creation.need is not None
            or not (self._answer(creation, manual) or self._running(creation, look.backups))
        ):
            raise PaginationError(
                f"the list of server {creation.server_id} could not be read completely, so that it "
                "does not tell what is there: nothing was sent"
            )
        creation.known_ids = frozenset(backup.id for backup in manual)
        creation.read_before = True
        return look.backups

    def _answer(self, creation: Creation, held: Sequence[Backup]) -> Backup | None:
        """The backup that is there already: of an earlier try with the same marker, or recent."""
        if not creation.sought or creation.marker is None:
            return None
        if creation.need is not None:
            return self._recent(creation, creation.need, held)
        made = [
            backup
            for backup in held
            if backup.is_manual
            and not ended_badly(backup)
            and _tags.same(
                _tags.marker_of(self._known.asked.as_asked(backup).description), creation.marker
            )
        ]
        if not made:
            known = self._known.marked(creation.server_id, creation.marker)
            bad = {backup.id for backup in held if ended_badly(backup)}
            return None if known is None or known.id in bad else known
        return self._known.give(first_of(creation.server_id, made), creation.marker)

    def _recent(self, creation: Creation, need: Need, held: Iterable[Backup]) -> Backup | None:
        """The backup that `ensure` asks for; one that this client made may not be listed yet."""
        known = {backup.id: backup for backup in held}
        for marker in need.recent_markers(creation.now):
            made = self._known.marked(creation.server_id, marker)
            if made is not None:
                known.setdefault(made.id, made)
        asked = self._known.asked
        need = need._replace(cut_at=asked.cut_at)
        newest = need.newest(map(asked.as_asked, known.values()), creation.now)
        if newest is None:
            return None
        if need.is_cut(newest.description):
            logger.warning(
                "backup %s of server %s is taken for the one that is asked for: its description is "
                "cut after %s characters, and begins in the same way",
                newest.id,
                newest.server.id,
                need.cut_at,
            )
        return self._known.give(known[newest.id])

    async def _make(self, creation: Creation) -> Backup:
        """A new backup, or the one that `ensure` asks for and another process made meanwhile."""
        try:
            return await self._maker.make(creation)
        except ApiError as refusal:
            if creation.need is None:
                raise
            there = await self._made_meanwhile(creation, refusal)
            if there is None:
                raise
            return there

    async def _made_meanwhile(self, creation: Creation, refusal: ApiError) -> Backup | None:
        """The backup of another process that a create for `ensure` was refused for.

        A list that does not show what the refusal tells of may lag behind it.
        """
        is_shown = isinstance(refusal, BackupInProgressError | ManualBackupLimitError)
        if not (is_shown or says_busy(refusal)):
            return None
        there: Backup | None = None

        def take(look: Look) -> bool:
            nonlocal there
            creation.see(look)
            there = self._answer(creation, look.backups)
            return there is not None

        look = partial(self._looks.look, creation.server_id)
        grace = 0.0 if is_shown else self._grace
        await search(Search(), look, take, grace=grace, end=creation.end)
        return there

    def _running(self, creation: Creation, held: Iterable[Backup]) -> Backup | None:
        """The newest running backup, if the caller asked to mind it."""
        if creation.if_running == "raise":
            return None
        running = [backup for backup in held if is_running(backup)]
        return max(running, key=order_made, default=None)

    async def _has_ended(self, running: Backup, creation: Creation) -> bool:
        """Wait for the end of another backup; False if no list shows it any more."""
        left = self._time_left(creation)
        try:
            await self._creates.wait(running, None if left == math.inf else left)
        except WaitError as error:
            if self._creates.stopped or isinstance(error, WaitTimeoutError):
                error.add_note(f"no backup of server {creation.server_id} was asked for")
                raise
            logger.debug("the wait for the running backup ended: %s", error)
            return isinstance(error, BackupFailedError)
        return True

    def _time_left(self, creation: Creation) -> float:
        """The seconds for which the create may wait for other backups."""
        return max(0.0, creation.wait_until - asyncio.get_running_loop().time())
