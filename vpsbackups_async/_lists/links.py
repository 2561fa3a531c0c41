"""The query that a page's `next` link gives, and the links that are refused.

Only the query of a link is used: scheme, host, port and path stay those of the list that was asked
for, so that the token cannot follow a link to another server.
"""

import logging
from urllib.parse import urlsplit

from yarl import URL

from vpsbackups_async.errors import PaginationError

__all__ = ["NextLinks"]

logger = logging.getLogger("vpsbackups_async")


class NextLinks:
    """Takes the query out of a `next` link, and refuses a link to anything but the same list.

    A link with another scheme or port on the same host is accepted, and logged once: servers
    behind a TLS proxy give such links (DRF builds them from the request that it sees).
    """

    def __init__(self, collection: URL) -> None:
        self._collection = collection
        self._warned = False

    def query(self, link: str) -> str:
        """The encoded query of the link; raises `PaginationError` if it leads out of the list."""
        # Checked before parsing: another parser may read these as the start of a host.
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
