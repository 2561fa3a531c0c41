"""The workers of a database, each with a row that it touches while it lives.

A lock tells that a worker is dead; only its row tells that it holds a lock and does not answer.
"""

import os
import socket
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

import sqlalchemy as sa

from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.schema import workers
from vpsbackups_async.durable.values import SilentWorker

__all__ = ["Ask", "Listed", "Roll", "Unchanged", "silent_workers"]

T = TypeVar("T", bound=Hashable)

Ask: TypeAlias = Callable[[sa.TextClause, Mapping[str, Any]], Sequence[sa.Row[Any]] | None]
"""Gives the rows of a statement; None where the database does not give them."""

SILENT_AFTER: Final = 15.0
"""Seconds without a sign of life after which a worker is told of."""

_ENTER: Final = """
INSERT INTO {workers} (slot, token, pid, host, beats, seen_at)
VALUES (:slot, :token, :pid, :host, 0, {now})
ON CONFLICT (slot) DO UPDATE SET token = excluded.token, pid = excluded.pid,
    host = excluded.host, beats = 0, seen_at = excluded.seen_at
RETURNING slot
"""
_BEAT: Final = """
UPDATE {workers} SET beats = beats + 1, seen_at = {now} WHERE slot = :slot AND token = :token
RETURNING slot
"""
_DISMISS: Final = """
UPDATE {workers} SET token = '' WHERE slot = :slot AND token = :token AND beats = :beats
RETURNING slot
"""
_STRIKE: Final = "DELETE FROM {workers} WHERE slot = :slot RETURNING slot"
_LEAVE: Final = "DELETE FROM {workers} WHERE slot = :slot AND token = :token RETURNING slot"
_LIST: Final = "SELECT slot, token, beats FROM {workers}"
_SILENT: Final = """
SELECT slot, pid, host, {now} - seen_at FROM {workers} WHERE seen_at < {now} - :seconds
ORDER BY slot
"""


class Listed(NamedTuple):
    """A worker as its row was read; `beats` grows while it lives."""

    slot: int
    token: str
    beats: int


class Roll:
    """The rows of the workers, through the connection of one of them."""

    def __init__(self, database: Database, ask: Ask) -> None:
        self._database = database
        self._ask = ask
        self._token = os.urandom(8).hex()

    def enter(self, slot: int, connection: sa.Connection) -> None:
        """Add this process as the worker of the slot.

        Raises `DBAPIError`, which tells why, where the database does not take it.
        """
        who = {"pid": os.getpid(), "host": socket.gethostname()}
        enter = _text(self._database, _ENTER)
        connection.execute(enter, {"slot": slot, "token": self._token, **who})

    def beat(self, slot: int) -> bool | None:
        """Whether the slot is still this worker's; None where the database does not say."""
        rows = self._do(_BEAT, slot=slot, token=self._token)
        return None if rows is None else bool(rows)

    def all(self) -> list[Listed]:
        """All workers; none where the database does not say."""
        return [Listed(row.slot, row.token, row.beats) for row in self._do(_LIST) or ()]

    def dismiss(self, worker: Listed) -> bool:
        """Have this worker stop once it wakes, unless it has given a sign of life since."""
        return bool(self._do(_DISMISS, **worker._asdict()))

    def strike(self, slot: int) -> None:
        """Delete the row of a worker that is dead."""
        self._do(_STRIKE, slot=slot)

    def leave(self, slot: int) -> None:
        """Delete the row of this worker."""
        self._do(_LEAVE, slot=slot, token=self._token)

    def _do(self, statement: str, **values: object) -> Sequence[sa.Row[Any]] | None:
        return self._ask(_text(self._database, statement), values)


class Unchanged(Generic[T]):
    """Finds what more than so many looks in a row have seen unchanged.

    Looks are counted, not seconds, so that nothing is taken for stuck after the whole machine
    slept, or after its clock was set.
    """

    def __init__(self, looks: int) -> None:
        self._enough = looks
        self._looks: dict[T, int] = {}

    def take(self, seen: Iterable[T]) -> list[T]:
        """What of this was there for long enough."""
        self._looks = {one: self._looks.get(one, 0) + 1 for one in seen}
        return [one for one, looks in self._looks.items() if looks > self._enough]


async def silent_workers(database: Database) -> list[SilentWorker]:
    """The workers that have not ended in order, and give no sign of life."""
    query = _text(database, _SILENT)
    rows = await database.run(
        lambda connection: connection.execute(query, {"seconds": SILENT_AFTER}).all()
    )
    return [SilentWorker(*row) for row in rows]


def _text(database: Database, statement: str) -> sa.TextClause:
    """The statement in the dialect of the database."""
    return sa.text(statement.format(workers=database.name_of(workers), now=database.clock))
