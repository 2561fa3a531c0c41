"""The items of a bulk job, read lazily."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterable, Sized
from itertools import islice
from operator import length_hint
from typing import Final, Generic, TypeVar

from vpsbackups_async.errors import VPSBackupsError

K = TypeVar("K")
_AT_A_TIME: Final = 1024
"""So many items are read in one go before other tasks get their turn."""


class Source(ABC, Generic[K]):
    """The items, and those of them that were read ahead."""

    error: Exception | None = None
    """What ended the reading early."""

    def __init__(self) -> None:
        self._ahead: deque[K] = deque()
        self._dry = False

    @property
    def ended(self) -> bool:
        """Whether there are no more items."""
        return self._dry and not self._ahead

    @property
    def known(self) -> int:
        """How many items there certainly are."""
        return len(self._ahead)

    @abstractmethod
    def take(self, wake: Callable[[], None]) -> list[K]:
        """One item if there is one now; `wake` is called when asking again makes sense."""

    @abstractmethod
    async def look_ahead(self, count: int, seconds: float) -> None:
        """Read until so many items are ahead, or the end, or for so long, whatever is first."""

    def take_ahead(self) -> deque[K]:
        """All that was read ahead."""
        ahead, self._ahead = self._ahead, deque()
        return ahead

    def stop(self) -> list[asyncio.Task[list[K]]]:
        """Stop reading; the tasks that must still end."""
        return []


class _Source(Source[K]):
    """Items that are there at once."""

    def __init__(self, items: Iterable[K]) -> None:
        super().__init__()
        self._items = iter(items)
        self._sized = isinstance(items, Sized)

    @property
    def known(self) -> int:
        """How many items there certainly are."""
        return len(self._ahead) + (length_hint(self._items) if self._sized else 0)

    def take(self, wake: Callable[[], None]) -> list[K]:  # noqa: ARG002  # the other source's
        """One item if there is one now; `wake` is called when asking again makes sense."""
        if self._ahead:
            return [self._ahead.popleft()]
        try:
            return [next(self._items)]
        except StopIteration:
            self._dry = True
        except Exception as error:  # noqa: BLE001  # whatever the caller's iterator raises
            self._dry, self.error = True, error
        return []

    async def look_ahead(self, count: int, seconds: float) -> None:  # noqa: ARG002  # at once
        """Read until so many items are ahead, or the end."""
        while not self._dry and (missing := count - len(self._ahead)) > 0:
            before = len(self._ahead)
            try:
                self._ahead.extend(islice(self._items, min(missing, _AT_A_TIME)))
            except Exception as error:  # noqa: BLE001  # whatever the caller's iterator raises
                self._dry, self.error = True, error
            else:
                self._dry = len(self._ahead) == before
            await asyncio.sleep(0)


class _AsyncSource(Source[K]):
    """Items that take time to come: one is read ahead."""

    def __init__(self, items: AsyncIterable[K]) -> None:
        super().__init__()
        self._items = aiter(items)
        self._coming: asyncio.Task[list[K]] | None = None
        self._stopped = False
        self._wake: Callable[[], None] | None = None

    def take(self, wake: Callable[[], None]) -> list[K]:
        """One item if there is one now; `wake` is called when asking again makes sense."""
        if self._ahead:
            return [self._ahead.popleft()]
        self._wake = wake
        coming = self._next()
        if not coming.done():
            return []
        self._coming = None
        return coming.result()

    async def look_ahead(self, count: int, seconds: float) -> None:
        """Read until so many items are ahead, or the end, or for so long, whatever is first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while not self._dry and len(self._ahead) < count:
            coming = self._next()
            await asyncio.wait([coming], timeout=max(0, end - loop.time()))
            if not coming.done():
                return
            self._coming = None
            self._ahead.extend(coming.result())

    def _next(self) -> asyncio.Task[list[K]]:
        if self._coming is None:
            self._coming = asyncio.create_task(self._read())
            self._coming.add_done_callback(self._arrived)
        return self._coming

    def _arrived(self, _: asyncio.Task[list[K]]) -> None:
        if self._wake is not None:
            self._wake()

    async def _read(self) -> list[K]:
        try:
            return [await anext(self._items)]
        except StopAsyncIteration:
            self._dry = True
        except asyncio.CancelledError:
            if self._stopped:
                raise
            self._dry, self.error = True, VPSBackupsError("the reading of the items was cancelled")
        except Exception as error:  # noqa: BLE001  # whatever the caller's iterator raises
            self._dry, self.error = True, error
        return []

    def stop(self) -> list[asyncio.Task[list[K]]]:
        """Stop reading; the tasks that must still end."""
        self._stopped = True
        if self._coming is None:
            return []
        self._coming.cancel()
        return [self._coming]


def open_source(items: Iterable[K] | AsyncIterable[K]) -> Source[K]:
    """The items, to be read as they are needed; raises `TypeError` where they cannot be."""
    return _AsyncSource(items) if isinstance(items, AsyncIterable) else _Source(items)
