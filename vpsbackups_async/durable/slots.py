"""Slots of workers: a worker holds one while it lives, so that others see when it is dead.

The number of a slot is the name by which the engine knows a worker. On SQLite a slot is a lock on a
file beside the database, on PostgreSQL an advisory lock of a connection of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol

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
_TRY_LOCK: Final = sa.text("SELECT pg_try_advisory_lock(:class, :slot)")
_UNLOCK: Final = sa.text("SELECT pg_advisory_unlock(:class, :slot)")
_HELD: Final = sa.text(
    "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = :class "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


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
    return ConfigurationError(f"{COUNT} workers use this database, and it takes no more")


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
            if connection.scalar(_TRY_LOCK, _numbers(number)):
                self._connection, self._number = connection, number
                return number
        connection.close()
        raise _none_free()

    def is_held(self) -> bool:
        """Whether the connection lives; asking also tells PostgreSQL that this worker does."""
        return bool(self._ask(sa.text("SELECT 1")))

    def maybe_free(self) -> list[int]:
        held = self._ask(_HELD, {"class": _CLASS})
        if held is None:
            return []
        taken = {int(row[0]) for row in held}
        return [number for number in range(COUNT) if number not in taken]

    @contextmanager
    def holding(self, number: int) -> Iterator[bool]:
        rows = self._ask(_TRY_LOCK, _numbers(number))
        held = rows is not None and bool(rows[0][0])
        try:
            yield held
        finally:
            if held:
                self._ask(_UNLOCK, _numbers(number))

    def release(self) -> None:
        self._drop()
        self._engine.dispose()

    def _ask(
        self, query: sa.TextClause, values: Mapping[str, int] | None = None
    ) -> Sequence[sa.Row[Any]] | None:
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
