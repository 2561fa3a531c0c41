"""A create that came too late in line is not sent, at its first attempt or at a later one."""

from collections.abc import AsyncIterator

import pytest

from vpsbackups_async import DeadlineExceededError, RetryPolicy
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.durable.api import WorkerClient
from vpsbackups_async.testing import FakeVPS, RateLimit


@pytest.fixture
async def worker_client(fake: FakeVPS) -> AsyncIterator[WorkerClient]:
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(0))
    async with WorkerClient(fake.token, base_url=fake.url, retry=retry) as client:
        yield client


@pytest.mark.virtual_time
@pytest.mark.parametrize("attempts", [0, 1, 2])
async def test_nothing_is_sent_from_the_attempt_on_that_is_too_late(
    fake: FakeVPS, worker_client: WorkerClient, attempts: int
) -> None:
    fake.inject(RateLimit(0.0, method="POST"))
    answers = iter([False] * attempts + [True])
    with pytest.raises(DeadlineExceededError) as raised:
        await worker_client.begin(1, None, "m", is_too_late=lambda: next(answers))
    assert not raised.value.sent
    assert fake.count("POST") == attempts
