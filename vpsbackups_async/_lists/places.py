"""Bounds how many servers' lists one client reads at once for given backups."""

import asyncio
import heapq
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeVar

from vpsbackups_async._lists.turns import Turn
from vpsbackups_async._transport.calls import SendState

__all__ = ["AT_ONCE", "Places"]

T = TypeVar("T")

_GOOD: Final = 16
"""The most lists in good standing that are read at once."""
_LATE: Final = 24
"""The most lists read beside those, of lists that were in good standing but do not answer."""
_SUSPECTED: Final = 8
"""The most lists read beside those, of lists that failed when they were last read."""
_LIMITED: Final = 1
"""The most lists read beside those, of lists that answered with a 429 when they were last read."""
AT_ONCE: Final = _GOOD + _LATE + _SUSPECTED + _LIMITED
_LATE_AFTER: Final = 3.0
"""Seconds without an answer after which a list is late, unless answers usually take half that."""
_CHECK_SECONDS: Final = 0.5
_REMEMBERED: Final = 32
"""The last answers, of which the fast ones tell how long answers usually take."""


class _Line:
    """A semaphore for so many at once, which lets those with the least turn in first."""

    def __init__(self, places: Callable[[], int]) -> None:
        self._places = places
        self._taken = 0
        self._numbers = count()
        self._waiting: list[tuple[Turn, int, asyncio.Future[None]]] = []  # a heap

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not future.done() for _, _, future in self._waiting)

    async def enter(self, turn: Turn, on_wait: Callable[[], object] | None = None) -> None:
        """Wait for a place; `on_wait` is called first if there is none yet."""
        if self._taken < self._places():
            self._taken += 1
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (turn, next(self._numbers), future))
        if on_wait is not None:
            on_wait()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave()  # the place came at the same moment
            raise

    def leave(self) -> None:
        """Give the place to the next in line, and those to others that there are by now."""
        self._taken -= 1
        while self._waiting and self._taken < self._places():
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)
                self._taken += 1


class _Place:
    """One list that is being read, its requests watched by `send`; `scope` can end that."""

    def __init__(self, send: SendState, scope: asyncio.Timeout) -> None:
        self.send = send
        self.scope = scope
        self.late = False

    def waited(self, now: float) -> float:
        """The seconds for which the request under way has had no answer."""
        return now - self.send.began[-1] if self.send.on_the_wire else 0.0


class Places:
    """The places for lists that are read at once, so that lists that hang keep no other out.

    A list in good standing whose request gets no answer leaves its place to the next list while
    others wait for one. It goes on as a late list; where there are too many of those, the oldest is
    given up. Time in line at the limiter is not counted. Lists that failed when they were last read
    have places of their own. Who waits for a place comes by its `Turn`. `limit` gives how many
    requests the limiter lets run at once, None if unknown: where that is little, lists that are
    late or failed have less places, so that they leave some of it to the others.
    """

    def __init__(self, limit: Callable[[], int | None] = lambda: None) -> None:
        self._limit = limit
        self._good = _Line(lambda: _GOOD)
        self._suspected = _Line(lambda: self._share(_SUSPECTED))
        self._limited = _Line(lambda: _LIMITED)
        self._reading: dict[_Place, None] = {}  # in good standing, not late
        self._late: deque[_Place] = deque()
        self._answers: deque[float] = deque(maxlen=_REMEMBERED)  # seconds of the last ones
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, work: Callable[[], Awaitable[T]], send: SendState, turn: Turn) -> T:
        """What the work returns, once there is a place; `send` watches the requests that it sends.

        Raises `TimeoutError` where it is given up.
        """
        if turn.limited or turn.failures:
            line = self._limited if turn.limited else self._suspected
            await line.enter(turn)
            try:
                return await work()
            finally:
                line.leave()
        await self._good.enter(turn, self._check_soon)
        async with asyncio.timeout(None) as scope:
            place = _Place(send, scope)
            self._reading[place] = None
            try:
                return await work()
            finally:
                self._leave(place)

    def answered(self, seconds: float) -> None:
        """Learn how long an answer took, from its request to its end."""
        self._answers.append(seconds)

    def _share(self, places: int) -> int:
        """So many places, or less by as much as the limit is below what all places take."""
        limit = self._limit()
        return places if limit is None else max(1, min(places, places * limit // AT_ONCE))

    def _usual(self) -> float:
        """The seconds within which a quarter of the last answers came.

        Not their mean: lists that are slow would then all keep their places.
        """
        answers = sorted(self._answers)
        return answers[len(answers) // 4] if answers else 0.0

    def _leave(self, place: _Place) -> None:
        if place.late:
            if place in self._late:
                self._late.remove(place)
        else:
            del self._reading[place]
            self._good.leave()

    def _check_soon(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_CHECK_SECONDS, self._check)

    def _check(self) -> None:
        """Let as many lists in as others are late; give up the oldest of too many late ones."""
        self._timer = None
        waiting = self._good.waiting
        if not waiting:
            return
        now = asyncio.get_running_loop().time()
        limit = max(_LATE_AFTER, 2 * self._usual())
        late = [place for place in self._reading if place.waited(now) >= limit]
        for place in late[:waiting]:
            del self._reading[place]
            place.late = True
            self._late.append(place)
            self._good.leave()
        while len(self._late) > self._share(_LATE):
            self._late.popleft().scope.reschedule(now)
        self._check_soon()
