"""What holds for every policy and history, and for 800 nights on ten places."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from helpers_retention import backup
from hypothesis import given
from hypothesis import strategies as st

from vpsbackups_async import Backup, Retention
from vpsbackups_async.retention import Reason

DAY = timedelta(days=1)
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
COUNTED = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]
TEXTS = ["", "Nightly", "[keep]", "[keep:2026-11-01]", "[keep:2027-11-01]", "[job:web]", "[job:we"]

# --- Every history -----------------------------------------------------------------------------

AGES = st.one_of(
    st.integers(-60, 60 * 24 * 3).map(lambda minutes: timedelta(minutes=minutes)),
    st.integers(0, 1200).map(lambda days: timedelta(days=days)),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Backup]:
    """Up to 25 backups of one server, most of them completed and without a label."""
    some = st.lists(
        st.tuples(
            AGES,
            st.sampled_from(["completed"] * 6 + ["failed", "in_progress", "paused"]),
            st.sampled_from(["manual"] * 6 + ["automatic"]),
            st.sampled_from([""] * 6 + TEXTS),
        ),
        max_size=25,
    )
    return [
        backup(NOW - age, status=status, kind=kind, description=text)
        for age, status, kind, text in draw(some)
    ]


@st.composite
def policies(draw: st.DrawFn, **fixed: Any) -> Retention:
    counts = {rule: draw(st.integers(0, 4)) for rule in COUNTED}
    within = draw(st.none() | st.integers(1, 100).map(lambda hours: timedelta(hours=hours)))
    if not any(counts.values()) and fixed.get("within", within) is None:
        counts["daily"] = 1
    options: dict[str, Any] = {
        "within": within,
        "tz": draw(st.sampled_from(ZONES)),
        "stacked": draw(st.booleans()),
        "job": draw(st.sampled_from([None, None, "web"])),
        "min_keep": draw(st.integers(1, 3)),
    }
    return Retention(**counts, **(options | fixed))


def deleted(policy: Retention, backups: Sequence[Backup]) -> set[int]:
    return {one.backup.id for one in policy.decide(backups, NOW) if not one.kept}


@given(policies(), histories())
def test_pruning_twice_is_pruning_once(policy: Retention, held: list[Backup]) -> None:
    gone = deleted(policy, held)
    left = [one for one in held if one.id not in gone]
    before = [one for one in policy.decide(held, NOW) if one.kept]
    assert list(policy.decide(left, NOW)) == before


@given(policies(), histories(), st.sampled_from([*COUNTED, "within", "min_keep"]))
def test_a_rule_that_is_added_or_grows_deletes_no_more(
    policy: Retention, held: list[Backup], rule: str
) -> None:
    if rule == "within":
        value: Any = 2 * policy.within if policy.within else 3 * DAY
    else:
        value = getattr(policy, rule) + 2
    assert deleted(evolve(policy, **{rule: value}), held) <= deleted(policy, held)


@given(policies(), histories())
def test_the_newest_completed_backup_is_never_deleted(
    policy: Retention, held: list[Backup]
) -> None:
    gone = deleted(policy, held)
    completed = [one for one in held if one.is_completed]
    if completed:
        assert max(completed, key=lambda one: (one.created_at, one.id)).id not in gone
        left = [one for one in completed if one.id not in gone]
        assert len(left) >= min(policy.min_keep, len(completed))


@given(policies(), histories())
def test_what_is_deleted_is_manual_unpinned_of_the_same_job_and_ended(
    policy: Retention, held: list[Backup]
) -> None:
    gone = deleted(policy, held)
    for one in held:
        if one.id in gone:
            assert one.is_manual
            assert one.is_completed or one.is_failed
            assert one.created_at <= NOW + timedelta(minutes=10)
            allowed = {"[job:web]"} if policy.job else {"", "Nightly", "[keep:2026-11-01]"}
            assert one.description in allowed


@given(policies(), histories())
def test_every_backup_has_one_decision_with_a_reason_that_fits(
    policy: Retention, held: list[Backup]
) -> None:
    decisions = policy.decide(held, NOW)
    assert sorted(one.backup.id for one in decisions) == sorted(one.id for one in held)
    for one in decisions:
        assert (one.reason is Reason.RULE) == bool(one.rules)
        assert len(one.rules) <= 1 or not policy.stacked


@given(policies(within=None), histories())
def test_no_history_goes_beyond_the_worst_case(policy: Retention, held: list[Backup]) -> None:
    decisions = policy.decide(held, NOW)
    by_policy = [one for one in decisions if one.reason in {Reason.RULE, Reason.MIN_KEEP}]
    assert policy.worst_case is not None
    assert len(by_policy) <= policy.worst_case


@given(policies(), histories())
def test_the_order_in_which_backups_are_given_changes_nothing(
    policy: Retention, held: list[Backup]
) -> None:
    assert policy.decide(held, NOW) == policy.decide(held[::-1], NOW)


# --- 800 nights --------------------------------------------------------------------------------


class Server:
    """A server with ten places, on which a nightly job makes a backup and then prunes.

    A night that finds all places taken first deletes a failed backup of the job, and nothing else.
    """

    def __init__(self, policy: Retention, *by_hand: str, seed: int) -> None:
        self.policy = policy
        self.draw = random.Random(seed)
        self.start = datetime(2026, 1, 1, 1, 30, tzinfo=UTC)
        self.by_hand = [backup(self.start - DAY, description=text) for text in by_hand]
        self.held = list(self.by_hand)
        self.without_room: list[int] = []
        self.unnamed: list[Backup] = []
        self.reach: list[int] = []

    def run(self, nights: int) -> None:
        for night in range(nights):
            now = self.start + night * DAY + timedelta(minutes=self.draw.randrange(90))
            self.make_room(now)
            if len(self.held) >= self.policy.quota:
                self.without_room.append(night)
                continue
            failed = self.draw.random() < 0.02
            status = "failed" if failed else "completed"
            made = backup(now, status=status, description=f"Nightly [job:{self.policy.job}]")
            self.held.append(made)
            if not failed:
                self.prune(now + timedelta(minutes=5))
                self.reach.append((now.date() - self.own()[0].created_at.date()).days)

    def own(self) -> list[Backup]:
        return [one for one in self.held if one.description.endswith(f"[job:{self.policy.job}]")]

    def make_room(self, now: datetime) -> None:
        failed = [one for one in self.own() if one.is_failed]
        if failed and len(self.held) >= self.policy.quota:
            self.held.remove(min(failed, key=lambda one: one.created_at))

    def prune(self, now: datetime) -> None:
        decisions = self.policy.decide(self.held, now)
        assert self.policy.fit(decisions).fits
        self.unnamed += [
            one.backup
            for one in decisions
            if not one.kept and (one.backup not in self.own() or one.backup == self.held[-1])
        ]
        self.held = [one.backup for one in decisions if one.kept]
        self.held.sort(key=lambda one: (one.created_at, one.id))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("counts", "by_hand", "days"),
    [
        ({"daily": 4, "weekly": 4}, ["Before the move [keep]"], 24),
        ({"daily": 3, "weekly": 3}, ["Before the move [keep]", "By hand", "Mine [draft]"], 17),
    ],
)
def test_800_nights_reach_back_and_no_night_lacks_a_place(
    counts: dict[str, int], by_hand: list[str], days: int, zone: str, seed: int
) -> None:
    policy = Retention(**counts, job="nightly", tz=zone)
    server = Server(policy, *by_hand, seed=seed)
    server.run(800)
    assert server.without_room == []
    assert server.unnamed == []
    assert min(server.reach[days + 10 :]) >= days
    assert server.held[: len(by_hand)] == server.by_hand
    assert len(server.held) < policy.quota


def test_a_failed_night_keeps_no_good_backup_from_its_place() -> None:
    """After it all ten places are taken; the failed backup makes room for the next one."""
    server = Server(Retention(daily=4, weekly=4, job="nightly"), "[keep]", seed=0)
    server.run(60)
    failed = backup(server.start + 60 * DAY, status="failed", description="[job:nightly]")
    good = len(server.own())
    server.held.append(failed)
    assert len(server.held) == 10
    server.make_room(server.start + 61 * DAY)
    assert failed not in server.held
    assert len(server.own()) == good
