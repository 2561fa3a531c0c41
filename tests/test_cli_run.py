"""`vpsbackups run`: durable runs from the shell."""

import asyncio
import contextlib
import json
import logging
import os
import re
import shlex
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from helpers_cli import Ended, Here, run, start
from helpers_durable import until
from helpers_postgres import PASSWORD, Postgres

from vpsbackups_async.cli.fleets import Fleets
from vpsbackups_async.cli.options import Common
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.slots import open_slots
from vpsbackups_async.errors import UnexpectedRedirectError
from vpsbackups_async.testing import FakeVPS, Latency


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=0, backup_seconds=0.2) as fake:
        yield fake


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Here:
    return Here(monkeypatch, capfd)


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


async def test_a_worker_until_all_is_done_refuses_a_database_that_is_not_there(
    here: Here, real_fake: FakeVPS, database: str
) -> None:
    said = await here("run", "work", "--until-done", "--database", database, fake=real_fake)
    assert said.code == 2
    assert "there is no database sqlite:///" in said.err


async def test_a_run_from_its_submission_to_its_end(
    here: Here, real_fake: FakeVPS, database: str, tmp_path: Path
) -> None:
    for server in (1, 2):  # so that none is waited for
        real_fake.add_backup(server, description="Nightly", backup_type="manual")
    (tmp_path / "fleet.txt").write_text("1 2\n99\n")
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    words = ("--servers-from", str(tmp_path / "fleet.txt"), "-d", "Nightly", "--ensure", "24h")
    said = await here("run", "submit", "nightly", *words, **place)
    assert (said.code, said.err) == (0, "3 servers added to run nightly\n")
    said = await here("run", "status", "nightly", **place)
    assert (said.code, said.out) == (0, "nightly: 3 waiting; 3 in all\n")
    said = await run("run", "work", "--until-done", **place)
    assert (said.code, said.out) == (1, "")
    assert "worker 0 of sqlite:///" in said.err
    assert said.err.splitlines()[-1] == "2 completed, 1 failed: vpsbackups run results nightly"
    said = await here("run", "status", "nightly", "--json", **place)
    assert said.code == 1
    assert json.loads(said.out) == {
        "run": "nightly",
        "waiting": 0,
        "running": 0,
        "completed": 2,
        "failed": 1,
        "unknown": 0,
        "cancelled": 0,
        "wholly_submitted": True,
        "total": 3,
        "is_over": True,
        "silent_workers": [],
    }
    said = await here("run", "status", "nightly", "--watch", **place)
    assert (said.code, said.out) == (1, "nightly: 2 completed, 1 failed; 3 in all\n")
    said = await here("run", "results", "nightly", "--ndjson", **place)
    assert said.code == 0
    outcomes = [json.loads(line) for line in said.lines]
    assert [(one["server_id"], one["state"]) for one in outcomes] == [
        (1, "completed"),
        (2, "completed"),
        (99, "failed"),
    ]
    assert outcomes[0]["backup"]["server"]["id"] == 1
    said = await here("run", "results", "nightly", **place)
    assert [line.split()[:2] for line in said.lines] == [
        ["1", "completed"],
        ["2", "completed"],
        ["99", "failed"],
    ]
    assert (await here("run", "retry", "nightly", **place)).code == 0
    said = await here("run", "cancel", "nightly", **place)
    assert said.err == "1 servers of run nightly were cancelled\n"
    said = await here("run", "list", **place)
    assert said.out.split()[0] == "nightly"
    assert said.out.endswith("over       2 completed, 1 cancelled; 3 in all\n")
    said = await here("run", "forget", "nightly", **place)
    assert (said.code, said.out) == (0, "nightly\n")
    assert (await here("run", "list", **place)).out == ""


async def test_a_worker_tells_of_no_run_that_was_over_before(
    here: Here, real_fake: FakeVPS, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    work = ("run", "work", "--until-done")
    assert (await here("run", "submit", "bad", "-s", "99", **place)).code == 0
    said = await run(*work, "--database", database, fake=real_fake)
    assert said.code == 1
    assert said.err.splitlines()[-1] == (
        f"0 completed, 1 failed: vpsbackups run results --database {database} bad"
    )
    said = await run(*work, **place)
    assert (said.code, said.err.splitlines()[-1]) == (0, "0 completed")
    assert (await here("run", "submit", "good", "-s", "1", **place)).code == 0
    said = await run(*work, **place)
    assert (said.code, said.err.splitlines()[-1]) == (0, "1 completed")


@pytest.mark.parametrize(
    "names", [["two words"], ["two  spaces", "-hyphen", "it's", "a", "b", "c", "d"]]
)
async def test_what_a_worker_says_of_failures_are_commands_that_can_be_pasted(
    here: Here, real_fake: FakeVPS, database: str, names: list[str]
) -> None:
    for name in names:
        words = ("-s", "99", "--database", database, "--", name)
        assert (await here("run", "submit", *words, fake=real_fake)).code == 0
    assert [line[:20].rstrip() for line in (await listed(here, database)).lines] == names
    said = await run("run", "work", "--until-done", "--database", database, fake=real_fake)
    assert said.code == 1
    told = [shlex.split(line) for line in re.findall("vpsbackups (run results.*)", said.err)]
    assert [words[-1] for words in told] == names[:5]
    for words in told:
        said_of = await here(*words)
        assert (said_of.code, len(said_of.lines)) == (0, 1)
    more = f"and of {len(names) - 5} other runs: vpsbackups run list --database {database}"
    assert (more in said.err.splitlines()) is (len(names) > 5)


async def listed(here: Here, database: str) -> Ended:
    return await here("run", "list", "--database", database)


@pytest.mark.durable
async def test_the_password_of_the_database_is_in_no_command_to_be_pasted(
    here: Here, real_fake: FakeVPS, postgres: Postgres
) -> None:
    url = postgres.new_database()
    assert (
        await here("run", "submit", "n", "-s", "99", "--database", url, fake=real_fake)
    ).code == 0
    said = await run("run", "work", "--until-done", "--database", url, fake=real_fake)
    bare = url.replace(f":{PASSWORD}", "")
    first, second = said.err.splitlines()[-2:]
    assert first == f"0 completed, 1 failed: vpsbackups run results --database {bare} n"
    assert second.startswith("(without the password: give the same --database, or PGPASSWORD")
    assert PASSWORD not in said.err
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": url}
    assert (await here("run", "retry", "n", **place)).code == 0
    said = await run("run", "work", "--until-done", **place)
    assert said.err.splitlines()[-1] == "0 completed, 1 failed: vpsbackups run results n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["submit", "n"], "no server is named"),
        (["submit", "n", "-s", "1", "--all"], "--all is every server"),
        (["submit", " n", "-s", "1"], "a run is named"),
        (["submit", "n" * 201, "-s", "1"], "at most 200 characters"),
        (["submit", "n", "-s", "1", "--rotate", "daily=4"], "--job NAME is needed"),
        (["submit", "n", "-s", "1", "--rotate", "banana"], "'banana' is no policy"),
        (["submit", "n", "-s", "1", "--rotate", "daily=40", "--job", "a"], "would be refused"),
        (["submit", "n", "-s", "1", "--tz", "Asia/Tokyo"], "--tz is of no use without --rotate"),
        (["submit", "n", "-s", "1", "--rotate", "dayly=4", "--job", "a"], "is no policy"),
        (["submit", "n", "-s", "1", "--rotate", "daily=4", "--job", "a b"], "job must be"),
        (["submit", "n", "-s", "1", "--ensure", "24"], "is no time"),
        (["submit", "n", "-s", "1", "--ensure", "24h", "--job", "a"], "job is for plain"),
        (["submit", "n", "-s", "1", "--make-room"], "make_room needs rotate"),
        (["submit", "n", "-s", "1", "--rotate", "daily=4,daily=5", "--job", "a"], "daily twice"),
        (["submit", "n", "-s", "1", "--rotate", "daily=4", "--job", "a", "--tz", ""], "time zone"),
        (["submit", "n", "-s", str(2**63)], "a positive number of 18 digits at most"),
        (["submit", "n", "-s", "0"], "is not the id of a server, a positive number\n"),
        (["work", "--rate", "0"], "--rate must be"),
        (["work", "--concurrency", "0"], "--concurrency must be"),
        (["forget"], "give the NAME"),
        (["forget", "n", "--older-than", "3d"], "give the NAME"),
        (["schedule", "0 3 * * *"], "no server is named"),
        (["schedule", "0 3 * * *", "--delete"], "--delete takes no CRON"),
        (["schedule", "0 3 * * *", "--all", "--ping", "ftp://a"], "http or https"),
        (["schedule", "--all", "--rotate", "daily=4", "--name", "x"], "CRON is missing"),
        (["schedule", "--name", "x"], "CRON is missing"),
        (["schedule", "--make-room"], "CRON is missing"),
        (["schedule", "--tz", "UTC"], "CRON is missing"),
        (["schedule", "--delete", "--all", "--name", "x"], "--delete takes --name alone"),
        (["schedule", "--delete", "--rotate", "nonsense"], "--delete takes --name alone"),
        (["schedule", "list"], "'list' is no line of cron"),
        (["schedule", "list"], "without CRON, run schedule lists, and --delete --name NAME"),
        (["schedule", "0 3 * * *", "--servers-from", os.devnull], "names no server"),
        (["schedule", "0 3 * * *", "--all", "--tz", ""], "'' is no time zone"),
        (["list", "--database", "mysql://a/b"], "a database is"),
    ],
)
async def test_usage_that_cannot_be_is_refused(
    here: Here,
    real_fake: FakeVPS,
    database: str,
    tmp_path: Path,
    arguments: list[str],
    words: str,
) -> None:
    said = await here("run", *arguments, fake=real_fake, VPSBACKUPS_DATABASE=database)
    assert said.code == 2
    assert words in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # a folder of the test's own


async def test_a_schedule_is_made_listed_and_deleted(here: Here, database: str) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    zone = ("--tz", "Europe/Berlin")
    said = await here(
        "run", "schedule", "0 3 * * *", *zone, "--all", "--rotate", "daily=4,weekly=4", **place
    )
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith("nightly is due at 0 3 * * * (Europe/Berlin)")
    said = await here("run", "schedule", **place)
    assert said.out.split() == [
        "nightly",
        *["0", "3", "*", "*", "*"],
        "Europe/Berlin",
        "all",
        "servers",
    ]
    said = await here("run", "schedule", "often", "-s", "1", "--name", "other", **place)
    assert said.code == 2
    assert said.err.startswith(
        "error: 'often' is no line of cron, as '0 3 * * *' is one; without CRON, run schedule lists"
    )
    said = await here("run", "schedule", "0 0 3 * * *", "-s", "1", "--name", "other", **place)
    assert said.code == 2
    assert said.err.startswith("error: '0 0 3 * * *' has 6 fields, and a line of cron 5: minute,")
    assert (await here("run", "schedule", "--delete", **place)).code == 0
    assert (await here("run", "schedule", **place)).out == ""
    assert (await here("run", "schedule", "--delete", **place)).code == 1


@contextlib.contextmanager
def silent_worker(database: str) -> Iterator[None]:
    """A worker on the host `web-1` that has given no sign of life for a while."""
    with contextlib.closing(Database(database)) as opened:
        slots = open_slots(opened)
        slots.take()
        with contextlib.closing(sqlite3.connect(opened.path)) as connection:
            connection.execute("UPDATE fleet_workers SET seen_at = seen_at - 100, host = 'web-1'")
            connection.commit()
        yield
        slots.release()


async def test_a_worker_that_does_not_answer_is_told_of_while_the_run_is_not_over(
    here: Here, database: str
) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "nightly", "-s", "1", **place)).code == 0
    with silent_worker(database):
        said = await here("run", "status", "nightly", **place)
        assert (said.code, said.out) == (0, "nightly: 1 waiting; 1 in all\n")
        assert re.fullmatch(
            rf"worker 0 has not answered for 1\d\d s: end process {os.getpid()} on web-1 if it is "
            "still there; another worker takes over what it has\n",
            said.err,
        )
        said = await here("run", "status", "nightly", "--json", **place)
        (silent,) = json.loads(said.out)["silent_workers"]
        assert (silent["slot"], silent["pid"], silent["host"]) == (0, os.getpid(), "web-1")
        assert (await here("run", "cancel", "nightly", **place)).code == 0
        assert (await here("run", "status", "nightly", **place)).err == ""


@pytest.mark.durable
async def test_who_watches_a_run_is_told_once_of_a_worker_that_does_not_answer(
    here: Here, database: str
) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "nightly", "-s", "1", **place)).code == 0
    with silent_worker(database):
        watching = await start("run", "status", "nightly", "--watch", **place)
        assert watching.stderr is not None
        line = await asyncio.wait_for(watching.stderr.readline(), 30)
        assert b"end process %d on web-1" % os.getpid() in line
        await asyncio.sleep(2.5)  # two more looks
        assert (await here("run", "cancel", "nightly", **place)).code == 0
        _, err = await asyncio.wait_for(watching.communicate(), 30)
        assert err == b""


async def test_a_run_of_which_nothing_was_done_is_no_success(here: Here, database: str) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "nightly", "-s", "1", **place)).code == 0
    assert (await here("run", "cancel", "nightly", **place)).code == 0
    said = await here("run", "status", "nightly", **place)
    assert (said.code, said.out) == (1, "nightly: 1 cancelled; 1 in all\n")


async def test_a_run_whose_submit_was_killed_is_no_success_until_it_is_submitted_again(
    here: Here, real_fake: FakeVPS, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    submit = ("run", "submit", "nightly", "-d", "Nightly", "--ensure", "24h")
    for server in (1, 2):
        real_fake.add_backup(server, description="Nightly", backup_type="manual")
    assert (await here(*submit, "-s", "1", **place)).code == 0
    with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE fleet_runs SET whole = FALSE")
        connection.commit()
    partly = "not wholly submitted: if its submit was cut off, repeat it"
    for _ in range(2):
        said = await run("run", "work", "--until-done", **place)
        assert said.code == 1
        assert said.err.splitlines()[1:] == ["1 completed", f"nightly is {partly}"]
    said = await here("run", "status", "nightly", **place)
    assert (said.code, said.out) == (1, f"nightly: 1 completed; 1 in all, {partly}\n")
    said = await here("run", "status", "nightly", "--json", **place)
    assert said.code == 1
    assert not json.loads(said.out)["wholly_submitted"]
    assert (await here("run", "list", **place)).out.endswith(f"1 in all, {partly}\n")
    assert (await here(*submit, "-s", "1", "-s", "2", **place)).code == 0
    said = await run("run", "work", "--until-done", **place)
    assert (said.code, said.err.splitlines()[1:]) == (0, ["2 completed"])
    assert (await here("run", "status", "nightly", **place)).code == 0


def test_what_a_worker_logs_is_in_the_words_of_the_shell(
    database: str, capfd: pytest.CaptureFixture
) -> None:
    logger = logging.getLogger("vpsbackups_async")
    before = list(logger.handlers)
    with Fleets(Common(), database, makes=True):
        logger.warning("the servers cannot be read: %s", UnexpectedRedirectError("it moved"))
        logger.info("worker 0 took over")
    said = capfd.readouterr().err
    assert said.startswith("the servers cannot be read: it moved")
    assert "base_url" not in said
    assert "took over" not in said
    assert logger.handlers == before


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ((), "nothing was added"),
        (("-s", "1", "-s", "2"), "run night has 2 servers, which a worker takes. The same command"),
    ],
)
async def test_a_submit_that_is_interrupted_says_what_the_run_has(
    here: Here, real_fake: FakeVPS, database: str, before: tuple[str, ...], words: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    if before:
        assert (await here("run", "submit", "night", *before, **place)).code == 0
    real_fake.inject(Latency(3600.0, path="/servers/"))
    process = await start("run", "submit", "night", "--all", **place)
    await until(lambda: any(seen.path.endswith("/servers/") for seen in real_fake.requests))
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert process.returncode == 143
    assert err.decode().startswith(f"interrupted: {words}")
    assert err.decode().endswith("vpsbackups run cancel night\n") is bool(before)


async def test_a_run_that_is_not_there_is_one_clear_line(here: Here, database: str) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "other", "-s", "1", **place)).code == 0
    said = await here("run", "status", "lost", **place)
    assert said.code == 1
    assert said.err.startswith("error: no run is called 'lost'\n")


async def test_a_worker_needs_a_token(here: Here, database: str) -> None:
    said = await here("run", "work", VPSBACKUPS_DATABASE=database)
    assert said.code == 2
    assert "there is no token" in said.err


async def test_a_database_that_is_away_is_one_clear_line(here: Here) -> None:
    said = await here("run", "list", "--database", "postgresql://vps:canary-pw@127.0.0.1:1/runs")
    assert said.code == 2
    assert said.err.startswith("error: the database postgresql://vps:***@127.0.0.1:1/runs")
    assert "canary-pw" not in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.durable
async def test_a_database_that_fails_is_one_clear_line_and_a_failure(
    here: Here, database: str
) -> None:
    place = {"VPSBACKUPS_DATABASE": database}
    for words in ("submit first -s 1", "cancel first", "forget first"):
        assert (await here("run", *words.split(), **place)).code == 0
    with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        connection.execute(
            "CREATE TRIGGER refused BEFORE INSERT ON fleet_items "
            "BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        )
    said = await here("run", "submit", "nightly", "-s", "1", **place)
    assert said.code == 1
    assert said.err.startswith("error: the database sqlite:///")
    assert "runs.sqlite failed: disk is full\nSee to the database" in said.err
    assert (await here("run", "list", **place)).out == ""


async def test_a_submit_of_ids_with_the_token_of_another_account_is_one_clear_line(
    here: Here, real_fake: FakeVPS, database: str
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "nightly", "--all", **place)).code == 0
    real_fake.account_reply = {"account": {"email": "other@example.org"}, "token": {}}
    said = await here("run", "submit", "weekly", "-s", "1", **place)
    assert said.code == 2
    assert "belongs to the account 'ada@example.com', not to 'other@example.org'" in said.err
    for command in ("cancel", "retry", "forget"):
        refused = await here("run", command, "nightly", **place)
        assert (refused.code, refused.err) == (2, said.err)
    assert (await here("run", "status", "nightly", **place)).code == 0
    assert (await here("run", "cancel", "nightly", VPSBACKUPS_DATABASE=database)).code == 0
    named = ("run", "submit", "weekly", "-s", "1", "--account")
    said = await here(*named, "ada@example.com", **place)
    assert (said.code, said.err) == (2, refused.err)
    said = await here(*named, "theirs", VPSBACKUPS_DATABASE=database)
    assert said.code == 2
    assert "belongs to the account 'ada@example.com', not to 'theirs'" in said.err


@pytest.mark.durable
async def test_a_run_that_is_watched_is_shown_until_it_is_over(
    real_fake: FakeVPS, database: str, here: Here
) -> None:
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": database}
    assert (await here("run", "submit", "nightly", "-s", "1", **place)).code == 0
    watching = await start("run", "status", "nightly", "--watch", **place)
    assert (await run("run", "work", "--until-done", **place)).code == 0
    out, _ = await asyncio.wait_for(watching.communicate(), 30)
    assert out == b"nightly: 1 completed; 1 in all\n"


@pytest.mark.durable
async def test_a_worker_whose_slot_is_taken_ends_with_one_clear_line(
    real_fake: FakeVPS, postgres: Postgres
) -> None:
    url = postgres.new_database()
    worker = await start("run", "work", "--database", url, fake=real_fake)
    assert worker.stderr is not None
    assert b"worker 0 of postgresql://" in await asyncio.wait_for(worker.stderr.readline(), 30)
    await asyncio.to_thread(
        postgres.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'vpsbackups slot' AND datname = current_database()",
        url.rpartition("/")[2],
    )
    _, err = await asyncio.wait_for(worker.communicate(), 30)
    assert worker.returncode == 1
    assert err.startswith(b"error: this worker lost its slot in the database\nStart it again")
