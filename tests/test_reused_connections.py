"""What a connection that served a request before may do to the next one."""

import asyncio
import itertools
import re
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from helpers_transport import (
    BACKUP,
    METHODS,
    VERBS,
    RawServer,
    at_once,
    good,
    http,
    wired_server,
)

from vpsbackups_async import BackupsClient, CreateOutcomeUnknownError, TransportError

THEIRS = http(200, b'{"count":0,"next":null,"previous":null,"results":[]}')


async def received() -> None:
    """Let the other side of a connection read what was written to it."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture(params=["own session", "given session"])
async def session(request: pytest.FixtureRequest) -> Any:
    if request.param == "own session":
        yield None
    else:
        async with aiohttp.ClientSession() as given:
            yield given


# --- Bytes that nobody asked for -----------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "bytes_sent",
    [
        THEIRS,
        THEIRS[:-5],
        THEIRS[:9],
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
        b"junk",
        b"\r\n",
    ],
    ids=["whole reply", "part of a reply", "part of a head", "103", "408", "junk", "blank line"],
)
async def test_a_connection_on_which_bytes_came_while_it_was_idle_carries_no_request(
    verb: str, bytes_sent: bytes, session: Any
) -> None:
    async with (
        wired_server() as wires,
        BackupsClient("vps_x", base_url=wires.url, session=session, retry=at_once(1)) as client,
    ):
        for _ in range(2):  # the connection is known to be kept open
            assert len(await client.list().collect()) == 1
        assert len(wires.all) == 1
        wires.all[0].transport.write(bytes_sent)
        await received()
        result = await VERBS[verb](client)
        if verb == "list":
            assert len(result) == 1
        assert client.stats.requests == 3
        assert [wire.requests for wire in wires.all] == [2, 1]


async def test_a_connection_is_kept_that_the_next_request_takes_before_an_answer_is_noted() -> None:
    """aiohttp gives it back with the end of a body, before the call that reads it goes on."""
    reply = http()
    async with (
        wired_server(lambda _: [reply[:-5], reply[-5:]]) as wires,
        BackupsClient("vps_x", base_url=wires.url) as client,
    ):
        calls = []
        for _ in range(300):
            calls.append(asyncio.create_task(client.list().collect()))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)
        await client.list().collect()
        assert not any(wire.ended.done() for wire in wires.all)
        assert len(wires.all) < 100


# --- What must not be sent twice -----------------------------------------------------------------


def maker() -> Callable[[bytes], bytes]:
    """The answers of a healthy server whose backups have ids of their own."""
    ids = itertools.count(1)

    def answer(request: bytes) -> bytes:
        made = re.search(rb'"server_id":(\d+)', request)
        if made is None:
            return good(request)
        backup = BACKUP.replace(b'{"id":1,', b'{"id":%d,' % next(ids), 1)
        return http(201, backup.replace(b'"server":{"id":1', b'"server":{"id":' + made[1]))

    return answer


@pytest.mark.parametrize("verb", ["create", "restore"])
async def test_what_must_not_be_sent_twice_goes_out_on_a_fresh_connection(
    verb: str, session: Any
) -> None:
    async with (
        RawServer(maker()).running() as server,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        for _ in range(3):
            await VERBS[verb](client)
        assert server.connections == 3


@pytest.mark.parametrize("verb", ["list", "delete"])
async def test_what_may_be_sent_twice_reuses_its_connection(verb: str, session: Any) -> None:
    async with (
        RawServer(maker()).running() as server,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        for _ in range(3):
            await VERBS[verb](client)
        assert server.connections == 1


@pytest.mark.parametrize("verb", ["create", "restore"])
async def test_a_server_seen_to_keep_connections_open_may_still_close_one(
    verb: str, session: Any
) -> None:
    async with (
        RawServer(maker()).running() as server,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        for _ in range(3):
            await client.list().collect()
        assert server.connections == 1
        for _ in range(3):
            await VERBS[verb](client)
            await client.list().collect()
        assert server.connections == 4


@pytest.mark.parametrize("verb", ["create", "restore"])
async def test_the_idle_connections_of_a_client_are_kept_through_what_must_not_be_sent_twice(
    verb: str,
) -> None:
    answer = maker()
    async with (
        wired_server(lambda request: [answer(request)]) as wires,
        BackupsClient("vps_x", base_url=wires.url) as client,
    ):

        async def lists() -> None:
            await asyncio.gather(*(client.list().collect() for _ in range(5)))

        await lists()
        assert len(wires.all) == 5
        for _ in range(3):
            await VERBS[verb](client)
            await lists()
        kept, closed = wires.all[:5], wires.all[5:]
        assert sum(wire.requests for wire in kept) == 20
        assert [wire.requests for wire in closed] == [1, 1, 1]
        await asyncio.gather(*(wire.ended for wire in closed))
        assert not any(wire.ended.done() for wire in kept)


async def test_no_create_is_lost_on_a_server_that_closes_each_connection_unannounced(
    session: Any,
) -> None:
    """Its reply looks like that of a server that keeps the connection."""
    async with (
        RawServer(maker(), then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        outcomes = [outcome async for outcome in client.fleet(range(1, 200)).create()]
        assert [outcome.error for outcome in outcomes if not outcome.ok] == []
        assert len(server.requests) == 199


# --- 1xx, and a 204 with a body ------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [100, 101, 103, 199])
async def test_a_status_that_is_not_final_is_no_success(verb: str, status: int) -> None:
    async with (
        RawServer(
            lambda _: b"HTTP/1.1 %d Whatever\r\n\r\n" % status, then_close=True
        ).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(2)) as client,
    ):
        expected = CreateOutcomeUnknownError if verb == "create" else TransportError
        with pytest.raises(expected) as caught:
            await VERBS[verb](client)
        if status == 101 and verb != "create":
            assert "101" in str(caught.value)
        sent = sum(METHODS[verb].encode() in request for request in server.requests)
        assert sent == (2 if verb in {"list", "delete"} else 1)


@pytest.mark.parametrize("verb", ["delete", "restore"])
@pytest.mark.parametrize(
    "reply",
    [
        http(204, b"{}"),
        http(204, b'{"detail": "deleted"}\r\n\r\n'),
        b"HTTP/1.1 204 No Content\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + http(204, b"{}"),
        b"HTTP/1.0 204 No Content\r\n\r\n<html>",
    ],
    ids=["length", "blank lines", "no length", "chunked", "after a 103", "old"],
)
@pytest.mark.parametrize("cut", [None, 20, -1], ids=["whole", "within the head", "within the body"])
async def test_a_204_with_a_body_is_done(
    verb: str, reply: bytes, cut: int | None, session: Any
) -> None:
    async with (
        wired_server(lambda _: [reply] if cut is None else [reply[:cut], reply[cut:]]) as wires,
        BackupsClient("vps_x", base_url=wires.url, session=session, retry=at_once(3)) as client,
    ):
        await VERBS[verb](client)
        assert sum(wire.requests for wire in wires.all) == 1
        await VERBS[verb](client)  # whose answer is not what was left of the first
        assert sum(wire.requests for wire in wires.all) == 2


@pytest.mark.parametrize("first", [b"", b"{"], ids=["head alone", "part of the body"])
@pytest.mark.parametrize("header", [b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_after_a_204_whose_body_comes_later_the_connection_is_not_used_again(
    header: bytes, first: bytes
) -> None:
    async with (
        wired_server(
            lambda _: [b"HTTP/1.1 204 No Content\r\n" + header + b"\r\n" + first]
        ) as wires,
        BackupsClient("vps_x", base_url=wires.url) as client,
    ):
        await client.delete(1)
        await client.delete(2)
        assert [wire.requests for wire in wires.all] == [1, 1]


async def test_after_a_204_with_a_part_of_a_body_its_connection_is_not_used_again() -> None:
    async with (
        wired_server(lambda _: [b"HTTP/1.1 204 No Content\r\n\r\n{"]) as wires,
        BackupsClient("vps_x", base_url=wires.url) as client,
    ):
        await client.delete(1)
        await client.delete(2)
        assert [wire.requests for wire in wires.all] == [1, 1]


async def test_a_204_without_a_body_leaves_the_connection_to_the_next_request() -> None:
    async with (
        RawServer(
            lambda request: http(204, b"") if b"GET" not in request else good(request)
        ).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        for _ in range(3):
            await client.delete(1)
        await client.list().collect()
        assert server.connections == 1


async def test_a_refusal_of_a_delete_is_read_as_ever() -> None:
    pieces = [b"HTTP/1.1 409 Con", b"flict\r\nContent-Length: 20\r\n\r\n{", b'"detail": "running"}']
    async with (
        wired_server(lambda _: pieces) as wires,
        BackupsClient("vps_x", base_url=wires.url, retry=at_once(3)) as client,
    ):
        with pytest.raises(Exception, match="running"):
            await client.delete(1)


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 20"], [b"HTTP/1.1 204 No"], [b"junk\r\n\r\n"]])
async def test_a_delete_whose_head_is_cut_is_a_transport_error(pieces: list[bytes]) -> None:
    async with (
        wired_server(lambda _: [*pieces, None]) as wires,
        BackupsClient("vps_x", base_url=wires.url, retry=at_once(3)) as client,
    ):
        with pytest.raises(TransportError):
            await client.delete(1)
        assert sum(wire.requests for wire in wires.all) == 3
