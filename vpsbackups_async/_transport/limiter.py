"""The protocols of a limiter: what lets requests through, and what it may tell of itself."""

import inspect
import logging
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from attrs import frozen

from vpsbackups_async._values import Value

__all__ = [
    "Guarded",
    "Limiter",
    "LimiterState",
    "Observation",
    "check_limiter",
    "closed_for",
    "count_of",
]

logger = logging.getLogger("vpsbackups_async")


@frozen(eq=False, repr=False)
class Observation(Value):
    """How a request ended, for the `Limiter` that let it through.

    `kind` is the endpoint (`list`, `create`, `delete`, `restore`, `account`), `cost` what was
    acquired for the request, `status` the HTTP status (None if no answer came), `retry_after` the
    seconds that the answer asked to wait (None if it did not), `elapsed` those from `acquire` on.
    """

    kind: str
    cost: int = 1
    status: int | None = None
    retry_after: float | None = None
    elapsed: float = 0.0


class Limiter(Protocol):
    """Lets requests through, one `acquire` each, and is told how each one ended.

    Several clients of one event loop may share a limiter: together they stay within it. A limiter
    may also tell its state: see `LimiterState`.
    """

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        """Return once the request may start; must be safe to cancel while it waits."""
        ...

    def observe(self, outcome: Observation) -> None:
        """Called once when a request ends, for every request that `acquire` let through.

        What it raises is logged, and changes nothing for the call.
        """
        ...


@runtime_checkable
class LimiterState(Protocol):
    """What a `Limiter` may tell of itself. Each member is optional: a limiter may have only some.

    What a member raises is logged once, and counts as not told; but what `maximum` raises is raised
    when the client is made.

    `client.stats` shows `limit`, `running` and `waiting`. A `maximum` above what the connector of
    a session of your own allows is refused with `ConfigurationError`. `closed_for` changes how
    calls retry; it may be a plain number too, and a limiter without it counts as open.
    """

    @property
    def maximum(self) -> int | None:
        """The most requests that may ever run at once; None if unknown."""
        ...

    @property
    def limit(self) -> int | None:
        """The most requests that may run at once now; None if unknown."""
        ...

    @property
    def running(self) -> int | None:
        """The requests that were let through and have not ended; None if unknown."""
        ...

    @property
    def waiting(self) -> int | None:
        """The requests that wait in `acquire`; None if unknown."""
        ...

    def closed_for(self, kind: str | None = None) -> float:
        """The seconds until a request of this kind may start after a refusal; 0 while it is open.

        `kind` is that of `acquire`; None asks about requests of any kind. A call fails at once with
        `RateLimitedError` while this is more than `RetryPolicy.max_retry_after`, with `ServerError`
        if a 503 made it so long. A call that waits in `acquire` already does so when a client that
        shares the limiter gets a 429 or 503. After a 429
        with `Retry-After` the call's pause is this time, spent in `acquire`, if it covers what the
        server asked for; otherwise the call sleeps by itself.
        """
        ...


CountName: TypeAlias = Literal["maximum", "limit", "running", "waiting"]


def count_of(limiter: object, name: CountName) -> int | None:
    """A number of `LimiterState`, None if the limiter does not tell it; raises what that raises."""
    value = getattr(limiter, name, None)
    return value if isinstance(value, int) else None


def check_limiter(limiter: object) -> None:
    """Raise `ValueError` for an object that cannot serve as a limiter."""
    for name in ("acquire", "observe"):
        if isinstance(limiter, type) or not callable(getattr(limiter, name, None)):
            raise ValueError(f"limiter must have the methods of Limiter, not {limiter!r}")
    told = getattr(limiter, "closed_for", None)
    if callable(told):
        try:
            inspect.signature(told).bind(None)
        except TypeError:
            raise ValueError(
                f"closed_for of {limiter!r} must take a kind: def closed_for(self, kind=None)"
            ) from None


def closed_for(limiter: object, kind: str | None = None) -> float:
    """`LimiterState.closed_for`, 0 if the limiter does not tell it; a plain number counts too."""
    told = getattr(limiter, "closed_for", None)
    seconds = told(kind) if callable(told) else told
    return seconds if isinstance(seconds, float | int) else 0.0


class Guarded:
    """Asks a limiter what must not fail: an error of its own is logged once for each member."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self._logged: set[str] = set()

    def observe(self, outcome: Observation) -> None:
        """Tell the limiter how a request ended."""
        try:
            self.limiter.observe(outcome)
        except Exception as error:  # noqa: BLE001  # the caller's code; the request has its outcome
            self._log("observe", error)

    def closed_for(self, kind: str | None = None) -> float:
        """`LimiterState.closed_for`; 0 if the limiter does not tell it or fails."""
        try:
            return closed_for(self.limiter, kind)
        except Exception as error:  # noqa: BLE001  # the caller's code
            self._log("closed_for", error)
            return 0.0

    def count_of(self, name: CountName) -> int | None:
        """A number of `LimiterState`; None if the limiter does not tell it or fails."""
        try:
            return count_of(self.limiter, name)
        except Exception as error:  # noqa: BLE001  # the caller's code
            self._log(name, error)
            return None

    def _log(self, method: str, error: Exception) -> None:
        if method not in self._logged:
            self._logged.add(method)
            logger.warning("%s of the limiter failed; calls go on", method, exc_info=error)
