"""Slots of workers: a worker holds one while it lives, so that others see when it is dead.

The number of a slot is the name by which the engine knows a worker. On SQLite a slot is a lock on a
file beside the database, on PostgreSQL an advisory lock of a connection of its own.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy import exc, pool

from vpsbackups_async.durable.database import Database
from vpsbackups_async.errors import ConfigurationError

__all__ = ["COUNT", "Slots", "open_slots"]

COUNT: Final = 64
"""How many workers a database may have at once."""
LOST_AFTER: Final = 30
"""Seconds of silence after which PostgreSQL takes the slot from a worker that is frozen."""
_CLASS: Final = 0x76707362  # the first number of the advisory locks: "vpsb"


class Slots(Protocol):
    """The slots of one database; the functions block, and are called in a thread."""

    def take(self) -> int:
        """Take the lowest free slot; its number. Raises `ConfigurationError` if none is free."""

    def is_held(self) -> bool:
        """Whether the slot that was taken is still held."""

    def maybe_free(self) -> list[int]:
        """The numbers of the other slots that nobody may hold."""

    def holding(self, number: int) -> AbstractContextManager[bool]:
        """A block that holds another slot, if nobody else does: whether that is so."""

    def release(self) -> None:
        """Give the slot back."""


def open_slots(database: Database) -> Slots:
    """The slots of the database."""
    return _FileSlots(database) if database.is_sqlite else _AdvisorySlots(database)


def _none_free() -> ConfigurationError:
    return ConfigurationError(f"{COUNT} workers use this database, and it has room for no more")


class _FileSlots:
    def __init__(self, database: Database) -> None:
        self._path = database.path
        self._own: FileLock | None = None
        self._number = -1

    def _file(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.slot-{number}")

    def _lock(self, number: int) -> FileLock | None:
        lock = FileLock(self._file(number), thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    def take(self) -> int:
        for number in range(COUNT):
            if (lock := self._lock(number)) is not None:
                self._own, self._number = lock, number
                return number
        raise _none_free()

    def is_held(self) -> bool:
        return self._own is not None and self._own.is_locked

    def maybe_free(self) -> list[int]:
        others = set(range(COUNT)) - {self._number}
        return [number for number in sorted(others) if self._file(number).exists()]

    @contextmanager
    def holding(self, number: int) -> Iterator[bool]:
        lock = self._lock(number)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def release(self) -> None:
        if self._own is not None:
            self._own.release()
            self._own = None


class _AdvisorySlots:
    def __init__(self, database: Database) -> None:
        # Of its own: the connections of a pool come and go.
        self._engine = sa.create_engine(
            database.url,
            poolclass=pool.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 10, "application_name": "vpsbackups slot"},
        )
        self._connection: sa.Connection | None = None
        self._number = -1

    def take(self) -> int:
        connection = self._engine.connect()
        connection.execute(sa.text(f"SET idle_session_timeout = '{LOST_AFTER}s'"))
        for number in range(COUNT):
            if self._locks(connection, number):
                self._connection, self._number = connection, number
                return number
        connection.close()
        raise _none_free()

    @staticmethod
    def _locks(connection: sa.Connection, number: int) -> bool:
        numbers = {"class": _CLASS, "slot": number}
        query = sa.text("SELECT pg_try_advisory_lock(:class, :slot)")
        return bool(connection.scalar(query, numbers))

    def is_held(self) -> bool:
        """Whether the connection lives; asking also tells PostgreSQL that this worker does."""
        if self._connection is None:
            return False
        try:
            self._connection.scalar(sa.text("SELECT 1"))
        except exc.DBAPIError:
            return False
        return True

    def maybe_free(self) -> list[int]:
        if self._connection is None:
            return []
        query = sa.text(
            "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = :class "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        held = {int(row[0]) for row in self._connection.execute(query, {"class": _CLASS})}
        return [number for number in range(COUNT) if number not in held]

    @contextmanager
    def holding(self, number: int) -> Iterator[bool]:
        connection = self._connection
        held = connection is not None and self._locks(connection, number)
        try:
            yield held
        finally:
            if held and connection is not None:
                query = sa.text("SELECT pg_advisory_unlock(:class, :slot)")
                connection.execute(query, {"class": _CLASS, "slot": number})

    def release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._engine.dispose()
