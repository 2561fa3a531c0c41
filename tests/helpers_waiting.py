"""Shared by the tests of waiting: clients whose looks are one request, what waits gave and when."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from vpsbackups_async import BackupsClient, ConstantBackoff, RetryPolicy
from vpsbackups_async.testing import FakeVPS, Reply

T = TypeVar("T")

EVERY_10 = ConstantBackoff(10)
EVERY_LIST = {"server_id": None}
"""The query that marks the list of all servers."""
FORBIDDEN = b'{"detail": "You do not have permission to perform this action."}'


def forbidden(server_id: int | None) -> Reply:
    """A 403 for the list of one server, or for that of all servers."""
    return Reply(403, FORBIDDEN, method="GET", query={"server_id": server_id})


async def timed(work: Awaitable[T]) -> tuple[T | BaseException, float]:
    """What the work gave or raised, and after how many seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        return await work, loop.time() - began
    except Exception as error:  # the test looks at it
        return error, loop.time() - began


def one_try(fake: FakeVPS, **options: Any) -> BackupsClient:
    """A client whose looks are not retried, so that each look is one request."""
    return BackupsClient(fake.token, base_url=fake.url, retry=RetryPolicy(attempts=1), **options)


def look_times(fake: FakeVPS) -> list[float]:
    """When the list was asked for, in seconds since the first request."""
    return [
        round(seen.at - fake.requests[0].at, 3) for seen in fake.requests if seen.method == "GET"
    ]
