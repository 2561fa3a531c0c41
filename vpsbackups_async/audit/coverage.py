"""How well servers are covered by backups: pure rules over complete lists."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from attrs import field, frozen

from vpsbackups_async import _tags
from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.models import Backup, Server, as_utc, ended_badly, is_good, is_running

__all__ = ["Coverage", "ServerCoverage", "State", "cover"]

QUOTA: Final = 10
"""Manual backups that a server can hold."""
SKEW: Final = timedelta(minutes=10)
"""How far a creation time may be ahead of the clock; one further ahead is from the future."""
_DAY: Final = timedelta(days=1)


class State(StrEnum):
    """The one state of a server, the worst first.

    - `NEVER`: it has no good backup, none runs, and the newest attempt, if any, did not fail.
    - `FAILING`: it has no good backup that is recent enough, and the newest attempt failed.
    - `STUCK`: a backup has been in progress for too long; it may block all others.
    - `STALE`: the newest good backup is too old.
    - `UNKNOWN`: its list could not be read completely, or its only good backups are from the
      future.
    - `RUNNING`: as `STALE` or `NEVER`, but a backup runs now.
    - `OK`: the newest good backup is recent enough.
    """

    NEVER = "never"
    FAILING = "failing"
    STUCK = "stuck"
    STALE = "stale"
    UNKNOWN = "unknown"
    RUNNING = "running"
    OK = "ok"


_RANKS: Final = {state: rank for rank, state in enumerate(State)}


@frozen
class ServerCoverage:
    """How well one server is covered.

    `age` is that of its newest good backup by the server's clock, None if there is none;
    `last_success` is that backup's time. Good is what completed, but with 0 MB it counts as failed.
    `problem` says why the state is `UNKNOWN`, and is empty otherwise. `failed_since` counts the
    attempts that failed since the newest good backup. `stuck` and `from_the_future` are the ids of
    such backups; the latter count for nothing else.

    `slots_used` counts the manual backups of any status, `pinned` those of them with a pin that
    holds today (UTC). `next_expiry` is when the next backup expires. `size_mb` is the size of the
    newest good backup whose size is known, `total_mb` that of all backups, in MB as the API counts
    them; `growth_mb_a_day` is how much the size of good backups grew a day, from the oldest to the
    newest of them. What cannot be told is None.

    `backups` are all that the server has, newest first.
    """

    server_id: int
    name: str
    server_status: str
    state: State
    age: timedelta | None = None
    last_success: datetime | None = None
    problem: str = ""
    failed_since: int = 0
    stuck: tuple[int, ...] = ()
    from_the_future: tuple[int, ...] = ()
    slots_used: int | None = None
    pinned: int | None = None
    next_expiry: datetime | None = None
    size_mb: int | None = None
    total_mb: int | None = None
    growth_mb_a_day: float | None = None
    backups: tuple[Backup, ...] = field(default=(), repr=False)

    def good(self) -> list[Backup]:
        """The completed backups that are not from the future, nor of 0 MB, newest first."""
        return [one for one in self.backups if is_good(one) and one.id not in self.from_the_future]

    def as_dict(self) -> dict[str, Any]:
        """All but `backups` as values that JSON can hold; times are texts, ages seconds."""
        return {
            "server_id": self.server_id,
            "name": self.name,
            "server_status": self.server_status,
            "state": str(self.state),
            "age_seconds": None if self.age is None else self.age.total_seconds(),
            "last_success": iso(self.last_success),
            "problem": self.problem,
            "failed_since": self.failed_since,
            "stuck": list(self.stuck),
            "from_the_future": list(self.from_the_future),
            "slots_used": self.slots_used,
            "pinned": self.pinned,
            "next_expiry": iso(self.next_expiry),
            "size_mb": self.size_mb,
            "total_mb": self.total_mb,
            "growth_mb_a_day": self.growth_mb_a_day,
        }


@frozen
class Coverage:
    """The servers of an audit, the worst first; each is in exactly one `State`.

    `at` is the time of the audit by the server's clock, `rpo` how old the newest good backup of a
    server may be, `slack` how much later it may come unless the newest attempt failed.
    """

    at: datetime
    rpo: timedelta
    slack: timedelta
    servers: tuple[ServerCoverage, ...]

    @property
    def ok(self) -> bool:
        """Whether every server is `State.OK`, and there is one."""
        return bool(self.servers) and all(one.state is State.OK for one in self.servers)

    @property
    def counts(self) -> dict[State, int]:
        """How many servers are in each state, the worst first."""
        found = Counter(one.state for one in self.servers)
        return {state: found[state] for state in State}

    def as_dict(self) -> dict[str, Any]:
        """The coverage as values that JSON can hold; times are texts, durations seconds."""
        return {
            "at": iso(self.at),
            "rpo_seconds": self.rpo.total_seconds(),
            "slack_seconds": self.slack.total_seconds(),
            "ok": self.ok,
            "counts": {str(state): count for state, count in self.counts.items()},
            "servers": [one.as_dict() for one in self.servers],
        }

    def to_json(self) -> bytes:
        """The coverage as one line of JSON in ASCII."""
        return json.dumps(self.as_dict(), separators=(",", ":")).encode()


def cover(
    servers: Mapping[int, Server | None],
    lists: Mapping[int, Sequence[Backup] | Exception],
    at: datetime,
    *,
    rpo: timedelta,
    slack: timedelta = timedelta(0),
    stuck_after: timedelta = timedelta(hours=6),
) -> Coverage:
    """The coverage of these servers at the time `at`.

    `lists` has the complete list of each server, or the error that says why there is none. A server
    without either is `State.UNKNOWN`.
    """
    limits = _Limits(at, rpo, slack, stuck_after)
    missing = VPSBackupsError("its list was not read")
    covered = [
        _covered(server_id, server, lists.get(server_id, missing), limits)
        for server_id, server in servers.items()
    ]
    covered.sort(key=_worst_first)
    return Coverage(at, rpo, slack, tuple(covered))


@frozen
class _Limits:
    at: datetime
    rpo: timedelta
    slack: timedelta
    stuck_after: timedelta


def _worst_first(one: ServerCoverage) -> tuple[int, timedelta, int]:
    return _RANKS[one.state], -(one.age or timedelta(0)), one.server_id


def _covered(
    server_id: int,
    server: Server | None,
    found: Sequence[Backup] | Exception,
    limits: _Limits,
) -> ServerCoverage:
    name, status = ("", "") if server is None else (server.name, server.status)
    if isinstance(found, Exception):
        problem = found.describe() if isinstance(found, VPSBackupsError) else str(found)
        return ServerCoverage(server_id, name, status, State.UNKNOWN, problem=problem)
    backups = tuple(sorted(found, key=made_at, reverse=True))
    if not name and backups:
        name = backups[0].server.name
    # By id: comparing two backups compares all their fields.
    future = {one.id for one in backups if as_utc(one.created_at) - limits.at > SKEW}
    past = [one for one in backups if one.id not in future] if future else backups
    good = [one for one in past if is_good(one)]
    age = max(timedelta(0), limits.at - as_utc(good[0].created_at)) if good else None
    stuck = tuple(one.id for one in past if _is_stuck(one, limits))
    since = [one for one in past if not good or made_at(one) > made_at(good[0])]
    failed_since = sum(ended_badly(one) for one in since)
    state = _state(age, since, limits, is_stuck=bool(stuck))
    problem = ""
    if (
        not good
        and state is not State.STUCK
        and any(is_good(one) for one in backups if one.id in future)
    ):
        state, problem = State.UNKNOWN, "its only good backups are from the future"
    return ServerCoverage(
        server_id,
        name,
        status,
        state,
        age,
        good[0].created_at if good else None,
        problem,
        failed_since,
        stuck,
        tuple(sorted(future)),
        *_held(backups, limits.at.date()),
        *_sizes(backups, good),
        backups,
    )


def _held(backups: Sequence[Backup], today: date) -> tuple[int, int, datetime | None]:
    """How many manual backups there are, how many of them are pinned, and the next expiry."""
    manual = [one for one in backups if one.is_manual]
    pinned = sum(_tags.is_pinned(one.description, today) for one in manual)
    expiries = [one.expires_at for one in backups if one.expires_at is not None]
    return len(manual), pinned, min(expiries, default=None)


def _state(
    age: timedelta | None, since: Iterable[Backup], limits: _Limits, *, is_stuck: bool
) -> State:
    """The state by the age of the newest good backup, and the attempts since, newest first."""
    if is_stuck:
        return State.STUCK
    attempts = [one for one in since if ended_badly(one) or _is_running(one, limits)]
    has_failed = bool(attempts) and ended_badly(attempts[0])
    # Slack is for a backup that is late, not for one that failed.
    if age is not None and age <= limits.rpo + (timedelta(0) if has_failed else limits.slack):
        return State.OK
    if has_failed:
        return State.FAILING
    if attempts:
        return State.RUNNING
    return State.NEVER if age is None else State.STALE


def _is_running(backup: Backup, limits: _Limits) -> bool:
    """Whether the backup may still end well; an unknown status counts as running while young."""
    ended = backup.is_completed or backup.is_failed
    return not ended and limits.at - as_utc(backup.created_at) < limits.stuck_after


def _is_stuck(backup: Backup, limits: _Limits) -> bool:
    # Only the documented word: an unknown status may be that of a backup which has ended.
    return is_running(backup) and limits.at - as_utc(backup.created_at) >= limits.stuck_after


def _sizes(
    backups: Iterable[Backup], good: Iterable[Backup]
) -> tuple[int | None, int | None, float | None]:
    """The size of the newest good backup, that of all, and the growth a day, in MB."""
    known = [one.size_mb for one in backups if one.size_mb is not None]
    sized = [(one.size_mb, one.created_at) for one in good if one.size_mb is not None]
    if not sized:
        return None, sum(known) if known else None, None
    (newest, last), (oldest, first) = sized[0], sized[-1]
    days = (as_utc(last) - as_utc(first)) / _DAY
    return newest, sum(known), round((newest - oldest) / days, 3) if days > 0 else None


def made_at(backup: Backup) -> tuple[datetime, int]:
    """The order of backups: by the time they were created, then by id."""
    return as_utc(backup.created_at), backup.id


def iso(when: datetime | None) -> str | None:
    """The time as the API writes times; None for None."""
    return None if when is None else f"{as_utc(when):%Y-%m-%dT%H:%M:%SZ}"
