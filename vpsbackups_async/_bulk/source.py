"""The items of a bulk job, read lazily."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from itertools import islice
from operator import length_hint
from typing import Any, Final, Generic, TypeVar

from vpsbackups_async.errors import VPSBackupsError

K = TypeVar("K")
_ITEMS_PER_TURN: Final = 1024
"""Items read from an iterable before other tasks get a turn."""


class Source(ABC, Generic[K]):
    """Reads the items of a bulk job, one at a time or some ahead."""

    error: Exception | None = None
    """The error that ended the reading early, None if there was none."""

    def __init__(self, key: Callable[[Any], K]) -> None:
        self._key = key
        self._ahead: deque[K] = deque()
        self._exhausted = False

    @property
    def ended(self) -> bool:
        """Whether no item is left to take, because the items ended or reading them failed."""
        return self._exhausted and not self._ahead

    @property
    def known(self) -> int:
        """How many items are left at least: those read ahead."""
        return len(self._ahead)

    @abstractmethod
    def take(self, wake: Callable[[], None]) -> list[K]:
        """A list with one item, or an empty one if no item is available now.

        After an empty list, `wake` is called when it is time to ask again, unless `ended` is True.
        """

    @abstractmethod
    async def look_ahead(self, count: int, seconds: float) -> None:
        """Read until `count` items are ahead, the items end, or `seconds` have passed."""

    def take_ahead(self) -> deque[K]:
        """Take all items that have been read ahead."""
        ahead, self._ahead = self._ahead, deque()
        return ahead

    def stop(self) -> list[Awaitable[object]]:
        """Stop reading; returns what the caller must await."""
        return []


class _Source(Source[K]):
    """The items of an iterable, which are available at once."""

    def __init__(self, items: Iterable[Any], key: Callable[[Any], K]) -> None:
        super().__init__(key)
        self._items = iter(items)
        self._sized = isinstance(items, Sized)

    @property
    def known(self) -> int:
        """How many items are left at least: those read ahead, and the rest of a sized iterable."""
        return len(self._ahead) + (length_hint(self._items) if self._sized else 0)

    def take(self, wake: Callable[[], None]) -> list[K]:  # noqa: ARG002  # never waits
        """A list with one item, or an empty one at the end."""
        if self._ahead:
            return [self._ahead.popleft()]
        try:
            return [self._key(next(self._items))]
        except StopIteration:
            self._exhausted = True
        except Exception as error:  # noqa: BLE001  # the caller's iterator may raise anything
            self._exhausted, self.error = True, error
        return []

    async def look_ahead(self, count: int, seconds: float) -> None:  # noqa: ARG002  # never waits
        """Read until `count` items are ahead or the items end; lets other tasks run meanwhile."""
        while not self._exhausted and (missing := count - len(self._ahead)) > 0:
            before = len(self._ahead)
            try:
                some = islice(self._items, min(missing, _ITEMS_PER_TURN))
                self._ahead.extend(map(self._key, some))
            except Exception as error:  # noqa: BLE001  # the caller's iterator may raise anything
                self._exhausted, self.error = True, error
            else:
                self._exhausted = len(self._ahead) == before
            await asyncio.sleep(0)


class _AsyncSource(Source[K]):
    """The items of an async iterable; a task reads the next one ahead."""

    def __init__(self, items: AsyncIterable[Any], key: Callable[[Any], K]) -> None:
        super().__init__(key)
        self._items = aiter(items)
        self._opened = self._items is not items  # an iterator that is given may be read further
        self._pending: asyncio.Task[list[K]] | None = None
        self._stopped = False
        self._wake: Callable[[], None] | None = None

    def take(self, wake: Callable[[], None]) -> list[K]:
        """A list with one item, or an empty one; then `wake` is called when the next is read."""
        if self._ahead:
            return [self._ahead.popleft()]
        self._wake = wake
        pending = self._next()
        if not pending.done():
            return []
        self._pending = None
        return pending.result()

    async def look_ahead(self, count: int, seconds: float) -> None:
        """Read until `count` items are ahead, the items end, or `seconds` have passed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self._exhausted and len(self._ahead) < count:
            pending = self._next()
            await asyncio.wait([pending], timeout=max(0, end - loop.time()))
            if not pending.done():
                return
            self._pending = None
            self._ahead.extend(pending.result())

    def _next(self) -> asyncio.Task[list[K]]:
        if self._pending is None:
            self._pending = asyncio.create_task(self._read())
            self._pending.add_done_callback(self._on_read)
        return self._pending

    def _on_read(self, _: asyncio.Task[list[K]]) -> None:
        if self._wake is not None:
            self._wake()

    async def _read(self) -> list[K]:
        try:
            return [self._key(await anext(self._items))]
        except StopAsyncIteration:
            self._exhausted = True
        except asyncio.CancelledError:
            if self._stopped:
                raise
            self._exhausted = True
            self.error = VPSBackupsError("the reading of the items was cancelled")
        except Exception as error:  # noqa: BLE001  # the caller's iterator may raise anything
            self._exhausted, self.error = True, error
        return []

    def stop(self) -> list[Awaitable[object]]:
        """Stop reading; returns what the caller must await."""
        self._stopped = True
        if self._pending is not None:
            self._pending.cancel()
        return [self._close()]

    async def _close(self) -> None:
        if self._pending is not None:
            await asyncio.gather(self._pending, return_exceptions=True)
        if self._opened and isinstance(self._items, AsyncGenerator):
            await self._items.aclose()


def _same(item: K) -> K:
    return item


def open_source(
    items: Iterable[Any] | AsyncIterable[Any], key: Callable[[Any], K] = _same
) -> Source[K]:
    """A source that reads the items lazily, each as its key.

    Raises `TypeError` if they are not iterable.
    """
    return _AsyncSource(items, key) if isinstance(items, AsyncIterable) else _Source(items, key)
