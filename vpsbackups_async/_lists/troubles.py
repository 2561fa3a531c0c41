"""Which lists failed when they were last read, and for how long they ask to be left alone."""

from enum import IntEnum
from typing import Final, NamedTuple

from vpsbackups_async._transport.adaptive import LONGEST_PAUSE
from vpsbackups_async._transport.retry import asked_pause
from vpsbackups_async.errors import (
    AuthenticationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)

__all__ = ["EVERY_SERVER", "Standing", "State", "Troubles", "pause_of"]

EVERY_SERVER: Final = 0
"""Stands for the lists of all single servers together; the ids of servers begin at 1."""
_FAILING: Final = 2
"""Failures in a row after which another way to the same backups is tried."""
_FORGOTTEN: Final = 300.0
"""Seconds after its last failure when a failing list is tried again although there is another."""
_TIDY: Final = 1_000
"""Lists with failures beyond which those are dropped that no longer matter."""


class State(IntEnum):
    """How a list does: the lower, the better is the chance that it can be read now."""

    FINE = 0
    FAILING = 1
    PAUSED = 2


class Standing(NamedTuple):
    """The state of a list and its failures in a row; the lesser standing is to be tried first."""

    state: State
    failures: int


class _Trouble(NamedTuple):
    failures: int
    error: VPSBackupsError
    at: float
    until: float


class Troubles:
    """The failures of lists by server id, None for the list of all servers; see `EVERY_SERVER`.

    Times are in seconds of loop time.
    """

    def __init__(self) -> None:
        self._of: dict[int | None, _Trouble] = {}

    def failed(self, server_id: int | None, error: VPSBackupsError, now: float) -> None:
        """Note that a list could not be read; a 401 or 429 is no fault of the list."""
        if isinstance(error, AuthenticationError | RateLimitedError):
            return
        last = self._of.get(server_id)
        failures = (last.failures if last else 0) + 1
        if isinstance(error, PermissionDeniedError):
            failures = max(failures, _FAILING)  # to ask once more would not mend it
        # A later answer that asks for less does not take back what an earlier one asked for.
        asked = 0.0 if server_id == EVERY_SERVER else pause_of(error)
        until = max(now + asked, last.until if last else now)
        self._of[server_id] = _Trouble(failures, error, now, until)
        if len(self._of) > _TIDY:
            self._of = {
                one: trouble
                for one, trouble in self._of.items()
                if now < max(trouble.until, trouble.at + _FORGOTTEN)
            }

    def worked(self, server_id: int | None) -> None:
        """Note that a list could be read."""
        self._of.pop(server_id, None)

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

    def error(self, server_id: int | None) -> VPSBackupsError | None:
        """The last failure of a list, None if it could be read since."""
        trouble = self._of.get(server_id)
        return None if trouble is None else trouble.error


def pause_of(error: VPSBackupsError) -> float:
    """The seconds for which an answer asks to leave its list alone; an hour at most.

    A 429 asks it of the client, whose limiter heeds it.
    """
    asked = None if isinstance(error, RateLimitedError) else asked_pause(error)
    return min(asked or 0.0, LONGEST_PAUSE)
