"""The error for an attempt that was no success; pure, as `attempts` is, which decides by it."""

from collections.abc import Mapping
from typing import Final

from vpsbackups_async._transport.calls import AttemptResult, Call, proxy_failure
from vpsbackups_async._wire import API_ROOT, Mask, decipher
from vpsbackups_async.errors import (
    ConfigurationError,
    DeadlineExceededError,
    InvalidResponseError,
    RequestTimeoutError,
    ResponseTooLargeError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
)

__all__ = ["deadline_error", "doubt", "error_of"]

_OWN_AUTHORITY: Final = (
    "For a certificate authority of your own pass "
    "ssl_context=ssl.create_default_context(cafile=...)"
)


def error_of(
    call: Call, result: AttemptResult, deadline: float, mask: Mask, *, plain_proxy: bool
) -> VPSBackupsError:
    """The error for an attempt that was no success.

    `deadline` is `Timeouts.deadline` in seconds, `mask` masks the secrets in a text of the
    server's. `plain_proxy` is whether a proxy answers requests itself, as one of an http API does.
    """
    request, status, failure = call.request, result.status, result.failure
    if status is not None and status >= 300:
        return _refusal(call, status, result, mask, plain_proxy=plain_proxy)
    if result.late:
        call.ambiguous = call.ambiguous or result.sent
        return deadline_error(call, deadline, "passed")
    if failure.cause == "too large":
        return call.error(ResponseTooLargeError, failure.words, True)
    if failure.cause == "misuse" and not result.sent:
        words = f"aiohttp cannot send with this session or proxy: {failure.words}"
        return ConfigurationError(words, hint=failure.hint)
    if status is not None and request.policy.unreadable == "accepted":
        path = API_ROOT + request.path
        return InvalidResponseError(failure.words, "", status, request.method, path)
    kind = RequestTimeoutError if failure.cause == "timeout" else TransportError
    error = call.error(kind, failure.words, result.sent)
    if failure.cause == "untrusted":
        error.hint = _OWN_AUTHORITY
    error.failure = failure.cause
    return error


def deadline_error(call: Call, deadline: float, how: str) -> DeadlineExceededError:
    """The error for a call whose `Timeouts.deadline` (s) is over; `how` says why."""
    error = call.error(
        DeadlineExceededError, f"the deadline of {deadline:g} s {how}", call.ambiguous
    )
    error.__cause__ = call.last_error
    return error


def doubt(error: VPSBackupsError, *, reads: bool = False) -> None:
    """Let the error tell that an earlier attempt of its call may have reached the server.

    It may have been carried out then, unless it only `reads`.
    """
    error.in_doubt = not reads
    if isinstance(error, TransportError | DeadlineExceededError):
        error.sent = True
        error.args = (error.args[0], True, *error.args[2:])


def _refusal(
    call: Call, status: int, result: AttemptResult, mask: Mask, *, plain_proxy: bool
) -> VPSBackupsError:
    """The error for an answer whose status is no success."""
    headers = result.headers
    if _is_of_proxy(status, headers, plain_proxy=plain_proxy):
        by_proxy = proxy_failure(status)
        return ConfigurationError(by_proxy.words, hint=by_proxy.hint)
    if status < 400:
        location = mask(headers.get("Location", "")) or None
        words = f"the server redirects with {status} to {location!r}"
        return call.error(UnexpectedRedirectError, words, True, location)
    return decipher(
        status,
        headers,
        result.body,
        method=call.request.method,
        path=API_ROOT + call.request.path,
        attempts=call.number,
        mask=mask,
    )


def _is_of_proxy(status: int, headers: Mapping[str, str], *, plain_proxy: bool) -> bool:
    """Whether the answer is about the proxy's own user and password, not about the token."""
    if status == 401 and plain_proxy:  # as tinyproxy answers to a wrong password
        words = headers.get("Server", "") + headers.get("WWW-Authenticate", "")
        return "proxy" in words.lower()
    return status == 407
