"""Rotates: makes a backup, verifies it, and only then deletes what the policy keeps no longer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Final, Protocol, TypeAlias

from attrs import evolve

from vpsbackups_async._checks import check_int
from vpsbackups_async._pruning.looks import Held, look_at
from vpsbackups_async._pruning.plan import Caps, ServerPlan, is_of, plan_of
from vpsbackups_async._pruning.pruner import Pruner
from vpsbackups_async._pruning.rotation import (
    Place,
    RotateOptions,
    Rotation,
    next_backup,
    place_for,
)
from vpsbackups_async._pruning.sizes import decide_by_size, size_problem
from vpsbackups_async._tags import keeps_labels
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import PruneRefusedError, StalePlanError, VPSBackupsError
from vpsbackups_async.models import Backup
from vpsbackups_async.retention import Decision, Reason

__all__ = ["Create", "Rotator"]

_LAG: Final = 10.0
"""Seconds for which a list may still show a backup as running that a wait saw completed."""
_FIRST_PAUSE: Final = 0.5


class Wait(Protocol):
    """Waits for a backup, as `BackupsClient.wait` does."""

    async def __call__(
        self, backup: Backup, *, backoff: Backoff | None = None, timeout: float | None = 3600.0
    ) -> Backup: ...


Create: TypeAlias = Callable[[int, str | None], Awaitable[Backup]]
"""Makes the new backup of this server, with this description."""


class Rotator:
    """Rotates servers as the options say, each in two steps.

    `begin` starts the new backup, `finish` waits for it and deletes others. Whatever fails before
    the new backup is verified, deletes nothing but the backup whose place it takes.
    """

    def __init__(self, options: RotateOptions, pruner: Pruner, create: Create, wait: Wait) -> None:
        self._options = options
        self._retention = options.retention
        self._pruner = pruner
        self._create = create
        self._wait = wait

    async def rotate(self, server_id: int) -> Rotation:
        """Both steps, one after the other."""
        return await self.finish(await self.begin(server_id))

    async def begin(self, server_id: int) -> Rotation:
        """The rotation with its new backup started; in a dry run, what would be done."""
        check_int("server_id", server_id)
        held = await look_at(self._pruner.looks, server_id)
        decisions = self._retention.decide(held.backups, held.now)
        fit = self._retention.fit(decisions)
        if not fit.fits:
            raise PruneRefusedError(f"{fit}: nothing was created or deleted on server {server_id}")
        place = await self._place(decisions, held)
        after = self._after(decisions, place, held)
        if place.freed is not None or self._options.dry_run:
            self._check_caps(ServerPlan(server_id, after, place.problem), place.freed)
        if self._options.dry_run:
            there = {one.id for one in held.backups}
            planned = tuple(one for one in after if one.backup.id in there)
            plan = ServerPlan(server_id, planned, place.problem)
            return Rotation(server_id, plan, freed=place.freed, dry_run=True)
        if place.freed is not None:
            await self._pruner.free(place.freed, partial(self._change, held, place.freed))
        try:
            backup = await self._create(server_id, self._options.labelled)
        except VPSBackupsError as error:
            if place.freed is not None:
                error.add_note(f"backup {place.freed.id} was deleted before, to free a place")
            if place.problem:
                error.add_note(place.problem)
            raise
        if backup.id in {one.id for one in held.backups if one != place.freed}:
            raise _refused(backup, "was there before, and was given as the new one")
        return Rotation(server_id, ServerPlan(server_id), backup, place.freed)

    async def _place(self, decisions: tuple[Decision, ...], held: Held) -> Place:
        """How there is a place; the caller's check is asked before a good one may go."""
        options, verify = self._options, self._options.verify
        place = place_for(
            decisions,
            self._retention,
            held.now,
            options.labelled,
            make_room=options.make_room,
            by_size=verify is None,
        )
        if place.newest is None or place.freed is None or verify is None or options.dry_run:
            return place
        if not await verify(place.newest):
            return Place(
                problem="the server is full, and the newest one of the job was not verified by the "
                "given function"
            )
        change = await self._change(held, place.freed)
        if change is not None:
            raise change
        return place

    async def _change(self, held: Held, freed: Backup) -> VPSBackupsError | None:
        """An error if the server changed since this look, but for `freed` that may be gone."""
        try:
            again = await look_at(self._pruner.looks, freed.server.id)
        except VPSBackupsError as error:
            return error
        if set(again.backups) - {freed} == set(held.backups) - {freed}:
            return None
        return StalePlanError(
            f"server {freed.server.id} changed before backup {freed.id} was deleted for its place: "
            "nothing was created or deleted"
        )

    def _after(
        self, decisions: tuple[Decision, ...], place: Place, held: Held
    ) -> tuple[Decision, ...]:
        """What the policy decides once the new backup is there, if that completes and is good."""
        if not decisions:
            return ()
        new = next_backup(decisions, held.now, self._options.labelled)
        left = [one for one in held.backups if one != place.freed]
        return self._decide([new, *left], held.now, new)

    def _decide(
        self, backups: Sequence[Backup], now: datetime, verified: Backup
    ) -> tuple[Decision, ...]:
        """The decisions after this backup was verified, by sizes if that was by its size."""
        if self._options.verify is not None:
            return self._retention.decide(backups, now)
        return decide_by_size(self._retention, backups, now, verified)

    async def finish(self, rotation: Rotation) -> Rotation:
        """The rotation once its backup is verified and all that the policy lets go is deleted."""
        started = rotation.backup
        if started is None:
            return rotation
        server_id, options = rotation.server_id, self._options
        try:
            await self._wait(started, backoff=options.backoff, timeout=options.timeout)
            held = await self._once_listed(started)
            backup = await self._verified(started, held)
            decide = partial(self._decide, verified=backup)
            plan = plan_of(server_id, decide(held.backups, held.now), self._retention)
            self._check(plan, backup, rotation.freed)
        except Exception as error:
            error.add_note(_started(rotation, started, "nothing was deleted after it"))
            raise
        # A look before the caller's own check, which may take long, is too old to delete by.
        seen = held if options.verify is None else None
        try:
            outcomes = await self._pruner.prune(plan, decide, seen)
        except Exception as error:
            error.add_note(
                _started(rotation, started, "verified, and nothing was deleted after it")
            )
            raise
        failures = [outcome.error for outcome in outcomes if outcome.error is not None]
        if failures:
            count = f"{len(failures)} of {len(outcomes)} deletions after it failed"
            failures[0].add_note(_started(rotation, started, f"verified, and {count}"))
            raise failures[0]
        return evolve(rotation, backup=backup, plan=plan)

    async def _once_listed(self, backup: Backup) -> Held:
        """A look that shows the backup as completed, or the last of those taken for ten seconds.

        A replica of the list that lags may answer after one that showed it to the wait.
        """
        loop = asyncio.get_running_loop()
        end, pause = loop.time() + _LAG, _FIRST_PAUSE
        while True:
            held = await look_at(self._pruner.looks, backup.server.id)
            if any(one.id == backup.id and one.is_completed for one in held.backups):
                return held
            if loop.time() >= end:
                return held
            await asyncio.sleep(min(pause, end - loop.time()))
            pause *= 2

    async def _verified(self, started: Backup, held: Held) -> Backup:
        """The new backup as a fresh look shows it; raises `PruneRefusedError` if it is not good."""
        backup = next((one for one in held.backups if one.id == started.id), None)
        if backup is None or not backup.is_completed:
            raise _refused(started, "is not listed as completed")
        for one in (started, backup):
            if not keeps_labels(self._options.labelled, one.description):
                raise _refused(
                    started, f"has lost its label: its description is {one.description[:80]!r}"
                )
        if self._options.verify is not None:
            if not await self._options.verify(backup):
                raise _refused(started, "was not verified by the given function")
            return backup
        earlier = [
            one
            for one in sorted(held.backups, key=lambda one: one.created_at, reverse=True)
            if one.id != backup.id and one.is_completed and is_of(self._retention.job, one)
        ]
        problem = size_problem(backup.size_mb, [one.size_mb for one in earlier])
        if problem:
            raise _refused(started, f"was not verified: {problem}")
        return backup

    def _check(self, plan: ServerPlan, backup: Backup, freed: Backup | None) -> None:
        """Raise an error if the plan must not be carried out after this backup was made."""
        if plan.problem:
            raise PruneRefusedError(
                f"{plan.problem}: nothing was deleted on server {plan.server_id}"
            )
        if backup.id in {one.id for one in plan.deleted}:
            raise StalePlanError(
                f"a backup of job {self._retention.job!r} that was made later is there already"
            )
        self._check_caps(plan, freed)

    def _check_caps(self, plan: ServerPlan, freed: Backup | None) -> None:
        """Raise `PruneRefusedError` if the plan, with what is deleted before it, is too much."""
        if freed is not None:
            gone = Decision(freed, Reason.NO_RULE)
            plan = evolve(plan, decisions=(*plan.decisions, gone))
        Caps().check([plan], self._retention.job)


def _refused(backup: Backup, why: str) -> PruneRefusedError:
    return PruneRefusedError(f"backup {backup.id} of server {backup.server.id} {why}")


def _started(rotation: Rotation, backup: Backup, what: str) -> str:
    freed = "" if rotation.freed is None else f", for which {rotation.freed.id} was deleted before"
    return f"backup {backup.id} of server {backup.server.id} was started{freed}: {what}"
