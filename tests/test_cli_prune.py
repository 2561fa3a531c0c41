"""`vpsbackups prune` and `rotate`: nothing is deleted unless it was asked for."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator

import pytest
from helpers_cli import Here, Terminal, TerminalHere, start
from helpers_monitor import monitoring
from helpers_pruning import JOB, add, add_nights, deletes, held

from vpsbackups_async.testing import FakeVPS, Latency, Reply, SeenRequest, ServerFault

LAST_TWO = ("--keep-last", "2", "--job", JOB)


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers={7: "web-7", 8: "db-8"}, clock=time.time) as server:
        yield server


def make_at_once(fake: FakeVPS) -> None:
    """Let each create make a backup that is completed when the answer comes."""

    def make(seen: SeenRequest) -> None:
        if seen.method == "POST":
            made = fake.add_backup(7, description=f"Nightly [job:{JOB}]")
            fake.inject(Reply(201, json.dumps(made).encode(), method="POST", times=1))

    fake.on_request = make


# --- prune ---------------------------------------------------------------------------------------


async def test_prune_shows_what_would_go_and_deletes_nothing(fake: FakeVPS, run: Here) -> None:
    ids = add_nights(fake, 7, 4, size_mb=4000)
    add(fake, 8, 3, description="By hand")
    ended = await run("prune", "--all", *LAST_TWO, fake=fake)
    assert ended.code == 0
    rows = [line.split() for line in ended.lines]
    assert [(row[0], row[1]) for row in rows] == [
        ("keep", "5:8"),
        ("keep", f"{ids[3]}:7"),
        ("keep", f"{ids[2]}:7"),
        ("delete", f"{ids[1]}:7"),
        ("delete", f"{ids[0]}:7"),
    ]
    assert ended.lines[-1].endswith("(no rule)")
    assert "2 would be deleted, 8,000 MB; nothing was deleted: --apply does it" in ended.err
    assert deletes(fake) == []


async def test_prune_shows_a_table_on_a_terminal(fake: FakeVPS) -> None:
    add_nights(fake, 7, 3)
    async with Terminal("prune", "-s", "7", *LAST_TWO, fake=fake) as terminal:
        shown = await terminal.end()
    lines = shown.splitlines()
    assert lines[0].split() == ["DO", "ID", "SERVER", "NAME", "STATUS", "SIZE", "AGE", "WHY"]
    assert [line.split()[0] for line in lines[1:4]] == ["keep", "keep", "delete"]
    assert terminal.code == 0


@pytest.mark.parametrize("columns", [120, 80, 60, 45])
@pytest.mark.parametrize("name", ["web", "server-0007", "a-server-with-a-rather-long-name"])
async def test_a_plan_on_a_terminal_of_any_width_says_why(
    name: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeVPS(servers={1234567: name}) as fake:
        add_nights(fake, 1234567, 3)
        words = ("prune", "-s", "1234567", *LAST_TWO)
        async with TerminalHere(monkeypatch, *words, fake=fake, columns=columns) as terminal:
            header, *rows = (await terminal.end()).splitlines()[:4]
    at = header.index("WHY")
    assert [row[at:] for row in rows] == ["last", "last", "no rule"]
    assert max(map(len, (header, *rows))) <= columns


async def test_prune_with_apply_deletes_and_names_each(fake: FakeVPS, run: Here) -> None:
    ids = add_nights(fake, 7, 4)
    ended = await run("prune", "-s", "7", *LAST_TWO, "--apply", fake=fake)
    assert (ended.code, ended.lines) == (0, [f"{ids[0]}:7", f"{ids[1]}:7"])
    assert held(fake, 7) == ids[2:]
    assert "2 deleted" in ended.err


async def test_prune_says_which_deletions_failed(fake: FakeVPS, run: Here) -> None:
    ids = add_nights(fake, 7, 4)
    fake.inject(ServerFault(500, method="DELETE", path=f"/{ids[0]}/"))
    fake.inject(Reply(403, b"{}", method="DELETE", path=f"/{ids[1]}/"))
    ended = await run("prune", "-s", "7", *LAST_TWO, "--apply", fake=fake)
    assert ended.code == 1
    assert f"backup {ids[1]}:7: 403" in ended.err
    assert f"backup {ids[0]}:7" in ended.err
    assert "0 deleted, 2 not" in ended.err


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (("--max-deletions", "1"), "more than --max-deletions 1 allows"),
        (("--max-fraction", "0.4"), "more than --max-fraction 0.4 allows"),
    ],
)
async def test_prune_says_without_apply_too_that_its_limits_would_refuse(
    fake: FakeVPS, run: Here, limit: tuple[str, str], words: str
) -> None:
    add_nights(fake, 7, 4)
    ended = await run("prune", "-s", "7", *LAST_TWO, *limit, fake=fake)
    assert ended.code == 1
    assert len(ended.lines) == 4
    assert "--apply would refuse this: 2 " in ended.err
    assert words in ended.err


@pytest.mark.parametrize(
    "limit",
    [("--max-deletions", "-1"), ("--max-fraction", "2"), ("--max-fraction", "0")],
)
async def test_prune_refuses_limits_that_cannot_be_before_it_reads(
    fake: FakeVPS, run: Here, limit: tuple[str, str]
) -> None:
    ended = await run("prune", "-s", "7", *LAST_TWO, *limit, fake=fake)
    assert ended.code == 2
    assert f"error: {limit[0]} is " in ended.err
    assert fake.requests == []


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (("--max-deletions", "1"), "more than --max-deletions 1 allows"),
        (("--max-fraction", "0.4"), "more than --max-fraction 0.4 allows"),
    ],
)
async def test_prune_refuses_beyond_its_limits(
    fake: FakeVPS, run: Here, limit: tuple[str, str], words: str
) -> None:
    add_nights(fake, 7, 4)
    ended = await run("prune", "-s", "7", *LAST_TWO, "--apply", *limit, fake=fake)
    assert ended.code == 1
    assert words in ended.err
    assert deletes(fake) == []


async def test_prune_names_servers_of_which_nothing_can_be_decided(
    fake: FakeVPS, run: Here
) -> None:
    ids = add_nights(fake, 7, 4)
    fake.inject(Reply(403, b"{}", query={"server_id": 8}))
    ended = await run("prune", "-s", "7", "-s", "8", *LAST_TWO, "--apply", fake=fake)
    assert ended.code == 1
    assert "server 8: 403" in ended.err
    assert held(fake, 7) == ids[2:]


async def test_an_interrupted_prune_names_what_was_deleted_and_what_may_be(fake: FakeVPS) -> None:
    ids = add_nights(fake, 7, 6)
    second = asyncio.Event()

    def watch(seen: SeenRequest) -> None:
        if seen.method == "DELETE" and seen.path.endswith(f"/{ids[1]}/"):
            second.set()

    fake.on_request = watch
    fake.inject(Latency(60, method="DELETE", path=f"/{ids[1]}/"))
    limits = ("--apply", "--max-fraction", "1")
    process = await start("prune", "-s", "7", *LAST_TWO, *limits, fake=fake)
    async with asyncio.timeout(30):
        await second.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    said = " ".join(err.decode().split())
    assert (process.returncode, out) == (130, b"")
    assert f"said of {ids[0]}:7 that it deleted them, and may have deleted {ids[1]}:7" in said
    assert "interrupted: 0 of 4 deletions were confirmed before" in said


@pytest.mark.parametrize("apply", [(), ("--apply",)])
async def test_prune_says_which_of_the_named_servers_have_no_manual_backups(
    fake: FakeVPS, run: Here, apply: tuple[str, ...]
) -> None:
    add_nights(fake, 7, 4)
    add(fake, 8, 3, backup_type="automatic")
    ended = await run("prune", "-s", "7", "-s", "8", "-s", "99", *LAST_TWO, *apply, fake=fake)
    assert ended.code == 0
    assert "server 8: no manual backups\nserver 99: no manual backups\n" in ended.err
    assert "server 7: no" not in ended.err
    every = await run("prune", "--all", *LAST_TWO, *apply, fake=fake)
    assert "no manual backups" not in every.err


@pytest.mark.parametrize("command", ["prune", "rotate"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--keep-last", "2", "--job", "x"), "no server is named"),
        (("--all", "-s", "7", "--keep-last", "2", "--job", "x"), "--all is every server"),
        (("--all", "--job", "x"), "nothing would be kept"),
        (("--all", "--job", "x", "--keep-daily", "-1"), "--keep-daily is zero or more"),
        (("--all", "--job", "a b", "--keep-daily", "1"), "job must be a text"),
        (("--all", "--job", "x", "--keep-daily", "1", "--tz", "Mars/Base"), "Mars/Base"),
        (("--all", "--job", "x", "--keep-within", "soon"), "--keep-within 'soon' is no time"),
        (("--all", "--job", "x", "--keep-within", "30"), "--keep-within '30' is no time"),
        (
            ("--all", "--job", "x", "--keep-within", "0d"),
            "--keep-within '0d' must be more than zero",
        ),
    ],
)
async def test_options_that_make_no_policy_are_refused(
    fake: FakeVPS, run: Here, command: str, arguments: tuple[str, ...], words: str
) -> None:
    ended = await run(command, *arguments, fake=fake)
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert fake.requests == []


async def test_all_rules_and_the_zone_come_from_the_options(fake: FakeVPS, run: Here) -> None:
    for number in range(1, 9):
        add(fake, 7, number * 40, description="Nightly")
    rules = [
        f"--keep-{rule}" for rule in ("last", "daily", "weekly", "monthly", "yearly", "hourly")
    ]
    given = [part for rule in rules for part in (rule, "1")]
    ended = await run(
        "prune", "-s", "7", *given, "--keep-within", "3d", "--tz", "Asia/Tokyo", fake=fake
    )
    assert ended.code == 0
    assert ended.lines[0].endswith("(within 3 days, 0:00:00)")
    assert {line.split()[0] for line in ended.lines} == {"keep", "delete"}


# --- rotate --------------------------------------------------------------------------------------


async def test_rotate_makes_verifies_and_deletes(fake: FakeVPS, run: Here) -> None:
    ids = add_nights(fake, 7, 3)
    make_at_once(fake)
    ended = await run("rotate", "-s", "7", *LAST_TWO, "-d", "Nightly", fake=fake)
    new = max(held(fake, 7))
    assert (ended.code, ended.lines) == (0, [f"{new}:7"])
    assert held(fake, 7) == [ids[2], new]
    assert "1 made, 2 deleted" in ended.err


async def test_rotate_on_a_terminal_says_what_it_deleted(fake: FakeVPS) -> None:
    ids = add_nights(fake, 7, 3)
    make_at_once(fake)
    async with Terminal("rotate", "-s", "7", *LAST_TWO, fake=fake) as terminal:
        shown = await terminal.end()
    new = max(held(fake, 7))
    assert f"made {new}:7, deleted {ids[0]}:7 {ids[1]}:7" in shown


async def test_rotate_pings_how_it_went(fake: FakeVPS, run: Here) -> None:
    add_nights(fake, 7, 3)
    make_at_once(fake)
    with monitoring() as monitor:
        await run("rotate", "-s", "7", *LAST_TWO, "--ping", monitor.url, fake=fake)
        await run("rotate", "-s", "404", *LAST_TWO, "--ping", monitor.url, fake=fake)
    ends = [(path.rpartition("/")[2], text) for path, text in monitor.pings]
    assert ends == [
        ("start", ""),
        ("secret-uuid", "1 made, 2 deleted"),
        ("start", ""),
        ("fail", "0 made, 0 deleted, 1 failed"),
    ]


async def test_a_dry_run_of_rotate_pings_nobody(fake: FakeVPS, run: Here) -> None:
    with monitoring() as monitor:
        await run("rotate", "-s", "7", *LAST_TWO, "--dry-run", "--ping", monitor.url, fake=fake)
    assert monitor.pings == []


async def test_rotate_with_dry_run_only_shows(fake: FakeVPS, run: Here) -> None:
    ids = add_nights(fake, 7, 3)
    ended = await run("rotate", "-s", "7", *LAST_TWO, "--dry-run", fake=fake)
    assert ended.code == 0
    assert [line.split()[:2] for line in ended.lines] == [
        ["keep", f"{ids[2]}:7"],
        ["delete", f"{ids[1]}:7"],
        ["delete", f"{ids[0]}:7"],
    ]
    assert "2 would be deleted; nothing was done" in ended.err
    assert {seen.method for seen in fake.requests} == {"GET"}


async def test_a_dry_run_names_the_one_that_makes_room_and_what_has_none(
    fake: FakeVPS, run: Here
) -> None:
    add_nights(fake, 7, 9)
    failed = add(fake, 7, 0.5, status="failed")
    add_nights(fake, 8, 10)
    options = ("--keep-daily", "6", "--keep-weekly", "2", "--job", JOB, "--dry-run")
    ended = await run("rotate", "--all", *options, fake=fake)
    assert ended.code == 1
    assert f"backup {failed}:7 would be deleted first, to free a place" in ended.err
    assert "server 8: the server holds 10 of 10 manual backups" in ended.err


async def test_rotate_says_which_backup_was_started_where_it_failed(
    fake: FakeVPS, run: Here
) -> None:
    add_nights(fake, 7, 6)
    make_at_once(fake)
    ended = await run("rotate", "-s", "7", *LAST_TWO, fake=fake)
    assert (ended.code, ended.out) == (1, "")
    assert "server 7: 5 of the 7 backups of server 7 were to be deleted" in ended.err
    assert "backup 7 of server 7 was started: nothing was deleted after it" in ended.err
    assert "0 made, 0 deleted, 1 failed" in ended.err
    assert deletes(fake) == []


async def test_rotate_needs_a_job(fake: FakeVPS, run: Here) -> None:
    ended = await run("rotate", "-s", "7", "--keep-last", "2", fake=fake)
    assert ended.code == 2
    assert "--job NAME is needed" in ended.err


async def test_rotate_refuses_no_running_backup_at_all(fake: FakeVPS, run: Here) -> None:
    ended = await run("rotate", "-s", "7", *LAST_TWO, "--max-running", "0", fake=fake)
    assert ended.code == 2


async def test_an_interrupted_rotation_names_the_backups_that_may_still_run(fake: FakeVPS) -> None:
    ids = add_nights(fake, 7, 3)
    fake.backup_seconds = 1000
    looking = asyncio.Event()

    def watch(seen: SeenRequest) -> None:
        if seen.method == "GET" and fake.count("POST"):
            looking.set()  # the wait has begun

    fake.on_request = watch
    process = await start("rotate", "-s", "7", *LAST_TWO, fake=fake)
    async with asyncio.timeout(30):
        await looking.wait()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    new = max(held(fake, 7))
    assert process.returncode == 130
    assert "interrupted: 1 of 1 backups were started" in err.decode()
    assert f"vpsbackups wait {new}:7" in err.decode()
    assert held(fake, 7) == [*ids, new]


async def test_a_backup_that_was_refused_after_its_end_is_not_named_as_running(
    fake: FakeVPS, run: Here
) -> None:
    add_nights(fake, 7, 6)
    make_at_once(fake)
    ended = await run("rotate", "-s", "7", *LAST_TWO, fake=fake)
    assert "may still be running" not in ended.err
