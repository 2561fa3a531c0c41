"""Reads the list of one server for the backups that are wanted of it."""

import asyncio
from collections.abc import Container, Iterable
from contextlib import aclosing

from vpsbackups_async._lists.lists import backups_query
from vpsbackups_async._lists.planner import Finding, OnAttempt, Planner
from vpsbackups_async._lists.readable import readable_backups
from vpsbackups_async._lists.wanted import Key, Unseen, Wanted
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._wire import API_ROOT, BACKUPS
from vpsbackups_async.errors import InvalidResponseError, RequestTimeoutError, VPSBackupsError
from vpsbackups_async.models import Backup, BackupType

__all__ = ["OneServer"]


class OneServer:
    """One reading of a server's list; `send` watches its requests.

    `known` has the ids of all backups that the caller wants to hear of if they happen to show.
    """

    def __init__(
        self,
        server_id: int,
        wanted: Iterable[Wanted],
        known: Container[int],
        planner: Planner,
        send: SendState,
    ) -> None:
        self.send = send
        self._server_id = server_id
        self._missing = Unseen(wanted)
        self._known = known
        self._planner = planner
        self._found: list[Backup] = []
        self._requests = 0

    def unasked(self, error: VPSBackupsError | None) -> Finding:
        """What to tell if nothing is sent because of this error."""
        return Finding(self._server_id, failed=self._missing.remove_all(), error=error)

    def left(self) -> Finding:
        """What to tell of those that the list of all servers is to be asked for."""
        left = self._missing.take_by_server()
        return Finding(self._server_id, tuple(self._found), requests=self._requests, left=left)

    def failed(self, error: VPSBackupsError) -> Finding:
        """What the list told until it failed, which is noted."""
        now = asyncio.get_running_loop().time()
        self._planner.troubles.failed(self._server_id, error, now)
        return self._finding(failed=self._missing.remove_all(), error=error)

    def given_up(self) -> Finding:
        """What the list told until it was given up, so that others could be read."""
        words, path = "no answer for long, while other lists wait to be read", BACKUPS.path
        attempts = len(self.send.began)
        return self.failed(RequestTimeoutError(words, True, "GET", API_ROOT + path, attempts))

    async def read(self, page_size: int | None, on_attempt: OnAttempt | None) -> Finding:
        """Read the list as far as needed; what it tells, also if it fails."""
        missing, planner = self._missing, self._planner
        unreadable: list[InvalidResponseError] = []
        kind = BackupType.MANUAL if missing.manual else None
        listing = readable_backups(unreadable.append)
        query = backups_query(self._server_id, kind, page_size, listing)
        walk = planner.open(query, self._server_id, on_attempt, send=self.send)
        try:
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    self._requests += 1
                    shown = [backup for backup in page.items if backup.id in self._known]
                    self._found += shown
                    missing.show(shown)
                    if not missing or planner.is_whole():
                        break
        except VPSBackupsError as error:
            return self.failed(error)
        planner.troubles.worked(self._server_id)
        if missing and not walk.ended:
            return self.left()
        if unreadable:
            return self._finding(failed=missing.remove_all(), error=unreadable[0])
        return self._finding(absent=missing.remove_all() if walk.complete else frozenset())

    def _finding(
        self,
        absent: frozenset[Key] = frozenset(),
        failed: frozenset[Key] = frozenset(),
        error: VPSBackupsError | None = None,
    ) -> Finding:
        return Finding(self._server_id, tuple(self._found), absent, failed, error, self._requests)
