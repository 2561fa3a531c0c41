"""The client against gunicorn that recycles its workers."""

import sys
from pathlib import Path

import pytest
from helpers_peers import Calls, Record, Start
from helpers_redis import free_port

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

pytestmark = pytest.mark.peers

HERE = str(Path(__file__).parent)


def origin_address(origin: FakeVPS) -> str:
    return origin.url.removeprefix("http://")


def recycled_workers(log: Path) -> int:
    return log.read_text().count("Autorestarting worker")


@pytest.mark.parametrize("worker", ["sync", "gthread"])
async def test_recycled_workers_of_gunicorn_lose_no_call(
    start: Start, log: Path, origin: FakeVPS, worker: str, record: Record
) -> None:
    pytest.importorskip("gunicorn", reason="gunicorn comes with the dev group")
    port = free_port()
    options = f"--bind 127.0.0.1:{port} --workers 2 --threads {1 if worker == 'sync' else 8}"
    recycle = "--max-requests 20 --max-requests-jitter 10 --keep-alive 2"
    command = [sys.executable, "-m", "gunicorn", "--worker-class", worker, "--chdir", HERE]
    command += [*options.split(), *recycle.split(), "helpers_forwarding:wsgi"]
    await start(command, port, ORIGIN=origin_address(origin))
    calls = Calls(origin, lists=150, creates=150, deletes=50, restores=50)
    url = f"http://127.0.0.1:{port}"
    async with BackupsClient(origin.token, base_url=url) as client:
        tally = await calls.play(client, together=24)
    recycled = recycled_workers(log)
    record(f"{tally}, {recycled} workers recycled")
    assert recycled > 5
    assert not tally.problems
