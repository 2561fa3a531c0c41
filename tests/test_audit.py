"""`audit` reads with few requests, and never takes a part of a list for the whole."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from helpers_streams import on_page

from benchmarks.audits import plant, planted
from vpsbackups_async import (
    ALL_SERVERS,
    AuthenticationError,
    BackupsClient,
    ConfigurationError,
    PaginationError,
    Server,
)
from vpsbackups_async.audit import Coverage, State, audit
from vpsbackups_async.audit.calendar import Day, days_of
from vpsbackups_async.testing import FakeVPS, Latency, Reply, SeenRequest

BACKUPS = "/api/v1/backups/"
SERVERS = "/api/v1/servers/"
DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


def add(
    fake: FakeVPS, server_id: int, hours: float, status: str = "completed", **more: Any
) -> None:
    """Add a backup that was made that many hours ago by the server's clock."""
    made = fake.now - timedelta(hours=hours)
    fake.add_backup(server_id, status=status, created_at=made, **more)


def states(coverage: Coverage) -> dict[int, str]:
    return {one.server_id: str(one.state) for one in coverage.servers}


async def test_each_server_is_found_in_its_state_by_the_servers_clock(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.remove_server(3)
    for server_id, name in enumerate(("ok", "stale", "never", "stuck", "failing", "running"), 10):
        fake.add_server(server_id, name, status="stopped" if server_id == 11 else "active")
    add(fake, 10, 1)
    add(fake, 11, 30)
    add(fake, 13, 9, "in_progress")
    add(fake, 14, 1, "FAILED")
    add(fake, 14, 26)
    add(fake, 15, 1, "in_progress")
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    named = {one.name: one.state for one in found.servers if one.server_id >= 10}
    assert named == {name: State(name) for name in named}
    assert len(named) == 6
    assert states(found) == states(found) | {1: "ok", 2: "ok"}
    assert next(one for one in found.servers if one.name == "stale").server_status == "stopped"
    assert abs(found.at - fake.now) < MINUTE


@pytest.mark.fake_vps(servers=3, backups=0)
async def test_a_completed_backup_of_0_mb_is_no_good_one(
    fake: FakeVPS, client: BackupsClient
) -> None:
    add(fake, 1, 1, size_mb=0)
    add(fake, 2, 1, size_mb=0)
    add(fake, 2, 2, size_mb=1)
    add(fake, 3, -5, size_mb=0)
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    assert states(found) == {1: "failing", 2: "ok", 3: "never"}
    by_id = {one.server_id: one for one in found.servers}
    assert [one.size_mb for one in by_id[2].good()] == [1]
    assert (by_id[1].last_success, by_id[1].failed_since, by_id[2].failed_since) == (None, 1, 1)
    assert [days_of(one.backups, found.at, 1) for one in (by_id[1], by_id[2])] == [
        [Day.FAILED],
        [Day.GOOD],
    ]


@pytest.mark.fake_vps(servers=300, backups=0)
async def test_exactly_the_planted_servers_are_found_among_many(
    fake: FakeVPS, client: BackupsClient
) -> None:
    """As `python -m benchmarks audit` does with 5,000."""
    plant(fake, 300)
    assert states(await audit(client, ALL_SERVERS, rpo=DAY)) == planted(300)
    pages = -(-len(fake.backups) // 100)
    assert fake.count("GET", BACKUPS) == 1 + pages


@pytest.mark.fake_vps(servers=200, backups=0, page_size=20)
async def test_the_whole_list_is_read_where_that_takes_fewer_requests(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for server_id in range(1, 201):
        add(fake, server_id, 30 if server_id % 7 == 0 else 2)
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    assert found.counts[State.STALE] == 200 // 7
    assert found.counts[State.OK] == 200 - 200 // 7
    assert fake.count("GET", BACKUPS) == 1 + 2  # its length, and two pages of 100
    assert fake.count("GET", SERVERS) == 2


@pytest.mark.fake_vps(servers=200, backups=30, page_size=20)
async def test_few_servers_of_many_are_asked_for_their_own_lists(
    fake: FakeVPS, client: BackupsClient
) -> None:
    found = await audit(client, [1, Server(2, "two"), 2, 1], rpo=DAY)
    assert states(found) == {1: "ok", 2: "ok"}
    assert {seen.query.get("server_id") for seen in fake.requests} == {"1", "2"}
    assert {one.name for one in found.servers} == {"server-0001", "two"}


@pytest.mark.fake_vps(servers=40, backups=105)
async def test_a_whole_list_with_more_pages_than_servers_is_not_swept(
    fake: FakeVPS, client: BackupsClient
) -> None:
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    assert found.counts[State.OK] == 40
    assert sum("server_id" not in seen.query for seen in fake.requests) == 1 + 1  # and the servers


async def test_ids_may_come_from_an_async_iterable_or_a_stream_of_servers(
    client: BackupsClient,
) -> None:
    async def some() -> Any:
        yield 1
        yield Server(2, "two")

    assert set(states(await audit(client, some(), rpo=DAY))) == {1, 2}
    assert set(states(await audit(client, client.servers(), rpo=DAY))) == {1, 2, 3}


async def test_a_server_whose_list_fails_is_unknown_and_stops_no_other(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Reply(500, b"{}", path="server_id=2", times=None))
    found = await audit(client, [1, 2, 3], rpo=DAY)
    assert states(found) == {1: "ok", 2: "unknown", 3: "ok"}
    assert not found.ok
    assert "500" in next(one.problem for one in found.servers if one.server_id == 2)


@pytest.mark.fake_vps(servers=40, backups=1)
async def test_one_backup_that_cannot_be_read_makes_its_own_server_unknown_only(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.add_backup(7, id=9_000, size_mb="large")  # type: ignore[arg-type]
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    assert states(found) == dict.fromkeys(range(1, 41), "ok") | {7: "unknown"}


@pytest.mark.fake_vps(servers=3, backups=25, page_size=10, max_page_size=10)
async def test_a_list_that_is_never_complete_makes_its_server_unknown_and_not_ok(
    fake: FakeVPS, client: BackupsClient
) -> None:
    def restless(seen: SeenRequest) -> None:
        if seen.query.get("server_id") == "2":
            fake.add_backup(2)

    fake.on_request = restless
    found = await audit(client, [1, 2, 3], rpo=DAY)
    assert states(found) == {1: "ok", 2: "unknown", 3: "ok"}
    assert "could not be read completely" in next(
        one.problem for one in found.servers if one.server_id == 2
    )


@pytest.mark.fake_vps(servers=3, backups=25, paging="none", truncate_to=20)
async def test_a_list_that_is_cut_short_is_not_taken_for_the_whole(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.honours_page = False
    assert set(states(await audit(client, [1, 2, 3], rpo=DAY)).values()) == {"unknown"}


@pytest.mark.fake_vps(servers=400, backups=1, page_size=100)
async def test_a_whole_list_that_moved_is_read_again_and_a_deleted_backup_does_not_count(
    fake: FakeVPS, client: BackupsClient
) -> None:
    lost = fake.backups[-1]

    def delete() -> None:
        fake.remove_backup(lost["id"])

    on_page(fake, 4 + 1 + 3, delete)  # the third page of the sweep
    found = await audit(client, ALL_SERVERS, rpo=DAY)
    assert states(found)[lost["server"]["id"]] == "never"
    assert found.counts[State.OK] == 399


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_ages_are_by_the_date_header_and_not_by_this_machines_clock(
    fake: FakeVPS, client: BackupsClient, ahead: int
) -> None:
    fake.add_server(9, "nine")
    add(fake, 9, 24)
    fake.date_ahead = ahead
    [one] = (await audit(client, [9], rpo=DAY)).servers
    assert one.state is (State.STALE if ahead > 0 else State.OK)
    assert one.age is not None
    assert abs(one.age - timedelta(hours=24, seconds=ahead)) < MINUTE


async def test_an_old_date_from_a_cache_makes_no_stale_backup_look_recent(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.add_server(9, "nine")
    add(fake, 9, 30)
    body = json.dumps({"count": 0, "next": None, "results": []}).encode()
    old = {"Date": "Wed, 15 Jan 2025 15:45:00 GMT"}
    fake.inject(Reply(200, body, headers=old, path="server_id=1", times=None))
    assert states(await audit(client, [9, 1], rpo=DAY, concurrency=1)) == {9: "stale", 1: "never"}
    assert states(await audit(client, [1, 9], rpo=DAY, concurrency=1)) == {9: "stale", 1: "never"}


async def test_a_refused_token_is_an_error_and_no_coverage(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.revoke()
    with pytest.raises(AuthenticationError):
        await audit(client, [1, 2, 3], rpo=DAY)
    with pytest.raises(AuthenticationError):
        await audit(client, ALL_SERVERS, rpo=DAY)


@pytest.mark.fake_vps(servers=40, backups=1)
async def test_a_token_that_is_refused_for_the_whole_list_ends_the_audit_at_once(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.revoke()
    with pytest.raises(AuthenticationError):
        await audit(client, range(1, 41), rpo=DAY)
    assert fake.count() == 1


async def test_a_list_of_servers_that_is_not_complete_is_an_error(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.paging, fake.truncate_to, fake.honours_page = "none", 2, False
    with pytest.raises(PaginationError):
        await audit(client, ALL_SERVERS, rpo=DAY)


@pytest.mark.fake_vps(servers=0, backups=0)
async def test_an_account_without_servers_is_an_error_and_not_ok(client: BackupsClient) -> None:
    with pytest.raises(ConfigurationError, match="the account has no servers"):
        await audit(client, ALL_SERVERS, rpo=DAY)


@pytest.mark.parametrize(
    ("servers", "options"),
    [
        (None, {}),
        ([0], {}),
        (["1"], {}),
        ([1], {"rpo": 24}),
        ([1], {"rpo": timedelta(0)}),
        ([1], {"slack": timedelta(-1)}),
        ([1], {"slack": 1}),
        ([1], {"stuck_after": None}),
        ([1], {"concurrency": 0}),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_sent(
    fake: FakeVPS, client: BackupsClient, servers: Any, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"must be|ALL_SERVERS"):
        await audit(client, servers, **{"rpo": DAY, **options})
    assert fake.count() == 0


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=40, backups=1)
async def test_an_audit_that_is_cancelled_leaves_no_walk_open(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Latency(600, path=BACKUPS))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await audit(client, ALL_SERVERS, rpo=DAY)
    assert client._known_lists.open_walks == set()
