"""The workers of a database: their signs of life, and what is told of those that give none."""

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from attrs import frozen
from helpers_durable import workers_of

from vpsbackups_async import ConfigurationError
from vpsbackups_async.durable import DurableFleet, Limits
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.engine import migrate
from vpsbackups_async.durable.items import Items
from vpsbackups_async.durable.roll import Listed, Unchanged
from vpsbackups_async.durable.schema import create_tables, workers
from vpsbackups_async.durable.slots import Slots, open_slots
from vpsbackups_async.durable.work import Work
from vpsbackups_async.testing import FakeVPS


@frozen
class Place:
    """A database, and the slots as two processes have them."""

    database: Database
    ours: Slots
    theirs: Slots

    def make_older(self, seconds: float) -> None:
        """Let all signs of life be older by so many seconds."""
        with self.database.engine.begin() as connection:
            older = sa.update(workers).values(seen_at=workers.c.seen_at - seconds)
            connection.execute(older)


@pytest.fixture
def place(durable_url: str) -> Iterator[Place]:
    with contextlib.closing(Database(durable_url)) as database:
        create_tables(database)
        migrate(database)
        ours, theirs = open_slots(database), open_slots(database)
        yield Place(database, ours, theirs)
        ours.release()
        theirs.release()


def test_a_worker_is_listed_until_it_ends_in_order(place: Place) -> None:
    assert (place.ours.take(), place.theirs.take()) == (0, 1)
    assert [one.slot for one in place.ours.roll.all()] == [0, 1]
    place.theirs.release()
    assert [one.slot for one in place.ours.roll.all()] == [0]


def test_each_look_at_its_slot_is_a_sign_of_life(place: Place) -> None:
    place.ours.take()
    (before,) = place.ours.roll.all()
    assert place.ours.is_held()
    (after,) = place.ours.roll.all()
    assert (after.beats, after.token) == (before.beats + 1, before.token)


def test_a_worker_keeps_its_slot_while_another_process_has_the_file_locked(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    with (
        contextlib.closing(Database(f"sqlite:///{path}")) as database,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        create_tables(database)
        slots = open_slots(database)
        slots.take()
        other.execute("BEGIN IMMEDIATE")
        assert slots.is_held()
        other.execute("ROLLBACK")
        slots.release()


def test_a_worker_that_was_dismissed_has_lost_its_slot_though_it_holds_the_lock(
    place: Place,
) -> None:
    place.ours.take()
    place.theirs.take()
    assert place.theirs.roll.dismiss(place.theirs.roll.all()[0])
    assert not place.theirs.hold(0)
    assert not place.ours.is_held()
    assert place.theirs.is_held()


def test_a_worker_that_gave_a_sign_of_life_meanwhile_is_not_dismissed(place: Place) -> None:
    place.ours.take()
    place.theirs.take()
    seen = place.theirs.roll.all()[0]
    place.ours.is_held()
    assert not place.theirs.roll.dismiss(seen)
    assert place.ours.is_held()


def test_who_takes_the_slot_of_a_killed_worker_takes_its_row(place: Place) -> None:
    place.ours.take()
    place.theirs.take()
    killed = place.theirs.roll.all()[0]
    place.ours.release()
    again = open_slots(place.database)
    assert again.take() == 0
    assert not place.theirs.roll.dismiss(killed)
    again.release()


async def test_a_worker_without_a_sign_of_life_is_told_of_by_its_process_and_host(
    place: Place, durable_url: str
) -> None:
    place.ours.take()
    async with DurableFleet(durable_url) as fleet:
        assert await fleet.silent_workers() == []
        place.make_older(100.0)
        (silent,) = await fleet.silent_workers()
    assert (silent.slot, silent.pid, silent.host) == (0, os.getpid(), socket.gethostname())
    assert 100 <= silent.seconds < 200


def test_a_worker_is_silent_after_so_many_looks_in_a_row_that_found_it_unchanged() -> None:
    unchanged, worker, other = Unchanged(2), Listed(0, "a", 7), Listed(1, "b", 1)
    assert unchanged.take([worker, other]) == []
    assert unchanged.take([worker, other._replace(beats=2)]) == []
    assert unchanged.take([worker, other._replace(beats=3)]) == [worker]


@pytest.mark.parametrize("change", [{"beats": 8}, {"token": "b"}, None])
def test_a_change_ends_the_silence_of_a_worker(change: dict[str, int | str] | None) -> None:
    unchanged, worker = Unchanged(1), Listed(0, "a", 7)
    unchanged.take([worker])
    unchanged.take([] if change is None else [worker._replace(**change)])
    assert unchanged.take([worker]) == []


async def test_a_second_signal_before_the_client_begins_to_close_does_not_leave_it_open(
    tmp_path: Path,
) -> None:
    async with (
        FakeVPS(servers=1, backups=0) as fake,
        WorkerClient(fake.token, base_url=fake.url) as client,
    ):
        with contextlib.closing(Database(f"sqlite:///{tmp_path / 'runs.sqlite'}")) as database:
            work = Work(client, Items(database), Limits(), pytest.fail, None)
            asyncio.get_running_loop().call_soon(work.hurry)
            await work.stop()
        with pytest.raises(ConfigurationError, match="closed"):
            await client.look(1)


@pytest.mark.durable
async def test_a_killed_worker_is_no_longer_told_of_once_another_one_has_looked(
    durable_url: str,
) -> None:
    async with (
        FakeVPS(servers=1, backups=0) as fake,
        workers_of(durable_url, fake) as processes,
        DurableFleet(durable_url) as fleet,
    ):
        killed = await processes.start(until_done=False)
        await processes.start(until_done=False, silent_looks=1)
        await killed.kill()
        with contextlib.closing(Database(durable_url)) as database:
            await database.run(
                lambda connection: connection.execute(
                    sa.update(workers).where(workers.c.slot == 0).values(seen_at=0.0)
                )
            )
        assert [one.slot for one in await fleet.silent_workers()] == [0]
        async with asyncio.timeout(30):
            while await fleet.silent_workers():  # noqa: ASYNC110  # the database tells nobody
                await asyncio.sleep(0.1)
