"""The only room that touches aiohttp's client: one session, one send, the retry loop around it.

Nothing of aiohttp leaves it: not an exception, not a response, not a frame that holds the token.
"""

import asyncio
import importlib.metadata
import ipaddress
import logging
import math
import ssl as ssl_module
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, Self, SupportsIndex
from urllib.request import getproxies, proxy_bypass

import aiohttp
from attrs import define, frozen
from multidict import CIMultiDict
from yarl import URL

from vpsbackups_async._checks import check_number
from vpsbackups_async._gate import AdaptiveLimiter, Limiter, Observation
from vpsbackups_async._retry import (
    RetryBudget,
    RetryPolicy,
    asked_pause,
    is_ambiguous,
    may_send_again,
)
from vpsbackups_async._wire import API_ROOT, Reply, Request, decipher, retry_after
from vpsbackups_async.backoff import Attempt
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    NotFoundError,
    RequestTimeoutError,
    ResponseTooLargeError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WrongEventLoopError,
)

__all__ = ["Timeouts", "Transport"]

logger = logging.getLogger("vpsbackups_async")

_ERROR_BODY_BYTES: Final = 64 * 1024
_DNS_CACHE_SECONDS: Final = 300
_DEFAULT_CONCURRENCY: Final = 64


@frozen
class Timeouts:
    """How long things may take, in seconds.

    `connect` is for reaching the server (DNS, TCP and TLS), `attempt` for one request from its
    start to the last byte of its answer, `deadline` for a whole call with its wait for a turn, its
    attempts and the pauses between them. `keepalive` is how long an idle connection is kept for the
    next request.
    """

    connect: float = 10.0
    attempt: float = 30.0
    deadline: float = 120.0
    keepalive: float = 15.0

    def __attrs_post_init__(self) -> None:
        for name in ("connect", "attempt", "deadline", "keepalive"):
            check_number(name, getattr(self, name), above=0)


class Secret(str):
    """A text that shows itself only on the wire: not in a repr, and so in no traceback either."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a token is not pickled: make the client where it is used")

    @classmethod
    def wrap(cls, value: object) -> "Secret":
        """The value out of sight, whatever it is; never fails."""
        return cls(value.strip()) if isinstance(value, str) else cls()

    def checked(self) -> Self:
        """The token itself; raises `ConfigurationError`, not showing it, if it cannot be one."""
        if not self:
            raise ConfigurationError(
                "there is no token: pass token=... (a str) or set VPS_API_TOKEN"
            )
        if not (self.isascii() and self.isprintable()) or " " in self:
            raise ConfigurationError(
                "the token holds a space, a control character or a non-ASCII character: "
                "copy it again from the panel"
            )
        return self


def check_base_url(value: str | URL, *, allow_insecure: bool) -> URL:
    """The API's root (`…/api/v1`) below a base URL given with or without that path.

    Raises `ConfigurationError` for what is no http(s) URL, and for http beyond loopback.
    """
    try:
        url = URL(value)
    except (ValueError, TypeError):
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        shown = "the one given" if "@" in str(value) else repr(value)
        raise ConfigurationError(f"base_url must be an http(s) URL with a host, not {shown}")
    if url.user is not None or url.password is not None:
        raise ConfigurationError("base_url must not hold a user or password: pass token=...")
    if url.query_string or url.fragment:
        raise ConfigurationError(f"base_url must have no query and no fragment: {str(url)!r}")
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host or ""):
        raise ConfigurationError(
            f"base_url {str(url)!r} would send the token unencrypted: use https, "
            "or pass allow_insecure=True if the network is trusted"
        )
    path = url.raw_path.rstrip("/")
    if path.endswith("/api"):
        path += "/v1"
    elif not path.endswith(API_ROOT):
        path += API_ROOT
    return url.with_path(path, encoded=True)


def _is_loopback(host: str) -> bool:
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@define
class Counters:
    """What a client has done so far."""

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    bytes_received: int = 0


class _Exchange:
    """One attempt: what is known of it when it fails.

    It is aiohttp's client middleware for its own request: aiohttp sends a GET or DELETE whose
    connection broke once more by itself, unless a middleware changes the exception's type; and only
    there can be seen whether the request was written at all.
    """

    __slots__ = ("chunks", "headers", "sent", "size", "status", "whole")

    def __init__(self) -> None:
        self.sent = False
        self.status: int | None = None
        self.headers: Mapping[str, str] = {}
        self.chunks: list[bytes] = []
        self.size = 0
        self.whole = False

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        try:
            return await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            failed = _Failed(error)
        finally:
            # aiohttp sets it right after the request line and headers were handed to the socket.
            self.sent = request.response is not None
        raise failed


class _Failed(Exception):  # noqa: N818  # never leaves this room
    """A failure of aiohttp in words; the exception itself goes, for its frames hold headers."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_in_words(error))
        self.timeout = isinstance(error, TimeoutError)
        self.never_again = isinstance(
            error, aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch
        )


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
    (aiohttp.ClientResponseError, lambda error: f"the answer is not HTTP: {error.message}"),
    (Exception, lambda error: f"{type(error).__name__}: {error}"),
)


def _in_words(error: Exception) -> str:
    return next(words(error) for kind, words in _WORDS if isinstance(error, kind))


def _aiohttp_timeout(connect: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=math.inf)


def _user_agent() -> str:
    try:
        version = importlib.metadata.version("vpsbackups-async")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return f"vpsbackups_async/{version} aiohttp/{aiohttp.__version__}"


def _proxy_url(proxy: str | None, root: URL) -> str | None:
    """The proxy to use; `env` reads the usual variables, and only those: no .netrc."""
    if proxy != "env":
        return proxy
    host = root.host or ""
    return None if proxy_bypass(host) else getproxies().get(root.scheme)


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
    wanted = getattr(limiter, "maximum", None)
    if room is not None and isinstance(wanted, int) and wanted > room:
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
        self.timeouts = timeouts
        self.counters = Counters()
        self._retry = retry
        self._budget = RetryBudget(retry.budget)
        self._limiter = _fitting_limiter(limiter, session)
        self._given_session = session
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._ssl = ssl_context if ssl_context is not None else True
        self._proxy = proxy
        self._max_bytes = max_response_bytes
        self._timeout = _aiohttp_timeout(timeouts.connect)
        self._headers: CIMultiDict[str] = CIMultiDict(
            {"Authorization": Secret(f"Bearer {token}"), "Accept": "application/json"}
        )
        self._body_headers: CIMultiDict[str] = CIMultiDict(self._headers)
        self._body_headers["Content-Type"] = "application/json"
        self._urls: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Transport to {self.root}>"

    @property
    def limiter(self) -> Limiter:
        """The gate that every request passes."""
        return self._limiter

    # --- The session ---------------------------------------------------------------------------

    def open(self) -> aiohttp.ClientSession:
        """The session, made in the running event loop on first use.

        Raises `WrongEventLoopError` in any other loop, `ConfigurationError` once closed.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise WrongEventLoopError("this client was opened in another event loop")
            self._loop = loop
        if self._session is not None:
            return self._session
        if self._closed:
            raise ConfigurationError("this client is closed: make a new BackupsClient")
        self._session = self._given_session or self._new_session()
        return self._session

    def _new_session(self) -> aiohttp.ClientSession:
        self._headers.setdefault("User-Agent", _user_agent())
        self._body_headers.setdefault("User-Agent", _user_agent())
        self._proxy = _proxy_url(self._proxy, self.root)
        connector = aiohttp.TCPConnector(
            limit=0,  # the gate counts; aiohttp must never queue
            ttl_dns_cache=_DNS_CACHE_SECONDS,
            keepalive_timeout=self.timeouts.keepalive,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
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
        if session is None or session is self._given_session or session.closed:
            return False
        connector = session.connector
        session.detach()  # so that the one warning is ours and names what to close
        if connector is not None and self._loop is not None and not self._loop.is_closed():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                connector.close()
        return True

    # --- A call: attempts until one counts -----------------------------------------------------

    async def send(self, request: Request) -> Reply:
        """The reply, 2xx and whole; raises what the house's error tree says for anything else."""
        session = self.open()
        loop = asyncio.get_running_loop()
        call = _Call(request, loop.time(), loop.time() + self.timeouts.deadline)
        while True:
            call.attempts += 1
            try:
                reply = await self._attempt(session, call)
            except VPSBackupsError as error:
                failure = error
            else:
                self._budget.earn()
                return reply
            done = call.settled(failure)
            if done is not None:
                return done
            pause = self._pause(call, failure, loop.time())
            self.counters.retries += 1
            logger.debug(
                "retrying %s %s in %.2f s: %s",
                request.method,
                request.path,
                pause,
                failure,
                extra={"attempt": call.attempts, "pause": pause, "kind": request.kind},
            )
            await asyncio.sleep(pause)

    def _pause(self, call: "_Call", failure: VPSBackupsError, now: float) -> float:
        """The seconds before the next attempt; raises the failure where there is to be none."""
        if isinstance(failure, DeadlineExceededError):
            raise failure from call.last_failure
        if call.final or not may_send_again(call.request.method, failure):
            raise failure
        call.last_failure = failure
        call.ambiguous = call.ambiguous or is_ambiguous(failure)
        if call.attempts >= self._retry.attempts:
            raise failure
        attempt = Attempt(call.attempts, now - call.started, call.pause)
        pause = call.pause = self._retry.pause(failure, attempt)
        asked = asked_pause(failure)
        if asked is not None and (
            asked > self._retry.max_retry_after or now + asked > call.deadline
        ):
            raise failure
        if now + pause > call.deadline:
            raise self._deadline(call) from failure
        if not self._budget.spend():
            failure.add_note("not sent again: the retry budget of this client is used up")
            raise failure
        return pause

    def _deadline(self, call: "_Call") -> DeadlineExceededError:
        return DeadlineExceededError(
            f"the deadline of {self.timeouts.deadline:g} s passed",
            call.ambiguous,
            call.request.method,
            API_ROOT + call.request.path,
            call.attempts,
        )

    # --- An attempt ----------------------------------------------------------------------------

    async def _attempt(self, session: aiohttp.ClientSession, call: "_Call") -> Reply:
        loop = asyncio.get_running_loop()
        request = call.request
        exchange = _Exchange()
        acquired: float | None = None
        failed: _Failed | None = None
        try:
            async with asyncio.timeout_at(call.deadline) as scope:
                await self._limiter.acquire(1, request.kind)
                acquired = loop.time()
                scope.reschedule(min(call.deadline, acquired + self.timeouts.attempt))
                self.counters.requests += 1
                await self._exchange(session, request, exchange, call.deadline - acquired)
        except TimeoutError:
            failed = _Failed(TimeoutError())
        except _Failed as failure:
            failed = failure
        finally:
            if acquired is not None:
                self._observe(request, exchange, loop.time() - acquired)
        if failed is not None:
            if acquired is None or loop.time() >= call.deadline:
                call.ambiguous = call.ambiguous or exchange.sent
                raise self._deadline(call)
            return self._half_reply(call, exchange, failed)
        return self._reply(call, exchange)

    def _observe(self, request: Request, exchange: _Exchange, elapsed: float) -> None:
        status = exchange.status
        asked = retry_after(exchange.headers) if status in {429, 503} else None
        self.counters.rate_limited += status == 429
        self.counters.bytes_received += exchange.size
        self._limiter.observe(Observation(request.kind, 1, status, asked, elapsed))

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        exchange: _Exchange,
        remaining: float,
    ) -> None:
        """Send the request and read its answer into `exchange`; raises `_Failed`."""
        # Where the deadline is nearer than the limit for connecting, aiohttp's own timer must still
        # be the first: it knows that nothing was sent.
        timeout = (
            self._timeout
            if remaining > self.timeouts.connect
            else _aiohttp_timeout(max(0.001, 0.95 * remaining))
        )
        response: aiohttp.ClientResponse | None = None
        misused: str | None = None
        failed: _Failed | None = None
        try:
            response = await session.request(
                request.method,
                self._url(request),
                data=request.body,
                headers=self._headers if request.body is None else self._body_headers,
                timeout=timeout,
                ssl=self._ssl,
                proxy=self._proxy,
                allow_redirects=False,
                raise_for_status=False,
                middlewares=(exchange,),
            )
            exchange.status = response.status
            exchange.headers = response.headers
            await self._read(response, exchange)
        except (aiohttp.ClientError, OSError) as error:
            failed = _Failed(error)
        except (ValueError, RuntimeError) as error:
            misused = f"{type(error).__name__}: {error}"
        finally:
            if response is not None and not exchange.whole:
                response.close()
        if misused is not None:
            raise ConfigurationError(f"aiohttp cannot send with this session or proxy: {misused}")
        if failed is not None:
            raise failed

    def _url(self, request: Request) -> URL:
        url = self._urls.get(request.path)
        if url is None:
            url = str(self.root) + request.path
            if request.kind == "list":
                self._urls[request.path] = url
        return URL(f"{url}?{request.query}" if request.query else url, encoded=True)

    async def _read(self, response: aiohttp.ClientResponse, exchange: _Exchange) -> None:
        """The decoded body, counted as it comes: a small gzip can hold gigabytes."""
        error = response.status >= 300
        cap = min(_ERROR_BODY_BYTES, self._max_bytes) if error else self._max_bytes
        content = response.content
        while chunk := await content.readany():
            exchange.chunks.append(chunk)
            exchange.size += len(chunk)
            if exchange.size > cap:
                if not error:
                    exchange.chunks.clear()
                return
        exchange.whole = True

    # --- From an attempt to a reply or an error ------------------------------------------------

    def _reply(self, call: "_Call", exchange: _Exchange) -> Reply:
        status, headers, request = exchange.status or 0, exchange.headers, call.request
        path = API_ROOT + request.path
        if status < 300 and exchange.size > self._max_bytes:
            raise ResponseTooLargeError(
                f"the answer is larger than {self._max_bytes} bytes",
                True,
                request.method,
                path,
                call.attempts,
            )
        if 300 <= status < 400:
            location = headers.get("Location")
            raise UnexpectedRedirectError(
                f"the server redirects with {status} to {location!r}",
                True,
                request.method,
                path,
                call.attempts,
                location,
            )
        body = exchange.chunks[0] if len(exchange.chunks) == 1 else b"".join(exchange.chunks)
        decipher(
            status,
            headers,
            body[:_ERROR_BODY_BYTES],
            method=request.method,
            path=path,
            attempts=call.attempts,
        )
        return Reply(status, headers, body, request, call.attempts)

    def _half_reply(self, call: "_Call", exchange: _Exchange, failed: _Failed) -> Reply:
        """What to make of an attempt that broke off: the status, where it came, still counts."""
        status, request = exchange.status, call.request
        if status is not None and (status >= 300 or request.kind in {"delete", "restore"}):
            return self._reply(call, exchange)
        call.final = failed.never_again
        words = str(failed)
        kind = RequestTimeoutError if failed.timeout else TransportError
        if failed.timeout and not words.startswith("no connection"):
            words = f"no answer within Timeouts.attempt ({self.timeouts.attempt:g} s)"
        raise kind(words, exchange.sent, request.method, API_ROOT + request.path, call.attempts)


@define
class _Call:
    """One call's way through its attempts."""

    request: Request
    started: float
    deadline: float
    attempts: int = 0
    pause: float | None = None
    ambiguous: bool = False
    final: bool = False
    last_failure: VPSBackupsError | None = None

    def settled(self, failure: VPSBackupsError) -> Reply | None:
        """The success that a failure proves: gone at a second DELETE means the first worked."""
        gone = isinstance(failure, NotFoundError) and self.request.kind == "delete"
        if gone and self.ambiguous:
            return Reply(204, {}, b"", self.request, self.attempts)
        return None
