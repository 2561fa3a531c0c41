"""Durable runs whose workers are killed: every server has one outcome and at most one backup."""

from collections import Counter

from helpers_durable import created, held_posts, posts, until, workers_of

from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.testing import FakeVPS

SERVERS = 20
HELD = 7


async def run_killed_while_it_posts(
    url: str, *, survivor: bool = False, **options: object
) -> Counter[int]:
    """What each server was given, where a worker was killed with creates on the wire."""
    async with (
        FakeVPS(servers=SERVERS, backups=0, backup_seconds=0.5) as fake,
        workers_of(url, fake) as workers,
        DurableFleet(url) as fleet,
    ):
        fake.inject(held_posts(HELD))
        await fleet.submit("nightly", range(1, SERVERS + 1), description="Nightly")
        first = await workers.start(**options)
        others = await workers.start(**options) if survivor else None
        await until(lambda: len(posts(fake)) == SERVERS)
        await first.kill()
        second = others or await workers.launch(**options)
        assert await second.ended() == 0
        progress = await fleet.progress("nightly")
        assert (progress.completed, progress.total) == (SERVERS, SERVERS)
        outcomes = [outcome async for outcome in fleet.results("nightly")]
        assert [outcome.server_id for outcome in outcomes] == list(range(1, SERVERS + 1))
        assert all(outcome.ok for outcome in outcomes)
        return created(fake)


async def test_a_worker_killed_while_it_posts_leaves_one_backup_for_each_server(
    durable_url: str,
) -> None:
    made = await run_killed_while_it_posts(durable_url)
    assert made == dict.fromkeys(range(1, SERVERS + 1), 1)


async def test_without_the_guard_a_killed_worker_would_leave_second_backups(
    durable_url: str,
) -> None:
    made = await run_killed_while_it_posts(durable_url, without_guard=True)
    assert made.total() == SERVERS + HELD
