import pytest
from deploying import deploy

from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS, RateLimit, VirtualTime

pytestmark = pytest.mark.asyncio


@pytest.mark.fake_vps(backup_seconds=600)
async def test_a_deployment_waits_ten_minutes_for_its_backup(
    fake_vps: FakeVPS, backups_client: BackupsClient, virtual_time: VirtualTime
) -> None:
    assert await deploy(1) == "deployed after backup 1"
    assert 600 <= virtual_time.elapsed <= 630
    backups = await backups_client.list(server_id=1).collect()
    assert [(backup.description, backup.is_completed) for backup in backups] == [
        ("Before the deployment", True)
    ]


@pytest.mark.fake_vps(backup_seconds=600, fails=[1])
async def test_there_is_no_deployment_after_a_backup_that_failed(
    fake_vps: FakeVPS, virtual_time: VirtualTime
) -> None:
    assert await deploy(1) == "not deployed: the backup failed"
    assert 600 <= virtual_time.elapsed <= 630


async def test_there_is_no_deployment_where_the_quota_is_reached(fake_vps: FakeVPS) -> None:
    for _ in range(10):
        fake_vps.add_backup(1)
    assert await deploy(1) == "not deployed: no room for another backup"
    assert await deploy(2) == "deployed after backup 11"


@pytest.mark.fake_vps(backup_seconds=600)
async def test_a_server_that_is_busy_for_a_minute_delays_a_deployment_by_that(
    fake_vps: FakeVPS, virtual_time: VirtualTime
) -> None:
    fake_vps.inject(RateLimit(retry_after=60, times=1))
    assert await deploy(1) == "deployed after backup 1"
    assert 660 <= virtual_time.elapsed <= 700
    assert fake_vps.count("POST", status=429) == 1
