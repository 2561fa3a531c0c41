"""How many pages a sweep through the whole list takes, by what its pages have shown so far.

Nothing relies on an estimate but the choice of the cheaper way.
"""

import math
from typing import Any, Final

from vpsbackups_async._lists.walk import Walk
from vpsbackups_async.models import Backup, Page

__all__ = ["FEW_SERVERS", "ListShape", "count_pages"]

FEW_SERVERS: Final = 16
"""With this many servers or fewer, asking how long the whole list is does not pay."""


class ListShape:
    """The order and length of the list of all servers, as far as its pages tell."""

    def __init__(self) -> None:
        self.pages = 0
        self._falls = 0
        self._rises = 0
        self._total: int | None = None
        self._longest = 0
        self._top = self._page_top = self._bottom = 0

    def take(self, page: Page[Backup]) -> None:
        """Learn from the next page."""
        self.pages += 1
        ids = [backup.id for backup in page.items]
        self._longest = max(self._longest, len(ids))
        if page.next is None:
            self._total = self.pages
        elif page.count is not None and self._longest:
            self._total = max(self.pages + 1, math.ceil(page.count / self._longest))
        if ids:
            before = [self._bottom] if self._top else []
            steps = zip([*before, *ids], [*before, *ids][1:], strict=False)
            falls = sum(one > other for one, other in steps)
            self._falls += falls
            self._rises += len(before) + len(ids) - 1 - falls
            self._page_top, self._bottom = max(ids), ids[-1]
            self._top = self._top or ids[0]

    @property
    def newest_first(self) -> bool:
        """Whether each id so far was below the one before it, and at least two were compared."""
        return bool(self._falls) and not self._rises

    def is_past(self, backup_id: int) -> bool:
        """Whether the list is newest first and its last page is wholly below the id."""
        return self.newest_first and self._page_top < backup_id

    def pages_left(self, backup_id: int) -> float:
        """About how many more pages show the backup, or show that it is not in the list."""
        # With neither a total nor an end, the list may be twice as long as what was read.
        rest = self.pages if self._total is None else self._total - self.pages
        if not self.newest_first or backup_id >= self._bottom:
            return rest
        return min(rest, self._pages_between(self._bottom, backup_id))

    def pages_from_top(self, oldest: int, newest: int) -> float:
        """About how many pages a new sweep takes to show the ids between these two."""
        total = self.pages if self._total is None else self._total
        if not self.newest_first:
            return total
        return min(total + 1, self._pages_between(max(self._top, newest), oldest))

    def _pages_between(self, high: int, low: int) -> int:
        return math.ceil(max(1, high - low) * self.pages / (self._top - self._bottom + 1))


def _pages_in_list(count: int | None, size: int, *, is_last: bool) -> int:
    """How many pages a list has by its first one; 0 if that does not tell.

    `count` is the server's total, `size` the number of items on the first page, `is_last` whether
    it links to no other.
    """
    if is_last and (count or 0) <= size:
        return 1
    return -(-count // size) if count and size else 0


async def count_pages(walk: Walk[Any]) -> int:
    """How many pages the list has, by its first one, which is read; 0 if that does not tell."""
    try:
        page = await walk.turn()
    finally:
        await walk.aclose()
    if page is None:
        return 0
    size = walk.distinct + walk.duplicates  # before it was filtered
    return _pages_in_list(walk.count_first, size, is_last=page.next is None)
