"""The same work over many items, a bounded number at once, with exactly one outcome for each."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from vpsbackups_async._checks import check_callable, check_int
from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.models import Outcome

__all__ = ["fan_out"]

K = TypeVar("K")
V = TypeVar("V")


def fan_out(
    work: Callable[[K], Awaitable[V]],
    items: Iterable[K] | AsyncIterable[K],
    *,
    concurrency: int | None = 64,
) -> AsyncGenerator[Outcome[K, V]]:
    """One `Outcome` for each item, as each ends: its value, or the error that `work` raised.

    `items` is read lazily, and no further ahead of the reader than `concurrency`; None is without
    limit, and for waiting only: `fan_out(client.wait, backups, concurrency=None)`. If reading
    `items` fails, what runs is finished and handed out, then that error is raised. Leaving the loop
    early, or `aclose()`, cancels what runs and waits for its end.

    Raises `ValueError` for a bad `concurrency`, `TypeError` for items that cannot be iterated.
    """
    if concurrency is not None:
        check_int("concurrency", concurrency)
    check_callable("work", work)
    source = _AsyncSource(items) if isinstance(items, AsyncIterable) else _Source(items)
    return _FanOut(work, source, concurrency).outcomes()


class _Source(Generic[K]):
    """Items that are there at once."""

    def __init__(self, items: Iterable[K]) -> None:
        self._items = iter(items)
        self.ended = False
        self.error: Exception | None = None

    def take(self, wake: Callable[[], None]) -> list[K]:  # noqa: ARG002  # the other source's
        """One item if there is one now; `wake` is called when asking again makes sense."""
        try:
            return [next(self._items)]
        except StopIteration:
            self.ended = True
        except Exception as error:  # noqa: BLE001  # whatever the caller's iterator raises
            self.ended, self.error = True, error
        return []

    def stop(self) -> list[asyncio.Task[list[K]]]:
        """Stop reading; the tasks that must still end."""
        return []


class _AsyncSource(Generic[K]):
    """Items that take time to come: one is read ahead."""

    def __init__(self, items: AsyncIterable[K]) -> None:
        self._items = aiter(items)
        self._coming: asyncio.Task[list[K]] | None = None
        self._stopped = False
        self.ended = False
        self.error: Exception | None = None

    def take(self, wake: Callable[[], None]) -> list[K]:
        """One item if there is one now; `wake` is called when asking again makes sense."""
        if self._coming is None:
            self._coming = asyncio.create_task(self._read())
            self._coming.add_done_callback(lambda _: wake())
        if not self._coming.done():
            return []
        coming, self._coming = self._coming, None
        return coming.result()

    async def _read(self) -> list[K]:
        try:
            return [await anext(self._items)]
        except StopAsyncIteration:
            self.ended = True
        except asyncio.CancelledError:
            if self._stopped:
                raise
            self.ended, self.error = True, VPSBackupsError("the reading of the items was cancelled")
        except Exception as error:  # noqa: BLE001  # whatever the caller's iterator raises
            self.ended, self.error = True, error
        return []

    def stop(self) -> list[asyncio.Task[list[K]]]:
        """Stop reading; the tasks that must still end."""
        self._stopped = True
        if self._coming is None:
            return []
        self._coming.cancel()
        return [self._coming]


class _FanOut(Generic[K, V]):
    """What runs, and what is ready to be handed out."""

    def __init__(
        self,
        work: Callable[[K], Awaitable[V]],
        source: _Source[K] | _AsyncSource[K],
        concurrency: int | None,
    ) -> None:
        self._work = work
        self._source = source
        self._limit = math.inf if concurrency is None else concurrency
        self._running: set[asyncio.Task[None]] = set()
        self._ready: deque[Outcome[K, V]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._closing = False

    async def outcomes(self) -> AsyncGenerator[Outcome[K, V]]:
        try:
            while True:
                self._fill()
                if self._ready:
                    yield self._ready.popleft()
                elif self._running or not self._source.ended:
                    await self._something()
                else:
                    break
            if self._source.error is not None:
                raise self._source.error
        finally:
            self._closing = True
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, *self._source.stop(), return_exceptions=True)

    def _fill(self) -> None:
        """Start work on further items, as long as fewer than the limit run or wait to be read."""
        while not self._source.ended and len(self._running) + len(self._ready) < self._limit:
            taken = self._source.take(self._wake)
            if not taken:
                return
            task = asyncio.create_task(self._run(taken[0]))
            self._running.add(task)

    async def _run(self, key: K) -> None:
        # No local variable for an outcome: its error would lead back to it through this frame.
        try:
            self._ready.append(Outcome(key, await self._work(key)))
        except asyncio.CancelledError:
            if self._closing:
                raise
            cancelled = VPSBackupsError(f"the work on {key!r} was cancelled")
            self._ready.append(Outcome(key, error=cancelled))
        except Exception as error:  # noqa: BLE001  # an outcome holds whatever the work raised
            self._ready.append(Outcome(key, error=error))
        # Not in a callback: the reader must never find a task here that will not wake it.
        self._running.discard(asyncio.current_task())
        self._wake()

    async def _something(self) -> None:
        """Return once something is ready, or the source has an item."""
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
