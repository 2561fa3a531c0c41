"""The events of a client about creates, waits and deletions, and a callback that fails."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from helpers_events import Heard
from helpers_pruning import JOB, add_nights

from vpsbackups_async import (
    BackupFailedError,
    BackupsClient,
    CreateOutcomeUnknownError,
    NotFoundError,
    Retention,
)
from vpsbackups_async.events import BackupCompleted, CreateEnded, CreateSettled, DeletionEnded
from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, NotJSON, Reply, ServerFault


def client_of(fake: FakeVPS, on_event: Any) -> BackupsClient:
    return BackupsClient(fake.token, base_url=fake.url, on_event=on_event)


async def test_a_create_tells_its_backup_in_one_event(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        backup = await client.create(2)
    assert heard.of(CreateEnded) == [CreateEnded(2, backup)]


async def test_a_create_that_fails_tells_its_error_in_one_event(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        with pytest.raises(NotFoundError) as caught:
            await client.create(404)
    assert [(event.server_id, event.backup, event.error) for event in heard.of(CreateEnded)] == [
        (404, None, caught.value)
    ]


@pytest.mark.virtual_time
async def test_a_create_whose_caller_was_cancelled_tells_its_backup_when_it_ends(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake, heard)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert heard.of(CreateEnded) == []
    await client.close()
    [event] = heard.of(CreateEnded)
    assert event.caller_cancelled
    assert event.backup is not None
    assert event.backup.id == max(held["id"] for held in fake.backups)


@pytest.mark.virtual_time
async def test_a_create_that_is_cut_short_at_close_says_that_nothing_is_known(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(Latency(10_000))
    client = client_of(fake, heard)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()
    [event] = heard.of(CreateEnded)
    assert (event.server_id, event.backup, event.caller_cancelled) == (2, None, True)


async def test_a_create_that_made_nothing_says_that_its_backup_existed(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        for _ in range(2):
            await client.create(2, marker="night-1")
            await client.ensure(1, within=timedelta(hours=20))
    told = [(event.server_id, event.existing) for event in heard.of(CreateEnded)]
    assert told == [(2, False), (1, False), (2, True), (1, True)]


@pytest.mark.virtual_time
async def test_a_backup_that_was_adopted_is_told_as_existing(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        running = await client.create(2)
        assert (await client.create(2, if_running="adopt")).id == running.id
    assert [event.existing for event in heard.of(CreateEnded)] == [False, True]


@pytest.mark.virtual_time
@pytest.mark.parametrize("marker", [True, False], ids=["with a marker", "without one"])
async def test_a_create_whose_answer_was_lost_tells_that_it_was_settled(
    fake: FakeVPS, marker: bool
) -> None:
    heard = Heard()
    fake.inject(Drop(method="POST", when="after", times=1))
    async with client_of(fake, heard) as client:
        backup = await client.create(2, description="x", marker=marker)
    assert heard.of(CreateSettled) == [CreateSettled(2, backup, certain=marker)]
    assert heard.of(CreateEnded) == [CreateEnded(2, backup)]


@pytest.mark.virtual_time
async def test_a_create_that_was_settled_later_is_told(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Drop(method="POST", when="after", times=1), ServerFault(method="GET"))
    async with client_of(fake, heard) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(2, marker=True)
        fake.clear_faults()
        assert heard.of(CreateSettled) == []
        backup = await client.settle(caught.value)
    assert heard.of(CreateSettled) == [CreateSettled(2, backup, certain=True)]


@pytest.mark.virtual_time
async def test_a_wait_tells_the_completed_backup(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        backup = await client.wait(await client.create(2))
        await client.wait(backup)
    assert heard.of(BackupCompleted) == [BackupCompleted(backup)] * 2


@pytest.mark.virtual_time
async def test_a_wait_that_fails_tells_no_completed_backup(fake: FakeVPS) -> None:
    heard = Heard()
    fake.fails = {2}
    async with client_of(fake, heard) as client:
        with pytest.raises(BackupFailedError):
            await client.wait(await client.create(2))
    assert heard.of(BackupCompleted) == []


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("faults", "deleted"),
    [
        ([], True),
        ([Drop("after", method="DELETE", times=1)], True),
        ([Reply(404, b"{}", method="DELETE")], True),
        ([ServerFault(500, method="DELETE")], None),
        ([NotJSON(method="DELETE")], None),
        ([Reply(403, b"{}", method="DELETE")], False),
        ([NotJSON(404, method="DELETE")], False),
    ],
    ids=["done", "gone", "missing", "500", "page", "403", "404 of a proxy"],
)
async def test_a_deletion_by_a_policy_tells_whether_the_backup_is_gone(
    fake: FakeVPS, faults: list[Fault], deleted: bool | None
) -> None:
    heard = Heard()
    add_nights(fake, 1, 4)
    fake.inject(*faults)
    async with client_of(fake, heard) as client:
        [outcome] = [
            one
            async for one in client.apply(await client.plan_prune([1], Retention(last=3, job=JOB)))
        ]
    [event] = heard.of(DeletionEnded)
    assert (event.backup.ref, event.deleted) == (outcome.key, deleted)


@pytest.mark.virtual_time
@pytest.mark.parametrize("make_room", [True, False], ids=["to free a place", "after the new one"])
async def test_a_deletion_of_a_rotation_that_is_cut_short_is_in_doubt(
    fake: FakeVPS, make_room: bool, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    for one in fake.backups:
        fake.remove_backup(one["id"])
    ids = add_nights(fake, 1, 10 if make_room else 4)
    fake.inject(Latency(100, method="DELETE"))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("DELETE") and begun.set()
    async with client_of(fake, heard) as client:
        policy = Retention(last=9 if make_room else 4, job=JOB)
        running = asyncio.create_task(client.rotate(1, policy, make_room=make_room))
        await begun.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    [event] = heard.of(DeletionEnded)
    assert (event.backup.id, event.deleted, event.error) == (ids[0], None, None)
    assert f"may have deleted {ids[0]}:1" in caplog.text


async def test_a_callback_that_raises_is_logged_and_the_create_returns(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("the callback is broken")

    async with client_of(fake, fail) as client:
        backup = await client.create(2)
    assert backup.id in [held["id"] for held in fake.backups]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == ["on_event failed for AttemptEnded", "on_event failed for CreateEnded"]


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ValueError, match="on_event must be callable, not 5"):
        BackupsClient("vps_test", on_event=5)  # type: ignore[arg-type]  # wrong on purpose
