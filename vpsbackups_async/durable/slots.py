"""Slots of workers: a worker holds one while it lives, so that others see when it is dead.

The number of a slot is the name by which the engine knows a worker. On SQLite a slot is a lock on a
file beside the database, on PostgreSQL an advisory lock of a connection of its own.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import exc

from vpsbackups_async.durable.database import Database
from vpsbackups_async.durable.roll import Roll
from vpsbackups_async.errors import ConfigurationError

__all__ = ["COUNT", "Slots", "open_slots"]

COUNT: Final = 64
"""How many workers a database may have at once."""
LOST_AFTER: Final = 30
"""Seconds of silence after which PostgreSQL takes the slot from a worker that is frozen."""
_BUSY_MS: Final = 1000
"""How long a sign of life waits for others that write to a SQLite file: the lock tells, too."""
_CLASS: Final = 0x76707362  # the first number of the advisory locks: "vpsb"
_TRY_LOCK: Final = sa.text("SELECT pg_try_advisory_lock(:class, :slot)")
_UNLOCK: Final = sa.text("SELECT pg_advisory_unlock(:class, :slot)")
_HELD: Final = sa.text(
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = :class "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Slots(Protocol):
    """The slots of one database; the functions block, and are called in one thread."""

    roll: Roll

    def take(self) -> int:
        """Take the lowest free slot; its number.

        Raises `ConfigurationError` if none is free, and `DBAPIError` if the database fails.
        """

    def is_held(self) -> bool:
        """Whether the slot that was taken is still held; asking tells the others of this worker."""

    def maybe_free(self) -> list[int]:
        """The numbers of the other slots that nobody may hold."""

    def hold(self, number: int) -> bool:
        """Hold another slot too, if nobody does: whether that is so."""

    def let_go(self, number: int) -> None:
        """Let go of another slot, if it is held."""

    def release(self) -> None:
        """Give the slot back."""


def open_slots(database: Database) -> Slots:
    """The slots of the database."""
    return _FileSlots(database) if database.is_sqlite else _AdvisorySlots(database)


def _none_free() -> ConfigurationError:
    return ConfigurationError(f"{COUNT} workers use this database, and it takes no more")


class _FileSlots:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._path = database.path
        self._connection: sa.Connection | None = None
        self._locks: dict[int, FileLock] = {}
        self._number = -1
        self.roll = Roll(database, self._ask)

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.slot-{number}")

    def take(self) -> int:
        for number in range(COUNT):
            if self.hold(number):
                self._number = number
                self._connection = self._database.connect_alone("vpsbackups slot")
                with self._connection.begin():
                    self.roll.enter(number, self._connection)
                with self._connection.begin():
                    self._connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")
                return number
        raise _none_free()

    def is_held(self) -> bool:
        lock = self._locks.get(self._number)
        # While the database is busy, the lock alone tells.
        return lock is not None and lock.is_locked and self.roll.beat(self._number) is not False

    def maybe_free(self) -> list[int]:
        others = set(range(COUNT)) - {self._number}
        return [number for number in sorted(others) if self._file(number).exists()]

    def hold(self, number: int) -> bool:
        lock = FileLock(self._file(number), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        self._locks[number] = lock
        return True

    def let_go(self, number: int) -> None:
        lock = self._locks.pop(number, None)
        if lock is not None:
            lock.release()

    def release(self) -> None:
        if self._connection is not None:
            self.roll.leave(self._number)
            self._connection.close()
            self._connection = None
        for number in tuple(self._locks):
            self.let_go(number)

    def _ask(self, query: sa.TextClause, values: Mapping[str, Any]) -> Sequence[sa.Row[Any]] | None:
        """The rows; None if the database is busy, or fails."""
        if self._connection is None:
            return None
        try:
            with self._connection.begin():
                return self._connection.execute(query, values).all()
        except exc.DBAPIError:
            return None


class _AdvisorySlots:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: sa.Connection | None = None
        self._number = -1
        self.roll = Roll(database, self._ask)

    def take(self) -> int:
        # Of its own: the connections of a pool come and go.
        connection = self._database.connect_alone("vpsbackups slot")
        connection.execute(sa.text(f"SET idle_session_timeout = '{LOST_AFTER}s'"))
        for number in range(COUNT):
            if connection.scalar(_TRY_LOCK, _numbers(number)):
                self._connection, self._number = connection, number
                self.roll.enter(number, connection)
                return number
        connection.close()
        raise _none_free()

    def is_held(self) -> bool:
        """Whether the connection lives; asking also tells PostgreSQL that this worker does."""
        return bool(self.roll.beat(self._number))

    def maybe_free(self) -> list[int]:
        held = self._ask(_HELD, {"class": _CLASS})
        if held is None:
            return []
        taken = {int(row[0]) for row in held}
        return [number for number in range(COUNT) if number not in taken]

    def hold(self, number: int) -> bool:
        rows = self._ask(_TRY_LOCK, _numbers(number))
        return rows is not None and bool(rows[0][0])

    def let_go(self, number: int) -> None:
        self._ask(_UNLOCK, _numbers(number))

    def release(self) -> None:
        self.roll.leave(self._number)
        self._drop()

    def _ask(self, query: sa.TextClause, values: Mapping[str, Any]) -> Sequence[sa.Row[Any]] | None:
        """The rows; None if the connection is lost, and the slot with it."""
        if self._connection is None:
            return None
        try:
            return self._connection.execute(query, values).all()
        except exc.DBAPIError:
            self._drop()  # what is asked next would meet another error: PendingRollbackError
            return None

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(exc.SQLAlchemyError):
                connection.close()


def _numbers(slot: int) -> Mapping[str, int]:
    return {"class": _CLASS, "slot": slot}
