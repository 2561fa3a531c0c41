"""A limiter that keeps several processes within one quota, which a Redis server counts.

Needs the `redis` extra: `pip install 'vpsbackups-async[redis]'`.
"""

import asyncio
import re
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable
from typing import Any, Final, Protocol, Self, TypeAlias

from vpsbackups_async._checks import check_int, check_number
from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.limiter import Guarded, Limiter, Observation, closed_for, count_of
from vpsbackups_async._transport.secrets import Secret
from vpsbackups_async.errors import (
    ConfigurationError,
    TransportError,
    VPSBackupsError,
    WrongEventLoopError,
)

try:
    from redis import exceptions as redis_errors
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as _missing:
    raise ImportError(
        "vpsbackups_async.limiters needs the redis extra: pip install 'vpsbackups-async[redis]'"
    ) from _missing

__all__ = ["LimiterUnreachableError", "RedisLimiter"]

AnyRedis: TypeAlias = Redis | RedisCluster

_AHEAD: Final = 0.02
"""Seconds of the quota that a process reserves at once; a process that is killed wastes no more.
Also how late a reserved start may be used: later, it would be too close to other processes'."""

_RESERVE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'free', 'now')
local free = tonumber(held[1] or now)
local seen = tonumber(held[2] or now)
if now < seen then
    free = free - (seen - now)  -- the server's clock was set back: add no wait for that
end
if free < now then
    free = now
end
local after = free + ARGV[1] * ARGV[2]
redis.call('HSET', KEYS[1],
    'free', string.format('%.2f', after), 'now', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil((after - now) / 1000) + 60000)
return math.ceil(free - now)
"""
"""Reserves the next ARGV[2] starts, ARGV[1] µs apart; returns the µs until the first of them.

Times are the server's. Numbers are stored with `format`: Lua's own conversion keeps only 14 of the
16 digits."""

_REFUSED: Final = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)
_PASSING: Final = (
    redis_errors.ConnectionError,
    redis_errors.BusyLoadingError,
    redis_errors.ClusterDownError,
    redis_errors.RedisClusterException,
    redis_errors.TryAgainError,
    OSError,
)
_PASSING_WORDS: Final = frozenset({
    "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY",
    "TRYAGAIN",
})  # fmt: skip
"""Redis's words for what ends by itself or by a failover."""
_WORD_OF: Final[dict[type[Exception], str]] = {
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
}
"""The words that redis-py takes out of a text, and before 7.2 leaves only the class for."""
_SHORTEST_GAP: Final = 1e-9
_LONGEST_GAP: Final = 1e9


class LimiterUnreachableError(TransportError):
    """The Redis server of the limiter cannot be used now; nothing was sent to the API."""

    hint = "Check that the Redis server of the limiter runs, can be reached and takes writes"

    def __init__(
        self, message: str, sent: bool = False, method: str = "", path: str = "", attempts: int = 1
    ) -> None:
        super().__init__(message, sent, method, path, attempts)

    def describe(self) -> str:
        """What happened; it names no request, as none was sent."""
        return f"{self.message}, so the request was not sent"


class _Script(Protocol):
    """A script registered with redis-py, as far as it is used here."""

    def __call__(self, keys: list[str], args: list[Any]) -> Awaitable[Any]: ...


class RedisLimiter:
    """Keeps all processes that use the same Redis and `key` within one quota.

        limiter = RedisLimiter("redis://localhost", rate=50)
        async with limiter, BackupsClient(token, limiter=limiter) as client:
            ...

    Together they start at most `rate` requests in any `period` (seconds), evenly spaced, with no
    burst after a rest. `redis` is a URL, or a `redis.asyncio` client, which is never closed. `key`
    names the quota in Redis. `inner` is the limiter of this process, by default an
    `AdaptiveLimiter()`: how many requests run at once, and the pause after a 429. `timeout` is how
    long Redis may take to answer, in seconds.

    Only the first request in line asks Redis, once, and sleeps until the start that it gets; no
    request polls. The requests of a kind (`list`, `create`, ...) start in the order they came, and
    the kinds in turn: one that `inner` holds back alone does not hold the others up. A process
    reserves at most the starts of 20 ms (at least one), so a process that is killed wastes no more
    than those. Times are the Redis server's.

    `acquire` raises `LimiterUnreachableError` while Redis is down, fails over or is out of memory
    (a `TransportError`, which is retried by the `RetryPolicy`), `ConfigurationError` if Redis
    refuses the user, the password or the command, and `WrongEventLoopError` in another event loop
    than the first. Raises `ValueError` for a number out of range or a `key` that is empty or no
    UTF-8, `ConfigurationError` for a `redis` that is neither a usable URL nor a client. Tested with
    Redis 6.2 and 7.0.

    `limits` and `pyrate-limiter` do not fit: both count by each client's clock, and neither
    reserves the start that it tells a caller to wait for.
    """

    def __init__(
        self,
        redis: AnyRedis | str,
        *,
        rate: float,
        period: float = 1.0,
        key: str = "vpsbackups",
        inner: Limiter | None = None,
        timeout: float = 5.0,
    ) -> None:
        if isinstance(redis, str):
            redis = Secret(redis)  # it may hold a password, and a traceback may show what is here
        self._gap = _gap(rate, period)
        check_number("timeout", timeout, above=0)
        if not isinstance(key, str) or not key or not _is_utf8(key):
            raise ValueError(f"key must be a str that is not empty, not {key!r}")
        self._rate, self._period, self._key, self._timeout = rate, period, key, timeout
        self._most = max(1, int(_AHEAD / self._gap))
        self._inner: Limiter = AdaptiveLimiter() if inner is None else inner
        self._guarded = Guarded(self._inner)
        client = _client(redis)
        self._own = client is not redis
        if client is None:
            raise ConfigurationError(
                "redis must be a redis://, rediss:// or unix:// URL with options that redis-py "
                "knows, or a redis.asyncio client"
            )
        self._redis = client
        self._reserve: _Script = client.register_script(_RESERVE)
        # One line for each kind of request, as `inner` may hold a kind back alone. Locks are fair.
        self._lines: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._in_line: Counter[str] = Counter()
        self._turn = asyncio.Lock()
        self._starts: deque[float] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        if not hasattr(self, "_redis"):  # a traceback with locals also calls it if `__init__` fails
            return "<RedisLimiter, not made yet>"
        return (
            f"RedisLimiter(rate={self._rate}, period={self._period}, key={self._key!r}, "
            f"inner={self._inner!r})"
        )

    @property
    def inner(self) -> Limiter:
        """The limiter of this process."""
        return self._inner

    @property
    def maximum(self) -> int | None:
        """The most requests of this process that may ever run at once; None if unknown."""
        return count_of(self._inner, "maximum")

    @property
    def limit(self) -> int | None:
        """The most requests of this process that may run at once now; None if unknown."""
        return count_of(self._inner, "limit")

    @property
    def running(self) -> int | None:
        """The requests of this process that are running now; None if unknown."""
        return count_of(self._inner, "running")

    @property
    def waiting(self) -> int:
        """The requests of this process that wait in line."""
        return self._in_line.total()

    def closed_for(self, kind: str | None = None) -> float:
        """The seconds until `inner` lets this kind through again after a 429; 0 if it is open."""
        return closed_for(self._inner, kind)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections to Redis, unless a client was passed in."""
        if self._own:
            await self._redis.aclose()

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start here and within the shared quota.

        Raises `ValueError` for a bad `cost`; the errors of Redis are those of the class.
        """
        check_int("cost", cost)
        self._check_loop()
        self._in_line[kind] += 1
        try:
            async with self._lines[kind]:
                if not await self._start(cost, kind):
                    await self._start(cost, kind, at_any_rate=True)
        finally:
            self._in_line[kind] -= 1

    async def _start(self, cost: int, kind: str, *, at_any_rate: bool = False) -> bool:
        """Pass `inner`, and take the turn of the first in the line of this kind for a start.

        False if `inner` was closed meanwhile: then it is to be passed again, but only once, as one
        that is closed may let requests through all the same.
        """
        # First, as a reserved start would expire while the inner limiter is closed.
        await self._inner.acquire(cost, kind)
        started = False
        try:
            async with self._turn:
                if at_any_rate or not self._guarded.closed_for(kind):
                    await self._wait_for_start(cost, self._in_line[kind])
                    started = True
        finally:
            if not started:
                self._inner.observe(Observation(kind, cost))
        return started

    def observe(self, outcome: Observation) -> None:
        """Called once when a request ends; passed on to `inner`."""
        self._inner.observe(outcome)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise WrongEventLoopError("this limiter was first used in another event loop")
            self._loop = loop

    async def _wait_for_start(self, cost: int, in_line: int) -> None:
        loop = asyncio.get_running_loop()
        while self._starts and self._starts[0] < loop.time() - _AHEAD:
            self._starts.popleft()
        if cost > 1:
            start = await self._take(cost)
        else:
            if not self._starts:
                number = min(self._most, in_line)
                first = await self._take(number)
                self._starts.extend(first + place * self._gap for place in range(number))
            start = self._starts.popleft()
        try:
            await asyncio.sleep(start - loop.time())
        except asyncio.CancelledError:
            self._starts.appendleft(start)  # the next in line may still use it
            raise

    async def _take(self, number: int) -> float:
        """Reserve this many starts in a row; the loop time (s) of the first."""
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        failure: VPSBackupsError | None = None
        first = 0.0
        try:
            async with asyncio.timeout(self._timeout):
                delay = await self._reserve(
                    keys=[self._key], args=[f"{self._gap * 1e6:.3f}", number]
                )
                first = asyncio.get_running_loop().time() + int(delay) / 1e6
        except Exception as error:  # noqa: BLE001  # redis-py raises TypeError for a bad option
            failure = _translated(error, self._timeout)
        if task and task.cancelling() > cancels:
            # Python 3.11's asyncio.wait_for, which redis sends with, can swallow a cancellation.
            raise asyncio.CancelledError
        if failure is not None:
            # Not in the handler: frames of redis-py's errors have the password as a local.
            raise failure
        return first


def _client(given: object) -> AnyRedis | None:
    """The client itself, or one for a URL; None for anything else."""
    if isinstance(given, Redis | RedisCluster):
        return given
    if not isinstance(given, str):
        return None
    try:  # one immediate retry, for a connection that broke while it was idle
        client = Redis.from_url(given, retry=Retry(NoBackoff(), 1))
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # does no I/O, and takes all options
    except Exception:  # noqa: BLE001  # TypeError, ValueError and others of redis-py
        return None
    return client


def _gap(rate: float, period: float) -> float:
    """The seconds between two starts; raises `ValueError` for numbers out of range."""
    check_number("rate", rate, above=0, unit="number of requests")
    check_number("period", period, above=0)
    gap = period / rate
    if not _SHORTEST_GAP <= gap <= _LONGEST_GAP:
        raise ValueError(f"rate={rate!r} in period={period!r} is not within what can be counted")
    return gap


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _translated(error: Exception, timeout: float) -> VPSBackupsError:
    """The error of this library for an error of redis-py, without any password."""
    if isinstance(error, TimeoutError | redis_errors.TimeoutError):
        return LimiterUnreachableError(
            f"the Redis server of the limiter gave no answer within {timeout:g} s"
        )
    if isinstance(error, _REFUSED):
        return ConfigurationError(
            f"the Redis server of the limiter refuses its user or password ({_kind(error)})"
        )
    if _kind(error) in _PASSING_WORDS:
        return LimiterUnreachableError(
            f"the Redis server of the limiter cannot count now ({_kind(error)})"
        )
    if isinstance(error, _PASSING):
        return LimiterUnreachableError(
            f"the Redis server of the limiter is not available ({_kind(error)})"
        )
    if not isinstance(error, redis_errors.RedisError | redis_errors.RedisClusterException):
        return ConfigurationError(
            f"the Redis client of the limiter cannot be used ({_kind(error)}): check its options"
        )
    return ConfigurationError(
        f"the Redis server of the limiter refuses to count ({_kind(error)}): the key must be its "
        "own, and the server Redis 5 or newer with scripts"
    )


_ERROR_WORD: Final = re.compile(r"(?:^|: -)([A-Z]+)(?= |$)")


def _kind(error: Exception) -> str:
    """Redis's own word for the error (`WRONGTYPE`), else the class: the text may name a user.

    Redis 6 puts the error of a command in a script into one of its own: `ERR Error running script
    (call to f_…): @user_script:14: @user_script: 14: -READONLY You can't write against…`.
    """
    words = _ERROR_WORD.findall(str(error))
    taken_out = getattr(error, "status_code", None) or _WORD_OF.get(type(error))
    return words[-1] if words else taken_out or type(error).__name__
