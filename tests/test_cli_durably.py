"""`vpsbackups create --durable`: what it does with the run of the same command before it."""

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from helpers_cli import environment, run, start
from helpers_durable import created, held_posts, looks, posts, until

from vpsbackups_async.testing import FakeVPS, Reply

pytestmark = pytest.mark.durable

COMMAND = ("create", "1", "2", "-d", "Nightly", "--durable")
A_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=0, backup_seconds=0.2) as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


@pytest.fixture
def database(file: Path) -> str:
    return f"sqlite:///{file}"


def change(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute(statement)
        connection.commit()


async def killed(fake: FakeVPS, database: str) -> None:
    """Kill the command while both of its creates are carried out and not answered."""
    fake.inject(held_posts(2))
    before = len(posts(fake))
    process = await start(*COMMAND, fake=fake, VPSBACKUPS_DATABASE=database)
    await until(lambda: len(posts(fake)) == before + 2)
    process.kill()
    await process.communicate()


@pytest.mark.parametrize("failed", [0, 1])
async def test_a_run_that_ended_untold_is_told_once_and_the_same_command_after_it_makes_new_backups(
    real_fake: FakeVPS, file: Path, database: str, failed: int
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    await killed(real_fake, database)
    assert (await run("run", "work", "--until-done", **place)).code == 0
    if failed:
        change(file, "UPDATE fleet_items SET state = 'failed' WHERE server = 1")
    said = await run(*COMMAND, **place)
    assert said.code == failed
    how = "1 completed, 1 failed" if failed else "2 completed"
    first, *rest, last = said.err.splitlines()
    assert re.fullmatch(
        rf"the run of {A_TIME} UTC had ended untold: no new backups are made; "
        "the same command makes new ones from now on",
        first,
    )
    assert (len(rest), last) == (failed, how)
    assert created(real_fake) == {1: 1, 2: 1}
    assert len(said.lines) == 2 - failed
    for nights in (2, 3):
        said = await run(*COMMAND, **place)
        assert (said.code, said.err) == (0, "2 completed\n")
        assert created(real_fake) == {1: nights, 2: nights}
        newest = sorted(one["id"] for one in real_fake.backups)[-2:]
        assert sorted(int(line.split(":")[0]) for line in said.lines) == newest
    assert len((await run("run", "list", **place)).lines) == 1


async def test_the_same_command_twice_at_once_makes_one_backup_and_tells_of_it_twice(
    real_fake: FakeVPS, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    assert (await run(*COMMAND, **place)).code == 0  # so that there is a run to make way
    real_fake.backup_seconds = 3600.0
    processes = [await start(*COMMAND, **place) for _ in range(2)]
    await until(lambda: len(posts(real_fake)) == 4)
    await asyncio.sleep(3)  # both work by then
    for backup in real_fake.backups:
        real_fake.finish(backup["id"])
    ended = [await asyncio.wait_for(one.communicate(), 40) for one in processes]
    assert [one.returncode for one in processes] == [0, 0]
    (out, err), (other, _) = ended
    assert out == other
    assert len(out.splitlines()) == 2
    assert err.endswith(b"2 completed\n")
    assert created(real_fake) == {1: 2, 2: 2}


async def test_what_other_commands_told_long_ago_is_forgotten(
    real_fake: FakeVPS, file: Path, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    assert (await run("create", "3", "--durable", **place)).code == 0
    assert (await run("run", "submit", "nightly", "-s", "3", **place)).code == 0
    change(file, "UPDATE fleet_runs SET submitted_at = submitted_at - 43200")
    assert (await run(*COMMAND, **place)).code == 0
    names = [line.split()[0] for line in (await run("run", "list", **place)).lines]
    assert names[0] == "nightly"
    assert len(names) == 2


async def test_a_run_that_is_not_over_is_gone_on_with_and_that_is_said_first(
    real_fake: FakeVPS, database: str
) -> None:
    await killed(real_fake, database)
    said = await run(*COMMAND, "-q", fake=real_fake, VPSBACKUPS_DATABASE=database)
    assert said.code == 0
    assert re.fullmatch(
        rf"going on with the run of {A_TIME} UTC: no new backups are made of servers it has done\n",
        said.err,
    )
    assert created(real_fake) == {1: 1, 2: 1}


async def test_a_run_whose_submit_was_killed_is_gone_on_with_though_all_that_it_has_is_done(
    real_fake: FakeVPS, file: Path, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    await killed(real_fake, database)
    change(file, "UPDATE fleet_runs SET whole = FALSE")
    change(file, "DELETE FROM fleet_items WHERE server = 2")
    change(file, "DELETE FROM workflow_status WHERE workflow_uuid LIKE '%-2-0'")
    real_fake.remove_backup(next(b["id"] for b in real_fake.backups if b["server"]["id"] == 2))
    assert (await run("run", "work", "--until-done", **place)).code == 1
    said = await run(*COMMAND, **place)
    assert (said.code, len(said.lines)) == (0, 2)
    assert said.err.startswith("going on with the run of ")
    assert created(real_fake) == {1: 1, 2: 1}


@pytest.mark.parametrize(
    "change_of_run",
    [
        pytest.param("submitted_at = submitted_at - 43200", id="half a day old"),
        pytest.param("cancelled = TRUE", id="cancelled"),
    ],
)
async def test_of_an_old_run_only_what_was_started_is_ended_before_a_new_one_begins(
    real_fake: FakeVPS, file: Path, database: str, change_of_run: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    await killed(real_fake, database)
    change(file, f"UPDATE fleet_runs SET {change_of_run}")
    change(
        file, "UPDATE fleet_items SET state = 'waiting', owner = NULL, posts = 0 WHERE server = 2"
    )
    said = await run(*COMMAND, **place)
    assert said.code == 0
    first, last = said.err.splitlines()
    assert re.fullmatch(
        rf"the run of {A_TIME} UTC had ended untold: 1 completed, 1 cancelled; 2 in all. "
        "A new run begins",
        first,
    )
    assert last == "2 completed"
    assert created(real_fake) == {1: 2, 2: 2}


async def test_outcomes_that_could_not_be_written_are_told_by_the_same_command_again(
    real_fake: FakeVPS, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    for _ in range(2):
        full = os.open("/dev/full", os.O_WRONLY)
        try:
            process = await start(*COMMAND, stdout=full, **place)
        finally:
            os.close(full)
        _, err = await asyncio.wait_for(process.communicate(), 40)
        assert process.returncode == 1
        assert err.endswith(
            b"the outcomes could not be written: the same command tells them again\n"
            b"error: No space left on device: standard output\n"
        )
    said = await run(*COMMAND, **place)
    assert (said.code, len(said.lines)) == (0, 2)
    assert created(real_fake) == {1: 1, 2: 1}


async def test_nothing_is_kept_where_nobody_tells_the_account_and_its_name_may_be_given(
    real_fake: FakeVPS, database: str
) -> None:
    real_fake.inject(Reply(403, b'{"detail": "no"}', path="account"))
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    said = await run(*COMMAND, **place)
    assert said.code == 2
    assert "for create --durable VPSBACKUPS_ACCOUNT" in said.err
    assert (await run("run", "list", **place)).lines == []
    assert (await run(*COMMAND, **place, VPSBACKUPS_ACCOUNT="mine")).code == 0
    assert created(real_fake) == {1: 1, 2: 1}


_OFTEN = """
import sys
from vpsbackups_async.cli import main, progress
progress._EVERY_IN_A_LOG = 0.05
sys.exit(main())
"""


@pytest.mark.parametrize("words", [(), ("-q",)], ids=["told", "quiet"])
async def test_a_durable_create_says_now_and_then_in_a_log_how_far_it_is(
    real_fake: FakeVPS, database: str, words: tuple[str, ...]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", _OFTEN, *COMMAND, *words),
        env=environment(real_fake, VPSBACKUPS_DATABASE=database),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    assert process.returncode == 0
    if words:
        assert err == b""
    else:
        line = r"^Backing up: \d of 2, .*, 0 failed, \d under way$"
        assert re.search(line, err.decode(), re.MULTILINE)


async def test_a_durable_create_names_what_failed(real_fake: FakeVPS, database: str) -> None:
    command = ("create", "1", "99", "--durable")
    said = await run(*command, fake=real_fake, VPSBACKUPS_DATABASE=database)
    assert said.code == 1
    assert len(said.lines) == 1
    assert said.err.startswith("99 ")
    assert said.err.endswith("1 completed, 1 failed\n")


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
async def test_a_signal_gives_the_exit_code_of_its_name_and_says_what_is_left(
    real_fake: FakeVPS, database: str, number: signal.Signals, code: int
) -> None:
    real_fake.backup_seconds = 3600.0
    process = await start(*COMMAND, fake=real_fake, VPSBACKUPS_DATABASE=database)
    await until(lambda: looks(real_fake) > 0)  # it waits
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == code
    assert err == b"interrupted: 2 servers are left; the same command goes on with them\n"


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether the process has not taken the signal yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = re.findall(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("until_done", [(), ("--until-done",)], ids=["until told", "until done"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_worker_that_a_signal_ends_is_fine_unless_it_was_to_end_once_all_is_done(
    real_fake: FakeVPS, database: str, number: signal.Signals, until_done: tuple[str, ...]
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    real_fake.backup_seconds = 3600.0
    assert (await run("run", "submit", "nightly", "--all", **place)).code == 0
    process = await start("run", "work", *until_done, **place)
    await until(lambda: looks(real_fake) > 0)
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert err.splitlines()[1:] == ([b"0 completed, 3 left"] if until_done else [])
    assert process.returncode == (128 + number if until_done else 0)


@pytest.mark.parametrize("until_done", [(), ("--until-done",)], ids=["until told", "until done"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_second_signal_leaves_creates_on_the_wire_to_the_next_worker_and_is_no_success(
    real_fake: FakeVPS, database: str, number: signal.Signals, until_done: tuple[str, ...]
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    real_fake.inject(held_posts(3))
    assert (await run("run", "submit", "nightly", "--all", **place)).code == 0
    process = await start("run", "work", *until_done, **place)
    assert process.stderr is not None
    await asyncio.wait_for(process.stderr.readline(), 30)
    await until(lambda: len(posts(real_fake)) == 3)
    process.send_signal(number)
    await until(lambda: not is_pending(process.pid, number))  # two at once would be one
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 15)
    told = err.splitlines()
    assert told.pop(0) == b"3 creates are unsettled: the next worker looks for them"
    assert told == ([b"0 completed, 3 left"] if until_done else [])
    assert process.returncode == 128 + number
    assert (await run("run", "work", "--until-done", **place)).code == 0
    assert created(real_fake) == {1: 1, 2: 1, 3: 1}
