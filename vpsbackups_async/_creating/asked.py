"""With which descriptions a client asked for its backups: an API may hold other ones."""

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec
from attrs import evolve

from vpsbackups_async.models import Backup

__all__ = ["AskedDescriptions"]

_MAX_KEPT: Final = 10_000
_SAME_TIME: Final = timedelta(minutes=1)
"""How far two creation times of one backup may be apart: an API may round one of them."""


class _Asked(msgspec.Struct, frozen=True):
    server_id: int
    created_at: datetime
    description: str


class AskedDescriptions:
    """The descriptions of the 10,000 creates of a client that were answered last.

    They also show whether the API cuts descriptions, and where.
    """

    def __init__(self) -> None:
        self._asked: OrderedDict[int, _Asked] = OrderedDict()
        self._cut_at: int | None = None
        self._longest = 0

    @property
    def cut_at(self) -> int | None:
        """The length in characters at which the API cuts descriptions; None if that is unknown."""
        cut_at = self._cut_at
        return cut_at if cut_at is not None and self._longest <= cut_at else None

    def note(self, made: Backup, description: str) -> None:
        """Note that a create with this description was answered with this backup."""
        self._asked[made.id] = _Asked(made.server.id, made.created_at, description)
        self._asked.move_to_end(made.id)
        if len(self._asked) > _MAX_KEPT:
            self._asked.popitem(last=False)
        self._learn(made)  # its length proves nothing: the answer may just repeat the request

    def see(self, listed: Iterable[Backup]) -> None:
        """Note how the API holds the descriptions of the backups that it lists."""
        for backup in listed:
            self._longest = max(self._longest, len(backup.description))
            self._learn(backup)

    def _learn(self, backup: Backup) -> None:
        asked = self._of(backup)
        if asked is not None and _is_cut(asked, backup.description):
            self._cut_at = len(backup.description)

    def as_asked(self, backup: Backup) -> Backup:
        """The backup with the description that this client asked for, if it made the backup."""
        asked = self._of(backup)
        return backup if asked is None else evolve(backup, description=asked)

    def forget(self, backup_id: int) -> None:
        """Note that a backup was deleted: the API may give its id to a new one."""
        self._asked.pop(backup_id, None)

    def _of(self, backup: Backup) -> str | None:
        asked = self._asked.get(backup.id)
        if asked is None or asked.server_id != backup.server.id:
            return None
        is_it = abs(backup.created_at - asked.created_at) <= _SAME_TIME
        return asked.description if is_it else None


def _is_cut(asked: str, held: str) -> bool:
    """Whether the description was cut before a letter or digit, so that its length is the limit.

    An API that drops what follows a bracket, a line break or the like cuts at no fixed length, and
    one that trims spaces after the cut does not show the length.
    """
    if not held or not asked.startswith(held):
        return False
    following = asked[len(held) : len(held) + 1]
    return following.isascii() and following.isalnum()
