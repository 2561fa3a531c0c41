"""In which order servers' lists are asked for."""

import pytest

from vpsbackups_async import RateLimitedError, ServerError, VPSBackupsError
from vpsbackups_async._lists.turns import Turns

DOWN = ServerError(500, "down")
LIMITED = RateLimitedError(429, "slow")


def asked(turns: Turns, server_id: int, at: float, error: VPSBackupsError | None = None) -> None:
    turns.asked(server_id, at)
    turns.ended(server_id, error, 0.1)


def order(turns: Turns, **failures: int) -> list[str]:
    return sorted(failures, key=lambda name: turns.of(ord(name), failures[name]))


def test_the_list_that_was_not_asked_for_longest_comes_first() -> None:
    turns = Turns()
    for at, name in enumerate("cab"):
        asked(turns, ord(name), at)
    assert order(turns, a=0, b=0, c=0, n=0) == ["n", "c", "a", "b"]


def test_a_list_that_failed_comes_later_but_not_for_failing_more_than_twice() -> None:
    turns = Turns()
    for at, name in enumerate("abcd"):
        asked(turns, ord(name), at, DOWN)
    assert order(turns, a=9, b=2, c=1, d=0) == ["d", "c", "a", "b"]


def test_a_list_whose_failure_took_long_comes_after_those_that_failed_with_an_answer() -> None:
    turns = Turns()
    for name, seconds in (("a", 30.0), ("b", 0.1)):
        turns.asked(ord(name), 0.0)
        turns.ended(ord(name), DOWN, seconds)
    assert order(turns, a=1, b=9) == ["b", "a"]
    assert order(turns, a=0, b=9) == ["a", "b"]


def test_a_list_that_answered_with_a_429_comes_last_until_it_answers_otherwise() -> None:
    turns = Turns()
    asked(turns, ord("a"), 0, LIMITED)
    asked(turns, ord("b"), 1, DOWN)
    assert order(turns, a=0, b=3) == ["b", "a"]
    asked(turns, ord("a"), 2)
    assert order(turns, a=0, b=3) == ["a", "b"]


@pytest.mark.parametrize(("seconds", "is_kept"), [(3_599, True), (3_601, False)])
def test_lists_not_asked_for_within_an_hour_are_forgotten_once_there_are_many(
    seconds: int, is_kept: bool
) -> None:
    turns = Turns()
    asked(turns, 0, 0, LIMITED)
    for number in range(1, 1_001):
        turns.asked(number, seconds)
    assert turns.of(0, 0).limited is is_kept
