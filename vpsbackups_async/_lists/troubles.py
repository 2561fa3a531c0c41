"""Which lists failed when they were last read, and for how long they ask to be left alone."""

import math
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from vpsbackups_async._transport.line import LONGEST_PAUSE
from vpsbackups_async._transport.retry import asked_pause
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)

__all__ = ["Standing", "State", "Troubles", "is_outage", "pause_of"]

_FAILING: Final = 2
"""Failures in a row after which another way to the same backups is tried."""
_FORGOTTEN: Final = 300.0
"""Seconds after its last failure when a failing list is tried again although there is another."""
_SOON: Final = 30.0
"""Seconds after its last failure when a list that fails at once is tried first again."""
_TIDY: Final = 1_000
"""Lists with failures beyond which those are dropped that no longer matter."""
_NONE_WORKS: Final = 16
"""Servers whose lists failed since one last worked, after which it seems that none works."""
_TRIES: Final = 4
_TRY_SECONDS: Final = 2.5
"""While no server's list works: a failed one is tried again so often, several at once."""


class State(IntEnum):
    """How a list does: the lower, the better is the chance that it can be read now."""

    FINE = 0
    FAILING = 1
    PAUSED = 2


class Standing(NamedTuple):
    """The state of a list and its failures in a row; the lesser standing is to be tried first."""

    state: State
    failures: int


class _Trouble(msgspec.Struct, frozen=True):
    failures: int
    error: VPSBackupsError
    at: float
    until: float
    soon: float


class Troubles:
    """The failures of lists by server id, None for the list of all servers.

    Times are in seconds of loop time.
    """

    def __init__(self) -> None:
        self._of: dict[int | None, _Trouble] = {}
        self._tidy_at = _TIDY
        self._failed_since: set[int] = set()  # servers, since the list of one last worked
        self._next_try = -math.inf

    def failed(
        self, server_id: int | None, error: VPSBackupsError, now: float, *, at_once: bool = False
    ) -> None:
        """Note that a list could not be read; a 401 or 429 is no fault of the list.

        `at_once` is whether that was known so soon that trying again delays nobody.
        """
        if isinstance(error, AuthenticationError | RateLimitedError):
            return
        self.attempt_failed(server_id, error)
        last = self._of.get(server_id)
        failures = (last.failures if last else 0) + 1
        if isinstance(error, PermissionDeniedError):
            failures = max(failures, _FAILING)  # to ask once more would not mend it
        # A later answer that asks for less does not take back what an earlier one asked for.
        until = max(now + pause_of(error), last.until if last else now)
        soon = now + _SOON if at_once and _may_hold_for_all(error) else math.inf
        self._of[server_id] = _Trouble(failures, error, now, until, max(soon, until))
        if len(self._of) > self._tidy_at:
            self._of = {
                one: trouble
                for one, trouble in self._of.items()
                if now < max(trouble.until, trouble.at + _FORGOTTEN)
            }
            self._tidy_at = max(_TIDY, 2 * len(self._of))

    def attempt_failed(self, server_id: int | None, error: VPSBackupsError) -> None:
        """Note that an attempt at a list failed; a refused token or rate does not count."""
        if server_id is not None and _may_hold_for_all(error) and not self.none_works:
            self._failed_since.add(server_id)

    def worked(self, server_id: int | None) -> None:
        """Note that a list could be read."""
        self._of.pop(server_id, None)
        if server_id is not None:
            self._failed_since.clear()

    @property
    def none_works(self) -> bool:
        """Whether the lists of many servers failed since one last worked."""
        return len(self._failed_since) >= _NONE_WORKS

    def may_try(self, server_id: int, now: float) -> bool:
        """Whether a server's list may be asked for now, which counts as a try.

        A list that worked the last time, or was never read, always may. While none works, those
        that failed share a few tries, so that an outage of everything is met with few requests.
        """
        if not self.none_works or not _may_hold_for_all(self.error(server_id)):
            return True
        following = max(self._next_try, now - (_TRIES - 1) * _TRY_SECONDS)
        if following > now:
            return False
        self._next_try = following + _TRY_SECONDS
        return True

    def may_try_first(self, server_id: int | None, now: float) -> bool:
        """Whether a failing list may be tried before the other way, as it fails at once."""
        trouble = self._of.get(server_id)
        return trouble is not None and now >= trouble.soon

    def standing(self, server_id: int | None, now: float) -> Standing:
        """Whether a list is worth a request now, and its failures in a row."""
        trouble = self._of.get(server_id)
        if trouble is None:
            return Standing(State.FINE, 0)
        if now < trouble.until:
            state = State.PAUSED
        elif trouble.failures >= _FAILING and now < trouble.at + _FORGOTTEN:
            state = State.FAILING
        else:
            state = State.FINE
        return Standing(state, trouble.failures)

    def pause(self, server_id: int | None, now: float) -> float:
        """The seconds for which a list asks to be left alone."""
        trouble = self._of.get(server_id)
        return 0.0 if trouble is None else max(0.0, trouble.until - now)

    def error(self, server_id: int | None) -> VPSBackupsError | None:
        """The last failure of a list, None if it could be read since."""
        trouble = self._of.get(server_id)
        return None if trouble is None else trouble.error


def is_outage(error: VPSBackupsError | None) -> bool:
    """Whether the error is a failure that may be that of other lists too, and no refusal."""
    return error is not None and (not isinstance(error, ApiError) or error.status >= 500)


def _may_hold_for_all(error: VPSBackupsError | None) -> bool:
    """Whether the lists of all servers may fail in this way, though the token is good.

    A 404 or 400 for one server says that it is gone; for many, that the API is not there.
    """
    refusals = AuthenticationError | PermissionDeniedError | RateLimitedError
    return error is not None and not isinstance(error, refusals)


def pause_of(error: VPSBackupsError) -> float:
    """The seconds for which an answer asks to leave its list alone; an hour at most.

    A 429 asks it of the client, whose limiter heeds it.
    """
    asked = None if isinstance(error, RateLimitedError) else asked_pause(error)
    return min(asked or 0.0, LONGEST_PAUSE)
