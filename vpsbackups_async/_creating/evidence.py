"""Which backups of a server an unanswered create may have made; pure rules over values.

The API takes no idempotency key, and neither ids nor clocks prove anything: ids need not grow, and
the clock behind `Date` may differ from the one behind `created_at`. So a backup is judged by what
was known before the create, by its description and marker, and by its time within ten minutes.
"""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from vpsbackups_async._tags import job_of, marker_of, same, text_of
from vpsbackups_async.models import Backup

__all__ = ["SentCreate", "Verdict", "clock_offset", "judge"]

_NEAR: Final = timedelta(minutes=10)
"""How far a creation time may lie from the time of sending, by either clock."""


_MAX_OFFSET: Final = 100 * 365 * 86_400.0
"""Seconds beyond which a `Date` is nonsense, and dates computed with it may overflow."""


class SentCreate(NamedTuple):
    """A create that was sent, and what was known before.

    `description` is as it was sent, with its tags; `marker` is the one that was asked for, None if
    none was. `known_ids` are manual backups of the server
    that are not of this create; `read_before` is whether they are all, read completely while no
    other create of this client ran on the server. `sent_at` are the times of sending, in UTC by our
    clock. `clock_offset` is how many seconds the server's clock is ahead of ours, None if unknown.
    """

    server_id: int
    description: str
    marker: str | None
    known_ids: frozenset[int]
    read_before: bool
    sent_at: tuple[datetime, ...]
    clock_offset: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    """The backups that a create may have made, by how much speaks for them."""

    certain: tuple[Backup, ...] = ()
    likely: tuple[Backup, ...] = ()
    possible: tuple[Backup, ...] = ()

    @property
    def answer(self) -> Backup | None:
        """The backup that the create made; None if none, or several, may be."""
        best = self.certain or self.likely
        return best[0] if len(best) == 1 else None

    @property
    def several(self) -> bool:
        """Whether several have the same claim, so that more looks cannot tell."""
        return len(self.certain or self.likely) > 1

    @property
    def candidates(self) -> tuple[Backup, ...]:
        """All backups that the create may have made, those with the best claim first."""
        return self.certain + self.likely + self.possible


def judge(sent: SentCreate, backups: Iterable[Backup], is_given: Callable[[int], bool]) -> Verdict:
    """What these backups of the server tell; `is_given` tells ids that other creates were given."""
    certain: list[Backup] = []
    likely: list[Backup] = []
    possible: list[Backup] = []
    for backup in backups:
        if not _may_be(sent, backup) or is_given(backup.id):
            continue
        if bears_marker(sent, backup) or _appeared(sent, backup):
            certain.append(backup)
        elif not sent.read_before and _is_alike(sent, backup) and _is_near(sent, backup):
            likely.append(backup)
        elif not _is_old(sent, backup):
            possible.append(backup)
    return Verdict(tuple(certain), tuple(likely), tuple(possible))


def bears_marker(sent: SentCreate, backup: Backup) -> bool:
    """Whether the backup has the marker that the create asked for.

    One that merely stands in a description, copied from another backup say, tells nothing.
    """
    return sent.marker is not None and same(marker_of(backup.description), sent.marker)


def _may_be(sent: SentCreate, backup: Backup) -> bool:
    """Whether the backup is not certainly somebody else's, or from before."""
    if not backup.is_manual or backup.server.id != sent.server_id or backup.id in sent.known_ids:
        return False
    marker = marker_of(backup.description)
    return marker is None or same(marker, marker_of(sent.description))


def _appeared(sent: SentCreate, backup: Backup) -> bool:
    """Whether the complete read before the create did not have it; not long after the create."""
    return sent.read_before and _is_alike(sent, backup) and not _is_late(sent, backup)


def _is_alike(sent: SentCreate, backup: Backup) -> bool:
    """Whether it has the description and the marker of the create, and is of no other job."""
    asked, held = sent.description, backup.description
    jobs = {job.casefold() for job in (job_of(asked), job_of(held)) if job is not None}
    return (
        text_of(asked) == text_of(held)
        and same(marker_of(asked), marker_of(held))
        and len(jobs) <= 1
    )


def _is_near(sent: SentCreate, backup: Backup) -> bool:
    """Whether it was created within ten minutes of the create, by the server's clock or ours."""
    return any(first - _NEAR <= backup.created_at <= last + _NEAR for first, last in _spans(sent))


def _is_late(sent: SentCreate, backup: Backup) -> bool:
    """Whether it was created over ten minutes after the create, by the server's clock if known."""
    spans = _spans(sent)
    return not spans or backup.created_at > spans[-1][1] + _NEAR


def _is_old(sent: SentCreate, backup: Backup) -> bool:
    """Whether it has ended and was created over ten minutes before the create, by both clocks."""
    spans = _spans(sent)
    ended = backup.is_completed or backup.is_failed
    return ended and bool(spans) and all(backup.created_at < first - _NEAR for first, _ in spans)


def clock_offset(server_time: datetime | None, our_time: datetime) -> float | None:
    """How many seconds the server's clock is ahead; None if that is not told, or nonsense."""
    if server_time is None:
        return None
    offset = (server_time - our_time).total_seconds()
    return offset if abs(offset) < _MAX_OFFSET else None


def _spans(sent: SentCreate) -> list[tuple[datetime, datetime]]:
    """The times of the first and the last sending, by our clock and, if known, by the server's."""
    if not sent.sent_at:
        return []
    ours = (min(sent.sent_at), max(sent.sent_at))
    if sent.clock_offset is None:
        return [ours]
    ahead = timedelta(seconds=sent.clock_offset)
    return [ours, (ours[0] + ahead, ours[1] + ahead)]
