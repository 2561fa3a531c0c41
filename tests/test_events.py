"""The events of a client about creates, and a callback that fails."""

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest
from helpers_events import Heard

from vpsbackups_async import BackupsClient, CreateOutcomeUnknownError, NotFoundError
from vpsbackups_async.events import CreateEnded, CreateSettled
from vpsbackups_async.testing import Drop, FakeVPS, Latency, ServerFault


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
