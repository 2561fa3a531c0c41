"""How many places of a server a policy needs: its worst case, and whether it fits."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from helpers_retention import NOW, backup, kept_times

from vpsbackups_async import Backup, Retention

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

COUNTS = [
    counts for counts in product((0, 3), (0, 2), (0, 1, 9), (0, 4), (0, 2), (0, 2)) if any(counts)
]
"""Counts for `last` to `yearly`, every rule with and without every other."""


def policy_of(counts: tuple[int, ...], **options: Any) -> Retention:
    return Retention(**dict(zip(RULES, counts, strict=True)), **options)


def dense(now: datetime) -> Iterator[Backup]:
    """A history with which each rule can keep as many as it may, and share as few as it can.

    Ten backups in the last hour, all hours of the last day, all days of two months, then the last
    days of weeks, months and years in such a way that they differ.
    """
    yield from (backup(now - timedelta(minutes=n)) for n in range(10))
    yield from (backup(now - n * HOUR) for n in range(1, 21))
    yield from (backup(now - n * DAY) for n in range(1, 80))
    yield from (backup(now - n * 7 * DAY) for n in range(12, 20))
    for months in range(3, 40):
        year, month = divmod(now.year * 12 + now.month - 1 - months, 12)
        first = datetime(year, month + 1, 1, 12, tzinfo=UTC)
        yield from (backup(first), backup(first - DAY))


SUNDAY_EVENING = datetime(2025, 8, 31, 22, 30, tzinfo=UTC)
"""The end of a week and of a month of 31 days, so that few of the longer periods are reached."""


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("min_keep", [1, 4])
def test_some_history_reaches_the_worst_case_and_none_of_many_goes_beyond(
    stacked: bool, min_keep: int
) -> None:
    worst = list(dense(SUNDAY_EVENING))
    draw = random.Random(16)
    others = [
        [backup(NOW - draw.choice((HOUR, DAY, 30 * DAY)) * draw.random() * 40) for _ in range(40)]
        for _ in range(2)
    ]
    for counts in COUNTS:
        policy = policy_of(counts, stacked=stacked, min_keep=min_keep)
        most = policy.worst_case
        assert most is not None
        assert len(kept_times(policy, worst, SUNDAY_EVENING)) == most, policy
        assert all(len(kept_times(policy, held)) <= most for held in others), policy


@pytest.mark.parametrize(
    ("policy", "most"),
    [
        (Retention(daily=4, weekly=4), 8),
        (Retention(daily=7, weekly=4), 11),
        (Retention(daily=7, weekly=4, stacked=False), 10),
        (Retention(daily=6, weekly=3, stacked=False), 8),
        (Retention(daily=8, weekly=4, stacked=False), 10),
        (Retention(last=3, daily=3, stacked=False), 5),
        (Retention(hourly=48, daily=2, stacked=False), 48),
        (Retention(hourly=49, daily=2, weekly=1, stacked=False), 49),
        (Retention(daily=1, min_keep=3), 3),
        (Retention(daily=2, min_keep=3), 4),
        (Retention(last=2, daily=2, min_keep=3), 5),
        (Retention(last=5, min_keep=3), 5),
        (Retention(last=2, min_keep=3, stacked=False), 3),
        (Retention(daily=2, within=DAY), None),
    ],
)
def test_a_policy_knows_its_worst_case(policy: Retention, most: int | None) -> None:
    assert policy.worst_case == most


@pytest.mark.parametrize(
    ("shorter", "number", "longer", "step", "start"),
    [
        ("hourly", 24, "daily", HOUR, datetime(2025, 7, 31, 23, 30, tzinfo=UTC)),
        ("hourly", 7 * 24, "weekly", HOUR, datetime(2025, 8, 31, 23, 30, tzinfo=UTC)),
        ("hourly", 31 * 24, "monthly", HOUR, datetime(2025, 7, 31, 23, 30, tzinfo=UTC)),
        ("hourly", 366 * 24, "yearly", HOUR, datetime(2024, 12, 31, 23, 30, tzinfo=UTC)),
        ("daily", 7, "weekly", DAY, datetime(2025, 8, 31, 12, tzinfo=UTC)),
        ("daily", 31, "monthly", DAY, datetime(2025, 7, 31, 12, tzinfo=UTC)),
        ("daily", 366, "yearly", DAY, datetime(2024, 12, 31, 12, tzinfo=UTC)),
        ("monthly", 12, "yearly", 30.4 * DAY, datetime(2025, 12, 20, tzinfo=UTC)),
    ],
)
def test_as_many_short_periods_as_lie_in_one_longer_leave_the_next_longer_one_free(
    shorter: str, number: int, longer: str, step: timedelta, start: datetime
) -> None:
    held = [backup(start - n * step) for n in range(number + 2)]
    for short, kept in ((number, number + 1), (number + 1, number + 1)):
        policy = Retention(**{shorter: short, longer: 2}, stacked=False)
        assert policy.worst_case == kept
        assert len(kept_times(policy, held, start)) == kept


# --- Whether it fits -------------------------------------------------------------------------


def fit_beside(policy: Retention, *others: Backup) -> Any:
    return policy.fit(policy.decide([backup(NOW), *others], NOW))


def pins(number: int) -> list[Backup]:
    return [backup(NOW - n * DAY, description="By hand [keep]") for n in range(number)]


def foreign(number: int) -> list[Backup]:
    return [backup(NOW - n * DAY, description="[job:db]") for n in range(number)]


@pytest.mark.parametrize(
    ("policy", "others", "needed"),
    [
        (Retention(daily=4, weekly=4), [], 9),
        (Retention(daily=4, weekly=4), pins(1), 10),
        (Retention(daily=3, weekly=3), [*pins(1), *foreign(2)], 10),
        (Retention(daily=4), [backup(NOW, description="[draft]")], 6),
        (Retention(daily=4), [backup(NOW, status="paused")], 6),
        (Retention(daily=4), [backup(NOW + DAY)], 6),
        # No place of its own, or freed when it is needed.
        (Retention(daily=4), [backup(NOW, kind="automatic")], 5),
        (Retention(daily=4), [backup(NOW, kind="automatic", description="[keep]")], 5),
        (Retention(daily=4), [backup(NOW, status="in_progress")], 5),
        (Retention(daily=4), [backup(NOW, status="failed")], 5),
        (Retention(daily=4), [backup(NOW - 9 * DAY, status="failed")], 5),
        (Retention(daily=4), [backup(NOW - n * DAY) for n in range(20)], 5),
    ],
)
def test_a_policy_needs_its_worst_case_and_one_place_beside_what_it_leaves_alone(
    policy: Retention, others: list[Backup], needed: int
) -> None:
    fit = fit_beside(policy, *others)
    assert (fit.needed, fit.fits, fit.smaller) == (needed, True, None)


def test_within_counts_with_what_it_keeps_now() -> None:
    hours = [backup(NOW - n * HOUR) for n in range(1, 20)]
    policy = Retention(within=5 * HOUR, daily=4)
    assert fit_beside(policy, *hours[:2]).needed == 3 + 4 + 1
    assert fit_beside(policy, *hours).needed == 5 + 4 + 1
    union = Retention(within=5 * HOUR, daily=4, stacked=False)
    assert fit_beside(union, *hours).needed == 5 + 3 + 1


@pytest.mark.parametrize(
    ("policy", "others", "smaller"),
    [
        (Retention(daily=7, weekly=4), [], Retention(daily=5, weekly=4)),
        (Retention(daily=4, weekly=4), pins(2), Retention(daily=3, weekly=4)),
        (Retention(daily=4, weekly=4), pins(4), Retention(daily=2, weekly=3)),
        (
            Retention(daily=4, weekly=4, monthly=4, yearly=1),
            foreign(7),
            Retention(monthly=1, yearly=1),
        ),
        (Retention(daily=10**9, weekly=2), [], Retention(daily=7, weekly=2)),
        (Retention(last=12, job="web"), [], Retention(last=8, job="web")),
        (Retention(within=9 * HOUR), pins(9), None),
        (Retention(within=9 * HOUR), pins(8), None),
        (Retention(daily=2, min_keep=9), [], Retention(daily=2, min_keep=8)),
        (
            Retention(daily=8, weekly=9, stacked=False),
            [],
            Retention(daily=5, weekly=5, stacked=False),
        ),
        (Retention(daily=2, quota=2), [], Retention(daily=1, quota=2)),
        (Retention(daily=2, quota=1), [], None),
    ],
)
def test_of_a_policy_that_does_not_fit_a_smaller_one_is_named(
    policy: Retention, others: list[Backup], smaller: Retention | None
) -> None:
    fit = fit_beside(policy, *others)
    assert fit.smaller == smaller
    if smaller:
        assert not fit.fits
        assert str(fit).endswith(f"; {smaller.rules} fits")
        assert fit_beside(smaller, *others).fits


def test_a_within_that_does_not_fit_becomes_a_number() -> None:
    hours = [backup(NOW - n * HOUR) for n in range(1, 20)]
    fit = fit_beside(Retention(within=9 * HOUR), *pins(2), *hours)
    assert fit.smaller == Retention(last=7)
    fit = fit_beside(Retention(within=9 * HOUR, daily=2), *pins(2), *hours)
    assert fit.smaller == Retention(daily=2)


def test_every_smaller_policy_fits() -> None:
    for counts, stacked, held in product(COUNTS, (True, False), range(9)):
        policy = policy_of(counts, stacked=stacked, min_keep=1 + held % 3)
        fit = fit_beside(policy, *pins(held))
        smaller = fit.smaller
        assert fit.fits == (smaller is None), fit
        if smaller:
            assert smaller.worst_case == 9 - held, fit


def test_a_fit_prints_as_a_sentence() -> None:
    assert str(fit_beside(Retention(daily=7, weekly=4), *pins(1))) == (
        "a policy of daily=7, weekly=4 does not fit into 10 places: it may keep 11, 1 are pinned, "
        "0 are not its own, and the next backup needs one; daily=4, weekly=4 fits"
    )
    assert str(fit_beside(Retention(last=1), *foreign(9))) == (
        "a policy of last=1 does not fit into 10 places: it may keep 1, 0 are pinned, 9 are "
        "not its own, and the next backup needs one; none does"
    )
    assert str(fit_beside(Retention(last=1))) == (
        "a policy of last=1 fits into 10 places: it may keep 1, 0 are pinned, 0 are not its "
        "own, and the next backup needs one"
    )
