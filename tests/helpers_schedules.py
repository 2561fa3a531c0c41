"""Schedules of durable runs in tests: nights that are due, a worker, and a monitor."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from dbos import DBOSClient, DBOSPortableJSONSerializer, EnqueueOptions

from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import DurableFleet, Limits
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.schema import VERSION
from vpsbackups_async.testing import FakeVPS


def fleet_on(file: Path, fake: FakeVPS) -> DurableFleet:
    return DurableFleet(
        f"sqlite:///{file}",
        client_options={"token": fake.token, "base_url": fake.url},
        limits=Limits(backoff=ConstantBackoff(0.1)),
    )


def execute(file: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(statement, values)
        connection.commit()


def fired_at(file: Path, when: datetime) -> None:
    """Let the database look as if the schedule was last due then, and nothing ran since."""
    execute(file, "UPDATE workflow_schedules SET last_fired_at = ?", when.isoformat())


@contextlib.asynccontextmanager
async def working(fleet: DurableFleet) -> AsyncIterator[None]:
    """A worker during the block."""
    begun: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    work = asyncio.create_task(fleet.work(on_start=begun.set_result))
    try:
        await asyncio.wait([begun, work], timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert begun.done(), work
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def until_over(fleet: DurableFleet, count: int = 1) -> list[str]:
    """The names of all runs, once there are so many and all are over."""
    async with asyncio.timeout(60):
        while True:
            names = [info.run for info in await fleet.runs()]
            over = [(await fleet.progress(name)).is_over for name in names]
            if len(names) >= count and all(over):
                return names
            await asyncio.sleep(0.1)


@contextlib.contextmanager
def monitor(hold: Callable[[], object] = lambda: None) -> Any:
    """A monitor that holds each answer so, and what it was told: paths and texts."""
    told: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, body.decode()))
            hold()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/check", told
        finally:
            server.shutdown()
            thread.join()


async def hand_out(file: Path, at: datetime, context: Mapping[str, Any]) -> None:
    """Have a worker do the night of this time, as again after another one was killed."""
    database = Database(f"sqlite:///{file}")
    engine = DBOSClient(
        system_database_engine=database.engine,
        serializer=DBOSPortableJSONSerializer(),
        application_name="vpsbackups",
    )
    options: EnqueueOptions = {
        "workflow_name": "vpsbackups.night",
        "queue_name": "vpsbackups-resumed",
        "workflow_id": at.isoformat(),
        "app_version": f"vpsbackups-{VERSION}",
    }
    night = await engine.enqueue_async(options, at.isoformat(), dict(context))
    await night.get_result()
    await asyncio.to_thread(engine.destroy)
    await asyncio.to_thread(database.close)
