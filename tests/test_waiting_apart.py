"""Waits side by side: what goes wrong with one list or one wait is no matter of the others."""

import asyncio
import logging
from itertools import pairwise

import pytest
from helpers_waiting import EVERY_10, EVERY_LIST, FORBIDDEN, forbidden, one_try, timed

from vpsbackups_async import (
    Attempt,
    AuthenticationError,
    Backup,
    BackupDisappearedError,
    BackupNeverAppearedError,
    BackupRef,
    BackupsClient,
    ConstantBackoff,
    ExponentialBackoff,
    PermissionDeniedError,
    RetryPolicy,
    ServerError,
    Timeouts,
    WaitTimeoutError,
)
from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Latency,
    RateLimit,
    Reply,
    SeenRequest,
    ServerFault,
)

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.fake_vps(servers=500, backups=0, backup_seconds=100),
]


# --- A list that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Latency(100_000, query={"server_id": 3}),
        ServerFault(500, query={"server_id": 3}),
        ServerFault(503, retry_after=600, query={"server_id": 3}),
    ],
    ids=["hangs", "500", "503 for 600 s"],
)
@pytest.mark.parametrize("joint", [True, False], ids=["due together", "due apart"])
async def test_the_list_of_one_server_that_fails_delays_no_wait_for_another(
    fake: FakeVPS, fault: Fault, joint: bool
) -> None:
    fake.page_size = fake.max_page_size = 1  # so that each server is asked for its list
    fake.backup_seconds = lambda backup: 10 if backup["server"]["id"] == 31 else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        troubled = await client.create(3)
        for server_id in range(100, 200):
            fake.add_backup(server_id)
        other = await client.create(31)
        for server_id in range(200, 300):
            fake.add_backup(server_id)
        fake.inject(fault)
        waiting = asyncio.create_task(
            client.wait(troubled, backoff=ConstantBackoff(6 if joint else 5))
        )
        done, seconds = await timed(client.wait(other, backoff=ConstantBackoff(6)))
        waiting.cancel()
    assert isinstance(done, Backup)
    assert seconds <= 12.1


async def test_many_servers_that_hang_delay_no_wait_for_the_others(fake: FakeVPS) -> None:
    fake.page_size = fake.max_page_size = 1
    fake.backup_seconds = lambda backup: 10 if backup["server"]["id"] > 10 else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = []
        for server_id in range(1, 41):
            backups.append(await client.create(server_id))
            fake.add_backup(500)
        for server_id in range(1, 11):
            fake.inject(Latency(100_000, query={"server_id": server_id}))
        waits = [timed(client.wait(one, backoff=ConstantBackoff(6), timeout=60)) for one in backups]
        ends = await asyncio.gather(*waits)
    assert all(isinstance(end, Backup) and seconds <= 15.1 for end, seconds in ends[10:])


async def test_a_wait_whose_servers_list_keeps_failing_is_served_by_the_whole_list(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(500, query={"server_id": 3}))
    async with one_try(fake) as client:
        done, seconds = await timed(client.wait(await client.create(3), backoff=EVERY_10))
    assert isinstance(done, Backup)
    assert seconds <= 100.1
    assert fake.count("GET", "server_id=3") == 2


@pytest.mark.parametrize(
    "fault",
    [
        ServerFault(504, method="GET", query=EVERY_LIST),
        Latency(100_000, method="GET", query=EVERY_LIST),
    ],
    ids=["504", "hangs"],
)
async def test_waits_succeed_server_by_server_where_the_whole_list_always_fails(
    fake: FakeVPS, fault: Fault
) -> None:
    fake.inject(fault)
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        ends = await asyncio.gather(*(timed(client.wait(one, backoff=EVERY_10)) for one in backups))
    assert all(isinstance(end, Backup) and seconds <= 110.1 for end, seconds in ends)


@pytest.mark.parametrize(
    ("fault", "whole", "servers"),
    [
        (ServerFault(500, method="GET", query=EVERY_LIST, times=8), 30, 450),
        (ServerFault(500, method="GET", query=EVERY_LIST), 16, 1_000),
        (Latency(100_000, method="GET", query=EVERY_LIST), 2, 1_000),
    ],
    ids=["works again", "fails at once", "hangs"],
)
async def test_a_whole_list_that_fails_at_once_is_tried_again_before_many_servers_are_asked(
    fake: FakeVPS, fault: Fault, whole: int, servers: int
) -> None:
    fake.backup_seconds = 290
    fake.inject(fault)
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 51)]
        ends = await asyncio.gather(*(timed(client.wait(one, backoff=EVERY_10)) for one in backups))
    assert all(isinstance(end, Backup) and seconds <= 305 for end, seconds in ends)
    asked = ["server_id" in seen.query for seen in fake.requests if seen.method == "GET"]
    assert asked.count(False) <= whole
    assert asked.count(True) <= servers


async def test_a_wait_that_joins_a_sweep_that_hangs_goes_by_its_own_servers_list(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = lambda backup: 40 if backup["server"]["id"] == 9 else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        late = await client.create(9)
        fake.inject(Latency(100_000, method="GET", query=EVERY_LIST))
        waits = [asyncio.create_task(client.wait(one, backoff=EVERY_10)) for one in backups]
        await asyncio.sleep(5)
        done, seconds = await timed(client.wait(late, backoff=EVERY_10))
        for one in waits:
            one.cancel()
    assert isinstance(done, Backup)
    assert seconds <= 46


async def test_waits_that_join_a_sweep_that_gets_stuck_go_by_their_servers_lists(
    fake: FakeVPS,
) -> None:
    """The first of two pages comes, the second one hangs."""
    fake.backup_seconds = lambda backup: 12 if backup["server"]["id"] > 100 else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 151)]
        fake.inject(Latency(100_000, query={"page": 2}))
        waits = [asyncio.create_task(client.wait(one, backoff=EVERY_10)) for one in backups[:100]]
        await asyncio.sleep(5)
        ends = await asyncio.gather(
            *(timed(client.wait(one, backoff=EVERY_10)) for one in backups[100:])
        )
        for one in waits:
            one.cancel()
    assert all(isinstance(end, Backup) and seconds <= 46 for end, seconds in ends)


async def test_a_list_that_failed_once_is_tried_again_in_the_same_way(fake: FakeVPS) -> None:
    fake.inject(ServerFault(500, method="GET", times=1))
    async with one_try(fake) as client:
        await client.wait(await client.create(7), backoff=EVERY_10)
    assert {seen.query.get("server_id") for seen in fake.requests if seen.method == "GET"} == {"7"}


async def test_a_list_that_works_again_is_found_out_in_time(fake: FakeVPS) -> None:
    fake.backup_seconds = 2_000
    fake.inject(ServerFault(500, times=2, query={"server_id": 7}))
    async with one_try(fake) as client:
        await client.wait(await client.create(7), backoff=EVERY_10)
    whole = [
        seen.at
        for seen in fake.requests
        if seen.query.get("page_size") and "server_id" not in seen.query
    ]
    assert 280 <= whole[-1] - whole[0] <= 310


async def test_a_503_that_asks_for_time_gets_it_from_all_who_want_that_list(fake: FakeVPS) -> None:
    """The whole list is down too, so that there is no other way."""
    fake.inject(ServerFault(503, retry_after=600, query={"server_id": 3}))
    fake.inject(ServerFault(503, retry_after=500, method="GET", query=EVERY_LIST))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backup = await client.create(3)
        waits = [
            client.wait(backup, backoff=ConstantBackoff(every), timeout=450) for every in (5, 7, 11)
        ]
        ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [WaitTimeoutError] * 3
    assert fake.count("GET") == 2


async def test_a_backoff_of_zero_leaves_a_list_alone_that_asks_for_time(fake: FakeVPS) -> None:
    fake.inject(ServerFault(503, retry_after=600, method="GET"))
    async with one_try(fake) as client:
        backup = await client.create(1)
        end, seconds = await timed(client.wait(backup, backoff=ConstantBackoff(0), timeout=30))
    assert isinstance(end, WaitTimeoutError)
    assert seconds == pytest.approx(30, abs=0.1)
    assert fake.count("GET") == 2


async def test_a_busy_outage_of_everything_is_met_with_few_requests(fake: FakeVPS) -> None:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 401)]
        fake.inject(ServerFault(503))
        fake.requests.clear()
        waits = [client.wait(one, backoff=EVERY_10, timeout=300) for one in backups]
        ends = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(end) for end in ends} == {WaitTimeoutError}
    assert fake.count() <= 600


# --- A 403 and a 401 -----------------------------------------------------------------------------


async def test_a_403_for_one_servers_list_ends_the_waits_of_that_server_alone(
    fake: FakeVPS,
) -> None:
    fake.inject(forbidden(3))
    async with one_try(fake) as client:
        third, other = await client.create(3), await client.create(31)
        ends = await asyncio.gather(
            timed(client.wait(third, backoff=EVERY_10)),
            timed(client.wait(third, backoff=ConstantBackoff(1_000))),
            timed(client.wait(other, backoff=ConstantBackoff(11))),
        )
    assert [type(end) for end, _ in ends] == [PermissionDeniedError] * 2 + [Backup]
    assert [seconds for _, seconds in ends[:2]] == pytest.approx([10, 10], abs=0.1)


async def test_a_403_of_the_whole_list_leaves_the_waits_to_the_servers_own_lists(
    fake: FakeVPS,
) -> None:
    fake.inject(forbidden(None), forbidden(4))
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3, 4)]
        waits = [client.wait(one, backoff=EVERY_10) for one in backups]
        waits.append(client.wait(BackupRef(backups[0].id), backoff=EVERY_10))
        ends = await asyncio.gather(*waits, return_exceptions=True)
    assert [type(end) for end in ends] == [Backup] * 3 + [PermissionDeniedError] * 2


async def test_a_403_of_every_list_ends_all_waits_at_once(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        fake.forbid()
        every = [EVERY_10, EVERY_10, EVERY_10, ConstantBackoff(1_000), ConstantBackoff(1_000)]
        ends = await asyncio.gather(*(
            timed(client.wait(one, backoff=backoff))
            for one, backoff in zip(backups, every, strict=True)
        ))  # fmt: skip
    assert [type(end) for end, _ in ends] == [PermissionDeniedError] * 5
    assert max(seconds for _, seconds in ends) < 11


async def test_a_401_for_one_servers_list_ends_all_waits(fake: FakeVPS) -> None:
    fake.inject(Reply(401, FORBIDDEN, method="GET", query={"server_id": 3}))
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (3, 31)]
        ends = await asyncio.gather(
            timed(client.wait(backups[0], backoff=EVERY_10)),
            timed(client.wait(backups[1], backoff=ConstantBackoff(1_000))),
        )
    assert [type(end) for end, _ in ends] == [AuthenticationError] * 2


# --- A 429 ---------------------------------------------------------------------------------------


async def test_429s_of_everything_make_few_servers_be_asked_instead_of_the_whole_list(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = 400
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 201)]
        fake.inject(RateLimit(20, method="GET"))
        waits = [asyncio.create_task(client.wait(one, backoff=EVERY_10)) for one in backups]
        await asyncio.sleep(300)
        fake.clear_faults()
        await asyncio.gather(*waits)
    asked = [seen for seen in fake.requests if seen.method == "GET" and "server_id" in seen.query]
    assert len(asked) <= 60


async def test_a_429_for_ever_is_over_after_an_hour(fake: FakeVPS) -> None:
    fake.backup_seconds = 10
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        first, second = await client.create(1), await client.create(2)
        fake.inject(RateLimit(9_999_999_999, method="GET", times=1))
        with pytest.raises(WaitTimeoutError):
            await client.wait(first, backoff=EVERY_10, timeout=60)
        await asyncio.sleep(86_400)
        done, seconds = await timed(client.wait(second))
    assert isinstance(done, Backup)
    assert seconds <= 60


async def test_a_closed_gate_leaves_the_timeout_of_every_wait_exact(fake: FakeVPS) -> None:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backup = await client.create(1)
        fake.inject(RateLimit(100, method="GET", times=1))
        listing = asyncio.create_task(client.list().first())
        end, seconds = await timed(client.wait(backup, backoff=EVERY_10, timeout=60))
        await listing
    assert isinstance(end, WaitTimeoutError)
    assert seconds == pytest.approx(60, abs=0.1)


async def test_while_looks_stand_at_a_closed_gate_one_warning_a_minute_says_so(
    fake: FakeVPS,
) -> None:
    warned = []

    class Times(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "looks fail for 1 of 1 waits" in record.getMessage():
                warned.append(round(asyncio.get_running_loop().time() - began))

    times = Times()
    logging.getLogger("vpsbackups_async").addHandler(times)
    try:
        async with BackupsClient(fake.token, base_url=fake.url) as client:
            backup = await client.create(1)
            fake.inject(RateLimit(110, method="GET"))
            began = asyncio.get_running_loop().time()
            await timed(client.wait(backup, backoff=EVERY_10, timeout=600))
    finally:
        logging.getLogger("vpsbackups_async").removeHandler(times)
    gaps = [later - sooner for sooner, later in pairwise([10, *warned, 600])]
    assert max(gaps) <= 61
    assert len(warned) <= 11


# --- The right id with the wrong server ----------------------------------------------------------


@pytest.mark.parametrize("others", [0, 10], ids=["at its server", "in a sweep"])
async def test_a_wait_for_the_right_id_with_the_wrong_server_spoils_no_other(
    fake: FakeVPS, others: int
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        more = [await client.create(server_id) for server_id in range(101, 101 + others)]
        ends = await asyncio.gather(
            timed(client.wait(backup, backoff=EVERY_10)),
            timed(client.wait(BackupRef(backup.id, 2), backoff=EVERY_10)),
            timed(client.wait(BackupRef(backup.id), backoff=EVERY_10)),
            *(timed(client.wait(one, backoff=EVERY_10)) for one in more),
        )
    assert [type(end) for end, _ in ends[:3]] == [Backup, BackupNeverAppearedError, Backup]
    assert all(isinstance(end, Backup) for end, _ in ends[3:])
    assert ends[0][1] == ends[2][1] == pytest.approx(100, abs=0.1)
    assert ends[1][1] == pytest.approx(60, abs=0.1)


# --- A server that ignores a filter --------------------------------------------------------------


async def test_a_server_that_ignores_server_id_costs_little_more_than_its_whole_list(
    fake: FakeVPS,
) -> None:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backups = [await client.create(server_id) for server_id in range(1, 41)]
        for number in range(5_060):
            fake.add_backup(100 + number % 400)
        fake.ignores_filters = ["server_id"]
        fake.requests.clear()
        done = await asyncio.gather(
            *(client.wait(one, backoff=ConstantBackoff(50)) for one in backups)
        )
    assert {one.status for one in done} == {"completed"}
    looks = [seen.at for seen in fake.requests]
    first = sum(at < looks[0] + 40 for at in looks)
    assert first <= 3 * 51
    assert len(looks) - first <= 51


async def test_a_server_that_heeds_server_id_again_is_asked_for_servers_lists_again(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = 2_000
    fake.ignores_filters = ["server_id"]
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backup = await client.create(1)
        for _ in range(300):
            fake.add_backup(2)
        waiting = asyncio.create_task(client.wait(backup, backoff=EVERY_10))
        await asyncio.sleep(100)
        fake.ignores_filters = []
        fake.requests.clear()
        assert (await waiting).is_completed
    filtered = [seen for seen in fake.requests if "server_id" in seen.query]
    whole = [seen for seen in fake.requests if "server_id" not in seen.query]
    assert max(seen.at for seen in whole) < min(seen.at for seen in filtered)
    assert len(filtered) >= 100


# --- An outage -----------------------------------------------------------------------------------


async def test_looks_that_fail_leave_the_retry_budget_to_other_calls(fake: FakeVPS) -> None:
    fake.inject(ServerFault(500, method="GET"))
    retry = RetryPolicy(budget=3)
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
        backup = await client.create(7)
        with pytest.raises(WaitTimeoutError):
            await client.wait(backup, backoff=EVERY_10, timeout=900)
        fake.clear_faults()
        fake.inject(Drop("before", times=1))
        assert [one.id async for one in client.list(server_id=7)] == [backup.id]


@pytest.mark.parametrize("timeout", [5, 8, 60], ids=["at the last look", "within one", "later"])
async def test_an_outage_leaves_the_timeout_exact_and_is_told_with_it(
    fake: FakeVPS, timeout: float
) -> None:
    """The first look, at 5 s, pauses for 5 s before each further attempt."""
    fake.inject(ServerFault(503, method="GET"))
    retry = RetryPolicy(backoff=ConstantBackoff(5))
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
        backup = await client.create(1)
        end, seconds = await timed(client.wait(backup, timeout=timeout))
    assert isinstance(end, WaitTimeoutError)
    assert seconds == pytest.approx(timeout, abs=0.1)
    assert isinstance(end.__cause__, ServerError)
    assert "503" in str(end)
    assert "The server is not available" in str(end)


async def test_a_list_that_hangs_delays_the_timeout_by_one_request_at_most(fake: FakeVPS) -> None:
    """Also where the look began just before the time was up."""
    fake.inject(Latency(100_000, method="GET"))
    limits = Timeouts(attempt=20)
    async with BackupsClient(fake.token, base_url=fake.url, timeouts=limits) as client:
        backup = await client.create(1)
        ends = await asyncio.gather(
            *(timed(client.wait(backup, backoff=EVERY_10, timeout=at)) for at in (11, 40, 95))
        )
    assert all(isinstance(end, WaitTimeoutError) for end, _ in ends)
    assert all(
        limit <= seconds <= limit + 20.1
        for (_, seconds), limit in zip(ends, (11, 40, 95), strict=True)
    )


async def test_the_last_look_comes_at_the_deadline_also_after_one_that_failed(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = 12
    fake.inject(ServerFault(503, method="GET", times=2))
    retry = RetryPolicy(attempts=2, backoff=ConstantBackoff(0))
    async with BackupsClient(fake.token, base_url=fake.url, retry=retry) as client:
        backup = await client.create(1)
        ends = await asyncio.gather(
            *(timed(client.wait(backup, backoff=EVERY_10, timeout=at)) for at in (15, 15, 14, 13))
        )
    assert all(isinstance(end, Backup) for end, _ in ends)


async def test_a_wait_that_is_cancelled_within_a_sweep_is_not_looked_for_at_its_server(
    fake: FakeVPS,
) -> None:
    fake.page_size = fake.max_page_size = 10
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in (1, 2, 3)]
        for server_id in range(101, 501):  # newer ones push them off the first pages
            fake.add_backup(server_id)
        fake.inject(Latency(5, query=EVERY_LIST, method="GET"))
        waits = [
            asyncio.create_task(client.wait(one, backoff=ConstantBackoff(100))) for one in backups
        ]
        await asyncio.sleep(102)
        waits[1].cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    asked = [seen.query.get("server_id") for seen in fake.requests if seen.method == "GET"]
    assert asked == [None, "1", "3"]


async def test_a_look_that_goes_on_after_a_failed_attempt_gets_its_time_at_the_deadline(
    fake: FakeVPS,
) -> None:
    """The second page fails once; the third, which has the backup, takes 20 s."""
    fake.backup_seconds = 12
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        backup = await client.create(1)
        for _ in range(250):
            fake.add_backup(1)
        fake.inject(ServerFault(503, times=1, query={"page": 2}), Latency(20, query={"page": 3}))
        end, seconds = await timed(client.wait(backup, backoff=EVERY_10, timeout=15))
    assert isinstance(end, Backup)
    assert 30 <= seconds <= 32


async def test_an_outage_is_said_once_a_minute_with_its_cause_and_how_many_wait(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 6)]
        fake.inject(ServerFault(503, method="GET"))
        waits = [client.wait(one, backoff=EVERY_10, timeout=600) for one in backups]
        await asyncio.gather(*waits, return_exceptions=True)
    said = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert 9 <= len(said) <= 11
    for one in said:
        assert "looks fail for 5 of 5 waits" in one.getMessage()
        assert "503" in one.getMessage()


async def test_one_failed_look_of_many_is_not_said_again(
    fake: FakeVPS, caplog: pytest.LogCaptureFixture
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        fake.inject(ServerFault(503, method="GET", times=1))
        await client.wait(backup, backoff=EVERY_10)
    said = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(said) == 1


# --- What one look proves ------------------------------------------------------------------------

EMPTY = Reply(200, b'{"count": 0, "results": []}', method="GET")
MOVED = (
    Reply(
        200, b'{"count": 0, "next": "?page=2", "results": []}', method="GET", query={"page": None}
    ),
    Reply(200, b'{"count": 1, "next": null, "results": []}', method="GET", query={"page": 2}),
)
"""An empty list of two pages, whose total changes between them."""


async def test_a_look_that_the_deadline_cuts_short_proves_nothing_and_serves_the_others(
    fake: FakeVPS,
) -> None:
    """Each of three pages takes 20 s, and the backup is on the last."""
    async with one_try(fake) as client:
        backup = await client.create(1)
        for _ in range(250):
            fake.add_backup(1)
        fake.inject(Latency(20, method="GET"))
        every_90 = ConstantBackoff(90)
        short, long = await asyncio.gather(
            timed(client.wait(backup.ref, backoff=every_90, timeout=91, appear_grace=0)),
            timed(client.wait(backup.ref, backoff=every_90, timeout=200, appear_grace=0)),
        )
    assert (type(short[0]), short[1]) == (WaitTimeoutError, pytest.approx(110, abs=0.3))
    assert (type(long[0]), long[1]) == (Backup, pytest.approx(150, abs=0.1))


async def test_a_look_at_a_list_that_moved_is_no_proof_that_a_backup_is_gone(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        waiting = asyncio.create_task(client.wait(await client.create(1), backoff=EVERY_10))
        await asyncio.sleep(15)
        fake.inject(*MOVED)
        await asyncio.sleep(50)
        fake.clear_faults()
        assert (await waiting).is_completed
    assert fake.count("GET", "page=2") == 5


async def test_looks_without_a_backup_that_are_not_in_a_row_do_not_make_it_gone(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        waiting = asyncio.create_task(client.wait(await client.create(1), backoff=EVERY_10))
        await asyncio.sleep(15)
        for _ in range(4):
            fake.inject(EMPTY)
            await asyncio.sleep(10)
            fake.clear_faults()
            await asyncio.sleep(10)
        assert (await waiting).is_completed


async def test_failed_looks_between_two_without_a_backup_leave_them_in_a_row(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        wait = client.wait(backup, backoff=EVERY_10, appear_grace=30)
        waiting = asyncio.create_task(timed(wait))
        await asyncio.sleep(15)
        fake.remove_backup(backup.id)
        await asyncio.sleep(10)
        fake.inject(ServerFault(500, times=1))
        end, seconds = await waiting
    assert isinstance(end, BackupDisappearedError)
    assert seconds == pytest.approx(40, abs=0.1)


async def test_a_backup_is_not_gone_while_replicas_that_lag_may_answer(fake: FakeVPS) -> None:
    """One look shows it, and the two after that come from replicas that do not have it yet."""

    def lag(seen: SeenRequest) -> None:
        if seen.method == "GET" and fake.count("GET") in {2, 3}:
            fake.inject(Reply(200, b'{"count": 0, "results": []}', method="GET", times=1))

    fake.on_request = lag
    async with one_try(fake) as client:
        backup = await client.create(1)
        assert (await client.wait(backup, backoff=EVERY_10)).id == backup.id


async def test_looks_of_others_do_not_make_a_waits_own_delays_grow(fake: FakeVPS) -> None:
    fake.backup_seconds = lambda made: 62.0 if made["id"] == 1 else 58.0
    async with one_try(fake) as client:
        slow, quick = [await client.create(1) for _ in range(2)]
        growing = ExponentialBackoff(1, maximum=1800)
        calls = [
            timed(client.wait(slow, backoff=growing)),
            timed(client.wait(quick, backoff=ConstantBackoff(1))),
        ]
        (_, seconds), _ = await asyncio.gather(*calls)
    assert seconds <= 66


@pytest.mark.parametrize("raiser", ["on_poll", "backoff", "learn"])
@pytest.mark.parametrize("raised", [pytest.fail.Exception, StopIteration])
async def test_whatever_a_callback_raises_ends_no_other_wait(
    fake: FakeVPS, raiser: str, raised: type[BaseException]
) -> None:
    class Raises(ConstantBackoff):
        def __call__(self, attempt: Attempt, /) -> float:
            if raiser == "backoff" and attempt.number > 1:
                raise raised("of the caller's code")
            return self.delay

        def learn(self, backup: Backup, running: float, completed: float) -> None:
            raise raised("of the caller's code")

    def on_poll(_: Attempt) -> None:
        if raiser == "on_poll":
            raise raised("of the caller's code")

    async with one_try(fake) as client:
        mine, other = [await client.create(server_id) for server_id in (1, 2)]
        backoff = Raises(10) if raiser != "on_poll" else ConstantBackoff(10)
        ends = await asyncio.gather(
            client.wait(mine, backoff=backoff, on_poll=on_poll, timeout=None),
            client.wait(other, backoff=EVERY_10),
            return_exceptions=True,
        )
    assert isinstance(ends[1], Backup)
    logged = raised is StopIteration and raiser != "backoff"
    if logged:
        assert isinstance(ends[0], Backup)
    else:
        assert isinstance(ends[0], RuntimeError if raised is StopIteration else raised)


async def test_a_timeout_says_that_the_last_look_got_no_answer(fake: FakeVPS) -> None:
    fake.inject(Latency(1000, method="GET"))
    async with one_try(fake) as client:
        backup = await client.create(1)
        with pytest.raises(WaitTimeoutError, match="got no answer"):
            await client.wait(backup, backoff=EVERY_10, timeout=4)


async def timed_out(client: BackupsClient, servers: int, timeout: float) -> list[tuple[float, str]]:
    """How late waits on so many servers were told that their time is up, and in what words."""
    backups = [BackupRef(number, number) for number in range(1, servers + 1)]
    calls = [timed(client.wait(one, backoff=EVERY_10, timeout=timeout)) for one in backups]
    ends = await asyncio.gather(*calls)
    assert {type(error) for error, _ in ends} == {WaitTimeoutError}
    return [(seconds - timeout, str(error)) for error, seconds in ends]


async def test_a_timeout_comes_one_page_late_at_most_where_a_long_sweep_goes_on(
    fake: FakeVPS,
) -> None:
    fake.page_size = fake.max_page_size = 1
    fake.backup_seconds = 10_000
    for number in range(1, 31):
        fake.add_backup(number, status="in_progress")
    fake.inject(Latency(4, method="GET"))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        waits = [
            timed(client.wait(number, backoff=EVERY_10, timeout=30))
            for number in (one["id"] for one in fake.backups)
        ]
        ends = await asyncio.gather(*waits)
    assert all(seconds <= 30 + 4 + 0.3 for _, seconds in ends)
    assert all("the last look was not over" in str(error) for error, _ in ends)


async def test_a_timeout_comes_at_once_where_the_look_is_not_sent_yet(fake: FakeVPS) -> None:
    """Sixteen lists are read at once, for two seconds each."""
    fake.inject(forbidden(None), Latency(2, method="GET"))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        ends = await timed_out(client, 60, 3)
    assert max(late for late, _ in ends) <= 2.3
    assert sum("the last look was not sent yet" in words for _, words in ends) >= 20


async def test_a_timeout_comes_at_once_where_a_gate_closes_while_the_look_is_in_line(
    fake: FakeVPS,
) -> None:
    fake.inject(ServerFault(503, retry_after=600, method="GET"))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        ends = await timed_out(client, 30, 5)
    assert max(late for late, _ in ends) <= 0.3
