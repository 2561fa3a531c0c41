"""Page requests that run ahead of the reader."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final, Generic, TypeAlias, TypeVar
from urllib.parse import parse_qsl, urlencode

from vpsbackups_async._lists.seen import Identified
from vpsbackups_async.models import Page

__all__ = ["Fetch", "Prefetch", "predict"]

T = TypeVar("T", bound=Identified)

Fetch: TypeAlias = Callable[[str], Awaitable[Page[T]]]
"""Gives the page for an encoded query."""

_MAX_DIGITS: Final = 18


class Prefetch(Generic[T]):
    """Page requests that run ahead of the reader, in the order in which they will be read."""

    def __init__(self, fetch: Fetch[T], depth: int) -> None:
        self._fetch = fetch
        self._depth = depth
        self._tasks: deque[tuple[str, asyncio.Task[Page[T]]]] = deque()

    async def take(self, query: str) -> Page[T]:
        """The page for the query: a request under way if it was predicted, else a new one."""
        if self._tasks and _same_query(self._tasks[0][0], query):
            return await self._tasks.popleft()[1]
        await self.cancel()
        return await self._fetch(query)

    def start(self, queries: Iterator[str]) -> None:
        """Start requests for the coming queries, as many as the depth allows."""
        for place in range(self._depth):
            query = next(queries, None)
            if query is None:
                return
            if place >= len(self._tasks):
                self._tasks.append((query, asyncio.ensure_future(self._fetch(query))))

    async def cancel(self) -> None:
        """Cancel the requests that run ahead, and wait until they have ended."""
        tasks = [task for _, task in self._tasks]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _same_query(one: str, other: str) -> bool:
    return one == other or sorted(parse_qsl(one)) == sorted(parse_qsl(other))


def predict(query: str, total: int | None, size: int) -> Iterator[str]:
    """The given query and those that will follow it, by counting up its `page` or `offset`.

    `total` is the server's count of items, `size` the length of the first page. Without either, or
    with a cursor, only the given query is known.
    """
    yield query
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    if total is None or size < 1:
        return
    if (page := _number(pairs, "page")) is not None:
        for number in range(page + 1, -(-total // size) + 1):
            yield urlencode({**pairs, "page": number})
    elif (offset := _number(pairs, "offset")) is not None:
        step = _number(pairs, "limit") or size
        for place in range(offset + step, total, step):
            yield urlencode({**pairs, "offset": place})


def _number(pairs: Mapping[str, str], name: str) -> int | None:
    text = pairs.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None
