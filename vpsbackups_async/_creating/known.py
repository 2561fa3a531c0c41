"""The backups that a client knows of, which later creates cannot have made."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from vpsbackups_async._creating.asked import AskedDescriptions
from vpsbackups_async._creating.evidence import SentCreate
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async.models import Backup

__all__ = ["KnownBackups"]

_MAX_SERVERS: Final = 10_000
_MAX_SETTLED: Final = 10_000
_MAX_DELETED: Final = 10_000
_LAG: Final = 60.0
"""Seconds for which a list may show nothing of a new backup."""


class KnownBackups:
    """The last complete list of manual backups of each server, and all backups that were given.

    The lists of the 10,000 servers that were read last are kept. An id that a create was given is
    kept for good, so that no other create gets it: it takes 8 bytes while ids grow. `asked` has the
    descriptions that were asked for.
    """

    def __init__(self) -> None:
        self.asked: AskedDescriptions = AskedDescriptions()
        self._listed: OrderedDict[int, frozenset[int]] = OrderedDict()
        self._given = SeenIds(rising=True)
        self._deleted: OrderedDict[int, None] = OrderedDict()
        self._marked: OrderedDict[tuple[int, str], tuple[Backup, float]] = OrderedDict()
        self._settled: OrderedDict[SentCreate, int] = OrderedDict()

    def listed(self, server_id: int) -> frozenset[int]:
        """The ids of the last complete list of the server; empty if none was read."""
        return self._listed.get(server_id, frozenset()) - self._deleted.keys()

    def list(self, server_id: int, backups: Iterable[Backup]) -> frozenset[int]:
        """Note a complete list of manual backups of the server; their ids."""
        ids = frozenset(backup.id for backup in backups)
        self._listed[server_id] = ids
        self._listed.move_to_end(server_id)
        if len(self._listed) > _MAX_SERVERS:
            self._listed.popitem(last=False)
        return ids

    def settled(self, sent: SentCreate) -> int | None:
        """The id that this create was given by `settle`, so that asking again gives it again."""
        return self._settled.get(sent)

    def settle(self, sent: SentCreate, backup: Backup) -> None:
        """Note which backup a create was given afterwards."""
        self._settled[sent] = backup.id
        if len(self._settled) > _MAX_SETTLED:
            self._settled.popitem(last=False)

    def give(self, backup: Backup, marker: str | None = None) -> Backup:
        """The backup, which is from now on given to a create, with this marker if it has one."""
        self._given.add((backup,))
        self._deleted.pop(backup.id, None)
        if marker is not None:
            key = backup.server.id, marker.casefold()
            self._marked[key] = backup, asyncio.get_running_loop().time()
            if len(self._marked) > _MAX_SERVERS:
                self._marked.popitem(last=False)
        return backup

    def is_given(self, backup_id: int) -> bool:
        """Whether a create was given this backup."""
        return backup_id in self._given and backup_id not in self._deleted

    def marked(self, server_id: int, marker: str) -> Backup | None:
        """The backup that a create with this marker was given lately; a list may lag behind it."""
        found = self._marked.get((server_id, marker.casefold()))
        if found is None or found[0].id in self._deleted:
            return None
        backup, at = found
        return backup if asyncio.get_running_loop().time() - at < _LAG else None

    def forget(self, backup_id: int) -> None:
        """Note that a backup was deleted: the API may give its id to a new one."""
        self.asked.forget(backup_id)
        self._deleted[backup_id] = None
        if len(self._deleted) > _MAX_DELETED:
            self._deleted.popitem(last=False)
