"""What a worker does for one server of a run."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve
from helpers_durable import held_posts, posts, until
from helpers_guard import LIMITS, PATIENT, SERVER, Setting, setting

from vpsbackups_async import Retention
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.values import EnsureTask, ItemState, RotateTask, RunOutcome
from vpsbackups_async.durable.work import Work
from vpsbackups_async.testing import FakeVPS, Reply, ServerFault


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=1, backups=0, clock=time.time, backup_seconds=0.0) as fake:
        yield fake


def failed(error: Exception) -> None:
    raise error


async def rotation(plain: Setting) -> Setting:
    """A run that rotates the server, beside the one that is there."""
    task = RotateTask(Retention(last=1, job="a"))
    run, _ = await plain.store.submit("other", task, [SERVER], lambda _, __: None)
    return evolve(plain, run=run)


async def looks_before_the_create(made: Setting, fake: FakeVPS) -> int:
    """How often the list is read before the create, by a worker that rotates the server."""
    work = Work(made.client, made.items, made.limits, failed, None)
    try:
        await work.do(Entry(made.run.nonce, SERVER, 0))
    finally:
        await work.stop()
    methods = [request.method for request in fake.requests]
    assert methods.count("POST") == 1
    return methods[: methods.index("POST")].count("GET")


async def test_a_rotation_reads_nothing_between_the_turn_of_its_create_and_the_create(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as plain:
        assert await looks_before_the_create(await rotation(plain), real_fake) == 1


async def test_a_rotation_that_is_taken_over_looks_for_its_create_once(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as plain:
        made = await rotation(plain)
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        # At 0, 0.5 and 0.8 seconds, and the look of the rotation itself.
        assert await looks_before_the_create(made, real_fake) <= 4


async def test_a_second_signal_after_all_was_noted_changes_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        work = Work(made.client, made.items, made.limits, failed, None)
        await work.stop()
        work.hurry()
    assert work.unsettled == 0


# --- ensure ---------------------------------------------------------------------------------------


async def ensuring(plain: Setting) -> Setting:
    """A run that ensures a backup of the server, beside the one that is there."""
    task = EnsureTask(timedelta(hours=5), "Nightly")
    run, _ = await plain.store.submit("other", task, [SERVER], lambda _, __: None)
    return evolve(plain, run=run)


async def worked(made: Setting, retry: int = 0) -> RunOutcome:
    """The outcome of the server, once a worker has done what is asked for."""
    work = Work(made.client, made.items, made.limits, failed, None)
    try:
        await work.do(Entry(made.run.nonce, SERVER, retry))
    finally:
        await work.stop()
    (outcome,) = await made.store.outcomes(made.run, -1, 10)
    return outcome


async def adopted_and_gone(made: Setting, fake: FakeVPS) -> int:
    """The id of a running backup that was found, and deleted by somebody; a retry waits."""
    there = fake.add_backup(SERVER, description="Nightly", status="in_progress")
    item = await made.claimed()
    await made.items.note_started(item, there["id"])
    gone = RunOutcome("other", SERVER, ItemState.FAILED, error="BackupDisappearedError")
    await made.items.end(item, gone)
    fake.remove_backup(there["id"])
    await made.store.retry(made.run, ItemState.FAILED, -1, lambda _, __: None)
    return int(there["id"])


async def test_a_retry_of_ensure_takes_a_recent_backup_in_place_of_one_that_is_gone(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as plain:
        made = await ensuring(plain)
        await adopted_and_gone(made, real_fake)
        recent = real_fake.add_backup(SERVER, description="Nightly")
        outcome = await worked(made, 1)
    assert (outcome.state, outcome.backup_id) == (ItemState.COMPLETED, recent["id"])
    assert outcome.existing
    assert real_fake.count("POST") == 0
    assert real_fake.count("GET") <= 3  # not for a minute, for the one that is gone


async def test_a_retry_of_ensure_looks_for_a_backup_that_is_gone_before_it_makes_one(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    limits = evolve(PATIENT, create_again_after=2.0)
    async with setting(tmp_path, real_fake, limits) as plain:
        made = await ensuring(plain)
        gone = await adopted_and_gone(made, real_fake)
        task = asyncio.create_task(worked(made, 1))
        await until(lambda: real_fake.count("GET") == 2)
        # Too old to be taken for a recent one: it is known by its id.
        old = datetime.now(UTC) - timedelta(hours=9)
        real_fake.add_backup(SERVER, description="Nightly", id=gone, created_at=old)
        outcome = await task
    assert (outcome.state, outcome.backup_id) == (ItemState.COMPLETED, gone)
    assert outcome.existing
    assert real_fake.count("POST") == 0


async def test_a_retry_of_ensure_makes_a_backup_where_looks_show_none(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as plain:
        made = await ensuring(plain)
        await adopted_and_gone(made, real_fake)
        outcome = await worked(made, 1)
    assert (outcome.state, outcome.existing) == (ItemState.COMPLETED, False)
    assert real_fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_what_takes_over_a_retry_of_ensure_goes_on_with_its_create_not_with_what_was_gone(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as plain:
        made = await ensuring(plain)
        gone = await adopted_and_gone(made, real_fake)
        work = Work(made.client, made.items, made.limits, failed, None)
        real_fake.inject(held_posts(1))
        task = asyncio.create_task(work.do(Entry(made.run.nonce, SERVER, 1)))
        await until(lambda: len(posts(real_fake)) == 1)
        task.cancel()
        await asyncio.wait([task])
        real_fake.add_backup(SERVER, description="Nightly", id=gone)
        outcome = await worked(made, 1)
        await work.stop()
    assert outcome.state == ItemState.COMPLETED
    assert outcome.backup_id not in {None, gone}
    assert not outcome.existing


async def test_a_retry_of_ensure_that_is_refused_does_not_name_what_was_gone(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(ServerFault(503, method="POST", retry_after=1000.0))
    async with setting(tmp_path, real_fake) as plain:
        made = await ensuring(plain)
        await adopted_and_gone(made, real_fake)
        outcome = await worked(made, 1)
    assert (outcome.state, outcome.error) == (ItemState.FAILED, "ServerError")
    assert (outcome.backup_id, outcome.existing) == (None, False)


async def test_ensure_takes_a_recent_backup_where_a_create_before_made_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as plain:
        made = await ensuring(plain)
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        # With the marker of another one's ensure, so that it cannot be of this create.
        marked = "Nightly [vb:0123456789abcdef]"
        recent = real_fake.add_backup(SERVER, description=marked)
        outcome = await worked(made)
    assert (outcome.backup_id, outcome.existing) == (recent["id"], True)
    assert real_fake.count("POST") == 0


async def test_a_failed_outcome_tells_that_its_backup_was_there_before(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    there = real_fake.add_backup(SERVER, description="Nightly", status="in_progress")
    async with setting(tmp_path, real_fake, evolve(LIMITS, wait_timeout=0.2)) as plain:
        outcome = await worked(await ensuring(plain))
    assert (outcome.state, outcome.backup_id) == (ItemState.FAILED, there["id"])
    assert outcome.existing


# --- A list that cannot be read -------------------------------------------------------------------


def cut_lists(times: int | None) -> Reply:
    """Lists whose count is more than what they have."""
    body = b'{"count": 7, "next": null, "previous": null, "results": []}'
    return Reply(200, body, method="GET", path="/backups/", times=times)


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", [ensuring, rotation])
async def test_a_list_that_cannot_be_read_is_looked_at_again(
    real_fake: FakeVPS, tmp_path: Path, verb: Callable[[Setting], Awaitable[Setting]]
) -> None:
    real_fake.inject(cut_lists(9))
    async with setting(tmp_path, real_fake) as plain:
        outcome = await worked(await verb(plain))
    assert outcome.ok
    assert real_fake.count("POST") == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", [ensuring, rotation])
async def test_a_list_that_can_never_be_read_is_an_outcome(
    real_fake: FakeVPS, tmp_path: Path, verb: Callable[[Setting], Awaitable[Setting]]
) -> None:
    real_fake.inject(cut_lists(None))
    async with setting(tmp_path, real_fake) as plain:
        outcome = await worked(await verb(plain))
    assert (outcome.state, outcome.error) == (ItemState.FAILED, "PaginationError")
    assert real_fake.count("POST") == 0
