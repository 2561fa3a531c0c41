"""Searches for backups in the list of all servers and in the lists of single ones."""

import asyncio
import math
from collections.abc import AsyncGenerator, Container, Iterable, Mapping
from contextlib import aclosing
from typing import Final

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async._lists.estimate import ListShape
from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, backups_query
from vpsbackups_async._lists.planner import Finding, OnAttempt, Plan, Planner
from vpsbackups_async._lists.troubles import EVERY_SERVER, State, Troubles
from vpsbackups_async._lists.walk import Walk
from vpsbackups_async._lists.wanted import Key, Unseen, Wanted
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    InvalidResponseError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, BackupType

__all__ = ["Search"]

_SERVERS_AT_ONCE: Final = 16
_PAGES_AHEAD: Final = 8
"""The most pages of a sweep that run ahead."""
_PAGES_PER_AHEAD: Final = 16
"""Expected pages of a sweep for each that runs ahead: pages beyond its end are wasted."""
_SAME_FOR_ALL: Final = (AuthenticationError, RateLimitedError)
"""Errors that every other list would give too."""
_SPOILED: Final = (InvalidResponseError, PaginationError, PermissionDeniedError)
"""Errors of the whole list that a server's own list need not have: one bad backup spoils it."""


class _Run:
    """One run over servers' lists; `refusal` is why no further one is asked, None while one is.

    `most_failures` without a success show that all servers' lists fail.
    """

    def __init__(self, most_failures: int) -> None:
        self.most_failures = most_failures
        self.failures = 0
        self.works = False
        self.refusal: VPSBackupsError | None = None

    def take(self, error: VPSBackupsError | None, troubles: Troubles, now: float) -> None:
        """Note how a server's list was read, or failed."""
        if error is None:
            self.works = True
            troubles.worked(EVERY_SERVER)
        elif isinstance(error, _SAME_FOR_ALL):
            self.refusal = error
        elif not isinstance(error, ApiError) or error.status >= 500:
            self.failures += 1
            if self.failures == self.most_failures and not self.works:
                self.refusal = error
                troubles.failed(EVERY_SERVER, error, now)


class Search:
    """Looks for backups in the lists of one client, as planned before.

    `on_attempt` makes a list that fails give up early, for those who look again later.
    """

    def __init__(self, lists: Lists) -> None:
        self._planner = Planner(lists)

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
    ) -> AsyncGenerator[Finding]:
        """Read the whole list as far as it pays: a finding for each page, and a last one.

        `known` has the ids of all backups that the caller wants to hear of if they happen to show.
        What no finding names is neither found nor certainly absent. Backups are `left` where asking
        their servers takes fewer requests than reading on, or the whole list fails and theirs may
        not.
        """
        unseen = Unseen(wanted)
        if not unseen:
            return
        manual = unseen.manual
        query = backups_query(None, BackupType.MANUAL if manual else None, page_size)
        ahead = _ahead(unseen.pages_worth_reading(self._planner.pages_to(unseen)))
        walk = self._planner.open(query, None, on_attempt, ahead)
        shape = ListShape()
        absent: frozenset[Key] = frozenset()
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    shape.take(page)
                    self._planner.learn_shape(shape, manual=manual)
                    found = tuple(backup for backup in page.items if backup.id in known)
                    yield Finding(None, found, unseen.show(found), requests=1)
                    if _is_enough(unseen, shape):
                        break
                else:
                    absent = _absent(walk, shape, unseen)
            self._planner.troubles.worked(None)
            yield Finding(None, absent=absent, left=unseen.take_by_server())
        except VPSBackupsError as error:
            yield self._failed_sweep(unseen, error, on_attempt)
        finally:
            self._planner.ended(walk)

    def _failed_sweep(
        self, unseen: Unseen, error: VPSBackupsError, on_attempt: OnAttempt | None
    ) -> Finding:
        """What a sweep that failed leaves to the servers' lists, and what it fails for."""
        now = asyncio.get_running_loop().time()
        self._planner.troubles.failed(None, error, now)
        # Without a next look for it, or where the whole list keeps failing, servers are asked now.
        try_servers = (
            on_attempt is None or self._planner.troubles.standing(None, now).state != State.FINE
        ) and not isinstance(error, _SAME_FOR_ALL)
        left = unseen.take_by_server() if try_servers or isinstance(error, _SPOILED) else ()
        return Finding(None, failed=unseen.remove_all(), error=error, left=left)

    # --- Servers' lists ------------------------------------------------------------------------

    async def servers(
        self,
        wanted: Mapping[int, list[Wanted]],
        known: Container[int],
        page_size: int | None = PAGE_SIZE,
        *,
        on_attempt: OnAttempt | None = None,
    ) -> AsyncGenerator[Finding]:
        """Look at each server's list for its wanted backups: a finding for each, as they end.

        After a 401 or 429, or many failures and no success, nothing more is sent. Backups are
        `left` where the server's list turns out to be the list of all servers.
        """
        loop, troubles = asyncio.get_running_loop(), self._planner.troubles
        now = loop.time()
        # While all servers' lists seem to fail, one of them is tried before the others.
        are_down = troubles.standing(EVERY_SERVER, now).state != State.FINE
        run = _Run(1 if are_down else _SERVERS_AT_ONCE)

        async def look(server_id: int) -> Finding:
            those = wanted[server_id]
            if run.refusal is not None:
                keys = frozenset(one.key for one in those)
                return Finding(server_id, failed=keys, error=run.refusal)
            if self._planner.ignores_servers(loop.time()):
                return Finding(server_id, left=tuple(those))
            finding = await self._server(server_id, those, known, page_size, on_attempt)
            run.take(finding.error, troubles, loop.time())
            return finding

        # Lists that failed come last, for they may take long.
        order = sorted(wanted, key=lambda server_id: troubles.standing(server_id, now))
        if order and are_down:
            yield await look(order.pop(0))
        async with aclosing(fan_out(look, order, concurrency=_SERVERS_AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    async def _server(
        self,
        server_id: int,
        wanted: Iterable[Wanted],
        known: Container[int],
        page_size: int | None,
        on_attempt: OnAttempt | None,
    ) -> Finding:
        """What the list of one server tells about its wanted backups."""
        missing = Unseen(wanted)
        kind = BackupType.MANUAL if missing.manual else None
        walk = self._planner.open(backups_query(server_id, kind, page_size), server_id, on_attempt)
        found: list[Backup] = []
        requests = 0
        absent: frozenset[Key] = frozenset()
        failed: frozenset[Key] = frozenset()
        left: tuple[Wanted, ...] = ()
        failure: VPSBackupsError | None = None
        loop = asyncio.get_running_loop()
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    requests += 1
                    shown = [backup for backup in page.items if backup.id in known]
                    found += shown
                    missing.show(shown)
                    if not missing:
                        break
                    if self._planner.is_whole():
                        left = missing.take_by_server()
                        break
                else:
                    absent = missing.remove_all() if walk.complete else frozenset()
        except VPSBackupsError as error:
            self._planner.troubles.failed(server_id, error, loop.time())
            failed, failure = missing.remove_all(), error
        else:
            self._planner.troubles.worked(server_id)
        return Finding(server_id, tuple(found), absent, failed, failure, requests, left)


def _is_enough(unseen: Unseen, shape: ListShape) -> bool:
    """Whether reading on would show nothing more, or cost more than asking servers."""
    if unseen and shape.is_past(unseen.oldest):
        unseen.keep_those_to_prove()
    return not unseen or not unseen.pages_worth_reading(shape.pages_left)


def _absent(walk: Walk[Backup], shape: ListShape, unseen: Unseen) -> frozenset[Key]:
    """The keys that a sweep to the end proves absent; `unseen` keeps those to ask servers about."""
    if walk.complete:
        return unseen.remove_all()
    if unseen.servers <= shape.pages:
        unseen.keep_those_to_prove()
    else:
        unseen.remove_all()  # the list moved, so only another search can tell
    return frozenset()


def _ahead(pages: float) -> int:
    """How many pages run ahead of a sweep; none if nothing tells how far it must go."""
    return 0 if pages == math.inf else int(min(_PAGES_AHEAD, pages // _PAGES_PER_AHEAD))
