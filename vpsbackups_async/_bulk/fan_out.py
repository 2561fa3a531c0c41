"""The same work over many items, a bounded number at once, with exactly one outcome for each."""

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Sized
from itertools import islice
from operator import length_hint
from typing import Final, Generic, Literal, TypeVar

from vpsbackups_async._checks import check_callable, check_int
from vpsbackups_async.errors import NotAttemptedError, VPSBackupsError
from vpsbackups_async.models import Outcome, Progress

__all__ = ["fan_out"]

logger = logging.getLogger("vpsbackups_async")

K = TypeVar("K")
V = TypeVar("V")

OnError = Literal["collect", "stop"]
OnProgress = Callable[[Progress], object]

_REPORT_EVERY: Final = 0.25
_AT_A_TIME: Final = 1024
"""So many items are read in one go before other tasks get their turn."""
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


class Meter:
    """Counts how the items end, and tells the caller now and then."""

    def __init__(self, on_progress: OnProgress | None, items: object) -> None:
        if on_progress is not None:
            check_callable("on_progress", on_progress)
        self.ok = 0
        self.failed = 0
        self.running: Callable[[], int] = int
        self._on_progress = on_progress
        self._total = len(items) if isinstance(items, Sized) else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._start = self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    def begin(self) -> None:
        """The clock starts."""
        self._loop = asyncio.get_running_loop()
        self._start = self._due = self._loop.time()

    def changed(self) -> None:
        """Something was counted: report it now, or as soon as a report is due again."""
        if self._on_progress is None or self._timer is not None or self._loop is None:
            return
        if self._loop.time() >= self._due:
            self._report()
        else:
            self._timer = self._loop.call_at(self._due, self._report)

    def end(self) -> None:
        """The last report, whatever it shows."""
        if self._timer is not None:
            self._timer.cancel()
        self._report()

    def _report(self) -> None:
        self._timer = None
        if self._on_progress is None or self._loop is None:
            return
        now = self._loop.time()
        self._due = now + _REPORT_EVERY
        done = self.ok + self.failed
        progress = Progress(
            done, self.ok, self.failed, self.running(), self._total, now - self._start
        )
        try:
            self._on_progress(progress)
        except Exception:  # a report must never cost the run
            if not self._warned:
                self._warned = True
                logger.warning("on_progress failed; the run goes on", exc_info=True)


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
