"""What the log says of retries: each at DEBUG, one WARNING a minute and cause, and no token."""

import asyncio
import logging

import pytest
from helpers_transport import CountingLimiter, at_once, closed_port

from vpsbackups_async import BackupsClient, ConstantBackoff, RetryPolicy, VPSBackupsError
from vpsbackups_async.testing import Drop, FakeVPS, Fault, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time


def records(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [
        record
        for record in caplog.records
        if record.name == "vpsbackups_async" and record.levelno == level
    ]


def fields(record: logging.LogRecord, *names: str) -> tuple[object, ...]:
    return tuple(vars(record)[name] for name in names)


async def fail(client: BackupsClient) -> None:
    with pytest.raises(VPSBackupsError):
        await client.list().first()


@pytest.mark.parametrize("limiter", [None, CountingLimiter()], ids=["own", "custom"])
async def test_each_retry_is_one_debug_record_with_its_facts(
    caplog: pytest.LogCaptureFixture, limiter: CountingLimiter | None
) -> None:
    caplog.set_level(logging.DEBUG)
    faults: list[Fault] = [RateLimit(3, times=1), ServerFault(502, times=1)]
    async with FakeVPS(servers=[1], faults=faults) as fake:
        policy = RetryPolicy(backoff=ConstantBackoff(2))
        async with BackupsClient(
            fake.token, base_url=fake.url, retry=policy, limiter=limiter
        ) as client:
            await client.list().first()
    first, second = records(caplog, logging.DEBUG)
    names = ("attempt", "kind", "status", "method", "path", "retry_after")
    assert fields(first, *names) == (1, "list", 429, "GET", "/api/v1/backups/", 3)
    assert fields(second, *names) == (2, "list", 502, "GET", "/api/v1/backups/", None)
    assert 3 - 0.1 <= vars(first)["pause"] <= 3.6
    assert vars(second)["pause"] == 2
    assert first.getMessage().startswith("retrying in 3.")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (RateLimit(0), "rate limited"),
        (ServerFault(503), "server errors"),
        (Drop(), "connection trouble"),
    ],
)
async def test_one_warning_a_minute_and_cause_with_the_count_since_the_last(
    caplog: pytest.LogCaptureFixture, fault: Fault, cause: str
) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeVPS(servers=[1], faults=[fault]) as fake:
        retry = at_once(11, budget=None)
        async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
            for _ in range(3):
                await fail(client)
            await asyncio.sleep(61)
            await fail(client)
    warnings = records(caplog, logging.WARNING)
    assert [fields(record, "cause", "count") for record in warnings] == [(cause, 1), (cause, 30)]
    assert warnings[1].getMessage().startswith(f"{cause}: 30 retries since the last such line")
    assert len(records(caplog, logging.DEBUG)) == 40


async def test_each_cause_has_its_own_minute(caplog: pytest.LogCaptureFixture) -> None:
    faults: list[Fault] = [
        RateLimit(0, times=2),
        ServerFault(500, times=2),
        Drop(times=2),
    ]
    async with (
        FakeVPS(servers=[1], faults=faults) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=at_once(9)) as client,
    ):
        await client.list().first()
    assert [vars(record)["cause"] for record in records(caplog, logging.WARNING)] == [
        "rate limited",
        "server errors",
        "connection trouble",
    ]


async def test_nothing_is_an_error_and_no_record_holds_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    token = "vps_canary_in_the_log"
    url = f"http://127.0.0.1:{closed_port()}"
    async with BackupsClient(token, base_url=url, retry=at_once(3)) as client:
        await fail(client)
    faults: list[Fault] = [RateLimit(0, times=1), ServerFault(500), Drop()]
    async with (
        FakeVPS(servers=[1], token=token, faults=faults) as fake,
        BackupsClient(token, base_url=fake.url, retry=at_once(4)) as client,
    ):
        await fail(client)
    ours = [record for record in caplog.records if record.name == "vpsbackups_async"]
    assert ours
    assert all(record.levelno < logging.ERROR for record in ours)
    assert token not in str([(vars(record), record.getMessage()) for record in ours])


async def test_what_is_not_sent_again_is_told_by_its_error_and_not_by_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        FakeVPS(servers=[1], faults=[ServerFault(503)]) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=at_once(1)) as client,
    ):
        await fail(client)
    assert [record for record in caplog.records if record.name == "vpsbackups_async"] == []
