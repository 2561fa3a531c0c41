"""Clocks that jump: no worker waits for one to be where it was before."""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from helpers_durable import workers_of
from helpers_guard import Setting, setting

from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.durable.database import Database
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
    assert "set back by 200 seconds" in caplog.text


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
