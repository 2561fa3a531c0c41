"""Servers of the fake with backups of many nights, and what becomes of them."""

from collections.abc import AsyncIterable
from datetime import timedelta
from typing import Any

from vpsbackups_async import Backup, BackupRef, Outcome, Retention
from vpsbackups_async.testing import FakeVPS

JOB = "nightly"
POLICY = Retention(last=2, job=JOB)
DAY = timedelta(days=1)


def add_nights(
    fake: FakeVPS, server_id: int, nights: int, *, job: str | None = JOB, **fields: Any
) -> list[int]:
    """Add a completed backup for each of the last nights; their ids, oldest first."""
    label = "" if job is None else f" [job:{job}]"
    return [
        add(fake, server_id, age, **{"description": f"Nightly{label}", **fields})
        for age in range(nights, 0, -1)
    ]


def add(fake: FakeVPS, server_id: int, days: float, **fields: Any) -> int:
    """Add a manual backup that is so many days old, of the job unless described; its id."""
    fields.setdefault("description", f"Nightly [job:{JOB}]")
    made = fake.add_backup(server_id, created_at=fake.now - days * DAY, **fields)
    return int(made["id"])


def held(fake: FakeVPS, server_id: int) -> list[int]:
    """The ids of the server's backups."""
    return [one["id"] for one in fake.backups if one["server"]["id"] == server_id]


def deletes(fake: FakeVPS) -> list[int]:
    """The ids that the server was asked to delete, in order of arrival."""
    paths = [seen.path for seen in fake.requests if seen.method == "DELETE"]
    return [int(path.rstrip("/").rpartition("/")[2]) for path in paths]


async def ended(outcomes: AsyncIterable[Outcome[BackupRef, Backup]]) -> dict[int, str]:
    """By the id of each backup: "deleted", or the name of its error's class."""
    return {
        outcome.key.id: "deleted" if outcome.ok else type(outcome.error).__name__
        async for outcome in outcomes
    }
