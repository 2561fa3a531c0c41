"""The one place that reads the lists of given servers, by a sweep or server by server."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import Final

from vpsbackups_async._bulk.fan_out import FanOut
from vpsbackups_async._bulk.meter import Meter
from vpsbackups_async._bulk.source import Source, open_source
from vpsbackups_async._checks import check_int
from vpsbackups_async._lists.estimate import FEW_SERVERS, count_pages
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, backups_query
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async._lists.walk import SWEEPS, Walk
from vpsbackups_async.errors import AuthenticationError, VPSBackupsError
from vpsbackups_async.models import Backup, BackupType, Outcome

__all__ = ["ServersReader"]

_LOOK_AHEAD: Final = 4096
"""The most ids that are read before the way is chosen."""
_LOOK_AHEAD_SECONDS: Final = 1.0
_IDS_PER_PAGE: Final = 10_000
_BLOCK: Final = 1_000_000
"""The most ids that one sweep looks for; fewer, by `_IDS_PER_PAGE`, in a short list."""
_BLOCK_SECONDS: Final = 5.0
_PAGES_AHEAD: Final = 16
_MAX_FAILURES: Final = 1_000_000
"""After a 401 no more failures than this are kept: an endless input would fill the memory."""

_Read = tuple[list[Backup], VPSBackupsError | ValueError | None]
"""The backups of one server's list, and the error that ended it early."""


class ServersReader:
    """Reads the lists of many servers once: by the whole list, or by each server's own.

    The whole list is read where it has fewer pages than there are servers. A server that fails
    does not stop the rest: `failures` has an outcome for each, and `refusal` is the 401 after
    which nothing more was sent, if there was one.
    """

    def __init__(
        self,
        lists: Lists,
        backup_type: BackupType | None,
        source: Source[int],
        concurrency: int,
        meter: Meter,
    ) -> None:
        self.failures: list[Outcome[int, object]] = []
        self.refusal: AuthenticationError | None = None
        self._lists = lists
        self._backup_type = backup_type
        self._source = source
        self._concurrency = concurrency
        self._meter = meter
        self._measured = False
        self._pages = 0  # of the whole list; 0 if it is not read
        self._sweep_failed = False
        self._run: FanOut[int, _Read]

    async def backups(self) -> AsyncGenerator[Iterable[Backup]]:
        """The backups, a page or a server at a time; `failures` are complete at the end."""
        self._meter.begin()
        try:
            while await self._a_sweep_pays():
                count = min(_BLOCK, self._pages * _IDS_PER_PAGE)
                await self._source.look_ahead(count, _BLOCK_SECONDS)
                block = self._source.take_ahead()
                async with aclosing(self._by_sweep(block)) as batches:
                    async for batch in batches:
                        yield batch
            async with aclosing(self._by_server(self._source)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            await asyncio.gather(*self._source.stop(), return_exceptions=True)
            self._meter.end()

    async def _a_sweep_pays(self) -> bool:
        """Whether the whole list has fewer pages than there are servers left."""
        source = self._source
        if self.refusal is not None:
            return False
        await source.look_ahead(FEW_SERVERS + 1, _LOOK_AHEAD_SECONDS)
        if source.known <= FEW_SERVERS:
            return False
        if not self._measured:
            self._measured = True
            self._pages = await self._length()
        if not self._pages:
            return False
        await source.look_ahead(min(self._pages + 1, _LOOK_AHEAD), _LOOK_AHEAD_SECONDS)
        return self._pages < source.known

    def _open(self, server_id: int | None, *, prefetch: int = 0) -> Walk[Backup]:
        page_size = PAGE_SIZE if server_id is None else None
        query = backups_query(server_id, self._backup_type, page_size)
        return self._lists.open(query, prefetch=prefetch)

    async def _length(self) -> int:
        """How many pages the whole list has; 0 if that cannot be told."""
        try:
            return await count_pages(self._open(None))
        except AuthenticationError as error:
            self.refusal = error
        except VPSBackupsError:
            pass  # the request was to save others: each server is asked instead
        return 0

    # --- By the whole list ---------------------------------------------------------------------

    async def _by_sweep(self, server_ids: Iterable[int]) -> AsyncGenerator[Iterable[Backup]]:
        """The backups of these servers out of the whole list, or from each if that fails."""
        wanted = self._checked(server_ids)
        seen = SeenIds()
        before, servers = self._meter.ok, wanted.total()
        self._sweep_failed = False
        for number in range(1, SWEEPS + 1):
            walk = self._open(None, prefetch=min(self._concurrency - 1, _PAGES_AHEAD))
            async with aclosing(self._through(walk, wanted, seen)) as batches:
                async for batch in batches:
                    yield batch
            if walk.complete:
                self._count(before + servers, 0)
                return
            if self._sweep_failed or (number + 1) * self._pages > servers:
                break
        self._pages = 0  # the rest of the input is not tried this way again
        self._count(before, 0)
        async with aclosing(self._by_server(open_source(wanted.elements()), seen)) as batches:
            async for batch in batches:
                yield batch

    def _checked(self, server_ids: Iterable[int]) -> Counter[int]:
        """How often each server is named; what cannot be an id is a failure."""
        wanted: Counter[int] = Counter()
        for server_id in server_ids:
            try:
                wanted[check_int("server_id", server_id)] += 1
            except ValueError as error:
                self.failures.append(Outcome(server_id, error=error))
                self._meter.failed += 1
        return wanted

    async def _through(
        self, walk: Walk[Backup], wanted: Counter[int], seen: SeenIds
    ) -> AsyncGenerator[Iterable[Backup]]:
        """The backups of these servers on each page that were not seen before."""
        before, servers = self._meter.ok, wanted.total()
        read = 0
        self._count(before, servers)
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    fresh = seen.add(
                        tuple(backup for backup in page.items if backup.server.id in wanted)
                    )
                    yield (backup for backup in fresh for _ in range(wanted[backup.server.id]))
                    read += 1
                    done = min(servers - 1, servers * read // self._pages)
                    self._count(before + done, servers - done)
        except VPSBackupsError as error:
            self._sweep_failed = True
            if isinstance(error, AuthenticationError):
                self.refusal = error
        self._meter.ok = before

    def _count(self, ok: int, running: int) -> None:
        self._meter.ok = ok
        self._meter.running = lambda: running
        self._meter.changed()

    # --- Server by server ----------------------------------------------------------------------

    async def _by_server(
        self, source: Source[int], seen: SeenIds | None = None
    ) -> AsyncGenerator[Iterable[Backup]]:
        """The backups of each server by a request of its own, without those seen before."""
        run = self._run = FanOut(self._read, source, self._concurrency, Meter(None, ()))
        self._meter.running = lambda: run.running
        if self.refusal is not None:
            run.halt(self.refusal)
        async with aclosing(run.outcomes()) as outcomes:
            async for outcome in outcomes:
                backups, error = outcome.value if outcome.ok else ([], outcome.error)
                yield backups if seen is None else [one for one in backups if one.id not in seen]
                if error is None:
                    self._meter.ok += 1
                else:
                    self._meter.failed += 1
                    self.failures.append(Outcome(outcome.key, error=error))
                self._meter.changed()
                if self.refusal is not None and len(self.failures) >= _MAX_FAILURES:
                    return

    async def _read(self, server_id: int) -> _Read:
        self._meter.changed()
        backups: list[Backup] = []
        seen = SeenIds()
        try:
            check_int("server_id", server_id)
            for _ in range(SWEEPS):
                walk = self._open(server_id)
                async with aclosing(walk.pages()) as pages:
                    async for page in pages:
                        backups += seen.add(page.items)
                if not walk.moved:
                    break
        except (VPSBackupsError, ValueError) as error:
            if isinstance(error, AuthenticationError):
                self.refusal = self.refusal or error
                self._run.halt(error)
            return backups, error
        return backups, None
