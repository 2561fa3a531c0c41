"""OpenTelemetry metrics of all clients, if the application has set up OpenTelemetry.

This module never imports it: as long as it is not loaded, no meter provider is set.
"""

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from vpsbackups_async import _events
from vpsbackups_async._transport.limiter import Guarded
from vpsbackups_async._version import __version__

__all__ = ["Instruments", "instruments"]

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""The buckets that the convention advises for `http.client.request.duration`."""
_LONG_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_KIND: Final = "vpsbackups.request.kind"


class _Watched(Protocol):
    """What metrics read of a client."""

    server: Mapping[str, str | int]
    guarded: Guarded | None
    waits: int


class Instruments:
    """The instruments of one meter provider, for all clients.

    Names and attributes of `http.client.request.duration` are those of the stable convention for
    HTTP clients (OpenTelemetry, semantic conventions 1.23), with one record for each attempt.
    """

    def __init__(self, provider: Any, observation: Any) -> None:
        self._observation = observation
        self._clients: WeakSet[_Watched] = WeakSet()
        self._lock = threading.Lock()  # readers of metrics run in a thread of their own
        meter = provider.get_meter("vpsbackups_async", __version__)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._held = meter.create_histogram(
            "vpsbackups.client.limiter.wait.duration",
            "s",
            "Time that calls which had to wait waited for the limiter.",
            explicit_bucket_boundaries_advisory=_LONG_SECONDS,
        )
        self._retries = meter.create_counter(
            "vpsbackups.client.retries", "{retry}", "Attempts that another one followed."
        )
        self._refused = meter.create_counter(
            "vpsbackups.client.rate_limited", "{response}", "Answers with status 429."
        )
        meter.create_observable_up_down_counter(
            "vpsbackups.client.waits", [self._waits], "{wait}", "Waits for backups that run now."
        )
        meter.create_observable_gauge(
            "vpsbackups.client.limiter.limit",
            [self._limits],
            "{request}",
            "The most requests that the limiter lets run at once now.",
        )

    def add(self, client: _Watched) -> None:
        """Read the numbers of this client too, as long as it lives and is not removed."""
        with self._lock:
            self._clients.add(client)

    def remove(self, client: _Watched) -> None:
        """Read the numbers of this client no more."""
        with self._lock:
            self._clients.discard(client)

    def hear(self, server: Mapping[str, str | int], event: "_events.Event") -> None:
        """Record an event of a client of this server."""
        if isinstance(event, _events.AttemptEnded):
            self._duration.record(event.seconds, {**server, **_attributes_of(event)})
            if event.status == 429:
                self._refused.add(1, {**server, _KIND: event.kind})
        elif isinstance(event, _events.RetryScheduled):
            status = getattr(event.error, "status", None)
            cause = type(event.error).__name__ if status is None else str(status)
            self._retries.add(1, {**server, _KIND: event.kind, "error.type": cause})
        elif isinstance(event, _events.CallHeld):
            self._held.record(event.seconds, {**server, _KIND: event.kind})

    def _waits(self, _: object) -> Iterator[Any]:
        for server, clients in self._by_server():
            yield self._observation(sum(client.waits for client in clients), server)

    def _limits(self, _: object) -> Iterator[Any]:
        for server, clients in self._by_server():
            guarded = [client.guarded for client in clients if client.guarded is not None]
            limiters = {id(one.limiter): one for one in guarded}
            limits = [one.count_of("limit") for one in limiters.values()]
            known = [limit for limit in limits if limit is not None]
            if known:
                yield self._observation(sum(known), server)

    def _by_server(self) -> Iterable[tuple[Mapping[str, str | int], list[_Watched]]]:
        """The clients by their servers, which are what tells their metrics apart."""
        with self._lock:
            clients = list(self._clients)
        servers: dict[tuple[object, ...], list[_Watched]] = {}
        for client in clients:
            servers.setdefault(tuple(client.server.values()), []).append(client)
        return [(those[0].server, those) for those in servers.values()]


def _attributes_of(attempt: "_events.AttemptEnded") -> dict[str, str | int]:
    attributes: dict[str, str | int] = {"http.request.method": attempt.method}
    if attempt.status is not None:
        attributes["http.response.status_code"] = attempt.status
    if attempt.error is not None:
        attributes["error.type"] = attempt.error.replace(" ", "_")
    elif attempt.status is not None and attempt.status >= 400:
        attributes["error.type"] = str(attempt.status)
    return attributes


_instruments: Final[WeakKeyDictionary[Any, Instruments]] = WeakKeyDictionary()


def instruments() -> Instruments | None:
    """The instruments of the meter provider that was set; None without one."""
    api = sys.modules.get("opentelemetry.metrics")
    if api is None:
        return None
    provider = api.get_meter_provider()
    # The stand-in until one is set; the API does not export its class.
    if type(provider).__name__ == "_ProxyMeterProvider":
        return None
    if provider not in _instruments:
        _instruments[provider] = Instruments(provider, api.Observation)
    return _instruments[provider]
