"""What each of the last days brought a server, and that as an SVG of a few bytes."""

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from enum import IntEnum
from itertools import groupby
from typing import Final

from vpsbackups_async.audit.coverage import SKEW
from vpsbackups_async.models import Backup, as_utc, ended_badly, is_good

__all__ = ["A_LINE", "CELL", "Day", "days_of", "drawn", "in_words"]

CELL: Final = 12
"""Width and height of a day in pixels."""
A_LINE: Final = 30
"""Days in a line; as many as a screen of 400 pixels shows."""


class Day(IntEnum):
    """What a day (UTC) brought; the highest counts where it brought several."""

    NONE = 0
    FAILED = 1
    RUNNING = 2
    GOOD = 3

    @property
    def word(self) -> str:
        """The word for people."""
        return self.name.lower()


def days_of(backups: Iterable[Backup], at: datetime, count: int) -> list[Day]:
    """What each of the last `count` days brought, the oldest first, by backups that are kept."""
    first = first_day(at, count)
    found = [Day.NONE] * count
    for backup in backups:
        made = as_utc(backup.created_at)
        place = (made.date() - first).days
        if made - at > SKEW or not 0 <= place < count:
            continue
        found[place] = max(found[place], _brought(backup))
    return found


def first_day(at: datetime, count: int) -> date:
    """The oldest of the last `count` days."""
    return as_utc(at).date() - timedelta(days=count - 1)


def _brought(backup: Backup) -> Day:
    if is_good(backup):
        return Day.GOOD
    return Day.FAILED if ended_badly(backup) else Day.RUNNING


def drawn(days: Sequence[Day]) -> str:
    """An SVG that shows the days in lines of 30, with their counts as its text for screen readers.

    The days that brought the same are one path of lines, drawn with a pattern of marks that the
    page defines: an element for each day would make the page of 5,000 servers too large.
    """
    lines: dict[Day, str] = {}
    for first in range(0, len(days), A_LINE):
        x, y = 0, CELL * (first // A_LINE) + CELL // 2
        for day, same in groupby(days[first : first + A_LINE]):
            width = CELL * len(list(same))
            lines[day] = f"{lines.get(day, '')}M{x} {y}h{width}"
            x += width
    paths = "".join(f'<path class="{day.word}" d="{line}"/>' for day, line in lines.items())
    return f'<svg role="img" aria-label="{in_words(days)}">{paths}</svg>'


def in_words(days: Sequence[Day]) -> str:
    """The counts of the days, such as `27 good, 1 failed, 2 none`."""
    counts = {day: days.count(day) for day in (Day.GOOD, Day.FAILED, Day.RUNNING, Day.NONE)}
    return ", ".join(f"{count} {day.word}" for day, count in counts.items() if count)
