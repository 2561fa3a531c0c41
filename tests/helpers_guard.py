"""A run with one server, and the guard of its creates, as two processes have them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from vpsbackups_async import Backup, RetryPolicy
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry, migrate
from vpsbackups_async.durable.guard import Guard
from vpsbackups_async.durable.items import Item, Items, Run
from vpsbackups_async.durable.schema import create_tables
from vpsbackups_async.durable.store import Store
from vpsbackups_async.durable.values import BackupTask, ItemState, Limits, RunOutcome
from vpsbackups_async.testing import FakeVPS

SERVER = 1
ON_WIRE = 0.4
"""For how many seconds a create that another process began may be on the wire; none ever is."""
LIMITS = Limits(start_within=0.2, create_again_after=0.2, unknown_for=0.4)
PATIENT = evolve(LIMITS, unknown_for=30.0)


class WaitingClient(WorkerClient):
    """Waits out the creates of others for less long than its own requests may take.

    So no request times out on a busy machine, and none is waited out for half a minute.
    """

    attempt_seconds = ON_WIRE


@frozen
class Setting:
    """A run with one server, and what guards its creates."""

    database: Database
    store: Store
    items: Items
    run: Run
    client: WorkerClient
    limits: Limits

    def guard(self, *, stopped: bool = False) -> Guard:
        stop = asyncio.Event()
        if stopped:
            stop.set()
        return Guard(self.client, self.items, self.limits, stop)

    async def claimed(self, retry: int = 0) -> Item:
        """The item, as a process has it that takes it over from whoever had it."""
        item = await self.items.claim(Entry(self.run.nonce, SERVER, retry))
        assert item is not None
        return item

    async def begun(self) -> tuple[Item, Backup]:
        """A create that was sent by a process which died before it could note the reply."""
        item = await self.claimed()
        await self.items.intend(item, self.limits.start_within, 1)
        made = await self.client.begin(SERVER, "Nightly", item.marker, is_too_late=lambda: False)
        return item, made

    async def retried(self, state: ItemState, error: str | None = None) -> Item:
        """The item after it ended so and was submitted again."""
        item = await self.claimed()
        await self.items.end(item, RunOutcome(self.run.name, SERVER, state, error=error))
        await self.store.retry(self.run, state, -1, lambda _, __: None)
        return await self.claimed(1)


@asynccontextmanager
async def setting(
    tmp_path: Path, fake: FakeVPS, limits: Limits = LIMITS, **options: Any
) -> AsyncIterator[Setting]:
    database = Database(f"sqlite:///{tmp_path / 'runs.sqlite'}")
    create_tables(database)
    migrate(database)
    store, items = Store(database), Items(database)
    run, _ = await store.submit("nightly", BackupTask("Nightly"), [SERVER], lambda _, __: None)
    retry = RetryPolicy(create_grace=0.1)
    try:
        async with WaitingClient(fake.token, base_url=fake.url, retry=retry, **options) as client:
            yield Setting(database, store, items, run, client, limits)
    finally:
        database.close()
