"""Which query a page's `next` link gives, and which links are refused."""

import logging
from urllib.parse import urlsplit

from yarl import URL

from vpsbackups_async.errors import PaginationError

logger = logging.getLogger("vpsbackups_async")


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
        # What another parser might read as the beginning of a host is refused before it is parsed.
        if link.startswith("//") or not link.isprintable() or " " in link or "\\" in link:
            raise PaginationError("the link to the next page is not a plain URL", link)
        try:
            url = self._collection.join(URL(link))
            authority = urlsplit(link).netloc
        except ValueError:
            raise PaginationError("the link to the next page is not a URL", link) from None
        ours = self._collection
        if url.scheme not in {"http", "https"} or "@" in authority:
            raise PaginationError("the link to the next page is not a plain http(s) URL", link)
        if url.host != ours.host:
            raise PaginationError("the link to the next page leads to another host", link)
        if url.raw_path.rstrip("/") != ours.raw_path.rstrip("/"):
            raise PaginationError("the link to the next page leads out of the list", link)
        if (url.scheme, url.port) != (ours.scheme, ours.port) and not self._warned:
            self._warned = True
            logger.warning(
                "the server's links to further pages begin with %s instead of %s: only their query "
                "is used (a proxy in front of the server does not tell it its own address)",
                url.origin(),
                ours.origin(),
            )
        return url.raw_query_string
