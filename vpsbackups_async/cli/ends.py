"""Exit codes, and the text and the hint that are printed for an error."""

import asyncio
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from vpsbackups_async.cli.text import safe
from vpsbackups_async.errors import (
    AuthenticationError,
    ConfigurationError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    NotAttemptedError,
    PruneRefusedError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitTimeoutError,
)

__all__ = [
    "Exit",
    "NothingToDo",
    "RefusedError",
    "UsageError",
    "code_of",
    "end_of",
    "explain",
    "hint_of",
]


class Exit(IntEnum):
    """The exit codes, as `vpsbackups --help` lists them."""

    FINE = 0
    SOME_FAILED = 1
    USAGE = 2
    AUTHENTICATION = 3
    TIMED_OUT = 4
    INTERRUPTED = 130


class UsageError(Exception):
    """The arguments of the command are wrong; the message says what to change."""


class NothingToDo(Exception):  # noqa: N818  # it is no error
    """The input of the command is empty; the message says which."""


class RefusedError(Exception):
    """The command does not fit the backup it names; the message says why."""


_LATER: Final = "Try again later"
_HINTS: Final[dict[type[VPSBackupsError], str]] = {
    AuthenticationError: "Check the token (VPS_API_TOKEN or --token-file): it may be mistyped, "
    "expired or revoked",
    ConfigurationError: "",
    CreateOutcomeUnknownError: "Look before creating again: vpsbackups list --type manual "
    "--server {error.server_id}{given}",
    DeadlineExceededError: _LATER,
    RateLimitedError: _LATER,
    RequestTimeoutError: "The server was too slow: try again later",
    ResponseTooLargeError: "Ask for one server at a time (--server)",
    TransportError: "Check the URL (VPS_API_URL or --url) and the network",
    UnexpectedRedirectError: "Check the URL (VPS_API_URL or --url): https, the right host and path",
    WaitTimeoutError: "",  # `Tracker` names the backups together at the end
}
"""What to do, where the hint of the error is about Python and not about the shell."""


def hint_of(error: BaseException, *, concurrency: bool = False, given: str = "") -> str:
    """What to do about an error; empty if the error says so itself.

    `concurrency` is whether the command has an option for how much it does at once, `given` the
    options that a command to be pasted must have.
    """
    hint = _hint_of(error, given).replace(
        "base_url (or VPS_API_URL)", "the URL (VPS_API_URL or --url)"
    )
    fewer = concurrency and hint == _LATER
    return f"{hint}, or with fewer at once (--concurrency)" if fewer else hint


def _hint_of(error: BaseException, given: str) -> str:
    if isinstance(error, TransportError) and error.failure == "untrusted":
        return "For a certificate authority of your own: SSL_CERT_FILE=ca.pem"
    own: str = vars(error).get("hint", "")  # of the verb that failed, so more to the point
    if own and isinstance(error, VPSBackupsError) and not isinstance(error, ConfigurationError):
        return own
    for kind in type(error).__mro__:
        if kind in _HINTS:
            return _HINTS[kind].format(error=error, given=given)
    return error.hint if isinstance(error, VPSBackupsError) else ""


def explain(error: BaseException) -> str:
    """What happened, in one line that is safe for a terminal."""
    if isinstance(error, ConfigurationError) and error.setting == "base_url":
        return safe(f"the URL (VPS_API_URL or --url) {error.message}")
    if isinstance(error, PruneRefusedError) and error.limit:
        option = f"--{error.limit.replace('_', '-')} {error.most}"
        return safe(f"{error.message}, more than {option} allows: nothing was deleted")
    if isinstance(error, VPSBackupsError):
        return safe(error.describe())
    if isinstance(error, OSError) and error.strerror is not None:
        named = "" if error.filename is None else f": {error.filename}"
        return safe(f"{error.strerror}{named}")
    return safe(str(error))


def end_of(error: BaseException) -> str:
    """How the error ended a command, in a word: `interrupted` by a signal, or `stopped`."""
    by_signal = isinstance(error, KeyboardInterrupt | asyncio.CancelledError)
    return "interrupted" if by_signal else "stopped"


def code_of(errors: Iterable[BaseException]) -> Exit:
    """The exit code of a command in which these errors occurred."""
    kinds = {type(error) for error in errors}
    if not kinds:
        return Exit.FINE
    if AuthenticationError in kinds:
        return Exit.AUTHENTICATION
    if kinds - {NotAttemptedError} <= {WaitTimeoutError}:
        return Exit.TIMED_OUT
    return Exit.USAGE if kinds == {ConfigurationError} else Exit.SOME_FAILED
