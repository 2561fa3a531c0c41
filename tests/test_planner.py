"""What is read for wanted backups after lists failed, paused or ignored a filter."""

import asyncio
from collections.abc import Iterable

import pytest
from helpers_search import UNAVAILABLE, Listing, Watcher, newest_first, unheard, wanted
from helpers_streams import lists_over

from vpsbackups_async import (
    BackupRef,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    VPSBackupsError,
)
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._lists.wanted import Wanted

pytestmark = pytest.mark.virtual_time

BUSY = ServerError(503, "busy", retry_after=600.0)
SLOW = RateLimitedError(429, "slow", retry_after=5.0)


class Failing(Listing):
    """A list of `count` backups, one on each server, some of whose lists fail."""

    def __init__(self, count: int = 100) -> None:
        super().__init__(newest_first(count), refuse=self._error)
        self.errors: dict[int | None, VPSBackupsError] = {}

    def fail(self, servers: Iterable[int | None], error: VPSBackupsError = UNAVAILABLE) -> None:
        self.errors = dict.fromkeys(servers, error)

    def _error(self, server_id: int | None, page: int) -> VPSBackupsError | None:
        return self.errors.get(server_id)


def planned(watcher: Watcher, those: Iterable[Wanted]) -> tuple[list[int], list[int], list[int]]:
    """The ids that would be looked for by a sweep, at their servers, and not at all now."""
    plan = watcher.search.plan(those)
    paused = [key[0] for finding in plan.paused for key in finding.failed]
    return [one.id for one in plan.sweep], list(plan.servers), paused


# --- Another way ---------------------------------------------------------------------------------


async def test_a_list_that_works_in_between_is_not_left_for_another() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    for failing in ([None, 3], [], [None, 3], []):
        listing.fail(failing)
        await watcher.look(wanted(range(91, 101)))
        assert set(listing.take_asked()) == {None}
        await watcher.look(wanted([3]))
        assert listing.take_asked() == [3]


async def test_what_failed_twice_in_a_row_is_looked_for_the_other_way() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    listing.fail([None, 3])
    for _ in range(2):
        await watcher.look(wanted([3]))
        await watcher.look(wanted(range(91, 101)))
    assert watcher.shown == set(range(91, 101))  # at the servers, in the same look
    listing.fail([])
    assert planned(watcher, wanted([3])) == ([], [3], [])  # both failed: as if none had
    await watcher.look(wanted([*range(91, 101)], known=False))
    assert planned(watcher, wanted([3])) == ([3], [], [])
    await asyncio.sleep(300)
    assert planned(watcher, wanted([3])) == ([], [3], [])


async def test_a_list_that_asks_for_time_is_not_read_and_says_why() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    listing.fail([3], BUSY)
    await watcher.look(wanted([3]))
    assert planned(watcher, wanted([3, 4])) == ([3], [4], [])
    listing.fail([None], ServerError(503, "busy too", retry_after=500.0))
    await watcher.look(wanted(range(91, 101), known=False))
    assert planned(watcher, [*wanted([3, 4]), Wanted(5, None)]) == ([], [4], [3, 5])
    errors = {
        key[0]: finding.error
        for finding in watcher.search.plan([*wanted([3]), Wanted(5, None)]).paused
        for key in finding.failed
    }
    assert errors == {3: BUSY, 5: listing.errors[None]}
    await asyncio.sleep(500)
    assert planned(watcher, [*wanted([3, 4]), Wanted(5, None)])[2] == []


async def test_whoever_looks_once_only_asks_whatever_failed_before() -> None:
    listing = Failing()
    finder = Finder(lists_over(listing.fetch))

    async def found(ref: BackupRef) -> bool:
        return [outcome.ok async for outcome in finder.locate([ref])] == [True]

    for ref in (BackupRef(93, 93), BackupRef(93)):
        listing.fail([93, None], BUSY)
        assert not await found(ref)
        assert not await found(ref)
        listing.fail([])
        listing.take_asked()
        assert await found(ref)
        assert listing.take_asked() == [ref.server_id]


async def test_whoever_looks_once_asks_no_more_servers_when_many_fail_and_none_works() -> None:
    listing = Failing()
    listing.fail([None, *range(1, 101)])
    finder = Finder(lists_over(listing.fetch))
    refs = [BackupRef(number, number) for number in range(1, 101)]
    errors = [outcome.error async for outcome in finder.locate(refs)]
    assert errors == [UNAVAILABLE] * 100
    assert len(listing.asked) == 1 + 16
    listing.fail([None, *range(2, 101)])
    assert [outcome.ok async for outcome in Finder(lists_over(listing.fetch)).locate(refs)] == (
        [True] + [False] * 99
    )


# --- Many servers --------------------------------------------------------------------------------


async def at_servers(listing: Failing, count: int = 40) -> Watcher:
    """A search that asks servers for their lists, as the whole list cannot be read."""
    listing.errors[None] = InvalidResponseError("bad")
    watcher = Watcher(listing)
    await watcher.look(wanted(range(1, count + 1)))
    return watcher


async def test_however_many_servers_fail_those_that_never_failed_are_asked() -> None:
    listing = Failing()
    listing.fail(range(1, 36))
    watcher = await at_servers(listing)
    assert watcher.shown == set(range(36, 41))
    listing.take_asked()
    await watcher.look(wanted(range(1, 46)))
    asked = [one for one in listing.take_asked() if one]
    assert set(asked[:10]) == set(range(36, 46))
    assert watcher.shown == set(range(36, 46))


async def test_one_server_that_works_lets_the_others_be_tried_again() -> None:
    listing = Failing()
    listing.fail(range(1, 101))
    watcher = await at_servers(listing, 100)
    await watcher.look(wanted(range(1, 101)))
    listing.fail([None, *range(2, 101)])
    await watcher.look(wanted(range(1, 101)))
    tried = []
    while 1 not in watcher.shown:
        await asyncio.sleep(10)
        await watcher.look(wanted(range(1, 101)))
        tried.append(len([one for one in listing.take_asked() if one]))
    assert set(tried[:-1]) == {4}
    assert len(tried) <= 25
    assert tried[-1] >= 16


@pytest.mark.parametrize("error", [PermissionDeniedError(403, "no"), NotFoundError(404, "none")])
async def test_servers_that_refuse_say_nothing_about_the_others(error: VPSBackupsError) -> None:
    listing = Failing()
    listing.fail(range(1, 36), error)
    watcher = await at_servers(listing)
    assert watcher.shown == set(range(36, 41))


async def test_while_no_server_works_those_that_failed_share_a_few_tries() -> None:
    listing = Failing()
    listing.fail(range(1, 101))
    watcher = await at_servers(listing, 100)
    assert len(listing.take_asked()) == 101
    asked = []
    for seconds in (0, 0, 2.5, 100):
        await asyncio.sleep(seconds)
        await watcher.look(wanted(range(1, 101), known=True))
        asked.append(len([one for one in listing.take_asked() if one]))
    assert asked == [4, 0, 1, 4]


async def test_the_look_after_one_that_found_servers_to_work_again_asks_all() -> None:
    listing = Failing()
    listing.fail(range(1, 101))
    watcher = await at_servers(listing, 100)
    await watcher.look(wanted(range(1, 101)))
    listing.fail([None])
    await asyncio.sleep(10)
    for _ in range(2):
        await watcher.look(wanted(range(1, 101)))
    assert watcher.shown == set(range(1, 101))


async def test_while_no_server_works_new_ones_go_by_a_whole_list_that_does() -> None:
    listing = Failing()
    listing.fail(range(1, 41))
    watcher = await at_servers(listing)
    listing.fail(range(1, 41))
    await watcher.look(wanted([1], known=False))
    assert planned(watcher, wanted([90])) == ([90], [], [])
    listing.fail([None, *range(1, 41)])
    await watcher.look(wanted([90]))
    assert planned(watcher, wanted([91])) == ([], [91], [])  # the whole list fails too


async def test_while_no_server_works_each_list_gets_one_attempt() -> None:
    listing = Failing()
    listing.retried = [UNAVAILABLE]
    listing.fail(range(1, 41))
    watcher = await at_servers(listing)
    listing.fail([])
    report = await watcher.look(wanted([90], known=True))
    assert report.errors == {90: UNAVAILABLE}


async def test_a_long_sweep_whose_pages_come_slowly_goes_on_after_a_failed_attempt() -> None:
    listing = Failing()
    listing.seconds = 4
    assert await sweep_retried(listing, UNAVAILABLE, pages=3)


# --- The whole list ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "servers", "waits"),
    [(120.0, 17, True), (120.0, 16, False), (121.0, 17, False)],
    ids=["many servers", "few servers", "a long pause"],
)
async def test_a_pause_of_the_whole_list_is_waited_for_where_many_servers_were_asked_else(
    seconds: float, servers: int, waits: bool
) -> None:
    listing = Failing()
    watcher = Watcher(listing)
    listing.fail([None], ServerError(503, "busy", retry_after=seconds))
    those = wanted(range(101 - servers, 101))
    await watcher.look(wanted(range(1, 101)))
    listing.take_asked()
    sweep, direct, paused = planned(watcher, those)
    assert (len(sweep), len(direct), len(paused)) == (0, 0 if waits else servers, servers * waits)
    await asyncio.sleep(seconds)
    assert len(planned(watcher, those)[0]) == servers


async def test_a_pause_of_the_whole_list_is_no_matter_of_those_whose_own_lists_are_cheaper() -> (
    None
):
    listing = Failing(1_000)
    watcher = Watcher(listing)
    await watcher.look(wanted([1], known=False))
    listing.fail([None], ServerError(503, "busy", retry_after=60.0))
    await watcher.look(wanted([2], known=False))
    assert planned(watcher, wanted(range(1, 21))) == ([], [*range(1, 21)], [])


async def test_a_sweep_that_failed_late_is_followed_by_the_servers_lists_at_once() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    sweep = watcher.search.sweep(wanted(range(1, 101)), range(101), on_attempt=unheard)
    listing.fail([None])
    listing.seconds = 10.5
    assert len((await anext(sweep)).left) == 100
    await sweep.aclose()
    listing.seconds = 9.5
    sweep = Watcher(listing).search.sweep(wanted(range(1, 101)), range(101), on_attempt=unheard)
    assert (await anext(sweep)).left == ()
    await sweep.aclose()


# --- A server that ignores the filter ------------------------------------------------------------


async def test_no_server_is_asked_once_one_gave_the_whole_list() -> None:
    listing = Listing(newest_first(1_000), ignores=True)
    watcher = Watcher(listing)
    await watcher.look(wanted([1], known=False))  # tells how long the list is
    await watcher.look(wanted(range(1, 41)))
    assert len([one for one in watcher.listing.asked if one]) <= 16
    assert planned(watcher, wanted([1, 2])) == ([1, 2], [], [])
    listing.refuse = lambda server_id, page: BUSY
    await watcher.look(wanted([1]))
    (paused,) = watcher.search.plan(wanted([1])).paused
    assert paused.error is BUSY


async def test_a_servers_list_that_is_the_whole_one_leaves_what_its_first_page_did_not_show() -> (
    None
):
    watcher = Watcher(Listing(newest_first(100), ignores=True))
    servers = watcher.search.servers({3: wanted([3])}, (3,), on_attempt=unheard)
    finding = await anext(servers)
    await servers.aclose()
    assert [one.id for one in finding.left] == [3]
    assert (finding.absent, finding.failed, finding.requests) == (set(), set(), 1)


async def test_whoever_looks_once_finds_a_backup_in_the_whole_list_that_a_server_gives() -> None:
    listing = Listing(newest_first(100), ignores=True)
    finder = Finder(lists_over(listing.fetch))
    refs = [BackupRef(3, 3), BackupRef(50, 50), BackupRef(101, 7)]
    outcomes = {outcome.key: outcome async for outcome in finder.locate(refs)}
    assert [outcomes[ref].ok for ref in refs] == [True, True, False]
    assert len(listing.asked) <= 1 + 3 + 10


# --- A look whose attempts fail ------------------------------------------------------------------


async def sweep_retried(
    listing: Failing, *errors: VPSBackupsError, pages: int = 0, seconds: float = 0.0
) -> bool:
    """Whether a sweep goes on after these failed attempts, `pages` pages and some time."""
    watcher = Watcher(listing)
    listing.fail([])
    sweep = watcher.search.sweep(wanted(range(1, 101)), range(101), on_attempt=unheard)
    for _ in range(pages):
        await anext(sweep)
    await asyncio.sleep(seconds)
    listing.retried = list(errors)
    finding = await anext(sweep)
    await sweep.aclose()
    return finding.error is None


@pytest.mark.parametrize(
    ("errors", "pages", "goes_on"),
    [
        ((UNAVAILABLE, UNAVAILABLE), 0, True),
        ((ServerError(503, "", retry_after=9.0),), 0, True),
        ((ServerError(503, "", retry_after=11.0),), 0, False),
        ((ServerError(503, "", retry_after=9.0),), 1, True),
        ((ServerError(503, "", retry_after=11.0),), 1, False),
        ((SLOW, RateLimitedError(429, "", retry_after=99.0)), 0, True),
    ],
    ids=["soon", "a short pause", "a long pause", "soon after a page", "after a page", "a 429"],
)
async def test_a_list_that_asks_for_more_than_a_moment_is_left_to_the_next_look(
    errors: tuple[VPSBackupsError, ...], pages: int, goes_on: bool
) -> None:
    assert await sweep_retried(Failing(), *errors, pages=pages) == goes_on


async def test_a_list_that_failed_the_last_time_gets_one_attempt() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    listing.fail([3])
    await watcher.look(wanted([3]))
    listing.fail([])
    for retried, error in (([SLOW], None), ([UNAVAILABLE], UNAVAILABLE)):
        listing.fail([3])
        listing.retried = []
        await watcher.look(wanted([3]))
        await asyncio.sleep(300)
        listing.fail([])
        listing.retried = retried
        report = await watcher.look(wanted([3]))
        assert report.errors.get(3) is error


async def test_while_a_sweep_is_stuck_others_are_looked_for_at_their_servers() -> None:
    listing = Failing()
    watcher = Watcher(listing)
    many = wanted(range(91, 101))
    sweep = watcher.search.sweep(wanted(range(1, 101)), range(101), on_attempt=unheard)
    await anext(sweep)
    assert planned(watcher, many)[0]
    plans = []

    def refuse(server_id: int | None, page: int) -> None:
        plans.append(planned(watcher, many))

    listing.refuse, listing.retried = refuse, [UNAVAILABLE]
    await anext(sweep)
    assert plans == [([], list(range(91, 101)), [])]
    assert planned(watcher, many)[0]
    listing.refuse = lambda server_id, page: UNAVAILABLE
    assert (await anext(sweep)).error is UNAVAILABLE
    await sweep.aclose()
    assert planned(watcher, many)[0]
