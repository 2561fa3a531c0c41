"""Timeouts for concurrent blocks, sharing one event-loop timer.

Nearly every request ends long before its timeout. A timer for each would cost more than all other
bookkeeping of a request; an entry in a heap costs little. The timer also stays when its block ends:
it serves the blocks that follow, and is set anew if it fires too early for them.
"""

import asyncio
import heapq
import itertools
import math
from types import TracebackType
from typing import Final, Self

__all__ = ["Deadlines", "Scope"]

_SLACK: Final = 64
"""Stale heap entries tolerated before a rebuild."""


class Scope:
    """A `with` block that raises `TimeoutError` at a given time, as `asyncio.timeout_at` does.

    Made by `Deadlines.until`; usable once, and only within a task.
    """

    __slots__ = ("_cancelling", "_deadlines", "_task", "expired", "when")

    def __init__(self, deadlines: "Deadlines", when: float) -> None:
        self._deadlines = deadlines
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self.when = when
        self.expired = False

    def __enter__(self) -> Self:
        self._task = task = asyncio.current_task(self._deadlines.loop)
        if task is None:
            raise RuntimeError("a deadline can only be kept within a task")
        self._cancelling = task.cancelling()
        self._deadlines.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        self._deadlines.leave()
        # If the task was cancelled from elsewhere as well, the cancellation must go on.
        if (
            self.expired
            and task is not None
            and task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise TimeoutError from error

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the block."""
        return self._deadlines.loop

    @property
    def runs(self) -> bool:
        """Whether the block is running."""
        return self._task is not None

    def expire(self) -> None:
        """End the block now, as if its time were over; no effect while it is not running."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()


class Deadlines:
    """The scopes of one event loop, and the timer for the earliest of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, Scope]] = []
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed = math.inf

    def until(self, when: float) -> Scope:
        """A `with` block that may run until `when`, in seconds of loop time."""
        return Scope(self, when)

    def close(self) -> None:
        """Cancel the timer, unless a block is running, which keeps its deadline."""
        if not self._running:
            self._disarm()

    def enter(self, scope: Scope) -> None:
        """Called when a block begins."""
        self._running += 1
        heapq.heappush(self._heap, (scope.when, next(self._numbers), scope))
        if scope.when < self._armed:
            self._arm()

    def leave(self) -> None:
        """Called when a block has ended."""
        self._running -= 1
        if not self._running:
            self._heap.clear()
        elif len(self._heap) > 2 * self._running + _SLACK:
            self._heap = [entry for entry in self._heap if entry[2].runs]
            heapq.heapify(self._heap)

    def _arm(self) -> None:
        """Set the timer for the earliest block that is still running."""
        self._disarm()
        while self._heap and not self._heap[0][2].runs:
            heapq.heappop(self._heap)
        if self._heap:
            self._armed = self._heap[0][0]
            self._timer = self.loop.call_at(self._armed, self._fire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._armed = math.inf

    def _fire(self) -> None:
        # The timer may fire early by the clock's resolution.
        now = max(self._armed, self.loop.time())
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2].expire()
        self._arm()
