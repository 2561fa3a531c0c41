"""The events of a client about calls, the limiter and waits."""

import asyncio
import copy
import gc
import json
import pickle
from contextlib import aclosing
from functools import partial
from typing import Any

import aiohttp
import pytest
from helpers_events import Heard
from helpers_pruning import JOB, add_nights
from helpers_secrets import CANARY, assert_clean

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    RateLimitedError,
    Retention,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    VPSBackupsError,
    WaitTimeoutError,
    events,
)
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.events import (
    AttemptEnded,
    CallHeld,
    CreateEnded,
    Event,
    GateClosed,
    GateOpened,
    RetryScheduled,
    WaitPolled,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Latency,
    Oversized,
    RateLimit,
    Reply,
    ServerFault,
)

pytestmark = pytest.mark.virtual_time

LIST = "/api/v1/backups/"


def client_of(fake: FakeVPS, heard: Any, attempts: int = 3, **options: Any) -> BackupsClient:
    options.setdefault("retry", RetryPolicy(attempts=attempts, backoff=ConstantBackoff(2)))
    return BackupsClient(fake.token, base_url=fake.url, on_event=heard, **options)


# --- Attempts and retries ------------------------------------------------------------------------


async def test_each_attempt_of_a_call_is_told_with_its_status_time_and_size(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(ServerFault(times=1), Latency(3))
    async with client_of(fake, heard) as client:
        await client.list().first()
        received = client.stats.bytes_received
    first, second = heard.of(AttemptEnded)
    assert first == AttemptEnded("list", "GET", LIST, 1, 503, None, first.seconds, first.size)
    assert second == AttemptEnded("list", "GET", LIST, 2, 200, None, second.seconds, second.size)
    assert second.seconds == pytest.approx(3, abs=0.01)
    assert first.size + second.size == received


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (Drop(when="before"), None, "connection"),
        (Latency(60), None, "timeout"),
        (Oversized(), 200, "too large"),
        (Reply(400, b"{}"), 400, None),
    ],
    ids=["cut", "slow", "large", "refused"],
)
async def test_an_attempt_without_a_whole_answer_tells_why(
    fake: FakeVPS, fault: Any, status: int | None, error: str | None
) -> None:
    heard = Heard()
    fake.inject(fault)
    async with client_of(fake, heard, 1, max_response_bytes=10_000) as client:
        with pytest.raises(VPSBackupsError):
            await client.list().first()
    (event,) = heard.of(AttemptEnded)
    assert (event.status, event.error) == (status, error)


async def test_an_attempt_whose_caller_was_cancelled_is_told_so(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Latency(5))
    async with client_of(fake, heard) as client:
        call = asyncio.create_task(client.list().first())
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    (event,) = heard.of(AttemptEnded)
    assert (event.status, event.error) == (None, "cancelled")


async def test_a_request_that_was_stopped_before_it_was_sent_is_no_attempt(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Latency(5))
    client = client_of(fake, heard, limiter=AdaptiveLimiter(1))
    calls = [asyncio.create_task(client.create(server)) for server in (1, 2)]
    await asyncio.sleep(1)
    await client.close()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(end, VPSBackupsError) for end in ends] == [False, True]
    assert [event.status for event in heard.of(AttemptEnded)] == [201]


async def test_a_retry_is_told_with_the_error_before_it_and_its_pause(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(ServerFault(times=1))
    async with client_of(fake, heard) as client:
        await client.list().first()
    (event,) = heard.of(RetryScheduled)
    assert event == RetryScheduled("list", "GET", LIST, 1, event.error, 2)
    assert getattr(event.error, "status", None) == 503


@pytest.mark.parametrize(
    ("fault", "policy", "kind"),
    [
        (ServerFault(method="POST", times=2), {}, ServerError),
        (Drop("before", method="POST", times=2), {"create_again_after": 1}, TransportError),
    ],
    ids=["after 503s", "after cuts"],
)
async def test_a_create_that_is_sent_again_is_told_logged_and_counted_as_a_retry(
    fake: FakeVPS,
    caplog: pytest.LogCaptureFixture,
    fault: Any,
    policy: dict[str, Any],
    kind: type[Exception],
) -> None:
    heard = Heard()
    fake.inject(fault)
    retry = RetryPolicy(attempts=3, backoff=ConstantBackoff(2), create_grace=1, **policy)
    async with client_of(fake, heard, retry=retry) as client:
        await client.create(1)
        assert client.stats.retries == 2
    posts = [event for event in heard.of(AttemptEnded) if event.method == "POST"]
    assert [event.number for event in posts] == [1, 2, 3]
    retries = heard.of(RetryScheduled)
    assert [(event.kind, event.number, event.pause) for event in retries] == [
        ("create", 1, 0),
        ("create", 2, 0),
    ]
    assert all(type(event.error) is kind for event in retries)
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert ["1 retries since the last" in record.getMessage() for record in told] == [True]


async def test_the_moments_of_a_call_are_told_in_their_order(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(5, times=1))
    async with client_of(fake, heard) as client:
        await client.list().first()
    assert [type(event) for event in heard.all] == [
        AttemptEnded,
        GateClosed,
        RetryScheduled,
        GateOpened,
        CallHeld,
        AttemptEnded,
    ]


# --- The limiter ---------------------------------------------------------------------------------


async def test_a_call_that_waited_for_a_place_tells_for_how_long(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Latency(3))
    async with client_of(fake, heard, limiter=AdaptiveLimiter(1)) as client:
        await asyncio.gather(client.list().first(), client.list(server_id=1).first())
    (event,) = heard.of(CallHeld)
    assert event == CallHeld("list", "GET", LIST, event.seconds)
    assert event.seconds == pytest.approx(3, abs=0.01)


async def test_a_call_that_gave_up_waiting_tells_for_how_long(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Latency(8))
    timeouts = Timeouts(deadline=5)
    async with client_of(fake, heard, limiter=AdaptiveLimiter(1)) as client:
        first = asyncio.create_task(client.list().first())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await client.with_options(timeouts=timeouts).list().first()
        await first
    (event,) = heard.of(CallHeld)
    assert event.seconds == pytest.approx(5, abs=0.01)


async def test_a_call_that_waited_for_another_clients_connection_tells_for_how_long(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(Latency(3))
    connector = aiohttp.TCPConnector(limit=1)
    async with (
        client_of(fake, heard, connector=connector) as one,
        client_of(fake, heard, connector=connector) as two,
    ):
        await asyncio.gather(one.list().first(), two.list().first())
    await connector.close()
    (event,) = heard.of(CallHeld)
    assert event.seconds == pytest.approx(3, abs=0.01)


async def test_a_call_that_need_not_wait_tells_of_no_wait(fake: FakeVPS) -> None:
    class Own:
        async def acquire(self, cost: int = 1, kind: str = "list") -> None:
            await asyncio.sleep(0)

        def observe(self, outcome: object) -> None:
            pass

    heard = Heard()
    async with client_of(fake, heard, limiter=Own()) as client:
        await client.list().first()
    assert heard.of(CallHeld) == []


async def test_a_429_tells_that_the_gate_closed_and_later_that_it_opened(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(7, times=1))
    async with client_of(fake, heard, 1) as client:
        with pytest.raises(RateLimitedError):
            await client.list().first()
        assert heard.of(GateClosed) == [GateClosed(None, pytest.approx(7, abs=0.01), 429)]
        await asyncio.sleep(6)
        assert heard.of(GateOpened) == []
        await asyncio.sleep(2)
    assert heard.of(GateOpened) == [GateOpened(None, pytest.approx(7, abs=0.01))]


async def test_refusals_of_the_same_moment_tell_of_one_gate(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(7, times=20), Latency(lambda seen: 0.01 * len(fake.requests)))
    async with client_of(fake, heard) as client:
        await asyncio.gather(*(client.list(server_id=1).first() for _ in range(20)))
    assert client.stats.rate_limited == 20
    assert len(heard.of(GateClosed)) == len(heard.of(GateOpened)) == 1


async def test_a_refusal_that_asks_for_longer_is_told(fake: FakeVPS) -> None:
    heard = Heard()
    delays = iter([1.0, 1.1, 1.2])
    fake.inject(RateLimit(5, times=1), RateLimit(30, times=2), Latency(lambda _: next(delays, 0)))
    async with client_of(fake, heard) as client:
        await asyncio.gather(*(client.list(server_id=1).first() for _ in range(3)))
    closed = [round(event.seconds) for event in heard.of(GateClosed)]
    assert closed == [5, 30]
    assert [round(event.seconds) for event in heard.of(GateOpened)] == [30]


async def test_a_kind_that_alone_is_refused_has_a_gate_of_its_own(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(40, method="DELETE", times=2))
    ids = [held["id"] for held in fake.backups][:1]
    retry = RetryPolicy(attempts=5, backoff=ConstantBackoff(0))
    async with client_of(fake, heard, retry=retry) as client:
        delete = asyncio.create_task(client.delete(ids[0]))
        await asyncio.sleep(1)
        await client.list().first()
        await delete
        await asyncio.sleep(1)
    assert [(event.kind, event.status) for event in heard.of(GateClosed)] == [
        (None, 429),
        ("delete", 429),
    ]
    assert [event.kind for event in heard.of(GateOpened)] == [None, "delete"]


async def test_a_gate_that_turns_out_to_be_of_one_kind_opens_for_the_others(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(RateLimit(5, method="DELETE", times=1), RateLimit(40, method="DELETE", times=1))
    fake.inject(Latency(2, method="GET"))
    held = fake.backups[0]["id"]
    async with client_of(fake, heard) as client:
        delete = asyncio.create_task(client.delete(held))
        await asyncio.sleep(1)
        await client.list().first()
        about = partial(pytest.approx, abs=1.1)  # calls come back spread over a second
        assert heard.of(GateClosed) == [
            GateClosed(None, about(5), 429),
            GateClosed(None, about(40), 429),
            GateClosed("delete", about(38), 429),
        ]
        assert heard.of(GateOpened) == [GateOpened(None, about(5)), GateOpened(None, about(2))]
        await delete
    assert heard.of(GateOpened)[2:] == [GateOpened("delete", about(38))]


async def test_a_busy_server_closes_the_gate_by_its_503s(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(ServerFault(times=12))
    async with client_of(fake, heard, 9) as client:
        await asyncio.gather(*(client.list(server_id=1).first() for _ in range(8)))
    assert {event.status for event in heard.of(GateClosed)} == {503}


async def test_an_answer_after_the_end_of_a_client_tells_of_no_gate(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(7, times=1), Latency(3))
    async with aiohttp.ClientSession() as session:
        client = client_of(fake, heard, 1, session=session)
        call = asyncio.create_task(client.delete(1))
        await asyncio.sleep(1)
        await client.close()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(20)
    (event,) = heard.all
    assert isinstance(event, AttemptEnded)
    assert event.status == 429


async def test_a_closed_client_tells_of_no_gate_any_more(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(RateLimit(7, times=1), RateLimit(9, times=1))
    async with client_of(fake, heard, 1) as client:
        calls = (client.list(server_id=1).first() for _ in range(2))
        await asyncio.gather(*calls, return_exceptions=True)
    assert len(heard.of(GateClosed)) == 2
    await asyncio.sleep(20)
    assert heard.of(GateOpened) == []


# --- Waits ---------------------------------------------------------------------------------------


@pytest.mark.fake_vps(servers=3, backup_seconds=25)
async def test_each_look_of_a_wait_tells_what_it_showed(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        backup = await client.create(2)
        await client.wait(backup, backoff=ConstantBackoff(10))
    looks = heard.of(WaitPolled)
    statuses = [str(status) for look in looks for _, status in look.found]
    assert statuses == ["in_progress", "in_progress", "completed"]
    assert {(look.server_id, look.requests, look.error) for look in looks} <= {
        (2, 1, None),
        (None, 1, None),
    }
    assert {key for look in looks for key, _ in look.found} == {backup.id}


@pytest.mark.fake_vps(servers=30, backup_seconds=25)
async def test_a_look_for_many_waits_is_told_once(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        made = [await client.create(server) for server in range(1, 31)]
        await asyncio.gather(*(client.wait(one, backoff=ConstantBackoff(60)) for one in made))
    (look,) = heard.of(WaitPolled)
    assert look.server_id is None
    assert sorted(key for key, _ in look.found) == sorted(one.id for one in made)


@pytest.mark.fake_vps(servers=3, backup_seconds=1_000)
async def test_a_look_that_failed_tells_its_error(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        backup = await client.create(2)
        fake.inject(ServerFault(method="GET"))
        with pytest.raises(WaitTimeoutError):
            await client.wait(backup, backoff=ConstantBackoff(10), timeout=60)
    looks = heard.of(WaitPolled)
    assert looks
    assert {(look.requests, look.found) for look in looks} == {(0, ())}
    assert all(isinstance(look.error, VPSBackupsError) for look in looks)


# --- All of them ---------------------------------------------------------------------------------


def kinds_of_events() -> list[type[Event]]:
    named = [getattr(events, name) for name in events.__all__]
    return [one for one in named if isinstance(one, type) and issubclass(one, Event)]


def odd_page(fake: FakeVPS, backup_id: int) -> dict[str, Any]:
    """A list with one backup, whose status is the token."""
    (shown,) = (one for one in fake.backups if one["id"] == backup_id)
    results = [{**shown, "status": fake.token}]
    return {"count": 1, "next": None, "previous": None, "results": results}


async def everything(fake: FakeVPS, heard: Any) -> None:
    """A life of a client in which each kind of event is told, with a token in the server's texts.

    The token is part of error messages and of an unknown status.
    """
    words = f'{{"detail": "no: {fake.token}"}}'.encode()
    fake.clear_faults()
    fake.inject(RateLimit(3, times=1), Drop(method="POST", when="after", times=1))
    async with client_of(fake, heard) as client:
        await client.list().first()
        backup = await client.create(1, marker=True)
        fake.inject(Reply(500, words, times=2))
        await client.list().first()
        fake.inject(Reply(404, words, method="DELETE"))
        with pytest.raises(VPSBackupsError):
            await client.delete(backup.id)
        page = json.dumps(odd_page(fake, backup.id)).encode()
        fake.inject(Reply(200, page, method="GET"))
        with pytest.raises(WaitTimeoutError):
            await client.wait(backup, timeout=30, backoff=ConstantBackoff(10))
        fake.clear_faults()
        await client.wait(backup)
        add_nights(fake, 2, 2)
        plan = await client.plan_prune([2], Retention(last=1, job=JOB))
        fake.inject(Reply(403, words, method="DELETE"))
        async with aclosing(client.apply(plan, max_fraction=1)) as outcomes:
            assert not any([outcome.ok async for outcome in outcomes])


async def test_every_kind_of_event_is_told_and_the_token_is_in_none() -> None:
    heard = Heard()
    async with FakeVPS(servers=2, backups=2, token=CANARY) as fake:
        await everything(fake, heard)
    assert {type(event) for event in heard.all} == {*kinds_of_events()} - {Event}
    assert_clean(heard.all)


async def test_every_event_can_be_copied_pickled_and_compared(fake: FakeVPS) -> None:
    heard = Heard()
    await everything(fake, heard)
    for event in heard.all:
        assert copy.copy(event) == event
        assert repr(pickle.loads(pickle.dumps(event))) == repr(event)


@pytest.mark.parametrize("raised", [RuntimeError("broken"), asyncio.CancelledError()], ids=repr)
async def test_a_callback_that_fails_at_every_event_changes_nothing(
    fake: FakeVPS, raised: BaseException
) -> None:
    def fail(_: Event) -> None:
        raise raised

    await everything(fake, fail)


async def test_no_event_is_made_while_nobody_listens(
    fake: FakeVPS, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []
    for kind in kinds_of_events():
        own = kind.__init__

        def count(self: object, *values: Any, _own: Any = own, **named: Any) -> None:
            made.append(self)
            _own(self, *values, **named)

        monkeypatch.setattr(kind, "__init__", count)
    await everything(fake, None)
    assert made == []
    await everything(fake, made.append)
    assert made


async def test_a_client_made_with_other_options_tells_the_same_callback(fake: FakeVPS) -> None:
    heard = Heard()
    async with client_of(fake, heard) as client:
        await client.with_options(timeouts=Timeouts(attempt=9)).create(1)
    assert [type(event) for event in heard.all] == [AttemptEnded, CreateEnded]


async def test_a_client_that_is_gone_leaves_nothing_behind_that_tells_of_its_gates(
    fake: FakeVPS,
) -> None:
    heard = Heard()
    fake.inject(RateLimit(7, times=1))
    client = client_of(fake, heard, 1)
    with pytest.raises(RateLimitedError):
        await client.list().first()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del client
    gc.collect()
    await asyncio.sleep(10)
    assert heard.of(GateClosed)
    assert heard.of(GateOpened) == []
