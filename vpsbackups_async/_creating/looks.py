"""Looks at the backups of one server, for its creates."""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from vpsbackups_async._creating.known import KnownBackups
from vpsbackups_async._creating.refusals import may_be_recognised, recognised
from vpsbackups_async._lists.finder import Finder
from vpsbackups_async._wire import NO_SUCH_SERVER, Response, date_of
from vpsbackups_async.errors import NotFoundError, VPSBackupsError
from vpsbackups_async.models import Backup, BackupType

__all__ = ["Look", "Looks"]


class Look(msgspec.Struct, frozen=True):
    """The backups of a server, as one read of its list showed them.

    `server_time` is the server's time by its `Date` header, None if the response had none, and `at`
    the event loop's time then. `complete` is False if the list moved while it was read.
    """

    backups: Sequence[Backup]
    server_time: datetime | None
    at: float
    complete: bool = True


class Looks:
    """Looks at the lists of servers, and notes what they show in `known`.

    `patience` is the time in seconds that looks may take which only explain how a call ended.
    """

    def __init__(self, finder: Finder, known: KnownBackups, patience: float) -> None:
        self._finder = finder
        self._known = known
        self.patience = patience

    async def look(self, server_id: int, kind: BackupType | None = BackupType.MANUAL) -> Look:
        """The manual backups of a server now, or all; and the time on the server's clock."""
        loop = asyncio.get_running_loop()
        server_time: datetime | None = None
        at = loop.time()

        def note_time(response: Response) -> None:
            nonlocal server_time, at
            server_time, at = date_of(response.headers), loop.time()

        sweep = await self._finder.read_server(server_id, kind, on_response=note_time)
        self._known.asked.see(sweep.items)
        if sweep.complete:
            self._known.list(server_id, (one for one in sweep.items if one.is_manual))
        return Look(sweep.items, server_time, at, sweep.complete)

    async def recognised(self, refusal: VPSBackupsError, server_id: int) -> VPSBackupsError:
        """A refused create as the error that says why, if the server's backups can be read."""
        if isinstance(refusal, NotFoundError) and refusal.from_api:
            refusal.hint = NO_SUCH_SERVER
        if not may_be_recognised(refusal):
            return refusal
        try:
            async with asyncio.timeout(self.patience):
                sweep = await self._finder.read_server(server_id)
        except Exception:  # noqa: BLE001  # also what the caller's limiter raises
            return refusal
        return recognised(refusal, sweep.items)
