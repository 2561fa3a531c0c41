"""The complete lists of given servers, for those who must not take a part for the whole."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Final

from vpsbackups_async._bulk.fan_out import FanOut
from vpsbackups_async._bulk.meter import Meter
from vpsbackups_async._bulk.source import open_source
from vpsbackups_async._lists.estimate import FEW_SERVERS, count_pages
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, OnResponse, backups_query
from vpsbackups_async._lists.walk import SWEEPS, Walk
from vpsbackups_async.errors import AuthenticationError, PaginationError, VPSBackupsError
from vpsbackups_async.models import Backup, Outcome

__all__ = ["Snapshots"]

_PAGES_AHEAD: Final = 16

Snapshot = Outcome[int, Sequence[Backup]]


class Snapshots:
    """Reads the complete lists of many servers: by the whole list, or by each server's own.

    The whole list is read where it has fewer pages than there are servers, and again if it moves
    meanwhile. Where it cannot be read completely, each server is asked. `on_response` is called
    with the response of each page.
    """

    def __init__(
        self,
        lists: Lists,
        server_ids: Sequence[int],
        *,
        concurrency: int,
        on_response: OnResponse | None = None,
    ) -> None:
        self._lists = lists
        self._server_ids = server_ids
        self._concurrency = concurrency
        self._on_response = on_response

    async def read(self) -> AsyncGenerator[Snapshot]:
        """One outcome for each server: all its backups, or why they could not be read.

        `PaginationError` is the error of a server whose list was not complete in any reading.
        Raises `AuthenticationError` if the token is refused; nothing more is sent then.
        """
        whole = await self._by_sweep()
        if whole is not None:
            for server_id, backups in whole.items():
                yield Outcome(server_id, backups)
            return
        run: FanOut[int, Sequence[Backup]] = FanOut(
            self._own_list,
            open_source(self._server_ids),
            self._concurrency,
            Meter(None, ()),
            halts=_is_refused_token,
        )
        async with aclosing(run.outcomes()) as outcomes:
            async for outcome in outcomes:
                if outcome.error is not None and _is_refused_token(outcome.error):
                    raise outcome.error
                yield outcome

    async def _own_list(self, server_id: int) -> Sequence[Backup]:
        read = partial(Finder(self._lists).read_server, on_response=self._on_response)
        sweep = await read(server_id)
        if not sweep.complete:
            raise PaginationError(f"the list of server {server_id} could not be read completely")
        return sweep.items

    async def _by_sweep(self) -> Mapping[int, Sequence[Backup]] | None:
        """The backups of each server out of the whole list; None if each server is to be asked."""
        servers = len(self._server_ids)
        if servers <= FEW_SERVERS:
            return None
        try:
            pages = await count_pages(self._open())
            for number in range(1, SWEEPS + 1):
                # Another sweep must not take more requests than asking each server.
                if not pages or number * pages >= servers:
                    return None
                walk = self._open(prefetch=min(self._concurrency - 1, _PAGES_AHEAD))
                found = await self._grouped(walk)
                if walk.complete:
                    return found
        except AuthenticationError:
            raise
        except VPSBackupsError:
            pass  # servers' own lists may work
        return None

    def _open(self, *, prefetch: int = 0) -> Walk[Backup]:
        query = backups_query(page_size=PAGE_SIZE)
        return self._lists.open(query, prefetch=prefetch, on_response=self._on_response)

    async def _grouped(self, walk: Walk[Backup]) -> dict[int, list[Backup]]:
        found: dict[int, list[Backup]] = {server_id: [] for server_id in self._server_ids}
        async with aclosing(walk.pages()) as pages:
            async for page in pages:
                for backup in page.items:
                    if (of_server := found.get(backup.server.id)) is not None:
                        of_server.append(backup)
        return found


def _is_refused_token(error: Exception) -> bool:
    return isinstance(error, AuthenticationError)
