"""Servers by their names, and the latest backup of one."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Final

from cyclopts import Parameter

from vpsbackups_async.cli.ends import RefusedError, UsageError
from vpsbackups_async.cli.options import Flag
from vpsbackups_async.cli.selection import PAGE
from vpsbackups_async.cli.text import safe
from vpsbackups_async.client import BackupsClient
from vpsbackups_async.errors import NotFoundError, PermissionDeniedError
from vpsbackups_async.models import Backup

__all__ = ["Latest", "find_server", "is_id", "latest_backup"]

Latest = Annotated[Flag, Parameter(help="the newest completed backup of the server")]

_LISTED: Final = 5
_ID: Final = re.compile(r"[1-9][0-9]{0,17}")
_LIKE_ID: Final = re.compile(r"\s*\+?[0-9]+\s*")


def is_id(text: str) -> bool:
    """Whether the text is the id of a server: a number without leading zeros, sign and spaces."""
    return _ID.fullmatch(text) is not None


async def find_server(client: BackupsClient, text: str) -> int:
    """The id of the server that has this id, or exactly this name.

    Only a number without leading zeros, sign and spaces is an id, and is not looked up. Raises
    `RefusedError` if no server or several have the name, `UsageError` for an empty one, and what
    reading the list of servers raises.
    """
    if is_id(text):
        return int(text)
    if not text.strip():
        raise UsageError("the name of a server is empty")
    found = _named(await _names(client), text)
    if not found:
        why = "; an id has no leading zeros, sign or spaces" if _LIKE_ID.fullmatch(text) else ""
        raise RefusedError(f"no server has the name {safe(text)!r}{why}")
    if len(found) > 1:
        raise RefusedError(
            f"{len(found):,} servers have the name {safe(text)!r}: give the id, {_listed(found)}"
        )
    return found[0]


async def latest_backup(
    client: BackupsClient,
    server: str,
    before: datetime | None = None,
    expect_name: str | None = None,
) -> Backup:
    """The newest completed backup of a server, made `before` then if that is given.

    `server` is an id or a name, as `find_server` takes it. Where a number is the id of one server
    and the name of another, `expect_name` decides. Raises `RefusedError` if that is not given, if
    there is no such backup, or the list changed while it was read, so that a newer one may have
    been missed; and what reading the lists raises.
    """
    is_there = True
    if not is_id(server):
        server_id = await find_server(client, server)
    else:
        server_id = int(server)
        # Where the API shows no servers, a number can be nothing but an id.
        with suppress(NotFoundError, PermissionDeniedError):
            names = await _names(client)
            server_id = _only_one(names, server, expect_name)
            is_there = server_id in names
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
        if not is_there:
            raise RefusedError(f"there is no server {server_id}")
        then = "" if before is None else f" made before {before:%Y-%m-%d %H:%M} UTC"
        raise RefusedError(f"server {server_id} has no completed backup{then}")
    return max(fitting, key=lambda backup: (backup.created_at, backup.id))


async def _names(client: BackupsClient) -> dict[int, str]:
    """The names of all servers by their ids."""
    return {server.id: server.name async for server in client.servers(page_size=PAGE).whole()}


def _named(names: Mapping[int, str], name: str) -> list[int]:
    return sorted(server_id for server_id, known in names.items() if known == name)


def _only_one(names: Mapping[int, str], number: str, expect_name: str | None) -> int:
    """The server with this number for an id, unless that is the name of another one, too."""
    server_id = int(number)
    others = [other for other in _named(names, number) if other != server_id]
    if not others:
        return server_id
    candidates = [server_id, *others] if server_id in names else others
    expected = [one for one in candidates if names[one] == expect_name]
    if len(expected) == 1:
        return expected[0]
    shown = f"server {server_id} ({safe(names[server_id])})" if server_id in names else "no server"
    raise RefusedError(
        f"{number} is the id of {shown}, and the name of server {_listed(others)}: "
        "give the other id, or --expect-name NAME with restore"
    )


def _listed(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:_LISTED])) + ", …" * (len(ids) > _LISTED)
