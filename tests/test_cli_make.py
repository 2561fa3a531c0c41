"""`vpsbackups create` and `wait`: what is started is never lost, however the command ends."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import COMMAND, Ended, Here, call, environment, start

from vpsbackups_async.testing import FakeVPS, Latency, RateLimit

if sys.platform != "win32":
    import fcntl
    import termios


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=100, backup_seconds=0, clock=time.time) as server:
        monkeypatch.setenv("VPS_API_TOKEN", server.token)
        monkeypatch.setenv("VPS_API_URL", server.url)
        yield server


def refs(text: str) -> set[str]:
    return set(text.split())


# --- create --------------------------------------------------------------------------------------


async def test_create_writes_the_ref_of_each_backup(
    fake: FakeVPS, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    fleet = tmp_path / "fleet.txt"
    fleet.write_text("3\n4\n3\n")
    assert await call("create", "7", "--servers-from", str(fleet), "-d", "Nightly") == 0
    said = capfd.readouterr()
    made = {f"{backup['id']}:{backup['server']['id']}" for backup in fake.backups}
    assert refs(said.out) == made
    assert {backup["server"]["id"] for backup in fake.backups} == {3, 4, 7}
    assert {backup["description"] for backup in fake.backups} == {"Nightly"}
    assert re.fullmatch(r"3 started, in \d:\d\d\n", said.err)


async def test_what_create_writes_is_what_wait_reads(fake: FakeVPS, run: Here) -> None:
    started = await run("create", "1", "2", "-q", fake=fake)
    assert (started.code, started.err) == (0, "")
    ended = await run("wait", "--from", "-", "-v", fake=fake, given=started.out)
    assert ended.code == 0
    assert refs(ended.out) == refs(started.out)
    assert "2 completed, in " in ended.err
    assert "1 request, 0 of them repeated, 0 refused with 429, " in ended.err


async def test_a_piped_list_is_what_wait_reads_too(fake: FakeVPS, run: Here) -> None:
    for server_id in (1, 2):
        fake.add_backup(server_id, description="7 8:9")
    listed = await run("list", fake=fake)
    ended = await run("wait", "--from", "-", fake=fake, given=listed.out)
    assert (ended.code, refs(ended.out)) == (0, {"1:1", "2:2"})


@pytest.mark.parametrize(
    ("options", "description"),
    [
        (["--keep", "forever"], "[keep]"),
        (["-d", "Before the move", "--keep", "2027-01-31"], "Before the move [keep:2027-01-31]"),
        (["-d", "Nightly", "--job", "nightly"], "Nightly [job:nightly]"),
        (["-d", "N", "--job", "j", "--keep", "forever"], "N [keep] [job:j]"),
    ],
)
async def test_a_backup_is_pinned_and_labelled_by_options(
    options: list[str], description: str, fake: FakeVPS, run: Here
) -> None:
    assert (await run("create", "1", *options, fake=fake)).code == 0
    assert fake.backups[0]["description"] == description


async def test_a_backup_that_is_made_unless_there_is_one_is_pinned_too(
    fake: FakeVPS, run: Here
) -> None:
    options = ("-d", "Move", "--keep", "forever", "--unless-newer-than", "1h")
    for _ in range(2):
        assert (await run("create", "1", *options, fake=fake)).code == 0
    [made] = fake.backups
    assert made["description"].startswith("Move [keep] [vb:")


async def test_some_that_fail_are_named_and_stop_no_other(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.fails = {2}
    assert await call("create", "1", "2", "3", "777", "--wait", "--timeout", "1m") == 1
    said = capfd.readouterr()
    assert {line.partition(":")[2] for line in said.out.splitlines()} == {"1", "3"}
    assert "server 777: 404 Server not found." in said.err
    assert ": the backup failed (last seen 'failed'" in said.err
    assert "2 completed, 2 failed, in " in said.err
    assert "vpsbackups wait" not in said.err


async def test_a_refused_token_is_said_once_and_nothing_more_is_sent(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.revoke()
    servers = [str(number) for number in range(1, 81)]
    assert await call("create", *servers, "--concurrency", "4") == 3
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("401 Invalid token.") == 1
    assert "were not attempted" in said.err
    assert "VPS_API_TOKEN or --token-file" in said.err
    assert fake.count("POST") <= 4


@pytest.mark.parametrize(
    ("options", "started"),
    [(["--concurrency", "2"], 8), (["--max-running", "3"], 3)],
)
async def test_a_wait_holds_no_place_among_the_creates_unless_told_so(
    options: list[str], started: int, fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.backup_seconds = 600
    servers = [str(number) for number in range(1, 9)]
    assert await call("create", "--wait", "--timeout", "1", *options, *servers) == 4
    assert "8 may still be running" in capfd.readouterr().err
    methods = [seen.method for seen in fake.requests]
    assert methods.index("GET") == started  # the first wait has ended by then
    assert methods.count("POST") == 8


async def test_a_wait_that_times_out_is_exit_code_4_and_says_how_to_go_on(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    fake.backup_seconds = 600
    assert await call("create", "5", "--wait", "--timeout", "0.2s") == 4
    said = capfd.readouterr()
    assert said.out == ""
    assert "it was not completed in time" in said.err
    assert "1 may still be running; to wait for them:\nvpsbackups wait 1:5\n" in said.err
    assert await call("wait", "1:5", "--timeout", "0") == 4
    fake.finish(1)
    assert await call("wait", "1") == 0


async def test_many_waits_that_time_out_are_named_in_a_command_to_paste(
    fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    refs_given = [
        f"{fake.add_backup(number, status='in_progress')['id']}" for number in range(1, 9)
    ]
    assert await call("wait", *refs_given, "--timeout", "0.1", "-q") == 4
    said = capfd.readouterr().err.splitlines()
    assert said[-11:] == [
        "8 may still be running; to wait for them:",
        "vpsbackups wait --from - <<END",
        *refs_given,
        "END",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "no server is named"),
        (["create", "0"], "'0' is not the id of a server"),
        (["create", "1", "-5"], "-5"),
        (["create", "9" * 5000], "is not the id of a server"),
        (["create", "1.5"], "is not the id of a server"),
        (["create", "1", "--concurrency", "0"], "--concurrency is one or more"),
        (["create", "1", "-w", "--max-running", "0"], "--max-running is one or more"),
        (["create", "1", "--durable", "--wait", "--timeout", "2s"], "--durable has no --timeout"),
        (["create", "1", "--durable", "--concurrency", "2"], "--durable has no --concurrency"),
        (["create", "1", "--durable", "--max-running", "2"], "--durable has no --max-running"),
        (["create", "1", "--durable", "--ndjson"], "--durable has no --ndjson"),
        (["create", "1", "--durable", "--not-made-to", "a"], "--durable has no --not-made-to"),
        (["create", "1", "--max-running", "5"], "--max-running is of no use without --wait"),
        (["create", "1", "--timeout", "5m"], "--timeout is of no use without --wait"),
        (["create", "1", "-w", "--timeout", "soon"], "'soon' is no time"),
        (["create", "1", "--keep", "soon"], "--keep 'soon' is no day: give 2027-01-31, or forever"),
        (["create", "1", "--keep", "20270131T10"], "'20270131T10' is no day"),
        (["create", "1", "--job", "a]b"], "--job"),
        (["create", "1", "-d", "[keep", "--keep", "2027-01-31"], "is kept for ever"),
        (["create", "--servers-from", "/nowhere"], "cannot read '/nowhere': No such file"),
        (["wait"], "no backup is named"),
        (["wait", "5:"], "'5:' is no backup"),
        (["wait", "5:x"], "'5:x' is no backup"),
    ],
)
async def test_what_cannot_be_meant_is_a_usage_error_and_nothing_is_sent(
    arguments: list[str], words: str, fake: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    assert await call(*arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.splitlines()[-1] == f"vpsbackups {arguments[0]} --help tells more"
    assert fake.count() == 0


async def test_an_empty_input_of_wait_is_nothing_to_wait_for(fake: FakeVPS, run: Here) -> None:
    ended = await run("wait", "--from", "-", fake=fake, given="# none\n")
    assert (ended.code, ended.out) == (0, "")


async def test_a_line_of_a_file_that_is_no_id_is_named(
    fake: FakeVPS, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "ids").write_text("1\n\n2 two\n")
    assert await call("create", "--servers-from", str(tmp_path / "ids")) == 2
    assert "ids, line 3: 'two' is not the id of a server" in capfd.readouterr().err
    (tmp_path / "ids").write_text("1:1 2:2 by hand 3\nno\n")
    assert await call("wait", "--from", str(tmp_path / "ids")) == 2
    assert "ids, line 2: 'no' is no backup" in capfd.readouterr().err
    assert fake.count() == 0


# --- Ctrl-C --------------------------------------------------------------------------------------


async def interrupted(
    fake: FakeVPS, number: int, *arguments: str, by: signal.Signals = signal.SIGINT
) -> Ended:
    """Run the command, and send it a signal once the server has got `number` POSTs."""
    enough = asyncio.Event()

    def seen(_: object) -> None:
        if fake.count("POST") >= number:
            enough.set()

    fake.on_request = seen
    process = await start(*arguments, fake=fake)
    await enough.wait()
    process.send_signal(by)
    out, err = await process.communicate()
    return Ended(process.returncode, out, err)


@pytest.mark.parametrize(
    ("by", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
async def test_creates_under_way_are_finished_named_and_can_be_waited_for(
    fake: FakeVPS, by: signal.Signals, code: int, run: Here
) -> None:
    fake.inject(Latency(0.5, method="POST"))
    servers = [str(number) for number in range(1, 31)]
    ended = await interrupted(fake, 4, "create", *servers, "--concurrency", "4", by=by)
    assert ended.code == code
    made = {f"{backup['id']}:{backup['server']['id']}" for backup in fake.backups}
    assert len(made) == 4
    assert refs(ended.out) == made
    said = ended.err.splitlines()
    assert said[:2] == [
        "interrupted: 4 of 30 backups were started",
        "4 may still be running; to wait for them:",
    ]
    assert set(said[2].split()) == {"vpsbackups", "wait"} | made
    again = await run(*said[2].split()[1:], fake=fake)
    assert (again.code, refs(again.out)) == (0, made)


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of Windows has no trap")
async def test_a_hangup_that_is_ignored_ends_nothing(fake: FakeVPS) -> None:
    """As with `nohup`."""
    fake.inject(Latency(0.3, method="POST"))
    begun = asyncio.Event()
    fake.on_request = lambda _: begun.set()
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'trap "" HUP; exec "$@"', "sh", *COMMAND, "create", "1", "2"),
        env=environment(fake),
        stdout=-1,
    )
    await begun.wait()
    process.send_signal(signal.SIGHUP)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert len(out.splitlines()) == 2


async def test_many_that_run_are_named_in_a_command_to_paste(fake: FakeVPS) -> None:
    fake.backup_seconds = 600
    servers = [str(number) for number in range(1, 41)]
    ended = await interrupted(fake, 40, "create", "--wait", *servers)
    assert (ended.code, ended.out) == (130, "")
    head, *lines, last = ended.err.splitlines()[2:]
    assert (head, last) == ("vpsbackups wait --from - <<END", "END")
    assert max(map(len, lines)) < 80
    made = {f"{backup['id']}:{backup['server']['id']}" for backup in fake.backups}
    assert len(made) == 40
    assert refs(" ".join(lines)) == made


async def test_very_many_are_left_to_the_list(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("vpsbackups_async.cli.pasting.AT_MOST", 5)
    fake.backup_seconds = 600
    servers = [str(number) for number in range(1, 7)]
    assert await call("create", "--wait", "--timeout", "0.1", *servers) == 4
    assert capfd.readouterr().err.splitlines()[-1] == (
        "vpsbackups list --type manual --status in_progress | vpsbackups wait --from -"
    )


async def test_a_reader_that_goes_away_stops_the_creates_and_they_are_named(
    fake: FakeVPS,
) -> None:
    reading, writing = os.pipe()
    process = await start(
        "create", *map(str, range(1, 31)), "--concurrency", "1", fake=fake, stdout=writing
    )
    os.close(writing)
    assert await asyncio.to_thread(os.read, reading, 4)
    os.close(reading)
    _, err = await process.communicate()
    assert process.returncode == 1
    said = err.decode()
    made = {f"{backup['id']}:{backup['server']['id']}" for backup in fake.backups}
    assert len(made) < 30
    assert made <= refs(said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
async def test_a_full_disk_stops_the_creates_and_they_are_named(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    with open("/dev/full", "w") as full:  # noqa: ASYNC230, PTH123  # it is what is printed to
        monkeypatch.setattr(sys, "stdout", full)
        assert await call("create", *map(str, range(1, 31)), "--concurrency", "1") == 1
    made = [f"{backup['id']}:{backup['server']['id']}" for backup in fake.backups]
    assert 0 < len(made) < 30
    assert capfd.readouterr().err.splitlines() == [
        f"stopped: {len(made)} of 30 backups were started",
        f"{len(made)} may still be running; to wait for them:",
        f"vpsbackups wait {' '.join(made)}",
        "error: No space left on device: standard output",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
async def test_a_log_that_cannot_be_written_stops_no_create(fake: FakeVPS) -> None:
    servers = ["404", "405", *map(str, range(1, 31))]
    with open("/dev/full", "w") as full:  # noqa: ASYNC230, PTH123  # it is what is printed to
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "create", "--concurrency", "1", *servers),
            env=environment(fake),
            stdout=-1,
            stderr=full,
        )
    out, _ = await process.communicate()
    assert process.returncode == 1
    assert len(out.splitlines()) == len(fake.backups) == 30


@pytest.mark.skipif(sys.platform == "win32", reason="there are no ptys")
async def test_a_terminal_that_is_closed_ends_the_creates_in_order(
    fake: FakeVPS, tmp_path: Path
) -> None:
    fake.inject(Latency(0.5, method="POST"))
    begun = asyncio.Event()
    fake.on_request = lambda _: fake.count("POST") >= 4 and begun.set()
    left = tmp_path / "left"
    mine, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "create", "--concurrency", "4", "--not-made-to", str(left)),
        *map(str, range(1, 31)),
        env=environment(fake),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that it gets a SIGHUP
    )
    os.close(theirs)
    await begun.wait()
    os.close(mine)
    assert await process.wait() == 129
    made = {backup["server"]["id"] for backup in fake.backups}
    kept = set(map(int, left.read_text().split()))
    assert (made & kept, made | kept) == (set(), set(range(1, 31)))


async def test_a_429_is_waited_out_and_counted(fake: FakeVPS, capfd: pytest.CaptureFixture) -> None:
    fake.inject(RateLimit(retry_after=0, method="POST", times=1))
    assert await call("create", "1", "-v") == 0
    assert "1 refused with 429" in capfd.readouterr().err


async def test_backups_that_were_seen_completed_are_not_named_as_running_without_a_reader(
    fake: FakeVPS,
) -> None:
    refs = [f"{fake.add_backup(1)['id']}:1" for _ in range(20)]
    reader, writer = os.pipe()
    process = await start("wait", *refs, fake=fake, stdout=writer)
    os.close(writer)
    os.close(reader)
    _, said = await process.communicate()
    assert process.returncode == 1
    assert b"still be running" not in said
