"""Complete looks at the manual backups of servers, and the time that decisions rest on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from vpsbackups_async._creating.looks import Looks
from vpsbackups_async.errors import PaginationError
from vpsbackups_async.models import Backup

__all__ = ["Held", "earlier", "look_at"]


class Held(NamedTuple):
    """All manual backups of a server, and the time at which they were read."""

    backups: Sequence[Backup]
    now: datetime


def earlier(server_time: datetime | None) -> datetime:
    """The time by the server's clock or by ours, whichever is earlier.

    A clock that is ahead would end pins too soon; with one that is behind, more is kept.
    """
    ours = datetime.now(UTC)
    return ours if server_time is None else min(ours, server_time)


async def look_at(looks: Looks, server_id: int) -> Held:
    """All manual backups of the server now.

    Raises `PaginationError` where its list cannot be read completely.
    """
    look = await looks.look(server_id)
    if not look.complete:
        raise PaginationError(
            f"the list of server {server_id} could not be read completely, so that it does not "
            "tell what is there"
        )
    return Held(look.backups, earlier(look.server_time))
