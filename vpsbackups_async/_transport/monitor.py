"""Hands each moment of a client to its log, its events and its metrics."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from yarl import URL

from vpsbackups_async import _events
from vpsbackups_async._transport.calls import AttemptResult
from vpsbackups_async._transport.gates import GateWatch
from vpsbackups_async._transport.limiter import Guarded
from vpsbackups_async._transport.metrics import Instruments, instruments
from vpsbackups_async._transport.retry import RetryLog
from vpsbackups_async._wire import API_ROOT, Request
from vpsbackups_async.errors import VPSBackupsError

__all__ = ["Monitor"]

_HELD: Final = 0.001
"""Seconds below which a wait in line is only the event loop at work."""


class Monitor:
    """Tells `on_event` and OpenTelemetry what a client does.

    `emit` is None while nobody listens: then no event needs to be made. `waits` is how many waits
    run now.
    """

    def __init__(self, on_event: "_events.OnEvent | None" = None) -> None:
        self.emit: _events.OnEvent | None = None
        self.waits = 0
        self.server: Mapping[str, str | int] = {}
        self.guarded: Guarded | None = None
        self._on_event = on_event
        self._log = RetryLog()
        self._gates: GateWatch | None = None
        self._metrics: Instruments | None = None
        self._listen()

    def open(self, root: URL, limiter: Guarded) -> None:
        """Record metrics from now on, if a meter provider was set.

        For events, the gates of the limiter are watched.
        """
        self.guarded = limiter
        self._metrics = instruments()
        if self._metrics is not None:
            self.server = {"server.address": root.host or "", "server.port": root.port or 0}
            self._metrics.add(self)
        self._listen()
        if self.emit is not None:
            self._gates = GateWatch(limiter.closed_for, self.emit)

    def _listen(self) -> None:
        hearers = [] if self._on_event is None else [self._on_event]
        if self._metrics is not None:
            hearers.append(partial(self._metrics.hear, self.server))
        self.emit = _events.emitter(hearers) if hearers else None

    def close(self) -> None:
        """Record no metrics of the client's state any more."""
        if self._gates is not None:
            self._gates.stop()
            self._gates = None
        if self._metrics is not None:
            self._metrics.remove(self)

    # --- Moments of calls ------------------------------------------------------------------------

    def attempted(self, request: Request, result: AttemptResult, seconds: float) -> None:
        """Tell how an attempt ended, and what that made of the limiter's gates."""
        if result.tried and self.emit is not None:
            path = API_ROOT + request.path
            self.emit(
                _events.AttemptEnded(
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
            self.emit(
                _events.RetryScheduled(request.kind, request.method, path, attempt, error, pause)
            )

    def held(self, request: Request, seconds: float) -> None:
        """Tell how long a call was kept waiting."""
        if self.emit is not None and seconds >= _HELD:
            path = API_ROOT + request.path
            self.emit(_events.CallHeld(request.kind, request.method, path, seconds))
