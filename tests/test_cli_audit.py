"""`vpsbackups audit`, and the pings around it."""

import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from helpers_cli import Here, TerminalHere
from helpers_monitor import monitoring

from vpsbackups_async.testing import FakeVPS


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    names = {1: "ok", 2: "stale one", 3: "never", 4: "failing", 5: "stuck"}
    async with FakeVPS(servers=names, server_statuses={3: "stopped"}) as server:
        for server_id, hours, status in (
            (1, 2, "completed"), (2, 50, "completed"), (4, 3, "failed"), (5, 9, "in_progress"),
        ):  # fmt: skip
            made = server.now - timedelta(hours=hours)
            server.add_backup(server_id, status=status, created_at=made, description="[keep]")
        yield server


async def test_piped_servers_are_a_line_each_the_worst_first_and_the_exit_code_is_1(
    fake: FakeVPS, run: Here
) -> None:
    ended = await run("audit", "--rpo", "24h", fake=fake)
    assert ended.code == 1
    made, stuck = fake.backups, fake.backups[3]["id"]
    assert ended.lines == [
        "never    3              -   0/10 -                     never",
        f"failing  4              -   1/10 -  {'':18} failing           1 failed since; 1 pinned",
        f"stuck    5              -   1/10 -  {'':18} {'stuck':17} stuck: {stuck}; 1 pinned",
        f"stale    2             2d   1/10 {made[1]['created_at']}  stale one         1 pinned",
        f"ok       1             2h   1/10 {made[0]['created_at']}  ok                1 pinned",
    ]
    assert ended.err.startswith(
        "1 never, 1 failing, 1 stuck, 1 stale, 1 ok; 4 break the rule that "
    )


async def test_where_all_are_ok_the_exit_code_is_0(fake: FakeVPS, run: Here) -> None:
    ended = await run("audit", "1", "--rpo", "1d", "--quiet", fake=fake)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[:2] for line in ended.lines] == [["ok", "1"]]


async def test_slack_and_a_file_of_servers_are_heeded(fake: FakeVPS, run: Here) -> None:
    arguments = ("audit", "--rpo", "40h", "--servers-from", "-")
    assert (await run(*arguments, fake=fake, given="1\n2\n")).code == 1
    assert (await run(*arguments, "--slack", "11h", fake=fake, given="1\n2\n")).code == 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--kept", "1"], 0),
        (["--kept", "2"], 1),
        (["--reach", "119m"], 0),
        (["--reach", "1d"], 1),
    ],
)
async def test_a_control_that_fails_is_said_and_is_the_exit_code(
    fake: FakeVPS, run: Here, options: list[str], code: int
) -> None:
    ended = await run("audit", "1", "--rpo", "1d", *options, fake=fake)
    assert ended.code == code
    assert ("1 breaks the rule that " in ended.err) == bool(code)


async def test_json_has_the_coverage_and_the_controls(fake: FakeVPS, run: Here) -> None:
    ended = await run("audit", "--rpo", "24h", "--kept", "1", "--json", fake=fake)
    assert ended.code == 1
    read = json.loads(ended.out)
    assert read["counts"]["never"] == 1
    assert [one["state"] for one in read["servers"]] == ["never", "failing", "stuck", "stale", "ok"]
    assert [one["failed"] for one in read["controls"]] == [4, 3]


@pytest.mark.parametrize("text", ["24", "h", "", "0h", "-1h", "1y", "nan", "999999w"])
@pytest.mark.parametrize("option", ["--rpo", "--reach"])
async def test_a_duration_needs_a_unit_and_must_be_sensible(
    fake: FakeVPS, run: Here, option: str, text: str
) -> None:
    rest = () if option == "--rpo" else ("--rpo", "24h")
    ended = await run("audit", f"{option}={text}", *rest, fake=fake)
    assert (ended.code, ended.out, fake.count()) == (2, "", 0)


async def test_a_name_cannot_write_to_the_terminal(fake: FakeVPS, run: Here) -> None:
    fake.add_server(9, "\x1b[2Jgone")
    ended = await run("audit", "--rpo", "24h", fake=fake)
    assert "\x1b" not in ended.out
    assert "?[2Jgone" in ended.out


@pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")
async def test_on_a_terminal_the_audit_is_a_table(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TerminalHere(monkeypatch, "audit", "--rpo", "24h", "-q", fake=fake) as terminal:
        shown = await terminal.end()
    assert shown.splitlines() == [
        "STATE    ID  NAME        AGE  SLOTS  REMARK",
        "never     3  never         -   0/10",
        "failing   4  failing       -   1/10  1 failed since; 1 pinned",
        f"stuck     5  stuck         -   1/10  stuck: {fake.backups[3]['id']}; 1 pinned",
        "stale     2  stale one    2d   1/10  1 pinned",
        "ok        1  ok           2h   1/10  1 pinned",
    ]


async def test_a_refused_token_is_exit_code_3(fake: FakeVPS, run: Here) -> None:
    fake.revoke()
    assert (await run("audit", "--rpo", "24h", fake=fake)).code == 3


# --- Pings ---------------------------------------------------------------------------------------


@pytest.fixture
def monitor() -> Iterator[Any]:
    with monitoring() as made:
        yield made


async def test_a_good_run_pings_its_start_and_its_success(
    fake: FakeVPS, run: Here, monitor: Any
) -> None:
    ended = await run("audit", "1", "--rpo", "24h", "--ping", monitor.url, fake=fake)
    assert (ended.code, ended.err) == (0, "1 ok\n")
    assert monitor.pings == [("/ping/secret-uuid/start", ""), ("/ping/secret-uuid", "1 ok")]


async def test_a_bad_run_pings_its_failure_and_says_what_is_missing(
    fake: FakeVPS, run: Here, monitor: Any
) -> None:
    await run("audit", "--rpo", "24h", "--ping", f"{monitor.url}/?create=1", fake=fake)
    [start, end] = monitor.pings
    assert start[0] == "/ping/secret-uuid/start?create=1"
    assert end[0] == "/ping/secret-uuid/fail?create=1"
    assert end[1].startswith("1 never, 1 failing")


async def test_a_run_that_raises_pings_its_failure(fake: FakeVPS, run: Here, monitor: Any) -> None:
    fake.revoke()
    ended = await run("audit", "--rpo", "24h", "--ping", monitor.url, fake=fake)
    assert ended.code == 3
    assert [path.rpartition("/")[2] for path, _ in monitor.pings] == ["start", "fail"]
    assert monitor.pings[1][1]


async def test_a_monitor_that_fails_breaks_no_run_and_its_secret_is_not_shown(
    fake: FakeVPS, run: Here, monitor: Any
) -> None:
    monitor.status = 500
    ended = await run("audit", "1", "--rpo", "24h", "--ping", monitor.url, fake=fake)
    assert (ended.code, ended.lines[0][:2]) == (0, "ok")
    assert ended.err.count("the ping") == 2
    assert "secret-uuid" not in ended.err


async def test_a_monitor_that_is_not_there_breaks_no_run(fake: FakeVPS, run: Here) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
    ended = await run("audit", "1", "--rpo", "24h", "--ping", url, fake=fake)
    assert ended.code == 0
    assert "the ping /start to 127.0.0.1 failed" in ended.err


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "hc-ping.com/x", "https://", "http://[::1"]
)
async def test_a_ping_to_what_is_no_http_url_is_refused(fake: FakeVPS, run: Here, url: str) -> None:
    ended = await run("audit", "1", "--rpo", "24h", f"--ping={url}", fake=fake)
    assert (ended.code, fake.count()) == (2, 0)
