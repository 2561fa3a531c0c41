"""What a stream gets depends on what it is: a terminal or not. Colours are rich's own matter."""

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import Here, TerminalHere

from vpsbackups_async.testing import FakeVPS, Latency


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=2, backup_seconds=0, clock=time.time) as server:
        yield server


COLOURS: tuple[dict[str, str], ...] = (
    {},
    {"NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"FORCE_COLOR": "1", "NO_COLOR": "1"},
    {"FORCE_COLOR": ""},
    {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"},
)

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")


@pytest.mark.parametrize("variables", COLOURS, ids=lambda given: " ".join(given) or "none")
async def test_what_is_piped_is_plain_lines_whatever_is_said_of_colours(
    variables: dict[str, str], fake: FakeVPS, run: Here
) -> None:
    started = await run("create", "1", "2", fake=fake, **variables)
    assert {line.partition(":")[2] for line in started.lines} == {"1", "2"}
    ended = await run("wait", "--from", "-", fake=fake, given=started.out, **variables)
    assert (ended.code, sorted(ended.lines)) == (0, sorted(started.lines))
    listed = await run("list", "--limit", "1", fake=fake, **variables)
    assert listed.lines[0].split()[1:3] == ["manual", "completed"]
    assert "\x1b" not in started.out + ended.out + listed.out
    deleted = await run("delete", "-y", *started.lines, fake=fake, **variables)
    assert sorted(deleted.lines) == sorted(started.lines)
    failed = await run("create", "1", "404", "--description", "x" * 90, fake=fake, **variables)
    assert failed.err.count("\n") == 3  # the failure, the hint and the summary: none is wrapped
    coloured = "1" in (variables.get("FORCE_COLOR"), variables.get("TTY_COMPATIBLE"))
    assert ("\x1b" in failed.err) == (coloured and "NO_COLOR" not in variables)


@needs_pty
@pytest.mark.parametrize(
    ("variables", "columns"),
    list(zip(COLOURS[:5], (80, 120, 80, 120, 80), strict=True)),
)
async def test_a_terminal_gets_a_table_and_a_display_whatever_is_said_of_colours(
    variables: dict[str, str], columns: int, fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.inject(Latency(1.2, method="POST"))
    terminal = TerminalHere(
        monkeypatch, "create", "1", fake=fake, columns=columns, variables=variables
    )
    async with terminal:
        await terminal.shows("under way")
        shown = await terminal.end()
    assert shown.splitlines()[0].split()[:3] == ["ID", "SERVER", "NAME"]
    assert ("CREATED (UTC)" in shown) == (columns == 120)
    assert "under way" not in shown
    coloured = "NO_COLOR" not in variables and variables.get("FORCE_COLOR") != ""
    # An empty FORCE_COLOR means no colours to rich.
    assert ("\x1b[33min_progress" in terminal.raw) == coloured


@needs_pty
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("list", "--status", "failed"), "no backups match"),
        (("list", "--since", "1s", "--ndjson"), "no backups match"),
        (("servers", "--status", "stopped"), "no servers match"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
async def test_an_empty_result_is_said_on_a_terminal_and_nowhere_else(
    command: tuple[str, ...],
    words: str,
    fake: FakeVPS,
    run: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = await run(*command, fake=fake)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    async with TerminalHere(monkeypatch, *command, fake=fake) as terminal:
        assert await terminal.end() == f"{words}\n"
    async with TerminalHere(monkeypatch, *command, "-q", fake=fake) as terminal:
        assert await terminal.end() == ""


@pytest.mark.parametrize(
    ("command", "known"),
    [("list", "completed, in_progress, failed"), ("servers", "active, stopped, suspended")],
)
async def test_a_status_that_is_not_known_is_a_usage_error_that_names_the_known_ones(
    command: str, known: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run(command, "--status", "complete", fake=fake)
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert f"--status 'complete' is not known: give {known}, or raw:complete" in ended.err


async def test_a_raw_status_is_compared_as_it_is(fake: FakeVPS, run: Here) -> None:
    for status in ("errored", "Failed", "queued"):
        fake.add_backup(1, status=status)
    for given, shown in (("raw:failed", 8), ("raw:QUEUED", 9), ("raw:errored", 7)):
        listed = await run("list", "--status", given, fake=fake)
        assert [int(line.partition(":")[0]) for line in listed.lines] == [shown]
    assert len((await run("list", "--status", "failed", fake=fake)).lines) == 2
    await run("servers", "--status", "raw:Being moved", fake=fake)
    assert fake.requests[-1].query["status"] == "Being moved"


@pytest.mark.parametrize(
    ("variables", "arguments", "words"),
    [
        ({"VPS_API_URL": ""}, (), "VPS_API_URL is empty: set it, or unset it"),
        ({"VPS_API_URL": " "}, (), "VPS_API_URL is empty"),
        ({}, ("--url", ""), "--url is empty"),
        ({"VPS_API_TOKEN": ""}, (), "there is no token: VPS_API_TOKEN is empty"),
        ({}, ("--token-file", "/dev/null"), "there is no token: the token file '/dev/null' is"),
    ],
)
async def test_an_empty_setting_is_named(
    variables: dict[str, str], arguments: tuple[str, ...], words: str, fake: FakeVPS, run: Here
) -> None:
    ended = await run("list", *arguments, fake=fake, **variables)
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)
    assert words in ended.err


@pytest.mark.parametrize(
    "command", ["list", "audit --rpo 1d", "report --html FILE", "prune --keep-last 1", "create"]
)
async def test_all_names_every_server_wherever_servers_are_named(
    command: str, fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    words = command.replace("FILE", str(tmp_path / "page")).split()
    assert (await run(*words, "--all", fake=fake)).code in {0, 1}
    asked = fake.count()
    assert asked > 0
    (tmp_path / "ids").write_text("1")
    both = await run(*words, "--all", "--servers-from", str(tmp_path / "ids"), fake=fake)
    assert (both.code, fake.count()) == (2, asked)
    assert "--all is every server: name none beside it" in both.err
