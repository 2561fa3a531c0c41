"""What a worker does for one server of a run."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve
from helpers_guard import LIMITS, PATIENT, SERVER, Setting, setting

from vpsbackups_async import Retention
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.values import RotateTask
from vpsbackups_async.durable.work import Work
from vpsbackups_async.testing import FakeVPS


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
