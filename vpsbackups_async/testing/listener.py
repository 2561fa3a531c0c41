"""The fake server's HTTP side: records requests, applies faults and sends the answers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from aiohttp import web

from .active_faults import ActiveFaults
from .clock import Clock, http_date
from .faults import Latency
from .knobs import Knobs
from .limits import Limits
from .replies import Raw, Sendable, deliver
from .seen import SeenRequest, record_status
from .views import Api

__all__ = ["Listener"]

# Iterations of the event loop until an accepted socket is a connection that can be cut: asyncio
# takes three.
ACCEPT_STEPS = 5

BACKLOG = 1024

# Every connection has been cut before the shutdown, so no request is worth waiting for.
SHUTDOWN_SECONDS = 0.05


class RequestLog(Protocol):
    """Stores the received requests; ``on_request``, if set, is called with each."""

    requests: list[SeenRequest]
    on_request: Callable[[SeenRequest], None] | None


class Listener:
    """The HTTP side of `FakeVPS`.

    ``url`` is None until the first start. ``errors`` collects exceptions raised while answering a
    request, for example by the caller's functions; the client only gets a 500.
    """

    def __init__(
        self, knobs: Knobs, api: Api, active_faults: ActiveFaults, clock: Clock, log: RequestLog
    ) -> None:
        self.url: str | None = None
        self.errors: list[Exception] = []
        self._knobs = knobs
        self._api = api
        self._active_faults = active_faults
        self._clock = clock
        self._log = log
        self._limits = Limits()
        self._number = 0
        self._port = knobs.port
        self._date = (0, "")
        self._delayed: set[asyncio.Future[None]] = set()
        self._late: set[asyncio.TimerHandle] = set()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._socket: socket.socket | None = None

    @property
    def peak(self) -> int:
        """The highest number of requests that were in flight at the same time."""
        return self._limits.peak

    async def start(self) -> None:
        """Listen on the knobs' port, or on the same port as before a `stop`."""
        if self._runner is not None:
            raise RuntimeError("the fake server runs already")
        knobs = self._knobs
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._server = web.Server(
            self._handle, access_log=None, keepalive_timeout=knobs.keepalive_seconds
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=SHUTDOWN_SECONDS)
        await self._runner.setup()
        self._socket = socket.create_server(("127.0.0.1", self._port), backlog=BACKLOG)
        site = web.SockSite(
            self._runner, self._socket, ssl_context=knobs.ssl_context, backlog=BACKLOG
        )
        await site.start()
        self._port = self._runner.addresses[0][1]
        scheme = "https" if knobs.ssl_context else "http"
        self.url = f"{scheme}://{knobs.host}:{self._port}{knobs.prefix.rstrip('/')}"

    async def stop(self) -> None:
        """Stop listening, cut every connection and end every request."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        self._closing = True
        for delayed in self._delayed:
            _wake(delayed)
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        # asyncio loses sockets that it has accepted just before its server is closed, so it accepts
        # none any more for a moment before that.
        if self._socket is not None:
            with suppress(NotImplementedError):  # Windows
                asyncio.get_running_loop().remove_reader(self._socket)
        for _ in range(ACCEPT_STEPS):
            await asyncio.sleep(0)
        self._drop_connections()
        await runner.cleanup()
        self._server = self._loop = None

    def drop_connections(self) -> None:
        """Cut every open connection; may be called from any thread."""
        if self._loop is None or self._thread == threading.get_ident():
            self._drop_connections()
        else:
            asyncio.run_coroutine_threadsafe(self._drop_connections_soon(), self._loop).result()

    async def _drop_connections_soon(self) -> None:
        self._drop_connections()

    def _drop_connections(self) -> None:
        for connection in self._server.connections if self._server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self._limits.track(self._knobs.max_concurrent) as admitted:
            body = await request.read() if request.body_exists else b""
            seen = self._record(request, body)
            try:
                sendable = await self._choose_reply(request, seen, admitted)
            except Exception as error:
                self.errors.append(error)
                record_status(seen, 500)
                raise
            disconnected = request.transport is None or request.transport.is_closing()
            if not disconnected and not isinstance(sendable, Raw):
                record_status(seen, sendable.status)
            common = {"Date": self._date_header(), "X-Request-ID": f"fake-{seen.number}"}
            return await deliver(request, sendable, common)

    def _record(self, request: web.BaseRequest, body: bytes) -> SeenRequest:
        self._number += 1
        url = request.rel_url
        seen = SeenRequest(
            number=self._number,
            method=request.method,
            path=url.path,
            target=request.raw_path,
            query=dict(url.query),
            headers=request.headers,
            body=body,
            at=self._clock(),
        )
        self._log.requests.append(seen)
        return seen

    async def _choose_reply(
        self, request: web.BaseRequest, seen: SeenRequest, admitted: bool
    ) -> Sendable:
        if self._log.on_request is not None:
            self._log.on_request(seen)
        refused = self._limits.refuse(
            admitted, self._knobs.rate_limit, seen.at, self._knobs.limit_status
        )
        if refused is not None:
            return refused
        sendable: Sendable
        delays, fault = self._active_faults.pick(seen)
        if delays:
            await self._delay(delays, "before", seen)
        if self._closing:
            return Raw()
        base = f"{request.scheme}://{request.host}"
        if fault is not None and fault.when != "after":
            if fault.when == "later":
                self._process_late(seen, base, fault.seconds_late(seen))
            sendable = fault.strike(None, self._now())
        else:
            sendable = answer = self._api.answer(seen, base)
            if fault is not None:
                sendable = fault.strike(answer, self._now())
        if delays:
            await self._delay(delays, "after", seen)
        return Raw() if self._closing else sendable

    async def _delay(self, delays: list[Latency], when: str, seen: SeenRequest) -> None:
        seconds = sum(latency.delay(seen) for latency in delays if latency.when == when)
        if seconds <= 0 or self._closing:
            return
        loop = asyncio.get_running_loop()
        # A future instead of a sleep, so that `stop` can end the delay without cancelling a task.
        delayed = loop.create_future()
        timer = loop.call_later(seconds, _wake, delayed)
        self._delayed.add(delayed)
        try:
            await delayed
        finally:
            timer.cancel()
            self._delayed.discard(delayed)

    def _process_late(self, seen: SeenRequest, base: str, seconds: float) -> None:
        """Process a request in so many seconds, when nobody waits for the answer any more."""

        def process() -> None:
            self._late.discard(timer)
            try:
                self._api.answer(seen, base)
            except Exception as error:  # noqa: BLE001  # the caller's functions may raise anything
                self.errors.append(error)

        timer = asyncio.get_running_loop().call_later(seconds, process)
        self._late.add(timer)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)

    def _date_header(self) -> str:
        second = int(self._clock() + self._knobs.date_ahead)
        if self._date[0] != second:
            self._date = (second, http_date(datetime.fromtimestamp(second, UTC)))
        return self._date[1]


def _wake(delayed: asyncio.Future[None]) -> None:
    # The timer and `stop` may both wake it in the same iteration of the loop.
    with suppress(asyncio.InvalidStateError):
        delayed.set_result(None)
