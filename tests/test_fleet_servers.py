"""A fleet of `ALL_SERVERS`, of a stream of servers, and of `Server` values."""

import asyncio
import copy
import json
import pickle
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest
from helpers_streams import drain, on_page, our_tasks

from vpsbackups_async import (
    ALL_SERVERS,
    AuthenticationError,
    Backup,
    BackupsClient,
    ConfigurationError,
    NotFoundError,
    Outcome,
    PaginationError,
    PermissionDeniedError,
    Server,
    VPSBackupsError,
    fan_out,
)
from vpsbackups_async.testing import FakeVPS, Latency, Reply, SeenRequest

SERVERS = "/api/v1/servers/"
DAY = timedelta(days=1)


async def created(fleet: Any) -> list[int]:
    return sorted([outcome.unwrap().server.id async for outcome in fleet.create()])


# --- What names the servers ----------------------------------------------------------------------


@pytest.mark.fake_vps(servers=120, backups=1)
async def test_every_server_of_the_account_is_served_once_by_each_verb(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fleet = client.fleet(ALL_SERVERS)
    everyone = list(range(1, 121))
    assert sorted([backup.server.id async for backup in fleet.list()]) == everyone
    assert await created(fleet) == everyone
    ensured = [outcome async for outcome in fleet.ensure(within=DAY)]
    assert sorted(outcome.key for outcome in ensured) == everyone
    assert all(outcome.ok for outcome in ensured)
    assert fake.count("GET", SERVERS) == 3 * 2  # pages of 100


async def test_server_values_name_servers_as_ids_do(client: BackupsClient) -> None:
    servers = await client.servers().collect()
    fleet = client.fleet([*servers[1:], 3])
    outcomes = [outcome async for outcome in fleet.create()]
    assert sorted(outcome.key for outcome in outcomes) == [1, 2, 3]
    assert {type(outcome.key) for outcome in outcomes} == {int}
    assert len([backup async for backup in fleet.list()]) == 3 * 5 + 3
    assert repr(fleet) == "<Fleet of 3 servers, concurrency=64>"


@pytest.mark.fake_vps(
    servers=30, page_size=10, server_statuses=dict.fromkeys(range(1, 20), "stopped")
)
async def test_a_stream_of_servers_names_those_that_it_lists_to_any_number_of_verbs(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fleet = client.fleet(client.servers(status="active"))
    for _ in range(2):
        assert await created(fleet) == list(range(20, 31))


@pytest.mark.parametrize("missing", [None, 12345, True, "12", "ALL_SERVERS", b"12"])
def test_what_names_no_servers_is_refused_and_never_means_all(missing: Any) -> None:
    client = BackupsClient("vps_test")
    with pytest.raises(ValueError, match="ALL_SERVERS"):
        client.fleet(missing)


def test_all_servers_is_one_value_wherever_it_goes() -> None:
    assert pickle.loads(pickle.dumps(ALL_SERVERS)) is ALL_SERVERS
    assert copy.deepcopy(ALL_SERVERS) is ALL_SERVERS
    assert repr(ALL_SERVERS) == "ALL_SERVERS"


async def test_a_fleet_of_all_servers_says_so(client: BackupsClient) -> None:
    assert repr(client.fleet(ALL_SERVERS)) == "<Fleet of ALL_SERVERS, concurrency=64>"


# --- Lazily --------------------------------------------------------------------------------------


@pytest.mark.fake_vps(servers=500, page_size=10, max_page_size=10, backups=0)
async def test_the_list_of_servers_is_read_as_places_become_free_and_left_with_the_loop(
    fake: FakeVPS, client: BackupsClient
) -> None:
    async with aclosing(client.fleet(ALL_SERVERS, concurrency=4).create()) as outcomes:
        async for _ in outcomes:
            break
    assert fake.count("GET", SERVERS) == 1
    assert client._known_lists.open_walks == set()


async def test_leaving_early_closes_a_stream_that_is_read_by_a_bulk_job(
    fake: FakeVPS, client: BackupsClient
) -> None:
    async def work(backup: Backup) -> int:
        return backup.id

    async with aclosing(fan_out(work, client.list(page_size=1), concurrency=1)) as outcomes:
        assert (await anext(outcomes)).ok
    assert client._known_lists.open_walks == set()


@pytest.mark.virtual_time
async def test_leaving_early_while_a_page_of_servers_is_on_its_way_leaves_nothing_running(
    fake: FakeVPS, client: BackupsClient
) -> None:
    tasks = our_tasks()
    fake.inject(Latency(600, path=SERVERS))
    async with aclosing(client.fleet(ALL_SERVERS).create()) as outcomes:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await anext(outcomes)
    assert our_tasks() == tasks


# --- Never a part for the whole ------------------------------------------------------------------


@pytest.mark.fake_vps(servers=25, page_size=10, max_page_size=10)
async def test_a_list_of_servers_that_moves_is_read_again_and_none_is_missed_or_served_twice(
    fake: FakeVPS, client: BackupsClient
) -> None:
    on_page(fake, 2, lambda: fake.remove_server(25))
    outcomes = [outcome async for outcome in client.fleet(ALL_SERVERS).create()]
    assert sorted(outcome.key for outcome in outcomes) == list(range(1, 26))
    assert fake.count("GET", SERVERS) == 3 + 3


@pytest.mark.parametrize("how", ["all", "stream"])
@pytest.mark.fake_vps(servers=25, page_size=10, max_page_size=10)
async def test_a_list_of_servers_that_never_holds_still_is_an_error_after_all_outcomes(
    fake: FakeVPS, client: BackupsClient, how: str
) -> None:
    def restless(seen: SeenRequest) -> None:
        if seen.query.get("page") == "2":
            fake.add_server(100 + seen.number)

    fake.on_request = restless
    servers: Any = ALL_SERVERS if how == "all" else client.servers()
    came: list[Outcome[int, Backup]] = []
    with pytest.raises(
        PaginationError, match=r"servers could not be read completely.*run it again"
    ):
        await drain(client.fleet(servers).create(), came)
    keys = [outcome.key for outcome in came]
    assert set(range(1, 26)) <= set(keys)
    assert len(keys) == len(set(keys))


async def test_a_total_that_no_page_reaches_is_an_error_of_each_verb(
    fake: FakeVPS, client: BackupsClient
) -> None:
    body = json.dumps({"count": 9, "next": None, "results": [{"id": 1, "name": "a"}]}).encode()
    fake.inject(Reply(200, body, path=SERVERS, times=None))
    fleet = client.fleet(ALL_SERVERS)
    runs: list[Any] = [fleet.list(), fleet.create(), fleet.ensure(within=DAY)]
    for run in runs:
        came: list[Any] = []
        with pytest.raises(PaginationError):
            await drain(run, came)
        assert came


@pytest.mark.fake_vps(servers=0, backups=0)
async def test_an_account_without_servers_is_an_error_and_no_empty_success(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fleet = client.fleet(ALL_SERVERS)
    runs: list[Any] = [fleet.list(), fleet.create(), fleet.ensure(within=DAY)]
    for run in runs:
        with pytest.raises(ConfigurationError, match="the account has no servers: "):
            await drain(run, [])


async def test_a_stream_that_lists_no_server_is_an_error_that_names_its_filters(
    client: BackupsClient,
) -> None:
    fleet = client.fleet(client.servers(status="stopped", location="us-west"))
    words = "the account has no servers with status=stopped, location=us-west"
    with pytest.raises(ConfigurationError, match=words):
        await drain(fleet.create(), [])


@pytest.mark.parametrize(
    ("calls", "kind"), [("forbidden", PermissionDeniedError), ("missing", NotFoundError)]
)
async def test_where_the_account_has_no_such_call_the_error_says_to_name_servers(
    fake: FakeVPS, client: BackupsClient, calls: Any, kind: type[VPSBackupsError]
) -> None:
    fake.account_calls = calls
    with pytest.raises(kind, match="Name the servers by their ids"):
        await drain(client.fleet(ALL_SERVERS).create(), [])
    assert await created(client.fleet([1, Server(2, "two")])) == [1, 2]


async def test_a_token_that_is_refused_is_the_error_of_the_fleet(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.revoke()
    with pytest.raises(AuthenticationError):
        await drain(client.fleet(ALL_SERVERS).list(), [])
    assert fake.count() == 1
