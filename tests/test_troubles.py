"""Which lists are worth a request, after what happened to them."""

import pytest

from vpsbackups_async import (
    AuthenticationError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async._lists.troubles import State, Troubles, pause_of

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


@pytest.mark.parametrize(
    ("error", "at_once", "when"),
    [
        (DOWN, True, 30.0),
        (NotFoundError(404, "no"), True, 30.0),
        (DOWN, False, None),
        (PermissionDeniedError(403, "no"), True, None),
        (paused(60.0), True, 60.0),
    ],
    ids=["a 500", "a 404", "one that took long", "a 403", "one that asks for time"],
)
def test_a_list_that_fails_at_once_may_be_tried_first_after_half_a_minute(
    error: VPSBackupsError, at_once: bool, when: float | None
) -> None:
    troubles = Troubles()
    assert not troubles.may_try_first(None, 0.0)
    troubles.failed(None, error, 0.0, at_once=at_once)
    assert not troubles.may_try_first(None, 4_000.0 if when is None else when - 0.1)
    assert troubles.may_try_first(None, when or 0.0) == (when is not None)


def test_a_pause_is_kept_to_its_end_and_no_longer_than_an_hour() -> None:
    troubles = after(paused(9_999_999_999.0))
    assert troubles.standing(3, 3_599.0).state == State.PAUSED
    assert troubles.standing(3, 3_600.0).state == State.FINE
    assert pause_of(RateLimitedError(429, "slow", retry_after=9.0)) == 0.0


def test_a_later_answer_that_asks_for_less_takes_nothing_back() -> None:
    troubles = after(paused(600.0), paused(5.0), DOWN)
    assert troubles.standing(3, 599.0).state == State.PAUSED
    assert troubles.standing(3, 600.0).state == State.FINE


def test_failures_that_no_longer_matter_are_forgotten() -> None:
    troubles = Troubles()
    troubles.failed(1, paused(3_000.0), 0.0)
    for server_id in range(2, 1_001):
        troubles.failed(server_id, DOWN, 0.0)
    troubles.failed(1_001, DOWN, 1_000.0)
    assert len(troubles._of) == 2
    assert troubles.error(1) is not None


class CountedTime(float):
    """A time that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: float) -> bool:
        CountedTime.compared += 1
        return float(self) < other


def test_each_of_many_failures_costs_about_as_much_as_one_of_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CountedTime, "compared", 0)
    troubles, now = Troubles(), CountedTime(0.0)
    for server_id in range(1, 20_001):
        troubles.failed(server_id, DOWN, now)
    assert CountedTime.compared <= 4 * 20_000


# --- When no server's list works -----------------------------------------------------------------


def failing(count: int, error: VPSBackupsError = DOWN) -> Troubles:
    """The lists of so many servers failed at the time 0."""
    troubles = Troubles()
    for server_id in range(1, count + 1):
        troubles.failed(server_id, error, 0.0)
    return troubles


def test_sixteen_servers_that_fail_while_none_works_look_like_all() -> None:
    assert not failing(15).none_works
    assert failing(16).none_works
    assert failing(16, CUT).none_works
    assert failing(16, NotFoundError(404, "no")).none_works


def test_one_server_that_works_shows_that_not_all_fail() -> None:
    troubles = failing(40)
    troubles.worked(99)
    assert not troubles.none_works


def test_refused_tokens_rates_and_failures_of_the_whole_list_say_nothing_about_servers() -> None:
    assert not failing(40, PermissionDeniedError(403, "no")).none_works
    assert not failing(40, AuthenticationError(401, "no")).none_works
    troubles = failing(15)
    for _ in range(9):
        troubles.failed(None, DOWN, 0.0)
        troubles.failed(7, DOWN, 0.0)
    assert not troubles.none_works
    troubles.worked(None)
    troubles.failed(16, DOWN, 0.0)
    assert troubles.none_works


def test_failed_attempts_count_as_well() -> None:
    troubles = Troubles()
    for server_id in range(1, 17):
        troubles.attempt_failed(server_id, RateLimitedError(429, "slow"))
    assert not troubles.none_works
    for server_id in range(1, 17):
        troubles.attempt_failed(server_id, DOWN)
    assert troubles.none_works


def test_lists_that_failed_share_four_tries_and_one_more_each_two_and_a_half_seconds() -> None:
    troubles = failing(40)
    assert [troubles.may_try(one, 10.0) for one in range(1, 7)] == [True] * 4 + [False] * 2
    assert [troubles.may_try(5, now) for now in (12.4, 12.5, 12.6)] == [False, True, False]
    assert troubles.may_try(99, 12.6)  # it never failed
    troubles.worked(99)
    assert all(troubles.may_try(one, 12.6) for one in range(1, 41))


def test_a_pause_that_is_over_is_none() -> None:
    assert [after(paused(60.0)).pause(3, now) for now in (0.0, 50.0, 70.0)] == [60.0, 10.0, 0.0]
    assert after(paused(60.0)).pause(4, 0.0) == 0.0
