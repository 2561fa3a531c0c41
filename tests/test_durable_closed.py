"""A `DurableFleet` that was closed, a submit that is cancelled, and two fleets in one process."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_durable import until

from vpsbackups_async import ConfigurationError
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.testing import FakeVPS


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def url(file: Path) -> str:
    return f"sqlite:///{file}"


async def results(fleet: DurableFleet) -> list[Any]:
    return [one async for one in fleet.results("nightly")]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda fleet: fleet.submit("nightly", [1]), id="submit"),
        pytest.param(lambda fleet: fleet.schedule("n", "@daily", [1]), id="schedule"),
        pytest.param(lambda fleet: fleet.schedules(), id="schedules"),
        pytest.param(lambda fleet: fleet.unschedule("n"), id="unschedule"),
        pytest.param(lambda fleet: fleet.work(until_done=True), id="work"),
        pytest.param(lambda fleet: fleet.runs(), id="runs"),
        pytest.param(lambda fleet: fleet.progress("nightly"), id="progress"),
        pytest.param(results, id="results"),
        pytest.param(lambda fleet: fleet.silent_workers(), id="silent_workers"),
        pytest.param(lambda fleet: fleet.retry("nightly"), id="retry"),
        pytest.param(lambda fleet: fleet.cancel("nightly"), id="cancel"),
        pytest.param(lambda fleet: fleet.forget("nightly"), id="forget"),
        pytest.param(lambda fleet: fleet.__aenter__(), id="async with"),
    ],
)
async def test_a_fleet_that_was_closed_says_so(url: str, call: Callable[[Any], Any]) -> None:
    async with FakeVPS(servers=1, backups=0) as fake:
        options = {"token": fake.token, "base_url": fake.url}
        async with DurableFleet(url, client_options=options) as fleet:
            await fleet.submit("nightly", [1])
        await fleet.close()
        with pytest.raises(ConfigurationError, match=r"closed.*Make a new DurableFleet"):
            await call(fleet)


async def test_a_fleet_that_is_closed_while_its_outcomes_are_read_says_so(url: str) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", range(1, 3))
        await fleet.cancel("nightly")
        outcomes = fleet.results("nightly")
        assert (await anext(outcomes)).server_id == 1
        await fleet.close()
        with pytest.raises(ConfigurationError, match="closed"):
            [one async for one in outcomes]


async def test_a_worker_whose_fleet_is_closed_ends(url: str) -> None:
    async with FakeVPS(servers=1, backups=0) as fake:
        fleet = DurableFleet(url, client_options={"token": fake.token, "base_url": fake.url})
        started = asyncio.Event()
        working = asyncio.create_task(fleet.work(on_start=lambda _slot: started.set()))
        await started.wait()
        await fleet.close()
        async with asyncio.timeout(30):
            with pytest.raises(ConfigurationError, match="closed"):
                await working


@pytest.mark.parametrize("batches", [1, 2])
async def test_a_submit_that_is_cancelled_adds_nothing_after_its_end(
    url: str, file: Path, batches: int
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.runs()  # so that the tables are there
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:

            def read() -> Iterator[int]:
                for server in range(1, 500 * batches + 1):
                    if server == 500 * (batches - 1) + 1:
                        other.execute("BEGIN IMMEDIATE")  # holds up what is added next
                    yield server

            submit = asyncio.create_task(fleet.submit("nightly", read()))
            await until(lambda: other.in_transaction)
            await asyncio.sleep(0.2)  # the thread waits for the file by then
            submit.cancel()
            asyncio.get_running_loop().call_later(0.2, other.execute, "ROLLBACK")
            with pytest.raises(asyncio.CancelledError):
                await submit
            added = (await fleet.progress("nightly")).total
        assert added == 500 * batches


# --- Two in one process --------------------------------------------------------------------------


async def test_a_process_works_on_one_database_at_a_time(tmp_path: Path) -> None:
    async with FakeVPS(servers=2, backups=0, backup_seconds=3600) as fake:
        options = {"token": fake.token, "base_url": fake.url}
        urls = [f"sqlite:///{tmp_path}/{name}.sqlite" for name in ("one", "two")]
        async with (
            DurableFleet(urls[0], client_options=options) as one,
            DurableFleet(urls[1], client_options=options) as two,
        ):
            await one.submit("nightly", [1])
            await two.submit("nightly", [2])
            work = asyncio.create_task(one.work(until_done=True))
            await until(lambda: len(fake.backups) == 1)
            refused = r"works on sqlite.*one\.sqlite already.*two\.sqlite.*process of its own"
            with pytest.raises(ConfigurationError, match=refused):
                await two.work(until_done=True)
            fake.finish(fake.backups[0]["id"])
            await work
            fake.backup_seconds = 0.1
            await two.work(until_done=True)
            assert [(await fleet.progress("nightly")).completed for fleet in (one, two)] == [1, 1]
