"""Rotations: what one did, and pure rules for the place and for the check of a new backup."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

from attrs import evolve, frozen

from vpsbackups_async._checks import (
    check_callable,
    check_coroutine_function,
    check_description,
    check_number,
)
from vpsbackups_async._pruning.plan import ServerPlan, is_of
from vpsbackups_async._pruning.sizes import decide_by_size, refused_sizes
from vpsbackups_async._tags import with_labels
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.models import Backup, BackupStatus, BackupType
from vpsbackups_async.retention import Decision, Reason, Retention

__all__ = [
    "Place",
    "RotateOptions",
    "Rotation",
    "Verify",
    "next_backup",
    "place_for",
]

Verify: TypeAlias = Callable[[Backup], Awaitable[bool]]
"""Says whether a completed backup is good, so that older ones may be deleted."""

_FAILED: Final = frozenset({Reason.FAILED, Reason.FAILED_LATELY, Reason.FAILED_NEWEST})
_GOOD: Final = frozenset({Reason.RULE, Reason.MIN_KEEP, Reason.NO_RULE})
_NOT_ASKED: Final = "deleting a good one to free a place was not asked for (make_room)"


@frozen
class Rotation:
    """What a rotation did on one server, or would do (`dry_run`).

    `backup` is the new backup, completed and verified; None in a dry run. `freed` was deleted
    before, so that there was a place for it. `plan` is what was deleted and kept after that.
    """

    server_id: int
    plan: ServerPlan
    backup: Backup | None = None
    freed: Backup | None = None
    dry_run: bool = False

    @property
    def deleted(self) -> tuple[Backup, ...]:
        """All backups that were deleted, or would be; the one that freed a place first."""
        freed = () if self.freed is None else (self.freed,)
        return freed + self.plan.deleted

    def __str__(self) -> str:
        made = "a new backup" if self.backup is None else f"backup {self.backup.id}"
        freed = "" if self.freed is None else f" in the place of {self.freed.id}"
        verb = "would be made" if self.dry_run else "was made"
        return f"server {self.server_id}: {made} {verb}{freed}\n{self.plan}"


class RotateOptions:
    """What a rotation is asked for; raises `ValueError` for what cannot be."""

    def __init__(
        self,
        *,
        retention: Retention,
        description: str | None = None,
        make_room: bool = False,
        verify: Verify | None = None,
        timeout: float | None = 3600.0,
        backoff: Backoff | None = None,
        dry_run: bool = False,
    ) -> None:
        if not isinstance(retention, Retention):
            raise ValueError(f"retention must be a Retention, not {retention!r}")
        if retention.job is None:
            raise ValueError("rotate needs a retention with a job, which labels what it makes")
        check_description(description)
        for name, value in (("make_room", make_room), ("dry_run", dry_run)):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be True or False, not {value!r}")
        if verify is not None:
            check_coroutine_function("verify", verify)
        if backoff is not None:
            check_callable("backoff", backoff)
        if timeout is not None:
            check_number("timeout", timeout)
        self.retention = retention
        self.description = description
        self.make_room = make_room
        self.verify = verify
        self.timeout = timeout
        self.backoff = backoff
        self.dry_run = dry_run
        self.labelled: str = with_labels(description, job=retention.job)
        """The description with the label of the policy's job."""


class Place(NamedTuple):
    """Which backup to delete so that there is a place for another one; None if none is to go.

    `problem` says why there is no place, and none may be made; it is empty if there is one.
    `newest` is the job's newest attempt if `freed` is a good one, which goes only if that is good.
    """

    freed: Backup | None = None
    problem: str = ""
    newest: Backup | None = None


def place_for(
    decisions: Sequence[Decision],
    retention: Retention,
    now: datetime,
    description: str,
    *,
    make_room: bool,
    by_size: bool = True,
) -> Place:
    """How there is a place for a new backup, by the decisions for a server's manual backups.

    The new one will have this description, with its labels.
    On a full server, a failed backup of the job goes whatever its age. A good one goes only with
    `make_room`, if the newest attempt of the job is good, nothing runs, and enough good ones stay:
    of those that the policy keeps no longer once the new one is there, the oldest one of a refused
    size, or else the oldest. `by_size` says whether sizes count.
    """
    if len(decisions) < retention.quota:
        return Place()
    full = f"the server holds {len(decisions)} of {retention.quota} manual backups"
    if len(decisions) > retention.quota:
        return Place(problem=f"{full}: deleting one frees no place")
    failed = [one.backup for one in decisions if one.reason in _FAILED]
    if failed:
        return Place(failed[-1])
    attempts = [one.backup for one in decisions if is_of(retention.job, one.backup)]
    obstacle = _NOT_ASKED
    if make_room:
        obstacle = _obstacle(decisions, attempts, retention.min_keep, by_size=by_size)
    if obstacle:
        return Place(problem=f"{full}, and {obstacle}")
    new = next_backup(decisions, now, description)
    held = [new, *(one.backup for one in decisions)]
    after = decide_by_size(retention, held, now, new) if by_size else retention.decide(held, now)
    spare = [one.backup for one in after if one.reason is Reason.NO_RULE]
    if not spare:
        return Place(problem=f"{full}, and the policy keeps them all")
    refused = refused_sizes(attempts) if by_size else {}
    doubted = [one for one in spare if one.id in refused]
    return Place((doubted or spare)[-1], newest=attempts[0])


def _obstacle(
    decisions: Sequence[Decision], attempts: Sequence[Backup], min_keep: int, *, by_size: bool
) -> str:
    """Why no good backup may be deleted before the new one is there; empty if one may."""
    if not attempts or not attempts[0].is_completed:
        return "the newest one of the job did not complete"
    if not all(one.backup.is_completed or one.backup.is_failed for one in decisions):
        return "one of them may be running"
    good = {one.backup.id for one in decisions if one.reason in _GOOD}
    if by_size:
        refused = refused_sizes(attempts)
        if problem := refused.get(attempts[0].id):
            return f"the newest one of the job was not verified: {problem}"
        good -= refused.keys()
    return "" if len(good) > min_keep else "too few good ones of the job would stay"


def next_backup(decisions: Sequence[Decision], now: datetime, description: str) -> Backup:
    """The job's next backup as it will be once it is completed; `decisions` are not empty."""
    good = [one.backup.created_at for one in decisions if one.reason in _GOOD]
    return evolve(
        decisions[0].backup,
        id=max(one.backup.id for one in decisions) + 1,
        backup_type=BackupType.MANUAL,
        status=BackupStatus.COMPLETED,
        size_mb=None,
        created_at=max(now, *good) if good else now,
        description=description,
    )
