"""What a 429 does to the gate: closed for all until the server's time, then as much as it bears."""

import asyncio
import copy
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from helpers_transport import VERBS, CountingLimiter, at_once

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ClientStats,
    ConstantBackoff,
    DeadlineExceededError,
    LimiterState,
    Observation,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    Timeouts,
)
from vpsbackups_async.testing import FakeVPS, Latency, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time

OK = Observation("list", status=200)
NO_END = Timeouts(deadline=1e6)


def refused(retry_after: float | None = 1.0, elapsed: float = 0.0) -> Observation:
    return Observation("list", 1, 429, retry_after, elapsed)


async def succeed(limiter: AdaptiveLimiter, times: int) -> None:
    """So many requests that succeed, each while the gate is full."""
    for _ in range(times):
        held = [await limiter.acquire() for _ in range(limiter.limit - limiter.running)]
        limiter.observe(OK)
        for _ in held[1:]:
            limiter.observe(Observation("list"))  # without an answer: tells nothing


async def refuse(limiter: AdaptiveLimiter, retry_after: float | None = 1.0) -> None:
    """A burst of two that are both refused, and its end."""
    await limiter.acquire()
    if limiter.running < limiter.limit:
        await limiter.acquire()
        limiter.observe(refused(retry_after))
    limiter.observe(refused(retry_after))
    await asyncio.sleep(limiter.closed_for() * 1.3 + 1)


async def comebacks(limiter: AdaptiveLimiter, number: int) -> list[float]:
    """When so many that wait from now on come through."""
    loop = asyncio.get_running_loop()
    times = []

    async def come() -> None:
        await limiter.acquire()
        times.append(loop.time())
        limiter.observe(OK)

    await asyncio.gather(*(come() for _ in range(number)))
    return times


# --- Closed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "spread"), [(1.0, 0.2), (10.0, 2.0), (100.0, 5.0)])
@pytest.mark.parametrize("number", [1, 2, 100])
async def test_nobody_comes_back_early_and_all_come_soon_after(
    asked: float, spread: float, number: int
) -> None:
    limiter = AdaptiveLimiter(200)
    began = asyncio.get_running_loop().time()
    await limiter.acquire()
    limiter.observe(refused(asked))
    times = await comebacks(limiter, number)
    assert began + asked <= min(times)
    assert max(times) <= began + asked + spread


async def test_a_hundred_that_wait_come_back_at_different_times() -> None:
    limiter = AdaptiveLimiter(200)
    await limiter.acquire()
    limiter.observe(refused(10))
    times = await comebacks(limiter, 100)
    assert len({round(time, 3) for time in times}) > 90
    assert times == sorted(times)


async def test_those_that_wait_hold_no_slot_and_come_in_the_order_of_their_arrival() -> None:
    limiter = AdaptiveLimiter(8)
    await limiter.acquire()
    limiter.observe(refused(5))
    through: list[int] = []

    async def come(place: int) -> None:
        await limiter.acquire()
        through.append(place)
        await asyncio.sleep(0.5)
        limiter.observe(OK)

    tasks = [asyncio.create_task(come(place)) for place in range(20)]
    await asyncio.sleep(1)
    assert (limiter.running, limiter.waiting) == (0, 20)
    assert limiter.closed_for() == pytest.approx(4)
    await asyncio.gather(*tasks)
    assert through == list(range(20))
    assert (limiter.running, limiter.waiting, limiter.closed_for()) == (0, 0, 0)


async def test_the_longest_wish_of_a_burst_counts() -> None:
    limiter = AdaptiveLimiter()
    for _ in range(3):
        await limiter.acquire()
    for asked in (2, 7, 3):
        limiter.observe(refused(asked))
    assert limiter.closed_for() == pytest.approx(7)


async def test_more_than_an_hour_is_not_waited_for() -> None:
    limiter = AdaptiveLimiter()
    await limiter.acquire()
    limiter.observe(refused(9_999_999_999))
    assert limiter.closed_for() == pytest.approx(3600)


async def test_a_429_that_asks_for_nothing_closes_longer_each_time_until_one_succeeds() -> None:
    limiter = AdaptiveLimiter(4)
    pauses = []
    for _ in range(9):
        await limiter.acquire()
        limiter.observe(refused(None))
        pauses.append(round(limiter.closed_for(), 3))
        await asyncio.sleep(100)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    await limiter.acquire()
    limiter.observe(OK)
    await limiter.acquire()
    limiter.observe(refused(None))
    assert limiter.closed_for() == pytest.approx(0.5)


async def test_an_own_pause_grows_even_where_only_one_may_run() -> None:
    limiter = AdaptiveLimiter(1)
    for pause in (0.5, 1.0):
        await limiter.acquire()
        limiter.observe(refused(None))
        assert limiter.closed_for() == pytest.approx(pause)
        await asyncio.sleep(10)
    await succeed(limiter, 1)
    await limiter.acquire()
    limiter.observe(refused(None))
    assert limiter.closed_for() == pytest.approx(0.5)


async def test_a_retry_after_of_nothing_does_not_close_it() -> None:
    limiter = AdaptiveLimiter(64)
    await limiter.acquire()
    limiter.observe(refused(0))
    assert (limiter.closed_for(), limiter.limit) == (0, 32)
    await limiter.acquire()


async def test_one_that_comes_after_the_time_is_over_need_not_wait() -> None:
    limiter = AdaptiveLimiter()
    loop = asyncio.get_running_loop()
    await limiter.acquire()
    limiter.observe(refused(10))
    await asyncio.sleep(12.1)
    began = loop.time()
    await asyncio.gather(*(limiter.acquire() for _ in range(20)))
    assert loop.time() == began


async def test_once_all_that_waited_are_through_the_gate_is_open() -> None:
    limiter = AdaptiveLimiter()
    loop = asyncio.get_running_loop()
    await limiter.acquire()
    limiter.observe(refused(10))
    await comebacks(limiter, 3)
    began = loop.time()
    for _ in range(5):
        await limiter.acquire()
        limiter.observe(OK)
    assert loop.time() == began


async def test_the_rate_goes_on_holding_after_a_429() -> None:
    limiter = AdaptiveLimiter(64, rate=2)
    await limiter.acquire()
    limiter.observe(refused(3))
    times = await comebacks(limiter, 10)
    assert all(after - before >= 0.5 - 1e-6 for before, after in pairwise(times))


@pytest.mark.parametrize("when", ["closed", "reopening"])
async def test_cancelling_those_that_wait_leaves_no_trace(when: str) -> None:
    limiter = AdaptiveLimiter(64)
    loop = asyncio.get_running_loop()
    await limiter.acquire()
    limiter.observe(refused(10))
    opens = loop.time() + 10
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(1000)]
    await asyncio.sleep(5 if when == "closed" else 10.5)
    came = limiter.running
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (limiter.running, limiter.waiting, len(limiter._queue)) == (came, 0, 0)
    for _ in range(came):
        limiter.observe(OK)
    times = await comebacks(limiter, 5)
    assert min(times) >= opens
    assert limiter.running == 0


async def test_one_in_line_that_is_cancelled_is_not_counted_and_the_others_come() -> None:
    limiter = AdaptiveLimiter(64)
    await limiter.acquire()
    limiter.observe(refused(10))
    tasks = [asyncio.create_task(limiter.acquire()) for _ in range(10)]
    await asyncio.sleep(1)
    for task in tasks[:3]:
        task.cancel()
    await asyncio.sleep(0)
    assert limiter.waiting == 7
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (limiter.running, limiter.waiting) == (7, 0)


# --- The limit -----------------------------------------------------------------------------------


async def test_a_burst_of_refusals_halves_once() -> None:
    limiter = AdaptiveLimiter(64)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(40):
        await limiter.acquire()
    for _ in range(20):
        limiter.observe(refused(1))
    assert limiter.limit == 32
    await asyncio.sleep(5)
    for _ in range(20):  # sent before the cut, and heard of only now
        limiter.observe(refused(1, elapsed=loop.time() - began))
    assert limiter.limit == 32
    await asyncio.sleep(5)
    await limiter.acquire()
    limiter.observe(refused(1))
    assert limiter.limit == 16


async def test_it_never_falls_below_one_nor_rises_above_the_maximum() -> None:
    limiter = AdaptiveLimiter(6)
    limits = []
    for _ in range(5):
        await refuse(limiter)
        limits.append(limiter.limit)
    assert limits == [3, 1, 1, 1, 1]
    await succeed(limiter, 5000)
    assert limiter.limit == 6


async def test_it_grows_by_one_for_each_window_of_successes() -> None:
    limiter = AdaptiveLimiter(64)
    await refuse(limiter)
    grown = []
    for _ in range(3):
        before = limiter.limit
        await succeed(limiter, before - 1)
        assert limiter.limit == before
        await succeed(limiter, 1)
        grown.append(limiter.limit)
    assert grown == [33, 34, 35]


async def test_success_with_fewer_than_may_run_says_nothing_about_more() -> None:
    limiter = AdaptiveLimiter(64)
    await refuse(limiter)
    for _ in range(1000):
        await limiter.acquire()
        limiter.observe(OK)
    assert limiter.limit == 32


@pytest.mark.parametrize("status", [None, 500, 503])
async def test_what_is_no_answer_or_a_server_error_lets_nothing_grow(status: int | None) -> None:
    limiter = AdaptiveLimiter(2)
    await refuse(limiter)
    for _ in range(100):
        await limiter.acquire()
        limiter.observe(Observation("list", status=status))
    assert limiter.limit == 1


async def test_where_it_was_refused_again_and_again_it_tries_more_seldom() -> None:
    limiter = AdaptiveLimiter(64)
    needed = []
    for _ in range(7):
        count = 0
        while limiter.limit < 6:
            await succeed(limiter, 1)
            count += 1
        await refuse(limiter)
        needed.append(count)
        while limiter.limit > 3:  # the first time from 64 down
            await refuse(limiter)
    assert needed[-1] == needed[-2] > 2 * needed[1] > 0
    # After a full window of successes the earlier refusals no longer count.
    while limiter.limit < 7:
        await succeed(limiter, 1)
    await succeed(limiter, 7 + 8 + 9)
    assert limiter.limit == 10
    await refuse(limiter)
    await succeed(limiter, 5 + 6 + 7 + 8)
    assert limiter.limit == 9
    await succeed(limiter, 8 * 9)  # as after a first time, and not as seldom as before
    assert limiter.limit == 10


async def test_a_long_retry_after_does_not_freeze_the_limit() -> None:
    limiter = AdaptiveLimiter(8)
    await refuse(limiter, 600)
    assert limiter.limit == 4
    await succeed(limiter, 200)
    assert limiter.limit == 8


# --- Against a server ----------------------------------------------------------------------------


@asynccontextmanager
async def against(fake: FakeVPS, **options: Any) -> AsyncIterator[BackupsClient]:
    async with fake, BackupsClient(fake.token, base_url=fake.url, **options) as client:
        yield client


@pytest.mark.parametrize("seconds", [0.05, 0.3])
async def test_it_settles_at_what_a_server_bears_at_once(seconds: float) -> None:
    fake = FakeVPS(servers=1, backups=1, max_concurrent=5, faults=[Latency(seconds)])
    limits: list[int] = []
    async with against(fake, timeouts=NO_END) as client:
        fake.on_request = lambda _: limits.append(client.stats.limit or 0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await asyncio.gather(*(client.list().first() for _ in range(2000)))
        took = loop.time() - began
    assert None not in found
    late = fake.requests[200:]
    assert sum(seen.status == 429 for seen in late) < 0.02 * len(late)
    assert {3, 4, 5, 6} >= set(limits[200:])
    # What is lost are a few seconds in which the server asked not to be asked.
    assert took < 2000 / 5 * seconds + 15


@pytest.mark.parametrize("seconds", [0, 0.05, 0.3])
async def test_all_creates_succeed_where_thirty_a_second_are_allowed(seconds: float) -> None:
    fake = FakeVPS(servers=500, backups=0, rate_limit=30, faults=[Latency(seconds)])
    async with against(fake) as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        made = await asyncio.gather(*(client.create(number) for number in range(1, 501)))
        took = loop.time() - began
    assert len({backup.id for backup in made}) == len(fake.backups) == 500
    # The server lets a second's worth through at once before it counts.
    assert (500 - 30) / took >= 0.85 * 30


async def test_it_recovers_when_the_server_does() -> None:
    fake = FakeVPS(servers=1, backups=1, max_concurrent=2, faults=[Latency(0.1)])
    async with against(fake, timeouts=NO_END, limiter=AdaptiveLimiter(16)) as client:
        await asyncio.gather(*(client.list().first() for _ in range(200)))
        assert (client.stats.limit or 0) <= 3
        fake.max_concurrent = None
        refusals = client.stats.rate_limited
        await asyncio.gather(*(client.list().first() for _ in range(600)))
        assert client.stats.limit == 16
        assert client.stats.rate_limited <= refusals + 1


async def test_clients_that_share_a_limiter_stay_within_it_together() -> None:
    limiter = AdaptiveLimiter(4)
    fake = FakeVPS(servers=1, backups=1, faults=[Latency(0.1)])
    async with (
        against(fake, limiter=limiter) as one,
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as other,
    ):
        await asyncio.gather(*(client.list().first() for client in (one, other) * 20))
        assert fake.peak == 4
        fake.inject(RateLimit(10, times=1))
        call = asyncio.create_task(one.list().first())
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        await other.list().first()  # it was the first one's refusal
        assert asyncio.get_running_loop().time() - began >= 9 - 0.1
        await call
        assert (one.stats.rate_limited, other.stats.rate_limited) == (1, 0)
        assert one.stats.limit == other.stats.limit == 2


async def test_those_in_the_closed_gate_spend_no_attempt() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(10, times=1)])
    async with against(fake, retry=RetryPolicy(attempts=2)) as client:
        calls = [asyncio.create_task(client.list().first()) for _ in range(1)]
        await asyncio.sleep(1)
        calls += [asyncio.create_task(client.list().first()) for _ in range(50)]
        await asyncio.sleep(1)
        stats = client.stats
        assert (stats.waiting, stats.running, stats.requests) == (51, 0, 1)
        assert stats.gate_closed_for == pytest.approx(8, abs=0.1)
        await asyncio.gather(*calls)
        assert client.stats.requests == 52
        assert client.stats.gate_closed_for == 0


@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_cancelled_in_the_closed_gate_sends_nothing_more(verb: str) -> None:
    fake = FakeVPS(servers=[1], faults=[RateLimit(30, times=1)])
    async with against(fake) as client:
        call = asyncio.ensure_future(VERBS[verb](client))
        await asyncio.sleep(5)
        assert client.stats.waiting == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(100)
        assert (client.stats.waiting, client.stats.running, len(fake.requests)) == (0, 0, 1)


async def test_the_server_is_not_waited_for_twice() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(10, times=3)])
    async with against(fake, retry=at_once(5)) as client:
        await client.list().first()
    pauses = [after.at - before.at for before, after in pairwise(fake.requests)]
    assert len(pauses) == 3
    assert all(10 <= pause <= 12.01 for pause in pauses)


async def test_a_call_waits_as_long_as_the_server_asks_where_the_gate_opens_earlier() -> None:
    """The gate is closed for an hour at most, and lets all through in the five seconds after it."""
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(3606, times=1)])
    retry = at_once(2, max_retry_after=10_000)
    async with against(fake, retry=retry, timeouts=NO_END) as client:
        await client.list().first()
    refused, answered = fake.requests
    assert answered.at - refused.at >= 3606


async def test_with_a_limiter_that_does_not_close_each_call_waits_for_itself() -> None:
    limiter = CountingLimiter()
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(10, times=1)])
    async with against(fake, limiter=limiter) as client:
        await client.list().first()
        assert client.stats == ClientStats(2, 1, 1, client.stats.bytes_received)
    assert 10 <= fake.requests[1].at - fake.requests[0].at <= 12.01


async def test_calls_that_cannot_wait_for_the_gate_fail_at_once_and_unsent() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(300, times=1)])
    async with against(fake, retry=at_once(3, max_retry_after=299)) as client:
        for attempts in (1, 0, 0):
            with pytest.raises(RateLimitedError) as caught:
                await client.list().first()
            assert caught.value.retry_after == pytest.approx(300, abs=1)
            assert caught.value.attempts == attempts
            assert caught.value.method == "GET"
        assert len(fake.requests) == 1
        await asyncio.sleep(300)
        assert await client.list().first() is not None


async def test_those_in_line_fail_at_once_when_the_gate_closes_for_too_long() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[Latency(1), RateLimit(300)])
    limiter = AdaptiveLimiter(2)
    retry = at_once(3, max_retry_after=60)
    async with against(fake, limiter=limiter, retry=retry) as client:
        began = asyncio.get_running_loop().time()
        results = await asyncio.gather(
            *(client.list().first() for _ in range(50)), return_exceptions=True
        )
        assert asyncio.get_running_loop().time() - began < 2
        assert (client.stats.waiting, client.stats.running, len(fake.requests)) == (0, 0, 2)
    assert all(isinstance(result, RateLimitedError) for result in results)
    assert sorted(result.attempts for result in results) == [0] * 48 + [1] * 2  # type: ignore[union-attr]  # just asserted


async def test_a_deadline_that_passes_in_the_closed_gate_says_what_it_was_about() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[Latency(1), RateLimit(60)])
    limiter = AdaptiveLimiter(1)
    async with against(fake, limiter=limiter, timeouts=Timeouts(deadline=30)) as client:
        first, second = await asyncio.gather(
            client.list().first(), client.list().first(), return_exceptions=True
        )
    assert isinstance(first, RateLimitedError)
    assert isinstance(second, DeadlineExceededError)
    assert "refusals closed the gate" in str(second)
    assert (second.sent, second.attempts, len(fake.requests)) == (False, 0, 1)


async def test_a_deadline_before_the_gate_opens_is_told_at_once() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(60, times=1)])
    limiter = AdaptiveLimiter()
    async with (
        against(fake, limiter=limiter) as patient,
        BackupsClient(
            fake.token, base_url=fake.url, limiter=limiter, timeouts=Timeouts(deadline=30)
        ) as hasty,
    ):
        call = asyncio.create_task(patient.list().first())
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceededError, match="refusals closed the gate") as caught:
            await hasty.delete(1)
        assert asyncio.get_running_loop().time() == began
        assert (caught.value.sent, caught.value.attempts) == (False, 0)
        assert await call is not None


async def test_a_call_refused_for_pace_goes_on_beyond_its_attempts_and_the_budget() -> None:
    """Refused three times out of four, while the others that it lets by succeed."""
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(1, chance=0.75)], seed=3)
    policy = at_once(3, budget=5)
    async with against(fake, retry=policy, timeouts=NO_END) as client:

        async def others() -> None:
            while True:
                try:
                    await client.list().first()
                except RateLimitedError:
                    await asyncio.sleep(1)

        tasks = [asyncio.create_task(others()) for _ in range(30)]
        results = await asyncio.gather(
            *(client.list().first() for _ in range(20)), return_exceptions=True
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert client.stats.retries > 5 + 20
    # Without a word from the others there is no telling it from a server that refuses everything.
    assert sum(isinstance(result, RateLimitedError) for result in results) <= 6


@pytest.mark.parametrize("verb", VERBS)
async def test_with_one_attempt_nothing_is_sent_again_after_a_429(verb: str) -> None:
    fake = FakeVPS(servers=[1], faults=[RateLimit(1)])
    async with against(fake, retry=at_once(1)) as client:
        with pytest.raises(RateLimitedError):
            await VERBS[verb](client)
    assert len(fake.requests) == 1


async def test_a_server_that_refuses_everything_is_asked_as_often_as_there_are_attempts() -> None:
    fake = FakeVPS(servers=1, faults=[RateLimit(1)])
    async with against(fake, retry=at_once(4), timeouts=NO_END) as client:
        results = await asyncio.gather(
            *(client.list().first() for _ in range(50)), return_exceptions=True
        )
    assert all(isinstance(result, RateLimitedError) for result in results)
    assert len(fake.requests) <= 50 + 100
    assert all(result.attempts <= 4 for result in results if isinstance(result, RateLimitedError))


async def test_a_backoff_holds_where_the_server_asks_for_nothing() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[RateLimit(None, times=1)])
    async with against(fake, retry=RetryPolicy(backoff=ConstantBackoff(7))) as client:
        await client.list().first()
    assert fake.requests[1].at - fake.requests[0].at == pytest.approx(7, abs=0.1)


async def test_a_thousand_calls_against_a_503_cost_no_more_than_the_budget_on_top() -> None:
    fake = FakeVPS(servers=1, faults=[ServerFault(503)])
    async with against(fake, retry=at_once(5)) as client:
        errors = await asyncio.gather(
            *(client.list().first() for _ in range(1000)), return_exceptions=True
        )
    assert len(fake.requests) == 1100
    told = [error for error in errors if isinstance(error, ServerError) and error.retries_refused]
    assert len(errors) == 1000
    assert len(told) >= 1000 - 100 / 4
    error = told[0]
    assert "budget" in error.__notes__[0]
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (again.retries_refused, again.status, again.__notes__) == (
            True,
            503,
            error.__notes__,
        )


def test_an_error_that_the_budget_had_no_part_in_says_so() -> None:
    assert ServerError(503).retries_refused is False


# --- At once, or in line -------------------------------------------------------------------------


class Slow(AdaptiveLimiter):
    """Has something to say about every request."""

    def __init__(self) -> None:
        super().__init__()
        self.acquired: list[str] = []

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        self.acquired.append(kind)
        await super().acquire(cost, kind)


class Wrapping:
    """Another limiter, with all of its attributes, and an `acquire` of its own."""

    def __init__(self) -> None:
        self.inner = AdaptiveLimiter()
        self.acquired: list[str] = []

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        self.acquired.append(kind)
        await self.inner.acquire(cost, kind)

    def observe(self, outcome: Observation) -> None:
        self.inner.observe(outcome)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


class Hasty(Slow):
    """Has a quick way of its own as well, which nothing asks for."""

    def try_acquire(self) -> bool:
        raise AssertionError


@pytest.mark.parametrize("kind", [Slow, Wrapping, Hasty])
async def test_a_subclass_or_wrapper_sees_every_request_in_its_acquire(
    fake: FakeVPS, kind: type[Slow | Wrapping]
) -> None:
    limiter = kind()
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        await client.list().first()
        await client.delete(1)
    assert limiter.acquired == ["list", "delete"]


async def test_the_class_itself_is_asked_for_a_coroutine_only_where_a_request_has_to_wait(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    acquire = AdaptiveLimiter.acquire

    async def watched(limiter: AdaptiveLimiter, cost: int = 1, kind: str = "list") -> None:
        waited.append(kind)
        await acquire(limiter, cost, kind)

    monkeypatch.setattr(AdaptiveLimiter, "acquire", watched)
    limiter = AdaptiveLimiter(1)
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        for _ in range(3):
            await client.list().first()
        assert waited == []
        await asyncio.gather(client.list().first(), client.delete(1))
        assert waited == ["delete"]
    assert limiter.running == 0


# --- What a limiter tells of itself --------------------------------------------------------------


class OpenDoor:
    """A limiter that tells nothing."""

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        pass

    def observe(self, outcome: Observation) -> None:
        pass


class HalfTold(OpenDoor):
    """Tells some of its state, in part with values that cannot be used."""

    limit = 7
    running = None
    waiting = "many"
    closed_for = "soon"


class NoCreates(OpenDoor):
    """Closed for creates alone."""

    def closed_for(self, kind: str | None = None) -> float:
        return 500.0 if kind in {None, "create"} else 0.0


class LetsCreatesWait(NoCreates):
    """Closed for creates as soon as anything was refused; only lists start without a wait."""

    def __init__(self) -> None:
        self.refused = False
        self.opened = asyncio.Event()

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        if kind != "list":
            await self.opened.wait()

    def observe(self, outcome: Observation) -> None:
        self.refused = self.refused or outcome.status == 429

    def closed_for(self, kind: str | None = None) -> float:
        return super().closed_for(kind) if self.refused else 0.0


@pytest.mark.parametrize(
    ("limiter", "told"),
    [
        (OpenDoor(), (None, None, None, 0.0)),
        (HalfTold(), (7, None, None, 0.0)),
        (NoCreates(), (None, None, None, 500.0)),
        (AdaptiveLimiter(3), (3, 0, 0, 0.0)),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_the_stats_show_what_a_limiter_tells(
    fake: FakeVPS, limiter: OpenDoor, told: tuple[int | float | None, ...]
) -> None:
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        await client.list().first()
        stats = client.stats
    assert (stats.limit, stats.running, stats.waiting, stats.gate_closed_for) == told


@pytest.mark.parametrize("name", ["limit", "running", "waiting"])
async def test_what_a_limiter_fails_to_tell_is_not_known_to_the_stats_nor_to_waits(
    fake: FakeVPS, name: str
) -> None:
    def fail(_: object) -> int:
        raise RuntimeError("the quota service is away")

    broken = type("Broken", (AdaptiveLimiter,), {name: property(fail)})
    async with BackupsClient(fake.token, base_url=fake.url, limiter=broken()) as client:
        await client.wait(await client.create(1))
        assert getattr(client.stats, name) is None


@pytest.mark.parametrize("limiter", [OpenDoor(), HalfTold()], ids=["nothing", "some"])
async def test_a_limiter_that_does_not_tell_for_how_long_it_is_closed_counts_as_open(
    fake: FakeVPS, limiter: OpenDoor
) -> None:
    fake.inject(RateLimit(3, times=1))
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        await client.list().first()
    before, after = fake.requests
    assert 3 <= after.at - before.at <= 3.7


async def test_a_plain_number_for_how_long_a_limiter_is_closed_counts_for_all_kinds(
    fake: FakeVPS,
) -> None:
    class Numbered(OpenDoor):
        closed_for = 500.0

    async with BackupsClient(fake.token, base_url=fake.url, limiter=Numbered()) as client:
        assert client.stats.gate_closed_for == 500.0
        with pytest.raises(RateLimitedError, match="not sent"):
            await client.list().first()
    assert fake.count() == 0


class WithoutKind(OpenDoor):
    """Tells how long it is closed, but not for which kind."""

    def closed_for(self) -> float:
        return 0.0


@pytest.mark.parametrize(
    ("limiter", "words"),
    [
        (5, "limiter must have the methods of Limiter, not 5"),
        (AdaptiveLimiter, "limiter must have the methods of Limiter"),
        (WithoutKind(), "must take a kind"),
    ],
    ids=["number", "class", "closed_for without kind"],
)
def test_what_cannot_serve_as_a_limiter_is_refused(limiter: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BackupsClient("vps_x", limiter=limiter)


async def test_a_limiter_may_be_closed_for_one_kind_of_request_alone(fake: FakeVPS) -> None:
    limiter = LetsCreatesWait()
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        create = asyncio.create_task(client.create(1))
        delete = asyncio.create_task(client.delete(1))
        await asyncio.sleep(1)
        fake.inject(RateLimit(0, times=1))
        await client.list().first()
        began = asyncio.get_running_loop().time()
        with pytest.raises(RateLimitedError, match="not sent") as caught:
            await create
        assert asyncio.get_running_loop().time() == began
        limiter.opened.set()
        await delete
    assert caught.value.retry_after == 500


def test_the_state_of_a_limiter_is_a_protocol() -> None:
    assert isinstance(AdaptiveLimiter(), LimiterState)
    assert not isinstance(OpenDoor(), LimiterState)
