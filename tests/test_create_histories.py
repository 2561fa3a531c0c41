"""The error of a create tells of all its attempts, whichever way it ends after the first one."""

import asyncio
import pickle
from collections.abc import Awaitable, Callable

import pytest

from vpsbackups_async import (
    BackupsClient,
    ConstantBackoff,
    DeadlineExceededError,
    Observation,
    RetryPolicy,
    Timeouts,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async.cli.not_made import is_certain
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import Drop, FakeVPS, Fault, Latency, RateLimit, ServerFault

pytestmark = [
    pytest.mark.fake_vps(backups=0, visible_after=1000),  # no look can tell
    pytest.mark.virtual_time,
]

PAUSE = 5.0
"""Seconds from a failed attempt to the next one."""

# What became of the first attempt, and whether the server may have carried it out.
FIRST: dict[str, tuple[Fault | None, bool]] = {
    "503": (ServerFault(503, method="POST", times=1, when="after"), True),
    "502": (ServerFault(502, method="POST", times=1, when="after"), True),
    "cut": (Drop(method="POST", times=1, when="after"), True),
    "timeout": (Latency(1000, method="POST", times=1, when="after"), True),
    "429": (RateLimit(PAUSE, method="POST", times=1), False),
    "refused": (None, False),
}

THEN: dict[str, Fault] = {
    "too long": RateLimit(1000, method="POST"),
    "forbidden": ServerFault(403, method="POST"),
    "deadline": RateLimit(PAUSE, method="POST"),
}
"""What is answered to all further attempts."""


class Gate:
    """A limiter that stops the server, or does something else, before each create but the first."""

    def __init__(self, before_second: Callable[[], Awaitable[object]]) -> None:
        self._before_second = before_second
        self._creates = 0

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        self._creates += kind == "create"
        if kind == "create" and self._creates > 1:
            await self._before_second()

    def observe(self, outcome: Observation) -> None:
        pass


async def nothing() -> None:
    pass


async def ended(fake: FakeVPS, first: str, end: str) -> BaseException | None:
    """The error that a create is told to have ended with, None if it was cancelled unsent."""
    told: list[CreateEnded] = []
    fault, _ = FIRST[first]
    if fault is None:
        await fake.stop()
    else:
        fake.inject(fault)
    if end in THEN:
        fake.inject(THEN[end])
    client = BackupsClient(
        fake.token,
        base_url=fake.url,
        retry=RetryPolicy(
            attempts=3, backoff=ConstantBackoff(PAUSE), create_grace=1, create_again_after=10
        ),
        timeouts=Timeouts(attempt=20, deadline=7 if end == "deadline" else 120),
        limiter=Gate(fake.stop if end == "refused" else nothing),
        on_event=lambda event: told.append(event) if isinstance(event, CreateEnded) else None,
    )
    create = asyncio.create_task(client.create(1))
    if end in {"closed", "interrupted"}:
        await asyncio.sleep(PAUSE / 2)
        if end == "interrupted":
            create.cancel()
        else:
            await client.close()
    elif first == "refused" and end in THEN:
        await asyncio.sleep(PAUSE / 2)
        await fake.start()
    await asyncio.wait([create])
    await client.close()
    return told[0].error if told else None


@pytest.mark.parametrize(
    "end", ["refused", "closed", "interrupted", "deadline", "too long", "forbidden"]
)
@pytest.mark.parametrize("first", FIRST)
async def test_what_a_create_ends_with_tells_whether_any_attempt_may_have_been_carried_out(
    first: str, end: str, fake: FakeVPS
) -> None:
    error = await ended(fake, first, end)
    doubtful = FIRST[first][1]
    if end == "interrupted" and not doubtful:
        assert error is None
        return
    assert isinstance(error, VPSBackupsError)
    assert error.in_doubt == doubtful
    assert is_certain(error) != doubtful
    if isinstance(error, TransportError | DeadlineExceededError):
        assert error.sent == doubtful
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.in_doubt, str(copied)) == (doubtful, str(error))
