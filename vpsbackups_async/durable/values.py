"""What a durable run is asked for, how far it is, and how it ended; frozen values."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeAlias

from attrs import Attribute, asdict, frozen

from vpsbackups_async._checks import (
    check_callable,
    check_description,
    check_duration,
    check_int,
    check_number,
)
from vpsbackups_async._pruning.rotation import RotateOptions
from vpsbackups_async._tags import with_labels
from vpsbackups_async._wire import from_json, to_json
from vpsbackups_async.backoff import Backoff
from vpsbackups_async.models import Backup
from vpsbackups_async.retention import Retention

__all__ = [
    "ENDED",
    "UNDER_WAY",
    "BackupTask",
    "EnsureTask",
    "ItemState",
    "Limits",
    "RotateTask",
    "RunInfo",
    "RunOutcome",
    "RunProgress",
    "SilentWorker",
    "Task",
    "acts_before_create",
    "differences",
    "task_from_json",
    "task_to_json",
]


class ItemState(StrEnum):
    """How far one server of a run is.

    `COMPLETED`: its backup is completed, and for a rotation what the policy lets go is deleted.
    `FAILED`: the API, or the rotation's own checks, refused. `UNKNOWN`: it is not known whether a
    backup was made. `CANCELLED`: the run was cancelled before a backup was started, or before all
    was deleted that the policy lets go; `RunOutcome.backup_id` tells which.
    """

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"


UNDER_WAY: Final = (ItemState.WAITING, ItemState.RUNNING)
ENDED: Final = tuple(state for state in ItemState if state not in UNDER_WAY)


@frozen(kw_only=True)
class Limits:
    """How fast workers go, and how long they are patient.

    - `rate` is how many creates may start a second, over all workers of the database; None leaves
      it as the last worker set it, at first without a limit.
    - `concurrency` is how many servers may be worked on at once over all workers, waits and what
      dead workers left included: 100 creates a second of backups that take a minute want more than
      6,000. None leaves it as the last worker set it, at first 5000.
    - `wait_timeout` is how many seconds a backup may take.
    - `start_within` is how many seconds after its turn a create may still be sent; later it takes
      another turn.
    - `create_again_after` is for how many seconds complete looks must show nothing before a create
      that was cut off is sent once more; None never sends it again.
    - `unknown_for` is for how many seconds a create of unknown outcome is looked for; at least
      `create_again_after` and `start_within` together.
    - `backoff` gives the delay before each look at a running backup, as for `BackupsClient.wait`.

    Raises `ValueError` for numbers out of range.
    """

    rate: float | None = None
    concurrency: int | None = None
    wait_timeout: float = 6 * 3600.0
    start_within: float = 60.0
    create_again_after: float | None = 120.0
    unknown_for: float = 3600.0
    backoff: Backoff | None = None

    def __attrs_post_init__(self) -> None:
        if self.concurrency is not None:
            check_int("concurrency", self.concurrency)
        if self.rate is not None:
            check_number("rate", self.rate, above=0, unit="number of creates a second")
        for name in ("wait_timeout", "start_within"):
            check_number(name, getattr(self, name), above=0)
        check_number("unknown_for", self.unknown_for)
        if self.create_again_after is not None:
            check_number("create_again_after", self.create_again_after)
            least = self.create_again_after + self.start_within
            if self.unknown_for < least:
                raise ValueError(
                    f"unknown_for must be at least create_again_after + start_within ({least:g} s),"
                    " or no create is ever sent again: create_again_after=None says so"
                )
        if self.backoff is not None:
            check_callable("backoff", self.backoff)


# --- What a run does to each server -----------------------------------------------------------


@frozen
class BackupTask:
    """Create a backup and wait for its end; with the label of a `job`, if there is one."""

    description: str | None = None
    job: str | None = None

    def __attrs_post_init__(self) -> None:
        check_description(self.description)
        with_labels(self.description, job=self.job)  # refuses labels that cannot be


@frozen
class EnsureTask:
    """See that there is a backup with this description that is younger than `within`."""

    within: timedelta
    description: str | None = None

    def __attrs_post_init__(self) -> None:
        check_description(self.description)
        check_duration("within", self.within)


@frozen
class RotateTask:
    """Create a backup, wait for its end, verify it, and delete what the policy lets go."""

    retention: Retention
    description: str | None = None
    make_room: bool = False

    def __attrs_post_init__(self) -> None:
        RotateOptions(
            retention=self.retention, description=self.description, make_room=self.make_room
        )


_DURATIONS: Final = ("within", "failed_after")
"""What a policy has as durations, and its JSON in seconds."""

Task: TypeAlias = BackupTask | EnsureTask | RotateTask


def acts_before_create(task: Task) -> bool:
    """Whether the create of a server may come after a deletion, and must follow it then."""
    return isinstance(task, RotateTask) and task.make_room


def task_to_json(task: Task) -> str:
    """The task as text, equal for equal tasks."""
    fields: dict[str, Any] = {"description": task.description}
    match task:
        case BackupTask():
            fields |= {"verb": "backup", "job": task.job}
        case EnsureTask():
            fields |= {"verb": "ensure", "within": task.within.total_seconds()}
        case RotateTask():
            policy = asdict(task.retention, filter=_is_given, value_serializer=_plain)
            fields |= {"verb": "rotate", "retention": policy, "make_room": task.make_room}
    return json.dumps(fields, sort_keys=True)


def task_from_json(text: str) -> Task:
    """The task that `task_to_json` wrote; raises `ValueError` for anything else."""
    fields = json.loads(text)
    description = fields["description"]
    match fields["verb"]:
        case "backup":
            return BackupTask(description, fields["job"])
        case "ensure":
            return EnsureTask(timedelta(seconds=fields["within"]), description)
        case "rotate":
            policy = fields["retention"]
            for name in _DURATIONS:
                seconds = policy[name]
                policy[name] = None if seconds is None else timedelta(seconds=seconds)
            return RotateTask(Retention(**policy), description, fields["make_room"])
        case verb:
            raise ValueError(f"no task is called {verb!r}")


def differences(text: str, other: str) -> str:
    """What two tasks, as `task_to_json` wrote them, differ in: the values of the first, not those.

    An option that only one of them has is None in the other, as where they do not do the same.
    """
    ours, theirs = _flat(text), _flat(other)
    return ", and ".join(
        f"{name} {ours.get(name)!r}, not {theirs.get(name)!r}"
        for name in dict.fromkeys((*ours, *theirs))
        if ours.get(name) != theirs.get(name)
    )


def _flat(text: str) -> dict[str, Any]:
    """The values of a task in which those of its policy are by the side of the others."""
    fields: dict[str, Any] = json.loads(text)
    flat = {"task": fields.pop("verb")} | fields.pop("retention", {}) | fields
    return {
        name: f"{value:g} s" if name in _DURATIONS and value is not None else value
        for name, value in flat.items()
    }


def _is_given(attribute: "Attribute[Any]", _value: object) -> bool:
    return attribute.init


def _plain(_owner: object, _field: object, value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


# --- How a run goes -----------------------------------------------------------------------------


@frozen
class RunProgress:
    """How many servers of a run are how far.

    `wholly_submitted` is False while a `submit` adds servers to it, and after one that was cut off:
    then more servers were to be added, and are once it is repeated.
    """

    run: str
    waiting: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    unknown: int = 0
    cancelled: int = 0
    wholly_submitted: bool = True

    @property
    def total(self) -> int:
        """All servers of the run."""
        return self.waiting + self.running + self.ended

    @property
    def ended(self) -> int:
        """The servers that have an outcome."""
        return self.completed + self.failed + self.unknown + self.cancelled

    @property
    def is_over(self) -> bool:
        """Whether every server that it has so far has an outcome."""
        return not (self.waiting or self.running)


@frozen
class RunInfo:
    """A run that the database knows: its name, what it does, and when it was submitted."""

    run: str
    task: Task
    submitted_at: datetime
    cancelled: bool = False


@frozen
class SilentWorker:
    """A worker that has not ended in order, and has given no sign of life for so many seconds.

    It was killed and nobody has taken over yet, or it is stuck: frozen, or cut off from the
    database. Then its process is to be ended, `pid` on `host`.
    """

    slot: int
    pid: int
    host: str
    seconds: float


@frozen
class RunOutcome:
    """How one server of a run ended.

    `backup_id` is its backup, if one is known, `backup` that as it was seen last, and `existing`
    whether it was there before. `error` is the name of the error's class and `detail` its text,
    with what to do about it in a run. `candidates` are ids of backups that an unknown create may
    have made, `twins` those of backups with the marker of the same create beside `backup`,
    `deleted` those that a rotation deleted, in former retries too, and `in_doubt` those that it may
    have deleted, or that may still be deleted. One is `deleted` if the API said so, and the worker
    did not see it listed after that; or if it saw it gone after another answer, or none. `retry`
    counts the times that the server was submitted again by `retry`.
    """

    run: str
    server_id: int
    state: ItemState
    backup_id: int | None = None
    backup: Backup | None = None
    existing: bool = False
    error: str | None = None
    detail: str | None = None
    candidates: tuple[int, ...] = ()
    twins: tuple[int, ...] = ()
    deleted: tuple[int, ...] = ()
    retry: int = 0
    ended_at: datetime | None = None
    in_doubt: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the server has what the run was to give it."""
        return self.state is ItemState.COMPLETED

    def to_dict(self) -> dict[str, Any]:
        """The outcome as values for JSON, without what is empty."""
        fields = {
            "run": self.run,
            "server_id": self.server_id,
            "state": self.state.value,
            "backup_id": self.backup_id,
            "backup": None if self.backup is None else json.loads(to_json(self.backup)),
            "existing": self.existing,
            "error": self.error,
            "detail": self.detail,
            "candidates": list(self.candidates),
            "twins": list(self.twins),
            "deleted": list(self.deleted),
            "in_doubt": list(self.in_doubt),
            "retry": self.retry,
            "ended_at": None if self.ended_at is None else self.ended_at.isoformat(),
        }
        return {name: value for name, value in fields.items() if value not in (None, False, [], 0)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "RunOutcome":
        """The outcome that `to_dict` gave."""
        backup, ended = fields.get("backup"), fields.get("ended_at")
        return cls(
            fields["run"],
            fields["server_id"],
            ItemState(fields["state"]),
            fields.get("backup_id"),
            None if backup is None else from_json(Backup, json.dumps(backup)),
            fields.get("existing", False),
            fields.get("error"),
            fields.get("detail"),
            tuple(fields.get("candidates", ())),
            tuple(fields.get("twins", ())),
            tuple(fields.get("deleted", ())),
            fields.get("retry", 0),
            None if ended is None else datetime.fromisoformat(ended).astimezone(UTC),
            tuple(fields.get("in_doubt", ())),
        )
