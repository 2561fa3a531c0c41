"""Periods of local time, from hours to years, and how many of one kind fit into another."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from types import MappingProxyType
from typing import Final

__all__ = ["PERIODS", "least_reached", "local", "zone_of"]


def _hour(at: datetime) -> str:
    return f"{at.date()} {at.hour:02}h"


def _day(at: datetime) -> str:
    return f"{at.date()}"


def _week(at: datetime) -> str:
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02}"


def _month(at: datetime) -> str:
    return f"{at.year}-{at.month:02}"


def _year(at: datetime) -> str:
    return f"{at.year}"


PERIODS: Final[Mapping[str, Callable[[datetime], str]]] = MappingProxyType(
    {"hourly": _hour, "daily": _day, "weekly": _week, "monthly": _month, "yearly": _year}
)
"""The name of the period of a local time, for each rule, from the shortest period to the longest.

Where clocks are put back, the hour that comes twice has one name. Weeks are those of ISO 8601.
"""

_AT_MOST: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType({
    "hourly": {},
    "daily": {"hourly": 24},
    "weekly": {"hourly": 7 * 24, "daily": 7},
    "monthly": {"hourly": 31 * 24, "daily": 31},
    "yearly": {"hourly": 366 * 24, "daily": 366, "monthly": 12},
})  # fmt: skip
"""The shorter periods that lie in one longer one. A week may lie in two months, and two years."""


def least_reached(rule: str, counts: Mapping[str, int]) -> int:
    """How many periods of a rule so many shorter ones reach into at the least; one has the newest.

    `counts` has the number of periods for each rule.
    """
    parts = _AT_MOST[rule]
    return max([1, *(-(-counts.get(shorter, 0) // most) for shorter, most in parts.items())])


def zone_of(name: object) -> tzinfo:
    """The time zone of this name; raises `ValueError` if there is none."""
    if name == "UTC":
        return UTC  # also where the system has no time zones
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415  # slow, and rarely needed

    try:
        return ZoneInfo(name)  # type: ignore[arg-type]  # a TypeError tells
    except (ZoneInfoNotFoundError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"tz must name a time zone, such as 'Europe/Berlin', not {name!r}"
        ) from error


def local(at: datetime, zone: tzinfo) -> datetime:
    """The local time; the time as it is if it lies at the end of what a datetime can be."""
    try:
        return at.astimezone(zone)
    except OverflowError:
        return at
