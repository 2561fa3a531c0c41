"""The token goes over the wire and nowhere else: whatever is printed, logged, pickled or raised.

The canary is looked for in everything that a program may write down. It stands in no local
variable of a test, for tracebacks with locals are part of what is searched.
"""

import asyncio
import contextlib
import pickle
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest
from helpers_secrets import CANARY, Ear, assert_clean
from helpers_transport import (
    CountingLimiter,
    RawServer,
    Resolver,
    at_once,
    certified,
    closed_port,
    http,
    session_with,
    silent_server,
)

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupRef,
    BackupsClient,
    ConfigurationError,
    ConstantBackoff,
    Timeouts,
    VPSBackupsError,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Garbage,
    GzipBomb,
    HostileNext,
    Latency,
    NotJSON,
    Oversized,
    RateLimit,
    Redirect,
    Reply,
    ServerFault,
    Truncate,
)

MIB = 2**20

# --- The search ----------------------------------------------------------------------------------


def test_the_search_finds_what_it_looks_for() -> None:
    error = ValueError("outside")
    error.__context__ = KeyError("inside", {"headers": [f"Bearer {CANARY}"]})
    with pytest.raises(AssertionError, match="a canary shows"):
        assert_clean(error)
    with pytest.raises(AssertionError, match="a canary shows"):
        assert_clean(failing_with_a_local())
    noted = VPSBackupsError("fine")
    noted.add_note(CANARY)
    with pytest.raises(AssertionError, match="a canary shows"):
        assert_clean(noted)


def failing_with_a_local() -> Exception:
    def fail() -> None:
        kept = CANARY
        raise ValueError(len(kept))

    try:
        fail()
    except ValueError as error:
        return error
    raise AssertionError


# --- What happens to a client --------------------------------------------------------------------

CALLS: Mapping[str, Callable[[BackupsClient], Awaitable[Any]]] = {
    "list": lambda client: client.list().collect(),
    "prefetch": lambda client: client.list(page_size=2, prefetch=4).collect(),
    "snapshot": lambda client: client.list().snapshot(),
    "get": lambda client: client.get(1),
    "create": lambda client: client.create(1, description="fine"),
    "wait": lambda client: client.wait(BackupRef(10**9, 1), timeout=1, appear_grace=0),
    "delete": lambda client: client.delete(10**9),
    "restore": lambda client: client.restore(1, 1, check=False),
    "fleet": lambda client: drained(client.fleet([1, 2]).list()),
    "fleet create": lambda client: drained(client.fleet([1, 2]).create(wait=True, timeout=1)),
}


async def drained(stream: Any) -> list[Any]:
    return [item async for item in stream]


FAULTS: list[Fault | None] = [
    None,
    Drop(),
    Drop("after"),
    Garbage(),
    GzipBomb(4 * MIB),
    HostileNext("https://evil.example/api/v1/backups/?page=2"),
    HostileNext("http://127.0.0.1/api/v1/backups/?page=2"),
    NotJSON(),
    Oversized(4 * MIB),
    RateLimit(0),
    RateLimit(9e9),
    Redirect("https://evil.example/"),
    ServerFault(500),
    ServerFault(503, html=True),
    Truncate(),
    *(Reply(status, b'{"detail": "no"}') for status in (400, 401, 403, 404, 409, 422)),
    Latency(3600),
]


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_token_shows_nowhere_whatever_goes_wrong(ear: Ear, fault: Fault | None) -> None:
    async with FakeVPS(servers=2, backups=5, token=CANARY) as fake:
        fake.inject(*([fault] if fault is not None else []))
        client = BackupsClient(
            CANARY,
            base_url=fake.url,
            retry=at_once(2, budget=3),
            timeouts=Timeouts(attempt=5, deadline=8),
            max_response_bytes=2 * MIB,
        )
        async with client:
            for call in CALLS.values():
                (ended,) = await asyncio.gather(call(client), return_exceptions=True)
                failed = isinstance(ended, BaseException)
                assert isinstance(ended, VPSBackupsError) is failed
                assert assert_clean(ended) > (10 if failed else 0)
                assert_clean(client)
        assert_clean(client)
        fake.requests.clear()
    assert ear.records != [] or not isinstance(fault, Drop | ServerFault | Latency)


@pytest.mark.virtual_time
@pytest.mark.parametrize("where", ["connecting", "sent", "body", "pause", "queue"])
async def test_the_token_does_not_show_in_a_cancelled_call(ear: Ear, where: str) -> None:
    limiter = AdaptiveLimiter(1)
    faults: dict[str, Fault] = {"sent": Latency(3600), "pause": RateLimit(30)}
    half = http(body=b"x" * 100)[:-50]
    async with (
        FakeVPS(servers=1, token=CANARY) as fake,
        RawServer(lambda _: half).running() as server,
        silent_server() as port,
    ):
        if where in faults:
            fake.inject(faults[where])
        if where == "queue":
            await limiter.acquire()
        urls = {"connecting": f"https://127.0.0.1:{port}", "body": server.url}
        client = BackupsClient(CANARY, base_url=urls.get(where, fake.url), limiter=limiter)
        async with client:
            call = asyncio.create_task(client.list().collect())
            await asyncio.sleep(5)
            assert_clean(call)
            call.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await call
            assert assert_clean(caught.value) > 5
        fake.requests.clear()
        server.requests.clear()


@pytest.mark.parametrize("where", ["refused", "name", "certificate", "netrc", "hook"])
async def test_the_token_does_not_show_where_no_connection_is_made(
    ear: Ear, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    async def hook(*_: object) -> None:
        raise LookupError("a hook's mistake")

    async with contextlib.AsyncExitStack() as stack:
        url = f"http://127.0.0.1:{closed_port()}"
        session = None
        if where == "name":
            url = "https://nowhere.invalid"
            session = await stack.enter_async_context(session_with(Resolver(fails=True)))
        if where == "certificate":
            asyncio.get_running_loop().set_exception_handler(lambda *_: None)
            untrusted = RawServer(ssl_context=certified()[0])
            url = (await stack.enter_async_context(untrusted.running())).url
        if where == "netrc":
            (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
            monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
            session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=True))
        if where == "hook":
            trace = aiohttp.TraceConfig()
            trace.on_request_start.append(hook)
            session = await stack.enter_async_context(aiohttp.ClientSession(trace_configs=[trace]))
        client = BackupsClient(CANARY, base_url=url, session=session, retry=at_once(2))
        async with client:
            for name in ("list", "create", "delete", "restore"):
                with pytest.raises(VPSBackupsError) as caught:
                    await CALLS[name](client)
                assert assert_clean(caught.value) > 10
        assert_clean(client)


async def test_the_token_does_not_show_in_what_asyncio_says_in_debug_mode(ear: Ear) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0  # every step is slow, and logged
    try:
        async with FakeVPS(servers=1, token=CANARY) as fake:
            async with BackupsClient(CANARY, base_url=fake.url) as client:
                await client.create(1)
                await client.list().collect()
            fake.requests.clear()
    finally:
        loop.set_debug(before[0])
        loop.slow_callback_duration = before[1]


async def test_the_token_does_not_show_in_a_wrong_or_closed_client(ear: Ear) -> None:
    client = BackupsClient(CANARY, base_url=f"http://127.0.0.1:{closed_port()}", retry=at_once(1))
    with pytest.raises(VPSBackupsError):
        await client.list().collect()

    def elsewhere() -> Exception:
        try:
            asyncio.run(use())
        except VPSBackupsError as error:
            return error
        raise AssertionError

    async def use() -> None:
        await client.delete(1)

    assert_clean(await asyncio.to_thread(elsewhere))
    await client.close()
    with pytest.raises(ConfigurationError) as caught:
        await client.delete(1)
    assert_clean(caught.value)
    with pytest.raises(TypeError) as refused:
        pickle.dumps(client)
    assert_clean(refused.value)


# --- Making a client -----------------------------------------------------------------------------

BAD: Mapping[str, Callable[[], BackupsClient]] = {
    "newline": lambda: BackupsClient(CANARY + "\nX-Evil: 1"),
    "space": lambda: BackupsClient(CANARY + " x"),
    "tab": lambda: BackupsClient(CANARY + "\tx"),
    "null": lambda: BackupsClient(CANARY + "\0"),
    "delete": lambda: BackupsClient(CANARY + "\x7f"),
    "curly quote": lambda: BackupsClient(f"“{CANARY}”"),
    "letter": lambda: BackupsClient(CANARY + "é"),
    "bytes": lambda: BackupsClient(CANARY.encode()),  # type: ignore[arg-type]  # wrong on purpose
    "list": lambda: BackupsClient([CANARY]),  # type: ignore[arg-type]  # wrong on purpose
    "url": lambda: BackupsClient(CANARY, base_url="nonsense"),
    "http": lambda: BackupsClient(CANARY, base_url="http://h"),
    "ssl": lambda: BackupsClient(CANARY, ssl_context=False),  # type: ignore[arg-type]  # wrong on purpose
    "size": lambda: BackupsClient(CANARY, max_response_bytes=0),
}


@pytest.mark.parametrize("bad", BAD)
def test_the_token_does_not_show_where_making_a_client_fails(bad: str) -> None:
    with pytest.raises((ConfigurationError, ValueError)) as caught:
        BAD[bad]()
    if bad != "size":
        assert type(caught.value) is ConfigurationError
    assert assert_clean(caught.value) > 3


@pytest.mark.parametrize("bad", ["\n", "”", "\x1b"])
def test_a_bad_token_from_the_environment_does_not_show(
    monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", f"{CANARY}{bad}x")
    with pytest.raises(ConfigurationError) as caught:
        BackupsClient()
    assert assert_clean(caught.value) > 3


@pytest.mark.parametrize("blank", ["", " ", "\n\t "])
@pytest.mark.parametrize("given", [True, False])
def test_an_empty_token_says_where_one_may_come_from(
    monkeypatch: pytest.MonkeyPatch, blank: str, given: bool
) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", blank)
    with pytest.raises(ConfigurationError, match=r"token=\.\.\. .* VPS_API_TOKEN"):
        BackupsClient(blank) if given else BackupsClient()


async def test_space_around_a_token_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPS_API_TOKEN", f"\t{CANARY} \n")
    async with FakeVPS(servers=1, token=CANARY) as fake:
        async with BackupsClient(base_url=fake.url) as client:
            assert await client.list().collect() == []
            assert_clean(client)
        async with BackupsClient(f" {CANARY}\n", base_url=fake.url) as client:
            assert await client.list().collect() == []


async def test_the_parts_of_a_client_do_not_show_the_token() -> None:
    async with FakeVPS(servers=1, backups=3, token=CANARY) as fake:
        limiter = CountingLimiter()
        async with BackupsClient(CANARY, base_url=fake.url, limiter=limiter) as client:
            stream = client.list(server_id=1)
            await stream.collect()
            waiting = asyncio.create_task(
                client.wait(BackupRef(1, 1), backoff=ConstantBackoff(100))
            )
            await asyncio.sleep(0)
            for part in (client, stream, client.stats, limiter, client.fleet([1]), waiting):
                assert_clean(part)
            assert_clean(vars(client))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await waiting
            assert_clean(caught.value)
            headers = client._session.channel.session.headers
            assert CANARY in headers["Authorization"]
            assert "'***'" in repr(headers)
        fake.requests.clear()
