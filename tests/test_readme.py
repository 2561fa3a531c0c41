"""The README's code runs as it stands there."""

import ast
import asyncio
import inspect
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
APPS = [block for block in BLOCKS if re.search(r"^app = ", block, re.MULTILINE)]
SCRIPTS = [block for block in BLOCKS if "asyncio.run(" in block]
SNIPPETS = [block for block in BLOCKS if block not in APPS + SCRIPTS]


async def run(block: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run a block in which `await` stands outside of a function, as in `python -m asyncio`."""
    code = compile(block, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)
    if inspect.isawaitable(running):
        await running
    return names


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    servers = {number: f"web-server-{number}" for number in (12345, 12346, 12347)}
    async with FakeVPS(servers=servers, backups=2, backup_seconds=60) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        server.add_backup(12345, description="Before the update")
        yield server


def test_the_readme_has_code_of_each_kind() -> None:
    assert (len(SCRIPTS), len(APPS)) == (1, 2)
    assert len(SNIPPETS) >= 9


async def test_the_first_script_lists_manual_backups(fake: FakeVPS) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", SCRIPTS[0], env=dict(os.environ), stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.split() == [b"7", b"web-server-12345", b"completed", b"4049"]


@pytest.mark.looptime
async def test_the_snippets_run_in_their_order(fake: FakeVPS) -> None:
    async with BackupsClient() as client:
        names: dict[str, Any] = {"client": client, "BackupsClient": BackupsClient}
        for snippet in SNIPPETS:
            await run(snippet, names)
    assert fake.count("POST", "restore") == 1
    assert fake.count("DELETE", status=204) == 1


async def served_count(port: int) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/servers/12345/backups/count") as response,
    ):
        return await response.json()


async def test_the_aiohttp_recipe_serves_from_one_client(fake: FakeVPS) -> None:
    names = await run(APPS[0], {"__name__": "recipe"})
    runner = web.AppRunner(names["app"])
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        assert await served_count(runner.addresses[0][1]) == {"count": 3}
    finally:
        await runner.cleanup()


async def test_the_fastapi_recipe_serves_from_one_client(fake: FakeVPS) -> None:
    uvicorn = pytest.importorskip("uvicorn", reason="uvicorn comes with the dev extra")
    pytest.importorskip("fastapi", reason="fastapi comes with the dev extra")
    names = await run(APPS[1], {"__name__": "recipe"})
    server = uvicorn.Server(
        uvicorn.Config(names["app"], port=0, log_config=None, lifespan="on", ws="none")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():  # noqa: ASYNC110  # it has no event to wait for
        await asyncio.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        assert await served_count(port) == {"count": 3}
    finally:
        server.should_exit = True
        await serving
