"""Many nights of `rotate` against the fake, some of which fail or make a backup of a bad size."""

import random
from datetime import datetime, timedelta

import pytest
from helpers_pruning import JOB, add, held

from vpsbackups_async import BackupFailedError, BackupsClient, Retention
from vpsbackups_async.testing import FakeVPS, VirtualTime

NIGHTS = 70
pytestmark = pytest.mark.virtual_time


def by_id(fake: FakeVPS) -> dict[int, dict[str, object]]:
    return {one["id"]: one for one in fake.backups}


def shrink(fake: FakeVPS, number: int) -> None:
    """Give the completed backup a size of 1 MB."""
    old = by_id(fake)[number]
    fake.remove_backup(number)
    fake.add_backup(
        1,
        id=number,
        created_at=datetime.fromisoformat(str(old["created_at"])),
        description=str(old["description"]),
        size_mb=1,
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.fake_vps(servers=1, backups=0, backup_seconds=60)
async def test_nights_of_rotations_beside_a_pin_reach_back_24_days_and_lack_no_place(
    fake: FakeVPS, client: BackupsClient, virtual_time: VirtualTime, seed: int
) -> None:
    draw = random.Random(seed)
    pinned = add(fake, 1, 1, description="Before the move [keep]")
    policy = Retention(daily=4, weekly=4, job=JOB)
    for night in range(NIGHTS):
        fails = draw.random() < 0.05
        fake.fails = lambda _, fails=fails: fails
        before = set(held(fake, 1))
        try:
            done = await client.rotate(1, policy)
        except BackupFailedError:
            assert fails
            assert len(before - set(held(fake, 1))) <= 1
        else:
            gone = before - set(held(fake, 1))
            assert gone == {one.id for one in done.deleted}
            assert done.freed is None or done.freed.is_failed
            own = [datetime.fromisoformat(str(one["created_at"])) for one in by_id(fake).values()]
            if night > 24 + 10:
                assert fake.now - sorted(own)[1] >= timedelta(days=24)
        assert pinned in held(fake, 1)
        fake.advance(86_400)


@pytest.mark.fake_vps(servers=1, backups=0, backup_seconds=60)
async def test_nights_of_bad_sizes_now_and_then_cost_no_verified_backup_its_place(
    fake: FakeVPS, client: BackupsClient, virtual_time: VirtualTime
) -> None:
    policy = Retention(last=5, job=JOB)
    bad: set[int] = set()
    for night in range(40):
        before = set(held(fake, 1))
        done = await client.rotate(1, policy)
        verified = set(held(fake, 1)) - bad
        assert len(verified) >= min(5, len(before - bad) + 1)
        if night % 3 == 2 and done.backup is not None:
            shrink(fake, done.backup.id)
            bad.add(done.backup.id)
        fake.advance(86_400)
