"""Nights of a schedule on which something fails: each is submitted in the end, or told as lost."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from helpers_cli import Here
from helpers_durable import posts, until
from helpers_postgres import Postgres
from helpers_schedules import (
    execute,
    fired_at,
    fleet_on,
    hand_out,
    monitor,
    until_over,
    working,
)
from helpers_secrets import Ear

from vpsbackups_async import ALL_SERVERS
from vpsbackups_async.durable import (
    BackupTask,
    DurableFleet,
    Limits,
    RunProgress,
    schedules,
    worker,
)
from vpsbackups_async.errors import DatabaseError, RunError
from vpsbackups_async.testing import FakeVPS, Reply


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=0, backup_seconds=0.2) as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def slow_fleet_on(file: Path, fake: FakeVPS) -> DurableFleet:
    options = {"token": fake.token, "base_url": fake.url}
    return DurableFleet(f"sqlite:///{file}", client_options=options, limits=Limits(rate=0.01))


DUE = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
"""An hour ago, and once a day."""
CRON = f"0 {DUE.hour} * * *"
NAME = f"nightly@{DUE:%Y-%m-%dT%H:%MZ}"
DOWN = Reply(403, b"{}", path="/servers/")


# --- The database --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("INSERT ON vpsbackups.fleet_runs FOR EACH ROW", id="run"),
        pytest.param("INSERT ON vpsbackups.fleet_items FOR EACH ROW", id="servers"),
        pytest.param("UPDATE ON vpsbackups.fleet_runs FOR EACH ROW WHEN (NEW.whole)", id="end"),
    ],
)
async def test_a_night_of_which_the_database_cancels_one_statement_is_wholly_submitted(
    postgres: Postgres, real_fake: FakeVPS, change: str
) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    options = {"token": real_fake.token, "base_url": real_fake.url}
    async with DurableFleet(url, client_options=options) as fleet:
        await fleet.schedule("nightly", CRON, ALL_SERVERS)
        before = (DUE - timedelta(days=1)).isoformat()
        for statement in (
            f"UPDATE vpsbackups.workflow_schedules SET last_fired_at = '{before}'",
            "CREATE SEQUENCE cancels",  # it counts on though a transaction is rolled back
            """
            CREATE FUNCTION cancel_once() RETURNS trigger AS $$ BEGIN
                IF nextval('public.cancels') = 1 THEN
                    RAISE 'canceling statement due to user request' USING ERRCODE = '57014';
                END IF;
                RETURN NEW;
            END $$ LANGUAGE plpgsql
            """,
            f"CREATE TRIGGER once BEFORE {change} EXECUTE FUNCTION cancel_once()",
        ):
            postgres.execute(statement, name)
        await fleet.work(until_done=True)
        progress = await fleet.progress(NAME)
        assert (progress.completed, progress.wholly_submitted) == (3, True)
        assert fleet.unsubmitted == []


async def test_a_night_that_the_database_refuses_ends_the_worker_and_the_next_goes_on_with_it(
    file: Path, real_fake: FakeVPS, ear: Ear
) -> None:
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            refused = "SELECT RAISE(FAIL, 'disk is full')"
            execute(
                file, f"CREATE TRIGGER refused BEFORE INSERT ON fleet_items BEGIN {refused}; END"
            )
            with pytest.raises(DatabaseError, match="disk is full"):
                await fleet.work(until_done=True)
            execute(file, "DROP TRIGGER refused")
            await fleet.work(until_done=True)
            assert fleet.unsubmitted == []
    said = (
        f"{NAME} is not wholly submitted: the database {fleet.name} failed: disk is full; "
        "a worker goes on with it (vpsbackups run work)"
    )
    assert told == [
        ("/check/start", NAME),
        ("/check/fail", said),
        ("/check", f"{NAME}: 2 completed, 0 failed"),
    ]
    assert said in ear.texts
    assert sorted(posts(real_fake)) == [1, 2]


async def test_a_night_whose_database_fails_while_it_is_looked_at_is_told(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_EVERY", 0.05)
    real_fake.backup_seconds = 3600.0
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            async with working(fleet):
                await until(lambda: bool(real_fake.backups))
                await asyncio.sleep(0.5)  # until the create is noted
                execute(file, "ALTER TABLE fleet_items RENAME TO away")
                await asyncio.sleep(0.5)
                execute(file, "ALTER TABLE away RENAME TO fleet_items")
                real_fake.finish(real_fake.backups[0]["id"])
                await until(lambda: len(told) == 2)
    assert told[1] == ("/check", f"{NAME}: 1 completed, 0 failed")


async def test_a_night_whose_schedule_cannot_be_read_is_told_as_lost(
    file: Path, real_fake: FakeVPS, ear: Ear
) -> None:
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            execute(file, "UPDATE workflow_schedules SET context = replace(context, 'backup', 'x')")
            with pytest.raises(RunError, match="schedule 'nightly' of the database cannot be read"):
                await fleet.schedules()
            await fleet.work(until_done=True)
            assert fleet.unsubmitted == ["nightly"]
            await fleet.unschedule("nightly")
            assert await fleet.schedules() == []
    said = (
        f"no run is submitted for {DUE:%Y-%m-%dT%H:%MZ}: the schedule 'nightly' of the database "
        "cannot be read: no task is called 'x'"
    )
    assert told == [("/check/fail", said)]
    assert said in ear.texts
    assert posts(real_fake) == []


async def test_an_unforeseen_error_of_a_night_ends_the_worker_and_the_next_goes_on_with_it(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            with monkeypatch.context() as patch:
                patch.setattr(schedules, "check_ping", full)
                with pytest.raises(RuntimeError, match="new thread"):
                    await fleet.work(until_done=True)
            await fleet.work(until_done=True)
    assert told[-1] == ("/check", f"{NAME}: 1 completed, 0 failed")
    assert posts(real_fake) == [1]


# --- Runs that are forgotten ---------------------------------------------------------------------


async def test_a_night_that_was_cancelled_and_forgotten_is_not_submitted_anew(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_fake.backup_seconds = 3600.0
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2, 3], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            # As with one create each 100 seconds.
            async with slow_fleet_on(file, real_fake) as slow, working(slow):
                await until(lambda: len(real_fake.backups) == 1)
            await fleet.cancel(NAME)
            real_fake.finish(real_fake.backups[0]["id"])
            monkeypatch.setattr(schedules, "_EVERY", 3600.0)  # it is not told by this worker
            await fleet.work(until_done=NAME)
            await fleet.forget(NAME)
            await fleet.work(until_done=True)
            assert await fleet.runs() == []
    assert len(posts(real_fake)) == 1
    assert told == [
        ("/check/start", NAME),
        ("/check", f"{NAME}: 1 completed, 0 failed, 2 passed over or cancelled"),
    ]


async def test_a_night_that_was_cancelled_between_two_workers_is_told_as_it_ended(
    file: Path, real_fake: FakeVPS
) -> None:
    real_fake.backup_seconds = 3600.0
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2, 3], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            async with slow_fleet_on(file, real_fake) as slow, working(slow):
                await until(lambda: len(real_fake.backups) == 1)
            await fleet.cancel(NAME)
            real_fake.finish(real_fake.backups[0]["id"])
            await fleet.work(until_done=True)
            assert fleet.unsubmitted == []
    said = f"{NAME}: 1 completed, 0 failed, 2 passed over or cancelled"
    assert told == [("/check/start", NAME), ("/check", said)]


async def test_a_run_that_is_forgotten_before_its_end_is_told_is_told_as_it_ended(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_EVERY", 3.0)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2], ping=url)
            fired_at(file, DUE - timedelta(days=1))
            async with working(fleet):
                await until_over(fleet)
                await fleet.forget(NAME)
                assert len(told) == 1
                await until(lambda: len(told) == 2)
    assert told[1] == ("/check", f"{NAME}: 2 completed, 0 failed")


async def test_a_run_that_is_forgotten_before_all_of_it_is_submitted_is_told_as_a_failure(
    file: Path, real_fake: FakeVPS
) -> None:
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, [1, 2], ping=url)
            (schedule,) = await fleet.schedules()
            store = fleet._store
            run = await store.submit_night(NAME, schedule.task)
            await store.add_free(run, [1], (await fleet._open()).enqueue)
            await fleet.work(until_done=NAME)
            await fleet.forget(NAME)
            with pytest.raises(RunError, match="was forgotten meanwhile"):
                await store.submit_night(NAME, schedule.task)
            async with working(fleet):
                await hand_out(file, DUE, schedule.to_context())
            assert await fleet.runs() == []
    said = (
        f"{run.name}: 1 completed, 0 failed; it was cancelled or forgotten before it was wholly "
        "submitted"
    )
    assert told == [("/check/fail", said)]


async def test_what_a_night_keeps_of_a_forgotten_run_is_how_it_had_ended(durable_url: str) -> None:
    async with DurableFleet(durable_url) as fleet:
        await fleet.runs()
        store = fleet._store
        run = await store.submit_night("night", BackupTask())
        await store.add(run, [1, 2], lambda *_: None, whole=True)
        with pytest.raises(RunError, match="2 servers have no outcome"):
            await fleet.forget("night")
        assert await store.forgotten_night("night") is None
        await fleet.cancel("night")
        await fleet.forget("night")
        ended = RunProgress("night", cancelled=2)
        assert await store.forgotten_night("night") == ended
        assert await store.is_begun("night")
        # As a run of this name that is no night's does not change.
        await fleet.submit("night", [])
        await fleet.forget("night")
        assert await store.forgotten_night("night") == ended
        await store.end_night("night")
        assert await store.forgotten_night("night") == ended


async def test_what_a_night_keeps_of_its_run_is_deleted_once_its_end_was_told(
    file: Path, real_fake: FakeVPS
) -> None:
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", CRON, [1])
        fired_at(file, DUE - timedelta(days=1))
        await fleet.work(until_done=True)
        await fleet.forget(NAME)
    with contextlib.closing(sqlite3.connect(file)) as connection:
        facts = connection.execute("SELECT name FROM fleet_facts WHERE name LIKE 'night%'")
        assert facts.fetchall() == []


# --- The API -------------------------------------------------------------------------------------


async def test_a_night_whose_servers_cannot_be_read_is_told_and_left_to_the_next_worker(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_PAUSES", (0.1,))
    real_fake.inject(DOWN)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", CRON, ALL_SERVERS, ping=url)
            fired_at(file, DUE - timedelta(days=1))
            async with asyncio.timeout(30):
                await fleet.work(until_done=True)
            assert fleet.unsubmitted == [NAME]
            real_fake.clear_faults()
            await fleet.work(until_done=True)
            assert fleet.unsubmitted == []
            assert (await fleet.progress(NAME)).completed == 3
    assert [path for path, _ in told] == ["/check/start", "/check/fail", "/check/start", "/check"]
    assert told[1][1].startswith(f"{NAME} is not wholly submitted: 403")
    assert told[1][1].endswith("; a worker goes on with it (vpsbackups run work)")


async def test_a_worker_goes_on_by_itself_with_a_night_whose_servers_could_not_be_read(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_PAUSES", (0.1,))
    monkeypatch.setattr(worker, "_TAKEOVER", 0.05)
    real_fake.inject(DOWN)
    real_fake.backup_seconds = 3600.0
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet, asyncio.timeout(60):
            await fleet.schedule("nightly", CRON, ALL_SERVERS, ping=url)
            fired_at(file, DUE - timedelta(days=1))
            await fleet.submit("another", [1])  # which holds up the end of the worker
            work = asyncio.create_task(fleet.work(until_done=True))
            await until(lambda: len(told) == 2)
            real_fake.clear_faults()
            await until(lambda: len(real_fake.backups) == 3)
            for backup in real_fake.backups:
                real_fake.finish(backup["id"])
            await work
            assert fleet.unsubmitted == []
    assert told[-1] == ("/check", f"{NAME}: 2 completed, 0 failed, 1 passed over or cancelled")


async def test_a_night_whose_servers_cannot_be_read_until_the_next_is_due_is_left_out(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "_PAUSES", (3.0, 600.0))
    real_fake.inject(DOWN)
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", CRON, ALL_SERVERS)
        (schedule,) = await fleet.schedules()
        each_two_seconds = {**schedule.to_context(), "cron": "*/2 * * * * *"}
        async with working(fleet), asyncio.timeout(30):
            # Whichever second it is: the next one is due after it, and before the pause is over.
            await hand_out(file, datetime.now(UTC), each_two_seconds)
        assert await fleet.runs() == []


async def test_a_night_that_cannot_be_submitted_fails_a_worker_that_ends_once_all_is_done(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", CRON, [1, 2], description="Nightly")
        fired_at(file, DUE - timedelta(days=1))
        await fleet.submit(NAME, [1], description="Another")
    here = Here(monkeypatch, capfd)
    place = {"fake": real_fake, "VPSBACKUPS_DATABASE": f"sqlite:///{file}"}
    said = await here("run", "work", "--until-done", **place)
    assert said.code == 1
    assert said.err.splitlines()[-1] == f"{NAME} could not be submitted"
    said = await here("run", "work", "--until-done", **place)  # it is over: nothing would change
    assert said.code == 0
