"""What `BackupsClient.list` gives: a list that is read as you go."""

import asyncio
import builtins
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from vpsbackups_async._checks import check_int
from vpsbackups_async._lists.lists import ListQuery, Lists
from vpsbackups_async._lists.seen import Identified
from vpsbackups_async._lists.walk import MAX_PAGES, Walk, read_complete
from vpsbackups_async._lists.whole import WholeServers
from vpsbackups_async._wire import to_json
from vpsbackups_async.errors import ConfigurationError
from vpsbackups_async.models import Backup, Page, Server, Sweep

__all__ = ["BackupStream", "ServerStream", "Stream"]

T = TypeVar("T", bound=Identified)

_LOOP_TURNS: Final = 8
"""Turns of the event loop that a web server gets to cancel a body whose client has left."""


class Stream(Generic[T]):
    """A list that is read as you go; each way of reading it starts from the first page.

    `async for item in stream` gives the items one by one, none of them twice. Leaving the loop
    early is fine; `async with stream:` makes sure that the requests of `prefetch` have ended.

    Reading raises `ApiError`, `TransportError`, `DeadlineExceededError`, `InvalidResponseError`
    where a page does not fit the contract, and `PaginationError` where its links cannot be
    followed.
    """

    def __init__(
        self, lists: Lists, query: ListQuery[T], prefetch: int = 0, max_pages: int = MAX_PAGES
    ) -> None:
        self._lists = lists
        self._query = query
        self._prefetch = prefetch
        self._max_pages = max_pages
        self._walks: set[Walk[T]] = set()

    def __repr__(self) -> str:
        query = self._query.text
        asked = f"{self._query.listing.path}{'?' if query else ''}{query}"
        return f"<{type(self).__name__} of {asked}, prefetch={self._prefetch}>"

    async def __aiter__(self) -> AsyncGenerator[T]:
        # Not through `pages()`: a generator within a generator would cost each page more than
        # the rest of this module.
        walk = self._begin()
        try:
            while not walk.ended and (page := await walk.turn()) is not None:
                for item in page.items:
                    yield item
        finally:
            self._walks.discard(walk)
            ending = walk.end()
            if ending is not None:
                await ending

    async def pages(self) -> AsyncGenerator[Page[T]]:
        """The pages as the server cuts them, each without the items that an earlier one had.

        Raises what reading the stream raises.
        """
        walk = self._begin()
        try:
            while (page := await walk.turn()) is not None:
                yield page
        finally:
            self._walks.discard(walk)
            await walk.aclose()

    def _begin(self) -> Walk[T]:
        walk = self._lists.open(self._query, prefetch=self._prefetch, max_pages=self._max_pages)
        self._walks.add(walk)
        return walk

    async def first(self) -> T | None:
        """The first item, None if there is none; one request, unless the page is empty.

        Raises what reading the stream raises.
        """
        async with aclosing(aiter(self)) as items:
            return await anext(items, None)

    async def collect(self, limit: int | None = None) -> builtins.list[T]:
        """All items, or the first `limit` of them, with no more pages read than that takes.

        Raises `ValueError` for a negative `limit`, and what reading the stream raises.
        """
        if limit is not None:
            check_int("limit", limit, 0)
        items: builtins.list[T] = []
        if limit == 0:
            return items
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                items.extend(page.items)
                if limit is not None and len(items) >= limit:
                    return items[:limit]
        return items

    async def count(self) -> int:
        """How many items the server counts; one request, or the whole list if it gives no count.

        Raises what reading the stream raises.
        """
        sizes: builtins.list[int] = []
        async with aclosing(self.pages()) as pages:
            async for page in pages:
                # Only the first page's total: a server that ignores filters counts all items.
                if page.count is not None and not sizes:
                    return page.count
                sizes.append(len(page.items))
        return sum(sizes)

    async def snapshot(self) -> Sweep[T]:
        """The whole list, and whether it is complete; read up to three times if it moves meanwhile.

        Raises what reading the stream raises.
        """
        walks: builtins.list[Walk[T]] = []

        def begin() -> Walk[T]:
            walks.append(self._begin())
            return walks[-1]

        try:
            return await read_complete(begin)
        finally:
            self._walks.difference_update(walks)

    async def aclose(self) -> None:
        """End every loop over this stream, and wait until its prefetched requests have ended.

        A reader that goes on gets a `ConfigurationError`, so that it never takes a part of the list
        for the whole.
        """
        closed = ConfigurationError("this stream was closed before it was read to its end")
        for walk in tuple(self._walks):
            await walk.aclose(closed)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class BackupStream(Stream[Backup]):
    """A list of backups that is read as you go; each way of reading it starts from the first page.

    `async for backup in stream` gives the backups one by one, none of them twice. Leaving the loop
    early is fine; `async with stream:` makes sure that the requests of `prefetch` have ended.

    Reading raises `ApiError`, `TransportError`, `DeadlineExceededError`, `InvalidResponseError`
    where a page does not fit the contract, and `PaginationError` where its links cannot be
    followed.
    """

    async def ndjson(self) -> AsyncGenerator[bytes]:
        """The body of a web handler's answer: a line of JSON a backup, a chunk a page.

        The first page is read before this returns, so that an error of it can still become a
        status. Each further page is requested once the chunk before it was taken, so that a slow
        reader holds the listing back. Between chunks nothing is held but the requests of
        `prefetch`: a body that is dropped without being closed, as web servers do, leaves nothing
        behind.

        Raises what reading the stream raises. An error after the first page is raised by the body,
        so that the web server cuts the connection: a reader never takes a part of the list for the
        whole.
        """
        pages = self.pages()
        return _lines(await anext(pages, None), pages)


class ServerStream(Stream[Server]):
    """A list of servers that is read as you go, as `BackupStream` is of backups."""

    def whole(self) -> WholeServers:
        """The servers as they come, with an error at the end unless they are certainly all."""
        return WholeServers(self._lists, self._query)


async def _lines(
    page: Page[Backup] | None, pages: AsyncGenerator[Page[Backup]]
) -> AsyncGenerator[bytes]:
    async with aclosing(pages):
        while page is not None:
            if page.items:
                yield b"".join(to_json(backup) + b"\n" for backup in page.items)
            # A web server whose client left reads on for a moment before it cancels: give it time
            # to do so before the next request.
            for _ in range(_LOOP_TURNS):
                await asyncio.sleep(0)
            page = await anext(pages, None)
