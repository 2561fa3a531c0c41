"""One look at the list for many backups, in whichever way takes the fewest requests.

The API has no way to ask for one backup. A look is a filtered request for each server concerned, or
one sweep over the list that ends as soon as it can show nothing more, or a sweep that turns to
filtered requests where few are left. What the replies teach (order, length, page size) makes the
next plan cheaper; nothing relies on it.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable
from contextlib import aclosing
from typing import Final, Protocol

from attrs import define, field, frozen

from vpsbackups_async.errors import (
    AuthenticationError,
    BadRequestError,
    InvalidResponseError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)
from vpsbackups_async.models import Page

_PAGE_SIZE: Final = 100
"""What the provider's other lists give at most; a server may give less."""
_AT_ONCE: Final = 16
"""So many servers are looked at side by side in one look."""
_AHEAD: Final = 8
"""At most so many pages of a sweep are on their way at once."""
_PAGES_PER_AHEAD: Final = 16
"""One for so many that the sweep is expected to take: what runs ahead of its end is for nothing."""


class Look(Protocol):
    """One walk through the list of one server, or of all."""

    def pages(self) -> AsyncGenerator[Page]:
        """The pages, until the reader has seen enough."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the list was read to its end and did not visibly move meanwhile."""
        ...


class OpenLook(Protocol):
    """Begins a walk; `prefetch` lets so many page requests run ahead."""

    def __call__(
        self, server_id: int | None, *, manual: bool, page_size: int | None, prefetch: int
    ) -> Look:
        """The walk; nothing is sent before its first page is asked for."""
        ...


See = Callable[[Page], Iterable[int]]
"""Is given each page, and answers with the ids it knew there."""


@frozen
class Wanted:
    """A backup to look for; `proof` asks to make sure of its absence if it does not show."""

    id: int
    server_id: int | None
    manual: bool = False
    proof: bool = True


@define
class Report:
    """What a look found out beside what it showed."""

    absent: set[int] = field(factory=set)
    errors: dict[int, VPSBackupsError] = field(factory=dict)
    requests: int = 0
    refusal: VPSBackupsError | None = None
    """The error after which the rest of the look is pointless."""

    def fail(self, ids: Iterable[int], error: VPSBackupsError) -> None:
        """Note why these could not be looked for."""
        self.errors.update(dict.fromkeys(ids, error))
        if isinstance(error, AuthenticationError | PermissionDeniedError | RateLimitedError):
            self.refusal = error


class _Unseen:
    """The wanted backups that a look has not shown yet."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self.by_id = {one.id: one for one in wanted}
        self._servers = Counter(one.server_id for one in self.by_id.values())
        self._newest_first = sorted(self.by_id, reverse=True)

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def cross_off(self, ids: Iterable[int]) -> None:
        """Take out what was shown."""
        for backup_id in ids:
            one = self.by_id.pop(backup_id, None)
            if one is not None:
                self._servers[one.server_id] -= 1
                if not self._servers[one.server_id]:
                    del self._servers[one.server_id]

    def keep_those_to_prove(self) -> None:
        """Take out what needs no further request in this look."""
        self.cross_off([one.id for one in self.by_id.values() if not one.proof])

    def drop_all(self) -> list[int]:
        """Take out everything; what it was."""
        ids = list(self.by_id)
        self.cross_off(ids)
        return ids

    @property
    def oldest(self) -> int:
        """The smallest id that is left."""
        while self._newest_first[-1] not in self.by_id:
            self._newest_first.pop()
        return self._newest_first[-1]

    @property
    def servers(self) -> float:
        """How many servers are concerned; infinitely many if one is not known."""
        return math.inf if None in self._servers else len(self._servers)

    def pages_worth_reading(self, pages_to: Callable[[int], float]) -> float:
        """How far a sweep is cheaper than requests to the servers, in pages; 0 if nowhere.

        `pages_to` gives about how many pages it takes to come to a backup.
        """
        shown = len(self.by_id)
        for backup_id in reversed(self._newest_first):
            if backup_id in self.by_id:
                pages = pages_to(backup_id)
                if pages < min(shown, self.servers):
                    return max(1, pages)
                shown -= 1
        return math.inf if self.servers == math.inf else 0

    @property
    def manual(self) -> bool:
        """Whether a list of manual backups would show all of them."""
        return all(one.manual for one in self.by_id.values())


class _Listed:
    """What the pages of a sweep tell of the list's order and length."""

    def __init__(self) -> None:
        self.pages = 0
        self._falls = 0
        self._rises = 0
        self._total: int | None = None
        self._longest = 0
        self._top = self._page_top = self._bottom = 0

    def take(self, page: Page) -> None:
        """Learn from the next page."""
        self.pages += 1
        ids = [backup.id for backup in page.items]
        self._longest = max(self._longest, len(ids))
        if page.next is None:
            self._total = self.pages
        elif page.count is not None and self._longest:
            self._total = max(self.pages + 1, math.ceil(page.count / self._longest))
        if ids:
            before = [self._bottom] if self._top else []
            steps = zip([*before, *ids], [*before, *ids][1:], strict=False)
            falls = sum(one > other for one, other in steps)
            self._falls += falls
            self._rises += len(before) + len(ids) - 1 - falls
            self._page_top, self._bottom = max(ids), ids[-1]
            self._top = self._top or ids[0]

    @property
    def newest_first(self) -> bool:
        """Whether every id so far was below the one before it, and there were some to compare."""
        return bool(self._falls) and not self._rises

    def is_past(self, backup_id: int) -> bool:
        """Whether the last page lies wholly before the backup, in a list that is newest first."""
        return self.newest_first and self._page_top < backup_id

    def pages_left(self, backup_id: int) -> float:
        """About how many more pages it takes to show the backup, or to be sure that none does."""
        # Where nobody says how long the list is, it may well be twice as long as what was read.
        rest = self.pages if self._total is None else self._total - self.pages
        if not self.newest_first or backup_id >= self._bottom:
            return rest
        return min(rest, self._pages_between(self._bottom, backup_id))

    def pages_from_top(self, oldest: int, newest: int) -> float:
        """About how many pages another sweep takes to show what lies between these ids."""
        total = self.pages if self._total is None else self._total
        if not self.newest_first:
            return total
        return min(total + 1, self._pages_between(max(self._top, newest), oldest))

    def _pages_between(self, high: int, low: int) -> int:
        return math.ceil(max(1, high - low) * self.pages / (self._top - self._bottom + 1))


class Scout:
    """Carries out looks, and remembers what the list is like."""

    def __init__(self, open_look: OpenLook) -> None:
        self._open = open_look
        self._page_size: int | None = _PAGE_SIZE
        self._listed: dict[bool, _Listed] = {}  # by whether only manual backups were asked for

    async def look(self, wanted: Iterable[Wanted], see: See) -> Report:
        """Look for all of them; an error of the API or on the way there is in the report."""
        report = Report()
        unseen = _Unseen(wanted)
        if not unseen:
            return report
        if pages := unseen.pages_worth_reading(self._pages_to(unseen)):
            await self._sweep(unseen, see, report, ahead=_ahead(pages))
        if unseen:
            await self._look_at_servers(unseen, see, report)
        if self._page_size and any(
            isinstance(error, BadRequestError) for error in report.errors.values()
        ):
            self._page_size = None  # it may be what the server refused; the next look does without
        return report

    def _pages_to(self, unseen: _Unseen) -> Callable[[int], float]:
        """About how many pages it takes to come to a backup; at first the least that it can be."""
        listed = self._listed.get(unseen.manual)
        if listed is None:
            return lambda _: math.ceil(len(unseen.by_id) / _PAGE_SIZE)
        newest = max(unseen.by_id)
        return lambda backup_id: listed.pages_from_top(backup_id, newest)

    async def _sweep(self, unseen: _Unseen, see: See, report: Report, *, ahead: int) -> None:
        """Go through the list as far as it pays; leaves in `unseen` what wants its own request."""
        manual = unseen.manual
        look = self._open(None, manual=manual, page_size=self._page_size, prefetch=ahead)
        listed = _Listed()
        try:
            async with aclosing(look.pages()) as pages:
                async for page in pages:
                    report.requests += 1
                    listed.take(page)
                    self._listed[manual] = listed
                    unseen.cross_off(see(page))
                    if unseen and listed.is_past(unseen.oldest):
                        unseen.keep_those_to_prove()
                    if not unseen or not unseen.pages_worth_reading(listed.pages_left):
                        return
        except (InvalidResponseError, PaginationError) as error:
            # One bad backup of any server spoils the whole list, for good: try theirs.
            if unseen.servers == math.inf:
                report.fail(unseen.drop_all(), error)
        except VPSBackupsError as error:
            report.fail(unseen.drop_all(), error)
        else:
            self._conclude(look, listed, unseen, report)

    def _conclude(self, look: Look, listed: _Listed, unseen: _Unseen, report: Report) -> None:
        """Of what a sweep to the end did not show: it is gone, or wants its own request, or not."""
        if look.complete:
            report.absent.update(unseen.drop_all())
        elif unseen.servers <= listed.pages:
            unseen.keep_those_to_prove()
        else:
            unseen.drop_all()  # the list moved; the next look may be luckier

    async def _look_at_servers(self, unseen: _Unseen, see: See, report: Report) -> None:
        """Look at the list of each server concerned, a few at once."""
        by_server: dict[int, list[Wanted]] = {}
        for one in unseen.by_id.values():
            if one.server_id is not None:
                by_server.setdefault(one.server_id, []).append(one)
        queue = iter(by_server.items())

        async def work() -> None:
            for server_id, wanted in queue:
                if report.refusal is not None:
                    report.fail((one.id for one in wanted), report.refusal)
                else:
                    await self._look_at_server(server_id, wanted, see, report)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(by_server))):
                group.create_task(work())

    async def _look_at_server(
        self, server_id: int, wanted: Collection[Wanted], see: See, report: Report
    ) -> None:
        missing = {one.id for one in wanted}
        manual = all(one.manual for one in wanted)
        look = self._open(server_id, manual=manual, page_size=self._page_size, prefetch=0)
        try:
            async with aclosing(look.pages()) as pages:
                async for page in pages:
                    report.requests += 1
                    missing.difference_update(see(page))
                    if not missing:
                        return
        except VPSBackupsError as error:
            report.fail(missing, error)
        else:
            if look.complete:
                report.absent.update(missing)


def _ahead(pages: float) -> int:
    return int(min(_AHEAD, pages // _PAGES_PER_AHEAD))
