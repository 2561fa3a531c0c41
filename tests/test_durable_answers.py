"""Answers that leave the server at work: that no create may follow them is noted as they come."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from helpers_durable import created, looks, posts, until, workers_of
from helpers_guard import LIMITS, SERVER, Setting, setting

from vpsbackups_async import CreateOutcomeUnknownError, Observation
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.durable.engine import Entry
from vpsbackups_async.durable.items import SupersededError
from vpsbackups_async.durable.work import Work
from vpsbackups_async.events import CreateSettled, Event
from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, NotJSON, ServerFault


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=1, backups=0, clock=time.time) as fake:
        yield fake


class AtCreate:
    """A limiter that does something between the intent of a create and its request."""

    def __init__(self) -> None:
        self.then: Callable[[], Awaitable[None]] | None = None

    async def acquire(self, cost: int, kind: str) -> None:
        if kind == "create" and self.then is not None:
            then, self.then = self.then, None
            await then()

    def observe(self, observation: Observation) -> None:
        pass

    def closed_for(self, kind: str) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("fault", "may_repeat"),
    [
        pytest.param(ServerFault(504, method="POST"), False, id="a 504"),
        pytest.param(NotJSON(method="POST", when="after"), False, id="an unreadable 201"),
        pytest.param(Latency(3600.0, method="POST"), False, id="a timeout"),
        pytest.param(ServerFault(502, method="POST"), True, id="a 502"),
        pytest.param(Drop(method="POST"), True, id="a cut connection"),
    ],
)
@pytest.mark.virtual_time
async def test_a_worker_that_is_killed_while_it_looks_has_noted_what_the_answer_says(
    real_fake: FakeVPS, tmp_path: Path, fault: Fault, may_repeat: bool
) -> None:
    real_fake.inject(fault)
    real_fake.inject(Latency(3600.0, method="GET"))
    async with setting(tmp_path, real_fake) as made:
        task = asyncio.create_task(made.guard().create(await made.claimed(), "Nightly"))
        await until(lambda: real_fake.count("GET") == 1, 300)
        task.cancel()
        await asyncio.wait([task])
        item = await made.claimed()
    assert (item.posts, item.may_repeat) == (1, may_repeat)


async def test_an_answer_counts_also_for_who_took_the_server_over_before_it_came(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(ServerFault(504, method="POST"))
    limiter = AtCreate()
    async with setting(tmp_path, real_fake, limiter=limiter) as made:
        await made.items.note_markers()
        theirs = []

        async def take_over() -> None:
            theirs.append(await made.claimed())

        limiter.then = take_over
        with pytest.raises(SupersededError):
            await made.guard().create(await made.claimed(), "Nightly")
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(theirs[0], "Nightly")
        assert not (await made.claimed()).may_repeat
    assert real_fake.count("POST") == 1


async def test_a_backup_that_is_found_is_told_of_as_settled(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(Drop(method="POST", when="after"))
    events: list[Event] = []
    async with setting(tmp_path, real_fake, on_event=events.append) as made:
        found = await made.guard().create(await made.claimed(), "Nightly")
        assert made.client.is_given(found.backup.id)
    assert CreateSettled(SERVER, found.backup, certain=True) in events


# --- While the database is away -------------------------------------------------------------------


class Locked:
    """Another program holds the SQLite file locked."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, isolation_level=None)

    def begin(self) -> None:
        self._other.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        self._other.execute("ROLLBACK")

    def close(self) -> None:
        self._other.close()


class Broken(Locked):
    """No statement succeeds that writes what became of a create, as on a full disk."""

    def begin(self) -> None:
        self._other.execute("ALTER TABLE fleet_items RENAME TO away")

    def end(self) -> None:
        self._other.execute("ALTER TABLE away RENAME TO fleet_items")


@pytest.fixture(params=[Locked, Broken])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Locked]:
    with contextlib.closing(request.param(tmp_path / "runs.sqlite")) as made:
        yield made


async def answered_in(
    outage: Locked, made: Setting, limiter: AtCreate
) -> tuple[Work, asyncio.Task[None]]:
    """A worker whose create got its answer after the database had gone away."""
    sa.event.listen(
        made.database.engine, "checkout", lambda one, *_: one.execute("PRAGMA busy_timeout=20")
    )

    async def go_away() -> None:
        outage.begin()

    limiter.then = go_away
    work = Work(made.client, made.items, LIMITS, lambda _: None, None)
    task = asyncio.create_task(work.do(Entry(made.run.nonce, SERVER, 0)))
    return work, task


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_worker_that_ends_waits_for_the_database_to_note_such_an_answer(
    real_fake: FakeVPS,
    tmp_path: Path,
    outage: Locked,
    hurried: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vpsbackups_async.durable.work._LEFT_WITHIN", 0.05)
    if not hurried:
        monkeypatch.setattr("vpsbackups_async.durable.work._NOTED_WITHIN", 0.05)
    real_fake.inject(ServerFault(504, method="POST"))
    limiter = AtCreate()
    async with setting(tmp_path, real_fake, limiter=limiter) as made:
        work, task = await answered_in(outage, made, limiter)
        await until(lambda: real_fake.count("POST") == 1)
        if hurried:
            work.hurry()
        stopping = asyncio.create_task(work.stop())
        await asyncio.wait([task])
        outage.end()
        await stopping
        assert not (await made.claimed()).may_repeat


async def test_a_worker_that_cannot_note_such_an_answer_names_the_server(
    real_fake: FakeVPS,
    tmp_path: Path,
    outage: Locked,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("vpsbackups_async.durable.work._NOTED_WITHIN", 0.05)
    real_fake.inject(ServerFault(504, method="POST"))
    limiter = AtCreate()
    async with setting(tmp_path, real_fake, limiter=limiter) as made:
        work, _ = await answered_in(outage, made, limiter)
        await until(lambda: real_fake.count("POST") == 1)
        stopping = asyncio.create_task(work.stop())
        await asyncio.sleep(0.2)
        work.hurry()
        await stopping
        outage.end()
    assert f"servers [{SERVER}]" in caplog.text


# --- Workers as processes -------------------------------------------------------------------------


@pytest.mark.durable
async def test_nothing_is_made_twice_though_a_worker_is_killed_just_after_a_504(
    durable_url: str,
) -> None:
    limits = {"start_within": 1.0, "create_again_after": 1.0, "unknown_for": 30.0}
    servers = 3
    async with (
        FakeVPS(servers=servers + 1, backups=0, backup_seconds=0.2) as fake,
        workers_of(durable_url, fake) as workers,
        DurableFleet(durable_url) as fleet,
    ):
        await fleet.submit("before", [servers + 1])
        assert await (await workers.start(**limits)).ended() == 0
        before = looks(fake)
        fake.inject(ServerFault(504, method="POST", when="later", late=10.0, times=servers))
        await fleet.submit("nightly", range(1, servers + 1))
        first = await workers.start(**limits, until_done=False)
        await until(lambda: len(posts(fake)) == servers + 1 and looks(fake) > before)
        await asyncio.sleep(0.3)  # the last of the answers came as well
        await first.kill()
        second = await workers.start(**limits, on_wire=2.0)
        assert await second.ended() == 0
        assert len(posts(fake)) == servers + 1
        progress = await fleet.progress("nightly")
        assert (progress.completed, progress.total) == (servers, servers)
        assert created(fake) == dict.fromkeys(range(1, servers + 2), 1)
