"""One walk through a paged list, from its first page to its last."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Generic, TypeVar

from attrs import evolve

from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.prefetch import Fetch, Prefetch, predict
from vpsbackups_async._lists.route import Route, is_whole_list
from vpsbackups_async._lists.seen import Identified, SeenIds
from vpsbackups_async.errors import NotFoundError, PaginationError, VPSBackupsError
from vpsbackups_async.models import Page, Sweep

__all__ = ["MAX_PAGES", "SWEEPS", "Tally", "Walk", "read_complete"]

T = TypeVar("T", bound=Identified)

MAX_PAGES: Final = 1_000_000
SWEEPS: Final = 3
"""How often a list that moves while it is read is read at the most."""
_MAX_RESTARTS: Final = 3
_FREE_PAGES: Final = 3
"""Pages in a row that may bring nothing new before there is a pause after each."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0


class Tally:
    """What a walk has met so far."""

    pages_read: int = 0
    restarts: int = 0
    count_first: int | None = None
    count_last: int | None = None
    count_moved: bool = False
    distinct: int = 0
    duplicates: int = 0
    ended: bool = False
    """Whether the last page was read."""

    @property
    def moved(self) -> bool:
        """Whether the list visibly moved while it was read: to read it again may show more."""
        return self.restarts > 0 or self.count_moved or self.duplicates > 0

    @property
    def complete(self) -> bool:
        """Whether the walk reached the end of a list that did not visibly move meanwhile."""
        if not self.ended or self.restarts or self.count_moved:
            return False
        return self.duplicates == 0 if self.count_last is None else self.distinct == self.count_last

    def count_restart(self) -> None:
        """Count that the walk starts again from the first page."""
        self.restarts += 1

    def end_here(self) -> None:
        """Note that the last page was read."""
        self.ended = True

    def count(self, page: Page[Any], fresh: int) -> None:
        """Count a page of which `fresh` items are new."""
        if not self.pages_read:
            self.count_first = page.count
        elif page.count != self.count_last:
            self.count_moved = True  # also if a later page has the first one's total again
        self.pages_read += 1
        self.count_last = page.count
        self.distinct += fresh
        self.duplicates += len(page.items) - fresh


class Walk(Tally, Generic[T]):
    """One way through a paged list from its first page to its last.

    While the reader holds a page, nothing is held here but what `prefetch` lets run ahead; `aclose`
    ends that too. After several pages that brought nothing new, there is a pause before each
    further one, so that a list without end is not read as fast as the server answers. `keep` gets
    each page after it was counted, and gives it as the reader gets it. The walk is in `open_walks`
    from its first request to its `aclose`.
    """

    def __init__(
        self,
        fetch: Fetch[T],
        query: str,
        links: NextLinks,
        keep: Callable[[Page[T]], Page[T]] | None = None,
        prefetch: int = 0,
        max_pages: int = MAX_PAGES,
        open_walks: "set[Walk[Any]] | None" = None,
    ) -> None:
        self._first_query = query
        self._query: str | None = query
        self._links = links
        self._keep = keep
        self._max_pages = max_pages
        self._route: Route | None = None  # a list of one page needs none
        self._ahead = Prefetch(fetch, prefetch) if prefetch else None
        self._take: Fetch[T] = fetch if self._ahead is None else self._ahead.take
        self._seen: SeenIds | None = None
        self._distinct_before = -1
        self._stale = 0
        """Pages in a row that brought nothing new; below 0 while pages are read again."""
        self._awake: asyncio.Future[None] | None = None
        self._problem: PaginationError | None = None
        self._closed = False
        self._closing_error: VPSBackupsError | None = None
        self._open_walks = open_walks

    async def pages(self) -> AsyncGenerator[Page[T]]:
        """The pages in order, each without the items that an earlier one had.

        Raises `PaginationError` for links that lead elsewhere or in a circle.
        """
        try:
            while (page := await self.turn()) is not None:
                yield page
        finally:
            await self.aclose()

    async def read(self) -> Sweep[T]:
        """All items, and whether the list moved while they were read; ends the walk."""
        items: list[T] = []
        try:
            while (page := await self.turn()) is not None:
                items.extend(page.items)
        finally:
            await self.aclose()
        return Sweep(
            tuple(items),
            self.complete,
            self.count_first,
            self.count_last,
            self.duplicates,
            self.pages_read,
        )

    async def turn(self) -> Page[T] | None:
        """The next page, as `pages` gives it, None at the end; raises what that raises."""
        if self._open_walks is not None:
            self._open_walks.add(self)
        while self._query is not None and self._problem is None and not self._closed:
            query = self._query
            if self._stale > _FREE_PAGES and not await self._pause():
                break
            try:
                page = await self._take(query)
            except NotFoundError as error:
                if self._route is None or not self._route.pages:
                    raise
                self._restart(self._route, error)
            else:
                page = self._taken(query, page)
                return page if self._keep is None else self._keep(page)
        problem = self._problem or (None if self._query is None else self._closing_error)
        if problem is not None:
            raise problem
        return None

    def _taken(self, query: str, page: Page[T]) -> Page[T]:
        """The page without the items seen before; sets which page comes next.

        The page itself is good whatever its link is worth, so a bad link is raised after it.
        """
        try:
            if self._route is None and not is_whole_list(page):
                self._route = Route(self._links, self._max_pages)
            following = None if self._route is None else self._route.after(query, page)
            self._query = following
        except PaginationError as error:
            # Without its traceback: the frames hold the page with its link.
            self._problem, following = error.with_traceback(None), query
        else:
            if following is None:
                self.end_here()
            elif self._ahead is not None and not self._closed:
                first_size = 0 if self._route is None else self._route.first_size
                self._ahead.start(predict(following, page.count, first_size))
        fresh = self._fresh(page.items, is_last=following is None)
        self._stale = 0 if fresh else self._stale + 1
        self.count(page, len(fresh))
        return page if len(fresh) == len(page.items) else evolve(page, items=fresh)

    async def _pause(self) -> bool:
        """Wait after a page that brought nothing new; False if the walk was closed meanwhile."""
        pause = _FIRST_PAUSE * 2.0 ** min(self._stale - _FREE_PAGES - 1, 10)
        self._awake = asyncio.get_running_loop().create_future()
        await asyncio.wait((self._awake,), timeout=min(pause, _LONGEST_PAUSE))
        self._awake = None
        return not self._closed

    def _fresh(self, items: tuple[T, ...], *, is_last: bool) -> tuple[T, ...]:
        """The items that neither an earlier page had nor this one before."""
        if self._seen is None:
            # A list of one page needs no memory of ids: only the page itself may repeat one.
            if is_last and (len(items) < 2 or len({item.id for item in items}) == len(items)):
                return items
            self._seen = SeenIds()
        return self._seen.add(items)

    async def aclose(self, error: VPSBackupsError | None = None) -> None:
        """End the walk and its prefetched requests; a reader who goes on gets the error."""
        ending = self.end(error)
        if ending is not None:
            await ending

    def end(self, error: VPSBackupsError | None = None) -> Awaitable[None] | None:
        """Likewise, but give what is still to be awaited: None without prefetched requests."""
        self._closed = True
        self._closing_error = error
        if self._awake is not None and not self._awake.done():
            self._awake.set_result(None)
        if self._open_walks is not None:
            self._open_walks.discard(self)
        return None if self._ahead is None else self._ahead.cancel()

    def _restart(self, route: Route, error: NotFoundError) -> None:
        """Start again from the first page: the list shrank, and items moved to earlier pages.

        Items that only the new pass shows are handed out; those seen before are not. A page that no
        link named, and whose 404 comes again after nothing new, is not there: the total is wrong,
        and the walk ends incomplete. Raises `PaginationError` after several restarts.
        """
        if route.guessed and self.distinct == self._distinct_before:
            self._query = None
            self.end_here()
            return
        self._distinct_before = self.distinct
        self._stale = -route.pages
        if self.restarts >= _MAX_RESTARTS:
            raise PaginationError(
                f"pages keep vanishing while the list is read ({error.describe()})"
            ) from None
        self.count_restart()
        self._route = Route(self._links, self._max_pages)
        self._query = self._first_query


async def read_complete(open_walk: Callable[[], Walk[T]]) -> Sweep[T]:
    """The whole list, read again by a new walk if it moves meanwhile, up to three times."""
    sweep = await open_walk().read()
    for _ in range(SWEEPS - 1):
        if sweep.complete:
            break
        sweep = await open_walk().read()
    return sweep
