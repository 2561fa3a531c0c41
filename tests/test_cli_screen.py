"""What a person sees on a terminal, and what a log gets instead."""

import asyncio
import io
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from helpers_cli import Terminal, TerminalHere
from rich.console import Console

from vpsbackups_async import Backup, Progress, from_json
from vpsbackups_async.cli.layouts import BACKUPS
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.rows import Table
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.client import ClientStats
from vpsbackups_async.testing import FakeVPS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    servers = {1: "web-1", 2: "a-server-with-a-rather-long-name", 3: "日本語のサーバー"}
    async with FakeVPS(servers=servers, backups=1, clock=time.time) as server:
        server.add_backup(1, description="Before the\nupgrade of everything there is \x1b[2J")
        server.add_backup(2, status="failed")
        server.add_backup(3, status="in_progress")
        yield server


# --- The table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
async def test_the_table_fits_the_terminal(
    columns: int, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "list", fake=fake, columns=columns) as terminal:
        lines = (await terminal.end()).splitlines()
    header, *rows = lines
    assert header.split()[:6] == ["ID", "SERVER", "NAME", "TYPE", "STATUS", "SIZE"]
    assert ("AGE" in header, "CREATED (UTC)" in header) == (columns == 80, columns == 120)
    assert [int(row.split()[0]) for row in rows] == [6, 5, 4, 3, 2, 1]
    console = Console(width=columns)
    assert max(console.measure(row).maximum for row in lines) <= columns
    # Columns begin where their headers do, after wide characters as well.
    at = header.index("STATUS")
    assert rows[1][at:].startswith("failed")
    assert rows[2][at:].startswith("completed")
    assert "\x1b[2J" not in terminal.raw
    assert "Before" in rows[2]


NARROW = """\
ID  SERVER  NAME            TYPE    STATUS                  SIZE  AGE   DESCRIP…
10       3  日本語のサー …  auto    in_progress                -  3d
 9       2  a-server-with…  weekly  a-status-of-i…             -  3d
 8       2  a-server-with…  manual  failed          123456789 MB  3d    xxxxxxx…
 7       1  web-1           manual  completed            4100 MB  3d    Before …
"""
WIDE = """\
ID  SERVER  NAME                              TYPE    STATUS                  SIZE  CREATED (UTC)     DESCRIPTION
10       3  日本語のサーバー                  auto    in_progress                -  YYYY-MM-DD HH:MM
 9       2  a-server-with-a-rather-long-name  weekly  a-status-of-i…             -  YYYY-MM-DD HH:MM
 8       2  a-server-with-a-rather-long-name  manual  failed          123456789 MB  YYYY-MM-DD HH:MM  xxxxxxxxxxxxxxxxx…
 7       1  web-1                             manual  completed            4100 MB  YYYY-MM-DD HH:MM  Before the upgrad…
"""  # noqa: E501  # as wide as the terminal
COLOURED = """\
\x1b[1mID  SERVER  NAME   TYPE    STATUS           SIZE  CREATED (UTC)     DESCRIPTION\x1b[0m
 5       7  web-7  manual  \x1b[32mcompleted\x1b[0m     4100 MB  2026-01-16 15:45  Nightly
 6       7  web-7  manual  \x1b[33min_progress\x1b[0m         -  2026-01-16 15:45  Nightly
123456789  1234567890  a-lo…  manual  \x1b[31mfailed\x1b[0m        4100 MB  2026-01-16 15:45  Nightly
 7       7  web-7  manual  odd           4100 MB  2026-01-16 15:45  Nightly
"""  # noqa: E501  # as wide as the terminal


@pytest.mark.parametrize(("columns", "table"), [(80, NARROW), (120, WIDE)], ids=["80", "120"])
async def test_the_table_looks_like_this(
    columns: int, table: str, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for backup in fake.backups:
        fake.remove_backup(backup["id"])
    made = datetime.now(UTC) - timedelta(days=3, minutes=10)
    fake.add_backup(1, created_at=made, size_mb=4100, description="Before the upgrade of PHP")
    fake.add_backup(2, created_at=made, size_mb=123_456_789, description="x" * 80, status="failed")
    fake.add_backup(2, created_at=made, status="a-status-of-its-own", backup_type="weekly")
    fake.add_backup(3, created_at=made, status="in_progress", backup_type="automatic")
    async with TerminalHere(monkeypatch, "list", fake=fake, columns=columns) as terminal:
        shown = await terminal.end()
    assert shown == table.replace("YYYY-MM-DD HH:MM", f"{made:%Y-%m-%d %H:%M}")


def backup(backup_id: int, **fields: Any) -> Backup:
    """A backup of server 7, with other fields as given."""
    values: dict[str, Any] = {
        "server": {"id": 7, "name": "web-7"},
        "backup_type": "manual",
        "status": "completed",
        "size_mb": 4100,
        "created_at": "2026-01-16T15:45:00Z",
        "expires_at": None,
        "description": "Nightly",
    }
    return from_json(Backup, json.dumps({"id": backup_id} | values | fields))


def test_the_table_has_colours_and_keeps_the_widths_of_its_first_rows() -> None:
    screen, text = Screen(), io.StringIO()
    screen.err = Console(
        file=text,
        force_terminal=True,
        color_system="standard",
        width=100,
        highlight=False,
        _environ={"TERM": "xterm"},  # wherever the tests run
    )
    table = Table(screen, BACKUPS, asking=True)
    table.rows([backup(5), backup(6, status="in_progress", size_mb=None)])
    longer = {"id": 1_234_567_890, "name": "a-longer-name-than-before"}
    table.rows([backup(123_456_789, server=longer, status="failed"), backup(7, status="odd")])
    assert text.getvalue() == COLOURED


async def test_what_a_terminal_gets_as_csv_is_made_safe(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "list", "--csv", fake=fake) as terminal:
        await terminal.end()
    assert "\x1b[2J" not in terminal.raw
    assert "Before the upgrade of everything there is ?[2J" in terminal.raw.replace("\n", "")


# --- The live display ----------------------------------------------------------------------------


async def test_a_create_shows_how_far_it_is_and_leaves_the_results(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.backup_seconds = lambda made: 600 if made["server"]["id"] == 3 else 0
    async with TerminalHere(monkeypatch, "create", "1", "3", "9", "--wait", fake=fake) as terminal:
        await terminal.shows("Backing up")
        await terminal.shows("1 failed, 2 under way, at most 64 requests at once")
        await terminal.shows("completed")
        fake.finish(8)
        shown = await terminal.end()
    assert terminal.code == 1
    assert "under way" not in shown
    assert [line.split()[:2] for line in shown.splitlines() if "manual" in line] in (
        [["7", "1"], ["8", "3"]],
        [["8", "3"], ["7", "1"]],
    )
    assert "server 9: 404 Server not found." in shown
    assert re.search(r"2 completed, 1 failed, in 0:\d\d", shown)


async def test_an_interrupted_create_on_a_terminal_says_how_to_go_on(fake: FakeVPS) -> None:
    fake.backup_seconds = 600
    async with Terminal("create", "1", "2", "--wait", fake=fake) as terminal:
        await terminal.shows("under way")
        terminal.interrupt()
        shown = await terminal.end()
    assert terminal.code == 130
    assert "interrupted: 2 of 2 backups were started" in shown
    assert re.search(r"^vpsbackups wait 7:\d 8:\d$", shown, re.MULTILINE)


async def test_quiet_leaves_out_the_display(fake: FakeVPS, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.backup_seconds = 1.5
    async with TerminalHere(monkeypatch, "create", "1", "--wait", "--quiet", fake=fake) as terminal:
        shown = await terminal.end()
    assert "Backing up" not in terminal.raw
    assert len(shown.strip().splitlines()) == 2  # the header and the backup


# --- The numbers, on virtual time ----------------------------------------------------------------


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Paper(Screen):
    """A screen that is kept: a terminal, or a log."""

    def __init__(self, *, terminal: bool, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.text = _Tty() if terminal else io.StringIO()
        self.err = Console(
            file=self.text,
            force_terminal=terminal,
            width=80,
            no_color=True,
            _environ={"TERM": "xterm"},  # wherever the tests run
        )
        self.painted: list[str] = []

    def _write(self, text: str) -> None:
        self.painted.append(text)


def progress(done: int, total: int | None, *, failed: int = 0, elapsed: float = 10) -> Progress:
    return Progress(done, done - failed, failed, 4, total, elapsed)


@pytest.mark.virtual_time
async def test_a_log_gets_a_line_a_minute() -> None:
    paper = Paper(terminal=False)
    async with Display(paper, "Waiting", ClientStats) as display:
        await asyncio.sleep(59)
        assert paper.text.getvalue() == ""
        display.update(progress(250, 1000, failed=3, elapsed=50))
        await asyncio.sleep(62)
    assert (
        paper.text.getvalue().splitlines()
        == ["Waiting: 250 of 1,000, 5.0/s, 2:30 left, 3 failed, 4 under way"] * 2
    )


@pytest.mark.virtual_time
async def test_a_terminal_is_painted_from_the_first_second_on() -> None:
    paper = Paper(terminal=True)
    stats = ClientStats(limit=8, gate_closed_for=12)
    async with Display(paper, "Starting", lambda: stats) as display:
        await asyncio.sleep(0.9)
        assert paper.painted == []
        for now, words in (
            (None, "0:01"),
            (progress(30, None), "30 done, 3.0/s, 0:0"),
            (progress(0, 100), "0 of 100, 0:0"),
            (progress(100, 100), "100 of 100, 0:0"),
            (progress(5, 100, failed=2), "5 of 100, 0.5/s, 3:10 left"),
        ):
            if now is not None:
                display.update(now)
            await asyncio.sleep(0.3)
            assert words in paper.painted[-1]
            assert "at most 8 requests at once, asked to wait (429): 0:12" in paper.painted[-1]
        assert "2 failed, 4 under way" in paper.painted[-1]
    assert paper.painted[-1] == "\r\x1b[1A\x1b[2K\x1b[1A\x1b[2K"


@pytest.mark.virtual_time
async def test_what_is_quiet_or_hidden_shows_nothing() -> None:
    for paper, shown in ((Paper(terminal=True, quiet=True), True), (Paper(terminal=True), False)):
        async with Display(paper, "Starting", ClientStats, shown=shown):
            await asyncio.sleep(600)
        assert (paper.painted, paper.text.getvalue()) == ([], "")


async def test_no_more_is_painted_than_the_terminal_has_lines() -> None:
    paper = Paper(terminal=True)
    paper.err.height = 5
    paper.paint(lambda: "\n".join("abcdef"))
    paper.paint(None)
    assert paper.painted == ["a\nb\nc\nd\n", "\r" + "\x1b[1A\x1b[2K" * 4]


async def test_what_is_painted_below_a_row_is_as_things_are_then() -> None:
    paper = Paper(terminal=True)
    async with Display(paper, "Waiting", ClientStats, after=0.0) as display:
        display.update(progress(0, 2))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        display.update(progress(1, 2))
        paper.result("a row")
        assert "0 of 2" in paper.painted[0]
        assert "1 of 2" in paper.painted[-1]


async def test_notes_go_above_what_is_painted() -> None:
    paper = Paper(terminal=True)
    paper.paint(lambda: "working")
    paper.note("one came")
    paper.summary("all came")
    paper.error("it broke", "mend it")
    assert paper.painted[:3] == ["working\n", "\r\x1b[1A\x1b[2K", "working\n"]
    assert "one came\nall came\nerror: it broke\nmend it\n" in re.sub(
        r"\x1b\[[0-9;]*m", "", paper.text.getvalue()
    )
