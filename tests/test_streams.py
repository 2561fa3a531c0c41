"""`client.list` against the server: the paging styles, drift, bad links, cleaning up."""

import asyncio
import gc
import itertools
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

import aiohttp
import pytest
import trustme
from attrs import frozen
from helpers_streams import HOSTILE, drain, ids_of, listing, on_page, our_tasks

from vpsbackups_async import (
    AdaptiveLimiter,
    Backup,
    BackupsClient,
    ConfigurationError,
    NotFoundError,
    PaginationError,
    RetryPolicy,
    ServerError,
    Timeouts,
    VPSBackupsError,
    from_json,
)
from vpsbackups_async.client import BackupStream
from vpsbackups_async.testing import (
    FakeVPS,
    Fault,
    HostileNext,
    Latency,
    Reply,
    SeenRequest,
    ServerFault,
)


@frozen
class Endless(Fault):
    """Answers each request with what `make` gives."""

    make: Callable[[], bytes]

    def strike(self, answer: Any, now: datetime) -> Any:
        return Reply(200, self.make()).strike(answer, now)


STYLES: list[Any] = ["page", "limit", "cursor", "none"]


def client_of(fake: FakeVPS, **options: Any) -> BackupsClient:
    options.setdefault("retry", RetryPolicy(attempts=1))
    return BackupsClient(fake.token, base_url=fake.url, **options)


@pytest.fixture
async def long() -> AsyncIterator[FakeVPS]:
    """A server of 25 backups, 10 a page."""
    async with FakeVPS(servers=1, backups=25, page_size=10) as fake:
        yield fake


# --- Every backup once ---------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [None, 100])
@pytest.mark.parametrize("prefetch", [0, 8])
@pytest.mark.parametrize("paging", STYLES)
async def test_1000_backups_come_exactly_once(
    paging: Any, prefetch: int, page_size: int | None
) -> None:
    async with FakeVPS(servers=20, backups=50, paging=paging) as fake, client_of(fake) as client:
        stream = client.list(prefetch=prefetch, page_size=page_size)
        came = ids_of([backup async for backup in stream])
        assert came == list(range(1000, 0, -1))
        sweep = await stream.snapshot()
        assert (sweep.complete, sweep.duplicates, len(sweep.items)) == (True, 0, 1000)
        pages = {"none": 1, "limit": 50}.get(paging, 10 if page_size else 50)
        assert fake.count("GET") == 2 * pages
        assert sweep.pages == pages


@pytest.mark.parametrize("order", ["id", "-id", "created_at", "random"])
async def test_any_order_of_the_list_is_kept(order: str) -> None:
    async with FakeVPS(servers=4, backups=15, order=order) as fake, client_of(fake) as client:
        plain = ids_of(await client.list().collect())
        assert sorted(plain) == list(range(1, 61))
        assert ids_of(await client.list(prefetch=3).collect()) == plain


@pytest.mark.parametrize("prefetch", [0, 8])
async def test_a_total_beyond_what_came_is_followed_by_page_number(prefetch: int) -> None:
    async with (
        FakeVPS(backups=11, paging="none", truncate_to=10, honours_page=True) as fake,
        client_of(fake) as client,
    ):
        stream = client.list(server_id=2, backup_type="automatic", prefetch=prefetch)
        assert len(await stream.collect()) == 11
        assert [seen.query for seen in fake.requests] == [
            {"server_id": "2", "backup_type": "automatic"},
            {"server_id": "2", "backup_type": "automatic", "page": "2"},
        ]
        assert len(await client.list(prefetch=prefetch).collect()) == 33
        assert (await client.list(prefetch=prefetch).snapshot()).complete


async def test_a_server_that_ignores_the_page_number_ends_in_a_pagination_error() -> None:
    async with (
        FakeVPS(backups=11, paging="none", truncate_to=10) as fake,
        client_of(fake) as client,
    ):
        came: list[Backup] = []
        with pytest.raises(PaginationError, match="counts 33 items"):
            await drain(client.list(), came)
        assert len(came) == 10
        assert fake.count("GET") == 2


# --- A1, A2: links -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for a server named localhost and for a client that trusts it."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    user = ssl.create_default_context()
    authority.configure_trust(user)
    return server, user


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("base", ["http://localhost", "http://localhost:8000", "https://localhost"])
async def test_links_behind_a_tls_proxy_are_repaired_with_one_warning_per_client(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
    base: str,
    prefetch: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        FakeVPS(
            backups=20, page_size=10, next_base=base, ssl_context=tls[0], host="localhost"
        ) as fake,
        client_of(fake, ssl_context=tls[1]) as client,
    ):
        assert fake.url.startswith("https://localhost:")
        for _ in range(2):
            assert len(await client.list(prefetch=prefetch).collect()) == 60
        assert fake.count("GET", status=200) == 12
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert fake.token not in caplog.text


@pytest.mark.parametrize("link", HOSTILE)
@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_hostile_link_gets_no_request(long: FakeVPS, link: str, prefetch: int) -> None:
    if "\ud800" in link:
        link = "http://[::1/"  # the fake cannot put half a character into UTF-8
    async with client_of(long) as client:
        long.inject(HostileNext(link))
        with pytest.raises(PaginationError) as caught:
            await client.list(prefetch=prefetch).collect()
        assert long.count() == 1
        assert long.token not in str(caught.value)


@pytest.mark.parametrize("prefetch", [0, 3])
async def test_links_to_an_internal_address_are_repaired_and_nothing_is_asked_there(
    prefetch: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As nginx makes them, which by default gives the server behind it its own address for Host."""
    async with FakeVPS(host="localhost") as other:
        async with (
            FakeVPS(backups=20, page_size=10, next_base=other.url) as fake,
            client_of(fake) as client,
        ):
            for _ in range(2):
                assert len(await client.list(prefetch=prefetch).collect()) == 60
            assert fake.count("GET", status=200) == 12
        assert not other.requests
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "begin with http://localhost:" in warnings[0].getMessage()


async def test_a_prefix_of_the_base_url_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        FakeVPS(backups=9, page_size=5, prefix="/vps") as fake,
        client_of(fake) as client,
    ):
        assert len(await client.list().collect()) == 27
        assert all(seen.path == "/vps/api/v1/backups/" for seen in fake.requests)
    assert not caplog.records


# --- A3, A4: a list that moves -------------------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_an_insert_between_pages_repeats_no_id(long: FakeVPS, prefetch: int) -> None:
    async with client_of(long) as client:
        on_page(long, 2, lambda: long.add_backup(1))
        came = ids_of([backup async for backup in client.list(prefetch=prefetch)])
        assert came == list(range(25, 0, -1))


async def test_a_snapshot_reads_again_what_moved_and_says_how_it_ended(long: FakeVPS) -> None:
    async with client_of(long) as client:
        on_page(long, 2, lambda: long.add_backup(1))
        sweep = await client.list().snapshot()
        assert ids_of(sweep.items) == list(range(26, 0, -1))
        assert (sweep.complete, sweep.count_first, sweep.count_last) == (True, 26, 26)
        assert (sweep.duplicates, sweep.pages) == (0, 3)
        assert long.count("GET") == 6


async def test_a_delete_between_pages_makes_a_hole_that_a_second_sweep_fills(
    long: FakeVPS,
) -> None:
    async with client_of(long) as client:
        on_page(long, 2, lambda: long.remove_backup(25))
        assert 15 not in ids_of(await client.list().collect())
        on_page(long, 2, lambda: long.remove_backup(24))
        sweep = await client.list().snapshot()
        assert sweep.complete
        assert ids_of(sweep.items) == list(range(23, 0, -1))


async def test_a_list_that_never_rests_is_reported_as_incomplete(long: FakeVPS) -> None:
    def restless(seen: SeenRequest) -> None:
        if seen.number % 3 == 2:
            long.add_backup(1)

    async with client_of(long) as client:
        long.on_request = restless
        sweep = await client.list().snapshot()
        assert not sweep.complete
        assert long.count("GET") == 9
        assert (sweep.count_first, sweep.count_last) == (27, 28)
        assert sweep.duplicates == 1
        assert ids_of(sweep.items) == list(range(27, 0, -1))


async def test_a_cursor_list_without_totals_is_complete_unless_something_came_twice() -> None:
    async with (
        FakeVPS(servers=1, backups=25, paging="cursor", page_size=10) as fake,
        client_of(fake) as client,
    ):
        sweep = await client.list().snapshot()
        assert (sweep.complete, sweep.count_first, sweep.count_last) == (True, None, None)


@pytest.mark.parametrize("prefetch", [0, 8])
async def test_25_backups_are_collected_and_then_all_deleted(long: FakeVPS, prefetch: int) -> None:
    async with client_of(long) as client:
        for backup in await client.list(prefetch=prefetch).collect():
            await client.delete(backup.id)
        assert long.backups == []
        assert await client.list().collect() == []


async def test_a_list_that_shrank_below_a_page_is_read_again(long: FakeVPS) -> None:
    async with client_of(long) as client:
        on_page(long, 3, lambda: [long.remove_backup(backup_id) for backup_id in range(20, 26)])
        came = ids_of([backup async for backup in client.list()])
        assert long.count("GET", status=404) == 1
        assert sorted(came) == list(range(1, 26))
        assert long.count("GET") == 5


async def test_a_list_that_is_not_there_is_not_found() -> None:
    async with FakeVPS(prefix="/elsewhere") as fake:
        wrong = fake.url.removesuffix("/elsewhere")
        async with BackupsClient(fake.token, base_url=wrong) as client:
            with pytest.raises(NotFoundError):
                await client.list().collect()
            assert fake.count() == 1


# --- A5: ends ------------------------------------------------------------------------------------


async def test_a_circle_ends_in_a_pagination_error(long: FakeVPS) -> None:
    async with client_of(long) as client:
        long.inject(HostileNext("?page=1", path="page=2"), HostileNext("?page=2", path="page=1"))
        with pytest.raises(PaginationError, match="leads back"):
            await client.list().collect()
        assert long.count("GET") == 3


@pytest.mark.parametrize("prefetch", [0, 4])
async def test_a_list_of_more_than_max_pages_is_an_error_after_so_many(
    long: FakeVPS, prefetch: int
) -> None:
    async with client_of(long) as client:
        came: list[Backup] = []
        with pytest.raises(PaginationError, match="more than 2 pages"):
            await drain(client.list(max_pages=2, prefetch=prefetch), came)
        assert len(came) == 20
        with pytest.raises(PaginationError, match="more than 2 pages"):
            await client.list(max_pages=2).snapshot()
        assert len(await client.list(max_pages=3).collect()) == 25
        assert len(await client.list(max_pages=2).collect(limit=20)) == 20


@pytest.mark.virtual_time
@pytest.mark.parametrize("prefetch", [0, 4])
async def test_endless_empty_pages_are_not_read_as_fast_as_they_come(prefetch: int) -> None:
    numbers = itertools.count(2)
    async with FakeVPS(servers=1) as fake, client_of(fake) as client:
        fake.inject(Endless(lambda: listing([], None, f"?cursor={next(numbers)}"), times=None))
        reading = asyncio.ensure_future(client.list(prefetch=prefetch).collect())
        await asyncio.sleep(600)
        assert 300 <= fake.count() <= 320 + prefetch
        began = asyncio.get_running_loop().time()
        await client.close()
        with pytest.raises(ConfigurationError, match="closed during a list"):
            await reading
        assert asyncio.get_running_loop().time() == began


@pytest.mark.parametrize("link", ["", None])
async def test_an_empty_link_ends_the_list(long: FakeVPS, link: str | None) -> None:
    async with client_of(long) as client:
        long.inject(HostileNext(link, path="page=3"))
        assert len(await client.list().collect()) == 25


# --- A6: nothing is held -------------------------------------------------------------------------


async def test_a_stream_left_behind_holds_neither_slot_nor_connection_nor_task(
    long: FakeVPS,
) -> None:
    limiter = AdaptiveLimiter(maximum=1)
    timeouts = Timeouts(deadline=5, attempt=5)
    async with client_of(long, limiter=limiter, timeouts=timeouts) as client:
        kept = aiter(client.list())
        tasks = asyncio.all_tasks()
        async for backup in kept:
            assert backup.id == 25
            break
        assert limiter.running == 0
        assert our_tasks() == tasks
        assert len(await client.list().collect()) == 25
        assert [backup.id async for backup in kept] == list(range(24, 0, -1))


async def test_a_stream_may_be_closed_twice_and_read_again(long: FakeVPS) -> None:
    async with client_of(long) as client:
        async with client.list(prefetch=2) as stream:
            async for _ in stream:
                break
        await stream.aclose()
        await stream.aclose()
        assert len(await stream.collect()) == 25


async def test_leaving_async_with_ends_a_loop_that_is_still_referenced(long: FakeVPS) -> None:
    async with client_of(long) as client:
        tasks = our_tasks()
        async with client.list(prefetch=2) as stream:
            pages = stream.pages()
            await anext(pages)
        assert our_tasks() == tasks
        with pytest.raises(ConfigurationError, match="closed before it was read to its end"):
            await anext(pages)


WAYS: dict[str, Callable[[BackupStream], Awaitable[Any]]] = {
    "loop": lambda stream: drain(stream, []),
    "pages": lambda stream: drain(stream.pages(), []),
    "collect": lambda stream: stream.collect(),
    "count": lambda stream: stream.count(),
    "snapshot": lambda stream: stream.snapshot(),
}


@pytest.mark.virtual_time
@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("way", WAYS)
async def test_a_reader_whose_stream_another_task_closes_does_not_take_a_part_for_the_whole(
    way: str, prefetch: int
) -> None:
    async with (
        FakeVPS(servers=1, backups=50, page_size=5, paging="cursor", faults=[Latency(1)]) as fake,
        client_of(fake) as client,
    ):
        stream = client.list(prefetch=prefetch)
        reading = asyncio.ensure_future(WAYS[way](stream))
        await asyncio.sleep(3.5)
        await stream.aclose()
        with pytest.raises(ConfigurationError, match="closed before it was read to its end"):
            await reading
        assert fake.count() == 4


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_an_ndjson_body_whose_stream_is_closed_does_not_end_as_if_whole(
    long: FakeVPS, prefetch: int
) -> None:
    async with client_of(long) as client:
        stream = client.list(prefetch=prefetch)
        body = await stream.ndjson()
        await anext(body)
        await stream.aclose()
        with pytest.raises(ConfigurationError, match="closed before it was read to its end"):
            await drain(body, [])


async def test_a_stream_that_was_read_to_its_end_may_be_closed_before_the_reader_notices(
    long: FakeVPS,
) -> None:
    async with client_of(long) as client:
        async with client.list() as stream:
            pages = stream.pages()
            sizes = [len((await anext(pages)).items) for _ in range(3)]
        assert sizes == [10, 10, 5]
        with pytest.raises(StopAsyncIteration):
            await anext(pages)


async def test_two_loops_over_one_stream_do_not_disturb_each_other(long: FakeVPS) -> None:
    async with client_of(long) as client:
        stream = client.list()
        async with aclosing(aiter(stream)) as one, aclosing(aiter(stream)) as other:
            pairs = [(await anext(one), await anext(other)) for _ in range(25)]
        assert all(left == right for left, right in pairs)


# --- A7: ahead -----------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("paging", ["page", "limit"])
@pytest.mark.parametrize("prefetch", [1, 4])
async def test_prefetch_is_the_most_in_flight_and_saves_the_time_it_should(
    paging: Any, prefetch: int
) -> None:
    async with (
        FakeVPS(servers=1, backups=105, page_size=5, paging=paging, faults=[Latency(1)]) as fake,
        client_of(fake) as client,
    ):
        start = asyncio.get_running_loop().time()
        came = ids_of(await client.list(prefetch=prefetch).collect())
        assert came == list(range(105, 0, -1))
        assert fake.peak == prefetch
        assert fake.count("GET") == 21
        took = asyncio.get_running_loop().time() - start
        assert took == pytest.approx(1 + 20 / prefetch, abs=0.2)


@pytest.mark.virtual_time
async def test_a_cursor_stays_sequential() -> None:
    async with (
        FakeVPS(servers=1, backups=25, page_size=5, paging="cursor", faults=[Latency(1)]) as fake,
        client_of(fake) as client,
    ):
        assert len(await client.list(prefetch=8).collect()) == 25
        assert (fake.peak, fake.count()) == (1, 5)


async def test_the_error_of_a_page_surfaces_at_that_page() -> None:
    async with (
        FakeVPS(servers=1, backups=50, page_size=5) as fake,
        client_of(fake) as client,
    ):
        fake.inject(ServerFault(status=500, path="page=4"))
        came: list[Backup] = []
        with pytest.raises(ServerError):
            await drain(client.list(prefetch=8), came)
        assert ids_of(came) == list(range(50, 35, -1))


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", ["aclose", "break", "client"])
async def test_what_runs_ahead_is_ended_with_its_reader(way: str) -> None:
    async with FakeVPS(servers=1, backups=50, page_size=5) as fake, client_of(fake) as client:
        fake.inject(Latency(60, after=1))
        tasks = our_tasks()
        stream = client.list(prefetch=4)
        async with aclosing(aiter(stream)) as backups:
            async for _ in backups:
                await asyncio.sleep(1)
                assert len(our_tasks() - tasks) == 4
                if way == "aclose":
                    await stream.aclose()
                elif way == "client":
                    await client.close()
                assert way == "break" or our_tasks() == tasks
                break
        assert fake.count() == 5
        assert our_tasks() == tasks


@pytest.mark.virtual_time
async def test_closing_the_client_ends_what_runs_ahead_in_a_session_that_stays_open(
    long: FakeVPS,
) -> None:
    async with aiohttp.ClientSession() as session:
        client = client_of(long, session=session)
        tasks = our_tasks()
        long.inject(Latency(20, path="page"))
        pages = client.list(prefetch=2).pages()
        await anext(pages)
        await asyncio.sleep(1)
        assert len(our_tasks() - tasks) == 2
        await client.close()
        assert our_tasks() == tasks
        with pytest.raises(ConfigurationError, match="closed during a list"):
            await anext(pages)


@pytest.mark.virtual_time
@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_list_that_is_cut_short_by_the_client_s_end_does_not_look_whole(
    long: FakeVPS, prefetch: int
) -> None:
    client = client_of(long)
    pages = client.list(prefetch=prefetch).pages()
    assert len((await anext(pages)).items) == 10
    await client.close()
    with pytest.raises(ConfigurationError, match="closed"):
        await anext(pages)

    client = client_of(long)
    long.inject(Latency(10, path="page=2"))
    reading = asyncio.ensure_future(client.list(prefetch=prefetch).collect())
    await asyncio.sleep(1)
    await client.close()
    with pytest.raises(VPSBackupsError):
        await reading


# --- A8, A9: the ways to read, filters -----------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 8])
async def test_first_and_count_take_one_request(long: FakeVPS, prefetch: int) -> None:
    async with client_of(long) as client:
        first = await client.list(prefetch=prefetch).first()
        assert first is not None
        assert first.id == 25
        assert long.count() == 1
        assert await client.list(prefetch=prefetch).count() == 25
        await asyncio.sleep(0)
        assert long.count() == 2


async def test_an_empty_list_has_no_first_and_counts_zero() -> None:
    async with FakeVPS() as fake, client_of(fake) as client:
        assert await client.list().first() is None
        assert await client.list().count() == 0
        assert await client.list().collect() == []
        sweep = await client.list().snapshot()
        assert (sweep.items, sweep.complete, sweep.count_last) == ((), True, 0)


async def test_count_reads_all_where_the_server_gives_no_total() -> None:
    async with (
        FakeVPS(servers=1, backups=25, paging="cursor", page_size=10) as fake,
        client_of(fake) as client,
    ):
        assert await client.list().count() == 25
        assert fake.count() == 3


@pytest.mark.parametrize(
    ("limit", "requests"), [(0, 0), (1, 1), (10, 1), (11, 2), (20, 2), (25, 3), (99, 3), (None, 3)]
)
async def test_collect_reads_no_more_pages_than_its_limit_takes(
    long: FakeVPS, limit: int | None, requests: int
) -> None:
    async with client_of(long) as client:
        came = ids_of(await client.list().collect(limit))
        assert came == list(range(25, 0, -1))[:limit]
        assert long.count() == requests


@pytest.mark.parametrize("limit", [-1, True, "3", 2.0])
async def test_a_bad_limit_is_a_value_error_before_any_request(long: FakeVPS, limit: Any) -> None:
    async with client_of(long) as client:
        with pytest.raises(ValueError, match="limit"):
            await client.list().collect(limit)
        assert not long.requests


@pytest.mark.parametrize(
    "options",
    [
        *({"server_id": bad} for bad in (0, -1, True, "1", 1.0)),
        *({"page_size": bad} for bad in (0, -1, True, "1")),
        *({"prefetch": bad} for bad in (-1, True, "1", None)),
        *({"max_pages": bad} for bad in (0, -1, True, "1", None)),
        *({"backup_type": bad} for bad in ("", "weekly", 1, "MANUAL")),
    ],
)
async def test_bad_arguments_are_value_errors_at_the_call(
    long: FakeVPS, options: dict[str, Any]
) -> None:
    async with client_of(long) as client:
        with pytest.raises(ValueError, match=next(iter(options))):
            client.list(**options)
        assert not long.requests


@pytest.mark.parametrize("paging", ["page", "limit", "cursor"])
async def test_each_page_carries_the_token_and_each_filter_once(paging: Any) -> None:
    async with FakeVPS(backups=25, paging=paging) as fake, client_of(fake) as client:
        stream = client.list(server_id=2, backup_type="automatic", page_size=5, prefetch=2)
        assert {backup.server.id for backup in await stream.collect()} == {2}
        assert fake.count("GET", status=200) == (2 if paging == "limit" else 5)
        for seen in fake.requests:
            assert seen.headers["Authorization"] == f"Bearer {fake.token}"
            for name in ("server_id=2", "backup_type=automatic"):
                assert seen.target.count(name) == 1


async def test_a_server_that_ignores_filters_is_filtered_here_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with FakeVPS(servers=3, backups=4, page_size=5) as fake, client_of(fake) as client:
        fake.add_backup(2, backup_type="manual")
        fake.inject(HostileNext("?page=2", path="server_id", times=None))
        # From page 2 on the list is that of all servers.
        stream = client.list(server_id=2)
        assert {backup.server.id for backup in await stream.collect()} == {2}
        assert {backup.server.id for backup in (await stream.snapshot()).items} == {2}
        manual: list[Backup] = await client.list(backup_type="manual").collect()
        assert len(manual) == 1
    warnings = [record.message for record in caplog.records]
    assert warnings == ["the server ignores list filters: they are applied here"]


async def test_the_total_of_a_server_that_ignores_filters_is_not_taken_for_the_count() -> None:
    async with FakeVPS() as fake, client_of(fake) as client:
        fake.inject(
            Reply(200, listing([(4, 1), (3, 2)], 4, "?page=2"), path="server_id"),
            Reply(200, listing([(2, 2), (1, 2)], 4, None), path="page=2"),
        )
        assert await client.list(server_id=2).count() == 3


# --- As the body of a web handler's answer -------------------------------------------------------


@pytest.mark.parametrize("prefetch", [0, 4])
async def test_ndjson_is_a_chunk_a_page_and_a_line_a_backup(long: FakeVPS, prefetch: int) -> None:
    async with client_of(long) as client:
        chunks = [chunk async for chunk in await client.list(prefetch=prefetch).ndjson()]
        assert [chunk.count(b"\n") for chunk in chunks] == [10, 10, 5]
        lines = b"".join(chunks).splitlines()
        assert [from_json(Backup, line) for line in lines] == await client.list().collect()


async def test_ndjson_has_read_one_page_before_it_is_read_itself(long: FakeVPS) -> None:
    async with client_of(long) as client:
        lines = await client.list().ndjson()
        assert long.count() == 1
        async for _ in lines:
            assert long.count() == 1
            break
        long.inject(ServerFault(500, path="page=2"))
        with pytest.raises(ServerError):
            await anext(lines)
        long.inject(ServerFault(500))
        with pytest.raises(ServerError):
            await client.list().ndjson()


async def test_an_empty_page_is_no_chunk() -> None:
    async with FakeVPS(servers=2, backups=3, page_size=2) as fake, client_of(fake) as client:
        fake.inject(Reply(200, b'{"count":6,"next":"?page=2","results":[]}', times=1))
        chunks = [chunk async for chunk in await client.list().ndjson()]
        assert [chunk.count(b"\n") for chunk in chunks] == [2, 2]
        assert [chunk async for chunk in await client.list(server_id=9).ndjson()] == []


@pytest.mark.parametrize("read", [0, 1])
@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_body_that_is_dropped_unclosed_leaves_nothing(
    long: FakeVPS, prefetch: int, read: int
) -> None:
    async with client_of(long) as client:
        tasks = our_tasks()
        lines = await client.list(prefetch=prefetch).ndjson()
        for _ in range(read):
            await anext(lines)
        long.inject(Latency(3600))
        gc.disable()  # it must not take that
        try:
            del lines
            for _ in range(30):
                await asyncio.sleep(0)
            assert our_tasks() == tasks
        finally:
            gc.enable()
        assert client.stats.running == 0


async def test_a_body_that_is_cancelled_as_its_chunk_is_taken_sends_no_further_request(
    long: FakeVPS,
) -> None:
    """As by a web server that goes on with the body before it cancels it."""
    async with client_of(long) as client:
        lines = await client.list().ndjson()
        await anext(lines)
        going_on = asyncio.ensure_future(anext(lines))
        for _ in range(5):
            await asyncio.sleep(0)
        going_on.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going_on
        assert long.count() == client.stats.requests == 1


async def test_a_stream_and_a_fleet_show_what_they_are_for(client: BackupsClient) -> None:
    stream = client.list(server_id=2, backup_type="manual", page_size=5, prefetch=3)
    asked = "/backups/?server_id=2&backup_type=manual&page_size=5"
    assert repr(stream) == f"<BackupStream of {asked}, prefetch=3>"
    assert repr(client.list()) == "<BackupStream of /backups/, prefetch=0>"
    assert repr(client.fleet([1, 2], concurrency=8)) == "<Fleet of 2 servers, concurrency=8>"
    assert repr(client.fleet(iter([1]))) == "<Fleet of servers, concurrency=64>"
