"""Connections: kept, shared, looked up, through a proxy, and by a session of the caller's own."""

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers_transport import (
    METHODS,
    VERBS,
    CountingLimiter,
    RawServer,
    Resolver,
    at_once,
    certified,
    good,
    http,
    session_with,
)

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConfigurationError,
    CreateOutcomeUnknownError,
    Timeouts,
    TransportError,
    WrongEventLoopError,
)
from vpsbackups_async.testing import FakeVPS, Latency

# --- Keeping connections -------------------------------------------------------------------------


async def test_a_server_that_closes_idle_connections_does_not_matter() -> None:
    async with (
        RawServer(good, then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(3)) as client,
    ):
        for _ in range(5):
            for verb in VERBS.values():
                await verb(client)
                await asyncio.sleep(0.001)  # what the server does must come to the client's ears
    posts = [request for request in server.requests if request.startswith(b"POST")]
    assert (len(posts), server.connections) == (10, 20)


@pytest.mark.parametrize("verb", VERBS)
async def test_a_kept_connection_that_dies_under_a_request_never_sends_a_restore_twice(
    verb: str,
) -> None:
    """Nor a create, for which the server's list is read."""

    def answer(request: bytes) -> bytes | None:
        # The first request on each connection is answered, the next finds it broken.
        server_seen.append(request)
        return None if len(server_seen) == 2 else good(request)

    server_seen: list[bytes] = []
    async with (
        RawServer(answer).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(3)) as client,
    ):
        await client.list().collect()
        if verb == "restore":
            with pytest.raises(TransportError):
                await VERBS[verb](client)
            assert len(server.requests) == 2
        elif verb == "create":
            with pytest.raises(CreateOutcomeUnknownError):
                await VERBS[verb](client)
            assert [request.split()[0] for request in server.requests[2:]] == [b"GET"]
        else:
            await VERBS[verb](client)
            assert server.requests[-1].startswith(METHODS[verb].encode())


@pytest.mark.parametrize(("keepalive", "connections"), [(15.0, 1), (1e-9, 4)])
async def test_how_long_an_idle_connection_is_kept_is_the_callers_choice(
    keepalive: float, connections: int
) -> None:
    async with (
        RawServer().running() as server,
        BackupsClient(
            "vps_x", base_url=server.url, timeouts=Timeouts(keepalive=keepalive)
        ) as client,
    ):
        for _ in range(4):
            await client.list().collect()
        assert server.connections == connections


@pytest.mark.virtual_time
async def test_more_calls_at_once_than_aiohttps_usual_limit_do_not_queue_in_it() -> None:
    async with FakeVPS(servers=1, faults=[Latency(5)]) as fake:
        client = BackupsClient(fake.token, base_url=fake.url, limiter=AdaptiveLimiter(150))
        async with client:
            await asyncio.gather(*(client.list().first() for _ in range(150)))
        assert fake.peak == 150


# --- Names ---------------------------------------------------------------------------------------


async def test_many_calls_look_a_name_up_once() -> None:
    resolver = Resolver()
    async with RawServer().running() as server, session_with(resolver) as session:
        url = f"http://backups.test:{server.port}"
        client = BackupsClient("vps_x", base_url=url, allow_insecure=True, session=session)
        async with client:
            await asyncio.gather(*(client.list().collect() for _ in range(200)))
        assert len(server.requests) == 200
        assert b"Host: backups.test" in server.requests[0]
    assert resolver.lookups == 1


async def test_our_own_connector_remembers_a_name_for_at_least_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolver = Resolver()
    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: resolver)
    passed = [0.0]
    monkeypatch.setattr("aiohttp.connector.monotonic", lambda: time.monotonic() + passed[0])
    async with RawServer(good, then_close=True).running() as server:
        url = f"http://backups.test:{server.port}"
        async with BackupsClient("vps_x", base_url=url, allow_insecure=True) as client:
            for passed[0] in (0.0, 30.0, 59.0):
                await client.list().collect()
        assert server.connections == 3
    assert resolver.lookups == 1


# --- A session of the caller's own ---------------------------------------------------------------


async def test_a_given_session_is_used_shared_and_never_closed() -> None:
    async with RawServer().running() as server, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with (
                BackupsClient("vps_one", base_url=server.url, session=session) as one,
                BackupsClient("vps_two", base_url=server.url, session=session) as two,
            ):
                await one.list().collect()
                await two.list().collect()
            assert not session.closed
        tokens = [request.partition(b"Bearer ")[2][:7] for request in server.requests]
        assert tokens == [b"vps_one", b"vps_two"] * 2
        assert server.connections == 1


async def test_a_given_session_gains_no_secret_and_keeps_its_own_headers() -> None:
    headers = {"X-Mine": "1", "Authorization": "Basic bWluZQ=="}
    async with RawServer().running() as server:
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            BackupsClient("vps_x", base_url=server.url, session=session) as client,
        ):
            for verb in VERBS.values():
                await verb(client)
            assert dict(session.headers) == headers
            assert list(session.cookie_jar) == []
            async with session.get(server.url) as response:
                await response.read()
        assert [b"Bearer vps_x" in request for request in server.requests] == [True] * 4 + [False]
        assert all(b"X-Mine: 1" in request for request in server.requests)


@pytest.mark.parametrize(
    "connector",
    [
        lambda: aiohttp.TCPConnector(limit=5),
        lambda: aiohttp.TCPConnector(limit=0, limit_per_host=5),
        lambda: aiohttp.TCPConnector(limit=100, limit_per_host=5),
    ],
    ids=["limit", "limit per host", "both"],
)
@pytest.mark.virtual_time
async def test_the_gate_is_no_wider_than_a_given_session(
    connector: Callable[[], aiohttp.TCPConnector],
) -> None:
    """Else calls would queue for a connection, and burn their timeouts there."""
    timeouts = Timeouts(connect=1, attempt=1)
    async with (
        FakeVPS(servers=1, faults=[Latency(0.8)]) as fake,
        aiohttp.ClientSession(connector=connector()) as session,
    ):
        with pytest.raises(ConfigurationError, match="opens 5 connections"):
            BackupsClient("vps_x", session=session, limiter=AdaptiveLimiter(6))
        for limiter in (None, AdaptiveLimiter(5)):
            client = BackupsClient(
                fake.token,
                base_url=fake.url,
                session=session,
                limiter=limiter,
                timeouts=timeouts,
                retry=at_once(1),
            )
            await asyncio.gather(*(client.list().first() for _ in range(20)))
        assert fake.peak == 5


async def test_a_limiter_that_tells_no_maximum_is_taken_as_it_is() -> None:
    limiter = CountingLimiter()
    connector = aiohttp.TCPConnector(limit=1)
    async with RawServer().running() as server, aiohttp.ClientSession(connector=connector) as own:
        client = BackupsClient("vps_x", base_url=server.url, session=own, limiter=limiter)
        await client.list().collect()
    assert len(limiter.observed) == 1


async def test_a_session_without_limit_gets_the_usual_gate() -> None:
    async with (
        FakeVPS(servers=1) as fake,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        client = BackupsClient(fake.token, base_url=fake.url, session=session)
        await asyncio.gather(*(client.list().first() for _ in range(200)))
        assert fake.peak <= 64


async def test_a_session_that_its_owner_closed_is_a_matter_of_configuration() -> None:
    session = aiohttp.ClientSession()
    client = BackupsClient("vps_x", session=session)
    await session.close()
    with pytest.raises(ConfigurationError, match="Session is closed"):
        await client.list().first()
    with pytest.raises(ConfigurationError, match="Session is closed"):
        await BackupsClient("vps_x", session=session).list().first()


@pytest.mark.parametrize("when", ["on_request_start", "on_request_end"])
@pytest.mark.parametrize("error", [ValueError, RuntimeError, LookupError])
async def test_what_a_given_sessions_hooks_raise_stays_inside(
    when: str, error: type[Exception]
) -> None:
    async def hook(*_: object) -> None:
        raise error("a hook's mistake")

    trace = aiohttp.TraceConfig()
    getattr(trace, when).append(hook)
    async with (
        RawServer().running() as server,
        aiohttp.ClientSession(trace_configs=[trace]) as session,
        BackupsClient("vps_x", base_url=server.url, session=session, retry=at_once(3)) as client,
    ):
        if when == "on_request_start":
            with pytest.raises(ConfigurationError, match="a hook's mistake"):
                await client.create(1)
            assert server.requests == []
        else:
            with pytest.raises(CreateOutcomeUnknownError, match="a hook's mistake"):
                await client.create(1)
            assert sum(request.startswith(b"POST") for request in server.requests) == 1


@pytest.mark.parametrize("verb", VERBS)
async def test_the_middlewares_of_a_given_session_run_around_ours(verb: str) -> None:
    seen: list[tuple[str, str, int]] = []

    async def first(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await handler(request)
        seen.append(("first", request.method, response.status))
        return response

    async def second(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        request.headers["X-Mine"] = "1"
        response: aiohttp.ClientResponse = await handler(request)
        seen.append(("second", request.method, response.status))
        return response

    async with (
        RawServer().running() as server,
        aiohttp.ClientSession(middlewares=(first, second)) as session,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        await VERBS[verb](client)
        assert [(name, method) for name, method, _ in seen] == [
            ("second", METHODS[verb]),
            ("first", METHODS[verb]),
        ]
        assert b"X-Mine: 1\r\n" in server.requests[0]


@pytest.mark.parametrize("verb", VERBS)
async def test_a_given_sessions_middleware_may_send_a_request_again(verb: str) -> None:
    async def twice(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        response: aiohttp.ClientResponse = await handler(request)
        if response.status != 401:
            return response
        response.release()
        return await handler(request)  # type: ignore[no-any-return]

    async with (
        RawServer(
            lambda request: http(401, b"{}") if len(server.requests) == 1 else good(request)
        ).running() as server,
        aiohttp.ClientSession(middlewares=(twice,)) as session,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        await VERBS[verb](client)
        assert len(server.requests) == 2


async def test_with_a_given_sessions_middleware_a_lost_answer_is_still_sent_for_once() -> None:
    async def plain(request: aiohttp.ClientRequest, handler: Any) -> aiohttp.ClientResponse:
        return await handler(request)  # type: ignore[no-any-return]

    async with (
        RawServer(lambda _: None).running() as server,
        aiohttp.ClientSession(middlewares=(plain,)) as session,
        BackupsClient("vps_x", base_url=server.url, session=session, retry=at_once(1)) as client,
    ):
        with pytest.raises(TransportError):
            await client.delete(1)
        assert len(server.requests) == 1


# --- A connector of the caller's own -------------------------------------------------------------


async def test_a_given_connector_is_used_shared_and_never_closed() -> None:
    resolver = Resolver()
    connector = aiohttp.TCPConnector(resolver=resolver)
    async with RawServer().running() as server:
        url = f"http://backups.test:{server.port}"
        options: dict[str, Any] = {"allow_insecure": True, "connector": connector}
        for _ in range(2):
            async with (
                BackupsClient("vps_one", base_url=url, **options) as one,
                BackupsClient("vps_two", base_url=url, **options) as two,
            ):
                await one.list().collect()
                await two.list().collect()
            assert not connector.closed
        tokens = [request.partition(b"Bearer ")[2][:7] for request in server.requests]
        assert tokens == [b"vps_one", b"vps_two"] * 2
        assert (server.connections, resolver.lookups) == (1, 1)
        abandoned = BackupsClient("vps_one", base_url=url, **options)
        await abandoned.list().collect()
        del abandoned
        gc.collect()
        assert not connector.closed
        await connector.close()


async def test_a_connector_brings_its_own_way_to_the_server(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        assert request.startswith(b"GET /api/v1/backups/ HTTP/1.1\r\nHost: localhost\r\n")
        writer.write(http())
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_unix_server(serve, path)
    connector = aiohttp.UnixConnector(path)
    async with BackupsClient("vps_x", base_url="http://localhost", connector=connector) as client:
        assert len(await client.list().collect()) == 1
    await connector.close()
    async with asyncio.timeout(10):
        await ended.wait()
    server.close()


async def test_the_gate_is_no_wider_than_a_given_connector() -> None:
    connector = aiohttp.TCPConnector(limit=5)
    with pytest.raises(ConfigurationError, match="opens 5 connections"):
        BackupsClient("vps_x", connector=connector, limiter=AdaptiveLimiter(6))
    client = BackupsClient("vps_x", connector=connector)
    assert client.stats.limit == 5
    await connector.close()


async def test_a_connector_that_cannot_serve_is_refused() -> None:
    connector = aiohttp.TCPConnector()
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ConfigurationError, match="not both"):
            BackupsClient("vps_x", connector=connector, session=session)
    with pytest.raises(ConfigurationError, match="must be an aiohttp connector"):
        BackupsClient("vps_x", connector=5)  # type: ignore[arg-type]
    await connector.close()
    async with BackupsClient("vps_x", connector=connector, retry=at_once(1)) as client:
        with pytest.raises((ConfigurationError, TransportError), match="closed"):
            await client.list().collect()


def test_a_connector_of_another_loop_is_refused() -> None:
    async def make() -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector()

    async def use() -> None:
        client = BackupsClient("vps_x", connector=connector)
        with pytest.raises(WrongEventLoopError, match="connector"):
            await client.list().collect()

    with asyncio.Runner() as one, asyncio.Runner() as other:
        connector = one.run(make())
        other.run(use())
        one.run(connector.close())


# --- Proxies and the environment -----------------------------------------------------------------

NETRC = "machine 127.0.0.1 login mallory password swordfish\n"


@pytest.fixture
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .netrc that knows our server, wherever it is looked for."""
    (tmp_path / ".netrc").write_text(NETRC)
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


@pytest.mark.parametrize("proxy", [None, "env"])
async def test_a_netrc_never_changes_the_header(
    netrc: None, environment: pytest.MonkeyPatch, proxy: str | None
) -> None:
    async with RawServer().running() as server:
        if proxy == "env":
            environment.setenv("HTTP_PROXY", server.url)
        async with BackupsClient("vps_x", base_url=server.url, proxy=proxy) as client:
            await client.list().collect()
        assert b"Authorization: Bearer vps_x\r\n" in server.requests[0]
        assert b"Basic" not in server.requests[0]


async def test_a_session_that_reads_a_matching_netrc_is_refused_or_overruled(netrc: None) -> None:
    """aiohttp refuses two kinds of authorization in one version, and takes ours in another."""
    async with (
        RawServer().running() as server,
        aiohttp.ClientSession(trust_env=True) as session,
        BackupsClient("vps_x", base_url=server.url, session=session) as client,
    ):
        with pytest.raises(ConfigurationError, match="session or proxy: ValueError") as caught:
            await client.list().collect()
        assert server.requests == []
    assert "swordfish" not in str(caught.value)
    assert "vps_x" not in str(caught.value)


# --- TLS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_session", [False, True])
async def test_a_private_ca_is_trusted_through_an_ssl_context(own_session: bool) -> None:
    server_context, client_context = certified()
    session: Any = aiohttp.ClientSession() if own_session else None
    async with RawServer(ssl_context=server_context).running() as server:
        client = BackupsClient(
            "vps_x", base_url=server.url, ssl_context=client_context, session=session
        )
        async with client:
            for verb in VERBS.values():
                await verb(client)
        if own_session:
            await session.close()
        assert len(server.requests) == 4
