"""Which backups a policy keeps and why: rules, periods, labels and guards."""

import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve
from helpers_retention import NOW, backup, kept_times, why

from vpsbackups_async import BackupStatus, Retention
from vpsbackups_async.retention import Reason

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)

# --- Rules and periods -----------------------------------------------------------------------


def test_last_keeps_the_newest() -> None:
    backups = [backup(NOW - n * HOUR) for n in (3, 1, 2)]
    assert why(Retention(last=2), *backups) == ["delete: NO_RULE", "keep: last", "keep: last"]


def test_each_period_keeps_its_newest_backup() -> None:
    held = [backup(f"2026-11-{day:02} {hour}:00") for day in (27, 28) for hour in ("06", "18")]
    assert why(Retention(daily=5), *held) == [
        "delete: NO_RULE",
        "keep: daily 2026-11-27",
        "delete: NO_RULE",
        "keep: daily 2026-11-28",
    ]


def test_only_periods_with_a_backup_count() -> None:
    held = [backup(f"{year}-06-01") for year in (2019, 2021, 2022, 2026)]
    assert kept_times(Retention(yearly=3), held) == [
        "2026-06-01 00:00",
        "2022-06-01 00:00",
        "2021-06-01 00:00",
    ]


@pytest.mark.parametrize(
    ("rule", "first", "second", "name"),
    [
        ("hourly", "2026-11-28 06:00", "2026-11-28 06:59", "2026-11-28 06h"),
        ("daily", "2026-11-28 00:00", "2026-11-28 23:59", "2026-11-28"),
        ("weekly", "2026-11-16 00:00", "2026-11-22 23:59", "2026-W47"),
        ("weekly", "2024-12-30 00:00", "2025-01-05 23:59", "2025-W01"),
        ("weekly", "2020-12-28 00:00", "2021-01-03 23:59", "2020-W53"),
        ("monthly", "2026-02-01 00:00", "2026-02-28 23:59", "2026-02"),
        ("yearly", "2025-01-01 00:00", "2025-12-31 23:59", "2025"),
    ],
)
def test_a_period_is_one_of_the_calendar(rule: str, first: str, second: str, name: str) -> None:
    policy = Retention(**{rule: 9})
    early, late = backup(first), backup(second)
    before = backup(early.created_at - MINUTE)
    after = backup(late.created_at + MINUTE)
    said = why(policy, before, early, late, after)
    assert said[1:3] == ["delete: NO_RULE", f"keep: {rule} {name}"]
    assert said[0].startswith("keep")
    assert said[3].startswith("keep")


def test_within_counts_from_the_newest_backup_so_that_old_ones_outlast_a_pause() -> None:
    held = [backup(NOW - timedelta(days=300 + days)) for days in (0, 1, 2, 3)]
    assert why(Retention(within=2 * DAY), *held) == [
        "keep: within 2 days, 0:00:00",
        "keep: within 2 days, 0:00:00",
        "delete: NO_RULE",
        "delete: NO_RULE",
    ]


def test_a_stacked_rule_passes_over_what_another_keeps() -> None:
    nights = [backup(NOW - n * DAY) for n in range(60)]
    kept = [one for one in Retention(daily=4, weekly=4).decide(nights, NOW) if one.kept]
    assert [", ".join(one.rules) for one in kept] == [
        "daily 2026-11-29",
        "daily 2026-11-28",
        "daily 2026-11-27",
        "daily 2026-11-26",
        "weekly 2026-W47",
        "weekly 2026-W46",
        "weekly 2026-W45",
        "weekly 2026-W44",
    ]


def test_rules_that_are_not_stacked_may_keep_the_same_backup() -> None:
    nights = [backup(NOW - n * DAY) for n in range(60)]
    policy = Retention(daily=2, weekly=2, stacked=False)
    kept = [one for one in policy.decide(nights, NOW) if one.kept]
    assert [", ".join(one.rules) for one in kept] == [
        "daily 2026-11-29, weekly 2026-W48",
        "daily 2026-11-28",
        "weekly 2026-W47",
    ]


def test_periods_are_those_of_the_policys_zone() -> None:
    evening, night = backup("2026-11-27 12:00"), backup("2026-11-27 20:00")
    assert why(Retention(daily=2), evening, night)[0] == "delete: NO_RULE"
    assert why(Retention(daily=2, tz="Asia/Shanghai"), evening, night) == [
        "keep: daily 2026-11-27",
        "keep: daily 2026-11-28",
    ]


def test_the_night_without_an_hour_has_its_other_hours() -> None:
    held = [backup(f"2026-03-29 0{hour}:30") for hour in range(4)]
    assert why(Retention(hourly=9, daily=9, tz="Europe/Berlin", stacked=False), *held) == [
        "keep: hourly 2026-03-29 01h",
        "keep: hourly 2026-03-29 03h",
        "keep: hourly 2026-03-29 04h",
        "keep: hourly 2026-03-29 05h, daily 2026-03-29",
    ]


def test_the_hour_that_comes_twice_is_one_hour_and_its_night_one_day() -> None:
    held = [backup(f"2026-10-{at}:30") for at in ("24 23", "25 00", "25 01", "25 02", "25 22")]
    assert why(Retention(hourly=9, daily=9, tz="Europe/Berlin", stacked=False), *held) == [
        "keep: hourly 2026-10-25 01h",
        "delete: NO_RULE",
        "keep: hourly 2026-10-25 02h",
        "keep: hourly 2026-10-25 03h",
        "keep: hourly 2026-10-25 23h, daily 2026-10-25",
    ]


def test_of_backups_of_one_moment_the_higher_id_is_the_newer() -> None:
    first, second = backup(NOW, id=5), backup(NOW, id=6)
    assert why(Retention(last=1), second, first) == ["keep: last", "delete: NO_RULE"]


def test_a_time_at_the_end_of_the_calendar_has_a_period() -> None:
    held = [backup("0001-01-01 00:00"), backup(NOW)]
    policy = Retention(yearly=2, tz="America/New_York")
    assert why(policy, *held) == ["keep: yearly 1", "keep: yearly 2026"]


def test_a_naive_creation_time_is_in_utc() -> None:
    naive = backup(NOW.replace(tzinfo=None) - HOUR)
    assert why(Retention(last=1), naive, backup(NOW - 2 * HOUR)) == [
        "keep: last",
        "delete: NO_RULE",
    ]


# --- What is left alone ----------------------------------------------------------------------

OLD = NOW - 400 * DAY


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, Reason.NO_RULE),
        ({"kind": "automatic"}, Reason.NOT_MANUAL),
        ({"kind": "imported"}, Reason.NOT_MANUAL),
        ({"kind": "automatic", "description": "[keep]"}, Reason.NOT_MANUAL),
        ({"description": "[keep]"}, Reason.PINNED),
        ({"description": "Nightly [keep:2026-11-29]"}, Reason.PINNED),
        ({"description": "Nightly [keep:2026-11-28]"}, Reason.NO_RULE),
        ({"description": "Nightly [keep:soon"}, Reason.PINNED),
        ({"description": "Nightly [job:web] [keep]"}, Reason.PINNED),
        ({"description": "Nightly [job:web]"}, Reason.OTHER_JOB),
        ({"description": "Nightly [draft]"}, Reason.UNREADABLE_LABEL),
        ({"description": "Nightly [job:we"}, Reason.UNREADABLE_LABEL),
        ({"status": "in_progress"}, Reason.RUNNING),
        ({"status": "IN_PROGRESS"}, Reason.RUNNING),
        ({"status": "paused"}, Reason.UNKNOWN_STATUS),
        ({"status": "failed"}, Reason.FAILED),
        ({"status": "Error"}, Reason.FAILED),
        ({"status": "failed", "description": "[keep]"}, Reason.PINNED),
        ({"status": "failed", "description": "[job:web]"}, Reason.OTHER_JOB),
        ({"status": "failed", "kind": "automatic"}, Reason.NOT_MANUAL),
        ({"status": "COMPLETED"}, Reason.NO_RULE),
    ],
)
def test_only_what_is_the_policys_own_completed_or_failed_is_deleted(
    changes: dict[str, Any], reason: Reason
) -> None:
    old = backup(OLD, **changes)
    decided = {one.backup: one for one in Retention(last=1).decide([old, backup(NOW)], NOW)}
    assert decided[old].reason is reason
    assert decided[old].kept is (reason not in {Reason.NO_RULE, Reason.FAILED})


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "automatic"},
        {"description": "[keep]"},
        {"description": "[job:web]"},
        {"description": "[draft]"},
        {"status": "in_progress"},
        {"status": "paused"},
        {"status": "failed"},
        {"size_mb": 0},
    ],
)
def test_what_is_left_alone_fills_no_place_of_a_rule(changes: dict[str, Any]) -> None:
    said = why(Retention(last=1), backup(NOW, **changes), backup(OLD), backup(OLD - DAY))
    assert said[1:] == ["keep: last", "delete: NO_RULE"]


def test_a_policy_of_a_job_is_for_the_backups_with_its_label_in_any_case() -> None:
    texts = ["A [job:web]", "[JOB:WEB] [vb:1]", "Nightly", "[job:db]", "[job:web", "[job:webs]"]
    held = [backup(OLD, description=text) for text in texts]
    newest = backup(NOW, description="[job:web]")
    said = why(Retention(last=1, job="Web"), *held, newest)
    assert said == [
        "delete: NO_RULE",
        "delete: NO_RULE",
        "keep: OTHER_JOB",
        "keep: OTHER_JOB",
        "keep: UNREADABLE_LABEL",
        "keep: OTHER_JOB",
        "keep: last",
    ]


def test_a_label_that_no_backup_has_deletes_nothing() -> None:
    held = [backup(OLD), backup(NOW), backup(OLD, status="failed")]
    assert all(one.kept for one in Retention(last=1, job="wbe").decide(held, NOW))


def test_the_day_of_a_pin_ends_in_the_policys_zone() -> None:
    held = backup(OLD, description="[keep:2026-11-28]")
    late = datetime(2026, 11, 29, 3, tzinfo=UTC)
    assert why(Retention(last=1), held, backup(OLD + DAY), now=late)[0] == "delete: NO_RULE"
    west = Retention(last=1, tz="America/New_York")
    assert why(west, held, backup(OLD + DAY), now=late)[0] == "keep: PINNED"


def test_a_backup_from_the_future_is_kept_and_fills_no_place() -> None:
    held = [backup(NOW + 11 * MINUTE), backup(NOW), backup(OLD)]
    assert why(Retention(last=1), *held) == [
        "keep: FROM_THE_FUTURE",
        "keep: last",
        "delete: NO_RULE",
    ]


def test_clocks_may_differ_by_ten_minutes() -> None:
    held = [backup(NOW + 10 * MINUTE), backup(NOW)]
    assert why(Retention(last=1), *held) == ["keep: last", "delete: NO_RULE"]


def test_now_may_be_in_any_zone() -> None:
    east = NOW.astimezone(timezone(14 * HOUR))
    held = [backup(NOW + HOUR), backup(NOW - HOUR), backup(OLD)]
    assert why(Retention(last=1), *held, now=east) == why(Retention(last=1), *held)


@pytest.mark.parametrize(
    ("age", "newer", "reason"),
    [
        (2 * DAY + MINUTE, "completed", Reason.FAILED),
        (2 * DAY, "completed", Reason.FAILED_LATELY),
        (2 * DAY + MINUTE, "failed", Reason.FAILED_NEWEST),
        (2 * DAY + MINUTE, "in_progress", Reason.FAILED_NEWEST),
        (2 * DAY + MINUTE, "paused", Reason.FAILED_NEWEST),
        (400 * DAY, "failed", Reason.FAILED_NEWEST),
    ],
)
def test_a_failed_backup_goes_once_it_is_old_and_a_newer_one_completed(
    age: timedelta, newer: str, reason: Reason
) -> None:
    failed = backup(NOW - age, status="failed")
    held = [failed, backup(NOW - HOUR, status=newer), backup(NOW - 500 * DAY)]
    decided = {one.backup: one.reason for one in Retention(last=9).decide(held, NOW)}
    assert decided[failed] is reason


@pytest.mark.parametrize("changes", [{"description": "[job:web]"}, {"kind": "automatic"}])
def test_the_newer_completed_one_is_of_the_same_job(changes: dict[str, Any]) -> None:
    failed = backup(OLD, status="failed")
    assert why(Retention(last=1), failed, backup(NOW, **changes))[0] == "keep: FAILED_NEWEST"


def test_a_completed_backup_from_the_future_condemns_no_failed_one() -> None:
    failed = backup(OLD, status="failed")
    assert why(Retention(last=1), failed, backup(NOW + DAY))[0] == "keep: FAILED_NEWEST"


@pytest.mark.parametrize(
    ("age", "newer", "reason"),
    [
        (2 * DAY + MINUTE, 1, Reason.FAILED),
        (2 * DAY + MINUTE, None, Reason.FAILED),
        (2 * DAY, 1, Reason.FAILED_LATELY),
        (2 * DAY + MINUTE, 0, Reason.FAILED_NEWEST),
    ],
)
def test_a_completed_backup_of_0_mb_goes_as_a_failed_one_does(
    age: timedelta, newer: int | None, reason: Reason
) -> None:
    empty = backup(NOW - age, size_mb=0)
    held = [empty, backup(NOW - HOUR, size_mb=newer), backup(NOW - 500 * DAY, size_mb=1)]
    decided = {one.backup: one.reason for one in Retention(last=9).decide(held, NOW)}
    assert decided[empty] is reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"description": "[keep]"}, "keep: PINNED"),
        ({"description": "[job:web]"}, "keep: OTHER_JOB"),
        ({"kind": "automatic"}, "keep: NOT_MANUAL"),
        ({"status": "in_progress"}, "keep: RUNNING"),
    ],
)
def test_a_backup_of_0_mb_that_is_not_the_policys_own_or_not_completed_stays(
    changes: dict[str, Any], said: str
) -> None:
    empty = backup(OLD, size_mb=0, **changes)
    assert why(Retention(last=1), empty, backup(NOW))[0] == said


def test_failed_after_may_be_nothing() -> None:
    failed = backup(NOW - HOUR, status="failed")
    policy = Retention(last=1, failed_after=timedelta(0))
    assert why(policy, failed, backup(NOW))[0] == "delete: FAILED"


def test_the_newest_ones_stay_by_min_keep_whatever_the_rules_say() -> None:
    held = [backup(OLD - n * HOUR) for n in range(5)]
    assert why(Retention(yearly=1, min_keep=3), *held) == [
        "keep: yearly 2025",
        "keep: MIN_KEEP",
        "keep: MIN_KEEP",
        "delete: NO_RULE",
        "delete: NO_RULE",
    ]


# --- What is decided ---------------------------------------------------------------------------


def test_decisions_come_newest_first_and_print_as_one_line() -> None:
    held = [backup("2026-11-27 10:00", id=1), backup("2026-11-28 22:30", id=2)]
    decisions = Retention(daily=1).decide(iter(held), NOW)
    assert [str(one) for one in decisions] == [
        "keep 2 of 2026-11-28 22:30: daily 2026-11-28",
        "delete 1 of 2026-11-27 10:00: no rule",
    ]
    assert pickle.loads(pickle.dumps(decisions)) == decisions


def test_no_backups_are_no_decisions() -> None:
    assert Retention(last=1).decide([], NOW) == ()


def test_backups_of_several_servers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one server at a time, not those of \[1, 2\]"):
        Retention(last=1).decide([backup(NOW), backup(NOW, server=2)], NOW)


def test_a_backup_that_comes_twice_is_refused_for_one_might_be_deleted() -> None:
    one = backup(NOW, id=7)
    with pytest.raises(ValueError, match=r"each backup once, unlike \[7\]"):
        Retention(last=1).decide([one, evolve(one, status=BackupStatus.FAILED)], NOW)


def test_a_now_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="now must have a time zone"):
        Retention(last=1).decide([], NOW.replace(tzinfo=None))


# --- Policies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "keeps nothing"),
        ({"min_keep": 3}, "keeps nothing"),
        ({"daily": 0, "weekly": 0}, "keeps nothing"),
        ({"daily": -1}, "daily must be an int of at least 0, not -1"),
        ({"last": True}, "last must be an int"),
        ({"weekly": 1.5}, "weekly must be an int"),
        ({"within": 3}, "within must be a timedelta of more than zero, not 3"),
        ({"within": timedelta(0)}, "within must be a timedelta of more than zero"),
        ({"last": 1, "tz": "Mars"}, "tz must name a time zone, such as 'Europe/Berlin'"),
        ({"last": 1, "tz": ""}, "tz must name a time zone"),
        ({"last": 1, "tz": "Europe"}, "tz must name a time zone"),
        ({"last": 1, "tz": "../../etc/passwd"}, "tz must name a time zone"),
        ({"last": 1, "tz": None}, "tz must name a time zone"),
        ({"last": 1, "tz": "x" * 5000}, "tz must name a time zone"),
        ({"last": 1, "stacked": "no"}, "stacked must be True or False"),
        ({"last": 1, "job": "a b"}, "job must be a text of 1 to 64 letters"),
        ({"last": 1, "job": ""}, "job must be a text of 1 to 64 letters"),
        ({"last": 1, "min_keep": 0}, "min_keep must be a positive int"),
        ({"last": 1, "failed_after": -DAY}, "failed_after must be a timedelta of zero or more"),
        ({"last": 1, "failed_after": 2}, "failed_after must be a timedelta of zero or more"),
        ({"last": 1, "quota": 0}, "quota must be a positive int"),
    ],
)
def test_a_policy_that_cannot_work_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Retention(**options)


def test_a_policy_shows_what_differs_from_the_defaults() -> None:
    policy = Retention(daily=4, weekly=4, job="nightly", within=DAY)
    text = "Retention(daily=4, weekly=4, within=datetime.timedelta(days=1), job='nightly')"
    assert repr(policy) == text


def test_policies_are_equal_by_value_and_immutable() -> None:
    policy = Retention(daily=4, tz="Europe/Berlin")
    assert policy == Retention(daily=4, tz="Europe/Berlin") == pickle.loads(pickle.dumps(policy))
    assert len({policy, Retention(daily=4, tz="Europe/Berlin")}) == 1
    with pytest.raises(AttributeError):
        policy.daily = 5  # type: ignore[misc]
