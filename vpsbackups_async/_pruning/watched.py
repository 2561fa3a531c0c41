"""Whether what a plan says of a server is still right, by looks that are fresh enough."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeAlias

from vpsbackups_async._creating.looks import Looks
from vpsbackups_async._pruning.looks import Held, look_at
from vpsbackups_async._pruning.plan import ServerPlan
from vpsbackups_async.errors import NotFoundError, StalePlanError, VPSBackupsError
from vpsbackups_async.models import Backup, is_good
from vpsbackups_async.retention import Decision

__all__ = ["Decide", "Problem", "Watched", "is_gone"]

Decide: TypeAlias = Callable[[Sequence[Backup], datetime], Sequence[Decision]]
"""The decisions about all manual backups of a server at this time."""
Problem: TypeAlias = Callable[[], Awaitable[VPSBackupsError | None]]
"""Why nothing may be deleted now; None if it may."""

_FRESH_FOR: Final = 5.0
"""Seconds after a look for which deletions go by it."""


class Watched:
    """A server while its `plan` is carried out, until the loop time `end`.

    `there` are the ids that it holds by the last look, `done` what was deleted and may still be
    listed.
    """

    def __init__(self, looks: Looks, plan: ServerPlan, decide: Decide, end: float) -> None:
        self._looks = looks
        self.plan = plan
        self._decide = decide
        self._end = end
        self._fresh_until = 0.0
        self._deleted: set[int] = set()
        self._listed: frozenset[int] = frozenset()
        self.there: frozenset[int] = frozenset()
        self.done: list[Backup] = []

    async def begin(self, seen: Held | None) -> None:
        """Look at the server, unless `seen` is a look that was just taken.

        Raises `StalePlanError` if the plan is no longer right or too old, and errors of the look.
        """
        if seen is None:
            await self._look()
        else:
            self._judge(seen)

    async def problem(self) -> VPSBackupsError | None:
        """Why nothing more may be deleted; looks again first if the last look is not fresh."""
        if asyncio.get_running_loop().time() < self._fresh_until:
            return None
        try:
            await self._look()
        except VPSBackupsError as error:
            return error
        return None

    async def problem_now(self) -> VPSBackupsError | None:
        """As `problem`, by a new look in any case."""
        self._fresh_until = 0.0
        return await self.problem()

    def note(self, backup: Backup, error: Exception | None) -> None:
        """Note how a deletion ended; one that failed, or was not needed, outdates the look."""
        if error is None or is_gone(error):
            self.done.append(backup)
            self._deleted.add(backup.id)
        if error is not None:
            self._fresh_until = 0.0

    def take_gone(self) -> list[Backup]:
        """Take those from `done` that the last look shows no more."""
        gone = [one for one in self.done if one.id not in self._listed]
        self.done = [one for one in self.done if one.id in self._listed]
        return gone

    async def _look(self) -> None:
        if asyncio.get_running_loop().time() > self._end:
            raise StalePlanError(
                f"the plan grew too old: {self._left} of server {self.plan.server_id} was deleted"
            )
        self._judge(await look_at(self._looks, self.plan.server_id))

    def _judge(self, held: Held) -> None:
        """Go by this look from now on; raises `StalePlanError` if the plan is not right by it."""
        self._listed = frozenset(one.id for one in held.backups)
        # A list that lags may still show what was deleted.
        held = held._replace(backups=[one for one in held.backups if one.id not in self._deleted])
        _check(self.plan, self._decide, held, self._left)
        self.there = frozenset(backup.id for backup in held.backups)
        self._fresh_until = asyncio.get_running_loop().time() + _FRESH_FOR

    @property
    def _left(self) -> str:
        return "nothing more" if self._deleted else "nothing"


def _check(plan: ServerPlan, decide: Decide, held: Held, left: str) -> None:
    """Raise `StalePlanError` unless the plan is still right by what the server holds now.

    All that stays must be there, and completed if it was; what goes must be as it was, or gone, and
    the policy must still let it go. `left` says of what the error tells that it was not deleted.
    """
    now = {backup.id: backup for backup in held.backups}
    for backup in plan.kept:
        there = now.get(backup.id)
        if there is None or (is_good(backup) and not is_good(there)):
            raise _stale(backup, "is to stay, and is no longer there or no longer completed", left)
    for backup in plan.deleted:
        there = now.get(backup.id)
        if there is not None and _facts(there) != _facts(backup):
            raise _stale(backup, "is to be deleted, and has changed", left)
    kept = {one.backup.id for one in decide(held.backups, held.now) if one.kept}
    for backup in plan.deleted:
        if backup.id in kept:
            raise _stale(backup, "is to be deleted, and the policy would keep it now", left)


def _facts(backup: Backup) -> tuple[object, ...]:
    """What must not change of a backup that is to be deleted."""
    return (
        backup.server.id,
        backup.backup_type,
        backup.status,
        backup.created_at,
        backup.description,
    )


def _stale(backup: Backup, why: str, left: str) -> StalePlanError:
    return StalePlanError(
        f"backup {backup.id} of server {backup.server.id} {why}: {left} of this server was deleted"
    )


def is_gone(failure: Exception | None) -> bool:
    """Whether a deletion failed because the API has no such backup any more."""
    return isinstance(failure, NotFoundError) and failure.from_api
