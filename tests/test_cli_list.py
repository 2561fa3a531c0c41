"""`vpsbackups list` and `show`: what is read, how it comes out, and how little that holds."""

import asyncio
import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import COMMAND, Here, call, environment, set_environment, start
from helpers_cli import run as run_a_process
from helpers_pages import serve_pages

from vpsbackups_async.cli import main
from vpsbackups_async.testing import FakeVPS, Latency, Reply

CREATED = "2026-01-16T15:45:00Z"


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=5, clock=time.time) as server:
        yield server


def ids(lines: list[str]) -> list[int]:
    return [int(line.partition(":")[0]) for line in lines]


# --- What is listed ------------------------------------------------------------------------------


async def test_a_piped_list_is_a_line_a_backup_that_begins_with_its_ref(
    fake: FakeVPS, run: Here
) -> None:
    fake.add_backup(2, description="Before  the\nupgrade", size_mb=4100, created_at=CREATED)
    fake.add_backup(2, status="in_progress", created_at=CREATED)
    ended = await run("list", fake=fake)
    assert (ended.code, ended.err) == (0, "")
    assert len(ended.lines) == 17
    assert re.fullmatch(
        r"17:2 +manual +in_progress +- 2026-01-16T15:45:00Z  server-0002", ended.lines[0]
    )
    assert re.fullmatch(
        r"16:2 +manual +completed +4100 2026-01-16T15:45:00Z  server-0002 +Before the upgrade",
        ended.lines[1],
    )


async def test_the_filters_that_the_api_has_are_left_to_it(fake: FakeVPS, run: Here) -> None:
    fake.add_backup(2)
    ended = await run("list", "--server", "2", "--type", "manual", fake=fake)
    assert ids(ended.lines) == [16]
    asked = fake.requests[0].query
    assert asked == {"server_id": "2", "backup_type": "manual", "page_size": "100"}


async def test_servers_may_be_repeated_and_come_from_a_file_or_standard_input(
    fake: FakeVPS, tmp_path: Path, run: Here
) -> None:
    file = tmp_path / "fleet.txt"
    file.write_text("# the web servers\n1, 2  # both\n\n2\n")
    for arguments, given in (
        (["-s", "1", "-s", "2"], None),
        (["--servers-from", str(file)], None),
        (["-s", "2", "--servers-from", "-"], "1\n"),
    ):
        ended = await run("list", *arguments, fake=fake, given=given)
        assert ended.code == 0
        assert len(ended.lines) == 10
        assert {line.split()[0].partition(":")[2] for line in ended.lines} == {"1", "2"}


async def test_since_takes_ages_and_dates_and_status_takes_words(fake: FakeVPS, run: Here) -> None:
    fake.add_backup(1, created_at="2020-05-01T12:00:00Z", status="aborted")
    fake.add_backup(1, created_at="2020-05-03T12:00:00Z", status="in_progress")
    for arguments, found in (
        (["--since", "5m"], []),
        (["--since", "yesterday"], None),
        (["--since", "2020-05-02", "-t", "manual"], [17]),
        (["--since", "2020-05-01T12:00:00+00:00", "-t", "manual"], [17, 16]),
        (["--status", "failed"], [16]),
        (["--status", "raw:aborted", "--status", "In_Progress"], [17, 16]),
        (["--since", "7d", "-n", "1"], [15]),
    ):
        ended = await run("list", *arguments, fake=fake)
        if found is None:
            assert ended.code == 2
        else:
            assert (ended.code, ids(ended.lines)) == (0, found)


async def test_a_limit_asks_for_no_more_than_it_needs(fake: FakeVPS, run: Here) -> None:
    assert ids((await run("list", "--limit", "2", fake=fake)).lines) == [15, 14]
    assert [seen.query for seen in fake.requests] == [{"page_size": "2"}]
    assert (await run("list", "--limit", "0", fake=fake)).out == ""


async def test_what_sorts_by_reading_all_needs_a_limit_and_is_held_to_it(
    fake: FakeVPS, run: Here
) -> None:
    fake.page_size = 4
    fake.max_page_size = 4
    for number, megabytes in enumerate((5000, 1, 9000, None)):
        fake.add_backup(1 + number % 3, size_mb=megabytes)
    ended = await run("list", "--sort=-size", "--limit", "2", fake=fake)
    assert ids(ended.lines) == [18, 16]
    ended = await run("list", "--sort", "created", "-n", "1", fake=fake)
    assert ids(ended.lines)[0] in {1, 2, 3}
    ended = await run("list", "--sort", "server", "-s", "3", "-s", "1", "-n", "6", fake=fake)
    assert [line.split()[0].partition(":")[2] for line in ended.lines] == ["3"] * 6
    for arguments, words in (
        (["--sort", "size"], "give --limit N"),
        (["--sort", "size", "--limit", "10001"], "10,000 at most"),
        (["--sort", "server"], "name them"),
        (["--sort", "colour"], "--sort takes server, id, created, size, name"),
    ):
        ended = await run("list", *arguments, fake=fake)
        assert (ended.code, ended.out) == (2, "")
        assert words in ended.err


async def test_a_server_that_does_not_know_page_size_is_asked_without(
    fake: FakeVPS, run: Here
) -> None:
    fake.inject(Reply(400, b'{"page_size": ["Unknown parameter."]}', times=1))
    ended = await run("list", fake=fake)
    assert (ended.code, len(ended.lines)) == (0, 15)
    assert "page_size" not in fake.requests[1].query
    fake.inject(Reply(400, b'{"detail": "No."}'))
    assert (await run("list", fake=fake)).code == 1


async def test_a_server_of_many_that_fails_stops_no_other(fake: FakeVPS, run: Here) -> None:
    fake.inject(Reply(404, b'{"detail": "No such server."}', path="server_id=2"))
    ended = await run("list", "-s", "1", "-s", "2", "-s", "3", fake=fake)
    assert ended.code == 1
    assert len(ended.lines) == 10
    assert ended.err.startswith("server 2: 404 No such server.")


# --- How it comes out ----------------------------------------------------------------------------


async def test_json_ndjson_and_csv_hold_the_same_backups(fake: FakeVPS, run: Here) -> None:
    fake.add_backup(2, description='a "b",\nc', size_mb=None)
    array = json.loads((await run("list", "--json", fake=fake)).out)
    lines = (await run("list", "--ndjson", fake=fake)).lines
    assert [json.loads(line) for line in lines] == array
    assert len(array) == 16
    assert array[0]["description"] == 'a "b",\nc'
    table = list(csv.DictReader(io.StringIO((await run("list", "--csv", fake=fake)).out)))
    assert [int(row["id"]) for row in table] == [backup["id"] for backup in array]
    assert table[0]["description"] == 'a "b",\nc'
    assert (table[0]["size_mb"], table[0]["expires_at"]) == ("", "")
    assert table[1]["expires_at"] == array[1]["expires_at"]


@pytest.mark.parametrize(
    ("form", "empty"), [("--json", "[]\n"), ("--ndjson", ""), ("--csv", None), ("-q", "")]
)
async def test_an_empty_list_is_well_formed(form: str, empty: str | None, run: Here) -> None:
    async with FakeVPS(servers=1) as fake:
        ended = await run("list", form, fake=fake)
    assert ended.code == 0
    if empty is None:
        assert ended.out.startswith("id,server_id,")
        assert len(ended.lines) == 1
    else:
        assert ended.out == empty


async def test_a_json_array_that_breaks_off_is_not_closed(fake: FakeVPS, run: Here) -> None:
    fake.page_size = fake.max_page_size = 5
    fake.inject(Reply(403, b'{"detail": "No."}', path="page=3"))
    ended = await run("list", "--json", fake=fake)
    assert ended.code == 1
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(ended.out)


async def test_forms_exclude_each_other(fake: FakeVPS, run: Here) -> None:
    ended = await run("list", "--json", "--csv", fake=fake)
    assert (ended.code, fake.count()) == (2, 0)


async def test_nothing_is_shown_that_a_terminal_would_obey(fake: FakeVPS) -> None:
    fake.add_backup(1, description="\x1b[2J gone \x9b2J \x7f \U000e0001 \u0175")
    for encoding, shown in (
        ("utf-8", "?[2J gone ?2J ? ? \u0175"),
        ("ascii", "?[2J gone ?2J ? ? ?"),
    ):
        ended = await run_a_process("list", fake=fake, PYTHONIOENCODING=encoding)
        assert ended.code == 0
        assert ended.lines[0].endswith(shown)
    line = (await run_a_process("list", "--ndjson", "-n", "1", fake=fake)).out
    assert line.strip().isprintable()
    assert json.loads(line)["description"] == "\x1b[2J gone \x9b2J \x7f \U000e0001 \u0175"


# --- Streaming -----------------------------------------------------------------------------------


async def test_a_reader_that_has_enough_ends_the_command_quietly() -> None:
    async with FakeVPS(servers=100, backups=50) as fake:
        for form in ("--ndjson", "--csv", "-q"):
            reading, writing = os.pipe()
            process = await start("list", form, fake=fake, stdout=writing)
            os.close(writing)
            assert await asyncio.to_thread(os.read, reading, 10)
            os.close(reading)
            _, err = await process.communicate()
            assert (process.returncode, err) == (0, b"")
        assert fake.count() < 3 * 50


async def test_the_first_rows_show_while_the_rest_is_on_its_way(fake: FakeVPS) -> None:
    fake.page_size = fake.max_page_size = 5
    fake.inject(Latency(600, path="page=2"))
    for arguments in (["list"], ["list", "-s", "1", "-s", "2"]):
        if len(arguments) > 1:
            fake.clear_faults()
            fake.inject(Latency(600, path="server_id=2"))
        process = await start(*arguments, fake=fake)
        assert process.stdout is not None
        for _ in range(5):
            assert (await process.stdout.readline()).endswith(b"Automatic daily backup\n")
        process.send_signal(signal.SIGTERM)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (143, b"", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
async def test_a_full_disk_is_an_error_in_one_line(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    set_environment(monkeypatch, environment(fake))
    with open("/dev/full", "w") as full:  # noqa: ASYNC230, PTH123  # it is what is printed to
        monkeypatch.setattr(sys, "stdout", full)
        assert await asyncio.to_thread(main, ["list"]) == 1
    assert capfd.readouterr().err == "error: No space left on device: standard output\n"


async def test_an_interrupt_is_exit_code_130_without_a_word(fake: FakeVPS) -> None:
    fake.inject(Latency(600))
    asked = asyncio.Event()
    fake.on_request = lambda _: asked.set()
    process = await start("list", fake=fake)
    await asked.wait()
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (130, b"", b"")


@pytest.mark.skipif(sys.platform == "win32", reason="the shell of Windows has no trap")
def test_tests_that_interrupt_end_where_they_are_started_with_ctrl_c_ignored() -> None:
    """As by a script that starts them with `&`; processes inherit what their parent ignores."""
    test = f"{__file__}::{test_an_interrupt_is_exit_code_130_without_a_word.__name__}"
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout=20", test)
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak of memory")
async def test_the_memory_of_a_list_does_not_grow_with_it() -> None:
    code = (
        "import sys\nfrom vpsbackups_async.cli import main\n"
        "assert main(['list', '--ndjson']) == 0\n"
        "print(open('/proc/self/status').read(), file=sys.stderr)"
    )
    peaks = []
    for total in (1_000, 50_000):
        server = await serve_pages(total)
        port = server.sockets[0].getsockname()[1]
        given = {"VPS_API_TOKEN": "vps_x", "VPS_API_URL": f"http://127.0.0.1:{port}"}
        process = await asyncio.create_subprocess_exec(
            COMMAND[0], "-c", code, env=environment(None, **given), stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert process.returncode == 0
        assert out.count(b"\n") == total
        found = re.search(rb"VmHWM:\s+(\d+) kB", err)
        assert found is not None
        peaks.append(int(found[1]))
        server.close()
    assert peaks[1] - peaks[0] < 12_000  # kB; what is written is 12 MB


# --- In this process, where coverage sees it -----------------------------------------------------


@pytest.fixture
def in_env(fake: FakeVPS, monkeypatch: pytest.MonkeyPatch) -> FakeVPS:
    monkeypatch.setenv("VPS_API_TOKEN", fake.token)
    monkeypatch.setenv("VPS_API_URL", fake.url)
    return fake


async def test_main_lists_and_returns_its_exit_code(
    in_env: FakeVPS, capfd: pytest.CaptureFixture
) -> None:
    in_env.add_backup(1, description="\x9b")
    for form in ("-q", "--ndjson", "--csv"):
        assert await call("list", form, "--server", "1") == 0
        assert len(capfd.readouterr().out.splitlines()) == 6 + (form == "--csv")
    assert await call("list", "--json", "-s", "1", "-s", "2", "--since", "2020-01-01") == 0
    assert len(json.loads(capfd.readouterr().out)) == 11
    assert await call("list", "--sort", "-id", "-n", "1") == 0
    assert ids(capfd.readouterr().out.splitlines()) == [16]
    in_env.revoke()
    assert await call("list") == 3
    assert await call("list", "-s", "1", "-s", "2") == 3
    in_env.allow()
    in_env.forbid()
    assert await call("list") == 1
    assert "401" in capfd.readouterr().err


async def test_main_ends_quietly_when_nobody_reads(
    in_env: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_env.inject(Latency(0.3, path="server_id=2"))
    for arguments in (["list"], ["list", "-s", "1", "-s", "2"]):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert await call(*arguments) == 0


async def test_a_reader_that_goes_away_between_two_servers_ends_it_too(
    in_env: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_env.inject(Latency(0.5, path="server_id=3"))
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        running = asyncio.create_task(call("list", "-s", "1", "-s", "2", "-s", "3"))
        assert await asyncio.to_thread(os.read, reading, 1)
        os.close(reading)  # while what else the first two gave waits for a moment
        assert await running == 0


async def test_what_is_no_file_takes_rows_as_well(
    in_env: FakeVPS, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert await call("list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 15


async def test_show_gives_one_backup_in_full(in_env: FakeVPS, capfd: pytest.CaptureFixture) -> None:
    made = in_env.add_backup(2, description="a\nb", created_at=CREATED, size_mb=4100)
    assert await call("show", "16:2") == 0
    said = capfd.readouterr().out
    for line in (
        "backup       16",
        "server       2 server-0002",
        "size         4100 MB",
        "expires      never",
        "description  a b",
    ):
        assert line in said.splitlines()
    assert "created      2026-01-16 15:45 UTC (" in said
    assert await call("show", "16", "--json") == 0
    assert json.loads(capfd.readouterr().out) == made
    assert await call("show", "15") == 0
    assert "expires      2" in capfd.readouterr().out
    assert await call("show", "99") == 1
    assert "backup 99 is not in the list" in capfd.readouterr().err
    assert await call("show", "16:2:3") == 2
