"""What a wait shows and logs while the API fails, and what its timeout says."""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator

import pytest
from helpers_cli import Here, TerminalHere

from vpsbackups_async.cli.outage import Outage
from vpsbackups_async.cli.progress import Display
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.client import ClientStats
from vpsbackups_async.errors import ServerError
from vpsbackups_async.events import AttemptEnded, RetryScheduled, WaitPolled
from vpsbackups_async.testing import FakeVPS, Reply


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=2, backup_seconds=600, clock=time.time) as server:
        server.add_backup(1, status="in_progress")
        yield server


BUSY = ServerError(503, "Busy.", method="GET", path="/api/v1/backups/")


def answered(status: int) -> AttemptEnded:
    return AttemptEnded("list", "GET", "/api/v1/backups/", 1, status, None, 0.1, 10)


def retry(error: Exception = BUSY) -> RetryScheduled:
    return RetryScheduled("list", "GET", "/api/v1/backups/", 1, error, 0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")
@pytest.mark.parametrize("columns", [80, 120])
async def test_a_terminal_shows_since_when_and_why_looks_fail_for_as_long_as_they_do(
    columns: int, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.inject(Reply(503, b'{"detail": "Down for maintenance."}', method="GET"))
    async with TerminalHere(monkeypatch, "wait", "1:1", fake=fake, columns=columns) as terminal:
        await terminal.shows("fail since ")
        await terminal.shows("503 Down for maintenance.")
        rows = re.split(r"\r|\n|\x1b\[\d?[AK]", terminal.raw)
        assert max(len(re.sub(r"\x1b\[[\d;]*m", "", row)) for row in rows) <= columns
        fake.clear_faults()
        fake.finish(1)
        shown = await terminal.end()
    assert terminal.code == 0
    assert "fail since" not in shown
    assert "1 completed, in " in shown


async def test_a_wait_that_times_out_says_what_failed_last(fake: FakeVPS, run: Here) -> None:
    fake.inject(Reply(503, b'{"detail": "Down for maintenance."}', method="GET"))
    ended = await run("wait", "1:1", "--timeout", "1", fake=fake)
    assert ended.code == 4
    (line,) = (line for line in ended.err.splitlines() if line.startswith("backup 1 of server 1"))
    assert "503 Down for maintenance." in line
    assert "1 may still be running; to wait for them:\nvpsbackups wait 1:1\n" in ended.err


@pytest.mark.virtual_time
async def test_a_log_says_it_each_minute(capfd: pytest.CaptureFixture) -> None:
    outage = Outage()
    outage.on_event(retry())
    async with Display(Screen(), "Waiting", ClientStats, outage.text):
        await asyncio.sleep(61)
        outage.on_event(answered(200))
        await asyncio.sleep(60)
    first, second = capfd.readouterr().err.splitlines()
    assert re.fullmatch(
        r"Waiting: 1:00, requests fail since \d\d:\d\d:\d\d UTC \(\d:\d\d\): 503 Busy\. \(GET .*\)",
        first,
    )
    assert second == "Waiting: 2:00"


def test_what_failed_first_and_still_fails_is_told_with_its_latest_error() -> None:
    outage = Outage()
    assert outage.text() == ""
    outage.on_event(WaitPolled(7, 0, (), ServerError(500, "Broken.")))
    outage.on_event(retry())
    outage.on_event(WaitPolled(7, 0, (), ServerError(502, "Bad gateway.")))
    assert re.match(r"looks fail since .*: 502 Bad gateway\.", outage.text())
    outage.on_event(WaitPolled(7, 1, (), None))
    assert outage.text().startswith("requests fail since ")
    outage.on_event(answered(500))
    assert outage.text()
    outage.on_event(answered(204))
    assert outage.text() == ""
