"""Carries plans out: looks at each server again, deletes, and looks whether that happened."""

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from vpsbackups_async._bulk.fan_out import FanOut
from vpsbackups_async._bulk.meter import Meter
from vpsbackups_async._bulk.source import open_source
from vpsbackups_async._creating.looks import Looks
from vpsbackups_async._pruning.looks import Held, look_at
from vpsbackups_async._pruning.plan import Caps, PrunePlan, ServerPlan, check_separate
from vpsbackups_async._pruning.unreported import Unreported
from vpsbackups_async._pruning.watched import Decide, Problem, Watched, is_gone
from vpsbackups_async._transport.calls import BeforeAgain
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async.errors import (
    AuthenticationError,
    NotAttemptedError,
    StalePlanError,
    VPSBackupsError,
)
from vpsbackups_async.events import DeletionEnded
from vpsbackups_async.models import Backup, BackupRef, Outcome, as_utc

__all__ = ["Delete", "Deleted", "Pruner"]

Deleted = Outcome[BackupRef, Backup]

_CONCURRENCY: Final = 16
_GONE_WITHIN: Final = 10.0
"""Seconds after its 204 at which a backup that is still listed counts as not deleted."""
_FIRST_PAUSE: Final = 0.5
_SKEW: Final = timedelta(minutes=10)


class Delete(Protocol):
    """Deletes a backup; raises what `BackupsClient.delete` does."""

    async def __call__(self, backup_id: int, /) -> None: ...


Deleting = Callable[[BeforeAgain], Delete]
"""What deletes backups, and awaits the given function before an attempt that is not the first."""
Give = Callable[[Deleted], object]


class Pruner:
    """Deletes what plans say, and nothing else; `looks` sees the lists of servers."""

    def __init__(self, looks: Looks, deleting: Deleting, monitor: Monitor) -> None:
        self.looks = looks
        self._deleting = deleting
        self._monitor = monitor

    def apply(self, plan: PrunePlan, caps: Caps, max_age: timedelta) -> AsyncGenerator[Deleted]:
        """One outcome for each backup of the plan; see `BackupsClient.apply`."""
        check_separate(plan.servers)
        caps.check(plan.servers, plan.retention.job)
        age = datetime.now(UTC) - as_utc(plan.made_at)
        if not -_SKEW <= age <= max_age:
            raise StalePlanError(
                f"the plan is {age} old, and may be {max_age}: nothing was deleted"
            )
        return self._apply(plan, (max_age - age).total_seconds())

    async def _apply(self, plan: PrunePlan, seconds_left: float) -> AsyncGenerator[Deleted]:
        end = asyncio.get_running_loop().time() + seconds_left
        ready: asyncio.Queue[Deleted | None] = asyncio.Queue()
        with Unreported() as unreported:

            async def prune(server: ServerPlan, give: Give) -> None:
                watched = Watched(self.looks, server, plan.retention.decide, end)
                await self._prune(watched, None, unreported, give)

            pruning = asyncio.create_task(_prune_all(plan, prune, ready))
            try:
                while (outcome := await ready.get()) is not None:
                    unreported.report(outcome.key.id)
                    yield outcome
                    ready.task_done()
                await pruning
            finally:
                pruning.cancel()
                await asyncio.gather(pruning, return_exceptions=True)

    async def prune(self, plan: ServerPlan, decide: Decide, seen: Held | None) -> list[Deleted]:
        """One outcome for each backup that the plan deletes, as `decide` still says.

        `seen` is a look that was just taken; without it, the server is looked at before. Raises
        `StalePlanError` if its backups have changed, and other errors of the look: then nothing was
        deleted. If it is cancelled, what was deleted is logged.
        """
        outcomes: list[Deleted] = []
        watched = Watched(self.looks, plan, decide, math.inf)
        with Unreported() as unreported:
            await self._prune(watched, seen, unreported, outcomes.append)
        return outcomes

    async def _prune(
        self, watched: Watched, seen: Held | None, unreported: Unreported, give: Give
    ) -> None:
        """As `prune`, but gives each outcome once it is known.

        The look is repeated before a deletion once it is no longer fresh, and before each retry. If
        it fails then, its error is that of the rest.
        """
        await watched.begin(seen)
        delete = self._deleting(_unless(watched.problem_now))
        obstacle: Exception | None = None
        for backup in watched.plan.deleted:
            obstacle = obstacle or await watched.problem()
            for gone in watched.take_gone():
                give(_outcome(gone, None))
            if obstacle is not None or backup.id not in watched.there:
                give(_outcome(backup, obstacle))
                continue
            error = await self._delete(delete, backup, unreported)
            watched.note(backup, error)
            if error is not None and not is_gone(error):
                give(_outcome(backup, error))
            if isinstance(error, AuthenticationError):
                obstacle = _not_attempted(error)
        await self._confirm(watched.plan.server_id, watched.done, give)

    async def _delete(
        self, delete: Delete, backup: Backup, unreported: Unreported
    ) -> Exception | None:
        """Delete the backup, and tell how that ended; the error, None if there was none."""
        deleted: bool | None = None
        error: Exception | None = None
        unreported.ask(backup)
        try:
            error = await _failure(delete(backup.id))
            if error is None or is_gone(error):
                deleted = True
            elif not (isinstance(error, VPSBackupsError) and error.in_doubt):
                deleted = False
            unreported.end(backup, error)
        finally:
            if self._monitor.emit is not None:
                self._monitor.emit(DeletionEnded(backup, deleted, error))
        return error

    async def free(self, backup: Backup, problem: Problem) -> None:
        """Delete this backup, and raise an error unless it is known to be gone.

        A deletion that failed is tried again only if there is no `problem`.
        """
        with Unreported() as unreported:
            failure = await self._delete(self._deleting(_unless(problem)), backup, unreported)
            if failure is None or is_gone(failure):
                outcomes: list[Deleted] = []
                await self._confirm(backup.server.id, [backup], outcomes.append)
                failure = outcomes[0].error
        if failure is not None:
            failure.add_note(f"backup {backup.id} was to free a place, and nothing was created")
            raise failure

    async def _confirm(self, server_id: int, deleted: Sequence[Backup], give: Give) -> None:
        """Give the outcome of each of the backups, just deleted, once the list shows it no more.

        The list may lag behind, so it is read for ten seconds.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _GONE_WITHIN
        left, pause = list(deleted), _FIRST_PAUSE
        failure: Exception | None = None
        while left:
            try:
                held = await look_at(self.looks, server_id)
            except VPSBackupsError as error:
                failure = error
            else:
                failure = None
                listed = {backup.id for backup in held.backups}
                for gone in (one for one in left if one.id not in listed):
                    give(_outcome(gone, None))
                left = [one for one in left if one.id in listed]
            if not left or loop.time() >= end or isinstance(failure, AuthenticationError):
                break
            await asyncio.sleep(min(pause, end - loop.time()))
            pause *= 2
        for backup in left:
            give(_outcome(backup, failure or _still_listed(backup)))


async def _prune_all(
    plan: PrunePlan,
    prune: Callable[[ServerPlan, Give], Awaitable[None]],
    ready: asyncio.Queue[Deleted | None],
) -> None:
    """Put the outcome of each backup into `ready`, and None at the end.

    No further server is begun while an outcome is not taken.
    """

    async def prune_one(server: ServerPlan) -> None:
        left = {backup.id: backup for backup in server.deleted}

        def give(outcome: Deleted) -> None:
            del left[outcome.key.id]
            if isinstance(outcome.error, AuthenticationError):
                run.halt(outcome.error)
            ready.put_nowait(outcome)

        error = await _failure(prune(server, give))
        for backup in list(left.values()):
            give(_outcome(backup, error))

    run: FanOut[ServerPlan, None] = FanOut(
        prune_one,
        open_source([server for server in plan.servers if server.deleted]),
        _CONCURRENCY,
        Meter(None, ()),
    )
    try:
        async with aclosing(run.outcomes()) as ended:
            async for server in ended:
                if server.error is not None:
                    for backup in server.key.deleted:
                        ready.put_nowait(_outcome(backup, server.error))
                await ready.join()
    finally:
        ready.put_nowait(None)


async def _failure(work: Awaitable[None]) -> Exception | None:
    """The error that the work ended with, None if there was none."""
    try:
        await work
    except Exception as error:  # noqa: BLE001  # also what a subclass or the caller's limiter raises
        return error
    return None


def _unless(problem: Problem) -> BeforeAgain:
    """What raises the error that it is given, before another attempt, if there is a problem."""

    async def check(error: VPSBackupsError) -> None:
        found = await problem()
        if found is not None:
            note = f"no further attempt: {found}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise error

    return check


def _still_listed(backup: Backup) -> VPSBackupsError:
    error = VPSBackupsError(
        f"backup {backup.id} of server {backup.server.id} is still listed "
        f"{_GONE_WITHIN:.0f} seconds after the server said that it was deleted"
    )
    error.hint = "Look at the list later: if it is still there, report it to the provider"
    return error


def _not_attempted(refusal: AuthenticationError) -> NotAttemptedError:
    error = NotAttemptedError(f"not attempted, since the token was refused: {refusal}")
    error.__cause__ = refusal
    return error


def _outcome(backup: Backup, error: Exception | None) -> Deleted:
    return Outcome(backup.ref, backup) if error is None else Outcome(backup.ref, error=error)
