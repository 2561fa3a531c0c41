"""Several transports on one session: what they share, and what each has for itself."""

import asyncio

import pytest
from helpers_transport import RawServer, at_once, http

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    DeadlineExceededError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    Timeouts,
    VPSBackupsError,
    _wire,
)
from vpsbackups_async._transport.calls import AttemptResult
from vpsbackups_async._transport.retry import RetryBudget
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async._wire import account_request
from vpsbackups_async.testing import FakeVPS, Latency, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time

LIST = _wire.BACKUPS.request("")


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_counters_budget_and_connections_are_shared_and_attempts_are_not(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(503))
    retry = at_once(3, budget=3)
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
        session = client._session
        # Its budget has no effect: the session has one.
        other = Transport(session, Timeouts(), at_once(2, budget=1000))
        with pytest.raises(ServerError) as first:
            await client._transport.send(LIST)
        with pytest.raises(ServerError) as second:
            await other.send(LIST)
        with pytest.raises(ServerError) as third:
            await other.send(LIST)
        assert [caught.value.attempts for caught in (first, second, third)] == [3, 2, 1]
        assert [caught.value.retries_refused for caught in (first, second, third)] == [
            *(False, False, True)
        ]
        assert (client.stats.requests, client.stats.retries) == (6, 3)
        await client.close()
        with pytest.raises(Exception, match="closed"):
            other.send(LIST)


async def test_each_has_its_own_timeouts(fake: FakeVPS) -> None:
    fake.inject(Latency(8))
    async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(1)) as client:
        hasty = Transport(client._session, Timeouts(attempt=3), at_once(1))
        brief = Transport(client._session, Timeouts(deadline=5), at_once(1))
        began = now()
        with pytest.raises(RequestTimeoutError):
            await hasty.send(LIST)
        assert now() - began == pytest.approx(3, abs=0.01)
        with pytest.raises(DeadlineExceededError):
            await brief.send(LIST)
        assert now() - began == pytest.approx(8, abs=0.01)
        assert (await client._transport.send(LIST)).status == 200


async def test_a_429_sends_away_those_in_line_that_would_not_wait_so_long(fake: FakeVPS) -> None:
    fake.inject(RateLimit(30, times=1))
    limiter = AdaptiveLimiter(1)
    client = BackupsClient(
        fake.token, base_url=fake.url, limiter=limiter, retry=at_once(3, max_retry_after=60)
    )
    async with client:
        hasty = Transport(client._session, Timeouts(), at_once(3, max_retry_after=10))
        began = now()
        first = asyncio.create_task(client._transport.send(LIST))
        await asyncio.sleep(0)
        in_line = [asyncio.create_task(one.send(LIST)) for one in (client._transport, hasty)]
        with pytest.raises(RateLimitedError, match="not sent") as caught:
            await in_line[1]
        assert now() - began < 1
        assert caught.value.retry_after == pytest.approx(30, abs=0.1)
        await asyncio.gather(first, in_line[0])
        assert 30 <= now() - began <= 37
        assert limiter.running == 0


@pytest.mark.parametrize(
    ("status", "taken"), [(200, 1), (404, 1), (499, 1), (429, 0), (500, 0), (503, 0), (None, 0)]
)
async def test_answers_but_for_429_and_5xx_show_that_the_server_takes_requests(
    status: int | None, taken: int
) -> None:
    session = BackupsClient("vps_x")._session
    assert session.try_acquire(asyncio.get_running_loop())
    session.observe(account_request(), AttemptResult(1, status=status), 0.1)
    assert session.accepted == taken


async def test_a_closed_client_leaves_no_timer_in_the_event_loop() -> None:
    def timers() -> int:
        scheduled = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        return sum(not handle.cancelled() for handle in scheduled)

    async with RawServer().running() as server:
        client = BackupsClient("vps_x", base_url=server.url)
        await client.delete(1)
        assert timers() > 0
        await client.close()
        assert timers() == 0


async def test_a_success_by_status_alone_earns_budget() -> None:
    cut = http(200, b'{"detail": "gone"}')[:-3]
    async with (
        RawServer(lambda _: cut, then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(1, budget=1)) as client,
    ):
        budget = client._session.budget
        assert [budget.spend(), budget.spend()] == [True, False]
        for _ in range(10):
            await client.delete(1)
        assert [budget.spend(), budget.spend()] == [True, False]


async def test_a_404_that_means_done_earns_no_budget() -> None:
    answers = [http(404, b"{}"), http(503, b"{}")] * 10
    async with (
        RawServer(lambda _: answers.pop()).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(2, budget=10)) as client,
    ):
        for _ in range(10):
            await client.delete(1)
        assert client.stats.retries == 10
        assert client._session.budget.spend() is False


async def test_a_budget_of_its_own_leaves_the_sessions_alone(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503))
    async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(3, budget=2)) as client:
        other = Transport(client._session, Timeouts(), at_once(3), RetryBudget(2))
        for transport in (other, client._transport):
            errors = []
            for _ in range(2):
                with pytest.raises(ServerError) as caught:
                    await transport.send(LIST)
                errors.append((caught.value.attempts, caught.value.retries_refused))
            assert errors == [(3, False), (1, True)]


async def test_a_caller_hears_of_each_failed_attempt_and_may_end_the_call(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503))
    heard: list[int] = []

    def hear(error: VPSBackupsError) -> None:
        assert isinstance(error, ServerError)
        heard.append(error.attempts)
        if len(heard) == 5:
            raise error

    async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(4)) as client:
        for attempts in (4, 2):
            with pytest.raises(ServerError) as caught:
                await client._transport.send(LIST, on_retry=hear)
            assert caught.value.attempts == attempts
    assert heard == [1, 2, 3, 1, 2]
