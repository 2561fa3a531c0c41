"""The whole error tree, one root: whatever goes wrong with the API is a `VPSBackupsError`.

Each error carries its data as attributes, prints as one line that says what to do next, and can be
pickled and copied. None of them ever holds the token. Bad arguments are a plain `ValueError`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vpsbackups_async.models import Backup, BackupRef, BackupStatus, Outcome

__all__ = [
    "ApiError",
    "AuthenticationError",
    "BackupDisappearedError",
    "BackupFailedError",
    "BackupInProgressError",
    "BackupNeverAppearedError",
    "BadRequestError",
    "ConfigurationError",
    "ConflictError",
    "CreateOutcomeUnknownError",
    "DeadlineExceededError",
    "FleetError",
    "InvalidResponseError",
    "ManualBackupLimitError",
    "NotAttemptedError",
    "NotFoundError",
    "NotInListError",
    "PaginationError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "ServerError",
    "TransportError",
    "UnexpectedRedirectError",
    "VPSBackupsError",
    "WaitError",
    "WaitTimeoutError",
    "WrongEventLoopError",
]


class VPSBackupsError(Exception):
    """The root of all errors that this library raises about the API."""

    hint: ClassVar[str] = ""
    """What to do next, in a few words; part of the printed error."""

    gateway_status: ClassVar[int] = 502
    """The HTTP status with which a web handler tells its own client of this failure.

    Not always the API's: a 401 is about the token of the handler, not about one of its client's.
    """

    retries_refused: bool = False
    """Whether it was not sent again only because the client's retry budget was used up."""

    def __init__(self, *fields: object) -> None:
        # Not super(): where TimeoutError is a base as well, its OSError would read two or more
        # fields as an errno and a file name, and drop the rest on pickling.
        BaseException.__init__(self, *fields)

    def describe(self) -> str:
        """What happened, without the hint."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        said = _one_line(self.describe())
        return f"{said.rstrip('.')}. {self.hint}" if self.hint else said


class ConfigurationError(VPSBackupsError):
    """The client cannot work as it was set up; the message says what to change."""

    gateway_status = 500


class WrongEventLoopError(VPSBackupsError):
    """The client was used from another event loop than the one that opened it."""

    hint = (
        "Make one client per event loop (inside the coroutine that asyncio.run() gets), "
        "and call all of its methods from there"
    )
    gateway_status = 500


class TransportError(VPSBackupsError):
    """No usable HTTP answer came.

    `sent` tells whether the request may have reached the server: False means that it certainly did
    not, True that nobody can know.
    """

    hint = (
        "Check base_url and the network; where it may have reached the server, "
        "look at what that holds before sending it again"
    )

    def __init__(
        self, message: str, sent: bool = True, method: str = "", path: str = "", attempts: int = 1
    ) -> None:
        super().__init__(message, sent, method, path, attempts)
        self.message = message
        self.sent = sent
        self.method = method
        self.path = path
        self.attempts = attempts

    def describe(self) -> str:
        """What happened, to which request, and whether it may have reached the server."""
        reached = "it may have reached the server" if self.sent else "nothing was sent"
        return f"{self.message} ({_request(self.method, self.path, self.attempts)}; {reached})"


class RequestTimeoutError(TransportError, TimeoutError):
    """One attempt took longer than `Timeouts.connect` or `Timeouts.attempt`."""

    hint = "Raise Timeouts(attempt=...) if the server is slow, or try again later"
    gateway_status = 504


class UnexpectedRedirectError(TransportError):
    """The server redirects, which is never followed: it could turn a POST into a GET.

    `location` is where it pointed.
    """

    hint = "Check base_url (https, the right host, no missing path)"

    def __init__(
        self,
        message: str,
        sent: bool = True,
        method: str = "",
        path: str = "",
        attempts: int = 1,
        location: str | None = None,
    ) -> None:
        super().__init__(message, sent, method, path, attempts)
        self.args = (*self.args, location)
        self.location = location


class ResponseTooLargeError(TransportError):
    """The decoded body of a reply is larger than `max_response_bytes`."""

    hint = "Ask for smaller pages (page_size=...) or raise max_response_bytes"


class DeadlineExceededError(VPSBackupsError, TimeoutError):
    """A call took longer than `Timeouts.deadline` over queue, attempts and pauses together.

    `sent` tells whether any attempt may have reached the server. The last failure of an attempt, if
    there was one, is the `__cause__`.
    """

    hint = "Raise Timeouts(deadline=...), or lower the concurrency if calls queue for long"
    gateway_status = 504

    def __init__(
        self, message: str, sent: bool = False, method: str = "", path: str = "", attempts: int = 0
    ) -> None:
        super().__init__(message, sent, method, path, attempts)
        self.message = message
        self.sent = sent
        self.method = method
        self.path = path
        self.attempts = attempts

    def describe(self) -> str:
        """What happened, to which request, and whether it may have reached the server."""
        reached = "it may have reached the server" if self.sent else "nothing was carried out"
        return f"{self.message} ({_request(self.method, self.path, self.attempts)}; {reached})"


class ApiError(VPSBackupsError):
    """The server answered with an error status.

    `detail` is the server's own text, `field_errors` its messages by field, `request_id` what its
    reply headers call the request, `attempts` how often it was sent, `retry_after` the seconds that
    it asked to wait, None where it did not.
    """

    hint = "If the request is right and this persists, ask the provider's support about it"

    def __init__(
        self,
        status: int,
        detail: str = "",
        field_errors: Mapping[str, Sequence[str]] | None = None,
        request_id: str | None = None,
        method: str = "",
        path: str = "",
        attempts: int = 1,
        retry_after: float | None = None,
    ) -> None:
        fields = {name: list(said) for name, said in (field_errors or {}).items()}
        super().__init__(status, detail, fields, request_id, method, path, attempts, retry_after)
        self.status = status
        self.detail = detail
        self.field_errors = fields
        self.request_id = request_id
        self.method = method
        self.path = path
        self.attempts = attempts
        self.retry_after = retry_after

    def describe(self) -> str:
        """The status, the server's words and the request."""
        words = [self.detail] if self.detail else []
        words += [f"{name}: {' '.join(said)}" for name, said in self.field_errors.items()]
        request = _request(self.method, self.path, self.attempts)
        if self.request_id:
            request += f", request id {self.request_id}"
        if self.retry_after is not None:
            request += f", to be tried again after {self.retry_after:g} s"
        return f"{self.status} {'; '.join(words) or 'without a reason'} ({request})"


class BadRequestError(ApiError):
    """400 or 422: the server refuses the parameters; `field_errors` says which."""

    hint = "Change what the server names, then call again"
    gateway_status = 400


class ManualBackupLimitError(BadRequestError):
    """The server has its ten manual backups, so no further one can be made."""

    hint = "Delete a manual backup of this server that is no longer needed, then create again"
    gateway_status = 409


class AuthenticationError(ApiError):
    """401: the token is missing, wrong or revoked."""

    hint = "Check the token (VPS_API_TOKEN): it may be mistyped, expired or revoked"


class PermissionDeniedError(ApiError):
    """403: the token is good, but not for this."""

    hint = "Ask the owner of the account for a token with access to this server's backups"


class NotFoundError(ApiError):
    """404: no such server or backup in this account."""

    hint = "List the backups to see what there is: it may be deleted already, or not yours"
    gateway_status = 404


class NotInListError(NotFoundError):
    """A list was read and did not have the backup; no request was answered with 404.

    `backup_id` is the backup, `server_id` the server whose list was read, None for the list of all
    servers. `moved` is True if the list changed each time that it was read, so that the backup may
    have been missed.
    """

    def __init__(self, backup_id: int, server_id: int | None = None, moved: bool = False) -> None:
        where = "the list" if server_id is None else f"the list of server {server_id}"
        how = "changed each time that it was read" if moved else "was read to its end"
        super().__init__(404, f"backup {backup_id} is not in {where}, which {how}")
        self.args = (backup_id, server_id, moved)
        self.backup_id = backup_id
        self.server_id = server_id
        self.moved = moved

    def describe(self) -> str:
        """Which backup is not in which list."""
        return self.detail


class ConflictError(ApiError):
    """409: what the server holds does not allow this now."""

    hint = "List the server's backups to see what stands in the way, then call again"
    gateway_status = 409


class BackupInProgressError(ConflictError):
    """A backup of this server is running, so no other can be started now."""

    hint = "Wait for the running backup, then create again"


class RateLimitedError(ApiError):
    """429: too many requests; `retry_after` says for how many seconds, if the server said so."""

    hint = "Try again after retry_after seconds, with less concurrency"
    gateway_status = 503


class ServerError(ApiError):
    """5xx: the server failed; whether it did the work is not known."""

    hint = "Try again later"


class InvalidResponseError(VPSBackupsError):
    """A reply does not fit the contract of the API.

    `place` is where (`results[3].created_at`), `reason` what was wrong there.
    """

    hint = "Nothing was taken from this reply; if it persists, report it with this line"

    def __init__(
        self,
        reason: str,
        place: str = "",
        status: int = 200,
        method: str = "",
        path: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(reason, place, status, method, path, request_id)
        self.reason = reason
        self.place = place
        self.status = status
        self.method = method
        self.path = path
        self.request_id = request_id

    def describe(self) -> str:
        """The reason, the place, the status and the request."""
        at = f" at {self.place}" if self.place else ""
        request = _request(self.method, self.path)
        if self.request_id:
            request += f", request id {self.request_id}"
        return f"{self.reason}{at} (status {self.status} to {request})"


class PaginationError(VPSBackupsError):
    """The links or totals of a paged list cannot be followed without losing or leaking something.

    `url` is the link that was refused or came again.
    """

    hint = "Do not take what was read for the whole list; if it persists, report it with this link"

    def __init__(self, message: str, url: str | None = None) -> None:
        super().__init__(message, url)
        self.message = message
        self.url = url

    def describe(self) -> str:
        """What is wrong, and the link."""
        return f"{self.message}: {self.url!r}" if self.url is not None else self.message


class WaitError(VPSBackupsError):
    """Waiting for a backup ended without a completed one; the backup itself may go on.

    `ref` finds it again, `last_status` is the last state that was seen (None if it was never seen),
    `elapsed` how long was waited, in seconds.
    """

    hint = "Wait for the same ref again, or look at the backup in the server's list"

    def __init__(
        self,
        ref: BackupRef,
        last_status: BackupStatus | None = None,
        elapsed: float = 0.0,
        reason: str = "",
    ) -> None:
        super().__init__(ref, last_status, elapsed, reason)
        self.ref = ref
        self.last_status = last_status
        self.elapsed = elapsed
        self.reason = reason

    def describe(self) -> str:
        """Which backup, what was seen of it, after how long."""
        where = "" if self.ref.server_id is None else f" of server {self.ref.server_id}"
        seen = "never seen" if self.last_status is None else f"last seen {str(self.last_status)!r}"
        why = self.reason or type(self).__name__
        return f"backup {self.ref.id}{where}: {why} ({seen}, after {self.elapsed:.1f} s)"


class BackupFailedError(WaitError):
    """The backup ended in a failed state; `backup` is it as the server lists it."""

    hint = "This backup cannot be restored: create another one"

    def __init__(
        self,
        ref: BackupRef,
        last_status: BackupStatus | None = None,
        elapsed: float = 0.0,
        reason: str = "the backup failed",
        backup: Backup | None = None,
    ) -> None:
        super().__init__(ref, last_status, elapsed, reason)
        self.args = (*self.args, backup)
        self.backup = backup


class BackupDisappearedError(WaitError):
    """The backup was listed once and is gone now; `last_seen` is it as it was last listed."""

    hint = "Somebody or something deleted it: create another one"
    gateway_status = 404

    def __init__(
        self,
        ref: BackupRef,
        last_status: BackupStatus | None = None,
        elapsed: float = 0.0,
        reason: str = "it disappeared from the list",
        last_seen: Backup | None = None,
    ) -> None:
        super().__init__(ref, last_status, elapsed, reason)
        self.args = (*self.args, last_seen)
        self.last_seen = last_seen


class BackupNeverAppearedError(WaitError):
    """The backup was never listed, in complete looks over longer than the grace for new ones."""

    hint = "Check its id and the server's id, or list the server's backups"
    gateway_status = 404

    def __init__(
        self,
        ref: BackupRef,
        last_status: BackupStatus | None = None,
        elapsed: float = 0.0,
        reason: str = "it never appeared in the list",
    ) -> None:
        super().__init__(ref, last_status, elapsed, reason)


class WaitTimeoutError(WaitError, TimeoutError):
    """The backup was not completed in time; it may still be running.

    If the last look failed, its error is the `__cause__`.
    """

    hint = "It may still be running: wait for the same ref again instead of creating another one"
    gateway_status = 504

    def __init__(
        self,
        ref: BackupRef,
        last_status: BackupStatus | None = None,
        elapsed: float = 0.0,
        reason: str = "it was not completed in time",
    ) -> None:
        super().__init__(ref, last_status, elapsed, reason)


class CreateOutcomeUnknownError(VPSBackupsError):
    """A create was sent, and nobody can tell whether a backup was made.

    `candidates` are the backups that may be it, as far as they are known. The failure itself is the
    `__cause__`.
    """

    hint = (
        "Do not create blindly again: list this server's manual backups first, "
        "and wait for the new one if it is there"
    )

    def __init__(
        self,
        candidates: Sequence[Backup] = (),
        server_id: int | None = None,
        description: str | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(tuple(candidates), server_id, description, reason)
        self.candidates = tuple(candidates)
        self.server_id = server_id
        self.description = description
        self.reason = reason

    def describe(self) -> str:
        """Which server, how many candidates, and what happened."""
        where = "" if self.server_id is None else f" for server {self.server_id}"
        ids = ", ".join(str(backup.id) for backup in self.candidates)
        may = f"; it may be backup {ids}" if ids else ""
        why = f": {self.reason}" if self.reason else ""
        return f"it is not known whether a backup was made{where}{may}{why}"


class FleetError(VPSBackupsError):
    """Some servers of a fleet failed; everything that the others gave was handed out before.

    `failures` holds one `Outcome` for each, its key the server's id.
    """

    hint = "Mend what failed, then run the servers in .failures again"

    def __init__(self, failures: Sequence[Outcome[Any, Any]]) -> None:
        super().__init__(tuple(failures))
        self.failures = tuple(failures)

    def describe(self) -> str:
        """How many servers failed, and the first few with their errors."""
        shown = "; ".join(f"{failure.key}: {failure.error}" for failure in self.failures[:3])
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        return f"{len(self.failures)} of the servers failed ({shown}{more})"


class NotAttemptedError(VPSBackupsError):
    """Nothing was sent for this item, because the run was stopped before its turn."""

    hint = "Mend what stopped the run, then run the items that were not attempted"
    gateway_status = 503


class StalePlanError(VPSBackupsError):
    """What the server holds has changed since the plan was made, so it was not carried out."""

    hint = "Make a new plan and look at it again"
    gateway_status = 409


def _request(method: str, path: str, attempts: int = 1) -> str:
    request = " ".join(filter(None, [method, path])) or "a request"
    return request if attempts <= 1 else f"{request}, attempt {attempts}"


_SHOWN_CHARACTERS = 1000


def _one_line(text: str) -> str:
    """The text fit for a log line or a terminal: a server's own words may hold anything."""
    words = text if text.isprintable() else " ".join(text.split())
    if len(words) > _SHOWN_CHARACTERS:
        words = words[: _SHOWN_CHARACTERS - 1] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in words)
