"""Random histories and policies on which other people's pruning is compared with ours."""

import random
import shutil
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest
from helpers_retention import NOW, backup

from vpsbackups_async import Retention

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")

CHANGES = {
    "UTC": datetime(2025, 1, 1, tzinfo=UTC),
    "Asia/Kolkata": datetime(2023, 12, 31, 18, 30, tzinfo=UTC),
    "America/New_York": datetime(2025, 3, 9, 7, tzinfo=UTC),
    "Pacific/Auckland": datetime(2025, 9, 27, 14, tzinfo=UTC),
    "Europe/Berlin": datetime(2025, 10, 26, 1, tzinfo=UTC),
    "Australia/Lord_Howe": datetime(2025, 4, 5, 15, tzinfo=UTC),
}
"""For each zone when a year ends (in the first two), clocks are put forward (in two) or back."""


def program(name: str) -> str:
    """The path of a program; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def times(draw: random.Random, zone: str) -> list[datetime]:
    """The times of up to 24 backups, each another whole minute."""
    change = CHANGES[zone]
    number = draw.randrange(1, 25)

    def minutes(most: int) -> timedelta:
        return draw.randrange(-most, most) * timedelta(minutes=1)

    kinds_of = {
        "hours": lambda: change + minutes(180),
        "nights": lambda: change - draw.randrange(40) * DAY + minutes(150),
        "years": lambda: change - 3 * 365 * DAY + minutes(3 * 365 * 24 * 60),
    }
    kinds = draw.choice([["hours"], ["nights"], ["years"], [*kinds_of]])
    return sorted({kinds_of[draw.choice(kinds)]() for _ in range(number)})


def counts(draw: random.Random) -> dict[str, int]:
    """Numbers for some of the rules, at least one of them above 0."""
    given = {rule: draw.randrange(1, 6) for rule in RULES if draw.random() < 0.4}
    return given or {draw.choice(RULES): draw.randrange(1, 6)}


def rules_of(policy: Retention, made: Iterable[datetime]) -> dict[datetime, set[str]]:
    """For each time the rules by which our policy keeps the backup; none where it does not."""
    decisions = policy.decide(map(backup, made), NOW)
    return {one.backup.created_at: {rule.split()[0] for rule in one.rules} for one in decisions}
