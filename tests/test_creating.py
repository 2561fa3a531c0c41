"""A create never makes a second backup, and never leaves one that nobody knows of."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve

from vpsbackups_async import (
    AdaptiveLimiter,
    AuthenticationError,
    Backup,
    BackupInProgressError,
    BackupsClient,
    BackupStatus,
    BackupType,
    ConfigurationError,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    ManualBackupLimitError,
    RetryPolicy,
    ServerError,
    ServerRef,
    Timeouts,
    TransportError,
    fan_out,
)
from vpsbackups_async._creating.settling import Look, UnansweredCreate, new_since
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    NotJSON,
    RateLimit,
    ServerFault,
    Truncate,
)

pytestmark = pytest.mark.fake_vps(backups=0, backup_seconds=600)
RETRY = RetryPolicy(attempts=5, backoff=ConstantBackoff(0.1))


def client_of(fake: FakeVPS, url: str | None = None, **options: Any) -> BackupsClient:
    options.setdefault("retry", RETRY)
    return BackupsClient(fake.token, base_url=url or fake.url, **options)


# --- Chaos ---------------------------------------------------------------------------------------


class Proxy:
    """Passes requests on, but breaks some creates off before or after they reach the server."""

    def __init__(self, target: str, seed: int, *, with_504: bool) -> None:
        self._host, _, port = target.removeprefix("http://").partition(":")
        self._port = int(port)
        self._random = random.Random(seed)
        self._with_504 = with_504
        self.fates: Counter[str] = Counter()
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                while await self._pass_on(reader, writer):
                    pass
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.transport.abort()
                tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _message(reader)
        fate = "fine"
        if request.startswith(b"POST"):
            fate = self._random.choices(["before", "after", "fine"], [3, 3, 4])[0]
            self.fates[fate] += 1
        reply = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\n\r\n"
        if fate != "before":
            upstream, to_upstream = await asyncio.open_connection(self._host, self._port)
            to_upstream.write(request)
            answer = await _message(upstream)
            to_upstream.transport.abort()
            if fate == "fine":
                reply = answer
        if fate != "fine" and not self._with_504:
            return False
        writer.write(reply)
        await writer.drain()
        return True


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        ),
        0,
    )
    return head + await reader.readexactly(length)


@pytest.mark.virtual_time
@pytest.mark.parametrize("visible_after", [0, 2], ids=["listed at once", "listed 2 s late"])
@pytest.mark.parametrize("with_504", [False, True], ids=["cut", "504"])
async def test_a_proxy_that_breaks_six_creates_in_ten_off_makes_no_backup_twice(
    with_504: bool, visible_after: float
) -> None:
    servers = 300
    async with (
        FakeVPS(servers=servers, backup_seconds=1e6, visible_after=visible_after) as fake,
        Proxy(fake.url, seed=7, with_504=with_504).running() as proxy,
        client_of(fake, proxy.url, retry=RetryPolicy(budget=None)) as client,
    ):
        fleet = client.fleet(range(1, servers + 1), concurrency=16)
        outcomes = [outcome async for outcome in fleet.create(description="Nightly")]
        fake.advance(10)
        held = Counter(backup["server"]["id"] for backup in fake.backups)
        ids = {backup["server"]["id"]: backup["id"] for backup in fake.backups}
    assert min(proxy.fates["before"], proxy.fates["after"]) > servers / 4
    assert len(outcomes) == servers
    assert max(held.values()) == 1
    made = {outcome.key: outcome.value.id for outcome in outcomes if outcome.value}
    assert made.items() <= ids.items()
    unknown = [one for one in outcomes if isinstance(one.error, CreateOutcomeUnknownError)]
    assert len(made) + len(unknown) == servers
    assert len(unknown) <= servers * 0.01


# --- Settling ------------------------------------------------------------------------------------

LOST = [
    Drop("after", method="POST", times=1),
    ServerFault(500, method="POST", when="after", times=1),
    ServerFault(504, html=True, method="POST", when="after", times=1),
    NotJSON(201, method="POST", when="after", times=1),
    Truncate(method="POST", times=1),
    Latency(1000, method="POST", times=1, when="after"),
]


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", LOST)
async def test_a_backup_whose_answer_was_lost_is_found_and_given_back(
    fake: FakeVPS, fault: Fault
) -> None:
    for server_id in (1, 2):
        fake.add_backup(server_id, description="x", created_at="2025-01-01T00:00:00Z")
    fake.inject(fault)
    async with client_of(fake) as client:
        backup = await client.create(2, description="x")
    assert (backup.server.id, backup.description, backup.status) == (2, "x", "in_progress")
    assert backup.id == 3
    assert fake.count("POST") == 1
    assert len(fake.backups) == 3


@pytest.mark.virtual_time
async def test_a_backup_that_is_listed_late_is_waited_for(fake: FakeVPS) -> None:
    fake.visible_after = 3
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        backup = await client.create(1)
    assert backup.server.id == 1
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_the_good_case_costs_one_request(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        await client.create(1, description="x")
    assert fake.count() == 1


@pytest.mark.virtual_time
async def test_a_create_that_was_cut_off_and_left_nothing_is_sent_again_after_the_grace(
    fake: FakeVPS,
) -> None:
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        await client.create(1)
    posts = [seen.at for seen in fake.requests if seen.method == "POST"]
    looks = [seen.at for seen in fake.requests if seen.method == "GET"]
    assert len(posts) == 2
    assert posts[1] - posts[0] >= RETRY.create_grace - 0.01
    # The last look comes at the end of the grace; one more looks for a late twin.
    assert sum(posts[0] < at <= posts[1] for at in looks) >= 3
    assert len(fake.backups) == 1


@pytest.mark.virtual_time
async def test_a_create_that_timed_out_is_never_sent_again(fake: FakeVPS) -> None:
    fake.inject(Latency(1000, method="POST", times=1), Drop(method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
    assert fake.count("POST") == 1
    assert caught.value.candidates == ()
    assert isinstance(caught.value.__cause__, TransportError)


@pytest.mark.virtual_time
async def test_with_a_single_attempt_nothing_is_looked_at(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST"))
    async with client_of(fake, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(CreateOutcomeUnknownError):
            await client.create(1)
    assert fake.count() == 1


@pytest.mark.virtual_time
async def test_looks_that_all_fail_leave_the_outcome_unknown(fake: FakeVPS) -> None:
    fake.inject(Drop("after", method="POST"), ServerFault(503, method="GET"))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="looking at the server") as caught:
            await client.create(1)
    assert fake.count("POST") == 1
    assert isinstance(caught.value.__cause__, TransportError)


@pytest.mark.virtual_time
async def test_a_list_that_keeps_moving_leaves_the_outcome_unknown(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at="2025-01-01T00:00:00Z")

    def move(seen: Any) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at="2025-01-01T00:00:00Z")

    fake.on_request = move
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError, match="moved while it was read"):
            await client.create(1)
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_looking_for_a_late_twin_may_fail(fake: FakeVPS) -> None:
    fake.inject(Drop(method="POST", times=1))

    def fail(seen: Any) -> None:
        if seen.method == "POST" and fake.count("POST") > 1:
            fake.inject(ServerFault(501, method="GET"))

    fake.on_request = fail
    async with client_of(fake) as client:
        assert (await client.create(1)).id == 1


@pytest.mark.virtual_time
async def test_the_deadline_holds_for_the_looks_too(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop(method="POST"), Latency(1000, method="GET"))
    async with client_of(fake, timeouts=Timeouts(deadline=8)) as client:
        began = loop.time()
        with pytest.raises(CreateOutcomeUnknownError):
            await client.create(1)
        assert loop.time() - began <= 8.01


@pytest.mark.virtual_time
async def test_two_backups_that_may_be_ours_are_named(fake: FakeVPS) -> None:
    def twin(seen: Any) -> None:
        if seen.method == "GET":
            fake.on_request = None
            fake.add_backup(1, description="x", status="in_progress")

    fake.inject(Drop("after", method="POST", times=1))
    fake.on_request = twin
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="x")
    assert [backup.id for backup in caught.value.candidates] == [1, 2]
    assert "1, 2" in str(caught.value)
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_a_new_backup_with_another_description_is_a_candidate_and_not_adopted(
    fake: FakeVPS,
) -> None:
    def other(seen: Any) -> None:
        if seen.method == "GET":
            fake.on_request = None
            fake.add_backup(1, description="somebody else's", status="in_progress")

    fake.inject(Drop(method="POST", times=1))
    fake.on_request = other
    async with client_of(fake) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1, description="ours")
    assert [backup.description for backup in caught.value.candidates] == ["somebody else's"]
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_a_conflict_after_an_unclear_attempt_is_our_own_backup(fake: FakeVPS) -> None:
    """The first POST is carried out late, so that the second finds it in the way."""
    fake.one_at_a_time = True
    fake.visible_after = 8
    fake.inject(Drop("after", method="POST", times=1))
    async with client_of(fake) as client:
        backup = await client.create(1)
    assert [seen.status for seen in fake.requests if seen.method == "POST"] == [None, 409]
    assert backup.id == 1
    assert len(fake.backups) == 1


@pytest.mark.virtual_time
async def test_a_create_that_was_carried_out_after_all_is_logged(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.visible_after = 6
    fake.inject(Drop("after", method="POST", times=1), Latency(3, method="POST", after=1))
    async with client_of(fake) as client:
        backup = await client.create(1)
    assert backup.id == 2
    assert any("[1]" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
async def test_a_refusal_after_nothing_was_made_is_that_refusal(fake: FakeVPS) -> None:
    for _ in range(10):
        fake.add_backup(1, created_at="2025-01-01T00:00:00Z")
    fake.inject(Drop(method="POST", times=1))
    async with client_of(fake) as client:
        with pytest.raises(ManualBackupLimitError):
            await client.create(1)
    assert fake.count("POST") == 2


# --- What counts as new --------------------------------------------------------------------------

NOON = datetime(2025, 1, 16, 12, tzinfo=UTC)
BACKUP = Backup(
    7,
    ServerRef(1, "one"),
    BackupType.MANUAL,
    BackupStatus.IN_PROGRESS,
    None,
    NOON,
    None,
    "",
)


def look(*backups: Backup, server_time: datetime | None = NOON, at: float = 100.0) -> Look:
    return Look(backups, server_time, at)


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({}, True),
        ({"created_at": NOON - timedelta(seconds=9)}, True),
        ({"created_at": NOON - timedelta(seconds=13)}, False),
        ({"created_at": NOON + timedelta(hours=1)}, True),
        ({"backup_type": BackupType.AUTOMATIC}, False),
        ({"status": BackupStatus.COMPLETED}, True),
        ({"id": 3}, False),
    ],
)
def test_new_is_what_was_made_since_by_the_servers_clock_with_a_later_id(
    changes: dict[str, Any], new: bool
) -> None:
    unanswered = UnansweredCreate(1, None, began=90.0, newest_id=3)
    assert bool(new_since(unanswered, look(evolve(BACKUP, **changes)))) is new


def test_an_id_below_that_of_an_older_backup_is_not_new() -> None:
    older = evolve(BACKUP, id=9, created_at=NOON - timedelta(days=1))
    assert new_since(UnansweredCreate(1, None, 90.0, 0), look(older, BACKUP)) == []


def test_without_a_date_only_the_ids_tell() -> None:
    old = evolve(BACKUP, id=3)
    done = evolve(BACKUP, id=8, status=BackupStatus.COMPLETED)
    known = new_since(UnansweredCreate(1, None, 90.0, 3), look(old, BACKUP, done, server_time=None))
    assert known == [BACKUP, done]
    assert new_since(UnansweredCreate(1, None, 90.0, 0), look(BACKUP, done, server_time=None)) == [
        BACKUP
    ]


# --- One at a time -------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_parallel_creates_on_one_server_never_overlap(fake: FakeVPS) -> None:
    fake.inject(Latency(2, method="POST"))
    async with client_of(fake) as client:
        await asyncio.gather(*(client.create(1, description=str(n)) for n in range(5)))
    assert fake.peak == 1
    assert len(fake.backups) == 5


@pytest.mark.virtual_time
async def test_creates_on_different_servers_run_side_by_side(fake: FakeVPS) -> None:
    fake.inject(Latency(2, method="POST"))
    async with client_of(fake) as client:
        await asyncio.gather(*(client.create(server_id) for server_id in (1, 2, 3)))
    assert fake.peak == 3


@pytest.mark.virtual_time
async def test_two_equal_creates_one_after_the_other_are_never_taken_for_one(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1, description="x")
        fake.inject(Drop(method="POST", times=1))
        second = await client.create(1, description="x")
    assert first.id != second.id
    assert len(fake.backups) == 2


@pytest.mark.virtual_time
async def test_a_running_backup_is_left_to_the_server_to_refuse(fake: FakeVPS) -> None:
    fake.one_at_a_time = True
    async with client_of(fake) as client:
        await client.create(1)
        with pytest.raises(BackupInProgressError):
            await client.create(1)


@pytest.mark.virtual_time
async def test_a_running_backup_can_be_adopted(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        first = await client.create(1)
        adopted = await client.create(1, if_running="adopt")
        assert adopted.id == first.id
        assert (await client.create(2, if_running="adopt")).id != first.id
    assert fake.count("POST") == 2


@pytest.mark.virtual_time
@pytest.mark.parametrize("fails", [False, True])
async def test_a_running_backup_can_be_waited_for(fake: FakeVPS, fails: bool) -> None:
    fake.one_at_a_time = True
    fake.fails = [1] if fails else []
    async with client_of(fake) as client:
        first = await client.create(1)
        second = await client.create(1, if_running="wait")
        assert second.id != first.id
        held = {held["id"]: held["status"] for held in fake.backups}
    assert held[first.id] == ("failed" if fails else "completed")


@pytest.mark.virtual_time
async def test_a_backup_that_starts_meanwhile_is_waited_for_too(fake: FakeVPS) -> None:
    fake.one_at_a_time = True
    rival = 0

    def start(seen: Any) -> None:
        nonlocal rival
        if seen.method == "POST" and not rival:
            rival = fake.add_backup(1, status="in_progress", seconds=100)["id"]

    fake.on_request = start
    async with client_of(fake) as client:
        made = await client.create(1, if_running="wait")
    assert made.id > rival
    assert fake.count("POST") == 2


async def test_if_running_takes_three_words(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match="'skip'"):
            await client.create(1, if_running="skip")  # type: ignore[arg-type]
    assert fake.requests == []


# --- Cancellation --------------------------------------------------------------------------------


async def rounds(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.virtual_time
async def test_a_create_cancelled_under_way_ends_in_the_background_and_is_logged(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await client.close()
    assert [held["id"] for held in fake.backups] == [1]
    assert any(
        record.levelno == logging.WARNING
        and "create-2" in record.getMessage()
        and "backup 1" in record.getMessage()
        for record in caplog.records
    )


@pytest.mark.virtual_time
async def test_a_create_cancelled_in_the_moment_of_its_end_is_logged_too(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake) as client:
        call = asyncio.create_task(client.create(2))
        await rounds(3)
        inner = next(task for task in asyncio.all_tasks() if "create-2" in task.get_name())
        inner.add_done_callback(lambda _: call.cancel())
        with pytest.raises(asyncio.CancelledError):
            await call
    assert [held["id"] for held in fake.backups] == [1]
    assert any("backup 1" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
async def test_closing_waits_no_longer_than_a_create_can_take(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Latency(10_000))
    client = client_of(fake, timeouts=Timeouts(attempt=30))
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    began = loop.time()
    await client.close()
    assert loop.time() - began <= 30 + RETRY.create_grace + 0.1
    assert any("create-2" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
async def test_a_background_create_that_is_refused_is_logged(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    fake.inject(Latency(5, method="POST"), ServerFault(501, method="POST"))
    client = client_of(fake)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()
    assert fake.count("POST") == 1
    assert any("create-2" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
async def test_a_create_cancelled_before_it_was_sent_is_not_sent(fake: FakeVPS) -> None:
    limiter = AdaptiveLimiter(1)
    await limiter.acquire()
    async with client_of(fake, limiter=limiter) as client:
        call = asyncio.create_task(client.create(2))
        await asyncio.sleep(1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert fake.requests == []
    assert limiter.running == 1


@pytest.mark.virtual_time
async def test_a_create_cancelled_in_the_pause_after_a_429_is_not_sent_again(fake: FakeVPS) -> None:
    fake.inject(RateLimit(30, method="POST"))
    async with client_of(fake) as client:
        call = asyncio.create_task(client.create(2))
        await asyncio.sleep(10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(100)
    assert fake.count("POST") == 1


@pytest.mark.parametrize("verb", ["create", "wait"])
async def test_cancelling_at_the_nth_step_leaves_no_request_slot_or_task_behind(verb: str) -> None:
    """The step moves on until the call is done before it is reached."""
    calls: dict[str, Callable[[BackupsClient, Backup], Any]] = {
        "create": lambda client, _: client.create(2),
        "wait": lambda client, backup: client.wait(backup, backoff=ConstantBackoff(0)),
    }
    cancelled = 0
    for step in range(2000):
        limiter = AdaptiveLimiter(4)
        async with FakeVPS(servers=3, backup_seconds=0) as fake:
            async with client_of(fake, limiter=limiter) as client:
                backup = await client.create(1)
                before, tasks = fake.count(), asyncio.all_tasks()
                call = asyncio.ensure_future(calls[verb](client, backup))
                await rounds(step)
                finished = call.done()
                call.cancel()
                with nullcontext() if finished else pytest.raises(asyncio.CancelledError):
                    await call
                cancelled += not finished
                sent = fake.count() - before
            assert limiter.running == 0
            await rounds(5)
            assert fake.count() - before <= max(sent, 1)
            ours = {task for task in asyncio.all_tasks() - tasks if "vpsbackups" in task.get_name()}
            assert ours == set()
        if finished:
            break
    else:
        pytest.fail("the call never ended")
    assert cancelled >= 5


@pytest.mark.virtual_time
async def test_fifty_cancelled_waits_on_one_hub_leave_the_fifty_first_alone(fake: FakeVPS) -> None:
    async with client_of(fake) as client:
        backup = await client.create(1)
        waits = [
            asyncio.create_task(client.wait(backup, backoff=ConstantBackoff(10))) for _ in range(51)
        ]
        await asyncio.sleep(95)
        for wait in waits[1:]:
            wait.cancel()
        assert (await waits[0]).is_completed


@pytest.mark.virtual_time
async def test_a_refused_token_ends_a_create_at_once(fake: FakeVPS) -> None:
    fake.revoke()
    async with client_of(fake) as client:
        outcomes = [one async for one in fan_out(client.create, [1, 2, 3])]
    assert {type(one.error) for one in outcomes} == {AuthenticationError}
    assert fake.count() == 3


@pytest.mark.virtual_time
async def test_a_server_that_fails_for_ever_is_asked_as_often_as_attempts_say(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(503, method="POST"))
    async with client_of(fake, retry=RetryPolicy(attempts=3)) as client:
        with pytest.raises(CreateOutcomeUnknownError) as caught:
            await client.create(1)
    assert fake.count("POST") == 3
    assert isinstance(caught.value.__cause__, ServerError)


# --- Closed in the middle ------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_close_waits_for_a_create_under_way_and_its_caller_gets_the_backup(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake)
    calls = [asyncio.create_task(client.create(server_id)) for server_id in (1, 2)]
    await asyncio.sleep(1)
    await client.close()
    made = await asyncio.gather(*calls)
    assert sorted(backup.id for backup in made) == sorted(held["id"] for held in fake.backups)


@pytest.mark.virtual_time
async def test_a_create_cancelled_in_the_moment_of_close_ends_and_is_told(fake: FakeVPS) -> None:
    events: list[CreateEnded] = []
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake, on_event=events.append)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await client.close()
    assert [event.backup and event.backup.id for event in events] == [
        held["id"] for held in fake.backups
    ]
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.virtual_time
async def test_close_lets_a_create_whose_answer_is_lost_be_settled_but_not_sent_again(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(5, method="POST"), Drop(method="POST", when="after", times=1))
    client = client_of(fake)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    await client.close()
    assert (await call).id == fake.backups[0]["id"]
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_a_create_that_was_not_sent_is_not_sent_while_the_client_closes(
    fake: FakeVPS,
) -> None:
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake)
    first, second = (asyncio.create_task(client.create(1)) for _ in range(2))
    await asyncio.sleep(1)
    await client.close()
    assert (await first).id == fake.backups[0]["id"]
    with pytest.raises(ConfigurationError, match="closed"):
        await second
    assert fake.count("POST") == 1
