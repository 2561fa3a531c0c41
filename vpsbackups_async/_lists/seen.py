"""The ids that a walk has handed out already."""

from array import array
from bisect import bisect_left
from typing import Protocol, TypeVar

__all__ = ["Identified", "SeenIds"]


class Identified(Protocol):
    """An item of a list: its id tells it from the others."""

    @property
    def id(self) -> int:
        """The id, unique within the list."""
        ...


T = TypeVar("T", bound=Identified)


class SeenIds:
    """The ids that were handed out: 8 bytes each while they only rise, or only fall.

    `rising` is whether they are expected to rise; otherwise the first ids tell. An id out of order
    goes into a set, which costs more memory, so that a list in any order works.
    """

    def __init__(self, *, rising: bool = False) -> None:
        self._sign = int(rising)  # 0 until the first ids tell
        self._run = array("q")
        self._strays: set[int] = set()

    def __contains__(self, item_id: int) -> bool:
        if item_id in self._strays:
            return True
        sign = self._sign
        place = bisect_left(self._run, sign * item_id, key=lambda known: sign * known)
        return place < len(self._run) and self._run[place] == item_id

    def add(self, items: tuple[T, ...]) -> tuple[T, ...]:
        """The items that are new; they count as seen from now on."""
        if not items:
            return items
        ids = [item.id for item in items]
        if not self._sign:
            self._sign = -1 if ids[0] >= ids[-1] else 1
        # Strays lie before the end of the run or do not fit into the array, so that ids beyond
        # the end need not be looked up.
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
        return tuple(item for item in items if self._add_one(item.id))

    def _is_beyond(self, item_id: int) -> bool:
        return not self._run or self._sign * item_id > self._sign * self._run[-1]

    def _add_one(self, item_id: int) -> bool:
        if item_id in self:
            return False
        if self._is_beyond(item_id) and -(2**63) <= item_id < 2**63:
            self._run.append(item_id)
        else:
            self._strays.add(item_id)
        return True
