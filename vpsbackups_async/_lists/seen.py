"""The ids that a walk has handed out already."""

from array import array
from bisect import bisect_left

from vpsbackups_async.models import Backup


class SeenIds:
    """The ids that were handed out: 8 bytes each while the list keeps to one direction.

    What comes out of order goes to a set, which costs more, so that a list in any order works.
    """

    def __init__(self) -> None:
        self._sign = 0
        self._run = array("q")
        self._strays: set[int] = set()

    def __contains__(self, backup_id: int) -> bool:
        if backup_id in self._strays:
            return True
        sign = self._sign
        place = bisect_left(self._run, sign * backup_id, key=lambda known: sign * known)
        return place < len(self._run) and self._run[place] == backup_id

    def add(self, items: tuple[Backup, ...]) -> tuple[Backup, ...]:
        """Those of the items that are new, remembered from now on."""
        if not items:
            return items
        ids = [backup.id for backup in items]
        if not self._sign:
            self._sign = -1 if ids[0] >= ids[-1] else 1
        # Strays lie before the end of the run or fit no array: no need to look them up here.
        if (
            self._is_beyond(ids[0])
            and sorted(ids, reverse=self._sign < 0) == ids
            and len(set(ids)) == len(ids)
        ):
            try:
                self._run.fromlist(ids)
            except OverflowError:
                pass
            else:
                return items
        return tuple(backup for backup in items if self._add_one(backup.id))

    def _is_beyond(self, backup_id: int) -> bool:
        return not self._run or self._sign * backup_id > self._sign * self._run[-1]

    def _add_one(self, backup_id: int) -> bool:
        if backup_id in self:
            return False
        if self._is_beyond(backup_id) and -(2**63) <= backup_id < 2**63:
            self._run.append(backup_id)
        else:
            self._strays.add(backup_id)
        return True
