"""A list that moves while it is read: one deletion between two pages hides no backup.

The server has 12 backups, newest first, 5 a page. Just before it answers the request for the second
page, a backup of the first page is deleted, so that backup 7 moves from the second page to the
first, where the reader has been already.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from helpers_streams import ids_of, lists_over, make_all, on_page

from vpsbackups_async import (
    ApiError,
    AuthenticationError,
    Backup,
    BackupRef,
    BackupsClient,
    ConstantBackoff,
    Fleet,
    ManualBackupLimitError,
    NotFoundError,
    Page,
    RetryPolicy,
)
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async.errors import NotInListError
from vpsbackups_async.testing import FakeVPS, Reply


@pytest.fixture
async def drifting() -> AsyncIterator[FakeVPS]:
    async with FakeVPS(
        servers=[1, *range(100, 140)], backups=0, page_size=5, max_page_size=5, quota=99
    ) as fake:
        for number in range(1, 13):
            fake.add_backup(1, status="in_progress" if number == 7 else "completed")
        on_page(fake, 2, lambda: fake.remove_backup(12))
        yield fake


@pytest.fixture
async def reader(drifting: FakeVPS) -> AsyncIterator[BackupsClient]:
    retry = RetryPolicy(attempts=1)
    async with BackupsClient(drifting.token, base_url=drifting.url, retry=retry) as client:
        yield client


async def ids_of_find(client: BackupsClient, *refs: BackupRef | int) -> set[int]:
    return {outcome.unwrap().id async for outcome in client.find(refs)}


FINDERS: dict[str, Callable[[BackupsClient], Awaitable[Any]]] = {
    "get": lambda client: client.get(7),
    "get of a server": lambda client: client.get(7, server_id=1),
    "find": lambda client: ids_of_find(client, 7),
    "find of a server": lambda client: ids_of_find(client, BackupRef(7, 1)),
    "find of several": lambda client: ids_of_find(client, 7, BackupRef(6, 1), 11),
    "wait": lambda client: client.wait(BackupRef(7), backoff=ConstantBackoff(0), timeout=5),
    "wait of a server": lambda client: client.wait(
        BackupRef(7, 1), backoff=ConstantBackoff(0), timeout=5
    ),
}


@pytest.mark.parametrize("finder", FINDERS)
async def test_a_backup_that_moves_to_a_page_already_read_is_found(
    drifting: FakeVPS, reader: BackupsClient, finder: str
) -> None:
    if finder.startswith("wait"):
        drifting.finish(7)
    found = await FINDERS[finder](reader)
    assert 7 in (found if isinstance(found, set) else {found.id})


@pytest.mark.parametrize("servers", [[1], [1, *range(100, 140)]], ids=["each", "the whole list"])
async def test_a_fleet_lists_a_backup_that_moves_to_a_page_already_read(
    drifting: FakeVPS, reader: BackupsClient, servers: list[int]
) -> None:
    on_page(drifting, 2 if len(servers) == 1 else 3, lambda: drifting.remove_backup(12))
    ids = [backup.id async for backup in reader.fleet(servers).list()]
    assert sorted(set(ids) - {12}) == list(range(1, 12))
    assert len(ids) == len(set(ids))


async def test_a_create_adopts_a_running_backup_that_moves_to_a_page_already_read(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    running = await reader.create(1, if_running="adopt")
    assert running.id == 7
    assert drifting.count("POST") == 0


async def test_a_full_server_is_recognised_although_its_list_moves(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.remove_backup(1)
    drifting.inject(Reply(400, b'{"detail": "no"}', method="POST"))
    with pytest.raises(ManualBackupLimitError):
        await reader.create(1)


async def test_a_backup_that_is_gone_is_not_found_after_a_list_that_rests(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.remove_backup(12)
    drifting.on_request = None
    with pytest.raises(NotFoundError, match="backup 12 is not in the list, which was read to its"):
        await reader.get(12)


async def test_a_list_that_changes_each_time_that_it_is_read_says_so(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.on_request = lambda seen: drifting.add_backup(100)
    with pytest.raises(NotInListError, match="which changed each time that it was read") as caught:
        await reader.get(99, server_id=None)
    assert (caught.value.backup_id, caught.value.server_id, caught.value.moved) == (99, None, True)


# --- A list at rest ------------------------------------------------------------------------------


async def test_find_gives_no_backup_of_another_server_than_the_ref_s(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.on_request = None
    refs = [BackupRef(7, 104), BackupRef(7, 1), BackupRef(8, 100), 9]
    outcomes = {outcome.key: outcome async for outcome in reader.find(refs)}
    assert outcomes[BackupRef(7, 104)].error.args == (7, 104, False)
    assert outcomes[BackupRef(7, 1)].unwrap().id == 7
    assert isinstance(outcomes[BackupRef(8, 100)].error, NotInListError)
    assert outcomes[BackupRef(9)].unwrap().id == 9


async def test_a_search_for_several_backups_asks_for_large_pages_and_one_for_one_does_not(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.on_request = None
    await reader.get(7)
    assert "page_size" not in drifting.requests[-1].query
    await ids_of_find(reader, 7, 8)
    assert drifting.requests[-1].query["page_size"] == "100"


@pytest.mark.parametrize("status", [500, 403, 404])
async def test_find_reads_the_refs_servers_where_the_list_of_all_servers_fails(
    drifting: FakeVPS, reader: BackupsClient, status: int
) -> None:
    drifting.add_backup(100)
    drifting.on_request = None
    drifting.inject(Reply(status, b"{}", path="/backups/?page_size"))
    refs = [BackupRef(7, 1), BackupRef(13, 100), 8]
    outcomes = {outcome.key: outcome async for outcome in reader.find(refs)}
    assert outcomes[BackupRef(7, 1)].unwrap().id == 7
    assert outcomes[BackupRef(13, 100)].unwrap().id == 13
    assert isinstance(outcomes[BackupRef(8)].error, ApiError)


async def test_find_sends_nothing_more_after_a_refused_token(
    drifting: FakeVPS, reader: BackupsClient
) -> None:
    drifting.revoke()
    outcomes = [o async for o in reader.find([BackupRef(7, 1), BackupRef(8, 100), 9])]
    assert [type(outcome.error) for outcome in outcomes] == [AuthenticationError] * 3
    assert drifting.count("GET") == 1


async def test_a_count_that_is_always_wrong_is_not_taken_for_a_list_that_moves() -> None:
    asked: list[str] = []

    async def fetch(listing: object, on_response: object, query: str) -> Page[Backup]:
        asked.append(query)
        last = "page=2" in query
        ids = [2, 1] if last else [4, 3]
        return Page(make_all(ids), 5, None if last else "?server_id=1&page=2")

    lists = lists_over(fetch)
    came = [backup async for backup in Fleet(None, [1], lists=lists, rotator=None).list()]  # type: ignore[arg-type]
    assert ids_of(came) == [4, 3, 2, 1]
    assert len(asked) == 2
    sweep = await Finder(lists).read_server(1)
    assert (ids_of(sweep.items), sweep.complete, len(asked)) == ([4, 3, 2, 1], False, 4)
