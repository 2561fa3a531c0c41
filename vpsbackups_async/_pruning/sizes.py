"""Whether the size of a new backup is a usual one, and what follows from sizes that are not."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from vpsbackups_async._pruning.plan import is_of
from vpsbackups_async.models import Backup, as_utc
from vpsbackups_async.retention import Decision, Retention

__all__ = ["decide_by_size", "refused_sizes", "size_problem"]

_LAST: Final = 5
"""The earlier backups of a job with whose sizes a new one is compared."""
_LEAST_SHARE: Final = 0.5


def decide_by_size(
    retention: Retention, backups: Iterable[Backup], now: datetime, verified: Backup
) -> tuple[Decision, ...]:
    """As `Retention.decide`, but what a refused size says is bad pushes out nothing.

    A backup goes only if the policy lets it go with those of refused sizes and without them.
    `verified` is one of the backups whose size is not in question.
    """
    held = list(backups)
    decisions = retention.decide(held, now)
    attempts = [
        one.backup
        for one in decisions
        if one.backup.id != verified.id and is_of(retention.job, one.backup)
    ]
    refused = refused_sizes(attempts)
    if not refused:
        return decisions
    without = retention.decide([one for one in held if one.id not in refused], now)
    strict = {one.backup.id: one for one in without}
    return tuple(one if one.kept else strict.get(one.backup.id, one) for one in decisions)


def refused_sizes(attempts: Iterable[Backup]) -> dict[int, str]:
    """What is wrong with the sizes of these attempts of a job, by their ids.

    Each completed one is judged by those before it. Those that are not in the result are good.
    """
    completed = [one for one in attempts if one.is_completed]
    completed.sort(key=lambda one: (as_utc(one.created_at), one.id), reverse=True)
    sizes = [one.size_mb for one in completed]
    problems = {
        one.id: size_problem(one.size_mb, sizes[place:]) for place, one in enumerate(completed, 1)
    }
    return {number: problem for number, problem in problems.items() if problem}


def size_problem(size: int | None, earlier: Sequence[int | None]) -> str:
    """What is wrong with the size of a new backup, in MB; empty if nothing is.

    `earlier` are the sizes of the completed backups of the job before it, newest first. Those that
    were wrong in their turn do not count, so that bad ones never become the usual. An unknown size
    passes where those of the last five are unknown too.
    """
    passed: list[int | None] = []
    for one in reversed(earlier):
        if one is None or not _size_problem(one, passed[-_LAST:]):
            passed.append(one)
    return _size_problem(size, passed[-_LAST:])


def _size_problem(size: int | None, last: Sequence[int | None]) -> str:
    known = [one for one in last if one is not None]
    if size is None:
        return "its size is unknown, unlike those of the ones before it" if known else ""
    if size <= 0:
        return f"its size is {size} MB"
    from statistics import median  # noqa: PLC0415  # it takes long to load, and few need it

    usual = median(known) if known else 0
    if size < _LEAST_SHARE * usual:
        return (
            f"its size is {size} MB, less than half of the usual {usual:g} MB (if backups "
            "are to stay so small, delete the larger ones, or let the library's verify check them)"
        )
    return ""
