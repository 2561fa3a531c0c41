"""The database of durable runs: a SQLite file on one machine, or PostgreSQL for many."""

import asyncio
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakSet

import sqlalchemy as sa
from sqlalchemy import exc, pool

from vpsbackups_async.durable.urls import checked
from vpsbackups_async.errors import ConfigurationError, DatabaseError

__all__ = ["SCHEMA", "Database"]

logger: logging.Logger = logging.getLogger("vpsbackups_async")

T = TypeVar("T")

SCHEMA: Final = "vpsbackups"
"""The schema of all tables on PostgreSQL, those of the engine included."""
_SQLITE_CLOCK: Final = "((julianday('now') - 2440587.5) * 86400.0)"
_POSTGRES_CLOCK: Final = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('vpsbackups'))"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtext('vpsbackups'))"
_DISK_FULL: Final = "53100"
"""The error code of PostgreSQL, which is of the same class as those of a server that is away."""
_PRIMARY: Final = 0xFF
"""The part of an error code of SQLite that says the kind."""
_SQLITE_REFUSED: Final = frozenset(
    {sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
)
_SQLITE_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_POSTGRES_REFUSED: Final = frozenset({"42501", "25006"})
"""No privilege, and a transaction that may only read."""
_POSTGRES_DAMAGED: Final = frozenset({"42P01", "42703", "3F000", "XX001", "XX002"})
"""No such table, column or schema, and what is corrupt."""
_LOCK_PAUSE: Final = 0.1
_THREADS: Final = 8
_POOL: Final = 12
_FIRST_PAUSE: Final = 0.1
_MAX_PAUSE: Final = 2.0
_SUBSEC_SINCE: Final = (3, 42)
_CONNECT: Final = {
    "connect_timeout": 10,
    # So that a network that is gone is an error, not a silence; milliseconds for the last.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_ENCODING: Final = "UTF8"
_PASSWORDS: Final = frozenset({"password", "sslpassword"})
"""The options of PostgreSQL that are secrets."""
_IDLE_TRANSACTION: Final = "SET idle_in_transaction_session_timeout = '30s'"
"""A process that is frozen within a transaction would hold what it locked from the others."""


class Database:
    """One database, by its URL: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.

    `prepare_within` is for how many seconds another process may make the tables of a new one.

    Raises `ConfigurationError` for any other URL.
    """

    def __init__(self, url: str, *, prepare_within: float = 60.0) -> None:
        self._prepare_within = prepare_within
        self.url: sa.URL = checked(url)
        self.is_sqlite: bool = self.url.drivername == "sqlite"
        self._connections: WeakSet[Any] = WeakSet()
        self._adding = threading.Lock()  # connections are made in any thread
        self.engine: sa.Engine = self._open(
            "vpsbackups", pool_size=_POOL, max_overflow=0, pool_timeout=60
        )
        self.clock: str = _SQLITE_CLOCK if self.is_sqlite else _POSTGRES_CLOCK
        """What asks for the database's time, in seconds since 1970."""
        self.now: sa.ColumnClause[float] = sa.literal_column(self.clock, sa.Float(53))
        # SQLAlchemy would set a SQLite connection up anew for it.
        self._by_statement = (
            self.engine
            if self.is_sqlite
            else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )
        self._is_closed = False
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="vpsbackups-db")

    def __repr__(self) -> str:
        return f"<Database {self.name}>"

    def _open(self, name: str, **options: Any) -> sa.Engine:
        names: dict[str | None, str | None] = {}
        if self.is_sqlite:
            engine = sa.create_engine(self.url, **options)
            sa.event.listen(engine, "connect", _prepare_sqlite)
            names[SCHEMA] = None
        else:
            given = {**_CONNECT, "application_name": name}
            arguments = {key: given[key] for key in given.keys() - self.url.query.keys()}
            engine = sa.create_engine(self.url, connect_args=arguments, **options)
            # Before SQLAlchemy asks it anything, which fails in some encodings.
            sa.event.listen(engine, "connect", self._prepare_postgres, insert=True)
        return engine.execution_options(schema_translate_map=names)

    def _prepare_postgres(self, connection: Any, _record: object) -> None:
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in {None, _ENCODING}:  # None from some poolers
            connection.close()
            raise ConfigurationError(
                f"the database {self.name} has the encoding {encoding}, which does not keep every "
                f"text: make one by CREATE DATABASE ... ENCODING '{_ENCODING}' TEMPLATE template0"
            )
        with self._adding:
            self._connections.add(connection)
        connection.execute(_IDLE_TRANSACTION)
        connection.commit()

    @property
    def name(self) -> str:
        """The URL without its passwords."""
        shown = dict.fromkeys(_PASSWORDS & self.url.query.keys(), "hidden")
        return self._plain.update_query_dict(shown).render_as_string(hide_password=True)

    @property
    def bare_name(self) -> str:
        """The URL without its passwords, nor what stands for them in `name`."""
        # `URL.set` takes None for what stays.
        bare = self._plain._replace(password=None).difference_update_query(_PASSWORDS)
        return bare.render_as_string()

    @property
    def full_url(self) -> str:
        """The URL with its password, as the engine takes it."""
        return self._plain.render_as_string(hide_password=False)

    @property
    def _plain(self) -> sa.URL:
        return self.url if self.is_sqlite else self.url.set(drivername="postgresql")

    @property
    def path(self) -> Path:
        """The file of a SQLite database."""
        return Path(self.url.database or "")

    def tables(self) -> list[str]:
        """The names of the tables: of ours, or of all of a SQLite file, which is not changed."""
        if not self.is_sqlite:
            return sa.inspect(self.engine).get_table_names(schema=SCHEMA)
        if not self.path.exists():
            return []
        plain = sa.create_engine(self.url, poolclass=pool.NullPool)
        with plain.connect() as connection:
            return sa.inspect(connection).get_table_names()

    async def call(self, work: Callable[[], T]) -> T:
        """What the function returns, run in a thread; raises `DatabaseError` for the database."""
        try:
            return await self._in_thread(work)
        except exc.SQLAlchemyError as error:
            raise self.failed(error) from None

    def check_open(self) -> None:
        """Raise `ConfigurationError` once `close` was called."""
        if self._is_closed:
            raise ConfigurationError(
                f"the database {self.name} was closed", hint="Make a new DurableFleet"
            )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def name_of(self, table: sa.Table) -> str:
        """The name of a table in plain SQL."""
        return table.name if self.is_sqlite else f"{SCHEMA}.{table.name}"

    async def run(
        self,
        work: Callable[[sa.Connection], T],
        *,
        keep_trying: bool = False,
        by_statement: bool = False,
    ) -> T:
        """What the function returns, run in a thread and in a transaction.

        With `by_statement`, PostgreSQL commits each of its statements at once, which takes fewer
        round trips.
        With `keep_trying` it is run again while the database cannot be reached; so it must do no
        harm if its commit went through before; other errors of the database are then raised as they
        are, so that nobody takes them for the API's. Otherwise `ConfigurationError` is raised while
        it cannot be reached, and `DatabaseError` for other errors.
        """
        engine = self._by_statement if by_statement else self.engine
        pause, is_first = _FIRST_PAUSE, True
        while True:
            try:
                return await self._in_thread(lambda: _in_transaction(engine, work))
            except exc.SQLAlchemyError as error:
                if not (isinstance(error, exc.DBAPIError) and self._may_pass(error)):
                    if keep_trying:
                        raise
                    raise self.failed(error) from None
                # A connection that was kept may be broken, and the next one good.
                if not (keep_trying or (is_first and error.connection_invalidated)):
                    raise self.unreachable(error) from None
                is_first = False
                logger.debug("%s fails, and is tried again: %s", self, error.orig)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    def _may_pass(self, error: exc.DBAPIError) -> bool:
        """Whether the database is away or busy, so that the same may succeed later."""
        if self.is_sqlite:  # it raises the same error for bad statements
            return isinstance(error, exc.OperationalError) and "locked" in str(error.orig)
        if _is_full(error):
            return False
        return isinstance(error, exc.OperationalError) or error.connection_invalidated

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """A block in which this process alone makes tables.

        Raises `ConfigurationError` if the database cannot be used, `DatabaseError` if its disk is
        full.
        """
        try:
            if self.is_sqlite:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                yield
                return
            # No transaction may be open meanwhile: indexes are made concurrently.
            alone = self.engine.execution_options(isolation_level="AUTOCOMMIT")
            with alone.connect() as connection:
                self._take_lock(connection)
                try:
                    yield
                finally:
                    with suppress(exc.SQLAlchemyError):  # a lost connection holds no lock
                        connection.execute(sa.text(_UNLOCK))
        except (exc.DBAPIError, OSError) as error:
            raise self.unusable(error) from None

    def _take_lock(self, connection: sa.Connection) -> None:
        """Take the lock of those who make tables; a statement that waits would hold up indexes.

        An index that is made concurrently waits for all statements that are under way.
        """
        end = time.monotonic() + self._prepare_within
        while not connection.scalar(sa.text(_TRY_LOCK)):
            if time.monotonic() >= end:
                raise ConfigurationError(
                    f"the database {self.name} is being set up by another process, which did not "
                    f"end within {self._prepare_within:.0f} s: see what it waits for"
                )
            time.sleep(_LOCK_PAUSE)

    def unusable(self, error: BaseException) -> ConfigurationError | DatabaseError:
        """The error of a database that cannot be used, which may be as its disk is full."""
        return self.failed(error) if _is_full(error) else self.unreachable(error)

    def unreachable(self, error: BaseException) -> ConfigurationError:
        """The error that says that the database cannot be used, and why; without a password."""
        return ConfigurationError(
            f"the database {self.name} cannot be used: {self._why(error)} (see to it that it is "
            "there and may be written to, or name another one)"
        )

    def failed(self, error: BaseException) -> DatabaseError:
        """The error that says that the database failed, and how; without a password."""
        failed = DatabaseError(f"the database {self.name} failed: {self._why(error)}")
        hint = _hint_of(error)
        if hint is not None:
            failed.hint = hint
        return failed

    def _why(self, error: BaseException) -> str:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()
        said = why[0] if why else type(error).__name__
        for secret in (self.url.password, *map(self.url.query.get, _PASSWORDS)):
            if isinstance(secret, str) and secret:
                said = said.replace(secret, "***")
        return said

    def connect_alone(self, name: str) -> sa.Connection:
        """A new connection that nobody else uses; on PostgreSQL it commits each statement at once.

        Raises `DBAPIError` where the database cannot be reached.
        """
        options: dict[str, Any] = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        return self._open(name, poolclass=pool.NullPool, **options).connect()

    def cut(self) -> None:
        """Cut all connections to PostgreSQL, so that threads which wait for it end with an error.

        Nothing else ends them where the network neither delivers nor refuses.
        """
        with self._adding:
            there = tuple(self._connections)
        for connection in there:
            with (
                suppress(OSError, connection.OperationalError),
                socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as one,
            ):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close all connections; nothing can be asked any more."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()


def _in_transaction(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.begin() as connection:
        return work(connection)


def _hint_of(error: BaseException) -> str | None:
    """What to do about an error of a database that is not mended by doing the same again."""
    if _is_full(error):
        return "Free space on its disk, and do the same again: it goes on from there"
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & _PRIMARY
        is_refused = code in _SQLITE_REFUSED
        is_damaged = code in _SQLITE_DAMAGED or "no such " in str(cause)
    else:
        state = getattr(cause, "sqlstate", None)
        is_refused, is_damaged = state in _POSTGRES_REFUSED, state in _POSTGRES_DAMAGED
    if is_refused:
        return (
            "Let this user write to it (of SQLite, to its folder as well), then do the same again"
        )
    if is_damaged:
        return "It is damaged, or is no database of durable runs: restore it, or name another one"
    return None


def _is_full(error: BaseException) -> bool:
    """Whether the disk of the database is full."""
    cause = getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return getattr(cause, "sqlstate", None) == _DISK_FULL


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Set up a connection as the engine's own are, and safe against a power cut."""
    connection.isolation_level = "IMMEDIATE"
    for pragma in (
        "busy_timeout=30000",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if sqlite3.sqlite_version_info < _SUBSEC_SINCE:
        # The engine asks for milliseconds, which SQLite tells since 3.42.
        connection.create_function("unixepoch", -1, _unixepoch)


def _unixepoch(*arguments: object) -> float | int:
    return round(time.time(), 3) if "subsec" in arguments else int(time.time())
