"""Searches in a list in memory, with their requests counted."""

import asyncio
import math
import random

import pytest
from helpers_search import UNAVAILABLE, Listing, Report, Watcher, backup, newest_first, wanted
from hypothesis import given, settings
from hypothesis import strategies as st

from vpsbackups_async import (
    AuthenticationError,
    BadRequestError,
    InvalidResponseError,
    PaginationError,
    RateLimitedError,
    VPSBackupsError,
)
from vpsbackups_async._lists.wanted import Wanted

# --- Plans ---------------------------------------------------------------------------------------


async def test_nothing_wanted_costs_nothing() -> None:
    watcher = Watcher(Listing(newest_first(5)))
    assert await watcher.look([]) == Report()
    assert watcher.listing.asked == []


async def test_one_backup_takes_one_filtered_request() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    await watcher.look(wanted([3]))
    assert (watcher.shown, watcher.listing.asked) == ({3}, [3])


async def test_two_backups_of_one_server_share_its_request() -> None:
    watcher = Watcher(Listing([backup(2, 7), backup(1, 7)]))
    await watcher.look([Wanted(1, 7), Wanted(2, 7)])
    assert (watcher.shown, watcher.listing.asked) == ({1, 2}, [7])


async def test_a_sweep_ends_as_soon_as_every_backup_was_shown() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    await watcher.look(wanted(range(481, 501)))
    assert (watcher.shown, watcher.listing.asked) == (set(range(481, 501)), [None] * 2)


async def test_a_sweep_turns_to_filtered_requests_where_few_are_left() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    await watcher.look(wanted([*range(481, 501), 100]))
    assert watcher.shown == {*range(481, 501), 100}
    assert watcher.listing.asked == [None, None, 100]


async def test_what_a_sweep_taught_lets_the_next_look_go_straight_to_the_servers() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    await watcher.look(wanted([50, 100, 150]))
    assert watcher.listing.take_asked() == [None, 50, 100, 150]
    await watcher.look(wanted([50, 100, 150]))
    assert sorted(map(str, watcher.listing.asked)) == ["100", "150", "50"]


async def test_new_backups_at_the_top_of_a_known_long_list_are_swept() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    await watcher.look(wanted([50, 100, 150]))
    await watcher.look(wanted(range(491, 501)))
    assert watcher.listing.asked == [None]


async def test_a_list_without_a_count_is_left_when_it_takes_more_pages_than_servers() -> None:
    watcher = Watcher(Listing(list(reversed(newest_first(500))), counts=False))
    await watcher.look(wanted(range(497, 501)))
    asked = watcher.listing.asked
    assert watcher.shown == set(range(497, 501))
    assert asked.count(None) <= 6
    assert len(asked) <= 10


async def test_a_sweep_asks_for_large_pages_of_manual_backups_where_all_are_manual() -> None:
    watcher = Watcher(Listing(newest_first(5)))
    await watcher.look(wanted([1, 2, 3]))
    await watcher.look([*wanted([1, 2]), *wanted([3], manual=False)])
    assert watcher.listing.options == [
        {"backup_type": "manual", "page_size": "100"},
        {"page_size": "100"},
    ]


async def test_pages_of_a_long_sweep_run_ahead_and_those_of_a_short_one_do_not() -> None:
    watcher = Watcher(Listing(newest_first(2_000)))
    most = []
    for searched in (range(1, 2_001), range(1, 2_001), range(1_901, 2_001)):
        watcher.listing.most_at_once = 0
        await watcher.look(wanted(searched))
        most.append(watcher.listing.most_at_once)
    assert most == [1, 8, 1]


async def test_many_servers_are_looked_at_16_at_once() -> None:
    def no_whole_list(server_id: int | None, page: int) -> VPSBackupsError | None:
        return InvalidResponseError("bad") if server_id is None else None

    watcher = Watcher(Listing(newest_first(100), refuse=no_whole_list))
    await watcher.look(wanted(range(1, 101)))
    assert watcher.shown == set(range(1, 101))
    assert watcher.listing.most_at_once == 16


# --- Orders --------------------------------------------------------------------------------------


async def test_a_sweep_ends_before_what_is_older_than_a_backup_not_yet_listed() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    report = await watcher.look(wanted(range(501, 521), proof=False))
    assert watcher.listing.asked == [None]
    assert report.absent == set()


async def test_what_must_be_proved_absent_takes_its_servers_request_where_that_is_less() -> None:
    watcher = Watcher(Listing(newest_first(500)))
    report = await watcher.look([*wanted(range(491, 501)), *wanted([501, 502])])
    assert (report.absent, watcher.listing.asked[0]) == ({501, 502}, None)
    assert sorted(watcher.listing.asked[1:]) == [501, 502]


async def test_many_to_be_proved_absent_take_the_sweep_to_its_end() -> None:
    watcher = Watcher(Listing(newest_first(50)))
    report = await watcher.look(wanted(range(51, 91)))
    assert (report.absent, watcher.listing.asked) == (set(range(51, 91)), [None] * 5)


async def test_a_first_page_in_another_order_is_not_taken_for_the_end() -> None:
    """Oldest first, the first page lies before everything awaited, too."""
    watcher = Watcher(Listing(list(reversed(newest_first(100)))))
    await watcher.look(wanted(range(61, 101), proof=False))
    assert watcher.shown == set(range(61, 101))


async def test_one_backup_a_page_says_nothing_about_the_order() -> None:
    watcher = Watcher(Listing(list(reversed(newest_first(3))), page_size=1))
    await watcher.look(wanted([2, 3], proof=False, known=False))
    assert watcher.shown == {2, 3}


async def test_empty_pages_teach_nothing_and_do_no_harm() -> None:
    watcher = Watcher(Listing([]))
    report = await watcher.look(wanted([1, 2, 3]))
    assert report.absent == {1, 2, 3}
    report = await watcher.look(wanted([1, 2, 3]))
    assert report.absent == {1, 2, 3}


@given(
    st.integers(1, 60),
    st.integers(1, 12),
    st.booleans(),
    st.integers(0, 2**32),
    st.sampled_from(["newest", "oldest", "random"]),
)
@settings(max_examples=150)
def test_every_look_shows_all_that_is_listed_in_any_order(
    count: int, page_size: int, counts: bool, seed: int, order: str
) -> None:
    chance = random.Random(seed)
    backups = newest_first(count)
    if order == "oldest":
        backups.reverse()
    elif order == "random":
        chance.shuffle(backups)

    async def look() -> None:
        watcher = Watcher(Listing(backups, page_size=page_size, counts=counts))
        for _ in range(4):
            ids = chance.sample(range(1, count + 3), chance.randint(1, count))
            some = [Wanted(one, one if chance.random() < 0.9 else None, True) for one in ids]
            report = await watcher.look(some)
            assert watcher.shown == {one for one in ids if one <= count}
            assert report.absent == set(ids) - watcher.shown
            assert not report.errors

    asyncio.run(look())


@pytest.mark.parametrize("order", ["newest", "oldest", "random"])
async def test_a_look_costs_little_more_than_the_cheaper_plan(order: str) -> None:
    backups = newest_first(1_000)
    if order == "oldest":
        backups.reverse()
    elif order == "random":
        random.Random(1).shuffle(backups)
    watcher = Watcher(Listing(backups))
    for count in (1, 3, 30, 90, 300, 1_000):
        await watcher.look(wanted(range(1_001 - count, 1_001)))
        assert len(watcher.listing.asked) <= min(count, 100) + 2


async def test_a_ref_without_a_server_is_found_wherever_it_is() -> None:
    for counts in (True, False):
        for backups in (newest_first(100), list(reversed(newest_first(100)))):
            watcher = Watcher(Listing(backups, counts=counts))
            for _ in range(2):
                await watcher.look([*wanted([1, 55, 100], known=False), *wanted([7])])
                assert watcher.shown == {1, 7, 55, 100}


async def test_a_ref_without_a_server_is_absent_after_the_whole_list() -> None:
    watcher = Watcher(Listing(newest_first(100)))
    report = await watcher.look(wanted([101], known=False))
    assert (report.absent, len(watcher.listing.asked)) == ({101}, 10)


async def test_an_id_that_another_server_has_is_absent_from_the_server_asked_for() -> None:
    watcher = Watcher(Listing(newest_first(30)))
    report = await watcher.look([Wanted(25, 7, True), *wanted(range(21, 31))])
    assert (watcher.shown, report.absent) == (set(range(21, 31)), {25})
    assert watcher.listing.asked == [None]


# --- A list that moves ---------------------------------------------------------------------------


async def test_a_list_that_moved_proves_nothing_and_few_are_asked_for_at_their_servers() -> None:
    watcher = Watcher(Listing(newest_first(50), moves=True))
    report = await watcher.look([*wanted(range(1, 51)), *wanted([60, 61]), *wanted([62], proof=0)])
    assert report.absent == {60, 61}
    assert sorted(one for one in watcher.listing.asked if one) == [60, 61]


async def test_a_list_that_moved_leaves_a_few_of_many_to_their_servers_in_turn() -> None:
    watcher = Watcher(Listing(newest_first(20), moves=True))
    asked: list[set[int | None]] = []
    for _ in range(3):
        report = await watcher.look([*wanted(range(30, 40)), *wanted([50], proof=False)])
        asked.append({*watcher.listing.take_asked()} - {None})
        assert (report.absent, report.errors) == (asked[-1], {})
    assert asked == [{30, 31, 32, 33}, {34, 35, 36, 37}, {38, 39, 30, 31}]


async def test_a_list_that_moved_leaves_as_many_to_their_servers_as_it_has_pages() -> None:
    watcher = Watcher(Listing(newest_first(200), moves=True))
    await watcher.look(wanted(range(201, 301)))
    assert watcher.listing.asked == [None] * 20 + list(range(201, 221))


async def test_backups_of_one_server_are_proved_absent_together() -> None:
    watcher = Watcher(Listing([backup(2, 7), backup(1, 7)], moves=True))
    report = await watcher.look([Wanted(number, 7 + number % 6) for number in range(10, 50)])
    assert watcher.listing.asked == [None, 11, 12, 7, 8]
    assert report.absent == {number for number in range(10, 50) if 7 + number % 6 not in {9, 10}}


async def test_a_list_that_moved_says_nothing_of_those_without_a_server() -> None:
    watcher = Watcher(Listing(newest_first(20), moves=True))
    report = await watcher.look(wanted([30], known=False))
    assert (report.absent, report.errors) == (set(), {})


# --- Errors --------------------------------------------------------------------------------------


async def test_a_sweep_that_fails_is_the_error_of_all_that_it_had_not_shown() -> None:
    watcher = Watcher(
        Listing(newest_first(30), refuse=lambda server_id, page: UNAVAILABLE if page == 2 else None)
    )
    report = await watcher.look(wanted(range(1, 31)))
    assert watcher.shown == set(range(21, 31))
    assert report.errors == dict.fromkeys(range(1, 21), UNAVAILABLE)
    assert watcher.listing.asked == [None, None]


async def test_servers_that_fail_leave_the_others_alone() -> None:
    watcher = Watcher(
        Listing(
            newest_first(500),
            refuse=lambda server_id, page: UNAVAILABLE if server_id == 100 else None,
        )
    )
    report = await watcher.look(wanted([50, 100, 150]))
    assert watcher.shown == {50, 150}
    assert report.errors == {100: UNAVAILABLE}


@pytest.mark.parametrize("error", [InvalidResponseError("bad"), PaginationError("circle", "?a=1")])
async def test_a_list_that_cannot_be_read_leaves_the_lists_of_the_servers(
    error: VPSBackupsError,
) -> None:
    watcher = Watcher(
        Listing(newest_first(30), refuse=lambda server_id, page: None if server_id else error)
    )
    report = await watcher.look(wanted(range(1, 31)))
    assert (watcher.shown, report.errors) == (set(range(1, 31)), {})
    report = await watcher.look(wanted([1], known=False))
    assert report.errors == {1: error}


@pytest.mark.parametrize("error", [AuthenticationError(401, "no"), RateLimitedError(429, "slow")])
async def test_a_refusal_ends_the_look(error: VPSBackupsError) -> None:
    """The other servers would answer the same."""

    def refuse(server_id: int | None, page: int) -> VPSBackupsError:
        return error if server_id else InvalidResponseError("bad")

    watcher = Watcher(Listing(newest_first(200), refuse=refuse))
    report = await watcher.look(wanted(range(1, 201)))
    assert report.errors == dict.fromkeys(range(1, 201), error)
    assert len(watcher.listing.asked) == 1 + 16


async def test_a_page_size_that_is_refused_is_left_out_at_once_and_from_then_on() -> None:
    listing = Listing(newest_first(30))
    watcher = Watcher(listing)
    listing.refuse = lambda server_id, page: (
        BadRequestError(400, "page_size?") if "page_size" in listing.options[-1] else None
    )
    report = await watcher.look(wanted([1, 2, 3]))
    assert (watcher.shown, report.errors) == ({1, 2, 3}, {})
    report = await watcher.look(wanted([1, 2, 3]))
    assert (watcher.shown, report.errors) == ({1, 2, 3}, {})
    sizes = [asked.get("page_size") for asked in listing.options]
    assert (sizes[0], set(sizes[1:])) == ("100", {None})


async def test_a_400_for_something_else_is_the_error_and_keeps_the_page_size() -> None:
    listing = Listing(newest_first(30))
    watcher = Watcher(listing)
    listing.refuse = lambda server_id, page: BadRequestError(400, "what?")
    report = await watcher.look(wanted([1, 2, 3]))
    assert set(report.errors) == {1, 2, 3}
    listing.refuse = lambda server_id, page: None
    listing.options.clear()
    await watcher.look(wanted([1, 2, 3]))
    assert {asked["page_size"] for asked in listing.options} == {"100"}


async def test_another_error_keeps_the_page_size() -> None:
    listing = Listing(newest_first(30), refuse=lambda server_id, page: UNAVAILABLE)
    watcher = Watcher(listing)
    await watcher.look(wanted([1, 2, 3]))
    await watcher.look(wanted([1]))
    assert {asked["page_size"] for asked in listing.options} == {"100"}


async def test_100_000_backups_are_looked_for_at_once() -> None:
    count = 100_000
    watcher = Watcher(Listing(newest_first(count), page_size=1_000))
    await watcher.look(wanted(range(1, count + 1)))
    assert len(watcher.shown) == count
    assert len(watcher.listing.asked) == math.ceil(count / 1_000)
