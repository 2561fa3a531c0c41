"""Clocks that jump: a worker neither waits for one, nor creates a second backup because of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from helpers_durable import until, workers_of
from helpers_guard import LIMITS, ON_WIRE, PATIENT, SERVER, Setting, setting

from vpsbackups_async import CreateOutcomeUnknownError
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.guard import Guard
from vpsbackups_async.testing import FakeVPS


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=1, backups=0, clock=time.time) as fake:
        yield fake


class Clock:
    """The clock of a database, which can be set."""

    def __init__(self, made: Setting, reads: str) -> None:
        self._engine = made.database.engine
        with self._engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE clock (ahead FLOAT)"))
            connection.execute(sa.text("INSERT INTO clock VALUES (0.0)"))
        made.database.clock = f"({reads} + (SELECT ahead FROM clock))"

    def set_ahead(self, seconds: float) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE clock SET ahead = {seconds}"))


# --- Looks before a create is sent again ----------------------------------------------------------


def quiet_seconds() -> float:
    """For how long nothing may be sent after a process was taken over that may have sent one."""
    assert LIMITS.create_again_after is not None
    return LIMITS.start_within + ON_WIRE + LIMITS.create_again_after


@pytest.mark.parametrize("when", ["before the takeover", "before the first look", "later"])
@pytest.mark.parametrize("jump", [300.0, -300.0])
async def test_no_jump_of_a_clock_shortens_the_looks_before_another_create_or_prolongs_them(
    real_fake: FakeVPS, tmp_path: Path, when: str, jump: float
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made, asyncio.timeout(25):
        clock = Clock(made, made.database.clock)
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        if when == "before the takeover":
            clock.set_ahead(jump)
        item, began = await made.claimed(), time.time()
        if when == "before the first look":
            clock.set_ahead(jump)
        create = asyncio.create_task(made.guard().create(item, "Nightly"))
        await until(lambda: real_fake.count("GET") > 0)
        if when == "later":
            clock.set_ahead(jump)
        await create
    (sent,) = [seen.at for seen in real_fake.requests if seen.method == "POST"]
    assert sent >= began + quiet_seconds()


async def test_a_search_ends_as_unknown_though_the_clock_was_set_back(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made, asyncio.timeout(25):
        clock = Clock(made, made.database.clock)
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        clock.set_ahead(-86_400.0)
        create = asyncio.create_task(made.guard().create(await made.claimed(), "Nightly"))
        await until(lambda: real_fake.count("GET") > 0)
        clock.set_ahead(-2 * 86_400.0)
        with pytest.raises(CreateOutcomeUnknownError):
            await create


@pytest.mark.parametrize("later", [0.0, 86_400.0])
async def test_a_backup_that_may_be_the_one_is_seen_though_the_clock_is_ahead_or_was(
    real_fake: FakeVPS, tmp_path: Path, later: float
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made, asyncio.timeout(25):
        clock = Clock(made, made.database.clock)
        clock.set_ahead(86_400.0)
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        other = real_fake.add_backup(SERVER, description="by hand", backup_type="manual")
        clock.set_ahead(later)
        guard = Guard(made.client, made.items, LIMITS, asyncio.Event())
        with pytest.raises(CreateOutcomeUnknownError) as raised:
            await guard.create(await made.claimed(), "Nightly")
    assert [one.id for one in raised.value.candidates] == [other["id"]]
    assert real_fake.count("POST") == 0


# --- Turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "before", "after"),
    [(None, [50.0, 50.0], [50.0, 50.0]), (0.1, [50.0, 60.0], [70.0, 80.0])],
)
async def test_a_clock_that_was_ahead_costs_no_more_than_the_turns_that_were_given_out(
    real_fake: FakeVPS,
    tmp_path: Path,
    rate: float | None,
    before: list[float],
    after: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(
        "vpsbackups_async.durable.items.time", SimpleNamespace(monotonic=lambda: 50.0)
    )
    async with setting(tmp_path, real_fake) as made:
        clock = Clock(made, "1000.0")
        await made.items.set_limits(rate, None)
        item = await made.claimed()

        async def turns() -> list[float]:
            return [(await made.items.intend(item, 60.0, 1)).starts_at for _ in range(2)]

        clock.set_ahead(200.0)
        assert await turns() == before
        assert caplog.text == ""
        clock.set_ahead(0.0)
        assert await turns() == after
    assert "set back by at least 200 s" in caplog.text


@pytest.mark.durable
async def test_a_rate_does_not_hold_up_all_until_a_clock_is_where_it_was_before(
    durable_url: str,
) -> None:
    async with (
        FakeVPS(servers=7, backups=0, backup_seconds=0.2) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        await fleet.submit("before", range(1, 7))
        assert await (await workers.start(rate=4.0)).ended() == 0
        with contextlib.closing(Database(durable_url)) as database:
            table = "workflow_status" if database.is_sqlite else "vpsbackups.workflow_status"
            ahead = f"UPDATE {table} SET started_at_epoch_ms = started_at_epoch_ms + 1000000"
            await database.run(lambda connection: connection.execute(sa.text(ahead)))
        await fleet.submit("nightly", [7])
        assert await (await workers.start(rate=4.0)).ended(20) == 0
