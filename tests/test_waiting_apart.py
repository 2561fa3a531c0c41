"""Waits side by side: what goes wrong with one list or one wait is no matter of the others."""

import pytest
from helpers_waiting import EVERY_10

from vpsbackups_async import BackupsClient, WaitTimeoutError
from vpsbackups_async.testing import Drop, FakeVPS, ServerFault

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.fake_vps(servers=500, backups=0, backup_seconds=100),
]


async def test_looks_that_fail_leave_the_retry_budget_to_other_calls(fake: FakeVPS) -> None:
    """A quarter of an hour of a list that answers 500, then one cut connection."""
    fake.inject(ServerFault(500, query={"server_id": 7}))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backup = await client.create(7)
        with pytest.raises(WaitTimeoutError):
            await client.wait(backup, backoff=EVERY_10, timeout=900)
        fake.inject(Drop("before", query={"server_id": 8}, times=1))
        assert await client.list(server_id=8).collect() == []
