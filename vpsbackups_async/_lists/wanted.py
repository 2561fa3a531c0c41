"""The backups that a search looks for, and those of them that it has not shown yet."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import msgspec

from vpsbackups_async.models import Backup

__all__ = ["Key", "Unseen", "Wanted", "keys_of"]

Key: TypeAlias = tuple[int, int | None]
"""What tells a wanted backup from the others: its id, and its server's if that is known."""


class Wanted(msgspec.Struct, frozen=True):
    """A backup to look for, in the list of its server if that is known (`server_id`).

    `manual` says that it is a manual backup, so that a list of those would show it. `proof` asks
    to make sure of its absence if it does not show. `by_server` is False if the list of its server
    must not be asked.
    """

    id: int
    server_id: int | None
    manual: bool = False
    proof: bool = True
    by_server: bool = True

    @property
    def key(self) -> Key:
        """Its id, and its server's."""
        return self.id, self.server_id

    @property
    def list_of(self) -> int | None:
        """The server whose list may be asked for it; None if only the whole list may."""
        return self.server_id if self.by_server else None


def keys_of(backup: Backup) -> tuple[Key, Key]:
    """The keys that a backup answers: a search may know its server or not."""
    return (backup.id, backup.server.id), (backup.id, None)


class Unseen:
    """The wanted backups that a search has not shown yet."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self._by_id: dict[int, tuple[Wanted, ...]] = {}
        for one in wanted:
            self._by_id[one.id] = (*self._by_id.get(one.id, ()), one)
        self._servers = Counter(one.list_of for one in self)
        self._newest_first = sorted(self._by_id, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Wanted]:
        return (one for those in self._by_id.values() for one in those)

    def show(self, backups: Iterable[Backup]) -> frozenset[Key]:
        """Take out the backups that a page showed.

        Returns what is certainly absent: a backup with that id, but of another server.
        """
        absent: list[Key] = []
        for backup in backups:
            keys = keys_of(backup)
            absent += [one.key for one in self._remove(backup.id) if one.key not in keys]
        return frozenset(absent)

    def keep_those_to_prove(self) -> None:
        """Take out the backups whose absence needs no proof in this search."""
        self._take(lambda one: not one.proof)

    def keep_some_to_prove(self, most: int, after: int) -> int:
        """Keep backups of which the lists of `most` servers at most are to be asked for proof.

        Those with ids above `after` come first; returns the `after` for the next such choice.
        """
        self.keep_those_to_prove()
        ids = sorted(self._by_id, key=lambda backup_id: (backup_id <= after, backup_id))
        servers: set[int | None] = {None}
        for backup_id in ids:
            servers.update(one.list_of for one in self._by_id[backup_id])
            after = backup_id
            if len(servers) > most:
                break
        self._take(lambda one: one.list_of not in servers)
        return after

    def remove_all(self) -> frozenset[Key]:
        """Take out everything; the keys that were left."""
        return frozenset(one.key for one in self._take(lambda _: True))

    def take_by_server(self) -> tuple[Wanted, ...]:
        """Take out the backups that the list of their server may be asked for."""
        return tuple(self._take(lambda one: one.list_of is not None))

    def _take(self, which: Callable[[Wanted], bool]) -> list[Wanted]:
        """Take out the backups that this holds for."""
        taken: list[Wanted] = []
        for backup_id, those in tuple(self._by_id.items()):
            if any(map(which, those)):
                self._remove(backup_id)
                kept = tuple(one for one in those if not which(one))
                taken += [one for one in those if which(one)]
                if kept:
                    self._by_id[backup_id] = kept
                    self._servers.update(one.list_of for one in kept)
        return taken

    def _remove(self, backup_id: int) -> tuple[Wanted, ...]:
        removed = self._by_id.pop(backup_id, ())
        for one in removed:
            self._servers[one.list_of] -= 1
            if not self._servers[one.list_of]:
                del self._servers[one.list_of]
        return removed

    @property
    def newest(self) -> int:
        """The largest id that is left."""
        return max(self._by_id)

    @property
    def oldest(self) -> int:
        """The smallest id that is left."""
        while self._newest_first[-1] not in self._by_id:
            self._newest_first.pop()
        return self._newest_first[-1]

    @property
    def servers(self) -> float:
        """How many servers are concerned; infinitely many if one may not be asked."""
        return math.inf if None in self._servers else len(self._servers)

    def pages_worth_reading(self, pages_to: Callable[[int], float]) -> float:
        """How many pages of a sweep cost less than a request to each server; 0 if none do.

        `pages_to` gives about how many pages it takes to reach a backup.
        """
        shown = len(self._by_id)
        for backup_id in reversed(self._newest_first):
            if backup_id in self._by_id:
                pages = pages_to(backup_id)
                if pages < min(shown, self.servers):
                    return max(1, pages)
                shown -= 1
        return math.inf if self.servers == math.inf else 0

    @property
    def manual(self) -> bool:
        """Whether a list of manual backups would show all of them."""
        return all(one.manual for one in self)
