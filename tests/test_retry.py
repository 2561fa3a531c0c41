"""What may be sent again, when, and out of which budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import (
    Attempt,
    ConstantBackoff,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async._transport.retry import RetryBudget, asked_pause
from vpsbackups_async.errors import ApiError


def throttled(retry_after: float | None) -> RateLimitedError:
    return RateLimitedError(429, retry_after=retry_after)


@given(st.floats(0, 1e6))
def test_what_the_server_asked_for_is_kept_or_somewhat_exceeded(asked: float) -> None:
    pause = RetryPolicy(backoff=ConstantBackoff(0)).pause(throttled(asked), Attempt(1))
    assert asked <= pause <= asked + min(0.2 * asked, 5.0)


def test_a_hundred_throttled_calls_come_back_at_different_moments() -> None:
    policy = RetryPolicy()
    assert len({policy.pause(throttled(10), Attempt(1)) for _ in range(100)}) > 90


@pytest.mark.parametrize("error", [throttled(None), ServerError(503), ServerError(500)])
def test_without_a_wish_of_the_server_the_backoff_decides(error: ApiError) -> None:
    asked: list[Attempt] = []

    def backoff(attempt: Attempt) -> float:
        asked.append(attempt)
        return 1.25

    assert RetryPolicy(backoff=backoff).pause(error, Attempt(3, 7.0, 0.5)) == 1.25
    assert asked == [Attempt(3, 7.0, 0.5)]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (throttled(3), 3),
        (ServerError(503, retry_after=4), 4),
        (ServerError(500, retry_after=4), None),
        (TransportError("dropped"), None),
    ],
)
def test_only_a_429_or_503_may_ask_for_a_pause(error: VPSBackupsError, asked: float | None) -> None:
    assert asked_pause(error) == asked


@pytest.mark.parametrize("answer", [-1, float("nan"), float("inf"), None, "1", True])
def test_a_backoff_with_an_unusable_answer_is_named(answer: object) -> None:
    def backoff(_: Attempt) -> object:
        return answer

    policy = RetryPolicy(backoff=backoff)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(ValueError, match=r"answer of .*backoff.* to attempt 2"):
        policy.pause(ServerError(500), Attempt(2))


def test_ten_successes_earn_a_retry_back_up_to_the_budget() -> None:
    budget = RetryBudget(2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(9):
        budget.earn()
    assert budget.spend() is False
    budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]
    for _ in range(1000):
        budget.earn()
    assert [budget.spend() for _ in range(3)] == [True, True, False]


def test_a_budget_of_none_has_no_end() -> None:
    budget = RetryBudget(RetryPolicy(budget=None).budget)
    budget.earn()
    assert all(budget.spend() for _ in range(1000))


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 2.0},
        {"backoff": 3},
        {"max_retry_after": -1},
        {"max_retry_after": float("nan")},
        {"budget": -1},
        {"budget": float("inf")},
    ],
)
def test_a_policy_out_of_range_names_what_is_wrong(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RetryPolicy(**options)  # type: ignore[arg-type]  # the point of the test


def test_a_policy_is_a_plain_value() -> None:
    assert RetryPolicy(backoff=ConstantBackoff(1)) == RetryPolicy(backoff=ConstantBackoff(1))
