"""Durable runs whose workers lose their slots, and entries on which nobody works: all ends."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from helpers_durable import created, posts, until, workers_of
from helpers_postgres import Postgres
from yarl import URL

from vpsbackups_async.durable import BackupTask, DurableFleet
from vpsbackups_async.durable.database import SCHEMA, Database
from vpsbackups_async.durable.engine import EngineClient, Entry, migrate
from vpsbackups_async.durable.schema import create_tables, items
from vpsbackups_async.durable.store import Store
from vpsbackups_async.testing import FakeVPS, Latency

SERVERS = 40
BEGUN = 4
LIMITS = {
    "on_wire": 2.0,
    "rate": 4.0,
    "start_within": 1.0,
    "create_again_after": 1.0,
    "stray_looks": 1,
}
SLOW_REPLIES = Latency(6.0, method="POST", path="/backups/", when="after")
"""Creates are carried out at once, and are on the wire for as long as this."""
ENTRIES = sa.Table(
    "workflow_status",
    sa.MetaData(schema=SCHEMA),
    *(sa.Column(name, sa.Text) for name in ("workflow_uuid", "status", "executor_id")),
)
"""What the engine keeps of each entry."""


def lose_slots(url: str) -> None:
    """Have all workers lose what tells that they hold their slots."""
    if url.startswith("sqlite"):
        path = Path(URL(url).path)
        for file in path.parent.glob(f"{path.name}.slot-*"):
            file.unlink()
        return
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'vpsbackups slot'"
        )


async def assert_one_backup_each(fleet: DurableFleet, fake: FakeVPS, servers: int) -> None:
    progress = await fleet.progress("nightly")
    assert (progress.completed, progress.total) == (servers, servers)
    assert created(fake) == dict.fromkeys(range(1, servers + 1), 1)


async def submit_as_begun(url: str, servers: Iterable[int], slot: int) -> None:
    """Submit a run whose servers the engine takes for handed out to the worker of the slot."""
    with contextlib.closing(Database(url)) as database:
        engine = EngineClient(database)

        def enqueue(connection: sa.Connection, entries: Iterable[Entry]) -> None:
            entries = list(entries)
            engine.enqueue(connection, entries)
            begun = sa.update(ENTRIES).values(status="PENDING", executor_id=f"slot-{slot}")
            ids = [entry.id for entry in entries]
            connection.execute(begun.where(ENTRIES.c.workflow_uuid.in_(ids)))

        await Store(database).submit("nightly", BackupTask(None, None), list(servers), enqueue)


async def all_ends_though(url: str, lose: Callable[[], None]) -> None:
    """Have a worker lose its slot to another one while it has creates on the wire."""
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        fake.inject(SLOW_REPLIES)
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        first = await workers.start(**LIMITS, until_done=False)
        await until(lambda: len(posts(fake)) >= BEGUN)
        await asyncio.to_thread(lose)
        second = await workers.launch(**LIMITS)
        assert await second.slot() == 0
        assert await first.ended() != 0
        assert await second.ended(60) == 0
        await assert_one_backup_each(fleet, fake, SERVERS)


@pytest.mark.durable
async def test_all_ends_where_another_worker_takes_the_slot_of_one_that_goes_on_posting(
    durable_url: str,
) -> None:
    await all_ends_though(durable_url, partial(lose_slots, durable_url))


@pytest.mark.durable
async def test_all_ends_though_postgresql_is_restarted_while_creates_are_on_the_wire(
    postgres: Postgres,
) -> None:
    await all_ends_though(postgres.new_database(), postgres.restart)


@pytest.mark.durable
@pytest.mark.parametrize("slot", [0, 1])
async def test_what_was_handed_out_and_nobody_works_on_is_handed_out_again(
    durable_url: str, slot: int
) -> None:
    """Its own slot's, as where the engine got no answer; and one's that leaves no other trace."""
    async with (
        FakeVPS(servers=BEGUN, backups=0, backup_seconds=0.5) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        worker = await workers.start(stray_looks=1, until_done=False)
        await submit_as_begun(durable_url, range(1, BEGUN + 1), slot)
        async with asyncio.timeout(30):
            while not (await fleet.progress("nightly")).is_over:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await assert_one_backup_each(fleet, fake, BEGUN)
        worker.signal(signal.SIGTERM)
        assert await worker.ended() == 0


@pytest.mark.durable
async def test_a_server_is_gone_on_with_whose_worker_was_superseded_by_one_that_ended(
    durable_url: str,
) -> None:
    async with (
        FakeVPS(servers=1, backups=0, backup_seconds=3.0) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        await fleet.submit("nightly", [1])
        worker = await workers.start(stray_looks=1)
        await until(lambda: len(posts(fake)) == 1)
        with contextlib.closing(Database(durable_url)) as database:
            late = sa.update(items).where(items.c.state == "running").values(owner="late")
            async with asyncio.timeout(10):
                while not (  # noqa: ASYNC110
                    await database.run(lambda connection: connection.execute(late).rowcount)
                ):
                    await asyncio.sleep(0.01)
        assert await worker.ended() == 0
        await assert_one_backup_each(fleet, fake, 1)


@pytest.mark.durable
async def test_a_worker_that_ends_takes_nothing_more_while_its_creates_are_on_the_wire(
    durable_url: str,
) -> None:
    async with (
        FakeVPS(servers=10, backups=0, backup_seconds=0.5) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        fake.inject(SLOW_REPLIES)
        await fleet.submit("nightly", [1])
        worker = await workers.start(until_done=False)
        await until(lambda: len(posts(fake)) == 1)
        worker.signal(signal.SIGTERM)
        await asyncio.sleep(1.0)  # what it was asking for is answered by then
        await fleet.submit("later", range(2, 11))
        assert await worker.ended() == 0
        queued = sa.select(sa.func.count()).where(ENTRIES.c.status == "ENQUEUED")
        with contextlib.closing(Database(durable_url)) as database:
            assert await database.run(lambda connection: connection.scalar(queued)) == 9


async def test_what_a_dead_worker_left_is_seen_beside_any_number_of_entries_of_another(
    durable_url: str,
) -> None:
    with contextlib.closing(Database(durable_url)) as database:
        create_tables(database)
        migrate(database)
        await submit_as_begun(durable_url, range(1, 1101), 1)
        await submit_as_begun(durable_url, [1101], 2)
        engine = EngineClient(database)
        left = await database.run(lambda connection: engine.left_behind(connection, [1, 2, 3]))
        assert left == {1, 2}
