"""A client with other timeouts and retries, which shares everything else with its parent."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from datetime import timedelta

import pytest
from helpers_creating import client_of
from helpers_events import Heard
from helpers_noise import listening
from helpers_transport import at_once

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    ConfigurationError,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    FleetError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    Timeouts,
    WaitError,
)
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import Drop, FakeVPS, Latency, ServerFault

pytestmark = [pytest.mark.fake_vps(backups=2, backup_seconds=60), pytest.mark.virtual_time]
EVERY_SECOND = ConstantBackoff(1)

# --- What differs --------------------------------------------------------------------------------


async def test_other_timeouts_hold_for_the_calls_of_that_client_only(fake: FakeVPS) -> None:
    fake.inject(Latency(20))
    async with client_of(fake, retry=at_once(1)) as client:
        hasty = client.with_options(timeouts=Timeouts(attempt=5))
        with pytest.raises(RequestTimeoutError):
            await hasty.list().first()
        with pytest.raises(RequestTimeoutError):
            await hasty.delete(1)
        assert await client.list().first() is not None


async def test_other_retries_hold_for_the_calls_of_that_client_only(fake: FakeVPS) -> None:
    fake.inject(ServerFault(502, method="GET", times=3))
    async with client_of(fake, retry=at_once(3)) as client:
        once = client.with_options(retry=at_once(1))
        with pytest.raises(ServerError):
            await once.get(1)
        assert fake.count() == 1
        assert (await client.get(1)).id == 1
        assert fake.count() == 4


async def test_one_made_after_a_search_searches_with_its_own_retries(fake: FakeVPS) -> None:
    async with client_of(fake, retry=at_once(3)) as client:
        assert (await client.get(1)).id == 1
        fake.inject(ServerFault(502, method="GET", times=1))
        with pytest.raises(ServerError):
            await client.with_options(retry=at_once(1)).get(1)


async def test_a_create_looks_for_its_backup_with_the_retries_of_its_client(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop("before", method="POST"))
    async with client_of(fake) as client:
        for grace, patient in (
            (15, client),
            (60, client.with_options(retry=RetryPolicy(create_grace=60))),
        ):
            began = loop.time()
            with pytest.raises(CreateOutcomeUnknownError):
                await patient.create(1)
            assert loop.time() - began == pytest.approx(grace, abs=0.5)


async def test_the_deadline_of_a_create_is_that_of_its_client(fake: FakeVPS) -> None:
    fake.inject(Latency(25, method="POST"))
    async with client_of(fake) as client:
        first = asyncio.create_task(client.create(1))
        await asyncio.sleep(1)
        with pytest.raises(DeadlineExceededError, match="in line"):
            await client.with_options(timeouts=Timeouts(deadline=10)).create(1)
        assert (await first).server.id == 1
    assert fake.count("POST") == 1


async def test_a_fleet_has_the_options_of_its_client(fake: FakeVPS) -> None:
    fake.inject(ServerFault(502, times=1, query={"server_id": 2}))
    fake.inject(ServerFault(409, times=1, method="POST"))
    async with client_of(fake) as client:
        fleet = client.with_options(retry=at_once(1)).fleet([1, 2, 3])
        with pytest.raises(FleetError, match="1 of the servers"):
            assert [backup async for backup in fleet.list()]
        outcomes = [outcome async for outcome in fleet.create()]
        assert sorted(outcome.ok for outcome in outcomes) == [False, True, True]


async def test_options_that_are_not_given_stay_as_they_are_also_where_they_nest(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(20), ServerFault(502))
    async with client_of(fake, retry=at_once(4)) as client:
        hasty = client.with_options(timeouts=Timeouts(attempt=5))
        twice = hasty.with_options(retry=at_once(2))
        again = twice.with_options()
        for one, kind, attempts in (
            (client, ServerError, 4),
            (hasty, RequestTimeoutError, 4),
            (twice, RequestTimeoutError, 2),
            (again, RequestTimeoutError, 2),
        ):
            before = fake.count()
            with pytest.raises(kind):
                await one.list().first()
            assert fake.count() - before == attempts


@pytest.mark.parametrize("bad", [0, 5, RetryPolicy()])
def test_timeouts_must_be_timeouts_and_retries_a_policy(bad: object) -> None:
    with pytest.raises(ValueError, match="timeouts must be Timeouts"):
        BackupsClient("vps_x", timeouts=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeouts must be Timeouts"):
        BackupsClient("vps_x").with_options(timeouts=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="retry must be a RetryPolicy"):
        BackupsClient("vps_x").with_options(retry=Timeouts())  # type: ignore[arg-type]


async def test_one_that_is_no_longer_used_is_not_kept_by_those_made_from_it(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        between = client.with_options(retry=at_once(1))
        seen = weakref.ref(between)
        last = between.with_options(timeouts=Timeouts(attempt=5))
        del between
        gc.collect()
        assert seen() is None
        assert await last.list().first() is not None


# --- What is shared ------------------------------------------------------------------------------


async def test_the_limiter_the_counters_and_the_budget_are_shared(fake: FakeVPS) -> None:
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(0), budget=2)
    limiter = AdaptiveLimiter(2)
    async with client_of(fake, retry=retry, limiter=limiter) as client:
        other = client.with_options(retry=RetryPolicy(attempts=3, backoff=ConstantBackoff(0)))
        fake.inject(Latency(1, times=8))
        await asyncio.gather(*(one.list().first() for one in (client, other) * 4))
        assert fake.peak == 2
        assert client.stats == other.stats
        assert client.stats.requests == 8
        fake.inject(ServerFault(502))
        with pytest.raises(ServerError):
            await other.list().first()
        before = fake.count()
        with pytest.raises(ServerError):
            await client.list().first()
        assert fake.count() - before == 1  # the other one has used up the budget


async def test_the_budget_of_looks_is_shared_too_and_apart_from_that_of_calls(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(502, method="GET"))
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(0), budget=2)
    async with client_of(fake, retry=retry) as client:
        requests = []
        other = client.with_options(retry=RetryPolicy(attempts=3, backoff=ConstantBackoff(0)))
        for one in (other, client):
            with pytest.raises(ServerError):
                await one.ensure(1, within=timedelta(hours=1))
            requests.append(fake.count())
        with pytest.raises(ServerError):
            await client.list().first()
        requests.append(fake.count())
    assert requests == [3, 4, 7]


async def test_creates_of_both_on_one_server_never_overlap(fake: FakeVPS) -> None:
    fake.inject(Latency(2, method="POST"))
    async with client_of(fake) as client:
        other = client.with_options(timeouts=Timeouts(deadline=100))
        await asyncio.gather(*(one.create(1) for one in (client, other) * 2))
    assert fake.peak == 1
    assert fake.count("POST") == 4


async def test_a_backup_that_one_was_given_is_never_taken_for_that_of_the_other(
    fake: FakeVPS,
) -> None:
    async with client_of(fake) as client:
        other = client.with_options(retry=RetryPolicy(create_grace=1))
        await client.create(1, description="x")
        fake.inject(Drop("before", method="POST"))
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await other.create(1, description="x")
    assert caught.value.candidates == ()


async def test_waits_of_both_share_their_looks(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        other = client.with_options(timeouts=Timeouts(attempt=5))
        started = [await client.create(1), await client.create(1)]
        before = fake.count()
        await asyncio.gather(
            client.wait(started[0], backoff=EVERY_SECOND),
            other.wait(started[1], backoff=EVERY_SECOND),
        )
    assert fake.count() - before == pytest.approx(60, abs=2)


async def test_what_one_learned_of_the_lists_the_other_knows(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.ignores_filters = ["server_id"]
    async with client_of(fake) as client:
        other = client.with_options(retry=at_once(1))
        for one in (client, other):
            assert len(await one.list(server_id=1).collect()) == 2
    assert len(caplog.records) == 1


class Named(BackupsClient):
    """A client of an application's own."""

    name = ""


async def test_a_subclass_keeps_its_kind_and_what_it_added(fake: FakeVPS) -> None:
    async with Named(fake.token, base_url=fake.url) as client:
        client.name = "mine"
        other = client.with_options(retry=at_once(1))
        assert (type(other), other.name) == (Named, "mine")
        assert repr(other) == f"<BackupsClient of {fake.url}/api/v1>"


# --- Closing -------------------------------------------------------------------------------------


async def test_closing_it_does_nothing_to_the_one_that_it_came_from(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        backup = await client.create(1)
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_SECOND))
        async with client.with_options(retry=at_once(1)) as other:
            assert await other.list().first() is not None
        await other.close()
        assert await other.list().first() is not None
        assert (await waiting).is_completed


async def test_closing_the_one_that_it_came_from_ends_it(fake: FakeVPS) -> None:
    fake.page_size = 1
    client = client_of(fake)
    other = client.with_options(retry=at_once(1)).with_options(timeouts=Timeouts(attempt=5))
    backup = await other.create(1)
    waiting = asyncio.create_task(other.wait(backup))
    pages = other.list().pages()
    await anext(pages)
    await client.close()
    with pytest.raises(WaitError, match="the client was closed"):
        await waiting
    with pytest.raises(ConfigurationError, match="closed during a list"):
        await anext(pages)
    calls: list[Callable[[], object]] = [
        lambda: other.create(1),
        lambda: other.list().first(),
        lambda: other.delete(1),
        lambda: other.wait(backup),
        other.__aenter__,
    ]
    before = fake.count()
    for call in calls:
        with pytest.raises(ConfigurationError, match="closed"):
            await call()  # type: ignore[misc]
    assert fake.count() == before


async def test_closing_waits_for_its_creates_as_long_as_its_own_patience_says(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(Latency(200, method="POST"))
    client = client_of(fake, on_event=heard)
    patient = client.with_options(timeouts=Timeouts(attempt=250, deadline=300))
    call = asyncio.create_task(patient.create(1))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()
    (event,) = heard.of(CreateEnded)
    assert event.caller_cancelled
    assert event.backup is not None


async def test_its_background_jobs_end_with_the_one_that_it_came_from(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        other = client.with_options(retry=at_once(1))
        job = other.background(other.wait(await other.create(1)))
        await asyncio.sleep(0)
    assert isinstance(job.exception(), WaitError)


async def test_only_the_one_that_is_to_be_closed_warns_if_it_is_not(fake: FakeVPS) -> None:
    with listening() as noise:
        client = client_of(fake)
        other = client.with_options(retry=at_once(1))
        await other.list().first()
        del other
    assert noise.warnings == []
    with listening() as noise:
        other = client.with_options(retry=at_once(1))
        del client
    assert noise.warnings == []
    with listening() as noise:
        del other
    noise.assert_one_warning_of_ours()
    await asyncio.sleep(0.01)
