"""Servers by their names, and the latest backup of one."""

from datetime import datetime
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import RefusedError, UsageError
from vpsbackups_async.cli.ids import one_server
from vpsbackups_async.cli.options import Flag
from vpsbackups_async.cli.selection import PAGE
from vpsbackups_async.cli.text import safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.models import Backup

__all__ = ["Latest", "find_server", "latest_backup"]

Latest = Annotated[Flag, Parameter(help="the newest completed backup of the server")]

_LISTED: Final = 5


async def find_server(client: BackupsClient, text: str) -> int:
    """The id of the server that has this id, or exactly this name.

    A number is an id. Raises `RefusedError` if no server or several have the name, `UsageError` for
    an empty one, and what reading the list of servers raises.
    """
    if text.isdecimal():
        return one_server(text)
    if not text.strip():
        raise UsageError("the name of a server is empty")
    found = [
        server.id async for server in client.servers(page_size=PAGE).whole() if server.name == text
    ]
    if not found:
        raise RefusedError(f"no server has the name {safe(text)!r}")
    if len(found) > 1:
        ids = ", ".join(map(str, sorted(found)[:_LISTED])) + ", …" * (len(found) > _LISTED)
        raise RefusedError(
            f"{len(found):,} servers have the name {safe(text)!r}: give the id, {ids}"
        )
    return found[0]


async def latest_backup(
    client: BackupsClient, server_id: int, before: datetime | None = None
) -> Backup:
    """The newest completed backup of a server, made `before` then if that is given.

    Raises `RefusedError` if there is none, or the list changed while it was read, so that a newer
    one may have been missed; and what reading the list raises.
    """
    held = await client.list(server_id=server_id, page_size=PAGE).snapshot()
    if not held.complete:
        raise RefusedError(f"the list of server {server_id} changed while it was read: try again")
    fitting = [
        backup
        for backup in held.items
        if backup.server.id == server_id
        and backup.is_completed
        and (before is None or backup.created_at < before)
    ]
    if not fitting:
        then = "" if before is None else f" made before {before:%Y-%m-%d %H:%M} UTC"
        raise RefusedError(f"server {server_id} has no completed backup{then}")
    return max(fitting, key=lambda backup: (backup.created_at, backup.id))
