"""The Django recipe, in a process of its own: its settings are for one application and for ever."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from helpers_web import answer, asking, listening_socket, recipe, until

from vpsbackups_async.testing import FakeVPS, Latency

LISTING = "/servers/1/backups"
PAGES = 20
DESCRIPTION = "x" * 20_000
A_PAGE = 5 * len(DESCRIPTION)
"""Bytes, and a little more."""
AHEAD = 5

# A view for what the recipe does not show, and a log that says what the library has to say.
MORE = """
import logging

from django.http import HttpResponse

logging.basicConfig(filename="log", level=logging.INFO)


async def create(request, server_id):
    backup = await backups.create(server_id)
    return HttpResponse(str(backup.id))


urlpatterns.append(path("create/<int:server_id>", create))
"""


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    backups = [{"server_id": 1, "description": DESCRIPTION} for _ in range(5 * PAGES)]
    async with FakeVPS(servers=3, backups=backups, page_size=5) as server:
        yield server


@asynccontextmanager
async def serving(fake: FakeVPS, folder: Path) -> AsyncIterator[int]:
    """The port of the recipe under uvicorn, which must end cleanly and say nothing."""
    pytest.importorskip("uvicorn", reason="uvicorn comes with the dev group")
    (folder / "recipe.py").write_text(recipe("django") + MORE, "utf-8")
    command = [sys.executable, "-W", "error", "-X", "dev", "-m", "uvicorn", "recipe:app"]
    with listening_socket() as sock:
        process = await asyncio.create_subprocess_exec(
            *(*command, "--fd", str(sock.fileno()), "--lifespan", "on", "--log-level", "warning"),
            pass_fds=[sock.fileno()],
            cwd=folder,
            env={**os.environ, "VPS_API_TOKEN": fake.token, "VPS_API_URL": fake.url},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield sock.getsockname()[1]
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            killing = asyncio.get_running_loop().call_later(60, process.kill)
            output, _ = await process.communicate()
            killing.cancel()
    assert (process.returncode, output.decode()) in {(0, ""), (-signal.SIGTERM, "")}


async def test_a_listing_comes_whole_and_the_process_ends_cleanly(
    fake: FakeVPS, tmp_path: Path
) -> None:
    async with serving(fake, tmp_path) as port:
        status, body = await answer(port, LISTING)
        assert status == 200
        assert [json.loads(line) for line in body.splitlines()] == fake.backups[::-1]
        assert fake.count() == PAGES
        assert await answer(port, "/servers/2/backups") == (200, b"")


async def test_a_slow_reader_holds_the_listing_back_and_one_that_leaves_ends_it(
    fake: FakeVPS, tmp_path: Path
) -> None:
    async with serving(fake, tmp_path) as port:

        async def others() -> None:
            """Whole answers to others: the event loop over there has had many turns."""
            for _ in range(10):
                assert (await answer(port, "/servers/2/backups"))[0] == 200

        def pages() -> int:
            return fake.count(path="server_id=1")

        async with asking(port, LISTING) as reader:
            assert await reader.head() == 200
            read = 0  # bytes: Django cuts a page into chunks of 64 KB
            for _ in range(8):
                await others()
                assert pages() <= read / A_PAGE + AHEAD
                read += len(await reader.chunk())
            await others()
            before = pages()
            assert read // A_PAGE <= before < PAGES
        await others()
        left = pages()
        assert left <= before + 1  # one may have been on its way
        await others()
        assert pages() == left


async def test_a_client_that_leaves_cancels_what_is_under_way_and_loses_no_create(
    fake: FakeVPS, tmp_path: Path
) -> None:
    fake.inject(Latency(3600, path="page=2"), Latency(1, method="POST"))
    async with serving(fake, tmp_path) as port:
        async with asking(port, LISTING) as reader:
            assert await reader.head() == 200
            await until(lambda: fake.count(path="page=2"))
        async with asking(port, "/create/3"):
            await until(lambda: fake.count("POST"))
        assert (await answer(port, "/servers/2/backups"))[0] == 200
    assert fake.count(path="server_id=1") == 2
    assert fake.count("POST", status=201) == fake.count("POST") == 1
    made = fake.backups[-1]["id"]
    logged = (tmp_path / "log").read_text("utf-8")
    assert f"vpsbackups-create-3, whose caller was cancelled, made backup {made}" in logged
