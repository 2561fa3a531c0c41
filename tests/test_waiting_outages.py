"""Waits while many lists fail: those whose own lists work are served, with few requests."""

import asyncio
import gc
import json
from collections.abc import Sequence
from datetime import datetime

import attrs
import pytest
from helpers_waiting import EVERY_10, EVERY_LIST, forbidden, one_try, timed

from vpsbackups_async import (
    Backup,
    BackupDisappearedError,
    BackupRef,
    BackupsClient,
    ConstantBackoff,
    InvalidResponseError,
    PermissionDeniedError,
    WaitTimeoutError,
)
from vpsbackups_async._waiting.looks import Looks
from vpsbackups_async._waiting.waiter import Batch, Waiter
from vpsbackups_async.testing import (
    FakeVPS,
    Fault,
    Latency,
    RateLimit,
    Reply,
    SeenRequest,
    ServerFault,
)
from vpsbackups_async.testing.replies import Answer, Sendable

pytestmark = [
    pytest.mark.virtual_time,
    pytest.mark.fake_vps(servers=500, backups=0, backup_seconds=100),
]
HEALTHY = 400
"""The server whose own list works."""


async def waits_of(
    client: BackupsClient, servers: Sequence[int], **options: float
) -> list[asyncio.Task[Backup]]:
    """Waits for a new backup on each of these servers, which look together."""
    backups = [await client.create(server_id) for server_id in servers]
    return [asyncio.create_task(client.wait(one, backoff=EVERY_10, **options)) for one in backups]


async def end(waits: Sequence[asyncio.Task[Backup]]) -> list[Backup | BaseException]:
    for wait in waits:
        wait.cancel()
    return await asyncio.gather(*waits, return_exceptions=True)


# --- Every list but one fails --------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0, 3], ids=["due together", "due apart"])
@pytest.mark.parametrize(
    "fault",
    [
        lambda server_id: ServerFault(500, method="GET", query={"server_id": server_id}),
        lambda server_id: Latency(100_000, method="GET", query={"server_id": server_id}),
    ],
    ids=["500", "hangs"],
)
async def test_a_server_whose_own_list_works_is_served_while_all_others_fail(
    fake: FakeVPS, fault: type[Fault], apart: float
) -> None:
    fake.backup_seconds = lambda made: 300 if made["server"]["id"] == HEALTHY else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = await waits_of(client, range(1, 81))
        fake.inject(fault(None), *map(fault, range(1, 81)))
        await asyncio.sleep(apart)
        done, seconds = await timed(client.wait(await client.create(HEALTHY), backoff=EVERY_10))
        await end(others)
    assert isinstance(done, Backup)
    assert seconds <= 320


async def test_a_server_whose_list_failed_once_is_found_again_among_many_that_fail(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = lambda made: 100 if made["server"]["id"] == HEALTHY else 10_000
    async with one_try(fake) as client:
        others = await waits_of(client, range(1, 81))
        for server_id in (None, *range(1, 81)):
            fake.inject(ServerFault(500, method="GET", query={"server_id": server_id}))
        fake.inject(ServerFault(500, times=1, method="GET", query={"server_id": HEALTHY}))
        backup = await client.create(HEALTHY)
        done, seconds = await timed(client.wait(backup, backoff=EVERY_10, timeout=1_000))
        await end(others)
    assert isinstance(done, Backup)
    assert seconds <= 300


@pytest.mark.parametrize(("status", "requests"), [(500, 1), (404, 1), (400, 2)])
async def test_lists_that_fail_are_asked_seldom_while_none_works(
    fake: FakeVPS, status: int, requests: int
) -> None:
    """Also where each wait is due at a time of its own. After a 400, `page_size` is left out."""
    async with one_try(fake) as client:
        backups = [await client.create(server_id) for server_id in range(1, 101)]
        fake.inject(Reply(status, b'{"detail": "No."}', method="GET"))
        fake.requests.clear()
        waits = []
        for one in backups:
            waits.append(asyncio.create_task(client.wait(one, backoff=EVERY_10, timeout=300)))
            await asyncio.sleep(0.7)
        ends = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(one) for one in ends} == {WaitTimeoutError}
    assert fake.count() <= 400 * requests


# --- A 403 ---------------------------------------------------------------------------------------


async def test_a_wait_whose_own_list_works_is_not_ended_by_the_403s_of_others(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        healthy = await client.create(HEALTHY)
        others = await waits_of(client, range(1, 6))
        fake.inject(forbidden(None), *map(forbidden, range(1, 6)))
        done = await client.wait(healthy, backoff=ConstantBackoff(11))
        ends = await asyncio.gather(*others, return_exceptions=True)
    assert done.is_completed
    assert {type(one) for one in ends} == {PermissionDeniedError}


@pytest.mark.parametrize("refused", [5, 4], ids=["all", "all but one"])
async def test_after_403s_of_all_lists_asked_those_that_were_not_due_are_asked(
    fake: FakeVPS, refused: int
) -> None:
    async with one_try(fake) as client:
        healthy = await client.create(HEALTHY)
        late = asyncio.create_task(client.wait(healthy, backoff=ConstantBackoff(200)))
        others = await waits_of(client, range(1, 6))
        fake.inject(forbidden(None), *map(forbidden, range(1, refused + 1)))
        await asyncio.gather(*others[:refused], return_exceptions=True)
        await asyncio.sleep(1)
        assert fake.count("GET", f"server_id={HEALTHY}") == (1 if refused == 5 else 0)
        assert (await late).is_completed
        await end(others)


async def test_a_wait_by_id_alone_goes_by_its_servers_list_once_a_list_has_shown_it(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(7)
        await client.wait(BackupRef(backup.id), backoff=EVERY_10)
    asked = [seen.query.get("server_id") for seen in fake.requests if seen.method == "GET"]
    assert asked == [None, *["7"] * 9]


@pytest.mark.parametrize("server_id", [None, 7])
async def test_a_wait_by_id_alone_is_ended_by_the_403_of_the_server_that_was_shown(
    fake: FakeVPS, server_id: int | None
) -> None:
    """One of the whole list is no matter of it any more."""
    async with one_try(fake) as client:
        backup = await client.create(7)
        waiting = asyncio.create_task(client.wait(BackupRef(backup.id), backoff=EVERY_10))
        await asyncio.sleep(15)
        fake.inject(forbidden(server_id))
        unknown = asyncio.create_task(client.wait(BackupRef(99), backoff=EVERY_10, timeout=40))
        ends = await asyncio.gather(waiting, unknown, return_exceptions=True)
    refused = [isinstance(one, PermissionDeniedError) for one in ends]
    assert refused == [server_id == 7, server_id is None]


# --- Lists that hang -----------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [0, 0.1], ids=["due together", "due apart"])
async def test_lists_that_hang_leave_places_for_those_that_answer(
    fake: FakeVPS, apart: float
) -> None:
    fake.page_size = fake.max_page_size = 1  # so that each server is asked for its list
    fake.backup_seconds = lambda made: 12 if made["server"]["id"] == HEALTHY else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = []
        for server_id in range(1, 71):
            others += await waits_of(client, [server_id])
            fake.add_backup(500)
            fake.inject(Latency(100_000, method="GET", query={"server_id": server_id}))
            await asyncio.sleep(apart)
        healthy = await client.create(HEALTHY)
        for _ in range(200):  # newer ones push it off the first pages
            fake.add_backup(500)
        done, seconds = await timed(client.wait(healthy, backoff=EVERY_10))
        await end(others)
    assert isinstance(done, Backup)
    assert seconds <= 30


async def test_the_looks_of_a_client_at_servers_lists_share_their_places(fake: FakeVPS) -> None:
    fake.page_size = fake.max_page_size = 1
    fake.backup_seconds = 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = []
        for server_id in range(1, 101):
            others += await waits_of(client, [server_id])
            fake.add_backup(500)
            await asyncio.sleep(0.2)
        fake.inject(Latency(1.5, method="GET"))
        await asyncio.sleep(100)
        await end(others)
    assert fake.peak <= 17


async def test_lists_that_are_all_slow_are_soon_not_given_up_any_more(fake: FakeVPS) -> None:
    fake.inject(Latency(8, method="GET"), ServerFault(500, method="GET", query=EVERY_LIST))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        waits = await waits_of(client, range(1, 201), timeout=900)
        ends = await asyncio.gather(*(timed(wait) for wait in waits))
    assert all(isinstance(one, Backup) and seconds <= 240 for one, seconds in ends)
    cut = [seen.number for seen in fake.requests if seen.status is None]
    assert len(cut) <= 20
    assert cut[-1] < fake.requests[-1].number - 300


async def test_a_list_that_failed_seldom_comes_before_those_that_fail_always(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = lambda made: 200 if made["server"]["id"] == HEALTHY else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = await waits_of(client, range(1, 81))
        fake.inject(
            *(
                Latency(100_000, method="GET", query={"server_id": one})
                for one in (None, *range(81))
            )
        )
        healthy = await client.create(HEALTHY)
        waiting = asyncio.create_task(timed(client.wait(healthy, backoff=EVERY_10)))
        await asyncio.sleep(100)
        fake.inject(ServerFault(500, times=1, method="GET", query={"server_id": HEALTHY}))
        done, seconds = await waiting
        await end(others)
    assert isinstance(done, Backup)
    assert seconds <= 200 + 10 + 30


async def test_lists_that_work_again_do_not_stand_in_line_behind_those_that_hang(
    fake: FakeVPS,
) -> None:
    """All failed once or twice, but those that hang would keep the places for half a minute."""
    fake.backup_seconds = 150
    hang = [Latency(100_000, method="GET", query={"server_id": one}) for one in range(1, 201)]
    broken = [ServerFault(500, method="GET", query={"server_id": one}) for one in range(201, 221)]
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = await waits_of(client, range(1, 201))
        waits = [asyncio.create_task(timed(one)) for one in await waits_of(client, range(201, 221))]
        fake.inject(forbidden(None), *hang)
        await asyncio.sleep(100)
        fake.inject(*broken)
        await asyncio.sleep(30)
        fake.clear_faults()
        fake.inject(forbidden(None), *hang)
        ends = await asyncio.gather(*waits)
        await end(others)
    assert all(isinstance(one, Backup) and seconds <= 150 + 10 + 30.1 for one, seconds in ends)


async def test_lists_that_always_say_429_do_not_keep_the_others_from_being_asked(
    fake: FakeVPS,
) -> None:
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        others = await waits_of(client, range(1, 18))
        waits = await waits_of(client, range(101, 201))
        limits = [RateLimit(30, method="GET", query={"server_id": one}) for one in range(1, 18)]
        fake.inject(forbidden(None), *limits)
        ends = await asyncio.gather(*(timed(wait) for wait in waits))
        await end(others)
    assert max(seconds for _, seconds in ends) <= 330
    assert all(isinstance(one, Backup) for one, _ in ends)


# --- The list of all servers ---------------------------------------------------------------------


@attrs.frozen
class Unreadable(Fault):
    """Makes one backup in a list unreadable: its size is a text."""

    backup_id: int

    def strike(self, answer: Answer | None, _now: datetime, /) -> Sendable:
        assert answer is not None
        page = json.loads(answer.body)
        for one in page["results"]:
            if one["id"] == self.backup_id:
                one["size_mb"] = "big"
        return attrs.evolve(answer, body=json.dumps(page).encode())


def unreadable(backup_id: int) -> Unreadable:
    return Unreadable(backup_id, method="GET", when="after")


async def test_a_backup_that_cannot_be_read_costs_the_waits_for_others_no_request(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        waits = await waits_of(client, range(1, 301))
        odd = fake.add_backup(500)
        fake.inject(unreadable(odd["id"]))
        fake.requests.clear()
        done = await asyncio.gather(*waits)
    assert all(one.is_completed for one in done)
    assert fake.count("GET") == 10 * 4


async def test_a_wait_for_a_backup_that_cannot_be_read_says_so_and_spoils_no_other(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        waits = await waits_of(client, range(1, 51))
        odd, beside = await client.create(60), fake.add_backup(60, status="in_progress", seconds=90)
        fake.inject(unreadable(odd.id))
        fake.requests.clear()
        ends = await asyncio.gather(
            *waits,
            client.wait(BackupRef(beside["id"], 60), backoff=EVERY_10),
            client.wait(odd, backoff=EVERY_10, timeout=200),
            client.wait(BackupRef(odd.id), backoff=EVERY_10, timeout=200),
            return_exceptions=True,
        )
    assert all(isinstance(one, Backup) for one in ends[:-2])
    for one in ends[-2:]:
        assert isinstance(one, WaitTimeoutError)
        assert isinstance(one.__cause__, InvalidResponseError)
        assert "size_mb" in str(one.__cause__)
    assert fake.count("GET") <= 20 * 3


async def test_a_list_of_one_server_with_a_backup_that_cannot_be_read_serves_the_others(
    fake: FakeVPS,
) -> None:
    async with one_try(fake) as client:
        backup = await client.create(1)
        fake.inject(unreadable(fake.add_backup(1)["id"]))
        assert (await client.wait(backup, backoff=EVERY_10)).is_completed


@pytest.mark.parametrize("pause", [30, 100])
async def test_one_503_of_the_whole_list_is_waited_for_where_many_servers_were_asked_else(
    fake: FakeVPS, pause: float
) -> None:
    async with one_try(fake) as client:
        waits = await waits_of(client, range(1, 301))
        fake.inject(ServerFault(503, retry_after=pause, times=1, method="GET", query=EVERY_LIST))
        fake.requests.clear()
        done = [await timed(wait) for wait in waits]
    assert all(isinstance(one, Backup) for one, _ in done)
    assert max(seconds for _, seconds in done) <= 120
    assert fake.count("GET") <= 1 + 10 * 3


async def test_a_long_pause_of_the_whole_list_is_no_pause_of_servers_lists(fake: FakeVPS) -> None:
    async with one_try(fake) as client:
        waits = await waits_of(client, range(1, 31))
        fake.inject(ServerFault(503, retry_after=600, method="GET", query=EVERY_LIST))
        ends = await asyncio.gather(*(timed(wait) for wait in waits))
    assert all(isinstance(one, Backup) and seconds <= 100.1 for one, seconds in ends)


async def test_a_whole_list_that_hangs_on_its_second_page_delays_waits_by_one_request(
    fake: FakeVPS,
) -> None:
    """Its first page has 100 backups, so that those of the first 50 servers are on the second."""
    fake.backup_seconds = lambda made: 12 if made["server"]["id"] <= 50 else 10_000
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        fake.inject(Latency(100_000, method="GET", query={"page": 2}))
        waits = await waits_of(client, range(1, 151))
        ends = await asyncio.gather(*(timed(wait) for wait in waits[:50]))
        await end(waits)
    assert all(isinstance(one, Backup) and seconds <= 12 + 10 + 30.1 for one, seconds in ends)


async def test_a_whole_list_whose_pages_are_slow_delays_waits_by_one_page(fake: FakeVPS) -> None:
    """Fifty pages of two seconds, while each server's own list answers at once."""
    fake.page_size = fake.max_page_size = 2
    fake.inject(Latency(2, method="GET", query=EVERY_LIST))
    async with BackupsClient(fake.token, base_url=fake.url) as client:
        waits = await waits_of(client, range(1, 101))
        fake.requests.clear()
        ends = await asyncio.gather(*(timed(wait) for wait in waits))
    assert all(isinstance(one, Backup) and seconds <= 100 + 10 + 2.1 for one, seconds in ends)
    assert fake.count("GET") <= 101 * 11


async def test_backups_that_vanish_from_a_list_that_always_moves_are_told_as_disappeared(
    fake: FakeVPS,
) -> None:
    fake.backup_seconds = 10_000

    def move(seen: SeenRequest) -> None:
        if seen.method == "GET":
            fake.add_backup(450)

    async with one_try(fake) as client:
        waits = await waits_of(client, range(1, 201))
        vanishing = waits[:100]
        await asyncio.sleep(15)
        fake.on_request = move
        for backup_id in [one["id"] for one in fake.backups if one["server"]["id"] <= 100]:
            fake.remove_backup(backup_id)
        fake.requests.clear()
        ends = await asyncio.gather(*(timed(wait) for wait in vanishing), return_exceptions=True)
        requests, looks = fake.count("GET"), max(seconds for _, seconds in ends) / 10
        await end(waits)
    assert {type(one) for one, _ in ends} == {BackupDisappearedError}
    assert max(seconds for _, seconds in ends) <= 900
    assert requests <= 3 * looks * 9


# --- Looks that are stopped ----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["sweep", "servers"])
async def test_looks_that_are_stopped_before_they_begin_leave_nothing_unawaited(
    fake: FakeVPS, by: str
) -> None:
    """A coroutine that was never awaited would be reported, as an error in these tests."""
    async with one_try(fake) as client:
        looks = Looks(
            client._shared.hub._looks._search,
            (),
            show=lambda look, finding: None,
            end=lambda look, finding: None,
            attempted=lambda look, error: None,
            refused=lambda: None,
        )
        server_id = None if by == "sweep" else 7
        looks.begin([Waiter(BackupRef(1, server_id), None, backoff=EVERY_10)], Batch(0.0))
        tasks = looks.stop()
        assert len(tasks) == 1
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks
        gc.collect()
    assert fake.count() == 0
