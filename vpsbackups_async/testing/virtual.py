"""Virtual time on asyncio's own event loop: what would be slept through is skipped."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from socket import SO_ACCEPTCONN, SOL_SOCKET, socket
from types import TracebackType
from typing import Any, Self

__all__ = ["VirtualTime"]

# Bytes on loopback arrive before `send` returns on some systems and a moment later on others.
ON_THEIR_WAY = 0.0002


class VirtualTime:
    """Virtual time for the running event loop: a wait of ten minutes takes no time.

        with VirtualTime() as virtual_time:
            await asyncio.sleep(600)
        assert virtual_time.elapsed == 600

    The loop's clock stands still while code runs, and jumps to the next timer as soon as nothing
    is left to do and no byte is under way. Clients and servers of the same loop talk to each other
    over real sockets. While the loop also waits for something outside, a thread, a subprocess, or
    a connection whose other end is elsewhere, its clock goes at the real pace.

    It starts at 0 on a loop without timers, and else where the loop's clock is. Afterwards the
    loop's clock goes on at the real pace from where it is. `time.time`, `time.monotonic` and
    `datetime.now` are left alone.

    Raises RuntimeError outside of a running loop, on a loop that is no `asyncio.SelectorEventLoop`
    (uvloop's, for example), and on one that is on virtual time already.
    """

    _loop: Any = None

    def __enter__(self) -> Self:
        loop = self._loop = _fitting(asyncio.get_running_loop())
        self._outside = _Outside(loop)
        self._poll = loop._selector.select
        is_new = "time" not in vars(loop) and not loop._scheduled
        self._began = self._now = 0.0 if is_new else loop.time()
        self._put_back = ExitStack()
        self._put(loop, "time", self._time)
        self._put(loop._selector, "select", self._select)
        self._put(loop, "run_in_executor", self._outside.run_in_executor)
        self._put(loop, "subprocess_exec", self._outside.subprocess_exec)
        self._put(loop, "subprocess_shell", self._outside.subprocess_shell)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._put_back.close()
        # A loop that other tests use too must not see its clock jump.
        real_time = type(self._loop).time.__get__(self._loop)
        ahead = self._now - real_time()
        self._loop.time = lambda: real_time() + ahead

    @property
    def elapsed(self) -> float:
        """Seconds of virtual time since the start, in whole microseconds.

        Raises RuntimeError before the start.
        """
        if self._loop is None:
            raise RuntimeError("virtual time is not on")
        return round(self._now - self._began, 6)

    def _time(self) -> float:
        return self._now

    def _select(self, timeout: float | None) -> Any:
        events = self._poll(0)
        if events or timeout == 0:
            return events
        if self._outside.is_awaited():
            began = time.monotonic()
            events = self._poll(timeout)
            took = time.monotonic() - began
            self._move_on(took if events or timeout is None else timeout)
            return events
        if timeout is None:
            return self._poll(None)
        if self._outside.has_connections:
            time.sleep(ON_THEIR_WAY)  # a selector's own timeout is in whole milliseconds
            events = self._poll(0)
        if not events:
            self._move_on(timeout)
        return events

    def _move_on(self, seconds: float) -> None:
        # In whole microseconds, so that many short waits add up to a long one; but never short of
        # a timer by a rounding, for who waits until a moment would wait for ever.
        then = self._now + seconds
        self._now = max(then, round(then, 6))

    def _put(self, target: Any, name: str, value: Any) -> None:
        if name in vars(target):
            self._put_back.callback(setattr, target, name, vars(target)[name])
        else:
            self._put_back.callback(delattr, target, name)
        setattr(target, name, value)


def _fitting(loop: Any) -> Any:
    if not isinstance(loop, asyncio.SelectorEventLoop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise RuntimeError(f"virtual time needs an asyncio.SelectorEventLoop, not {kind}")
    if isinstance(getattr(loop.time, "__self__", None), VirtualTime):
        raise RuntimeError("the event loop is on virtual time already")
    return loop


class _Outside:
    """What a loop waits for that does not happen in the loop itself."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._run_in_executor = loop.run_in_executor
        self._subprocess_exec = loop.subprocess_exec
        self._subprocess_shell = loop.subprocess_shell
        self._threads: set[asyncio.Future[Any]] = set()
        self._processes: list[asyncio.SubprocessTransport] = []
        self._here: set[Any] = set()
        anyio_threads = sys.modules.get("anyio.to_thread")
        self._anyio_threads = anyio_threads and anyio_threads.current_default_thread_limiter()
        self.has_connections = False

    def run_in_executor(self, *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._run_in_executor(*args)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        return future

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        return self._started(await self._subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        return self._started(await self._subprocess_shell(*args, **kwargs))

    def _started(self, process: Any) -> Any:
        self._processes.append(process[0])
        return process

    def is_awaited(self) -> bool:
        """Whether anything outside is under way; `has_connections` is up to date afterwards."""
        self._processes = [each for each in self._processes if each.get_returncode() is None]
        try:
            ends = list(self._ends())
        except OSError:  # a pipe, or a connection in the making
            return True
        self.has_connections = bool(ends)
        # An end whose other end was here and is closed has nothing to wait for outside.
        self._here.update(name for name, _ in ends)
        return (
            bool(self._threads or self._processes)
            or bool(self._anyio_threads and self._anyio_threads.borrowed_tokens)
            or any(peer not in self._here for _, peer in ends)
        )

    def _ends(self) -> Iterator[tuple[Any, Any]]:
        """Both ends of every connection. Raises OSError for what has no two ends."""
        watched = set(self._loop._selector.get_map())
        for descriptor, transport in list(self._loop._transports.items()):
            # Those that are closed stay until the garbage is collected.
            if transport.get_extra_info("socket").fileno() == descriptor:
                yield transport.get_extra_info("sockname"), transport.get_extra_info("peername")
                watched.discard(descriptor)
        for descriptor in watched - {self._loop._ssock.fileno()}:
            yield from _ends_of(descriptor)


def _ends_of(descriptor: int) -> Iterator[tuple[Any, Any]]:
    connection = socket(fileno=descriptor)
    try:
        if not connection.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
            yield connection.getsockname(), connection.getpeername()
    finally:
        connection.detach()
