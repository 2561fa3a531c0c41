"""The events of a client: how each create ended, and a callback that fails."""

import asyncio
import logging
from typing import Any

import pytest

from vpsbackups_async import BackupsClient, NotFoundError
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import FakeVPS, Latency


def client_of(fake: FakeVPS, on_event: Any) -> BackupsClient:
    return BackupsClient(fake.token, base_url=fake.url, on_event=on_event)


async def test_a_create_tells_its_backup_in_one_event(fake: FakeVPS) -> None:
    events: list[CreateEnded] = []
    async with client_of(fake, events.append) as client:
        backup = await client.create(2)
    assert events == [CreateEnded(2, backup)]


async def test_a_create_that_fails_tells_its_error_in_one_event(fake: FakeVPS) -> None:
    events: list[CreateEnded] = []
    async with client_of(fake, events.append) as client:
        with pytest.raises(NotFoundError) as caught:
            await client.create(404)
    assert [(event.server_id, event.backup, event.error) for event in events] == [
        (404, None, caught.value)
    ]


@pytest.mark.virtual_time
async def test_a_create_whose_caller_was_cancelled_tells_its_backup_when_it_ends(
    fake: FakeVPS,
) -> None:
    events: list[CreateEnded] = []
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake, events.append)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert events == []
    await client.close()
    [event] = events
    assert event.caller_cancelled
    assert event.backup is not None
    assert event.backup.id == max(held["id"] for held in fake.backups)


@pytest.mark.virtual_time
async def test_a_create_that_is_cut_short_at_close_says_that_nothing_is_known(
    fake: FakeVPS,
) -> None:
    events: list[CreateEnded] = []
    fake.inject(Latency(10_000))
    client = client_of(fake, events.append)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()
    [event] = events
    assert (event.server_id, event.backup, event.caller_cancelled) == (2, None, True)


async def test_a_callback_that_raises_is_logged_and_the_create_returns(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: object) -> None:
        raise RuntimeError("the callback is broken")

    async with client_of(fake, fail) as client:
        backup = await client.create(2)
    assert backup.id in [held["id"] for held in fake.backups]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "on_event failed" in record.getMessage()


def test_a_callback_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(ValueError, match="on_event must be callable, not 5"):
        BackupsClient("vps_test", on_event=5)  # type: ignore[arg-type]  # wrong on purpose
