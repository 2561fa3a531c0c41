"""The backups that a search looks for, and those of them that it has not shown yet."""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

__all__ = ["Unseen", "Wanted"]


class Wanted(NamedTuple):
    """A backup to look for, in the list of its server if that is known (`server_id`).

    `manual` says that it is a manual backup, so that a list of those would show it. `proof` asks
    to make sure of its absence if it does not show.
    """

    id: int
    server_id: int | None
    manual: bool = False
    proof: bool = True


class Unseen:
    """The wanted backups that a search has not shown yet."""

    def __init__(self, wanted: Iterable[Wanted]) -> None:
        self.by_id = {one.id: one for one in wanted}
        self._servers = Counter(one.server_id for one in self.by_id.values())
        self._newest_first = sorted(self.by_id, reverse=True)

    def __bool__(self) -> bool:
        return bool(self.by_id)

    def remove(self, ids: Iterable[int]) -> None:
        """Take out the backups that were shown; other ids are ignored."""
        for backup_id in ids:
            one = self.by_id.pop(backup_id, None)
            if one is not None:
                self._servers[one.server_id] -= 1
                if not self._servers[one.server_id]:
                    del self._servers[one.server_id]

    def keep_those_to_prove(self) -> None:
        """Take out the backups whose absence needs no proof in this search."""
        self.remove([one.id for one in self.by_id.values() if not one.proof])

    def remove_all(self) -> frozenset[int]:
        """Take out everything; the ids that were left."""
        ids = frozenset(self.by_id)
        self.remove(ids)
        return ids

    def remove_without_server(self) -> frozenset[int]:
        """Take out the backups whose server is not known; their ids."""
        ids = frozenset(one.id for one in self.by_id.values() if one.server_id is None)
        self.remove(ids)
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
        """How many pages of a sweep cost less than a request to each server; 0 if none do.

        `pages_to` gives about how many pages it takes to reach a backup.
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
