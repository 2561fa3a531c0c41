"""Pages from a `fetch` callable: which link comes next, what is refused, what is read ahead.

A page's `next` gives a query and nothing else: scheme, host, port and path stay those of the list
that was asked for, so that a token cannot follow a link to another place.
"""

import asyncio
import logging
import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final
from urllib.parse import parse_qsl, urlencode

from attrs import define, evolve
from yarl import URL

from vpsbackups_async.errors import NotFoundError, PaginationError
from vpsbackups_async.models import Backup, Page

logger = logging.getLogger("vpsbackups_async")

Fetch = Callable[[str], Awaitable[Page]]
"""Gives the page for an encoded query."""

MAX_PAGES: Final = 1_000_000
_MAX_RESTARTS: Final = 3


class NextLinks:
    """Takes the query out of a `next` link, and refuses a link that points elsewhere.

    A scheme or port that differs from ours on the same host is what a server behind a TLS proxy
    gives; it does not matter, for neither is used, and is logged once.
    """

    def __init__(self, collection: URL) -> None:
        self._collection = collection
        self._warned = False

    def query(self, link: str) -> str:
        """The encoded query of the link; raises `PaginationError` if it leads out of the list."""
        if link.startswith("//") or any(char.isspace() or char == "\\" for char in link):
            raise PaginationError("the link to the next page is not a plain URL", link)
        try:
            url = self._collection.join(URL(link))
            port = url.port
        except ValueError:
            raise PaginationError("the link to the next page is not a URL", link) from None
        ours = self._collection
        if url.scheme not in {"http", "https"} or url.user is not None or url.password is not None:
            raise PaginationError("the link to the next page is not a plain http(s) URL", link)
        if url.host != ours.host:
            raise PaginationError("the link to the next page leads to another host", link)
        if url.raw_path.rstrip("/") != ours.raw_path.rstrip("/"):
            raise PaginationError("the link to the next page leads out of the list", link)
        if (url.scheme, port) != (ours.scheme, ours.port) and not self._warned:
            self._warned = True
            logger.warning(
                "the server's links to further pages begin with %s instead of %s: only their query "
                "is used (a proxy in front of the server does not tell it its own address)",
                url.origin(),
                ours.origin(),
            )
        return url.raw_query_string


class SeenIds:
    """The ids that were handed out: 8 bytes each while the list keeps to one direction.

    What comes out of order goes to a set, which costs more, so that a list in any order works.
    """

    def __init__(self) -> None:
        self._sign = 0
        self._run = array("q")
        self._strays: set[int] = set()

    def __len__(self) -> int:
        return len(self._run) + len(self._strays)

    def __contains__(self, backup_id: int) -> bool:
        if backup_id in self._strays:
            return True
        key = self._sign * backup_id
        place = bisect_left(self._run, key)
        return place < len(self._run) and self._run[place] == key

    def add(self, items: tuple[Backup, ...]) -> tuple[Backup, ...]:
        """Those of the items that are new, remembered from now on."""
        if not items:
            return items
        if not self._sign:
            self._sign = -1 if items[0].id >= items[-1].id else 1
        keys = [backup.id for backup in items]
        if self._sign < 0:
            keys = [-key for key in keys]
        if keys == sorted(set(keys)) and (not self._run or keys[0] > self._run[-1]):
            try:
                self._run.extend(array("q", keys))
            except OverflowError:
                pass
            else:
                if not self._strays:
                    return items
                return tuple(backup for backup in items if backup.id not in self._strays)
        return tuple(backup for backup in items if self._add_one(backup.id))

    def _add_one(self, backup_id: int) -> bool:
        if backup_id in self:
            return False
        key = self._sign * backup_id
        if (not self._run or key > self._run[-1]) and abs(key) < 2**63:
            self._run.append(key)
        else:
            self._strays.add(backup_id)
        return True


class _Ahead:
    """Page requests that run ahead of the reader, in the order in which they will be read."""

    def __init__(self, fetch: Fetch, depth: int) -> None:
        self._fetch = fetch
        self._depth = depth
        self._tasks: deque[tuple[str, asyncio.Task[Page]]] = deque()

    async def take(self, query: str) -> Page:
        """The page for the query, from those under way if it was foreseen."""
        if self._tasks and _same_query(self._tasks[0][0], query):
            return await self._tasks.popleft()[1]
        await self.drop()
        return await self._fetch(query)

    def run(self, queries: Iterator[str]) -> None:
        """Let requests for the coming queries run, as many as the depth allows."""
        for place in range(self._depth):
            query = next(queries, None)
            if query is None:
                return
            if place >= len(self._tasks):
                self._tasks.append((query, asyncio.ensure_future(self._fetch(query))))

    async def drop(self) -> None:
        """Cancel what runs ahead, and wait until it has ended."""
        tasks = [task for _, task in self._tasks]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _same_query(one: str, other: str) -> bool:
    return one == other or sorted(parse_qsl(one)) == sorted(parse_qsl(other))


def foresee(query: str, last: int | None, size: int) -> Iterator[str]:
    """The given query and those that will follow it, by counting up its `page` or `offset`.

    `last` is the server's total, `size` the length of the first page; without either, or with a
    cursor, which cannot be foreseen, only the given query comes.
    """
    yield query
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    if last is None or size < 1:
        return
    if pairs.get("page", "").isdecimal():
        for number in range(int(pairs["page"]) + 1, math.ceil(last / size) + 1):
            yield urlencode({**pairs, "page": number})
    elif pairs.get("offset", "").isdecimal():
        step = int(pairs["limit"]) if pairs.get("limit", "").isdecimal() else size
        for offset in range(int(pairs["offset"]) + step, last, max(1, step)):
            yield urlencode({**pairs, "offset": offset})


@define
class Tally:
    """What a walk has met so far."""

    pages: int = 0
    restarts: int = 0
    count_first: int | None = None
    count_last: int | None = None
    distinct: int = 0
    duplicates: int = 0
    ended: bool = False

    @property
    def complete(self) -> bool:
        """Whether the walk came to the end of a list that did not visibly move meanwhile."""
        if not self.ended or self.restarts or self.count_first != self.count_last:
            return False
        return (
            self.distinct == self.count_last
            if self.count_last is not None
            else (self.duplicates == 0)
        )

    def add(self, page: Page, fresh: int) -> None:
        """Count a page of which `fresh` backups are new."""
        if not self.pages:
            self.count_first = page.count
        self.pages += 1
        self.count_last = page.count
        self.distinct += fresh
        self.duplicates += len(page.items) - fresh


class _Pass:
    """The way through the pages from the first on: which query comes after which page."""

    def __init__(self, links: NextLinks, max_pages: int) -> None:
        self._links = links
        self._max_pages = max_pages
        self._asked: set[int] = set()
        self._received = 0
        self._first_ids: frozenset[int] = frozenset()
        self._guessed = False
        self.pages = 0
        self.first_size = 0

    def after(self, query: str, page: Page) -> str | None:
        """The query of the page after this one, None at the end.

        Raises `PaginationError` where going on would be endless, or stopping would lose something.
        """
        ids = frozenset(backup.id for backup in page.items) if self._guessed else None
        if not self.pages:
            self.first_size = len(page.items)
            self._first_ids = frozenset(backup.id for backup in page.items)
        self.pages += 1
        self._received += len(page.items)
        self._asked.add(_key(query))
        if ids is not None and ids <= self._first_ids:
            raise PaginationError(
                f"the server counts {page.count} backups, but gives neither a link to the rest "
                "nor further pages",
                query,
            )
        if page.next:
            following = self._links.query(page.next)
            self._guessed = False
        elif page.count is not None and self._received < page.count:
            following = urlencode({**dict(parse_qsl(query)), "page": self.pages + 1})
            self._guessed = True
        else:
            return None
        if _key(following) in self._asked:
            raise PaginationError("a link leads back to a page that was read", page.next)
        if self.pages >= self._max_pages:
            raise PaginationError(f"the list has more than {self._max_pages} pages", page.next)
        return following


def _key(query: str) -> int:
    """A number for the query, whatever the order of its parameters: a set of texts would grow."""
    return hash(tuple(sorted(parse_qsl(query, keep_blank_values=True))))


class Walk:
    """One way through a paged list from its first page to its last.

    Nothing is held while the reader holds a page, but what `prefetch` lets run ahead; closing the
    generator ends that too.
    """

    def __init__(
        self,
        fetch: Fetch,
        query: str,
        links: NextLinks,
        *,
        prefetch: int = 0,
        max_pages: int = MAX_PAGES,
    ) -> None:
        self.tally = Tally()
        self._query = query
        self._links = links
        self._prefetch = prefetch
        self._max_pages = max_pages
        self._ahead = _Ahead(fetch, prefetch)
        self._seen = SeenIds()
        self._closed = False

    async def pages(self) -> AsyncGenerator[Page]:
        """The pages in order, each without the backups that an earlier one had.

        Raises `PaginationError` for links that lead elsewhere or in a circle.
        """
        way = _Pass(self._links, self._max_pages)
        query: str | None = self._query
        try:
            while query is not None and not self._closed:
                try:
                    page = await self._ahead.take(query)
                except NotFoundError as error:
                    if not way.pages:
                        raise
                    self._restart(error)
                    way = _Pass(self._links, self._max_pages)
                    query = self._query
                    continue
                query = way.after(query, page)
                if self._prefetch and query is not None:
                    self._ahead.run(foresee(query, page.count, way.first_size))
                fresh = self._seen.add(page.items)
                self.tally.add(page, len(fresh))
                yield page if len(fresh) == len(page.items) else evolve(page, items=fresh)
            self.tally.ended = query is None
        finally:
            await self._ahead.drop()

    @property
    def complete(self) -> bool:
        """Whether the walk came to the end of a list that did not visibly move meanwhile."""
        return self.tally.complete

    async def aclose(self) -> None:
        """End the walk and what runs ahead of its reader."""
        self._closed = True
        await self._ahead.drop()

    def _restart(self, error: NotFoundError) -> None:
        """Go through the list once more: it shrank below a page, and what moved up was missed.

        What is new in another pass is handed out after all. Raises `PaginationError` if that does
        not help.
        """
        if self.tally.restarts >= _MAX_RESTARTS:
            raise PaginationError(
                f"pages keep vanishing while the list is read ({error.describe()})"
            ) from None
        self.tally.restarts += 1
