"""Deletions whose outcome nobody was given yet, so that an interruption does not hide them."""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from vpsbackups_async.errors import VPSBackupsError
from vpsbackups_async.models import Backup

__all__ = ["Unreported"]

logger = logging.getLogger("vpsbackups_async")


class Unreported:
    """A context that logs a WARNING, if it is left by an exception, about what was deleted.

    Cancellation and closing a generator are such exceptions.
    """

    def __init__(self) -> None:
        self._asked: dict[int, Backup] = {}
        self._deleted: dict[int, Backup] = {}

    def ask(self, backup: Backup) -> None:
        """Note that the server is about to be asked to delete the backup."""
        self._asked[backup.id] = backup

    def end(self, backup: Backup, error: Exception | None) -> None:
        """Note how that ended; it stays open if the server may have deleted it all the same."""
        if error is None:
            self._deleted[backup.id] = backup
        if not (isinstance(error, VPSBackupsError) and error.in_doubt):
            self._asked.pop(backup.id, None)

    def report(self, backup_id: int) -> None:
        """Note that the caller is given the outcome."""
        self._asked.pop(backup_id, None)
        self._deleted.pop(backup_id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None and (self._asked or self._deleted):
            logger.warning(
                "deletions were cut short: the server said of %s that it deleted them, and may "
                "have deleted %s",
                _named(self._deleted.values()),
                _named(self._asked.values()),
            )


def _named(backups: Iterable[Backup]) -> str:
    return ", ".join(f"{one.id}:{one.server.id}" for one in backups) or "none"
