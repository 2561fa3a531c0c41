"""Durable runs: what may be submitted, how they end, and what the database holds of them."""

import asyncio
import contextlib
import signal
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from helpers_durable import looks, posts, until, workers_of
from helpers_secrets import CANARY
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from vpsbackups_async import (
    ALL_SERVERS,
    AuthenticationError,
    BackupRef,
    ConfigurationError,
    PermissionDeniedError,
    Retention,
    RetryPolicy,
    Server,
)
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import (
    BackupTask,
    DurableFleet,
    ItemState,
    Limits,
    RunOutcome,
    work,
)
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.failures import failed
from vpsbackups_async.durable.items import Item, Items, NoPlaceError
from vpsbackups_async.durable.schema import create_tables
from vpsbackups_async.durable.store import Store
from vpsbackups_async.errors import (
    BackupFailedError,
    CreateOutcomeUnknownError,
    DatabaseError,
    NotFoundError,
    RequestTimeoutError,
    RunError,
    ServerError,
    TransportError,
    UnexpectedRedirectError,
    VPSBackupsError,
    WaitTimeoutError,
)
from vpsbackups_async.testing import Drop, FakeVPS, Latency, Reply, ServerFault, VirtualTime

LIMITS = Limits(
    backoff=ConstantBackoff(0.05), start_within=0.3, create_again_after=None, unknown_for=0.4
)


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=5, backups=0, backup_seconds=0.05, token=CANARY) as fake:
        yield fake


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.sqlite'}"


def fleet_on(url: str, fake: FakeVPS, limits: Limits = LIMITS, **options: Any) -> DurableFleet:
    client = {
        "token": fake.token,
        "base_url": fake.url,
        "retry": RetryPolicy(create_grace=0.2),
    }
    return DurableFleet(url, client_options=client, limits=limits, **options)


async def by_server(fleet: DurableFleet, run: str = "nightly") -> dict[int, ItemState]:
    return {one.server_id: one.state async for one in fleet.results(run)}


# --- Submit --------------------------------------------------------------------------------------


async def test_a_run_that_is_submitted_again_gets_only_the_servers_that_it_does_not_have(
    url: str,
) -> None:
    async with DurableFleet(url) as fleet:
        assert await fleet.submit("nightly", [1, 2, 2], description="Nightly") == 2
        assert await fleet.submit("nightly", iter([2, 3]), description="Nightly") == 1
        assert (await fleet.progress("nightly")).waiting == 3


@pytest.mark.parametrize("count", [0, 499, 500, 501, 1000])
async def test_a_run_is_wholly_submitted_once_its_submit_has_ended(url: str, count: int) -> None:
    async with DurableFleet(url) as fleet:
        assert await fleet.submit("nightly", range(1, count + 1)) == count
        assert (await fleet.progress("nightly")).wholly_submitted


async def test_a_run_whose_submit_was_cut_off_is_not_wholly_submitted_until_it_is_repeated(
    url: str,
) -> None:
    async def servers() -> AsyncIterator[int]:
        for server_id in range(1, 1001):
            if server_id == 1000:
                raise OSError("the pipe broke")
            yield server_id

    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [7])
        with pytest.raises(OSError, match="the pipe broke"):
            await fleet.submit("nightly", servers())
        await fleet.cancel("nightly")
        progress = await fleet.progress("nightly")
        assert (progress.total, progress.is_over, progress.wholly_submitted) == (500, True, False)
        await fleet.retry("nightly", "cancelled")
        assert not (await fleet.progress("nightly")).wholly_submitted
        assert await fleet.submit("nightly", range(1, 1001)) == 500
        assert (await fleet.progress("nightly")).wholly_submitted


async def test_servers_may_be_values_of_an_async_iterable(url: str) -> None:
    async def servers() -> AsyncIterator[int | Server]:
        yield 7
        yield Server(8, "web")

    async with DurableFleet(url) as fleet:
        assert await fleet.submit("nightly", servers()) == 2


async def test_all_servers_are_read_from_the_account(url: str, real_fake: FakeVPS) -> None:
    async with fleet_on(url, real_fake) as fleet:
        assert await fleet.submit("nightly", ALL_SERVERS) == 5


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"description": "Weekly"}, id="another description"),
        pytest.param({"description": "Nightly", "job": "web"}, id="a job"),
        pytest.param({"description": "Nightly", "ensure": timedelta(hours=20)}, id="another verb"),
    ],
)
async def test_a_run_is_refused_under_the_name_of_one_with_other_options(
    url: str, other: dict[str, Any]
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1], description="Nightly")
        with pytest.raises(RunError, match="nightly"):
            await fleet.submit("nightly", [2], **other)
        assert (await fleet.progress("nightly")).total == 1


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"description": "Nightly"}, {}, "description 'Nightly', not None"),
        ({"job": "a"}, {"job": "b"}, "job 'a', not 'b'"),
        (
            {"ensure": timedelta(hours=1)},
            {"ensure": timedelta(hours=2), "description": "x"},
            "description None, not 'x', and within '3600 s', not '7200 s'",
        ),
        (
            {"rotate": Retention(daily=4, job="a")},
            {"rotate": Retention(daily=5, job="a"), "make_room": True},
            "daily 4, not 5, and make_room False, not True",
        ),
        ({}, {"ensure": timedelta(hours=1)}, "task 'backup', not 'ensure'"),
    ],
)
async def test_a_run_with_other_options_is_refused_with_the_values_that_differ(
    url: str, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1], **first)
        with pytest.raises(RunError, match=f"'nightly' was submitted with {words}"):
            await fleet.submit("nightly", [1], **second)


async def test_what_is_refused_of_a_run_says_the_way_out(url: str) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
        with pytest.raises(RunError, match="not over") as raised:
            await fleet.forget("nightly")
        assert "vpsbackups run work --until-done" in raised.value.hint
        await fleet.cancel("nightly")
        with pytest.raises(RunError, match="was cancelled") as raised:
            await fleet.submit("nightly", [2])
        assert "vpsbackups run retry --only cancelled" in raised.value.hint
        assert await fleet.retry("nightly", "cancelled") == 1
        assert await fleet.submit("nightly", [2]) == 1


async def test_a_policy_is_the_same_when_it_is_submitted_again(url: str) -> None:
    policy = Retention(daily=4, within=timedelta(days=1), tz="Europe/Berlin", job="nightly")
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1], rotate=policy)
        assert await fleet.submit("nightly", [1], rotate=policy) == 0
        (run,) = await fleet.runs()
    assert getattr(run.task, "retention", None) == policy


async def test_a_run_of_another_version_of_the_library_is_refused(url: str, tmp_path: Path) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
            connection.execute("UPDATE fleet_runs SET version = 0")
            connection.commit()
        with pytest.raises(RunError, match="another version"):
            await fleet.submit("nightly", [1])


@pytest.mark.parametrize("task", ['{"verb": "fly", "description": null}', "{", "{}", "[]", "7"])
async def test_a_run_whose_task_cannot_be_read_is_named_with_its_database_and_can_be_forgotten(
    url: str, tmp_path: Path, task: str
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
        await fleet.cancel("nightly")
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
            connection.execute("UPDATE fleet_runs SET task = ?", [task])
            connection.commit()
        for look in (fleet.progress("nightly"), fleet.runs()):
            with pytest.raises(DatabaseError, match=r"damaged, or .* newer version") as raised:
                await look
            assert f"what run 'nightly' of the database {url} is to do" in str(raised.value)
        await fleet.forget("nightly")
        assert await fleet.runs() == []


@pytest.mark.parametrize("name", ["", " ", " nightly", "a\nb", None, 7])
async def test_a_run_needs_a_name(url: str, name: Any) -> None:
    async with DurableFleet(url) as fleet:
        with pytest.raises(ValueError, match="named"):
            await fleet.submit(name, [1])


@pytest.mark.parametrize("name", ["", "a\nb", "d\ud800", None, 7])
@pytest.mark.parametrize("verb", ["progress", "retry", "cancel", "forget", "unschedule", "results"])
async def test_what_no_run_can_be_called_is_refused_by_every_call(
    url: str, verb: str, name: Any
) -> None:
    async with DurableFleet(url) as fleet:
        call = anext(fleet.results(name)) if verb == "results" else getattr(fleet, verb)(name)
        with pytest.raises(ValueError, match="named"):
            await call


async def test_the_name_of_a_run_has_200_characters_at_most(url: str) -> None:
    async with DurableFleet(url) as fleet:
        assert await fleet.submit("n" * 200, [1]) == 1
        with pytest.raises(ValueError, match="at most 200 characters, not 201"):
            await fleet.submit("n" * 201, [1])


@pytest.mark.parametrize("servers", [[1, 0], [1, "2"], [True], "12", None])
async def test_nothing_is_submitted_if_a_server_is_none(
    url: str, tmp_path: Path, servers: Any
) -> None:
    async with DurableFleet(url) as fleet:
        with pytest.raises(ValueError, match="server_id"):
            await fleet.submit("nightly", servers)
    assert not (tmp_path / "runs.sqlite").exists()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"ensure": timedelta(1), "rotate": Retention(last=1, job="a")}, id="both verbs"
        ),
        pytest.param({"ensure": timedelta(1), "job": "a"}, id="ensure with a job"),
        pytest.param({"make_room": True}, id="room without rotate"),
        pytest.param({"rotate": Retention(last=1)}, id="a policy without a job"),
        pytest.param({"description": 7}, id="a description that is no text"),
        pytest.param({"ensure": timedelta(0)}, id="no period"),
    ],
)
async def test_options_that_do_not_go_together_are_refused(
    url: str, options: dict[str, Any]
) -> None:
    async with DurableFleet(url) as fleet:
        with pytest.raises(ValueError, match=r"."):
            await fleet.submit("nightly", [1], **options)


@pytest.mark.parametrize(
    "limits",
    [
        {"unknown_for": 100.0, "create_again_after": 60.0, "start_within": 60.0},
        {"rate": 0},
        {"concurrency": 0},
        {"wait_timeout": 0},
        {"start_within": -1},
        {"create_again_after": -1},
        {"unknown_for": float("nan")},
        {"backoff": 7},
    ],
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


# --- Outcomes ------------------------------------------------------------------------------------


async def test_each_server_has_an_outcome_whatever_became_of_it(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.fails = {2}
    real_fake.quota = 0
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [2], description="Nightly")
        real_fake.quota = 10
        await fleet.submit("other", [1, 99], description="Nightly")
        await fleet.work(until_done=True)
        outcomes = {
            one.server_id: one
            for run in ("nightly", "other")
            for one in [two async for two in fleet.results(run)]
        }
    assert outcomes[1].ok
    assert outcomes[1].backup is not None
    assert outcomes[1].backup_id == outcomes[1].backup.id
    assert outcomes[2].state is ItemState.FAILED
    assert outcomes[2].error == "BackupFailedError"
    assert outcomes[2].backup_id is not None
    assert outcomes[99].state is ItemState.FAILED
    assert outcomes[99].error == "NotFoundError"
    assert outcomes[99].detail is not None


async def test_an_outcome_that_stays_unknown_ends_the_run(url: str, real_fake: FakeVPS) -> None:
    real_fake.inject(ServerFault(504, method="POST"))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.state is ItemState.UNKNOWN
    assert outcome.error == "CreateOutcomeUnknownError"


async def test_a_retry_serves_those_that_failed_once_more(url: str, real_fake: FakeVPS) -> None:
    real_fake.fails = {1, 2}
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2, 3])
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "failed", 2: "failed", 3: "completed"}
        real_fake.fails = {2}
        assert await fleet.retry("nightly") == 2
        await fleet.work(until_done=True)
        outcomes = {one.server_id: one async for one in fleet.results("nightly")}
    assert {server: one.state.value for server, one in outcomes.items()} == {
        1: "completed",
        2: "failed",
        3: "completed",
    }
    assert (outcomes[1].retry, outcomes[3].retry) == (1, 0)
    assert sorted(posts(real_fake)) == [1, 1, 2, 2, 3]


async def test_a_retry_takes_each_server_once_though_it_fails_again_meanwhile(
    url: str, tmp_path: Path
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1, 2, 3])
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
            connection.execute("UPDATE fleet_items SET state = 'failed'")
            connection.execute(
                "CREATE TRIGGER again AFTER UPDATE OF retry ON fleet_items "
                "BEGIN UPDATE fleet_items SET state = 'failed' WHERE server = NEW.server; END"
            )
            connection.commit()
        async with asyncio.timeout(10):
            assert await fleet.retry("nightly") == 3
        assert [one.retry async for one in fleet.results("nightly")] == [1, 1, 1]


@pytest.mark.durable
async def test_a_retry_of_a_wait_that_timed_out_waits_for_the_same_backup(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.backup_seconds = 3600.0
    short = Limits(backoff=ConstantBackoff(0.1), wait_timeout=0.3)
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        async with fleet_on(url, real_fake, short) as hasty:
            await hasty.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
        assert (outcome.state, outcome.error) == ("failed", "WaitTimeoutError")
        assert outcome.backup_id is not None
        real_fake.finish(outcome.backup_id)
        await fleet.retry("nightly")
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "completed"}
    assert posts(real_fake) == [1]


def execute(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path / "runs.sqlite")) as connection:
        connection.execute(statement, values)
        connection.commit()


@contextlib.asynccontextmanager
async def working(fleet: DurableFleet) -> AsyncIterator[None]:
    """A worker during the block."""
    work = asyncio.create_task(fleet.work())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


@pytest.mark.parametrize("rotate", [None, Retention(last=1, job="nightly")])
async def test_a_backup_that_is_not_listed_yet_is_waited_for_by_the_next_worker(
    url: str, real_fake: FakeVPS, rotate: Retention | None
) -> None:
    real_fake.visible_after = 2.0
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], rotate=rotate)
        async with working(fleet):
            await until(lambda: posts(real_fake) == [1])
        assert await by_server(fleet) == {}
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "completed"}
    assert posts(real_fake) == [1]


@pytest.mark.parametrize(
    "error", ["BackupDisappearedError", "BackupNeverAppearedError", "PermissionDeniedError"]
)
async def test_a_retry_goes_on_from_a_backup_that_is_not_known_to_have_failed(
    url: str, real_fake: FakeVPS, tmp_path: Path, error: str
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        await fleet.work(until_done=True)
        execute(tmp_path, "UPDATE fleet_items SET state = 'failed', error = ?", error)
        await fleet.retry("nightly")
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert (outcome.state, outcome.backup_id) == ("completed", real_fake.backups[0]["id"])
    assert posts(real_fake) == [1]


async def test_a_retry_finds_by_its_marker_a_backup_whose_id_never_appears(
    url: str, real_fake: FakeVPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_APPEAR_GRACE", 0.0)
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        await fleet.work(until_done=True)
        never = "UPDATE fleet_items SET state = 'failed', error = ?, backup = 4711"
        execute(tmp_path, never, "BackupNeverAppearedError")
        await fleet.retry("nightly")
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert (outcome.state, outcome.backup_id) == ("completed", real_fake.backups[0]["id"])
    assert posts(real_fake) == [1]


async def test_ensure_creates_only_where_no_recent_backup_is(url: str, real_fake: FakeVPS) -> None:
    there = real_fake.add_backup(1, description="Nightly", backup_type="manual")
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2], description="Nightly", ensure=timedelta(hours=20))
        await fleet.work(until_done=True)
        outcomes = {one.server_id: one async for one in fleet.results("nightly")}
    assert (outcomes[1].existing, outcomes[1].backup_id) == (True, there["id"])
    assert not outcomes[2].existing
    assert outcomes[2].ok
    assert posts(real_fake) == [2]


async def test_a_backup_that_was_there_before_is_told_as_such_by_the_next_worker(
    url: str, real_fake: FakeVPS
) -> None:
    there = real_fake.add_backup(1, description="Nightly", status="in_progress", seconds=3600.0)
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], description="Nightly", ensure=timedelta(hours=20))
        async with working(fleet):
            await until(lambda: looks(real_fake) > 1)
        real_fake.finish(there["id"])
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert (outcome.existing, outcome.backup_id) == (True, there["id"])


async def test_a_rotation_names_what_it_deleted(url: str, real_fake: FakeVPS) -> None:
    old = real_fake.add_backup(1, description="[job:nightly]", backup_type="manual", size_mb=4000)
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], rotate=Retention(last=1, job="nightly"))
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.detail is None
    assert outcome.deleted == (old["id"],)


async def test_a_rotation_names_also_what_the_worker_before_deleted(
    url: str, real_fake: FakeVPS
) -> None:
    old = [
        real_fake.add_backup(1, description="[job:nightly]", size_mb=4000)["id"] for _ in range(3)
    ]
    real_fake.inject(Latency(3600.0, method="DELETE", times=1, when="after"))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], rotate=Retention(last=2, job="nightly"))
        async with working(fleet):
            await until(lambda: real_fake.count("DELETE") == 1)
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.ok
    assert sorted(outcome.deleted) == old[:2]


async def test_a_deletion_that_was_refused_is_not_named(url: str, real_fake: FakeVPS) -> None:
    real_fake.add_backup(1, description="[job:nightly]", size_mb=4000)
    real_fake.inject(Reply(403, b'{"detail": "no"}', method="DELETE"))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], rotate=Retention(last=1, job="nightly"))
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert (outcome.error, outcome.deleted) == ("PermissionDeniedError", ())
    assert outcome.in_doubt == ()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_deletion_without_an_answer_is_deleted_where_the_list_shows_that_and_else_in_doubt(
    url: str, real_fake: FakeVPS, when: Literal["before", "after"]
) -> None:
    old = real_fake.add_backup(1, description="[job:nightly]", size_mb=4000)["id"]
    real_fake.inject(Drop(method="DELETE", when=when))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1], rotate=Retention(last=1, job="nightly"))
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.error == "TransportError"
    assert (outcome.deleted, outcome.in_doubt) == (
        ((old,), ()) if when == "after" else ((), (old,))
    )


async def test_an_outcome_says_what_to_do(url: str, real_fake: FakeVPS) -> None:
    real_fake.inject(Reply(400, b'{"detail": "no"}', method="POST"))
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.detail is not None
    assert outcome.detail.endswith(". Change what the server names, then call again")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (BackupFailedError(BackupRef(7, 1)), "Retry the run's failed servers: that makes another"),
        (WaitTimeoutError(BackupRef(7, 1)), "goes on waiting for the same backup"),
        (CreateOutcomeUnknownError((), 1), "Create none by hand before you have looked"),
        (RequestTimeoutError("no answer", "timeout"), "Retry the run's failed servers later"),
        (ServerError(503, "no", None, None, "POST"), "later: that looks for its backup before"),
        (TransportError("no route"), "Check the network and the URL"),
        (UnexpectedRedirectError("moved"), "Check the URL of the API (https, the right host"),
        (NotFoundError(404, "no"), "List the backups"),
    ],
    ids=[
        "failed",
        "wait",
        "unknown",
        "timeout",
        "503",
        "transport",
        "redirect",
        "not found",
    ],
)
def test_the_advice_of_an_outcome_is_about_its_run(error: VPSBackupsError, advice: str) -> None:
    outcome = failed(RunOutcome("nightly", 1, ItemState.COMPLETED), error)
    assert outcome.detail is not None
    assert advice in outcome.detail


def test_the_advice_after_a_deletion_tells_of_no_create() -> None:
    error = ServerError(503, "no", None, None, "DELETE")
    detail = failed(RunOutcome("nightly", 1, ItemState.COMPLETED), error).detail
    assert detail is not None
    assert detail.endswith("Retry the run's failed servers later")


# --- Cancel and forget ---------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_starts_nothing_and_takes_no_more_servers(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2])
        assert await fleet.cancel("nightly") == 2
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "cancelled", 2: "cancelled"}
        with pytest.raises(RunError, match="cancelled"):
            await fleet.submit("nightly", [3])
    assert posts(real_fake) == []


async def test_a_run_that_is_not_over_is_not_forgotten(url: str) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
        with pytest.raises(RunError, match="not over"):
            await fleet.forget("nightly")


@pytest.mark.durable
async def test_the_name_of_a_forgotten_run_never_adopts_its_backups(
    url: str, real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        for _ in range(2):
            assert await fleet.submit("nightly", [1, 2], description="Nightly") == 2
            await fleet.work(until_done=True)
            assert await by_server(fleet) == {1: "completed", 2: "completed"}
            assert await fleet.forget_older_than(timedelta(seconds=0.001)) == ["nightly"]
            with pytest.raises(RunError, match="no run"):
                await fleet.progress("nightly")
    assert sorted(posts(real_fake)) == [1, 1, 2, 2]
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
        for table in ("fleet_runs", "fleet_items", "workflow_status", "workflow_input"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.durable
@pytest.mark.parametrize("ending", ["forget", "forget older"])
async def test_a_run_whose_forget_was_cut_off_is_forgotten_and_the_next_one_deletes_what_is_left(
    url: str, real_fake: FakeVPS, tmp_path: Path, ending: str
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2], description="Nightly")
        await fleet.work(until_done=True)
        refuse(tmp_path, "DELETE ON fleet_items")
        with pytest.raises(DatabaseError, match="disk is full"):
            await fleet.forget("nightly")
        execute(tmp_path, "DROP TRIGGER refused")
        assert await fleet.runs() == []
        assert await fleet.submit("nightly", [1], description="Nightly") == 1
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
        assert (outcome.state, outcome.backup_id) == ("completed", 3)
        assert count_of(tmp_path, "fleet_items") == 3
        await CHANGES[ending](fleet)
    for table in ("fleet_runs", "fleet_items", "workflow_status", "workflow_input"):
        assert count_of(tmp_path, table) == 0


def count_of(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path / "runs.sqlite")) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


@pytest.mark.parametrize("change", ["submit", "retry"])
async def test_a_run_that_is_forgotten_meanwhile_gets_no_more_servers(
    durable_url: str, change: str
) -> None:
    """What was begun with the run of that name never ends with another one."""
    async with DurableFleet(durable_url) as fleet, DurableFleet(durable_url) as other:

        async def servers() -> AsyncIterator[int]:
            for server_id in range(1, 1001):
                if server_id == 1000:
                    await other.cancel("nightly")
                    await other.forget("nightly")
                    await other.submit("nightly", [5000])
                yield server_id

        if change == "submit":
            with pytest.raises(RunError, match="'nightly' was forgotten meanwhile"):
                await fleet.submit("nightly", servers())
        else:
            await fleet.submit("nightly", range(1, 3))
            run = await Store(fleet._database).find("nightly")
            await other.cancel("nightly")
            await other.forget("nightly")
            await other.submit("nightly", [5000])
            with pytest.raises(RunError, match="'nightly' was forgotten meanwhile"):
                await Store(fleet._database).retry(run, ItemState.CANCELLED, -1, lambda *_: None)
        assert (await fleet.progress("nightly")).waiting == 1


# --- Whose database it is ------------------------------------------------------------------------

OTHER = {"account": {"email": "other@example.org"}, "token": {}}


async def test_a_worker_of_another_account_is_refused(url: str, real_fake: FakeVPS) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.work(until_done=True)
        await fleet.submit("nightly", [1])
        real_fake.account_reply = OTHER
        with pytest.raises(ConfigurationError, match=r"other@example\.org"):
            await fleet.work(until_done=True)
    assert posts(real_fake) == []


@pytest.mark.parametrize("servers", [ALL_SERVERS, [1, 2]], ids=["all", "ids"])
async def test_a_submit_with_the_token_of_another_account_is_refused(
    url: str, real_fake: FakeVPS, servers: Any
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.work(until_done=True)
        real_fake.account_reply = OTHER
        with pytest.raises(ConfigurationError, match=r"other@example\.org"):
            await fleet.submit("nightly", servers)
        assert await fleet.runs() == []


async def test_a_database_belongs_to_the_account_whose_servers_are_submitted_first(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", ALL_SERVERS)
        real_fake.account_reply = OTHER
        with pytest.raises(ConfigurationError, match=r"other@example\.org"):
            await fleet.work(until_done=True)


async def test_a_submit_with_another_name_of_the_account_is_refused_without_a_token(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.account_calls = "missing"
    async with fleet_on(url, real_fake, account="ours") as fleet:
        await fleet.work(until_done=True)
    async with DurableFleet(url, account="theirs") as fleet:
        with pytest.raises(ConfigurationError, match="'ours'"):
            await fleet.submit("nightly", [1])


CHANGES = {
    "retry": lambda fleet: fleet.retry("nightly", "cancelled"),
    "cancel": lambda fleet: fleet.cancel("nightly"),
    "forget": lambda fleet: fleet.forget("nightly"),
    "forget older": lambda fleet: fleet.forget_older_than(timedelta(seconds=0.001)),
    "schedule": lambda fleet: fleet.schedule("weekly", "0 3 * * 0", [1]),
    "unschedule": lambda fleet: fleet.unschedule("other"),
}
"""What changes a run that is cancelled, or a schedule that is there."""


async def of_an_account(fleet: DurableFleet) -> None:
    """Let the database belong to the account of the fleet's token."""
    await fleet.work(until_done=True)
    await fleet.submit("nightly", [1])
    await fleet.cancel("nightly")
    await fleet.schedule("other", "0 3 * * *", [1])


@pytest.mark.parametrize("change", CHANGES)
async def test_another_account_is_refused_to_change_a_run_or_a_schedule_and_may_look(
    url: str, real_fake: FakeVPS, change: str
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await of_an_account(fleet)
        before = await fleet.runs(), await fleet.schedules(), await fleet.progress("nightly")
        real_fake.account_reply = OTHER
        with pytest.raises(ConfigurationError, match=r"not to 'other@example\.org'.*--database"):
            await CHANGES[change](fleet)
        after = await fleet.runs(), await fleet.schedules(), await fleet.progress("nightly")
        assert after == before
        assert await by_server(fleet) == {1: "cancelled"}


@pytest.mark.parametrize("change", CHANGES)
async def test_who_has_no_token_may_change_a_run_or_a_schedule(
    url: str, real_fake: FakeVPS, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VPS_API_TOKEN", raising=False)
    async with fleet_on(url, real_fake) as fleet:
        await of_an_account(fleet)
        real_fake.account_reply = OTHER
        async with DurableFleet(url) as other:
            await CHANGES[change](other)


NAMES = ["ada@example.com", "ours", None]
"""Of the account of the fake's token: as the API tells it, another one, and none."""


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_does_not_stand_for_the_account_that_the_api_tells(
    url: str, real_fake: FakeVPS, name: str | None
) -> None:
    async with fleet_on(url, real_fake, account="ours") as fleet:
        await of_an_account(fleet)
    real_fake.account_reply = OTHER
    async with fleet_on(url, real_fake, account=name) as fleet:
        changes = [*CHANGES.values(), lambda fleet: fleet.work(until_done=True)]
        for change in (*changes, lambda fleet: fleet.submit("more", ALL_SERVERS)):
            with pytest.raises(ConfigurationError, match=r"'ada@.*, not to 'other@example\.org'"):
                await change(fleet)


async def test_an_account_is_the_same_in_whatever_case_it_is_written(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await of_an_account(fleet)
        real_fake.account_reply = {"account": {"email": "ADA@Example.com"}, "token": {}}
        await fleet.work(until_done=True)
        assert await fleet.retry("nightly", "cancelled") == 1


async def test_a_database_that_was_named_belongs_to_the_account_that_the_api_tells_with_that_name(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.account_calls = "missing"
    async with fleet_on(url, real_fake, account="ours") as fleet:
        await of_an_account(fleet)
    real_fake.account_calls = "served"
    async with fleet_on(url, real_fake) as fleet:
        with pytest.raises(ConfigurationError, match=r"'ours', not to 'ada@.*\(--account"):
            await fleet.work(until_done=True)
    async with fleet_on(url, real_fake, account="Ours") as fleet:
        await fleet.work(until_done=True)
    async with fleet_on(url, real_fake) as fleet:
        await fleet.work(until_done=True)
    real_fake.account_reply = OTHER
    async with fleet_on(url, real_fake, account="ours") as fleet:
        with pytest.raises(ConfigurationError, match=r"'ada@.*, not to 'other@"):
            await fleet.work(until_done=True)


@pytest.mark.virtual_time
async def test_a_run_is_cancelled_without_a_long_wait_for_an_api_that_does_not_answer(
    url: str, virtual_time: VirtualTime
) -> None:
    async with FakeVPS(servers=1, backups=0) as fake, fleet_on(url, fake, account="ours") as fleet:
        await fleet.work(until_done=True)
        await fleet.submit("nightly", [1])
        fake.inject(Latency(3600.0, path="/account/me/"))
        async with fleet_on(url, fake) as other:
            began = virtual_time.elapsed
            assert await other.cancel("nightly") == 1
            assert 5.0 <= virtual_time.elapsed - began < 20.0


async def test_ids_are_submitted_while_the_api_is_away(url: str, real_fake: FakeVPS) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.work(until_done=True)
        real_fake.inject(Reply(503, b"", path="/account/me/"))
        assert await fleet.submit("nightly", [1]) == 1
    assert real_fake.count("GET") == 2


async def test_where_the_api_tells_no_account_it_must_be_named(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.account_calls = "missing"
    async with fleet_on(url, real_fake) as fleet:
        with pytest.raises(ConfigurationError, match="give the account a name"):
            await fleet.work(until_done=True)
    async with fleet_on(url, real_fake, account="ours") as fleet:
        await fleet.work(until_done=True)
    async with fleet_on(url, real_fake, account="theirs") as fleet:
        with pytest.raises(ConfigurationError, match="'ours'"):
            await fleet.work(until_done=True)


async def test_a_refused_token_ends_the_worker_and_leaves_the_servers_to_a_better_one(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2])
        real_fake.inject(Reply(401, b'{"detail": "no"}', method="POST"))
        with pytest.raises(AuthenticationError):
            await fleet.work(until_done=True)
        real_fake.clear_faults()
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "completed", 2: "completed"}


def cells_of(url: str) -> list[str]:
    """All that the database holds, as texts."""
    with contextlib.ExitStack() as stack:
        if url.startswith("sqlite"):
            connection: Any = stack.enter_context(
                contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///")))
            )
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        else:
            connection = stack.enter_context(psycopg.connect(url))
            tables = connection.execute(
                "SELECT schemaname || '.' || tablename FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
        return [
            str(cell)
            for (table,) in tables.fetchall()
            for row in connection.execute(f"SELECT * FROM {table}").fetchall()
            for cell in row
        ]


async def test_no_token_is_ever_in_the_database(durable_url: str, real_fake: FakeVPS) -> None:
    real_fake.inject(
        Reply(400, f'{{"detail": "bad token {CANARY}"}}'.encode(), method="POST", times=1)
    )
    async with fleet_on(durable_url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2, 3], description="Nightly")
        await fleet.work(until_done=True)
        assert sorted((await by_server(fleet)).values()) == ["completed", "completed", "failed"]
    cells = cells_of(durable_url)
    assert any("Nightly" in cell for cell in cells)
    assert not [cell for cell in cells if CANARY in cell]


async def test_a_token_that_the_api_echoes_in_a_success_is_masked_in_the_outcome(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.add_server(7, f"web {CANARY}")
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [7], description="Nightly")
        await fleet.work(until_done=True)
        (outcome,) = [one async for one in fleet.results("nightly")]
    assert outcome.backup is not None
    assert outcome.backup.server.name == "web ***"
    assert not [cell for cell in cells_of(url) if CANARY in cell]


# --- The worker and the database -----------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.durable)]
)
async def test_a_worker_that_is_asked_to_stop_ends_its_creates_and_leaves_the_rest(
    url: str, real_fake: FakeVPS, number: int
) -> None:
    real_fake.inject(Latency(0.5, method="POST", path="/backups/"))
    real_fake.backup_seconds = 3600.0
    async with workers_of(url, real_fake) as workers, fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", range(1, 6))
        worker = await workers.start(until_done=False)
        await until(lambda: len(posts(real_fake)) == 5)
        worker.signal(number)
        assert await worker.ended() == 0
        assert sorted(posts(real_fake)) == [1, 2, 3, 4, 5]
        for backup in real_fake.backups:
            real_fake.finish(backup["id"])
        before = looks(real_fake)
        await fleet.work(until_done=True)
        assert await by_server(fleet) == dict.fromkeys(range(1, 6), "completed")
        assert looks(real_fake) - before < 5  # the ids were known: no server was looked at for them
    assert sorted(posts(real_fake)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://vps:canary-pw@127.0.0.1:1/runs", id="nobody listens"),
        pytest.param("sqlite:////proc/none/runs.sqlite", id="no such folder"),
    ],
)
async def test_a_database_that_cannot_be_reached_is_one_clear_error(url: str) -> None:
    async with DurableFleet(url) as fleet:
        with pytest.raises(ConfigurationError, match="cannot be used") as raised:
            await fleet.submit("nightly", [1])
    assert "canary-pw" not in str(raised.value)


@pytest.mark.parametrize("url", ["mysql://a/b", "runs.sqlite", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_is_no_database_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="database"):
        DurableFleet(url)


async def test_a_file_of_another_program_is_refused_and_stays_as_it_is(
    url: str, tmp_path: Path
) -> None:
    file = tmp_path / "runs.sqlite"
    file.touch()  # an empty one is as good as none
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
    file.unlink()
    execute(tmp_path, "CREATE TABLE notes (text)")
    before = file.read_bytes()
    async with DurableFleet(url) as fleet:
        with pytest.raises(ConfigurationError, match="another program's, with a table 'notes'"):
            await fleet.submit("nightly", [1])
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]  # noqa: ASYNC240  # a folder of the test's own


async def test_a_database_of_another_version_is_refused(url: str, tmp_path: Path) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.submit("nightly", [1])
    with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
        connection.execute("UPDATE fleet_facts SET value = '1' WHERE name = 'version'")
        connection.commit()
    async with DurableFleet(url) as fleet:
        with pytest.raises(ConfigurationError, match="version 1"):
            await fleet.runs()


def refuse(path: Path, change: str) -> None:
    """Let the database refuse a change from now on, as one whose disk is full does."""
    with contextlib.closing(sqlite3.connect(path / "runs.sqlite")) as connection:
        connection.execute(
            f"CREATE TRIGGER refused BEFORE {change} BEGIN SELECT RAISE(FAIL, 'disk is full'); END"
        )
        connection.commit()


async def test_a_submit_that_the_database_refuses_is_one_clear_error_and_leaves_no_run(
    url: str, tmp_path: Path
) -> None:
    async with DurableFleet(url) as fleet:
        await fleet.runs()
        refuse(tmp_path, "INSERT ON fleet_items")
        with pytest.raises(DatabaseError, match=r"runs\.sqlite failed: disk is full"):
            await fleet.submit("nightly", [1])
        assert await fleet.runs() == []


async def test_a_submit_whose_servers_cannot_be_read_leaves_no_run(
    url: str, real_fake: FakeVPS
) -> None:
    real_fake.inject(Reply(403, b'{"detail": "no"}', path="/servers/"))
    async with fleet_on(url, real_fake) as fleet:
        with pytest.raises(PermissionDeniedError):
            await fleet.submit("nightly", ALL_SERVERS)
        assert await fleet.runs() == []


async def test_a_run_may_have_no_servers(url: str) -> None:
    async with DurableFleet(url) as fleet:
        assert await fleet.submit("nightly", []) == 0
        assert (await fleet.progress("nightly")).is_over


@pytest.mark.parametrize(
    "column",
    [
        "backup",
        *(pytest.param(name, marks=pytest.mark.durable) for name in ("owner", "posts", "outcome")),
    ],
)
async def test_a_worker_that_the_database_refuses_ends_and_leaves_the_rest_to_a_later_one(
    url: str, real_fake: FakeVPS, tmp_path: Path, column: str
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1, 2])
        refuse(tmp_path, f"UPDATE OF {column} ON fleet_items")
        with pytest.raises(DatabaseError, match="disk is full"):
            await fleet.work(until_done=True)
        with contextlib.closing(sqlite3.connect(tmp_path / "runs.sqlite")) as connection:
            connection.execute("DROP TRIGGER refused")
        await fleet.work(until_done=True)
        assert await by_server(fleet) == {1: "completed", 2: "completed"}
    assert sorted(posts(real_fake)) == [1, 2]


async def test_a_worker_that_the_database_does_not_take_says_why(
    url: str, real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with fleet_on(url, real_fake) as fleet:
        await fleet.submit("nightly", [1])
        refuse(tmp_path, "INSERT ON fleet_workers")
        with pytest.raises(ConfigurationError, match=r"runs\.sqlite cannot be used: disk is full"):
            await fleet.work(until_done=True)
        execute(tmp_path, "DROP TRIGGER refused")
        await fleet.work(until_done=True)


async def test_a_disk_that_is_full_is_no_wrong_setting(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'runs.sqlite'}")
    event.listen(database.engine, "connect", lambda one, _: one.execute("PRAGMA max_page_count=2"))
    with (
        contextlib.closing(database),
        pytest.raises(DatabaseError, match="full"),
        database.preparing(),
    ):
        create_tables(database)


def test_only_a_full_disk_is_hinted_at_as_one(tmp_path: Path) -> None:
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'runs.sqlite'}")) as database:
        full = sqlite3.OperationalError("database or disk is full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL
        hints = [
            database.failed(OperationalError("UPDATE", {}, cause)).hint
            for cause in (full, sqlite3.OperationalError("idle-in-transaction timeout"))
        ]
    assert ["disk" in hint for hint in hints] == [True, False]


async def test_creates_start_no_faster_than_the_rate(url: str, real_fake: FakeVPS) -> None:
    async with fleet_on(url, real_fake, Limits(rate=10.0, backoff=ConstantBackoff(0.1))) as fleet:
        await fleet.submit("nightly", range(1, 6))
        await fleet.work(until_done=True)
    times = sorted(seen.at for seen in real_fake.requests if seen.method == "POST")
    assert len(times) == 5
    assert times[-1] - times[0] >= 0.3


async def test_claims_at_the_same_moment_take_no_more_places_than_there_are(
    durable_url: str,
) -> None:
    async with DurableFleet(durable_url) as fleet:
        await fleet.runs()
        with contextlib.closing(Database(durable_url)) as database:
            items, store = Items(database), Store(database)
            await items.set_limits(None, 3)
            run, _ = await store.submit("nightly", BackupTask(), range(1, 41), lambda *_: None)
            claims = [items.claim(Entry(run.nonce, server, 0)) for server in range(1, 41)]
            claimed = await asyncio.gather(*claims, return_exceptions=True)
    assert sum(isinstance(one, NoPlaceError) for one in claimed) == 37
    assert sum(isinstance(one, Item) for one in claimed) == 3


async def test_what_a_worker_left_under_way_counts_for_the_concurrency_of_the_next(
    durable_url: str, real_fake: FakeVPS
) -> None:
    real_fake.backup_seconds = 3600.0
    limits = Limits(concurrency=2, backoff=ConstantBackoff(0.1))
    async with fleet_on(durable_url, real_fake, limits) as fleet:
        await fleet.submit("nightly", range(1, 5))
        for _ in range(2):
            before = looks(real_fake)
            async with working(fleet):
                await until(lambda before=before: looks(real_fake) > before + 2)
                await asyncio.sleep(0.7)  # some polls of the queue
                assert len(posts(real_fake)) == 2
        async with working(fleet):
            real_fake.finish(real_fake.backups[0]["id"])
            await until(lambda: len(posts(real_fake)) == 3)


async def test_a_worker_without_a_concurrency_leaves_that_of_others(
    url: str, real_fake: FakeVPS
) -> None:
    async with fleet_on(url, real_fake, Limits(concurrency=1)) as fleet:
        await fleet.work(until_done=True)
    real_fake.backup_seconds = 3600.0
    async with fleet_on(url, real_fake, Limits(backoff=ConstantBackoff(0.1))) as fleet:
        await fleet.submit("nightly", [1, 2])
        async with working(fleet):
            await until(lambda: looks(real_fake) > 2)
            await asyncio.sleep(0.7)  # some polls of the queue
            assert len(posts(real_fake)) == 1
