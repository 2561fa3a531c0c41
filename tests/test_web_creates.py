"""A handler that creates: what goes on after its answer, without its client, and at shutdown."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from helpers_web import answer, asking, recipe, serving, standstill, until

from vpsbackups_async.testing import FakeVPS, Latency

CREATE = "/servers/1/backups"
BOTH = ["fastapi", "aiohttp"]
JOB = "background job wait for 1"

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def fake(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[FakeVPS]:
    caplog.set_level(logging.INFO, "vpsbackups_async")
    async with FakeVPS(servers=3, backup_seconds=20) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the library has logged, as it grows."""

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    handler = Said()
    logger = logging.getLogger("vpsbackups_async")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize("framework", BOTH)
async def test_a_wait_goes_on_after_the_answer_that_tells_which_backup_it_is(
    framework: str, fake: FakeVPS, said: list[str]
) -> None:
    async with serving(framework) as site:
        status, body = await answer(site.port, CREATE, "POST")
        assert (status, json.loads(body)) == (202, {"id": 1, "server_id": 1})
        await until(lambda: said)
    assert said == [f"{JOB} is done: backup 1 of server 1, completed"]


@pytest.mark.parametrize("framework", BOTH)
async def test_a_create_that_the_api_refuses_is_answered_with_why(
    framework: str, fake: FakeVPS
) -> None:
    for _ in range(10):
        fake.add_backup(1)
    async with serving(framework) as site:
        status, body = await answer(site.port, CREATE, "POST")
        assert status == 409
        assert "manual backups" in json.loads(body)["detail"]
        assert (await answer(site.port, "/servers/99/backups", "POST"))[0] == 404
    assert fake.count(status=201) == 0


@pytest.mark.parametrize("framework", BOTH)
async def test_an_outcome_that_is_a_failure_is_not_lost_either(
    framework: str, fake: FakeVPS, said: list[str]
) -> None:
    fake.fails = frozenset({1})
    async with serving(framework) as site:
        assert (await answer(site.port, CREATE, "POST"))[0] == 202
        await until(lambda: said)
    assert len(said) == 1
    assert said[0].startswith(f"{JOB} failed: backup 1 of server 1")


@pytest.mark.parametrize("framework", BOTH)
async def test_a_shutdown_ends_what_waits_at_once_and_says_which_backup_goes_on(
    framework: str, fake: FakeVPS, said: list[str]
) -> None:
    async with serving(framework) as site:
        assert (await answer(site.port, CREATE, "POST"))[0] == 202
        await until(lambda: fake.count("GET") > 0)
    asked = len(fake.requests)
    assert len(said) == 1
    assert said[0].startswith(f"{JOB} failed: backup 1 of server 1")
    assert "Wait for the same ref again" in said[0]
    await standstill(fake)
    assert len(fake.requests) == asked
    assert fake.count("POST") == 1


async def test_a_shutdown_in_the_middle_of_a_create_makes_it_once_and_logs_its_id(
    fake: FakeVPS, said: list[str]
) -> None:
    fake.inject(Latency(20, method="POST"))
    async with serving("aiohttp") as site, asking(site.port, CREATE, "POST"):
        await until(lambda: fake.count("POST"))
    assert said[-1] == "vpsbackups-create-1, whose caller was cancelled, made backup 1"
    assert fake.count("POST") == len(fake.backups) == len(fake.requests) == 1


async def test_a_shutdown_of_uvicorn_in_the_middle_of_a_create_waits_for_its_answer(
    fake: FakeVPS, said: list[str]
) -> None:
    fake.inject(Latency(20, method="POST"))
    async with serving("fastapi") as site, asking(site.port, CREATE, "POST") as reader:
        await until(lambda: fake.count("POST"))
        site.stop()
        assert (await reader.head(), json.loads(await reader.body())["id"]) == (202, 1)
    assert said[-1].startswith(f"{JOB} failed: backup 1 of server 1")
    assert fake.count("POST") == len(fake.backups) == 1


async def test_a_client_that_leaves_in_the_middle_of_a_create_loses_nothing(
    fake: FakeVPS, said: list[str]
) -> None:
    fake.inject(Latency(20, method="POST"))
    async with serving("aiohttp") as site:
        async with asking(site.port, CREATE, "POST"):
            await until(lambda: fake.count("POST"))
        await until(lambda: said)
        assert site.client().stats.running == 0
    assert said == ["vpsbackups-create-1, whose caller was cancelled, made backup 1"]
    assert fake.count("POST") == len(fake.backups) == len(fake.requests) == 1


async def test_without_cancellation_the_handler_goes_on_to_its_end(
    fake: FakeVPS, said: list[str]
) -> None:
    fake.inject(Latency(20, method="POST"))
    async with serving("aiohttp", handler_cancellation=False) as site:
        async with asking(site.port, CREATE, "POST"):
            await until(lambda: fake.count("POST"))
        await until(lambda: said)
    assert said == [f"{JOB} is done: backup 1 of server 1, completed"]
    assert fake.count("POST") == len(fake.backups) == 1


PLAIN = """
MADE = []


@app.post("/plain/{server_id}")
async def plain(server_id: int, request: Request) -> int:
    MADE.append(await request.app.state.backups.create(server_id))
    return MADE[0].id


@app.post("/streamed/{server_id}")
async def streamed(server_id: int, request: Request) -> StreamingResponse:
    async def waited() -> AsyncGenerator[str]:
        client = request.app.state.backups
        yield f"{(await client.wait(await client.create(server_id))).id}"

    return StreamingResponse(waited())
"""


async def test_a_plain_fastapi_handler_goes_on_when_its_client_leaves(
    fake: FakeVPS, said: list[str]
) -> None:
    fake.inject(Latency(20, method="POST"))
    names = {"__name__": "recipe"}
    exec(recipe("fastapi") + PLAIN, names)
    async with serving("fastapi", names) as site:
        async with asking(site.port, "/plain/1", "POST"):
            await until(lambda: fake.count("POST"))
        await until(lambda: names["MADE"])
    assert (said, len(fake.backups), len(fake.requests)) == ([], 1, 1)


@pytest.mark.parametrize("moment", ["create", "wait"])
async def test_a_streamed_fastapi_body_ends_when_its_client_leaves(
    fake: FakeVPS, said: list[str], moment: str
) -> None:
    fake.inject(Latency(20, method="POST"))
    names = {"__name__": "recipe"}
    exec(recipe("fastapi") + PLAIN, names)
    async with serving("fastapi", names) as site:
        async with asking(site.port, "/streamed/1", "POST") as reader:
            assert await reader.head() == 200
            await until(lambda: fake.count("POST" if moment == "create" else "GET"))
        await asyncio.sleep(40)
        assert site.client().stats.running == 0
        asked = len(fake.requests)
        await asyncio.sleep(60)
    logged = "vpsbackups-create-1, whose caller was cancelled, made backup 1"
    assert said == ([logged] if moment == "create" else [])
    assert len(fake.requests) == asked <= 2
    assert fake.count("POST") == len(fake.backups) == 1


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [("/servers/99/backups", 404, "99"), ("/servers/2/backups", 409, "ten manual backups")],
)
async def test_what_the_api_refuses_becomes_a_status(
    fake: FakeVPS, path: str, status: int, word: str
) -> None:
    for _ in range(10):
        fake.add_backup(2)
    async with serving("aiohttp") as site:
        answered, body = await answer(site.port, path, "POST")
    assert answered == status
    assert "detail" in json.loads(body)
