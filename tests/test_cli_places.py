"""What the shell promises holds where it is piped and on terminals, whatever is said of colours."""

import itertools
import json
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from attrs import frozen
from helpers_cli import Here, Terminal, TerminalHere, screen
from helpers_cli import run as run_process

from vpsbackups_async.testing import FakeVPS, Latency, Reply

COLOURS: dict[str, dict[str, str]] = {
    "unset": {},
    "forced": {"FORCE_COLOR": "1"},
    "refused": {"NO_COLOR": "1"},
    "both": {"FORCE_COLOR": "1", "NO_COLOR": "1"},
}
PLACES = {"piped": 0, "80x24": 80, "120x40": 120}
"""The columns of each terminal; 0 for pipes."""
EVERYWHERE = list(itertools.product(PLACES, COLOURS))

needs_pty = pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")


def hours_ago(hours: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600 * hours))


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backup_seconds=0, clock=time.time) as server:
        server.add_backup(1, description="Nightly", created_at=hours_ago(1))
        server.add_backup(1, description="Weekly", created_at=hours_ago(3))
        server.add_backup(2, status="in_progress")
        yield server


@frozen
class Promise:
    """A command, its exit code, and patterns of what is to be read of it.

    `piped` is that of a pipe, `shown` that of a terminal. `{file}` is a file that holds `given`,
    and holds `left` afterwards. `before` is done to the server first.
    """

    command: str
    code: int
    piped: str
    shown: str
    given: str = ""
    left: str | None = None
    before: Callable[[FakeVPS], object] = lambda _: None
    variables: Mapping[str, str] = {}


def same(command: str, code: int, words: str, **more: object) -> Promise:
    """A promise that is read alike everywhere."""
    return Promise(command, code, words, words, **more)  # type: ignore[arg-type]


def down(fake: FakeVPS) -> None:
    fake.inject(Reply(503, b'{"detail": "Down for maintenance."}', method="GET"))


OBJECT = r'^\{"key": 1, .*\}$(.|\n)*^\{"key": 404, .*"type": "NotFoundError".*\}$'
PROMISES = {
    "forms": Promise("create 3", 0, r"\A4:3\n1 started, in 0:0\d$", r"\AID SERVER NAME"),
    "outcomes": same("create 1 404 --ndjson --concurrency 1", 1, OBJECT),
    "a plan": same("prune -s 1 --keep-last 1 --ndjson", 0, r'^\{"key": 2, .*"dry_run": true'),
    "not made": same("create 1 404 --not-made-to {file}", 1, "404 Server not found", left="404\n"),
    "delete from": same("delete -y --from {file}", 0, r"2:1$", given="2:1\n"),
    "empty input": same("delete -y --from {file}", 0, "no backup is named: nothing to delete$"),
    "silence": Promise("list --status failed", 0, r"\A\Z", r"\Ano backups match$"),
    "a typo": same("list --status bogus", 2, "give completed, in_progress, failed, or raw:bogus"),
    "an empty setting": same("list", 2, "VPS_API_URL is empty", variables={"VPS_API_URL": ""}),
    "an outage": same(
        "wait 3:2 --timeout 0.2", 4, "last look failed: 503 Down for maintenance", before=down
    ),
    "by name": same("restore server-0001 --latest -y", 0, r"server 1 \(server-0001\): Restore has"),
    "another name": same(
        "restore 1 --latest --expect-name web -y", 1, "named 'server-0001', not 'web'"
    ),
    "before": same(f"restore 1 --latest --before {hours_ago(2)} -y", 0, "server 1"),
    "show": same("show server-0001 --latest", 0, r"\bNightly\b"),
    "all": Promise("create --all", 0, r"^4:\d$(.|\n)*3 started", "3 started, in"),
    "servers": same("servers", 0, r"^\s*1 .*server-0001"),
    "no second one": same("create 1 -d Nightly --unless-newer-than 20h", 0, "1 there already, in"),
    "doctor": same("doctor", 0, r"^ok token from VPS_API_TOKEN"),
    "one request": same("list -v", 0, "^1 request, 0 of them repeated"),
    "no words of Python": same("list --limit few", 2, "--limit takes a whole number, not 'few'"),
}


def check(promise: Promise, place: str, colours: str, code: int | None, raw: str) -> None:
    """That the promise is kept, by all that was written there."""
    text, columns = screen(raw), PLACES[place]
    pattern = promise.shown if columns else promise.piped
    assert code == promise.code, text
    # A terminal breaks long lines at their spaces.
    assert re.search(pattern.replace(" ", r"\s+"), text, re.MULTILINE), text
    objects = [row for row in text.splitlines() if row.startswith("{")]
    assert all(json.loads(row) for row in objects)
    if columns:
        rows = set(text.splitlines()) - set(objects)
        assert max(map(len, rows), default=0) <= columns
    if "NO_COLOR" in COLOURS[colours]:
        assert not re.search(r"\x1b\[[\d;]*[349][0-7][\d;]*m", raw)


@pytest.mark.parametrize(
    ("place", "colours"),
    [pytest.param(*one, marks=needs_pty if one[0] != "piped" else ()) for one in EVERYWHERE],
)
@pytest.mark.parametrize("name", PROMISES)
async def test_a_promise_is_kept_everywhere(
    name: str,
    place: str,
    colours: str,
    fake: FakeVPS,
    tmp_path: Path,
    run: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promise, columns = PROMISES[name], PLACES[place]
    file = tmp_path / "ids"
    file.write_text(promise.given)
    promise.before(fake)
    command = promise.command.format(file=file).split()
    variables = {**COLOURS[colours], **promise.variables}
    if columns:
        terminal = TerminalHere(
            monkeypatch, *command, fake=fake, columns=columns, variables=variables
        )
        async with terminal:
            await terminal.end()
        check(promise, place, colours, terminal.code, terminal.raw)
    else:
        ended = await run(*command, fake=fake, **variables)
        assert "\x1b" not in ended.out
        assert "\x1b" not in ended.err or "FORCE_COLOR" in variables
        check(promise, place, colours, ended.code, ended.out + ended.err)
    if promise.left is not None:
        assert file.read_text() == promise.left


# Each with another place and other colours, so that each is seen in a process of its own once.
@pytest.mark.parametrize(
    ("name", "place", "colours"),
    [
        pytest.param(name, *one, marks=needs_pty if one[0] != "piped" else ())
        for name, one in zip(PROMISES, itertools.cycle(EVERYWHERE), strict=False)
    ],
)
async def test_a_promise_is_kept_in_a_process_of_its_own(
    name: str, place: str, colours: str, fake: FakeVPS, tmp_path: Path
) -> None:
    promise, columns = PROMISES[name], PLACES[place]
    file = tmp_path / "ids"
    file.write_text(promise.given)
    promise.before(fake)
    command = promise.command.format(file=file).split()
    variables = {**COLOURS[colours], **promise.variables}
    if columns:
        terminal = Terminal(*command, fake=fake, columns=columns, variables=variables)
        async with terminal:
            await terminal.end()
        check(promise, place, colours, terminal.code, terminal.raw)
    else:
        ended = await run_process(*command, fake=fake, **variables)
        check(promise, place, colours, ended.code, ended.out + ended.err)
    if promise.left is not None:
        assert file.read_text() == promise.left


@needs_pty
@pytest.mark.parametrize(
    ("by", "place", "colours"),
    [
        (signal.SIGINT, "80x24", "unset"),
        (signal.SIGTERM, "120x40", "forced"),
        (signal.SIGHUP, "80x24", "refused"),
        (signal.SIGINT, "120x40", "both"),
    ],
)
async def test_a_signal_on_a_terminal_names_what_runs(
    by: signal.Signals, place: str, colours: str, fake: FakeVPS
) -> None:
    fake.backup_seconds = 600
    fake.inject(Latency(0.5, method="POST"))
    terminal = Terminal(
        "create", "1", "3", "-w", fake=fake, columns=PLACES[place], variables=COLOURS[colours]
    )
    async with terminal:
        await terminal.shows("under way")
        terminal.interrupt(by)
        shown = await terminal.end()
    assert terminal.code == 128 + by
    assert "interrupted: 2 of 2 backups were started" in shown
    assert re.search(r"^vpsbackups wait \d:\d \d:\d$", shown, re.MULTILINE)
