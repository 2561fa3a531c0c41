"""A handler that streams a listing: whole, held back by a slow reader, ended with its client."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator

import pytest
from helpers_web import FRAMEWORKS, answer, asking, serving, standstill, until

from vpsbackups_async.testing import FakeVPS, Latency, RateLimit, ServerFault

LISTING = "/servers/1/backups"
PAGES = 30
DESCRIPTION = "x" * 20_000
"""Five of these are a page: 100 KB."""
AHEAD = 4
"""Pages: what two sockets' buffers, a server's own of 64 KB and the page in its hand can take."""

each_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    backups = [{"server_id": 1, "description": DESCRIPTION} for _ in range(5 * PAGES)]
    async with FakeVPS(servers=3, backups=backups, page_size=5) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


@each_framework
async def test_a_listing_comes_whole_as_lines_of_json(framework: str, fake: FakeVPS) -> None:
    async with serving(framework) as site:
        status, body = await answer(site.port, LISTING)
    assert status == 200
    assert [json.loads(line) for line in body.splitlines()] == fake.backups[::-1]
    assert body.endswith(b"\n")
    assert fake.count("GET") == len(fake.requests) == PAGES


@each_framework
async def test_an_empty_listing_is_an_empty_body(framework: str, fake: FakeVPS) -> None:
    async with serving(framework) as site:
        assert await answer(site.port, "/servers/2/backups") == (200, b"")


@each_framework
async def test_a_slow_reader_holds_the_listing_back(framework: str, fake: FakeVPS) -> None:
    async with serving(framework) as site, asking(site.port, LISTING) as reader:
        assert await reader.head() == 200
        body = b""
        for pages_read in range(10):
            await standstill(fake)
            assert fake.count() <= pages_read + AHEAD
            assert site.client().stats.running == 0  # who reads slowly holds no slot
            body += await reader.chunk()
        assert 10 <= fake.count() < PAGES
        body += await reader.body()
    assert fake.count() == PAGES
    assert body.count(b"\n") == 5 * PAGES


@each_framework
async def test_a_stalled_reader_that_leaves_leaves_nothing(framework: str, fake: FakeVPS) -> None:
    async with serving(framework) as site:
        async with asking(site.port, LISTING) as reader:
            assert await reader.head() == 200
            await reader.chunk()
            await standstill(fake)
            before = fake.count()
            gc.disable()  # it must not take that to end a body that a server drops unclosed
            try:
                await reader.leave()
                await standstill(fake)
                assert len(site.client()._lists._known.open_walks) == 0
            finally:
                gc.enable()
        assert fake.count() == before < PAGES
        assert site.client().stats.running == 0


@each_framework
async def test_a_client_that_leaves_cancels_the_page_that_is_under_way(
    framework: str, fake: FakeVPS
) -> None:
    fake.inject(Latency(3600, path="page=2"))
    async with serving(framework) as site:
        async with asking(site.port, LISTING) as reader:
            assert await reader.head() == 200
            await reader.chunk()
            await until(lambda: fake.count() == 2)
            assert site.client().stats.running == 1
            await reader.leave()
            await until(lambda: site.client().stats.running == 0)
        await standstill(fake)
        assert [seen.status for seen in fake.requests] == [200, None]
        gc.collect()  # the traceback of the cancellation had it still
        assert len(site.client()._lists._known.open_walks) == 0
        fake.clear_faults()
        assert (await answer(site.port, LISTING))[0] == 200  # none the worse for it


async def test_an_aiohttp_handler_that_is_not_cancelled_notices_at_its_next_write(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(0.3, path="page=2"))
    async with serving("aiohttp", handler_cancellation=False) as site:
        async with asking(site.port, LISTING) as reader:
            assert await reader.head() == 200
            await reader.chunk()
            await until(lambda: fake.count() == 2)
        await until(lambda: site.client().stats.running == 0)
        await standstill(fake)
        assert [seen.status for seen in fake.requests] == [200, 200]
        assert len(site.client()._lists._known.open_walks) == 0


@each_framework
async def test_two_hundred_handlers_share_the_gate(framework: str, fake: FakeVPS) -> None:
    fake.inject(Latency(0.2, times=64))
    async with serving(framework) as site:
        answers = await asyncio.gather(
            *(answer(site.port, "/servers/3/backups") for _ in range(200))
        )
        assert site.client().stats.running == 0
    assert answers == [(200, b"")] * 200
    assert fake.count(status=200) == len(fake.requests) == 200
    assert 2 <= fake.peak <= 64


@pytest.mark.parametrize("framework", ["fastapi", "aiohttp"])
async def test_what_fails_with_the_first_page_becomes_a_status(
    framework: str, fake: FakeVPS
) -> None:
    async with serving(framework) as site:
        fake.revoke()
        status, body = await answer(site.port, LISTING)
        assert status == 502
        assert "401" in json.loads(body)["detail"]
        assert fake.token not in body.decode()
        fake.allow()
        fake.inject(RateLimit(1000, times=1))
        status, body = await answer(site.port, LISTING)
        assert (status, "429" in json.loads(body)["detail"]) == (503, True)


@each_framework
async def test_a_page_that_fails_later_cuts_the_connection(
    framework: str, fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(ServerFault(503, path="page=3", retry_after=1000))
    async with serving(framework) as site, asking(site.port, LISTING) as reader:
        assert await reader.head() == 200
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.body()
    assert fake.count() == 3
    assert "The server is not available" in caplog.text
