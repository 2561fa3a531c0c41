"""The values that the library returns: backups, pages, outcomes and the like.

All of them are immutable. They hold no reference to a client, and reading an attribute never does
I/O. All datetimes are timezone-aware and in UTC.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Final, Generic, Self, TypeVar

from attrs import field, frozen

from vpsbackups_async._outcomes import Outcome, Progress
from vpsbackups_async._pydantic import PydanticValue
from vpsbackups_async._statuses import BackupStatus, BackupType
from vpsbackups_async._values import Value

__all__ = [
    "ALL_SERVERS",
    "Account",
    "AllServers",
    "Backup",
    "BackupRef",
    "BackupStatus",
    "BackupType",
    "Outcome",
    "Page",
    "Progress",
    "Restore",
    "Server",
    "ServerRef",
    "Sweep",
]

T = TypeVar("T")


def as_utc(when: datetime) -> datetime:
    """The datetime converted to UTC; a naive one is taken to be in UTC."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


class _Value(Value, PydanticValue):
    """A value for pydantic too, with its times in UTC."""

    __slots__ = ()

    @classmethod
    def _of_fields(cls, values: Mapping[str, Any]) -> Self:
        return super()._of_fields(
            {
                name: as_utc(value) if isinstance(value, datetime) else value
                for name, value in values.items()
            }
        )


@frozen
class ServerRef(_Value):
    """The id and name of the server that a backup belongs to.

    `name` is empty if the API gives none.
    """

    id: int
    name: str

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields of the response that this version of the library does not know."""
        return {}

    @classmethod
    def _detailed(cls) -> "type[ServerRef]":
        return DetailedServerRef


@frozen
class DetailedServerRef(ServerRef):
    """A server with fields beyond the two that the API documents."""

    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen(eq=False, repr=False)
class Server(_Value):
    """One server of the account.

    The API may leave out all but `id` and `name`; texts that it does not give are empty. `status`
    is its own word, such as `active`, `stopped` or `suspended`, and `location` a data centre, such
    as `us-west`. `extra` has all other fields, and those whose values are not of these types.
    """

    _takes_what_fits = True

    id: int
    name: str
    hostname: str = ""
    status: str = ""
    ip_address: str = ""
    location: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


class AllServers(Enum):
    """The type of `ALL_SERVERS`, which stands for every server of the account.

    It must be named: a setting that is missing (None) never means all servers.
    """

    ALL_SERVERS = "ALL_SERVERS"

    def __repr__(self) -> str:
        return self.value


ALL_SERVERS: Final = AllServers.ALL_SERVERS
"""Every server of the account, for `BackupsClient.fleet`."""


@frozen(eq=False, repr=False)
class Account(_Value):
    """The account that the client's token belongs to, and what the token may do.

    Texts that the API does not give are empty. `extra` has the other fields of the account, and
    those of the token under `token`; the token itself is masked wherever the API may show it.
    """

    _takes_what_fits = True

    email: str = ""
    first_name: str = ""
    last_name: str = ""
    company_name: str = ""
    created_at: date | None = None
    token_name: str = ""
    permissions: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


@frozen
class BackupRef(_Value):
    """The ids of a backup and its server: enough to find the backup again in a later process.

    `server_id` is None if it is not known; finding the backup may then take reading the list of all
    servers.
    """

    id: int
    server_id: int | None = None


@frozen
class Backup(_Value):
    """One backup as the API describes it.

    `size_mb` is in MB as the API counts them, and None until the backup is completed.
    `expires_at` is None for manual backups, which never expire. `description` is empty if the API
    gives none.
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
        """The message in the response to a create; None on a listed backup."""
        return None

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields of the response that this version of the library does not know."""
        return {}

    @property
    def ref(self) -> BackupRef:
        """The ids to store if the backup must be found again after a restart."""
        return BackupRef(self.id, self.server.id)

    @classmethod
    def _detailed(cls) -> "type[Backup]":
        return DetailedBackup

    @property
    def is_manual(self) -> bool:
        """Whether the backup is manual; the API allows ten manual backups on a server."""
        return self.backup_type == BackupType.MANUAL

    @property
    def is_completed(self) -> bool:
        """Whether the backup is completed, so that it can be restored."""
        return self.status.is_completed

    @property
    def is_failed(self) -> bool:
        """Whether the backup ended without becoming usable."""
        return self.status.is_failed


@frozen
class DetailedBackup(Backup):
    """A backup with a message, or with fields beyond those that the API documents.

    It is a separate class because few backups have more fields, and a field that is usually absent
    costs a third of the time to decode a page.
    """

    message: str | None = None
    extra: Mapping[str, Any] = field(factory=dict, hash=False)


def is_good(backup: Backup) -> bool:
    """Whether the backup is completed and may hold anything: its size is not 0 MB, if known."""
    return backup.is_completed and backup.size_mb != 0


def is_running(backup: Backup) -> bool:
    """Whether the backup is in progress, in whatever case the word is."""
    return backup.status.casefold() == BackupStatus.IN_PROGRESS


def ended_badly(backup: Backup) -> bool:
    """Whether the backup failed, or is completed with a size of 0 MB."""
    return backup.is_failed or (backup.is_completed and not is_good(backup))


def _without_text(link: str | None) -> str:
    return repr(link and "…")


@frozen(eq=False, repr=False)
class Page(Value, Generic[T]):
    """One page of a list: its items, and what the server said about the other pages.

    `count` is the server's total over all pages, None if it gives none. `next` and `previous` are
    the links to the neighbouring pages as the server sent them, None if there is no such page.
    """

    items: tuple[T, ...]
    count: int | None = None
    # Not shown: a server may say the token there, and tracebacks may show a page.
    next: str | None = field(default=None, repr=_without_text)
    previous: str | None = field(default=None, repr=_without_text)


@frozen(eq=False, repr=False)
class Sweep(Value, Generic[T]):
    """A list read from its first page to its last, and whether it is known to be complete.

    `complete` is True only if the list was read to its end without starting over, and the server's
    total was the same on every page and equals the number of different items read. If the server
    gives no total, no item may have come twice. Code that deletes backups must refuse a sweep that
    is not complete.

    `count_first` and `count_last` are the server's totals on the first and the last page, None if
    it gives none. `duplicates` is the number of items that came more than once, a sign that the
    list changed while it was read. `pages` is the number of pages read.
    """

    items: tuple[T, ...]
    complete: bool
    count_first: int | None = None
    count_last: int | None = None
    duplicates: int = 0
    pages: int = 0


@frozen(eq=False, repr=False)
class Restore(Value):
    """A restore that the API accepted.

    The API does not document the body of the response. `status` is the HTTP status, `message` is
    the `message` or `detail` of the response if it has one, and `data` is the decoded JSON body,
    None if there was no body or it was not JSON.
    """

    server_id: int
    backup_id: int
    status: int
    message: str | None = None
    data: Any = field(default=None, hash=False)
