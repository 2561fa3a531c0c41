"""The one place that opens a walk through a list.

It applies the filters again, for a server may ignore a query that it does not know, and asks
without `page_size` where a server refuses that: neither is documented by the API.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from attrs import evolve
from yarl import URL

from vpsbackups_async._checks import check_int
from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.prefetch import Fetch
from vpsbackups_async._lists.seen import Identified
from vpsbackups_async._lists.walk import MAX_PAGES, Walk
from vpsbackups_async._transport.calls import OnRetry, SendState
from vpsbackups_async._transport.secrets import Redactor
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async._wire import (
    BACKUPS,
    SERVERS,
    Listing,
    Response,
    check_backup_type,
)
from vpsbackups_async.errors import ApiError, BadRequestError, VPSBackupsError
from vpsbackups_async.models import Backup, BackupType, Page, Server

__all__ = [
    "PAGE_SIZE", "FetchPage", "Hooks", "KnownLists", "ListQuery", "Lists", "backups_query",
    "servers_query",
]  # fmt: skip

logger = logging.getLogger("vpsbackups_async")

T = TypeVar("T", bound=Identified)

PAGE_SIZE: Final = 100
"""Items a page asked for where many pages are read: the most that the provider's lists give."""

OnResponse = Callable[[Response], object]


class Hooks(msgspec.Struct, frozen=True):
    """What is called, or watches, while a page is fetched.

    `on_response` is called with the response, `on_retry` with the error of an attempt before the
    next one; what that raises ends the fetch. `send` watches the request.
    """

    on_response: OnResponse | None = None
    on_retry: OnRetry | None = None
    send: SendState | None = None


_NO_HOOKS: Final = Hooks()


class ListQuery(Generic[T]):
    """What a list is asked for: the endpoint, filters by parameter, how many items a page.

    `text` is the encoded query of the first page. A `page_size` of None is the server's own; the
    class raises `ValueError` for one out of range.
    """

    __slots__ = ("filters", "listing", "page_size", "text")

    def __init__(
        self, listing: Listing[T], filters: dict[str, int | str], page_size: int | None
    ) -> None:
        self.listing: Listing[T] = listing
        self.filters: dict[str, int | str] = filters
        self.page_size: int | None = (
            None if page_size is None else check_int("page_size", page_size)
        )
        text = ""
        for name, value in filters.items():
            text += f"{name}={value if type(value) is int else quote(str(value), safe='')}&"
        self.text: str = text[:-1] if page_size is None else f"{text}page_size={self.page_size}"


def backups_query(
    server_id: int | None = None,
    backup_type: str | BackupType | None = None,
    page_size: int | None = None,
    listing: Listing[Backup] = BACKUPS,
) -> ListQuery[Backup]:
    """The query for a list of backups; raises `ValueError` for values out of range."""
    filters: dict[str, int | str] = {}
    if server_id is not None:
        filters["server_id"] = check_int("server_id", server_id)
    if backup_type is not None:
        filters["backup_type"] = str(check_backup_type(backup_type))
    return ListQuery(listing, filters, page_size)


def servers_query(
    status: str | None = None, location: str | None = None, page_size: int | None = None
) -> ListQuery[Server]:
    """The query for a list of servers; raises `ValueError` for values out of range."""
    filters: dict[str, int | str] = {}
    for name, value in (("status", status), ("location", location)):
        if value is not None:
            if not isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a str that is not empty, not {value!r}")
            filters[name] = value
    return ListQuery(SERVERS, filters, page_size)


class FetchPage(Protocol):
    """Sends the request for one page of a list, and reads it."""

    async def __call__(self, listing: Listing[T], hooks: Hooks, query: str) -> Page[T]:
        """The page for an encoded query."""
        ...


async def fetch_page(
    transport: Transport, listing: Listing[T], hooks: Hooks, query: str
) -> Page[T]:
    """One page by way of the transport."""
    try:
        request = listing.request(query)
        response = await transport.send(request, hooks.send, on_retry=hooks.on_retry)
    except ApiError as error:
        of_a_server = "&server_id=" in f"&{query}"
        hint = (listing.hints_of_a_server if of_a_server else listing.hints).get(error.status)
        # Of a server, the hint of a 404 that may not be the API's says that already.
        if hint is not None and (error.from_api or not of_a_server):
            error.hint = hint
        raise
    if hooks.on_response is not None:
        hooks.on_response(response)
    return listing.read(response)


class KnownLists:
    """What one client knows of the lists below the API's `root`, and its open walks.

    `ignored_filters` are those that the server ignored when a page last told. The sizes of pages
    that it took and refused are by the path of the list.
    """

    def __init__(self, root: URL, mask: Redactor) -> None:
        self.open_walks: set[Walk[Any]] = set()
        self.ignored_filters: set[str] = set()
        self.warned_of_filters = False
        self.taken_size: dict[str, int] = {}
        self.refused_size: dict[str, int] = {}
        self._root = root
        self._mask = mask
        self._links: dict[str, NextLinks] = {}

    def links(self, path: str) -> NextLinks:
        """The links of the list at this path, which warn once of what they mend."""
        links = self._links.get(path)
        if links is None:
            url = URL(f"{self._root}{path}", encoded=True)
            links = self._links[path] = NextLinks(url, self._mask)
        return links

    async def aclose(self, error: VPSBackupsError) -> None:
        """End all walks; a reader who goes on gets the error."""
        for walk in tuple(self.open_walks):
            await walk.aclose(error)


class Lists:
    """Opens walks through lists; `known` is shared by all that read the lists of one client."""

    def __init__(self, fetch: FetchPage, known: KnownLists) -> None:
        self._fetch = fetch
        self._known = known

    @property
    def ignored_filters(self) -> set[str]:
        """The filters that the server ignored when a page last told."""
        return self._known.ignored_filters

    def open(
        self,
        query: ListQuery[T],
        *,
        prefetch: int = 0,
        max_pages: int = MAX_PAGES,
        on_response: OnResponse | None = None,
        on_retry: OnRetry | None = None,
        send: SendState | None = None,
    ) -> Walk[T]:
        """A walk through the list; nothing is sent before its first page is asked for.

        `on_response` is called with the response of each page, `on_retry` with the error of an
        attempt before the next one; what that raises ends the walk. `send` watches the requests.
        """
        listing, first, size = query.listing, query.text, query.page_size
        hooks = Hooks(on_response, on_retry, send) if on_response or on_retry or send else _NO_HOOKS
        fetch: Fetch[T] = partial(self._fetch, listing, hooks)
        if size is not None:
            if size >= self._known.refused_size.get(listing.path, math.inf):
                first = _without_page_size(first)
            elif size > self._known.taken_size.get(listing.path, 0):
                fetch = _SizedFetch(fetch, first, partial(self._learn_of_size, listing.path, size))
        return Walk(
            fetch,
            first,
            self._known.links(listing.path),
            partial(self._matching, query) if query.filters else None,
            prefetch,
            max_pages,
            self._known.open_walks,
        )

    def _matching(self, query: ListQuery[T], page: Page[T]) -> Page[T]:
        """The page without the items that the filters exclude.

        A list of one server must never show a backup of another one: it may get deleted.
        """
        items, known = page.items, self._known
        for name, value in query.filters.items():
            fitting = query.listing.filters[name]
            if len(fitting(page.items, value)) < len(page.items):
                known.ignored_filters.add(name)
                items = tuple(fitting(items, value))
        if items is page.items:
            if items and known.ignored_filters:
                known.ignored_filters.difference_update(query.filters)
            return page
        if not known.warned_of_filters:
            known.warned_of_filters = True
            logger.warning("the server ignores list filters: they are applied here")
        return evolve(page, items=items, count=None)

    def _learn_of_size(self, path: str, size: int, *, taken: bool) -> None:
        known = self._known
        if taken:
            known.taken_size[path] = max(size, known.taken_size.get(path, 0))
        else:
            known.refused_size[path] = min(size, known.refused_size.get(path, size))
            logger.info("the server refuses page_size=%s: its lists are read without", size)


class _SizedFetch(Generic[T]):
    """Fetches pages of a given size, or of the server's own where it refuses the first one."""

    def __init__(self, fetch: Fetch[T], first: str, learn: Callable[..., None]) -> None:
        self._fetch = fetch
        self._first = first
        self._learn = learn
        self._refused = False

    async def __call__(self, query: str) -> Page[T]:
        if self._refused:
            return await self._fetch(_without_page_size(query))
        try:
            page = await self._fetch(query)
        except BadRequestError as error:
            # On a later page another size would cut the list anew, and lose items.
            if query != self._first or not _may_be_page_size(error):
                raise
        else:
            self._learn(taken=True)
            return page
        page = await self._fetch(_without_page_size(query))
        self._refused = True
        self._learn(taken=False)
        return page


def _may_be_page_size(error: BadRequestError) -> bool:
    """Whether the page size may be what was refused; not if only other fields are named."""
    return not error.field_errors or "page_size" in error.field_errors


def _without_page_size(query: str) -> str:
    return "&".join(pair for pair in query.split("&") if not pair.startswith("page_size="))
