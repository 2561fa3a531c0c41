"""Waiting for backups: one hub looks at the list for all that wait."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from vpsbackups_async import (
    Attempt,
    AuthenticationError,
    Backup,
    BackupDisappearedError,
    BackupFailedError,
    BackupNeverAppearedError,
    BackupRef,
    BackupsClient,
    BackupStatus,
    ConstantBackoff,
    PermissionDeniedError,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    Timeouts,
    WaitError,
    WaitTimeoutError,
    fan_out,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    RateLimit,
    SeenRequest,
    ServerFault,
)

pytestmark = pytest.mark.looptime
EVERY_10 = ConstantBackoff(10)


def one_try(fake: FakeVPS, **options: Any) -> BackupsClient:
    """A client whose looks are not retried, so that each look is one request."""
    return BackupsClient(fake.token, base_url=fake.url, retry=RetryPolicy(attempts=1), **options)


def look_times(fake: FakeVPS) -> list[float]:
    """When the list was asked for, in seconds since the first request."""
    return [
        round(seen.at - fake.requests[0].at, 3) for seen in fake.requests if seen.method == "GET"
    ]


@pytest.fixture
async def fake() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(servers=500, backup_seconds=100) as server:
        yield server


async def test_wait_gives_the_completed_backup(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        started = await client.create(7, description="x")
        done = await client.wait(started, backoff=EVERY_10)
    assert (done.id, done.status, done.description) == (started.id, "completed", "x")
    assert done.size_mb is not None


async def test_the_backoff_decides_each_delay_and_the_first_one_too(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        started = await client.create(7)
        await client.wait(started, backoff=lambda attempt: 30.0 * attempt.number)
    assert look_times(fake) == [30, 90, 180]


async def test_the_default_backoff_starts_at_5_seconds_and_stays_within_30(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        await client.wait(await client.create(7))
    times = look_times(fake)
    steps = [after - before for before, after in zip([0, *times], times, strict=False)]
    assert steps[0] == 5
    assert steps == sorted(steps)
    assert max(steps) <= 30


async def test_500_waiters_on_one_backup_cost_as_many_looks_as_one(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        done = await asyncio.gather(*(client.wait(backup, backoff=EVERY_10) for _ in range(500)))
    assert {one.id for one in done} == {backup.id}
    assert look_times(fake) == [10 * number for number in range(1, 11)]


async def test_500_waiters_on_500_servers_share_one_sweep_an_interval(fake: FakeVPS) -> None:
    fake.page_size = 100
    async with one_try(fake) as client:
        backups = [outcome.unwrap() async for outcome in client.fleet(range(1, 501)).create()]
        fake.requests.clear()
        await asyncio.gather(*(client.wait(backup, backoff=EVERY_10) for backup in backups))
    times = look_times(fake)
    assert sorted(set(times)) == [10 * number for number in range(10)]
    assert len(times) == 10 * 5


async def test_one_server_is_looked_at_with_a_filtered_request(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        await client.wait(await client.create(7), backoff=ConstantBackoff(100))
    assert fake.requests[-1].query["server_id"] == "7"


async def test_few_servers_in_a_long_list_are_looked_at_one_by_one(fake: FakeVPS) -> None:
    for server_id in range(1, 501):
        fake.add_backup(server_id, backup_type="automatic")
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3)]
        for backup in backups:  # newer ones push them off the first page
            for _ in range(20):
                fake.add_backup(backup.server.id, backup_type="automatic")
        fake.requests.clear()
        await asyncio.gather(
            *(client.wait(backup, backoff=ConstantBackoff(50)) for backup in backups)
        )
    whole = [seen for seen in fake.requests if "server_id" not in seen.query]
    by_server = [seen for seen in fake.requests if "server_id" in seen.query]
    assert len(whole) == 1  # to learn that the list is longer than three requests
    assert len(by_server) > 0


async def test_a_look_ends_as_soon_as_every_awaited_backup_was_seen(fake: FakeVPS) -> None:
    fake.page_size = 10
    for server_id in range(1, 101):
        fake.add_backup(server_id, backup_type="automatic")
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        fake.requests.clear()
        await asyncio.gather(
            *(client.wait(backup, backoff=ConstantBackoff(100)) for backup in backups)
        )
    assert fake.count("GET") == 1


async def test_a_ref_without_a_server_is_found_in_the_whole_list(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        assert (await client.wait(BackupRef(backup.id), backoff=EVERY_10)).is_completed


async def test_a_waiter_that_joins_later_rides_the_looks_of_the_others(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        first = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(95)
        second = asyncio.create_task(client.wait(backup, backoff=ConstantBackoff(1000)))
        await asyncio.gather(first, second)
    assert look_times(fake) == [10 * number for number in range(1, 11)]


async def test_a_new_process_waits_on_with_the_two_integers_and_creates_nothing(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        ref = (await client.create(7)).ref
    fake.requests.clear()
    async with one_try(fake) as client:
        done = await client.wait(BackupRef(ref.id, ref.server_id), backoff=EVERY_10)
    assert done.is_completed
    assert fake.count("POST") == 0


async def test_a_completed_backup_is_given_back_without_a_request(fake: FakeVPS) -> None:
    fake.add_backup(1)
    async with one_try(fake) as client:
        backup = await client.list().first()
        assert backup is not None
        fake.requests.clear()
        assert await client.wait(backup) is backup
    assert fake.requests == []


# --- Ends ----------------------------------------------------------------------------------------


async def test_a_timeout_of_60_seconds_is_60_seconds(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    async with one_try(fake) as client:
        backup = await client.create(1)
        began = loop.time()
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait(backup, timeout=60, backoff=ConstantBackoff(25))
    assert loop.time() - began == pytest.approx(60.0, abs=0.01)
    assert look_times(fake) == [25, 50, 60]  # the last sleep is cut to the deadline
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.ref, error.last_status) == (backup.ref, BackupStatus.IN_PROGRESS)
    assert error.elapsed == pytest.approx(60.0, abs=0.01)
    assert error.__cause__ is None


async def test_a_look_that_hangs_delays_the_timeout_by_one_request_at_most(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    async with one_try(fake, timeouts=Timeouts(attempt=20)) as client:
        backup = await client.create(1)
        fake.inject(Latency(1000, method="GET"))
        began = loop.time()
        with pytest.raises(WaitTimeoutError):
            await client.wait(backup, timeout=60, backoff=ConstantBackoff(60))
    assert loop.time() - began <= 80.01


async def test_a_deadline_comes_first_when_the_server_asked_to_stay_away(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    async with one_try(fake) as client:
        backup = await client.create(1)
        fake.inject(RateLimit(retry_after=100, method="GET", times=1))
        began = loop.time()
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait(backup, timeout=60, backoff=EVERY_10)
    assert loop.time() - began == pytest.approx(60.0, abs=0.01)
    assert isinstance(caught.value.__cause__, RateLimitedError)


async def test_a_failed_backup_ends_the_wait_with_itself(fake: FakeVPS) -> None:
    fake.fails = [7]
    async with one_try(fake) as client:
        backup = await client.create(7)
        with pytest.raises(BackupFailedError) as caught:
            await client.wait(backup, backoff=EVERY_10)
    assert caught.value.backup is not None
    assert caught.value.backup.status == "failed"
    assert caught.value.ref == backup.ref


@pytest.mark.parametrize("word", ["error", "Failed", "cancelled"])
async def test_other_words_for_failed_end_the_wait_too(fake: FakeVPS, word: str) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.finish(backup.id, word)
        with pytest.raises(BackupFailedError):
            await client.wait(backup, backoff=EVERY_10)


async def test_a_backup_known_to_have_failed_ends_the_wait_without_a_request(fake: FakeVPS) -> None:
    fake.add_backup(1, status="failed")
    async with one_try(fake) as client:
        backup = await client.list().first()
        assert backup is not None
        fake.requests.clear()
        with pytest.raises(BackupFailedError):
            await client.wait(backup)
    assert fake.requests == []


async def test_an_unknown_status_is_waited_out_and_logged_once(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.finish(backup.id, "archiving")
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait(backup, backoff=EVERY_10, timeout=60)
        fake.finish(backup.id, "completed")
        assert (await client.wait(backup, backoff=EVERY_10)).is_completed
    assert caught.value.last_status == "archiving"
    assert sum("archiving" in record.getMessage() for record in caplog.records) == 1


async def test_an_unknown_status_ends_the_wait_on_request(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.finish(backup.id, "archiving")
        with pytest.raises(WaitError, match="archiving"):
            await client.wait(backup, backoff=EVERY_10, on_unknown="raise")


async def test_a_backup_that_is_listed_late_is_pending_until_then(fake: FakeVPS) -> None:
    fake.visible_after = 45
    async with one_try(fake) as client:
        backup = await client.create(7)
        assert (await client.wait(backup, backoff=EVERY_10)).is_completed


async def test_a_backup_that_is_never_listed_ends_the_wait_after_the_grace(fake: FakeVPS) -> None:
    loop = asyncio.get_running_loop()
    async with one_try(fake) as client:
        began = loop.time()
        with pytest.raises(BackupNeverAppearedError) as caught:
            await client.wait(BackupRef(999, 7), backoff=EVERY_10, appear_grace=35)
    assert loop.time() - began == pytest.approx(40, abs=0.01)
    assert caught.value.last_status is None


async def test_a_backup_that_was_listed_is_gone_after_two_complete_looks(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(25)
        fake.remove_backup(backup.id)
        with pytest.raises(BackupDisappearedError) as caught:
            await waiting
    assert look_times(fake) == [10, 20, 30, 40]
    assert caught.value.last_seen is not None
    assert caught.value.last_seen.id == backup.id


async def test_a_look_at_a_list_that_moved_says_nothing_about_absence(fake: FakeVPS) -> None:
    """The first look skips the backup, for the list shrinks between its pages."""
    fake.page_size = 5
    for _ in range(12):
        fake.add_backup(1, backup_type="automatic")

    def shrink(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2":
            fake.on_request = None
            for held in [held["id"] for held in fake.backups if held["id"] > backup.id]:
                fake.remove_backup(held)

    async with one_try(fake) as client:
        backup = await client.create(1)
        for _ in range(5):
            fake.add_backup(1, backup_type="automatic")
        fake.on_request = shrink
        done = await client.wait(backup, backoff=EVERY_10, appear_grace=0)
    assert done.id == backup.id


async def test_a_backup_pushed_to_a_later_page_is_found(fake: FakeVPS) -> None:
    fake.page_size = 5
    async with one_try(fake) as client:
        backup = await client.create(1)
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(35)
        for _ in range(17):
            fake.add_backup(1, backup_type="automatic")
        assert (await waiting).is_completed
    assert fake.count("GET", "page=4") >= 1


# --- Trouble on the way --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        RateLimit(retry_after=None, method="GET", times=3),
        ServerFault(503, method="GET", times=3),
        ServerFault(502, html=True, method="GET", times=3),
        Drop("before", method="GET", times=3),
        Latency(1000, method="GET", times=3),
    ],
    ids=["429", "503", "502 with a page", "cut", "no answer"],
)
async def test_looks_that_fail_are_not_the_end_of_a_wait(fake: FakeVPS, fault: Fault) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.inject(fault)
        assert (await client.wait(backup, backoff=EVERY_10)).is_completed
    assert fake.count("GET") >= 4


async def test_a_retry_after_delays_the_next_look_only(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.inject(RateLimit(retry_after=35, method="GET", times=1))
        await client.wait(backup, backoff=EVERY_10)
    assert look_times(fake) == [10, 45, 55, 65, 75, 85, 95, 105]


async def test_the_last_failed_look_is_the_cause_of_the_timeout(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.inject(ServerFault(503, method="GET"))
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait(backup, backoff=EVERY_10, timeout=30)
    assert isinstance(caught.value.__cause__, ServerError)


@pytest.mark.parametrize(
    ("refuse", "kind"),
    [(FakeVPS.revoke, AuthenticationError), (FakeVPS.forbid, PermissionDeniedError)],
)
async def test_a_refused_token_ends_all_waits_at_once(
    fake: FakeVPS, refuse: Callable[[FakeVPS], None], kind: type[Exception]
) -> None:
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3)]
        waits = [
            asyncio.create_task(client.wait(backups[0], backoff=EVERY_10)),
            *(
                asyncio.create_task(client.wait(backup, backoff=ConstantBackoff(1000)))
                for backup in backups[1:]
            ),
        ]
        await asyncio.sleep(1)
        refuse(fake)
        ended = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(error) for error in ended] == [kind] * 3
    assert len(set(map(id, ended))) == 3
    assert fake.count("GET") == 1


async def test_cancelling_one_waiter_leaves_the_others_and_the_backup_alone(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        first = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        second = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(15)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).is_completed
    assert fake.count("DELETE") == 0


async def test_the_hub_ends_with_its_last_waiter_and_starts_again_for_the_next(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(15)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert (await client.wait(backup, backoff=EVERY_10)).is_completed


async def test_cancelling_the_last_waiter_in_the_middle_of_a_look_ends_the_look(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        fake.inject(Latency(20, method="GET"))
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(15)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(100)
        assert fake.count("GET") == 1


async def test_closing_the_client_ends_the_waits_with_their_refs(fake: FakeVPS) -> None:
    client = one_try(fake)
    backup = await client.create(1)
    waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
    await asyncio.sleep(15)
    await client.close()
    with pytest.raises(WaitError, match="closed") as caught:
        await waiting
    assert caught.value.ref == backup.ref
    assert caught.value.last_status == "in_progress"


# --- What the caller brings ----------------------------------------------------------------------


async def test_on_poll_reports_number_elapsed_and_state_after_each_look(fake: FakeVPS) -> None:
    reports: list[Attempt] = []
    async with one_try(fake) as client:
        backup = await client.create(1)
        await client.wait(backup, backoff=ConstantBackoff(40), on_poll=reports.append)
    assert [(report.number, round(report.elapsed)) for report in reports] == [(1, 40), (2, 80)]
    assert [report.backup and report.backup.status for report in reports] == ["in_progress"] * 2


async def test_an_on_poll_that_raises_is_logged_and_does_not_end_the_wait(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(attempt: Attempt) -> None:
        raise RuntimeError("boom")

    async with one_try(fake) as client:
        backup = await client.create(1)
        assert (await client.wait(backup, backoff=ConstantBackoff(60), on_poll=bad)).is_completed
    assert any(record.exc_info and record.levelno == logging.ERROR for record in caplog.records)


async def test_a_backoff_that_answers_nonsense_ends_its_own_wait_only(fake: FakeVPS) -> None:
    def bad(attempt: Attempt) -> float:
        return 10.0 if attempt.number == 1 else -1.0

    async with one_try(fake) as client:
        backup = await client.create(1)
        ended = await asyncio.gather(
            client.wait(backup, backoff=bad),
            client.wait(backup, backoff=EVERY_10),
            return_exceptions=True,
        )
    assert isinstance(ended[0], ValueError)
    assert "bad" in str(ended[0])
    assert isinstance(ended[1], Backup)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"appear_grace": -1}, "appear_grace"),
        ({"backoff": 5}, "backoff"),
        ({"on_unknown": "ignore"}, "on_unknown"),
    ],
)
async def test_bad_options_are_named_before_any_request(
    fake: FakeVPS, options: dict[str, Any], said: str
) -> None:
    async with one_try(fake) as client:
        with pytest.raises(ValueError, match=said):
            await client.wait(BackupRef(1, 1), **options)
    assert fake.requests == []


@pytest.mark.parametrize("what", [501, None, "501", BackupRef(0, 1), BackupRef(1, -1)])
async def test_what_is_no_backup_is_refused_before_any_request(fake: FakeVPS, what: Any) -> None:
    async with one_try(fake) as client:
        with pytest.raises(ValueError, match=r"wait needs|id must be"):
            await client.wait(what)
    assert fake.requests == []


async def test_fan_out_over_waits_gives_each_backup_exactly_one_outcome(fake: FakeVPS) -> None:
    fake.fails = [3]
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        fake.remove_backup(backups[4].id)
        outcomes = [outcome async for outcome in fan_out(client.wait, backups, concurrency=None)]
    assert sorted(outcome.key.id for outcome in outcomes) == [backup.id for backup in backups]
    kinds = {outcome.key.id: type(outcome.error) for outcome in outcomes if not outcome.ok}
    assert kinds == {backups[2].id: BackupFailedError, backups[4].id: BackupNeverAppearedError}
