"""The verbs over many servers at once."""

import asyncio
import builtins
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from contextlib import aclosing
from typing import Final, Protocol

from vpsbackups_async._bulk.fan_out import FanOut, OnError
from vpsbackups_async._bulk.meter import Meter, OnProgress
from vpsbackups_async._bulk.source import Source, open_source
from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async._wire import check_backup_type
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.errors import (
    AuthenticationError,
    BadRequestError,
    FleetError,
    VPSBackupsError,
    WaitError,
)
from vpsbackups_async.models import Backup, BackupType, Outcome, Page

__all__ = ["Fleet"]

DEFAULT_CONCURRENCY = 64
_FEW: Final = 16
"""For so many servers or fewer it does not pay to ask how long the whole list is."""
_LOOK_AHEAD: Final = 4096
"""At most so many ids are read before the way is chosen, and for at most so many seconds."""
_LOOK_AHEAD_SECONDS: Final = 1.0
_IDS_PER_PAGE: Final = 10_000
_BLOCK: Final = 1_000_000
"""At most so many ids are looked for in one way through the list, fewer in a short one."""
_BLOCK_SECONDS: Final = 5.0
_WALKS: Final = 3
_PAGE_SIZE: Final = 100
_AHEAD: Final = 16
_MOST_FAILURES: Final = 1_000_000
"""After a 401 no more of the rest are named: an input without end would fill the memory."""


class Listing(Protocol):
    """What a fleet needs of one server's list."""

    def pages(self) -> AsyncGenerator[Page]: ...


class WholeList(Listing, Protocol):
    """What a fleet needs of the list of all servers."""

    @property
    def complete(self) -> bool:
        """Whether it was read to its end and did not visibly move meanwhile."""
        ...


OpenList = Callable[[BackupType | None, int | None, int], WholeList]
"""Begins to read the whole list: of which type, how many a page, how many pages ahead."""


class Verbs(Protocol):
    """What a fleet needs of a client."""

    def list(
        self, *, server_id: int | None = None, backup_type: str | BackupType | None = None
    ) -> Listing: ...

    async def create(self, server_id: int, *, description: str | None = None) -> Backup: ...

    async def wait(
        self, backup: Backup, *, backoff: Backoff | None = None, timeout: float | None = 3600.0
    ) -> Backup: ...


class Fleet:
    """Many servers, `concurrency` of them at a time; made by `BackupsClient.fleet`.

    `server_ids` is any iterable or async iterable and read lazily, so that a million is fine; one
    that can be iterated once serves one verb once. An id that cannot be one is the outcome of its
    own item and does not stop the rest; a server named twice is served twice.

    After the first 401 nothing more is sent: what runs ends, and the rest of the servers are not
    attempted (`NotAttemptedError`). A 403 is a matter of its own server and stops nothing.
    """

    def __init__(
        self,
        client: Verbs,
        server_ids: Iterable[int] | AsyncIterable[int],
        *,
        concurrency: int | None = None,
        open_list: OpenList | None = None,
    ) -> None:
        if concurrency is not None:
            check_int("concurrency", concurrency)
        if not isinstance(server_ids, Iterable | AsyncIterable):
            raise ValueError(f"server_ids must be iterable, not {server_ids!r}")
        self._client = client
        self._server_ids = server_ids
        self._concurrency = concurrency or DEFAULT_CONCURRENCY
        self._open_list = open_list

    def list(
        self,
        *,
        backup_type: str | BackupType | None = None,
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Backup]:
        """The backups of all servers as they come; a server named twice gives its backups twice.

        Where the whole list has fewer pages than there are servers, it is read instead and filtered
        here: one request tells its length, and up to 4,096 ids are read ahead to see (for up to a
        second, where they take time to come). If that reading fails, or the list moves three times
        while it is read, each server is asked after all, and gives what has not come before. In
        this way the backups come in the list's order, and a server that is not there has none; in
        the other those of one server come together.

        A server that fails does not stop the rest: `FleetError` with all failures is raised at the
        end, when everything else was handed out, what a failing server gave before included. After
        a 401 the failures name up to a million servers that were not attempted.

        `on_progress` is called with a `Progress`, in servers, at most four times a second and at
        the end. While the whole list is read, the servers count as done in proportion to it; that
        goes back if it must be read again.

        Raises `ValueError` for an unknown `backup_type`.
        """
        kind = None if backup_type is None else check_backup_type(backup_type)
        meter = Meter(on_progress, self._server_ids)
        source = open_source(self._server_ids)
        return _Reading(
            self._client, self._open_list, kind, source, self._concurrency, meter
        ).backups()

    def create(
        self,
        *,
        description: str | None = None,
        wait: bool = False,
        backoff: Backoff | None = None,
        timeout: float | None = 3600.0,
        on_error: OnError = "collect",
        on_progress: OnProgress | None = None,
    ) -> AsyncGenerator[Outcome[int, Backup]]:
        """Start a backup of every server, and wait for its end if `wait`; one outcome each.

        The outcomes come as they end. With `wait` a server keeps its place among the `concurrency`
        at a time until its backup is completed; `backoff` and `timeout` (seconds) are those of
        `BackupsClient.wait`. An outcome whose error is a `WaitError` has the id of the backup that
        was started in its `ref`; another error of a wait (a refused token, say) has it in a note.

        With `on_error="stop"` nothing is started after the first failure, as after a 401 in any
        case: what runs is finished, and the rest of the servers are `NotAttemptedError` outcomes,
        whose `__cause__` is that failure. The ids are still read to their end; where they have
        none, leave the loop. `on_progress` is called with a `Progress` at most four times a second
        and at the end; what it raises is logged.

        Raises `ValueError` for bad arguments, before anything is started.
        """
        if not isinstance(description, str | None):
            raise ValueError(f"description must be a str or None, not {description!r}")
        if backoff is not None:
            check_callable("backoff", backoff)
        if timeout is not None:
            check_number("timeout", timeout)

        async def work(server_id: int) -> Backup:
            try:
                backup = await self._client.create(server_id, description=description)
                return await self._completed(backup, backoff, timeout) if wait else backup
            except VPSBackupsError as error:
                if _refuses_all(error):
                    run.halt(error)
                raise

        meter = Meter(on_progress, self._server_ids)
        source = open_source(self._server_ids)
        run = FanOut(work, source, self._concurrency, meter, on_error=on_error)
        return run.outcomes()

    async def _completed(
        self, backup: Backup, backoff: Backoff | None, timeout: float | None
    ) -> Backup:
        try:
            return await self._client.wait(backup, backoff=backoff, timeout=timeout)
        except Exception as error:
            if not isinstance(error, WaitError):
                error.add_note(f"backup {backup.id} of server {backup.server.id} was started")
            raise


def _refuses_all(error: VPSBackupsError) -> bool:
    """Whether the token is no good; a create whose answer was lost tells so in its cause."""
    return isinstance(error, AuthenticationError) or isinstance(
        error.__cause__, AuthenticationError
    )


_Harvest = tuple[builtins.list[Backup], VPSBackupsError | ValueError | None]
"""What a server's list gave, and what ended it early."""


class _Reading:
    """One run of `Fleet.list`: through the whole list, or each server's, whichever is cheaper."""

    def __init__(
        self,
        client: Verbs,
        open_list: OpenList | None,
        backup_type: BackupType | None,
        source: Source[int],
        concurrency: int,
        meter: Meter,
    ) -> None:
        self._client = client
        self._open_list = open_list
        self._backup_type = backup_type
        self._source = source
        self._concurrency = concurrency
        self._meter = meter
        self._failures: builtins.list[Outcome[int, builtins.list[Backup]]] = []
        self._refusal: AuthenticationError | None = None
        self._page_size: int | None = None
        self._measured = False
        self._pages = 0  # of the whole list; 0 where it is of no use
        self._broken = False
        self._run: FanOut[int, _Harvest]

    async def backups(self) -> AsyncGenerator[Backup]:
        """The backups; raises `FleetError` at the end if anything failed."""
        self._meter.begin()
        try:
            while open_list := await self._cheaper_list():
                count = min(_BLOCK, self._pages * _IDS_PER_PAGE)
                await self._source.look_ahead(count, _BLOCK_SECONDS)
                block = self._source.take_ahead()
                async with aclosing(self._from_whole(open_list, block)) as found:
                    async for backup in found:
                        yield backup
            async with aclosing(self._from_each(self._source)) as found:
                async for backup in found:
                    yield backup
        finally:
            await asyncio.gather(*self._source.stop(), return_exceptions=True)
            self._meter.end()
        if self._failures:
            raise FleetError(self._failures) from self._refusal

    async def _cheaper_list(self) -> OpenList | None:
        """The way to the whole list if that has fewer pages than there are servers to come."""
        source = self._source
        if self._open_list is None or self._refusal is not None:
            return None
        await source.look_ahead(_FEW + 1, _LOOK_AHEAD_SECONDS)
        if source.known <= _FEW:
            return None
        if not self._measured:
            self._measured = True
            self._pages = await self._length(self._open_list)
        if not self._pages:
            return None
        await source.look_ahead(min(self._pages + 1, _LOOK_AHEAD), _LOOK_AHEAD_SECONDS)
        return self._open_list if self._pages < source.known else None

    async def _length(self, open_list: OpenList) -> int:
        """How many pages the whole list has; 0 if that cannot be told."""
        for self._page_size in (_PAGE_SIZE, None):
            try:
                walk = open_list(self._backup_type, self._page_size, 0)
                async with aclosing(walk.pages()) as pages:
                    return _pages_by(await anext(pages))
            except BadRequestError:
                continue
            except AuthenticationError as error:
                self._refusal = error
            except VPSBackupsError:
                pass  # it is asked for to save requests, and nothing hangs on it
            break
        return 0

    async def _from_whole(
        self, open_list: OpenList, server_ids: Iterable[int]
    ) -> AsyncGenerator[Backup]:
        """The backups of these servers out of the whole list, or from each if that fails."""
        wanted = self._checked(server_ids)
        seen = SeenIds()
        before, servers = self._meter.ok, wanted.total()
        self._broken = False
        for number in range(1, _WALKS + 1):
            walk = open_list(self._backup_type, self._page_size, min(self._concurrency - 1, _AHEAD))
            async with aclosing(self._through(walk, wanted, seen)) as found:
                async for backups in found:
                    for backup in backups:
                        for _ in range(wanted[backup.server.id]):
                            yield backup
            if walk.complete:
                self._count(before + servers, 0)
                return
            if self._broken or (number + 1) * self._pages > servers:
                break
        self._pages = 0  # the rest of the input is not tried this way again
        self._count(before, 0)
        async with aclosing(self._from_each(open_source(wanted.elements()), seen)) as each:
            async for backup in each:
                yield backup

    def _checked(self, server_ids: Iterable[int]) -> Counter[int]:
        """How often each server is named; those that cannot be one are failures."""
        wanted: Counter[int] = Counter()
        for server_id in server_ids:
            try:
                wanted[check_int("server_id", server_id)] += 1
            except ValueError as error:
                self._failures.append(Outcome(server_id, error=error))
                self._meter.failed += 1
        return wanted

    async def _through(
        self, walk: WholeList, wanted: Counter[int], seen: SeenIds
    ) -> AsyncGenerator[tuple[Backup, ...]]:
        """What each page of the list has of these servers that was not seen before."""
        before, servers = self._meter.ok, wanted.total()
        read = 0
        self._count(before, servers)
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    # A server that ignores filters is nothing new: the type is looked at here, too.
                    kept = (
                        backup
                        for backup in page.items
                        if backup.server.id in wanted
                        and self._backup_type in {None, backup.backup_type}
                    )
                    yield seen.add(tuple(kept))
                    read += 1
                    done = min(servers - 1, servers * read // self._pages)
                    self._count(before + done, servers - done)
        except VPSBackupsError as error:
            self._broken = True
            if isinstance(error, AuthenticationError):
                self._refusal = error
        self._meter.ok = before

    def _count(self, ok: int, running: int) -> None:
        self._meter.ok = ok
        self._meter.running = lambda: running
        self._meter.changed()

    async def _from_each(
        self, source: Source[int], seen: SeenIds | None = None
    ) -> AsyncGenerator[Backup]:
        """The backups of each server by a request of its own, without what was seen before."""
        run = self._run = FanOut(self._harvest, source, self._concurrency, Meter(None, ()))
        self._meter.running = lambda: run.running
        if self._refusal is not None:
            run.halt(self._refusal)
        async with aclosing(run.outcomes()) as harvests:
            async for harvest in harvests:
                backups, error = harvest.value or ((), harvest.error)
                for backup in backups:
                    if seen is None or backup.id not in seen:
                        yield backup
                if error is None:
                    self._meter.ok += 1
                else:
                    self._meter.failed += 1
                    self._failures.append(Outcome(harvest.key, error=error))
                self._meter.changed()
                if self._refusal is not None and len(self._failures) >= _MOST_FAILURES:
                    return

    async def _harvest(self, server_id: int) -> _Harvest:
        self._meter.changed()
        backups: builtins.list[Backup] = []
        try:
            check_int("server_id", server_id)
            stream = self._client.list(server_id=server_id, backup_type=self._backup_type)
            async with aclosing(stream.pages()) as pages:
                async for page in pages:
                    backups.extend(page.items)
        except (VPSBackupsError, ValueError) as error:
            if isinstance(error, AuthenticationError):
                self._refusal = self._refusal or error
                self._run.halt(error)
            return backups, error
        return backups, None


def _pages_by(page: Page) -> int:
    """How many pages a list has by its first one; 0 if it does not tell."""
    if page.next is None and (page.count or 0) <= len(page.items):
        return 1
    return -(-page.count // len(page.items)) if page.count and page.items else 0
