"""The fake server's list: four styles of paging, filters, orders."""

from __future__ import annotations

from typing import Any

import pytest
from helpers_fake import LIST, Answered, ask

from vpsbackups_async.testing import FakeVPS


async def walk(fake: FakeVPS, path: str, link: str = "next") -> list[Answered]:
    """Every page from ``path`` on."""
    pages = [await ask(fake, "GET", path)]
    while pages[-1].json[link] is not None:
        pages.append(await ask(fake, "GET", pages[-1].json[link]))
    return pages


def ids(pages: list[Answered]) -> list[int]:
    return [found for page in pages for found in page.ids]


@pytest.mark.parametrize("order", ["id", "-id", "created_at", "-created_at", "random"])
@pytest.mark.parametrize("paging", ["page", "limit", "cursor"])
async def test_the_links_lead_through_every_backup_once_and_back(paging: Any, order: str) -> None:
    async with FakeVPS(servers=5, backups=9, paging=paging, order=order, page_size=7) as fake:
        pages = await walk(fake, LIST)
        assert sorted(ids(pages)) == list(range(1, 46))
        assert len(pages) == 7
        assert pages[0].json["previous"] is None
        if paging == "cursor":
            assert "count" not in pages[0].json
        else:
            assert {page.json["count"] for page in pages} == {45}
        back = [await ask(fake, "GET", pages[-1].json["previous"])]
        back += await walk(fake, back[0].json["previous"], "previous")
        assert [page.ids for page in back] == [page.ids for page in pages[-2::-1]]


async def test_an_order_is_kept_whatever_comes_when() -> None:
    times = {1: "2025-01-03T00:00:00Z", 2: "2025-01-01T00:00:00Z", 3: "2025-01-02T00:00:00Z"}
    for order, expected in {
        "id": [1, 2, 3],
        "-id": [3, 2, 1],
        "created_at": [2, 3, 1],
        "-created_at": [1, 3, 2],
    }.items():
        async with FakeVPS(servers=1, order=order) as fake:
            for backup_id in (2, 3, 1):
                fake.add_backup(1, id=backup_id, created_at=times[backup_id])
            assert (await ask(fake, "GET", LIST)).ids == expected


async def test_a_random_order_repeats_with_its_seed() -> None:
    seen = []
    for seed in (1, 1, 2):
        async with FakeVPS(servers=1, backups=20, order="random", seed=seed) as fake:
            seen.append((await ask(fake, "GET", LIST)).ids)
    assert seen[0] == seen[1] != seen[2]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        FakeVPS(order="size_mb")


async def test_page_numbers_follow_django_rest_framework() -> None:
    async with FakeVPS(servers=1, backups=250, max_page_size=100) as fake:
        base = f"{fake.url}{LIST}"
        first = await ask(fake, "GET", LIST)
        assert len(first.ids) == 20
        assert first.json["next"] == f"{base}?page=2"
        second = await ask(fake, "GET", f"{LIST}?page=2&page_size=30&backup_type=automatic")
        assert second.ids == list(range(220, 190, -1))
        assert second.json["next"] == f"{base}?backup_type=automatic&page=3&page_size=30"
        assert second.json["previous"] == f"{base}?backup_type=automatic&page_size=30"
        third = await ask(fake, "GET", f"{LIST}?page=3&page_size=1000")
        assert len(third.ids) == 50
        assert third.json["previous"] == f"{base}?page=2&page_size=1000"
        assert (await ask(fake, "GET", f"{LIST}?page=last&page_size=100")).ids == third.ids
        assert len((await ask(fake, "GET", f"{LIST}?page_size=-3")).ids) == 20
        for page in ("0", "14", "x", "٢"):
            answered = await ask(fake, "GET", f"{LIST}?page={page}")
            assert (answered.status, answered.json) == (404, {"detail": "Invalid page."})


async def test_the_first_page_of_an_empty_list_is_there() -> None:
    styles: list[Any] = ["page", "limit", "cursor", "none"]
    for paging in styles:
        async with FakeVPS(paging=paging) as fake:
            answered = await ask(fake, "GET", LIST)
            assert (answered.status, answered.ids) == (200, [])


async def test_limit_and_offset_follow_django_rest_framework() -> None:
    async with FakeVPS(servers=1, backups=50, paging="limit") as fake:
        base = f"{fake.url}{LIST}"
        middle = await ask(fake, "GET", f"{LIST}?limit=10&offset=15")
        assert middle.ids == list(range(35, 25, -1))
        assert middle.json["next"] == f"{base}?limit=10&offset=25"
        assert middle.json["previous"] == f"{base}?limit=10&offset=5"
        early = await ask(fake, "GET", f"{LIST}?limit=10&offset=5")
        assert early.json["previous"] == f"{base}?limit=10"
        beyond = await ask(fake, "GET", f"{LIST}?offset=1000&limit=x")
        assert (beyond.status, beyond.ids, beyond.json["next"]) == (200, [], None)


async def test_a_cursor_neither_skips_nor_repeats_when_the_list_moves() -> None:
    async with FakeVPS(servers=1, backups=10, paging="cursor", page_size=4) as fake:
        first = await ask(fake, "GET", LIST)
        fake.add_backup(1)
        fake.remove_backup(7)
        rest = await walk(fake, first.json["next"])
        assert first.ids + ids(rest) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


async def test_page_numbers_drift_when_the_list_moves() -> None:
    async with FakeVPS(servers=1, backups=10, page_size=4) as fake:
        first = await ask(fake, "GET", LIST)
        fake.add_backup(1)
        second = await ask(fake, "GET", first.json["next"])
        assert first.ids[-1] == second.ids[0]


@pytest.mark.parametrize("cursor", ["x", "bm90IGpzb24=", "MQ==", "W2ZhbHNlLCAieCIsIDFd"])
async def test_a_bad_cursor_is_a_404(cursor: str) -> None:
    async with FakeVPS(servers=1, backups=1, paging="cursor") as fake:
        answered = await ask(fake, "GET", f"{LIST}?cursor={cursor}")
    assert (answered.status, answered.json) == (404, {"detail": "Invalid cursor"})


async def test_without_paging_the_whole_list_comes_with_no_link() -> None:
    async with FakeVPS(servers=1, backups=1000, paging="none") as fake:
        answered = await ask(fake, "GET", LIST)
    assert set(answered.json) == {"count", "results"}
    assert answered.ids == list(range(1000, 0, -1))


async def test_a_cut_list_counts_all_and_may_ignore_the_page_asked_for() -> None:
    async with FakeVPS(servers=1, backups=10, paging="none", truncate_to=4) as fake:
        deaf = [await ask(fake, "GET", f"{LIST}?page={page}") for page in (1, 2, 9)]
        fake.honours_page = True
        heard = [await ask(fake, "GET", f"{LIST}?page={page}") for page in (1, 2, 3, 4)]
    assert {page.json["count"] for page in deaf} == {10}
    assert [page.ids for page in deaf] == [[10, 9, 8, 7]] * 3
    assert [page.ids for page in heard[:3]] == [[10, 9, 8, 7], [6, 5, 4, 3], [2, 1]]
    assert heard[3].status == 404


async def test_filters_narrow_the_list_and_stay_in_the_links() -> None:
    async with FakeVPS(servers=3, backups=4, page_size=3) as fake:
        for _ in range(5):
            fake.add_backup(2)
        manual = await walk(fake, f"{LIST}?backup_type=manual")
        both = await walk(fake, f"{LIST}?server_id=2&backup_type=manual")
        other = await walk(fake, f"{LIST}?server_id=2&backup_type=automatic")
        server = await walk(fake, f"{LIST}?server_id=2")
        nothing = await ask(fake, "GET", f"{LIST}?server_id=1&backup_type=manual")
        unknown = await ask(fake, "GET", f"{LIST}?server_id=99")
        empty = await ask(fake, "GET", f"{LIST}?server_id=&backup_type=")
    assert ids(manual) == ids(both) == [17, 16, 15, 14, 13]
    assert ids(other) == [11, 8, 5, 2]
    assert ids(server) == ids(both) + ids(other)
    assert (nothing.ids, unknown.ids) == ([], [])
    assert empty.json["count"] == 17


async def test_a_filter_that_makes_no_sense_is_refused_by_its_field() -> None:
    async with FakeVPS() as fake:
        server = await ask(fake, "GET", f"{LIST}?server_id=abc")
        kind = await ask(fake, "GET", f"{LIST}?backup_type=weekly")
    assert (server.status, server.json) == (400, {"server_id": ["Enter a number."]})
    assert kind.status == 400
    assert list(kind.json) == ["backup_type"]


async def test_links_can_be_given_another_origin_as_behind_a_proxy() -> None:
    async with FakeVPS(servers=1, backups=3, page_size=1, next_base="http://h") as fake:
        answered = await ask(fake, "GET", f"{LIST}?page=2")
    assert answered.json["next"] == f"http://h{LIST}?page=3"
    assert answered.json["previous"] == f"http://h{LIST}"


async def test_a_big_account_answers_a_filter_without_looking_at_the_rest() -> None:
    async with FakeVPS(servers=20_000, backups=1) as fake:
        answered = await ask(fake, "GET", f"{LIST}?server_id=19999")
        created = await ask(fake, "POST", LIST, json={"server_id": 20_000})
    assert answered.json["count"] == 1
    assert answered.json["results"][0]["server"] == {"id": 19999, "name": "server-19999"}
    assert created.json["id"] == 20_001


async def test_a_filter_can_be_ignored() -> None:
    async with FakeVPS(servers=2, backups=2, ignores_filters=["server_id"]) as fake:
        assert len((await ask(fake, "GET", f"{LIST}?server_id=1")).ids) == 4
        assert (await ask(fake, "GET", f"{LIST}?server_id=x&backup_type=manual")).ids == []
        fake.ignores_filters = ["backup_type"]
        assert len((await ask(fake, "GET", f"{LIST}?server_id=1&backup_type=manual")).ids) == 2


# --- The list of servers -------------------------------------------------------------------------

SERVERS = "/api/v1/servers/"
STATES: list[Any] = ["served", "forbidden", "missing"]


@pytest.mark.parametrize("paging", ["page", "limit", "cursor", "none"])
async def test_servers_are_paged_and_ordered_as_backups_are(paging: Any) -> None:
    async with FakeVPS(servers=5, page_size=2, order="id", paging=paging) as fake:
        first = await ask(fake, "GET", SERVERS)
        pages = [first] if paging == "none" else await walk(fake, SERVERS)
    assert ids(pages) == [1, 2, 3, 4, 5]
    assert all(page.json.get("count") == (None if paging == "cursor" else 5) for page in pages)


async def test_servers_can_be_added_changed_and_removed_while_the_server_runs() -> None:
    async with FakeVPS(servers=2, backups=1) as fake:
        assert fake.add_server(7, "seven", os=..., zone=1)["zone"] == 1
        fake.add_server(1, status="stopped")
        fake.remove_server(2)
        found = (await ask(fake, "GET", SERVERS)).json["results"]
        stopped = await ask(fake, "GET", f"{SERVERS}?status=stopped")
        assert len(fake.backups) == 2
        with pytest.raises(KeyError):
            fake.remove_server(2)
    assert [(server["id"], server["name"]) for server in found] == [
        (7, "seven"),
        (1, "server-0001"),
    ]
    assert "os" not in found[0]
    assert stopped.ids == [1]


async def test_a_status_that_is_none_is_refused_and_an_unknown_location_has_no_servers() -> None:
    async with FakeVPS(servers=2, server_statuses={1: "moving"}) as fake:
        known = await ask(fake, "GET", f"{SERVERS}?status=moving")
        unknown = await ask(fake, "GET", f"{SERVERS}?status=lost")
        nowhere = await ask(fake, "GET", f"{SERVERS}?location=nowhere")
    assert known.ids == [1]
    assert (unknown.status, list(unknown.json)) == (400, ["status"])
    assert nowhere.json["count"] == 0


async def test_the_calls_for_servers_and_account_can_be_refused_or_missing() -> None:
    async with FakeVPS() as fake:
        for path in (SERVERS, "/api/v1/account/me/"):
            statuses = []
            for calls in STATES:
                fake.account_calls = calls
                statuses.append((await ask(fake, "GET", path)).status)
            assert statuses == [200, 403, 404]
        assert (await ask(fake, "GET", LIST)).status == 200
