"""A limiter that is used in one event loop after another, or in two at once."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    Observation,
    WrongEventLoopError,
)
from vpsbackups_async.testing import FakeVPS

DONE = Observation("list", status=200)


def test_a_new_loop_starts_afresh_after_one_that_was_closed_with_requests_in_flight() -> None:
    limiter = AdaptiveLimiter(2)
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        await limiter.acquire()
        await limiter.acquire()
        waits = limiter.acquire()
        waits.send(None)  # in line, and never awaited to its end
        left.append(waits)

    left: list[Any] = []
    loop.run_until_complete(leave())
    loop.close()
    assert (limiter.running, limiter.waiting) == (2, 1)

    async def use() -> None:
        await limiter.acquire()
        await limiter.acquire()
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        assert (limiter.running, limiter.waiting) == (2, 1)
        for _ in range(3):
            limiter.observe(DONE)
            await asyncio.sleep(0)
        await waiting

    asyncio.run(use())
    assert (limiter.running, limiter.waiting) == (0, 0)
    for waits in left:
        waits.close()
    assert (limiter.running, limiter.waiting) == (0, 0)


def test_an_end_that_is_heard_of_in_a_later_loop_gives_no_slot_away() -> None:
    limiter = AdaptiveLimiter(1)
    asyncio.run(limiter.acquire())

    async def use() -> None:
        await limiter.acquire()
        limiter.observe(DONE)
        limiter.observe(DONE)  # of the loop before
        await limiter.acquire()
        assert limiter.running == 1

    asyncio.run(use())


def test_what_the_server_asked_for_holds_in_the_next_loop_too() -> None:
    limiter = AdaptiveLimiter(2)

    async def refused() -> None:
        await limiter.acquire()
        limiter.observe(Observation("list", status=429, retry_after=600))

    async def look() -> float:
        waits = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0)
        waits.cancel()
        return limiter.closed_for()

    asyncio.run(refused())
    assert 500 < asyncio.run(look()) <= 600


@contextmanager
def loop_of_another_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def test_a_limiter_in_use_in_another_threads_loop_is_refused_to_a_client() -> None:
    limiter = AdaptiveLimiter(1)
    with loop_of_another_thread() as loop:
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(limiter.acquire(), loop))
        async with (
            FakeVPS(servers=1, backups=1) as fake,
            BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client,
        ):
            with pytest.raises(WrongEventLoopError, match="another thread"):
                await client.list().first()
            assert (limiter.running, fake.count()) == (1, 0)
    await limiter.acquire()
    assert limiter.running == 1
