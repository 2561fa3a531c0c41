"""Backups as rows: a table for a terminal, plain lines, JSON, NDJSON and CSV; all of them streamed.

Each writer gets the backups a page at a time and keeps none of them.
"""

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vpsbackups_async._wire import to_json
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import age, moment, safe, size
from vpsbackups_async.models import Backup

__all__ = ["Form", "Writer", "json_line", "open_writer"]

Form = Literal["table", "json", "ndjson", "csv"]

_COLUMNS: Final = (
    "id", "server_id", "server_name", "backup_type", "status", "size_mb", "created_at",
    "expires_at", "description",
)  # fmt: skip
_STYLES: Final = {"in_progress": "yellow", "completed": "green"}
_WIDE: Final = 100
"""So many columns leave room for the moment of creation in full, and not only the age."""
_LEAST_DESCRIPTION: Final = 8


class Writer(ABC):
    """Puts backups on standard output."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @abstractmethod
    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups, one at least."""

    def end(self) -> None:  # noqa: B027  # most forms have no end of their own
        """All were written."""


def open_writer(form: Form, screen: Screen) -> Writer:
    """The writer for this form; a table becomes plain lines where nobody looks at it."""
    if form == "json":
        return _Json(screen)
    if form == "ndjson":
        return _Ndjson(screen)
    if form == "csv":
        return _Csv(screen)
    return Table(screen) if screen.out.is_terminal else _Lines(screen)


class Table(Writer):
    """Aligned columns, as wide as the first page needs them; what is longer later is cut.

    With `asking` it is part of a question, and no result.
    """

    def __init__(self, screen: Screen, *, asking: bool = False) -> None:
        super().__init__(screen)
        self._console = screen.err if asking else screen.out
        self._widths: list[int] = []
        self._wide = self._console.width >= _WIDE

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups, one at least, below the header."""
        now = datetime.now(UTC)
        cells = [self._cells(backup, now) for backup in backups]
        lines = []
        if not self._widths:
            header = ["ID", "SERVER", "NAME", "TYPE", "STATUS", "SIZE"]
            header += ["CREATED (UTC)" if self._wide else "AGE", "DESCRIPTION"]
            self._widths = self._fit([header, *cells])
            lines.append(self._line(header, "bold"))
        for backup, row in zip(backups, cells, strict=True):
            style = "red" if backup.is_failed else _STYLES.get(str(backup.status), "")
            lines.append(self._line(row, "", style))
        self._screen.table(lines, self._console)

    def _cells(self, backup: Backup, now: datetime) -> list[str]:
        created = backup.created_at
        return [
            str(backup.id),
            str(backup.server.id),
            safe(backup.server.name),
            "auto" if backup.backup_type == "automatic" else safe(backup.backup_type),
            safe(backup.status),
            size(backup.size_mb),
            moment(created) if self._wide else age(created, now),
            safe(backup.description),
        ]

    def _fit(self, table: list[list[str]]) -> list[int]:
        widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
        # What comes later may be of the other type, older, and has a size once it is completed.
        for place, least in ((3, 6), (5, 8), (6, 4)):
            widths[place] = max(widths[place], least)
        widths[4] = max(11, min(widths[4], 14))
        spare = self._console.width - (sum(widths[:-1]) + 2 * (len(widths) - 1))
        if spare < _LEAST_DESCRIPTION and widths[2] > 12:
            cut = min(widths[2] - 12, _LEAST_DESCRIPTION - spare)
            widths[2] -= cut
            spare += cut
        widths[-1] = spare if spare >= _LEAST_DESCRIPTION else 0
        return widths

    def _line(self, cells: list[str], style: str, status: str = "") -> Text:
        line = Text(style=style)
        for place, (text, width) in enumerate(zip(cells, self._widths, strict=True)):
            # An id is never cut: it would be another one.
            fitted = text if place < 2 else _cut(text, width)
            gap = " " * (width - cell_len(fitted))
            line.append("  " if place else "")
            number = place in {0, 1, 5}
            line.append(gap + fitted if number else fitted, status if place == 4 else "")
            if not number and place < len(cells) - 1:
                line.append(gap)
        line.rstrip()
        return line


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width else ""


class _Lines(Writer):
    """One line a backup: ref, type, status, MB and moment as one word each, name, description."""

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._screen.result("\n".join(map(_plain, backups)))


def _plain(backup: Backup) -> str:
    status = safe(backup.status).replace(" ", "_") or "-"
    megabytes = "-" if backup.size_mb is None else backup.size_mb
    return (
        f"{written(backup.ref):<14} {backup.backup_type:<9} {status:<11} {megabytes:>7} "
        f"{backup.created_at:%Y-%m-%dT%H:%M:%SZ}  {safe(backup.server.name):<16}  "
        f"{safe(backup.description)}"
    ).rstrip()


def json_line(backup: Backup) -> bytes:
    """The backup in the API's own form; what a terminal might obey is escaped, as JSON allows."""
    line = to_json(backup)
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode("utf-8", "surrogatepass")
    return "".join(c if c.isprintable() else _escaped(c) for c in text).encode()


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


class _Ndjson(Writer):
    """One JSON object a line."""

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._screen.raw(b"\n".join(map(json_line, backups)) + b"\n")


class _Json(Writer):
    """One array. It is closed at the end only: what was broken off is not taken for a whole."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._before = b"[\n"

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._screen.raw(self._before + b",\n".join(map(json_line, backups)))
        self._before = b",\n"

    def end(self) -> None:
        """Close the array."""
        self._screen.raw(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class _Csv(Writer):
    """Comma-separated values with a header; texts as they are, unless a terminal gets them."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow(_COLUMNS)
        self._kept = safe if screen.out.is_terminal else str

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._csv.writerows(map(self._fields, backups))
        self.end()

    def end(self) -> None:
        """Write what is not written, the header of an empty list."""
        self._screen.raw(self._text.getvalue().encode("utf-8", "replace"))
        self._text.seek(0)
        self._text.truncate()

    def _fields(self, backup: Backup) -> tuple[object, ...]:
        expires = backup.expires_at
        return (
            backup.id,
            backup.server.id,
            self._kept(backup.server.name),
            self._kept(backup.backup_type),
            self._kept(backup.status),
            backup.size_mb,
            f"{backup.created_at:%Y-%m-%dT%H:%M:%SZ}",
            None if expires is None else f"{expires:%Y-%m-%dT%H:%M:%SZ}",
            self._kept(backup.description),
        )
