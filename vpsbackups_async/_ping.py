"""Pings to a monitor, by the convention of healthchecks.io."""

import asyncio
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from queue import Empty, Queue
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

__all__ = ["check_ping", "ping", "ping_beside"]

_SECONDS: Final = 10.0
"""The total timeout of a ping, its second try included."""
_TRIES: Final = 2
_MOST: Final = 10_000
"""The most bytes that are sent; the convention's own limit is 100,000."""


def check_ping(url: str) -> SplitResult:
    """The parts of a URL to ping; raises `ValueError` unless it is an http or https URL."""
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname:
            return parts
    except ValueError:  # a broken IPv6 address
        pass
    raise ValueError("--ping takes an http or https URL")


def ping(parts: SplitResult, ending: str, text: str) -> Exception | None:
    """Send a ping to the URL with this ending; why it failed, None if it did not.

    It blocks for 10 seconds at most, whatever the monitor does.
    """
    failures: Queue[Exception | None] = Queue()
    _start(parts, ending, text, failures.put)
    try:
        return failures.get(timeout=_SECONDS)
    except Empty:
        return _late()


async def ping_beside(parts: SplitResult, ending: str, text: str) -> Exception | None:
    """As `ping`, without blocking the event loop."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exception | None] = loop.create_future()

    def end(failure: Exception | None) -> None:
        if not ended.done():
            ended.set_result(failure)

    def tell(failure: Exception | None) -> None:
        with suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(end, failure)

    _start(parts, ending, text, tell)
    try:
        async with asyncio.timeout(_SECONDS):
            return await ended
    except TimeoutError:
        return _late()


def _start(
    parts: SplitResult, ending: str, text: str, tell: Callable[[Exception | None], object]
) -> None:
    """Send a ping in a thread, which calls `tell`.

    A timeout of `urlopen` is for each read, and a monitor that answers byte by byte holds a thread
    for hours. So it is none of a pool, and nothing waits for it at the end of the process.
    """
    threading.Thread(
        target=lambda: tell(_sent(parts, ending, text)), name="vpsbackups-ping", daemon=True
    ).start()


def _sent(parts: SplitResult, ending: str, text: str) -> Exception | None:
    path = parts.path.rstrip("/") + ending
    url = urlunsplit(parts._replace(path=path, fragment=""))
    body = text.encode("utf-8", "replace")[:_MOST]
    failure: Exception | None = None
    end = time.monotonic() + _SECONDS
    for _ in range(_TRIES):
        left = end - time.monotonic()
        if failure is not None and left <= 0:
            break  # nobody waits for it any longer
        try:
            request = urllib.request.Request(url, body, method="POST")  # noqa: S310  # http(s) only, see above
            with urllib.request.urlopen(request, timeout=left):  # noqa: S310  # likewise
                return None
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            failure = error
    return failure


def _late() -> TimeoutError:
    return TimeoutError(f"the monitor did not answer within {_SECONDS:g} s")
