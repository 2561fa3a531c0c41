"""OpenTelemetry sees a span per request and, where it is set up, one per call around them."""

import asyncio
import subprocess
import sys

import pytest
from helpers_spans import Spans

from vpsbackups_async import BackupsClient, NotFoundError, RetryPolicy
from vpsbackups_async._transport.telemetry import call_span, tag_attempt
from vpsbackups_async.backoff import ConstantBackoff
from vpsbackups_async.errors import TransportError
from vpsbackups_async.testing import Drop, FakeVPS, ServerFault

trace = pytest.importorskip("opentelemetry.trace")

RETRY = RetryPolicy(attempts=3, backoff=ConstantBackoff(0), create_grace=0)


# --- The spans of aiohttp's instrumentation -------------------------------------------------------


async def test_a_fleet_run_has_a_span_for_each_request_and_no_token_in_any(spans: Spans) -> None:
    async with (
        FakeVPS(servers=20, backups=1) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=RETRY) as client,
    ):
        fake.inject(ServerFault(times=3), Drop(when="before", times=2))
        outcomes = [outcome async for outcome in client.fleet(range(1, 22), concurrency=8).create()]
        assert len(outcomes) == 21
        await client.list().collect()
    requests = spans.of_requests()
    assert {201, 404, 503, None} <= {seen.status for seen in fake.requests}
    assert len(requests) == len(fake.requests)
    assert {span.name for span in requests} == {"GET", "POST"}
    assert len({span.context.span_id for span in requests}) == len(requests)
    assert fake.token not in spans.text()
    assert "Bearer" not in spans.text()


async def test_a_request_that_fails_ends_its_span_as_an_error(spans: Spans) -> None:
    async with (
        FakeVPS(servers=1, faults=[Drop(when="before")]) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=RetryPolicy(attempts=1)) as client,
    ):
        with pytest.raises(TransportError):
            await client.list().first()
    (span,) = spans.of_requests()
    assert not span.status.is_ok
    assert fake.token not in spans.text()


async def test_the_trace_of_the_caller_goes_to_the_server(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")
    async with FakeVPS(servers=1) as fake, BackupsClient(fake.token, base_url=fake.url) as client:
        with tracer.start_as_current_span("nightly") as caller:
            await asyncio.gather(client.list().first(), client.create(1))
    trace_id = f"{caller.get_span_context().trace_id:032x}"
    assert len(fake.requests) == 2
    for seen in fake.requests:
        assert trace_id in seen.headers["traceparent"]


# --- Our own span around them ---------------------------------------------------------------------


async def test_the_span_of_a_call_holds_its_requests(spans: Spans) -> None:
    async with (
        FakeVPS(servers=1, faults=[ServerFault(times=2)]) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=RETRY) as client,
    ):
        await client.list().first()
    (outer,) = spans.of_calls()
    assert outer.name == "vpsbackups list"
    assert dict(outer.attributes or {}) == {
        "http.request.method": "GET",
        "url.path": "/api/v1/backups/",
        "http.request.resend_count": 2,
        "http.response.status_code": 200,
    }
    requests = spans.of_requests()
    assert [span.parent.span_id for span in requests] == [outer.context.span_id] * 3
    resends = [dict(span.attributes or {}).get("http.request.resend_count") for span in requests]
    assert resends == [None, 1, 2]


def test_a_call_that_fails_names_the_class_and_status_and_not_the_words(spans: Spans) -> None:
    with pytest.raises(NotFoundError), call_span("delete", "DELETE", "/x/"):
        raise NotFoundError(404, "secret words")
    (span,) = spans.of_calls()
    assert span.attributes["error.type"] == "NotFoundError"
    assert span.attributes["http.response.status_code"] == 404
    assert not span.status.is_ok
    assert "secret words" not in spans.text()


async def test_a_call_that_is_cancelled_ends_its_span(spans: Spans) -> None:
    async def call() -> None:
        with call_span("create", "POST", "/x/"):
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (span,) = spans.of_calls()
    assert span.attributes["error.type"] == "CancelledError"
    assert "http.response.status_code" not in span.attributes


def test_calls_side_by_side_are_not_each_others_children(spans: Spans) -> None:
    async def call(name: str) -> None:
        with call_span(name, "GET", "/"):
            await asyncio.sleep(0)

    async def both() -> None:
        await asyncio.gather(call("list"), call("create"))

    asyncio.run(both())
    assert [span.parent for span in spans.of_calls()] == [None, None]


def test_a_request_that_is_sent_again_says_so_on_the_span_that_is_current(spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")
    for number in (1, 2):
        with tracer.start_as_current_span("GET"):
            tag_attempt(number)
    first, second = spans.all()
    assert "http.request.resend_count" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1


# --- Without it -----------------------------------------------------------------------------------


def test_a_call_has_no_span_where_the_api_is_not_loaded(
    spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    with call_span("list", "GET", "/") as call:
        call.answered(200)
        call.sent(2)
        tag_attempt(2)
    assert spans.all() == ()


NULL = """
import sys
{before}
from vpsbackups_async._transport.telemetry import call_span, tag_attempt
import vpsbackups_async
with call_span("list", "GET", "/") as call:
    call.answered(200)
    call.sent(2)
    tag_attempt(2)
    {inside}
print(*sorted(name for name in sys.modules if name.startswith("opentelemetry"))[:1])
"""


@pytest.mark.parametrize(
    ("before", "inside", "loaded"),
    [
        ("", "", ""),
        ("sys.modules['opentelemetry'] = None", "", "opentelemetry"),
        (
            "from opentelemetry import trace",
            "assert not trace.get_current_span().get_span_context().is_valid",
            "opentelemetry",
        ),
    ],
    ids=["not loaded", "not installed", "no provider set"],
)
def test_without_a_provider_nothing_happens_and_nothing_is_imported(
    before: str, inside: str, loaded: str
) -> None:
    code = NULL.format(before=before, inside=inside)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", loaded)
