"""What a fleet needs of a client, and of the wait for each backup that it starts."""

from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Protocol

from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async._creating.creation import IfRunning
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import AuthenticationError, WaitError
from vpsbackups_async.models import Backup

__all__ = ["Verbs", "refuses_all", "waiting"]


class Verbs(Protocol):
    """What a fleet needs of a client."""

    async def create(
        self,
        server_id: int,
        *,
        description: str | None = None,
        if_running: IfRunning = "raise",
        timeout: float | None = None,
        marker: bool | str = False,
        keep: bool | date | None = None,
        job: str | None = None,
    ) -> Backup: ...

    async def ensure(
        self,
        server_id: int,
        *,
        within: timedelta | datetime,
        description: str | None = None,
        running_within: timedelta = timedelta(hours=6),
    ) -> Backup: ...

    async def wait(
        self, backup: Backup, *, backoff: Backoff | None = None, timeout: float | None = 3600.0
    ) -> Backup: ...


def waiting(
    client: Verbs,
    wait: bool,
    backoff: Backoff | None,
    timeout: float | None,
    max_running: int | None,
    *,
    waits: bool,
) -> Callable[[Backup], Awaitable[Backup]] | None:
    """What waits for a backup; None without `wait`. Raises `ValueError` for bad arguments.

    `waits` says whether any backup is waited for, and `max_running` so has a meaning.
    """
    if backoff is not None:
        check_callable("backoff", backoff)
    if timeout is not None:
        check_number("timeout", timeout)
    if max_running is not None and not waits:
        raise ValueError(
            "max_running needs wait=True (or if_running='wait' of create): without, no backup "
            "is waited for"
        )
    if max_running is not None:
        check_int("max_running", max_running)

    async def completed(backup: Backup) -> Backup:
        try:
            return await client.wait(backup, backoff=backoff, timeout=timeout)
        except Exception as error:
            if not isinstance(error, WaitError):
                error.add_note(f"backup {backup.id} of server {backup.server.id} was started")
            raise

    return completed if wait else None


def refuses_all(error: Exception) -> bool:
    """Whether the token was refused; after a lost answer the error's cause tells."""
    return isinstance(error, AuthenticationError) or isinstance(
        error.__cause__, AuthenticationError
    )
