"""Waits while many lists fail: those whose own lists work are served, with few requests."""

import asyncio
import gc
from collections.abc import Sequence

import pytest
from helpers_waiting import EVERY_10, forbidden, one_try

from vpsbackups_async import (
    Backup,
    BackupRef,
    BackupsClient,
    ConstantBackoff,
    PermissionDeniedError,
)
from vpsbackups_async._waiting.looks import Looks
from vpsbackups_async._waiting.waiter import Batch, Waiter
from vpsbackups_async.testing import FakeVPS

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.fake_vps(servers=500, backups=0, backup_seconds=100),
]
HEALTHY = 400
"""The server whose own list works."""


async def waits_of(
    client: BackupsClient, servers: Sequence[int], **options: float
) -> list[asyncio.Task[Backup]]:
    """Waits for a new backup on each of these servers, which look together."""
    backups = [await client.create(server_id) for server_id in servers]
    return [asyncio.create_task(client.wait(one, backoff=EVERY_10, **options)) for one in backups]


async def end(waits: Sequence[asyncio.Task[Backup]]) -> list[Backup | BaseException]:
    for wait in waits:
        wait.cancel()
    return await asyncio.gather(*waits, return_exceptions=True)


# --- A 403 ---------------------------------------------------------------------------------------


async def test_a_wait_whose_own_list_works_is_not_ended_by_the_403s_of_others(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        healthy = await client.create(HEALTHY)
        others = await waits_of(client, range(1, 6))
        fake.inject(forbidden(None), *map(forbidden, range(1, 6)))
        done = await client.wait(healthy, backoff=ConstantBackoff(11))
        ends = await asyncio.gather(*others, return_exceptions=True)
    assert done.is_completed
    assert {type(one) for one in ends} == {PermissionDeniedError}


@pytest.mark.parametrize("refused", [5, 4], ids=["all", "all but one"])
async def test_after_403s_of_all_lists_asked_those_that_were_not_due_are_asked(
    fake: FakeVPS, refused: int
) -> None:
    async with one_try(fake) as client:
        healthy = await client.create(HEALTHY)
        late = asyncio.create_task(client.wait(healthy, backoff=ConstantBackoff(200)))
        others = await waits_of(client, range(1, 6))
        fake.inject(forbidden(None), *map(forbidden, range(1, refused + 1)))
        await asyncio.gather(*others[:refused], return_exceptions=True)
        await asyncio.sleep(1)
        assert fake.count("GET", f"server_id={HEALTHY}") == (1 if refused == 5 else 0)
        assert (await late).is_completed
        await end(others)


async def test_a_wait_by_id_alone_goes_by_its_servers_list_once_a_list_has_shown_it(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        await client.wait(BackupRef(backup.id), backoff=EVERY_10)
    asked = [seen.query.get("server_id") for seen in fake.requests if seen.method == "GET"]
    assert asked == [None, *["7"] * 9]


@pytest.mark.parametrize("server_id", [None, 7])
async def test_a_wait_by_id_alone_is_ended_by_the_403_of_the_server_that_was_shown(
    fake: FakeVPS, server_id: int | None
) -> None:
    """One of the whole list is no matter of it any more."""
    async with one_try(fake) as client:
        backup = await client.create(7)
        waiting = asyncio.create_task(client.wait(BackupRef(backup.id), backoff=EVERY_10))
        await asyncio.sleep(15)
        fake.inject(forbidden(server_id))
        unknown = asyncio.create_task(client.wait(BackupRef(99), backoff=EVERY_10, timeout=40))
        ends = await asyncio.gather(waiting, unknown, return_exceptions=True)
    refused = [isinstance(one, PermissionDeniedError) for one in ends]
    assert refused == [server_id == 7, server_id is None]


# --- Looks that are stopped ----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["sweep", "servers"])
async def test_looks_that_are_stopped_before_they_begin_leave_nothing_unawaited(
    fake: FakeVPS, by: str
) -> None:
    """A coroutine that was never awaited would be reported, as an error in these tests."""
    async with one_try(fake) as client:
        looks = Looks(
            client._hub._looks._search,
            (),
            show=lambda look, finding: None,
            end=lambda look, finding: None,
            attempted=lambda look, error: None,
            refused=lambda: None,
        )
        server_id = None if by == "sweep" else 7
        looks.begin([Waiter(BackupRef(1, server_id), None, backoff=EVERY_10)], Batch(0.0))
        tasks = looks.stop()
        assert len(tasks) == 1
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks
        gc.collect()
    assert fake.count() == 0
