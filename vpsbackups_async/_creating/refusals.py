"""Why a create was refused, by the backups that the server has.

The API does not document how it words a full or a busy server, so the words are only a hint.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from vpsbackups_async.errors import (
    ApiError,
    BackupInProgressError,
    BadRequestError,
    ConflictError,
    ManualBackupLimitError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, is_running

__all__ = ["MANUAL_BACKUP_LIMIT", "may_be_recognised", "recognised", "says_busy"]

MANUAL_BACKUP_LIMIT: Final = 10
"""The manual backups that a server may have, by the provider's page on backups."""
_BUSY_WORDS: Final = ("progress", "running", "ongoing")


def may_be_recognised(refusal: VPSBackupsError) -> bool:
    """Whether a full or busy server may be behind this refusal; not behind a bad description."""
    return isinstance(refusal, BadRequestError | ConflictError) and (
        set(refusal.field_errors) != {"description"}
    )


def recognised(refusal: VPSBackupsError, backups: Iterable[Backup]) -> VPSBackupsError:
    """The refusal as the error that says why, by all backups of the server."""
    known = _recognised(refusal, list(backups))
    if isinstance(refusal, ApiError) and isinstance(known, ApiError):
        known.from_api = refusal.from_api
        known.has_api_form = refusal.has_api_form
    return known


def _recognised(refusal: VPSBackupsError, backups: Sequence[Backup]) -> VPSBackupsError:
    full = sum(backup.is_manual for backup in backups) >= MANUAL_BACKUP_LIMIT
    busy = any(map(is_running, backups))
    if busy and (not full or _has_busy_words(refusal)):
        return BackupInProgressError(*refusal.args)
    return ManualBackupLimitError(*refusal.args) if full else refusal


def says_busy(refusal: VPSBackupsError) -> bool:
    """Whether it seems to be because of a running backup, though no list shows one."""
    return isinstance(refusal, ConflictError) or (
        isinstance(refusal, BadRequestError) and _has_busy_words(refusal)
    )


def _has_busy_words(refusal: VPSBackupsError) -> bool:
    said = refusal.describe().casefold()
    return any(word in said for word in _BUSY_WORDS)
