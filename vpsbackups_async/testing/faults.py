"""Faults: values that say what goes wrong, with which requests, and how often."""

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
    """What goes wrong, and with which requests; the base of all kinds.

    Args (keywords, of every kind):
        method: only this method; None is any.
        path: only targets (path and query) that contain this text, such as ``"restore"`` or
            ``"page=3"``; None is any.
        times: how often it strikes; None is for ever.
        after: how many matching requests are let through first.
        chance: how likely it strikes a matching request, 0 to 1, by the server's ``seed``.
        when: ``"before"``: the server does no work and the fault is all there is; ``"after"``:
            the work (a create, a delete) is done and the client does not learn of it.

    A kind of one's own overrides `strike`.
    """

    method: str | None = attrs.field(default=None, kw_only=True)
    path: str | None = attrs.field(default=None, kw_only=True)
    times: int | None = attrs.field(default=None, kw_only=True)
    chance: float = attrs.field(default=1.0, kw_only=True)
    after: int = attrs.field(default=0, kw_only=True)
    when: Literal["before", "after"] = attrs.field(default="before", kw_only=True)

    def strike(self, answer: Answer | None, now: datetime, /) -> Sendable:
        """What goes out instead of ``answer``, which is None if no work was done.

        ``now`` is the moment by the server's clock.
        """
        raise NotImplementedError


@attrs.frozen
class Latency(Fault):
    """A delay in seconds, or a callable that gives it for a `SeenRequest`.

    The only kind that goes together with others: all that match add up, and one more fault may
    strike. ``when="after"`` delays the reply instead of the work.
    """

    seconds: float | Callable[[SeenRequest], float]

    def delay(self, seen: SeenRequest) -> float:
        """Seconds for this request."""
        return self.seconds(seen) if callable(self.seconds) else self.seconds


@attrs.frozen
class RateLimit(Fault):
    """A 429 with ``Retry-After``.

    ``retry_after`` is in seconds, None leaves the header out. ``form`` is ``"seconds"``,
    ``"date"`` (an HTTP date by the server's clock), or any other text, sent as it is.
    """

    retry_after: float | None = 1.0
    form: str = "seconds"

    def strike(self, _answer: Answer | None, now: datetime, /) -> Sendable:
        """A 429 in the API's form."""
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
    """A 5xx as JSON, or as a gateway's HTML page; ``retry_after`` is in seconds."""

    status: int = 503
    html: bool = False
    retry_after: float | None = None

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The error page."""
        headers = {}
        if self.retry_after is not None:
            headers["Retry-After"] = f"{self.retry_after:g}"
        if self.html:
            return Answer(self.status, _GATEWAY_PAGE, {"Content-Type": HTML_TYPE, **headers})
        return problem(self.status, "The server is not available.", headers)


@attrs.frozen
class Drop(Fault):
    """The connection is dropped with no byte of a reply, before or after the work was done."""

    when: Literal["before", "after"] = "before"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """No byte."""
        return Raw()


@attrs.frozen
class Garbage(Fault):
    """Bytes that are no HTTP, and then the end of the connection."""

    data: bytes = b"\x00\x01 this is no HTTP \xff\r\n\r\n"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The bytes."""
        return Raw(self.data)


@attrs.frozen
class Truncate(Fault):
    """The work is done; the head promises the whole body, of which only ``keep`` (0 to 1) comes.

    A reply without a body is cut in its head.
    """

    keep: float = 0.5
    when: Literal["before", "after"] = attrs.field(default="after", init=False)

    def strike(self, answer: Answer | None, _now: datetime, /) -> Sendable:
        """The reply, cut off."""
        if answer is None or not answer.body:
            return Raw(b"HTTP/1.1 20")
        size = len(answer.body)
        return attrs.evolve(answer, cut=min(int(size * self.keep), size - 1))


@attrs.frozen
class Reply(Fault):
    """Any answer of one's own: a status, body bytes and headers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The answer."""
        headers = {"Content-Type": JSON_TYPE} if self.body else {}
        return Answer(self.status, self.body, {**headers, **self.headers})


@attrs.frozen
class NotJSON(Fault):
    """A body that is no JSON under a status that promises some."""

    status: int = 200
    body: bytes = b"<html><body>Please sign in to the network.</body></html>"

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The page."""
        return Answer(self.status, self.body, {"Content-Type": HTML_TYPE})


@attrs.frozen
class Oversized(Fault):
    """A 200 whose body is a valid list, blown up to ``size`` bytes by blanks.

    It is streamed in chunks with no length given, or with one if ``chunked`` is False.
    """

    size: int = 64 * MEBIBYTE
    chunked: bool = True

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The endless page."""
        blocks = functools.partial(padded_list, self.size)
        length = None if self.chunked else padded_size(self.size)
        return Streamed(200, blocks, {"Content-Type": JSON_TYPE}, length)


@attrs.frozen
class GzipBomb(Fault):
    """A 200 of a few kilobytes, gzip-encoded, that unfolds to a valid list of ``size`` bytes."""

    size: int = 200 * MEBIBYTE

    def strike(self, _answer: Answer | None, _now: datetime, /) -> Sendable:
        """The small page."""
        headers = {"Content-Type": JSON_TYPE, "Content-Encoding": "gzip"}
        return Answer(200, bomb(self.size), headers)


@attrs.frozen
class HostileNext(Fault):
    """A list reply whose ``next`` is this value, a link to anywhere; other replies stay."""

    next: object
    method: str | None = attrs.field(default="GET", kw_only=True)
    when: Literal["before", "after"] = attrs.field(default="after", init=False)

    def strike(self, answer: Answer | None, _now: datetime, /) -> Sendable:
        """The page with the other link."""
        page = _list_page(answer)
        if answer is None or page is None:
            return answer or Raw()
        body = json.dumps({**page, "next": self.next}, ensure_ascii=False).encode()
        return attrs.evolve(answer, body=body)


@attrs.frozen
class Redirect(Fault):
    """A redirect to ``location``, any URL."""

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
