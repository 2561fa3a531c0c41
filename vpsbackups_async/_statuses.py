"""The types and statuses of backups: known words of the API, and any others."""

from typing import Final, Self

from vpsbackups_async._pydantic import PydanticText

__all__ = ["BackupStatus", "BackupType"]


class _OpenEnum(PydanticText):
    """A string enum that accepts unknown values and keeps their text.

    The API's documentation names only some statuses and types; a new one must not break this
    version of the library.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    def __repr__(self) -> str:
        # Enum's own shows the name as it is, and an unknown value's name is the server's text.
        if self.is_known:
            return super().__repr__()
        return f"<{type(self).__name__}: {self._value_!r}>"

    @property
    def is_known(self) -> bool:
        """Whether this library knows the value; an unknown value keeps the server's text."""
        # Compare the member itself: the unknown text "COMPLETED" has the name of a known member.
        return type(self).__members__.get(self._name_) is self


class BackupType(_OpenEnum):
    """Who asked for a backup: a user (`MANUAL`) or the server's plan (`AUTOMATIC`).

    Manual backups never expire; the plan keeps automatic ones for 7 to 30 days. Any other text is
    kept as an unknown value, for which `is_known` is False.
    """

    MANUAL = "manual"
    AUTOMATIC = "automatic"


class BackupStatus(_OpenEnum):
    """The status of a backup.

    The API documents `completed` and `in_progress`. It does not document a failed status, so
    `is_failed` accepts all the usual words for one. Any other text is kept as an unknown value, for
    which `is_known` is False.
    """

    COMPLETED = "completed"
    IN_PROGRESS = "in_progress"
    FAILED = "failed"

    @property
    def is_completed(self) -> bool:
        """Whether the backup is completed, so that it can be restored."""
        return self.casefold() == "completed"

    @property
    def is_failed(self) -> bool:
        """Whether the backup ended without becoming usable."""
        return self.casefold() in _FAILED_STATUSES


_FAILED_STATUSES: Final = frozenset({
    "failed", "failure", "error", "errored", "cancelled", "canceled", "aborted",
})  # fmt: skip
