"""Virtual time for asyncio's own event loop: its clock skips the time spent waiting."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from socket import SO_ACCEPTCONN, SOL_SOCKET, socket
from types import TracebackType
from typing import Any, Self

from .threads import OtherThreads

__all__ = ["VirtualTime"]

# Seconds. On some systems bytes on loopback arrive only a moment after `send` has returned.
LOOPBACK_DELAY = 0.0002

# Seconds between two looks at threads and processes, which may end without waking the loop.
LOOK_EVERY = 0.005


class VirtualTime:
    """Virtual time for the running event loop: waiting ten minutes takes no real time.

        with VirtualTime() as virtual_time:
            await asyncio.sleep(600)
        assert virtual_time.elapsed == 600

    The loop's clock stands still while code runs. It jumps to the next timer as soon as nothing is
    left to do and no bytes are in transit. Clients and servers on the same loop talk to each other
    over real sockets. While something outside of the loop works (a thread, a subprocess, or a
    connection to a peer outside of the loop), the clock runs at real speed.

    A thread works if it runs, sleeps, reads or writes, and one that was there before the block only
    once it has moved. It does not work while it waits for a lock, a queue or another thread, on its
    own event loop or for a connection; if such a wait ends by itself, nothing shows that the loop
    has to wait for it. The same is true of threads without Python code, and of processes that the
    loop has not started. `asyncio.wrap_future` makes the clock run at real speed until its future
    is done, whoever works for it.

    The clock starts at 0 on a new loop that has no timers, and at the loop's own time otherwise.
    After the block it continues from there at real speed. `time.time`, `time.monotonic` and
    `datetime.now` are not changed.

    Entering the block raises RuntimeError if no loop is running, if the loop is not an
    `asyncio.SelectorEventLoop` (uvloop's is not), or if it is on virtual time already.
    """

    _loop: Any = None

    def __enter__(self) -> Self:
        loop = self._loop = _checked(asyncio.get_running_loop())
        self._outside = _OutsideWork(loop)
        self._poll = loop._selector.select
        is_new = "time" not in vars(loop) and not loop._scheduled
        self._started_at = self._now = 0.0 if is_new else loop.time()
        self._patches = ExitStack()
        self._patch(loop, "time", self._time)
        self._patch(loop._selector, "select", self._select)
        self._patch(loop, "create_future", self._outside.create_future)
        self._patch(loop, "call_soon_threadsafe", self._outside.call_soon_threadsafe)
        self._patch(loop, "subprocess_exec", self._outside.subprocess_exec)
        self._patch(loop, "subprocess_shell", self._outside.subprocess_shell)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._patches.close()
        # The clock must not jump on a loop that other tests use too.
        real_time = type(self._loop).time.__get__(self._loop)
        ahead = self._now - real_time()
        self._loop.time = lambda: real_time() + ahead

    @property
    def elapsed(self) -> float:
        """Seconds of virtual time since the block was entered, rounded to microseconds.

        Raises RuntimeError if the block has not been entered.
        """
        if self._loop is None:
            raise RuntimeError("virtual time is not on")
        return round(self._now - self._started_at, 6)

    def _time(self) -> float:
        return self._now

    def _select(self, timeout: float | None) -> Any:
        events = self._poll(0)
        if events or timeout == 0:
            return events
        if self._outside.works():
            timeout = LOOK_EVERY if timeout is None else min(timeout, LOOK_EVERY)
            began = time.monotonic()
            events = self._poll(timeout)
            self._advance(time.monotonic() - began if events else timeout)
            return events
        if timeout is None:
            return self._poll(None)
        if self._outside.has_connections:
            time.sleep(LOOPBACK_DELAY)  # a selector's timeout has only millisecond resolution
        # Once more in any case: a thread may have woken the loop and stopped working meanwhile.
        events = self._poll(0)
        if not events:
            self._advance(timeout)
        return events

    def _advance(self, seconds: float) -> None:
        # Round to microseconds, so that many short waits add up exactly. Never round down: the
        # clock would stay just short of a timer, which would then never fire.
        then = self._now + seconds
        self._now = max(then, round(then, 6))

    def _patch(self, target: Any, name: str, value: Any) -> None:
        if name in vars(target):
            self._patches.callback(setattr, target, name, vars(target)[name])
        else:
            self._patches.callback(delattr, target, name)
        setattr(target, name, value)


def _checked(loop: Any) -> Any:
    if not isinstance(loop, asyncio.SelectorEventLoop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise RuntimeError(f"virtual time needs an asyncio.SelectorEventLoop, not {kind}")
    if isinstance(getattr(loop.time, "__self__", None), VirtualTime):
        raise RuntimeError("the event loop is on virtual time already")
    return loop


class _OutsideWork:
    """Keeps track of threads, subprocesses and connections that a loop may wait for."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._create_future = loop.create_future
        self._call_soon_threadsafe = loop.call_soon_threadsafe
        self._subprocess_exec = loop.subprocess_exec
        self._subprocess_shell = loop.subprocess_shell
        self._threads = OtherThreads()
        self._wrapped: set[asyncio.Future[Any]] = set()
        self._processes: list[asyncio.SubprocessTransport] = []
        self._local_addresses: set[Any] = set()
        self.has_connections = False

    def create_future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._create_future()
        # `run_in_executor` calls `wrap_future` too.
        if sys._getframe(1).f_code is asyncio.wrap_future.__code__:
            self._wrapped.add(future)
            future.add_done_callback(self._wrapped.discard)
        return future

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self._threads.follow_current()
        handle: asyncio.Handle = self._call_soon_threadsafe(*args, **kwargs)
        return handle

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        return self._track(await self._subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        return self._track(await self._subprocess_shell(*args, **kwargs))

    def _track(self, started: tuple[Any, Any]) -> tuple[Any, Any]:
        transport, _protocol = started
        self._processes.append(transport)
        return started

    def works(self) -> bool:
        """Whether anything outside of the loop may work; also updates `has_connections`."""
        self._processes = [each for each in self._processes if each.get_returncode() is None]
        try:
            pairs = list(self._address_pairs())
        except OSError:  # a pipe, or a connection that is still being opened
            return True
        self.has_connections = bool(pairs)
        # Addresses are never removed: a peer that was on this loop and has closed its end is not
        # outside of the loop either.
        self._local_addresses.update(local for local, _ in pairs)
        return (
            bool(self._wrapped or self._processes)
            or any(peer not in self._local_addresses for _, peer in pairs)
            or self._threads.work()
        )

    def _address_pairs(self) -> Iterator[tuple[Any, Any]]:
        """The local and peer address of every connection.

        Raises OSError for a descriptor that has no such addresses.
        """
        watched = set(self._loop._selector.get_map())
        for descriptor, transport in list(self._loop._transports.items()):
            # Closed transports stay in the mapping until they are garbage-collected.
            if transport.get_extra_info("socket").fileno() == descriptor:
                yield transport.get_extra_info("sockname"), transport.get_extra_info("peername")
                watched.discard(descriptor)
        for descriptor in watched - {self._loop._ssock.fileno()}:
            yield from _addresses_of(descriptor)


def _addresses_of(descriptor: int) -> Iterator[tuple[Any, Any]]:
    connection = socket(fileno=descriptor)
    try:
        if not connection.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
            yield connection.getsockname(), connection.getpeername()
    finally:
        connection.detach()
