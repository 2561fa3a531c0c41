"""What became of a create without an answer, found out by looking at the server's backups."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from vpsbackups_async._creating.evidence import Verdict
from vpsbackups_async._creating.looks import Look
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup

__all__ = ["Search", "is_not_handled", "may_create_again", "search", "told"]

_FIRST_PAUSE: Final = 0.5
_MAX_PAUSE: Final = 4.0
_MAX_PAUSE_IN_OUTAGE: Final = 16.0
_STILL_WORKING: Final = frozenset({504, 520, 522, 524})
"""Answers of a gateway that gave up waiting: the server behind it may still do the work."""


class Search:
    """What the looks for the backup of a create have told so far.

    `looks` counts those that succeeded, over `seconds`; `failure` is why the last one failed.
    `complete` is whether the list held still during the last one, `ended` whether that came at the
    end of the time.
    """

    def __init__(self) -> None:
        self.verdict = Verdict()
        self.looks = 0
        self.seconds = 0.0
        self.complete = False
        self.ended = False
        self._candidates: dict[int, Backup] = {}
        self.failure: VPSBackupsError | None = None

    def take(self, verdict: Verdict, *, complete: bool) -> None:
        """Note what a look told; a candidate stays one though a later look does not show it."""
        self.looks += 1
        self.complete = complete
        self.verdict = verdict
        self._candidates.update((one.id, one) for one in verdict.candidates)

    @property
    def candidates(self) -> tuple[Backup, ...]:
        """The backups that the create may have made, by any look; the last one's first."""
        last = {one.id: one for one in self.verdict.candidates}
        return tuple({**last, **self._candidates, **last}.values())

    @property
    def certainly_nothing(self) -> bool:
        """Whether the looks were enough, and none showed a backup that may be the create's."""
        return self.ended and self.complete and not self._candidates

    @property
    def reason(self) -> str:
        """Why the looks did not tell what became of the create."""
        if self.verdict.several:
            return "several backups may be the one that was asked for"
        if self._candidates:
            return "a backup that may be somebody else's was made meanwhile"
        if not self.looks:
            why = "there was no time for it" if self.failure is None else self.failure.describe()
            return f"looking at the server's backups failed: {why}"
        how = f"{self.looks} look{'s' * (self.looks > 1)} over {self.seconds:.0f} s showed none"
        return how if self.complete else f"{how}, but the list moved while it was read"


async def search(
    found: Search,
    look_at_server: Callable[[], Awaitable[Look]],
    take: Callable[[Look], bool],
    *,
    grace: float,
    end: float,
) -> None:
    """Look until `take` says of a look that it is enough, or for `grace` seconds from the first.

    The last look starts that long after the first one that succeeds. Looks that fail for a lasting
    reason end after `grace` seconds, and with no grace there is one look. All ends at `end`, in
    loop time. What was seen is noted in `found`.
    """
    try:
        async with asyncio.timeout_at(end):
            await _look_on(found, look_at_server, take, grace)
    except TimeoutError:
        pass  # `found` has what was seen until then


async def _look_on(
    found: Search,
    look_at_server: Callable[[], Awaitable[Look]],
    take: Callable[[Look], bool],
    grace: float,
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    until: float | None = None
    pause = _FIRST_PAUSE
    while True:
        now = loop.time()
        longest = _MAX_PAUSE
        try:
            look = await look_at_server()
        except Exception as failure:  # noqa: BLE001  # also what the caller's limiter raises
            error = found.failure = told(failure)
            lasts = grace == 0 or not _may_pass(error)
            over = now >= (began + grace if until is None else until)
            if (lasts and over) or isinstance(error, ConfigurationError):
                return
            longest = _MAX_PAUSE_IN_OUTAGE
        else:
            until = now + grace if until is None else until
            found.seconds = now - began
            found.ended = now >= until
            if take(look) or found.ended:
                return
        rest = math.inf if until is None else until - loop.time()
        await asyncio.sleep(min(pause, rest) if rest > 0 else pause)
        pause = min(2 * pause, longest)


def told(error: Exception) -> VPSBackupsError:
    """The error, as one of ours where the caller's limiter raised it: nothing was sent then.

    The backup of a create must not be lost sight of for a limiter that fails.
    """
    if isinstance(error, VPSBackupsError):
        return error
    own = TransportError(f"the limiter failed: {type(error).__name__}: {error}", False)
    own.__cause__ = error
    return own


def _may_pass(failure: VPSBackupsError) -> bool:
    """Whether a later look may succeed: the server is down, slow or busy."""
    if isinstance(failure, UnexpectedRedirectError | ResponseTooLargeError):
        return False
    return isinstance(
        failure, TransportError | ServerError | RateLimitedError | DeadlineExceededError
    )


def is_not_handled(failure: VPSBackupsError) -> bool:
    """Whether the server says that it did not handle the request (RFC 9110, 15.6.4)."""
    return isinstance(failure, ServerError) and failure.status == 503


def may_create_again(failure: VPSBackupsError) -> bool:
    """Whether a create may be sent again after this failure, if that was asked for.

    Not where the server may still be working on it: after a timeout, or a gateway's. Nor after a
    success that could not be read: then it did the work.
    """
    if isinstance(failure, RequestTimeoutError | ResponseTooLargeError | UnexpectedRedirectError):
        return False
    if isinstance(failure, ServerError):
        return failure.status not in _STILL_WORKING
    return isinstance(failure, TransportError)
