"""Where the application has set a meter provider, OpenTelemetry gets the metrics of all clients."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from helpers_metrics import Metrics
from helpers_secrets import CANARY, holds
from yarl import URL

from vpsbackups_async import (
    AdaptiveLimiter,
    BackupsClient,
    NotFoundError,
    RetryPolicy,
    Timeouts,
)
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.testing import Drop, FakeVPS, Latency, Oversized, RateLimit, ServerFault

pytestmark = pytest.mark.virtual_time

DURATION = "http.client.request.duration"
HELD = "vpsbackups.client.limiter.wait.duration"
RETRIES = "vpsbackups.client.retries"
REFUSED = "vpsbackups.client.rate_limited"
WAITS = "vpsbackups.client.waits"
LIMIT = "vpsbackups.client.limiter.limit"


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Metrics:
    return Metrics(monkeypatch)


def client_of(fake: FakeVPS, attempts: int = 3, **options: Any) -> BackupsClient:
    retry = RetryPolicy(attempts=attempts, backoff=ConstantBackoff(1))
    return BackupsClient(fake.token, base_url=fake.url, retry=retry, **options)


def server_of(fake: FakeVPS) -> dict[str, object]:
    return {"server.address": "127.0.0.1", "server.port": URL(fake.url).port}


async def test_the_duration_of_a_request_has_the_attributes_and_buckets_of_the_convention(
    metrics: Metrics, fake: FakeVPS
) -> None:
    fake.inject(Latency(3))
    async with client_of(fake) as client:
        await client.list().first()
    metric = metrics.all()[DURATION]
    (point,) = metric.data.data_points
    assert metric.unit == "s"
    assert (point.count, point.sum) == (1, pytest.approx(3, abs=0.01))
    assert dict(point.attributes) == {
        **server_of(fake),
        "http.request.method": "GET",
        "http.response.status_code": 200,
    }
    assert list(point.explicit_bounds) == [
        *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
    ]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ServerFault(), {"http.response.status_code": 503, "error.type": "503"}),
        (Drop(when="before"), {"error.type": "connection"}),
        (Latency(60), {"error.type": "timeout"}),
        (Oversized(), {"http.response.status_code": 200, "error.type": "too_large"}),
    ],
    ids=["a status", "a cut", "a timeout", "too large"],
)
async def test_a_request_that_failed_says_of_what_type(
    metrics: Metrics, fake: FakeVPS, fault: Any, expected: dict[str, object]
) -> None:
    fake.inject(fault)
    async with client_of(fake, 1, max_response_bytes=10_000) as client:
        await asyncio.gather(client.list().first(), return_exceptions=True)
    (point,) = metrics.points(DURATION)
    assert dict(point.attributes) == {
        **server_of(fake),
        "http.request.method": "GET",
        **expected,
    }


async def test_each_attempt_is_a_request_of_its_own(metrics: Metrics, fake: FakeVPS) -> None:
    fake.inject(ServerFault(times=2))
    async with client_of(fake) as client:
        await client.list().first()
    counts = {
        point.attributes["http.response.status_code"]: point.count
        for point in metrics.points(DURATION)
    }
    assert counts == {503: 2, 200: 1}


async def test_retries_are_counted_by_kind_and_cause(metrics: Metrics, fake: FakeVPS) -> None:
    fake.inject(ServerFault(times=2), Drop(method="DELETE", when="before", times=1))
    async with client_of(fake) as client:
        first = await client.list().first()
        assert first is not None
        await client.delete(first.id)
    found = {
        (point.attributes["vpsbackups.request.kind"], point.attributes["error.type"]): point.value
        for point in metrics.points(RETRIES)
    }
    assert found == {("list", "503"): 2, ("delete", "TransportError"): 1}


async def test_answers_with_status_429_are_counted(metrics: Metrics, fake: FakeVPS) -> None:
    fake.inject(RateLimit(2, times=2))
    async with client_of(fake) as client:
        await client.list().first()
    (point,) = metrics.points(REFUSED)
    assert point.value == 2
    assert dict(point.attributes) == {**server_of(fake), "vpsbackups.request.kind": "list"}


async def test_the_time_that_calls_wait_for_the_limiter_is_recorded(
    metrics: Metrics, fake: FakeVPS
) -> None:
    fake.inject(Latency(3))
    async with client_of(fake, limiter=AdaptiveLimiter(1)) as client:
        await asyncio.gather(*(client.list(server_id=1).first() for _ in range(3)))
    (point,) = metrics.points(HELD)
    assert (point.count, point.sum) == (2, pytest.approx(3 + 6, abs=0.05))


@pytest.mark.fake_vps(servers=5, backup_seconds=100)
async def test_the_waits_that_run_are_counted_until_they_end(
    metrics: Metrics, fake: FakeVPS
) -> None:
    async with client_of(fake) as client:
        made = [await client.create(server) for server in range(1, 6)]
        waits = asyncio.gather(*map(client.wait, made))
        await asyncio.sleep(10)
        assert [point.value for point in metrics.points(WAITS)] == [5]
        await waits
        assert [point.value for point in metrics.points(WAITS)] == [0]


async def test_the_limit_is_that_of_now_and_added_up_over_the_limiters_of_a_server(
    metrics: Metrics, fake: FakeVPS
) -> None:
    shared = AdaptiveLimiter(8)
    fake.inject(RateLimit(2, times=1))
    async with (
        client_of(fake, limiter=shared) as one,
        client_of(fake, limiter=shared) as two,
        client_of(fake, limiter=AdaptiveLimiter(3)) as three,
    ):
        await one.list().first()
        await two.list().first()
        await three.list().first()
        (point,) = metrics.points(LIMIT)
        assert point.value == shared.limit + 3 < 11
        assert dict(point.attributes) == server_of(fake)


async def test_a_client_that_is_closed_has_no_limit_any_more(
    metrics: Metrics, fake: FakeVPS
) -> None:
    async with client_of(fake) as client:
        await client.list().first()
        assert metrics.points(LIMIT)
    assert metrics.points(LIMIT) == []


class Broken(AdaptiveLimiter):
    @property
    def limit(self) -> int:
        raise RuntimeError("the quota service is away")


async def test_a_limiter_that_fails_to_tell_its_limit_hides_no_other_limit(
    metrics: Metrics, fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        client_of(fake, limiter=Broken()) as broken,
        client_of(fake, limiter=AdaptiveLimiter(3)) as other,
    ):
        await broken.list().first()
        await other.list().first()
        for _ in range(2):
            assert [point.value for point in metrics.points(LIMIT)] == [3]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told == ["limit of the limiter failed; calls go on"]


async def test_metrics_and_events_are_told_side_by_side(metrics: Metrics, fake: FakeVPS) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the callback is broken")

    async with client_of(fake, on_event=fail) as client:
        await client.with_options(timeouts=Timeouts(attempt=9)).list().first()
    assert [point.count for point in metrics.points(DURATION)] == [1]


async def test_no_metric_holds_the_token(metrics: Metrics) -> None:
    async with FakeVPS(servers=1, token=CANARY) as fake:
        fake.inject(ServerFault(times=1), RateLimit(1, times=1), Drop(when="before", times=1))
        async with client_of(fake, 5) as client:
            await client.list().first()
            with pytest.raises(NotFoundError):
                await client.delete(404)
    assert RETRIES in metrics.text()
    assert not holds(metrics.text())


async def test_a_call_that_fails_without_being_sent_records_no_request(
    metrics: Metrics, fake: FakeVPS
) -> None:
    fake.inject(Latency(8))
    async with client_of(fake, limiter=AdaptiveLimiter(1)) as client:
        first = asyncio.create_task(client.list().first())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await client.with_options(timeouts=Timeouts(deadline=5)).list().first()
        await first
    assert sum(point.count for point in metrics.points(DURATION)) == 1


# --- Without it ----------------------------------------------------------------------------------


NULL = """
import sys
{before}
import asyncio
from vpsbackups_async import BackupsClient
from vpsbackups_async.testing import FakeVPS

async def main():
    async with FakeVPS(servers=1) as fake, BackupsClient(fake.token, base_url=fake.url) as client:
        await client.list().first()
        assert client._session.monitor.emit is None

asyncio.run(main())
print(*sorted(name for name in sys.modules if name.startswith("opentelemetry"))[:1])
"""


@pytest.mark.parametrize(
    ("before", "loaded"),
    [
        ("", ""),
        ("sys.modules['opentelemetry'] = None", "opentelemetry"),
        ("from opentelemetry import metrics", "opentelemetry"),
    ],
    ids=["not loaded", "not installed", "no provider set"],
)
def test_without_a_meter_provider_nobody_listens_and_nothing_is_imported(
    before: str, loaded: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", NULL.format(before=before)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", loaded)
