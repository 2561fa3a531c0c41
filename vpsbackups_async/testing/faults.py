"""Faults: what goes wrong, for which requests and how often."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Literal

import attrs

from .bodies import MEBIBYTE, bomb, padded_list, padded_size
from .clock import http_date
from .replies import HTML_TYPE, JSON_TYPE, Answer, Raw, Sendable, Streamed, problem
from .seen import SeenRequest

__all__ = [
    "Drop",
    "Fault",
    "Garbage",
    "GzipBomb",
    "HostileNext",
    "Latency",
    "NotJSON",
    "Oversized",
    "RateLimit",
    "Redirect",
    "Reply",
    "ServerFault",
    "Truncate",
]

_GATEWAY_PAGE = (
    b"<!doctype html><html><head><title>Server error</title></head>"
    b"<body><h1>The server is not available.</h1></body></html>"
)


@attrs.frozen
class Fault:
    """The base class of all faults: something that goes wrong with matching requests.

    All faults take these keyword arguments:
        method: the HTTP method that matches; None matches any.
        path: text that the target (path and query) contains, such as ``"restore"`` or
            ``"page=3"``; None matches any.
        query: query parameters with the exact values that match, such as ``{"server_id": 3}``;
            a parameter that is None must be missing, so ``{"server_id": None}`` matches the lists
            that are not filtered by server.
        times: the number of requests that the fault applies to; None is unlimited.
        after: the number of matching requests to let through first.
        chance: the probability, 0 to 1, that the fault applies to a matching request; the
            server's ``seed`` makes it repeatable.
        when: with ``"before"`` the server does not process the request. With ``"after"`` it does
            (it creates or deletes the backup), but the client gets the fault as the reply. With
            ``"later"`` the client gets the fault, and the server processes the request ``late``
            seconds after that: it acts behind a gateway that has given up.
        late: seconds for ``"later"``, or a function that computes them from a `SeenRequest`.

    To write your own fault, subclass this and override `strike`.
    """

    method: str | None = attrs.field(default=None, kw_only=True)
    path: str | None = attrs.field(default=None, kw_only=True)
    query: Mapping[str, object] = attrs.field(factory=dict, kw_only=True, hash=False)
    times: int | None = attrs.field(default=None, kw_only=True)
    chance: float = attrs.field(default=1.0, kw_only=True)
    after: int = attrs.field(default=0, kw_only=True)
    when: Literal["before", "after", "later"] = attrs.field(default="before", kw_only=True)
    late: float | Callable[[SeenRequest], float] = attrs.field(default=0.0, kw_only=True)

    def seconds_late(self, seen: SeenRequest) -> float:
        """The seconds from the reply until the server processes this request."""
        return self.late(seen) if callable(self.late) else self.late

    def matches(self, seen: SeenRequest) -> bool:
        """Whether the request has the method, the path and the query parameters of this fault."""
        return seen.matches(self.method, self.path) and all(
            seen.query.get(name) == (None if value is None else str(value))
            for name, value in self.query.items()
        )

    def strike(self, answer: Answer | None, now: datetime, /) -> Sendable:
        """The reply to send instead of ``answer``; the base class raises NotImplementedError.

        Args:
            answer: the server's reply; None if the server did not process the request.
            now: the current time by the server's clock.

        """
        raise NotImplementedError


@attrs.frozen
class Latency(Fault):
    """A delay of ``seconds``, or of as many seconds as a function returns for a `SeenRequest`.

    Unlike other faults it combines: the delays of all that match add up, and one other fault may
    apply to the same request. ``when="after"`` delays the reply; the default delays the processing.
    """

    seconds: float | Callable[[SeenRequest], float]

    def delay(self, seen: SeenRequest) -> float:
        """The delay for this request, in seconds."""
        return self.seconds(seen) if callable(self.seconds) else self.seconds


@attrs.frozen
class RateLimit(Fault):
    """A 429 with ``Retry-After``.

    Args:
        retry_after: seconds; None omits the header.
        form: the form of the header: ``"seconds"``, ``"date"`` (an HTTP date by the server's
            clock), or any other text, which is sent unchanged.

    """

    retry_after: float | None = 1.0
    form: str = "seconds"

    def strike(self, _answer: Answer | None, now: datetime, /) -> Sendable:
        """The 429, with a detail as the API sends it."""
        seconds = self.retry_after
        if seconds is None:
            return problem(429, "Request was throttled.")
        match self.form:
            case "seconds":
                value = f"{seconds:g}" if seconds < 1e6 else f"{seconds:.0f}"
            case "date":
                value = http_date(now + timedelta(seconds=math.ceil(seconds)))
            case raw:
                value = raw
        detail = f"Request was throttled. Expected available in {seconds:g} seconds."
        return problem(429, detail, {"Retry-After": value})


@attrs.frozen
class ServerFault(Fault):
    """A server error (5xx), as JSON or as a gateway's HTML page.

    Args:
        status: the HTTP status.
        html: send an HTML page instead of JSON.
        retry_after: seconds for ``Retry-After``; None omits the header.

    """

    status: int = 503
    html: bool = False
    retry_after: float | None = None

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The error reply."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        if self.html:
            return Answer(self.status, _GATEWAY_PAGE, {"Content-Type": HTML_TYPE, **headers})
        return problem(self.status, "The server is not available.", headers)


@attrs.frozen
class Drop(Fault):
    """Drop the connection without sending a byte; ``when`` may be given by position."""

    when: Literal["before", "after", "later"] = "before"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """Nothing to send; the connection is dropped."""
        return Raw()


@attrs.frozen
class Garbage(Fault):
    """Send ``data``, bytes that are not HTTP, and close the connection."""

    data: bytes = b"\x00\x01 this is no HTTP \xff\r\n\r\n"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The bytes, unchanged."""
        return Raw(self.data)


@attrs.frozen
class Truncate(Fault):
    """Process the request, but cut off the reply within its body.

    ``Content-Length`` states the full length, but only the fraction ``keep`` (0 to 1) of the body
    is sent, and always less than all of it. A reply without a body is cut in its status line.
    """

    keep: float = 0.5
    when: Literal["before", "after"] = attrs.field(default="after", init=False)

    def strike(self, answer: Answer | None, _now: datetime, /) -> Sendable:
        """The reply, cut short."""
        if answer is None or not answer.body:
            return Raw(b"HTTP/1.1 20")
        size = len(answer.body)
        return attrs.evolve(answer, cut=min(int(size * self.keep), size - 1))


@attrs.frozen
class Reply(Fault):
    """Send a reply of your choice.

    Args:
        status: the HTTP status.
        body: the bytes of the body; sent as ``application/json`` unless ``headers`` say otherwise.
        headers: further headers of the reply.

    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The reply."""
        headers = {"Content-Type": JSON_TYPE} if self.body else {}
        return Answer(self.status, self.body, {**headers, **self.headers})


@attrs.frozen
class NotJSON(Fault):
    """Send an HTML page where the client expects JSON; by default with status 200."""

    status: int = 200
    body: bytes = b"<html><body>Please sign in to the network.</body></html>"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The HTML page."""
        return Answer(self.status, self.body, {"Content-Type": HTML_TYPE})


@attrs.frozen
class Oversized(Fault):
    """A 200 whose body is a valid list, padded with spaces to ``size`` bytes.

    With ``chunked`` (the default) it is sent chunked, without ``Content-Length``.
    """

    size: int = 64 * MEBIBYTE
    chunked: bool = True

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The padded list, streamed."""
        blocks = functools.partial(padded_list, self.size)
        length = None if self.chunked else padded_size(self.size)
        return Streamed(200, blocks, {"Content-Type": JSON_TYPE}, length)


@attrs.frozen
class GzipBomb(Fault):
    """A small gzip-encoded 200 that decompresses to a valid list of ``size`` bytes."""

    size: int = 200 * MEBIBYTE

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The compressed list."""
        headers = {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}
        return Answer(200, bomb(self.size), headers)


@attrs.frozen
class HostileNext(Fault):
    """Replace the ``next`` link of a list reply by any value; other replies are unchanged."""

    next: object
    method: str | None = attrs.field(default="GET", kw_only=True)
    when: Literal["before", "after"] = attrs.field(default="after", init=False)

    def strike(self, answer: Answer | None, _now: datetime, /) -> Sendable:
        """The list with the replaced link."""
        page = _list_page(answer)
        if answer is None or page is None:
            return answer or Raw()
        body = json.dumps({**page, "next": self.next}, ensure_ascii=False).encode()
        return attrs.evolve(answer, body=body)


@attrs.frozen
class Redirect(Fault):
    """A redirect to ``location``, which can be any URL."""

    location: str
    status: int = 301

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The redirect."""
        return Answer(self.status, b"", {"Location": self.location})


def _list_page(answer: Answer | None) -> dict[str, object] | None:
    try:
        page = json.loads(answer.body) if answer is not None else None
    except ValueError:
        return None
    return page if isinstance(page, dict) and "results" in page else None
