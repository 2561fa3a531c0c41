"""One request as the fake server saw it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["SeenRequest"]


@attrs.frozen(eq=False)
class SeenRequest:
    """One request as the server saw it, in the order of arrival.

    ``number`` counts from 1. ``path`` is decoded, ``target`` is the path and query as sent.
    ``at`` is the server's clock in seconds since 1970. ``status`` is what was answered: None
    while the request is under way, and for ever if the connection was dropped or the client had
    gone. The headers are left out of the repr: they hold the token.
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
        """The body read as JSON, or None if it is empty or no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def matches(self, method: str | None, path: str | None) -> bool:
        """Whether this is such a request: None is any, ``path`` is a part of the target."""
        if method is not None and method.upper() != self.method:
            return False
        return path is None or path in self.target or path in self.path


def settle_status(seen: SeenRequest, status: int | None) -> None:
    """Let ``seen`` tell how it was answered."""
    # Frozen for everybody but the server, which knows the answer only after the value was shared.
    object.__setattr__(seen, "status", status)
