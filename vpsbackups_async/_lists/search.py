"""Searches for backups in the list of all servers and in the lists of single ones."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping
from contextlib import aclosing
from typing import Final

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async._lists.estimate import ListShape
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, backups_query
from vpsbackups_async._lists.one_server import OneServer
from vpsbackups_async._lists.places import AT_ONCE, Places
from vpsbackups_async._lists.planner import RETRIED, Finding, OnAttempt, Plan, Planner
from vpsbackups_async._lists.readable import readable_backups
from vpsbackups_async._lists.troubles import State, is_outage
from vpsbackups_async._lists.turns import Turn, Turns
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._lists.wanted import Unseen, Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async.errors import (
    AuthenticationError,
    InvalidResponseError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, BackupType

__all__ = ["Search"]

_MOST_FAILURES: Final = 16
"""Failures and no success after which nothing more is sent for those who look only once."""
_QUICK: Final = 2.0
"""Seconds within which a list fails at once."""
_PROOFS: Final = 4
"""Servers that are asked at the least for what a whole list that moved did not show."""
_PAGES_AHEAD: Final = 8
"""The most pages of a sweep that run ahead."""
_PAGES_PER_AHEAD: Final = 16
"""Expected pages of a sweep for each that runs ahead: pages beyond its end are wasted."""
_UNWATCHED: Final[Mapping[int, SendState]] = {}
_SAME_FOR_ALL: Final = (AuthenticationError, RateLimitedError)
"""Errors that every other list would give too."""
_SPOILED: Final = (InvalidResponseError, PaginationError, PermissionDeniedError)
"""Errors of the whole list that a server's own list need not have: one bad backup spoils it."""


class _Run:
    """One run over servers' lists; `refusal` is why no further one is asked, None while one is.

    `most_failures` without a success show that all servers' lists fail.
    """

    def __init__(self, most_failures: float) -> None:
        self.most_failures = most_failures
        self.failures = 0
        self.works = False
        self.refusal: VPSBackupsError | None = None

    def take(self, error: VPSBackupsError | None) -> None:
        """Note how a server's list was read, or failed."""
        self.works = self.works or error is None
        if isinstance(error, _SAME_FOR_ALL):
            self.refusal = error
        elif is_outage(error):
            self.failures += 1
            if self.failures == self.most_failures and not self.works:
                self.refusal = error


class Search:
    """Looks for backups in the lists of one client, as planned before.

    `on_attempt` makes a list that fails give up early, for those who look again later. `send`, or
    that of a server in `sends`, watches the requests. `limit` gives how many requests may run at
    once, None if unknown.
    Looks at servers' lists, also of several calls, share their places.
    """

    def __init__(self, lists: Lists, limit: Callable[[], int | None] = lambda: None) -> None:
        self._planner = Planner(lists)
        self._places = Places(limit)
        self._turns = Turns()
        self._proved_to = 0

    def plan(self, wanted: Iterable[Wanted], *, heed_failures: bool = True) -> Plan:
        """What to read for the wanted backups, see `Planner.plan`."""
        return self._planner.plan(wanted, heed_failures=heed_failures)

    # --- The list of all servers ---------------------------------------------------------------

    async def sweep(
        self,
        wanted: Iterable[Wanted],
        known: Container[int],
        page_size: int | None = PAGE_SIZE,
        *,
        on_attempt: OnAttempt | None = None,
        send: SendState | None = None,
    ) -> AsyncGenerator[Finding]:
        """Read the whole list as far as it pays: a finding for each page, and a last one.

        `known` has the ids of all backups that the caller wants to hear of if they happen to show.
        What no finding names is neither found nor certainly absent. Backups are `left` where asking
        their servers takes fewer requests than reading on, or much less time, or the whole list
        fails and theirs may not.
        """
        unseen = Unseen(wanted)
        if not unseen:
            return
        manual = unseen.manual
        unreadable: list[InvalidResponseError] = []
        kind = BackupType.MANUAL if manual else None
        query = backups_query(None, kind, page_size, readable_backups(unreadable.append))
        ahead = _ahead(unseen.pages_worth_reading(self._planner.pages_to(unseen)))
        walk = self._planner.open(query, None, on_attempt, ahead, send or SendState())
        shape = ListShape()
        loop = asyncio.get_running_loop()
        answered = loop.time()
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    shape.take(page)
                    self._planner.learn_shape(shape, manual=manual)
                    found = tuple(backup for backup in page.items if backup.id in known)
                    yield Finding(None, found, unseen.show(found), requests=1)
                    answered = loop.time()
                    if _is_enough(unseen, shape):
                        break
                    if on_attempt is not None and self._lasts(unseen, shape):
                        break
            yield self._ended_sweep(unseen, walk, shape, unreadable)
        except VPSBackupsError as error:
            seconds = loop.time() - answered
            yield self._failed_sweep(unseen, error, on_attempt, seconds)
        finally:
            self._planner.ended(walk)

    def _lasts(self, unseen: Unseen, shape: ListShape) -> bool:
        """Whether reading on would take too long, and to ask servers less time."""
        pages = unseen.pages_worth_reading(shape.pages_left)
        now = asyncio.get_running_loop().time()
        return self._planner.pace.is_slower(pages, unseen.servers, now)

    def _ended_sweep(
        self,
        unseen: Unseen,
        walk: Walk[Backup],
        shape: ListShape,
        unreadable: list[InvalidResponseError],
    ) -> Finding:
        """What a sweep proves absent, and what it leaves to the servers' lists.

        A list that moved, or with backups that cannot be read, proves nothing. Then a few servers
        are asked, and others after the next sweep.
        """
        self._planner.troubles.worked(None)
        if walk.ended and walk.complete and not unreadable:
            return Finding(None, absent=unseen.remove_all())
        if walk.ended:
            most = max(_PROOFS, shape.pages)
            self._proved_to = unseen.keep_some_to_prove(most, self._proved_to)
        left = unseen.take_by_server()
        failed = unseen.remove_all() if unreadable else frozenset()
        return Finding(None, failed=failed, error=unreadable[0] if failed else None, left=left)

    def _failed_sweep(
        self,
        unseen: Unseen,
        error: VPSBackupsError,
        on_attempt: OnAttempt | None,
        seconds: float,
    ) -> Finding:
        """What a sweep that failed, after so many seconds, leaves to servers' lists or fails for.

        Servers are asked now by those who look once only, and where the next look would not mend it
        or come too late. Otherwise that one is waited for: to ask each server may take far more
        requests than the sweep.
        """
        now = asyncio.get_running_loop().time()
        self._planner.troubles.failed(None, error, now, at_once=seconds <= _QUICK)
        ask = on_attempt is None or isinstance(error, _SPOILED)
        if not ask and not self._planner.waits_for_whole(unseen.servers, now):
            ask = (
                seconds > RETRIED or self._planner.troubles.standing(None, now).state != State.FINE
            )
        left = unseen.take_by_server() if ask and not isinstance(error, _SAME_FOR_ALL) else ()
        return Finding(None, failed=unseen.remove_all(), error=error, left=left)

    # --- Servers' lists ------------------------------------------------------------------------

    async def servers(
        self,
        wanted: Mapping[int, list[Wanted]],
        known: Container[int],
        page_size: int | None = PAGE_SIZE,
        *,
        on_attempt: OnAttempt | None = None,
        sends: Mapping[int, SendState] = _UNWATCHED,
    ) -> AsyncGenerator[Finding]:
        """Look at each server's list for its wanted backups: a finding for each, as they end.

        After a 401 or 429 nothing more is sent; the next look begins with the lists that were not
        asked for. Without `on_attempt` the same holds after many failures and no success; with it,
        see `Troubles.may_try`. Backups are `left` where the server's list turns out to be the list
        of all servers.
        """
        loop, troubles = asyncio.get_running_loop(), self._planner.troubles
        run = _Run(_MOST_FAILURES if on_attempt is None else math.inf)

        async def look(server_id: int) -> Finding:
            send = sends.get(server_id) or SendState()
            one = OneServer(server_id, wanted[server_id], known, self._planner, send)

            async def read() -> Finding:
                if run.refusal is not None:
                    return one.unasked(run.refusal)
                if self._planner.ignores_servers(loop.time()):
                    return one.left()
                if on_attempt is not None and not troubles.may_try(server_id, loop.time()):
                    return one.unasked(troubles.error(server_id))
                self._turns.asked(server_id, loop.time())
                finding = await one.read(page_size, on_attempt)
                run.take(finding.error)
                return finding

            try:
                finding = await self._places.read(read, one.send, self._turn(server_id))
            except TimeoutError:
                finding = one.given_up()
            if one.send.began:
                seconds = loop.time() - one.send.began[-1]
                self._turns.ended(server_id, finding.error, seconds)
                if finding.error is None:
                    self._places.answered(seconds)
                    self._planner.pace.list_answered(seconds)
            return finding

        order = sorted(wanted, key=self._turn)
        async with aclosing(fan_out(look, order, concurrency=AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    def _turn(self, server_id: int) -> Turn:
        now = asyncio.get_running_loop().time()
        return self._turns.of(server_id, self._planner.troubles.standing(server_id, now).failures)


def _is_enough(unseen: Unseen, shape: ListShape) -> bool:
    """Whether reading on would show nothing more, or cost more than asking servers."""
    if unseen and shape.is_past(unseen.oldest):
        unseen.keep_those_to_prove()
    return not unseen or not unseen.pages_worth_reading(shape.pages_left)


def _ahead(pages: float) -> int:
    """How many pages run ahead of a sweep; none if nothing tells how far it must go."""
    return 0 if pages == math.inf else int(min(_PAGES_AHEAD, pages // _PAGES_PER_AHEAD))
