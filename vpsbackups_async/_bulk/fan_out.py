"""Does the same work on many items, a limited number at once, with one outcome each."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final, Generic, Literal, TypeVar

from vpsbackups_async._bulk.meter import Meter, OnProgress
from vpsbackups_async._bulk.places import leaves_place
from vpsbackups_async._bulk.source import Source, open_source
from vpsbackups_async._checks import check_callable, check_int
from vpsbackups_async.errors import NotAttemptedError, VPSBackupsError
from vpsbackups_async.models import Outcome

__all__ = ["fan_out"]
K = TypeVar("K")
V = TypeVar("V")
OnError = Literal["collect", "stop"]
_SKIPPED_PER_TURN: Final = 64
"""Items skipped after a stop before other tasks get a turn."""


def fan_out(
    work: Callable[[K], Awaitable[V]],
    items: Iterable[K] | AsyncIterable[K],
    *,
    concurrency: int | None = 64,
    on_error: OnError = "collect",
    on_progress: OnProgress | None = None,
) -> AsyncGenerator[Outcome[K, V]]:
    """One `Outcome` for each item, in the order in which they end.

    An outcome has the value that `work(item)` returned, or the exception that it raised.

    `items` is an iterable or async iterable. It is read lazily, at most `concurrency` items ahead
    of the reader of the outcomes. `concurrency` is the number of items to work on at once; None
    means no limit and suits work that only waits:
    `fan_out(client.wait, backups, concurrency=None)`. If reading `items` raises, the running work
    is finished and its outcomes are returned before that exception is raised. Leaving the loop
    early, or `aclose()`, cancels the running work and waits until it has ended.

    With `on_error="stop"`, no work is started after the first failure. The running work is
    finished, and every further item gets an outcome with a `NotAttemptedError`, whose `__cause__`
    is that failure. The items are still read to their end; if they are endless, leave the loop.

    `on_progress` is called with a `Progress` at most four times a second, and at the end. An
    exception that it raises does not stop the work; the first one is logged.

    A `BaseException` that is no `Exception` (`pytest.fail()`, a group of such) ends the run: what
    runs is cancelled and waited for, then it is raised.

    Raises `ValueError` for a bad argument, `TypeError` if `items` is not iterable.
    """
    if concurrency is not None:
        check_int("concurrency", concurrency)
    check_callable("work", work)
    meter = Meter(on_progress, items)
    return FanOut(work, open_source(items), concurrency, meter, on_error=on_error).outcomes()


class FanOut(Generic[K, V]):
    """One run of `fan_out`: the running work, and the outcomes that are ready to be read.

    With `follow`, an item is worked on in two steps: `work(item)` starts something, as one of
    `concurrency` items at once, and `follow(value)` waits for its end, where it counts towards
    `max_running` only. So does work in a block `without_place`, if it `leaves_places`. `halts`
    tells which errors stop the run with either `on_error`.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[V]],
        source: Source[K],
        concurrency: int | None,
        meter: Meter,
        *,
        on_error: OnError = "collect",
        follow: Callable[[V], Awaitable[V]] | None = None,
        max_running: int | None = None,
        halts: Callable[[Exception], bool] | None = None,
        leaves_places: bool = False,
    ) -> None:
        if on_error not in {"collect", "stop"}:
            raise ValueError(f"on_error must be 'collect' or 'stop', not {on_error!r}")
        self._work = work
        self._follow = follow
        self._source = source
        self._limit = math.inf if concurrency is None else concurrency
        self._max_running = math.inf if max_running is None else max_running
        self._meter = meter
        self._halts = (lambda _: True) if on_error == "stop" else halts
        self._halted_by: Exception | None = None
        self._fatal: BaseException | None = None
        self._skip_reason = ""  # shared by all skipped items, which may be a million
        self._skipped = 0
        self._running: set[asyncio.Task[None]] = set()
        self._leaves_places = leaves_places
        self._waiting = 0  # of the running ones, those that take no place
        self._returning: deque[asyncio.Future[None]] = deque()  # those that need one again
        self._ready: deque[Outcome[K, V]] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._closing = False

    @property
    def running(self) -> int:
        """The number of items being worked on."""
        return len(self._running)

    def halt(self, error: Exception) -> None:
        """Start no further work: because of this error, the remaining items are skipped."""
        if self._halted_by is None:
            self._halted_by = error
            self._skip_reason = f"not attempted, since the run was stopped by: {error}"

    async def outcomes(self) -> AsyncGenerator[Outcome[K, V]]:
        """One outcome for each item, in the order in which they end."""
        self._meter.running = self._running.__len__
        self._meter.begin()
        try:
            self._fill()
            self._meter.changed()
            while True:
                if self._fatal is not None:
                    raise self._fatal
                self._fill()
                if self._ready:
                    yield self._ready.popleft()
                    # Skipping an item suspends nothing, so without this, a reader that never waits
                    # would keep other tasks from running until the items end.
                    if self._skipped >= _SKIPPED_PER_TURN:
                        self._skipped = 0
                        await asyncio.sleep(0)
                elif self._running or not self._source.ended:
                    await self._wait()
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
            self._halted_by = self._fatal = None  # their tracebacks refer to this object
            self._meter.end()

    def _fill(self) -> None:
        """Start work on further items, up to the limit of started items and unread outcomes."""
        while self._returning and self._has_place():
            place = self._returning.popleft()
            if not place.done():  # its work may just have been cancelled
                self._waiting -= 1
                place.set_result(None)
        while not self._source.ended and self._has_room():
            taken = self._source.take(self._wake)
            if not taken:
                return
            if self._halted_by is not None:
                self._skip(taken[0])
                self._meter.changed()
                return  # one at a time: reading further ahead gains nothing
            task = asyncio.create_task(self._run(taken[0]))
            if not task.done():  # with an eager task factory, it may have ended already
                self._running.add(task)

    def _has_room(self) -> bool:
        return self._has_place() and len(self._running) < self._max_running

    def _has_place(self) -> bool:
        started = len(self._running) - self._waiting
        return started + len(self._ready) < self._limit

    @asynccontextmanager
    async def _without_place(self) -> AsyncGenerator[None]:
        """A block in which the work on an item takes no place; see `without_place`."""
        self._waiting += 1
        self._meter.changed()
        self._wake()  # a place is free
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            yield
            self._returning.append(place)
            self._wake()
            await place
        finally:
            if not (place.done() and not place.cancelled()):
                self._waiting -= 1

    def _skip(self, key: K) -> None:
        """Add a `NotAttemptedError` outcome for an item that is not started."""
        error = NotAttemptedError(self._skip_reason)
        error.__cause__ = self._halted_by
        self._skipped += 1
        self._finish(Outcome(key, error=error))

    async def _run(self, key: K) -> None:
        # No local variable may hold an outcome: the traceback of its error holds this frame, so
        # that would be a reference cycle.
        if self._halted_by is not None:
            self._skip(key)
        else:
            if self._leaves_places:
                leaves_place.set(self._without_place)
            try:
                value = await self._work(key)
                if self._follow is not None:
                    self._waiting += 1
                    self._meter.changed()
                    self._wake()  # a place is free
                    try:
                        value = await self._follow(value)
                    finally:
                        self._waiting -= 1
                self._finish(Outcome(key, value))
            except asyncio.CancelledError:
                if self._closing:
                    raise
                cancelled = VPSBackupsError(f"the work on {key!r} was cancelled")
                self._finish(Outcome(key, error=cancelled))
            except Exception as error:  # noqa: BLE001  # the outcome holds any error of the work
                self._finish(Outcome(key, error=error))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # noqa: BLE001  # raised by the reader: it ends the run
                self._fatal = error
        # Not in a done callback, which runs later: the reader waits while `_running` is not empty,
        # so a task must leave it before it wakes the reader for the last time.
        self._running.discard(asyncio.current_task())
        try:
            self._meter.changed()
        except BaseException as error:  # noqa: BLE001  # of `on_progress`: raised by the reader
            self._fatal = error
        self._wake()

    def _finish(self, outcome: Outcome[K, V]) -> None:
        """Count an outcome and make it ready to be read; the caller reports the change."""
        self._ready.append(outcome)
        if outcome.error is None:
            self._meter.ok += 1
        else:
            self._meter.failed += 1
            if self._halts is not None and self._halts(outcome.error):
                self.halt(outcome.error)

    async def _wait(self) -> None:
        """Wait until an outcome is ready, or the source may have an item."""
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake(self) -> None:
        """End the reader's wait, if it waits."""
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
