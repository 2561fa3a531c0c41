"""Backups as rows: a table for a terminal, plain lines, JSON, NDJSON and CSV.

A writer gets the backups a page at a time and keeps none of them, so that a list of any length can
be written.
"""

import csv
import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, Literal

from attrs import frozen
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vpsbackups_async._wire import to_json
from vpsbackups_async.cli.ids import written
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import age, moment, safe, size
from vpsbackups_async.models import Backup

__all__ = ["Form", "Writer", "json_line", "open_writer"]

Form = Literal["table", "json", "ndjson", "csv"]

_WIDE: Final = 100
"""A terminal with this many columns shows the moment of creation, a narrower one the age."""
_GAP: Final = "  "


class Writer(ABC):
    """Writes backups to standard output."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @abstractmethod
    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups, at least one."""

    def end(self) -> None:  # noqa: B027  # most forms need no end
        """Write the end of the form, after the last row."""


def open_writer(form: Form, screen: Screen) -> Writer:
    """The writer for this form; a table is written as plain lines if there is no terminal."""
    if form == "json":
        return _Json(screen)
    if form == "ndjson":
        return _Ndjson(screen)
    if form == "csv":
        return _Csv(screen)
    return Table(screen) if screen.out.is_terminal else _Lines(screen)


@frozen(eq=False)
class _Column:
    """A column of the table, as wide as its title and its texts in the first rows.

    `least` and `most` bound the width. A longer text is cut, unless the column is `whole`. One
    column gets the `rest` of the line. If that is less than its `least`, columns with `shrinks_to`
    shrink to no less than that width; if it is still too little, the column is empty.
    """

    title: str
    text: Callable[[Backup], str]
    least: int = 0
    most: int = sys.maxsize
    shrinks_to: int = sys.maxsize
    right: bool = False
    whole: bool = False
    rest: bool = False
    only: Literal["wide", "narrow"] | None = None
    """The terminals that show it; None is all of them."""
    style: Callable[[Backup], str] = lambda _: ""

    def width(self, texts: Iterable[str]) -> int:
        """The width of the longest of these texts, within the bounds."""
        return min(self.most, max(self.least, *map(cell_len, texts)))

    def cell(self, text: str, width: int, style: str = "") -> Text:
        """The text, cut and aligned."""
        shown = text if self.whole else _cut(text, width)
        gap = " " * (width - cell_len(shown))
        return (
            Text.assemble(gap, (shown, style)) if self.right else Text.assemble((shown, style), gap)
        )


def _type(backup: Backup) -> str:
    return "auto" if backup.backup_type == "automatic" else safe(backup.backup_type)


def _status_style(backup: Backup) -> str:
    if backup.is_failed:
        return "red"
    return {"in_progress": "yellow", "completed": "green"}.get(str(backup.status), "")


def _age(backup: Backup) -> str:
    return age(backup.created_at, datetime.now(UTC))


# An id is whole, since a cut id would be another id. TYPE, SIZE and AGE have a least width because
# later rows may have longer texts than the first ones.
_COLUMNS: Final = (
    _Column("ID", lambda backup: str(backup.id), right=True, whole=True),
    _Column("SERVER", lambda backup: str(backup.server.id), right=True, whole=True),
    _Column("NAME", lambda backup: safe(backup.server.name), shrinks_to=12),
    _Column("TYPE", _type, least=6),
    _Column("STATUS", lambda backup: safe(backup.status), least=11, most=14, style=_status_style),
    _Column("SIZE", lambda backup: size(backup.size_mb), least=8, right=True),
    _Column("AGE", _age, least=4, only="narrow"),
    _Column("CREATED (UTC)", lambda backup: moment(backup.created_at), only="wide"),
    _Column("DESCRIPTION", lambda backup: safe(backup.description), least=8, rest=True),
)


class Table(Writer):
    """Aligned columns, as wide as the first rows need them; longer texts in later rows are cut.

    With `asking` the table is part of a question, and goes to standard error.
    """

    def __init__(self, screen: Screen, *, asking: bool = False) -> None:
        super().__init__(screen)
        self._console = screen.err if asking else screen.out
        left_out = "narrow" if self._console.width >= _WIDE else "wide"
        self._columns = [column for column in _COLUMNS if column.only != left_out]
        self._widths: list[int] = []

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups, at least one, below the header."""
        texts = [[column.text(backup) for column in self._columns] for backup in backups]
        lines = []
        if not self._widths:
            titles = [column.title for column in self._columns]
            self._widths = self._fit([titles, *texts])
            lines.append(self._line(titles))
            lines[0].style = "bold"
        lines += map(self._line, texts, backups)
        self._screen.table(lines, self._console)

    def _fit(self, rows: list[list[str]]) -> list[int]:
        widths = {
            column: column.width(texts)
            for column, texts in zip(self._columns, zip(*rows, strict=True), strict=True)
        }
        [rest] = (column for column in widths if column.rest)
        widths[rest] = 0
        spare = self._console.width - sum(widths.values()) - len(_GAP) * (len(widths) - 1)
        for column, width in widths.items():
            if spare < rest.least and width > column.shrinks_to:
                widths[column] = max(column.shrinks_to, width - (rest.least - spare))
                spare += width - widths[column]
        widths[rest] = spare if spare >= rest.least else 0
        return list(widths.values())

    def _line(self, texts: list[str], backup: Backup | None = None) -> Text:
        line = Text(_GAP).join(
            column.cell(text, width, "" if backup is None else column.style(backup))
            for column, text, width in zip(self._columns, texts, self._widths, strict=True)
        )
        line.rstrip()
        return line


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width else ""


class _Lines(Writer):
    """One line for each backup: ref, type, status, MB and moment, one word each, then the texts."""

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._screen.result("\n".join(map(_plain, backups)))


def _plain(backup: Backup) -> str:
    status = safe(backup.status).replace(" ", "_") or "-"
    kind = safe(backup.backup_type).replace(" ", "_") or "-"
    megabytes = "-" if backup.size_mb is None else backup.size_mb
    return (
        f"{written(backup.ref):<14} {kind:<9} {status:<11} {megabytes:>7} "
        f"{backup.created_at:%Y-%m-%dT%H:%M:%SZ}  {safe(backup.server.name):<16}  "
        f"{safe(backup.description)}"
    ).rstrip()


def json_line(backup: Backup) -> bytes:
    """The backup as the API writes it, with escapes for what is not printable."""
    line = to_json(backup)
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode("utf-8", "surrogatepass")
    return "".join(c if c.isprintable() else _escaped(c) for c in text).encode()


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


class _Ndjson(Writer):
    """One JSON object on each line."""

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._screen.raw(b"\n".join(map(json_line, backups)) + b"\n")


class _Json(Writer):
    """One JSON array. It is closed at the end only, so that a partial list does not parse."""

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


def _iso(when: datetime | None) -> str | None:
    return None if when is None else f"{when:%Y-%m-%dT%H:%M:%SZ}"


_CSV: Final[dict[str, Callable[[Backup], object]]] = {
    "id": lambda backup: backup.id,
    "server_id": lambda backup: backup.server.id,
    "server_name": lambda backup: backup.server.name,
    "backup_type": lambda backup: backup.backup_type,
    "status": lambda backup: backup.status,
    "size_mb": lambda backup: backup.size_mb,
    "created_at": lambda backup: _iso(backup.created_at),
    "expires_at": lambda backup: _iso(backup.expires_at),
    "description": lambda backup: backup.description,
}


class _Csv(Writer):
    """Comma-separated values with a header; texts are made safe only for a terminal."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow(_CSV)
        self._shown = safe if screen.out.is_terminal else str

    def rows(self, backups: Sequence[Backup]) -> None:
        """Write these backups."""
        self._csv.writerows(map(self._fields, backups))
        self.end()

    def end(self) -> None:
        """Write what is buffered: the header, if the list is empty."""
        self._screen.raw(self._text.getvalue().encode("utf-8", "replace"))
        self._text.seek(0)
        self._text.truncate()

    def _fields(self, backup: Backup) -> list[object]:
        values = (value(backup) for value in _CSV.values())
        return [self._shown(value) if isinstance(value, str) else value for value in values]
