"""Servers that take no connections: restarted, or never reached; counted at the server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from helpers_transport import CountingLimiter, at_once
from yarl import URL

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConfigurationError,
    DeadlineExceededError,
    RetryPolicy,
    Timeouts,
    TransportError,
)
from vpsbackups_async._transport.outage import Outage
from vpsbackups_async.testing import FakeVPS, Latency

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def away() -> AsyncIterator[FakeVPS]:
    """A server that was started, and takes no connections any more."""
    fake = FakeVPS(servers=1, backups=1)
    async with fake:
        pass
    with socket.socket() as held:  # else a server of another test could be given its port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", URL(fake.url).port))
        yield fake


# --- An origin that restarts ---------------------------------------------------------------------


async def test_no_create_of_a_fleet_fails_while_an_origin_refuses_connections() -> None:
    fake = FakeVPS(servers=2000)
    async with fake, BackupsClient(fake.token, base_url=fake.url) as client:
        await client.list().collect()
        await fake.stop()
        asyncio.get_running_loop().call_later(
            2.4, lambda: starts.append(asyncio.ensure_future(fake.start()))
        )
        starts: list[asyncio.Future[None]] = []
        failed = [one async for one in client.fleet(range(1, 2001)).create() if not one.ok]
        assert failed == []
        # A burst of at most 64 finds out, then one request at a time tries.
        assert client.stats.requests - len(fake.requests) <= 64 + 10
        assert client.stats.limit == 64
    assert fake.count("POST") == len(fake.backups) == 2000


async def test_an_address_where_nothing_was_ever_reached_costs_attempts_but_no_budget() -> None:
    fake = FakeVPS(servers=1, backups=1)
    async with fake:
        url = fake.url
    policy = at_once(3, budget=0)
    async with BackupsClient(fake.token, base_url=url, retry=policy) as client:
        with pytest.raises(TransportError) as caught:
            await client.list().first()
        assert (caught.value.attempts, caught.value.sent) == (3, False)


async def test_one_request_at_a_time_tries_to_reach_a_server_that_is_away(fake: FakeVPS) -> None:
    policy = at_once(5)
    async with BackupsClient(fake.token, base_url=fake.url, retry=policy) as client:
        await client.list().first()
        await fake.stop()
        calls = [asyncio.create_task(client.list().first()) for _ in range(200)]
        tries = []
        for _ in range(8):
            before, began = client.stats.requests, now()
            while client.stats.requests == before:  # noqa: ASYNC110  # nothing tells of a try
                await asyncio.sleep(0.01)
            tries.append((client.stats.requests - before, round(now() - began, 1)))
        # A burst of 64 finds out, and the limiter stays open for others.
        assert tries == [(64, 0), *((1, pause) for pause in (0.1, 0.2, 0.4, 0.8, 1.6, 2, 2))]
        assert client.stats.limit == 64
        await fake.start()
        began = now()
        await asyncio.gather(*calls)
        assert now() - began < 3


@pytest.mark.parametrize("end", ["cancelled", "closed", "too late"])
async def test_calls_that_wait_for_a_server_to_come_back_can_end(fake: FakeVPS, end: str) -> None:
    client = BackupsClient(fake.token, base_url=fake.url, timeouts=Timeouts(deadline=30))
    await client.list().first()
    await fake.stop()
    calls = [asyncio.create_task(client.list().first()) for _ in range(100)]
    await asyncio.sleep(20)
    if end == "cancelled":
        for call in calls:
            call.cancel()
    elif end == "closed":
        await client.close()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert now() <= 31
    assert {type(one) for one in ended} == {
        {
            "cancelled": asyncio.CancelledError,
            "closed": ConfigurationError,
            "too late": DeadlineExceededError,
        }[end]
    }
    assert (client.stats.running, client.stats.waiting) == (0, 0)
    if end == "cancelled":
        await fake.start()
        await asyncio.gather(*(client.list().first() for _ in range(100)))
    await client.close()


async def test_a_try_that_is_cancelled_leaves_the_turn_to_another(fake: FakeVPS) -> None:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        await client.list().first()
        await fake.stop()
        calls = [asyncio.create_task(client.list().first()) for _ in range(10)]
        await asyncio.sleep(3)
        await fake.start()
        fake.inject(Latency(20, times=1))
        count = fake.count()
        while fake.count() == count:  # noqa: ASYNC110  # the fixture has no hook that waits
            await asyncio.sleep(0.01)
        assert fake.count() == count + 1
        began = now()
        for call in calls:
            if not call.done():
                call.cancel()
                break
        await asyncio.wait(calls, timeout=100)
        assert all(call.done() for call in calls)
        assert now() - began < 30


async def test_a_limiter_of_your_own_is_given_back_what_waits_for_the_server(fake: FakeVPS) -> None:
    limiter = CountingLimiter()
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        await client.list().first()
        await fake.stop()
        calls = [asyncio.create_task(client.list().first()) for _ in range(20)]
        await asyncio.sleep(10)
        await fake.start()
        await asyncio.gather(*calls)
    assert len(limiter.acquired) == len(limiter.observed)


async def test_a_kind_that_the_limiter_holds_back_does_not_keep_others_from_trying(
    fake: FakeVPS,
) -> None:
    class NoDeletes(CountingLimiter):
        async def acquire(self, cost: int = 1, kind: str = "list") -> None:
            if kind == "delete":
                await asyncio.sleep(60)
            await super().acquire(cost, kind)

    async with BackupsClient(fake.token, base_url=fake.url, limiter=NoDeletes()) as client:
        await client.list().first()
        await fake.stop()
        calls = [asyncio.create_task(client.list().first()) for _ in range(3)]
        await asyncio.sleep(1)
        delete = asyncio.create_task(client.delete(1))
        await asyncio.sleep(4)
        await fake.start()
        await asyncio.gather(*calls)
        assert now() < 30
        await delete


def test_an_answer_to_a_request_from_before_does_not_show_that_the_server_is_back() -> None:
    outage = Outage()
    outage.fail(10, 10)
    outage.reach(9)
    assert outage.lasts
    assert not outage.try_turn(10.05)
    assert outage.try_turn(10.1)
    assert not outage.try_turn(10.1)
    outage.reach(10.1)
    assert not outage.lasts


# --- A server that was never reached -------------------------------------------------------------


async def test_many_calls_to_a_server_that_was_never_reached_fail_after_their_attempts(
    away: FakeVPS,
) -> None:
    async with BackupsClient(away.token, base_url=away.url) as client:
        calls = (client.list().first() for _ in range(500))
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {getattr(end, "attempts", None) for end in ends} == {5}
    assert now() < 12  # the pauses of one call


# --- A limiter that clients of several servers share ---------------------------------------------


@pytest.mark.parametrize("reached", [False, True], ids=["never reached", "reached before"])
async def test_a_server_that_is_away_does_not_slow_down_the_clients_of_another(
    fake: FakeVPS, away: FakeVPS, reached: bool
) -> None:
    fake.inject(Latency(0.02))
    limiter = AdaptiveLimiter(64)
    policy = RetryPolicy(budget=None)
    async with (
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client,
        BackupsClient(away.token, base_url=away.url, limiter=limiter, retry=policy) as other,
    ):
        if reached:
            await away.start()
            await other.list().first()
            await away.stop()
        began = now()

        async def go_on() -> None:
            while now() < began + 5:
                await client.list().first()

        lost = [asyncio.create_task(other.list().first()) for _ in range(20)]
        await asyncio.gather(*(go_on() for _ in range(32)))
        assert fake.count() > 0.9 * 32 * 5 / 0.02
        for call in lost:
            call.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
