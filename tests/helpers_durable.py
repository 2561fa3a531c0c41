"""Workers of durable runs as processes of their own, and what a fake server saw of them."""

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from vpsbackups_async.testing import FakeVPS, Latency

_WORKER = """
import asyncio, json, sys
from vpsbackups_async import RetryPolicy, Timeouts
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import DurableFleet, Limits
from vpsbackups_async.durable.guard import Guard

options = json.loads(sys.argv[2])

async def nothing(*_):
    return None

if options.pop("without_guard", False):
    Guard.find = nothing

async def main():
    until_done = options.pop("until_done", True)
    timeouts = Timeouts(attempt=options.pop("attempt", 30.0))
    client = {"timeouts": timeouts, "retry": RetryPolicy(create_grace=1.0)}
    limits = Limits(backoff=ConstantBackoff(0.2), **options)
    async with DurableFleet(sys.argv[1], client_options=client, limits=limits) as fleet:
        await fleet.work(until_done=until_done, on_start=lambda slot: print(slot, flush=True))

asyncio.run(main())
"""


class WorkerProcess:
    """A process that works on the runs of a database."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def slot(self) -> int:
        """The number of its slot, once it has begun to work."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line, "the worker did not start"
        return int(line)

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self, within: float = 40) -> int:
        """Its exit code, once it has ended by itself."""
        return await asyncio.wait_for(self._process.wait(), within)


class Workers:
    """Starts workers against a fake server, and kills those that are left at the end."""

    def __init__(self, url: str, fake: FakeVPS) -> None:
        self._url = url
        self._fake = fake
        self._started: list[WorkerProcess] = []

    async def start(self, **options: Any) -> WorkerProcess:
        """A worker that has its slot."""
        worker = await self.launch(**options)
        await worker.slot()
        return worker

    async def launch(self, **options: Any) -> WorkerProcess:
        """A worker that was started, and may not have begun."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", _WORKER, self._url, json.dumps(options)),
            env=os.environ | {"VPS_API_TOKEN": self._fake.token, "VPS_API_URL": self._fake.url},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
        )
        worker = WorkerProcess(process)
        self._started.append(worker)
        return worker

    async def end(self) -> None:
        for worker in self._started:
            if worker._process.returncode is None:
                await worker.kill()


@asynccontextmanager
async def workers_of(url: str, fake: FakeVPS) -> AsyncIterator[Workers]:
    workers = Workers(url, fake)
    try:
        yield workers
    finally:
        await workers.end()


def held_posts(count: int) -> Latency:
    """So many creates are carried out, and their replies are held back for good."""
    return Latency(3600.0, method="POST", path="/backups/", times=count, when="after")


def posts(fake: FakeVPS) -> list[int]:
    """The servers of the creates that the server received, in their order."""
    return [
        json.loads(seen.body)["server_id"]
        for seen in fake.requests
        if seen.method == "POST" and seen.path.endswith("/backups/")
    ]


def looks(fake: FakeVPS) -> int:
    """How often a list of backups was asked for."""
    return sum(seen.method == "GET" and seen.path.endswith("/backups/") for seen in fake.requests)


def created(fake: FakeVPS) -> Counter[int]:
    """How many manual backups each server was given."""
    return Counter(
        backup["server"]["id"] for backup in fake.backups if backup["backup_type"] == "manual"
    )


async def until(holds: Callable[[], bool], within: float = 30) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110  # the server tells nobody
            await asyncio.sleep(0.02)
