"""One walk through a paged list, from its first page to its last."""

import logging
from collections.abc import AsyncGenerator
from typing import Final
from urllib.parse import parse_qsl, urlencode

from attrs import define, evolve

from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.prefetch import Fetch, Prefetch, foresee
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async.errors import NotFoundError, PaginationError, VPSBackupsError
from vpsbackups_async.models import Backup, Page

logger = logging.getLogger("vpsbackups_async")
MAX_PAGES: Final = 1_000_000
_MAX_RESTARTS: Final = 3


@define(eq=False, repr=False)
class Tally:
    """What a walk has met so far."""

    pages: int = 0
    restarts: int = 0
    count_first: int | None = None
    count_last: int | None = None
    count_moved: bool = False
    distinct: int = 0
    duplicates: int = 0
    ended: bool = False

    @property
    def complete(self) -> bool:
        """Whether the walk came to the end of a list that did not visibly move meanwhile."""
        if not self.ended or self.restarts or self.count_moved:
            return False
        return self.duplicates == 0 if self.count_last is None else self.distinct == self.count_last

    def add(self, page: Page, fresh: int) -> None:
        """Count a page of which `fresh` backups are new."""
        if not self.pages:
            self.count_first = page.count
        elif page.count != self.count_last:
            self.count_moved = True  # also where a later page has the first one's total again
        self.pages += 1
        self.count_last = page.count
        self.distinct += fresh
        self.duplicates += len(page.items) - fresh


class _Pass:
    """The way through the pages from the first on: which query comes after which page."""

    __slots__ = (
        "_asked",
        "_first_ids",
        "_linked",
        "_links",
        "_max_pages",
        "_received",
        "first_size",
        "pages",
    )

    def __init__(self, links: NextLinks, max_pages: int) -> None:
        self._links = links
        self._max_pages = max_pages
        self._asked: set[int] | None = None
        self._received = 0
        self._first_ids: frozenset[int] | None = None
        self._linked = False
        self.pages = 0
        self.first_size = 0

    def after(self, query: str, page: Page) -> str | None:
        """The query of the page after this one, None at the end.

        Raises `PaginationError` where going on would be endless, or stopping would lose something.
        """
        if not self.pages:
            self.first_size = len(page.items)
        self.pages += 1
        self._received += len(page.items)
        if page.next:
            self._linked = True
            following = self._links.query(page.next)
        elif not self._linked and page.count is not None and self._received < page.count:
            following = self._counted_up(query, page)
        else:
            return None
        if self._asked is None:
            self._asked = set()
        self._asked.add(_key(query))
        if _key(following) in self._asked:
            raise PaginationError("a link leads back to a page that was read", page.next)
        if self.pages >= self._max_pages:
            raise PaginationError(
                f"the list has more than {self._max_pages} pages", page.next or following
            )
        return following

    def _counted_up(self, query: str, page: Page) -> str:
        """The next page of a server that never links: its total says that there is more."""
        ids = frozenset(backup.id for backup in page.items)
        if self._first_ids is None:
            self._first_ids = ids
        elif ids <= self._first_ids:
            raise PaginationError(
                f"the server counts {page.count} backups, but gives neither a link to the rest "
                "nor further pages",
                query,
            )
        return urlencode({**dict(parse_qsl(query)), "page": self.pages + 1})


def _key(query: str) -> int:
    """A number for the query, whatever the order of its parameters: a set of texts would grow."""
    return hash(tuple(sorted(parse_qsl(query, keep_blank_values=True))))


class Walk:
    """One way through a paged list from its first page to its last.

    Nothing is held while the reader holds a page, but what `prefetch` lets run ahead; `aclose` ends
    that too. While it is under way it is one of the `open_walks`.
    """

    def __init__(
        self,
        fetch: Fetch,
        query: str,
        links: NextLinks,
        *,
        prefetch: int = 0,
        max_pages: int = MAX_PAGES,
        open_walks: "set[Walk] | None" = None,
    ) -> None:
        self.tally = Tally()
        self._first_query = query
        self._query: str | None = query
        self._links = links
        self._max_pages = max_pages
        self._way = _Pass(links, max_pages)
        self._ahead = Prefetch(fetch, prefetch) if prefetch else None
        self._take: Fetch = fetch if self._ahead is None else self._ahead.take
        self._seen: SeenIds | None = None
        self._trouble: PaginationError | None = None
        self._closed = False
        self._closing_error: VPSBackupsError | None = None
        self._open_walks = open_walks

    async def pages(self) -> AsyncGenerator[Page]:
        """The pages in order, each without the backups that an earlier one had.

        Raises `PaginationError` for links that lead elsewhere or in a circle.
        """
        try:
            while (page := await self.turn()) is not None:
                yield page
        finally:
            await self.aclose()

    async def turn(self) -> Page | None:
        """The next page, as `pages` gives it, None at the end; raises what that raises."""
        if self._open_walks is not None:
            self._open_walks.add(self)
        while self._query is not None and self._trouble is None and not self._closed:
            query = self._query
            try:
                page = await self._take(query)
            except NotFoundError as error:
                if not self._way.pages:
                    raise
                self._restart(error)
            else:
                return self._taken(query, page)
        trouble = self._trouble or (None if self._query is None else self._closing_error)
        if trouble is not None:
            raise trouble
        self.tally.ended = self._query is None
        return None

    def _taken(self, query: str, page: Page) -> Page:
        """The page without what was seen; what comes after it is known then.

        The page itself is good whatever its link is worth, so that it is handed out before.
        """
        try:
            self._query = following = self._way.after(query, page)
        except PaginationError as error:
            self._trouble, following = error, query
        else:
            if self._ahead is not None and following is not None and not self._closed:
                self._ahead.run(foresee(following, page.count, self._way.first_size))
        fresh = self._fresh(page.items, is_last=following is None)
        self.tally.add(page, len(fresh))
        return page if len(fresh) == len(page.items) else evolve(page, items=fresh)

    def _fresh(self, items: tuple[Backup, ...], *, is_last: bool) -> tuple[Backup, ...]:
        """What no earlier page had, nor this one before."""
        if self._seen is None:
            # The only page has nothing to be compared with but itself.
            if is_last and len({backup.id for backup in items}) == len(items):
                return items
            self._seen = SeenIds()
        return self._seen.add(items)

    @property
    def complete(self) -> bool:
        """Whether the walk came to the end of a list that did not visibly move meanwhile."""
        return self.tally.complete

    async def aclose(self, error: VPSBackupsError | None = None) -> None:
        """End the walk and what runs ahead of its reader; a reader who goes on gets the error."""
        self._closed = True
        self._closing_error = error
        if self._open_walks is not None:
            self._open_walks.discard(self)
        if self._ahead is not None:
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
        self._way = _Pass(self._links, self._max_pages)
        self._query = self._first_query
