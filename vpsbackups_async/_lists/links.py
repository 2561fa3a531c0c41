"""The query that a page's `next` link gives, and the links that are refused.

Only the query of a link is used: scheme, host, port and path stay those of the list that was asked
for, so that the token cannot follow a link to another server.
"""

import logging
from urllib.parse import urlsplit

from yarl import URL

from vpsbackups_async._transport.address import is_internal
from vpsbackups_async._transport.secrets import Redactor
from vpsbackups_async.errors import PaginationError

__all__ = ["NextLinks"]

logger = logging.getLogger("vpsbackups_async")


class NextLinks:
    """Takes the query out of a `next` link, and refuses a link to anything but the same list.

    A link with another scheme or port on the same host is accepted, and one to a host that has a
    meaning only in the server's own network; this is logged once. Servers behind a proxy give such
    links (DRF builds them from the request that it sees).
    """

    def __init__(self, collection: URL, mask: Redactor) -> None:
        self.shown = mask
        """Masks the secrets in a link that enters an error."""
        self._collection = collection
        self._warned = False

    def query(self, link: str) -> str:
        """The encoded query of the link; raises `PaginationError` if it leads out of the list."""
        url = self._parsed(link)
        problem = "is not a plain URL" if url is None else self._problem(url)
        if url is None or problem:
            link, url = self.shown(link), None  # a traceback may show local variables
            raise PaginationError(f"the link to the next page {problem}", link)
        ours = self._collection
        if (url.scheme, url.host, url.port) != (ours.scheme, ours.host, ours.port):
            self._warn(url)
        return url.raw_query_string

    def _warn(self, url: URL) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the server's links to further pages begin with %s instead of %s: only their query "
                "is used (a proxy in front of the server does not tell it its own address)",
                self.shown(str(url.origin())),
                self._collection.origin(),
            )

    def _parsed(self, link: str) -> URL | None:
        """The link as an absolute URL, None if it is not one that every parser reads alike."""
        # Checked before parsing: another parser may read these as the start of a host.
        if link.startswith("//") or not link.isprintable() or " " in link or "\\" in link:
            return None
        try:
            url = self._collection.join(URL(link))
            # An `xn--` host that cannot be decoded raises UnicodeError, which is a ValueError.
            is_plain = bool(url.host) and "@" not in urlsplit(link).netloc
        except ValueError:
            return None
        return url if is_plain and url.scheme in {"http", "https"} else None

    def _problem(self, url: URL) -> str:
        """Why the link is not followed; empty if it is."""
        ours = self._collection
        if url.host != ours.host and not is_internal(url.host or ""):
            return "leads to another host"
        if url.raw_path.rstrip("/") != ours.raw_path.rstrip("/"):
            return "leads out of the list"
        # Where the token would be sent in a URL, it would be logged on the way.
        return "holds the token" if self.shown.finds_token(url.raw_query_string) else ""
