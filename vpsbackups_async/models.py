"""Frozen values: what the API holds and what the library hands out.

They hold no client, and reading an attribute never does I/O. All datetimes are aware and in UTC.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

from attrs import field, frozen

__all__ = [
    "Backup",
    "BackupRef",
    "BackupStatus",
    "BackupType",
    "Outcome",
    "Page",
    "Progress",
    "Restore",
    "ServerRef",
    "Sweep",
]

K = TypeVar("K")
T = TypeVar("T")
V = TypeVar("V")


class _OpenEnum(StrEnum):
    """A string enum that keeps a value it does not know as a member of its own, raw text and all.

    The API names only the states it documents; a new one must not break a client of today.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    @property
    def is_known(self) -> bool:
        """Whether this library knows the value; an unknown one still carries the server's text."""
        # Not by name alone: the text "COMPLETED" is no value, yet the name of one.
        return type(self).__members__.get(self._name_) is self


class BackupType(_OpenEnum):
    """Who asked for a backup: you (`MANUAL`, never expires) or the plan (`AUTOMATIC`, expires)."""

    MANUAL = "manual"
    AUTOMATIC = "automatic"


class BackupStatus(_OpenEnum):
    """How far a backup is.

    The API documents `completed` and `in_progress`; the name of a failed state is not documented,
    so every usual word for it counts (`is_failed`). Any other text is kept as it came.
    """

    COMPLETED = "completed"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"

    @property
    def is_completed(self) -> bool:
        """Whether the backup can be restored."""
        return self.casefold() == "completed"

    @property
    def is_failed(self) -> bool:
        """Whether the backup ended without becoming usable."""
        return self.casefold() in _FAILED_WORDS


_FAILED_WORDS = frozenset({
    "failed", "failure", "error", "errored", "cancelled", "canceled", "aborted",
})  # fmt: skip


def as_utc(when: datetime) -> datetime:
    """The moment in UTC; a naive one is taken to be in UTC already."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


@frozen
class ServerRef:
    """The server that a backup belongs to: its id, and its name, empty where the API has none."""

    id: int
    name: str


@frozen
class BackupRef:
    """The two integers that find a backup again, in this process or a later one.

    `server_id` may be None where it is not known: looking the backup up then reads the whole list.
    """

    id: int
    server_id: int | None = None


@frozen
class Backup:
    """One backup as the API describes it.

    `size_mb` is in MB as the API counts them, and None until the backup is completed.
    `expires_at` is None for manual backups, which never expire. `description` is empty where the
    API gives none.
    """

    id: int
    server: ServerRef
    backup_type: BackupType
    status: BackupStatus
    size_mb: int | None
    created_at: datetime
    expires_at: datetime | None
    description: str

    @property
    def message(self) -> str | None:
        """What the answer to a create says beside the backup; None on a listed backup."""
        return None

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields of the reply that this version of the library does not know."""
        return {}

    @property
    def ref(self) -> BackupRef:
        """The integers to store if the backup must be found again after a restart."""
        return BackupRef(self.id, self.server.id)

    @property
    def is_manual(self) -> bool:
        """Whether it counts towards the ten manual backups that a server may have."""
        return self.backup_type == BackupType.MANUAL

    @property
    def is_completed(self) -> bool:
        """Whether it can be restored."""
        return self.status.is_completed

    @property
    def is_failed(self) -> bool:
        """Whether it ended without becoming usable."""
        return self.status.is_failed


@frozen
class DetailedBackup(Backup):
    """A backup whose reply had more than the eight documented fields.

    A class of its own because nearly no backup has more, and a field that is usually missing costs
    a third of a page's decoding.
    """

    message: str | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen
class Page(Generic[T]):
    """One page of a list: its items, and what the server said about the rest.

    `count` is the server's total over all pages, None where it gives none. `next` and `previous`
    are the links as they came, None where there is none.
    """

    items: tuple[T, ...]
    count: int | None = None
    next: str | None = None
    previous: str | None = None


@frozen
class Sweep(Generic[T]):
    """A whole list read at once, and whether it can be trusted to be whole.

    `complete` is True only if the server's total was the same on the first and the last page and
    equals the number of different items read. `count_first` and `count_last` are those totals
    (None where the server gives none), `duplicates` how many items came more than once, a sign
    that the list moved while it was read. Code that deletes backups must refuse an incomplete
    sweep.
    """

    items: tuple[T, ...]
    complete: bool
    count_first: int | None = None
    count_last: int | None = None
    duplicates: int = 0
    pages: int = 0


@frozen
class Restore:
    """A restore that the API accepted; what its reply says beside that is not documented.

    `status` is the HTTP status, `message` the reply's `message` or `detail` if it has one, and
    `data` the decoded JSON body, None where there was none or it was no JSON.
    """

    server_id: int
    backup_id: int
    status: int
    message: str | None = None
    data: Any = field(default=None, hash=False)


@frozen
class Outcome(Generic[K, V]):
    """How one item of a bulk job ended: its key, and either a value or an error."""

    key: K
    value: V | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.error is None

    def unwrap(self) -> V:
        """The value; raises the error instead if there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # no error means that V was set


@frozen
class Progress:
    """How far a bulk job is: items that ended, well or not, and those being worked on.

    `total` is the number of items, None where the input does not tell it. `failed` counts what was
    not attempted, too. `elapsed` is in seconds since the job began.
    """

    done: int
    ok: int
    failed: int
    running: int
    total: int | None
    elapsed: float

    @property
    def rate(self) -> float:
        """Items a second on average so far, 0 before the first."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds to the end at this rate; None where the total or the rate is not known yet."""
        if self.total is None:
            return None
        left = max(0, self.total - self.done)
        if not left:
            return 0.0
        return left / self.rate if self.rate else None
