"""Pages from a `fetch` callable: links, the memory of ids, what is foreseen, the walk."""

import asyncio
import itertools
import logging
import sys
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest
from helpers_streams import HOSTILE, LIST_URL, PagedIds, drain, ids_of, make_all, walk_over
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from vpsbackups_async import ConfigurationError, NotFoundError, Page, PaginationError
from vpsbackups_async._lists.links import NextLinks
from vpsbackups_async._lists.prefetch import predict
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._transport.secrets import Redactor


async def read(walk: Walk) -> list[int]:
    return [backup.id async for page in walk.pages() for backup in page.items]


# --- Links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "query"),
    [
        ("https://h:8443/api/v1/backups/?page=2", "page=2"),
        ("http://h/api/v1/backups/?page=2", "page=2"),
        ("https://h/api/v1/backups/?page=2", "page=2"),
        ("https://H:8443/api/v1/backups/?page=2", "page=2"),
        ("/api/v1/backups/?page=2", "page=2"),
        ("/api/v1/backups?page=2", "page=2"),
        ("?page=2&server_id=1", "page=2&server_id=1"),
        ("?cursor=a%2Bb%3D%3D", "cursor=a%2Bb%3D%3D"),
        ("?page=2#there", "page=2"),
        ("https://h:8443/api/v1/backups/", ""),
    ],
)
def test_a_link_to_the_same_list_gives_its_query(link: str, query: str) -> None:
    assert NextLinks(URL(LIST_URL), Redactor()).query(link) == query


@pytest.mark.parametrize("link", HOSTILE)
def test_a_link_that_leads_elsewhere_is_refused_and_named(link: str) -> None:
    with pytest.raises(PaginationError) as caught:
        NextLinks(URL(LIST_URL), Redactor()).query(link)
    assert caught.value.url == link


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8000", "localhost", "web:8000", "my_app:8000", "10.1.2.3", "192.168.0.1:80"),
        *("172.16.0.9", "169.254.1.1", "100.64.0.1", "[::1]:8000", "[fd00::1]", "[fe80::1]"),
    ],
)
def test_a_link_to_an_internal_address_gives_its_query(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    links = NextLinks(URL(LIST_URL), Redactor())
    for number in (2, 3):
        assert links.query(f"http://{host}/api/v1/backups/?page={number}") == f"page={number}"
    assert len(caplog.records) == 1
    assert host.partition(":8")[0] in caplog.text


@pytest.mark.parametrize("host", ["8.8.8.8", "[2001:4860:4860::8888]", "web.example", "localhost."])
def test_a_link_to_another_public_host_is_refused(host: str) -> None:
    with pytest.raises(PaginationError, match="another host"):
        NextLinks(URL(LIST_URL), Redactor()).query(f"https://{host}/api/v1/backups/?page=2")


@pytest.mark.parametrize(
    "link",
    [
        "https://xn--/api/v1/backups/?page=2",
        "https://xn--a.example/api/v1/backups/?page=2",
        "https://xn--999999999.example/api/v1/backups/?page=2",
        "https://a.xn--\u00e9.example/api/v1/backups/?page=2",
        "https://xn--iñvalid-.com/",
        "//xn--0/",
    ],
)
def test_a_link_to_a_host_that_cannot_be_decoded_is_refused(link: str) -> None:
    with pytest.raises(PaginationError) as caught:
        NextLinks(URL(LIST_URL), Redactor()).query(link)
    assert caught.value.url == link


def test_other_schemes_and_ports_of_the_same_host_are_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    links = NextLinks(URL(LIST_URL), Redactor())
    links.query("https://h:8443/api/v1/backups/?page=2")
    assert not caplog.records
    for link in ("http://h/api/v1/backups/?page=2", "https://h/api/v1/backups/?page=3"):
        links.query(link)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "http://h instead of https://h:8443" in caplog.text


# --- The memory of ids ---------------------------------------------------------------------------

_IDS = st.one_of(st.integers(-20, 20), st.integers(), st.sampled_from([2**63, -(2**63), 2**63 - 1]))
_BATCHES = st.lists(
    st.one_of(
        st.lists(_IDS, max_size=8),
        st.builds(lambda first, n: list(range(first, first + n)), _IDS, st.integers(0, 9)),
        st.builds(lambda first, n: list(range(first, first - n, -1)), _IDS, st.integers(0, 9)),
    ),
    max_size=8,
)


@given(_BATCHES)
def test_seen_ids_behave_as_a_set(batches: list[list[int]]) -> None:
    seen, reference = SeenIds(), set[int]()
    for batch in batches:
        fresh = []
        for backup_id in batch:
            if backup_id not in reference:
                reference.add(backup_id)
                fresh.append(backup_id)
        assert ids_of(seen.add(make_all(batch))) == fresh
        assert all(backup_id in seen for backup_id in reference)
        assert not any(other in seen for other in (21, -21, 2**70) if other not in reference)


def test_a_million_ids_in_order_cost_less_than_12_megabytes() -> None:
    seen = SeenIds()
    for first in range(1_000_000, 0, -10_000):
        seen.add(make_all(range(first, first - 10_000, -1)))
    assert 500_000 in seen
    assert 1_000_001 not in seen
    assert sys.getsizeof(seen._run) + sys.getsizeof(seen._strays) < 12e6


# --- What can be foreseen ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "last", "size", "queries"),
    [
        ("page=2", 25, 10, ["page=2", "page=3"]),
        ("page=2", 20, 10, ["page=2"]),
        ("page=2&server_id=7", 31, 10, [f"page={n}&server_id=7" for n in (2, 3, 4)]),
        ("limit=10&offset=10", 35, 10, [f"limit=10&offset={n}" for n in (10, 20, 30)]),
        ("offset=10", 35, 10, [f"offset={n}" for n in (10, 20, 30)]),
        ("limit=0&offset=10", 35, 10, [f"limit=0&offset={n}" for n in (10, 20, 30)]),
        ("cursor=abc", 1000, 10, ["cursor=abc"]),
        ("page=2", None, 10, ["page=2"]),
        ("page=2", 25, 0, ["page=2"]),
        ("page=last", 25, 10, ["page=last"]),
        ("page=" + "9" * 5000, 25, 10, ["page=" + "9" * 5000]),
        ("page=\u00b2", 25, 10, ["page=\u00b2"]),
    ],
)
def test_numbers_are_foreseen_and_cursors_are_not(
    query: str, last: int | None, size: int, queries: list[str]
) -> None:
    assert list(predict(query, last, size)) == queries


def test_an_absurd_total_is_foreseen_lazily() -> None:
    assert list(itertools.islice(predict("page=2", 10**400, 10), 3)) == [
        "page=2",
        "page=3",
        "page=4",
    ]


# --- Walking -------------------------------------------------------------------------------------


@given(
    total=st.integers(0, 60),
    size=st.integers(1, 12),
    prefetch=st.integers(0, 9),
    inserts=st.lists(st.tuples(st.integers(1, 6), st.integers(0, 60)), max_size=4),
)
def test_under_inserts_every_old_id_comes_exactly_once(
    total: int, size: int, prefetch: int, inserts: list[tuple[int, int]]
) -> None:
    async def go() -> None:
        source = PagedIds(range(total), size)

        def insert(number: int) -> None:
            for when, place in list(inserts):
                if when == number:
                    inserts.remove((when, place))
                    source.ids.insert(place, 1000 + len(source.ids))

        source.before = insert
        walk = walk_over(source, prefetch=prefetch)
        came = await read(walk)
        assert len(came) == len(set(came))
        assert set(range(total)) <= set(came)
        assert walk.complete <= (set(came) == set(source.ids))

    asyncio.run(go())


@given(
    total=st.integers(0, 60),
    size=st.integers(1, 12),
    prefetch=st.integers(0, 9),
    deletes=st.lists(st.tuples(st.integers(2, 6), st.integers(0, 59)), max_size=6),
)
def test_under_deletes_a_walk_that_missed_something_is_not_complete(
    total: int, size: int, prefetch: int, deletes: list[tuple[int, int]]
) -> None:
    async def go() -> None:
        source = PagedIds(range(total), size)

        def delete(number: int) -> None:
            for when, place in list(deletes):
                if when == number and place < len(source.ids):
                    deletes.remove((when, place))
                    del source.ids[place]

        source.before = delete
        walk = walk_over(source, prefetch=prefetch)
        came = await read(walk)
        assert len(came) == len(set(came))
        if walk.complete:
            assert set(source.ids) <= set(came)

    asyncio.run(go())


async def test_a_total_that_moved_and_came_back_is_no_complete_walk() -> None:
    """A delete before page 2 and an insert at the end before page 3 hide one backup."""
    source = PagedIds(range(25), 10)

    def move(number: int) -> None:
        if number == 2:
            del source.ids[0]
        if number == 3:
            source.ids.append(99)

    source.before = move
    walk = walk_over(source)
    came = await read(walk)
    assert 10 not in came
    assert (walk.count_first, walk.count_last, walk.distinct) == (25, 25, 25)
    assert not walk.complete


def linked(*pages: tuple[list[int], str | None], count: int | None = None) -> Any:
    """A `fetch` of pages named a, b, c…; each has ids and the name of the next."""
    pages_by_cursor = dict(zip("abcdef", pages, strict=False))
    asked = []

    async def fetch(query: str) -> Page:
        asked.append(query)
        ids, following = pages_by_cursor[query.removeprefix("cursor=") or "a"]
        if following is not None and not following.startswith("http"):
            following = following and f"?cursor={following}"
        return Page(make_all(ids), count, following)

    fetch.asked = asked  # type: ignore[attr-defined]  # for the test
    return fetch


@pytest.mark.parametrize("prefetch", [0, 3])
async def test_a_circle_of_links_is_an_error_after_all_its_pages(prefetch: int) -> None:
    fetch = linked(([1], "b"), ([2], "c"), ([3], "b"))
    came: list[Page] = []
    with pytest.raises(PaginationError) as caught:
        await drain(walk_over(fetch, prefetch=prefetch).pages(), came)
    assert caught.value.url == "?cursor=b"
    assert [ids_of(page.items) for page in came] == [[1], [2], [3]]
    assert len(fetch.asked) == 3


async def test_the_same_cursor_again_is_an_error() -> None:
    fetch = linked(([1], "b"), ([2], "b"))
    with pytest.raises(PaginationError, match="leads back"):
        await read(walk_over(fetch))
    assert len(fetch.asked) == 2


async def test_parameters_in_another_order_are_the_same_page() -> None:
    async def fetch(query: str) -> Page:
        return Page(make_all([1]), None, "?b=2&a=1" if query == "a=1&b=2" else "?a=1&b=2")

    with pytest.raises(PaginationError, match="leads back"):
        await read(walk_over(fetch, "a=1&b=2"))


@pytest.mark.parametrize("link", ["http", "count"])
async def test_more_than_max_pages_is_an_error_that_names_the_link(link: str) -> None:
    numbers = itertools.count(1)

    async def fetch(query: str) -> Page:
        number = next(numbers)
        following = f"?cursor={number}" if link == "http" else None
        return Page(make_all([number]), None if following else 99, following)

    with pytest.raises(PaginationError, match="more than 4 pages") as caught:
        await read(walk_over(fetch, max_pages=4))
    assert next(numbers) == 5
    assert caught.value.url == ("?cursor=4" if link == "http" else "page=5")


@pytest.mark.parametrize("prefetch", [0, 4])
async def test_an_empty_page_with_a_fresh_link_is_not_the_end(prefetch: int) -> None:
    fetch = linked(([1], "b"), ([], "c"), ([], "d"), ([2], None))
    assert await read(walk_over(fetch, prefetch=prefetch)) == [1, 2]


@pytest.mark.virtual_time
@pytest.mark.parametrize("items", ["none", "the same"])
async def test_pages_that_bring_nothing_new_come_ever_slower(items: str) -> None:
    times: list[float] = []

    async def fetch(query: str) -> Page:
        times.append(asyncio.get_running_loop().time())
        link = f"?cursor={len(times)}" if len(times) < 12 else None
        return Page(make_all([7] if items == "the same" or len(times) == 1 else []), None, link)

    assert await read(walk_over(fetch)) == [7]
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(times)]
    assert pauses == [0, 0, 0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 2]


@pytest.mark.virtual_time
async def test_a_new_item_ends_the_pauses() -> None:
    times: list[float] = []

    async def fetch(query: str) -> Page:
        times.append(asyncio.get_running_loop().time())
        link = f"?cursor={len(times)}" if len(times) < 9 else None
        return Page(make_all([len(times)] if len(times) in {1, 6} else []), None, link)

    assert await read(walk_over(fetch)) == [1, 6]
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(times)]
    assert pauses == [0, 0, 0, 0, 0.1, 0, 0, 0]


@pytest.mark.virtual_time
async def test_reading_a_list_again_that_shrank_takes_no_pauses() -> None:
    """The pages up to where it was bring nothing new, and are no endless list."""
    fetch = PagedIds(range(1, 201), 10)
    fetch.before = lambda number: fetch.ids.__delitem__(slice(190, 200)) if number == 20 else None
    began = asyncio.get_running_loop().time()
    assert await read(walk_over(fetch)) == list(range(1, 191))
    assert fetch.asked == [*range(1, 21), *range(1, 20)]
    assert asyncio.get_running_loop().time() == began


async def test_an_empty_link_ends_the_walk() -> None:
    walk = walk_over(linked(([1], "b"), ([2], "")))
    assert await read(walk) == [1, 2]
    assert walk.complete


async def test_a_list_without_a_total_that_gave_an_item_twice_is_not_complete() -> None:
    walk = walk_over(linked(([3, 2], "b"), ([2, 1], None)))
    sweep = await walk.read()
    assert (ids_of(sweep.items), sweep.duplicates, sweep.complete) == ([3, 2, 1], 1, False)
    walk = walk_over(linked(([3, 2], "b"), ([1], None)))
    assert (await walk.read()).complete


@pytest.mark.parametrize("again", [[1, 2, 3], [1, 2], [2], []])
async def test_a_first_page_that_comes_again_is_an_error_also_if_it_shrank(
    again: list[int],
) -> None:
    """A server without links that ignores `page` gives its first page for ever."""
    asked: list[str] = []

    async def fetch(query: str) -> Page:
        asked.append(query)
        return Page(make_all([1, 2, 3] if len(asked) == 1 else again), 9, None)

    with pytest.raises(PaginationError, match="neither a link to the rest nor further pages"):
        await read(walk_over(fetch))
    assert asked == ["", "page=2"]


async def test_once_there_were_links_a_larger_total_does_not_make_up_pages() -> None:
    """A cursor's list grew at its top: what a made-up `page=` would give is not known."""
    fetch = linked(([3, 2], "b"), ([1], None), count=4)
    walk = walk_over(fetch)
    assert await read(walk) == [3, 2, 1]
    assert fetch.asked == ["", "cursor=b"]
    assert not walk.complete


async def test_a_page_is_handed_out_before_its_bad_link_is_an_error() -> None:
    fetch = linked(([1, 2], "https://evil.example/"))
    async with aclosing(walk_over(fetch).pages()) as pages:
        assert ids_of((await anext(pages)).items) == [1, 2]
        with pytest.raises(PaginationError, match="another host"):
            await anext(pages)


@pytest.mark.parametrize("size", [1, 3])
async def test_a_server_that_ignores_page_numbers_is_an_error(size: int) -> None:
    async def fetch(query: str) -> Page:
        return Page(make_all(range(size)), 10)

    with pytest.raises(PaginationError, match="counts 10 items") as caught:
        await read(walk_over(fetch, "server_id=1"))
    assert caught.value.url == "server_id=1&page=2"


async def test_a_page_that_vanished_starts_the_walk_again() -> None:
    source = PagedIds(range(21), 10)

    def shrink(number: int) -> None:
        if number == 3 and len(source.ids) == 21:
            del source.ids[:2]

    source.before = shrink
    walk = walk_over(source)
    assert sorted(await read(walk)) == list(range(21))
    assert source.asked == [1, 2, 3, 1, 2]
    assert not walk.complete


async def test_a_walk_that_began_again_is_not_complete_whatever_the_totals_say() -> None:
    source = PagedIds(range(21), 10)
    source.fails[3] = NotFoundError(404)
    source.before = lambda number: number == 1 and source.asked != [1] and source.fails.clear()
    walk = walk_over(source)
    assert await read(walk) == list(range(21))
    assert (walk.count_first, walk.count_last, walk.distinct) == (21, 21, 21)
    assert not walk.complete


async def test_pages_that_keep_vanishing_are_an_error_and_no_not_found() -> None:
    source = PagedIds(range(21), 10)
    source.fails[3] = NotFoundError(404)
    with pytest.raises(PaginationError, match="keep vanishing"):
        await read(walk_over(source))
    assert source.asked == [1, 2, 3] * 4


async def test_a_first_page_that_is_not_there_is_not_found() -> None:
    source = PagedIds(range(21), 10)
    source.fails[1] = NotFoundError(404)
    with pytest.raises(NotFoundError):
        await read(walk_over(source))
    assert source.asked == [1]


# --- Ahead of the reader -------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("prefetch", [1, 3, 8])
async def test_at_most_prefetch_pages_are_in_flight_and_their_order_is_kept(prefetch: int) -> None:
    source = PagedIds(range(100), 5, seconds=1)
    start = asyncio.get_running_loop().time()
    assert await read(walk_over(source, prefetch=prefetch)) == list(range(100))
    assert source.peak == prefetch
    assert sorted(source.asked) == list(range(1, 21))
    assert asyncio.get_running_loop().time() - start == pytest.approx(1 + -(-19 // prefetch))


@pytest.mark.virtual_time
async def test_the_error_of_a_page_that_runs_ahead_surfaces_at_that_page() -> None:
    source = PagedIds(range(100), 5, seconds=1)
    source.fails[4] = ValueError("page 4")
    async with aclosing(walk_over(source, prefetch=8).pages()) as pages:
        for number in range(3):
            assert ids_of((await anext(pages)).items)[0] == number * 5
            await asyncio.sleep(5)  # until everything ahead has ended, the bad page too
        with pytest.raises(ValueError, match="page 4"):
            await anext(pages)


@pytest.mark.virtual_time
@pytest.mark.parametrize("way", ["generator", "walk"])
async def test_closing_cancels_and_awaits_what_runs_ahead(way: str) -> None:
    source = PagedIds(range(100), 5, seconds=1)
    walk = walk_over(source, prefetch=4)
    pages = walk.pages()
    await anext(pages)
    await asyncio.sleep(0.5)
    assert source.in_flight == 4
    await (pages.aclose() if way == "generator" else walk.aclose())
    assert source.in_flight == 0
    assert len(asyncio.all_tasks()) == 1
    await walk.aclose()
    await pages.aclose()


@pytest.mark.virtual_time
@pytest.mark.parametrize("error", [None, ConfigurationError("closed")])
async def test_closing_while_a_page_is_awaited_lets_nothing_else_run(
    error: ConfigurationError | None,
) -> None:
    source = PagedIds(range(100), 5, seconds=1)
    walk = walk_over(source, prefetch=2)
    pages = walk.pages()
    await anext(pages)
    reader = asyncio.ensure_future(anext(pages))
    await asyncio.sleep(0.5)
    await walk.aclose(error)
    assert ids_of((await reader).items) == [5, 6, 7, 8, 9]
    assert len(asyncio.all_tasks()) == 1
    with pytest.raises(ConfigurationError if error else StopAsyncIteration):
        await anext(pages)
    assert source.done == [1, 2]
    assert not walk.complete


@pytest.mark.virtual_time
async def test_links_that_skip_what_was_foreseen_are_followed() -> None:
    jumps = {1: 2, 2: 5, 5: 9}

    async def fetch(query: str) -> Page:
        await asyncio.sleep(1)
        number = int(query.partition("=")[2] or 1)
        following = jumps.get(number)
        return Page(make_all([number]), 20, following and f"?page={following}")

    assert await read(walk_over(fetch, prefetch=2)) == [1, 2, 5, 9]


@pytest.mark.virtual_time
async def test_a_cursor_is_followed_one_page_at_a_time() -> None:
    flying = peak = 0

    async def fetch(query: str) -> Page:
        nonlocal flying, peak
        flying += 1
        peak = max(peak, flying)
        await asyncio.sleep(1)
        flying -= 1
        number = int(query.partition("=")[2] or 0)
        return Page(make_all([number]), 10, f"?cursor={number + 1}" if number < 9 else None)

    assert await read(walk_over(fetch, prefetch=8)) == list(range(10))
    assert peak == 1


async def test_a_total_that_is_too_high_ends_the_walk_incomplete_after_a_second_look() -> None:
    asked: list[str] = []

    async def fetch(query: str) -> Page[Any]:
        asked.append(query)
        if "page=2" in query:
            raise NotFoundError(404, "Invalid page.")
        return Page(make_all(range(1, 4)), 4)

    sweep = await walk_over(fetch).read()
    assert ids_of(sweep.items) == [1, 2, 3]
    assert not sweep.complete
    assert asked == ["", "page=2", "", "page=2"]


async def test_a_page_beyond_the_total_that_vanished_is_read_again_for_what_moved_up() -> None:
    pages = {"": [1, 2, 3], "page=2": None}

    async def fetch(query: str) -> Page[Any]:
        ids = pages[query]
        if ids is None:  # one of the first page was deleted, and 4 moved up
            pages[""] = [2, 3, 4]
            raise NotFoundError(404, "Invalid page.")
        return Page(make_all(ids), 3 if 4 in ids else 4)

    sweep = await walk_over(fetch).read()
    assert ids_of(sweep.items) == [1, 2, 3, 4]
    assert not sweep.complete
