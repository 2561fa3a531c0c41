"""The one place that finds given backups, with as few requests as it can.

The API cannot be asked for one backup, only for lists. A search is a filtered request to each
server concerned, or one sweep through the whole list that ends as soon as it can show nothing more,
or a sweep that turns to filtered requests when few backups are left.
"""

from collections.abc import AsyncGenerator, Callable, Container, Iterable, Iterator
from contextlib import aclosing

from vpsbackups_async._lists.lists import PAGE_SIZE, Lists, OnResponse, backups_query
from vpsbackups_async._lists.planner import Finding, by_server
from vpsbackups_async._lists.search import Search
from vpsbackups_async._lists.walk import SWEEPS
from vpsbackups_async._lists.wanted import Key, Wanted, keys_of
from vpsbackups_async.errors import NotInListError
from vpsbackups_async.models import Backup, BackupRef, BackupType, Outcome, Sweep

__all__ = ["Finder"]


class Finder:
    """Finds backups in the lists of one client; `search` looks for them once.

    `limit` gives how many requests may run at once, None if unknown.
    """

    def __init__(self, lists: Lists, limit: Callable[[], int | None] = lambda: None) -> None:
        self.search: Search = Search(lists, limit)
        self._lists = lists

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
            if reads == SWEEPS or not walk.moved:
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
        refs_of = {(ref.id, ref.server_id): ref for ref in refs}
        known = frozenset(backup_id for backup_id, _ in refs_of)
        for _ in range(SWEEPS):
            wanted = [Wanted(*key) for key in refs_of]
            async with aclosing(self._find(wanted, known, page_size)) as findings:
                async for finding in findings:
                    for outcome in _outcomes(finding, refs_of):
                        yield outcome
            if not refs_of:
                return
        for ref in refs_of.values():
            yield Outcome(ref, error=NotInListError(ref.id, ref.server_id, moved=True))

    async def _find(
        self, wanted: Iterable[Wanted], known: Container[int], page_size: int | None
    ) -> AsyncGenerator[Finding]:
        """What there is to know about the wanted backups now, each finding as soon as it is known.

        A failure belongs to the backups that could not be looked for, except that after a 401 or
        429 nothing more is sent.
        """
        plan = self.search.plan(wanted, heed_failures=False)
        servers = plan.servers
        async with aclosing(self.search.sweep(plan.sweep, known, page_size)) as findings:
            async for finding in findings:
                for server_id, those in by_server(finding.left).items():
                    servers.setdefault(server_id, []).extend(those)
                yield finding
        async with aclosing(self.search.servers(servers, known, page_size)) as findings:
            async for finding in findings:
                yield finding


def _outcomes(
    finding: Finding, refs_of: dict[Key, BackupRef]
) -> Iterator[Outcome[BackupRef, Backup]]:
    """The outcomes that a finding gives; their refs are taken out of `refs_of`."""
    for backup in finding.found:
        for key in keys_of(backup):
            if key in refs_of:
                yield Outcome(refs_of.pop(key), backup)
    for keys, error in ((finding.absent, None), (finding.failed, finding.error)):
        for ref in [refs_of.pop(key) for key in keys if key in refs_of]:
            yield Outcome(ref, error=error or NotInListError(ref.id, ref.server_id))
