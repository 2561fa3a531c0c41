"""The create guard: what follows for a create that another process may have sent."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import evolve
from helpers_durable import held_posts, posts, until
from helpers_guard import LIMITS, ON_WIRE, PATIENT, SERVER, Setting, setting

from vpsbackups_async import (
    BackupInProgressError,
    CreateOutcomeUnknownError,
    Observation,
    Retention,
)
from vpsbackups_async.durable.guard import Guard
from vpsbackups_async.durable.items import Item, RunCancelledError, SupersededError
from vpsbackups_async.durable.values import ItemState, Limits, RotateTask, RunOutcome
from vpsbackups_async.testing import Drop, FakeVPS, Latency, Reply, ServerFault


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=1, backups=0, clock=time.time) as fake:
        yield fake


async def test_a_create_that_a_dead_process_sent_is_adopted(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        _, backup = await made.begun()
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert found.backup.id == backup.id
    assert found.twins == ()
    assert real_fake.count("POST") == 1


async def test_a_create_that_was_never_sent_is_sent_once_it_cannot_be_on_the_wire_any_more(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        dead = await made.claimed()
        await made.items.intend(dead, LIMITS.start_within, 1)
        await made.guard().create(await made.claimed(), "Nightly")
        assert dead.not_after is not None
        (sent,) = [seen.at for seen in real_fake.requests if seen.method == "POST"]
    assert LIMITS.create_again_after is not None
    assert sent >= dead.not_after + ON_WIRE + LIMITS.create_again_after


async def test_a_create_is_not_sent_again_where_nothing_has_shown_that_markers_are_kept(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 0


async def test_a_reply_with_the_marker_shows_that_markers_are_kept(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.guard().create(await made.claimed(), "Nightly")
        assert await made.items.keeps_markers()


async def test_a_reply_without_the_marker_shows_nothing(real_fake: FakeVPS, tmp_path: Path) -> None:
    real_fake.stored_description = lambda _: "Nightly"
    async with setting(tmp_path, real_fake) as made:
        await made.guard().create(await made.claimed(), "Nightly")
        assert not await made.items.keeps_markers()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            Latency(3600.0, method="POST"), id="a timeout", marks=pytest.mark.virtual_time
        ),
        pytest.param(ServerFault(504, method="POST"), id="a 504", marks=pytest.mark.durable),
    ],
)
async def test_nothing_is_sent_again_after_an_answer_that_leaves_the_server_at_work(
    real_fake: FakeVPS, tmp_path: Path, fault: Latency | ServerFault
) -> None:
    real_fake.inject(fault)
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
        # Nor does another process.
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 1


async def test_a_create_whose_connection_was_cut_is_sent_again_after_looks_that_show_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(Drop(method="POST", times=1))
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 2


async def test_a_backup_that_may_be_the_one_forbids_to_send_again_and_is_named(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        other = real_fake.add_backup(SERVER, description="by hand", backup_type="manual")
        with pytest.raises(CreateOutcomeUnknownError) as raised:
            await made.guard().create(await made.claimed(), "Nightly")
    assert [one.id for one in raised.value.candidates] == [other["id"]]
    assert real_fake.count("POST") == 0


@pytest.mark.durable
async def test_a_create_that_was_intended_ten_times_is_not_sent_again(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 10)
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 0


async def test_a_create_that_was_begun_long_ago_is_still_looked_for_before_another_one(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        dead = await made.claimed()
        await made.items.intend(dead, -3600.0, 1)
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert found.backup.description.endswith(f".{SERVER}.0]")
    assert real_fake.count("GET") >= 2


async def test_a_look_that_fails_shows_nothing(real_fake: FakeVPS, tmp_path: Path) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        real_fake.inject(Reply(403, b'{"detail": "no"}', method="GET"))
        with pytest.raises(CreateOutcomeUnknownError, match="could not be read"):
            await made.guard().create(await made.claimed(), "Nightly")
    assert real_fake.count("POST") == 0


@pytest.mark.parametrize("step", [5, -5])
async def test_twins_are_named_and_the_one_made_first_is_taken(
    real_fake: FakeVPS, tmp_path: Path, step: int
) -> None:
    async with setting(tmp_path, real_fake) as made:
        real_fake.add_backup(SERVER, id=700)  # the next one is 701
        item, first = await made.begun()
        later = first.created_at + timedelta(seconds=5)
        marked = f"Nightly [vb:{item.marker}]"
        twin = real_fake.add_backup(SERVER, description=marked, id=701 + step, created_at=later)
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert found.backup.id == first.id
    assert found.twins == (twin["id"],)


@pytest.mark.durable
async def test_a_create_that_lands_after_another_one_was_sent_is_named_as_a_twin(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        item = await made.claimed()
        guard = made.guard()
        found = await guard.create(item, "Nightly")
        assert await guard.twins(item, found.backup.id) == ()
        late = real_fake.add_backup(
            SERVER, description=f"Nightly [vb:{item.marker}]", backup_type="manual"
        )
        assert await guard.twins(item, found.backup.id) == (late["id"],)


async def test_a_retry_of_an_unknown_outcome_adopts_the_backup_of_the_first_try(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        _, backup = await made.begun()
        item = await made.retried(ItemState.UNKNOWN)
        found = await made.guard().create(item, "Nightly")
    assert found.backup.id == backup.id
    assert real_fake.count("POST") == 1


@pytest.mark.parametrize(
    "state", [ItemState.UNKNOWN, pytest.param(ItemState.CANCELLED, marks=pytest.mark.durable)]
)
async def test_a_retry_sends_nothing_again_after_an_answer_that_leaves_the_server_at_work(
    real_fake: FakeVPS, tmp_path: Path, state: ItemState
) -> None:
    real_fake.inject(ServerFault(504, method="POST"))
    async with setting(tmp_path, real_fake) as made:
        await made.items.note_markers()
        with pytest.raises(CreateOutcomeUnknownError):
            await made.guard().create(await made.claimed(), "Nightly")
        real_fake.clear_faults()
        item = await made.retried(state)
        other = real_fake.add_backup(SERVER, description="by hand", backup_type="manual")
        with pytest.raises(CreateOutcomeUnknownError) as raised:
            await made.guard().create(item, "Nightly")
    assert [one.id for one in raised.value.candidates] == [other["id"]]
    assert real_fake.count("POST") == 1


@pytest.mark.durable
async def test_a_retry_of_an_unknown_outcome_sends_again_only_after_looks_for_long_enough(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        await made.items.intend(await made.claimed(), LIMITS.start_within, 1)
        item = await made.retried(ItemState.UNKNOWN)
        began = time.time()
        found = await made.guard().create(item, "Nightly")
        (sent,) = [seen.at for seen in real_fake.requests if seen.method == "POST"]
        late = real_fake.add_backup(
            SERVER, description=f"Nightly [vb:{item.markers[0]}]", backup_type="manual"
        )
        assert await made.guard().twins(item, found.backup.id) == (late["id"],)
    assert found.backup.description.endswith(f".{SERVER}.1]")
    assert LIMITS.create_again_after is not None
    assert sent >= began + LIMITS.create_again_after


async def test_a_retry_of_what_was_cancelled_before_a_create_was_sent_looks_for_none(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        await made.guard().create(await made.retried(ItemState.CANCELLED), "Nightly")
    assert real_fake.count("GET") == 0


async def test_a_retry_of_a_failure_never_adopts_the_backup_of_the_first_try(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item, backup = await made.begun()
        await made.items.note_started(item, backup.id)
        item = await made.retried(ItemState.FAILED, "BackupFailedError")
        found = await made.guard().create(item, "Nightly")
    assert found.backup.id != backup.id


async def failed_beside_another_create(made: Setting, fake: FakeVPS) -> Item:
    """The item in a retry, after the backup of one of two creates failed."""
    item, backup = await made.begun()
    await made.items.note_posts(item, 2)
    await made.items.note_started(item, backup.id)
    fake.finish(backup.id, "failed")
    return await made.retried(ItemState.FAILED, "BackupFailedError")


async def test_a_retry_of_a_failure_adopts_the_backup_of_another_create_that_has_not_failed(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item = await failed_beside_another_create(made, real_fake)
        twins = [
            real_fake.add_backup(
                SERVER, description=f"Nightly [vb:{item.markers[0]}]", backup_type="manual"
            )["id"]
            for _ in range(2)
        ]
        found = await made.guard().create(item, "Nightly")
    assert sorted([found.backup.id, *found.twins]) == twins
    assert real_fake.count("POST") == 1


async def test_a_retry_of_a_failure_makes_a_backup_once_looks_show_none_of_another_create(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item, began = await failed_beside_another_create(made, real_fake), time.time()
        guard = made.guard()
        found = await guard.create(item, "Nightly")
        assert await guard.twins(item, found.backup.id) == ()
    sent = [seen.at for seen in real_fake.requests if seen.method == "POST"]
    assert found.backup.description.endswith(f".{SERVER}.1]")
    assert LIMITS.create_again_after is not None
    assert sent[1] >= began + LIMITS.create_again_after


async def test_what_takes_over_a_retry_of_a_failure_finds_its_create_not_the_failed_backup(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        item = await failed_beside_another_create(made, real_fake)
        await made.items.intend(item, LIMITS.start_within, 1)
        task = asyncio.create_task(made.guard().create(await made.claimed(1), "Nightly"))
        await until(lambda: real_fake.count("GET") == 1)
        late = real_fake.add_backup(
            SERVER, description=f"Nightly [vb:{item.marker}]", backup_type="manual"
        )
        found = await task
    assert found.backup.id == late["id"]
    assert real_fake.count("POST") == 1


async def test_a_backup_of_the_first_try_that_failed_is_that_of_its_create(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        _, backup = await made.begun()
        real_fake.finish(backup.id, "failed")
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert found.backup.id == backup.id


async def test_a_backup_that_has_not_failed_is_taken_before_an_earlier_one_that_has(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item, backup = await made.begun()
        real_fake.finish(backup.id, "failed")
        twin = real_fake.add_backup(
            SERVER,
            description=f"Nightly [vb:{item.marker}]",
            backup_type="manual",
            created_at=backup.created_at + timedelta(seconds=5),
        )
        found = await made.guard().create(await made.claimed(), "Nightly")
    assert (found.backup.id, found.twins) == (twin["id"], (backup.id,))


async def test_a_retry_of_an_unknown_outcome_replaces_a_backup_that_failed(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        _, backup = await made.begun()
        real_fake.finish(backup.id, "failed")
        found = await made.guard().create(await made.retried(ItemState.UNKNOWN), "Nightly")
    assert found.backup.description.endswith(f".{SERVER}.1]")


async def test_a_retry_that_may_send_nothing_ends_as_the_backup_of_the_first_try_failed(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item, backup = await made.begun()
        await made.items.note_at_work(item)
        real_fake.finish(backup.id, "failed")
        found = await made.guard().create(await made.retried(ItemState.UNKNOWN), "Nightly")
    assert found.backup.id == backup.id


async def test_a_retry_of_a_failure_that_is_cancelled_still_looks_for_another_create_later(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item = await failed_beside_another_create(made, real_fake)
        await made.items.end(item, RunOutcome("nightly", SERVER, ItemState.CANCELLED))
        await made.store.retry(made.run, ItemState.CANCELLED, -1, lambda _, __: None)
        assert len((await made.claimed(2)).markers) == 3


@pytest.mark.durable
async def test_a_second_try_that_was_cut_off_never_adopts_the_backup_of_the_first_one(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake, PATIENT) as made:
        await made.items.note_markers()
        item, backup = await made.begun()
        await made.items.note_started(item, backup.id)
        item = await made.retried(ItemState.FAILED, "BackupFailedError")
        await made.items.intend(item, LIMITS.start_within, 1)
        found = await made.guard().create(await made.claimed(1), "Nightly")
    assert found.backup.id != backup.id


async def test_an_execution_that_was_superseded_sends_nothing(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        old = await made.claimed()
        await made.claimed()
        with pytest.raises(SupersededError):
            await made.guard().create(old, "Nightly")
    assert real_fake.count("POST") == 0


class _SlowOnce:
    """A limiter that holds the first create for longer than its window, until `held_until`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.held_until: float | None = None

    async def acquire(self, cost: int, kind: str) -> None:
        if kind == "create" and self.held_until is None:
            await asyncio.sleep(self.seconds)
            self.held_until = time.time()

    def observe(self, observation: Observation) -> None:
        pass

    def closed_for(self, kind: str) -> float:
        return 0.0


def turn_of(item: Item, limits: Limits) -> float:
    """When the create of the last intent could be sent; SQLite's clock tells milliseconds."""
    assert item.not_after is not None
    return item.not_after - limits.start_within + 0.001


async def test_a_create_that_the_limiter_held_for_too_long_takes_another_turn(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    limiter = _SlowOnce(2 * LIMITS.start_within)
    async with setting(tmp_path, real_fake, limiter=limiter) as made:
        item = await made.claimed()
        await made.guard().create(item, "Nightly")
    assert real_fake.count("POST") == item.posts == 1
    assert limiter.held_until is not None
    assert turn_of(item, LIMITS) >= limiter.held_until


async def test_a_paced_create_that_misses_its_turn_takes_another_one(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    limiter = _SlowOnce(0.15)
    patient = evolve(LIMITS, start_within=60.0, unknown_for=90.0)
    async with setting(tmp_path, real_fake, patient, limiter=limiter) as made:
        await made.items.set_limits(20.0, None)
        item = await made.claimed()
        await made.guard().create(item, "Nightly")
    assert real_fake.count("POST") == 1
    assert limiter.held_until is not None
    assert turn_of(item, patient) >= limiter.held_until


async def test_a_turn_is_not_moved_by_an_answer_of_the_database_that_comes_late(
    real_fake: FakeVPS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([50.0, 50.0, 50.0, 50.5])  # before each question and after its answer
    monkeypatch.setattr(
        "vpsbackups_async.durable.items.time", SimpleNamespace(monotonic=lambda: next(clock))
    )
    async with setting(tmp_path, real_fake) as made:
        made.database.clock = "1000.0"
        await made.items.set_limits(0.1, None)
        item = await made.claimed()
        turns = [await made.items.intend(item, 60.0, 1) for _ in range(2)]
    assert [turn.starts_at for turn in turns] == [50.0, 60.0]


async def test_a_worker_that_is_stopped_sends_nothing_more_and_takes_its_intent_back(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(asyncio.CancelledError):
            await made.guard(stopped=True).create(await made.claimed(), "Nightly")
        assert (await made.claimed()).posts == 0
    assert posts(real_fake) == []


async def test_a_create_that_waits_for_its_turn_when_the_worker_is_stopped_was_never_sent(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    stopped = asyncio.Event()
    async with setting(tmp_path, real_fake) as made:
        await made.items.set_limits(0.01, None)
        item = await made.claimed()
        await made.items.intend(item, 0.0, 0)  # the next turn is in a hundred seconds
        guard = Guard(made.client, made.items, LIMITS, stopped)
        task = asyncio.create_task(guard.create(item, "Nightly"))
        await until(lambda: item.posts == 1)
        stopped.set()
        await asyncio.wait([task])
        assert task.cancelled()
        assert (await made.claimed()).posts == 0
    assert posts(real_fake) == []


async def waiting_for_its_turn(made: Setting, guard: Guard) -> tuple[Item, asyncio.Task[Any]]:
    """The item, and its create, whose turn comes in a hundred seconds."""
    await made.items.set_limits(0.01, None)
    item = await made.claimed()
    await made.items.intend(item, 0.0, 0)
    task = asyncio.create_task(guard.create(item, "Nightly"))
    await until(lambda: guard._waiting == 1)
    return item, task


@pytest.mark.virtual_time
async def test_a_create_that_waits_for_its_turn_when_the_run_is_cancelled_was_never_sent(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        guard = made.guard()
        _, creating = await waiting_for_its_turn(made, guard)
        assert await made.store.cancel(made.run) == (0, [])
        await guard.learn_cancels()
        with pytest.raises(RunCancelledError):
            await creating
        assert (await made.claimed()).posts == 0
    assert posts(real_fake) == []


@pytest.mark.virtual_time
async def test_a_rotation_that_may_have_made_room_is_sent_at_its_turn_though_it_is_cancelled(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as plain:
        task = RotateTask(Retention(last=1, job="a"), make_room=True)
        run, _ = await plain.store.submit("other", task, [SERVER], lambda _, __: None)
        made = evolve(plain, run=run)
        guard = made.guard()
        _, creating = await waiting_for_its_turn(made, guard)
        await made.store.cancel(run)
        await guard.learn_cancels()
        await creating
    assert posts(real_fake) == [SERVER]


@pytest.mark.virtual_time
async def test_a_create_of_a_retry_is_sent_though_the_guard_knows_of_a_cancel_before(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        guard = made.guard()
        item, creating = await waiting_for_its_turn(made, guard)
        await made.store.cancel(made.run)
        await guard.learn_cancels()
        await made.store.retry(made.run, ItemState.CANCELLED, -1, lambda _, __: None)
        await creating
    assert posts(real_fake) == [SERVER]
    assert item.posts == 1


@pytest.mark.virtual_time
async def test_a_create_that_is_cancelled_on_the_wire_may_have_been_carried_out(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    real_fake.inject(held_posts(1))
    async with setting(tmp_path, real_fake) as made:
        task = asyncio.create_task(made.guard().create(await made.claimed(), "Nightly"))
        await until(lambda: len(posts(real_fake)) == 1)
        task.cancel()
        await asyncio.wait([task])
        item = await made.claimed()
        assert item.posts == 1
        found = await made.guard().create(item, "Nightly")
    assert [backup["id"] for backup in real_fake.backups] == [found.backup.id]


async def test_a_refusal_is_no_unknown_outcome(real_fake: FakeVPS, tmp_path: Path) -> None:
    real_fake.one_at_a_time = True
    real_fake.add_backup(SERVER, status="in_progress", backup_type="manual")
    async with setting(tmp_path, real_fake) as made:
        with pytest.raises(BackupInProgressError):
            await made.guard().create(await made.claimed(), "Nightly")
        assert (await made.claimed()).posts == 0
    assert real_fake.count("POST") == 1
