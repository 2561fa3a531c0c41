"""What follows from an attempt of a call: send again, fail, or done.

Pure rules over values: no I/O, no event loop, no clock; only `RetryPolicy.pause` is random.
"""

from typing import Final, TypeAlias

import msgspec

from vpsbackups_async._transport.calls import (
    AttemptFailure,
    AttemptResult,
    Call,
    Situation,
    is_for_pace,
)
from vpsbackups_async._transport.failures import deadline_error, error_of
from vpsbackups_async._transport.retry import RetryPolicy, asked_pause
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._wire import API_ROOT, Mask, Policy, Response, unmasked
from vpsbackups_async.backoff import Attempt
from vpsbackups_async.errors import (
    ApiError,
    DeadlineExceededError,
    NotFoundError,
    RateLimitedError,
    ResponseTooLargeError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
)

__all__ = [
    "Done",
    "Fail",
    "Rules",
    "SendAgain",
    "Step",
    "is_ambiguous",
    "may_send_again",
    "without_budget",
]

_TRANSIENT_STATUSES: Final = frozenset(
    {408, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 527, 530}
)
_CLOSED_SLACK: Final = 0.1
"""Seconds by which `Retry-After` may exceed the limiter's closed time, read a moment later."""
_FREE_IN_A_ROW: Final = 10
_FIRST_FLOOR: Final = 0.1
_LAST_FLOOR: Final = 0.8


class Done(msgspec.Struct, frozen=True):
    """The call succeeds with `response`; `earns_budget` if that adds to the retry budget."""

    response: Response
    earns_budget: bool = True


class Fail(msgspec.Struct, frozen=True):
    """The call fails with `error`."""

    error: VPSBackupsError


class SendAgain(msgspec.Struct, frozen=True):
    """Send again in `pause` seconds, because of `error`.

    `in_limiter` is whether the limiter itself keeps the call waiting for that long, `costs_budget`
    whether the attempt takes one retry from the budget.
    """

    error: VPSBackupsError
    pause: float
    in_limiter: bool
    costs_budget: bool


Step: TypeAlias = Done | Fail | SendAgain


def may_send_again(policy: Policy, error: VPSBackupsError) -> bool:
    """Whether a request with this policy may be sent again after this error.

    An idempotent one may after any transient failure, others only where the server did not act:
    nothing was sent, or a 429 refused it.
    """
    if isinstance(error, UnexpectedRedirectError | ResponseTooLargeError):
        return False
    if isinstance(error, TransportError):
        return policy.idempotent or not error.sent
    if isinstance(error, ApiError):
        refused = error.status == 429
        return refused or (policy.idempotent and error.status in _TRANSIENT_STATUSES)
    return False


def is_ambiguous(error: BaseException) -> bool:
    """Whether the request may have been carried out although it failed with this error."""
    if isinstance(error, ApiError):
        was_sent = error.attempts > 0  # else the limiter did not let it through
        return was_sent and (error.status >= 500 or error.status == 408)
    return bool(getattr(error, "sent", False)) and not isinstance(error, UnexpectedRedirectError)


def without_budget(error: VPSBackupsError) -> VPSBackupsError:
    """The error of a call that is not sent again because the retry budget is used up."""
    error.retries_refused = True
    error.add_note("not sent again: the retry budget of this client is used up")
    return error


class Rules(msgspec.Struct, frozen=True):
    """The rules for calls with these timeouts and this retry policy.

    `mask` masks the secrets in a text of the server's. `plain_proxy` is whether requests go through
    a proxy that answers them itself, as one of an http API does.
    """

    timeouts: Timeouts
    retry: RetryPolicy
    mask: Mask = unmasked
    plain_proxy: bool = False

    def after(self, call: Call, result: AttemptResult, situation: Situation) -> Step:
        """What follows from an attempt that was made; noted in `call`."""
        policy, status = call.request.policy, result.status
        if status is not None and status < 300 and (result.whole or policy.success_by_status):
            body = result.body if result.whole else b""
            request, attempts = call.request, call.attempts
            return Done(Response(status, result.headers, body, request, attempts, self.mask))
        error = error_of(
            call, result, self.timeouts.deadline, self.mask, plain_proxy=self.plain_proxy
        )
        missing = isinstance(error, NotFoundError) and error.from_api
        if call.ambiguous and policy.missing_means_done and missing:
            # An earlier attempt did it, and only its answer was lost.
            done = Response(204, {}, b"", call.request, call.attempts)
            return Done(done, earns_budget=False)
        if result.failure.cause == "untrusted":
            return Fail(error)
        return self.after_error(call, error, situation, unreached=result.reached is False)

    def after_error(
        self,
        call: Call,
        error: VPSBackupsError,
        situation: Situation,
        *,
        unreached: bool = False,
    ) -> Step:
        """What follows from an error, also one that came before anything was sent.

        `unreached` is whether no connection to the server could be made.
        """
        if not may_send_again(call.request.policy, error):
            return Fail(error)
        call.last_error = error
        call.failures += 1
        call.ambiguous = call.ambiguous or is_ambiguous(error)
        # A server that was reached before restarts: its address is right.
        reachable = unreached and situation.accepted > 0
        free = reachable or self._is_free(call, error, situation)
        call.accepted = situation.accepted
        call.accepted_of_kind = situation.accepted_of_kind
        call.counted += not free
        if not self._attempts_left(call) or self._asks_too_long(call, error, situation.now):
            return Fail(error)
        pause, in_limiter = self._pause(call, error, situation, free=free)
        call.pause = pause
        call.paced_for += pause
        if situation.now + pause > call.deadline:
            return Fail(
                deadline_error(call, self.timeouts.deadline, "leaves no time for another attempt")
            )
        return SendAgain(error, pause, in_limiter, costs_budget=not (free or unreached))

    def _is_free(self, call: Call, error: VPSBackupsError, situation: Situation) -> bool:
        """Whether the attempt does not count: a refusal for pace, but not for ever."""
        if not is_for_pace(error, situation, call.accepted, call.accepted_of_kind):
            call.paced, call.paced_for = 0, 0.0
            return False
        call.paced += 1
        if call.paced == 1:
            call.paced_for = 0.0
        return call.paced <= _FREE_IN_A_ROW and call.paced_for < self.retry.max_retry_after

    def while_closed(
        self, call: Call, now: float, closed_for: float, closed_by: int = 429
    ) -> RateLimitedError | ServerError | DeadlineExceededError | None:
        """The error for a call that cannot wait until the limiter opens; None if it can.

        `closed_by` is the status of the answer that closed it: 429, or 503 of a busy server.
        """
        if not closed_for:
            return None
        if closed_for > self.retry.max_retry_after:
            method, path = call.request.method, API_ROOT + call.request.path
            words = "not sent: an earlier answer asked every request to wait"
            error = RateLimitedError if closed_by == 429 else ServerError
            refused = error(closed_by, words, None, None, method, path, call.attempts, closed_for)
            refused.__cause__ = call.last_error
            return refused
        if now + closed_for > call.deadline:
            how = f"leaves no time: refusals closed the gate for {closed_for:.1f} s"
            return deadline_error(call, self.timeouts.deadline, how)
        return None

    def after_waiting(
        self, call: Call, now: float, closed_for: float, closed_by: int = 429
    ) -> VPSBackupsError:
        """The error for a call that was not let through in time."""
        error = self.while_closed(call, now, closed_for, closed_by)
        if error is not None:
            return error
        call.attempts += 1  # the attempt that it waited for
        return deadline_error(call, self.timeouts.deadline, "passed")

    def timed_out(self) -> AttemptFailure:
        """The failure of an attempt that took longer than `Timeouts.attempt`."""
        words = f"no answer within {self.timeouts.attempt:g} s"
        return AttemptFailure(words, "timeout")

    def _attempts_left(self, call: Call) -> bool:
        stopped = call.state is not None and call.state.no_more_attempts
        # With one attempt retries are off, for pacing as well.
        return not stopped and self.retry.attempts > 1 and call.counted < self.retry.attempts

    def _asks_too_long(self, call: Call, error: VPSBackupsError, now: float) -> bool:
        asked = asked_pause(error)
        return asked is not None and (
            asked > self.retry.max_retry_after or now + asked > call.deadline
        )

    def _pause(
        self, call: Call, error: VPSBackupsError, situation: Situation, *, free: bool
    ) -> tuple[float, bool]:
        """The seconds before the next attempt, and whether the limiter itself makes it wait."""
        asked, closed_for = asked_pause(error), situation.closed_for
        refused = isinstance(error, RateLimitedError)
        floor = 0.0
        if refused or free or asked is not None:
            floor = min(_FIRST_FLOOR * 2.0 ** min(call.failures - 1, 10), _LAST_FLOOR)
        closes = closed_for > 0 and max(asked or 0.0, floor) - closed_for < _CLOSED_SLACK
        if refused and asked is not None and closes:
            return closed_for, True
        attempt = Attempt(call.failures, situation.now - call.started, call.pause)
        return max(floor, self.retry.pause(error, attempt)), False
