"""A call that is cancelled, at whatever moment, ends at once and leaves nothing behind."""

import asyncio
from collections.abc import Callable

import pytest
from helpers_transport import METHODS, VERBS, CountingLimiter, RawServer, at_once, good, http

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConstantBackoff,
    Observation,
    RateLimitedError,
    RetryPolicy,
    Timeouts,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async.testing import FakeVPS, Latency, RateLimit


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kept_alive", [False, True], ids=["fresh", "kept-alive"])
@pytest.mark.parametrize(
    "gate", [lambda: AdaptiveLimiter(1, rate=1e6), CountingLimiter], ids=["own gate", "custom gate"]
)
async def test_a_call_cancelled_at_any_step_of_the_loop_ends_at_once(
    verb: str, kept_alive: bool, gate: Callable[[], AdaptiveLimiter | CountingLimiter]
) -> None:
    """The step moves on until the call is done before it is reached."""
    cancelled = 0
    for step in range(500):
        async with RawServer(good).running() as server:
            limiter = gate()
            async with BackupsClient(
                "vps_x", base_url=server.url, limiter=limiter, retry=at_once(5)
            ) as client:
                if kept_alive:
                    await client.list().collect()
                before = len(server.requests)
                tasks = asyncio.all_tasks()
                call = asyncio.ensure_future(VERBS[verb](client))
                await rounds(step)
                finished = call.done()
                call.cancel()
                if finished:
                    break
                with pytest.raises(asyncio.CancelledError):
                    await call
                cancelled += 1
                # A create that the server may be carrying out ends in the background.
                creates = [t for t in asyncio.all_tasks() if "vpsbackups-create" in t.get_name()]
                if creates:
                    await asyncio.wait(creates, timeout=10)
                if isinstance(limiter, AdaptiveLimiter):
                    assert limiter.running == 0
                else:
                    assert len(limiter.observed) == len(limiter.acquired)
                await rounds(20)
                assert len(server.requests) - before <= 1
                ours = [task for task in asyncio.all_tasks() - tasks if "_serve" not in str(task)]
                assert ours == []
                # The client is none the worse for it.
                await client.list().collect()
    else:
        pytest.fail("the call never ended")
    assert cancelled >= 3


async def waiting(client: BackupsClient, fake: FakeVPS, verb: str) -> "asyncio.Future[None]":
    """A call of the verb that the server has seen."""
    seen = asyncio.Event()
    fake.on_request = lambda _: seen.set()
    call = asyncio.ensure_future(VERBS[verb](client))
    await seen.wait()
    await rounds(20)
    return call


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_cancelled_in_its_pause_sends_no_further_request(verb: str) -> None:
    limiter = CountingLimiter()
    async with FakeVPS(servers=[1], faults=[RateLimit(30)]) as fake:
        client = BackupsClient(fake.token, base_url=fake.url, limiter=limiter)
        async with client:
            call = await waiting(client, fake, verb)
            assert client.stats.retries == 1
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(100)
        assert len(fake.requests) == 1
    assert [seen.status for seen in limiter.observed] == [429]


@pytest.mark.virtual_time
@pytest.mark.parametrize("verb", VERBS)
async def test_a_call_cancelled_under_way_gives_its_slot_back(verb: str) -> None:
    limiter = CountingLimiter()
    async with FakeVPS(servers=[1], faults=[Latency(30)]) as fake:
        client = BackupsClient(fake.token, base_url=fake.url, limiter=limiter)
        async with client:
            call = await waiting(client, fake, verb)
            await asyncio.sleep(7)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await asyncio.sleep(100)
        assert fake.count(METHODS[verb]) == 1
    assert len(limiter.observed) == len(limiter.acquired)
    seen = limiter.observed[0]
    assert (seen.kind, seen.status, seen.cost) == (verb, None, 1)
    # A create is not stopped where the server may be making the backup.
    assert seen.elapsed == pytest.approx(30 if verb == "create" else 7, abs=0.1)


async def test_calls_cancelled_in_the_queue_were_never_sent() -> None:
    limiter = AdaptiveLimiter(1)
    async with FakeVPS(servers=[1]) as fake:
        client = BackupsClient(fake.token, base_url=fake.url, limiter=limiter)
        async with client:
            await limiter.acquire()
            calls = [asyncio.ensure_future(client.create(1)) for _ in range(10)]
            await rounds(5)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            limiter.observe(Observation("list"))
            assert limiter.running == 0
            await client.list().first()
        assert fake.count("POST") == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("reply", "kind", "status", "asked"),
    [
        (http(), None, 200, None),
        (http(429, b"{}", Retry_After="0"), RateLimitedError, 429, 0),
        (http(503, b"{}", Retry_After="3000"), VPSBackupsError, 503, 3000),
        (http(500, b"{}", Retry_After="3"), VPSBackupsError, 500, None),
        (http(404, b"{}"), VPSBackupsError, 404, None),
        (http(301, b"", Location="/x"), VPSBackupsError, 301, None),
        (http(body=b"no JSON"), VPSBackupsError, 200, None),
        (http(body=b"x" * 5000), VPSBackupsError, 200, None),
        (b"no HTTP\r\n\r\n", TransportError, None, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", TransportError, 200, None),
        (b"", TransportError, None, None),
        (None, TransportError, None, None),
    ],
    ids=[
        "200",
        "429",
        "503",
        "500",
        "404",
        "301",
        "no JSON",
        "too large",
        "no HTTP",
        "cut off",
        "no byte",
        "closed",
    ],
)
async def test_a_limiter_hears_once_of_each_request_that_it_let_through(
    reply: bytes | None, kind: type[Exception] | None, status: int | None, asked: float | None
) -> None:
    limiter = CountingLimiter()
    async with RawServer(lambda _: reply).running() as server:
        client = BackupsClient(
            "vps_x",
            base_url=server.url,
            limiter=limiter,
            retry=RetryPolicy(attempts=3, backoff=ConstantBackoff(1)),
            timeouts=Timeouts(attempt=5),
            max_response_bytes=4096,
        )
        async with client:
            if kind is None:
                await client.list().collect()
            else:
                with pytest.raises(kind):
                    await client.list().collect()
            assert len(limiter.acquired) == client.stats.requests
    assert len(limiter.observed) == len(limiter.acquired) == len(server.requests)
    assert {(seen.kind, seen.status, seen.retry_after) for seen in limiter.observed} == {
        ("list", status, asked)
    }
