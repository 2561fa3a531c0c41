"""Blocks that must end in time: one timer for all of them, and a cancellation that stays one."""

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpsbackups_async._transport.deadlines import Deadlines
from vpsbackups_async.testing import VirtualTime

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def timers() -> int:
    """How many timers the event loop has, those that were cancelled left out."""
    scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not handle.cancelled() for handle in scheduled)


@pytest.fixture
async def deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


async def test_a_block_ends_with_a_timeout_at_its_deadline(deadlines: Deadlines) -> None:
    began = now()
    with pytest.raises(TimeoutError), deadlines.until(began + 5):
        await asyncio.sleep(60)
    assert now() - began == pytest.approx(5)
    await asyncio.sleep(1)  # nothing of it hits the task later


async def test_a_block_that_ends_in_time_leaves_a_timer_that_ends_no_later_block(
    deadlines: Deadlines,
) -> None:
    with deadlines.until(now() + 5):
        await asyncio.sleep(1)
    assert timers() == 1
    with deadlines.until(now() + 60):
        await asyncio.sleep(30)
    await asyncio.sleep(60)
    assert timers() == 0


async def test_blocks_in_a_row_share_one_timer(deadlines: Deadlines) -> None:
    with deadlines.until(now() + 30):
        await asyncio.sleep(0)
    timer = deadlines._timer
    for _ in range(10):
        with deadlines.until(now() + 30):
            await asyncio.sleep(1)
    assert timer is not None
    assert deadlines._timer is timer


async def test_closing_cancels_the_timer_that_no_block_needs(deadlines: Deadlines) -> None:
    with deadlines.until(now() + 5):
        await asyncio.sleep(1)
    deadlines.close()
    assert timers() == 0


async def test_closing_leaves_the_deadline_to_a_block_that_runs(deadlines: Deadlines) -> None:
    async def closing() -> None:
        deadlines.close()
        await asyncio.sleep(60)

    began = now()
    with pytest.raises(TimeoutError), deadlines.until(began + 5):
        await closing()
    assert now() - began == pytest.approx(5)
    assert timers() == 0


async def test_a_deadline_that_has_passed_ends_the_block_at_its_first_wait(
    deadlines: Deadlines,
) -> None:
    began = now()
    with pytest.raises(TimeoutError), deadlines.until(began - 1):
        await asyncio.sleep(60)
    assert now() == pytest.approx(began)


async def test_an_earlier_block_is_not_held_up_by_a_later_one(deadlines: Deadlines) -> None:
    async def block(seconds: float) -> float:
        with pytest.raises(TimeoutError), deadlines.until(now() + seconds):
            await asyncio.sleep(60)
        return now()

    began = now()
    ends = await asyncio.gather(*map(block, (9, 3, 6, 3)))
    assert [end - began for end in ends] == pytest.approx([9, 3, 6, 3])
    assert timers() == 0


async def test_thousands_of_blocks_need_one_timer(deadlines: Deadlines) -> None:
    async def block(number: int) -> None:
        with deadlines.until(now() + 30 + number % 7):
            await asyncio.sleep(1)

    blocks = [asyncio.ensure_future(block(number)) for number in range(2_000)]
    await asyncio.sleep(0)
    assert timers() - len(blocks) == 1  # each sleep has one of its own
    await asyncio.gather(*blocks)
    assert timers() == 1


async def test_what_has_ended_does_not_pile_up_while_one_block_goes_on(
    deadlines: Deadlines,
) -> None:
    with deadlines.until(now() + 1e6):
        for _ in range(1_000):
            with deadlines.until(now() + 30):
                await asyncio.sleep(0)
        assert len(deadlines._heap) < 100


async def test_blocks_end_in_order_after_those_that_have_ended_were_tidied_away(
    deadlines: Deadlines,
) -> None:
    ends: list[int] = []

    async def block(seconds: int) -> None:
        with pytest.raises(TimeoutError), deadlines.until(now() + seconds):
            await asyncio.sleep(1000)
        ends.append(seconds)

    async def brief(seconds: int) -> None:
        with deadlines.until(now() + seconds):
            await asyncio.sleep(0.5)

    began = now()
    lasting = [asyncio.ensure_future(block(100 - number)) for number in range(60)]
    ended = [asyncio.ensure_future(brief(5 + number % 40)) for number in range(400)]
    await asyncio.gather(*ended)
    assert len(deadlines._heap) < 300
    await asyncio.gather(*lasting)
    assert ends == sorted(ends)
    assert now() - began == pytest.approx(100)


async def test_a_cancellation_from_outside_stays_a_cancellation(deadlines: Deadlines) -> None:
    async def block() -> None:
        with deadlines.until(now() + 5):
            await asyncio.sleep(60)

    task = asyncio.ensure_future(block())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_in_the_moment_of_the_deadline_stays_one(
    deadlines: Deadlines,
) -> None:
    async def block() -> None:
        with deadlines.until(now() + 5):
            await asyncio.sleep(60)

    task = asyncio.ensure_future(block())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(now() + 5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_block_within_a_block_ends_alone(deadlines: Deadlines) -> None:
    began = now()
    with deadlines.until(began + 10):
        with pytest.raises(TimeoutError), deadlines.until(began + 2):
            await asyncio.sleep(60)
        await asyncio.sleep(5)
    assert now() - began == pytest.approx(7)


async def test_an_error_within_the_block_is_that_error(deadlines: Deadlines) -> None:
    with pytest.raises(ValueError, match="its own"), deadlines.until(now() + 5):
        raise ValueError("its own")


async def test_a_block_can_be_ended_before_its_time(deadlines: Deadlines) -> None:
    began = now()
    scope = deadlines.until(began + 50)
    for _ in range(2):  # once is enough
        asyncio.get_running_loop().call_at(began + 1, scope.expire)
    with pytest.raises(TimeoutError), scope:
        await asyncio.sleep(60)
    assert now() - began == pytest.approx(1)
    scope.expire()  # nothing is left to end
    await asyncio.sleep(0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 6)), max_size=25))
def test_each_block_ends_by_itself_or_at_its_deadline(blocks: list[tuple[int, int, int]]) -> None:
    """Blocks of (start, work, limit) seconds, odd and even so that no two moments are the same."""

    async def run() -> None:
        with VirtualTime():
            await go()

    async def go() -> None:
        deadlines = Deadlines(asyncio.get_running_loop())

        async def block(start: int, work: int, limit: int) -> tuple[float, bool]:
            await asyncio.sleep(start)
            try:
                with deadlines.until(now() + limit):
                    await asyncio.sleep(work + 0.5)
            except TimeoutError:
                return now() - start, False
            return now() - start, True

        began = now()
        ended = await asyncio.gather(*itertools.starmap(block, blocks))
        for (_, work, limit), (took, whole) in zip(blocks, ended, strict=True):
            assert whole is (work + 0.5 < limit)
            assert took - began == pytest.approx(min(work + 0.5, limit))
        assert timers() <= 1

    asyncio.run(run())
