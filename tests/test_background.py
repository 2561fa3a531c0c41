"""Work that goes on by itself: kept, its end logged, and ended with its client."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import pytest
from helpers_transport import at_once

from vpsbackups_async import (
    Backup,
    BackupsClient,
    ConfigurationError,
    WaitError,
    WrongEventLoopError,
)
from vpsbackups_async.testing import FakeVPS, Latency


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "vpsbackups_async")


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backup_seconds=600) as server:
        yield server


def client_of(fake: FakeVPS) -> BackupsClient:
    return BackupsClient(fake.token, base_url=fake.url, retry=at_once(3))


async def back_up(client: BackupsClient, server_id: int, **options: Any) -> Backup:
    return await client.wait(await client.create(server_id, **options))


async def seen(fake: FakeVPS, count: int, method: str) -> None:
    """Return once the fake has seen so many requests."""
    while fake.count(method) < count:  # noqa: ASYNC110  # its hook may be the test's
        await asyncio.sleep(0.01)


@pytest.mark.virtual_time
async def test_a_job_goes_on_by_itself_and_its_end_is_logged_with_the_backup(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake) as client:
        client.background(back_up(client, 2), name="nightly")
        await asyncio.sleep(700)
        assert caplog.messages == [
            "background job nightly is done: backup 1 of server 2, completed"
        ]
    assert fake.count("POST") == 1


async def test_a_job_that_waits_for_what_it_alone_knows_is_kept(fake: FakeVPS) -> None:
    futures: list[weakref.ref[asyncio.Future[None]]] = []

    async def wait() -> None:
        future = asyncio.get_running_loop().create_future()
        futures.append(weakref.ref(future))
        await future

    async with client_of(fake) as client:
        client.background(wait())
        await asyncio.sleep(0)
        gc.collect()  # the event loop alone does not keep a task
        future = futures[0]()
        assert future is not None
        future.set_result(None)


@pytest.mark.virtual_time
async def test_a_job_can_be_awaited(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        assert (await client.background(back_up(client, 1))).is_completed


@pytest.mark.virtual_time
async def test_what_a_job_fails_with_is_logged_and_nobody_has_to_look(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async def buggy() -> None:
        raise ZeroDivisionError("a mistake of the job's own")

    fake.fails = frozenset({1})
    async with client_of(fake) as client:
        client.background(back_up(client, 1), name="nightly")
        client.background(buggy(), name="buggy")
        client.background(asyncio.sleep(1, "slept"), name="sleeper")
        await asyncio.sleep(700)
    said = {record.getMessage().split(":")[0]: record for record in caplog.records}
    assert set(said) == {
        *("background job nightly failed", "background job buggy failed"),
        "background job sleeper is done",
    }
    failed = said["background job nightly failed"]
    assert failed.levelname == "WARNING"
    assert "backup 1 of server 1" in failed.getMessage()
    bug = said["background job buggy failed"]
    assert (bug.levelname, bool(bug.exc_info)) == ("ERROR", True)
    assert said["background job sleeper is done"].levelname == "INFO"


@pytest.mark.virtual_time
async def test_closing_ends_a_job_that_waits_with_the_ref_to_wait_for_again(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake) as client:
        client.background(back_up(client, 1), name="nightly")
        await asyncio.sleep(30)
        asked = len(fake.requests)
        loop = asyncio.get_running_loop()
        began = loop.time()
    assert loop.time() - began < 0.5  # virtual: nothing is waited for
    [said] = caplog.messages
    assert said.startswith("background job nightly failed: backup 1 of server 1")
    assert "the client was closed" in said
    assert "Wait for the same ref again" in said
    await asyncio.sleep(100)
    assert len(fake.requests) == asked


@pytest.mark.virtual_time
async def test_closing_in_the_middle_of_a_job_s_create_makes_one_backup_and_logs_it(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Latency(10, method="POST"))
    async with client_of(fake) as client:
        client.background(back_up(client, 1), name="nightly")
        await seen(fake, 1, "POST")
    assert fake.count("POST", status=201) == len(fake.requests) == len(fake.backups) == 1
    assert caplog.messages == [
        "background job nightly was cancelled",
        "vpsbackups-create-1, whose caller was cancelled, made backup 1",
    ]


@pytest.mark.virtual_time
async def test_a_create_that_ends_while_its_client_closes_still_says_which_backup_it_made(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Latency(0.5, method="POST"))
    async with client_of(fake) as client:
        client.background(back_up(client, 1), name="nightly")
        await seen(fake, 1, "POST")
    [said] = caplog.messages
    assert said.startswith("background job nightly failed: backup 1 of server 1")
    assert "the client was closed" in said
    assert len(fake.requests) == len(fake.backups) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("in_background", [True, False])
async def test_a_create_that_waits_for_another_backup_makes_none_when_its_client_closes(
    fake: FakeVPS, in_background: bool
) -> None:
    fake.one_at_a_time = True
    async with client_of(fake) as client:
        await client.create(1)
        work = back_up(client, 1, if_running="wait")
        job = client.background(work) if in_background else asyncio.create_task(work)
        await asyncio.sleep(30)
    with pytest.raises(WaitError, match=r"backup 1 of server 1.*the client was closed"):
        await job
    assert fake.count("POST") == len(fake.backups) == 1


@pytest.mark.virtual_time
async def test_a_job_that_does_not_end_by_itself_is_cancelled_and_waited_for(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    tidied = False

    async def endless() -> None:
        nonlocal tidied
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            tidied = True

    async with client_of(fake) as client:
        client.background(endless(), name="endless")
        await asyncio.sleep(0)
    assert tidied
    assert caplog.messages == ["background job endless was cancelled"]


@pytest.mark.virtual_time
async def test_a_cancelled_close_still_cancels_the_jobs(fake: FakeVPS) -> None:
    client = client_of(fake)
    job = client.background(asyncio.sleep(3600))
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.5)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(asyncio.CancelledError):
        await job


@pytest.mark.virtual_time
async def test_a_job_may_close_its_client(fake: FakeVPS) -> None:
    client = client_of(fake)
    other = client.background(asyncio.sleep(3600))
    await client.background(client.close())
    assert other.cancelled()


@pytest.mark.virtual_time
async def test_a_client_that_is_closed_or_about_to_be_begins_nothing(fake: FakeVPS) -> None:
    async def late(client: BackupsClient) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            for begin in (lambda: client.background(back_up(client, 1)), lambda: client.create(1)):
                with pytest.raises(ConfigurationError, match="being closed"):
                    await begin()

    client = client_of(fake)
    job = client.background(late(client))
    await asyncio.sleep(0)
    await client.close()
    assert job.cancelled()
    with pytest.raises(ConfigurationError, match="closed"):
        client.background(back_up(client, 1))
    assert fake.requests == []


def test_a_job_belongs_to_its_client_s_event_loop() -> None:
    async def begin(client: BackupsClient) -> None:
        await client.background(asyncio.sleep(0))

    client = BackupsClient("vps_x")
    asyncio.run(begin(client))
    with pytest.raises(WrongEventLoopError):
        asyncio.run(begin(client))
    asyncio.run(client.close())


# --- The lifespan of an ASGI application ---------------------------------------------------------

Scope = MutableMapping[str, Any]


class Served:
    """An ASGI application, and a server's side of its lifespan."""

    def __init__(self, client: BackupsClient) -> None:
        self.scopes: list[Scope] = []
        self.sent: asyncio.Queue[Scope] = asyncio.Queue()
        self._told: asyncio.Queue[Scope] = asyncio.Queue()
        self.app = client.asgi_lifespan(self._plain)
        self.living = asyncio.ensure_future(
            self.app({"type": "lifespan"}, self._told.get, self.sent.put)
        )

    async def _plain(
        self,
        scope: Scope,
        receive: Callable[[], Awaitable[Scope]],
        send: Callable[[Scope], Awaitable[None]],
    ) -> None:
        assert scope["type"] != "lifespan"
        self.scopes.append(scope)
        await send(await receive())

    async def tell(self, event: str) -> Scope:
        self._told.put_nowait({"type": f"lifespan.{event}"})
        return await self.sent.get()

    async def serve(self, scope: Scope) -> Scope:
        self._told.put_nowait({"type": "http.request"})
        await self.app(scope, self._told.get, self.sent.put)
        return await self.sent.get()


async def test_a_client_lives_from_an_application_s_startup_to_its_shutdown(fake: FakeVPS) -> None:
    client = client_of(fake)
    served = Served(client)
    assert await served.tell("startup") == {"type": "lifespan.startup.complete"}
    assert await client.list().collect() == []
    assert await served.tell("shutdown") == {"type": "lifespan.shutdown.complete"}
    await served.living
    with pytest.raises(ConfigurationError, match="closed"):
        await client.list().collect()


async def test_everything_else_is_the_application_s(fake: FakeVPS) -> None:
    served = Served(client_of(fake))
    await served.tell("startup")
    for kind in ("http", "websocket"):
        scope = {"type": kind}
        assert await served.serve(scope) == {"type": "http.request"}
        assert served.scopes[-1] is scope
    await served.tell("shutdown")
    await served.living


async def test_a_client_that_cannot_open_is_a_failed_startup(fake: FakeVPS) -> None:
    client = client_of(fake)
    await client.close()
    served = Served(client)
    failed = await served.tell("startup")
    assert failed["type"] == "lifespan.startup.failed"
    assert "Make a new BackupsClient" in failed["message"]
    await served.living


async def test_a_server_that_gives_the_lifespan_up_closes_the_client(fake: FakeVPS) -> None:
    client = client_of(fake)
    served = Served(client)
    await served.tell("startup")
    served.living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.living
    with pytest.raises(ConfigurationError, match="closed"):
        await client.list().collect()
