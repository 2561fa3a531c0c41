"""`vpsbackups demo` and `fake`: something to see and to try without an account."""

import asyncio
import re
import signal
import sys
from pathlib import Path

import pytest
from helpers_cli import TerminalHere, run, start

from vpsbackups_async import Outcome
from vpsbackups_async.cli import main
from vpsbackups_async.cli.commands.demo import Board, play
from vpsbackups_async.cli.screen import Screen
from vpsbackups_async.testing import FakeVPS

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")


@pytest.mark.virtual_time
async def test_the_demo_does_what_it_says(capfd: pytest.CaptureFixture) -> None:
    fake = FakeVPS(servers=25, backups=2, backup_seconds=lambda made: made["id"] % 5)
    assert await play(Screen(), fake) == 0
    said = capfd.readouterr()
    lines = said.out.splitlines()
    assert said.err == ""
    assert all(len(line) <= 100 and line.isprintable() for line in lines)

    assert f"listens on {fake.url}" in lines[0]
    assert lines[1] == "It holds 50 backups (50 automatic), read page by page."
    made = [backup for backup in fake.backups if backup["id"] > 50]
    bars = [line for line in lines if "#" in line]
    assert len(bars) == 25
    for number, bar in enumerate(bars, 1):
        assert f"[{'#' * number}{'.' * (25 - number)}] {number:>2}/25" in bar
    ended = [int(found) for bar in bars for found in re.findall(r"backup (\d+) completed", bar)]
    assert sorted(ended) == list(range(51, 76))

    assert fake.count("POST", "/backups/", 201) == 25
    assert fake.restores == [(ended[-1] - 50, ended[-1])]
    assert sorted(ended[1:]) == sorted(backup["id"] for backup in made)
    assert all(backup["status"] == "completed" for backup in made)

    sizes = [int(found) for bar in bars for found in re.findall(r"(\d+) MB", bar)]
    assert lines[-2] == f"25 of 25 backups completed, {sum(sizes)} MB."
    polls = fake.count("GET") - fake.count("GET", "page_size=20")
    assert lines[-1] == (
        f"{fake.count()} requests in all: the 25 waits together needed {polls}, for they share "
        "their looks at the list."
    )
    assert 0 < polls < 25
    assert fake.count() == 3 + 25 + polls + 2


@pytest.mark.virtual_time
async def test_the_demo_s_own_server_takes_a_few_seconds(capfd: pytest.CaptureFixture) -> None:
    begun = asyncio.get_running_loop().time()
    assert await play(Screen()) == 0
    assert 3 < asyncio.get_running_loop().time() - begun < 6
    assert "25 of 25 backups completed" in capfd.readouterr().out


@pytest.mark.virtual_time
async def test_a_demo_whose_backup_fails_says_so(capfd: pytest.CaptureFixture) -> None:
    assert await play(Screen(), FakeVPS(servers=25, fails=[7])) == 1
    said = capfd.readouterr()
    assert re.fullmatch(r"  server 7: backup 7 of server 7: the backup failed.*\n", said.err)
    assert "24/25" in said.out
    assert "Restoring" not in said.out


async def test_the_demo_runs_where_there_is_no_terminal(capfd: pytest.CaptureFixture) -> None:
    assert await asyncio.to_thread(main, ["demo"]) == 0
    assert "25 of 25 backups completed" in capfd.readouterr().out


@needs_pty
async def test_the_demo_shows_all_servers_at_once_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TerminalHere(monkeypatch, "demo") as terminal:
        await terminal.shows("1   running")
        await terminal.shows("under way")
        shown = (await terminal.end()).splitlines()
    assert terminal.code == 0
    rows = [re.findall(r"(\d+) +(\d+) MB", line) for line in shown[4:9]]
    assert [int(number) for row in rows for number, _ in row] == list(range(1, 26))
    assert re.fullmatch(r"Backing up ━+ 25 of 25, 0:\d\d *", shown[10])
    assert not any("running" in line or "under way" in line for line in shown[12:])
    assert shown[-2].startswith("37 requests in all") or "requests in all" in " ".join(shown)
    assert max(map(len, shown)) <= 80


@needs_pty
@pytest.mark.parametrize(
    ("columns", "variables"), [(80, {"NO_COLOR": "1"}), (120, {"FORCE_COLOR": "1"})]
)
async def test_the_bar_of_the_demo_agrees_with_its_cells_in_each_picture(
    columns: int, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = TerminalHere(monkeypatch, "demo", columns=columns, variables=variables)
    async with terminal:
        await terminal.end()
    plain = re.sub(r"\x1b\[[\d;]*m", "", terminal.raw)
    pictures = [part for part in re.split(r"\x1b\[\d?[AK]", plain) if "of 25" in part]
    assert len(pictures) > 5
    for picture in pictures:
        ended = len(re.findall(r"\d+ +\d+ MB", picture))
        assert f" {ended} of 25" in picture
        assert f"{25 - ended} under way" in picture


def test_a_failed_server_shows_on_the_board() -> None:
    board = Board()
    board.ended(Outcome(7, error=ValueError("no")))
    screen = Screen()
    with screen.err.capture() as capture:
        screen.err.print(board.above("how far"))
    assert "7   failed" in capture.get()
    assert "how far" in capture.get()


def test_the_picture_in_the_readme_is_small_and_needs_nothing_from_elsewhere() -> None:
    here = Path(__file__).parent
    assert "](tests/pictures/demo.svg)" in (here.parent / "README.md").read_text("utf-8")
    picture = (here / "pictures" / "demo.svg").read_text("utf-8")
    assert len(picture) < 40_000
    assert "@font-face" not in picture
    assert "vpsbackups&#160;demo" in picture or "vpsbackups demo" in picture


# --- fake ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
async def test_the_fake_serves_until_it_is_told_to_end(by: signal.Signals) -> None:
    process = await start("fake", "--servers", "4", "--backups", "2", "--backup-seconds", "0")
    assert process.stdout is not None
    assert process.stderr is not None
    given = {}
    for _ in range(2):
        line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"export (VPS_API_\w+)=(\S+)\n", line)
        assert found is not None
        given[found[1]] = found[2]
    assert (await process.stderr.readline()).startswith(b"Serving until Ctrl-C")
    listed = await run("list", "--since", "25h", **given)
    assert len(listed.lines) == 8
    made = await run("create", "3", **given)
    assert (made.code, made.out) == (0, "9:3\n")
    assert (await run("wait", "9:3", **given)).code == 0

    process.send_signal(by)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_a_port_that_is_taken_is_said(capfd: pytest.CaptureFixture) -> None:
    async with FakeVPS() as first:
        port = first.url.rpartition(":")[2]
        assert await asyncio.to_thread(main, ["fake", "--port", port]) == 2
    assert f"cannot listen on port {port}: Address already in use" in capfd.readouterr().err


async def test_the_fake_listens_on_the_port_that_it_is_given() -> None:
    async with FakeVPS() as first:
        port = int(first.url.rpartition(":")[2])
    async with FakeVPS(port=port) as second:
        assert second.url == f"http://127.0.0.1:{port}"
