"""Opens aiohttp's sessions, and tells of those that are given what is to be known."""

import asyncio
import math
import ssl as ssl_module
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.cookies import BaseCookie, SimpleCookie
from operator import attrgetter
from types import FunctionType
from typing import Any, Final, TypeAlias

import aiohttp
from yarl import URL

from vpsbackups_async._version import __version__
from vpsbackups_async.errors import ConfigurationError, WrongEventLoopError

__all__ = [
    "ClientSession",
    "ClientTimeout",
    "CompleteRequest",
    "Connector",
    "connection_limit",
    "connector_of",
    "detach",
    "fitting_ssl",
    "header_name",
    "is_alone",
    "is_as_aiohttp_made_it",
    "open_session",
    "own_middlewares",
    "reuse_receive_buffers",
    "timeout_of",
]

ClientSession: TypeAlias = aiohttp.ClientSession
ClientTimeout: TypeAlias = aiohttp.ClientTimeout
Connector: TypeAlias = aiohttp.BaseConnector

header_name: Final[type[str]] = type(aiohttp.hdrs.HOST)
"""Makes a name that is found faster in the headers of an answer than a plain `str`."""
_DNS_CACHE_SECONDS: Final = 300
_MORE_THAN_A_RECEIVE: Final = 2**19
_USER_AGENT: Final = f"vpsbackups_async/{__version__} aiohttp/{aiohttp.__version__}"


class _NoCookies(aiohttp.DummyCookieJar):
    """Keeps no cookies, and makes no empty jar for each request."""

    _none: Final[BaseCookie[str]] = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> BaseCookie[str]:  # noqa: ARG002  # aiohttp's
        """No cookies."""
        return self._none


class CompleteRequest(aiohttp.ClientRequest):
    """A request whose headers are those of its session as they are.

    aiohttp asks of each request which cookies, encodings and defaults its headers need. Those of a
    session that was opened with `complete` headers need none.
    """

    def update_headers(self, headers: Any) -> None:
        """Take the headers, which were copied for this request."""
        self.headers = headers

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        """Add none."""

    def update_cookies(self, cookies: aiohttp.typedefs.LooseCookies | None) -> None:
        """Add none."""

    def update_content_encoding(self, data: object) -> None:
        """Leave the body as it is."""

    def update_auth(self, auth: object, trust_env: bool = False) -> None:
        """Leave the token as it is."""

    def update_expect_continue(self, expect: bool = False) -> None:
        """Expect no answer before the body."""


def open_session(
    keepalive: float | None,
    given: Connector | None,
    complete: Mapping[str, str] | None = None,
) -> ClientSession:
    """A session of our own, on a `given` connector if there is one, which it will not close.

    `keepalive` is how many seconds a connector of our own keeps an idle connection; None keeps
    none. `complete` headers are sent with each request, which then brings none of its own but that
    of a body. Raises `WrongEventLoopError` for a connector of another event loop.
    """
    connector = given or _own_connector(keepalive)
    own: dict[str, str] = {"User-Agent": _USER_AGENT}
    request_class = aiohttp.ClientRequest
    if complete is not None:
        encodings = aiohttp.ClientRequest.DEFAULT_HEADERS[aiohttp.hdrs.ACCEPT_ENCODING]
        own = {**complete, "Accept-Encoding": encodings, **own}  # Host comes first (RFC 9110, 7.2)
        request_class = CompleteRequest
    try:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=given is None,
            loop=asyncio.get_running_loop(),  # else it would be the connector's
            cookie_jar=_NoCookies(),
            headers=own,
            trust_env=False,  # it would read .netrc as well
            request_class=request_class,
        )
    except RuntimeError:
        raise WrongEventLoopError("the connector was made in another event loop") from None


def _own_connector(keepalive: float | None) -> Connector:
    keeping: dict[str, Any] = {"force_close": True}
    if keepalive is not None:
        keeping = {"keepalive_timeout": keepalive}
    return aiohttp.TCPConnector(
        limit=0,  # the limiter counts; aiohttp must never queue
        ttl_dns_cache=_DNS_CACHE_SECONDS,
        **keeping,
    )


def own_middlewares(session: ClientSession) -> Sequence[aiohttp.ClientMiddlewareType]:
    """The middlewares of a given session, which ours would replace; aiohttp does not show them."""
    own: Sequence[aiohttp.ClientMiddlewareType] = getattr(session, "_middlewares", ())
    return own


_SESSION: Final = aiohttp.ClientSession
_methods_of: Final = attrgetter(*(name for name in dir(_SESSION) if "request" in name))
_METHODS: Final[tuple[object, ...]] = _methods_of(_SESSION)
_ARE_AIOHTTPS_OWN: Final = all(
    # Its type, as what wraps a method can have the attributes of it.
    type(method) is FunctionType and method.__code__.co_filename == aiohttp.client.__file__
    for method in _METHODS
)


def is_alone(session: ClientSession) -> bool:
    """Whether nobody but aiohttp takes part in the requests of a session of our own.

    Tools for tracing hook into each session; others replace aiohttp's class or its methods, to
    record requests or to answer them in tests. `is_as_aiohttp_made_it` tells of what they replace
    later.
    """
    hooks = (*session.trace_configs, *own_middlewares(session))
    return type(session) is _SESSION and _ARE_AIOHTTPS_OWN and not hooks


def is_as_aiohttp_made_it() -> bool:
    """Whether aiohttp's sessions send requests as they did when this module was imported."""
    methods: tuple[object, ...] = _methods_of(_SESSION)
    return methods == _METHODS


def connector_of(session: ClientSession | None, connector: Connector | None) -> Connector | None:
    """The connector that the caller gave, itself or in a session; None for one of our own.

    Raises `ConfigurationError` for both, and for what is no connector.
    """
    if connector is None:
        return None if session is None else session.connector
    if session is not None:
        raise ConfigurationError("pass session= or connector=, not both")
    if not isinstance(connector, Connector):
        raise ConfigurationError(f"connector must be an aiohttp connector, not {connector!r}")
    return connector


def connection_limit(connector: Connector | None) -> int | None:
    """The most connections that the connector opens to one host; None if there is no limit."""
    limits = [] if connector is None else [connector.limit, connector.limit_per_host]
    return min((limit for limit in limits if limit), default=None)


def detach(session: ClientSession) -> Callable[[], object] | None:
    """Take a session's connections from it: what closes them, None if it is closed already.

    aiohttp then does not warn of an unclosed session; the caller's own warning says what to close.
    """
    connector = session.connector
    if connector is None:
        return None
    session.detach()
    close: Callable[[], object] = connector.__exit__  # the public way that needs no `await`
    return close


def timeout_of(connect: float) -> ClientTimeout:
    """Aiohttp's timeouts for a request: only `connect`, in seconds; the others are our own."""
    return aiohttp.ClientTimeout(total=None, connect=connect, ceil_threshold=math.inf)


def reuse_receive_buffers() -> None:
    """Make glibc serve the event loop's receives from memory that the process already has.

    asyncio receives into 256 KiB at a time. glibc maps such a block anew each time, with a page
    fault for every 4 KiB used, until a larger block was freed (mallopt(3), M_MMAP_THRESHOLD).
    `python -m benchmarks instructions` counts the faults.
    """
    bytes(_MORE_THAN_A_RECEIVE)


def fitting_ssl(ssl_context: ssl_module.SSLContext | None) -> ssl_module.SSLContext | bool:
    """What aiohttp takes as `ssl`: True is the default verification, False would be none."""
    if not isinstance(ssl_context, ssl_module.SSLContext | None):
        raise ConfigurationError(
            f"ssl_context must be an ssl.SSLContext or None, not {ssl_context!r}"
        )
    return ssl_context or True
