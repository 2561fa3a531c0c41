"""Texts for people: sizes, ages, durations, moments, and server texts made safe for a terminal."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = [
    "age",
    "clock",
    "counted",
    "moment",
    "printable",
    "safe",
    "seconds_of",
    "short",
    "since",
    "size",
]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhdw]?)")


def safe(text: str) -> str:
    """The text on one line, with `?` for what is not printable: a terminal might obey it."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text, with `?` for what is not printable."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def counted(number: int, what: str) -> str:
    """A number of things: `1 request`, `2 requests`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(megabytes: int | None) -> str:
    """A size in MB as the API counts it, `-` if there is none yet."""
    return "-" if megabytes is None else f"{megabytes} MB"


def moment(when: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{when:%Y-%m-%d %H:%M}"


def age(when: datetime, now: datetime) -> str:
    """The time since then in its largest unit: `45s`, `12m`, `30h`, `12d`."""
    return short(now - when)


def short(duration: timedelta) -> str:
    """A duration in its largest unit, rounded down: `45s`, `12m`, `30h`, `12d`."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, length in (("s", 60), ("m", 3600), ("h", 172_800)):
        if seconds < length:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds // 86_400}d"


def clock(seconds: float) -> str:
    """A duration as a clock shows it: `0:07`, `12:30`, `1:02:03`."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def seconds_of(text: str) -> float | None:
    """The seconds of `90`, `90s`, `30m`, `24h`, `7d` or `2w`; None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2] or "s"] if found else None


def since(text: str, now: datetime) -> datetime:
    """The moment of an age (`24h`) or of an ISO 8601 date or time, which is UTC without a zone.

    Raises `ValueError` for anything else.
    """
    seconds = seconds_of(text) if text[-1:] in _UNITS else None
    if seconds is not None:
        return now - timedelta(seconds=min(seconds, 10**9))
    when = datetime.fromisoformat(text.strip())
    return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
