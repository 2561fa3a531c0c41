"""`Fleet.list` over many servers: the whole list read once, or a request for each."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import attrs
import pytest
from helpers_streams import drain, on_page, our_tasks

from vpsbackups_async import (
    AuthenticationError,
    Backup,
    BackupsClient,
    ConfigurationError,
    FleetError,
    NotAttemptedError,
    PermissionDeniedError,
    RetryPolicy,
    ServerError,
)
from vpsbackups_async.testing import FakeVPS, Garbage, Latency, Reply, ServerFault

ONCE = RetryPolicy(attempts=1)


async def later(ids: Any, seconds: float = 0.0) -> AsyncIterator[Any]:
    for server_id in ids:
        await asyncio.sleep(seconds)
        yield server_id


async def listed(client: BackupsClient, ids: Any, **options: Any) -> Counter[int]:
    """How often each backup came."""
    concurrency = options.pop("concurrency", None)
    fleet = client.fleet(ids, concurrency=concurrency)
    return Counter([backup.id async for backup in fleet.list(**options)])


def filtered(fake: FakeVPS, ids: Any, kind: str | None = None) -> Counter[int]:
    """What a request for each of them gives."""
    held: dict[int, list[int]] = {}
    for backup in fake.backups:
        if kind in {None, backup["backup_type"]}:
            held.setdefault(backup["server"]["id"], []).append(backup["id"])
    return Counter(backup_id for server_id in ids for backup_id in held.get(server_id, ()))


def per_server(fake: FakeVPS) -> int:
    return fake.count(path="server_id=")


# --- The cheaper way -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", [list, iter, later])
async def test_five_thousand_servers_of_fifteen_thousand_backups_take_151_requests(
    source: Any,
) -> None:
    async with (
        FakeVPS(servers=5000, backups=3) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came = await listed(client, source(range(1, 5001)))
        assert fake.count() == 151
        assert per_server(fake) == 0
        assert came == filtered(fake, range(1, 5001))
        assert came.total() == 15_000


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("concurrency", "ahead"), [(64, 16), (5, 4)], ids=["many at once", "few at once"]
)
async def test_up_to_sixteen_pages_of_the_whole_list_are_asked_for_ahead(
    concurrency: int, ahead: int
) -> None:
    async with (
        FakeVPS(servers=200, backups=21, faults=[Latency(1)]) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came = await listed(client, range(1, 201), concurrency=concurrency)
        assert came == filtered(fake, range(1, 201))
        assert per_server(fake) == 0
        assert fake.peak == ahead


@pytest.mark.parametrize("kind", [None, "manual", "automatic"])
async def test_both_ways_give_the_same_backups(kind: str | None) -> None:
    rows = random.Random(7)
    backups = [
        {
            "server_id": rows.randint(1, 60),
            "backup_type": rows.choice(["manual", "automatic"]),
        }
        for _ in range(900)
    ]
    ids = [*range(1, 41), 7, 7, 9999, *range(30, 35)]
    async with (
        FakeVPS(servers=60, backups=backups) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        whole = await listed(client, ids, backup_type=kind)
        assert per_server(fake) == 0
        each: Counter[int] = Counter()
        for server_id in ids:
            each += await listed(client, [server_id], backup_type=kind)
        assert per_server(fake) >= len(ids)
        assert whole == each == filtered(fake, ids, kind)
        assert max(whole.values()) == 3


@pytest.mark.parametrize("order", ["id", "created_at", "random"])
@pytest.mark.parametrize("paging", ["page", "limit", "none"])
async def test_any_order_and_paging_gives_the_same_backups(order: str, paging: Any) -> None:
    async with (
        FakeVPS(servers=50, backups=7, order=order, paging=paging) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        assert await listed(client, range(1, 41)) == filtered(fake, range(1, 41))
        assert per_server(fake) == 0
        assert fake.count() <= 20


@pytest.mark.parametrize(("servers", "requests"), [(16, 16), (17, 2)])
async def test_for_few_servers_the_length_of_the_list_is_not_asked_for(
    servers: int, requests: int
) -> None:
    async with (
        FakeVPS(servers=17, backups=1) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        assert (await listed(client, iter(range(1, servers + 1)))).total() == servers
        assert fake.count() == requests


async def test_a_list_with_more_pages_than_servers_is_not_read() -> None:
    async with (
        FakeVPS(servers=200, backups=20) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        for count, cheaper in ((40, False), (41, True)):  # the list has 40 pages
            fake.requests.clear()
            came = await listed(client, range(1, count + 1))
            assert came == filtered(fake, range(1, count + 1))
            assert fake.count() == (count + 1 if not cheaper else 41)
            assert per_server(fake) == (0 if cheaper else count)


async def test_a_server_that_refuses_the_page_size_is_asked_without() -> None:
    async with (
        FakeVPS(servers=100, backups=3) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fake.inject(Reply(400, b'{"page_size": ["unknown"]}', path="page_size"))
        assert (await listed(client, range(1, 101))).total() == 300
        assert fake.count() == 1 + 1 + 15
        assert per_server(fake) == 0


async def test_a_whole_list_that_is_refused_either_way_is_no_failure() -> None:
    async with (
        FakeVPS(servers=20, backups=3) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fake.inject(Reply(400, b"{}", times=2))
        assert (await listed(client, range(1, 21))).total() == 60
        assert per_server(fake) == 20
        assert fake.count() == 22


async def test_a_list_that_does_not_tell_its_length_is_not_read() -> None:
    async with (
        FakeVPS(servers=40, backups=3, paging="cursor") as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        assert (await listed(client, range(1, 41))).total() == 120
        assert per_server(fake) == 40
        assert fake.count() == 41


@pytest.mark.parametrize(
    "body",
    [
        b'{"count": 500, "next": null, "results": []}',
        b'{"count": 500, "next": "?page=2", "results": []}',
        b"{}",
    ],
)
async def test_a_first_page_that_makes_no_sense_decides_nothing(body: bytes) -> None:
    async with (
        FakeVPS(servers=20, backups=3) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client,
    ):
        fake.inject(Reply(body=body, times=1))
        assert (await listed(client, range(1, 21))).total() == 60
        assert per_server(fake) == 20


async def test_a_server_that_ignores_the_filters_gives_the_same() -> None:
    async with (
        FakeVPS(servers=30, backups=4) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fake.add_backup(5)
        everything = {"count": 121, "next": None, "results": fake.backups}
        fake.inject(Reply(path="backup_type=manual", body=json.dumps(everything).encode()))
        came = await listed(client, range(1, 31), backup_type="manual")
        assert came == filtered(fake, range(1, 31), "manual")
        assert came.total() == 1


# --- The input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [list, iter, later])
async def test_ids_that_cannot_be_one_are_failures_in_the_whole_list_too(source: Any) -> None:
    async with (
        FakeVPS(servers=30, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came: list[Backup] = []
        ids = source([0, *range(1, 31), "x", None, True, [3], 0])
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(ids).list(), came)
        assert Counter(b.id for b in came) == filtered(fake, range(1, 31))
        assert [f.key for f in caught.value.failures] == [0, "x", None, True, [3], 0]
        assert all(isinstance(f.error, ValueError) for f in caught.value.failures)


async def test_an_endless_generator_of_ids_can_be_left() -> None:
    read = 0

    def ids() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield 1 + read % 30

    async with (
        FakeVPS(servers=30, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        async with aclosing(client.fleet(ids()).list()) as backups:
            for _ in range(100):
                await anext(backups)
        assert read <= 10_000
        assert fake.count() == 2


async def test_more_ids_than_one_way_through_the_list_serves_take_another() -> None:
    async with (
        FakeVPS(servers=30, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        ids = [1 + n % 30 for n in range(25_000)]
        came = await listed(client, iter(ids))
        assert came == filtered(fake, ids)
        assert fake.count() == 1 + 3


@pytest.mark.virtual_time
async def test_ids_that_come_slowly_are_not_waited_for() -> None:
    async with (
        FakeVPS(servers=30, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        loop = asyncio.get_running_loop()
        start = loop.time()
        times = []
        async for _ in client.fleet(later(range(1, 31), 10)).list():
            times.append(loop.time() - start)
        assert times[0] == pytest.approx(10, abs=0.5)
        assert times[-1] == pytest.approx(300, abs=0.5)
        assert per_server(fake) == 30


@pytest.mark.virtual_time
async def test_ids_that_come_in_a_second_are_taken_together() -> None:
    async with (
        FakeVPS(servers=300, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came = await listed(client, later(range(1, 301), 0.01))
        assert came == filtered(fake, range(1, 301))
        assert per_server(fake) == 0


@pytest.mark.parametrize("source", [iter, later])
async def test_ids_that_cannot_be_read_on_are_an_error_after_what_was_known(
    source: Callable[[Any], Any],
) -> None:
    def ids() -> Iterator[int]:
        yield from range(1, 31)
        raise LookupError("the inventory is gone")

    async with (
        FakeVPS(servers=30, backups=2) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came: list[Backup] = []
        with pytest.raises(LookupError, match="inventory"):
            await drain(client.fleet(source(ids())).list(), came)
        assert len(came) == 60


@pytest.mark.virtual_time
@pytest.mark.parametrize("source", [list, later])
async def test_leaving_the_whole_list_early_leaves_nothing_running(source: Any) -> None:
    async with (
        FakeVPS(servers=500, backups=5, faults=[Latency(1, path="page=")]) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        tasks = our_tasks()
        async with aclosing(client.fleet(source(range(1, 501))).list()) as backups:
            await anext(backups)
        assert our_tasks() == tasks
        assert fake.peak <= 16
        reader = asyncio.ensure_future(listed(client, later(range(1, 31), 0.9)))
        await asyncio.sleep(0.5)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert our_tasks() == tasks


@pytest.mark.parametrize("concurrency", [1, 2, 5])
async def test_the_whole_list_keeps_to_the_concurrency(concurrency: int) -> None:
    async with (
        FakeVPS(servers=300, backups=10) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        assert (await listed(client, range(1, 301), concurrency=concurrency)).total() == 3000
        assert per_server(fake) == 0
        assert fake.peak <= concurrency


# --- What goes wrong on the way ------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("page", [2, 3, 5])
@pytest.mark.parametrize(
    "fault", [ServerFault(status=500), Garbage(), Reply(403, b"{}"), Reply(429, b"{}")]
)
async def test_where_the_whole_list_fails_each_server_is_asked_for_what_is_missing(
    fault: Any, page: int
) -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client,
    ):
        fake.inject(attrs.evolve(fault, path=f"page={page}&"))
        ids = [*range(1, 101), 3, 3]
        assert await listed(client, ids) == filtered(fake, ids)
        assert per_server(fake) == 102


async def test_a_whole_list_that_fails_is_not_read_again() -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client,
    ):
        fake.inject(ServerFault(status=500, path="page=2&"))
        assert (await listed(client, range(1, 101), concurrency=1)).total() == 500
        assert fake.count() - per_server(fake) == 1 + 2


async def test_an_unfiltered_list_that_is_forbidden_is_no_failure() -> None:
    async with (
        FakeVPS(servers=20, backups=3) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fake.inject(Reply(403, b"{}", path="page_size=100"))
        assert (await listed(client, range(1, 21))).total() == 60


async def test_a_list_that_moves_is_read_again_and_gives_nothing_twice() -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        newest = max(backup["id"] for backup in fake.backups)
        on_page(fake, 4, lambda: fake.remove_backup(newest))  # a hole at each page's end
        came = await listed(client, range(1, 101), concurrency=1)
        assert came == filtered(fake, range(1, 101)) + Counter([newest])
        assert per_server(fake) == 0
        assert fake.count() == 1 + 5 + 5


async def test_a_list_that_never_keeps_still_is_given_up_and_nothing_is_missed() -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        there = {backup["id"] for backup in fake.backups}
        gone: list[int] = []

        def move(seen: Any) -> None:
            if seen.query.get("page") == "3":
                gone.append(max(b["id"] for b in fake.backups if b["server"]["id"] > 90))
                fake.remove_backup(gone[-1])

        fake.on_request = move
        came = await listed(client, [*range(1, 101), 1], concurrency=1)
        assert len(gone) == 3
        assert per_server(fake) == 101
        assert came.keys() >= there - set(gone)
        assert all(
            times == (2 if backup_id in filtered(fake, [1]) else 1)
            for backup_id, times in came.items()
        )


async def test_a_moving_list_is_not_read_again_where_that_would_cost_more_than_each() -> None:
    async with (
        FakeVPS(servers=100, backups=16) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        newest = max(backup["id"] for backup in fake.backups)
        on_page(fake, 4, lambda: fake.remove_backup(newest))
        came = await listed(client, range(1, 21), concurrency=1)  # 16 pages for 20 servers
        assert came.keys() >= filtered(fake, range(1, 21)).keys()
        assert fake.count() == 1 + 16 + 20


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_a_token_revoked_while_each_server_is_asked_stops_the_run(concurrency: int) -> None:
    async with (
        FakeVPS(servers=5000, backups=1, paging="cursor") as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        came: list[Backup] = []
        ids = iter(range(1, 5001))
        on_page(fake, 500, fake.revoke)
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(ids, concurrency=concurrency).list(), came)
        failures = caught.value.failures
        assert 1 <= fake.count(status=401) <= concurrency
        keys = [backup.server.id for backup in came] + [f.key for f in failures]
        assert Counter(keys) == Counter(range(1, 5001))
        kinds = Counter(type(f.error) for f in failures)
        assert kinds.keys() == {AuthenticationError, NotAttemptedError}
        assert kinds[AuthenticationError] == fake.count(status=401)
        assert isinstance(caught.value.__cause__, AuthenticationError)


@pytest.mark.parametrize("page", [1, 2, 30])
async def test_a_token_revoked_while_the_whole_list_is_read_stops_the_run(page: int) -> None:
    async with (
        FakeVPS(servers=1000, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        on_page(fake, page, fake.revoke)
        came: list[Backup] = []
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(iter(range(1, 1001)), concurrency=8).list(), came)
        assert fake.count(status=401) <= 8
        assert per_server(fake) == 0
        failures = caught.value.failures
        assert Counter(f.key for f in failures) == Counter(range(1, 1001))
        assert {type(f.error) for f in failures} == {NotAttemptedError}
        assert isinstance(caught.value.__cause__, AuthenticationError)


async def test_an_endless_input_ends_after_a_refused_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vpsbackups_async._lists.servers._MAX_FAILURES", 3000)

    def ids() -> Iterator[int]:
        while True:
            yield 1

    async with FakeVPS() as fake, BackupsClient(fake.token, base_url=fake.url) as client:
        fake.revoke()
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(ids()).list(), [])
        assert len(caught.value.failures) == 3000
        assert fake.count() == 1


async def test_servers_that_may_not_be_seen_stop_nothing() -> None:
    async with FakeVPS(servers=30) as fake, BackupsClient(fake.token, base_url=fake.url) as client:
        fake.forbid()
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(range(1, 31), concurrency=2).list(), [])
        kinds = Counter(type(f.error) for f in caught.value.failures)
        assert kinds == {PermissionDeniedError: 30}


async def test_a_server_that_fails_after_the_whole_list_did_is_a_failure() -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url, retry=ONCE) as client,
    ):
        fake.inject(ServerFault(status=500, path="page=4&"), ServerFault(path="server_id=7"))
        came: list[Backup] = []
        with pytest.raises(FleetError) as caught:
            await drain(client.fleet(range(1, 101)).list(), came)
        assert isinstance(caught.value.failures[0].error, ServerError)
        assert {f.key for f in caught.value.failures} >= {7}


async def test_a_client_that_is_closed_meanwhile_is_told_of() -> None:
    async with (
        FakeVPS(servers=100, backups=5) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        backups = client.fleet(range(1, 101), concurrency=1).list()
        await anext(backups)
        await client.close()
        with pytest.raises(FleetError) as caught:
            await drain(backups, [])
        errors = {type(f.error) for f in caught.value.failures}
        assert errors == {ConfigurationError}
