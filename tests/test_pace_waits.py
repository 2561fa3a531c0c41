"""Calls that wait for their turn or in a pause: who else may end that wait, and how."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from helpers_transport import VERBS, CountingLimiter, at_once

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConfigurationError,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    Observation,
    RateLimitedError,
    ServerError,
    Timeouts,
)
from vpsbackups_async.testing import Drop, FakeVPS, Latency, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


# --- A limiter that several clients share --------------------------------------------------------


async def test_a_long_429_of_one_client_ends_the_wait_of_calls_of_the_others(fake: FakeVPS) -> None:
    fake.inject(Latency(1, times=1), RateLimit(300, times=1))
    limiter = AdaptiveLimiter(1)
    policy = at_once(3, max_retry_after=60)
    async with (
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter, retry=policy) as one,
        BackupsClient(fake.token, base_url=fake.url, limiter=limiter, retry=policy) as other,
    ):
        refused = asyncio.create_task(one.list().first())
        await asyncio.sleep(0.1)
        began = now()
        with pytest.raises(RateLimitedError, match="not sent") as caught:
            await other.list().first()
        assert now() - began == pytest.approx(0.9, abs=0.1)
        assert caught.value.retry_after == pytest.approx(300, abs=0.1)
        with pytest.raises(RateLimitedError):
            await refused
    assert (limiter.running, limiter.waiting, fake.count()) == (0, 0, 1)


class Slotted(CountingLimiter):
    """Cannot be a key, as its class defines `__eq__` alone; closed for an hour by a 429."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]  # as a class without `__hash__` has it

    def __init__(self) -> None:
        super().__init__()
        self.closed_for = 0.0

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        if kind == "delete":
            await asyncio.sleep(50)
        await super().acquire(cost, kind)

    def observe(self, outcome: Observation) -> None:
        self.closed_for = 3600.0 if outcome.status == 429 else 0.0


async def test_a_limiter_that_cannot_be_a_key_sends_its_own_clients_calls_away(
    fake: FakeVPS,
) -> None:
    fake.inject(RateLimit(3600, times=1))
    async with BackupsClient(fake.token, base_url=fake.url, limiter=Slotted()) as client:
        delete = asyncio.create_task(client.delete(1))
        await asyncio.sleep(1)
        with pytest.raises(RateLimitedError):
            await client.list().first()
        with pytest.raises(RateLimitedError, match="not sent"):
            await delete
        assert now() < 3


# --- A session that several clients share --------------------------------------------------------


@pytest.mark.parametrize("own", ["session", "connector"])
async def test_clients_that_share_connections_do_not_queue_inside_aiohttp(
    fake: FakeVPS, own: str
) -> None:
    fake.inject(Latency(0.5))
    connector = aiohttp.TCPConnector(limit=10)
    async with AsyncExitStack() as stack:
        shared: Any = connector
        if own == "session":
            shared = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        else:
            stack.push_async_callback(connector.close)
        clients = [
            await stack.enter_async_context(
                BackupsClient(
                    fake.token,
                    base_url=fake.url,
                    timeouts=Timeouts(attempt=1),
                    retry=at_once(1),
                    **{own: shared},
                )
            )
            for _ in range(2)
        ]
        await asyncio.gather(*(client.list().first() for client in clients * 100))
        assert now() == pytest.approx(10, abs=0.5)
    assert fake.peak == 10


async def test_a_call_that_waits_for_a_shared_connection_ends_by_its_deadline(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(20))
    limiter = AdaptiveLimiter(1)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session,
        BackupsClient(fake.token, base_url=fake.url, session=session) as one,
        BackupsClient(
            fake.token,
            base_url=fake.url,
            session=session,
            limiter=limiter,
            timeouts=Timeouts(deadline=5),
        ) as other,
    ):
        first = asyncio.create_task(one.list().first())
        await asyncio.sleep(1)
        with pytest.raises(DeadlineExceededError, match="passed") as caught:
            await other.list().first()
        assert now() == pytest.approx(6)
        assert (caught.value.sent, limiter.running) == (False, 0)
        await first


# --- close() -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "fault", "limiter"),
    [
        *((verb, RateLimit(100), AdaptiveLimiter) for verb in VERBS),
        *((verb, RateLimit(100), CountingLimiter) for verb in VERBS),
        *(
            (verb, ServerFault(503, retry_after=100), AdaptiveLimiter)
            for verb in ("list", "create")
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_close_ends_calls_that_wait_at_once(
    fake: FakeVPS, verb: str, fault: Any, limiter: Any
) -> None:
    fake.inject(fault)
    client = BackupsClient(fake.token, base_url=fake.url, limiter=limiter())
    call = asyncio.ensure_future(VERBS[verb](client))
    await asyncio.sleep(5)
    began = now()
    await client.close()
    is_in_doubt = verb == "create" and isinstance(fault, ServerFault)
    kind = CreateOutcomeUnknownError if is_in_doubt else ConfigurationError
    with pytest.raises(kind, match="closed"):
        await call
    assert now() == began
    assert fake.count() == 1


async def test_close_ends_calls_in_line_behind_others(fake: FakeVPS) -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    client = BackupsClient(fake.token, base_url=fake.url, limiter=limiter)
    calls = [asyncio.create_task(client.delete(number)) for number in range(1, 20)]
    await asyncio.sleep(1)
    await client.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(end) for end in ends} == {ConfigurationError}
    assert (now(), limiter.waiting, fake.count()) == (1, 0, 0)


# --- A limiter's own errors ----------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["list", "delete"])
async def test_a_timeout_error_of_a_limiter_is_told_as_what_it_is(fake: FakeVPS, verb: str) -> None:
    class Late(CountingLimiter):
        async def acquire(self, cost: int = 1, kind: str = "list") -> None:
            raise TimeoutError("the quota service is slow")

    async with BackupsClient(fake.token, base_url=fake.url, limiter=Late()) as client:
        with pytest.raises(TimeoutError, match=r"^the quota service is slow$"):
            await VERBS[verb](client)
    assert fake.count() == 0


class Failing(CountingLimiter):
    """Raises in its methods of the given names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    async def acquire(self, cost: int = 1, kind: str = "list") -> None:
        if "acquire" in self.names:
            raise RuntimeError("the quota service is away")
        await super().acquire(cost, kind)

    def observe(self, outcome: Observation) -> None:
        super().observe(outcome)
        if "observe" in self.names:
            raise RuntimeError("the metrics service is away")

    def closed_for(self, kind: str | None = None) -> float:
        if "closed_for" in self.names:
            raise RuntimeError("no clock")
        return 0.0


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["observe", "closed_for"])
async def test_an_error_of_a_limiter_after_an_answer_is_logged_once_and_replaces_no_answer(
    fake: FakeVPS, verb: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(RateLimit(1, times=2))
    limiter = Failing(name)
    async with BackupsClient(
        fake.token, base_url=fake.url, limiter=limiter, on_event=lambda _: None
    ) as client:
        await VERBS[verb](client)
    failures = [record for record in caplog.records if f"{name} of" in record.getMessage()]
    assert [(record.levelname, bool(record.exc_info)) for record in failures] == [("WARNING", True)]


async def test_an_error_of_a_limiter_keeps_no_connection_that_clients_share(fake: FakeVPS) -> None:
    async with (
        aiohttp.TCPConnector(limit=2) as connector,
        BackupsClient(
            fake.token, base_url=fake.url, limiter=Failing("observe"), connector=connector
        ) as one,
        BackupsClient(fake.token, base_url=fake.url, connector=connector) as other,
    ):
        await asyncio.gather(*(one.create(number) for number in range(1, 4)))
        assert await other.list().count() == 15 + 3
    assert now() < 1


async def test_an_error_of_a_limiter_does_not_hide_that_a_backup_was_made(fake: FakeVPS) -> None:
    """Its answer is lost, and the looks for it pass a limiter that fails by then."""
    fake.inject(Drop("after", method="POST", times=1))
    limiter = Failing()
    fake.on_request = lambda _: setattr(limiter, "names", ("acquire",))
    async with BackupsClient(
        fake.token, base_url=fake.url, limiter=limiter, retry=at_once(2)
    ) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="the quota service is away"):
            await client.create(1)


async def test_a_create_goes_on_looking_while_its_limiter_fails(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST", times=1))
    limiter = Failing()
    fake.on_request = lambda _: setattr(limiter, "names", ("acquire",))
    async with BackupsClient(fake.token, base_url=fake.url, limiter=limiter) as client:
        call = asyncio.create_task(client.create(1))
        await asyncio.sleep(20)
        fake.on_request = None
        limiter.names = ()
        assert (await call).id == fake.backups[-1]["id"]


# --- A run of 503s that closes the limiter -------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
async def test_503s_for_long_send_away_those_in_line_with_an_error_of_that_status(
    fake: FakeVPS, verb: str
) -> None:
    fake.inject(Latency(0.1), ServerFault(503, retry_after=25, method="GET"))
    policy = at_once(3, max_retry_after=10)
    client = BackupsClient(fake.token, base_url=fake.url, limiter=AdaptiveLimiter(6), retry=policy)
    async with client:
        lists = [asyncio.create_task(client.list().first()) for _ in range(6)]
        await asyncio.sleep(0)
        calls = [asyncio.ensure_future(VERBS[verb](client)) for _ in range(3)]
        await asyncio.wait([*lists, *calls])
        assert now() < 1
        calls.append(asyncio.ensure_future(VERBS[verb](client)))
        ends = await asyncio.gather(*lists, *calls, return_exceptions=True)
        assert {type(end) for end in ends} == {ServerError}
        late = [end for end in ends if isinstance(end, ServerError)][6:]
        assert {end.status for end in late} == {503}
        assert all("not sent" in str(end) and "may run" not in str(end) for end in late)
        assert all(end.retry_after == pytest.approx(25, abs=0.1) for end in late)
        assert (client.stats.rate_limited, fake.count()) == (0, 6)


async def test_those_in_line_are_sent_away_with_the_status_that_closes_the_limiter_last(
    fake: FakeVPS,
) -> None:
    fake.inject(*(ServerFault(503, retry_after=20, times=6), RateLimit(40, times=1)))
    async with BackupsClient(fake.token, base_url=fake.url, retry=at_once(1)) as client:
        for _ in range(6):
            with pytest.raises(ServerError):
                await client.list().first()
        with pytest.raises(RateLimitedError):
            await client.list().first()
        hasty = client.with_options(retry=at_once(3, max_retry_after=10))
        with pytest.raises(RateLimitedError, match="not sent"):
            await hasty.list().first()
