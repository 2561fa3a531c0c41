"""Which failures are sent again, how often, after which pause, and within which time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import pytest
from attrs import evolve
from helpers_transport import (
    BACKUP,
    METHODS,
    PAGE,
    VERBS,
    CountingLimiter,
    RawServer,
    Resolver,
    at_once,
    certified,
    closed_port,
    good,
    http,
    session_with,
    silent_server,
)

from vpsbackups_async import (
    AdaptiveLimiter,
    ApiError,
    AuthenticationError,
    BackupsClient,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    NotFoundError,
    Observation,
    PermissionDeniedError,
    RateLimitedError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    Timeouts,
    TransportError,
    VPSBackupsError,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    RateLimit,
    Reply,
    ServerFault,
    Truncate,
)

NOTE = "not sent again: the retry budget of this client is used up"
every_verb = pytest.mark.parametrize("verb", VERBS)


@pytest.fixture
async def account() -> AsyncIterator[FakeVPS]:
    """One server with one backup, whose id is 1, as `VERBS` have it."""
    async with FakeVPS(
        servers=[1], backups=[{"id": 1, "server_id": 1, "created_at": "2025-01-01T00:00:00Z"}]
    ) as fake:
        yield fake


def sent(fake: FakeVPS, verb: str) -> int:
    """How many requests of the verb the server saw, without those that explain a refusal."""
    return fake.count(METHODS[verb])


async def failure_of(client: BackupsClient, verb: str) -> VPSBackupsError:
    with pytest.raises(VPSBackupsError) as caught:
        await VERBS[verb](client)
    error = caught.value
    if isinstance(error, CreateOutcomeUnknownError):
        assert isinstance(error.__cause__, VPSBackupsError)
    return error


# --- The table -----------------------------------------------------------------------------------

LASTING: list[Any] = [
    (Drop(), TransportError, {"list": 3, "delete": 3, "create": 1, "restore": 1}),
    (Drop("after"), TransportError, {"list": 3, "delete": 3, "create": 1, "restore": 1}),
    *(
        (fault, ServerError, {"list": 3, "delete": 3, "create": 1, "restore": 1})
        for fault in (
            ServerFault(500),
            ServerFault(502, html=True),
            ServerFault(503),
            ServerFault(503, retry_after=0),
            ServerFault(504),
        )
    ),
    (ServerFault(501), ServerError, dict.fromkeys(VERBS, 1)),
    *(
        (fault, RateLimitedError, dict.fromkeys(VERBS, 3))
        for fault in (RateLimit(0), RateLimit(0, "date"))
    ),
    pytest.param(  # the gate closes by itself
        RateLimit(None),
        RateLimitedError,
        dict.fromkeys(VERBS, 3),
        marks=pytest.mark.virtual_time,
    ),
    *(
        (Reply(status, b'{"detail": "no"}'), kind, dict.fromkeys(VERBS, 1))
        for status, kind in (
            (400, BadRequestError),
            (401, AuthenticationError),
            (403, PermissionDeniedError),
            (404, NotFoundError),
            (409, ConflictError),
            (422, BadRequestError),
        )
    ),
]


@every_verb
@pytest.mark.parametrize(("fault", "kind", "times"), LASTING)
async def test_a_lasting_failure_is_sent_as_often_as_the_table_says(
    account: FakeVPS, verb: str, fault: Fault, kind: type[VPSBackupsError], times: dict[str, int]
) -> None:
    account.inject(fault)
    async with BackupsClient(account.token, base_url=account.url, retry=at_once(3)) as client:
        error = await failure_of(client, verb)
    assert sent(account, verb) == times[verb]
    not_handled = isinstance(fault, ServerFault) and fault.status == 503
    unknown = verb == "create" and kind in {TransportError, ServerError} and not not_handled
    assert isinstance(error, CreateOutcomeUnknownError if unknown else kind)
    cause = error.__cause__ if unknown else error
    assert isinstance(cause, kind)
    assert isinstance(cause, TransportError | ApiError)
    assert cause.attempts == times[verb]
    if isinstance(cause, TransportError):
        assert cause.sent is True


@every_verb
@pytest.mark.parametrize(
    ("fault", "sent_again"),
    [
        (Drop(times=1), ("list", "delete")),
        (Drop("after", times=1), ("list", "delete")),
        (ServerFault(500, times=1), ("list", "delete")),
        (ServerFault(502, times=1, when="after"), ("list", "delete")),
        (ServerFault(503, times=1), ("list", "delete", "create")),
        (ServerFault(503, retry_after=0, times=1), ("list", "delete", "create")),
        (ServerFault(504, html=True, times=1), ("list", "delete")),
        (RateLimit(0, times=1), tuple(VERBS)),
        (RateLimit(0, "date", times=1), tuple(VERBS)),
    ],
)
async def test_a_passing_failure_is_survived_where_the_table_allows(
    account: FakeVPS, verb: str, fault: Fault, sent_again: tuple[str, ...]
) -> None:
    account.inject(fault)
    found = verb == "create" and fault.when == "after"
    async with BackupsClient(account.token, base_url=account.url, retry=at_once(3)) as client:
        if verb in sent_again or found:
            await VERBS[verb](client)
        else:
            await failure_of(client, verb)
    assert sent(account, verb) == (2 if verb in sent_again else 1)
    done = verb in sent_again or fault.when == "after"
    if verb == "delete":
        assert account.backups == []
    if verb == "create":
        assert len(account.backups) == 1 + done
    if verb == "restore":
        assert len(account.restores) == done


@every_verb
@pytest.mark.parametrize("reused", [False, True], ids=["fresh", "kept-alive"])
@pytest.mark.parametrize("attempts", [1, 3])
async def test_a_dropped_connection_costs_exactly_as_many_requests_as_there_are_attempts(
    account: FakeVPS, verb: str, reused: bool, attempts: int
) -> None:
    retry = at_once(attempts)
    async with BackupsClient(account.token, base_url=account.url, retry=retry) as client:
        if reused:
            await client.list().collect()
        account.requests.clear()
        account.inject(Drop())
        await failure_of(client, verb)
    again = verb in {"list", "delete"}
    assert sent(account, verb) == (attempts if again else 1)
    if attempts == 1:
        assert len(account.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [Drop("after", times=1), ServerFault(504, when="after", times=1), Truncate(times=1)],
)
async def test_a_delete_that_finds_its_backup_gone_after_an_unclear_attempt_is_done(
    account: FakeVPS, fault: Fault
) -> None:
    account.inject(fault)
    async with BackupsClient(account.token, base_url=account.url, retry=at_once(3)) as client:
        await client.delete(1)
        assert client.stats.retries == 1
    assert account.backups == []


@pytest.mark.parametrize("faults", [[], [RateLimit(0, times=1)]], ids=["at once", "after a 429"])
async def test_a_delete_of_what_was_never_there_is_not_found(
    account: FakeVPS, faults: list[Fault]
) -> None:
    account.inject(*faults)
    async with BackupsClient(account.token, base_url=account.url, retry=at_once(3)) as client:
        with pytest.raises(NotFoundError):
            await client.delete(999)
        await client.delete(999, missing_ok=True)


# --- Nothing was sent ----------------------------------------------------------------------------


@every_verb
async def test_where_no_connection_is_made_anything_is_sent_again(verb: str) -> None:
    limiter = CountingLimiter()
    url = f"http://127.0.0.1:{closed_port()}"
    async with BackupsClient("vps_x", base_url=url, retry=at_once(3), limiter=limiter) as client:
        error = await failure_of(client, verb)
    assert type(error) is TransportError
    assert (error.sent, error.attempts, len(limiter.acquired)) == (False, 3, 3)
    assert "nothing was sent" in str(error)


@every_verb
async def test_where_a_name_is_not_found_anything_is_sent_again(verb: str) -> None:
    resolver = Resolver(fails=True)
    async with (
        session_with(resolver) as session,
        BackupsClient(
            "vps_x", base_url="https://nowhere.invalid", session=session, retry=at_once(3)
        ) as client,
    ):
        error = await failure_of(client, verb)
    assert type(error) is TransportError
    assert (error.sent, error.attempts, resolver.lookups) == (False, 3, 3)
    assert "nowhere.invalid" in str(error)


@every_verb
async def test_a_certificate_that_is_not_trusted_is_never_tried_again(verb: str) -> None:
    server_context, _ = certified()
    limiter = CountingLimiter()
    async with RawServer(ssl_context=server_context).running() as server:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # its failed handshake
        async with BackupsClient(
            "vps_x", base_url=server.url, retry=at_once(3), limiter=limiter
        ) as client:
            error = await failure_of(client, verb)
        assert server.requests == []
    assert type(error) is TransportError
    assert (error.sent, error.attempts, len(limiter.acquired)) == (False, 1, 1)
    assert "ssl_context=" in str(error)


# --- Half an answer ------------------------------------------------------------------------------


def cut(reply: bytes) -> Callable[[bytes], bytes | None]:
    """A server whose every reply ends before its end, and the connection with it."""
    return lambda _: reply[:-3]


@pytest.mark.parametrize(
    ("verb", "reply", "times", "kind"),
    [
        ("list", http(200, PAGE), 3, TransportError),
        ("create", http(201, BACKUP), 1, CreateOutcomeUnknownError),
        ("delete", http(200, b'{"detail": "gone"}'), 1, None),
        ("restore", http(202, b'{"message": "started"}'), 1, None),
        ("list", http(404, b'{"detail": "nowhere"}'), 1, NotFoundError),
        ("delete", http(401, b'{"detail": "who?"}'), 1, AuthenticationError),
        ("create", http(429, b'{"detail": "wait"}', Retry_After="0"), 3, RateLimitedError),
        ("restore", http(500, b"<html>oops</html>"), 1, ServerError),
    ],
)
async def test_an_answer_that_breaks_off_still_counts_by_its_status(
    verb: str, reply: bytes, times: int, kind: type[VPSBackupsError] | None
) -> None:
    async with (
        RawServer(cut(reply), then_close=True).running() as server,
        BackupsClient("vps_x", base_url=server.url, retry=at_once(3)) as client,
    ):
        if kind is None:
            await VERBS[verb](client)
        else:
            assert type(await failure_of(client, verb)) is kind
    method = METHODS[verb].encode()
    assert sum(request.startswith(method) for request in server.requests) == times


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", ["attempt", "deadline"])
@pytest.mark.parametrize("verb", ["delete", "restore"])
async def test_an_accepted_request_whose_body_never_ends_is_accepted(limit: str, verb: str) -> None:
    timeouts = Timeouts(attempt=5) if limit == "attempt" else Timeouts(deadline=5)
    async with (
        RawServer(cut(http(202, b'{"message": "started"}'))).running() as server,
        BackupsClient("vps_x", base_url=server.url, timeouts=timeouts) as client,
    ):
        await VERBS[verb](client)
        assert client.stats.requests == 1


async def test_a_create_that_was_cut_off_leaves_one_backup_and_an_error_that_says_so(
    account: FakeVPS,
) -> None:
    account.inject(Truncate())
    async with BackupsClient(account.token, base_url=account.url, retry=at_once(3)) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="once")
    assert account.count("POST") == 1
    assert len(account.backups) == 2
    assert (caught.value.server_id, caught.value.description) == (1, "once")


# --- Retry-After ---------------------------------------------------------------------------------


@pytest.mark.virtual_time
@every_verb
@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize(
    ("timeouts", "policy"),
    [
        (Timeouts(deadline=10_000), RetryPolicy(max_retry_after=299)),
        (Timeouts(deadline=299), RetryPolicy(max_retry_after=10_000)),
    ],
    ids=["above max_retry_after", "past the deadline"],
)
async def test_a_pause_that_is_too_long_is_told_at_once_and_not_waited_for(
    account: FakeVPS, verb: str, form: str, timeouts: Timeouts, policy: RetryPolicy
) -> None:
    account.inject(RateLimit(300, form))
    client = BackupsClient(account.token, base_url=account.url, timeouts=timeouts, retry=policy)
    async with client:
        began = asyncio.get_running_loop().time()
        error = await failure_of(client, verb)
        assert asyncio.get_running_loop().time() - began < 1
    assert isinstance(error, RateLimitedError)
    assert error.retry_after == pytest.approx(300, abs=1)
    assert sent(account, verb) == 1


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", [RateLimit(10), ServerFault(503, retry_after=10)])
async def test_a_pause_that_was_asked_for_is_kept_and_not_much_exceeded(
    account: FakeVPS, fault: Fault
) -> None:
    account.inject(fault)
    client = BackupsClient(account.token, base_url=account.url, retry=at_once(5))
    async with client:
        await failure_of(client, "list")
    pauses = [after.at - before.at for before, after in pairwise(account.requests)]
    assert len(pauses) == 4
    assert all(10 <= pause <= 12.01 for pause in pauses), pauses
    assert len(set(pauses)) == 4


@pytest.mark.virtual_time
@pytest.mark.parametrize("text", ["nan", "inf", "-5", "1_000", "2814, 2", "soon", "٣"])
async def test_a_retry_after_without_sense_leaves_the_pause_to_the_backoff(
    account: FakeVPS, text: str
) -> None:
    account.inject(Reply(429, b"{}", {"Retry-After": text}, times=1))
    policy = RetryPolicy(backoff=ConstantBackoff(7))
    async with BackupsClient(account.token, base_url=account.url, retry=policy) as client:
        await client.list().collect()
    assert account.requests[1].at - account.requests[0].at == pytest.approx(7, abs=0.1)


@pytest.mark.virtual_time
async def test_throttled_calls_do_not_all_come_back_together(account: FakeVPS) -> None:
    account.inject(RateLimit(10, times=100))
    limiter = AdaptiveLimiter(100)
    async with BackupsClient(account.token, base_url=account.url, limiter=limiter) as client:
        await asyncio.gather(*(client.list().first() for _ in range(100)))
        assert client.stats.rate_limited == 100
    comebacks = {round(seen.at, 3) for seen in account.requests[100:]}
    assert len(comebacks) > 90


# --- The budget ----------------------------------------------------------------------------------


async def test_calls_cause_no_more_requests_than_their_number_and_the_budget(
    account: FakeVPS,
) -> None:
    account.inject(ServerFault(503))
    retry = at_once(5, budget=25)
    async with BackupsClient(account.token, base_url=account.url, retry=retry) as client:
        errors = await asyncio.gather(
            *(client.list().first() for _ in range(100)), return_exceptions=True
        )
        assert client.stats.retries == 25
    assert len(account.requests) == 125
    assert all(isinstance(error, ServerError) for error in errors)
    # Twenty-five retries are six calls' four, and one more; all the others say why they got none.
    noted = [error for error in errors if getattr(error, "__notes__", None) == [NOTE]]
    assert 93 <= len(noted) <= 100
    assert [error for error in errors if getattr(error, "retries_refused", None)] == noted
    assert len(errors) == 100


async def test_a_success_earns_a_tenth_of_a_retry_back(account: FakeVPS) -> None:
    retry = at_once(2, budget=1)
    async with BackupsClient(account.token, base_url=account.url, retry=retry) as client:
        account.inject(ServerFault(503, times=1))
        await client.list().first()
        account.inject(ServerFault(503, times=1))
        with pytest.raises(ServerError):
            await client.list().first()
        for _ in range(9):
            await client.list().first()
        account.inject(ServerFault(503, times=1))
        await client.list().first()


# --- Time ----------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_queue_burns_no_timeout(account: FakeVPS) -> None:
    account.inject(Latency(0.2))
    client = BackupsClient(
        account.token,
        base_url=account.url,
        timeouts=Timeouts(attempt=1.0),
        limiter=AdaptiveLimiter(10),
        retry=at_once(1),
    )
    async with client:
        await asyncio.gather(*(client.list().first() for _ in range(200)))
        assert client.stats.requests == 200
    assert account.peak == 10


@pytest.mark.virtual_time
async def test_an_attempt_that_takes_too_long_is_tried_again_and_told(account: FakeVPS) -> None:
    account.inject(Latency(3600))
    timeouts = Timeouts(attempt=4)
    loop = asyncio.get_running_loop()
    client = BackupsClient(account.token, base_url=account.url, timeouts=timeouts, retry=at_once(3))
    async with client:
        began = loop.time()
        with pytest.raises(RequestTimeoutError, match=r"within 4 s .*Timeouts\.attempt") as caught:
            await client.list().first()
        assert loop.time() - began == pytest.approx(12, abs=0.1)
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.sent, caught.value.attempts) == (True, 3)


@pytest.mark.virtual_time
@every_verb
async def test_a_connection_that_takes_too_long_was_not_sent_and_is_tried_again(verb: str) -> None:
    loop = asyncio.get_running_loop()
    async with silent_server() as port:
        client = BackupsClient(
            "vps_x",
            base_url=f"https://127.0.0.1:{port}",
            timeouts=Timeouts(connect=2),
            retry=at_once(3),
        )
        async with client:
            began = loop.time()
            error = await failure_of(client, verb)
            assert loop.time() - began == pytest.approx(6, abs=0.1)
    assert isinstance(error, RequestTimeoutError)
    assert (error.sent, error.attempts) == (False, 3)
    assert "Timeouts.connect" in str(error)
    assert "attempt=" not in str(error)


@pytest.mark.virtual_time
@every_verb
@pytest.mark.parametrize("where", ["in the queue", "connecting", "resolving", "sent"])
async def test_the_deadline_says_whether_anything_was_sent(
    account: FakeVPS, verb: str, where: str
) -> None:
    loop = asyncio.get_running_loop()
    limiter = AdaptiveLimiter(1)
    account.inject(Latency(3600))
    async with AsyncExitStack() as stack:
        url, session = account.url, None
        if where == "in the queue":
            await limiter.acquire()
        if where == "connecting":
            url = f"https://127.0.0.1:{await stack.enter_async_context(silent_server())}"
        if where == "resolving":
            session = await stack.enter_async_context(session_with(Resolver(hangs=True)))
            url = "https://nowhere.invalid"
        client = BackupsClient(
            account.token,
            base_url=url,
            session=session,
            limiter=limiter,
            timeouts=Timeouts(connect=60, deadline=5),
        )
        async with client:
            began = loop.time()
            error = await failure_of(client, verb)
            assert loop.time() - began == pytest.approx(5, abs=0.01)
    was_sent = where == "sent"
    if verb == "create" and was_sent:
        assert isinstance(error, CreateOutcomeUnknownError)
        assert isinstance(error.__cause__, VPSBackupsError)
        error = error.__cause__
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)
    assert error.sent is was_sent
    assert error.__cause__ is None
    assert error.attempts == 1
    assert limiter.running == (where == "in the queue")


@pytest.mark.virtual_time
async def test_the_deadline_covers_attempts_and_pauses_together(account: FakeVPS) -> None:
    account.inject(Latency(1), ServerFault(500))
    policy = RetryPolicy(attempts=100, backoff=ConstantBackoff(2))
    timeouts = Timeouts(deadline=10.5)
    loop = asyncio.get_running_loop()
    client = BackupsClient(account.token, base_url=account.url, timeouts=timeouts, retry=policy)
    async with client:
        began = loop.time()
        with pytest.raises(DeadlineExceededError, match="leaves no time") as caught:
            await client.list().first()
        assert loop.time() - began <= 10.5
    # One second each and two between: the fourth ends at 10, and two more would be too late.
    assert len(account.requests) == caught.value.attempts == 4
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.sent is True


@pytest.mark.virtual_time
async def test_the_deadline_in_a_later_attempt_tells_the_failure_before_it(
    account: FakeVPS,
) -> None:
    account.inject(ServerFault(500, times=1), Latency(3600, after=1))
    policy = RetryPolicy(backoff=ConstantBackoff(1))
    timeouts = Timeouts(deadline=10)
    client = BackupsClient(account.token, base_url=account.url, timeouts=timeouts, retry=policy)
    async with client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceededError, match="passed") as caught:
            await client.list().first()
        assert asyncio.get_running_loop().time() - began == pytest.approx(10, abs=0.01)
    assert isinstance(caught.value.__cause__, ServerError)
    assert caught.value.attempts == 2


async def test_a_client_that_is_closed_meanwhile_sends_nothing_more(account: FakeVPS) -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    client = BackupsClient(account.token, base_url=account.url, limiter=limiter)
    call = asyncio.create_task(client.delete(1))
    await asyncio.sleep(0)
    await client.close()
    limiter.observe(Observation("list"))  # the slot that the test took
    with pytest.raises(ConfigurationError, match="closed"):
        await call
    assert account.requests == []
    assert limiter.running == 0


@pytest.mark.parametrize(
    ("end", "kind"), [("refused", TransportError), ("forbidden", PermissionDeniedError)]
)
@pytest.mark.parametrize("first", [Drop(method="DELETE"), RateLimit(0, method="DELETE")])
async def test_a_later_attempt_that_is_refused_does_not_hide_that_an_earlier_one_may_be_done(
    first: Fault, end: str, kind: type[VPSBackupsError], account: FakeVPS
) -> None:
    account.inject(evolve(first, times=1), ServerFault(403, method="DELETE"))

    class Gate(CountingLimiter):
        async def acquire(self, cost: int = 1, kind: str = "list") -> None:
            await super().acquire(cost, kind)
            if end == "refused" and len(self.acquired) > 1:
                await account.stop()

    policy = at_once(2)
    async with BackupsClient(
        account.token, base_url=account.url, retry=policy, limiter=Gate()
    ) as client:
        with pytest.raises(kind) as caught:
            await client.delete(1)
    doubtful = isinstance(first, Drop)
    assert caught.value.in_doubt == doubtful
    assert getattr(caught.value, "sent", doubtful) == doubtful
    words = "it may have reached the server", "an earlier attempt may have been carried out"
    assert any(said in caught.value.describe() for said in words) == doubtful


async def test_a_healthy_server_needs_one_request_a_call() -> None:
    async with (
        RawServer(good).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        for verb in VERBS.values():
            await verb(client)
        assert (client.stats.requests, client.stats.retries) == (4, 0)
    assert len(server.requests) == 4
    assert server.connections == 3  # the create and the restore have one of their own
