"""What became of a create whose answer was lost, found out by looking at the server's backups.

The API takes no idempotency key, so that a create is never sent again on suspicion. What was there
before it is known without asking beforehand: creation times are on the server's own clock, which
its `Date` header tells, and ids grow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from attrs import frozen

from vpsbackups_async.errors import (
    CreateOutcomeUnknownError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup

_RESOLUTION: Final = timedelta(seconds=2)
"""`Date` and `created_at` are cut to whole seconds."""
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 4.0


@frozen
class Doubt:
    """A create that was sent and not answered.

    `began` is when it was first sent, on the event loop's clock in seconds; `known` the highest id
    that was known then, 0 if none was.
    """

    server_id: int
    description: str | None
    began: float
    known: int

    def unknown(self, candidates: Sequence[Backup], reason: str) -> CreateOutcomeUnknownError:
        """The error to raise where looking does not settle it."""
        candidates = sorted(candidates, key=lambda backup: backup.id)
        return CreateOutcomeUnknownError(candidates, self.server_id, self.description, reason)


@frozen
class Sight:
    """The manual backups of a server as one look showed them.

    `server_time` is the server's clock at the moment `at` of the event loop's clock, None where the
    reply had no `Date`. `complete` is False where the list moved while it was read.
    """

    backups: Sequence[Backup]
    server_time: datetime | None
    at: float
    complete: bool = True


def new_since(doubt: Doubt, sight: Sight) -> list[Backup]:
    """The backups that may be the one that was asked for, going by their time and their id."""
    backups = [backup for backup in sight.backups if backup.is_manual]
    since = None
    if sight.server_time is not None:
        since = sight.server_time - timedelta(seconds=sight.at - doubt.began) - _RESOLUTION
    elif not doubt.known:
        return [backup for backup in backups if not (backup.is_completed or backup.is_failed)]
    before = [backup.id for backup in backups if since is not None and backup.created_at < since]
    known = max([doubt.known, *before])
    return [
        backup
        for backup in backups
        if backup.id > known and (since is None or backup.created_at >= since)
    ]


async def settle(
    doubt: Doubt, look: Callable[[], Awaitable[Sight]], *, grace: float
) -> Backup | None:
    """The backup that the create made; None if looks over `grace` seconds certainly show none.

    Raises `CreateOutcomeUnknownError` with the candidates where there are several, or only ones
    with another description, or where no look succeeded.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    pause = _FIRST_PAUSE
    while True:
        last = loop.time() >= until
        sight: Sight | None = None
        failure: VPSBackupsError | None = None
        try:
            sight = await look()
        except VPSBackupsError as error:
            failure = error
        candidates = [] if sight is None else new_since(doubt, sight)
        ours = [one for one in candidates if _same(one.description, doubt.description)]
        if len(ours) == 1:
            return ours[0]
        if len(ours) > 1:
            raise doubt.unknown(ours, "several backups may be the one that was asked for")
        if last:
            break
        await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
        pause = min(2 * pause, _LONGEST_PAUSE)
    if candidates:
        raise doubt.unknown(candidates, "a backup was made meanwhile that is not described as ours")
    if sight is None:
        raise doubt.unknown((), f"looking at the server's backups failed: {failure}")
    if not sight.complete:
        raise doubt.unknown((), "the server's list of backups moved while it was read")
    return None


def _same(held: str, asked: str | None) -> bool:
    """Whether it may be the same description: the API may trim it."""
    return held.strip() == (asked or "").strip()


def may_create_again(failure: VPSBackupsError) -> bool:
    """Whether a create may be sent once more after this failure, where looking showed no backup.

    Not after a timeout: a server that is slow may still make it. One that cut the connection or
    answered 5xx is done with the request.
    """
    if isinstance(failure, RequestTimeoutError | ResponseTooLargeError | UnexpectedRedirectError):
        return False
    return isinstance(failure, TransportError | ServerError)
