"""The only room that touches aiohttp's client: one session, one send, the retry loop around it.

Nothing of aiohttp leaves it: not an exception, not a response, not a frame that holds the token.
"""

import asyncio
import math
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import aiohttp
from attrs import define
from multidict import CIMultiDict
from yarl import URL

from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.address import Secret, build_url, proxy_url
from vpsbackups_async._transport.deadlines import Deadlines, Scope
from vpsbackups_async._transport.limiter import Limiter, Observation, closed_for, count_of
from vpsbackups_async._transport.retry import (
    RetryBudget,
    RetryLog,
    RetryPolicy,
    asked_pause,
    is_ambiguous,
    may_send_again,
)
from vpsbackups_async._transport.telemetry import call_span, is_traced, tag_attempt
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._version import __version__
from vpsbackups_async._wire import API_ROOT, Request, Response, decipher, retry_after
from vpsbackups_async.backoff import Attempt
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidResponseError,
    NotFoundError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WrongEventLoopError,
)

__all__ = ["Transport"]

_ERROR_BODY_BYTES: Final = 64 * 1024
_DNS_CACHE_SECONDS: Final = 300
_DEFAULT_CONCURRENCY: Final = 64
_USER_AGENT: Final = f"vpsbackups_async/{__version__} aiohttp/{aiohttp.__version__}"
_URLS: Final = 256
"""So many URLs are kept for the next request to them."""
_MORE_THAN_A_RECEIVE: Final = 2**19
_GATE_SLACK: Final = 0.1
"""Seconds that a pause may seem longer than the gate is closed, as time goes on in between."""
_NO_HEADERS: Final[Mapping[str, str]] = {}

E = TypeVar("E", bound=VPSBackupsError)


@define(eq=False, repr=False)
class Counters:
    """What a client has done so far."""

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    bytes_received: int = 0


# --- What aiohttp says, in words -----------------------------------------------------------------

_WORDS: Final[Sequence[tuple[type[Exception], Callable[[Any], str]]]] = (
    (
        aiohttp.ClientConnectorCertificateError,
        lambda error: (
            f"the certificate of {error.host} is not trusted ({error.certificate_error}); for a CA "
            "of your own pass ssl_context=ssl.create_default_context(cafile=...)"
        ),
    ),
    (aiohttp.ConnectionTimeoutError, lambda _: "no connection within Timeouts.connect"),
    (
        aiohttp.ServerDisconnectedError,
        lambda _: "the server closed the connection without an answer",
    ),
    (
        aiohttp.ClientPayloadError,
        lambda _: "the connection ended in the middle of the answer",
    ),
    (
        aiohttp.ClientHttpProxyError,
        lambda error: f"the proxy refused with status {error.status}",
    ),
    (TimeoutError, str),
    (aiohttp.ClientResponseError, lambda error: f"the answer is not HTTP: {error.message}"),
    (Exception, lambda error: f"{type(error).__name__}: {error}"),
)


class _Failed(Exception):  # noqa: N818  # never leaves this room
    """A failure of aiohttp in words; the exception itself goes, for its frames hold headers."""

    def __init__(self, error: Exception) -> None:
        super().__init__(next(words(error) for kind, words in _WORDS if isinstance(error, kind)))
        self.timeout = isinstance(error, TimeoutError)
        self.never_again = isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch
        )
        self.misuse = isinstance(error, aiohttp.InvalidURL) or not isinstance(
            error, aiohttp.ClientError | OSError
        )


class _Exchange:
    """One attempt: what is known of it, whether it fails or not.

    It is aiohttp's client middleware for its own request: aiohttp sends a GET or DELETE whose
    connection broke once more by itself, unless a middleware changes the exception's type; and only
    there can be seen whether the request was written at all.
    """

    __slots__ = ("body", "failed", "headers", "late", "number", "sent", "size", "status", "whole")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = False
        self.status: int | None = None
        self.headers: Mapping[str, str] = _NO_HEADERS
        self.body = b""
        self.size = 0
        self.whole = False
        self.failed: _Failed | None = None
        self.late = False

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        if self.number > 1:
            tag_attempt(self.number)
        try:
            return await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            failed = _Failed(error)
        finally:
            # aiohttp sets it right after the request line and headers were handed to the socket.
            self.sent = request.response is not None
        raise failed

    async def read(self, content: aiohttp.StreamReader, cap: int) -> None:
        """Take in the decoded body, counted as it comes: a small gzip can hold gigabytes."""
        chunks: list[bytes] = []
        try:
            while self.size <= cap and (chunk := await content.readany()):
                self.size += len(chunk)
                chunks.append(chunk)
        finally:
            self.body = b"".join(chunks)
        self.whole = self.size <= cap


@define(eq=False, repr=False)
class Flight:
    """What a caller of `send` may see and say while it runs.

    `in_air` is True while an attempt is on its way, so that the server may be doing the work.
    Setting `grounded` lets an attempt that is on its way end, and none follow.
    """

    in_air: bool = False
    grounded: bool = False


@define(eq=False, repr=False)
class _Call:
    """One call's way through its attempts."""

    request: Request
    flight: Flight | None
    deadlines: Deadlines
    started: float
    deadline: float
    borne: int
    attempts: int = 0
    spent: int = 0
    pause: float | None = None
    ambiguous: bool = False
    final: bool = False
    last_failure: VPSBackupsError | None = None

    def error(self, kind: Callable[..., E], words: str, sent: bool, *more: object) -> E:
        """An error about this call as it stands."""
        request = self.request
        return kind(words, sent, request.method, API_ROOT + request.path, self.attempts, *more)


def _closed_error() -> ConfigurationError:
    return ConfigurationError("this client is closed: make a new BackupsClient")


def _reuse_receive_buffers() -> None:
    """Let glibc serve the event loop's receives from memory that the process has already.

    asyncio receives into 256 KiB at a time, which glibc maps anew for each, with a page fault for
    every 4 KiB used, until it has seen a larger block freed (mallopt(3), M_MMAP_THRESHOLD).
    """
    bytes(_MORE_THAN_A_RECEIVE)


def _never() -> bool:
    return False


def _fitting_limiter(limiter: Limiter | None, session: aiohttp.ClientSession | None) -> Limiter:
    """A limiter that lets no more through than the session has connections for.

    Where aiohttp queues, its wait for a connection would count as time of the request.
    """
    connector = None if session is None else session.connector
    limits = [] if connector is None else [connector.limit, connector.limit_per_host]
    room = min((limit for limit in limits if limit), default=None)
    if limiter is None:
        return AdaptiveLimiter(
            _DEFAULT_CONCURRENCY if room is None else min(room, _DEFAULT_CONCURRENCY)
        )
    wanted = count_of(limiter, "maximum")
    if room is not None and wanted is not None and wanted > room:
        raise ConfigurationError(
            f"the limiter lets {wanted} requests through at once, but the session's connector has "
            f"room for {room} connections: raise its limit or lower the limiter's maximum"
        )
    return limiter


class Transport:
    """Sends requests to one API as one user, again where that is safe, and gives whole replies."""

    def __init__(
        self,
        token: Secret,
        root: URL,
        *,
        timeouts: Timeouts,
        retry: RetryPolicy,
        limiter: Limiter | None,
        session: aiohttp.ClientSession | None,
        ssl_context: ssl_module.SSLContext | None,
        proxy: str | None,
        max_response_bytes: int,
    ) -> None:
        self.root = root
        if not isinstance(ssl_context, ssl_module.SSLContext | None):
            # aiohttp would take False for "do not verify".
            raise ConfigurationError(
                f"ssl_context must be an ssl.SSLContext or None, not {ssl_context!r}"
            )
        self.timeouts = timeouts
        self.counters = Counters()
        self._token = token
        self._retry = retry
        self._budget = RetryBudget(retry.budget)
        self._log = RetryLog()
        self._in_line: set[Scope] = set()
        self._borne = 0  # answers that were no refusal for pace
        self._limiter = _fitting_limiter(limiter, session)
        # A subclass or wrapper must see every request in its `acquire`.
        own = self._limiter
        self._try_acquire = own.try_acquire if type(own) is AdaptiveLimiter else _never
        self._given_session = session
        self._session: aiohttp.ClientSession | None = None
        self._deadlines: Deadlines | None = None
        self._closed = False
        self._ssl = ssl_context or True
        self._proxy = None if proxy is None else Secret(proxy)  # it may hold a password
        self._max_bytes = max_response_bytes
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=timeouts.connect, ceil_threshold=math.inf
        )
        # Each keeps what aiohttp asks it for, such as the host's header. Not a method: a client in
        # a cycle with its transport would outlive its event loop.
        self._url = lru_cache(_URLS)(partial(build_url, root))
        self._headers: CIMultiDict[str] = CIMultiDict(
            {"Authorization": Secret(f"Bearer {token}"), "Accept": "application/json"}
        )
        self._body_headers: CIMultiDict[str] = CIMultiDict(self._headers)
        self._body_headers["Content-Type"] = "application/json"

    def __repr__(self) -> str:
        return f"<Transport to {self.root}>"

    @property
    def limiter(self) -> Limiter:
        """What lets requests through."""
        return self._limiter

    def closed_for(self, kind: str | None = None) -> float:
        """The seconds until the limiter lets requests of this kind through again after a 429."""
        return closed_for(self._limiter, kind)

    # --- The session ---------------------------------------------------------------------------

    def open(self) -> Deadlines:
        """Be ready to send, from first use on in the running event loop; the deadlines kept there.

        Raises `WrongEventLoopError` in any other loop, `ConfigurationError` once closed.
        """
        loop = asyncio.get_running_loop()
        if self._deadlines is None:
            self._deadlines = Deadlines(loop)
        elif self._deadlines.loop is not loop:
            raise WrongEventLoopError("this client was opened in another event loop")
        if self._session is None:
            if self._closed:
                raise _closed_error()
            self._proxy = proxy_url(self._proxy, self.root)
            self._session = self._given_session or self._new_session()
            _reuse_receive_buffers()
        return self._deadlines

    def _new_session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate counts; aiohttp must never queue
            ttl_dns_cache=_DNS_CACHE_SECONDS,
            keepalive_timeout=self.timeouts.keepalive,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT},
            trust_env=False,  # it would read .netrc as well
        )

    async def close(self) -> None:
        """Close the session if it is ours; no request can be sent after that."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None and session is not self._given_session:
            await session.close()

    def abandon(self) -> bool:
        """Drop the session of a client that was never closed; whether there was one to drop."""
        session, self._session = self._session, None
        if session is None or session is self._given_session or session.connector is None:
            return False
        connector = session.connector
        session.detach()  # so that the one warning is ours and names what to close
        close = connector.__exit__  # the public way that needs no `await`
        loop = None if self._deadlines is None else self._deadlines.loop
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(close)  # the collector may run in any thread
        else:
            close()
        return True

    # --- A call: attempts until one counts -----------------------------------------------------

    def send(self, request: Request, flight: Flight | None = None) -> Coroutine[Any, Any, Response]:
        """The reply, 2xx and whole; raises what the house's error tree says for anything else."""
        deadlines = self.open()
        now = deadlines.now()
        call = _Call(request, flight, deadlines, now, now + self.timeouts.deadline, self._borne)
        return self._traced(call) if is_traced() else self._send(call)

    async def _traced(self, call: _Call) -> Response:
        request = call.request
        with call_span(request.kind, request.method, API_ROOT + request.path) as span:
            try:
                reply = await self._send(call)
                span.answered(reply.status)
                return reply
            finally:
                span.sent(call.attempts)

    async def _send(self, call: _Call) -> Response:
        request, now = call.request, call.deadlines.now
        while True:
            try:
                reply = await self._attempt(call)
            except VPSBackupsError as error:
                failure = error
            else:
                self._budget.earn()
                return reply
            if (
                call.ambiguous
                and request.policy.missing_means_done
                and isinstance(failure, NotFoundError)
            ):
                return Response(204, {}, b"", request, call.attempts)  # an earlier attempt did it
            pause, in_gate = self._pause(call, failure, now())
            self.counters.retries += 1
            self._log.retrying(failure, request.kind, call.attempts, pause, now())
            if not in_gate:
                await asyncio.sleep(pause)

    def _check_gate(self, call: _Call, now: float) -> None:
        """Raise at once where the gate stays closed for longer than this call can wait."""
        closed = self.closed_for(call.request.kind)
        if not closed:
            return
        if closed > self._retry.max_retry_after:
            method, path = call.request.method, API_ROOT + call.request.path
            words = "not sent: an earlier answer asked every request to wait"
            raise RateLimitedError(
                429, words, None, None, method, path, call.attempts, closed
            ) from call.last_failure
        if now + closed > call.deadline:
            words = f"leaves no time: a 429 closed the gate for {closed:.1f} s"
            raise self._deadline(call, words) from call.last_failure

    def _pause(self, call: _Call, failure: VPSBackupsError, now: float) -> tuple[float, bool]:
        """The seconds before the next attempt, and whether they are spent in the gate.

        Raises the failure where there is to be none.
        """
        if isinstance(failure, DeadlineExceededError):
            raise failure from call.last_failure
        if call.final or not may_send_again(call.request.policy, failure):
            raise failure
        call.last_failure = failure
        call.ambiguous = call.ambiguous or is_ambiguous(failure)
        # Refused while the server took others: not a failure but a place further back in line,
        # for as long as the deadline allows.
        outpaced = isinstance(failure, RateLimitedError) and self._borne > call.borne
        call.borne = self._borne
        call.spent += not outpaced
        grounded = call.flight is not None and call.flight.grounded
        if call.spent >= self._retry.attempts or self._retry.attempts == 1 or grounded:
            raise failure
        asked = asked_pause(failure)
        if asked is not None and (
            asked > self._retry.max_retry_after or now + asked > call.deadline
        ):
            raise failure
        attempt = Attempt(call.attempts, now - call.started, call.pause)
        closed = self.closed_for(call.request.kind)
        in_gate = isinstance(failure, RateLimitedError) and (
            asked is not None and closed > 0 and asked - closed < _GATE_SLACK
        )
        pause = call.pause = closed if in_gate else self._retry.pause(failure, attempt)
        if now + pause > call.deadline:
            raise self._deadline(call, "leaves no time for another attempt") from failure
        if not outpaced and not self._budget.spend():
            failure.retries_refused = True
            failure.add_note("not sent again: the retry budget of this client is used up")
            raise failure
        return pause, in_gate

    def _deadline(self, call: _Call, how: str) -> DeadlineExceededError:
        words = f"the deadline of {self.timeouts.deadline:g} s {how}"
        return call.error(DeadlineExceededError, words, call.ambiguous)

    # --- An attempt ----------------------------------------------------------------------------

    async def _attempt(self, call: _Call) -> Response:
        request, now = call.request, call.deadlines.now
        if not self._try_acquire():
            await self._wait_in_line(call)
        call.attempts += 1
        exchange = _Exchange(call.attempts)
        began = now()
        flight = call.flight
        scope = call.deadlines.until(min(call.deadline, began + self.timeouts.attempt))
        try:
            with scope:
                if flight is not None:
                    flight.in_air = True
                await self._exchange(request, exchange)
        except TimeoutError:
            words = f"no answer within Timeouts.attempt ({self.timeouts.attempt:g} s)"
            exchange.failed = _Failed(TimeoutError(words))
            exchange.late = scope.when == call.deadline
        finally:
            if flight is not None:
                flight.in_air = False
            self._observe(request, exchange, now() - began)
        status = exchange.status
        if status is None:
            raise self._failure(call, exchange)
        if status >= 300:
            self._raise_for(status, call, exchange)
        if exchange.whole:
            return Response(status, exchange.headers, exchange.body, request, call.attempts)
        if request.policy.success_by_status:
            return Response(status, exchange.headers, b"", request, call.attempts)
        raise self._failure(call, exchange)

    async def _wait_in_line(self, call: _Call) -> None:
        """Return once the limiter lets the request through; no time of the attempt runs yet."""
        self._check_gate(call, call.deadlines.now())
        scope = call.deadlines.until(call.deadline)
        self._in_line.add(scope)
        try:
            with scope:
                await self._limiter.acquire(1, call.request.kind)
        except TimeoutError:
            self._check_gate(call, call.deadlines.now())
            call.attempts += 1  # the one that did not come to it
            raise self._deadline(call, "passed") from None
        finally:
            self._in_line.discard(scope)

    def _observe(self, request: Request, exchange: _Exchange, elapsed: float) -> None:
        status = exchange.status
        asked = retry_after(exchange.headers) if status in {429, 503} else None
        self.counters.rate_limited += status == 429
        self._borne += status is not None and status != 429 and status < 500
        self.counters.bytes_received += exchange.size
        self._limiter.observe(Observation(request.kind, 1, status, asked, elapsed))
        if status == 429 and self.closed_for(request.kind) > self._retry.max_retry_after:
            # Those in line would not have got into it now.
            in_line, self._in_line = self._in_line, set()
            for scope in in_line:
                scope.expire()

    async def _exchange(self, request: Request, exchange: _Exchange) -> None:
        """Send the request and read its answer, or its failure, into `exchange`."""
        session = self._session
        if session is None:  # it was closed while this request was in the queue
            raise _closed_error()
        self.counters.requests += 1
        response: aiohttp.ClientResponse | None = None
        try:
            response = await session.request(
                request.method,
                self._url(request.path, request.query),
                data=request.body,
                headers=self._headers if request.body is None else self._body_headers,
                timeout=self._timeout,
                ssl=self._ssl,
                proxy=self._proxy,
                allow_redirects=False,
                raise_for_status=False,
                middlewares=(exchange,),
            )
            exchange.status = response.status
            exchange.headers = response.headers
            cap = self._max_bytes if response.status < 300 else _ERROR_BODY_BYTES
            content = response.content
            if content.is_eof():  # all of it is here, as of most replies: no need to wait for it
                exchange.body = content.read_nowait()
                exchange.size = len(exchange.body)
                exchange.whole = exchange.size <= cap
            else:
                await exchange.read(content, cap)
        except _Failed as failed:
            exchange.failed = failed
        except Exception as error:  # noqa: BLE001  # also what a given session's own hooks raise
            exchange.failed = _Failed(error)
        finally:
            if response is not None and not exchange.whole:
                response.close()

    # --- From an attempt to an error -----------------------------------------------------------

    def _raise_for(self, status: int, call: _Call, exchange: _Exchange) -> None:
        """Raise the error for an answer that is no success."""
        request = call.request
        if status < 400:
            location = exchange.headers.get("Location", "").replace(self._token, "***") or None
            words = f"the server redirects with {status} to {location!r}"
            raise call.error(UnexpectedRedirectError, words, True, location)
        decipher(
            status,
            exchange.headers,
            # A debug page may show the headers of the request.
            exchange.body[:_ERROR_BODY_BYTES].replace(self._token.encode(), b"***"),
            method=request.method,
            path=API_ROOT + request.path,
            attempts=call.attempts,
        )

    def _failure(self, call: _Call, exchange: _Exchange) -> VPSBackupsError:
        """The error for an attempt that brought no answer, or only a part of one."""
        failed = exchange.failed
        if failed is None:
            words = f"the answer is larger than {self._max_bytes} bytes"
            return call.error(ResponseTooLargeError, words, True)
        if exchange.late:
            call.ambiguous = call.ambiguous or exchange.sent
            return self._deadline(call, "passed")
        if failed.misuse and not exchange.sent:
            return ConfigurationError(f"aiohttp cannot send with this session or proxy: {failed}")
        if exchange.status is not None and call.request.policy.unreadable == "accepted":
            # Accepted, but what was made is not known: nothing that sending again could mend.
            return InvalidResponseError(
                str(failed), "", exchange.status, call.request.method, API_ROOT + call.request.path
            )
        call.final = failed.never_again
        kind = RequestTimeoutError if failed.timeout else TransportError
        return call.error(kind, str(failed), exchange.sent)
