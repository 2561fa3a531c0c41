"""The same work over many items, a bounded number at once, with one outcome each."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Final, Generic, Literal, TypeVar

from vpsbackups_async._bulk.meter import Meter, OnProgress
from vpsbackups_async._bulk.source import Source, open_source
from vpsbackups_async._checks import check_callable, check_int
from vpsbackups_async.errors import NotAttemptedError, VPSBackupsError
from vpsbackups_async.models import Outcome

__all__ = ["fan_out"]
K = TypeVar("K")
V = TypeVar("V")
OnError = Literal["collect", "stop"]
_SPARED_AT_A_TIME: Final = 64


def fan_out(
    work: Callable[[K], Awaitable[V]],
    items: Iterable[K] | AsyncIterable[K],
    *,
    concurrency: int | None = 64,
    on_error: OnError = "collect",
    on_progress: OnProgress | None = None,
) -> AsyncGenerator[Outcome[K, V]]:
    """One `Outcome` for each item, as each ends: its value, or the error that `work` raised.

    `items` is read lazily, and no further ahead of the reader than `concurrency`; None is without
    limit, and for waiting only: `fan_out(client.wait, backups, concurrency=None)`. If reading
    `items` fails, what runs is finished and handed out, then that error is raised. Leaving the loop
    early, or `aclose()`, cancels what runs and waits for its end.

    With `on_error="stop"` nothing is started after the first failure: what runs is finished and
    handed out, and every other item of the input gets a `NotAttemptedError` whose `__cause__` is
    that failure. Items are still read to their end; where they have none, leave the loop.

    `on_progress` is called with a `Progress` at most four times a second, and at the end. What it
    raises is logged once and stops nothing.

    Raises `ValueError` for a bad argument, `TypeError` for items that cannot be iterated.
    """
    if concurrency is not None:
        check_int("concurrency", concurrency)
    check_callable("work", work)
    meter = Meter(on_progress, items)
    return FanOut(work, open_source(items), concurrency, meter, on_error=on_error).outcomes()


class FanOut(Generic[K, V]):
    """What runs, and what is ready to be handed out."""

    def __init__(
        self,
        work: Callable[[K], Awaitable[V]],
        source: Source[K],
        concurrency: int | None,
        meter: Meter,
        *,
        on_error: OnError = "collect",
    ) -> None:
        if on_error not in {"collect", "stop"}:
            raise ValueError(f"on_error must be 'collect' or 'stop', not {on_error!r}")
        self._work = work
        self._source = source
        self._limit = math.inf if concurrency is None else concurrency
        self._meter = meter
        self._stops = on_error == "stop"
        self._halted_by: Exception | None = None
        self._why = ""  # one text for all: there may be a million of them
        self._spared = 0
        self._running: set[asyncio.Task[None]] = set()
        self._ready: deque[Outcome[K, V]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def running(self) -> int:
        """How many items are being worked on."""
        return len(self._running)

    def halt(self, error: Exception) -> None:
        """Start nothing any more: the rest of the items is not attempted because of this error."""
        if self._halted_by is None:
            self._halted_by = error
            self._why = f"not attempted, since the run was stopped by: {error}"

    async def outcomes(self) -> AsyncGenerator[Outcome[K, V]]:
        """One outcome for each item."""
        self._meter.running = self._running.__len__
        self._meter.begin()
        try:
            self._fill()
            self._meter.changed()
            while True:
                self._fill()
                if self._ready:
                    yield self._ready.popleft()
                    # A reader that never waits would let nothing else run before the items end.
                    if self._spared >= _SPARED_AT_A_TIME:
                        self._spared = 0
                        await asyncio.sleep(0)
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
            self._running.clear()
            self._halted_by = None  # its traceback leads back here
            self._meter.end()

    def _fill(self) -> None:
        """Start work on further items, as long as fewer than the limit run or wait to be read."""
        while not self._source.ended and len(self._running) + len(self._ready) < self._limit:
            taken = self._source.take(self._wake)
            if not taken:
                return
            if self._halted_by is not None:
                self._spare(taken[0])
                return  # one at a time: there is nothing to gain by being ahead
            task = asyncio.create_task(self._run(taken[0]))
            if not task.done():  # it may be where tasks begin eagerly
                self._running.add(task)

    def _spare(self, key: K) -> None:
        error = NotAttemptedError(self._why)
        error.__cause__ = self._halted_by
        self._spared += 1
        self._settle(Outcome(key, error=error))

    async def _run(self, key: K) -> None:
        # No local variable for an outcome: its error would lead back to it through this frame.
        if self._halted_by is not None:
            self._spare(key)
        else:
            try:
                self._settle(Outcome(key, await self._work(key)))
            except asyncio.CancelledError:
                if self._closing:
                    raise
                cancelled = VPSBackupsError(f"the work on {key!r} was cancelled")
                self._settle(Outcome(key, error=cancelled))
            except Exception as error:  # noqa: BLE001  # an outcome holds whatever the work raised
                self._settle(Outcome(key, error=error))
        # Not in a callback: the reader must never find a task here that will not wake it.
        self._running.discard(asyncio.current_task())
        self._wake()

    def _settle(self, outcome: Outcome[K, V]) -> None:
        self._ready.append(outcome)
        if outcome.error is None:
            self._meter.ok += 1
        else:
            self._meter.failed += 1
            if self._stops:
                self.halt(outcome.error)
        self._meter.changed()

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
