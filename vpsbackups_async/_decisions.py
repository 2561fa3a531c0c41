"""What a policy decides about a backup, and why."""

from enum import StrEnum
from typing import Final

from attrs import frozen

from vpsbackups_async.models import Backup

__all__ = ["Decision", "Reason"]


class Reason(StrEnum):
    """Why a backup is kept or deleted.

    `FAILED` and `NO_RULE` are deleted, all others kept. `FAILED_LATELY` is a failed one that is not
    old enough to go, `FAILED_NEWEST` one that is newer than every completed one. A completed one of
    0 MB counts as failed.
    """

    RULE = "rule"
    MIN_KEEP = "min_keep"
    PINNED = "pinned"
    NOT_MANUAL = "not_manual"
    OTHER_JOB = "other_job"
    UNREADABLE_LABEL = "unreadable_label"
    RUNNING = "running"
    UNKNOWN_STATUS = "unknown_status"
    FROM_THE_FUTURE = "from_the_future"
    FAILED_LATELY = "failed_lately"
    FAILED_NEWEST = "failed_newest"
    FAILED = "failed"
    NO_RULE = "no_rule"


_DELETED: Final = frozenset({Reason.FAILED, Reason.NO_RULE})


@frozen
class Decision:
    """Whether a backup is to be kept, and why.

    `rules` names the rules that keep it, each with its period, such as `"daily 2026-11-28"`; it is
    empty unless the reason is `Reason.RULE`.
    """

    backup: Backup
    reason: Reason
    rules: tuple[str, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether the backup is to be kept; otherwise it is to be deleted."""
        return self.reason not in _DELETED

    def __str__(self) -> str:
        verb = "keep" if self.kept else "delete"
        why = ", ".join(self.rules) or self.reason.replace("_", " ")
        return f"{verb} {self.backup.id} of {self.backup.created_at:%Y-%m-%d %H:%M}: {why}"
