"""The errors that the library raises; `VPSBackupsError` is the base class of all of them.

Each error has its data as attributes, prints as one line that says what to do next, and can be
pickled and copied. No error contains the token. Bad arguments raise a plain `ValueError` instead.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
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
    "DatabaseError",
    "DeadlineExceededError",
    "FleetError",
    "InvalidResponseError",
    "ManualBackupLimitError",
    "NotAttemptedError",
    "NotFoundError",
    "NotInListError",
    "NotRestorableError",
    "PaginationError",
    "PermissionDeniedError",
    "PruneRefusedError",
    "RateLimitedError",
    "RequestTimeoutError",
    "ResponseTooLargeError",
    "RunError",
    "ServerError",
    "StalePlanError",
    "TransportError",
    "UnexpectedRedirectError",
    "VPSBackupsError",
    "WaitError",
    "WaitTimeoutError",
    "WorkerStoppedError",
    "WrongEventLoopError",
]

_READ = "GET"
"""The method of the requests that only read."""


class VPSBackupsError(Exception):
    """The base class of all errors that this library raises, except for bad arguments."""

    hint: str = ""
    """What to do next; part of the printed error."""

    gateway_status: ClassVar[int] = 502
    """The HTTP status with which a web handler can pass this failure on to its own client.

    It may differ from the API's status: a 401 from the API concerns the handler's token, not its
    client's.
    """

    retries_refused: bool = False
    """Whether the request was not retried only because the client's retry budget was used up."""

    in_doubt: bool = False
    """Whether the server may have carried out the request all the same, at any attempt of the call.

    A create, restore or deletion that failed with False has changed nothing; a request that only
    reads changes nothing in any case, also where it precedes one of these. Two errors need a
    second look: a later attempt may be refused as busy or full because of an earlier one that the
    server answered with 429 and did all the same; and a `WaitError` is about no request: where a
    create was also waited for, its backup was started before.
    """

    def __init__(self, *fields: object) -> None:
        # Not super(): in a subclass of TimeoutError, OSError would take two or more fields for an
        # errno and a file name, and lose the rest on pickling.
        BaseException.__init__(self, *fields)

    def describe(self) -> str:
        """What happened, without the hint."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        text = _one_line(self.describe())
        return f"{text.rstrip('.')}. {self.hint}" if self.hint else text


class ConfigurationError(VPSBackupsError):
    """The client cannot work with its settings, or was closed; the message says what to change.

    `setting` is what is wrong, `"base_url"` or a proxy, and the message says in which way; it is
    empty where the message says all. `hint` is about Python, and may be empty.
    """

    gateway_status = 500

    def __init__(self, message: str, setting: str = "", hint: str = "") -> None:
        super().__init__(message, setting, hint)
        self.message = message
        self.setting = setting
        self.hint = hint

    def describe(self) -> str:
        """What is wrong, and in which way."""
        name = "base_url (or VPS_API_URL)" if self.setting == "base_url" else self.setting
        return f"{name} {self.message}" if name else self.message


class WrongEventLoopError(VPSBackupsError):
    """The client was used in another event loop than the one that it was opened in."""

    hint = (
        "Make one client per event loop (inside the coroutine that asyncio.run() gets), "
        "and call all of its methods from there"
    )
    gateway_status = 500


class TransportError(VPSBackupsError):
    """No usable HTTP response arrived.

    `sent` is False if the request certainly did not reach the server at any attempt, and True if it
    may have. `method` and `path` are those of the request, `attempts` is the number of attempts so
    far. `failure` is the kind of failure, as `AttemptEnded.error` has it: "untrusted" is a
    certificate.
    """

    failure: str = "connection"
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
        self.in_doubt: bool = sent and method != _READ
        self.method = method
        self.path = path
        self.attempts = attempts

    def describe(self) -> str:
        """What happened, to which request, and whether it may have reached the server."""
        reached = "it may have reached the server" if self.sent else "nothing was sent"
        return f"{self.message} ({_request(self.method, self.path, self.attempts)}; {reached})"


class RequestTimeoutError(TransportError, TimeoutError):
    """One attempt took longer than `Timeouts.connect` or `Timeouts.attempt`."""

    failure = "timeout"
    hint = (
        "Raise Timeouts.connect or Timeouts.attempt if the server or the network is slow, or try "
        "again later"
    )
    gateway_status = 504


class UnexpectedRedirectError(TransportError):
    """The server sent a redirect. Redirects are never followed: one could turn a POST into a GET.

    `location` is the target of the redirect, None if the response names none.
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
        self.args: tuple[Any, ...] = (*self.args, location)
        self.location = location


class ResponseTooLargeError(TransportError):
    """The body of a response is larger than `max_response_bytes` after decompression."""

    hint = "Ask for smaller pages (page_size=...) or raise max_response_bytes"


class DeadlineExceededError(VPSBackupsError, TimeoutError):
    """A call took longer than `Timeouts.deadline`, or had no time left for another attempt.

    The deadline covers the wait for the limiter, all attempts and the pauses between them. `sent`
    says whether any attempt may have reached the server; `method`, `path` and `attempts` are as in
    `TransportError`. The error of the last failed attempt, if there was one, is the `__cause__`.
    """

    hint = "Raise Timeouts(deadline=...), or lower the concurrency if calls queue for long"
    gateway_status = 504

    def __init__(
        self, message: str, sent: bool = False, method: str = "", path: str = "", attempts: int = 0
    ) -> None:
        super().__init__(message, sent, method, path, attempts)
        self.message = message
        self.sent = sent
        self.in_doubt: bool = sent and method != _READ
        self.method = method
        self.path = path
        self.attempts = attempts

    def describe(self) -> str:
        """What happened, to which request, and whether it may have reached the server."""
        reached = "it may have reached the server" if self.sent else "nothing was carried out"
        return f"{self.message} ({_request(self.method, self.path, self.attempts)}; {reached})"


class ApiError(VPSBackupsError):
    """The server responded with an error status; most statuses have a class of their own.

    `status` is the HTTP status, `detail` the server's own text, and `field_errors` its messages by
    field. `request_id` is the id of the request in the response headers, None if there is none.
    `method` and `path` are those of the request, `attempts` is the number of attempts so far.
    `retry_after` is the time in seconds that the server asked to wait, None if it did not.
    """

    from_api: bool = True
    """Whether the body is empty or looks like JSON, as all answers of the API do.

    If not, something else may have answered, such as a proxy, or the site that a wrong URL names.
    """
    has_api_form: bool = True
    """Whether the body is worded as the API's errors: `{"detail": …}`, or lists of texts by field.

    If not, a gateway may have answered in its place, maybe after the request was carried out.
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
        fields = {name: list(messages) for name, messages in (field_errors or {}).items()}
        super().__init__(status, detail, fields, request_id, method, path, attempts, retry_after)
        self.status = status
        self.detail = detail
        self.field_errors = fields
        self.request_id = request_id
        self.method = method
        self.path = path
        self.attempts = attempts
        self.retry_after = retry_after
        # With no attempt it stands for an earlier answer, because of which nothing was sent.
        may_be_done = attempts > 0 and (status >= 500 or status == 408)
        self.in_doubt: bool = may_be_done and method != _READ

    def describe(self) -> str:
        """The status, the server's messages and the request."""
        reasons = [self.detail] if self.detail else []
        reasons += [f"{name}: {' '.join(texts)}" for name, texts in self.field_errors.items()]
        request = _request(self.method, self.path, self.attempts)
        if self.request_id:
            request += f", request id {self.request_id}"
        if self.retry_after is not None:
            request += f", to be tried again after {self.retry_after:g} s"
        if self.in_doubt and self.status < 500 and self.status != 408:
            request += "; an earlier attempt may have been carried out"
        reason = "; ".join(reasons) or "without a reason"
        if not re.match(rf"{self.status}\b", reason):  # the title of an HTML page may begin with it
            reason = f"{self.status} {reason}"
        return f"{reason} ({request})"


class BadRequestError(ApiError):
    """400 or 422: the server refuses the request; `field_errors` may name the parameters."""

    hint = "Change what the server names, then call again"
    gateway_status = 400


class ManualBackupLimitError(BadRequestError):
    """The server already has ten manual backups, the most that the API allows."""

    hint = "Delete a manual backup of this server that is no longer needed, then create again"
    gateway_status = 409


class AuthenticationError(ApiError):
    """401: the token is missing, wrong or revoked."""

    hint = "Check the token (VPS_API_TOKEN): it may be mistyped, expired or revoked"


class PermissionDeniedError(ApiError):
    """403: the token is valid, but not allowed to do this."""

    hint = "Ask the owner of the account for a token with access to this server's backups"


class NotFoundError(ApiError):
    """404: this account has no such server or backup."""

    hint = "List the backups to see what there is: it may be deleted already, or not yours"
    gateway_status = 404


class NotInListError(NotFoundError):
    """The backup was not in a list that the client read; no response had the status 404.

    `backup_id` is the id of the backup. `server_id` is the server whose list was read, None for the
    list of all servers. `moved` is True if the list changed each time that it was read, so that the
    backup may have been missed.
    """

    def __init__(self, backup_id: int, server_id: int | None = None, moved: bool = False) -> None:
        where = "the list" if server_id is None else f"the list of server {server_id}"
        how = "changed each time that it was read" if moved else "was read to its end"
        super().__init__(404, f"backup {backup_id} is not in {where}, which {how}")
        self.args: tuple[Any, ...] = (backup_id, server_id, moved)
        self.backup_id = backup_id
        self.server_id = server_id
        self.moved = moved

    def describe(self) -> str:
        """Which backup was looked for, and in which list."""
        return self.detail


class ConflictError(ApiError):
    """409: the present state of the server or its backups does not allow the request."""

    hint = "List the server's backups to see what stands in the way, then call again"
    gateway_status = 409


class BackupInProgressError(ConflictError):
    """A backup of this server is running, so another one cannot be started now."""

    hint = "Wait for the running backup, then create again"


class RateLimitedError(ApiError):
    """429: too many requests; `retry_after` is the time in seconds to wait, None if not given."""

    hint = "Try again after retry_after seconds, with less concurrency"
    gateway_status = 503


class ServerError(ApiError):
    """5xx: the server failed; it may have carried out the request all the same."""

    hint = "Try again later"


class InvalidResponseError(VPSBackupsError):
    """The body of a response is not what the API documents.

    `reason` says what is wrong, and `place` where in the body (`results[3].created_at`), empty if
    that is not known. `status` is the HTTP status, `method` and `path` are those of the request,
    and `request_id` is its id in the response headers, None if there is none.
    """

    in_doubt: bool = True
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
        self.in_doubt: bool = method != _READ
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
    """A paged list cannot be read to its end.

    Examples are a link that leads to another host or back to a page already read, and a total that
    the pages do not reach. `url` is the link or query concerned, None if there is none.
    """

    hint = "Do not take what was read for the whole list; if it persists, report it with this link"

    def __init__(self, message: str, url: str | None = None) -> None:
        super().__init__(message, url)
        self.message = message
        self.url = url

    def describe(self) -> str:
        """What is wrong, and the link, if there is one."""
        return f"{self.message}: {self.url!r}" if self.url is not None else self.message


class WaitError(VPSBackupsError):
    """A wait ended without a completed backup; the backup itself may still be running.

    `ref` is the backup to wait for again. `last_status` is its last known status, None if it was
    never seen. `elapsed` is the duration of the wait in seconds. `reason` says why the wait ended.
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
        """Which backup, why the wait ended, the last status and the duration of the wait."""
        where = "" if self.ref.server_id is None else f" of server {self.ref.server_id}"
        seen = "never seen" if self.last_status is None else f"last seen {str(self.last_status)!r}"
        why = self.reason or type(self).__name__
        return f"backup {self.ref.id}{where}: {why} ({seen}, after {self.elapsed:.1f} s)"


class BackupFailedError(WaitError):
    """The backup failed; `backup` is the backup as it was last seen."""

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
        self.args: tuple[Any, ...] = (*self.args, backup)
        self.backup = backup


class BackupDisappearedError(WaitError):
    """The backup was listed before and no longer is; `last_seen` is the backup as last listed."""

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
        self.args: tuple[Any, ...] = (*self.args, last_seen)
        self.last_seen = last_seen


class BackupNeverAppearedError(WaitError):
    """The backup was never listed, although the wait lasted longer than its `appear_grace`.

    Only a list that was read completely counts as proof.
    """

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
    """The backup was not completed within the `timeout` of the wait; it may still be running.

    If the last look failed, `reason` says how, and its error is the `__cause__`.
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
    """A create was sent, and it is not known whether the server made a backup.

    It holds all that `BackupsClient.settle` needs to look again, in this process or, pickled, in a
    later one:

    - `candidates` are the backups that the create may have made, as far as they are known;
    - `server_id` and `description` are those of the create, the description with its tags;
    - `reason` says what happened; the failure of the create is the `__cause__`;
    - `known_ids` are backups of the server that are not of this create;
    - `marker` is the marker at the end of the description, None if it was sent without one;
    - `sent_at` are the times of sending, in UTC by the clock of this machine;
    - `read_before` is whether the server's manual backups were read completely before the create,
      so that `known_ids` are all of them;
    - `clock_offset` is the number of seconds that the server's clock was ahead of this machine's,
      by the `Date` of a response, and `clock_age` how many seconds before the error that was; None
      if no response told.
    """

    in_doubt: bool = True
    hint = (
        "Do not create blindly again: client.settle(error) looks again, a minute later say; "
        "or list this server's manual backups, and wait for the new one if it is there"
    )

    def __init__(
        self,
        candidates: Sequence[Backup] = (),
        server_id: int | None = None,
        description: str | None = None,
        reason: str = "",
        known_ids: Iterable[int] = (),
        marker: str | None = None,
        sent_at: Sequence[datetime] = (),
        read_before: bool = False,
        clock_offset: float | None = None,
        clock_age: float | None = None,
    ) -> None:
        self.candidates: tuple[Backup, ...] = tuple(candidates)
        self.server_id = server_id
        self.description = description
        self.reason = reason
        self.known_ids: frozenset[int] = frozenset(known_ids)
        self.marker = marker
        self.sent_at: tuple[datetime, ...] = tuple(sent_at)
        self.read_before = read_before
        self.clock_offset = clock_offset
        self.clock_age = clock_age
        super().__init__(
            self.candidates,
            server_id,
            description,
            reason,
            self.known_ids,
            marker,
            self.sent_at,
            read_before,
            clock_offset,
            clock_age,
        )

    def describe(self) -> str:
        """Which server, the ids of the candidates, and what happened."""
        where = "" if self.server_id is None else f" for server {self.server_id}"
        ids = ", ".join(str(backup.id) for backup in self.candidates)
        may = f"; it may be backup {ids}" if ids else ""
        why = f": {self.reason}" if self.reason else ""
        return f"it is not known whether a backup was made{where}{may}{why}"


class FleetError(VPSBackupsError):
    """Some servers of a fleet failed; the results of the others have been returned already.

    `failures` has one `Outcome` for each failed server; its key is the server's id.
    """

    hint = "Mend what failed, then run the servers in .failures again"

    def __init__(self, failures: Sequence[Outcome[Any, Any]]) -> None:
        super().__init__(tuple(failures))
        self.failures: tuple[Outcome[Any, Any], ...] = tuple(failures)

    def describe(self) -> str:
        """How many servers failed, and the errors of the first three."""
        shown = "; ".join(f"{failure.key}: {failure.error}" for failure in self.failures[:3])
        more = f"; and {len(self.failures) - 3} more" if len(self.failures) > 3 else ""
        return f"{len(self.failures)} of the servers failed ({shown}{more})"


class NotAttemptedError(VPSBackupsError):
    """Nothing was sent for this item, because the run was stopped before its turn.

    The error that stopped the run is the `__cause__`.
    """

    hint = "Mend what stopped the run, then run the items that were not attempted"
    gateway_status = 503


class NotRestorableError(VPSBackupsError):
    """A backup was not restored because it is not completed; nothing was sent.

    `ref` is the backup, `status` its status.
    """

    hint = "Wait for it if it is running, or restore a completed backup of this server"
    gateway_status = 409

    def __init__(self, ref: BackupRef, status: BackupStatus) -> None:
        super().__init__(ref, status)
        self.ref = ref
        self.status = status

    def describe(self) -> str:
        """Which backup, and its status."""
        return f"backup {self.ref.id} is {str(self.status)!r}, not completed: nothing was sent"


class PruneRefusedError(VPSBackupsError):
    """Nothing was deleted, because a limit, the quota or a failed check forbids it.

    `limit` is the argument that was exceeded, `max_deletions` or `max_fraction`, and `most` its
    value; empty and None where it was none of these.
    """

    hint = "Look at the plan: change the policy or the limits if that is what you want"
    gateway_status = 409

    def __init__(self, message: str = "", limit: str = "", most: float | None = None) -> None:
        super().__init__(message, limit, most)
        self.message = message
        self.limit = limit
        self.most = most

    def describe(self) -> str:
        """What was to be deleted, or what failed, and which limit forbids it."""
        if not self.limit:
            return self.message or type(self).__name__
        return f"{self.message}, more than {self.limit}={self.most} allows: nothing was deleted"


class StalePlanError(VPSBackupsError):
    """The plan was not carried out: the backups have changed since it was made, or it is old."""

    hint = "Make a new plan and look at it again"
    gateway_status = 409


class RunError(VPSBackupsError):
    """A durable run is not there, or cannot be what is asked for; nothing was changed."""

    hint = "Look at the runs that there are (vpsbackups run list), or take another name"
    gateway_status = 409


class DatabaseError(VPSBackupsError):
    """The database of durable runs failed while it was used; the message says how.

    What it holds is whole: the same call, or a worker that is started again, goes on from there.
    """

    hint = "See to the database, and do the same again: it goes on from there"
    gateway_status = 503


class WorkerStoppedError(VPSBackupsError):
    """A worker of durable runs stopped, for it no longer holds its slot in the database."""

    hint = "Start it again: it goes on where it was, and other workers take over what it leaves"
    gateway_status = 503


def _request(method: str, path: str, attempts: int = 1) -> str:
    request = " ".join(filter(None, [method, path])) or "a request"
    return request if attempts <= 1 else f"{request}, attempt {attempts}"


_MAX_CHARACTERS = 1000


def _one_line(text: str) -> str:
    """The text as one printable line; a server's text may contain control characters."""
    line = text if text.isprintable() else " ".join(text.split())
    if len(line) > _MAX_CHARACTERS:
        line = line[: _MAX_CHARACTERS - 1] + "…"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
