"""How often and when a call is sent again, and the budget that a client's retries share."""

import logging
import math
import random
from typing import Final

from attrs import frozen

from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async._values import Value
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


@frozen(eq=False, repr=False)
class RetryPolicy(Value):
    """How often a call is sent, and how long it pauses in between.

    `attempts` is the number of attempts in all, 1 to switch retries off. A 429 while other calls
    succeed is pacing, not failure: it costs no attempt and no budget, ten times in a row and for
    `max_retry_after` seconds in sum; nor does a 503 of a server that is busy, nor, as long as the
    deadline allows, an attempt where a server that was reached before takes no connection.
    `backoff` gives the pause before each further attempt, in seconds. After a 429 or 503 with
    `Retry-After` the pause is as long as the server asks, or somewhat longer, but no shorter than
    the backoff's; after a 429 it is the limiter's, if that closes for as long, and at least 0.1 s.
    If the server asks to wait longer than `max_retry_after` seconds, the call fails at once with an
    error that says how long. `budget` is the number of retries that all calls of a client have in
    reserve: a retry costs one, ten successes earn one back; None is no limit. The looks of waits
    and creates have as many of their own.

    `create_grace` is for how many seconds the server's backups are searched for that of a create
    whose answer was lost, before `CreateOutcomeUnknownError` is raised. `create_again_after` lets
    such a create be sent again: after a cut connection or a 5xx, if looks over this many seconds
    show no backup that may be its own. The deadline of the call is that much later. It is safe only
    if the server never acts, and its list never lags, for longer than that. With None (the default)
    a create that may have been carried out is never sent again.

    Raises `ValueError` for numbers out of range and a `backoff` that cannot be called.
    """

    attempts: int = 5
    backoff: Backoff = ExponentialBackoff(0.5, maximum=20.0, jitter=0.5)
    max_retry_after: float = 120.0
    budget: float | None = 100.0
    create_grace: float = 15.0
    create_again_after: float | None = None

    def __attrs_post_init__(self) -> None:
        check_int("attempts", self.attempts)
        check_callable("backoff", self.backoff)
        check_number("max_retry_after", self.max_retry_after)
        check_number("create_grace", self.create_grace)
        if self.create_again_after is not None:
            check_number("create_again_after", self.create_again_after)
        if self.budget is not None:
            check_number("budget", self.budget, unit="number of retries")

    def pause(self, error: VPSBackupsError, attempt: Attempt) -> float:
        """The seconds before the next attempt: the backoff's, or what the server asks if longer.

        Raises `ValueError` if the backoff answers anything but a finite number of zero or more.
        """
        asked, own = asked_pause(error), delay_of(self.backoff, attempt)
        if asked is None:
            return own
        # Only longer, as the server would refuse an earlier attempt; and random, as calls that
        # come back all at once would be refused again.
        return max(own, asked + random.random() * min(0.2 * asked, _MAX_JITTER))


class RetryBudget:
    """The retries that the calls of one client share."""

    def __init__(self, tokens: float | None) -> None:
        self._most = self._left = tokens

    def earn(self) -> None:
        """Add a tenth of a retry, for a call that succeeded."""
        if self._left is not None and self._most is not None and self._left < self._most:
            self._left = min(self._most, round(self._left + 0.1, 6))  # so that ten tenths are one

    def spend(self) -> bool:
        """Take one retry; False if none is left."""
        if self._left is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Warned:
    def __init__(self, at: float = -math.inf) -> None:
        self.at = at
        self.since = 0


class RetryLog:
    """Logs the retries of one client: each at DEBUG, and one WARNING a minute and cause."""

    def __init__(self) -> None:
        self._warned: dict[str, _Warned] = {}

    def retrying(
        self, failure: VPSBackupsError, kind: str, attempt: int, pause: float, now: float
    ) -> None:
        """Log a failed attempt and the pause (s) before the next; `now` is loop time (s)."""
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
        warned = self._warned.setdefault(cause, _Warned())
        warned.since += 1
        if now - warned.at >= _WARNING_SECONDS:
            logger.warning(
                "%s: %d retries since the last such line, the latest after: %s",
                cause,
                warned.since,
                failure,
                extra={**fields, "cause": cause, "count": warned.since},
            )
            self._warned[cause] = _Warned(now)


def _cause(failure: VPSBackupsError) -> str:
    if isinstance(failure, RateLimitedError):
        return "rate limited"
    return "server errors" if isinstance(failure, ApiError) else "connection trouble"


def asked_pause(error: VPSBackupsError) -> float | None:
    """The seconds that a 429 or 503 asks to wait, None if it does not say."""
    if isinstance(error, ApiError) and error.status in {429, 503}:
        return error.retry_after
    return None
