"""What the fake server puts on the wire: whole replies, streamed ones, and broken ones."""

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
    """A reply: a status, its body and its headers.

    With ``cut`` the head promises the whole body and the connection ends after that many bytes
    of it.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    cut: int | None = None


@attrs.frozen
class Streamed:
    """A reply whose body is made block by block, so that its size costs no memory.

    Without ``length`` it is sent chunked, and the client learns the size only by reading.
    """

    status: int
    blocks: Callable[[], Iterable[bytes]]
    headers: Mapping[str, str] = attrs.field(factory=dict)
    length: int | None = None


@attrs.frozen
class Raw:
    """Bytes that go out as they are before the connection is closed; none at all is a drop."""

    data: bytes = b""


Sendable = Answer | Streamed | Raw


def answer_json(status: int, value: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """An `Answer` that carries ``value`` as JSON, or no body at all for None."""
    if value is None:
        return Answer(status, b"", headers or {})
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return Answer(status, body, {"Content-Type": JSON_TYPE, **(headers or {})})


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An `Answer` in the form the API gives its errors: ``{"detail": …}``."""
    return answer_json(status, {"detail": detail}, headers)


async def deliver(
    request: web.BaseRequest, sendable: Sendable, common: Mapping[str, str]
) -> web.StreamResponse:
    """The response to hand to aiohttp after ``sendable`` went out, wholly or in part.

    ``common`` are headers that every reply carries; those of the reply itself win.
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
        pass  # the client has gone: there is nobody to cut short
    # aiohttp closes the connection now, without missing the bytes that were promised.
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
            # A client that stops reading must be noticed, and others served meanwhile.
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
    # aiohttp wants a response back; writing it fails quietly on the closed transport.
    return web.Response()
