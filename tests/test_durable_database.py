"""The database of durable runs: set up by several processes at once, and lost by a worker."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from helpers_postgres import Postgres

from vpsbackups_async import ConfigurationError
from vpsbackups_async.durable import DurableFleet
from vpsbackups_async.durable.database import SCHEMA, Database
from vpsbackups_async.durable.schema import create_tables
from vpsbackups_async.durable.slots import open_slots
from vpsbackups_async.errors import DatabaseError

pytestmark = pytest.mark.durable


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///runs.sqlite?x=y", "'x'"),
        ("sqlite:///runs.sqlite?timeout=5&mode=ro", "'timeout', 'mode'"),
        ("postgresql://vps:canary-pw@127.0.0.1:1/runs?foo=bar", "'foo'"),
        ("postgresql://127.0.0.1:1/runs?sslmode=disable&autocommit=1", "'autocommit'"),
    ],
)
def test_an_option_that_the_kind_of_database_does_not_have_is_refused_by_its_name(
    url: str, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f" no option {words}: leave it out") as raised:
        Database(url)
    assert "canary-pw" not in str(raised.value)


@pytest.mark.parametrize("url", ["postgresql://u:secret@h:port/x", "postgresql://u:secret@[::1/x"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="postgresql://USER:PASSWORD@HOST/NAME") as raised:
        Database(url)
    assert "secret" not in str(raised.value)


def test_a_database_that_is_there_is_opened_without_a_write(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        create_tables(database)
    with (
        contextlib.closing(sqlite3.connect(file)) as other,
        contextlib.closing(Database(f"sqlite:///{file}")) as database,
    ):
        other.execute("BEGIN IMMEDIATE")  # nobody else writes
        create_tables(database)


def test_a_password_among_the_options_is_shown_nowhere() -> None:
    url = "postgresql://vps@127.0.0.1:1/runs?password=canary-pw&sslpassword=canary-pw"
    with contextlib.closing(Database(url)) as database:
        error = database.unreachable(OSError("password canary-pw is wrong"))
        shown = f"{database!r} {database.name} {error}"
        assert "canary-pw" not in shown
        assert "password=hidden&sslpassword=hidden" in shown
        assert database.full_url.count("canary-pw") == 2


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("SELECT 1 FROM fleet_lost", "It is damaged, or is no database of durable runs"),
        ("SELECT lost FROM fleet_runs", "It is damaged, or is no database of durable runs"),
        ("DELETE FROM fleet_runs", "Let this user write to it"),
        ("SELECT 'a' + ", "See to the database, and do the same again"),
    ],
)
async def test_a_failure_of_the_database_says_what_to_do_about_it(
    durable_url: str, statement: str, hint: str
) -> None:
    def fail(connection: sa.Connection) -> None:
        only_read = "PRAGMA query_only=ON" if database.is_sqlite else "SET TRANSACTION READ ONLY"
        connection.execute(sa.text(only_read))
        schema = "" if database.is_sqlite else f"{SCHEMA}."
        connection.execute(sa.text(statement.replace("fleet_", f"{schema}fleet_")))

    with contextlib.closing(Database(durable_url)) as database:
        create_tables(database)
        with pytest.raises(DatabaseError) as raised:
            await database.run(fail)
        assert raised.value.hint.startswith(hint)


@pytest.mark.parametrize("folder", ["a?b", "a#b", "a%20b", "a b", "ü"])
async def test_the_file_by_default_is_in_the_state_folder_whatever_that_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / folder))
    async with DurableFleet() as fleet:
        await fleet.submit("nightly", [1])
    assert (tmp_path / folder / "vpsbackups" / "runs.sqlite").is_file()
    assert [one.name for one in tmp_path.iterdir()] == [folder]  # noqa: ASYNC240  # of the test


def test_a_path_that_cannot_be_decoded_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", f"{tmp_path}/a\udcff")
    with pytest.raises(ConfigurationError, match="is no text by the locale"):
        DurableFleet()
    with pytest.raises(ConfigurationError, match="is no text by the locale"):
        DurableFleet(f"sqlite:///{tmp_path}/a\udcff")


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@contextlib.contextmanager
def lock_held(url: str) -> Iterator[None]:
    """The lock of a process that sets the database up, during the block."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext('vpsbackups'))")
        yield


async def test_processes_that_open_a_new_database_together_all_get_to_use_it(url: str) -> None:
    async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
        fleets = [await stack.enter_async_context(DurableFleet(url)) for _ in range(4)]
        async with asyncio.TaskGroup() as group:
            for number, fleet in enumerate(fleets, 1):
                group.create_task(fleet.submit("nightly", [number]))
        assert (await fleets[0].progress("nightly")).total == 4


def test_a_database_that_another_process_never_ends_to_set_up_is_one_clear_error(url: str) -> None:
    database = Database(url, prepare_within=0.2)
    with (
        contextlib.closing(database),
        lock_held(url),
        pytest.raises(ConfigurationError, match="set up by another process"),
        database.preparing(),
    ):
        pytest.fail("the lock was taken")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_does_not_keep_every_text_is_refused(
    postgres: Postgres, encoding: str
) -> None:
    url = postgres.new_database(
        f"ENCODING {encoding} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    async with DurableFleet(url) as fleet:
        for _ in range(2):
            with pytest.raises(ConfigurationError) as raised:
                await fleet.runs()
            assert f"has the encoding {encoding}" in str(raised.value)
            assert "ENCODING 'UTF8'" in str(raised.value)
            assert str(raised.value).startswith(f"the database {fleet.name} ")


def test_the_next_process_may_set_a_database_up_after_one_that_failed(url: str) -> None:
    with contextlib.closing(Database(url, prepare_within=0.2)) as database:
        with pytest.raises(ZeroDivisionError), database.preparing():
            raise ZeroDivisionError
        with contextlib.closing(Database(url, prepare_within=0.2)) as other, other.preparing():
            pass


def test_the_server_ends_a_connection_that_is_frozen_within_a_transaction(url: str) -> None:
    with contextlib.closing(Database(url)) as database, database.engine.connect() as connection:
        limit = connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout"))
    assert limit == "30s"


def test_a_network_that_is_gone_is_an_error_after_the_time_that_the_url_gives(url: str) -> None:
    with (
        contextlib.closing(Database(f"{url}?keepalives_idle=77")) as database,
        database.engine.connect() as connection,
    ):
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        given = driver.info.get_parameters()
    assert given["keepalives_idle"] == "77"
    assert given["tcp_user_timeout"] == "20000"


def cut_slots(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'vpsbackups slot' AND datname = current_database()"
        )


@pytest.mark.parametrize("first", ["maybe_free", "hold"])
def test_a_slot_is_lost_whichever_statement_meets_its_dead_connection_first(
    url: str, first: str
) -> None:
    with contextlib.closing(Database(url)) as database:
        create_tables(database)
        slots = open_slots(database)
        slots.take()
        assert slots.is_held()
        cut_slots(url)
        if first == "maybe_free":
            assert slots.maybe_free() == []
        else:
            assert not slots.hold(5)
        assert not slots.is_held()
        slots.release()
