"""What the outcomes of durable rotations tell of their deletions: what is gone, and what may go."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from helpers_durable import posts, until
from helpers_guard import setting

from vpsbackups_async import Retention, RetryPolicy
from vpsbackups_async._creating.looks import Look
from vpsbackups_async._pruning import pruner, watched
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable import DurableFleet, Limits, RunOutcome
from vpsbackups_async.durable.deletions import Deletions
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    NotJSON,
    Reply,
    SeenRequest,
    ServerFault,
)

LIMITS = Limits(
    backoff=ConstantBackoff(0.05), start_within=0.3, create_again_after=0.2, unknown_for=0.6
)
RUN = "nightly"
LABEL = "[job:nightly]"
LAST = Retention(last=1, job="nightly")
THREE = Retention(last=3, job="nightly")
GONE = Reply(404, b'{"detail": "Not found."}', method="DELETE")
DONE = Reply(204, method="DELETE")
REFUSED = Reply(400, b'{"detail": "no"}', method="POST", times=1)


@pytest.fixture
async def real_fake() -> AsyncIterator[FakeVPS]:
    """A server in real time, as the clock of the database is."""
    async with FakeVPS(servers=2, backups=0, backup_seconds=0.05, clock=time.time) as fake:
        yield fake


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruner, "_GONE_WITHIN", 0.3)


@pytest.fixture
async def fleet(tmp_path: Path, real_fake: FakeVPS) -> AsyncIterator[DurableFleet]:
    client = {
        "token": real_fake.token,
        "base_url": real_fake.url,
        "retry": RetryPolicy(create_grace=0.1, backoff=ConstantBackoff(1.0)),
    }
    url = f"sqlite:///{tmp_path / 'runs.sqlite'}"
    async with DurableFleet(url, client_options=client, limits=LIMITS) as fleet:
        yield fleet


def add(
    fake: FakeVPS,
    days: int,
    *,
    status: str = "completed",
    description: str = LABEL,
    server: int = 1,
) -> int:
    """A manual backup that was made so many days ago."""
    backup = fake.add_backup(
        server,
        description=description,
        backup_type="manual",
        status=status,
        size_mb=4000,
        created_at=datetime.fromtimestamp(time.time()).astimezone() - timedelta(days=days),
    )
    return int(backup["id"])


def fill(fake: FakeVPS, *, failed: bool, server: int = 1) -> int:
    """Fill the server up; the backup that goes for a place: one that failed, or the oldest."""
    for _ in range(6):
        add(fake, 40, description="by hand", server=server)
    old = [add(fake, days, server=server) for days in (6, 5, 4)]
    last = add(fake, 3, status="failed" if failed else "completed", server=server)
    return last if failed else old[0]


async def worked(fleet: DurableFleet) -> RunOutcome:
    """The outcome of server 1, once a worker has done all that there was to do."""
    await asyncio.wait_for(fleet.work(until_done=True), 30)
    return await outcome_of(fleet)


async def outcome_of(fleet: DurableFleet) -> RunOutcome:
    return next(iter([one async for one in fleet.results(RUN)]))


@asynccontextmanager
async def working(fleet: DurableFleet) -> AsyncIterator[None]:
    """A worker during the block."""
    work = asyncio.create_task(fleet.work())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


def there(fake: FakeVPS) -> set[int]:
    return {backup["id"] for backup in fake.backups}


def told(outcome: RunOutcome) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    return outcome.state, outcome.deleted, outcome.in_doubt


# --- What is deleted, and what is in doubt -------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(DONE, id="204"),
        pytest.param(GONE, id="404"),
        pytest.param(NotJSON(404, method="DELETE"), id="a 404 that may not be the API's"),
        pytest.param(NotJSON(409, method="DELETE"), id="a 409 that may not be the API's"),
    ],
)
async def test_what_is_still_listed_after_it_was_said_to_be_gone_is_in_doubt(
    fleet: DurableFleet, real_fake: FakeVPS, answer: Fault
) -> None:
    old = add(real_fake, 3)
    real_fake.inject(answer)
    await fleet.submit(RUN, [1], rotate=LAST)
    assert told(await worked(fleet)) == ("failed", (), (old,))


async def test_what_is_gone_after_a_404_that_may_not_be_the_apis_is_deleted(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = add(real_fake, 3)
    real_fake.inject(NotJSON(404, method="DELETE", when="after"))
    await fleet.submit(RUN, [1], rotate=LAST)
    assert told(await worked(fleet)) == ("failed", (old,), ())


@pytest.mark.parametrize(
    ("answer", "is_said"), [(DONE, True), (GONE, True), (NotJSON(404, method="DELETE"), False)]
)
async def test_without_a_look_after_it_a_deletion_is_what_the_api_said_and_else_in_doubt(
    fleet: DurableFleet, real_fake: FakeVPS, answer: Fault, is_said: bool
) -> None:
    old = add(real_fake, 3)

    def blind(_: SeenRequest) -> float:
        real_fake.inject(Reply(403, b'{"detail": "no"}', method="GET"))
        return 0.0

    real_fake.inject(Latency(blind, method="DELETE"), answer)
    await fleet.submit(RUN, [1], rotate=LAST)
    assert told(await worked(fleet))[1:] == (((old,), ()) if is_said else ((), (old,)))


async def test_a_look_that_is_not_complete_tells_nothing_of_deletions(
    real_fake: FakeVPS, tmp_path: Path
) -> None:
    async with setting(tmp_path, real_fake) as made:
        item = await made.claimed()
        await made.items.begin_deletion(item, 7)
        deletions = Deletions(made.items, item)
        deletions.saw(Look((), None, 0.0, complete=False))
        assert (item.deleted, item.in_doubt) == (frozenset(), {7})
        deletions.saw(Look((), None, 0.0))
        assert (item.deleted, item.in_doubt) == ({7}, frozenset())


async def test_what_is_deleted_after_all_by_a_retry_is_no_longer_in_doubt(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = add(real_fake, 3)
    real_fake.inject(DONE)
    await fleet.submit(RUN, [1], rotate=LAST)
    await worked(fleet)
    real_fake.clear_faults()
    await fleet.retry(RUN)
    assert told(await worked(fleet)) == ("completed", (old,), ())


async def test_a_deletion_in_doubt_that_took_its_time_is_deleted_once_a_retry_sees_that(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = add(real_fake, 3)
    real_fake.inject(Drop(method="DELETE"))
    await fleet.submit(RUN, [1], rotate=LAST)
    assert told(await worked(fleet)) == ("failed", (), (old,))
    real_fake.remove_backup(old)
    await fleet.retry(RUN)
    assert told(await worked(fleet)) == ("completed", (old,), ())


async def test_a_deletion_in_doubt_stays_so_though_it_is_refused_later(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = add(real_fake, 3)
    real_fake.inject(Drop(method="DELETE"))
    await fleet.submit(RUN, [1], rotate=LAST)
    await worked(fleet)
    real_fake.clear_faults()
    real_fake.inject(Reply(403, b'{"detail": "no"}', method="DELETE"))
    await fleet.retry(RUN)
    assert told(await worked(fleet)) == ("failed", (), (old,))


async def test_what_somebody_else_deleted_is_not_named(
    fleet: DurableFleet, real_fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_FRESH_FOR", 0.0)
    old = [add(real_fake, days) for days in (6, 5, 4, 3)]

    def meddle(_: SeenRequest) -> float:
        real_fake.remove_backup(old[1])
        return 0.0

    real_fake.inject(Latency(meddle, method="DELETE"))
    await fleet.submit(RUN, [1], rotate=THREE)
    assert told(await worked(fleet)) == ("completed", (old[0],), ())


# --- Over takeovers and retries ------------------------------------------------------------------


async def test_a_deletion_on_the_wire_is_in_doubt_though_the_next_worker_keeps_that_backup(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = [add(real_fake, days) for days in (5, 4, 3)]
    real_fake.inject(Latency(3600.0, method="DELETE", times=1))
    await fleet.submit(RUN, [1], rotate=THREE)
    async with working(fleet):
        await until(lambda: real_fake.count("DELETE") == 1)
    for backup_id in old[1:]:
        real_fake.remove_backup(backup_id)
    assert told(await worked(fleet)) == ("completed", (), (old[0],))
    assert old[0] in there(real_fake)


@pytest.mark.parametrize("failed", [False, True])
async def test_what_was_deleted_for_a_place_is_named_after_a_retry(
    fleet: DurableFleet, real_fake: FakeVPS, failed: bool
) -> None:
    freed = fill(real_fake, failed=failed)
    real_fake.inject(REFUSED)
    await fleet.submit(RUN, [1], rotate=THREE, make_room=not failed)
    assert told(await worked(fleet)) == ("failed", (freed,), ())
    await fleet.retry(RUN)
    outcome = await worked(fleet)
    assert outcome.ok
    assert freed in outcome.deleted
    assert outcome.in_doubt == ()


async def test_what_was_deleted_for_a_place_is_named_though_the_retry_is_cancelled(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    freed = fill(real_fake, failed=True)
    real_fake.inject(REFUSED)
    await fleet.submit(RUN, [1], rotate=THREE)
    await worked(fleet)
    await fleet.retry(RUN)
    assert await fleet.cancel(RUN) == 1
    assert told(await outcome_of(fleet)) == ("cancelled", (freed,), ())


async def test_a_deletion_for_a_place_that_is_in_doubt_is_named_though_the_retry_is_cancelled(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    freed = fill(real_fake, failed=True)
    real_fake.inject(Drop(method="DELETE"))
    await fleet.submit(RUN, [1], rotate=THREE)
    await worked(fleet)
    await fleet.retry(RUN)
    await fleet.cancel(RUN)
    assert told(await outcome_of(fleet)) == ("cancelled", (), (freed,))


# --- Cancelled -----------------------------------------------------------------------------------


async def cancelled_while(fleet: DurableFleet, fake: FakeVPS, *, deletions: int = 1) -> RunOutcome:
    """The outcome of a server whose run is cancelled once so many DELETEs were received."""
    async with working(fleet):
        await until(lambda: fake.count("DELETE") == deletions)
        await fleet.cancel(RUN)
        return await ended(fleet)


async def ended(fleet: DurableFleet) -> RunOutcome:
    """The outcome of server 1, once a worker that goes on has ended all."""
    async with asyncio.timeout(20):
        while not (await fleet.progress(RUN)).is_over:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return await outcome_of(fleet)


async def test_a_cancelled_server_names_what_was_deleted_for_its_place(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    freed = fill(real_fake, failed=True)
    real_fake.inject(Latency(2.0, method="DELETE", when="after"))
    await fleet.submit(RUN, [1], rotate=THREE)
    assert told(await cancelled_while(fleet, real_fake)) == ("cancelled", (freed,), ())
    assert posts(real_fake) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_deletion_that_failed_is_not_tried_again_after_a_cancel(
    fleet: DurableFleet, real_fake: FakeVPS, when: Literal["before", "after"]
) -> None:
    freed = fill(real_fake, failed=True)
    real_fake.inject(Drop(method="DELETE", when=when))
    await fleet.submit(RUN, [1], rotate=THREE)
    seen = ((freed,), ()) if when == "after" else ((), (freed,))
    assert told(await cancelled_while(fleet, real_fake)) == ("cancelled", *seen)
    assert real_fake.count("DELETE") == 1


@pytest.mark.parametrize("make_room", [False, True])
async def test_a_rotation_whose_backup_is_there_deletes_nothing_more_after_a_cancel(
    fleet: DurableFleet, real_fake: FakeVPS, make_room: bool
) -> None:
    old = [add(real_fake, days) for days in (6, 5, 4, 3)]
    real_fake.inject(Latency(2.0, method="DELETE", when="after", times=1))
    await fleet.submit(RUN, [1], rotate=THREE, make_room=make_room)
    outcome = await cancelled_while(fleet, real_fake)
    assert told(outcome) == ("cancelled", (old[0],), ())
    assert real_fake.count("DELETE") == 1
    assert outcome.backup_id is not None
    assert outcome.detail is not None
    # A retry goes on from there, and where that is cancelled, it ends as it had.
    await fleet.retry(RUN, "cancelled")
    await fleet.cancel(RUN)
    again = await outcome_of(fleet)
    assert (told(again), again.backup_id) == (told(outcome), outcome.backup_id)
    assert again.detail == outcome.detail
    await fleet.retry(RUN, "cancelled")
    assert told(await worked(fleet)) == ("completed", tuple(old[:2]), ())
    assert posts(real_fake) == [1]


async def test_a_rotation_that_made_room_before_a_cancel_makes_its_backup(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    freed = fill(real_fake, failed=False)
    real_fake.inject(Latency(2.0, method="DELETE", when="after", times=1))
    await fleet.submit(RUN, [1], rotate=THREE, make_room=True)
    outcome = await cancelled_while(fleet, real_fake)
    assert told(outcome) == ("cancelled", (freed,), ())
    assert outcome.backup_id is not None
    assert posts(real_fake) == [1]


async def test_a_cancelled_rotation_names_its_backup_and_that_which_a_503_denied(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = [add(real_fake, days) for days in (6, 5, 4, 3)]
    real_fake.visible_after = 2.0  # so that another create is sent
    real_fake.inject(ServerFault(503, method="POST", when="after", times=1))
    real_fake.inject(Latency(2.0, method="DELETE", when="after", times=1))
    await fleet.submit(RUN, [1], rotate=THREE)
    outcome = await cancelled_while(fleet, real_fake)
    assert told(outcome) == ("cancelled", (old[0],), ())
    denied, made = sorted(there(real_fake) - set(old))
    assert (outcome.backup_id, outcome.twins) == (made, (denied,))
    assert outcome.backup is not None
    assert outcome.backup.id == made


async def test_a_rotation_that_is_cancelled_before_its_first_deletion_names_its_backup(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    add(real_fake, 3)
    real_fake.backup_seconds = 1.0
    await fleet.submit(RUN, [1], rotate=LAST)
    async with working(fleet):
        await until(lambda: real_fake.count("POST") == 1)
        await asyncio.sleep(0.3)  # the reply is noted
        await fleet.cancel(RUN)
        outcome = await ended(fleet)
    assert told(outcome) == ("cancelled", (), ())
    assert outcome.backup is not None
    assert outcome.backup.is_completed
    assert real_fake.count("DELETE") == 0


async def test_a_rotation_is_cancelled_though_an_earlier_deletion_of_it_was_refused(
    fleet: DurableFleet, real_fake: FakeVPS
) -> None:
    old = [add(real_fake, days) for days in (6, 5, 4, 3, 2)]

    def slow(_: SeenRequest) -> float:
        return 2.0 if real_fake.count("DELETE") == 2 else 0.0

    real_fake.inject(Reply(400, b'{"detail": "no"}', method="DELETE", times=1))
    real_fake.inject(Latency(slow, method="DELETE", when="after"))
    await fleet.submit(RUN, [1], rotate=THREE)
    outcome = await cancelled_while(fleet, real_fake, deletions=2)
    assert told(outcome) == ("cancelled", (old[1],), ())
    assert real_fake.count("DELETE") == 2
