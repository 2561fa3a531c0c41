"""What is known of a call and of its attempts; plain values."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, TypeVar

import msgspec
from attrs import define

from vpsbackups_async._wire import API_ROOT, Request
from vpsbackups_async.errors import (
    ApiError,
    DeadlineExceededError,
    TransportError,
    VPSBackupsError,
)

__all__ = [
    "AttemptFailure",
    "AttemptResult",
    "BeforeAgain",
    "Call",
    "OnRetry",
    "SendState",
    "Situation",
    "is_for_pace",
    "proxy_failure",
]

E = TypeVar("E", bound=VPSBackupsError)

OnRetry = Callable[[VPSBackupsError], object]
"""Called with the error of an attempt before the next one; what it raises ends the call."""

BeforeAgain = Callable[[VPSBackupsError], Awaitable[object]]
"""Likewise, but awaited, and after the pause; also after a long wait in the limiter's line."""

_NO_HEADERS: Final[Mapping[str, str]] = {}


class AttemptFailure(msgspec.Struct, frozen=True):
    """Why an attempt brought no whole answer.

    `cause` is "timeout"; "untrusted", a certificate that no repeat can mend; "misuse", a session or
    proxy that aiohttp cannot send with; "too large", an answer above the limit; or "connection".
    `hint` is what to do about a proxy, in Python.
    """

    words: str
    cause: Literal["connection", "timeout", "untrusted", "misuse", "too large"] = "connection"
    hint: str = ""


def proxy_failure(status: int) -> AttemptFailure:
    """The failure where a proxy refused a tunnel, or a request, with this status."""
    if status in {401, 407}:
        words = f"the proxy asks for another user or password (status {status})"
        return AttemptFailure(words, "misuse", "Pass proxy='http://user:password@host:port'")
    words = f"the proxy does not connect to the host of base_url (status {status})"
    for_good = 400 <= status < 500 and status not in {408, 429}
    return AttemptFailure(words, "misuse" if for_good else "connection")


_NO_ANSWER: Final = AttemptFailure("no answer")


@define(eq=False, repr=False)
class AttemptResult:
    """What is known of one attempt.

    `number` counts from 1. `sent` is whether the request may have reached the server. `status` is
    None where no answer came, `size` the bytes read of the body. `whole` is whether `body` is all
    of the answer; otherwise `failure` says why, and `late` whether the call's deadline ended it.
    `tried` is whether it came so far that aiohttp was asked.
    """

    number: int
    sent: bool = False
    status: int | None = None
    headers: Mapping[str, str] = _NO_HEADERS
    body: bytes = b""
    size: int = 0
    whole: bool = False
    failure: AttemptFailure = _NO_ANSWER
    late: bool = False
    tried: bool = False

    @property
    def error_type(self) -> str | None:
        """Why no whole answer came: a cause of a failure, or "cancelled"; None for an answer."""
        if self.whole or (self.status is not None and self.status >= 300):
            return None
        return "cancelled" if self.failure is _NO_ANSWER else self.failure.cause

    @property
    def reached(self) -> bool | None:
        """Whether a connection to the server was made; None if that was not tried to the end."""
        if self.sent or self.status is not None:
            return True
        tried = self.failure is not _NO_ANSWER and self.failure.cause in {"connection", "timeout"}
        return False if tried and not self.late else None


class Situation(msgspec.Struct, frozen=True):
    """What the rules need to know beside the call.

    `now` is loop time in seconds, `accepted` the session's count of answers without overload,
    `closed_for` the seconds until the limiter lets the call's kind of request through,
    `accepted_of_kind` is like `accepted` for that kind alone, `is_busy` whether 503s closed the
    limiter just now.
    """

    now: float
    accepted: int
    closed_for: float
    accepted_of_kind: int = 0
    is_busy: bool = False


def is_for_pace(
    error: VPSBackupsError, situation: Situation, accepted: int, accepted_of_kind: int
) -> bool:
    """Whether the server refused the request only to slow the client down.

    That is a 429 while the server took other requests, more than the `accepted` ones of the call's
    last look. A 503 of a busy server is, while the server took others of the same kind.
    """
    if not isinstance(error, ApiError):
        return False
    if error.status == 503:
        return situation.is_busy and situation.accepted_of_kind > accepted_of_kind
    return error.status == 429 and situation.accepted > accepted


class SendState:
    """What a caller of `Transport.send` can watch and ask for while the call, or several, run.

    `on_the_wire` is how many attempts are under way, when the server may be doing the work. `began`
    has the loop time of each attempt. Setting `no_more_attempts` lets a running attempt end and
    prevents further ones. `is_too_late` is asked right before each attempt, once the limiter has
    let it through; if it says so, the call ends without that attempt.
    """

    def __init__(self) -> None:
        self.on_the_wire = 0
        self.no_more_attempts = False
        self.is_too_late: Callable[[], bool] | None = None
        self.began: list[float] = []


class Call(msgspec.Struct, eq=False):
    """One call so far. Times are in seconds of loop time.

    `accepted` is the session's count of answers without overload when the call last looked,
    `accepted_of_kind` that of the call's kind of request.
    `attempts` counts all attempts, `counted` those that use up `RetryPolicy.attempts`, `failures`
    those that failed, also where the limiter let none begin. `pause` is the last pause. `ambiguous`
    is whether any attempt may have been carried out. `on_retry` is called before each attempt but
    the first, and `before_again` awaited. `paced` counts the refusals for pace in a row,
    `paced_for` is the sum of the pauses after them. `earlier` is how many attempts for the same
    purpose were made before this call.
    """

    request: Request
    started: float
    deadline: float
    accepted: int
    state: SendState | None = None
    on_retry: OnRetry | None = None
    attempts: int = 0
    counted: int = 0
    failures: int = 0
    pause: float | None = None
    ambiguous: bool = False
    last_error: VPSBackupsError | None = None
    accepted_of_kind: int = 0
    paced: int = 0
    paced_for: float = 0.0
    earlier: int = 0
    before_again: BeforeAgain | None = None

    @property
    def number(self) -> int:
        """The number of the last attempt, which errors and events name."""
        return self.earlier + self.attempts

    def error(self, kind: Callable[..., E], words: str, sent: bool, *more: object) -> E:
        """An error that names this call's request and its attempts."""
        request = self.request
        return kind(words, sent, request.method, API_ROOT + request.path, self.number, *more)

    def check_may_begin(self, state: SendState) -> None:
        """Raise the error that ends the call instead of its next attempt, if its state asks so."""
        if state.no_more_attempts:
            raise self.error(TransportError, "the call was stopped in line", False)
        if state.is_too_late is not None and state.is_too_late():
            words = "it came too late in line to be sent any more"
            raise self.error(DeadlineExceededError, words, False)
