"""Servers that are busy, restart, or refuse one kind of request alone: counted at the server."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from attrs import field, frozen
from helpers_transport import at_once

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    Observation,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    Timeouts,
    fan_out,
)
from vpsbackups_async.testing import FakeVPS, Fault, Latency, RateLimit, SeenRequest, ServerFault

pytestmark = pytest.mark.virtual_time

NO_END = Timeouts(deadline=1e6)


def now() -> float:
    return asyncio.get_running_loop().time()


async def outcomes(calls: list[Awaitable[Any]]) -> Counter[str]:
    """How many calls succeeded (`ok`), and how many failed with which error."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    return Counter(type(end).__name__ if isinstance(end, BaseException) else "ok" for end in ended)


def until_cancelled(call: Callable[[], Awaitable[Any]]) -> "asyncio.Task[None]":
    """A task that makes the call again and again."""

    async def go_on() -> None:
        while True:
            await call()

    return asyncio.create_task(go_on())


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- 429 with a Retry-After of nothing -----------------------------------------------------------


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_restore_that_is_refused_for_nothing_while_lists_go_on_is_sent_a_few_times(
    form: str,
) -> None:
    faults: list[Fault] = [RateLimit(0, form, path="restore"), Latency(0.01, method="GET")]
    async with (
        FakeVPS(servers=1, backups=1, faults=faults) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=at_once(5), timeouts=NO_END) as client,
    ):
        lists = until_cancelled(lambda: client.list().first())
        with pytest.raises(RateLimitedError):
            await client.restore(1, 1, check=False)
        await end(lists)
    sent = [seen.at for seen in fake.requests if seen.method == "POST"]
    assert len(sent) == 10 + 5
    assert all(after - before >= 0.09 for before, after in pairwise(sent))


# --- 503 of a busy server ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit", [{"rate_limit": 50}, {"max_concurrent": 4}], ids=["a rate", "connections"]
)
@pytest.mark.parametrize("seconds", [0.005, 0.02])
async def test_a_server_that_is_busy_with_503_fails_no_call(
    limit: dict[str, Any], seconds: float
) -> None:
    fake = FakeVPS(servers=99, backups=99, limit_status=503, faults=[Latency(seconds)], **limit)
    async with fake, BackupsClient(fake.token, base_url=fake.url) as client:
        calls: list[Awaitable[Any]] = [client.create(number) for number in range(1, 100)]
        calls += [client.list(server_id=number % 99 + 1).first() for number in range(406)]
        random.Random(5).shuffle(calls)
        assert await outcomes(calls) == {"ok": 505}
    assert sum(held["backup_type"] == "manual" for held in fake.backups) == 99
    assert len(fake.requests) <= 2 * 505


@frozen
class LeakyBucket(ServerFault):
    """A 503 for what exceeds 50 requests a second and a burst of 5, as nginx's `limit_req` has it.

    nginx answers these at once.
    """

    _level: list[float] = field(factory=lambda: [0.0, 0.0])

    def matches(self, seen: SeenRequest) -> bool:
        level = max(0.0, self._level[0] - 50 * (seen.at - self._level[1]) + 1)
        if level <= 5:
            self._level[:] = level, seen.at
        return level > 5


@pytest.mark.parametrize("seconds", [0.005, 0.02, 0.2])
async def test_a_bucket_that_refuses_with_503_costs_half_a_request_a_call(seconds: float) -> None:
    fake = FakeVPS(servers=99, backups=99)
    fake.inject(LeakyBucket())
    fake.inject(Latency(seconds))
    async with fake, BackupsClient(fake.token, base_url=fake.url) as client:
        calls: list[tuple[Callable[..., Awaitable[Any]], int]] = [
            *((client.create, number) for number in range(1, 100)),
            *(
                (lambda server: client.list(server_id=server).first(), n % 99 + 1)
                for n in range(406)
            ),
        ]
        random.Random(5).shuffle(calls)
        async for outcome in fan_out(lambda call: call[0](call[1]), calls, concurrency=64):
            outcome.unwrap()
    assert sum(held["backup_type"] == "manual" for held in fake.backups) == 99
    assert len(fake.requests) <= 1.5 * 505


async def answer(limiter: AdaptiveLimiter, *statuses: int, kind: str = "list") -> None:
    """Let a request through after the other, answered so."""
    for status in statuses:
        await limiter.acquire(1, kind)
        await asyncio.sleep(0.01)
        limiter.observe(Observation(kind, status=status, elapsed=0.01))


async def refusals_until_closed(limiter: AdaptiveLimiter) -> int:
    number = 0
    while not limiter.closed_for():
        await answer(limiter, 503)
        number += 1
    return number


@pytest.mark.parametrize("maximum", [1, 64])
async def test_once_pauses_help_fewer_503s_make_one(maximum: int) -> None:
    limiter = AdaptiveLimiter(maximum)
    needed = []
    for _ in range(5):
        needed.append(await refusals_until_closed(limiter))
        await answer(limiter, *[200] * 6)
    assert needed == [6, 6, 3, 1, 1]


async def test_pauses_that_do_not_help_let_more_503s_make_one_again() -> None:
    limiter = AdaptiveLimiter(64)
    needed = []
    for successes in (6, 6, 6, 5, 5, 5, 5):
        needed.append(await refusals_until_closed(limiter))
        await answer(limiter, *[200] * successes)
    assert needed == [6, 6, 3, 1, 1, 2, 3]


async def test_what_succeeds_after_the_next_503_does_not_show_that_a_pause_helped() -> None:
    limiter = AdaptiveLimiter(64)
    for _ in range(4):
        assert await refusals_until_closed(limiter) == 6
        await answer(limiter, *[200] * 5, 503, *[200] * 10)


async def test_a_kind_that_alone_gets_503s_closes_nothing_though_pauses_helped() -> None:
    limiter = AdaptiveLimiter(64)
    for _ in range(4):
        await refusals_until_closed(limiter)
        await answer(limiter, *[200] * 6)
    for _ in range(20):
        await answer(limiter, 503, kind="restore")
        assert not limiter.closed_for()
        await answer(limiter, 200)
    await answer(limiter, 200, 503, kind="restore")
    assert limiter.closed_for()  # it takes some of this kind


async def test_after_many_successes_as_many_503s_make_a_pause_as_at_first() -> None:
    limiter = AdaptiveLimiter(64)
    for _ in range(4):
        await refusals_until_closed(limiter)
        await answer(limiter, *[200] * 6)
    await answer(limiter, *[200] * 250)
    assert await refusals_until_closed(limiter) == 6


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_503s_at_random_do_not_slow_a_client_down(seed: int) -> None:
    """Each costs its own call a pause; together they leave the limiter open."""
    faults: list[Fault] = [Latency(0.05), ServerFault(503, chance=0.15)]
    policy = RetryPolicy(budget=None)
    fake = FakeVPS(servers=1, backups=1, seed=seed, faults=faults)
    async with fake, BackupsClient(fake.token, base_url=fake.url, retry=policy) as client:
        assert await outcomes([client.list().first() for _ in range(600)]) == {"ok": 600}
        assert client.stats.limit == 64


async def test_a_503_outage_is_no_reason_to_wait_in_the_limiter_for_long() -> None:
    fake = FakeVPS(servers=1, backups=1, faults=[ServerFault(503)])
    async with fake, BackupsClient(fake.token, base_url=fake.url, retry=at_once(2)) as client:
        assert await outcomes([client.list().first() for _ in range(64)]) == {"ServerError": 64}
        assert now() < 10
        began = now()
        with pytest.raises(ServerError):
            await client.list().first()
        assert now() - began < 0.1


# --- One kind of request that is refused ---------------------------------------------------------


async def test_a_kind_that_alone_is_refused_does_not_hold_the_others_up() -> None:
    faults: list[Fault] = [RateLimit(2, path="restore"), Latency(0.01, method="GET")]
    fake = FakeVPS(servers=1, backups=1, faults=faults)
    async with fake, BackupsClient(fake.token, base_url=fake.url, timeouts=NO_END) as client:
        lists = until_cancelled(lambda: client.list().first())
        restores = [client.restore(1, 1, check=False) for _ in range(3)]
        calls = [asyncio.ensure_future(restore) for restore in restores]
        await asyncio.sleep(10)
        # Alone they are about a thousand. The first refusal closes the limiter for all.
        assert fake.count("GET") >= 700
        assert fake.count("POST") <= 8
        fake.clear_faults()
        fake.inject(Latency(0.01, method="GET"))  # so that time goes on
        await asyncio.gather(*calls)
        await end(lists)


async def succeed(limiter: AdaptiveLimiter, kind: str) -> None:
    await limiter.acquire(1, kind)
    await asyncio.sleep(0.01)
    limiter.observe(Observation(kind, status=200, elapsed=0.01))


async def refuse(limiter: AdaptiveLimiter, kind: str) -> None:
    await limiter.acquire(1, kind)
    await asyncio.sleep(0.01)
    limiter.observe(Observation(kind, status=429, retry_after=2, elapsed=0.01))


async def put_apart(limiter: AdaptiveLimiter, kind: str = "create") -> None:
    await refuse(limiter, kind)
    await succeed(limiter, "list")
    await refuse(limiter, kind)


async def test_a_kind_is_held_back_alone_if_others_succeed_between_its_refusals() -> None:
    limiter = AdaptiveLimiter(8)
    await refuse(limiter, "create")
    assert limiter.closed_for("list") == pytest.approx(2)
    await succeed(limiter, "list")
    await refuse(limiter, "create")
    assert (limiter.closed_for(), limiter.closed_for("list")) == (0, 0)
    assert limiter.closed_for("create") == pytest.approx(2)
    assert limiter.limit == 4  # it was halved by the first refusal alone


@pytest.mark.parametrize("between", [[], ["create"], ["list", "create"]], ids=repr)
async def test_a_kind_of_which_some_succeed_closes_the_limiter_for_all(between: list[str]) -> None:
    limiter = AdaptiveLimiter(8)
    await refuse(limiter, "create")
    for kind in between:
        await succeed(limiter, kind)
    await refuse(limiter, "create")
    assert limiter.closed_for("list") == pytest.approx(2)


async def test_a_kind_that_is_held_back_tries_one_at_a_time_until_it_succeeds() -> None:
    limiter = AdaptiveLimiter(8)
    await put_apart(limiter)
    waiting = [asyncio.create_task(limiter.acquire(1, "create")) for _ in range(3)]
    await asyncio.sleep(1)
    assert (limiter.waiting, limiter.running) == (3, 0)
    await succeed(limiter, "list")
    await asyncio.sleep(2)
    assert (limiter.waiting, limiter.running) == (2, 1)
    limiter.observe(Observation("create", status=201))
    await asyncio.gather(*waiting)
    for _ in waiting[1:]:
        limiter.observe(Observation("create", status=201))
    assert (limiter.waiting, limiter.running) == (0, 0)
    # The next refusal is the first one again.
    await refuse(limiter, "create")
    assert limiter.closed_for("list") == pytest.approx(2)


async def test_requests_that_are_in_line_when_their_kind_is_put_apart_wait_there() -> None:
    limiter = AdaptiveLimiter(1)
    await refuse(limiter, "create")
    await succeed(limiter, "list")
    await limiter.acquire(1, "create")
    creates = [asyncio.create_task(limiter.acquire(1, "create")) for _ in range(2)]
    listed = asyncio.create_task(succeed(limiter, "list"))
    await asyncio.sleep(0.1)
    limiter.observe(Observation("create", status=429, retry_after=50, elapsed=0.1))
    await listed
    assert (limiter.running, limiter.waiting) == (0, 2)
    creates[0].cancel()
    await asyncio.sleep(49)
    assert (limiter.running, limiter.waiting) == (0, 1)
    await creates[1]
    limiter.observe(Observation("create", status=201))
    assert (limiter.running, limiter.waiting) == (0, 0)
