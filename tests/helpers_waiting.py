"""Shared by the tests of waiting: clients whose looks are one request, and when they looked."""

from typing import Any

from vpsbackups_async import BackupsClient, ConstantBackoff, RetryPolicy
from vpsbackups_async.testing import FakeVPS

EVERY_10 = ConstantBackoff(10)


def one_try(fake: FakeVPS, **options: Any) -> BackupsClient:
    """A client whose looks are not retried, so that each look is one request."""
    return BackupsClient(fake.token, base_url=fake.url, retry=RetryPolicy(attempts=1), **options)


def look_times(fake: FakeVPS) -> list[float]:
    """When the list was asked for, in seconds since the first request."""
    return [
        round(seen.at - fake.requests[0].at, 3) for seen in fake.requests if seen.method == "GET"
    ]
