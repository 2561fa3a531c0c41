"""Carries plans out: looks at each server again, deletes, and looks whether that happened."""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
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
from vpsbackups_async._pruning.watched import Decide, Watched
from vpsbackups_async.errors import (
    AuthenticationError,
    NotAttemptedError,
    NotFoundError,
    StalePlanError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, BackupRef, Outcome

__all__ = ["Deleted", "Pruner"]

Deleted = Outcome[BackupRef, Backup]

_CONCURRENCY: Final = 16
_GONE_WITHIN: Final = 10.0
"""Seconds after its 204 at which a backup that is still listed counts as not deleted."""
_FIRST_PAUSE: Final = 0.5
_SKEW: Final = timedelta(minutes=10)


class Delete(Protocol):
    """Deletes a backup; how many attempts that took. Raises what `BackupsClient.delete` does."""

    async def __call__(self, backup_id: int, /) -> int: ...


class Pruner:
    """Deletes what plans say, and nothing else; `looks` sees the lists of servers."""

    def __init__(self, looks: Looks, delete: Delete) -> None:
        self.looks = looks
        self._delete = delete

    def apply(self, plan: PrunePlan, caps: Caps, max_age: timedelta) -> AsyncGenerator[Deleted]:
        """One outcome for each backup of the plan; see `BackupsClient.apply`."""
        check_separate(plan.servers)
        caps.check(plan.servers, plan.retention.job)
        age = datetime.now(UTC) - plan.made_at
        if not -_SKEW <= age <= max_age:
            raise StalePlanError(
                f"the plan is {age} old, and may be {max_age}: nothing was deleted"
            )
        return self._apply(plan, (max_age - age).total_seconds())

    async def _apply(self, plan: PrunePlan, seconds_left: float) -> AsyncGenerator[Deleted]:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds_left

        async def prune(server: ServerPlan) -> list[Deleted]:
            watched = Watched(self.looks, server, plan.retention.decide, end)
            outcomes = await self._prune(watched, None, unreported)
            for outcome in outcomes:
                if isinstance(outcome.error, AuthenticationError):
                    run.halt(outcome.error)
            return outcomes

        servers = [server for server in plan.servers if server.deleted]
        run: FanOut[ServerPlan, list[Deleted]] = FanOut(
            prune,
            open_source(servers),
            _CONCURRENCY,
            Meter(None, ()),
            halts=lambda error: isinstance(error, AuthenticationError),
        )
        with Unreported() as unreported:
            async with aclosing(run.outcomes()) as ended:
                async for server in ended:
                    outcomes = server.value if server.ok else _all_failed(server.key, server.error)
                    for outcome in outcomes:
                        unreported.report(outcome.key.id)
                        yield outcome

    async def prune(self, plan: ServerPlan, decide: Decide, seen: Held | None) -> list[Deleted]:
        """One outcome for each backup that the plan deletes, oldest first, as `decide` still says.

        `seen` is a look that was just taken; without it, the server is looked at before. Raises
        `StalePlanError` if its backups have changed, and other errors of the look: then nothing was
        deleted. If it is cancelled, what was deleted is logged.
        """
        watched = Watched(self.looks, plan, decide, math.inf)
        with Unreported() as unreported:
            return await self._prune(watched, seen, unreported)

    async def _prune(
        self, watched: Watched, seen: Held | None, unreported: Unreported
    ) -> list[Deleted]:
        """As `prune`; the look is repeated between two deletions once it is no longer fresh.

        If it fails then, its error is that of the rest.
        """
        plan = watched.plan
        await watched.begin(seen)
        outcomes: dict[int, Deleted] = {}
        obstacle: Exception | None = None
        for backup in plan.deleted:
            obstacle = obstacle or await watched.problem()
            error = obstacle
            if obstacle is None and backup.id in watched.there:
                unreported.ask(backup)
                attempts, error = await self._try(backup)
                unreported.end(backup, error)
                watched.note(backup, is_gone=error is None, at_once=attempts == 1)
                if isinstance(error, AuthenticationError):
                    obstacle = _not_attempted(error)
            outcomes[backup.id] = _outcome(backup, error)
        for backup, error in (await self._still_there(plan.server_id, watched.done)).items():
            outcomes[backup.id] = _outcome(backup, error)
        return list(outcomes.values())

    async def free(self, backup: Backup) -> None:
        """Delete this backup, and raise an error unless it is known to be gone."""
        _, failure = await self._try(backup)
        if failure is None:
            left = await self._still_there(backup.server.id, [backup])
            failure = left.get(backup)
        if failure is not None:
            failure.add_note(f"backup {backup.id} was to make room, and nothing was created")
            raise failure

    async def _try(self, backup: Backup) -> tuple[int, Exception | None]:
        """Delete the backup; how many attempts that took, and the error if it failed.

        One that was gone already is no failure, and took 0 attempts, as a failure did.
        """
        try:
            return await self._delete(backup.id), None
        except NotFoundError:
            return 0, None
        except VPSBackupsError as error:
            return 0, error

    async def _still_there(
        self, server_id: int, deleted: Sequence[Backup]
    ) -> dict[Backup, Exception]:
        """Those of the backups, just deleted, that are not known to be gone, each with the reason.

        The list may lag behind, so it is read for ten seconds.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _GONE_WITHIN
        left, pause = {backup.id: backup for backup in deleted}, _FIRST_PAUSE
        failure: Exception | None = None
        while left:
            try:
                held = await look_at(self.looks, server_id)
            except VPSBackupsError as error:
                failure = error
            else:
                failure = None
                listed = {backup.id for backup in held.backups}
                left = {number: one for number, one in left.items() if number in listed}
            if not left or loop.time() >= end or isinstance(failure, AuthenticationError):
                break
            await asyncio.sleep(min(pause, end - loop.time()))
            pause *= 2
        return {backup: failure or _still_listed(backup) for backup in left.values()}


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


def _all_failed(plan: ServerPlan, error: Exception | None) -> list[Deleted]:
    return [_outcome(backup, error) for backup in plan.deleted]


def _outcome(backup: Backup, error: Exception | None) -> Deleted:
    return Outcome(backup.ref, backup) if error is None else Outcome(backup.ref, error=error)
