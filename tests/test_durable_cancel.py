"""Durable runs that are cancelled: nothing more is sent, and what may have been is told."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen
from helpers_durable import looks, posts, until

from vpsbackups_async import (
    BackupDisappearedError,
    CreateOutcomeUnknownError,
    Retention,
    RetryPolicy,
)
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import DurableFleet, ItemState, Limits, RunOutcome
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.items import Item, Items, SupersededError
from vpsbackups_async.durable.store import Store
from vpsbackups_async.testing import FakeVPS, ServerFault

LIMITS = Limits(
    backoff=ConstantBackoff(0.05), start_within=0.2, create_again_after=0.2, unknown_for=0.4
)
PATIENT = evolve(LIMITS, start_within=10.0, unknown_for=30.0)
RUN = "nightly"


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=40, backups=0, backup_seconds=0.05, clock=time.time) as fake:
        yield fake


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


def fleet_on(url: str, fake: FakeVPS, limits: Limits = LIMITS) -> DurableFleet:
    client = {
        "token": fake.token,
        "base_url": fake.url,
        "retry": RetryPolicy(create_grace=0.1),
    }
    return DurableFleet(url, client_options=client, limits=limits)


@frozen
class Hands:
    """What a worker does to the servers of the run, step by step."""

    items: Items
    nonce: str

    async def claim(self, server: int, retry: int = 0) -> Item:
        item = await self.items.claim(Entry(self.nonce, server, retry))
        assert item is not None
        return item

    async def intend(self, item: Item, start_within: float = LIMITS.start_within) -> None:
        await self.items.intend(item, start_within, 1)


@asynccontextmanager
async def hands_on(url: str) -> AsyncIterator[Hands]:
    database = Database(url)
    try:
        yield Hands(Items(database), (await Store(database).find(RUN)).nonce)
    finally:
        database.close()


async def outcome_of(fleet: DurableFleet) -> RunOutcome:
    (outcome,) = [one async for one in fleet.results(RUN)]
    return outcome


async def test_servers_that_wait_for_their_turn_are_cancelled_and_never_sent(
    url: str, real_fake: FakeVPS
) -> None:
    slow = evolve(LIMITS, rate=5.0)
    async with fleet_on(url, real_fake, slow) as fleet, fleet_on(url, real_fake) as other:
        await other.submit(RUN, range(1, 41))
        working = asyncio.create_task(fleet.work(until_done=True))
        await until(lambda: len(posts(real_fake)) >= 12)
        cancelled = await other.cancel(RUN)
        sent = len(posts(real_fake))
        await asyncio.wait_for(working, 30)
        progress = await other.progress(RUN)
    # What missed the turn that it had then was given no other one.
    assert progress.cancelled >= cancelled > 0
    assert progress.completed == 40 - progress.cancelled == len(posts(real_fake))
    assert len(posts(real_fake)) <= sent + 6  # the turns of a second are given ahead


@pytest.mark.durable
async def test_a_worker_learns_of_a_cancel_while_a_create_waits_for_its_turn(
    url: str, real_fake: FakeVPS
) -> None:
    slow = evolve(LIMITS, rate=0.25)
    async with fleet_on(url, real_fake, slow) as fleet, fleet_on(url, real_fake) as other:
        await other.submit(RUN, [1, 2])
        working = asyncio.create_task(fleet.work(until_done=True))
        await until(lambda: len(posts(real_fake)) == 1)
        await asyncio.sleep(0.5)  # the other one is intended, for a turn in four seconds
        await other.cancel(RUN)
        await asyncio.wait_for(working, 30)
        progress = await other.progress(RUN)
    assert (progress.completed, progress.cancelled) == (1, 1)
    assert len(posts(real_fake)) == 1


async def test_a_server_that_was_taken_and_not_begun_waits_and_is_cancelled(
    durable_url: str,
) -> None:
    async with DurableFleet(durable_url) as fleet:
        await fleet.submit(RUN, [1])
        async with hands_on(durable_url) as hands:
            item = await hands.claim(1)
            assert (await fleet.progress(RUN)).waiting == 1
            assert await fleet.cancel(RUN) == 1
            with pytest.raises(SupersededError):
                await hands.intend(item)
        assert (await outcome_of(fleet)).state is ItemState.CANCELLED


async def test_a_server_whose_create_may_be_on_the_wire_is_not_cancelled(url: str) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit(RUN, [1, 2])
        async with hands_on(url) as hands:
            await hands.intend(await hands.claim(1))
            await hands.items.note_started(await hands.claim(2), 7)
        assert await fleet.cancel(RUN) == 0
        assert (await fleet.progress(RUN)).running == 2


async def test_a_rotation_that_may_have_made_room_is_not_cancelled(url: str) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit(RUN, [1], rotate=Retention(last=1, job="a"), make_room=True)
        async with hands_on(url) as hands:
            item = await hands.claim(1)
            assert await fleet.cancel(RUN) == 0
            assert (await fleet.progress(RUN)).running == 1
            await hands.intend(item)


async def test_a_create_of_a_dead_worker_that_was_never_sent_is_not_sent_after_the_cancel(
    durable_url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(durable_url, real_fake, evolve(LIMITS, unknown_for=30.0)) as fleet:
        await fleet.submit(RUN, [1])
        async with hands_on(durable_url) as hands:
            await hands.items.note_markers()
            # So long ago that it cannot be on the wire any more.
            await hands.intend(await hands.claim(1), -3600.0)
        assert await fleet.cancel(RUN) == 0
        await fleet.work(until_done=True)
        assert (await outcome_of(fleet)).state is ItemState.CANCELLED
    assert posts(real_fake) == []


async def test_what_is_retried_after_a_cancel_is_sent(url: str, real_fake: FakeVPS) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit(RUN, [1, 99])
        await fleet.work(until_done=True)
        await fleet.cancel(RUN)
        real_fake.add_server(99)
        assert await fleet.retry(RUN) == 1
        await fleet.work(until_done=True)
        assert (await fleet.progress(RUN)).completed == 2


async def test_an_unknown_outcome_whose_retry_is_cancelled_is_unknown_with_what_was_known(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.inject(ServerFault(504, method="POST"))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit(RUN, [1])
        await fleet.work(until_done=True)
        before = await outcome_of(fleet)
        assert before.error == CreateOutcomeUnknownError.__name__
        assert await fleet.retry(RUN, "unknown") == 1
        assert await fleet.cancel(RUN) == 1
        assert await outcome_of(fleet) == evolve(before, retry=1)


async def test_a_timeout_whose_retry_is_cancelled_is_a_timeout_and_is_waited_for_by_the_next(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.backup_seconds = 3600.0
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit(RUN, [1])
        async with fleet_on(url, real_fake, evolve(LIMITS, wait_timeout=0.3)) as hasty:
            await hasty.work(until_done=True)
        before = await outcome_of(fleet)
        assert await fleet.retry(RUN) == 1
        assert await fleet.cancel(RUN) == 1
        assert await outcome_of(fleet) == evolve(before, retry=1)
        assert before.backup_id is not None
        real_fake.finish(before.backup_id)
        assert await fleet.retry(RUN) == 1
        await fleet.work(until_done=True)
        assert (await outcome_of(fleet)).ok
    assert posts(real_fake) == [1]


# --- After a 503 ---------------------------------------------------------------------------------


def not_handled(**options: Any) -> ServerFault:
    """A 503 to a create, once, after which it is sent again in a second."""
    return ServerFault(503, method="POST", times=1, retry_after=1.0, **options)


async def cancelled_after_503(fleet: DurableFleet, fake: FakeVPS, fault: ServerFault) -> RunOutcome:
    """The outcome of a server whose run is cancelled once its create was answered so."""
    fake.inject(fault)
    working = asyncio.create_task(fleet.work(until_done=True))
    await until(lambda: len(posts(fake)) == 1)
    await asyncio.sleep(0.3)
    await fleet.cancel(RUN)
    await asyncio.wait_for(working, 30)
    return await outcome_of(fleet)


async def test_a_create_is_not_sent_again_after_a_503_once_its_run_is_cancelled(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake, PATIENT) as fleet:
        await fleet.submit(RUN, [1])
        outcome = await cancelled_after_503(fleet, real_fake, not_handled())
    assert outcome.state is ItemState.CANCELLED
    assert posts(real_fake) == [1]


async def test_a_rotation_that_may_have_made_room_is_sent_again_after_a_503_and_a_cancel(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake, PATIENT) as fleet:
        await fleet.submit(RUN, [1], rotate=Retention(last=1, job="a"), make_room=True)
        outcome = await cancelled_after_503(fleet, real_fake, not_handled())
    assert outcome.backup_id is not None
    assert posts(real_fake) == [1, 1]


async def test_a_create_that_was_carried_out_after_its_503_is_found_though_the_run_is_cancelled(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.visible_after = 2.0
    patient = evolve(PATIENT, create_again_after=5.0)
    async with fleet_on(url, real_fake, patient) as fleet:
        await fleet.submit(RUN, [1])
        outcome = await cancelled_after_503(fleet, real_fake, not_handled(when="after"))
    assert (outcome.state, outcome.backup_id) == (ItemState.COMPLETED, 1)
    assert posts(real_fake) == [1]


async def test_what_is_cancelled_once_looks_showed_nothing_is_so_again_if_its_retry_is_cancelled(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake, PATIENT) as fleet:
        await fleet.submit(RUN, [1])
        before = await cancelled_after_503(fleet, real_fake, not_handled())
        assert await fleet.retry(RUN, "cancelled") == 1
        assert await fleet.cancel(RUN) == 1
        assert await outcome_of(fleet) == evolve(before, retry=1, ended_at=None)
    assert before.state is ItemState.CANCELLED
    assert posts(real_fake) == [1]


# --- What is told --------------------------------------------------------------------------------


async def test_an_ensure_that_is_cancelled_says_nothing_of_deletions(
    url: str, real_fake: FakeVPS
) -> None:
    patient = evolve(PATIENT, create_again_after=2.0)
    async with fleet_on(url, real_fake, patient) as fleet:
        await fleet.submit(RUN, [1], ensure=timedelta(hours=5))
        async with hands_on(url) as hands:
            item = await hands.claim(1)
            await hands.items.note_started(item, 7)  # it was there, and is not listed any more
            error = BackupDisappearedError.__name__
            await hands.items.end(item, RunOutcome(RUN, 1, ItemState.FAILED, error=error))
        await fleet.retry(RUN)
        working = asyncio.create_task(fleet.work(until_done=True))
        await until(lambda: looks(real_fake) > 0)
        await fleet.cancel(RUN)
        await asyncio.wait_for(working, 30)
        outcome = await outcome_of(fleet)
    assert (outcome.state, outcome.detail) == (ItemState.CANCELLED, None)
    assert posts(real_fake) == []
