"""One run of a command: its event loop, its client, its signals and its log."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from vpsbackups_async._transport.secrets import Secret
from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.options import Common
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import safe
from vpsbackups_async.client import BackupsClient, ClientStats
from vpsbackups_async.events import OnEvent

__all__ = ["Session", "run_in"]

T = TypeVar("T")

_LOGGER = logging.getLogger("vpsbackups_async")


def _token(common: Common) -> str:
    """The token, wrapped so that no traceback shows it; raises `UsageError` if there is none."""
    if common.token_file is None:
        if "VPS_API_TOKEN" not in os.environ:
            raise UsageError("there is no token: set VPS_API_TOKEN, or give --token-file FILE")
        return Secret.wrap(os.environ["VPS_API_TOKEN"])
    try:
        return Secret.wrap(common.token_file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"cannot read the token file {str(common.token_file)!r}: {why}") from None


class _Log(logging.Handler):
    """Writes the log of the library to standard error, that of `retries` if asked for."""

    def __init__(self, session: "Session", *, retries: bool) -> None:
        super().__init__()
        self._session = session
        self._retries = retries

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is about a late create, whose backup `Tracker` names."""
        event = getattr(record, "event", None)
        if event is not None and event.backup is not None:
            return
        if self._retries or not hasattr(record, "attempt"):
            self._session.screen.note(safe(record.getMessage()), "dim")


def run_in(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work; raises `KeyboardInterrupt` after Ctrl-C and SIGTERM."""
    try:
        return runner.run(_with_sigterm(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _with_sigterm(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    # SIGTERM cancels the task itself instead of raising SIGINT, which background jobs of a shell
    # ignore. Windows has no such handlers, and only the main thread can set them.
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


class Session:
    """A client, and an event loop that a command enters as often as it needs; closes both.

    `on_event` is called with the client's events, those of `close()` included.
    """

    def __init__(self, common: Common, *, on_event: OnEvent | None = None) -> None:
        self.screen: Screen = Screen(quiet=common.quiet)
        self._common = common
        self._log = _Log(self, retries=common.verbose or common.debug)
        self._began = time.monotonic()
        self._runner = asyncio.Runner()
        self.client: BackupsClient = BackupsClient(
            _token(common), base_url=common.url, on_event=on_event
        )

    def stats(self) -> ClientStats:
        """The statistics of the client."""
        return self.client.stats

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work; raises `KeyboardInterrupt` after Ctrl-C and SIGTERM."""
        return run_in(self._runner, work)

    def __enter__(self) -> Self:
        _LOGGER.addHandler(self._log)
        self._level = _LOGGER.level
        _LOGGER.setLevel(logging.DEBUG if self._common.debug else logging.WARNING)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.do(self.client.close())
        finally:
            self._runner.close()
            _LOGGER.removeHandler(self._log)
            _LOGGER.setLevel(self._level)
        if self._common.verbose:
            self.screen.note(self._what_it_took())

    def _what_it_took(self) -> str:
        done = self.client.stats
        return (
            f"{done.requests:,} requests, {done.retries:,} of them repeated, "
            f"{done.rate_limited:,} refused with 429, {done.bytes_received:,} bytes received, "
            f"{self.elapsed:.1f} s"
        )
