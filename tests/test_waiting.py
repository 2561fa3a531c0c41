"""Waiting for backups: one hub looks at the list for all that wait."""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Container, Iterable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from helpers_waiting import EVERY_10, look_times, one_try

from vpsbackups_async import (
    Attempt,
    AuthenticationError,
    Backoff,
    Backup,
    BackupDisappearedError,
    BackupFailedError,
    BackupNeverAppearedError,
    BackupRef,
    BackupStatus,
    BackupType,
    ConstantBackoff,
    RateLimitedError,
    ServerError,
    ServerRef,
    Timeouts,
    WaitError,
    WaitTimeoutError,
    fan_out,
)
from vpsbackups_async._lists.planner import Finding, Plan
from vpsbackups_async._lists.wanted import Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._waiting.hub import WaitHub
from vpsbackups_async._waiting.waiter import Waiter
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    RateLimit,
    SeenRequest,
    ServerFault,
)

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.fake_vps(servers=500, backups=0, backup_seconds=100),
]


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
    fake.page_size = 10
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3)]
        for server_id in range(101, 501):  # newer ones push them off the first pages
            fake.add_backup(server_id)
        fake.requests.clear()
        await asyncio.gather(
            *(client.wait(backup, backoff=ConstantBackoff(50)) for backup in backups)
        )
    by_server = [seen.query.get("server_id") for seen in fake.requests]
    # One page tells that the list is longer than three requests, and the next look knows it.
    assert [by_server[0], sorted(by_server[1:4])] == [None, ["1", "2", "3"]]
    assert sorted(by_server[4:], key=str) == ["1", "2", "3"]


async def test_a_sweep_asks_for_manual_backups_and_large_pages(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3)]
        fake.requests.clear()
        await asyncio.gather(
            *(client.wait(backup, backoff=ConstantBackoff(100)) for backup in backups)
        )
    assert [seen.query for seen in fake.requests] == [{"backup_type": "manual", "page_size": "100"}]


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


async def test_an_id_alone_is_found_in_the_whole_list(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        assert (await client.wait(backup.id, backoff=EVERY_10)).is_completed


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
        wait = client.wait(backup, backoff=EVERY_10, appear_grace=30)
        waiting = asyncio.create_task(wait)
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


async def test_backups_pushed_to_later_pages_are_found(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 13)]
        waits = [asyncio.create_task(client.wait(one, backoff=EVERY_10)) for one in backups]
        await asyncio.sleep(35)
        for server_id in range(101, 331):
            fake.add_backup(server_id)
        done = await asyncio.gather(*waits)
    assert all(one.is_completed for one in done)
    assert fake.count("GET", "page=3") >= 1


async def test_a_backup_that_slips_to_a_page_already_read_is_found(fake: FakeVPS) -> None:
    """A newer one vanishes between two pages of each sweep; the next look has it at the latest."""
    newer: list[int] = []

    def shrink(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2" and len(newer) > 90:
            fake.remove_backup(newer.pop())

    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 13)]
        newer += [int(fake.add_backup(server_id)["id"]) for server_id in range(101, 196)]
        fake.on_request = shrink
        done = await asyncio.gather(*(client.wait(one, backoff=EVERY_10) for one in backups))
    assert all(one.is_completed for one in done)
    assert len(newer) == 90
    assert max(look_times(fake)) <= 115


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
    first, second, *others = look_times(fake)
    assert first == 10
    assert 45 <= second <= 50  # the gate lets those who wait for it through one by one
    assert others == [pytest.approx(second + 10 * place) for place in range(1, len(others) + 1)]
    assert len(others) <= 6


async def test_the_last_failed_look_is_the_cause_of_the_timeout(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        fake.inject(ServerFault(503, method="GET"))
        with pytest.raises(WaitTimeoutError) as caught:
            await client.wait(backup, backoff=EVERY_10, timeout=30)
    assert isinstance(caught.value.__cause__, ServerError)


async def test_a_refused_token_ends_all_waits_at_once(fake: FakeVPS) -> None:
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
        fake.revoke()
        ended = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(error) for error in ended] == [AuthenticationError] * 3
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
        await client.list().first()  # the server has a task for this connection from now on
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


@pytest.mark.parametrize("what", [0, True, None, "501", BackupRef(0, 1), BackupRef(1, -1)])
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


# --- The hub by itself ---------------------------------------------------------------------------


class FakeSearch:
    """Finds every backup, after a given time and with a given number of requests."""

    def __init__(self, *, seconds: float = 0.0, requests: int = 1, done_at: float = 1e9) -> None:
        self.seconds = seconds
        self.requests = requests
        self.done_at = done_at
        self.looks: list[tuple[float, list[int]]] = []
        self.cancelled = 0

    def plan(self, wanted: Iterable[Wanted]) -> Plan:
        return Plan(list(wanted), {}, [])

    async def servers(self, *_: object, **options: object) -> AsyncGenerator[Finding]:
        for finding in ():
            yield finding

    async def sweep(
        self,
        wanted: Iterable[Wanted],
        known: Container[int],
        *,
        on_attempt: object,
        send: SendState,
    ) -> AsyncGenerator[Finding]:
        loop = asyncio.get_running_loop()
        wanted = list(wanted)
        ids = [one.id for one in wanted]
        self.looks.append((round(loop.time(), 3), ids))
        self.wanted = wanted
        send.on_the_wire, send.began = 1, [loop.time()]
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        status = BackupStatus("completed" if loop.time() >= self.done_at else "in_progress")
        found = tuple(one_backup(number, status) for number in sorted(set(ids)))
        yield Finding(None, found, requests=self.requests)


def one_backup(number: int, status: BackupStatus = BackupStatus.IN_PROGRESS) -> Backup:
    when = datetime(2025, 1, 16, tzinfo=UTC)
    return Backup(number, ServerRef(number, ""), BackupType.MANUAL, status, None, when, None, "")


def waiter(number: int, backoff: Backoff = EVERY_10, timeout: float | None = None) -> Waiter:
    backup = one_backup(number)
    return Waiter(
        backup.ref,
        backup,
        backoff=backoff,
        timeout=timeout,
        on_poll=None,
        on_unknown="wait",
        appear_grace=60,
    )


async def ended(hub: WaitHub, *waiters: Waiter) -> list[tuple[str, float]]:
    """How each wait ended, and when."""
    loop = asyncio.get_running_loop()

    async def end(one: Waiter) -> tuple[str, float]:
        try:
            kind = str((await hub.wait(one)).status)
        except (WaitError, asyncio.CancelledError) as error:
            kind = type(error).__name__
        return kind, round(loop.time(), 2)

    return await asyncio.gather(*map(end, waiters))


async def test_waiters_due_within_half_a_second_look_together_and_others_do_not() -> None:
    search = FakeSearch(done_at=10)
    hub = WaitHub(search, patience=30)
    await ended(hub, *(waiter(n, ConstantBackoff(10 + n / 10)) for n in (0, 3, 5, 6, 30)))
    assert search.looks == [(10.0, [0, 3, 5]), (10.6, [6]), (13.0, [30])]


async def test_after_a_dear_look_the_next_is_put_off_by_half_a_delay_at_most() -> None:
    search = FakeSearch(requests=1_000, done_at=40)
    await ended(WaitHub(search, patience=30), waiter(1))
    assert [when for when, _ in search.looks] == [10, 25, 40]


async def test_a_rest_ends_with_the_requests_that_earned_it() -> None:
    search = FakeSearch(requests=24, done_at=40)
    await ended(WaitHub(search, patience=30), waiter(1))
    assert [when for when, _ in search.looks] == [10, 22, 34, 46]


async def test_a_waiter_in_a_hurry_is_not_put_off_by_the_rest_of_patient_ones() -> None:
    search = FakeSearch(requests=1_000, done_at=105)
    await ended(
        WaitHub(search, patience=30),
        waiter(1, ConstantBackoff(100)),
        waiter(2, ConstantBackoff(4)),
    )
    steps = [when for when, _ in search.looks]
    hurried = [when for when in steps if when < 110]
    assert len(hurried) > 15
    assert max(later - sooner for sooner, later in pairwise(hurried)) <= 6


async def test_a_newcomer_who_is_due_sooner_wakes_the_hub() -> None:
    search = FakeSearch(done_at=9)
    hub = WaitHub(search, patience=30)
    patient = asyncio.create_task(hub.wait(waiter(1, ConstantBackoff(100))))
    await asyncio.sleep(5)
    assert await ended(hub, waiter(2, ConstantBackoff(4))) == [("completed", 9.0)]
    assert (await patient).is_completed
    assert [when for when, _ in search.looks] == [9, 100]


async def test_a_deadline_within_a_rest_ends_it() -> None:
    search = FakeSearch(requests=1_000)
    ends = await ended(WaitHub(search, patience=30), waiter(1, timeout=21))
    assert ends == [("WaitTimeoutError", 21.0)]
    assert [when for when, _ in search.looks] == [10, 21]


async def test_a_deadline_within_a_long_look_is_kept_to_one_request() -> None:
    search = FakeSearch(seconds=500)
    late = waiter(2, ConstantBackoff(15), timeout=15)
    ends = await ended(WaitHub(search, patience=30), waiter(1, timeout=1_000), late)
    assert ends == [("WaitTimeoutError", 1_020.0), ("WaitTimeoutError", 45.0)]


async def test_deadlines_at_any_time_are_each_kept() -> None:
    chance = random.Random(1)
    timeouts = [round(chance.uniform(0, 300), 3) for _ in range(500)]
    hub = WaitHub(FakeSearch(requests=40), patience=30)
    ends = await ended(hub, *(waiter(n, timeout=limit) for n, limit in enumerate(timeouts)))
    for (kind, when), limit in zip(ends, timeouts, strict=True):
        assert (kind, when) == ("WaitTimeoutError", pytest.approx(limit, abs=0.51))
        assert when >= round(limit, 2) - 0.01


async def test_a_backoff_of_zero_lets_others_run() -> None:
    search = FakeSearch(done_at=1.0)
    hub = WaitHub(search, patience=30)
    waiting = asyncio.create_task(ended(hub, waiter(1, ConstantBackoff(0), timeout=None)))
    for _ in range(50):
        await asyncio.sleep(0)
    assert 5 <= len(search.looks) <= 50
    await hub.close()
    assert (await waiting)[0][0] == "WaitError"


async def test_waiters_may_leave_and_come_in_the_middle_of_a_look() -> None:
    search = FakeSearch(seconds=5, done_at=45)
    hub = WaitHub(search, patience=30)
    tasks = [asyncio.create_task(hub.wait(waiter(number))) for number in (1, 1, 2)]
    await asyncio.sleep(12)
    tasks[0].cancel()
    tasks[2].cancel()
    tasks.append(asyncio.create_task(hub.wait(waiter(1, ConstantBackoff(1_000)))))
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, Backup) for end in ends] == [False, True, False, True]
    assert search.looks[1:] == [(25, [1]), (40, [1])]


async def test_a_hub_left_in_the_middle_of_a_look_serves_a_newcomer_at_once() -> None:
    search = FakeSearch(seconds=5, done_at=20)
    hub = WaitHub(search, patience=30)
    first = asyncio.create_task(ended(hub, waiter(1)))
    await asyncio.sleep(12)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await ended(hub, waiter(2)) == [("completed", 27.0)]
    assert search.cancelled == 1


async def test_a_hub_whose_task_is_cancelled_leaves_nobody_waiting() -> None:
    hub = WaitHub(FakeSearch(), patience=30)
    waiting = asyncio.create_task(ended(hub, waiter(1), waiter(2)))
    await asyncio.sleep(12)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "vpsbackups-wait-hub"]
    task.cancel()
    assert [kind for kind, _ in await waiting] == ["CancelledError"] * 2


async def test_a_hub_whose_look_is_cancelled_leaves_nobody_waiting_for_it() -> None:
    hub = WaitHub(FakeSearch(seconds=5, done_at=30), patience=30)
    waiting = asyncio.create_task(ended(hub, waiter(1), waiter(2, ConstantBackoff(30))))
    await asyncio.sleep(12)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "vpsbackups-look"]
    task.cancel()
    assert await waiting == [("CancelledError", 12.0), ("completed", 35.0)]


async def test_a_newcomer_waits_for_no_look_that_was_ended_with_its_hub() -> None:
    class SlowToEnd(FakeSearch):
        async def sweep(self, *args: Any, **options: Any) -> AsyncGenerator[Finding]:
            try:
                async for finding in super().sweep(*args, **options):
                    yield finding
            finally:
                await asyncio.sleep(2)

    hub = WaitHub(SlowToEnd(seconds=5, done_at=12), patience=30)
    first = asyncio.create_task(ended(hub, waiter(1)))
    await asyncio.sleep(12)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert await ended(hub, waiter(2, ConstantBackoff(0))) == [("completed", 17.0)]
    await hub.close()


async def test_a_search_that_breaks_ends_the_waits_of_that_look_alone() -> None:
    class Broken(FakeSearch):
        async def sweep(self, *args: Any, **options: Any) -> AsyncGenerator[Finding]:
            if asyncio.get_running_loop().time() < 15:
                raise WaitError(BackupRef(1), None, 0.0, "broken")
            async for finding in super().sweep(*args, **options):
                yield finding

    later = waiter(3, ConstantBackoff(20))
    ends = await ended(WaitHub(Broken(done_at=15), patience=30), waiter(1), waiter(2), later)
    assert ends == [*[("WaitError", 10.0)] * 2, ("completed", 20.0)]


class TwoLists(FakeSearch):
    """Backup 1 is looked for at its server, which takes 30 s and fails, the others by a sweep."""

    def plan(self, wanted: Iterable[Wanted]) -> Plan:
        wanted = list(wanted)
        first = [one for one in wanted if one.id == 1]
        return Plan([one for one in wanted if one.id > 1], {1: first} if first else {}, [])

    async def servers(
        self, wanted: dict[int, list[Wanted]], known: Container[int], **options: Any
    ) -> AsyncGenerator[Finding]:
        await asyncio.sleep(30)
        failed = frozenset(one.key for one in wanted[1])
        yield Finding(1, failed=failed, error=ServerError(500, "down"), requests=1)

    async def sweep(
        self, wanted: Iterable[Wanted], known: Container[int], **options: Any
    ) -> AsyncGenerator[Finding]:
        wanted = [*wanted, *([Wanted(1, 1)] if 1 in known else [])]
        async for finding in super().sweep(wanted, known, **options):
            yield finding


async def test_a_backup_that_another_look_shows_meanwhile_is_next_looked_for_after_that(
    caplog: pytest.LogCaptureFixture,
) -> None:
    polls: list[float] = []
    first = waiter(1, ConstantBackoff(50), timeout=230)
    first.on_poll = lambda attempt: polls.append(round(attempt.elapsed))
    search = TwoLists()
    ends = await ended(
        WaitHub(search, patience=30), first, waiter(2, ConstantBackoff(60), timeout=230)
    )
    # Its own looks begin at 50, 110, 170 and fail 30 s later; the sweeps are at 60, 120, 180.
    assert polls == [60, 120, 180, 230]
    assert [kind for kind, _ in ends] == ["WaitTimeoutError"] * 2
    assert first.error is None
    assert caplog.records == []


async def test_waiters_for_one_backup_share_what_each_wants_of_a_look() -> None:
    search = FakeSearch(done_at=1)
    brief = waiter(1)
    brief.appear_grace = 0
    unknown = Waiter(brief.ref, None, backoff=EVERY_10)
    await ended(WaitHub(search, patience=30), unknown, brief, waiter(1))
    assert search.wanted == [Wanted(1, 1, manual=False, proof=True)]


async def test_an_old_look_that_ends_late_does_not_end_a_rest() -> None:
    search = TwoLists(requests=1_000)
    await ended(
        WaitHub(search, patience=30),
        waiter(1, ConstantBackoff(10), timeout=44),
        waiter(2, ConstantBackoff(35), timeout=95),
    )
    assert [when for when, _ in search.looks] == [35, 87.5, 95]


async def test_a_waiter_often_put_off_leaves_nothing_behind() -> None:
    """It rides every look of another one and is planned anew each time."""
    hub = WaitHub(FakeSearch(done_at=5_000), patience=30)
    patient = asyncio.create_task(hub.wait(waiter(1, ConstantBackoff(100_000))))
    await asyncio.sleep(0)
    rider = asyncio.create_task(hub.wait(waiter(1, ConstantBackoff(1))))
    await asyncio.sleep(4_000)
    assert len(hub._due._spans) == 2
    assert len(hub._due._starts) < 200
    assert (await patient).is_completed
    assert (await rider).is_completed


async def test_ten_thousand_waiters_on_one_backup_come_and_go() -> None:
    search = FakeSearch(done_at=20)
    hub = WaitHub(search, patience=30)
    tasks = [asyncio.create_task(hub.wait(waiter(1))) for _ in range(10_000)]
    await asyncio.sleep(12)
    for task in reversed(tasks[5_000:]):
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(end, Backup) for end in ends) == 5_000
    assert len(search.looks) == 2


# --- The caller's code ---------------------------------------------------------------------------


class Teacher:
    """A backoff of 10 s whose `learn` raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, attempt: Attempt, /) -> float:
        return 10.0

    def learn(self, backup: Backup, running: float, completed: float) -> None:
        raise self.error


RAISED = [RuntimeError("broken"), asyncio.CancelledError()]


@pytest.mark.parametrize("error", RAISED, ids=["RuntimeError", "CancelledError"])
async def test_a_learn_or_on_poll_that_raises_is_logged_and_no_wait_ends_by_it(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def fail(attempt: Attempt) -> None:
        raise error

    async with one_try(fake) as client:
        first, second, third = [await client.create(server_id) for server_id in (1, 2, 3)]
        ends = await asyncio.gather(
            client.wait(first, backoff=Teacher(error)),
            client.wait(second, backoff=EVERY_10, on_poll=fail),
            client.wait(third, backoff=EVERY_10),
        )
    assert {end.status for end in ends} == {"completed"}
    said = [record.getMessage() for record in caplog.records]
    assert f"learn failed for backup {first.id}" in said
    assert f"on_poll failed for backup {second.id}" in said


@pytest.mark.parametrize("error", RAISED, ids=["RuntimeError", "CancelledError"])
async def test_a_backoff_that_raises_ends_its_own_wait_alone(
    fake: FakeVPS, error: BaseException
) -> None:
    def later(attempt: Attempt) -> float:
        if attempt.number > 1:
            raise error
        return 10.0

    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2)]
        ends = await asyncio.gather(
            client.wait(backups[0], backoff=later),
            client.wait(backups[1], backoff=EVERY_10),
            return_exceptions=True,
        )
    assert isinstance(ends[0], type(error))
    assert isinstance(ends[1], Backup)


async def test_an_async_on_poll_is_refused_for_nobody_would_await_it(fake: FakeVPS) -> None:
    async def on_poll(attempt: Attempt) -> None: ...

    async with one_try(fake) as client:
        backup = await client.create(1)
        with pytest.raises(ValueError, match="on_poll must be a plain function, not the coroutine"):
            await client.wait(backup, on_poll=on_poll)
