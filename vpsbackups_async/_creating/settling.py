"""What became of a create whose answer was lost, found out by looking at the server's backups.

The API takes no idempotency key, so a create cannot simply be sent again. Which backups were there
before it is known without a look beforehand: creation times are on the server's own clock, which
its `Date` header tells, and ids grow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

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

__all__ = ["Look", "UnansweredCreate", "may_create_again", "new_since", "settle"]

_RESOLUTION: Final = timedelta(seconds=2)
"""`Date` and `created_at` are cut to whole seconds."""
_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 4.0


class UnansweredCreate(NamedTuple):
    """A create that was sent and not answered.

    `began` is the time of its first request on the event loop's clock, in seconds. `newest_id` is
    the highest backup id that was known then, 0 if none was.
    """

    server_id: int
    description: str | None
    began: float
    newest_id: int

    def unknown(self, candidates: Sequence[Backup], reason: str) -> CreateOutcomeUnknownError:
        """The error to raise if looking does not settle it."""
        candidates = sorted(candidates, key=lambda backup: backup.id)
        return CreateOutcomeUnknownError(candidates, self.server_id, self.description, reason)


class Look(NamedTuple):
    """The manual backups of a server, as one read of its list showed them.

    `server_time` is the server's clock at the time `at` of the event loop's clock, None if the
    response had no `Date`. `complete` is False if the list moved while it was read.
    """

    backups: Sequence[Backup]
    server_time: datetime | None
    at: float
    complete: bool = True


def new_since(unanswered: UnansweredCreate, look: Look) -> list[Backup]:
    """The backups that the create may have made, by their time and their id."""
    backups = [backup for backup in look.backups if backup.is_manual]
    since = None
    if look.server_time is not None:
        since = look.server_time - timedelta(seconds=look.at - unanswered.began) - _RESOLUTION
    elif not unanswered.newest_id:
        return [backup for backup in backups if not (backup.is_completed or backup.is_failed)]
    before = [backup.id for backup in backups if since is not None and backup.created_at < since]
    newest_id = max([unanswered.newest_id, *before])
    return [
        backup
        for backup in backups
        if backup.id > newest_id and (since is None or backup.created_at >= since)
    ]


async def settle(
    unanswered: UnansweredCreate, look_at_server: Callable[[], Awaitable[Look]], *, grace: float
) -> Backup | None:
    """The backup that the create made; None if looks over `grace` seconds certainly show none.

    Raises `CreateOutcomeUnknownError` with the candidates if there are several, or only ones with
    another description, or if no look succeeded.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    pause = _FIRST_PAUSE
    while True:
        is_last = loop.time() >= until
        look: Look | None = None
        failure: VPSBackupsError | None = None
        try:
            look = await look_at_server()
        except VPSBackupsError as error:
            failure = error
        candidates = [] if look is None else new_since(unanswered, look)
        matching = [one for one in candidates if _same(one.description, unanswered.description)]
        if len(matching) == 1:
            return matching[0]
        if len(matching) > 1:
            raise unanswered.unknown(matching, "several backups may be the one that was asked for")
        if is_last:
            break
        await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
        pause = min(2 * pause, _MAX_PAUSE)
    if candidates:
        raise unanswered.unknown(
            candidates, "a backup was made meanwhile that has another description"
        )
    if look is None:
        raise unanswered.unknown((), f"looking at the server's backups failed: {failure}")
    if not look.complete:
        raise unanswered.unknown((), "the server's list of backups moved while it was read")
    return None


def _same(held: str, asked: str | None) -> bool:
    """Whether the descriptions are the same; the API may trim one."""
    return held.strip() == (asked or "").strip()


def may_create_again(failure: VPSBackupsError) -> bool:
    """Whether a create may be sent again after this failure, if looking showed no backup.

    Not after a timeout: a slow server may still make the backup. A server that cut the connection
    or answered 5xx no longer works on the request.
    """
    if isinstance(failure, RequestTimeoutError | ResponseTooLargeError | UnexpectedRedirectError):
        return False
    return isinstance(failure, TransportError | ServerError)
