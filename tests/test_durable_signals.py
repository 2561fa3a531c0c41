"""Signals while a worker of durable runs is a part of an application, and after it."""

import asyncio
import os
import signal
from pathlib import Path
from types import FrameType

import pytest

from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.testing import FakeVPS

NUMBERS = [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.durable)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


def fleet_on(url: str, fake: FakeVPS) -> DurableFleet:
    return DurableFleet(url, client_options={"token": fake.token, "base_url": fake.url})


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_handler_of_the_event_loop_is_called_while_a_worker_runs_and_after_it(
    url: str, number: signal.Signals
) -> None:
    came: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    before = signal.getsignal(number)
    loop.add_signal_handler(number, came.put_nowait, None)
    try:
        async with FakeVPS(servers=1, backups=0) as fake, fleet_on(url, fake) as fleet:
            async with asyncio.timeout(30):
                ended = await fleet.work(on_start=lambda _slot: os.kill(os.getpid(), number))
                assert ended == number
                await came.get()
                os.kill(os.getpid(), number)
                await came.get()
    finally:
        loop.remove_signal_handler(number)
        signal.signal(number, before)


@pytest.mark.parametrize("is_set_meanwhile", [False, True])
async def test_a_plain_handler_is_there_after_a_worker(url: str, is_set_meanwhile: bool) -> None:
    def own(number: int, frame: FrameType | None) -> None:
        raise AssertionError

    def take(_slot: int) -> None:
        if is_set_meanwhile:
            signal.signal(signal.SIGTERM, own)

    before = signal.getsignal(signal.SIGTERM)
    if not is_set_meanwhile:
        signal.signal(signal.SIGTERM, own)
    try:
        async with FakeVPS(servers=1, backups=0) as fake, fleet_on(url, fake) as fleet:
            await fleet.work(until_done=True, on_start=take)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
