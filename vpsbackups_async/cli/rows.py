"""Backups, servers and the like as rows: a table for a terminal, plain lines, JSON, NDJSON and CSV.

A writer gets them a page at a time and keeps none, so that a list of any length can be written.
"""

import csv
import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, Literal, TypeVar

from attrs import frozen
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vpsbackups_async._wire import to_json
from vpsbackups_async.cli.ends import UsageError
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.cli.text import safe
from vpsbackups_async.models import Backup, Server
from vpsbackups_async.retention import Decision

__all__ = [
    "Column",
    "Form",
    "Layout",
    "Table",
    "Writer",
    "form_of",
    "json_line",
    "lines_or_table",
    "open_writer",
]

T = TypeVar("T")
J = TypeVar("J", bound=Backup | Server | Decision)

Form = Literal["table", "json", "ndjson", "csv"]

_WIDE: Final = 100
"""A terminal with this many columns shows the moment of creation, a narrower one the age."""
_GAP: Final = "  "


def form_of(**flags: bool) -> Form:
    """The form that the options ask for; raises `UsageError` if they exclude each other."""
    chosen: list[Form] = [form for form in ("json", "ndjson", "csv") if flags[form]]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} exclude each other")
    return chosen[0] if chosen else "table"


class Writer(ABC, Generic[T]):
    """Writes items to standard output."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    @abstractmethod
    def rows(self, items: Sequence[T]) -> None:
        """Write these, at least one."""

    def end(self) -> None:
        """Write the end of the form, after the last row."""


def open_writer(form: Form, screen: Screen, layout: "Layout[J]") -> Writer[J]:
    """The writer for this form; a table is written as plain lines if there is no terminal."""
    if form == "json":
        return _Json(screen)
    if form == "ndjson":
        return _Ndjson(screen)
    if form == "csv":
        return _Csv(screen, layout)
    return lines_or_table(screen, layout)


def lines_or_table(screen: Screen, layout: "Layout[T]") -> Writer[T]:
    """A table for a terminal, plain lines for anything else."""
    return Table(screen, layout) if screen.shows_tables else _Lines(screen, layout)


@frozen(eq=False)
class Column(Generic[T]):
    """A column of the table, as wide as its title and its texts in the first rows.

    `least` and `most` bound the width. A longer text is cut, unless the column is `whole`. One
    column gets the `rest` of the line. If that is less than its `least`, columns with `shrinks_to`
    shrink to no less than that width, then those that have a place in `left_out` are left out, in
    that order; if it is still too little, the column is empty.
    """

    title: str
    text: Callable[[T], str]
    least: int = 0
    most: int = sys.maxsize
    shrinks_to: int = sys.maxsize
    left_out: int = 0
    right: bool = False
    whole: bool = False
    rest: bool = False
    only: Literal["wide", "narrow"] | None = None
    """The terminals that show it; None is all of them."""
    style: Callable[[T], str] = lambda _: ""

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


@frozen(eq=False)
class Layout(Generic[T]):
    """What is written of an item: the columns of a table, a plain line, and the fields of CSV."""

    columns: Sequence[Column[T]]
    plain: Callable[[T], str]
    csv: Mapping[str, Callable[[T], object]]


class Table(Writer[T]):
    """Aligned columns, as wide as the first rows need them; longer texts in later rows are cut.

    With `asking` the table is part of a question, and goes to standard error.
    """

    def __init__(self, screen: Screen, layout: Layout[T], *, asking: bool = False) -> None:
        super().__init__(screen)
        self._console = screen.err if asking else screen.out
        left_out = "narrow" if self._console.width >= _WIDE else "wide"
        self._columns = [column for column in layout.columns if column.only != left_out]
        self._widths: list[int] = []

    def rows(self, items: Sequence[T]) -> None:
        """Write these, at least one, below the header."""
        texts = [[column.text(item) for column in self._columns] for item in items]
        lines = []
        if not self._widths:
            titles = [column.title for column in self._columns]
            self._widths = self._fit([titles, *texts])
            lines.append(self._line(titles))
            lines[0].style = "bold"
        lines += map(self._line, texts, items)
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
        for column in sorted((one for one in widths if one.left_out), key=lambda one: one.left_out):
            if spare < rest.least:
                spare += widths[column] + len(_GAP)
                widths[column] = 0
        widths[rest] = spare if spare >= rest.least else 0
        return list(widths.values())

    def _line(self, texts: list[str], item: T | None = None) -> Text:
        line = Text(_GAP).join(
            column.cell(text, width, "" if item is None else column.style(item))
            for column, text, width in zip(self._columns, texts, self._widths, strict=True)
            if width
        )
        line.rstrip()
        return line


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - 1) + "…" if width else ""


class _Lines(Writer[T]):
    """One plain line for each item."""

    def __init__(self, screen: Screen, layout: Layout[T]) -> None:
        super().__init__(screen)
        self._plain = layout.plain

    def rows(self, items: Sequence[T]) -> None:
        """Write these."""
        self._screen.result("\n".join(map(self._plain, items)))


def json_line(item: Backup | Server | Decision) -> bytes:
    """The item as the API writes it, with escapes for what is not printable."""
    line = to_json(item)
    if line.isascii() and b"\x7f" not in line:
        return line
    text = line.decode("utf-8", "surrogatepass")
    return "".join(c if c.isprintable() else _escaped(c) for c in text).encode()


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[place : place + 4]}" for place in range(0, len(units), 4))


class _Ndjson(Writer[J]):
    """One JSON object on each line."""

    def rows(self, items: Sequence[J]) -> None:
        """Write these."""
        self._screen.raw(b"\n".join(map(json_line, items)) + b"\n")


class _Json(Writer[J]):
    """One JSON array. It is closed at the end only, so that a partial list does not parse."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(screen)
        self._before = b"[\n"

    def rows(self, items: Sequence[J]) -> None:
        """Write these."""
        self._screen.raw(self._before + b",\n".join(map(json_line, items)))
        self._before = b",\n"

    def end(self) -> None:
        """Close the array."""
        self._screen.raw(b"[]\n" if self._before == b"[\n" else b"\n]\n")


class _Csv(Writer[J]):
    """Comma-separated values with a header; texts are made safe only for a terminal."""

    def __init__(self, screen: Screen, layout: Layout[J]) -> None:
        super().__init__(screen)
        self._values = layout.csv
        self._text = io.StringIO()
        self._csv = csv.writer(self._text, lineterminator="\n")
        self._csv.writerow(self._values)
        self._shown = safe if screen.shows_tables else str

    def rows(self, items: Sequence[J]) -> None:
        """Write these."""
        self._csv.writerows(map(self._fields, items))
        self.end()

    def end(self) -> None:
        """Write what is buffered: the header, if the list is empty."""
        self._screen.raw(self._text.getvalue().encode("utf-8", "replace"))
        self._text.seek(0)
        self._text.truncate()

    def _fields(self, item: J) -> list[object]:
        values = (value(item) for value in self._values.values())
        return [self._shown(value) if isinstance(value, str) else value for value in values]
