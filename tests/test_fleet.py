"""The verbs over many servers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from attrs import evolve
from helpers_streams import drain, listing, lists_over, make, our_tasks

from vpsbackups_async import (
    AuthenticationError,
    Backup,
    BackupFailedError,
    BackupsClient,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    Fleet,
    FleetError,
    ManualBackupLimitError,
    NotAttemptedError,
    NotFoundError,
    Outcome,
    Page,
    PaginationError,
    PermissionDeniedError,
    ServerError,
    ServerRef,
    VPSBackupsError,
    WaitError,
    WaitTimeoutError,
)
from vpsbackups_async.events import CreateEnded, Event
from vpsbackups_async.testing import FakeVPS, HostileNext, Latency, Reply, ServerFault


async def later(ids: Any) -> AsyncIterator[int]:
    for server_id in ids:
        await asyncio.sleep(0)
        yield server_id


# --- list ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [None, 1, 3])
async def test_the_backups_of_all_servers_come_once_those_of_a_server_together(
    concurrency: int | None,
) -> None:
    async with (
        FakeVPS(servers=10, backups=25) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fleet = client.fleet(later(range(1, 11)), concurrency=concurrency)
        came = [backup async for backup in fleet.list()]
        assert Counter(backup.id for backup in came) == Counter(range(1, 251))
        servers = [backup.server.id for backup in came]
        assert all(len(set(servers[n : n + 25])) == 1 for n in range(0, 250, 25))
        assert fake.peak <= (concurrency or 10)


async def test_a_type_filter_holds_for_every_server(fake: FakeVPS, client: BackupsClient) -> None:
    made = fake.add_backup(2)
    came = [backup.id async for backup in client.fleet([1, 2, 3]).list(backup_type="manual")]
    assert came == [made["id"]]
    assert all(seen.query["backup_type"] == "manual" for seen in fake.requests)


async def test_servers_that_fail_are_told_of_at_the_end(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(ServerFault(status=500, path="server_id=2"))
    came: list[Backup] = []
    with pytest.raises(FleetError) as caught:
        await drain(client.fleet([1, 2, -5, 3, "x", None]).list(), came)  # type: ignore[list-item]
    assert Counter(backup.server.id for backup in came) == {1: 5, 3: 5}
    failures = {outcome.key: outcome.error for outcome in caught.value.failures}
    assert failures.keys() == {2, -5, "x", None}
    assert isinstance(failures[2], ServerError)
    for bad in (-5, "x", None):
        assert isinstance(failures[bad], ValueError)
    assert {seen.query["server_id"] for seen in fake.requests} == {"1", "2", "3"}
    assert "4 of the servers failed" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ServerFault(status=501, path="page=2"), ServerError),
        (HostileNext("https://evil.example/"), PaginationError),
    ],
)
async def test_the_pages_that_came_before_a_failure_are_handed_out(
    fault: Any, kind: type[VPSBackupsError]
) -> None:
    async with (
        FakeVPS(servers=[2], backups=25, faults=[fault]) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came: list[Backup] = []
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet([2]).list(), came)
        assert [backup.id for backup in came] == list(range(25, 5, -1))
        assert isinstance(caught.value.failures[0].error, kind)
        assert caught.value.failures[0].value is None


async def test_a_server_whose_listing_is_cancelled_from_within_is_a_failure() -> None:
    async def fetch(listing: object, on_response: object, query: str) -> Any:
        if query == "server_id=2":
            raise asyncio.CancelledError
        return Page((evolve(make(1), server=ServerRef(int(query[-1]), "")),))

    came: list[Backup] = []
    with pytest.raises(FleetError) as caught:
        await drain(Fleet(None, [1, 2, 3], lists=lists_over(fetch), rotator=None).list(), came)  # type: ignore[arg-type]
    assert [outcome.key for outcome in caught.value.failures] == [2]
    assert len(came) == 2


async def test_server_ids_that_cannot_be_read_on_are_an_error_at_the_end(
    client: BackupsClient,
) -> None:
    def ids() -> Iterator[int]:
        yield 1
        raise LookupError("the inventory is gone")

    came: list[Backup] = []
    with pytest.raises(LookupError, match="inventory"):
        await drain(client.fleet(ids()).list(), came)
    assert len(came) == 5


async def test_a_million_ids_are_read_lazily(fake: FakeVPS, client: BackupsClient) -> None:
    """Some are read ahead to see whether the whole list is cheaper; here it has 4,100 pages."""
    read = 0
    fake.inject(Reply(body=listing([(1, 1)], 4100, "?page=2"), times=1))

    def ids() -> Iterator[int]:
        nonlocal read
        for server_id in range(1, 1_000_001):
            read += 1
            yield server_id

    async with aclosing(client.fleet(ids(), concurrency=4).list()) as backups:
        async for _ in backups:
            break
    assert read <= 4096 + 8
    assert fake.count() <= 9


@pytest.mark.virtual_time
async def test_leaving_a_list_early_leaves_nothing_running(
    fake: FakeVPS, client: BackupsClient
) -> None:
    tasks = our_tasks()
    fake.inject(Latency(600, path="server_id=2"), Latency(600, path="server_id=3"))
    async with aclosing(client.fleet([1, 2, 3]).list()) as backups:
        assert (await anext(backups)).server.id == 1
    assert our_tasks() == tasks


@pytest.mark.virtual_time
async def test_leaving_waits_early_leaves_nothing_running(
    fake: FakeVPS, client: BackupsClient
) -> None:
    tasks = our_tasks()
    fake.backup_seconds = lambda made: 10.0 if made["server"]["id"] == 2 else 600.0
    async with aclosing(client.fleet([1, 2, 3]).create(wait=True)) as outcomes:
        assert (await anext(outcomes)).key == 2
    await asyncio.sleep(0)  # the hub ends with its last waiter
    await asyncio.sleep(0)
    assert our_tasks() == tasks


@pytest.mark.parametrize("ids", [[1, 2, 3], range(1, 4), {1, 2, 3}])
async def test_a_collection_serves_any_number_of_verbs(client: BackupsClient, ids: Any) -> None:
    fleet = client.fleet(ids)
    for _ in range(2):
        assert len([backup async for backup in fleet.list()]) == 15


@pytest.mark.parametrize("once", [iter, later])
async def test_an_iterator_serves_one_verb_once(client: BackupsClient, once: Any) -> None:
    fleet = client.fleet(once([1, 2, 3]))
    assert len([outcome async for outcome in fleet.create()]) == 3
    assert [backup async for backup in fleet.list()] == []
    assert [outcome async for outcome in fleet.create()] == []


async def test_a_server_that_is_named_twice_is_served_twice(client: BackupsClient) -> None:
    assert len([backup async for backup in client.fleet([1, 1]).list()]) == 10
    assert [o.key async for o in client.fleet([1, 1]).create()] == [1, 1]


# --- create --------------------------------------------------------------------------------------


async def test_create_starts_a_backup_of_each_server_and_gives_one_outcome_each(
    fake: FakeVPS, client: BackupsClient
) -> None:
    for _ in range(10):
        fake.add_backup(3)
    outcomes = {o.key: o async for o in client.fleet([1, 2, 3, 9]).create(description="N")}
    assert outcomes.keys() == {1, 2, 3, 9}
    assert outcomes[2].unwrap().description == "N"
    assert outcomes[2].unwrap().status == "in_progress"
    assert isinstance(outcomes[3].error, ManualBackupLimitError)
    assert isinstance(outcomes[9].error, NotFoundError)


async def test_a_bad_id_is_the_outcome_of_its_own_item(
    fake: FakeVPS, client: BackupsClient
) -> None:
    outcomes: list[Outcome[Any, Backup]] = [
        o
        async for o in client.fleet([0, 1, "x", None]).create()  # type: ignore[list-item]
    ]
    assert {o.key: type(o.error) for o in outcomes if not o.ok} == {
        0: ValueError,
        "x": ValueError,
        None: ValueError,
    }
    assert fake.count() == 1


@pytest.mark.virtual_time
async def test_create_with_wait_gives_the_completed_backups_as_they_end() -> None:
    async with (
        FakeVPS(servers=6, backup_seconds=lambda made: 10.0 * made["server"]["id"]) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        start = asyncio.get_running_loop().time()
        keys = []
        fleet = client.fleet(range(6, 0, -1))
        async for outcome in fleet.create(wait=True, backoff=ConstantBackoff(1)):
            assert outcome.unwrap().is_completed
            took = asyncio.get_running_loop().time() - start
            assert took == pytest.approx(10 * outcome.key, abs=2)
            keys.append(outcome.key)
        assert keys == [1, 2, 3, 4, 5, 6]


@pytest.mark.virtual_time
async def test_three_hundred_servers_take_little_longer_than_the_backup_of_one() -> None:
    """With a place held by each wait, they took five rounds of 64: 1,230 s."""
    async with (
        FakeVPS(servers=300, backup_seconds=240) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        start = asyncio.get_running_loop().time()
        came = [o async for o in client.fleet(range(1, 301)).create(wait=True)]
        assert asyncio.get_running_loop().time() - start <= 320
        assert sorted(o.unwrap().server.id for o in came) == list(range(1, 301))
        assert fake.count("POST") == 300


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=30, backup_seconds=60)
async def test_a_wait_holds_no_place_and_concurrency_bounds_the_creates_under_way(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Latency(5, method="POST"))
    start = asyncio.get_running_loop().time()
    async for _ in client.fleet(range(1, 31), concurrency=3).create(
        wait=True, backoff=ConstantBackoff(1), timeout=None
    ):
        pass
    # Ten rounds of creates of 5 s, and then the last backup.
    assert asyncio.get_running_loop().time() - start == pytest.approx(50 + 60, abs=5)
    assert fake.peak <= 3 + 1  # and a look at the list


@pytest.mark.virtual_time
@pytest.mark.fake_vps(servers=30, backup_seconds=60)
async def test_max_running_bounds_how_many_backups_run_at_the_provider(fake: FakeVPS) -> None:
    running = []

    def note(event: Event) -> None:
        if isinstance(event, CreateEnded):
            running.append(sum(one["status"] == "in_progress" for one in fake.backups))

    async with BackupsClient(fake.token, base_url=fake.url, on_event=note) as client:
        start = asyncio.get_running_loop().time()
        fleet = client.fleet(range(1, 31), concurrency=20)
        backoff = ConstantBackoff(1)
        came = [o async for o in fleet.create(wait=True, backoff=backoff, max_running=10)]
        assert asyncio.get_running_loop().time() - start == pytest.approx(3 * 60, abs=6)
    assert len(came) == len(running) == 30
    assert max(running) == 10


@pytest.mark.virtual_time
async def test_a_wait_that_ends_badly_keeps_the_backup_s_ref_in_its_outcome() -> None:
    async with (
        FakeVPS(
            servers=3,
            fails=[2],
            backup_seconds=lambda made: 999.0 if made["server"]["id"] == 3 else 5.0,
        ) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        outcomes = {o.key: o async for o in client.fleet([1, 2, 3]).create(wait=True, timeout=60)}
        assert outcomes[1].ok
        assert isinstance(outcomes[2].error, BackupFailedError)
        assert isinstance(outcomes[3].error, WaitTimeoutError)
        held = {backup["server"]["id"]: backup["id"] for backup in fake.backups}
        for server_id in (2, 3):
            error = outcomes[server_id].error
            assert isinstance(error, WaitError)
            assert (error.ref.id, error.ref.server_id) == (held[server_id], server_id)


@pytest.mark.virtual_time
async def test_a_token_that_is_revoked_during_the_wait_does_not_hide_what_was_started() -> None:
    async with (
        FakeVPS(servers=1, backup_seconds=100) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        asyncio.get_running_loop().call_later(20, fake.revoke)
        outcomes = [o async for o in client.fleet([1]).create(wait=True)]
        error = outcomes[0].error
        assert isinstance(error, AuthenticationError)
        assert error.__notes__ == ["backup 1 of server 1 was started"]


# --- Stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [list, iter, later])
@pytest.mark.parametrize("concurrency", [1, 8])
async def test_after_a_revoked_token_the_rest_of_the_fleet_is_not_attempted(
    source: Any, concurrency: int
) -> None:
    async with (
        FakeVPS(servers=5000) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        outcomes: list[Outcome[int, Backup]] = []
        fleet = client.fleet(source(range(1, 5001)), concurrency=concurrency)
        async for outcome in fleet.create():
            outcomes.append(outcome)
            if len(outcomes) == 500:
                fake.revoke()
        assert Counter(o.key for o in outcomes) == Counter(range(1, 5001))
        refused = fake.count(status=401)
        assert 1 <= refused <= concurrency
        assert fake.count(status=201) == sum(o.ok for o in outcomes) < 500 + 2 * concurrency
        errors = Counter(type(o.error) for o in outcomes if not o.ok)
        assert errors.keys() == {AuthenticationError, NotAttemptedError}
        assert errors[AuthenticationError] == refused
        spared = [o.error for o in outcomes if isinstance(o.error, NotAttemptedError)]
        assert {type(error.__cause__) for error in spared} == {AuthenticationError}
        assert fake.count() == len(fake.backups) + refused


async def test_a_token_refused_in_the_look_for_a_lost_answer_stops_the_fleet() -> None:
    class Creates:
        begun = 0

        async def create(self, server_id: int, **options: object) -> Backup:
            self.begun += 1
            raise CreateOutcomeUnknownError(server_id=server_id) from AuthenticationError(401, "no")

    creates = Creates()
    fleet = Fleet(creates, range(10), concurrency=1, lists=lists_over(None), rotator=None)  # type: ignore[arg-type]
    kinds = [type(o.error) async for o in fleet.create()]
    assert kinds == [CreateOutcomeUnknownError, *[NotAttemptedError] * 9]
    assert creates.begun == 1


async def test_a_server_that_may_not_be_touched_stops_nothing(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.forbid()
    outcomes = [o async for o in client.fleet(range(1, 31), concurrency=2).create()]
    assert Counter(type(o.error) for o in outcomes) == {PermissionDeniedError: 30}
    assert fake.count() == 30


async def test_create_stops_at_the_first_failure_if_asked_to(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fleet = client.fleet([1, 2, 9, 3, 3], concurrency=1)
    outcomes = [o async for o in fleet.create(on_error="stop")]
    assert [o.key for o in outcomes] == [1, 2, 9, 3, 3]
    assert [type(o.error) for o in outcomes[2:]] == [NotFoundError, *[NotAttemptedError] * 2]
    assert outcomes[3].error is not outcomes[4].error
    assert fake.count() == 3


async def test_create_goes_on_after_failures_by_default(client: BackupsClient) -> None:
    outcomes = [o async for o in client.fleet([9, 1, 9, 2]).create()]
    assert sum(o.ok for o in outcomes) == 2


# --- Bad arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [0, -1, True, "x", 1.5])
async def test_a_bad_concurrency_is_a_value_error(client: BackupsClient, concurrency: Any) -> None:
    with pytest.raises(ValueError, match="concurrency"):
        client.fleet([1], concurrency=concurrency)


@pytest.mark.parametrize("ids", [5, None, object()])
async def test_ids_that_cannot_be_iterated_are_a_value_error(
    client: BackupsClient, ids: Any
) -> None:
    with pytest.raises(ValueError, match="server_ids"):
        client.fleet(ids)


@pytest.mark.parametrize(
    "options",
    [
        {"description": 5},
        {"backoff": 5},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": "60"},
        {"max_running": 0},
        {"max_running": True},
        {"on_error": "ignore"},
        {"on_progress": 5},
    ],
)
async def test_bad_arguments_of_create_start_nothing(
    fake: FakeVPS, client: BackupsClient, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        client.fleet([1]).create(wait=True, **options)
    assert not fake.requests


async def test_max_running_without_waits_is_refused_for_nothing_tells_the_end(
    fake: FakeVPS, client: BackupsClient
) -> None:
    with pytest.raises(ValueError, match="max_running needs wait=True"):
        client.fleet([1]).create(max_running=5)
    assert not fake.requests


async def test_an_unknown_type_is_a_value_error_at_the_call(client: BackupsClient) -> None:
    with pytest.raises(ValueError, match="manual"):
        client.fleet([1]).list(backup_type="weekly")
