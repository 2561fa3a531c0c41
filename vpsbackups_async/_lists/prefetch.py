"""Page requests that run ahead of the reader."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlencode

from vpsbackups_async.models import Page

Fetch = Callable[[str], Awaitable[Page]]
"""Gives the page for an encoded query."""
_MAX_DIGITS: Final = 18


class Prefetch:
    """Page requests that run ahead of the reader, in the order in which they will be read."""

    def __init__(self, fetch: Fetch, depth: int) -> None:
        self._fetch = fetch
        self._depth = depth
        self._tasks: deque[tuple[str, asyncio.Task[Page]]] = deque()

    async def take(self, query: str) -> Page:
        """The page for the query, from those under way if it was foreseen."""
        if self._tasks and _same_query(self._tasks[0][0], query):
            return await self._tasks.popleft()[1]
        await self.drop()
        return await self._fetch(query)

    def run(self, queries: Iterator[str]) -> None:
        """Let requests for the coming queries run, as many as the depth allows."""
        for place in range(self._depth):
            query = next(queries, None)
            if query is None:
                return
            if place >= len(self._tasks):
                self._tasks.append((query, asyncio.ensure_future(self._fetch(query))))

    async def drop(self) -> None:
        """Cancel what runs ahead, and wait until it has ended."""
        tasks = [task for _, task in self._tasks]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)


def _same_query(one: str, other: str) -> bool:
    return one == other or sorted(parse_qsl(one)) == sorted(parse_qsl(other))


def foresee(query: str, last: int | None, size: int) -> Iterator[str]:
    """The given query and those that will follow it, by counting up its `page` or `offset`.

    `last` is the server's total, `size` the length of the first page; without either, or with a
    cursor, which cannot be foreseen, only the given query comes.
    """
    yield query
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    if last is None or size < 1:
        return
    if (page := _number(pairs, "page")) is not None:
        for number in range(page + 1, -(-last // size) + 1):
            yield urlencode({**pairs, "page": number})
    elif (offset := _number(pairs, "offset")) is not None:
        step = _number(pairs, "limit") or size
        for place in range(offset + step, last, step):
            yield urlencode({**pairs, "offset": place})


def _number(pairs: Mapping[str, str], name: str) -> int | None:
    text = pairs.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None
