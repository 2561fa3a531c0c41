"""How the error of a server becomes its outcome, which says what to do about it in a run."""

from typing import Final

from attrs import evolve

from vpsbackups_async.durable.values import ItemState, RunOutcome
from vpsbackups_async.errors import (
    BackupDisappearedError,
    BackupFailedError,
    BackupNeverAppearedError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    ManualBackupLimitError,
    PruneRefusedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitTimeoutError,
)

__all__ = ["failed"]

_LONGEST_DETAIL: Final = 2000
_LATER: Final = "Retry the run's failed servers later"
_LOOKS_FIRST: Final = ": that looks for its backup before another one is made"
_HINTS: Final[dict[type[VPSBackupsError], str]] = {
    BackupDisappearedError: "Somebody or something deleted it, or the list was wrong: retry the "
    "run's failed servers, which looks for it again before another one is made",
    BackupFailedError: "Retry the run's failed servers: that makes another one",
    BackupNeverAppearedError: "Retry the run's failed servers: that looks for it again before "
    "another one is made",
    CreateOutcomeUnknownError: "Create none by hand before you have looked at the server's "
    "backups. Retry the run's unknown servers later: that looks again before anything is created",
    DeadlineExceededError: _LATER,
    ManualBackupLimitError: "Delete a manual backup of this server that is no longer needed, then "
    "retry the run's failed servers",
    PruneRefusedError: "Prune this server once by hand, or give a new run another policy",
    RateLimitedError: _LATER,
    RequestTimeoutError: _LATER,
    ServerError: _LATER,
    TransportError: "Check the network and the URL of the API, then retry the run's failed servers",
    UnexpectedRedirectError: "Check the URL of the API (https, the right host, no missing path), "
    "then retry the run's failed servers",
    WaitTimeoutError: "Retry the run's failed servers: that goes on waiting for the same backup",
}
"""What to do in a run, where the error's own hint is about a single call."""


def failed(ended: RunOutcome, error: Exception) -> RunOutcome:
    """The outcome of a server that failed with this error, whose text holds no secret."""
    unknown = isinstance(error, CreateOutcomeUnknownError)
    said = error.describe() if isinstance(error, VPSBackupsError) else str(error)
    notes = [note for note in getattr(error, "__notes__", ()) if note not in said]
    text = "; ".join([said, *notes])
    hint = _hint_of(error)
    kept = text[: _LONGEST_DETAIL - len(hint)].rstrip(".")
    return evolve(
        ended,
        state=ItemState.UNKNOWN if unknown else ItemState.FAILED,
        backup=getattr(error, "backup", None),
        error=type(error).__name__,
        detail=f"{kept}. {hint}" if hint else kept,
        candidates=tuple(one.id for one in getattr(error, "candidates", ())),
    )


def _hint_of(error: Exception) -> str:
    if not isinstance(error, VPSBackupsError):
        return ""
    for kind in type(error).__mro__:
        if kind in _HINTS:
            hint = _HINTS[kind]
            if hint == _LATER and error.in_doubt and getattr(error, "method", "") == "POST":
                hint += _LOOKS_FIRST
            return hint
        if "hint" in vars(kind):  # more to the point than that of a class above it
            break
    return error.hint
