"""The one place that finds given backups, with as few requests as it can.

The API cannot be asked for one backup, only for lists. A search is a filtered request to each
server concerned, or one sweep through the whole list that ends as soon as it can show nothing more,
or a sweep that turns to filtered requests when few backups are left. What the pages tell (order,
length) makes the next plan cheaper; nothing relies on it.
"""

import math
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator
from contextlib import aclosing
from typing import Final, NamedTuple

from vpsbackups_async._bulk.fan_out import fan_out
from vpsbackups_async._lists.estimate import ListShape
from vpsbackups_async._lists.lists import (
    PAGE_SIZE,
    Lists,
    OnResponse,
    backups_query,
)
from vpsbackups_async._lists.walk import SWEEPS, Walk
from vpsbackups_async._lists.wanted import Unseen, Wanted
from vpsbackups_async.errors import (
    AuthenticationError,
    InvalidResponseError,
    NotInListError,
    PaginationError,
    PermissionDeniedError,
    RateLimitedError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup, BackupRef, BackupType, Outcome, Sweep

__all__ = ["Finder", "Finding"]

_SERVERS_AT_ONCE: Final = 16
_PAGES_AHEAD: Final = 8
"""The most pages of a sweep that run ahead."""
_PAGES_PER_AHEAD: Final = 16
"""Expected pages of a sweep for each that runs ahead: pages beyond its end are wasted."""
_REFUSALS: Final = (AuthenticationError, PermissionDeniedError, RateLimitedError)
"""Errors that every other server's list would give too."""
_SAME_FOR_ALL: Final = (AuthenticationError, RateLimitedError)
"""Errors of the whole list that every server's list would give too."""


class Finding(NamedTuple):
    """What one page of the whole list, or one server's list, told about the wanted backups.

    `found` are the backups that it showed. `absent` are the ids that are certainly not there,
    `failed` those that could not be looked for because of `error`. `requests` were sent for it.
    `server_id` is None for the whole list.
    """

    server_id: int | None
    found: tuple[Backup, ...] = ()
    absent: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    error: VPSBackupsError | None = None
    requests: int = 0


class Finder:
    """Finds backups in the lists of one client, and remembers what the whole list is like."""

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._shapes: dict[bool, ListShape] = {}  # by whether only manual backups were asked for

    async def read_server(
        self,
        server_id: int,
        backup_type: BackupType | None = None,
        *,
        on_response: OnResponse | None = None,
    ) -> Sweep[Backup]:
        """The backups of one server; its list is read up to three times if it moves meanwhile."""
        query = backups_query(server_id, backup_type)
        reads = 0
        while True:
            walk = self._lists.open(query, on_response=on_response)
            sweep = await walk.read()
            reads += 1
            if reads == SWEEPS or not walk.tally.moved:
                return sweep

    # --- Until it is known ---------------------------------------------------------------------

    async def locate(
        self, refs: Iterable[BackupRef], page_size: int | None = PAGE_SIZE
    ) -> AsyncGenerator[Outcome[BackupRef, Backup]]:
        """One outcome for each distinct ref: the backup, or the error that says why not.

        A list that moves while it is read says nothing about what it did not show, so it is read
        up to three times. If the list of all servers cannot be read, the lists of the refs' servers
        are. `NotInListError` says that a list was read and did not have the backup.
        """
        refs_of: dict[int, list[BackupRef]] = {}
        for ref in dict.fromkeys(refs):
            refs_of.setdefault(ref.id, []).append(ref)
        for _ in range(SWEEPS):
            wanted = map(_wanted, refs_of.values())
            findings = self.find(wanted, refs_of, page_size, try_servers=True)
            async with aclosing(findings):
                async for finding in findings:
                    for outcome in _outcomes(finding, refs_of):
                        yield outcome
            if not refs_of:
                return
        for ref in [ref for rest in refs_of.values() for ref in rest]:
            yield Outcome(ref, error=NotInListError(ref.id, ref.server_id, moved=True))

    # --- One search ----------------------------------------------------------------------------

    async def find(
        self,
        wanted: Iterable[Wanted],
        known: Container[int],
        page_size: int | None = PAGE_SIZE,
        *,
        try_servers: bool = False,
    ) -> AsyncGenerator[Finding]:
        """What there is to know about the wanted backups, each finding as soon as it is known.

        `known` has the ids of all backups that the caller wants to hear of if they happen to show,
        the wanted ones included. A wanted backup that no finding names is neither found nor
        certainly absent. A failure belongs to the backups that could not be looked for, except that
        after a 401, 403 or 429 nothing more is sent. `page_size` is what each list is asked for.
        `try_servers` asks the servers' own lists if the list of all servers cannot be read: that
        may take many more requests.
        """
        unseen = Unseen(wanted)
        if not unseen:
            return
        if pages := unseen.pages_worth_reading(self._pages_to(unseen)):
            sweep = self._sweep(unseen, known, page_size, _ahead(pages), try_servers=try_servers)
            async with aclosing(sweep) as findings:
                async for finding in findings:
                    yield finding
        async with aclosing(self._servers(unseen, known, page_size)) as findings:
            async for finding in findings:
                yield finding

    def _pages_to(self, unseen: Unseen) -> Callable[[int], float]:
        """About how many pages it takes to reach a backup; before the first sweep, at least."""
        shape = self._shapes.get(unseen.manual)
        if shape is None:
            return lambda _: math.ceil(len(unseen.by_id) / PAGE_SIZE)
        newest = max(unseen.by_id)
        return lambda backup_id: shape.pages_from_top(backup_id, newest)

    async def _sweep(
        self,
        unseen: Unseen,
        known: Container[int],
        page_size: int | None,
        ahead: int,
        *,
        try_servers: bool,
    ) -> AsyncGenerator[Finding]:
        """Read the whole list as far as it pays; `unseen` keeps what wants its own request."""
        manual = unseen.manual
        query = backups_query(None, BackupType.MANUAL if manual else None, page_size)
        walk = self._lists.open(query, prefetch=ahead)
        shape = ListShape()
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    shape.take(page)
                    self._shapes[manual] = shape
                    found = tuple(backup for backup in page.items if backup.id in known)
                    unseen.remove(backup.id for backup in found)
                    yield Finding(None, found, requests=1)
                    if unseen and shape.is_past(unseen.oldest):
                        unseen.keep_those_to_prove()
                    if not unseen or not unseen.pages_worth_reading(shape.pages_left):
                        return
        except VPSBackupsError as error:
            # One bad backup of any server spoils the whole list, but not the servers' own.
            spoiled = isinstance(error, InvalidResponseError | PaginationError)
            if spoiled or (try_servers and not isinstance(error, _SAME_FOR_ALL)):
                failed = unseen.remove_without_server()
            else:
                failed = unseen.remove_all()
            yield Finding(None, failed=failed, error=error)
        else:
            yield Finding(None, absent=_absent(walk, shape, unseen))

    async def _servers(
        self, unseen: Unseen, known: Container[int], page_size: int | None
    ) -> AsyncGenerator[Finding]:
        """Look at the list of each server concerned, a few at once."""
        refusal: VPSBackupsError | None = None
        by_server: dict[int, list[Wanted]] = {}
        for one in unseen.by_id.values():
            if one.server_id is not None:
                by_server.setdefault(one.server_id, []).append(one)

        async def look(server_id: int) -> Finding:
            nonlocal refusal
            wanted = by_server[server_id]
            if refusal is not None:
                ids = frozenset(one.id for one in wanted)
                return Finding(server_id, failed=ids, error=refusal)
            finding = await self._server(server_id, wanted, known, page_size)
            if isinstance(finding.error, _REFUSALS):
                refusal = finding.error
            return finding

        async with aclosing(fan_out(look, by_server, concurrency=_SERVERS_AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                yield outcome.unwrap()

    async def _server(
        self,
        server_id: int,
        wanted: Iterable[Wanted],
        known: Container[int],
        page_size: int | None,
    ) -> Finding:
        """What the list of one server tells about its wanted backups."""
        missing = {one.id for one in wanted}
        manual = all(one.manual for one in wanted)
        query = backups_query(server_id, BackupType.MANUAL if manual else None, page_size)
        walk = self._lists.open(query)
        found: list[Backup] = []
        requests = 0
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    requests += 1
                    shown = [backup for backup in page.items if backup.id in known]
                    found += shown
                    missing.difference_update(backup.id for backup in shown)
                    if not missing:
                        break
        except VPSBackupsError as error:
            return Finding(
                server_id, tuple(found), failed=frozenset(missing), error=error, requests=requests
            )
        absent = frozenset(missing) if walk.complete else frozenset()
        return Finding(server_id, tuple(found), absent, requests=requests)


def _wanted(refs: list[BackupRef]) -> Wanted:
    """What to look for where one id was given with several servers: it can have only one."""
    servers = {ref.server_id for ref in refs}
    return Wanted(refs[0].id, servers.pop() if len(servers) == 1 else None)


def _outcomes(
    finding: Finding, refs_of: dict[int, list[BackupRef]]
) -> Iterator[Outcome[BackupRef, Backup]]:
    """The outcomes that a finding gives; their refs are taken out of `refs_of`."""
    for backup in finding.found:
        for ref in refs_of.pop(backup.id, ()):
            if ref.server_id in {None, backup.server.id}:
                yield Outcome(ref, backup)
            else:
                yield Outcome(ref, error=NotInListError(ref.id, ref.server_id))
    for ids, error in ((finding.absent, None), (finding.failed, finding.error)):
        for ref in [ref for backup_id in ids for ref in refs_of.pop(backup_id, ())]:
            yield Outcome(ref, error=error or NotInListError(ref.id, ref.server_id))


def _absent(walk: Walk[Backup], shape: ListShape, unseen: Unseen) -> frozenset[int]:
    """The ids that a sweep to the end proves absent; `unseen` keeps those to ask servers about."""
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
