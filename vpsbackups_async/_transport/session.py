"""What all calls of a client share: connections, the limiter, the retry budget, counters."""

import asyncio
import math
import ssl as ssl_module
from collections import defaultdict
from functools import lru_cache, partial
from typing import Final

from yarl import URL

from vpsbackups_async._transport.adaptive import shortcuts
from vpsbackups_async._transport.address import build_url, find_proxy
from vpsbackups_async._transport.calls import AttemptResult, Situation
from vpsbackups_async._transport.capacity import capacity_of, fitting_limiter
from vpsbackups_async._transport.deadlines import Deadlines
from vpsbackups_async._transport.exchange import Channel
from vpsbackups_async._transport.limiter import (
    Guarded,
    Limiter,
    Observation,
)
from vpsbackups_async._transport.lines import lines_of
from vpsbackups_async._transport.monitor import Monitor
from vpsbackups_async._transport.opening import (
    ClientSession,
    Connector,
    connector_of,
    detach,
    fitting_ssl,
    is_alone,
    open_session,
    own_middlewares,
    reuse_receive_buffers,
)
from vpsbackups_async._transport.outage import Outage
from vpsbackups_async._transport.quota import (
    RateLimitStatus,
    read_rate_limit,
    tells_rate_limit,
)
from vpsbackups_async._transport.retry import RetryBudget
from vpsbackups_async._transport.secrets import Redactor, Secret
from vpsbackups_async._transport.waits import Waits, closed_error
from vpsbackups_async._wire import Request, retry_after
from vpsbackups_async.errors import WrongEventLoopError

__all__ = ["Counters", "Session"]

_BUSY_SECONDS: Final = 60.0
"""For how long after a 503 that closed the limiter further ones are taken for pacing."""
_CACHED_URLS: Final = 256


class Counters:
    """What a client has done so far."""

    def __init__(self) -> None:
        self.requests = 0
        self.retries = 0
        self.rate_limited = 0
        self.bytes_received = 0


class Session:
    """What the calls of one client share, whatever their timeouts and retries.

    `given` is an aiohttp session of the caller's, `connector` one for a session of our own; what is
    the caller's is used and never closed. `keepalive` is
    how many seconds an idle connection is kept, `budget` the retries that all calls have in
    reserve, None for no limit.

    Raises `ConfigurationError` for an `ssl_context` that is none, a proxy that cannot be used or
    trusted, and a limiter that lets more requests through than the caller's connector has
    connections for.
    """

    def __init__(
        self,
        token: Secret,
        root: URL,
        *,
        keepalive: float,
        budget: float | None,
        limiter: Limiter | None,
        given: ClientSession | None,
        connector: Connector | None,
        ssl_context: ssl_module.SSLContext | None,
        proxy: Secret | None,
        allow_insecure: bool,
        max_response_bytes: int,
        monitor: Monitor | None = None,
    ) -> None:
        self.root = root
        self._ssl = fitting_ssl(ssl_context)
        shared = connector_of(given, connector)
        self.limiter = limiter = fitting_limiter(limiter, shared)
        self.guarded = Guarded(limiter)
        """The limiter where an error of its own must not end a call."""
        self.closed_for = self.guarded.closed_for
        """The seconds until the limiter lets a kind of request through again after a refusal."""
        self.capacity = capacity_of(shared)
        """The connections that clients with the same connector share; None for no limit."""
        short = shortcuts(limiter)
        self.try_acquire, self._try_end = short.try_acquire, short.try_end
        self.counters = Counters()
        self.accepted = 0
        """Answers other than 429 and 5xx, which show that the server takes requests."""
        self.accepted_of: defaultdict[str, int] = defaultdict(int)
        """The same by kind of request."""
        self.rate_limit: RateLimitStatus | None = None
        """What the server told of its rate limit last."""
        self._busy_until = -math.inf
        self.outage = Outage()
        self.budget = RetryBudget(budget)
        self.monitor = Monitor() if monitor is None else monitor
        self.channel: Channel | None = None
        """How requests are sent; None before the session is opened and once it refuses calls."""
        self._last_channel: Channel | None = None  # for what settles creates after that
        self._deadlines: Deadlines | None = None
        self._lines = lines_of(limiter)
        self.waits = Waits(self._lines, self.monitor)
        self.refuses = False
        """Whether the client is being closed, or was."""
        self._token = token
        self._given = given
        self._connector = connector
        self._keepalive = keepalive
        self._proxy = find_proxy(proxy, root, allow_insecure=allow_insecure)
        self.plain_proxy = self._proxy is not None and root.scheme == "http"
        """Whether requests go through a proxy that may answer them itself."""
        self.mask = Redactor(token, *([] if self._proxy is None else [self._proxy.password]))
        """Masks the secrets in what comes from the server; for errors and logs, not for data."""
        self._max_bytes = max_response_bytes
        # Each URL caches what aiohttp asks it for, such as the Host header. Not a method: a client
        # in a reference cycle with its session would outlive its event loop.
        self._url = lru_cache(_CACHED_URLS)(partial(build_url, root))

    def __repr__(self) -> str:
        return f"<Session with {self.root}>"

    # --- Open and closed -------------------------------------------------------------------------

    def open(self, *, settles: bool = False) -> Deadlines:
        """Be ready to send in the running event loop, from the first use on; the loop's deadlines.

        Raises `WrongEventLoopError` in any other loop, `ConfigurationError` once calls are refused;
        for what settles creates, once the connections are closed.
        """
        loop = asyncio.get_running_loop()
        if self._deadlines is None:
            self._deadlines = Deadlines(loop)
        elif self._deadlines.loop is not loop:
            raise WrongEventLoopError("this client was opened in another event loop")
        if self.channel is None:
            if self.refuses:
                self.channel_for(settles=settles)
            else:
                self.channel = self._open_channel()
                self.monitor.open(self.root, self.guarded)
                reuse_receive_buffers()
        return self._deadlines

    def _open_channel(self) -> Channel:
        headers = {
            "Authorization": Secret(f"Bearer {self._token}"),
            "Accept": "application/json",
        }
        # With a proxy the session must not have them: aiohttp would send them to it as well.
        complete = None
        if self._given is None and self._proxy is None:
            complete = {"Host": str(self.root.host_port_subcomponent), **headers}
            headers = {}
        session = unused = self._given or open_session(self._keepalive, self._connector, complete)
        if self._given is None and self._connector is None:
            unused = open_session(None, None, complete)
        headers_kind = type(session.headers)  # aiohttp would make one of a dict for each request
        return Channel(
            session,
            unused,
            complete is not None and is_alone(session),
            own_middlewares(session),
            self.mask,
            self._url,
            headers_kind(headers),
            headers_kind({**headers, "Content-Type": "application/json"}),
            self._ssl,
            None if self._proxy is None else self._proxy.url,
            self._max_bytes,
        )

    def channel_for(self, *, settles: bool) -> Channel:
        """How a request is sent; raises `ConfigurationError` once it is refused."""
        channel = self._last_channel if settles and self.refuses else self.channel
        if channel is None:
            raise closed_error()
        return channel

    def refuse(self) -> None:
        """Refuse all calls from now on, and end those that wait, but for what settles creates."""
        if not self.refuses:
            self.refuses = True
            self._last_channel, self.channel = self.channel, None
        self.waits.end(settles=False)

    async def close(self) -> None:
        """Close the connections if they are not the caller's; nothing can be sent after that."""
        self.refuse()
        channel, self._last_channel = self._last_channel, None
        self.monitor.close()
        self.waits.end(settles=True)
        if channel is not None and channel.session is not self._given:
            try:
                await channel.unused.close()
            finally:  # also if it is cancelled
                await channel.session.close()
        if self._deadlines is not None:
            self._deadlines.close()

    def abandon(self) -> bool:
        """Drop the connections of a client that was never closed; whether there were any."""
        channel = self._last_channel if self.refuses else self.channel
        self.channel = self._last_channel = None
        if channel is None or channel.session is self._given:
            return False
        if self._connector is not None:
            channel.session.detach()
            return False
        loop = None if self._deadlines is None else self._deadlines.loop
        closing = [detach(session) for session in (channel.session, channel.unused)]
        for close in filter(None, closing):
            if loop is not None and loop.is_running():
                loop.call_soon_threadsafe(close)  # the collector may run in any thread
            else:
                close()
        return any(closing)

    # --- The limiter -----------------------------------------------------------------------------

    def situation(self, kind: str, now: float) -> Situation:
        """What the rules need to know of the session at a loop time (s)."""
        return Situation(
            now,
            self.accepted,
            self.closed_for(kind),
            self.accepted_of[kind],
            now < self._busy_until,
        )

    @property
    def closed_by(self) -> int:
        """The status of the answer that closed the limiter last, to any client that shares it."""
        return self._lines.closed_by

    def observe(self, request: Request, result: AttemptResult, elapsed: float) -> None:
        """Count an attempt and tell the limiter how it ended, after `elapsed` seconds."""
        status, kind = result.status, request.kind
        is_refusal = status in {429, 503}
        closed_before = self.closed_for(kind) if is_refusal else 0.0
        self.counters.bytes_received += result.size
        if status is not None:
            if tells_rate_limit(result.headers):
                self.rate_limit = read_rate_limit(result.headers) or self.rate_limit
            if status != 429 and status < 500:
                self.accepted += 1
                self.accepted_of[kind] += 1
        if not self._try_end(status):
            asked = retry_after(result.headers) if is_refusal else None
            self.guarded.observe(Observation(kind, 1, status, asked, elapsed))
        if self.capacity is not None:
            self.capacity.observe(Observation(kind))
        if self.outage.lasts or status is None:
            self._hear_reached(result.reached, elapsed)
        if status is not None and is_refusal:
            self._hear_refusal(kind, status, closed_before)
        if self.monitor.emit is not None:
            self.monitor.attempted(request, result, elapsed)

    def give_back(self, kind: str) -> None:
        """Tell the limiter, and who shares the connections, of a request that is not sent."""
        self.guarded.observe(Observation(kind))
        if self.capacity is not None:
            self.capacity.observe(Observation(kind))

    def _hear_reached(self, reached: bool | None, elapsed: float) -> None:
        """Note whether a connection was made; one that never was may have a wrong address."""
        now = asyncio.get_running_loop().time()
        if reached:
            self.outage.reach(now - elapsed)
        elif reached is False and self.accepted:
            self.outage.fail(now - elapsed, now)

    def _hear_refusal(self, kind: str, status: int, closed_before: float) -> None:
        """Send those in line away that would not wait so long, once the limiter heard of it."""
        self.counters.rate_limited += status == 429
        closed_for = self.closed_for(kind)
        if closed_for > closed_before:
            self._lines.closed_by = status
        if status == 503 and closed_for > 0:
            self._busy_until = asyncio.get_running_loop().time() + _BUSY_SECONDS
        self._lines.send_away(self.closed_for)
