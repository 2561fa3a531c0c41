"""A create never makes a second backup, and never leaves one that nobody knows of."""

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from helpers_creating import RETRY, client_of
from helpers_events import Heard

from vpsbackups_async import (
    AdaptiveLimiter,
    AuthenticationError,
    Backup,
    BackupInProgressError,
    BackupsClient,
    ConfigurationError,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    PaginationError,
    RetryPolicy,
    Timeouts,
    TransportError,
    WaitTimeoutError,
    fan_out,
)
from vpsbackups_async.events import CreateEnded
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Latency,
    RateLimit,
    Reply,
    SeenRequest,
    ServerFault,
)

pytestmark = pytest.mark.fake_vps(backups=0, backup_seconds=600)

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
        fake.inject(Drop(method="POST", when="after", times=1))
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


async def test_of_several_running_backups_the_one_that_was_made_last_is_adopted_whatever_its_id(
    fake: FakeVPS,
) -> None:
    for number, minute in ((501, 1), (499, 5), (500, 3)):
        made = datetime(2025, 1, 16, 15, minute, tzinfo=UTC)
        fake.add_backup(1, status="in_progress", id=number, created_at=made)
    async with client_of(fake) as client:
        assert (await client.create(1, if_running="adopt")).id == 499
    assert fake.count("POST") == 0


async def test_a_running_backup_is_adopted_in_whatever_case_its_status_is(fake: FakeVPS) -> None:
    running = fake.add_backup(1, status="In_Progress")["id"]
    async with client_of(fake) as client:
        assert (await client.create(1, if_running="adopt")).id == running
    assert fake.count("POST") == 0


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
    heard = Heard()
    fake.inject(Latency(5, method="POST"))
    client = client_of(fake, on_event=heard)
    call = asyncio.create_task(client.create(2))
    await asyncio.sleep(1)
    call.cancel()
    await client.close()
    assert [event.backup and event.backup.id for event in heard.of(CreateEnded)] == [
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


@pytest.mark.virtual_time
async def test_close_lets_nothing_be_sent_that_waits_for_the_limiter(fake: FakeVPS) -> None:
    fake.inject(Latency(3, method="POST"))
    client = client_of(fake, limiter=AdaptiveLimiter(1))
    first, second = (asyncio.create_task(client.create(server_id)) for server_id in (1, 2))
    await asyncio.sleep(1)
    await client.close()
    assert (await first).server.id == 1
    with pytest.raises((ConfigurationError, TransportError)):
        await second
    assert [held["server"]["id"] for held in fake.backups] == [1]


@pytest.mark.virtual_time
async def test_a_create_on_a_closed_client_does_not_look_on(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.visible_after = 1e6
    fake.inject(Drop("after", method="POST"))
    client = client_of(fake, timeouts=Timeouts(attempt=1), retry=RetryPolicy(create_grace=300))
    client._creator._longest = 2
    call = asyncio.create_task(client.create(1))
    await asyncio.sleep(1)
    await client.close()
    began = loop.time()
    with pytest.raises(CreateOutcomeUnknownError):
        await call
    assert loop.time() - began <= 5


@pytest.mark.virtual_time
async def test_a_create_that_close_cuts_short_is_told_as_unknown(fake: FakeVPS) -> None:
    heard = Heard()
    fake.inject(Latency(10_000, when="after"))
    client = client_of(fake, on_event=heard)
    call = asyncio.create_task(client.create(2, description="x"))
    await asyncio.sleep(1)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()
    (event,) = heard.of(CreateEnded)
    assert event.caller_cancelled
    assert isinstance(event.error, CreateOutcomeUnknownError)
    fake.clear_faults()
    async with client_of(fake) as later:
        assert (await later.settle(event.error)).server.id == 2


# --- Deadlines -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_the_deadline_covers_the_line_behind_other_creates(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Drop(method="POST"), ServerFault(500, method="GET"))
    async with client_of(fake, timeouts=Timeouts(deadline=60)) as client:
        began = loop.time()
        calls = [client.create(1) for _ in range(4)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert loop.time() - began <= 61
    assert sorted(type(error).__name__ for error in errors) == [
        "CreateOutcomeUnknownError",
        *["DeadlineExceededError"] * 3,
    ]
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_the_deadline_covers_the_reading_before_a_create(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.page_size = 1
    for _ in range(9):
        fake.add_backup(1, created_at="2025-01-01T00:00:00Z")
    fake.inject(Latency(4, method="GET"))
    async with client_of(fake, timeouts=Timeouts(deadline=10)) as client:
        began = loop.time()
        with pytest.raises(DeadlineExceededError, match="were read"):
            await client.create(1, marker="16")
        assert loop.time() - began <= 10.1
        fake.clear_faults()
        await client.create(1)
    assert fake.count("POST") == 1


@pytest.mark.virtual_time
async def test_a_timeout_holds_in_line_behind_other_creates(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    fake.inject(Latency(20, method="POST"))
    async with client_of(fake) as client:
        first = asyncio.create_task(client.create(1))
        await asyncio.sleep(1)
        began = loop.time()
        with pytest.raises(DeadlineExceededError, match="in line"):
            await client.create(1, if_running="wait", timeout=5)
        assert loop.time() - began == pytest.approx(5, abs=0.1)
        await first
    assert fake.count("POST") == 1


# --- Beside a running backup ---------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_backup_of_two_hours_is_waited_for_and_none_started_beside_it(
    fake: FakeVPS,
) -> None:
    loop = asyncio.get_running_loop()
    fake.add_backup(1, status="in_progress", seconds=7200)
    async with client_of(fake) as client:
        began = loop.time()
        assert (await client.create(1, if_running="wait")).id == 2
        assert 7200 <= loop.time() - began <= 7200 + 120


@pytest.mark.virtual_time
async def test_the_wait_for_a_running_backup_ends_after_its_timeout(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    stuck = fake.add_backup(1, status="in_progress")["id"]
    async with client_of(fake) as client:
        began = loop.time()
        with pytest.raises(WaitTimeoutError) as caught:
            await client.create(1, if_running="wait", timeout=100)
        assert 100 <= loop.time() - began <= 101
    assert caught.value.ref.id == stuck
    assert caught.value.__notes__ == ["no backup of server 1 was asked for"]
    assert fake.count("POST") == 0


@pytest.mark.virtual_time
async def test_a_stuck_backup_is_looked_at_rarely(fake: FakeVPS) -> None:
    fake.add_backup(1, status="in_progress")
    day = 86_400
    async with client_of(fake) as client:
        with pytest.raises(WaitTimeoutError):
            await client.create(1, if_running="wait", timeout=day)
    assert fake.count() <= day / 120 + 50


@pytest.mark.virtual_time
async def test_other_creates_go_on_while_one_waits_for_somebody_elses_backup(
    fake: FakeVPS,
) -> None:
    loop = asyncio.get_running_loop()
    stuck = fake.add_backup(1, status="in_progress", seconds=1000)["id"]
    async with client_of(fake) as client:
        waiting = asyncio.create_task(client.create(1, if_running="wait"))
        await asyncio.sleep(10)
        began = loop.time()
        assert (await client.create(1, if_running="adopt")).id == stuck
        fake.one_at_a_time = True
        with pytest.raises(BackupInProgressError):
            await client.create(1)
        assert loop.time() - began < 1
        assert (await waiting).id == 2


@pytest.mark.virtual_time
async def test_of_several_that_wait_for_the_same_backup_one_runs_at_a_time(fake: FakeVPS) -> None:
    fake.backup_seconds = 100
    fake.add_backup(1, status="in_progress", seconds=100)
    async with client_of(fake) as client:
        made = await asyncio.gather(*(client.create(1, if_running="wait") for _ in range(4)))
    began = sorted(datetime.fromisoformat(held["created_at"]) for held in fake.backups)
    assert len({backup.id for backup in made}) == 4
    assert all(
        (later - earlier).total_seconds() >= 100 for earlier, later in itertools.pairwise(began)
    )


@pytest.mark.virtual_time
async def test_a_refusal_for_a_backup_that_no_list_shows_is_no_hot_loop(fake: FakeVPS) -> None:
    """The list shows a running backup after each refusal, and none before the next create."""
    loop = asyncio.get_running_loop()
    running = fake.add_backup(2, status="in_progress")
    shown = json.dumps({"count": 1, "results": [{**running, "server": {"id": 1, "name": "x"}}]})
    fake.inject(Reply(409, b'{"detail": "in progress"}', method="POST"))

    def show(seen: SeenRequest) -> None:
        if seen.method == "POST":
            fake.inject(Reply(200, shown.encode(), method="GET", times=1))

    fake.on_request = show
    async with client_of(fake) as client:
        began = loop.time()
        with pytest.raises(BackupInProgressError):
            await client.create(1, if_running="wait", timeout=600)
        assert 600 <= loop.time() - began <= 601
        assert fake.count("POST") <= 30
        began = loop.time()
        with pytest.raises(BackupInProgressError):
            await client.create(1, if_running="adopt")
        assert loop.time() - began <= 121


@pytest.mark.virtual_time
@pytest.mark.parametrize("if_running", ["adopt", "wait"])
async def test_nothing_is_started_where_it_cannot_be_told_what_runs(
    fake: FakeVPS, if_running: Literal["adopt", "wait"]
) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at="2025-01-01T00:00:00Z")

    def move(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at="2025-01-01T00:00:00Z")

    fake.on_request = move
    async with client_of(fake) as client:
        with pytest.raises(PaginationError, match="server 1"):
            await client.create(1, if_running=if_running)
    assert fake.count("POST") == 0


@pytest.mark.virtual_time
async def test_what_is_found_counts_though_the_list_moves(fake: FakeVPS) -> None:
    fake.page_size = 2
    for _ in range(3):
        fake.add_backup(1, created_at="2025-01-01T00:00:00Z")
    running = fake.add_backup(1, description="Nightly [vb:16]", status="in_progress")["id"]

    def move(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2":
            fake.add_backup(1, created_at="2025-01-01T00:00:00Z")

    fake.on_request = move
    async with client_of(fake) as client:
        assert (await client.create(1, if_running="adopt")).id == running
        assert (await client.create(1, marker="16")).id == running
    assert fake.count("POST") == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("timeout", [-1, float("nan"), "10", True])
async def test_a_timeout_that_is_no_number_of_seconds_is_refused(
    fake: FakeVPS, timeout: Any
) -> None:
    async with client_of(fake) as client:
        with pytest.raises(ValueError, match="timeout must be"):
            await client.create(1, if_running="wait", timeout=timeout)
    assert fake.requests == []
