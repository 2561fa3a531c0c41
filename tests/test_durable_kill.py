"""Durable runs whose workers are killed: every server has one outcome and at most one backup."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from helpers_durable import Workers, created, held_posts, looks, posts, relayed, until, workers_of
from helpers_postgres import Postgres

from vpsbackups_async import Retention
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.schema import items
from vpsbackups_async.testing import FakeVPS

SERVERS = 20
HELD = 7
ONE_EACH = dict.fromkeys(range(1, SERVERS + 1), 1)


async def assert_all_completed(fleet: DurableFleet, servers: int = SERVERS) -> None:
    progress = await fleet.progress("nightly")
    assert (progress.completed, progress.total) == (servers, servers)
    outcomes = [outcome async for outcome in fleet.results("nightly")]
    assert [outcome.server_id for outcome in outcomes] == list(range(1, servers + 1))
    assert all(outcome.ok and outcome.backup_id is not None for outcome in outcomes)


async def run_killed_while_it_posts(url: str, **options: object) -> Counter[int]:
    """What each server was given, where a worker was killed with creates on the wire, and waits."""
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        fake.inject(held_posts(HELD))
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        first = await workers.start(**options)
        await until(lambda: len(posts(fake)) == SERVERS and looks(fake) > 0)
        await first.kill()
        second = await workers.launch(**options)
        assert await second.slot() == 0
        assert await second.ended() == 0
        await assert_all_completed(fleet)
        return created(fake)


async def test_a_worker_killed_while_it_posts_and_waits_leaves_one_backup_for_each_server(
    durable_url: str,
) -> None:
    assert await run_killed_while_it_posts(durable_url) == ONE_EACH


@pytest.mark.durable
async def test_without_the_guard_a_killed_worker_would_leave_second_backups(
    durable_url: str,
) -> None:
    made = await run_killed_while_it_posts(durable_url, without_guard=True)
    assert made.total() >= SERVERS + HELD


@pytest.mark.durable
async def test_a_survivor_takes_over_what_a_killed_worker_leaves(durable_url: str) -> None:
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        fake.inject(held_posts(HELD))
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        first = await workers.start()
        await until(lambda: len(posts(fake)) == SERVERS)
        survivor = await workers.start(on_wire=2.0)
        await first.kill()
        assert await survivor.ended() == 0
        await assert_all_completed(fleet)
        assert created(fake) == ONE_EACH


@pytest.mark.durable
async def test_a_worker_killed_while_it_rotates_leaves_what_the_policy_keeps(
    durable_url: str,
) -> None:
    policy = Retention(last=3, job="nightly")
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        now = datetime.now(UTC) - timedelta(days=700)
        for server in range(1, SERVERS + 1):
            for day in range(5):
                fake.add_backup(
                    server,
                    description="[job:nightly]",
                    backup_type="manual",
                    created_at=now + timedelta(days=day),
                    size_mb=4000,
                )
        await fleet.submit("nightly", range(1, SERVERS + 1), rotate=policy)
        first = await workers.start()
        await until(lambda: fake.count("DELETE") >= HELD)
        await first.kill()
        second = await workers.launch()
        assert await second.ended() == 0
        await assert_all_completed(fleet)
        assert len(posts(fake)) == SERVERS
        assert created(fake) == dict.fromkeys(range(1, SERVERS + 1), 3)


_SUBMIT = """
import asyncio, sys, time
from vpsbackups_async.durable import DurableFleet

def servers():
    for server in range(1, 20_001):
        if server % 500 == 1:
            print(server, flush=True)
        yield server

async def main():
    async with DurableFleet(sys.argv[1]) as fleet:
        await fleet.submit("nightly", servers())

asyncio.run(main())
"""


@pytest.mark.durable
async def test_a_submit_that_was_killed_can_be_repeated(durable_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SUBMIT, durable_url), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    while int(await asyncio.wait_for(process.stdout.readline(), 20)) < 2000:
        pass
    process.kill()
    await process.communicate()
    async with DurableFleet(durable_url) as fleet:
        before = await fleet.progress("nightly")
        added = await fleet.submit("nightly", range(1, 2501))
        assert 0 < before.total < 20_000
        assert before.total + added == max(2500, before.total)
        assert (await fleet.progress("nightly")).waiting == max(2500, before.total)


@pytest.mark.durable
async def test_a_worker_killed_during_a_retry_leaves_one_more_backup_for_each_server(
    durable_url: str,
) -> None:
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        fake.fails = set(range(1, SERVERS + 1))
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        assert await (await workers.start()).ended() == 0
        assert (await fleet.progress("nightly")).failed == SERVERS
        fake.fails = set()
        fake.inject(held_posts(HELD))
        assert await fleet.retry("nightly") == SERVERS
        before = looks(fake)
        first = await workers.start()
        await until(lambda: len(posts(fake)) == 2 * SERVERS and looks(fake) > before)
        await first.kill()
        assert await (await workers.start()).ended() == 0
        await assert_all_completed(fleet)
        assert [one.retry async for one in fleet.results("nightly")] == [1] * SERVERS
        assert created(fake) == dict.fromkeys(range(1, SERVERS + 1), 2)


_RETRY = """
import asyncio, sys
from vpsbackups_async.durable import DurableFleet

async def main():
    async with DurableFleet(sys.argv[1]) as fleet:
        await fleet.retry("nightly")

asyncio.run(main())
"""


@pytest.mark.durable
async def test_a_retry_that_was_killed_can_be_repeated_and_takes_each_server_once(
    durable_url: str,
) -> None:
    count = 6000
    async with DurableFleet(durable_url) as fleet:
        await fleet.submit("nightly", range(1, count + 1))
        with contextlib.closing(Database(durable_url)) as database:
            failed = sa.update(items).values(state="failed")
            await database.run(lambda connection: connection.execute(failed))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _RETRY, durable_url)
            )
            async with asyncio.timeout(30):
                while not (await fleet.progress("nightly")).waiting:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
            left = (await fleet.progress("nightly")).failed
            assert 0 < left < count
            assert await fleet.retry("nightly") == left
            assert (await fleet.progress("nightly")).waiting == count
            retries = sa.select(items.c.retry).distinct()
            found = await database.run(lambda connection: connection.scalars(retries).all())
            assert found == [1]
            table = "workflow_status" if database.is_sqlite else "vpsbackups.workflow_status"
            queued = sa.text(
                f"SELECT count(*) FROM {table} "
                "WHERE status = 'ENQUEUED' AND workflow_uuid LIKE '%-1'"
            )
            assert await database.run(lambda connection: connection.scalar(queued)) == count


@pytest.mark.durable
async def test_a_worker_that_wakes_after_it_was_taken_over_creates_nothing(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    options = {"on_wire": 2.0, "rate": 10.0, "start_within": 1.0, "create_again_after": 1.0}
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        frozen = await workers.start(**options, until_done=False)
        await until(lambda: len(posts(fake)) >= HELD)
        frozen.signal(signal.SIGSTOP)
        # As the server does by itself after a silence of 30 seconds.
        await asyncio.to_thread(
            postgres.execute,
            "SELECT pg_terminate_backend(pid) FROM pg_locks "
            "WHERE locktype = 'advisory' AND classid = 1987081058 AND objid = 0",
            url.rpartition("/")[2],
        )
        survivor = await workers.start(**options)
        assert await survivor.ended() == 0
        frozen.signal(signal.SIGCONT)
        assert await frozen.ended() != 0
        await assert_all_completed(fleet)
        assert created(fake) == ONE_EACH


async def run_frozen_until_taken_over(url: str, **options: object) -> Counter[int]:
    """What each server was given, where a worker was frozen before the turns of some creates.

    It holds its slot all the while; another one ends the run, and then it wakes up.
    """
    limits = {"on_wire": 2.0, "rate": 10.0, "start_within": 1.0, "create_again_after": 1.0}
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        frozen = await workers.start(**limits, **options, until_done=False)
        await until(lambda: len(posts(fake)) >= HELD)
        await frozen.freeze(url)
        survivor = await workers.start(**limits, silent_looks=1)
        assert await survivor.ended() == 0
        await assert_all_completed(fleet)
        frozen.signal(signal.SIGCONT)
        assert await frozen.ended() != 0
        return created(fake)


@pytest.mark.durable
async def test_a_worker_that_is_frozen_is_taken_over_and_creates_nothing_once_it_wakes(
    durable_url: str,
) -> None:
    assert await run_frozen_until_taken_over(durable_url) == ONE_EACH


@pytest.mark.durable
async def test_without_the_end_of_its_window_a_frozen_worker_would_create_second_backups(
    durable_url: str,
) -> None:
    made = await run_frozen_until_taken_over(durable_url, without_window=True)
    assert made.total() > SERVERS


@pytest.mark.durable
async def test_a_worker_ends_whose_network_to_postgresql_swallows_all_and_nothing_is_made_twice(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    limits = {"on_wire": 2.0, "rate": 10.0, "start_within": 1.0, "create_again_after": 1.0}
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        relayed(url) as (far_url, swallow),
        workers_of(far_url, fake) as far_workers,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        far = await far_workers.start(**limits, answer_within=5.0)
        await until(lambda: len(posts(fake)) >= HELD)
        swallow()
        survivor = await workers.start(**limits, silent_looks=1)
        assert await far.ended() != 0  # though its network still swallows all
        assert await survivor.ended() == 0
        await assert_all_completed(fleet)
        assert created(fake) == ONE_EACH


async def supervised(workers: Workers, **options: object) -> None:
    """Start a worker again until it has done all, as a supervisor does."""
    while await (await workers.launch(**options)).ended():
        pass


@pytest.mark.durable
async def test_all_ends_though_postgresql_is_restarted_under_load(postgres: Postgres) -> None:
    url = postgres.new_database()
    servers = 60
    async with (
        FakeVPS(servers=servers, backups=0, backup_seconds=1.0) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        await fleet.submit("nightly", range(1, servers + 1), description="Nightly")
        work = [asyncio.create_task(supervised(workers, rate=20.0)) for _ in range(2)]
        await until(lambda: len(posts(fake)) >= HELD)
        await asyncio.to_thread(postgres.restart)
        await asyncio.wait_for(asyncio.gather(*work), 50)
        await assert_all_completed(fleet, servers)
        assert created(fake) == dict.fromkeys(range(1, servers + 1), 1)
