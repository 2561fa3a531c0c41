"""How often and when a call is sent again, and the budget that a client's retries share."""

import logging
import math
import random
from typing import Final

from attrs import define, frozen

from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async.backoff import Attempt, Backoff, ExponentialBackoff, delay_of
from vpsbackups_async.errors import (
    ApiError,
    RateLimitedError,
    VPSBackupsError,
)

__all__ = ["RetryBudget", "RetryLog", "RetryPolicy"]

logger = logging.getLogger("vpsbackups_async")

_MAX_JITTER: Final = 5.0
_WARNING_SECONDS: Final = 60.0


@frozen
class RetryPolicy:
    """How often and how patiently one call is tried.

    `attempts` is the number of tries in all, 1 to switch retries off. A try that was refused with
    429 while the server took others does not count, nor does its retry cost budget: that is about
    pace, and such a call goes on until it is let through or its deadline is over. `backoff` gives
    the pause before each further try; after a 429 with `Retry-After` the limiter does, if it closes
    for it. A server that asks to wait longer than `max_retry_after` seconds is not waited for: the
    call fails at once and says how long it would have been. `budget` is how many retries all calls
    of a client may have in reserve: a retry costs one, ten successes earn one back; None is without
    limit. `create_grace` is how many seconds a create whose answer was lost is looked for among the
    server's backups before it counts as not made.
    """

    attempts: int = 5
    backoff: Backoff = ExponentialBackoff(0.5, maximum=20.0, jitter=0.5)
    max_retry_after: float = 120.0
    budget: float | None = 100.0
    create_grace: float = 5.0

    def __attrs_post_init__(self) -> None:
        check_int("attempts", self.attempts)
        check_callable("backoff", self.backoff)
        check_number("max_retry_after", self.max_retry_after)
        check_number("create_grace", self.create_grace)
        if self.budget is not None:
            check_number("budget", self.budget, unit="number of retries")

    def pause(self, error: VPSBackupsError, attempt: Attempt) -> float:
        """The seconds to wait before the next try; what the server asked for, or somewhat more."""
        asked = asked_pause(error)
        if asked is None:
            return delay_of(self.backoff, attempt)
        # Upwards only: to come back early is what the server refused, and to come back all at the
        # same moment is the next wave.
        return asked + random.random() * min(0.2 * asked, _MAX_JITTER)


class RetryBudget:
    """The retries that all calls of one client have left between them."""

    def __init__(self, tokens: float | None) -> None:
        self._most = self._left = tokens

    def earn(self) -> None:
        """A call succeeded: a tenth of a retry comes back."""
        if self._left is not None and self._most is not None and self._left < self._most:
            self._left = min(self._most, round(self._left + 0.1, 6))  # ten tenths are one

    def spend(self) -> bool:
        """Take one retry; False if none is left."""
        if self._left is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True


@define(eq=False, repr=False)
class _Told:
    at: float = -math.inf
    since: int = 0


class RetryLog:
    """Tells of one client's retries: each at DEBUG, and one WARNING a minute and cause."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def retrying(
        self, failure: VPSBackupsError, kind: str, attempt: int, pause: float, now: float
    ) -> None:
        """Attempt `attempt` failed so, and the next follows in `pause` seconds; `now` likewise."""
        fields = {
            "attempt": attempt,
            "pause": pause,
            "kind": kind,
            "status": getattr(failure, "status", None),
            "method": getattr(failure, "method", ""),
            "path": getattr(failure, "path", ""),
            "retry_after": getattr(failure, "retry_after", None),
        }
        logger.debug("retrying in %.2f s: %s", pause, failure, extra=fields)
        cause = _cause(failure)
        told = self._told.setdefault(cause, _Told())
        told.since += 1
        if now - told.at >= _WARNING_SECONDS:
            logger.warning(
                "%s: %d retries since the last such line, the latest after: %s",
                cause,
                told.since,
                failure,
                extra={**fields, "cause": cause, "count": told.since},
            )
            self._told[cause] = _Told(now)


def _cause(failure: VPSBackupsError) -> str:
    if isinstance(failure, RateLimitedError):
        return "rate limited"
    return "server errors" if isinstance(failure, ApiError) else "connection trouble"


def asked_pause(error: VPSBackupsError) -> float | None:
    """The seconds that the server asked to wait with a 429 or 503, None if it did not."""
    if isinstance(error, ApiError) and error.status in {429, 503}:
        return error.retry_after
    return None
