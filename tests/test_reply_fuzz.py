"""Damaged and hostile replies: only errors of ours come out, and memory stays within bounds."""

import asyncio
import gzip
import json
import tracemalloc
from functools import cache
from typing import Any

import pytest
from helpers_transport import BACKUP, PAGE, VERBS, at_once, http, wired_server
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import BackupsClient, Timeouts, VPSBackupsError
from vpsbackups_async.testing import VirtualTime

CAP = 2**16
MIB = 2**20

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        [
            *[
                "",
                "?page=2",
                "//evil.example/",
                "http://[::1",
                "xn--",
                "https://xn--a.example/",
                "\x1b",
            ],
            *["2025-01-01T00:00:00Z", "manual", "completed", "in_progress", 2**64, -1, 1e999],
        ]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    [
        *["id", "server", "backup_type", "status", "size_mb", "created_at", "expires_at"],
        *[
            "description",
            "message",
            "detail",
            "name",
            "count",
            "next",
            "previous",
            "results",
            "odd",
        ],
    ]
)
CHANGES = st.dictionaries(FIELDS, VALUES, max_size=3)


def encoded(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """A page, or a backup alone, with some fields changed."""
    backup = {**json.loads(BACKUP), **draw(CHANGES)}
    if isinstance(backup["server"], dict):
        backup["server"] = {**backup["server"], **draw(CHANGES)}
    page = {**json.loads(PAGE), "results": [backup], **draw(CHANGES)}
    return encoded(draw(st.sampled_from([backup, page])))


BODIES = st.one_of(
    documents(),
    documents(),
    VALUES.map(encoded),
    CHANGES.map(encoded),
    st.binary(max_size=200),
    st.builds(
        lambda start, times: start * times,
        st.sampled_from([b"[", b'{"a":', b'{"results":[']),
        st.integers(0, 9999),
    ),
    st.integers(CAP - 500, CAP + 500).map(lambda size: PAGE + b" " * size),
    st.just(b" " * 32 * MIB),
)


@cache
def zipped(body: bytes) -> bytes:
    return gzip.compress(body)


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *["Retry-After", "Date", "Content-Type", "X-Request-ID", "Location", "Set-Cookie"],
            *["Connection", "Content-Encoding", "Transfer-Encoding", "Content-Length", "Odd"],
        ]
    ),
    st.sampled_from(
        [
            *["0", "-1", "nan", "99999999999", "Wed, 21 Oct 2015 07:28:00 GMT", "gzip", "deflate"],
            *[
                "chunked",
                "close",
                "keep-alive",
                "upgrade",
                "application/json; charset=x",
                "http://[::1",
            ],
            *["a=b; Domain=.", "", "\x00", "é", "x" * 9000],
        ]
    )
    | st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=20),
    max_size=3,
)


@st.composite
def replies(draw: st.DrawFn) -> list[bytes | None]:
    """The bytes of a reply, mostly well formed, in pieces; the None after them disconnects."""
    body = draw(BODIES)
    if len(body) > MIB or draw(st.integers(0, 4)) == 0:
        body = zipped(body)
    status = draw(
        st.sampled_from([200, 200, 200, 201, 204, 400, 401, 404, 429, 500, 502, 503, 301, 101, 103])
        | st.integers(0, 999)
    )
    reply = http(status, body)
    for name, value in draw(HEADERS).items():
        line = f"{name}: {value}\r\n".encode("latin-1")
        reply = reply.replace(b"\r\n", b"\r\n" + line, 1)
    for place, junk in draw(
        st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=2)
    ):
        at = int(place * len(reply))
        reply = reply[:at] + junk + reply[at + draw(st.integers(0, 3)) :]
    cuts = sorted(int(place * len(reply)) for place in draw(st.lists(st.floats(0, 1), max_size=3)))
    pieces: list[bytes | None] = [
        reply[start:end] for start, end in zip([0, *cuts], [*cuts, len(reply)], strict=True)
    ]
    return [*[piece for piece in pieces if piece], None]


async def ask(verb: str, given_replies: list[list[bytes | None]]) -> None:
    """Call the verb while the server answers so, the last reply again and again."""
    left = iter(given_replies)

    def answer(_: bytes) -> list[bytes | None]:
        return next(left, given_replies[-1])

    async with (
        wired_server(answer) as wires,
        BackupsClient(
            "vps_x",
            base_url=wires.url,
            max_response_bytes=CAP,
            retry=at_once(2),
            timeouts=Timeouts(attempt=5, deadline=20),
        ) as client,
    ):
        loop = asyncio.get_running_loop()
        began = loop.time()
        [result] = await asyncio.gather(VERBS[verb](client), return_exceptions=True)
        if isinstance(result, BaseException) and not isinstance(result, VPSBackupsError):
            raise result
        assert str(result).isprintable()
        assert loop.time() - began < 21


@pytest.mark.timeout(300)  # on a busy machine
@pytest.mark.parametrize("verb", VERBS)
@given(answers=st.lists(replies(), min_size=1, max_size=3))
def test_no_reply_brings_another_error_than_ours_or_takes_more_memory_than_the_cap(
    verb: str, answers: list[list[bytes | None]]
) -> None:
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, said: complaints.append(said))
        with VirtualTime():
            await ask(verb, answers)

    tracemalloc.start()
    try:
        asyncio.run(main())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert complaints == []
    assert peak < CAP + 4 * MIB
