"""What follows from an attempt, driven as tables: no socket, no event loop, no clock."""

from collections.abc import Mapping
from typing import Any

import pytest
from multidict import CIMultiDict

from vpsbackups_async import (
    ApiError,
    Attempt,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConstantBackoff,
    DeadlineExceededError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    ResponseTooLargeError,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    _wire,
)
from vpsbackups_async._transport.attempts import (
    Done,
    Fail,
    Rules,
    SendAgain,
    Step,
    is_ambiguous,
    may_send_again,
    without_budget,
)
from vpsbackups_async._transport.calls import (
    AttemptFailure,
    AttemptResult,
    Call,
    SendState,
    Situation,
)

REQUESTS: Mapping[str, _wire.Request] = {
    "list": _wire.BACKUPS.request(""),
    "create": _wire.create_request(1, None),
    "delete": _wire.delete_request(1),
    "restore": _wire.restore_request(1, 1),
}
every_verb = pytest.mark.parametrize("verb", REQUESTS)

STARTED, DEADLINE = 1000.0, 1100.0
PAUSE = 2.0


def rules(attempts: int = 3, **more: Any) -> Rules:
    more.setdefault("backoff", ConstantBackoff(PAUSE))
    more.setdefault("max_retry_after", 20)
    return Rules(Timeouts(attempt=30, deadline=100), RetryPolicy(attempts, **more))


def a_call(verb: str = "list", attempts: int = 1, **more: Any) -> Call:
    """A call whose attempt number `attempts` has just ended."""
    more.setdefault("accepted", 0)
    return Call(REQUESTS[verb], STARTED, DEADLINE, attempts=attempts, **more)


def at(
    elapsed: float = 1.0, *, accepted: int = 0, closed_for: float = 0.0, is_busy: bool = False
) -> Situation:
    return Situation(STARTED + elapsed, accepted, closed_for, accepted, is_busy)


def answered(status: int, body: bytes = b"{}", **headers: str) -> AttemptResult:
    """An attempt with a whole answer."""
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return AttemptResult(1, True, status, named, body, len(body), whole=True)


def failed(
    cause: Any = "connection",
    words: str = "it broke",
    *,
    sent: bool = True,
    status: int | None = None,
    late: bool = False,
) -> AttemptResult:
    """An attempt without a whole answer."""
    failure = AttemptFailure(words, cause)
    return AttemptResult(1, sent, status, body=b"{", size=1, failure=failure, late=late)


def throttled(retry_after: float | None = None) -> AttemptResult:
    return answered(429) if retry_after is None else answered(429, Retry_After=str(retry_after))


def name_of(step: Step) -> str:
    """The step in a word or two: `again`, `done`, or the class of the error."""
    if isinstance(step, Done):
        return "done"
    return "again" if isinstance(step, SendAgain) else type(step.error).__name__


def failure_of(step: Step) -> Any:
    assert isinstance(step, Fail)
    return step.error


# --- Success -------------------------------------------------------------------------------------


@every_verb
@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_whole_2xx_is_the_response(verb: str, status: int) -> None:
    call = a_call(verb, 2)
    step = rules().after(call, answered(status, b"said", X_Id="7"), at())
    assert isinstance(step, Done)
    response = step.response
    assert (response.status, response.body, response.headers["x-id"]) == (status, b"said", "7")
    assert (response.request, response.attempts) == (call.request, 2)
    assert step.earns_budget


@pytest.mark.parametrize("cause", ["connection", "timeout", "too large"])
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("verb", ["delete", "restore"])
def test_success_by_status_needs_no_readable_body(verb: str, cause: str, late: bool) -> None:
    step = rules().after(a_call(verb), failed(cause, status=202, late=late), at())
    assert isinstance(step, Done)
    assert (step.response.status, step.response.body) == (202, b"")
    assert step.earns_budget


# --- One attempt of each kind --------------------------------------------------------------------

FIRST_ATTEMPTS: Mapping[str, tuple[AttemptResult, Mapping[str, str]]] = {
    "nothing was sent": (failed(sent=False), dict.fromkeys(REQUESTS, "again")),
    "no connection in time": (failed("timeout", sent=False), dict.fromkeys(REQUESTS, "again")),
    "an untrusted certificate": (
        failed("untrusted", sent=False),
        dict.fromkeys(REQUESTS, "TransportError"),
    ),
    "a session that cannot send": (
        failed("misuse", sent=False),
        dict.fromkeys(REQUESTS, "ConfigurationError"),
    ),
    "a session that failed after sending": (
        failed("misuse"),
        {
            "list": "again",
            "delete": "again",
            "create": "TransportError",
            "restore": "TransportError",
        },
    ),
    "sent, then dropped": (
        failed(),
        {
            "list": "again",
            "delete": "again",
            "create": "TransportError",
            "restore": "TransportError",
        },
    ),
    "sent, no answer in time": (
        failed("timeout"),
        {
            "list": "again",
            "delete": "again",
            "create": "RequestTimeoutError",
            "restore": "RequestTimeoutError",
        },
    ),
    "the deadline, while it was sent": (
        failed("timeout", late=True),
        dict.fromkeys(REQUESTS, "DeadlineExceededError"),
    ),
    "a 2xx that breaks off": (
        failed(status=200),
        {"list": "again", "delete": "done", "create": "InvalidResponseError", "restore": "done"},
    ),
    "a 2xx that takes too long": (
        failed("timeout", status=200),
        {"list": "again", "delete": "done", "create": "InvalidResponseError", "restore": "done"},
    ),
    "a 2xx that the deadline ends": (
        failed("timeout", status=200, late=True),
        {
            "list": "DeadlineExceededError",
            "delete": "done",
            "create": "DeadlineExceededError",
            "restore": "done",
        },
    ),
    "a 2xx that is too large": (
        failed("too large", status=200),
        {
            "list": "ResponseTooLargeError",
            "delete": "done",
            "create": "ResponseTooLargeError",
            "restore": "done",
        },
    ),
    "a redirect": (
        answered(301, Location="/elsewhere"),
        dict.fromkeys(REQUESTS, "UnexpectedRedirectError"),
    ),
    "a redirect that breaks off": (
        failed(status=302),
        dict.fromkeys(REQUESTS, "UnexpectedRedirectError"),
    ),
    "401": (answered(401), dict.fromkeys(REQUESTS, "AuthenticationError")),
    "404": (answered(404), dict.fromkeys(REQUESTS, "NotFoundError")),
    "404 that breaks off": (failed(status=404), dict.fromkeys(REQUESTS, "NotFoundError")),
    "409": (answered(409), dict.fromkeys(REQUESTS, "ConflictError")),
    "429": (throttled(), dict.fromkeys(REQUESTS, "again")),
    "429 that the deadline ends": (
        failed("timeout", status=429, late=True),
        dict.fromkeys(REQUESTS, "again"),
    ),
    **{
        str(status): (
            answered(status),
            {
                "list": "again",
                "delete": "again",
                "create": kind,
                "restore": kind,
            },
        )
        for status, kind in [
            (408, "ApiError"),
            *((code, "ServerError") for code in (500, 502, 503, 504, 520, 530)),
        ]
    },
    "501": (answered(501), dict.fromkeys(REQUESTS, "ServerError")),
}


@every_verb
@pytest.mark.parametrize("how", FIRST_ATTEMPTS)
def test_what_follows_from_a_first_attempt(how: str, verb: str) -> None:
    result, follows = FIRST_ATTEMPTS[how]
    assert name_of(rules().after(a_call(verb), result, at())) == follows[verb]


@pytest.mark.parametrize(
    ("result", "kind", "words"),
    [
        (failed(words="it broke"), TransportError, "it broke"),
        (failed("timeout", "too slow"), RequestTimeoutError, "too slow"),
        (failed("timeout", late=True), DeadlineExceededError, "the deadline of 100 s passed"),
        (failed("too large", "10 MB", status=201), ResponseTooLargeError, "10 MB"),
        (
            answered(307, Location="https://there"),
            UnexpectedRedirectError,
            "the server redirects with 307 to 'https://there'",
        ),
        (answered(308), UnexpectedRedirectError, "the server redirects with 308 to None"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_knows_its_request_and_whether_it_was_sent(
    result: AttemptResult, kind: type[VPSBackupsError], words: str
) -> None:
    error = failure_of(rules(1).after(a_call("create", 2), result, at()))
    assert type(error) is kind
    assert (error.message, error.sent, error.attempts) == (words, True, 2)
    assert (error.method, error.path) == ("POST", "/api/v1/backups/")
    assert getattr(error, "location", None) == result.headers.get("location")


@pytest.mark.parametrize("cause", ["connection", "timeout", "untrusted"])
def test_an_error_before_the_request_was_written_says_so(cause: str) -> None:
    error = failure_of(rules(1).after(a_call("create"), failed(cause, sent=False), at()))
    assert error.sent is False


def test_an_error_of_the_api_has_the_servers_words_and_the_calls_request() -> None:
    result = answered(401, b'{"detail": "who?"}', X_Request_ID="r7")
    error = failure_of(rules().after(a_call("delete", 2), result, at()))
    assert type(error) is AuthenticationError
    assert (error.status, error.detail, error.request_id) == (401, "who?", "r7")
    assert (error.method, error.path, error.attempts) == ("DELETE", "/api/v1/backups/1/", 2)


def test_an_accepted_create_that_cannot_be_read_says_what_happened() -> None:
    error = failure_of(rules().after(a_call("create"), failed(status=201), at()))
    assert type(error) is InvalidResponseError
    assert (error.reason, error.status, error.method, error.path) == (
        *("it broke", 201),
        *("POST", "/api/v1/backups/"),
    )


def test_a_session_that_cannot_send_is_named() -> None:
    result = failed("misuse", "InvalidURL: x", sent=False)
    error = failure_of(rules().after(a_call(), result, at()))
    assert type(error) is ConfigurationError
    assert "cannot send with this session or proxy: InvalidURL: x" in str(error)


def test_an_attempt_out_of_time_names_the_timeout() -> None:
    assert rules().timed_out() == AttemptFailure("no answer within 30 s", "timeout")


# --- What may be sent again ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "idempotent", "other", "ambiguous"),
    [
        (TransportError("no connection", False), True, True, False),
        (RequestTimeoutError("no connection", False), True, True, False),
        (TransportError("dropped", True), True, False, True),
        (RequestTimeoutError("no answer", True), True, False, True),
        (UnexpectedRedirectError("elsewhere"), False, False, False),
        (ResponseTooLargeError("too large"), False, False, True),
        (RateLimitedError(429, retry_after=1), True, True, False),
        (RateLimitedError(429), True, True, False),
        (ServerError(503, retry_after=1), True, False, True),
        *((ServerError(status), True, False, True) for status in (500, 502, 503, 504, 520, 530)),
        (ServerError(501), False, False, True),
        (ApiError(408), True, False, True),
        (ConflictError(409), False, False, False),
        (BadRequestError(400), False, False, False),
        (BadRequestError(422), False, False, False),
        (AuthenticationError(401), False, False, False),
        (PermissionDeniedError(403), False, False, False),
        (NotFoundError(404), False, False, False),
        (ConfigurationError("closed"), False, False, False),
        (InvalidResponseError("no JSON"), False, False, False),
        (DeadlineExceededError("late", True), False, False, True),
        (DeadlineExceededError("late", False), False, False, False),
    ],
    ids=repr,
)
def test_the_table_of_what_may_be_sent_again(
    error: VPSBackupsError, idempotent: bool, other: bool, ambiguous: bool
) -> None:
    assert may_send_again(_wire.Policy(idempotent=True), error) is idempotent
    assert may_send_again(_wire.Policy(), error) is other
    assert is_ambiguous(error) is ambiguous


# --- A 404 after an attempt that may have deleted ------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "before", "follows"),
    [
        ("delete", failed(), "done"),
        ("delete", answered(503), "done"),
        ("delete", answered(408), "done"),
        ("delete", failed(sent=False), "NotFoundError"),
        ("delete", throttled(), "NotFoundError"),
        ("list", failed(), "NotFoundError"),
        ("list", answered(503), "NotFoundError"),
    ],
)
def test_a_404_means_done_only_after_an_attempt_that_may_have_deleted(
    verb: str, before: AttemptResult, follows: str
) -> None:
    call = a_call(verb)
    assert name_of(rules().after(call, before, at())) == "again"
    call.attempts = 2
    step = rules().after(call, answered(404), at())
    assert name_of(step) == follows
    if isinstance(step, Done):
        assert (step.response.status, step.response.body, step.response.attempts) == (204, b"", 2)
        assert not step.earns_budget


def test_one_attempt_that_may_have_deleted_is_enough_whatever_came_after_it() -> None:
    call = a_call("delete")
    for before in (failed(), failed(sent=False)):
        assert name_of(rules().after(call, before, at())) == "again"
    assert name_of(rules().after(call, answered(404), at())) == "done"


@pytest.mark.parametrize("body", [b"<html>", b"no route"], ids=repr)
def test_a_404_with_another_text_does_not_mean_done(body: bytes) -> None:
    call = a_call("delete")
    assert name_of(rules().after(call, failed(), at())) == "again"
    assert name_of(rules().after(call, answered(404, body), at())) == "NotFoundError"


# --- How often -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("result", [failed(), answered(503), throttled(), throttled(0)])
def test_failures_are_sent_again_until_the_attempts_are_used_up(
    attempts: int, result: AttemptResult
) -> None:
    call, policy = a_call(attempts=0), rules(attempts)
    for _ in range(attempts - 1):
        call.attempts += 1
        step = policy.after(call, result, at())
        assert isinstance(step, SendAgain)
        assert step.costs_budget
    call.attempts += 1
    error = failure_of(policy.after(call, result, at()))
    assert error.attempts == attempts
    assert not error.retries_refused


def charges(policy: Rules, call: Call, result: AttemptResult, **more: Any) -> list[bool]:
    """Whether each failure in a row cost budget while the server took others, up to the end."""
    charged = []
    for accepted in range(1, 100):
        call.attempts += 1
        step = policy.after(call, result, at(accepted=accepted, **more))
        if isinstance(step, Fail):
            return charged
        assert isinstance(step, SendAgain)
        charged.append(step.costs_budget)
    raise AssertionError("there is no end to it")


@pytest.mark.parametrize(
    ("result", "closed_for", "is_busy"),
    [
        (throttled(), 0.0, False),
        (throttled(0), 0.0, False),
        (throttled(1), 1.0, False),
        (answered(503), 0.5, True),
    ],
    ids=["429", "429 for nothing", "429 for 1 s", "503 of a busy server"],
)
def test_ten_refusals_for_pace_in_a_row_cost_neither_an_attempt_nor_budget(
    result: AttemptResult, closed_for: float, is_busy: bool
) -> None:
    call = a_call(attempts=0)
    policy = rules(3, max_retry_after=100)
    assert charges(policy, call, result, closed_for=closed_for, is_busy=is_busy) == [
        *[False] * 10,
        *[True] * 2,
    ]


def test_refusals_for_pace_are_free_only_for_as_long_as_a_retry_after_may_be() -> None:
    assert charges(rules(3, max_retry_after=7), a_call(attempts=0), throttled()) == [
        *[False] * 4,  # the pauses are of two seconds
        *[True] * 2,
    ]


def test_a_failure_of_another_kind_lets_the_count_of_refusals_begin_anew() -> None:
    call, policy = a_call(attempts=0), rules(3, backoff=ConstantBackoff(0))
    for accepted in range(1, 11):
        step = policy.after(call, throttled(), at(accepted=accepted))
        assert isinstance(step, SendAgain)
        assert not step.costs_budget
    assert name_of(policy.after(call, failed(), at(accepted=11))) == "again"
    step = policy.after(call, throttled(), at(accepted=12))
    assert isinstance(step, SendAgain)
    assert not step.costs_budget


def test_a_refusal_is_for_pace_only_while_the_server_takes_others() -> None:
    call, policy = a_call(attempts=0), rules(2)
    step = policy.after(call, throttled(), at(accepted=49))
    assert isinstance(step, SendAgain)
    assert not step.costs_budget
    # From here on the server takes nothing.
    step = policy.after(call, throttled(), at(accepted=49))
    assert isinstance(step, SendAgain)
    assert step.costs_budget
    assert name_of(policy.after(call, throttled(), at(accepted=49))) == "RateLimitedError"


@pytest.mark.parametrize("cause", ["connection", "timeout"])
@pytest.mark.parametrize(("accepted", "times"), [(0, 2), (1, 98)], ids=["never", "once"])
def test_an_attempt_without_a_connection_is_free_where_the_server_was_reached_before(
    cause: str, accepted: int, times: int
) -> None:
    call, policy = a_call(attempts=0), rules(3, backoff=ConstantBackoff(0))
    for _ in range(times):
        step = policy.after(call, failed(cause, sent=False), at(accepted=accepted))
        assert isinstance(step, SendAgain)
        assert not step.costs_budget
    last = policy.after(call, failed(cause, sent=False), at(accepted=accepted))
    assert isinstance(last, SendAgain if accepted else Fail)


@pytest.mark.parametrize(
    ("result", "accepted"),
    [(throttled(0), 0), (throttled(0), 1), (answered(503, Retry_After="0"), 0), (throttled(), 0)],
    ids=["429 for nothing", "for pace", "503 for nothing", "429"],
)
def test_no_pause_after_a_refusal_is_shorter_than_a_floor_that_grows(
    result: AttemptResult, accepted: int
) -> None:
    call, policy = a_call(attempts=0), rules(9, backoff=ConstantBackoff(0))
    pauses = []
    for number in range(1, 6):
        step = policy.after(call, result, at(accepted=number * accepted))
        assert isinstance(step, SendAgain)
        pauses.append(step.pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 0.8]


def test_no_pause_after_a_refusal_is_shorter_than_that_of_the_backoff() -> None:
    step = rules().after(a_call(), throttled(0), at())
    assert isinstance(step, SendAgain)
    assert step.pause == PAUSE


def test_a_closed_limiter_is_no_pause_where_it_opens_before_the_floor() -> None:
    call = a_call(failures=5)
    step = rules().after(call, throttled(0.1), at(closed_for=0.1))
    assert isinstance(step, SendAgain)
    assert not step.in_limiter


@pytest.mark.parametrize("result", [failed(), answered(503)])
def test_any_other_failure_costs_an_attempt_whatever_the_server_takes(
    result: AttemptResult,
) -> None:
    call = a_call()
    step = rules(2).after(call, result, at(accepted=10))
    assert isinstance(step, SendAgain)
    assert step.costs_budget
    assert name_of(rules(2).after(call, result, at(accepted=20))) != "again"


def test_only_answers_since_the_last_look_show_that_the_server_takes_others() -> None:
    call = a_call()
    assert name_of(rules(2).after(call, failed(), at(accepted=5))) == "again"
    assert name_of(rules(2).after(call, throttled(), at(accepted=5))) == "RateLimitedError"


def test_with_one_attempt_not_even_a_429_for_pace_is_sent_again() -> None:
    step = rules(1).after(a_call(), throttled(), at(accepted=10))
    assert name_of(step) == "RateLimitedError"


def test_a_caller_may_ask_for_no_more_attempts() -> None:
    state = SendState()
    call = a_call(state=state)
    assert name_of(rules().after(call, throttled(), at())) == "again"
    state.no_more_attempts = True
    assert name_of(rules(10).after(call, throttled(), at())) == "RateLimitedError"


def test_a_call_without_budget_fails_and_says_so() -> None:
    step = rules().after(a_call(), failed(), at())
    assert isinstance(step, SendAgain)
    error = without_budget(step.error)
    assert error is step.error
    assert error.retries_refused
    assert error.__notes__ == ["not sent again: the retry budget of this client is used up"]


# --- The pause -----------------------------------------------------------------------------------


def test_the_backoff_is_told_how_the_call_went() -> None:
    asked: list[Attempt] = []

    def backoff(attempt: Attempt) -> float:
        asked.append(attempt)
        return 1.0 + len(asked)

    call, policy = a_call(), rules(backoff=backoff)
    pauses = []
    for number, elapsed in ((1, 4.0), (2, 9.0)):
        call.attempts = number
        step = policy.after(call, failed(), at(elapsed))
        assert isinstance(step, SendAgain)
        pauses.append(step.pause)
        assert step.in_limiter is False
    assert pauses == [2.0, 3.0]
    assert asked == [Attempt(1, 4.0, None), Attempt(2, 9.0, 2.0)]


@pytest.mark.parametrize(
    ("result", "closed_for", "in_limiter"),
    [
        (throttled(5), 5.0, True),
        (throttled(5), 8.0, True),
        (throttled(5), 4.95, True),
        (throttled(5), 4.85, False),
        (throttled(5), 0.0, False),
        (throttled(0), 0.0, False),
        (throttled(), 5.0, False),
        (answered(503, Retry_After="5"), 5.0, False),
        (answered(503), 5.0, False),
        (failed(), 5.0, False),
    ],
)
def test_the_pause_is_spent_in_the_limiter_if_that_covers_what_the_server_asked(
    result: AttemptResult, closed_for: float, in_limiter: bool
) -> None:
    step = rules().after(a_call(), result, at(closed_for=closed_for))
    assert isinstance(step, SendAgain)
    assert step.in_limiter is in_limiter
    if in_limiter:
        assert step.pause == closed_for
    elif "Retry-After" in result.headers:
        asked = float(result.headers["Retry-After"])
        assert max(asked, PAUSE) <= step.pause <= max(1.2 * asked, PAUSE)
    else:
        assert step.pause == PAUSE


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("asked", "elapsed", "again"),
    [(19, 1, True), (20, 1, True), (20.5, 1, False), (15, 81, True), (15, 86, False)],
)
def test_a_pause_that_is_too_long_is_told_at_once(
    status: int, asked: float, elapsed: float, again: bool
) -> None:
    result = answered(status, Retry_After=str(asked))
    situation = at(elapsed, closed_for=asked)
    step = rules(max_retry_after=20).after(a_call(), result, situation)
    assert isinstance(step, SendAgain if again else Fail)
    assert getattr(step.error, "retry_after", None) == asked


@pytest.mark.parametrize(("elapsed", "again"), [(97.9, True), (98.0, True), (98.1, False)])
def test_a_deadline_that_leaves_no_time_for_another_attempt_ends_the_call(
    elapsed: float, again: bool
) -> None:
    call = a_call("list", 2)
    step = rules().after(call, answered(500), at(elapsed))
    assert isinstance(step, SendAgain if again else Fail)
    if isinstance(step, Fail):
        error = step.error
        assert isinstance(error, DeadlineExceededError)
        assert "the deadline of 100 s leaves no time for another attempt" in str(error)
        assert isinstance(error.__cause__, ServerError)
        assert (error.sent, error.attempts) == (True, 2)


@pytest.mark.parametrize(
    ("before", "last", "sent"),
    [
        (None, failed("timeout", late=True), True),
        (None, failed("timeout", sent=False, late=True), False),
        (answered(500), failed("timeout", sent=False, late=True), True),
        (throttled(), failed("timeout", sent=False, late=True), False),
        (failed(sent=False), failed("timeout", late=True), True),
    ],
)
def test_a_deadline_tells_whether_any_attempt_was_sent_and_the_failure_before(
    before: AttemptResult | None, last: AttemptResult, sent: bool
) -> None:
    call = a_call()
    cause = None
    if before is not None:
        step = rules().after(call, before, at())
        assert isinstance(step, SendAgain)
        cause = step.error
    error = failure_of(rules().after(call, last, at(100)))
    assert type(error) is DeadlineExceededError
    assert error.sent is sent
    assert error.__cause__ is cause


# --- Before an attempt ---------------------------------------------------------------------------


@every_verb
@pytest.mark.parametrize(
    ("error", "follows"),
    [
        (TransportError("the limiter is down", False), "again"),
        (ConfigurationError("closed"), "ConfigurationError"),
    ],
    ids=["passing", "lasting"],
)
def test_an_error_before_anything_was_sent_is_judged_like_any_other(
    verb: str, error: VPSBackupsError, follows: str
) -> None:
    step = rules().after_error(a_call(verb), error, at())
    assert name_of(step) == follows
    assert not isinstance(step, Done)
    assert step.error is error


@pytest.mark.parametrize(
    ("elapsed", "closed_for", "kind"),
    [
        (0, 0, None),
        (101, 0, None),
        (0, 20, None),
        (0, 20.1, RateLimitedError),
        (79, 20, None),
        (81, 20, DeadlineExceededError),
        (81, 20.1, RateLimitedError),
    ],
)
def test_a_closed_limiter_is_waited_for_only_where_it_opens_in_time(
    elapsed: float, closed_for: float, kind: type[VPSBackupsError] | None
) -> None:
    cause = ServerError(500)
    call = a_call("create", 0, last_error=cause, ambiguous=True)
    error = rules().while_closed(call, STARTED + elapsed, closed_for)
    assert type(error) is (kind or type(None))
    if error is None:
        return
    assert error.__cause__ is cause
    assert (error.method, error.path, error.attempts) == ("POST", "/api/v1/backups/", 0)
    if isinstance(error, RateLimitedError):
        assert (error.status, error.retry_after) == (429, closed_for)
        assert "not sent: an earlier answer asked every request to wait" in str(error)
    else:
        assert "leaves no time: refusals closed the gate for 20.0 s" in str(error)
        assert error.sent is True
    # Once raised, it ends the call.
    step = rules().after_error(call, error, at(elapsed, closed_for=closed_for))
    assert failure_of(step) is error
    assert error.__cause__ is cause


def test_a_limiter_that_503s_closed_for_long_fails_a_call_with_that_status() -> None:
    call = a_call("restore", 0)
    error = rules().while_closed(call, STARTED, 20.1, 503)
    assert type(error) is ServerError
    assert (error.status, error.retry_after) == (503, 20.1)
    assert not is_ambiguous(error)
    assert failure_of(rules().after_error(call, error, at())) is error


def test_a_call_that_is_not_let_through_in_time_counts_the_attempt_it_waited_for() -> None:
    call = a_call(attempts=1)
    error = rules().after_waiting(call, DEADLINE, 0)
    assert type(error) is DeadlineExceededError
    assert "the deadline of 100 s passed" in str(error)
    assert (error.sent, error.attempts, call.attempts) == (False, 2, 2)


def test_a_call_that_a_long_pause_sends_away_counts_none() -> None:
    call = a_call(attempts=1)
    error = rules().after_waiting(call, STARTED + 5, 50)
    assert type(error) is RateLimitedError
    assert call.attempts == error.attempts == 1


def test_not_found_is_a_plain_error_where_nothing_came_before() -> None:
    assert type(failure_of(rules().after(a_call("delete"), answered(404), at()))) is NotFoundError
