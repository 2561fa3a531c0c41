"""Which lists are worth a request, after what happened to them."""

import pytest

from vpsbackups_async import (
    AuthenticationError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async._lists.troubles import EVERY_SERVER, State, Troubles, pause_of

DOWN = ServerError(500, "down")
CUT = TransportError("cut", True, "GET", "/", 1)


def paused(seconds: float) -> ServerError:
    return ServerError(503, "busy", retry_after=seconds)


def after(*errors: VPSBackupsError, server_id: int | None = 3) -> Troubles:
    """A list that failed with these errors, all at the time 0."""
    troubles = Troubles()
    for error in errors:
        troubles.failed(server_id, error, 0.0)
    return troubles


@pytest.mark.parametrize(
    ("errors", "state", "failures"),
    [
        ((), State.FINE, 0),
        ((DOWN,), State.FINE, 1),
        ((DOWN, CUT), State.FAILING, 2),
        ((PermissionDeniedError(403, "no"),), State.FAILING, 2),
        ((AuthenticationError(401, "no"),) * 2, State.FINE, 0),
        ((RateLimitedError(429, "slow", retry_after=9.0),) * 2, State.FINE, 0),
        ((paused(9.0),), State.PAUSED, 1),
    ],
    ids=["none", "one failure", "two", "a 403", "401s", "429s", "a 503 with a pause"],
)
def test_two_failures_in_a_row_or_one_that_will_not_mend_make_a_list_failing(
    errors: tuple[VPSBackupsError, ...], state: State, failures: int
) -> None:
    assert after(*errors).standing(3, 1.0) == (state, failures)
    assert after(*errors).standing(31, 1.0) == (State.FINE, 0)


def test_a_list_that_worked_is_fine_again() -> None:
    troubles = after(DOWN, paused(900.0))
    troubles.worked(3)
    assert troubles.standing(3, 1.0) == (State.FINE, 0)
    assert troubles.error(3) is None


def test_a_failing_list_is_worth_a_try_after_five_minutes() -> None:
    troubles = after(DOWN, DOWN)
    assert troubles.standing(3, 299.9).state == State.FAILING
    assert troubles.standing(3, 300.0).state == State.FINE


def test_a_pause_is_kept_to_its_end_and_no_longer_than_an_hour() -> None:
    troubles = after(paused(9_999_999_999.0))
    assert troubles.standing(3, 3_599.0).state == State.PAUSED
    assert troubles.standing(3, 3_600.0).state == State.FINE
    assert pause_of(RateLimitedError(429, "slow", retry_after=9.0)) == 0.0


def test_a_later_answer_that_asks_for_less_takes_nothing_back() -> None:
    troubles = after(paused(600.0), paused(5.0), DOWN)
    assert troubles.standing(3, 599.0).state == State.PAUSED
    assert troubles.standing(3, 600.0).state == State.FINE


def test_a_pause_is_that_of_its_list_alone() -> None:
    assert after(paused(600.0), server_id=EVERY_SERVER).standing(EVERY_SERVER, 1.0).state == 0


def test_failures_that_no_longer_matter_are_forgotten() -> None:
    troubles = Troubles()
    troubles.failed(1, paused(3_000.0), 0.0)
    for server_id in range(2, 1_001):
        troubles.failed(server_id, DOWN, 0.0)
    troubles.failed(1_001, DOWN, 1_000.0)
    assert len(troubles._of) == 2
    assert troubles.error(1) is not None
