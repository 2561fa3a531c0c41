"""The order of the pages of a list: which query follows which page."""

from typing import Any
from urllib.parse import parse_qsl, urlencode

from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async.errors import PaginationError
from vpsbackups_async.models import Page

__all__ = ["Route", "is_whole_list"]


def is_whole_list(first: Page[Any]) -> bool:
    """Whether the first page of a list is its only one."""
    return not first.next and (first.count is None or first.count <= len(first.items))


class Route:
    """The order of the pages: which query follows which page."""

    __slots__ = (
        "_asked",
        "_first_ids",
        "_linked",
        "_links",
        "_max_pages",
        "_received",
        "first_size",
        "guessed",
        "pages",
    )

    def __init__(self, links: NextLinks, max_pages: int) -> None:
        self._links = links
        self._max_pages = max_pages
        self._asked: set[int] | None = None
        self._received = 0
        self._first_ids: frozenset[int] | None = None
        self._linked = False
        self.guessed = False
        """Whether the next page is one that no link names, only the total lets expect."""
        self.pages = 0
        self.first_size = 0

    def after(self, query: str, page: Page[Any]) -> str | None:
        """The query of the page after this one, None at the end.

        Raises `PaginationError` where going on would be endless, or stopping would lose items.
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
            self.guessed = True
        else:
            return None
        if self._asked is None:
            self._asked = set()
        self._asked.add(_key(query))
        if _key(following) in self._asked:
            raise PaginationError(
                "a link leads back to a page that was read",
                self._links.shown(page.next or following),
            )
        if self.pages >= self._max_pages:
            raise PaginationError(
                f"the list has more than {self._max_pages} pages",
                self._links.shown(page.next or following),
            )
        return following

    def _counted_up(self, query: str, page: Page[Any]) -> str:
        """The next page of a server that gives no links, but a total that says there is more."""
        ids = frozenset(item.id for item in page.items)
        if self._first_ids is None:
            self._first_ids = ids
        elif ids <= self._first_ids:
            raise PaginationError(
                f"the server counts {page.count} items, but gives neither a link to the rest "
                "nor further pages",
                self._links.shown(query),
            )
        return urlencode({**dict(parse_qsl(query)), "page": self.pages + 1})


def _key(query: str) -> int:
    """A number for the query, whatever the order of its parameters; it takes less memory."""
    return hash(tuple(sorted(parse_qsl(query, keep_blank_values=True))))
