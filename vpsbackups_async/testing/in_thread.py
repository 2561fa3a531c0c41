"""Runs an async context manager on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

__all__ = ["entered_in_thread"]


@contextmanager
def entered_in_thread(manager: AbstractAsyncContextManager[object]) -> Iterator[None]:
    """Enter ``manager`` in a new thread, and leave it there at the end of the block.

    Raises what entering it raises, and what leaving it raises unless the block has raised.
    """
    entered: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        async with manager:
            end = asyncio.Event()
            entered.set_result((asyncio.get_running_loop(), end))
            await end.wait()

    with ThreadPoolExecutor(1, thread_name_prefix=type(manager).__name__) as pool:
        ended = pool.submit(lambda: asyncio.run(run()))
        either: list[Future[Any]] = [entered, ended]
        wait(either, return_when=FIRST_COMPLETED)
        if not entered.done():
            ended.result()
        loop, end = entered.result()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(end.set)
        ended.result()
