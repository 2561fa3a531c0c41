"""Replies of the fake server: complete, streamed and broken ones, and how they are sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from aiohttp import web

__all__ = ["Answer", "Raw", "Streamed", "answer_json", "deliver", "problem"]

JSON_TYPE = "application/json"
HTML_TYPE = "text/html; charset=utf-8"


@attrs.frozen
class Answer:
    """A reply with a status, a body and headers.

    With ``cut``, ``Content-Length`` states the full length, but the connection is closed after
    ``cut`` bytes of the body.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    cut: int | None = None


@attrs.frozen
class Streamed:
    """A reply whose body is produced block by block, to keep a large one out of memory.

    ``length`` is the size of the body in bytes. If it is None, the body is sent chunked, and the
    client learns its size only by reading it.
    """

    status: int
    blocks: Callable[[], Iterable[bytes]]
    headers: Mapping[str, str] = attrs.field(factory=dict)
    length: int | None = None


@attrs.frozen
class Raw:
    """Bytes to send unchanged before closing the connection; empty bytes abort it."""

    data: bytes = b""


Sendable = Answer | Streamed | Raw


def answer_json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An `Answer` with ``value`` as its JSON body; with no body if ``value`` is None."""
    if value is None:
        return Answer(status, b"", headers or {})
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Answer(status, body, {"Content-Type": JSON_TYPE, **(headers or {})})


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An `Answer` in the API's format for errors: ``{"detail": …}``."""
    return answer_json(status, {"detail": detail}, headers)


async def deliver(
    request: web.BaseRequest, sendable: Sendable, common: Mapping[str, str]
) -> web.StreamResponse:
    """Send ``sendable``, or prepare it, and return the response that aiohttp's handler returns.

    ``common`` are headers for every reply; the reply's own headers override them.
    """
    if isinstance(sendable, Raw):
        return _deliver_raw(request, sendable)
    if isinstance(sendable, Streamed):
        return await _deliver_blocks(request, sendable, common)
    if sendable.cut is not None:
        return await _deliver_cut(request, sendable, common)
    headers = {**common, **sendable.headers}
    return web.Response(status=sendable.status, body=sendable.body, headers=headers)


async def _deliver_cut(
    request: web.BaseRequest, answer: Answer, common: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers={**common, **answer.headers})
    response.content_length = len(answer.body)
    response.force_close()
    try:
        await response.prepare(request)
        await response.write(answer.body[: answer.cut])
    except ConnectionError:
        pass  # the client has disconnected already
    # aiohttp now closes the connection and does not check that the full length was sent.
    return response


async def _deliver_blocks(
    request: web.BaseRequest, streamed: Streamed, common: Mapping[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(status=streamed.status, headers={**common, **streamed.headers})
    if streamed.length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = streamed.length
    try:
        await response.prepare(request)
        for block in streamed.blocks():
            await response.write(block)
            # Give the loop a turn, to notice a client that disconnects and to serve others.
            await asyncio.sleep(0)
    except ConnectionError:
        response.force_close()
    return response


def _deliver_raw(request: web.BaseRequest, raw: Raw) -> web.StreamResponse:
    transport = request.transport
    if transport is not None and raw.data:
        transport.write(raw.data)
        transport.close()
    elif transport is not None:
        transport.abort()
    # aiohttp requires a response; writing it to the closed transport fails silently.
    return web.Response()
