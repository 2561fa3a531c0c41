"""A backup list in memory, split into pages, whose backups end by the event loop's clock."""

import asyncio
import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl

from attrs import evolve
from yarl import URL

from vpsbackups_async import Backup, BackupStatus, BackupType, Page, ServerRef
from vpsbackups_async._lists.lists import KnownLists, Lists
from vpsbackups_async._lists.search import Search
from vpsbackups_async._transport.secrets import Redactor

Order = Literal["newest", "oldest", "random"]
LATENCY = 0.05
"""Seconds that each request takes."""


class FakeList:
    """One running backup on each server, all started at the same time; counts the requests.

    `durations` are the seconds that each server's backup takes.
    """

    def __init__(
        self, durations: Sequence[float], *, page_size: int = 100, order: Order = "newest"
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._page_size = page_size
        self.requests = 0
        now = self._loop.time()
        begun = datetime.fromtimestamp(1_737_000_000 + now, UTC)
        self.ends = dict(enumerate((now + seconds for seconds in durations), 1))
        self.running = {number: _running(number, begun) for number in self.ends}
        self._completed: dict[int, Backup] = {}
        self._order = sorted(self.ends, reverse=order == "newest")
        if order == "random":
            random.Random(1).shuffle(self._order)

    def search(self) -> Search:
        """A search in this list, by the same code that a client uses."""
        return Search(Lists(self._fetch, KnownLists(URL("https://example.com"), Redactor())))

    async def _fetch(self, listing: object, hooks: object, query: str) -> Any:
        self.requests += 1
        await asyncio.sleep(LATENCY)
        asked = dict(parse_qsl(query))
        if "server_id" in asked:
            return Page((self._now(int(asked["server_id"])),), 1)
        number = int(asked.get("page", 1))
        first = (number - 1) * self._page_size
        ids = self._order[first : first + self._page_size]
        more = first + self._page_size < len(self._order)
        link = f"https://example.com/backups/?page={number + 1}" if more else None
        return Page(tuple(map(self._now, ids)), len(self._order), link)

    def _now(self, number: int) -> Backup:
        if self._loop.time() < self.ends[number]:
            return self.running[number]
        if number not in self._completed:
            self._completed[number] = evolve(
                self.running[number], status=BackupStatus.COMPLETED, size_mb=4000
            )
        return self._completed[number]


def _running(number: int, begun: datetime) -> Backup:
    return Backup(
        number,
        ServerRef(number, f"server-{number}"),
        BackupType.MANUAL,
        BackupStatus.IN_PROGRESS,
        None,
        begun,
        None,
        "",
    )


def durations(
    count: int, *, night: int, seed: int = 1, sigma: float = 0.5, noise: float = 0.1
) -> list[float]:
    """Seconds that each server's backup takes: lognormal with a median of 240.

    Each server has a typical duration, which depends on `seed` alone; `noise` varies it from night
    to night. `sigma` is that of the durations as a whole.
    """
    typical = random.Random(seed)
    tonight = random.Random(100 * seed + night)
    return [
        typical.lognormvariate(math.log(240), math.sqrt(sigma**2 - noise**2))
        * tonight.lognormvariate(0, noise)
        for _ in range(count)
    ]
