"""What `BackupsClient.list` gives: a list of backups that is read as you go."""

import asyncio
import builtins
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Final, Self

from vpsbackups_async._checks import check_int
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._wire import to_json
from vpsbackups_async.models import Backup, Page, Sweep

__all__ = ["SWEEPS", "BackupStream"]

SWEEPS: Final = 3
"""So often a list that moves while it is read is read at most."""
_TURNS: Final = 8
"""Turns of the loop in which a web server that learns of its client's leaving can tell a body."""


class BackupStream:
    """A list of backups that is read as you go; each way of reading it starts from the first page.

    `async for backup in stream` gives the backups one by one, none of them twice. Leaving the loop
    early is fine; `async with stream:` makes sure that what `prefetch` lets run ahead has ended.
    """

    def __init__(self, open_walk: Callable[[], Walk], keep: Callable[[Page], Page]) -> None:
        self._open_walk = open_walk
        self._keep = keep
        self._walks: set[Walk] = set()

    async def __aiter__(self) -> AsyncGenerator[Backup]:
        # Not through `pages()`: a generator within a generator would cost each page more than
        # the rest of this room.
        walk = self._begin()
        try:
            while (page := await walk.turn()) is not None:
                for backup in self._keep(page).items:
                    yield backup
        finally:
            await self._end(walk)

    async def pages(self) -> AsyncGenerator[Page]:
        """The pages as the server cuts them, each without what an earlier one had."""
        walk = self._begin()
        try:
            while (page := await walk.turn()) is not None:
                yield self._keep(page)
        finally:
            await self._end(walk)

    def _begin(self) -> Walk:
        walk = self._open_walk()
        self._walks.add(walk)
        return walk

    async def _end(self, walk: Walk) -> None:
        self._walks.discard(walk)
        await walk.aclose()

    async def first(self) -> Backup | None:
        """The first backup, None if there is none; one request, unless the page is empty."""
        async with aclosing(aiter(self)) as backups:
            return await anext(backups, None)

    async def collect(self, limit: int | None = None) -> builtins.list[Backup]:
        """All backups, or the first `limit` of them, with no more pages read than that takes."""
        if limit is not None:
            check_int("limit", limit, 0)
        backups: builtins.list[Backup] = []
        if limit == 0:
            return backups
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                backups.extend(page.items)
                if limit is not None and len(backups) >= limit:
                    return backups[:limit]
        return backups

    async def count(self) -> int:
        """How many backups the server counts; one request, or all where it gives no count."""
        sizes: builtins.list[int] = []
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                # A later total would be one that a server gives whatever the filters.
                if page.count is not None and not sizes:
                    return page.count
                sizes.append(len(page.items))
        return sum(sizes)

    async def ndjson(self) -> AsyncGenerator[bytes]:
        """The body of a web handler's answer: a line of JSON a backup, a chunk a page.

        The first page is read before this returns, so that what fails with it can still become a
        status. Each further page is requested when the chunk before it was taken, so that a slow
        reader holds the listing back. Between chunks nothing is held but what `prefetch` lets run
        ahead: a body that is dropped unclosed, as web servers do, leaves nothing behind.

        Raises what reading the list raises. After the first page the body does, so that the server
        cuts the connection: a reader never takes a part of the list for the whole.
        """
        pages = self.pages()
        return _lines(await anext(pages, None), pages)

    async def snapshot(self) -> Sweep:
        """The whole list, and whether it is whole; read up to three times if it moves meanwhile."""
        sweep = await self._sweep()
        for _ in range(SWEEPS - 1):
            if sweep.complete:
                break
            sweep = await self._sweep()
        return sweep

    async def _sweep(self) -> Sweep:
        walk = self._begin()
        items: builtins.list[Backup] = []
        try:
            while (page := await walk.turn()) is not None:
                items.extend(self._keep(page).items)
        finally:
            await self._end(walk)
        tally = walk.tally
        return Sweep(
            tuple(items),
            walk.complete,
            tally.count_first,
            tally.count_last,
            tally.duplicates,
            tally.pages,
        )

    async def aclose(self) -> None:
        """End every loop over this stream, and wait until what runs ahead of them has ended."""
        for walk in tuple(self._walks):
            await walk.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _lines(page: Page | None, pages: AsyncGenerator[Page]) -> AsyncGenerator[bytes]:
    async with aclosing(pages):
        while page is not None:
            if page.items:
                yield b"".join(to_json(backup) + b"\n" for backup in page.items)
            # A server whose client left goes on here a moment before it cancels: no request then.
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            page = await anext(pages, None)
