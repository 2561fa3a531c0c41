"""One wait: what it waits for, when it is due, and what it has seen."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Final, Literal

from vpsbackups_async import _events
from vpsbackups_async._lists.wanted import Key, Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._wire import Mask, unmasked
from vpsbackups_async.backoff import Attempt, Backoff, delay_of
from vpsbackups_async.errors import (
    BackupDisappearedError,
    BackupFailedError,
    BackupNeverAppearedError,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
)
from vpsbackups_async.models import Backup, BackupRef, BackupStatus, is_running

__all__ = ["Batch", "Look", "Waiter", "shown_status"]

logger = logging.getLogger("vpsbackups_async")

_STRETCH: Final = 0.5
"""A shared pause extends a waiter's own delay by at most this fraction."""
_MISSES: Final = 2
"""Complete looks in a row without a backup that was listed before, after which it is gone."""
_AFTER_FAILURE: Final = 1.0
"""Seconds after a failed look until the next one at the least."""
_RAISED: Final = (Exception, asyncio.CancelledError)
"""What a caller's callback may raise without an end to the wait: `CancelledError` cancels no task
of ours. Anything else, such as a failure of a test, ends the callback's own wait.
"""


def shown_status(backup: Backup, mask: Mask) -> BackupStatus:
    """The status of the backup for an error or a log: the text of an unknown one is masked."""
    status = backup.status
    return status if status.is_known else BackupStatus(mask(str(status)))


class Waiter:
    """One wait: what it waits for, when it is next due, and what it has seen.

    `due` is the time of its next look, `look` the one that it waits for once that time has come.
    `limit` is the time at which it ends even if a look is under way. `error` is why its last look
    failed, None if it did not. `mask` masks the secrets in a status that is the server's own text.
    """

    __slots__ = (
        "_mask",
        "appear_grace",
        "backoff",
        "backup",
        "deadline",
        "delay",
        "due",
        "error",
        "future",
        "limit",
        "listed",
        "look",
        "misses",
        "number",
        "on_poll",
        "on_unknown",
        "previous",
        "ref",
        "seen_running",
        "started",
    )

    def __init__(
        self,
        ref: BackupRef,
        known: Backup | None,
        *,
        backoff: Backoff,
        timeout: float | None = 3600.0,
        on_poll: Callable[[Attempt], object] | None = None,
        on_unknown: Literal["wait", "raise"] = "wait",
        appear_grace: float = 60.0,
        mask: Mask = unmasked,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._mask = mask
        self.ref = ref
        self.backup = known
        self.listed = False
        self.backoff = backoff
        self.on_poll = on_poll
        self.on_unknown = on_unknown
        self.appear_grace = appear_grace
        self.started = loop.time()
        self.deadline = math.inf if timeout is None else self.started + timeout
        self.due = self.limit = self.deadline
        self.number = 0
        self.delay: float | None = None
        self.previous: float | None = None  # the delay before that
        # Only a wait that begins with the backup running tells how long the backup took.
        begins = known is not None and is_running(known)
        self.seen_running: float | None = 0.0 if begins else None
        self.misses = 0
        self.look: Look | None = None
        self.error: VPSBackupsError | None = None
        self.future: asyncio.Future[Backup] = loop.create_future()

    @property
    def last_status(self) -> BackupStatus | None:
        """The last status that a list showed, else that of the backup which the caller gave."""
        return None if self.backup is None else shown_status(self.backup, self._mask)

    @property
    def server_id(self) -> int | None:
        """The server of the backup, as the ref gives it or a list has shown it."""
        if self.ref.server_id is None and self.listed and self.backup is not None:
            return self.backup.server.id
        return self.ref.server_id

    def elapsed(self) -> float:
        """The seconds since the wait began."""
        return self.future.get_loop().time() - self.started

    def abandon(self) -> None:
        """End the wait because its client was closed."""
        self.fail(WaitError(self.ref, self.last_status, self.elapsed(), "the client was closed"))

    def wanted(self) -> Wanted:
        """What a look must find for this waiter."""
        # A new backup may be listed late, so its first look need not prove that it is absent.
        proof = self.listed or self.number > 1 or self.elapsed() >= self.appear_grace
        manual = self.backup is not None and self.backup.is_manual
        return Wanted(self.ref.id, self.server_id, manual, proof)

    def plan(self, now: float, *, was_due: bool = True) -> None:
        """Set the time of the next look; asks the waiter's own strategy, which may raise.

        A look of others that happened to show the backup takes the place of the next look, but is
        no attempt of this wait: its delays do not grow by that.
        """
        self.look = None
        if was_due:
            self.number += 1
            self.previous = self.delay
        attempt = Attempt(self.number, now - self.started, self.previous, self.backup)
        self.delay = delay_of(self.backoff, attempt)
        pause = self.delay if self.error is None else max(self.delay, _AFTER_FAILURE)
        self.due = min(now + pause, self.deadline)

    def due_after(self, rest: float) -> float:
        """The time of the next look if the hub rests until `rest`."""
        put_off = max(self.due, min(rest, self.due + _STRETCH * (self.delay or 0.0)))
        return min(put_off, max(self.due, self.deadline))

    def succeed(self, backup: Backup) -> None:
        """End the wait with the completed backup."""
        if not self.future.done():
            self.future.set_result(backup)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        if isinstance(error, StopIteration):  # a future does not take it
            stopped = RuntimeError("a callback of the wait raised StopIteration")
            stopped.__cause__ = error
            error = stopped
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        """End the wait because its time is up."""
        reason = "it was not completed in time"
        if self.error is not None:
            reason = f"{reason}, and the last look failed: {self.error.describe()}"
        elif self.look is not None:
            reason = f"{reason}, and the last look {self.look.state()}"
        error = WaitTimeoutError(self.ref, self.last_status, self.elapsed(), reason)
        error.__cause__ = self.error
        self.fail(error)

    def see(self, backup: Backup) -> None:
        """Note the backup as a list showed it."""
        status = backup.status
        is_new = not self.listed or self.backup is None or self.backup.status != status
        self.backup, self.listed, self.misses, self.error = backup, True, 0, None
        if status.is_completed:
            self._teach(backup)
            self.succeed(backup)
            return
        if self.seen_running is not None:
            self.seen_running = self.elapsed()
        if status.is_failed:
            self.fail(BackupFailedError(self.ref, status, self.elapsed(), backup=backup))
        elif not status.is_known and is_new:
            shown = self.last_status
            logger.warning("backup %s has the unknown status %r", backup.id, str(shown))
            if self.on_unknown == "raise":
                reason = "its status is not known to this library"
                self.fail(WaitError(self.ref, shown, self.elapsed(), reason))

    def _teach(self, backup: Backup) -> None:
        """Tell a strategy that learns how long the backup took."""
        learn = getattr(self.backoff, "learn", None)  # optional, see `Backoff`
        if learn is None or self.seen_running is None:
            return
        try:
            learn(backup, self.seen_running, self.elapsed())
        except _RAISED:
            logger.exception("learn failed for backup %s", self.ref.id)
        except BaseException as error:  # noqa: BLE001  # ends this wait alone
            self.fail(error)

    def miss(self) -> None:
        """Note that a complete look did not show the backup."""
        self.misses += 1
        status, elapsed = self.last_status, self.elapsed()
        if not self.listed:
            if elapsed >= self.appear_grace:
                self.fail(BackupNeverAppearedError(self.ref, status, elapsed))
        elif self.misses >= _MISSES and elapsed >= self.appear_grace:
            # Not earlier: a replica that lags may answer after one that shows the backup.
            gone = BackupDisappearedError(self.ref, status, elapsed, last_seen=self.backup)
            self.fail(gone)

    def report(self) -> None:
        """Call the caller's `on_poll` after a look; an exception of it does not end the wait."""
        if self.on_poll is None or self.future.done():
            return
        attempt = Attempt(self.number, self.elapsed(), self.delay, self.backup)
        try:
            self.on_poll(attempt)
        except _RAISED:
            logger.exception("on_poll failed for backup %s", self.ref.id)
        except BaseException as error:  # noqa: BLE001  # ends this wait alone
            self.fail(error)


class Batch:
    """The looks that began together at the time `began`, and the requests that they took."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.requests = 0


class Look:
    """A look at one list: a server's, or that of all servers (`server_id` is None).

    `waiters` are those that it is for, by what they want. `behind` are those that became due while
    it was under way and want the same list. `met` are all whose backups it showed. `error` is the
    failure of its last attempt, `requests` the answered requests that it took. `send` watches them.
    """

    def __init__(
        self, server_id: int | None, batch: Batch, waiters: dict[Key, list[Waiter]]
    ) -> None:
        self.server_id = server_id
        self.batch = batch
        self.waiters = waiters
        self.behind: list[Waiter] = []
        self.met: dict[Waiter, None] = {}
        self.error: VPSBackupsError | None = None
        self.requests = 0
        self.send = SendState()

    def state(self) -> str:
        """How far the look has come."""
        if not self.send.began:
            return "was not sent yet"
        waits = self.send.on_the_wire and len(self.send.began) == 1
        return "got no answer" if waits else "was not over"

    def polled(
        self, shown: Iterable[Waiter], error: VPSBackupsError | None
    ) -> "_events.WaitPolled":
        """The event of its end, with the waiters whose backups it showed, and why it failed."""
        statuses = {one.ref.id: one.last_status for one in shown}
        found = tuple((key, status) for key, status in statuses.items() if status is not None)
        return _events.WaitPolled(self.server_id, self.requests, found, error)

    def concerned(self) -> list[Waiter]:
        """The waiters that wait for this look's end."""
        those = [waiter for waiters in self.waiters.values() for waiter in waiters]
        return [waiter for waiter in (*those, *self.behind) if waiter.look is self]
