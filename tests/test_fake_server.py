"""The fake server as a server: what it records, its limits, its start and its end."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
import trustme
from helpers_fake import LIST, ask
from yarl import URL

from vpsbackups_async import testing
from vpsbackups_async.testing import FakeVPS, Latency, Oversized, SeenRequest


async def until(true: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(10_000):
        if true():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to be")


async def test_every_request_is_recorded_as_it_came() -> None:
    async with FakeVPS(servers=1) as fake:
        await ask(fake, "GET", f"{LIST}?server_id=1&page=1")
        await ask(fake, "POST", LIST, json={"server_id": 1}, headers={"X-Mark": "here"})
        await ask(fake, "DELETE", URL(f"{fake.url}{LIST}%39/", encoded=True))
        first, second, third = fake.requests
    assert [seen.number for seen in fake.requests] == [1, 2, 3]
    assert (first.method, first.path, first.status) == ("GET", LIST, 200)
    assert (first.query, first.body, first.json) == ({"server_id": "1", "page": "1"}, b"", None)
    assert first.target == f"{LIST}?server_id=1&page=1"
    assert (second.json, second.headers["x-mark"]) == ({"server_id": 1}, "here")
    assert (third.path, third.target) == (f"{LIST}9/", f"{LIST}%39/")
    assert fake.count() == 3
    assert fake.count("get") == fake.count(status=404) == fake.count(path="%39") == 1
    assert fake.count("POST", "backups", 201) == 1
    assert fake.count(path="restore") == 0


async def test_what_is_recorded_does_not_show_the_token() -> None:
    async with FakeVPS(token="vps_canary") as fake:
        await ask(fake, "GET", LIST)
        assert "vps_canary" not in repr(fake.requests) + repr(fake)
        assert fake.requests[0].headers["Authorization"] == "Bearer vps_canary"
        assert repr(fake) == f"<FakeVPS {fake.url}>"


async def test_a_test_can_change_the_account_before_a_request_is_handled() -> None:
    async with FakeVPS(servers=1, backups=3, page_size=2) as fake:

        def insert(seen: SeenRequest) -> None:
            if seen.query.get("page") == "2":
                fake.add_backup(1)

        fake.on_request = insert
        assert (await ask(fake, "GET", LIST)).ids == [3, 2]
        assert (await ask(fake, "GET", f"{LIST}?page=2")).ids == [2, 1]


async def test_an_error_in_a_tests_own_function_is_raised_at_the_end() -> None:
    def broken(_: SeenRequest) -> None:
        raise ZeroDivisionError("mine")

    async def run(fake: FakeVPS, error: type[Exception] | None) -> None:
        async with fake:
            fake.on_request = broken
            assert (await ask(fake, "GET", LIST)).status == 500
            assert fake.requests[0].status == 500
            if error is not None:
                raise error

    with pytest.raises(ZeroDivisionError, match="mine"):
        await run(FakeVPS(), None)
    with pytest.raises(KeyError):
        await run(FakeVPS(), KeyError)


@pytest.mark.virtual_time
async def test_beyond_the_rate_a_429_comes_until_time_has_passed() -> None:
    async with FakeVPS(rate_limit=2) as fake:
        seen = [(await ask(fake, "GET", LIST)).status for _ in range(4)]
        assert seen == [200, 200, 429, 429]
        await asyncio.sleep(0.5)
        seen = [(await ask(fake, "GET", LIST)).status for _ in range(2)]
        assert seen == [200, 429]
        refused = await ask(fake, "GET", LIST)
        assert refused.headers["Retry-After"] == "1"
        await asyncio.sleep(60)
        seen = [(await ask(fake, "GET", LIST)).status for _ in range(3)]
        assert seen == [200, 200, 429]


@pytest.mark.virtual_time
async def test_a_steady_client_at_a_rate_below_one_is_never_refused() -> None:
    async with FakeVPS(rate_limit=0.1) as fake:
        for _ in range(5):
            assert (await ask(fake, "GET", LIST)).status == 200
            assert (await ask(fake, "GET", LIST)).status == 429
            await asyncio.sleep(10)


@pytest.mark.virtual_time
async def test_beyond_so_many_at_a_time_a_429_comes_and_the_peak_is_known() -> None:
    async with FakeVPS(max_concurrent=3, faults=[Latency(1)]) as fake:
        answered = await asyncio.gather(*(ask(fake, "GET", LIST) for _ in range(8)))
        assert sorted(reply.status for reply in answered) == [200] * 3 + [429] * 5
        assert fake.peak >= 4
        assert (await ask(fake, "GET", LIST)).status == 200


@pytest.mark.virtual_time
async def test_the_peak_counts_requests_in_flight_together() -> None:
    async with FakeVPS(faults=[Latency(1)]) as fake:
        await ask(fake, "GET", LIST)
        assert fake.peak == 1
        await asyncio.gather(*(ask(fake, "GET", LIST) for _ in range(5)))
        assert fake.peak == 5


@pytest.mark.virtual_time
async def test_leaving_cuts_parked_requests_at_once_and_leaves_nothing() -> None:
    before = asyncio.all_tasks()
    headers: dict[str, str] = {}
    async with aiohttp.ClientSession() as session:

        async def call(path: str) -> bytes:
            async with session.post(fake.url + path, headers=headers) as reply:
                return await reply.read()

        async with FakeVPS(faults=[Latency(3600, path="later"), Oversized(2**40)]) as fake:
            headers["Authorization"] = f"Bearer {fake.token}"
            parked = [asyncio.create_task(call("/later")) for _ in range(20)]
            async with session.get(fake.url, headers=headers) as stalled:
                await until(lambda: fake.count() == 21)
                start = asyncio.get_running_loop().time()
                await fake.stop()
                assert asyncio.get_running_loop().time() - start < 1
                stalled.close()
        ends = await asyncio.gather(*parked, return_exceptions=True)
        assert all(isinstance(end, aiohttp.ClientError) for end in ends)
        assert {seen.status for seen in fake.requests if "later" in seen.path} == {None}
    assert asyncio.all_tasks() == before
    gc.collect()


async def test_a_latency_in_the_reply_ends_with_the_server_too() -> None:
    async with FakeVPS(servers=1, faults=[Latency(3600, when="after")]) as fake:
        task = asyncio.create_task(ask(fake, "POST", LIST, json={"server_id": 1}))
        await until(lambda: bool(fake.backups))
    with pytest.raises(aiohttp.ClientError):
        await task


async def test_a_stopped_server_refuses_and_comes_back_on_its_port_with_its_state() -> None:
    fake = FakeVPS(servers=1, backups=1)
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = fake.url
    assert repr(fake) == "<FakeVPS not started>"
    await fake.stop()
    fake.drop_connections()
    await fake.start()
    with pytest.raises(RuntimeError, match="runs already"):
        await fake.start()
    url = fake.url
    await fake.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(fake, "GET", LIST)
    await fake.start()
    assert fake.url == url
    assert (await ask(fake, "GET", LIST)).ids == [1]
    await fake.stop()


@pytest.mark.parametrize("steps", range(6))
async def test_stopping_cuts_connections_that_were_just_accepted(steps: int) -> None:
    fake = FakeVPS()
    await fake.start()
    port = int(fake.url.rpartition(":")[2])
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for _ in range(steps):
        await asyncio.sleep(0)
    await fake.stop()
    try:
        for client in clients:
            client.setblocking(False)
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""  # it raises BlockingIOError while it is open
    finally:
        for client in clients:
            client.close()


async def test_idle_connections_can_be_cut_under_a_client() -> None:
    async with FakeVPS() as fake, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {fake.token}"}
        for _ in range(2):
            async with session.get(fake.url + LIST, headers=headers) as reply:
                assert reply.status == 200
            fake.drop_connections()
        assert fake.count() == 2


async def test_with_a_certificate_it_serves_https() -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    for host in ("127.0.0.1", "localhost"):
        async with FakeVPS(servers=1, backups=2, ssl_context=serving, host=host) as fake:
            assert fake.url.startswith(f"https://{host}:")
            first = await ask(fake, "GET", f"{LIST}?page_size=1", ssl=trusting)
            assert first.json["next"].startswith(f"{fake.url}/")
            assert (await ask(fake, "GET", first.json["next"], ssl=trusting)).ids == [1]


async def test_two_servers_run_side_by_side() -> None:
    async with FakeVPS(servers=1) as one, FakeVPS(servers=1) as two:
        assert one.url != two.url
        assert one.token != two.token
        assert (await ask(one, "POST", LIST, json={"server_id": 1})).status == 201
        assert (len(one.backups), len(two.backups)) == (1, 0)


async def test_every_reply_has_an_id_for_its_request() -> None:
    async with FakeVPS() as fake:
        ids = [(await ask(fake, "GET", LIST)).headers["X-Request-ID"] for _ in range(2)]
    assert ids == ["fake-1", "fake-2"]


async def test_thousands_of_requests_take_a_moment() -> None:
    async with FakeVPS(servers=1, backups=1000) as fake, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {fake.token}"}

        async def call(_: int) -> int:
            async with session.get(f"{fake.url}{LIST}?page_size=100", headers=headers) as reply:
                return len(await reply.read())

        sizes: list[Any] = await asyncio.gather(*(call(number) for number in range(2000)))
        assert len(sizes) == fake.count(status=200) == 2000


def test_the_public_names_are_sorted_and_there() -> None:
    assert testing.__all__ == sorted(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)
