"""What looks for the backup of a create have shown, whose outcome another process may have left."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from attrs import define

from vpsbackups_async._creating.ensuring import order_made
from vpsbackups_async._creating.evidence import SentCreate, clock_offset, judge
from vpsbackups_async._creating.looks import Look
from vpsbackups_async._tags import marker_of, same, with_marker
from vpsbackups_async.durable.items import Item
from vpsbackups_async.durable.values import Limits
from vpsbackups_async.errors import CreateOutcomeUnknownError
from vpsbackups_async.models import Backup

__all__ = ["Found", "Search", "failed_before", "is_of"]

_MOST_POSTS: Final = 10
"""How many creates of an item may be intended before it is given up as unknown."""


@define
class Found:
    """The backup of a server, and others with a marker of the same create."""

    backup: Backup
    twins: tuple[int, ...] = ()


class Search:
    """What looks for the backup of earlier creates have shown.

    Its times are `seconds` since it began, by the database's clock and by this process's steady one
    at once: of each step, the shorter time counts. So a clock that is set in the middle decides
    nothing; nor does one that was set before, as all that was intended then is waited out anew.
    `is_answered` is whether all creates had an answer by which nothing was done: then none is on
    the wire, and another one may be sent in any case once enough looks have shown nothing.
    """

    def __init__(
        self,
        item: Item,
        labelled: str,
        limits: Limits,
        attempt: float,
        now: float,
        *,
        is_answered: bool = False,
    ) -> None:
        self._item = item
        self._description = with_marker(labelled, item.marker)
        self._again_after = limits.create_again_after or 0.0
        self._may_repeat = item.may_repeat and (
            is_answered or (limits.create_again_after is not None and item.posts < _MOST_POSTS)
        )
        self._now, self._steady = now, time.monotonic()
        self.seconds: float = 0.0
        # Another process may have begun it just now, and let it through at the last moment; then it
        # may be on the wire for as long as an attempt.
        window = max(item.window, 0.0)
        self._quiet_after = 0.0 if is_answered else window + attempt
        left = (item.not_after or now) + limits.unknown_for - now
        # A worker that takes it over much later looks for long enough, too.
        enough = min(limits.unknown_for, 2 * self._again_after)
        if self._may_repeat:
            enough = self._quiet_after + 2 * self._again_after
        self.ends_after: float = max(min(left, window + limits.unknown_for), enough)
        self._clear_since: float | None = None
        self._clear_at: float | None = None
        self._candidates: dict[int, Backup] = {}
        self._looks = 0

    def go_on(self, now: float) -> None:
        """Go on to the next look; it is `now` by the database's clock."""
        steady = time.monotonic()
        self.seconds += max(min(now - self._now, steady - self._steady), 0.0)
        self._now, self._steady = now, steady

    def take(self, look: Look, is_given: Callable[[int], bool]) -> Found | None:
        """The backup that this look, which began at `seconds`, shows to be that of the item."""
        self._looks += 1
        item = self._item
        made = [one for one in look.backups if is_of(item, one)]
        if self._may_repeat:
            made = [one for one in made if not failed_before(item, one)]
        if made:
            first, *others = sorted(made, key=lambda one: (one.is_failed, order_made(one)))
            return Found(first, tuple(one.id for one in others))
        verdict = judge(self._sent(look), look.backups, is_given)
        self._candidates.update((one.id, one) for one in verdict.candidates)
        if not look.complete or self._candidates:
            self._clear_since = self._clear_at = None
        else:
            self._clear_at = self.seconds
            if self._clear_since is None:
                self._clear_since = max(self.seconds, self._quiet_after)
        return None

    @property
    def is_over(self) -> bool:
        """Whether looks have shown for long enough that the creates made nothing."""
        if self._clear_since is None or self._clear_at is None:
            return False
        return self._may_repeat and self.seconds >= self.decides_after

    @property
    def decides_after(self) -> float:
        """When a look may decide that nothing was made, or that it stays unknown."""
        if self._clear_since is None or not self._may_repeat:
            return self.ends_after
        return self._clear_since + self._again_after

    def _sent(self, look: Look) -> SentCreate:
        item = self._item
        # By one clock; what it noted before it was set back is no later than now.
        times = [min(one, self._now) for one in (item.sent_at, item.not_after) if one is not None]
        return SentCreate(
            item.server_id,
            self._description,
            item.marker,
            frozenset(),
            False,
            tuple(datetime.fromtimestamp(one, UTC) for one in times),
            clock_offset(look.server_time, datetime.fromtimestamp(self._now, UTC)),
        )

    def error(self) -> CreateOutcomeUnknownError:
        """The error of a create whose outcome stays unknown."""
        item = self._item
        if self._candidates:
            reason = "a backup that may be somebody else's was made meanwhile"
        elif not self._looks:
            reason = "the server's backups could not be read"
        else:
            reason = f"{self._looks} looks showed none with its marker"
        return CreateOutcomeUnknownError(
            tuple(self._candidates.values()),
            item.server_id,
            self._description,
            reason,
            marker=item.marker,
        )


def is_of(item: Item, backup: Backup) -> bool:
    """Whether a create of this item was given the backup, or it has the marker of one."""
    if not backup.is_manual or backup.server.id != item.server_id:
        return False
    marker = marker_of(backup.description)
    return backup.id == item.backup_id or any(same(marker, own) for own in item.markers)


def failed_before(item: Item, backup: Backup) -> bool:
    """Whether a backup of the item is one of a former retry that failed: another one replaces it.

    One that is noted, or has the marker of this retry, tells how this retry ends.
    """
    is_own = backup.id == item.backup_id or same(marker_of(backup.description), item.marker)
    return backup.is_failed and not is_own
