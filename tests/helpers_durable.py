"""Workers of durable runs as processes of their own, and what a fake server saw of them."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from yarl import URL

from vpsbackups_async.testing import FakeVPS, Latency

_WORKER = """
import asyncio, json, sys
from vpsbackups_async import RetryPolicy
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import DurableFleet, Limits
from vpsbackups_async.durable import api, guard, worker

options = json.loads(sys.argv[2])

async def nothing(*_):
    return None

if options.pop("without_guard", False):
    guard.Guard.find = nothing
if options.pop("without_window", False):
    guard._Window.is_over = lambda self: False
if "on_wire" in options:  # for how long creates of others are waited out; no request ends by it
    api.WorkerClient.attempt_seconds = options.pop("on_wire")
worker._SILENT_LOOKS = options.pop("silent_looks", worker._SILENT_LOOKS)
worker._STRAY_LOOKS = options.pop("stray_looks", worker._STRAY_LOOKS)
worker._ANSWER_WITHIN = options.pop("answer_within", worker._ANSWER_WITHIN)

async def main():
    until_done = options.pop("until_done", True)
    client = {"retry": RetryPolicy(create_grace=1.0)}
    limits = Limits(backoff=ConstantBackoff(0.2), **options)
    async with DurableFleet(sys.argv[1], client_options=client, limits=limits) as fleet:
        await fleet.work(until_done=until_done, on_start=lambda slot: print(slot, flush=True))

asyncio.run(main())
"""


def _is_writable(url: str) -> bool:
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


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

    async def freeze(self, url: str) -> None:
        """Stop it, while it does not write: a SQLite file would be locked for all others then."""
        while True:
            self.signal(signal.SIGSTOP)
            await asyncio.to_thread(os.waitid, os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
            if not url.startswith("sqlite") or _is_writable(url):
                return
            self.signal(signal.SIGCONT)
            await asyncio.sleep(0.01)

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


_RELAY = """
import asyncio, sys

async def pipe(source, target):
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()

async def serve(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    both = (pipe(reader, there[1]), pipe(there[0], writer))
    await asyncio.gather(*both, return_exceptions=True)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """The URL of a database behind a relay, and what makes that swallow all from then on."""
    parts = URL(url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _RELAY, str(parts.port)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 30))
        yield str(parts.with_port(port)), lambda: process.send_signal(signal.SIGSTOP)
    finally:
        process.kill()
        await process.communicate()


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
