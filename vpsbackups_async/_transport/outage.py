"""A server that takes no connections: one request of a client at a time tries to reach it."""

import asyncio
from contextlib import suppress

from vpsbackups_async._transport.refusals import Unreachable

__all__ = ["Outage"]


class Outage:
    """Tells which request may try to reach a server that was reached before and is away.

    It is of one client and not of its limiter, which clients of other servers may share. Times are
    in seconds of loop time.
    """

    def __init__(self) -> None:
        self.lasts = False
        """Whether no connection to the server can be made."""
        self._unreachable = Unreachable()
        self._trying = False
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()

    def fail(self, began: float, now: float) -> None:
        """Note that no connection was made for a request that began then."""
        self._unreachable.fail(began, now)
        self._note()

    def reach(self, began: float) -> None:
        """Note that a connection was made for a request that began then."""
        self._unreachable.reach(began)
        self._note()

    def _note(self) -> None:
        self.lasts = self._unreachable.lasts
        self._changed.set()

    def try_turn(self, now: float) -> bool:
        """Take the turn to try, until `end_turn`; False if the request has to wait for one."""
        if self._trying or now < self._unreachable.until:
            return False
        self._trying = True
        return True

    def end_turn(self) -> None:
        """Leave the turn to the next request."""
        self._trying = False
        self._changed.set()

    async def wait(self) -> None:
        """Return once a request may try, first come first served, or the server is back."""
        loop = asyncio.get_running_loop()
        async with self._line:
            while self.lasts and (self._trying or loop.time() < self._unreachable.until):
                self._changed.clear()
                until = None if self._trying else self._unreachable.until
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await self._changed.wait()
