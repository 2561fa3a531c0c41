"""A `DurableFleet` that was closed, and a submit that is cancelled."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vpsbackups_async import ConfigurationError
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.testing import FakeVPS


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


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
