"""SIGINT, SIGTERM and SIGHUP: each ends what runs in order, and gives the exit code of its name."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self, TypeVar

__all__ = ["OwnLoop", "Stopped", "catching", "run_in"]

T = TypeVar("T")

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What ends a command as Ctrl-C does. Windows has no SIGHUP."""


class Stopped(KeyboardInterrupt):
    """A signal ended the command; `code` is the exit code that shells give to it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code: int = 128 + number


def _raise(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # part of the protocol
    raise Stopped(number)


def _caught() -> list[signal.Signals]:
    """The signals to catch. One that is ignored stays so, as `nohup` wants SIGHUP to be."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def catching() -> Iterator[None]:
    """Raise `Stopped` in the block on a signal, also where no event loop runs."""
    before = {number: signal.signal(number, _raise) for number in _caught()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_in(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; raises `KeyboardInterrupt` after Ctrl-C, else `Stopped`.

    A signal cancels the task of the work instead of raising SIGINT, which background jobs of a
    shell ignore.
    """
    came: list[int] = []
    try:
        return runner.run(_stoppable(work, came))
    except asyncio.CancelledError:
        raise Stopped(came[0] if came else signal.SIGINT) from None


class OwnLoop:
    """An event loop that a command enters as often as it needs; `_close` is awaited at its end.

    `around` is entered with it, and left last.
    """

    def __init__(self, around: contextlib.AbstractContextManager[None]) -> None:
        self._around = around
        self._runner = asyncio.Runner()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; raises `KeyboardInterrupt` after Ctrl-C, SIGTERM and SIGHUP."""
        return run_in(self._runner, work)

    async def _close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._around.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.do(self._close())
        finally:
            self._runner.close()
            self._around.__exit__(None, None, None)


async def _stoppable(work: Coroutine[Any, Any, T], came: list[int]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # part of the protocol
        came.append(number)
        task.cancel()
        loop.call_soon_threadsafe(lambda: None)  # ends the loop's wait for sockets

    # Not `loop.add_signal_handler`: a signal after the end of this work would then be handed to the
    # next work, which closes the client.
    before = {number: signal.signal(number, stop) for number in _caught()}
    try:
        return await task
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
