"""Virtual time beside threads: the clock goes at the real pace while one of them works."""

import asyncio
import concurrent.futures
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Any, Self

import aiosqlite
import anyio.to_thread
import pytest

from vpsbackups_async.testing import VirtualTime

WORK = 0.05
"""Seconds that the work of a thread takes."""

COUNTING = """
    WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 200000)
    SELECT count(*) FROM counted
"""
"""A query that keeps SQLite busy for some hundredths of a second."""


@pytest.fixture(autouse=True)
def _on_asyncios_own_loop(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--uvloop"):
        pytest.skip("uvloop's clock is its own")


@contextmanager
def running(function: Callable[[], object]) -> Iterator[None]:
    """A thread that runs the function; joined at the end."""
    thread = threading.Thread(target=function)
    thread.start()
    try:
        yield
    finally:
        thread.join()


class Worker:
    """A thread that runs functions from a queue, as aiosqlite's and those of anyio do."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work)

    async def __call__(self, function: Callable[[], object]) -> None:
        future = self._loop.create_future()
        self._queue.put((function, future))
        await future

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while item := self._queue.get():
            function, future = item
            function()
            self._loop.call_soon_threadsafe(future.set_result, None)


async def test_a_wrapped_future_of_a_pool_of_threads_takes_the_time_it_takes() -> None:
    with VirtualTime(), concurrent.futures.ThreadPoolExecutor() as pool:
        async with asyncio.timeout(30):
            await asyncio.wrap_future(pool.submit(time.sleep, WORK))


async def test_a_wrapped_future_counts_although_no_thread_works_for_it() -> None:
    """A pool of processes is one of those."""
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    timer = threading.Timer(WORK, future.set_result, [None])
    with VirtualTime():
        timer.start()
        async with asyncio.timeout(30):
            await asyncio.wrap_future(future)
    timer.join()


async def test_a_coroutine_on_the_loop_of_a_thread_takes_the_time_it_takes() -> None:
    with closing(asyncio.new_event_loop()) as other, VirtualTime(), running(other.run_forever):
        async with asyncio.timeout(30):
            sleep = asyncio.run_coroutine_threadsafe(asyncio.sleep(WORK), other)
            await asyncio.wrap_future(sleep)
        other.call_soon_threadsafe(other.stop)


async def test_a_thread_that_wakes_the_loop_at_its_end_takes_the_time_it_takes() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        time.sleep(WORK)
        loop.call_soon_threadsafe(done.set)

    with VirtualTime(), running(work):
        async with asyncio.timeout(30):
            await done.wait()


async def test_a_thread_of_anyio_with_a_limiter_of_its_own_takes_the_time_it_takes() -> None:
    with VirtualTime() as virtual_time:
        with anyio.fail_after(30):
            await anyio.to_thread.run_sync(time.sleep, WORK, limiter=anyio.CapacityLimiter(1))
        assert virtual_time.elapsed < 30


@pytest.mark.parametrize("kind", [Queue, SimpleQueue])
async def test_a_thread_counts_from_the_moment_there_is_work_in_its_queue(
    kind: Callable[[], Any],
) -> None:
    with VirtualTime(), Worker(kind()) as worker:
        for _ in range(50):
            async with asyncio.timeout(30):
                await worker(lambda: time.sleep(WORK / 50))


async def test_a_thread_counts_although_its_work_is_on_the_line_that_waits_for_more() -> None:
    queue: SimpleQueue[float] = SimpleQueue()
    done = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work() -> None:
        time.sleep(queue.get())
        loop.call_soon_threadsafe(done.set)

    with VirtualTime(), running(work):
        await asyncio.sleep(600)
        queue.put(WORK)
        async with asyncio.timeout(30):
            await done.wait()


async def test_a_thread_waits_in_a_call_of_several_lines_beside_letters_of_several_bytes() -> None:
    queues = [SimpleQueue[None]()]

    def work() -> None:
        print(
            "ä",
            queues[0].get(
                block=True,
            ),
        )

    with VirtualTime(), running(work):
        await asyncio.sleep(600)
        queues[0].put(None)


@pytest.mark.parametrize("kind", [Queue, SimpleQueue])
async def test_a_thread_that_waits_for_work_does_not_stop_the_clock(
    kind: Callable[[], Any],
) -> None:
    with VirtualTime() as virtual_time, Worker(kind()) as worker:
        await worker(lambda: None)
        await asyncio.sleep(600)  # ten minutes of real time are beyond the limit of any test
        assert virtual_time.elapsed >= 600


async def test_a_thread_from_before_counts_while_it_works_and_no_longer() -> None:
    with Worker(SimpleQueue()) as worker:
        await worker(lambda: None)
        with VirtualTime() as virtual_time:
            async with asyncio.timeout(30):
                await worker(lambda: time.sleep(WORK))
            await asyncio.sleep(600)
            assert virtual_time.elapsed >= 600


async def test_a_thread_from_before_that_stays_in_a_read_does_not_stop_the_clock() -> None:
    """One of pytest-xdist does that, and one of a debugger."""
    reader, writer = os.pipe()
    begun = threading.Event()

    def read() -> None:
        begun.set()
        os.read(reader, 1)

    with running(read):
        begun.wait()
        await asyncio.sleep(0.01)
        with VirtualTime():
            await asyncio.sleep(600)
        os.write(writer, b".")
    os.close(reader)
    os.close(writer)


async def test_a_thread_that_waits_for_the_loop_waits_in_virtual_time() -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(600), loop).result()
        loop.call_soon_threadsafe(done.set)

    with VirtualTime() as virtual_time, running(work):
        await done.wait()
        assert 600 <= virtual_time.elapsed < 630


async def test_a_thread_with_an_idle_event_loop_does_not_stop_the_clock() -> None:
    with closing(asyncio.new_event_loop()) as other, VirtualTime(), running(other.run_forever):
        await asyncio.sleep(600)
        other.call_soon_threadsafe(other.stop)


async def test_a_server_without_connections_in_a_thread_does_not_stop_the_clock() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            listening.accept()[0].close()

        with VirtualTime(), running(serve):
            await asyncio.sleep(600)
            socket.create_connection(listening.getsockname()).close()


async def test_a_thread_that_waits_for_another_thread_does_not_stop_the_clock() -> None:
    end = threading.Event()
    first = threading.Thread(target=end.wait)
    first.start()
    with VirtualTime(), running(first.join):
        await asyncio.sleep(600)
        end.set()


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock, threading.Condition])
async def test_a_thread_that_enters_a_lock_does_not_stop_the_clock(
    kind: Callable[[], Any],
) -> None:
    lock = kind()

    def work() -> None:
        with lock:
            pass

    with VirtualTime():
        lock.acquire()
        with running(work):
            await asyncio.sleep(600)
            lock.release()


async def test_a_thread_that_goes_idle_without_a_word_lets_the_clock_jump_again() -> None:
    end = threading.Event()

    def work() -> None:
        time.sleep(WORK)
        end.wait()

    with VirtualTime(), running(work):
        await asyncio.sleep(600)
        end.set()


async def test_a_query_of_aiosqlite_takes_the_time_it_takes(tmp_path: Path) -> None:
    with VirtualTime() as virtual_time:
        async with aiosqlite.connect(tmp_path / "jobs.db") as database:
            async with asyncio.timeout(30):
                for _ in range(3):
                    async with database.execute(COUNTING) as cursor:
                        assert await cursor.fetchone() == (200_000,)
            await asyncio.sleep(600)
        assert 600 <= virtual_time.elapsed < 630
