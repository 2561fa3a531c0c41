"""Which backups `ensure` takes for the one that is asked for; pure rules over values."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from vpsbackups_async._checks import check_duration
from vpsbackups_async._tags import marker_of, same, text_before_cut, text_of
from vpsbackups_async.models import Backup, ended_badly

__all__ = ["Need", "order_made", "windows_of"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MARKER_LENGTH: Final = 16


class Need(NamedTuple):
    """What `ensure` asks for: a recent manual backup of a server with this description.

    Descriptions are compared without their tags. Time is cut into periods as long as `within`,
    counted from 1970: all calls with the same arguments in one period have the same marker, and a
    backup with the marker of the present period is younger than `within`. `cut_at` is the length at
    which the API cuts descriptions, None if it is not known to do that.
    """

    server_id: int
    description: str
    within: timedelta
    running_within: timedelta
    cut_at: int | None = None

    def marker(self, now: datetime) -> str:
        """The marker of a backup that is made at this time by the server's clock."""
        period = (now - _EPOCH) // self.within
        length = self.within // timedelta(microseconds=1)
        text = f"{period} {length} {self.server_id} {text_of(self.description)}"
        return hashlib.sha256(text.encode()).hexdigest()[:_MARKER_LENGTH]

    def recent_markers(self, now: datetime) -> tuple[str, str]:
        """The markers of backups that may be younger than `within`, this period's first."""
        return self.marker(now), self.marker(now - self.within)

    def fits(self, backup: Backup, now: datetime) -> bool:
        """Whether the backup is what is asked for, at this time by the server's clock.

        One with an unknown status counts as running, as it does for a wait. The clocks behind `now`
        and the backup may differ, so one from the future counts too, but not from as far away as
        one from the past that is too old.
        """
        if not backup.is_manual or ended_badly(backup) or backup.server.id != self.server_id:
            return False
        age = now - backup.created_at
        description, (present, before) = backup.description, self.recent_markers(now)
        marker = marker_of(description)
        marked = same(marker, present)
        if not (
            marked or same(marker, before) or self.is_named(description) or self.is_cut(description)
        ):
            return False
        if backup.is_completed:
            return marked or abs(age) < self.within
        return abs(age) < self.running_within

    def is_named(self, description: str) -> bool:
        """Whether it is the description that is asked for, also if it was cut within its tags."""
        return text_of(self.description) in {text_of(description), text_before_cut(description)}

    def is_cut(self, description: str) -> bool:
        """Whether its text was cut, and the API would hold just that of the one asked for.

        Others may begin in the same way: to the API they are the same.
        """
        text = text_of(self.description)
        return (
            len(description) == self.cut_at and text != description and text.startswith(description)
        )

    def newest(self, backups: Iterable[Backup], now: datetime) -> Backup | None:
        """The newest backup that is what is asked for; None if there is none.

        Where several with its marker were made in the same moment, it is the one that was made
        first, as for those who made them.
        """
        fitting = [backup for backup in backups if self.fits(backup, now)]
        newest = max(fitting, key=order_made, default=None)
        marker = None if newest is None else marker_of(newest.description)
        if marker is None:
            return newest
        twins = (one for one in fitting if same(marker_of(one.description), marker))
        return min(twins, key=order_made)


def order_made(backup: Backup) -> tuple[datetime, int]:
    """Where the backup stands in the order in which backups were made.

    Whoever sees its own backup sees those that were made before, but none that are made later. Ids
    alone do not tell: they need not grow.
    """
    return backup.created_at, backup.id


def windows_of(
    within: timedelta | datetime, running_within: timedelta
) -> tuple[timedelta, timedelta]:
    """How old a backup may be now to count: a completed one, and one that runs.

    A moment `within` is by this machine's clock; one that runs counts, too, if it is newer. Raises
    `ValueError` unless that is in the past and has a time zone, and for bad durations.
    """
    check_duration("running_within", running_within)
    if not isinstance(within, datetime):
        return check_duration("within", within), running_within
    if within.utcoffset() is None:
        raise ValueError(f"within must be a moment with a time zone, not {within!r}")
    window = datetime.now(UTC) - within
    if window <= timedelta(0):
        raise ValueError(f"within must be a moment in the past, not {within!r}")
    return window, max(window, running_within)
