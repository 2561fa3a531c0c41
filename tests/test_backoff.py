"""The backoff strategies, and what is made of a strategy's answer."""

import copy
import math
import pickle
import random
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
from attrs.exceptions import FrozenInstanceError
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import (
    Attempt,
    Backoff,
    Backup,
    BackupStatus,
    BackupType,
    ConstantBackoff,
    DecorrelatedJitterBackoff,
    ExponentialBackoff,
    RetryPolicy,
    ServerRef,
)
from vpsbackups_async.backoff import delay_of

BACKUP = Backup(
    501,
    ServerRef(12345, "web-server-01"),
    BackupType.MANUAL,
    BackupStatus.IN_PROGRESS,
    None,
    datetime(2025, 1, 16, 3, tzinfo=UTC),
    None,
    "",
)
seconds = st.floats(0, 1e300) | st.integers(0, 10**6) | st.just(2**996)
constants = st.builds(ConstantBackoff, seconds)
exponentials = st.builds(
    ExponentialBackoff,
    seconds,
    st.floats(1, 1e300) | st.integers(1, 10**6) | st.just(2**996),
    seconds,
    st.floats(0, 1) | st.integers(0, 1),
)
decorrelated = st.tuples(seconds, seconds).map(
    lambda pair: DecorrelatedJitterBackoff(min(pair), max(pair))
)
attempts = st.builds(
    Attempt,
    st.integers(1, 10_000),
    st.floats(0, 1e9),
    st.none() | st.floats(0, 1e308),
    st.sampled_from([None, BACKUP]),
)


@given(exponentials | decorrelated, attempts)
def test_a_delay_is_never_negative_nor_above_the_maximum(backoff: Any, attempt: Attempt) -> None:
    assert 0 <= delay_of(backoff, attempt) <= backoff.maximum


@given(constants, attempts)
def test_a_constant_delay_is_the_same_at_every_attempt(
    backoff: ConstantBackoff, attempt: Attempt
) -> None:
    assert delay_of(backoff, attempt) == backoff.delay


@given(exponentials)
def test_without_jitter_a_growing_delay_never_shrinks(backoff: ExponentialBackoff) -> None:
    steady = ExponentialBackoff(backoff.first, backoff.factor, backoff.maximum)
    delays = [steady(Attempt(number)) for number in (1, 2, 3, 10, 100, 1_000, 10_000)]
    assert delays == sorted(delays)
    assert delays[0] == min(backoff.first, backoff.maximum)


@given(exponentials, st.integers(1, 10_000))
def test_jitter_only_takes_its_share_of_a_delay(backoff: ExponentialBackoff, number: int) -> None:
    whole = ExponentialBackoff(backoff.first, backoff.factor, backoff.maximum)(Attempt(number))
    least = whole * (1 - backoff.jitter)
    assert least * (1 - 1e-9) <= backoff(Attempt(number)) <= whole


@given(decorrelated, st.none() | st.floats(0, 1e308))
def test_a_decorrelated_delay_lies_between_the_first_and_thrice_the_previous_one(
    backoff: DecorrelatedJitterBackoff, previous: float | None
) -> None:
    delay = backoff(Attempt(2, previous_delay=previous))
    thrice = 3 * (backoff.first if previous is None else previous)
    assert backoff.first <= delay <= max(backoff.first, min(backoff.maximum, thrice)) * (1 + 1e-9)


def test_an_exponential_delay_doubles_up_to_its_maximum() -> None:
    backoff = ExponentialBackoff(2, maximum=30)
    assert [backoff(Attempt(number)) for number in range(1, 7)] == [2, 4, 8, 16, 30, 30]


def test_a_delay_that_starts_at_nothing_stays_there_at_any_attempt() -> None:
    backoff = ExponentialBackoff(0, maximum=30)
    assert {backoff(Attempt(number)) for number in (1, 2, 1_024, 1_025, 10_000)} == {0}


def test_jitter_spreads_delays() -> None:
    random.seed(1)
    for backoff in (ExponentialBackoff(8, jitter=0.5), DecorrelatedJitterBackoff(1, 60)):
        delays = {backoff(Attempt(1, previous_delay=8.0)) for _ in range(100)}
        assert len(delays) > 90


def test_ten_thousand_decorrelated_delays_in_a_row_stay_in_bounds() -> None:
    backoff = DecorrelatedJitterBackoff(0.5, 20)
    delay: float | None = None
    for number in range(1, 10_001):
        delay = delay_of(backoff, Attempt(number, previous_delay=delay))
        assert 0.5 <= delay <= 20


@pytest.mark.parametrize(
    ("backoff", "shown"),
    [
        (ConstantBackoff(2), "ConstantBackoff(delay=2)"),
        (
            ExponentialBackoff(2, 3, 4, 0.5),
            "ExponentialBackoff(first=2, factor=3, maximum=4, jitter=0.5)",
        ),
        (DecorrelatedJitterBackoff(2, 3), "DecorrelatedJitterBackoff(first=2, maximum=3)"),
    ],
)
def test_a_strategy_is_a_plain_value(backoff: Any, shown: str) -> None:
    assert repr(backoff) == shown
    assert hash(backoff) == hash(copy.copy(backoff))
    for again in (pickle.loads(pickle.dumps(backoff)), copy.copy(backoff), copy.deepcopy(backoff)):
        assert again == backoff
    before = repr(backoff)
    random.seed(7)
    first = [backoff(Attempt(number, previous_delay=2.5)) for number in range(1, 9)]
    random.seed(7)
    assert [backoff(Attempt(number, previous_delay=2.5)) for number in range(1, 9)] == first
    assert repr(backoff) == before
    with pytest.raises(FrozenInstanceError):
        backoff.maximum = 5


# --- Functions as strategies ---------------------------------------------------------------------


def ten_times_the_number(attempt: Attempt) -> float:
    return 10 * attempt.number


class Patience:
    """A strategy of somebody's own, with a method."""

    def ask(self, attempt: Attempt, /) -> float:
        return attempt.elapsed


@pytest.mark.parametrize(
    ("backoff", "delay"),
    [
        (ten_times_the_number, 30.0),
        pytest.param(lambda attempt: attempt.previous_delay or 1, 4.0, id="the one before"),
        (Patience().ask, 2.5),
        (partial(max, 0.5, key=lambda _: 0), 0.5),
        pytest.param(lambda _: 0, 0.0, id="none"),
        pytest.param(lambda _: 1e308, 1e308, id="the longest"),
        pytest.param(lambda attempt: 1 if attempt.backup is BACKUP else 2, 1.0, id="by backup"),
    ],
)
def test_any_function_of_an_attempt_serves(backoff: Backoff, delay: float) -> None:
    answer = delay_of(backoff, Attempt(3, 2.5, 4.0, BACKUP))
    assert (type(answer), answer) == (float, delay)


BAD_NUMBERS = [-1, -0.5, math.nan, math.inf, -math.inf, 10**400, None, True, "5", b"5", [], 1j]


@pytest.mark.parametrize(
    "answer",
    [
        *BAD_NUMBERS,
        pytest.param(Decimal(1), id="a Decimal"),
        pytest.param(Fraction(1), id="a Fraction"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_an_answer_that_is_no_delay_is_a_value_error_that_names_the_strategy(answer: Any) -> None:
    def impatient(_: Attempt) -> Any:
        return answer

    with pytest.raises(ValueError, match=r"impatient.* to attempt 7 must be a finite number") as e:
        delay_of(impatient, Attempt(7))
    assert repr(answer) in str(e.value)


def test_what_a_strategy_raises_itself_comes_through() -> None:
    def broken(_: Attempt) -> float:
        raise LookupError("no idea")

    with pytest.raises(LookupError, match="no idea"):
        delay_of(broken, Attempt(1))


# --- Bad settings --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", BAD_NUMBERS, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ConstantBackoff, "delay"),
        (ExponentialBackoff, "first"),
        (ExponentialBackoff, "factor"),
        (ExponentialBackoff, "maximum"),
        (ExponentialBackoff, "jitter"),
        (DecorrelatedJitterBackoff, "first"),
        (DecorrelatedJitterBackoff, "maximum"),
    ],
)
def test_a_setting_is_a_finite_number_of_zero_or_more(kind: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a finite ") as caught:
        kind(**{name: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ExponentialBackoff(factor=0.5), "factor must be at least 1, not 0.5"),
        (lambda: ExponentialBackoff(jitter=1.5), "jitter must be a share from 0 to 1, not 1.5"),
        (lambda: DecorrelatedJitterBackoff(5, 2), "maximum 2 is below first 5"),
    ],
    ids=["factor", "jitter", "maximum"],
)
def test_settings_that_make_no_sense_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("value", [5, None, "2"])
def test_what_cannot_be_called_is_no_strategy(value: Any) -> None:
    with pytest.raises(ValueError, match="backoff must be callable, not ") as caught:
        RetryPolicy(backoff=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ConstantBackoff(0),
        lambda: ExponentialBackoff(0, 1, 0, 0),
        lambda: ExponentialBackoff(jitter=1),
        lambda: ExponentialBackoff(60, maximum=5),
        lambda: DecorrelatedJitterBackoff(0, 0),
        lambda: DecorrelatedJitterBackoff(5, 5),
    ],
    ids=[
        "no delay",
        "no exponential delay",
        "full jitter",
        "maximum below first",
        "no decorrelated delay",
        "maximum is first",
    ],
)
def test_settings_at_their_limits_are_good(build: Any) -> None:
    assert delay_of(build(), Attempt(3, previous_delay=1.0)) >= 0
