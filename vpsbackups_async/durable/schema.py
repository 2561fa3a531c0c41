"""The tables of durable runs beside the engine's own, and whose database it is."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from vpsbackups_async.durable.database import SCHEMA, Database
from vpsbackups_async.durable.values import UNDER_WAY, ItemState
from vpsbackups_async.errors import ConfigurationError

__all__ = [
    "NAME_IT",
    "VERSION",
    "create_tables",
    "facts",
    "insert_into",
    "items",
    "keep_fact",
    "lock_runs",
    "pace",
    "runs",
    "workers",
]

VERSION: Final = 2
"""The version of these tables and of what a worker does; a database of another one is refused."""
NAME_IT: Final = "--account, for create --durable VPSBACKUPS_ACCOUNT, in Python account="
"""How the account is named of which the API does not tell, or tells another name."""
_CONCURRENCY: Final = 5000
"""How many servers are worked on at once until a worker sets it."""

_metadata = sa.MetaData(schema=SCHEMA)

facts: sa.Table = sa.Table(
    "fleet_facts",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""What holds for the whole database: `version`, `concurrency`, `markers` once the API is seen to
keep them, `account` as the API told it, and `account_name` as it was given where the API did not.
For each run of a schedule that was begun and whose end was not told, `night NAME`: empty, or how
it had ended once it was forgotten.
"""

pace: sa.Table = sa.Table(
    "fleet_pace",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("rate", sa.Float(53)),
    sa.Column("next_at", sa.Float(53), nullable=False),
    # When the last turn was given out, and by how many seconds the clock had been set back then.
    sa.Column("taken_at", sa.Float(53), nullable=False),
    sa.Column("set_back", sa.Float(53), nullable=False),
)
"""One row: how many creates may start a second, and when the next one may."""

runs: sa.Table = sa.Table(
    "fleet_runs",
    _metadata,
    sa.Column("nonce", sa.Text, primary_key=True),
    # None once it is forgotten: what is left of it is deleted by and by.
    sa.Column("name", sa.Text, unique=True),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("submitted_at", sa.Float(53), nullable=False),
    sa.Column("cancelled", sa.Boolean, nullable=False),
    # Whether its last submit has ended, and not only begun.
    sa.Column("whole", sa.Boolean, nullable=False, server_default=sa.true()),
    # Whether the command that made it has written its outcomes.
    sa.Column("told", sa.Boolean, nullable=False, server_default=sa.false()),
)

items: sa.Table = sa.Table(
    "fleet_items",
    _metadata,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("server", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("retry", sa.Integer, nullable=False, server_default="0"),
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
    # The execution that may write this row.
    sa.Column("owner", sa.Text),
    # Creates that may have been sent, when the first of them was, and until when one may be.
    sa.Column("posts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("sent_at", sa.Float(53)),
    sa.Column("not_after", sa.Float(53)),
    # How many seconds that was after its intent.
    sa.Column("sending_window", sa.Float(53), nullable=False, server_default="0"),
    # Whether another create may be sent once looks show nothing of those.
    sa.Column("may_repeat", sa.Boolean, nullable=False, server_default=sa.true()),
    # The first retry whose create may have made a backup.
    sa.Column("unknown_since", sa.Integer, nullable=False, server_default="0"),
    sa.Column("backup", sa.BigInteger),
    # What its rotation deleted or may have, over all retries; set before the first one is sent.
    sa.Column("deletions", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("outcome", sa.Text),
)

workers: sa.Table = sa.Table(
    "fleet_workers",
    _metadata,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    # Of this process; empty once another worker has taken over what it had.
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("beats", sa.Integer, nullable=False),
    sa.Column("seen_at", sa.Float(53), nullable=False),
)
"""The workers that have not ended in order, each with its signs of life."""

_under_way = items.c.state.in_([str(state) for state in UNDER_WAY])
sa.Index(
    "fleet_items_under_way",
    items.c.server,
    sqlite_where=_under_way,
    postgresql_where=_under_way,
)
_running = items.c.state == str(ItemState.RUNNING)
sa.Index(
    "fleet_items_running",
    items.c.server,
    sqlite_where=_running,
    postgresql_where=_running,
)


def create_tables(database: Database) -> None:
    """Create the tables unless they are there.

    Raises `ConfigurationError` if another version of this library made them, or if a SQLite file is
    another program's.
    """
    there = database.tables()
    if facts.name in there:  # with all else: who only looks at runs writes nothing
        with database.engine.connect() as connection:
            kept = connection.scalar(sa.select(facts.c.value).where(facts.c.name == "version"))
    elif database.is_sqlite and there:
        raise ConfigurationError(
            f"the database {database.name} is another program's, with a table {there[0]!r} and no "
            f"{facts.name!r}: name a file of its own for the runs"
        )
    else:
        kept = _created(database)
    if kept != str(VERSION):
        raise ConfigurationError(
            f"the database {database.name} is of version {kept} of the runs, and this library "
            f"writes version {VERSION}: use the library that made it, or another database"
        )


def _created(database: Database) -> str:
    """Create the tables; the version of who did."""
    with database.engine.begin() as connection:
        if database.is_sqlite:
            connection.execute(sa.text("BEGIN IMMEDIATE"))
        else:
            connection.execute(sa.schema.CreateSchema(SCHEMA, if_not_exists=True))
        _metadata.create_all(connection)
        kept = keep_fact(connection, "version", str(VERSION))
        keep_fact(connection, "concurrency", str(_CONCURRENCY))
        if connection.scalar(sa.select(sa.func.count()).select_from(pace)) == 0:
            connection.execute(
                sa.insert(pace).values(id=1, next_at=0.0, taken_at=0.0, set_back=0.0)
            )
    return kept


def keep_fact(connection: sa.Connection, name: str, value: str) -> str:
    """The value of a fact, which is from now on this one if there was none."""
    insert = insert_into(connection, facts).values(name=name, value=value)
    connection.execute(insert.on_conflict_do_nothing())
    query = sa.select(facts.c.value).where(facts.c.name == name)
    return str(connection.execute(query).scalar_one())


def lock_runs(connection: sa.Connection) -> None:
    """Hold up all others who call this, until this transaction, which begins so, has ended."""
    if connection.dialect.name == "sqlite":
        connection.execute(sa.text("BEGIN IMMEDIATE"))
    else:
        row = sa.select(facts.c.value).where(facts.c.name == "version")
        connection.execute(row.with_for_update())


def insert_into(connection: sa.Connection, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    """An insert that can pass over rows that are there, in the dialect of the database."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)
