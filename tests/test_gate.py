"""The gate that every request passes: how many at once, how fast, in which order."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from vpsbackups_async import AdaptiveLimiter, Observation

DONE = Observation("list")


async def rounds(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def queue_up(limiter: AdaptiveLimiter, number: int) -> tuple[list["asyncio.Task[None]"], list[int]]:
    """So many tasks in line, and the numbers of those that came through."""
    through: list[int] = []

    async def pass_through(place: int) -> None:
        await limiter.acquire()
        through.append(place)

    return [asyncio.create_task(pass_through(place)) for place in range(number)], through


async def test_no_more_than_the_maximum_run_at_once() -> None:
    limiter = AdaptiveLimiter(3)
    most = 0

    async def work() -> None:
        nonlocal most
        await limiter.acquire()
        most = max(most, limiter.running)
        await asyncio.sleep(0)
        limiter.observe(DONE)

    await asyncio.gather(*(work() for _ in range(20)))
    assert most == 3
    assert limiter.running == 0


async def test_first_come_is_first_served_and_nobody_overtakes() -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    tasks, through = queue_up(limiter, 5)
    await rounds()
    for _ in range(5):
        limiter.observe(DONE)
        # A newcomer at the very moment a slot is free still goes behind those that wait.
        late = asyncio.create_task(limiter.acquire())
        await rounds()
        late.cancel()
        await rounds()
    assert through == [0, 1, 2, 3, 4]
    assert limiter.running == 1
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_cancelling_one_that_waits_leaves_the_others_their_turn(place: int) -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    tasks, through = queue_up(limiter, 3)
    await rounds()
    tasks[place].cancel()
    await rounds()
    for _ in range(2):
        limiter.observe(DONE)
        await rounds()
    limiter.observe(DONE)
    assert through == [number for number in range(3) if number != place]
    assert limiter.running == 0
    assert tasks[place].cancelled()


async def test_a_slot_that_comes_in_the_moment_of_cancellation_goes_to_the_next() -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    tasks, through = queue_up(limiter, 2)
    await rounds()
    limiter.observe(DONE)
    tasks[0].cancel()
    await rounds()
    assert through == [1]
    assert limiter.running == 1
    limiter.observe(DONE)
    assert limiter.running == 0


async def test_a_slot_is_not_given_to_one_that_was_cancelled_in_the_same_moment() -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    tasks, through = queue_up(limiter, 2)
    await rounds()
    tasks[0].cancel()
    limiter.observe(DONE)
    await rounds()
    assert through == [1]
    limiter.observe(DONE)
    assert limiter.running == 0


async def test_cancelling_all_leaves_an_empty_gate() -> None:
    limiter = AdaptiveLimiter(2)
    tasks, through = queue_up(limiter, 50)
    await rounds()
    for task in tasks:
        task.cancel()
    for _ in through:
        limiter.observe(DONE)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.running == 0
    await limiter.acquire()
    assert limiter.running == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("maximum", [1, 4, 64])
async def test_starts_are_no_closer_than_the_rate_allows(maximum: int) -> None:
    limiter = AdaptiveLimiter(maximum, rate=4)
    loop = asyncio.get_running_loop()
    starts: list[float] = []

    async def work() -> None:
        await limiter.acquire()
        starts.append(loop.time())
        limiter.observe(DONE)

    began = loop.time()
    await asyncio.gather(*(work() for _ in range(9)))
    assert [round(start - began, 3) for start in starts] == [number / 4 for number in range(9)]


@pytest.mark.virtual_time
async def test_an_idle_time_saves_up_no_burst() -> None:
    limiter = AdaptiveLimiter(64, rate=1)
    loop = asyncio.get_running_loop()
    await limiter.acquire()
    await asyncio.sleep(100)
    began = loop.time()
    await limiter.acquire()
    await limiter.acquire()
    assert loop.time() - began == pytest.approx(1)


@pytest.mark.virtual_time
async def test_the_cancelled_leave_no_gap_in_the_rate() -> None:
    limiter = AdaptiveLimiter(64, rate=1)
    await limiter.acquire()
    tasks, through = queue_up(limiter, 30)
    await rounds()
    for task in tasks:
        task.cancel()
    await rounds()
    began = asyncio.get_running_loop().time()
    await limiter.acquire()
    assert asyncio.get_running_loop().time() - began == pytest.approx(1)
    assert through == []
    assert limiter.running == 2


@pytest.mark.virtual_time
async def test_waiting_for_the_rate_takes_no_slot() -> None:
    limiter = AdaptiveLimiter(5, rate=1)
    tasks, _ = queue_up(limiter, 5)
    await rounds()
    assert limiter.running == 1
    await asyncio.gather(*tasks)
    assert limiter.running == 5


@pytest.mark.parametrize("rate", [None, 1000])
def test_one_gate_serves_one_event_loop_after_another(rate: float | None) -> None:
    limiter = AdaptiveLimiter(1, rate=rate)

    async def contend() -> None:
        await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        await rounds()
        limiter.observe(DONE)
        await waiting
        left = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await rounds()
        limiter.observe(DONE)
        for task in left:
            task.cancel()

    for _ in range(2):
        asyncio.run(contend())
        assert limiter.running == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveLimiter(0),
        lambda: AdaptiveLimiter(True),
        lambda: AdaptiveLimiter(1.5),
        lambda: AdaptiveLimiter(rate=0),
        lambda: AdaptiveLimiter(rate=float("nan")),
        lambda: AdaptiveLimiter(rate=True),
    ],
    ids=["maximum 0", "maximum True", "maximum 1.5", "rate 0", "rate nan", "rate True"],
)
def test_a_bad_maximum_or_rate_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"maximum|rate"):
        make()


def test_a_gate_tells_what_it_allows() -> None:
    limiter = AdaptiveLimiter(7, rate=2.5)
    assert repr(limiter) == "AdaptiveLimiter(maximum=7, rate=2.5)"
    assert (limiter.maximum, limiter.running) == (7, 0)
