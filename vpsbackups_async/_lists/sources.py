"""Which servers a caller means: ids, `Server` values, a stream of them, or all of the account."""

import asyncio
import math
import sys
from collections.abc import AsyncIterable, Iterable
from typing import TypeAlias

from vpsbackups_async._bulk.source import Source, open_source
from vpsbackups_async._checks import check_int
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, servers_query
from vpsbackups_async._lists.stream import ServerStream
from vpsbackups_async._lists.whole import WholeServers
from vpsbackups_async.models import AllServers, Server

__all__ = ["Servers", "check_servers", "open_servers", "read_servers"]

Servers: TypeAlias = Iterable[int | Server] | AsyncIterable[int | Server] | AllServers
"""What names the servers of a fleet."""


def check_servers(servers: object) -> None:
    """Raise `ValueError` unless the value can name servers."""
    is_text = isinstance(servers, str | bytes | bytearray)
    if is_text or not isinstance(servers, Iterable | AsyncIterable | AllServers):
        raise ValueError(f"server_ids must be an iterable or ALL_SERVERS, not {servers!r}")


def open_servers(servers: Servers, lists: Lists) -> Source[int]:
    """The ids of the servers, read lazily."""
    return open_source(_named(servers, lists), _id_of)


async def read_servers(servers: Servers, lists: Lists) -> dict[int, Server | None]:
    """All the servers by their ids, in their order; None where only the id is known.

    Raises `ValueError` for an id out of range, and what reading the servers raises.
    """
    source: Source[int | Server] = open_source(_named(servers, lists))
    try:
        await source.look_ahead(sys.maxsize, math.inf)
        if source.error is not None:
            raise source.error
        read = source.take_ahead()
    finally:
        await asyncio.gather(*source.stop(), return_exceptions=True)
    found: dict[int, Server | None] = {}
    for server in read:
        server_id = check_int("server_id", _id_of(server))
        found[server_id] = server if isinstance(server, Server) else found.get(server_id)
    return found


def _named(servers: Servers, lists: Lists) -> Iterable[int | Server] | AsyncIterable[int | Server]:
    if isinstance(servers, AllServers):
        return WholeServers(lists, servers_query(page_size=PAGE_SIZE))
    return servers.whole() if isinstance(servers, ServerStream) else servers


def _id_of(server: int | Server) -> int:
    return server.id if isinstance(server, Server) else server
