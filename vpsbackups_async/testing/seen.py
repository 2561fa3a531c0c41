"""A record of one request that the fake server received."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["SeenRequest"]


@attrs.frozen(eq=False)
class SeenRequest:
    """One request that the server received.

    Args:
        number: counts the requests from 1, in order of arrival.
        method: the HTTP method.
        path: the percent-decoded path.
        target: the path and query as sent.
        query: the decoded query parameters.
        headers: the headers; the repr omits them, because they contain the token.
        body: the bytes of the body.
        at: the time of arrival by the server's clock, in seconds since 1970.
        status: the HTTP status of the reply. None while the request is in progress, and
            afterwards if the connection was dropped or the client had disconnected.

    """

    number: int
    method: str
    path: str
    target: str
    query: dict[str, str]
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes
    at: float
    status: int | None = None

    @property
    def json(self) -> Any:
        """The body parsed as JSON, or None if it is empty or not valid JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def matches(self, method: str | None, path: str | None) -> bool:
        """Whether the method is ``method`` and the target contains ``path``; None matches any."""
        if method is not None and method.upper() != self.method:
            return False
        return path is None or path in self.target or path in self.path


def record_status(seen: SeenRequest, status: int | None) -> None:
    """Set the status of the reply on ``seen``."""
    # The class is frozen for callers. The server knows the status only after it has shared the
    # value, so it bypasses that here.
    object.__setattr__(seen, "status", status)
