"""Pings to a monitor, by the convention of healthchecks.io."""

import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

__all__ = ["check_ping", "ping"]

_SECONDS: Final = 10.0
"""The timeout of a ping."""
_TRIES: Final = 2
_MOST: Final = 10_000
"""The most bytes that are sent; the convention's own limit is 100,000."""


def check_ping(url: str) -> SplitResult:
    """The parts of a URL to ping; raises `ValueError` unless it is an http or https URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts
    except ValueError:  # a broken IPv6 address
        pass
    raise ValueError("--ping takes an http or https URL")


def ping(parts: SplitResult, ending: str, text: str) -> Exception | None:
    """Send a ping to the URL with this ending; why it failed, None if it did not. It blocks."""
    path = parts.path.rstrip("/") + ending
    url = urlunsplit(parts._replace(path=path, fragment=""))
    body = text.encode("utf-8", "replace")[:_MOST]
    failure: Exception | None = None
    for _ in range(_TRIES):
        try:
            request = urllib.request.Request(url, body, method="POST")  # noqa: S310  # http(s) only, see above
            with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310  # likewise
                return None
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            failure = error
    return failure
