"""Hands each moment of a client to its log and its events."""

from typing import Final

from vpsbackups_async._transport.calls import AttemptResult
from vpsbackups_async._transport.gates import GateWatch
from vpsbackups_async._transport.retry import RetryLog
from vpsbackups_async._wire import API_ROOT, Request
from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.events import (
    AttemptEnded,
    CallHeld,
    OnEvent,
    RetryScheduled,
    emitter,
)

__all__ = ["Monitor"]

_HELD: Final = 0.001
"""Seconds below which a wait in line is only the event loop at work."""


class Monitor:
    """Tells `on_event` what a client does.

    `emit` is None while nobody listens: then no event needs to be made.
    """

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self.emit = emitter([] if on_event is None else [on_event])
        self._log = RetryLog()
        self._gates: GateWatch | None = None

    def open(self, limiter: object) -> None:
        """Watch the limiter for events."""
        if self.emit is not None:
            self._gates = GateWatch(limiter, self.emit)

    def close(self) -> None:
        """Tell of no gate any more."""
        if self._gates is not None:
            self._gates.stop()
            self._gates = None

    # --- Moments of calls ------------------------------------------------------------------------

    def attempted(self, request: Request, result: AttemptResult, seconds: float) -> None:
        """Tell how an attempt ended, and what that made of the limiter's gates."""
        if result.tried and self.emit is not None:
            path = API_ROOT + request.path
            self.emit(
                AttemptEnded(
                    request.kind,
                    request.method,
                    path,
                    result.number,
                    result.status,
                    result.error_type,
                    seconds,
                    result.size,
                )
            )
        if self._gates is not None:
            self._gates.hear(request.kind, result.status)

    def retrying(
        self, request: Request, attempt: int, error: VPSBackupsError, pause: float, now: float
    ) -> None:
        """Log and tell a failed attempt and the pause (s) before the next; `now` is loop time."""
        self._log.retrying(error, request.kind, attempt, pause, now)
        if self.emit is not None:
            path = API_ROOT + request.path
            self.emit(RetryScheduled(request.kind, request.method, path, attempt, error, pause))

    def held(self, request: Request, seconds: float) -> None:
        """Tell how long a call was kept waiting."""
        if self.emit is not None and seconds >= _HELD:
            path = API_ROOT + request.path
            self.emit(CallHeld(request.kind, request.method, path, seconds))
