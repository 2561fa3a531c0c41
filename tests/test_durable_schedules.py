"""Schedules of durable runs: what is due is submitted once, and what was missed is caught up."""

import asyncio
import contextlib
import itertools
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from croniter import croniter
from helpers_durable import posts, until
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

from vpsbackups_async import ALL_SERVERS, Retention
from vpsbackups_async.durable import (
    BackupTask,
    DurableFleet,
    RunOutcome,
    RunProgress,
    worker,
)
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Night, is_repeated, is_superseded
from vpsbackups_async.durable.store import Store
from vpsbackups_async.errors import RunError
from vpsbackups_async.testing import FakeVPS


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=3, backups=0, backup_seconds=0.2) as fake:
        yield fake


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


async def until_submitted(fleet: DurableFleet, count: int) -> None:
    """Return once there are so many runs and each has all of its servers."""
    async with asyncio.timeout(30):
        while True:
            seen = [await fleet.progress(info.run) for info in await fleet.runs()]
            if len(seen) == count and all(one.wholly_submitted for one in seen):
                return
            await asyncio.sleep(0.1)


async def test_three_nights_that_were_missed_are_caught_up_with_one_run(
    file: Path, real_fake: FakeVPS
) -> None:
    now = datetime.now(UTC)
    # Due once a day, the last time between one and two hours ago.
    due = (now - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", f"0 {due.hour} * * *", ALL_SERVERS, description="Nightly")
        fired_at(file, due - timedelta(days=3))
        for _ in range(2):  # a worker that comes later catches up with nothing
            async with working(fleet):
                names = await until_over(fleet)
                await asyncio.sleep(0.6)
        assert names == [f"nightly@{due:%Y-%m-%dT%H:%MZ}"]
        progress = await fleet.progress(names[0])
        assert (progress.completed, progress.wholly_submitted) == (3, True)
    assert real_fake.count("POST") == 3


@pytest.mark.durable
async def test_what_was_due_before_the_first_worker_came_is_caught_up(
    file: Path, real_fake: FakeVPS
) -> None:
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", f"0 {due.hour} * * *", [1])
        before = (due - timedelta(hours=1)).isoformat()
        with contextlib.closing(sqlite3.connect(file)) as connection:
            (context,) = connection.execute("SELECT context FROM workflow_schedules").fetchone()
        since = (await fleet.schedules())[0].since.isoformat()
        execute(file, "UPDATE workflow_schedules SET context = ?", context.replace(since, before))
        async with working(fleet):
            assert await until_over(fleet) == [f"nightly@{due:%Y-%m-%dT%H:%MZ}"]


@pytest.mark.durable
async def test_a_server_that_another_run_works_on_is_passed_over_and_named(
    file: Path, real_fake: FakeVPS
) -> None:
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet:
        await fleet.submit("yesterday", [2])
        # Some worker has it.
        execute(file, "UPDATE fleet_items SET state = 'running'")
        execute(file, "UPDATE workflow_status SET status = 'PENDING', executor_id = 'slot-63'")
        await fleet.schedule("nightly", f"0 {due.hour} * * *", [1, 2, 3])
        fired_at(file, due - timedelta(days=1))
        name = f"nightly@{due:%Y-%m-%dT%H:%MZ}"
        async with working(fleet), asyncio.timeout(30):
            while True:
                with contextlib.suppress(RunError):
                    if (await fleet.progress(name)).ended == 3:
                        break
                await asyncio.sleep(0.1)
        outcomes: dict[int, RunOutcome] = {one.server_id: one async for one in fleet.results(name)}
    assert {server: one.state.value for server, one in outcomes.items()} == {
        1: "completed",
        2: "cancelled",
        3: "completed",
    }
    assert outcomes[2].detail == "run 'yesterday' still works on it"


async def test_of_two_schedules_that_are_due_at_once_one_has_each_server(
    file: Path, real_fake: FakeVPS
) -> None:
    real_fake.backup_seconds = 3600.0
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet:
        for name in ("a", "b"):
            await fleet.schedule(name, f"0 {due.hour} * * *", [1, 2, 3])
        fired_at(file, due - timedelta(days=1))
        async with working(fleet):
            await until_submitted(fleet, 2)
            await until(lambda: len(real_fake.backups) == 3)
            for backup in real_fake.backups:
                real_fake.finish(backup["id"])
            names = await until_over(fleet, 2)
        ended = [await fleet.progress(name) for name in names]
    assert sorted(posts(real_fake)) == [1, 2, 3]
    assert sorted((one.completed, one.cancelled) for one in ended) == [(0, 3), (3, 0)]


async def test_a_run_that_is_added_while_another_one_is_passes_over_what_that_takes(
    durable_url: str,
) -> None:
    adding, go_on = Event(), Event()

    def held(*_: object) -> None:
        adding.set()
        assert go_on.wait(20)

    async with DurableFleet(durable_url) as fleet:
        await fleet.runs()
        with contextlib.closing(Database(durable_url)) as database:
            store, task = Store(database), BackupTask()
            a, b = [(await store.submit(name, task, (), held))[0] for name in ("a", "b")]
            first = asyncio.create_task(store.add_free(a, [1, 2], held))
            await asyncio.to_thread(adding.wait, 20)
            second = asyncio.create_task(store.add_free(b, [2, 3], lambda *_: None))
            await asyncio.wait([second], timeout=0.3)
            go_on.set()
            assert (await first, await second) == (0, 1)
            assert await store.progress(b) == RunProgress(
                "b", waiting=1, cancelled=1, wholly_submitted=False
            )


@pytest.mark.durable
async def test_a_night_with_failures_is_told_to_the_monitor(file: Path, real_fake: FakeVPS) -> None:
    real_fake.fails = {2}
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", f"0 {due.hour} * * *", [1, 2], ping=url)
            fired_at(file, due - timedelta(days=1))
            async with working(fleet):
                await until(lambda: len(told) == 2)
    name = f"nightly@{due:%Y-%m-%dT%H:%MZ}"
    assert told == [
        ("/check/start", name),
        ("/check/fail", f"{name}: 1 completed, 1 failed"),
    ]


async def test_a_night_whose_submit_was_begun_is_gone_on_with_and_told_though_the_next_is_due(
    file: Path, real_fake: FakeVPS
) -> None:
    real_fake.fails = {2}
    at = (datetime.now(UTC) - timedelta(days=2)).replace(second=0, microsecond=0)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", f"{at:%M %H} * * *", [1, 2, 3], ping=url)
            (schedule,) = await fleet.schedules()
            name = schedule.run_at(at)
            await fleet.submit(name, [1])
            async with working(fleet):
                await hand_out(file, at, schedule.to_context())
    assert told == [("/check/fail", f"{name}: 2 completed, 1 failed")]


async def test_a_night_that_was_not_begun_before_the_next_one_was_due_is_left_out(
    file: Path, real_fake: FakeVPS
) -> None:
    at = datetime.now(UTC) - timedelta(days=2)
    async with fleet_on(file, real_fake) as fleet:
        await fleet.schedule("nightly", f"{at:%M %H} * * *", [1])
        (schedule,) = await fleet.schedules()
        async with working(fleet):
            await hand_out(file, at, schedule.to_context())
        assert await fleet.runs() == []


async def test_a_night_that_passes_over_every_server_is_told_as_a_failure(
    file: Path, real_fake: FakeVPS, ear: Ear
) -> None:
    real_fake.backup_seconds = 3600.0
    at = datetime.now(UTC).replace(second=0, microsecond=0)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.submit("yesterday", [1, 2])
            await fleet.schedule("nightly", f"{at:%M %H} * * *", [1, 2], ping=url)
            (schedule,) = await fleet.schedules()
            async with working(fleet):
                await hand_out(file, at, schedule.to_context())
    name = schedule.run_at(at)
    said = (
        f"{name}: 0 completed, 0 failed, 2 passed over or cancelled: nothing was backed up "
        "(server 1: run 'yesterday' still works on it)"
    )
    assert told == [("/check/start", name), ("/check/fail", said)]
    assert said in ear.texts


async def test_a_worker_that_ends_once_all_is_done_does_a_missed_night_first_and_tells_it(
    file: Path, real_fake: FakeVPS
) -> None:
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    with monitor() as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", f"0 {due.hour} * * *", [1, 2], ping=url)
            fired_at(file, due - timedelta(days=1))
            await fleet.work(until_done=True)
            (run,) = await fleet.runs()
    assert sorted(posts(real_fake)) == [1, 2]
    assert told == [("/check/start", run.run), ("/check", f"{run.run}: 2 completed, 0 failed")]


async def test_a_night_that_a_running_worker_missed_is_caught_up_by_it(
    file: Path, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_CATCH_UP", 0.1)
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet, working(fleet):
        await fleet.schedule("nightly", f"0 {due.hour} * * *", [1])
        fired_at(file, due - timedelta(days=1))
        assert len(await until_over(fleet)) == 1
    assert posts(real_fake) == [1]


@pytest.mark.durable
async def test_a_schedule_that_is_deleted_while_missed_nights_are_looked_for_is_passed_over(
    file: Path, real_fake: FakeVPS
) -> None:
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    async with fleet_on(file, real_fake) as fleet:
        for name in ("gone", "kept"):
            await fleet.schedule(name, f"0 {due.hour} * * *", [1])
        fired_at(file, due - timedelta(days=1))

        def delete(*given: Any) -> None:
            if "workflow_schedules" in given[2]:  # it was listed
                execute(file, "DELETE FROM workflow_schedules WHERE schedule_name = 'gone'")

        sa.event.listen(sa.Engine, "after_cursor_execute", delete)
        try:
            await fleet.work(until_done=True)
        finally:
            sa.event.remove(sa.Engine, "after_cursor_execute", delete)
        assert [info.run for info in await fleet.runs()] == [f"kept@{due:%Y-%m-%dT%H:%MZ}"]


async def test_a_monitor_that_does_not_answer_holds_up_no_run(
    file: Path, real_fake: FakeVPS
) -> None:
    go_on = Event()
    due = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
    with monitor(lambda: go_on.wait(20)) as (url, told):
        async with fleet_on(file, real_fake) as fleet:
            await fleet.schedule("nightly", f"0 {due.hour} * * *", [1], ping=url)
            fired_at(file, due - timedelta(days=1))
            async with working(fleet):
                await until_over(fleet)
                assert len(told) == 1
                go_on.set()
                await until(lambda: len(told) == 2)


@pytest.mark.parametrize(("days", "due_again"), [(2, True), (0, False)])
def test_a_night_after_which_another_one_was_due_is_superseded(days: int, due_again: bool) -> None:
    at = datetime.now(UTC) - timedelta(days=days, minutes=1)
    night = Night(at, {"cron": f"{at.minute} {at.hour} * * *", "tz": "UTC"})
    assert is_superseded(night) == due_again


def last_sunday(month: int) -> date:
    """The last Sunday of this month that is over, when Europe changes its clocks."""
    today = datetime.now(UTC).date()
    for year in (today.year, today.year - 1):
        end = date(year, month, 31)
        sunday = end - timedelta(days=(end.weekday() + 1) % 7)
        if sunday < today - timedelta(days=1):
            return sunday
    raise AssertionError


@pytest.mark.durable
@pytest.mark.parametrize(
    ("month", "due"),
    [
        pytest.param(3, "01:00", id="spring, when half past two does not exist"),
        pytest.param(10, "00:30", id="autumn, when half past two comes twice"),
    ],
)
async def test_a_night_on_which_the_clock_changes_has_one_run(
    file: Path, real_fake: FakeVPS, month: int, due: str
) -> None:
    day = last_sunday(month)
    midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("Europe/Berlin"))
    # What the engine finds due on that day for a line of each day.
    times = croniter("30 2 * * *", midnight).all_next(datetime)
    found = list(itertools.takewhile(lambda at: at.date() == day, times))
    async with fleet_on(file, real_fake) as fleet:
        # Due once a year, so that no later night supersedes it.
        await fleet.schedule("nightly", f"30 2 {day.day} {month} *", [1], tz="Europe/Berlin")
        context = (await fleet.schedules())[0].to_context()
        async with working(fleet):
            for at in found:
                await hand_out(file, at, context)
        names = [info.run for info in await fleet.runs()]
    assert names == [f"nightly@{day}T{due}Z"]


@pytest.mark.parametrize(
    "tz", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Havana"]
)
@pytest.mark.parametrize("line", ["0 2 * * *", "30 2 * * *", "45 1 * * *", "30 0 * * *"])
def test_a_line_for_one_time_of_the_day_has_one_run_on_each_day_of_a_year(
    tz: str, line: str
) -> None:
    zone = ZoneInfo(tz)
    first = datetime(2027, 1, 1, tzinfo=zone)
    times = croniter(line, first - timedelta(seconds=1))
    runs: list[date] = []
    while (at := times.get_next(datetime)) < first.replace(year=2028):
        if not is_repeated(Night(at, {"cron": line, "tz": tz})):
            runs.append(at.date())
    assert runs == [date(2027, 1, 1) + timedelta(days=day) for day in range(365)]


@pytest.mark.parametrize("line", ["*/30 * * * *", "30 0-23 * * *"])
def test_a_line_for_each_hour_is_due_in_the_hour_that_comes_twice_both_times(line: str) -> None:
    for hour in (0, 1):
        at = datetime(2027, 10, 31, hour, 30, tzinfo=UTC)
        assert not is_repeated(Night(at, {"cron": line, "tz": "Europe/Berlin"}))


def test_the_repeat_of_a_time_does_not_supersede_its_night() -> None:
    day = last_sunday(10)
    at = datetime(day.year, day.month, day.day, 0, 30, tzinfo=UTC)
    line = f"30 2 {day.day} {day.month} *"
    assert not is_superseded(Night(at, {"cron": line, "tz": "Europe/Berlin"}))


async def test_a_schedule_is_kept_as_it_was_given_until_it_is_deleted(file: Path) -> None:
    policy = Retention(daily=4, weekly=4, job="nightly", tz="Europe/Berlin")
    async with DurableFleet(f"sqlite:///{file}") as fleet:
        await fleet.schedule("nightly", "0 3 * * *", [1, 2], tz="Europe/Berlin", rotate=policy)
        (schedule,) = await fleet.schedules()
        assert (schedule.cron, schedule.tz, schedule.servers) == (
            "0 3 * * *",
            "Europe/Berlin",
            (1, 2),
        )
        assert getattr(schedule.task, "retention", None) == policy
        with pytest.raises(ValueError, match="nightly"):
            await fleet.schedule("nightly", "0 4 * * *", [1])
        await fleet.unschedule("nightly")
        assert await fleet.schedules() == []
        with pytest.raises(RunError, match="no schedule"):
            await fleet.unschedule("nightly")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"cron": "every night"}, id="no cron"),
        pytest.param({"cron": "R 3 * * *"}, id="a minute at random"),
        pytest.param({"cron": "r(0-4) 15 * * *"}, id="a minute at random within a range"),
        pytest.param({"cron": "0 1,R/2 * * *"}, id="hours at random"),
        pytest.param({"cron": "H 3 * * *"}, id="a minute by a hash"),
        pytest.param({"tz": "Mars/North"}, id="no zone"),
        pytest.param({"tz": "Europe"}, id="a folder of zones"),
        pytest.param({"servers": [0]}, id="no server"),
        pytest.param({"ping": "ftp://a"}, id="no ping"),
        pytest.param({"name": ""}, id="no name"),
        pytest.param({"make_room": True}, id="no rotation"),
        pytest.param({"cron": "0 3 30 2 *"}, id="a day that never comes"),
        pytest.param(
            {"rotate": Retention(daily=7, weekly=4, job="nightly")}, id="a policy that never fits"
        ),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused(file: Path, wrong: dict[str, Any]) -> None:
    given = {"name": "nightly", "cron": "0 3 * * *", "servers": [1], "tz": "UTC"} | wrong
    async with DurableFleet(f"sqlite:///{file}") as fleet:
        with pytest.raises(ValueError, match=r"."):
            await fleet.schedule(**given)
        assert await fleet.schedules() == []


@pytest.mark.parametrize("cron", ["@hourly", "0 3 * MAR THU", "0 3 L * *", "0 3 * * fri#2"])
async def test_a_line_of_cron_may_have_names(file: Path, cron: str) -> None:
    async with DurableFleet(f"sqlite:///{file}") as fleet:
        await fleet.schedule("nightly", cron, [1])
        assert [one.cron for one in await fleet.schedules()] == [cron]
