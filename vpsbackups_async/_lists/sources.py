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
from vpsbackups_async.models import ALL_SERVERS, AllServers, Server

__all__ = ["Servers", "check_servers", "open_servers", "read_server_ids"]

Servers: TypeAlias = Iterable[int | Server] | AsyncIterable[int | Server] | AllServers
"""What names the servers of a fleet."""


def check_servers(servers: object) -> None:
    """Raise `ValueError` unless the value can name servers."""
    is_text = isinstance(servers, str | bytes | bytearray)
    if is_text or not isinstance(servers, Iterable | AsyncIterable | AllServers):
        raise ValueError(f"server_ids must be an iterable or ALL_SERVERS, not {servers!r}")


def open_servers(servers: Servers, lists: Lists) -> Source[int]:
    """The ids of the servers, read lazily."""
    if servers is ALL_SERVERS:
        return open_source(WholeServers(lists, servers_query(page_size=PAGE_SIZE)), _id_of)
    if isinstance(servers, ServerStream):
        return open_source(servers.whole(), _id_of)
    return open_source(servers, _id_of)


async def read_server_ids(servers: Servers, lists: Lists) -> list[int]:
    """The ids of all the servers, each once, in their order.

    Raises `ValueError` for an id out of range, and what reading the servers raises.
    """
    source = open_servers(servers, lists)
    try:
        await source.look_ahead(sys.maxsize, math.inf)
        if source.error is not None:
            raise source.error
        ids = source.take_ahead()
    finally:
        await asyncio.gather(*source.stop(), return_exceptions=True)
    return list(dict.fromkeys(check_int("server_id", server_id) for server_id in ids))


def _id_of(server: int | Server) -> int:
    return server.id if isinstance(server, Server) else server
