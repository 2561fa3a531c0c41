"""How far a run is, shown by looks at its database while others, or this command, work on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from vpsbackups_async.cli.fleets import Fleets
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.client import ClientStats
from vpsbackups_async.durable import RunProgress
from vpsbackups_async.errors import ConfigurationError, DatabaseError
from vpsbackups_async.models import Progress

__all__ = ["EVERY", "Watched", "watching"]

EVERY: Final = 1.0
"""Seconds between two looks at the database."""


class Watched:
    """What a display shows of a run, made within an event loop; `first` is how far it was then."""

    def __init__(self, first: RunProgress) -> None:
        self._first = first
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    def shown(self, now: RunProgress) -> Progress:
        """The counts, with the rate since then."""
        seconds = self._clock() - self._began
        failed = now.failed + now.unknown + now.cancelled
        return Progress(
            now.ended,
            now.completed,
            failed,
            now.running,
            now.total,
            seconds * now.ended / max(1, now.ended - self._first.ended),
        )


@asynccontextmanager
async def watching(fleets: Fleets, name: str, what: str) -> AsyncIterator[None]:
    """Show how far the run of this name is while the block works on it; `what` names the work."""
    async with Display(fleets.screen, what, ClientStats) as display:
        task = asyncio.create_task(_follow(fleets, name, display))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _follow(fleets: Fleets, name: str, display: Display) -> None:
    watched = Watched(await fleets.fleet.progress(name))
    while True:
        # A database that is away ends the worker, and is told of then.
        with suppress(ConfigurationError, DatabaseError):
            display.update(watched.shown(await fleets.fleet.progress(name)))
        await asyncio.sleep(EVERY)
