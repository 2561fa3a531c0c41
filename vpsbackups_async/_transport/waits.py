"""Calls that wait in the limiter or in a pause, which end when the client is closed."""

from collections.abc import Iterator
from contextlib import contextmanager

from vpsbackups_async._transport.deadlines import Scope
from vpsbackups_async._transport.lines import Lines
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async._wire import Request
from vpsbackups_async.errors import ConfigurationError

__all__ = ["Waits", "closed_error"]


def closed_error() -> ConfigurationError:
    """The error for a call on a client that was closed."""
    return ConfigurationError(
        "the connection to the API is closed, or being closed", hint="Make a new BackupsClient"
    )


class Waits:
    """The waits of the calls of one session: those that settle creates, and the others."""

    def __init__(self, lines: Lines, monitor: Monitor) -> None:
        self._lines = lines
        self._monitor = monitor
        self._scopes: dict[bool, set[Scope]] = {True: set(), False: set()}
        self._ended: set[bool] = set()

    def end(self, *, settles: bool) -> None:
        """End the waits of calls that settle creates, or those of the others, for good."""
        self._ended.add(settles)
        for scope in tuple(self._scopes[settles]):
            scope.expire()

    @contextmanager
    def within(
        self,
        scope: Scope,
        request: Request | None = None,
        patience: float | None = None,
        *,
        settles: bool = False,
    ) -> Iterator[None]:
        """A block that waits in `scope`, and ends as soon as calls are refused.

        One that settles creates ends when the connections are closed. With a request the monitor is
        told how long that waited. With `patience` it also ends as soon as the limiter is closed for
        this kind of request for more than so many seconds. Raises `TimeoutError` when the scope
        ends it, and `ConfigurationError` when the client is closed.
        """
        waiting = line = self._scopes[settles]
        if request is not None and patience is not None:
            line = self._lines.of(request.kind, patience)
        waiting.add(scope)
        line.add(scope)
        is_told = request is not None and self._monitor.emit is not None
        began = scope.loop.time() if is_told else 0.0
        try:
            with scope:
                yield
        except TimeoutError:
            if scope.expired and settles in self._ended:
                raise closed_error() from None
            raise
        finally:
            waiting.discard(scope)
            line.discard(scope)
            if is_told and request is not None and not scope.loop.is_closed():
                self._monitor.held(request, scope.loop.time() - began)
