"""Backups of one server for the tests of retention, and what a policy decides about them."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from vpsbackups_async import Backup, BackupStatus, BackupType, ServerRef
from vpsbackups_async.retention import Retention

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
_IDS = itertools.count(1000)


def backup(at: datetime | str, *, status: str = "completed", **changes: Any) -> Backup:
    """A manual backup of server 1, made at this time; a text is a time in UTC."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at).replace(tzinfo=UTC)
    return Backup(
        id=changes.get("id") or next(_IDS),
        server=ServerRef(changes.get("server", 1), "web"),
        backup_type=BackupType(changes.get("kind", "manual")),
        status=BackupStatus(status),
        size_mb=changes.get("size_mb"),
        created_at=at,
        expires_at=changes.get("expires_at"),
        description=changes.get("description", ""),
    )


def kept_times(policy: Retention, backups: Iterable[Backup], now: datetime = NOW) -> list[str]:
    """The times in UTC of what the policy keeps, newest first."""
    return [
        f"{one.backup.created_at:%Y-%m-%d %H:%M}" for one in policy.decide(backups, now) if one.kept
    ]


def why(policy: Retention, *backups: Backup, now: datetime = NOW) -> list[str]:
    """What the policy says of each backup, in the order in which they are given."""
    said = {
        one.backup.id: f"{one.backup.id} {'keep' if one.kept else 'delete'}: "
        f"{', '.join(one.rules) or one.reason.name}"
        for one in policy.decide(backups, now)
    }
    return [said[one.id].partition(" ")[2] for one in backups]
